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
    return fill(whole)


def fill(whole: FloatArray) -> Extrapolated:
    """The same for curves (trials, epochs) that are NaN where they are missing, which are filled in place."""
    variances = np.zeros(len(whole))
    for epoch in range(1, whole.shape[1]):
        before, now = whole[:, epoch - 1], whole[:, epoch]
        missing = np.isnan(now)
        x = before[~missing]
        step = now[~missing] - x
        middle, rise = x.mean(), step.mean()
        unexplained = (step**2).mean()  # by no regression at all: as good as one more curve that did not go as foretold
        x, step = x - middle, step - rise
        slope = (x * step).sum() / ((x**2).sum() + _RIDGE)
        cut = before[missing]
        now[missing] = cut + rise + slope * (cut - middle)
        left = ((step - slope * x) ** 2).sum()
        of_one = (left + unexplained) / (max(len(x) - 2, 0) + 1)
        variances[missing] = (1 + slope) ** 2 * variances[missing] + of_one * (1 + 1 / len(x))
    return Extrapolated(whole, variances)


def to_logit(dice: FloatArray) -> FloatArray:
    """A Dice, or many, without ends."""
    return np.asarray(np.log((dice + _SOFT) / (1 + _SOFT - dice)))


def from_logit(logit: FloatArray) -> FloatArray:
    """Inverse of `to_logit`, within 0 and 1."""
    return np.clip((1 + 2 * _SOFT) / (1 + np.exp(-logit)) - _SOFT, 0.0, 1.0)
