"""What to try next: an Optuna study that is told the truth.

| a trial                         | is told to Optuna as                                                              |
| ------------------------------- | --------------------------------------------------------------------------------- |
| finished                        | COMPLETE, at its best validation Dice (or at all objectives)                      |
| stopped early, or by a person   | PRUNED, with all intermediate values                                              |
| out of memory                   | PRUNED, infeasible: it breaks a constraint, so the sampler keeps away from there  |
| diverged, or failed by itself   | FAIL                                                                              |
| failed by another's fault       | FAIL, marked as one of which nothing is learnt                                    |

(Ray's own OptunaSearch tells COMPLETE at the last value of a stopped trial, which teaches the sampler that slow starters are bad.)
The value of a trial is its best validation Dice so far; early stopping goes by the same figure, also where there are several
objectives.

A setting that was tried is not proposed again: with the same seed it gives the same Dice. Where all there are have been tried,
nothing is left to propose.

A proposal follows from its number, from the trials in the order of their numbers, and from the order in which they ended. All of
that is in the lake, so a search that was cut goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tune.lake.status import FAILED, FINISHED, INFEASIBLE, PUBLISHED, SEARCHED, SETTING, STOPPED, TRIED, UNET, Curve
from tune.proposing.samplers import default_sampler, make_sampler
from tune.proposing.space import Space, from_optuna, setting_key, to_optuna
from tune.proposing.told import DRAWN, ENDED, UNLEARNT

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
    cause: str | None = None
    """Whose fault it was, of a trial that did not end well: `tune.lake.status.SETTING` or one of its neighbours."""
    ended: datetime | None = None
    """When; None: right after the trials before it had ended."""
    losses: Mapping[int, float] = {}
    """Training loss by epoch, as far as it is known."""


def startup_trials(trials: int | None, at_once: int = 1) -> int:
    """How many trials, controls among them, come before the model: a quarter, within bounds, and no fewer than run at once."""
    least, most = _STARTUP
    quarter = most if trials is None else min(max(trials // 4, least), most)
    return max(quarter, at_once if trials is None else min(at_once, trials // 2))


def teaches(status: str, cause: str | None) -> bool:
    """Whether a trial's end says anything of its settings; of a failure of unknown cause it is taken to do so."""
    return status != FAILED or cause in (SETTING, None)


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
        self._space, self._objectives = space, tuple(objectives)
        self._distributions = space.distributions
        self._sampler = make_sampler(
            sampler or default_sampler(len(objectives)),
            seed=seed,
            startup=startup,
            fields=self._distributions,
            conditional={path for path, parameter in space.parameters.items() if parameter.condition},
            objectives=len(objectives),
        )
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of conditions, which are meant
        directions = [OBJECTIVES[name] for name in objectives]
        self._storage = optuna.storages.InMemoryStorage()
        self.optuna = optuna.create_study(directions=directions, storage=self._storage, sampler=self._sampler(0, 0))
        self._study_id = self._storage.get_study_id_from_name(self.optuna.study_name)
        self._journal = None if journal is None else _open_journal(journal, directions, objectives)
        self.first = 0
        """Number of the first proposal that is drawn; proposals before it are given."""
        self._open: dict[int, optuna.Trial] = {}
        self._reported: dict[int, dict[int, float]] = {}
        self._ended = 0
        self._undecided: deque[int] = deque()
        self._untried = {setting_key(values): values for values in space.every_setting or ()}
        self._best: dict[int, float] = {}
        self._sampled: list[float] = []
        self._drawn: set[int] = set()
        self.progress: list[float] = []
        """Best Dice so far of the trials that were drawn, after every epoch that any of them trained, in the order of reports."""

    def propose(self, number: int) -> Proposal:
        """The next values to try; some must be left."""
        self.optuna.sampler = self._sampler(number, max(number - self.first, 0))
        trial = self.optuna.ask()
        values = self._space.suggest(trial)
        if self._untried and setting_key(values) not in self._untried:
            trial.set_user_attr(UNLEARNT, True)
            self.optuna.tell(trial, state=TrialState.FAIL)
            place = np.random.default_rng(number).integers(len(self._untried))
            proposal = Proposal(number, SEARCHED, [*self._untried.values()][place])
            self.add(proposal)
            return proposal
        self._take_up(number, trial, values, drawn=True)
        return Proposal(number, SEARCHED, values)

    @property
    def why_exhausted(self) -> str | None:
        """Why there is nothing left to propose; None where there is."""
        settings = self._space.every_setting
        if settings is None or self._untried:
            return None
        return (
            f"all {len(settings)} settings of the space have been tried (tune/finalists.py trains the best again, with other seeds)"
        )

    def add(self, proposal: Proposal, curve: Curve = ()) -> None:
        """Take up a trial that was not drawn here: published values, or one of an earlier session. The U-Net is not told.

        Trials of a search are taken up in the order of their numbers; one that runs already is left as it is.
        """
        if proposal.number in self._open or proposal.kind == UNET or not self._space.contains(proposal.values):
            return
        active = self._space.active(proposal.values)
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=to_optuna(active),
            distributions={path: self._distributions[path] for path in active},
        )
        trial = optuna.Trial(self.optuna, self._storage.create_new_trial(self._study_id, running))
        self._take_up(proposal.number, trial, active, drawn=proposal.kind == SEARCHED and proposal.number >= 0)
        self.report(proposal.number, curve)

    def add_ended(self, outcome: Outcome) -> None:
        """Take up a trial that ended in another experiment."""
        self.add(outcome.proposal, outcome.curve)
        assert outcome.status is not None
        self.end(outcome.proposal.number, outcome.status, outcome.costs, outcome.cause)

    def restore(self, outcomes: Sequence[Outcome], waiting: Sequence[Proposal] = ()) -> None:
        """Take up the trials of earlier sessions, and those that are going to come first, as a search that was not cut has them.

        Args:
            outcomes: of trials that ended, or are to be continued.
            waiting: trials that no session has begun.
        """
        outcomes = sorted(outcomes, key=lambda outcome: outcome.proposal.number)
        known = [(outcome.proposal, outcome.curve) for outcome in outcomes] + [(proposal, ()) for proposal in waiting]
        for proposal, curve in sorted(known, key=lambda each: each[0].number):
            self.add(proposal, curve)
        for outcome in _as_they_ended(outcomes):
            assert outcome.status is not None
            self.end(outcome.proposal.number, outcome.status, outcome.costs, outcome.cause)

    def report(self, number: int, curve: Curve) -> None:
        """Take the values of some epochs; those known already are ignored."""
        if number not in self._open:
            return
        for epoch, value in curve:
            if epoch not in self._reported[number] and math.isfinite(value):
                if len(self._objectives) == 1:  # Optuna has no intermediate values where there are several
                    self._open[number].report(value, epoch)
                self._reported[number][epoch] = value
                if number in self._drawn:
                    self.progress.append(max(value, self.progress[-1] if self.progress else value))

    def has_reported(self, number: int) -> bool:
        """Whether a trial that runs has shown any value."""
        return bool(self._reported.get(number))

    def end(self, number: int, status: str, costs: Mapping[str, float] | None = None, cause: str | None = None) -> None:
        """Tell how a trial ended; one without any value failed, whatever it says.

        Args:
            number: of the trial.
            status: one of `tune.lake.status.ENDED`.
            costs: of a finished trial, the objectives other than Dice.
            cause: of a failed trial, `tune.lake.status.SETTING` or one of its neighbours.
        """
        trial = self._open.pop(number, None)
        if trial is None:
            return
        curve = self._reported.pop(number)
        trial.set_user_attr(ENDED, self._ended)
        self._ended += 1
        if not teaches(status, cause) or (status == STOPPED and not curve):  # a person may stop a trial that has shown nothing
            trial.set_user_attr(UNLEARNT, True)
            if status == FAILED and number >= 0 and self._space.every_setting is not None:  # it is still to be tried
                values = from_optuna(self._space, trial.params)
                self._untried[setting_key(values)] = values
        elif curve and number in self._drawn:
            self._best[number] = max(curve.values())
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
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
            self._write_down(self._storage.get_trial(trial_id), number, status)

    @property
    def sampled(self) -> Sequence[float]:
        """Best Dice of this search's trials but controls and people's own, in order of proposal, up to the first that still runs.

        (Of those behind it mostly the bad ones have ended, stopped early; they would say too little of what is coming.)
        """
        while self._undecided and self._undecided[0] not in self._open:
            number = self._undecided.popleft()
            if number in self._best:
                self._sampled.append(self._best.pop(number))
        return self._sampled

    def _take_up(self, number: int, trial: optuna.Trial, values: Mapping[str, Any], *, drawn: bool) -> None:
        self._open[number], self._reported[number] = trial, {}
        if number >= 0:  # of this search
            self._untried.pop(setting_key(values), None)
        if drawn:
            trial.set_user_attr(DRAWN, number)
            self._drawn.add(number)
            self._undecided.append(number)

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


