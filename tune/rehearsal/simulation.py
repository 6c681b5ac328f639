"""A search on a simulated cluster: Ray Tune's own searchers and schedulers, recorded curves for training, a clock that jumps.

    course = Simulation(Cluster(gpus=16), searcher, scheduler, curve_of, epochs=8, trials=200, seed=0).run()
    course.reached(0.9)                      # when, and after how many GPU-seconds, the first trial had a Dice of 0.9

Searcher and scheduler are called as Ray's TuneController calls them: a trial is proposed when a GPU is free; a result goes to the
scheduler first, and to the searcher unless the trial is to stop; a trial's end is told to the scheduler, then to the searcher; a
trial that lost its machine is taken from the scheduler and added again, without a word to the searcher. A trial takes one GPU and
starts on it with the cluster's start-up time, once more wherever it goes on after a loss or a pause. An epoch that was cut is
repeated.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune.lake.status import SETTING
from tune.rehearsal.curves import LearningCurve

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What trials run on."""

    gpus: int
    startup_seconds: float = 0.0
    """From a trial's start on a GPU to its first step."""
    losses_per_hour: float = 0.0
    """How often each GPU is taken away, on average; at random (Poisson)."""
    away_seconds: float = 300.0
    """Until another one takes the place of a GPU that was lost."""


@dataclass(eq=False)
class SimulatedTrial:
    """As much of a Tune trial as schedulers look at."""

    trial_id: str
    config: Config
    curve: LearningCurve
    status: str = Trial.PENDING
    epoch: int = 0
    """Epochs done."""
    last_result: dict[str, Any] = field(default_factory=dict)
    starts: int = 0
    gpu: int | None = None


class Moment(NamedTuple):
    """When the best Dice so far was reached."""

    seconds: float
    gpu_seconds: float
    """Held by all trials until then."""
    dice: float


@dataclass(frozen=True)
class Course:
    """How a simulated search went."""

    seconds: float
    gpu_seconds: float
    trials: Sequence[SimulatedTrial]
    improvements: Sequence[Moment]

    def reached(self, dice: float) -> Moment | None:
        """When a trial first showed at least this Dice; None: never."""
        return next((moment for moment in self.improvements if moment.dice >= dice), None)

    @property
    def best(self) -> float:
        """The best Dice that any trial showed; NaN where none showed any."""
        return self.improvements[-1].dice if self.improvements else math.nan

    @property
    def best_trial(self) -> SimulatedTrial | None:
        """The first that showed the best Dice; None where none showed any."""
        shown = [trial for trial in self.trials if trial.epoch]
        return max(shown, key=lambda trial: float(trial.curve.dice[: trial.epoch].max()), default=None)


