"""The trainings of finalists on Ray: every one to its end, then scored on the validation and the test split.

Nothing is kept but in the lake and in the trainings' own checkpoints, so this may end at any moment and be called again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray.tune
from rich.console import Console

from tune.finals.selection import Contest, Training
from tune.lake import load
from tune.lake.status import DIVERGED, FINISHED
from tune.proposing import Proposal, StatelessSearcher
from tune.running import (
    Node,
    Overseer,
    Plan,
    Progress,
    Record,
    Recorder,
    RequestsToEnd,
    make_tuner,
    run_tuner,
    stop_sharing,
    trial_settings,
)
from tune.stopping import Budget, InOrder


class Retraining:
    """One process's work on one experiment of finalists, new or continued; see `tune.lake.hold`."""

    def __init__(
        self,
        plan: Plan,
        contest: Contest,
        root: str,
        name: str,
        evaluations: Mapping[str, int],
        *,
        machine: Node | None,
        address: str | None = None,
    ) -> None:
        """Open an experiment that is in the lake.

        Args:
            plan: of the search that the finalists come from.
            contest: what to train.
            root: the lake.
            name: the experiment.
            evaluations: of every finalist, how often its settings will have been scored on the test split.
            machine: what this machine gives to trainings; None on a cluster.
            address: of the cluster.
        """
        self._plan, self._contest, self._root, self._name = plan, contest, root, name
        self._evaluations, self._machine, self._address = evaluations, machine, address
        resources = plan.resources
        common = {"dataset": plan.dataset.spec.name, "workers": resources.workers}
        self._recorder = Recorder(root, name, common, gpus=plan.gpus, price=plan.options.cost_per_gpu_hour)

    def run(self, console: Console, check: Callable[[], None] = lambda: None) -> list[Record]:
        """Run what is not done yet. Returns all trainings, by number.

        Args:
            console: where progress is shown.
            check: raises where this process must not go on, as it holds the experiment no more.

        Raises:
            Interrupted: somebody asked for the end; all is saved.
            Paused: too much fails; all is saved.
            InputError: a training has come upon the user's mistake; all is saved.
        """
        self._check = check
        requests = RequestsToEnd()
        with requests.heard():  # until all is saved
            try:
                with self._recorder.saved("the retraining"):
                    self._recorder.restore(load(self._root), self._plan.space)
                    done = {record.number for record in self._recorder.snapshot() if self.is_done(record)}
                    left = [training for training in self._contest.trainings if training.number not in done]
                    if left:
                        requests.connect(self._address, self._machine)
                        self._run_tune(console, left, requests)
            finally:
                stop_sharing(self._plan.resources, f"{self._root}/{self._name}/tune", self._machine)
        return self._recorder.snapshot()

    def is_done(self, record: Record) -> bool:
        """Whether a training has all its figures of this evaluation, or can have none. (One that failed may be tried again.)"""
        times = self._evaluations[record.row["finalist"]]
        return record.status == DIVERGED or (record.status == FINISHED and record.row.get("test_evaluations") == times)

    def _run_tune(self, console: Console, left: list[Training], requests: RequestsToEnd) -> None:
        """Let Ray Tune run, and show how it goes until it is done."""
        epochs = max(training.config.training.epochs for training in left)
        endless = Budget(seconds=None, epochs=epochs, ledger=self._recorder.ledger)
        overseer = Overseer(self._recorder, endless, lambda line: console.print(line, markup=False))
        with Progress(console, trials=len(self._contest.trainings), epochs=epochs, budget=endless) as progress:

            def watch() -> None:
                progress.show(self._recorder.snapshot())
                self._check()
                requests.check()
                overseer.check()

            run_tuner(self._tuner(left, overseer), watch)

    def _tuner(self, left: list[Training], overseer: Overseer) -> ray.tune.Tuner:
        scheduler = InOrder()  # type: ignore[no-untyped-call]
        scheduler.look = overseer.look
        searcher = _OneByOne(map(self._configure, left))
        return make_tuner(searcher, self._plan.resources, f"{self._root}/{self._name}/tune", overseer, scheduler)

    def _configure(self, training: Training) -> dict[str, Any]:
        plan, finalist, config = self._plan, training.finalist, training.config
        proposal = Proposal(training.number, finalist.kind, plan.space.values_of(config))
        own = {"finalist": finalist.id, "search_dice": finalist.search_dice, "fold": training.fold}
        self._recorder.propose(proposal, config, own)
        settings = trial_settings(
            plan,
            training.number,
            finalist.kind,
            config,
            self._recorder.folder(training.number),
            fold=training.fold,
            test_evaluations=self._evaluations[finalist.id],
        )
        return {"number": training.number, "kind": finalist.kind, "settings": settings.to_json()}


class _OneByOne(StatelessSearcher):
    """Gives Ray Tune one configuration after the other."""

    def __init__(self, configs: Iterator[dict[str, Any]]) -> None:
        super().__init__()
        self._configs = configs

    def suggest(self, trial_id: str) -> Any:
        """Tune asks for the next trial."""
        return next(self._configs, self.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing follows from it."""
