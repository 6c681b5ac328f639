"""Queue and study behind Ray Tune's searcher interface."""

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from cdal.errors import InputError
from tune.lake.status import FAILED, STOPPED
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


class TruthfulSearcher(StatelessSearcher):
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
        super().__init__()
        self._queue, self._configure, self._refuse, self._over = queue, configure, refuse, over
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Tune asks for the next trial."""
        while not self._over() and (proposal := self._queue.next()) is not None:
            try:
                config = self._configure(proposal)
            except InputError as error:
                self._refuse(proposal, str(error))
                self._queue.study.end(proposal.number, FAILED)
                continue
            self._numbers[trial_id] = proposal.number
            return config
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune got a report."""
        self._queue.study.report(self._numbers[trial_id], result.get("curve", ()))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune ended a trial; only a trial's own last message has a status. Of one that never began there is nothing to tell."""
        number, last = self._numbers[trial_id], result or {}
        if result is None and not error and not self._queue.study.has_reported(number):
            return
        self._queue.study.report(number, last.get("curve", ()))
        costs = {name: last[name] for name in OBJECTIVES if name in last}
        self._queue.study.end(number, FAILED if error else last.get("status", STOPPED), costs)
