"""The command on a lake whose truth is known, and its strategies."""

import json
import math
from pathlib import Path

import pytest
import ray
from recorded import settings, space, write_lake

from tune.rehearsal import estimate_ratio
from tune.rehearsal.medians import estimate
from tune.rehearse import STRATEGIES, main

SMALL = ["--gpus", "4", "--trials", "24", "--seeds", "3"]


def test_the_command_prints_and_writes_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lake(tmp_path / "lake", failed={3: 1})
    running = ray.is_initialized()
    out = tmp_path / "out.json"
    assert main(["--from", str(tmp_path / "lake"), *SMALL, "--target", "0.95", "--out", str(out)]) == 0
    assert ray.is_initialized() == running
    printed = capsys.readouterr().out
    assert "40 trials of 6 epochs, 39 whole, 1 failed; U-Nets are left out" in printed
    assert "24 trials on 4 simulated GPUs: median and 95 % interval over 3 seeds" in " ".join(printed.split())
    for words in ("default", "ray", "random", "GPU-hours", "95 %", "rank correlation 0.9", "5.0 s to start"):
        assert words in printed
    content = json.loads(out.read_text())
    default, plain, rest = content["strategies"]
    assert [row["strategy"] for row in (default, plain, rest)] == list(STRATEGIES)
    assert len(content["runs"]) == 9
    for run in content["runs"]:
        assert run["trials"] == 24
        assert run["hours"] is None or 0 < run["hours"] <= run["hours_in_all"]
        assert run["gpu_hours_in_all"] <= 4 * run["hours_in_all"]
        assert run["stopped"] == 0 or run["strategy"] != "random"
    assert default["gpu_hours_ratio"]["median"] == 1
    assert default["gpu_hours_in_all"]["median"] < rest["gpu_hours_in_all"]["median"]


def test_a_rehearsal_can_be_repeated(tmp_path: Path) -> None:
    write_lake(tmp_path / "lake")
    for name in ("a", "b"):
        few = ["--gpus", "4", "--trials", "12", "--seeds", "2", "--spot-losses-per-hour", "1"]
        assert main(["--from", str(tmp_path / "lake"), *few, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_start_up_and_losses_cost_time(tmp_path: Path) -> None:
    write_lake(tmp_path / "lake")
    hours = []
    for costs in (["0", "0"], ["600", "0"], ["600", "2"]):
        options = ["--strategies", "random", "--startup-seconds", costs[0], "--spot-losses-per-hour", costs[1]]
        assert main(["--from", str(tmp_path / "lake"), *SMALL, *options, "--out", str(tmp_path / "out")]) == 0
        hours.append(json.loads((tmp_path / "out").read_text())["strategies"][0]["gpu_hours_in_all"]["median"])
    assert hours[1] == pytest.approx(hours[0] + 24 * 600 / 3600, rel=0.01)
    assert hours[2] > hours[1]


def test_the_default_strategy_begins_with_the_published_settings_and_no_unet() -> None:
    searcher, _ = STRATEGIES["default"](space(), 5, 2, 0)
    configs = [searcher.suggest(name) for name in "abcdef"]
    assert configs[0]["values"] == space().published
    assert [config["kind"] for config in configs[:-1]] == ["published", *["searched"] * 4]
    assert configs[-1] is None  # as long as others run


def test_advice_on_ones_own_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a first epoch says all and most settings are bad, whole trainings of random ones serve nobody."""
    write_lake(tmp_path / "lake")
    out = tmp_path / "out.json"
    options = ["--advise", "--strategies", "random+none,default", "--gpus", "4", "--seeds", "8", "--out", str(out)]
    assert main(["--from", str(tmp_path / "lake"), *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "`default` would have served you better than `random+none`: Dice +0." in printed
    (told,) = json.loads(out.read_text())["advice"]
    first, second = told["strategies"]
    assert first["strategy"] == "random+none"
    assert 0 < second["low"] <= second["gained"] <= second["high"]
    assert second["true_dice"] - first["true_dice"] == pytest.approx(second["gained"])
    assert main(["--from", str(tmp_path / "lake"), *options[:1], "--strategies", "default,curves+asha", *options[3:]]) == 0
    assert "Stay with `default`" in " ".join(capsys.readouterr().out.split())


def test_advice_takes_enough_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lake(tmp_path, tried=settings(4, seed=0))
    assert main(["--from", str(tmp_path), "--advise"]) == 2
    assert "a rehearsal needs 16, 4 of them whole" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ray", "random"])
def test_plain_strategies_begin_with_samples_of_the_space(name: str) -> None:
    searcher, _ = STRATEGIES[name](space(), 5, 2, 0)
    for trial in "abc":
        values = searcher.suggest(trial)
        assert values != space().published
        assert space().contains(values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "0"], "--gpus is 0"),
        (["--seeds", "-1"], "--seeds is -1"),
        (["--advise", "--seeds", "1"], "give --seeds 2 or more"),
        (["--target", "1.5"], "--target is 1.5"),
        (["--target", "nan"], "--target is nan"),
        (["--startup-seconds", "inf"], "--startup-seconds is inf"),
        (["--strategies", "default,best"], "'best'; strategies are default, ray, random"),
        (["--spot-losses-per-hour", "100"], "give less than"),
        (["--experiment", "none"], "there is no experiment 'none'"),
        (["--out", "missing/folder/out.json"], "there is no folder missing/folder"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    write_lake(tmp_path, tried=settings(16, seed=0))
    assert main(["--from", str(tmp_path), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert words in said


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lake(tmp_path)
    assert main(["--from", str(tmp_path), *SMALL, "--strategies", "random", "--out", str(tmp_path / "first")]) == 2
    assert "cannot be written: Is a directory" in capsys.readouterr().err


def test_no_lake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_medians_of_what_was_not_always_reached() -> None:
    assert estimate([1.0, 2.0, 3.0]).median == 2.0
    some = estimate([1.0, 2.0, math.inf])
    assert (some.low, some.median, some.high) == (1.0, 2.0, math.inf)
    assert str(estimate([math.inf] * 3)) == "never\nnever–never"
    assert estimate_ratio([2.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)
    assert math.isnan(estimate_ratio([math.inf], [math.inf]).median)
