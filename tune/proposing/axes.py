"""Searched fields as numbers, for models of a space: a unit, 0 to 1 over the range or the choice, and coordinates for distances."""

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tune.proposing.gaussian_process import FloatArray

INACTIVE = float("nan")
"""The unit of a field that a trial does not have."""


class Axis:
    """One field."""

    def __init__(self, distribution: BaseDistribution) -> None:
        """Take the field's distribution; a choice of numbers is in their order, whatever the order they are written in."""
        self._whole = isinstance(distribution, IntDistribution)
        self._choices: list[Any] = []
        self._log = False
        if isinstance(distribution, CategoricalDistribution):
            self._choices = list(distribution.choices)
        else:
            assert isinstance(distribution, (FloatDistribution, IntDistribution))
            self._log = distribution.log
            self._ends = distribution.low, distribution.high
            self._low, self._high = map(self._scaled, self._ends)
        self._numbers = all(isinstance(choice, (int, float)) and not isinstance(choice, bool) for choice in self._choices)
        if self._numbers:
            self._choices.sort()

    def unit(self, value: Any) -> float:
        """The unit of a value; of one out of range beyond the ends, and `INACTIVE` of what is none of the choice."""
        if not self._choices:
            width = self._high - self._low
            return min(max((self._scaled(value) - self._low) / width, -1.0), 2.0) if width > 0 else 0.0
        middles = (np.arange(len(self._choices)) + 0.5) / len(self._choices)
        if self._numbers:
            return float(np.interp(value, self._choices, middles))
        return float(middles[self._choices.index(value)]) if value in self._choices else INACTIVE

    def value(self, unit: float) -> Any:
        """The value at a unit from 0 to 1."""
        if self._choices:
            return self._choices[min(int(unit * len(self._choices)), len(self._choices) - 1)]
        at = self._low + unit * (self._high - self._low)
        found = float(np.exp(at) if self._log else at)
        return round(found) if self._whole else min(max(found, self._ends[0]), self._ends[1])

    def snapped(self, units: FloatArray) -> FloatArray:
        """The units (n,) of the values at units from 0 to 1, which may lie between values."""
        if self._choices:
            return np.asarray((np.minimum(np.floor(units * len(self._choices)), len(self._choices) - 1) + 0.5) / len(self._choices))
        if not self._whole:
            return units
        at = self._low + units * (self._high - self._low)
        whole = np.clip(np.round(np.exp(at) if self._log else at), *self._ends)
        return np.asarray(((np.log(whole) if self._log else whole) - self._low) / (self._high - self._low))

    def place(self, units: FloatArray) -> FloatArray:
        """Coordinates (n, columns) of units (n,): 0 to 1, by rank for numbers to choose from; other choices are 1 apart."""
        count = len(self._choices)
        if self._choices and not self._numbers:
            return np.asarray(np.sqrt(0.5) * (np.floor(units * count)[:, None] == np.arange(count)))
        places = (units * count - 0.5) / max(count - 1, 1) if self._choices else units
        return np.nan_to_num(places, nan=0.5)[:, None]

    def _scaled(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self._log else float(value)
