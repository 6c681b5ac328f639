"""Sizing: as many trials at once as fit, and a clear no to what never fits."""

import pytest

from cdal.errors import InputError
from tune.proposing.space import load
from tune.running import Node, Options, make_plan, parse_duration
from tune.running.machines import Resources, size

LAPTOP = [Node(2, 0)]
GPU_CLUSTER = [Node(8, 0), Node(32, 4), Node(32, 4)]

SIZES: dict[str, tuple[list[Node], Options, Resources]] = {
    "laptop": (LAPTOP, Options(), Resources(1, 1, 0, 2)),
    "one at a time takes all": (LAPTOP, Options(max_concurrent=1), Resources(1, 2, 0, 1)),
    "three of eight": ([Node(8, 0)], Options(max_concurrent=3), Resources(1, 2, 0, 3)),
    "more than fit": (LAPTOP, Options(max_concurrent=9), Resources(1, 1, 0, 2)),
    "no more than trials": ([Node(16, 0)], Options(trials=3), Resources(1, 1, 0, 3)),
    "two workers": (LAPTOP, Options(workers_per_trial=2), Resources(2, 1, 0, 1)),
    "gpus": (GPU_CLUSTER, Options(), Resources(1, 8, 1, 8)),
    "half a gpu": (GPU_CLUSTER, Options(gpus_per_worker=0.5), Resources(1, 4, 0.5, 16)),
    "four gpus a trial": (GPU_CLUSTER, Options(workers_per_trial=4, gpus_per_worker=1), Resources(4, 8, 1, 2)),
    "cpus though there are gpus": (GPU_CLUSTER, Options(gpus_per_worker=0, cpus_per_worker=8), Resources(1, 8, 0, 9)),
    "a third of a gpu leaves no room for a fourth": ([Node(8, 1)], Options(gpus_per_worker=0.33), Resources(1, 2, 0.33, 3)),
}

IMPOSSIBLE: dict[str, tuple[list[Node], Options, str]] = {
    "gpu": (LAPTOP, Options(gpus_per_worker=1), r"1 worker of 1 CPU and 1 GPU, but 1 machine\(s\) have 2 CPU and 0 GPU"),
    "cpus": (LAPTOP, Options(cpus_per_worker=4), r"asks for 1 worker of 4 CPU"),
    "workers": (LAPTOP, Options(workers_per_trial=3), r"asks for 3 workers of 1 CPU"),
    "spread over machines": ([Node(2, 0), Node(2, 0)], Options(cpus_per_worker=4), r"2 machine\(s\) have 4 CPU"),
    "half a gpu for several": (GPU_CLUSTER, Options(workers_per_trial=2, gpus_per_worker=0.5), "a fraction must be below 1"),
    "one and a half gpus": (GPU_CLUSTER, Options(gpus_per_worker=1.5), "a fraction must be below 1"),
    "negative": (LAPTOP, Options(gpus_per_worker=-1), "must be at least 0"),
    "no cpu": (LAPTOP, Options(cpus_per_worker=0), "must be above 0"),
}

FIXED = tuple(f"{path}=0.001" for path in load("phantom").parameters if path.startswith(("loss.", "optimiser.")))

WRONG: dict[str, tuple[Options, str]] = {
    "trials": (Options(trials=0), "--trials is 0"),
    "epochs": (Options(epochs=0), "--epochs is 0"),
    "seed": (Options(seed=-1), "--seed is -1"),
    "data without dataset": (Options(data="/nowhere"), "/nowhere is not a folder"),
    "dataset": (Options(dataset="brain"), "no search space for the dataset 'brain'"),
    "dataset against space": (Options(dataset="hippocampus", space="phantom"), "leave one of them out"),
    "folder": (Options(dataset="hippocampus", data="/nowhere"), "/nowhere is not a folder"),
    "no folder": (Options(dataset="hippocampus"), "--data"),
    "fold": (Options(fold=9), "fold is 9"),
    "set": (Options(sets=("epochs",)), "not of the form path=value"),
    "set field": (Options(sets=("loss.gama=1",)), "did you mean 'loss.r1_gamma'"),
    "set value": (Options(sets=("training.epochs=x",)), "training.epochs is 'x'"),
    "set option": (Options(sets=("dataset.shape=1",)), "unknown option 'shape'"),
    "sampler": (Options(sampler="tep"), "--sampler is 'tep'; samplers are curves"),
    "scheduler": (Options(scheduler="ahsa"), "--scheduler is 'ahsa'; schedulers are hedged, asha"),
    "sampler for several objectives": (Options(sampler="cmaes", objectives=("dice", "gpu_hours")), "with several take one of tpe"),
    "objective": (Options(objectives=("dice", "beauty")), "--objectives is 'dice,beauty'; name dice first"),
    "objectives without Dice": (Options(objectives=("gpu_hours",)), "name dice first"),
    "GPU-hours without GPUs": (Options(gpu_hours=3), "--gpu-hours limits a search whose trials take no GPU"),
    "no GPU-hours": (Options(gpu_hours=0), "--gpu-hours is 0; it must be a number above 0"),
    "price": (Options(cost_per_gpu_hour=-1), "--cost-per-gpu-hour is -1"),
    "improvement": (Options(min_improvement=2), "--min-improvement is 2"),
    "warm start": (Options(warm_start="nowhere"), "--warm-start is nowhere, which is neither"),
    "population without a size": (Options(scheduler="pbt"), "--scheduler pbt needs --trials"),
    "population with nothing to change": (
        Options(scheduler="pbt", trials=4, sets=FIXED),
        r"but .*phantom.yaml searches none; add one",
    ),
    "workers and batch": (Options(workers_per_trial=2, sets=("training.batch_size=3",)), "batch_size is 3 for 2 worker"),
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes(kind: str) -> None:
    nodes, options, expected = SIZES[kind]
    assert size(options, nodes) == expected


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_never_fits_is_refused(kind: str) -> None:
    nodes, options, expected = IMPOSSIBLE[kind]
    with pytest.raises(InputError, match=expected):
        size(options, nodes)


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_wishes_are_refused(kind: str) -> None:
    options, expected = WRONG[kind]
    with pytest.raises(InputError, match=expected):
        make_plan(options, LAPTOP)


def test_the_plan_says_what_it_decided() -> None:
    plan = make_plan(Options(sets=("diffusion.timesteps=2",), epochs=3, seed=5), LAPTOP)
    assert plan.trials == 8
    assert plan.published.training.epochs == 3
    assert plan.published.training.seed == 5
    text = "\n".join(plan.lines())
    assert "diffusion.timesteps is fixed to 2, so it is not searched" in text
    assert "2 at once" in text
    assert make_plan(Options(time_budget=60.0), LAPTOP).trials is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 minutes"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(InputError, match="--time-budget is"):
        parse_duration(text)
