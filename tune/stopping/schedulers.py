"""Schedulers by name: which trials are stopped before their end.

The published settings set the bar for others but always run to the end, as the plain U-Net does, which learns at another pace and
sets no bar. A trial that reached its last epoch is not stopped before its final evaluation. A resumed search replays what earlier
sessions reported, so its rungs and medians are those of a search that was never cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from cdal.errors import InputError
from tune.lake.status import PUBLISHED, UNET, Curve
from tune.proposing import Outcome
from tune.stopping.halving import Halving

DEFAULT_SCHEDULER, POPULATION = "asha", "pbt"
HEDGE = 4  # one in so many, which then take about as much time as the others (Li et al. 2018: equal budgets)
_BRACKETS = 3
_NEVER: Any = math.inf  # does the median rule pause a trial to let others catch up


class Rule(Protocol):
    """What a scheduler makes its decisions with."""

    def goes_on(self, number: int, epoch: int, dice: float, loss: float = math.inf) -> bool:
        """Take a trial's best Dice up to an epoch before its last, and its training loss there: whether it is to go on."""


class Scheduler(NamedTuple):
    """A scheduler and when to take it."""

    make: Callable[[int, int], Rule] | None
    """From the epochs of a whole trial, and the epochs before a trial may be stopped; None for what is no stopping rule."""
    advice: str
    halving: bool = False
    """Whether trials are halved rung after rung, which costs the hopeless ones an epoch each."""
    hedged: bool = False
    """Whether some of the trials that a model proposed run to their end, whatever the rule says."""


def _hyperband(epochs: int, grace: int) -> Rule:
    return Halving(epochs, grace, _BRACKETS)


class _Median:
    """Ray Tune's median rule. It says PAUSE, and bears to hear more of a trial that went on, as the published settings do."""

    def __init__(self, epochs: int, grace: int) -> None:
        self._known: set[int] = set()
        self._rule = MedianStoppingRule(
            time_attr="epoch",
            metric="best_dice",
            mode="max",
            grace_period=grace,
            min_samples_required=3,
            min_time_slice=_NEVER,
            hard_stop=False,
        )

    def goes_on(self, number: int, epoch: int, dice: float, loss: float = math.inf) -> bool:
        trial: Any = _Known(number)
        no_controller: Any = None
        if number not in self._known:
            self._known.add(number)
            self._rule.on_trial_add(no_controller, trial)
        decision = self._rule.on_trial_result(no_controller, trial, {"epoch": epoch, "best_dice": dice})
        return decision == str(TrialScheduler.CONTINUE)


class _Known(NamedTuple):
    """As much of a Tune trial as the median rule looks at, under the number that it keeps over all sessions."""

    trial_id: int


class _None:
    """Lets all go on."""

    def __init__(self, epochs: int, grace: int) -> None:
        pass

    def goes_on(self, number: int, epoch: int, dice: float, loss: float = math.inf) -> bool:
        return True


SCHEDULERS: dict[str, Scheduler] = {
    DEFAULT_SCHEDULER: Scheduler(
        Halving,
        "the default: asynchronous successive halving (Li et al. 2020): at epochs 1, 3, 9 ... only the best third goes on, of "
        "equal ones those of lower training loss, so that a hopeless trial costs one epoch.",
        halving=True,
    ),
    "hedged": Scheduler(
        Halving,
        "asha, but every fourth trial that the sampler proposes after the random ones runs to its end. Take it where early epochs "
        "are known to mislead, so that a setting that starts slowly may still win; in long trainings it costs most of the time.",
        halving=True,
        hedged=True,
    ),
    "hyperband": Scheduler(
        _hyperband,
        "the same in up to three brackets, the later of which let trials run longer before the first cut. Take it where settings "
        "that start slowly may win, such as small learning rates; it saves less.",
        halving=True,
    ),
    "median": Scheduler(
        _Median,
        "the median stopping rule (Golovin et al. 2017): trials below the median of the others' running means are stopped. "
        "Gentle; take it where trials are few.",
    ),
    POPULATION: Scheduler(
        None,
        "population based training (Jaderberg et al. 2017): trials in the lower quarter become copies of some in the upper "
        "quarter, with other loss weights and learning rates. Take it for long trainings whose best weights change on the way; all "
        "trials run side by side, in turns, so it wants as many workers as trials. It finds a schedule, not one setting to repeat.",
    ),
    "none": Scheduler(_None, "every trial runs to its end. Take it to map a space, or to record whole curves."),
}


def make_scheduler(name: str, *, epochs: int, grace: int, startup: int) -> EarlyStopping:
    """The stopping rule of a search.

    Args:
        name: one of `SCHEDULERS`.
        epochs: of a whole trial.
        grace: epochs before a trial may be stopped.
        startup: trials proposed at random, before the model takes over.

    Raises:
        InputError: there is no such scheduler.
    """
    check_scheduler(name)
    scheduler = SCHEDULERS[name]
    assert scheduler.make is not None, f"{name} is made elsewhere"
    return EarlyStopping(scheduler.make(epochs, min(grace, epochs)), epochs, startup if scheduler.hedged else math.inf)


def grace_epochs(scheduler: str, epochs: int) -> int:
    """Epochs before a trial may be stopped early, of so many in all: where trials are halved, one, however long they are."""
    return 1 if SCHEDULERS[scheduler].halving else max(1, epochs // 8)


def check_scheduler(name: str) -> None:
    """Raise InputError where there is no such scheduler."""
    if name not in SCHEDULERS:
        raise InputError(f"--scheduler is {name!r}; schedulers are {', '.join(SCHEDULERS)}")


class InOrder(FIFOScheduler):
    """Trials start as they come."""

    look: Callable[[Any], None] | None = None
    """Called by Ray Tune's thread, with its controller, whenever it is about to start trials: several times a second."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next one. (Ray's own goes through all trials that there ever were.)"""
        if self.look is not None:
            self.look(tune_controller)
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
        return min(waiting, key=lambda trial: trial.config["number"], default=None)


class EarlyStopping(InOrder):
    """One of the rules, as Ray Tune asks it."""

    def __init__(self, rule: Rule, epochs: int, hedged_from: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule, self._epochs, self._hedged_from = rule, epochs, hedged_from

    def replay(self, outcomes: Sequence[Outcome]) -> None:
        """Take up what earlier sessions reported."""
        for outcome in outcomes:
            if outcome.proposal.kind != UNET:
                self._goes_on(outcome.proposal.number, outcome.curve, outcome.losses)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        kind, number = trial.config["kind"], trial.config["number"]
        if kind == UNET:
            return str(TrialScheduler.CONTINUE)
        goes_on = self._goes_on(number, result.get("curve", ()), result.get("losses", {}))
        spared = kind == PUBLISHED or (number >= self._hedged_from and number % HEDGE == 0)
        return str(TrialScheduler.CONTINUE if goes_on or spared else TrialScheduler.STOP)

    def _goes_on(self, number: int, curve: Curve, losses: Mapping[int, float]) -> bool:
        goes_on = True
        for epoch, dice in curve:
            if epoch < self._epochs and math.isfinite(dice):
                loss = losses.get(epoch, math.inf)
                goes_on = self._rule.goes_on(number, epoch, dice, loss if math.isfinite(loss) else math.inf)
        return goes_on
