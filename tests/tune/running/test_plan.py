"""Sizing: as many trials at once as fit, and a clear no to what never fits."""

from dataclasses import replace
from typing import Any

import pytest

from cdal.errors import InputError
from tune.proposing.space import load
from tune.running import Node, Options, make_plan, parse_duration, remake_plan
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
    "scheduler": (Options(scheduler="ahsa"), "--scheduler is 'ahsa'; schedulers are asha, hedged"),
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


ON_GPUS, NO_GPU = [Node(32, 4)], [Node(32, 0)]
NOT_ON_RESUME: dict[str, tuple[dict[str, Any], str]] = {
    "trials": ({"trials": 0}, "--trials is 0"),
    "at once": ({"max_concurrent": 0}, "--max-concurrent is 0; it must be at least 1"),
    "workers": ({"workers_per_trial": 0}, "--workers-per-trial is 0"),
    "workers that do not fit": ({"workers_per_trial": 50}, "a trial asks for 50 workers"),
    "workers and batch": ({"workers_per_trial": 3, "gpus_per_worker": 0.0}, "batch_size is .* for 3 worker"),
    "cpus": ({"cpus_per_worker": 99.0}, "a trial asks for 1 worker of 99 CPU"),
    "gpus": ({"gpus_per_worker": -1.0}, "--gpus-per-worker is -1"),
    "price": ({"cost_per_gpu_hour": -1.0}, "--cost-per-gpu-hour is -1"),
    "GPU-hours": ({"gpu_hours": float("nan")}, "--gpu-hours is nan"),
    "GPU-hours without GPUs": ({"gpu_hours": 3.0, "gpus_per_worker": 0.0}, "--gpu-hours limits a search whose trials take no GPU"),
    "improvement": ({"min_improvement": 2.0}, "--min-improvement is 2"),
}


def begun(nodes: list[Node], **options: Any) -> dict[str, Any]:
    """What experiment.json holds of a search."""
    return make_plan(Options(dataset="phantom", epochs=3, **options), nodes).describe()


@pytest.mark.parametrize("kind", NOT_ON_RESUME)
def test_what_is_refused_at_the_start_is_refused_on_resume(kind: str) -> None:
    changed, expected = NOT_ON_RESUME[kind]
    description = begun(ON_GPUS)
    with pytest.raises(InputError, match=expected):
        remake_plan(description, replace(Options.from_dict(description["arguments"]), **changed), ON_GPUS)


def test_a_population_goes_on_with_trials_of_one_worker() -> None:
    description = begun(LAPTOP, scheduler="pbt", trials=4)
    options = Options.from_dict(description["arguments"])
    with pytest.raises(InputError, match="trials of one worker"):
        remake_plan(description, replace(options, workers_per_trial=2), LAPTOP)


def test_a_search_does_not_leave_its_gpus_in_silence() -> None:
    description = begun(ON_GPUS)
    options = Options.from_dict(description["arguments"])
    with pytest.raises(InputError, match=r"began on GPUs, and none is visible here.*--gpus-per-worker 0"):
        remake_plan(description, options, NO_GPU)
    assert remake_plan(description, replace(options, gpus_per_worker=0.0), NO_GPU).gpus == 0
    fewer = remake_plan(description, options, [Node(32, 2)])
    assert fewer.gpus == 1
    assert "note        2 GPUs are visible, and 4 were when the search began: fewer trials run at once" in fewer.lines()
    assert not remake_plan(description, options, ON_GPUS).notes
    assert not remake_plan(description, options, [Node(32, 8)]).notes


def test_a_search_that_began_without_gpus_goes_on_so() -> None:
    description = begun(NO_GPU)
    options = Options.from_dict(description["arguments"])
    there = remake_plan(description, options, ON_GPUS)
    assert there.gpus == 0
    assert there.space == remake_plan(description, options, NO_GPU).space
    assert any("began without GPUs and goes on so; --gpus-per-worker 1" in note for note in there.notes)
    assert remake_plan(description, replace(options, gpus_per_worker=1.0), ON_GPUS).gpus == 1


def test_another_commit_and_other_versions_are_told_and_other_cases_refused() -> None:
    description = begun(LAPTOP)
    options = Options.from_dict(description["arguments"])
    changed = description | {"git_commit": "abc", "versions": description["versions"] | {"torch": "0.1"}}
    notes = remake_plan(changed, options, LAPTOP).notes
    assert any(note.startswith("git commit was abc then and is ") for note in notes)
    assert any(note.startswith("torch was 0.1 then and is ") for note in notes)
    assert len(notes) == 2
    with pytest.raises(InputError, match="are not those that the experiment started with"):
        remake_plan(description | {"split_hash": "0"}, options, LAPTOP)
