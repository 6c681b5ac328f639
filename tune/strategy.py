"""What to try next and what to stop: Optuna behind Ray Tune's searcher interface, ASHA, and the time budget.

Told to Optuna: COMPLETE for a finished trial, PRUNED with all intermediate values for one that was stopped early, FAIL for one that
crashed or diverged. (Ray's own OptunaSearch tells COMPLETE at the last value of a stopped trial, which teaches the sampler that
slow starters are bad.) The value of a trial is its best validation Dice so far; early stopping goes by the same figure.

The sampler is seeded for every proposal by (seed, number), so proposal n depends on what was told before it and on nothing else: a
resumed search goes on as if it had not been cut.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cdal.errors import InputError
from tune.space import Space, from_optuna, to_optuna

PUBLISHED, UNET, SEARCHED = "published", "unet", "searched"
Curve = Sequence[tuple[int, float]]
"""(epoch, best validation Dice so far), one per epoch."""

_STARTUP = (4, 10)  # random trials before the model takes over: at least, at most


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number, what kind it is, and the values of the searched fields."""

    number: int
    kind: str
    values: Mapping[str, Any]


class Outcome(NamedTuple):
    """What is known of a trial of an earlier session."""

    proposal: Proposal
    state: TrialState | None
    """None: not finished, to be continued."""
    curve: Curve


