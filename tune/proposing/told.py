"""What the study writes into Optuna's trials beside their values, for samplers to go by, and how they read it."""

import math
from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

ENDED = "ended"
"""How many trials had ended before this one; no clock is asked."""
DRAWN = "drawn"
"""The number of a trial that the sampler of this search has proposed, in whatever session."""
UNLEARNT = "unlearnt"
"""True where a trial failed by no fault of its settings."""


def when_ended(trial: FrozenTrial) -> tuple[float, int]:
    """Sorts trials as they ended; those that run, and those of a study that does not say, come last, by number."""
    return trial.user_attrs.get(ENDED, math.inf), trial.number


def completed(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials, as they ended: of these none is ever taken away, and further ones come behind them."""
    return sorted((trial for trial in trials if trial.state == TrialState.COMPLETE), key=when_ended)
