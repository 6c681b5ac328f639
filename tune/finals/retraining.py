"""The trainings of finalists on Ray: every one to its end, then scored on the validation and the test split.

Nothing is kept but in the lake and in the trainings' own checkpoints, so this may end at any moment and be called again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray.tune
from ray.tune.search import Searcher
from rich.console import Console

from tune.finals.selection import Contest, Training
from tune.lake import load, ray_storage
from tune.lake.status import DIVERGED, FINISHED, trial_id
from tune.proposing import Proposal
from tune.running import Interrupted, Node, Plan, Progress, Record, Recorder, RecordingCallback, absolute, connect, run_tuner
from tune.stopping import Budget
from tune.trials import RESTARTS, CdalTrial, TrialSettings


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

    def run(self, console: Console) -> list[Record]:
        """Run what is not done yet. Returns all trainings, by number.

        Raises:
            Interrupted: somebody asked for the end; all is saved.
        """
        with _signals() as (listen, ignore):
            try:
                self._recorder.restore(load(self._root), self._plan.space)
                done = {record.number for record in self._recorder.snapshot() if self.is_done(record)}
                left = [training for training in self._contest.trainings if training.number not in done]
                if left:
                    connect(self._address, this=self._machine)
                    listen()  # Ray sets handlers of its own when it starts
                    self._run_tune(console, left)
            except KeyboardInterrupt:
                ignore()
                self._recorder.interrupt("the retraining was interrupted")
                raise Interrupted from None
            finally:
                self._recorder.close()
        return self._recorder.snapshot()

    def is_done(self, record: Record) -> bool:
        """Whether a training has all its figures of this evaluation, or can have none. (One that failed may be tried again.)"""
        times = self._evaluations[record.row["finalist"]]
        return record.status == DIVERGED or (record.status == FINISHED and record.row.get("test_evaluations") == times)

    def _run_tune(self, console: Console, left: list[Training]) -> None:
        """Let Ray Tune run, and show how it goes until it is done."""
        epochs = max(training.config.training.epochs for training in left)
        endless = Budget(seconds=None, epochs=epochs)
        with Progress(console, trials=len(self._contest.trainings), epochs=epochs, budget=endless) as progress:
            run_tuner(self._tuner(left), lambda: progress.show(self._recorder.snapshot()))

    def _tuner(self, left: list[Training]) -> ray.tune.Tuner:
        resources = self._plan.resources
        return ray.tune.Tuner(
            CdalTrial,
            tune_config=ray.tune.TuneConfig(
                search_alg=_InOrder(map(self._configure, left)),
                num_samples=-1,  # the searcher says when there are enough
                max_concurrent_trials=resources.at_once,
                reuse_actors=resources.workers == 1,
                trial_name_creator=lambda trial: f"training_{trial_id(trial.config['number'])}",
                trial_dirname_creator=lambda trial: trial_id(trial.config["number"]),
            ),
            run_config=ray.tune.RunConfig(
                name="ray",
                **ray_storage(f"{self._root}/{self._name}/tune"),
                callbacks=[RecordingCallback(self._recorder, lambda _: "nobody should stop a finalist", lambda _: None)],
                failure_config=ray.tune.FailureConfig(max_failures=RESTARTS),
                verbose=0,
            ),
        )

    def _configure(self, training: Training) -> dict[str, Any]:
        plan, finalist, config = self._plan, training.finalist, training.config
        proposal = Proposal(training.number, finalist.kind, plan.space.values_of(config))
        own = {"finalist": finalist.id, "search_dice": finalist.search_dice, "fold": training.fold}
        self._recorder.propose(proposal, config, own)
        settings = TrialSettings(
            number=training.number,
            kind=finalist.kind,
            config=config.to_dict(),
            dataset=plan.space.dataset,
            options=dict(plan.space.options),
            data=plan.data,
            fold=training.fold,
            folder=absolute(self._recorder.folder(training.number)),
            workers=plan.resources.workers,
            cpus=plan.resources.cpus,
            gpus=plan.resources.gpus,
            test_evaluations=self._evaluations[finalist.id],
        )
        return {"number": training.number, "kind": finalist.kind, "settings": settings.to_json()}


class _InOrder(Searcher):
    """Gives Ray Tune one configuration after the other."""

    def __init__(self, configs: Iterator[dict[str, Any]]) -> None:
        super().__init__(metric=None, mode=None)
        self._configs = configs

    def suggest(self, trial_id: str) -> Any:
        """Tune asks for the next trial."""
        return next(self._configs, Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing follows from it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore from; nothing here is restored like that

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the lake holds all that is needed to go on."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


@contextmanager
def _signals() -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """SIGTERM does what Ctrl-C does; the functions given say so again, and make both of them wait for the end of the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def set_all(handler: Any) -> None:
        for number in before:
            signal.signal(number, handler)

    set_all(signal.default_int_handler)
    try:
        yield partial(set_all, signal.default_int_handler), partial(set_all, signal.SIG_IGN)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