def startup_trials(trials: int | None) -> int:
    """How many random proposals come before the model: a quarter of the search, within bounds."""
    least, most = _STARTUP
    return most if trials is None else min(max(trials // 4, least), most)


class Study:
    """An Optuna study that is told the truth. Knows nothing of Ray."""

    def __init__(self, space: Space, *, seed: int, startup: int) -> None:
        self._space, self._seed, self._startup = space, seed, startup
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # about `group`
        self.optuna = optuna.create_study(direction="maximize", sampler=self._sampler(0))
        self._open: dict[int, optuna.Trial] = {}
        self._reported: dict[int, dict[int, float]] = {}

    def propose(self, number: int) -> Proposal:
        """The next values to try."""
        self.optuna.sampler = self._sampler(number)
        trial = self.optuna.ask(self._space.distributions)
        self._open[number], self._reported[number] = trial, {}
        return Proposal(number, SEARCHED, from_optuna(self._space, trial.params))

    def add(self, proposal: Proposal, curve: Curve = ()) -> None:
        """Take up a trial that was not drawn here: published values, or one of an earlier session. The U-Net is not told."""
        if proposal.kind == UNET or not self._space.contains(proposal.values):
            return
        self.optuna.enqueue_trial(to_optuna(proposal.values))
        self._open[proposal.number] = self.optuna.ask(self._space.distributions)
        self._reported[proposal.number] = {}
        self.report(proposal.number, curve)

    def add_ended(self, outcome: Outcome) -> None:
        """Take up a trial that ended in an earlier session."""
        self.add(outcome.proposal, outcome.curve)
        assert outcome.state is not None
        self.end(outcome.proposal.number, outcome.state)

    def report(self, number: int, curve: Curve) -> None:
        """Take the values of some epochs; those known already are ignored."""
        if number not in self._open:
            return
        for epoch, value in curve:
            if epoch not in self._reported[number] and math.isfinite(value):
                self._open[number].report(value, epoch)
                self._reported[number][epoch] = value

    def end(self, number: int, state: TrialState) -> None:
        """Tell how a trial ended; one without any value failed, whatever it says."""
        trial = self._open.pop(number, None)
        if trial is None:
            return
        values = self._reported.pop(number)
        if not values or state == TrialState.FAIL:
            self.optuna.tell(trial, state=TrialState.FAIL)
        elif state == TrialState.PRUNED:
            self.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(trial, max(values.values()))

    def _sampler(self, number: int) -> optuna.samplers.TPESampler:
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        return optuna.samplers.TPESampler(
            n_startup_trials=self._startup, multivariate=True, group=True, constant_liar=True, seed=seed
        )


@dataclass
class Queue:
    """Which trials come: those cut in an earlier session, the controls, then samples, until there are enough."""

    space: Space
    study: Study
    trials: int | None
    next_number: int = 0
    waiting: list[Proposal] = field(default_factory=list)

    @classmethod
    def start(cls, space: Space, study: Study, trials: int | None, earlier: Sequence[Outcome] = ()) -> Queue:
        """The queue of a new search, or of one that goes on."""
        queue = cls(space, study, trials)
        for outcome in earlier:
            if outcome.state is not None:
                study.add_ended(outcome)
        for outcome in earlier:
            if outcome.state is None:
                study.add(outcome.proposal, outcome.curve)
                queue.waiting.append(outcome.proposal)
        known = {outcome.proposal.number for outcome in earlier}
        for control in controls(space):
            if control.number not in known and (trials is None or control.number < trials):
                study.add(control)
                queue.waiting.append(control)
        queue.next_number = max([*known, *(control.number for control in controls(space))]) + 1
        return queue

    @property
    def empty(self) -> bool:
        """Whether no trial is left to run."""
        return not self.waiting and self.trials is not None and self.next_number >= self.trials

    def next(self) -> Proposal | None:
        """The next trial; None when there are enough."""
        if self.waiting:
            return self.waiting.pop(0)
        if self.trials is not None and self.next_number >= self.trials:
            return None
        self.next_number += 1
        return self.study.propose(self.next_number - 1)


def controls(space: Space) -> list[Proposal]:
    """The trials that every search has: the published values (number 0), and a plain U-Net of the same backbone (number 1)."""
    published = Proposal(0, PUBLISHED, space.published)
    if "model.architecture" in space.parameters or space.base.model.architecture == "unet":
        return [published]
    return [published, Proposal(1, UNET, space.published)]


class TruthfulSearcher(Searcher):
    """The queue and the study as Ray Tune sees them."""

    def __init__(
        self,
        queue: Queue,
        configure: Callable[[Proposal], dict[str, Any]],
        refuse: Callable[[Proposal, str], None],
        over: Callable[[], bool],
    ) -> None:
        """Connect to Ray Tune.

        Args:
            queue: where trials come from.
            configure: makes Tune's trial configuration, and records that the trial is coming; InputError where values do not fit.
            refuse: records a proposal that cannot be run, and why.
            over: whether no more trials shall start.
        """
        super().__init__(metric=None, mode=None)
        self._queue, self._configure, self._refuse, self._over = queue, configure, refuse, over
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Tune asks for the next trial."""
        while not self._over() and (proposal := self._queue.next()) is not None:
            try:
                config = self._configure(proposal)
            except InputError as error:
                self._refuse(proposal, str(error))
                self._queue.study.end(proposal.number, TrialState.FAIL)
                continue
            self._numbers[trial_id] = proposal.number
            return config
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune got a report."""
        self._queue.study.report(self._numbers[trial_id], result.get("curve", ()))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune ended a trial; only a trial's own last message has a status."""
        number = self._numbers[trial_id]
        self._queue.study.report(number, (result or {}).get("curve", ()))
        status = "failed" if error else (result or {}).get("status", "stopped")
        self._queue.study.end(number, STATES[status])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore from; nothing here is restored like that

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the lake holds all that a resumed search needs."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}
"""What Optuna is told of a trial that ended with a status."""


class Known(NamedTuple):
    """As much of a Tune trial as ASHA looks at, under the number that it keeps over all sessions."""

    trial_id: int


class Asha(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020) that leaves the controls alone and remembers trials over sessions.

    The published settings set the bar for others but always run to the end, as the U-Net does, which learns at another pace and
    sets no bar. A trial that reached its last epoch is not stopped before its final evaluation.
    """

    def __init__(self, *, epochs: int, grace: int, reduction: float) -> None:
        super().__init__(
            time_attr="epoch", metric="best_dice", mode="max", max_t=epochs, grace_period=grace, reduction_factor=reduction
        )
        self._epochs = epochs

    def replay(self, outcomes: Sequence[Outcome]) -> None:
        """Take up what earlier sessions reported."""
        for outcome in outcomes:
            if outcome.proposal.kind != UNET:
                self._judge(outcome.proposal.number, outcome.curve)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Trials are taken up at their first report."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        kind = trial.config["kind"]
        if kind == UNET:
            return str(TrialScheduler.CONTINUE)
        decision = self._judge(trial.config["number"], result.get("curve", ()))
        return str(TrialScheduler.CONTINUE) if kind == PUBLISHED else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing to do: its reports are known."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do."""

    def _judge(self, number: int, curve: Curve) -> str:
        decision = str(TrialScheduler.CONTINUE)
        stand_in: Any = Known(number)
        no_controller: Any = None
        for epoch, value in curve:
            if epoch < self._epochs and math.isfinite(value):
                if number not in self._trial_info:
                    super().on_trial_add(no_controller, stand_in)
                decision = super().on_trial_result(no_controller, stand_in, {"epoch": epoch, "best_dice": value})
        return decision


class Deadline(Stopper):
    """Stops every trial at the last report that leaves time for no further epoch; a trial's last message is let through.

    Some of the time is kept back for scoring the best trial by the full protocol: half as much again as the longest scoring so far
    took, or a tenth of the budget before there was one.
    """

    def __init__(self, seconds: float | None, *, epochs: int) -> None:
        """Start the clock.

        Args:
            seconds: the budget; None for as long as it takes.
            epochs: of a whole trial, which scoring follows, not another epoch.
        """
        self._seconds, self._epochs = seconds, epochs
        self._started = time.monotonic()
        self._scoring: float | None = None
        self._shortest = math.inf  # epoch so far
        self.stopped: set[str] = set()
        """Tune's ids of the trials that were stopped here."""

    def saw_scoring(self, seconds: float) -> None:
        """Take note of how long a trial's final evaluation took."""
        self._scoring = max(seconds, self._scoring or 0.0)

    @property
    def left(self) -> float | None:
        """Seconds until training must stop; None without a budget."""
        if self._seconds is None:
            return None
        reserve = 0.1 * self._seconds if self._scoring is None else min(1.5 * self._scoring, 0.5 * self._seconds)
        return self._started + self._seconds - reserve - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether there is no time for another trial, not even for one epoch of it."""
        shortest = self._shortest if math.isfinite(self._shortest) else 0.0
        return self.left is not None and self.left <= shortest

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this trial shall stop."""
        if self.left is None or result.get("done"):
            return False
        seconds = result.get("time_this_iter_s", 0.0)
        self._shortest = min(self._shortest, seconds)
        next_takes = 0.0 if result.get("epoch", 0) >= self._epochs else seconds
        if self.left > next_takes:
            return False
        self.stopped.add(trial_id)
        return True

    def stop_all(self) -> bool:
        """Trials end one by one."""
        return False
