"""Medians over seeds, some of which are infinite where a goal was never reached, with bootstrap intervals (Efron 1979)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tune.proposing import FloatArray

_RESAMPLES = 2_000


class Estimate(NamedTuple):
    """A median over seeds with its 95 % interval (percentile bootstrap)."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)}\n{number(self.low)}–{number(self.high)}"


def estimate(values: Sequence[float]) -> Estimate:
    """Median of values, some of which may be infinite."""
    return _estimate(float(np.median(values)), _medians(values, 0))


def estimate_ratio(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Ratio of two medians; NaN where both are infinite."""
    with np.errstate(invalid="ignore"):
        return _estimate(float(np.divide(np.median(values), np.median(others))), _medians(values, 0) / _medians(others, 1))


def _medians(values: Sequence[float], seed: int) -> FloatArray:
    drawn = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    return np.asarray(np.median(np.asarray(values)[drawn], axis=1))


def _estimate(median: float, resampled: FloatArray) -> Estimate:
    known = resampled[~np.isnan(resampled)]
    if not known.size:
        return Estimate(median, math.nan, math.nan)
    low, high = np.quantile(known, (0.025, 0.975), method="inverted_cdf")  # interpolates nothing: there are infinite ones
    return Estimate(median, float(low), float(high))


def number(value: float | None) -> str:
    """Three digits; `never` for infinity, a dash for what is unknown."""
    if value is None or math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else f"{value:.3g}"
