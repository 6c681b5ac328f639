"""What to try next: an Optuna study that is told the truth.

| a trial                         | is told to Optuna as                                                              |
| ------------------------------- | --------------------------------------------------------------------------------- |
| finished                        | COMPLETE, at its best validation Dice (or at all objectives)                      |
| stopped early                   | PRUNED, with all intermediate values                                              |
| out of memory                   | PRUNED, infeasible: it breaks a constraint, so the sampler keeps away from there  |
| crashed, or diverged            | FAIL                                                                              |

(Ray's own OptunaSearch tells COMPLETE at the last value of a stopped trial, which teaches the sampler that slow starters are bad.)
The value of a trial is its best validation Dice so far; early stopping goes by the same figure, also where there are several
objectives.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tune.lake.status import FINISHED, INFEASIBLE, PUBLISHED, SEARCHED, STOPPED, UNET, Curve
from tune.proposing.samplers import default_sampler, make_sampler
from tune.proposing.space import Space, to_optuna

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "dice": "maximize",
    "seconds_per_case": "minimize",
    "gpu_hours": "minimize",
}
"""Best validation Dice; seconds for one case by the full protocol; hours times GPUs, or CPUs where a trial takes no GPU."""

_STARTUP = (4, 6)  # random trials before the model takes over: at least, at most


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number, what kind it is, and the values of the searched fields."""

    number: int
    kind: str
    values: Mapping[str, Any]


class Outcome(NamedTuple):
    """What is known of a trial of an earlier session, or of another experiment."""

    proposal: Proposal
    status: str | None
    """One of `tune.lake.status.ENDED`; None: to be continued."""
    curve: Curve
    costs: Mapping[str, float] = {}
    """Objectives other than Dice, of a finished trial."""


