"""One session of a search: Ray Tune runs the trials in a thread, the main thread shows progress and listens for signals.

Nothing is kept but in the lake and in the trials' own checkpoints, so a session may end at any moment and another goes on.
"""

import time
from typing import Any

import ray
import ray.tune
from rich.console import Console

from cdal.config import Config
from tune.command import Interrupted
from tune.lake import Mirror, load
from tune.lake.status import SEARCHED, UNET
from tune.proposing import Proposal, Queue, Study, TruthfulSearcher
from tune.running.machines import Node
from tune.running.plan import Plan
from tune.running.progress import Progress, best_of
from tune.running.recorder import Record, Recorder, RecordingCallback
from tune.running.tuning import TICK_SECONDS, RequestsToEnd, make_tuner, run_tuner, stop_sharing, trial_settings
from tune.stopping import POPULATION, Budget, EarlyStopping, PopulationTraining, make_scheduler, why_enough
from tune.trials import TrialSettings, score_stored

_UNET_RECIPE = {"model.architecture": "unet", "loss.soft_dice": 1.0, "optimiser.lr_generator": 1e-3}
"""How people train a plain U-Net: the control is no straw man. What the space fixes stays."""
_CLOCK_SECONDS = 5.0
_CLOCK, _JOURNAL = "seconds_used", "optuna-journal.log"