class _Journal(JournalFileBackend):
    """A file that is not forced onto its disk line by line: it says nothing that the lake does not hold."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with Path(self._file_path).open("a") as file:
            file.writelines(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)


def _open_journal(path: Path, directions: Sequence[Literal["maximize", "minimize"]], objectives: Sequence[str]) -> optuna.Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(_Journal(str(path)))
        study = optuna.create_study(directions=directions, storage=storage, study_name=path.parent.parent.name)
        study.set_metric_names(list(objectives))
    return study


def _as_they_ended(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that ended, in that order; they come by number."""
    ended = [outcome for outcome in outcomes if outcome.status is not None]
    moments, last = [], -math.inf
    for outcome in ended:
        last = outcome.ended.timestamp() if outcome.ended else last
        moments.append(last)
    return [ended[place] for place in sorted(range(len(ended)), key=moments.__getitem__)]


@dataclass
class Queue:
    """Which trials come: those cut in an earlier session, controls, what people want to try, hints from elsewhere, then samples."""

    space: Space
    study: Study
    trials: int | None
    next_number: int = 0
    waiting: list[Proposal] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def start(
        cls,
        space: Space,
        study: Study,
        trials: int | None,
        earlier: Sequence[Outcome] = (),
        hints: Sequence[Mapping[str, Any]] = (),
        tries: Sequence[Mapping[str, Any]] = (),
    ) -> Queue:
        """The queue of a new search, or of one that goes on.

        Args:
            space: what is searched.
            study: where proposals come from; nothing of this search is in it yet.
            trials: how many in all; None for as many as there is time for.
            earlier: trials of earlier sessions.
            hints: settings to try before the sampler's.
            tries: a person's own settings, right after the controls; those that an earlier session has begun are not begun again.
        """
        known = {outcome.proposal.number: outcome.proposal for outcome in earlier}
        fixed = controls(space)
        begun = [to_optuna(proposal.values) for proposal in known.values() if proposal.kind == TRIED]
        free = (number for number in count(len(fixed)) if number not in known)
        tried = [Proposal(next(free), TRIED, values) for values in tries if to_optuna(values) not in begun]
        own = {proposal.number for proposal in (*known.values(), *tried) if proposal.kind == TRIED}
        places = (number for number in count(len(fixed)) if number not in own)
        hinted = [Proposal(number, SEARCHED, values) for number, values in zip(places, hints, strict=False)]
        wanted = [proposal for proposal in (*fixed, *hinted) if trials is None or proposal.number < trials]
        new = sorted((*(p for p in wanted if p.number not in known), *tried), key=lambda proposal: proposal.number)

        study.first = len(fixed) + len(hints)
        study.restore(earlier, new)
        cut = [outcome.proposal for outcome in earlier if outcome.status is None]
        last = max([*known, *(proposal.number for proposal in (*fixed, *tried, *hinted))])
        return cls(space, study, trials, last + 1, [*cut, *new])

    @property
    def empty(self) -> bool:
        """Whether no trial is left to run."""
        return not self.waiting and self.trials is not None and self.next_number >= self.trials

    def next(self) -> Proposal | None:
        """The next trial; None when there are enough, or nothing is left to try."""
        with self._lock:
            if self.empty or (not self.waiting and self.study.why_exhausted is not None):
                return None
            waiting, number = (self.waiting.pop(0) if self.waiting else None), self.next_number
            self.next_number += waiting is None
        if waiting is None:
            return self.study.propose(number)
        self.study.add(waiting)
        return waiting

    def enqueue(self, values: Mapping[str, Any]) -> Proposal:
        """Put a person's own settings (see `settings`) at the head of what is waiting, one after the other; from any thread.

        They run also where there are `trials` already.
        """
        with self._lock:
            proposal = Proposal(self.next_number, TRIED, values)
            self.next_number += 1
            place = next((place for place, other in enumerate(self.waiting) if other.kind != TRIED), len(self.waiting))
            self.waiting.insert(place, proposal)
        return proposal

    def drop(self, number: int) -> bool:
        """Take a trial out that has not come yet, from any thread; False where it has."""
        with self._lock:
            kept = [proposal for proposal in self.waiting if proposal.number != number]
            found = len(kept) < len(self.waiting)
            self.waiting[:] = kept
        return found

    def more(self, count: int) -> None:
        """Let so many further trials come, from any thread; a search that only a budget ends has no number to raise."""
        with self._lock:
            if self.trials is not None:
                self.trials += count


def controls(space: Space) -> list[Proposal]:
    """The trials that every search has: the published values (number 0), and a plain U-Net of the same backbone (number 1)."""
    published = Proposal(0, PUBLISHED, space.published)
    if "model.architecture" in space.parameters or space.base.model.architecture == "unet":
        return [published]
    return [published, Proposal(1, UNET, space.published)]
