"""How many trials share a GPU: the decision, and its measurement, which a CPU stands in for."""

import json
import multiprocessing
import re
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from patience import wait_for
from searches import HUGE, little_memory, tiny

from cdal.errors import InputError
from tune import search
from tune.results import create_experiment, read_experiment
from tune.running import Node, Options, Plan, Sharing, make_plan, measure_sharing, parse_gpus, remake_plan, session, trial_settings
from tune.running.estimate import Pace, Paces
from tune.running.machines import Resources
from tune.running.sharing import Choice, choose
from tune.trials import TrialSettings

GIB = 2**30
GPU = [Node(8, 1)]
PLENTY = {"needed": 2 * GIB, "memory": 80 * GIB, "cpus": 16.0, "trials": 100.0}
HAS_ONE = "a trial has a GPU of its own: "

CHOICES: dict[str, tuple[dict[int, float], dict[str, float], int, str]] = {
    "all are worthwhile": (
        {1: 100, 2: 195, 4: 360, 8: 500},
        {},
        8,
        "8 trials share a GPU: together 5.0 times the images per second",
    ),
    "four are no better than two": (
        {1: 100, 2: 180, 4: 190},
        {},
        2,
        "2 trials share a GPU: together 1.8 times the images per second",
    ),
    "a tenth more is enough": ({1: 100, 2: 111, 4: 111}, {}, 2, "together 1.1 times"),
    "one fills the GPU": ({1: 100, 2: 105}, {}, 1, HAS_ONE + "2 together make only 1.05 times the images per second of 1"),
    "two would not fit": ({}, {"needed": 40 * GIB}, 1, HAS_ONE + "2 may not fit its 80.0 GiB, as one takes 40.0 GiB"),
    "four would not fit": ({1: 100, 2: 190}, {"needed": 17 * GIB}, 2, "each may take 38.0 GiB"),
    "memory is to spare": ({1: 100, 2: 190, 4: 380}, {"needed": 15 * GIB}, 4, "each may take 19.0 GiB"),
    "one CPU": ({}, {"cpus": 1.5}, 1, HAS_ONE + "its CPUs are too few for 2"),
    "four CPUs": ({1: 100, 2: 190, 4: 380}, {"cpus": 4}, 4, "4 trials share a GPU"),
    "as many GPUs as trials": ({}, {"trials": 1}, 1, HAS_ONE + "there are as many GPUs as trials"),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_the_largest_number_that_is_worthwhile_and_fits(kind: str) -> None:
    rates, changes, trials, reason = CHOICES[kind]
    found = choose(rates, **PLENTY | changes)
    assert (found.trials, found.next) == (trials, None)
    assert reason in found.reason


def test_what_is_not_known_is_measured_next_and_the_rest_never() -> None:
    assert choose({}, **PLENTY) == Choice(1, HAS_ONE + "more were not measured in time", 1)
    assert choose({1: 100.0}, **PLENTY).next == 2
    found = choose({1: 100.0, 2: 180.0}, **PLENTY)
    assert (found.trials, found.next) == (2, 4)
    assert "2 trials share a GPU: together 1.8" in found.reason


@pytest.fixture
def typical(tmp_path: Path) -> TrialSettings:
    """A setting that trains on the CPU."""
    plan = make_plan(Options(space=str(tiny(tmp_path))), [Node(2, 0)])
    return trial_settings(plan, 0, "searched", plan.typical, "")


@pytest.mark.long
def test_trainings_side_by_side_are_measured(typical: TrialSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.running.sharing.WORTHWHILE", 1e-6)  # whatever the cores of this machine make of two
    monkeypatch.setattr("tune.running.sharing._LONGEST", 600)
    found = measure_sharing(typical, peak_memory=1, cpus=2, trials=2, seconds=0.2)
    assert found.trials == 2
    assert found.reason.startswith("2 trials share a GPU: together ")
    rates = found.measured["images_per_second"]
    assert list(rates) == ["1", "2"]
    assert min(rates.values()) > 0
    assert found.slowdown == pytest.approx(max(1.0, 2 * rates["1"] / rates["2"]))
    assert not multiprocessing.active_children()
    assert Sharing.from_dict(json.loads(json.dumps(asdict(found)))) == found


def test_nothing_is_started_where_nothing_can_share(typical: TrialSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.running.sharing.side_by_side", None)
    for limits, reason in (
        ({"cpus": 1}, "its CPUs are too few"),
        ({"peak_memory": 2**60}, "may not fit"),
        ({"trials": 0.5}, "GPUs as"),
    ):
        found = measure_sharing(typical, **{"peak_memory": 1, "cpus": 8, "trials": 8} | limits)
        assert found.trials == 1
        assert reason in found.reason


@pytest.mark.long
def test_a_process_that_fails_or_dies_leaves_one_trial_per_gpu(typical: TrialSettings) -> None:
    wrong = TrialSettings.from_json(typical.to_json().replace('"classes": 1', '"classes": "none"'))
    found = measure_sharing(wrong, peak_memory=1, cpus=2, trials=2)
    assert found.trials == 1
    assert "several at once could not be measured (" in found.reason

    def kill() -> None:
        wait_for(multiprocessing.active_children)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    found = measure_sharing(typical, peak_memory=1, cpus=2, trials=2)
    killer.join()
    assert (found.trials, found.reason) == (1, HAS_ONE + "several at once could not be measured (a process died)")
    assert not multiprocessing.active_children()


# ------------------------------------------------------------------------------------------------------------ options and plans


def test_auto_is_a_word_or_a_number() -> None:
    assert [parse_gpus(text) for text in ("auto", "1", "0.25")] == ["auto", 1, 0.25]
    with pytest.raises(InputError, match="--gpus-per-worker is 'half'; write auto, or a number"):
        parse_gpus("half")


WORDS: dict[str, tuple[list[Node], Options, bool, float]] = {
    "nothing said": (GPU, Options(), True, 1),
    "auto": (GPU, Options(gpus_per_worker="auto"), True, 1),
    "a number": (GPU, Options(gpus_per_worker=0.5), False, 0.5),
    "several workers": ([Node(8, 2)], Options(workers_per_trial=2), False, 1),
    "no GPU": ([Node(8, 0)], Options(gpus_per_worker="auto"), False, 0),
}


@pytest.mark.parametrize("kind", WORDS)
def test_trials_of_one_worker_may_share_a_gpu(kind: str) -> None:
    nodes, options, undecided, gpus = WORDS[kind]
    plan = make_plan(options, nodes)
    assert (plan.undecided, plan.resources.gpus) == (undecided, gpus)


def test_auto_is_not_for_several_workers() -> None:
    with pytest.raises(InputError, match="--gpus-per-worker auto is for trials of one worker"):
        make_plan(Options(gpus_per_worker="auto", workers_per_trial=2), [Node(8, 2)])


def test_what_limits_sharing_is_counted_per_gpu() -> None:
    nodes = [Node(4, 0), Node(32, 4), Node(32, 4)]
    assert make_plan(Options(trials=40), nodes).per_gpu == (8, 5)
    assert make_plan(Options(trials=40, max_concurrent=16, cpus_per_worker=2), nodes).per_gpu == (4, 2)
    assert make_plan(Options(time_budget=60), nodes).per_gpu == (8, float("inf"))


def decided() -> tuple[Plan, Sharing]:
    sharing = Sharing(4, "4 trials share a GPU: together 2.9 times ...", 4 / 2.9, {"images_per_second": {"1": 10.0, "4": 29.0}})
    return make_plan(Options(trials=8), GPU).shared(sharing), sharing


def test_a_decision_changes_what_trials_take_and_what_is_expected_of_them() -> None:
    plan, sharing = decided()
    assert plan.resources == Resources(1, 2, 0.25, 4)
    assert not plan.undecided
    text = "\n".join(plan.lines())
    assert f"sharing     {sharing.reason}\nresources   1 worker of 2 CPU and 0.25 GPU per trial, 4 at once\n" in text
    pace = Pace(10.0, 5.0)
    alone = make_plan(Options(trials=8), GPU).forecast(Paces(pace, pace))
    assert plan.forecast(Paces(pace, pace)).trial_seconds == pytest.approx(alone.trial_seconds * 4 / 2.9)


def test_an_experiment_keeps_its_decision(tmp_path: Path) -> None:
    plan, sharing = decided()
    create_experiment(tmp_path, "first", plan.describe())
    description: Any = read_experiment(tmp_path, "first").description
    options = Options.from_dict(description["arguments"])
    for nodes, resources in (
        (GPU, plan.resources),
        ([Node(32, 4)], Resources(1, 2, 0.25, 8)),
    ):
        again = remake_plan(description, options, nodes)
        assert again.resources == resources
        assert again.sharing == sharing
        assert not again.undecided
    named = Options.from_dict(description["arguments"] | {"gpus_per_worker": 1})
    assert remake_plan(description, named, GPU).resources == Resources(1, 8, 1, 1)
    before = {name: value for name, value in description.items() if name != "sharing"}  # of an earlier release
    assert remake_plan(before, options, GPU).resources == Resources(1, 8, 1, 1)
    with pytest.raises(InputError, match="auto is measured when a search begins"):
        remake_plan(before, Options.from_dict(description["arguments"] | {"gpus_per_worker": "auto"}), GPU)


def test_the_command_measures_before_it_begins_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The GPU and what is measured on it are made up; no trial runs."""
    _, sharing = decided()
    pace, calls = Pace(10.0, 5.0), list[bool]()

    def measure(plan: Plan, machine: Node | None, _: Any) -> tuple[Plan, Paces]:
        calls.append(plan.undecided)
        return plan.shared(sharing) if plan.undecided else plan, Paces(pace, pace)

    monkeypatch.setattr("tune.running.this_machine", lambda: GPU[0])
    monkeypatch.setattr("tune.running.measure", measure)
    monkeypatch.setattr(session.Session, "run", lambda *_, **__: [])
    monkeypatch.setattr("dashboards.leaderboard.build", lambda root: root)
    where = ["--storage", str(tmp_path)]
    assert search.main([*where, "--name", "first"]) == 1
    printed = capsys.readouterr().out
    resources = "resources   1 worker of 2 CPU and 0.25 GPU per trial, 4 at once\n"
    assert "resources   1 worker of 8 CPU and 1 GPU per trial, 1 at once, unless trials share a GPU\n" in printed
    assert f"sharing     {sharing.reason}\n{resources}estimate    a whole trial takes about" in printed
    assert search.main([*where, "--resume", "first"]) == 1
    printed = capsys.readouterr().out
    assert f"sharing     {sharing.reason}\n{resources}" in printed
    assert calls == [True]
    assert search.main([*where, "--name", "first"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert calls == [True]


@pytest.mark.long
def test_settings_that_do_not_run_do_not_keep_a_search_from_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    little_memory(monkeypatch)
    huge = f"model.latent_embedding={HUGE}"
    assert search.main(["--space", str(tiny(tmp_path)), "--set", huge, "--storage", str(tmp_path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"note +the published settings do not fit the memory \(.* GiB in use\): their trial will be infeasible\n", printed
    )
    assert "estimate    none: neither the published nor a typical setting could be timed\n" in printed


WRONG = {
    "a word": (["--gpus-per-worker", "half"], "--gpus-per-worker is 'half'; write auto, or a number such as 1 or 0.25"),
    "several workers": (["--gpus-per-worker", "auto", "--workers-per-trial", "2"], "auto is for trials of one worker"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_input_gives_one_line_and_status_2(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = WRONG[kind]
    assert search.main([*arguments, "--storage", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
