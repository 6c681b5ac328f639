"""How learning curves go on that were cut: each epoch is regressed on the one before, over the trials that got further.

Whether a trial was stopped depends only on what was seen of it, so this is no bias. All in logits, which have no ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tune.proposing.gaussian_process import FloatArray

_SOFT = 0.02  # keeps the logit of a Dice of 0 or 1 finite
_RIDGE = 1e-3


class Extrapolated(NamedTuple):
    """Whole curves."""

    curves: FloatArray
    """(trials, epochs)"""
    variances: FloatArray
    """(trials,): of the last epoch, 0 where it was seen: what the regressions leave unexplained, summed over the missing ones."""


def extrapolate(curves: Sequence[FloatArray], epochs: int) -> Extrapolated:
    """Fill in what is missing of curves of at least one epoch; some trial must have them all."""
    whole = np.full((len(curves), epochs), np.nan)
    for row, curve in zip(whole, curves, strict=True):
        row[: curve.size] = curve
    variances = np.zeros(len(curves))
    for epoch in range(1, epochs):
        before, missing = whole[:, epoch - 1], np.isnan(whole[:, epoch])
        x, step = before[~missing], (whole[:, epoch] - before)[~missing]
        slope = ((x - x.mean()) * (step - step.mean())).sum() / (((x - x.mean()) ** 2).sum() + _RIDGE)
        whole[missing, epoch] = (before + step.mean() + slope * (before - x.mean()))[missing]
        left = step - step.mean() - slope * (x - x.mean())
        variances[missing] = (1 + slope) ** 2 * variances[missing] + (left**2).sum() / max(len(x) - 2, 1)
    return Extrapolated(whole, variances)


def to_logit(dice: FloatArray) -> FloatArray:
    """A Dice, or many, without ends."""
    return np.asarray(np.log((dice + _SOFT) / (1 + _SOFT - dice)))


def from_logit(logit: FloatArray) -> FloatArray:
    """Inverse of `to_logit`, within 0 and 1."""
    return np.clip((1 + 2 * _SOFT) / (1 + np.exp(-logit)) - _SOFT, 0.0, 1.0)
