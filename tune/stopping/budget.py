"""When a search ends: its time and its GPU-hours, what they are expected to be, and what they cost.

budget = Budget(seconds=3600, gpu_hours=None, gpus=1, epochs=60)
budget.over            # whether another trial may start
budget(trial_id, result)      # Ray Tune's question whether a trial shall stop
"""

import time
from bisect import insort
from collections import defaultdict
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.stopper import Stopper

from tune.stopping.ledger import Ledger

TIME_IS_UP, GPU_HOURS_ARE_UP = "the time budget was used up", "the GPU-hours were used up"


class Budget(Stopper):
    """Stops every trial at the last report that leaves room for no further epoch; a trial's last message is let through.

    Some of it is kept back for scoring the best trial by the full protocol: half as much again as the longest scoring so far took,
    or a tenth before there was one.
    """

    def __init__(
        self,
        *,
        seconds: float | None,
        epochs: int,
        least: int = 1,
        gpu_hours: float | None = None,
        gpus: float = 0,
        ledger: Ledger | None = None,
    ) -> None:
        """Start the clock.

        Args:
            seconds: of this session; None for as long as it takes.
            epochs: of a whole trial, which scoring follows, not another epoch.
            least: epochs that there must be room for when a trial begins; with fewer it is compared with nothing.
            gpu_hours: of the whole search; None for as many as it takes.
            gpus: that one trial holds.
            ledger: what all trials of the search have held.
        """
        self._seconds, self._epochs, self._least, self._gpu_hours, self._gpus = seconds, epochs, least, gpu_hours, gpus
        self._ledger = ledger or Ledger()
        self._started = time.monotonic()
        self._scoring: float | None = None
        self._epoch_seconds: list[float] = []  # of all trials, in order
        self._under_way: dict[str, float] = defaultdict(float)  # seconds that each trial has spent on its epoch so far
        self._usual: dict[str, float] = {}  # seconds of the last epoch of each trial that runs
        self.stopped: dict[str, str] = {}
        """Tune's ids of the trials that were stopped here, and why."""
        self.halted = False
        """Whether all trials shall leave their machines."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore from; nothing here is restored like that

    @property
    def spent(self) -> float:
        """GPU-hours so far, those of trials that run included."""
        return self._gpus * self._ledger.total / 3600

    def extend(self, *, seconds: float = 0.0, gpu_hours: float = 0.0) -> None:
        """Give it more of what it has."""
        self._seconds = None if self._seconds is None else self._seconds + seconds
        self._gpu_hours = None if self._gpu_hours is None else self._gpu_hours + gpu_hours

    @property
    def overdrawn(self) -> str | None:
        """What was used above the budget, in words; None where it was not."""
        if self._gpu_hours is None or self.spent <= self._gpu_hours:
            return None
        return f"{self.spent:.4g} GPU-hours were used, of a budget of {self._gpu_hours:g}"

    def saw_scoring(self, seconds: float) -> None:
        """Take note of how long a trial's final evaluation took."""
        self._scoring = max(seconds, self._scoring or 0.0)

    @property
    def left(self) -> float | None:
        """Seconds until training must stop; None without a time budget."""
        if self._seconds is None:
            return None
        return self._started + self._seconds - self._reserve(self._seconds) - time.monotonic()

    @property
    def gpu_hours_left(self) -> float | None:
        """GPU-hours until training must stop; None without a budget of them."""
        if self._gpu_hours is None:
            return None
        whole = 3600 * self._gpu_hours / max(self._gpus, 1e-9)  # as seconds of a trial
        return self._gpu_hours - self._gpus * self._reserve(whole) / 3600 - self.spent

    @property
    def over(self) -> bool:
        """Whether there is no room for another trial, at the pace of the epochs so far."""
        return self._why_no_room(self._least) is not None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this trial shall stop: after an epoch, if there is no room for another; within one, if there is none at all.

        Args:
            trial_id: Tune's.
            result: a trial's message; one without a Dice is a sign of life.
        """
        self._under_way[trial_id] += 0.0 if "waits" in result else result.get("time_this_iter_s", 0.0)
        if result.get("done"):
            self._forget(trial_id)
            return False
        scoring, seconds = result.get("epoch", 0) >= self._epochs, 0.0
        if "dice" in result:
            seconds = self._usual[trial_id] = self._under_way.pop(trial_id)
            insort(self._epoch_seconds, seconds)
        reason = self._why_not(0.0 if scoring else seconds, kept=not scoring)
        if reason is None:
            return False
        self._forget(trial_id)
        self.stopped[trial_id] = reason
        return True

    def why_over(self) -> str | None:
        """Why no trial may go on at all; None where they may."""
        return self._why_not(0.0)

    def lost(self, trial_id: str) -> None:
        """A trial's process has ended, and what was under way there is gone."""
        self._forget(trial_id)

    def stop_all(self) -> bool:
        """Trials end one by one, unless somebody halts them."""
        return self.halted

    def turn_away(self, tune_controller: Any) -> None:
        """Stop the trials that wait for their turn, or for a machine to join, when there is no room for a single epoch."""
        if (reason := self._why_no_room(1)) is None:
            return
        for trial in list(tune_controller.get_live_trials()):
            if trial.status in (Trial.PENDING, Trial.PAUSED):
                self.stopped[trial.trial_id] = reason
                tune_controller.stop_trial(trial)

    def _reserve(self, whole: float) -> float:
        """Seconds kept back of a budget in seconds."""
        return 0.1 * whole if self._scoring is None else min(1.5 * self._scoring, 0.5 * whole)

    def _why_no_room(self, epochs: int) -> str | None:
        """Why there is no room for so many epochs as long as the usual one; None where there is."""
        known = self._epoch_seconds
        return self._why_not(epochs * known[len(known) // 2] if known else 0.0)

    def _why_not(self, seconds: float, *, kept: bool = True) -> str | None:
        """Why a trial may not go on for some seconds; None where it may.

        Args:
            seconds: that it wants.
            kept: whether what is kept back for scoring is not for it; what others need for the epochs under way never is.
        """
        if self.left is not None and self._seconds is not None:
            room = self.left + (0.0 if kept else self._reserve(self._seconds))
            if room <= seconds:
                return TIME_IS_UP
        if self.gpu_hours_left is not None and self._gpu_hours is not None:
            room = self.gpu_hours_left if kept else self._gpu_hours - self.spent
            rests = (usual - self._under_way.get(trial, 0.0) for trial, usual in self._usual.items())  # of the epochs under way
            promised = sum(max(0.0, rest) for rest in rests) if seconds else 0.0
            if room <= self._gpus * max(seconds, promised) / 3600:
                return GPU_HOURS_ARE_UP
        return None

    def _forget(self, trial_id: str) -> None:
        self._under_way.pop(trial_id, None)
        self._usual.pop(trial_id, None)
