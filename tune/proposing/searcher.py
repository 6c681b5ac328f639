"""Queue and study behind Ray Tune's searcher interface."""

from collections.abc import Callable
from typing import Any, Protocol

from ray.tune.search import Searcher

from cdal.errors import InputError
from tune.lake.status import FAILED, MACHINE, SETTING, STOPPED
from tune.proposing.study import OBJECTIVES, Proposal, Queue


class StatelessSearcher(Searcher):
    """One of which Ray Tune keeps nothing: the lake holds all that is needed to go on."""

    def __init__(self) -> None:
        super().__init__(metric=None, mode=None)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore from; nothing here is restored like that

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Ending(Protocol):
    """How a trial ends."""

    @property
    def status(self) -> str:
        """One of `tune.lake.status.ENDED`, or INTERRUPTED."""

    @property
    def cause(self) -> str | None:
        """Whose fault it is."""


class TruthfulSearcher(StatelessSearcher):
    """The queue and the study as Ray Tune sees them."""

    def __init__(
        self,
        queue: Queue,
        configure: Callable[[Proposal], dict[str, Any]],
        refuse: Callable[[Proposal, str], None],
        over: Callable[[], bool],
        verdict: Callable[[int], Ending | None] = lambda number: None,
    ) -> None:
        """Connect to Ray Tune.

        Args:
            queue: where trials come from.
            configure: makes Tune's trial configuration, and records that the trial is coming; InputError where values do not fit.
            refuse: records a proposal that cannot be run, and why.
            over: whether no more trials shall start.
            verdict: how a trial ends that somebody else ends; None where nobody does.
        """
        super().__init__()
        self._queue, self._configure, self._refuse, self._over, self._verdict = queue, configure, refuse, over, verdict
        self._numbers: dict[str, int] = {}
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """Tune asks for the next trial: its configuration; None where there is none now; FINISHED where none is going to come.

        While a trial runs, a person may still want others, or give the search more time.
        """
        while not self._over() and (proposal := self._queue.next()) is not None:
            try:
                config = self._configure(proposal)
            except InputError as error:
                self._refuse(proposal, str(error))
                self._queue.study.end(proposal.number, FAILED, cause=SETTING)
                continue
            self._numbers[trial_id] = proposal.number
            self._live.add(trial_id)
            return config
        return None if self._live else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune got a report."""
        self._queue.study.report(self._numbers[trial_id], result.get("curve", ()))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune ended a trial; only a trial's own last message has status and cause. Of one that never began nothing is told."""
        number, last = self._numbers[trial_id], result or {}
        self._live.discard(trial_id)
        if (verdict := self._verdict(number)) is not None:
            return self._queue.study.end(number, verdict.status, cause=verdict.cause)
        if result is None and not error and not self._queue.study.has_reported(number):
            return
        self._queue.study.report(number, last.get("curve", ()))
        costs = {name: last[name] for name in OBJECTIVES if name in last}
        status = FAILED if error else last.get("status", STOPPED)
        return self._queue.study.end(number, status, costs, last.get("cause", MACHINE if error else None))