def startup_trials(trials: int | None, at_once: int = 1) -> int:
    """How many trials, controls among them, come before the model: a quarter, within bounds, and no fewer than run at once."""
    least, most = _STARTUP
    quarter = most if trials is None else min(max(trials // 4, least), most)
    return max(quarter, at_once if trials is None else min(at_once, trials // 2))


class Study:
    """An Optuna study that is told the truth. Knows nothing of Ray."""

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        startup: int,
        sampler: str = "",
        objectives: Sequence[str] = ("dice",),
        journal: Path | None = None,
    ) -> None:
        """Begin an empty study.

        Args:
            space: what is searched.
            seed: of the search.
            startup: random proposals before the model takes over.
            sampler: one of `tune.proposing.samplers.SAMPLERS`; empty for the one that suits the objectives.
            objectives: of `OBJECTIVES`; the first must be Dice.
            journal: file for other programs, such as optuna-dashboard, that gets every ended trial; written anew.
        """
        self._space, self._seed, self._startup, self._objectives = space, seed, startup, tuple(objectives)
        self._name = sampler or default_sampler(len(objectives))
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of conditions, which are meant
        directions = [OBJECTIVES[name] for name in objectives]
        self.optuna = optuna.create_study(directions=directions, sampler=self._sampler(0))
        self._journal = None if journal is None else _open_journal(journal, directions, objectives)
        self._open: dict[int, optuna.Trial] = {}
        self._sampled: dict[int, float | None] = {}
        self._reported: dict[int, dict[int, float]] = {}

    def propose(self, number: int) -> Proposal:
        """The next values to try."""
        self.optuna.sampler = self._sampler(number)
        trial = self.optuna.ask()
        self._open[number], self._reported[number], self._sampled[number] = trial, {}, None
        return Proposal(number, SEARCHED, self._space.suggest(trial))

    def add(self, proposal: Proposal, curve: Curve = ()) -> None:
        """Take up a trial that was not drawn here: published values, or one of an earlier session. The U-Net is not told."""
        if proposal.kind == UNET or not self._space.contains(proposal.values):
            return
        self.optuna.enqueue_trial(to_optuna(proposal.values))
        trial = self.optuna.ask()
        self._space.suggest(trial)
        self._open[proposal.number], self._reported[proposal.number] = trial, {}
        if proposal.kind == SEARCHED and proposal.number >= 0:
            self._sampled[proposal.number] = None
        self.report(proposal.number, curve)

    def add_ended(self, outcome: Outcome) -> None:
        """Take up a trial that ended in an earlier session, or in another experiment."""
        self.add(outcome.proposal, outcome.curve)
        assert outcome.status is not None
        self.end(outcome.proposal.number, outcome.status, outcome.costs)

    def report(self, number: int, curve: Curve) -> None:
        """Take the values of some epochs; those known already are ignored."""
        if number not in self._open:
            return
        for epoch, value in curve:
            if epoch not in self._reported[number] and math.isfinite(value):
                if len(self._objectives) == 1:  # Optuna has no intermediate values where there are several
                    self._open[number].report(value, epoch)
                self._reported[number][epoch] = value

    def has_reported(self, number: int) -> bool:
        """Whether a trial that runs has shown any value."""
        return bool(self._reported.get(number))

    def end(self, number: int, status: str, costs: Mapping[str, float] | None = None) -> None:
        """Tell how a trial ended; one without any value failed, whatever it says.

        Args:
            number: of the trial.
            status: one of `tune.lake.status.ENDED`.
            costs: of a finished trial, the objectives other than Dice.
        """
        trial = self._open.pop(number, None)
        if trial is None:
            return
        curve = self._reported.pop(number)
        if number in self._sampled and curve:
            self._sampled[number] = max(curve.values())
        values = {"dice": max(curve.values(), default=math.nan)} | dict(costs or {})
        told = [values.get(name, math.nan) for name in self._objectives]
        if status == INFEASIBLE:
            trial.set_constraint("memory", 1.0)
            self.optuna.tell(trial, state=TrialState.PRUNED)
        elif status == STOPPED and curve:
            self.optuna.tell(trial, state=TrialState.PRUNED)
        elif status == FINISHED and all(map(math.isfinite, told)):
            self.optuna.tell(trial, told)
        else:
            self.optuna.tell(trial, state=TrialState.FAIL)
        if self._journal is not None:
            self._write_down(self.optuna.trials[trial.number], number, status)

    @property
    def sampled(self) -> list[float]:
        """Best Dice of this search's trials but the controls, in order of proposal, up to the first that still runs.

        (Of those behind it mostly the bad ones have ended, stopped early; they would say too little of what is coming.)
        """
        before = min((number for number in self._sampled if number in self._open), default=math.inf)
        return [dice for number, dice in sorted(self._sampled.items()) if number < before and dice is not None]

    def _write_down(self, trial: optuna.trial.FrozenTrial, number: int, status: str) -> None:
        """A copy for the journal, without what samplers keep for themselves."""
        assert self._journal is not None
        try:
            self._journal.add_trial(
                optuna.trial.create_trial(
                    state=trial.state,
                    values=trial.values,
                    params=trial.params,
                    distributions=trial.distributions,
                    intermediate_values=trial.intermediate_values,
                    user_attrs={"trial": number, "status": status},
                )
            )
        except OSError as error:
            warnings.warn(f"Optuna's journal lacks trial {number}: {error}", stacklevel=2)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return make_sampler(self._name, seed=self._seed, number=number, startup=self._startup, objectives=len(self._objectives))


def _open_journal(path: Path, directions: Sequence[Literal["maximize", "minimize"]], objectives: Sequence[str]) -> optuna.Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(directions=directions, storage=storage, study_name=path.parent.parent.name)
        study.set_metric_names(list(objectives))
    return study


@dataclass
class Queue:
    """Which trials come: those cut in an earlier session, controls, hints from elsewhere, then samples, until there are enough."""

    space: Space
    study: Study
    trials: int | None
    next_number: int = 0
    waiting: list[Proposal] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        space: Space,
        study: Study,
        trials: int | None,
        earlier: Sequence[Outcome] = (),
        hints: Sequence[Mapping[str, Any]] = (),
    ) -> Queue:
        """The queue of a new search, or of one that goes on.

        Args:
            space: what is searched.
            study: where proposals come from.
            trials: how many in all; None for as many as there is time for.
            earlier: trials of earlier sessions.
            hints: settings to try right after the controls.
        """
        queue = cls(space, study, trials)
        for outcome in earlier:
            if outcome.status is not None:
                study.add_ended(outcome)
        for outcome in earlier:
            if outcome.status is None:
                study.add(outcome.proposal, outcome.curve)
                queue.waiting.append(outcome.proposal)
        first = controls(space)
        first += [Proposal(len(first) + place, SEARCHED, values) for place, values in enumerate(hints)]
        known = {outcome.proposal.number for outcome in earlier}
        for proposal in first:
            if proposal.number not in known and (trials is None or proposal.number < trials):
                study.add(proposal)
                queue.waiting.append(proposal)
        queue.next_number = max([*known, *(proposal.number for proposal in first)]) + 1
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
