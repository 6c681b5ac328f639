"""The simulated cluster's clock, its GPU-hours and losses, and what Ray's own parts are told."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune.rehearsal import Cluster
from tune.rehearsal.curves import LearningCurve
from tune.rehearsal.simulation import Course, Moment, Simulation


class Listed(Searcher):
    """Proposes trials by number and notes what it is told."""

    def __init__(self, count: int) -> None:
        super().__init__(metric="dice", mode="max")
        self.left = list(range(count))
        self.told: list[tuple[Any, ...]] = []

    def suggest(self, trial_id: str) -> Any:
        return {"number": self.left.pop(0)} if self.left else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append((int(trial_id), result["epoch"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append((int(trial_id), "error" if error else result and result["epoch"]))

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


def run(
    curves: Sequence[LearningCurve],
    cluster: Cluster,
    scheduler: TrialScheduler | None = None,
    searcher: Listed | None = None,
    seed: int = 0,
) -> Course:
    def curve_of(config: Mapping[str, Any]) -> LearningCurve:
        return curves[config["number"]]

    return Simulation(
        cluster,
        searcher or Listed(len(curves)),
        scheduler or FIFOScheduler(),  # type: ignore[no-untyped-call]
        curve_of,
        epochs=len(curves[0].dice),
        trials=len(curves),
        seed=seed,
    ).run()


def curve(*dice: float, seconds: float = 60.0, fails_after: int | None = None) -> LearningCurve:
    return LearningCurve(np.array(dice), seconds, fails_after)


def test_clock_and_gpu_hours_of_a_case_computed_by_hand() -> None:
    """Two GPUs, start-up 10 s. Trial 0 holds one from 0 to 210 s, trial 1 the other from 0 to 70 s, trial 2 from 70 to 180 s."""
    curves = [curve(0.1, 0.2, seconds=100), curve(0.5, 0.4, seconds=30), curve(0.6, 0.9, seconds=50)]
    course = run(curves, Cluster(gpus=2, startup_seconds=10))
    assert course.seconds == pytest.approx(210)
    assert course.gpu_seconds == pytest.approx(210 + 70 + 110)
    assert course.improvements == [
        pytest.approx(Moment(40, 80, 0.5)),
        pytest.approx(Moment(130, 260, 0.6)),
        pytest.approx(Moment(180, 360, 0.9)),
    ]
    assert course.reached(0.55) == course.improvements[1]
    assert course.reached(0.95) is None
    assert course.best == 0.9


def test_a_loss_repeats_only_the_epoch_that_was_cut() -> None:
    cluster = Cluster(gpus=1, startup_seconds=10, losses_per_hour=20, away_seconds=300)
    searcher = Listed(1)
    course = run([curve(*[0.5] * 30)], cluster, searcher=searcher)
    (trial,) = course.trials
    losses = trial.starts - 1
    assert losses > 3
    assert searcher.told == [(0, epoch) for epoch in range(1, 31)] + [(0, 30)]
    assert 30 * 60 + 10 < course.gpu_seconds < 30 * 60 + 10 + losses * 70
    assert course.seconds == pytest.approx(course.gpu_seconds + 300 * losses)


def test_a_lost_trial_goes_on_elsewhere() -> None:
    """Others are free, so a loss costs no more than the epoch that was cut."""
    cluster = Cluster(gpus=20, losses_per_hour=10, away_seconds=1e9)
    courses = [run([curve(*[0.5] * 4)], cluster, seed=seed) for seed in range(20)]
    losses = [course.trials[0].starts - 1 for course in courses]
    assert {0, 1} <= set(losses)
    for lost, course in zip(losses, courses, strict=True):
        assert course.seconds == pytest.approx(course.gpu_seconds)
        assert 240 <= course.seconds < 240 + 60 * lost or (lost == 0 and course.seconds == 240)


def test_the_same_seed_gives_the_same_course() -> None:
    curves = [curve(*np.linspace(0, 0.1 * number, 5), seconds=50 + number) for number in range(8)]
    cluster = Cluster(gpus=3, startup_seconds=5, losses_per_hour=30)
    first, second, other = (run(curves, cluster, seed=seed) for seed in (1, 1, 2))
    assert (first.seconds, first.gpu_seconds, first.improvements) == (second.seconds, second.gpu_seconds, second.improvements)
    assert first.seconds != other.seconds


def test_rays_own_asha_stops() -> None:
    """One after the other: a trial below the best third of those that were at its epoch 1, 3 or 9 is stopped."""
    level = [0.9, 0.8, 0.1, 0.95]
    scheduler = ASHAScheduler(metric="dice", mode="max", max_t=9, grace_period=1, reduction_factor=3)
    searcher = Listed(4)
    course = run([curve(*[dice] * 9) for dice in level], Cluster(gpus=1), scheduler, searcher)
    assert [trial.epoch for trial in course.trials] == [9, 1, 1, 9]
    assert course.gpu_seconds == 20 * 60
    assert [told for told in searcher.told if told[0] in (1, 2)] == [(1, 1), (2, 1)]  # only its end, as Ray has it


def test_a_failure_is_told_and_frees_the_gpu() -> None:
    searcher = Listed(2)
    course = run([curve(0.5, 0.6, 0.7, fails_after=1), curve(0.1, 0.2, 0.3)], Cluster(gpus=1), searcher=searcher)
    assert searcher.told == [(0, 1), (0, "error"), (1, 1), (1, 2), (1, 3), (1, 3)]
    assert [trial.status for trial in course.trials] == ["ERROR", "TERMINATED"]
    assert course.seconds == 120 + 180


class Pausing(FIFOScheduler):  # type: ignore[misc]
    """Lets every trial wait after its first epoch."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(TrialScheduler.PAUSE if result["epoch"] == 1 else TrialScheduler.CONTINUE)


def test_a_pause_gives_the_gpu_to_others() -> None:
    searcher = Listed(2)
    pausing = Pausing()  # type: ignore[no-untyped-call]
    course = run([curve(0.1, 0.2), curve(0.3, 0.4)], Cluster(gpus=1, startup_seconds=10), pausing, searcher)
    assert searcher.told == [(0, 1), (1, 1), (0, 2), (0, 2), (1, 2), (1, 2)]
    assert course.gpu_seconds == 4 * 70
