"""Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934): at epochs 1, 3, 9 ... only the best third goes on.

Ray's own rule lets go on whatever is as good as its cutoff. But a Dice has a floor: where most trials still stand at 0 after an
epoch, so does the cutoff, and none is stopped. Here never more than a third goes on (and never nobody); of equal trials those with
the lower training loss, and of those the first ones.
"""

import bisect
import math
import random
from typing import NamedTuple

REDUCTION = 3


class _Standing(NamedTuple):
    """How a trial stood at a rung; more is better."""

    dice: float
    gained: float
    """The negative of the training loss, by which those of equal Dice are told apart."""


class _Rung:
    """The trials that have come as far as an epoch."""

    def __init__(self) -> None:
        self._standings: list[_Standing] = []
        self._gone_on: list[_Standing] = []

    def passes(self, standing: _Standing) -> bool:
        """Whether one more trial is among the best third, itself counted."""
        bisect.insort(self._standings, standing)
        better = len(self._standings) - bisect.bisect_right(self._standings, standing)
        before = bisect.bisect_right(self._gone_on, standing) - bisect.bisect_left(self._gone_on, standing)
        passes = better + before == 0 or REDUCTION * (better + before) < len(self._standings)
        if passes:
            bisect.insort(self._gone_on, standing)
        return passes


class Halving:
    """The rule for one search, in one or several brackets of which the later ones leave out the first rungs."""

    def __init__(self, epochs: int, grace: int, brackets: int = 1) -> None:
        """Begin.

        Args:
            epochs: of a whole trial, at which there is nothing left to decide.
            grace: epoch of the first rung.
            brackets: how many.
        """
        milestones = []
        while grace < epochs:
            milestones.append(grace)
            grace *= REDUCTION
        brackets = max(1, min(brackets, len(milestones)))
        self._brackets = [{milestone: _Rung() for milestone in milestones[first:]} for first in range(brackets)]
        self._decided: dict[int, int] = {}

    def goes_on(self, number: int, epoch: int, dice: float, loss: float = math.inf) -> bool:
        """Take a trial's best Dice up to an epoch and its training loss there; each rung is decided once, the highest reached."""
        bracket = self._bracket(number)
        milestone = max((each for each in bracket if each <= epoch), default=0)
        if milestone <= self._decided.get(number, 0):
            return True
        self._decided[number] = milestone
        return bracket[milestone].passes(_Standing(dice, -loss))

    def _bracket(self, number: int) -> dict[int, _Rung]:
        """The same for the same trial in every session; the more rungs a bracket has, the more trials (as Ray Tune draws them)."""
        if len(self._brackets) == 1:
            return self._brackets[0]
        weights = [math.exp(len(bracket)) for bracket in self._brackets]
        return random.Random(number).choices(self._brackets, weights)[0]
