"""One session of a search: Ray Tune runs the trials in a thread, the main thread shows progress and listens for signals.

Nothing is kept but in the lake and in the trials' own checkpoints, so a session may end at any moment and another goes on.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import ray.tune
from rich.console import Console

from cdal.config import Config
from cdal.errors import InputError
from cdal.training import check_fit
from tune.lake import KEPT, LostError, load
from tune.lake.status import ENDED, SEARCHED, STOPPED, UNET
from tune.proposing import Outcome, Proposal, Queue, Study, TruthfulSearcher
from tune.proposing import settings as checked_settings
from tune.running.keeping import JOURNAL, Books, Pruning
from tune.running.machines import Node
from tune.running.overseer import Overseer, Verdict
from tune.running.plan import Plan
from tune.running.progress import Progress, best_of
from tune.running.recorder import Record, Recorder
from tune.running.tuning import TICK_SECONDS, RequestsToEnd, make_tuner, run_alone, run_tuner, stop_sharing, trial_settings
from tune.steering import Inbox
from tune.stopping import POPULATION, Budget, EarlyStopping, PopulationTraining, make_scheduler, why_enough
from tune.trials import TrialSettings

_UNET_RECIPE = {"model.architecture": "unet", "loss.soft_dice": 1.0, "optimiser.lr_generator": 1e-3}
"""How people train a plain U-Net: the control is no straw man. What the space fixes stays."""
_SCORINGS = 2  # tries


class Session:
    """One process's work on one experiment, new or continued; see `tune.lake.hold`. People steer it, see `tune.steering`."""

    def __init__(
        self, plan: Plan, root: str, name: str, *, machine: Node | None, address: str | None = None, keep: int = KEPT
    ) -> None:
        """Open an experiment that is in the lake.

        Args:
            plan: what to do.
            root: the lake.
            name: the experiment.
            machine: what this machine gives to trials; None on a cluster.
            address: of the cluster.
            keep: how many of the best trials keep all their checkpoints.
        """
        self.plan, self.root, self.name, self._machine, self._address, self._keep = plan, root, name, machine, address, keep
        self._population = plan.options.scheduler == POPULATION
        self._requests = RequestsToEnd()
        self._books = Books(f"{root}/{name}/tune")
        self.out_of_budget = False
        """Whether a budget has ended trials, or has kept further ones from beginning."""
        self._paused = False
        self._given = 0.0  # seconds that people have added to the budget

    @property
    def used(self) -> float:
        """Seconds that all sessions of this experiment have worked so far."""
        return self._books.seconds

    def run(
        self,
        console: Console,
        *,
        resume: bool,
        budget: float | None,
        retry_failed: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> list[Record]:
        """Run trials until there are enough or the time is up, and score the best by the full protocol. Returns all trials.

        Args:
            console: where progress is shown.
            resume: whether the lake has trials of this experiment.
            budget: seconds; None for as long as it takes.
            retry_failed: whether trials that failed go on, unless their settings were the reason.
            check: raises where this process must not go on, as it holds the experiment no more.

        Raises:
            Interrupted: somebody asked for the end; all is saved.
            Paused: too much fails; all is saved.
            InputError: a trial has come upon the user's mistake; all is saved.
        """
        self._console, self._check = console, check
        self._inbox = Inbox(self.root, self.name)
        with self._requests.heard():  # until all is saved
            try:
                while True:
                    left = None if budget is None else max(budget + self._given - self._books.worked, 0.0)
                    self._begin(resume, left, retry_failed)
                    self._work()
                    if not self._paused:
                        return self.recorder.snapshot()
                    self._wait_for_go()
                    resume, retry_failed = True, False
            finally:
                self._inbox.close()
                with suppress(LostError):
                    self._books.close()
                stop_sharing(self.plan.resources, f"{self.root}/{self.name}/tune", self._machine)

    def _begin(self, resume: bool, budget: float | None, retry_failed: bool) -> None:
        """Take up what the lake holds."""
        plan, options = self.plan, self.plan.options
        common = {"dataset": plan.dataset.spec.name, "fold": options.fold, "workers": plan.resources.workers}
        self.recorder = Recorder(self.root, self.name, common, gpus=plan.gpus, price=options.cost_per_gpu_hour)
        earlier: list[Outcome] = []
        if resume:
            earlier = self.recorder.restore(load(self.root), plan.space, held=self._books.held, retry_failed=retry_failed)
        self.study = Study(
            plan.space,
            seed=options.seed,
            startup=plan.startup,
            sampler=options.sampler,
            objectives=options.objectives,
            journal=self._books.path / JOURNAL,
        )
        for outcome in plan.warm_start.told:
            self.study.add_ended(outcome)
        tries = [checked_settings(plan.space, values, "--try") for values in options.tries]
        self._queue = Queue.start(plan.space, self.study, plan.trials, earlier, plan.warm_start.hints, tries)
        epochs = plan.published.training.epochs
        self._scheduler: EarlyStopping | PopulationTraining = (
            PopulationTraining(plan.space, interval=plan.grace, seed=options.seed)
            if self._population
            else make_scheduler(options.scheduler, epochs=epochs, grace=plan.grace, startup=plan.startup)
        )
        self._scheduler.replay(earlier)
        self._budget = Budget(
            seconds=budget,
            epochs=epochs,
            least=plan.grace,
            gpu_hours=options.gpu_hours,
            gpus=plan.gpus,
            ledger=self.recorder.ledger,
        )
        self._overseer = Overseer(self.recorder, self._budget, self._say)
        self._scheduler.look = self._overseer.look
        self._enough: tuple[int, str | None] = (0, None)
        self._books.keep(self.recorder.ledger)
        self._pruning = Pruning(self.root, self.name, self._keep, population=self._population)

    def _work(self) -> None:
        """Run trials, and score the best; or until somebody pauses."""
        queue, limits = self._queue, self._budget
        with closing(self._pruning), self.recorder.saved("the search"):
            self._look()  # what was asked for while nobody was at work may be more trials
            if not queue.empty and not limits.over and (queue.waiting or self.why_enough() is None):
                self._requests.connect(self._address, self._machine)
                self._run_tune()
            if self._paused:
                self.recorder.interrupt("the search was paused")
                return
            self._score_best()
            if not queue.empty and not limits.over and self.why_enough() is not None:
                self._say(f"the search ends: {self.why_enough()}")
            self.out_of_budget = bool(limits.stopped) or (not queue.empty and limits.over)
            if (overdrawn := limits.overdrawn) is not None:
                self._say(overdrawn)

    def settings(self, proposal: Proposal, config: Config, **own: Any) -> TrialSettings:
        """What the trial's workers are told."""
        folder, population = self.recorder.folder(proposal.number), self._population and proposal.kind == SEARCHED
        return trial_settings(self.plan, proposal.number, proposal.kind, config, folder, population=population, **own)

    def _configure(self, proposal: Proposal) -> dict[str, Any]:
        config = trial_config(self.plan, proposal)
        self.recorder.propose(proposal, config)
        settings = self.settings(proposal, config, avoid=self._overseer.avoided)
        return {"number": proposal.number, "kind": proposal.kind, "settings": settings.to_json()}

    def why_enough(self) -> str | None:
        """Why no further trial pays; None where it does. Looked at anew whenever another trial has ended."""
        if (exhausted := self.study.why_exhausted) is not None:
            return exhausted
        if self.plan.min_improvement == 0:
            return None
        dice = self.study.sampled
        if len(dice) > self._enough[0]:
            epochs = self.plan.published.training.epochs
            self._enough = len(dice), why_enough(dice, self.study.progress, epochs, self.plan.min_improvement)
        return self._enough[1]

    def _run_tune(self) -> None:
        """Let Ray Tune run, and show how it goes until it is done."""
        plan, limits = self.plan, self._budget
        epochs, price = plan.published.training.epochs, plan.options.cost_per_gpu_hour
        shown = Progress(self._console, trials=plan.trials, epochs=epochs, budget=limits, gpus=plan.gpus, price=price)

        def watch() -> None:
            shown.trials = self._queue.trials
            records = self.recorder.snapshot()
            shown.show(records)
            self._pruning.look(records)
            self._look()
            self._overseer.check()

        with shown:
            run_tuner(self._tuner(), watch)

    def _look(self) -> None:
        """What is done again and again, whatever else is."""
        self._check()
        self._books.look()
        for line in self._inbox.obeyed(self):
            self._say(line)
        self._requests.check()

    def _tuner(self) -> ray.tune.Tuner:
        def over() -> bool:
            return self._paused or self._budget.over or (not self._queue.waiting and self.why_enough() is not None)

        return make_tuner(
            TruthfulSearcher(self._queue, self._configure, self.recorder.refuse, over, self._overseer.verdict),
            self.plan.resources,
            f"{self.root}/{self.name}/tune",
            self._overseer,
            self._scheduler,
            at_once=self.plan.trials if self._population else None,
            stop=self._budget,
        )

    def _score_best(self) -> None:
        """The best trial may have been stopped before its final evaluation: score its best checkpoint now."""
        best = best_of(self.recorder.snapshot())
        if best is None or best.row.get("final_dice") is not None:
            return
        self._requests.connect(self._address, self._machine)
        values = {path: best.row[f"config.{path}"] for path in self.plan.space.parameters}
        proposal = Proposal(best.number, str(best.row["kind"]), values)
        settings = self.settings(proposal, trial_config(self.plan, proposal), only_score=True, workers=1)
        problem: str | None = None
        for _ in range(_SCORINGS):
            self.recorder.ledger.begin(best.number)
            try:
                message, problem = run_alone(settings, self._look, self._overseer.patience())
            finally:
                self.recorder.ledger.end(best.number)
            if message is not None:
                return self.recorder.take(best.number, message)
        problem = str(problem).removeprefix("trained; not scored: ")
        self._say(f"trial {best.number}, the best, is not scored: {problem}")
        return self.recorder.not_scored(best.number, problem)

    def _wait_for_go(self) -> None:
        self._say("paused: no trial runs")
        began = time.monotonic()
        while self._paused:
            self._look()
            time.sleep(TICK_SECONDS)
        self._books.rest(time.monotonic() - began)
        self._say("the search goes on")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)

    # --- What people may ask for, from the main thread. ---

    def stop(self, number: int) -> str:
        """Stop a trial."""
        record = next((record for record in self.recorder.snapshot() if record.number == number), None)
        if record is None:
            raise InputError(f"there is no trial {number} yet")
        if record.status in ENDED:
            raise InputError(f"trial {number} has ended already: it is {record.status}")
        by_hand = Verdict(STOPPED, "stopped by hand")
        if self._queue.drop(number):  # cut in an earlier session, it has not been taken up yet
            self.recorder.end(number, by_hand.status, by_hand.reason)
            self.study.end(number, by_hand.status)
        else:
            self._overseer.end(number, by_hand)
        return f"trial {number} is stopped"

    def pause(self) -> str:
        """Take all trials off their machines."""
        if self._paused:
            return "the search is paused already"
        self._paused = self._budget.halted = True
        return "the search is paused: its trials leave their machines, and go on from their last epoch"

    def go(self) -> str:
        """Go on."""
        if not self._paused:
            return "the search is not paused"
        self._paused = False
        return "the search goes on"

    def enqueue(self, settings: Mapping[str, Any]) -> str:
        """Try these settings next."""
        proposal = self._queue.enqueue(checked_settings(self.plan.space, settings, "what is asked for"))
        self._change(tries=(*self.plan.options.tries, settings))
        return f"trial {proposal.number} is going to try them"

    def add_seconds(self, seconds: float) -> str:
        """Lengthen the time budget."""
        budget = self.plan.options.time_budget
        if budget is None:
            raise InputError("the search has no time budget")
        self._given += seconds
        self._budget.extend(seconds=seconds)
        self._change(time_budget=budget + seconds)
        return f"the time budget is {budget + seconds:g} s now"

    def add_gpu_hours(self, hours: float) -> str:
        """Raise the budget of GPU-hours."""
        budget = self.plan.options.gpu_hours
        if budget is None:
            raise InputError("the search has no budget of GPU-hours")
        self._budget.extend(gpu_hours=hours)
        self._change(gpu_hours=budget + hours)
        return f"the budget is {budget + hours:g} GPU-hours now"

    def add_trials(self, count: int) -> str:
        """Run more trials."""
        if self.plan.trials is None:
            raise InputError("the search has no number of trials: its budget ends it")
        self._queue.more(count)
        self._change(trials=self.plan.trials + count)
        return f"there will be {self.plan.trials} trials"

    def _change(self, **options: Any) -> None:
        self.plan = replace(self.plan, options=replace(self.plan.options, **options))


def trial_config(plan: Plan, proposal: Proposal) -> Config:
    """The whole configuration of a trial. Raises InputError where its values do not go together."""
    config = plan.space.config(proposal.values)
    if proposal.kind == UNET:
        config = config.replace({path: value for path, value in _UNET_RECIPE.items() if path not in plan.space.fixed})
    check_fit(config, plan.dataset.spec, plan.resources.workers)
    return config