class Session:
    """One process's work on one experiment, new or continued; see `tune.lake.hold`."""

    def __init__(self, plan: Plan, root: str, name: str, *, machine: Node | None, address: str | None = None) -> None:
        """Open an experiment that is in the lake.

        Args:
            plan: what to do.
            root: the lake.
            name: the experiment.
            machine: what this machine gives to trials; None on a cluster.
            address: of the cluster.
        """
        self.plan, self.root, self.name, self._machine, self._address = plan, root, name, machine, address
        self._files = Mirror(f"{root}/{name}/tune", (_CLOCK, _JOURNAL))
        self._files.fetch()
        resources, config = plan.resources, plan.published
        common = {"dataset": plan.dataset.spec.name, "fold": plan.options.fold, "workers": resources.workers}
        options = plan.options
        self.recorder = Recorder(root, name, common, gpus=plan.gpus, price=options.cost_per_gpu_hour)
        self.study = Study(
            plan.space,
            seed=options.seed,
            startup=plan.startup,
            sampler=options.sampler,
            objectives=options.objectives,
            journal=self._files.path / _JOURNAL,
        )
        for outcome in plan.warm_start.told:
            self.study.add_ended(outcome)
        self._population = options.scheduler == POPULATION
        self._scheduler: EarlyStopping | PopulationTraining = (
            PopulationTraining(plan.space, interval=plan.grace, seed=options.seed)
            if self._population
            else make_scheduler(options.scheduler, epochs=config.training.epochs, grace=plan.grace, startup=plan.startup)
        )
        self._enough: tuple[int, str | None] = (0, None)
        self._requests = RequestsToEnd()
        self._used = self._read_clock()

    def run(self, console: Console, *, resume: bool, budget: float | None) -> list[Record]:
        """Run trials until there are enough or the time is up, and score the best by the full protocol. Returns all trials.

        Args:
            console: where progress is shown.
            resume: whether the lake has trials of this experiment.
            budget: seconds; None for as long as it takes.

        Raises:
            Interrupted: somebody asked for the end; all is saved.
        """
        earlier = self.recorder.restore(load(self.root), self.plan.space) if resume else []
        self._scheduler.replay(earlier)
        queue = Queue.start(self.plan.space, self.study, self.plan.trials, earlier, self.plan.warm_start.hints)
        limits = Budget(
            seconds=budget,
            epochs=self.plan.published.training.epochs,
            least=self.plan.grace,
            gpu_hours=self.plan.options.gpu_hours,
            gpus=self.plan.gpus,
            spent=self.plan.gpus * sum(record.seconds_so_far for record in self.recorder.snapshot()) / 3600,
        )
        self._scheduler.budget = limits
        with self._requests.heard():  # until all is saved
            try:
                if not queue.empty and not limits.over and (queue.waiting or self.why_enough() is None):
                    self._requests.connect(self._address, self._machine)
                    self._run_tune(console, queue, limits)
                self._score_best()
                if not queue.empty and not limits.over and self.why_enough() is not None:
                    console.print(f"the search ends: {self.why_enough()}", markup=False)
            except (Interrupted, KeyboardInterrupt):  # Ray's start lets the latter through
                self.recorder.interrupt("the search was interrupted")
                raise Interrupted from None
            finally:
                self._write_clock()
                self.recorder.close()
                self._files.close()
                stop_sharing(self.plan.resources, f"{self.root}/{self.name}/tune", self._machine)
        return self.recorder.snapshot()

    def settings(self, proposal: Proposal, config: Config) -> TrialSettings:
        """What the trial's workers are told."""
        folder, population = self.recorder.folder(proposal.number), self._population and proposal.kind == SEARCHED
        return trial_settings(self.plan, proposal.number, proposal.kind, config, folder, population=population)

    def _configure(self, proposal: Proposal) -> dict[str, Any]:
        config = trial_config(self.plan, proposal)
        self.recorder.propose(proposal, config)
        settings = self.settings(proposal, config)
        return {"number": proposal.number, "kind": proposal.kind, "settings": settings.to_json()}

    def why_enough(self) -> str | None:
        """Why no further trial pays; None where it does. Looked at anew whenever another trial has ended."""
        if self.plan.min_improvement == 0:
            return None
        dice = self.study.sampled
        if len(dice) > self._enough[0]:
            self._enough = len(dice), why_enough(dice, self.plan.min_improvement)
        return self._enough[1]

    def _run_tune(self, console: Console, queue: Queue, limits: Budget) -> None:
        """Let Ray Tune run, and show how it goes until it is done."""
        epochs = self.plan.published.training.epochs
        price = self.plan.options.cost_per_gpu_hour
        shown = Progress(console, trials=self.plan.trials, epochs=epochs, budget=limits, gpus=self.plan.gpus, price=price)
        saved = time.monotonic()

        def watch() -> None:
            nonlocal saved
            shown.show(self.recorder.snapshot())
            if time.monotonic() - saved > _CLOCK_SECONDS:
                self._write_clock()
                saved = time.monotonic()
            self._requests.check()

        with shown:
            run_tuner(self._tuner(queue, limits), watch)

    def _tuner(self, queue: Queue, limits: Budget) -> ray.tune.Tuner:
        def why_stopped(tune_id: str) -> str:
            return limits.stopped.get(tune_id, "behind the others at the same epoch")

        def over() -> bool:
            return limits.over or (not queue.waiting and self.why_enough() is not None)

        return make_tuner(
            TruthfulSearcher(queue, self._configure, self.recorder.refuse, over),
            self.plan.resources,
            f"{self.root}/{self.name}/tune",
            RecordingCallback(self.recorder, why_stopped, limits.saw_scoring),
            scheduler=self._scheduler,
            at_once=self.plan.trials if self._population else None,
            stop=limits,
        )

    def _score_best(self) -> None:
        """The best trial may have been stopped before its final evaluation: score its best checkpoint now."""
        best = best_of(self.recorder.snapshot())
        if best is None or best.row.get("final_dice") is not None:
            return
        self._requests.connect(self._address, self._machine)
        resources, space = self.plan.resources, self.plan.space
        values = {path: best.row[f"config.{path}"] for path in space.parameters}
        proposal = Proposal(best.number, str(best.row["kind"]), values)
        task = ray.remote(score_stored).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        reference = task.remote(self.settings(proposal, trial_config(self.plan, proposal)))
        while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
            self._requests.check()
        self.recorder.take(best.number, ray.get(reference))

    @property
    def used(self) -> float:
        """Seconds that all sessions of this experiment have taken so far."""
        return self._used

    def _read_clock(self) -> float:
        self._started = time.monotonic()
        try:
            return float((self._files.path / _CLOCK).read_text())
        except (OSError, ValueError):
            return 0.0

    def _write_clock(self) -> None:
        clock = self._files.path / _CLOCK
        clock.parent.mkdir(parents=True, exist_ok=True)
        temporary = clock.with_suffix(".tmp")
        temporary.write_text(f"{self._used + time.monotonic() - self._started:.1f}")
        temporary.replace(clock)
        self._files.keep()


def trial_config(plan: Plan, proposal: Proposal) -> Config:
    """The whole configuration of a trial. Raises InputError where its values do not go together."""
    config = plan.space.config(proposal.values)
    if proposal.kind == UNET:
        return config.replace({path: value for path, value in _UNET_RECIPE.items() if path not in plan.space.fixed})
    return config