class Simulation:
    """A search to be run once. Schedulers see it in place of Ray's TuneController."""

    def __init__(
        self,
        cluster: Cluster,
        searcher: Searcher,
        scheduler: TrialScheduler,
        curve_of: Callable[[Config], LearningCurve],
        *,
        epochs: int,
        trials: int | None,
        seed: int,
        budget: float = math.inf,
    ) -> None:
        """Make ready.

        Args:
            cluster: what trials run on.
            searcher: proposes configurations; told `dice`, `best_dice` (so far), `epoch`, `training_iteration`, and `curve` as
                trials of this project report it.
            scheduler: stops or pauses trials; sees the same.
            curve_of: how a trial with a configuration goes.
            epochs: of a whole trial.
            trials: how many at most, None for any number; fewer where the searcher says that there are enough.
            seed: of the losses of GPUs.
            budget: GPU-seconds held by all trials after which the search is cut.
        """
        self._cluster, self._searcher, self._curve_of = cluster, searcher, curve_of
        self._scheduler: Any = scheduler  # sees stand-ins for Ray's controller and trials
        self._epochs, self._trials_left, self._budget = epochs, math.inf if trials is None else trials, budget
        self._random = np.random.default_rng(seed)
        self._now = self._gpu_seconds = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._trials: list[SimulatedTrial] = []
        self._live: set[SimulatedTrial] = set()
        self._free = list(range(cluster.gpus))
        self._running: dict[int, SimulatedTrial] = {}  # by GPU
        self._improvements: list[Moment] = []

    def get_trials(self) -> list[SimulatedTrial]:
        """All trials, for schedulers."""
        return self._trials

    def get_live_trials(self) -> set[SimulatedTrial]:
        """Those that have not ended, for schedulers."""
        return self._live

    @property
    def gpu_seconds(self) -> float:
        """Held by all trials so far."""
        return self._gpu_seconds

    def run(self) -> Course:
        """The search from its start to its end."""
        for gpu in self._free:
            self._expect_loss(gpu)
        self._fill()
        while self._live:
            if not self._events:
                raise RuntimeError(f"{type(self._scheduler).__name__} lets no trial go on")
            moment, _, act = heapq.heappop(self._events)
            self._gpu_seconds += (moment - self._now) * len(self._running)
            self._now = moment
            if self._gpu_seconds > self._budget:
                break
            act()
            self._fill()
        return Course(self._now, self._gpu_seconds, self._trials, self._improvements)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, self._scheduled, act))
        self._scheduled += 1

    def _fill(self) -> None:
        """Put trials on free GPUs."""
        while self._free:
            if not any(trial.status == Trial.PENDING for trial in self._live):
                self._propose()
            trial = self._scheduler.choose_trial_to_run(self)
            if trial is None:
                return
            self._start(trial)

    def _propose(self) -> None:
        if not self._trials_left:
            return
        name = f"{len(self._trials):05d}"
        config: Any = self._searcher.suggest(name)
        if config == Searcher.FINISHED:
            self._trials_left = 0
        elif config is not None:
            self._trials_left -= 1
            trial = SimulatedTrial(name, config, self._curve_of(config))
            self._trials.append(trial)
            self._live.add(trial)
            self._scheduler.on_trial_add(self, trial)

    def _start(self, trial: SimulatedTrial) -> None:
        trial.gpu = self._free.pop(0)
        trial.status = Trial.RUNNING
        trial.starts += 1
        self._running[trial.gpu] = trial
        self._train(trial, self._cluster.startup_seconds)

    def _train(self, trial: SimulatedTrial, startup: float = 0.0) -> None:
        start = trial.starts
        self._after(startup + trial.curve.seconds, lambda: self._end_epoch(trial, start))

    def _end_epoch(self, trial: SimulatedTrial, start: int) -> None:
        if trial.starts != start or trial.status != Trial.RUNNING:
            return  # it lost its GPU in the middle of the epoch
        if trial.epoch == trial.curve.fails_after:
            self._scheduler.on_trial_error(self, trial)
            self._searcher.on_trial_complete(trial.trial_id, {"cause": SETTING}, error=True)
            return self._leave(trial, Trial.ERROR)
        trial.epoch += 1
        result = self._result(trial)
        if not self._improvements or result["best_dice"] > self._improvements[-1].dice:
            self._improvements.append(Moment(self._now, self._gpu_seconds, result["best_dice"]))
        decision = self._scheduler.on_trial_result(self, trial, result)
        if decision != TrialScheduler.STOP:
            self._searcher.on_trial_result(trial.trial_id, result)
        trial.last_result = result
        if decision == TrialScheduler.STOP:
            self._complete(trial, {"done": True})
        elif trial.epoch == self._epochs:
            self._complete(trial, {"done": True, "status": "finished"})
        elif decision == TrialScheduler.PAUSE:
            self._leave(trial, Trial.PAUSED)
        else:
            self._train(trial)

    def _result(self, trial: SimulatedTrial) -> dict[str, Any]:
        epoch, dice = trial.epoch, trial.curve.dice[: trial.epoch]
        best = float(dice.max())
        return {
            "trial_id": trial.trial_id,
            "training_iteration": epoch,
            "epoch": epoch,
            "dice": float(dice[-1]),
            "best_dice": best,
            "curve": [(epoch, best)],
            "time_this_iter_s": trial.curve.seconds,
            "time_total_s": trial.curve.seconds * epoch,
            "done": False,
        }

    def _complete(self, trial: SimulatedTrial, last: Mapping[str, Any]) -> None:
        trial.last_result |= last
        self._scheduler.on_trial_complete(self, trial, trial.last_result)
        self._searcher.on_trial_complete(trial.trial_id, result=trial.last_result)
        self._leave(trial, Trial.TERMINATED)

    def _leave(self, trial: SimulatedTrial, status: str) -> None:
        """The trial gives its GPU back."""
        assert trial.gpu is not None
        trial.status = status
        del self._running[trial.gpu]
        self._free.append(trial.gpu)
        trial.gpu = None
        if status in (Trial.TERMINATED, Trial.ERROR):
            self._live.discard(trial)

    def _expect_loss(self, gpu: int) -> None:
        if self._cluster.losses_per_hour > 0:
            self._after(self._random.exponential(3600 / self._cluster.losses_per_hour), lambda: self._lose(gpu))

    def _lose(self, gpu: int) -> None:
        trial = self._running.get(gpu)
        if trial is not None:
            self._leave(trial, Trial.PENDING)
            self._scheduler.on_trial_error(self, trial)
            self._trials.remove(trial)
            self._trials.append(trial)  # it waits behind those that wait already
            self._scheduler.on_trial_add(self, trial)
        self._free.remove(gpu)
        self._after(self._cluster.away_seconds, lambda: self._replace(gpu))

    def _replace(self, gpu: int) -> None:
        self._free.append(gpu)
        self._expect_loss(gpu)
