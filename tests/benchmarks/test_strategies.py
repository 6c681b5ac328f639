"""Strategies on other people's curves: what a table answers, what is written down, and what is said of it."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import strategies
from on_tables import report
from on_tables.courses import Course, Task
from on_tables.tables import find
from rich.console import Console

from cdal.errors import InputError

EPOCHS = 9


def write(folder: Path, name: str = "made-easy", *, rows: int = 200, scored: str = "score") -> Path:
    """A table whose best settings have a rate of 0.01 and a decay of 0.999; one setting diverges after 3 epochs."""
    random = np.random.default_rng(0)
    rate, decay = 10 ** random.uniform(-4, 0, rows), 1 - 10 ** random.uniform(-5, -1, rows)
    top = np.exp(-((np.log10(rate) + 2) ** 2) - (np.log10(1 - decay) + 3) ** 2 / 4)
    curves = 0.9 * top[:, None] * (1 - np.exp(-np.arange(1, EPOCHS + 1) / 3))
    curves[7, 3:] = np.nan
    if scored == "valid_loss":
        curves = -np.log(np.concatenate([np.full((rows, 1), 0.5), curves], axis=1))
    table = pa.table({"rate": rate, "decay": decay, "share": random.random(rows), scored: curves.tolist()})
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return path


def test_scales_are_those_on_which_a_tables_values_lie_evenly(tmp_path: Path) -> None:
    write(tmp_path)
    (table,) = find(tmp_path)
    rate, decay, share = table.fields.parameters.values()
    assert rate.log
    assert (rate.low, rate.high) == (pytest.approx(1e-4, rel=0.3), pytest.approx(1, rel=0.3))
    assert decay.log
    assert (decay.low, decay.high) == (pytest.approx(1e-5, rel=0.3), pytest.approx(0.1, rel=0.3))  # of 1 - decay
    assert not share.log
    assert (table.family, table.epochs, table.seconds) == ("made", EPOCHS, 1.0)


@pytest.mark.parametrize("scored", ["score", "valid_loss"])
def test_a_row_answers_for_its_neighbourhood_once(tmp_path: Path, scored: str) -> None:
    rows = pq.read_table(write(tmp_path, scored=scored)).to_pylist()
    (table,) = find(tmp_path)
    asked = {"rate": rows[7]["rate"], "decay": 1 - rows[7]["decay"], "share": rows[7]["share"]}
    answer = table.answers()
    first, second = answer(asked), answer(asked)
    assert first.fails_after == 3
    assert second.fails_after is None
    assert first.dice.size == EPOCHS
    assert table.answers()(asked).fails_after == 3  # another search has not been shown it
    assert table.best == pytest.approx(max(np.nanmax(answer(asked).dice) for _ in rows[2:]), abs=1e-9)


def test_regret_is_from_the_best_known_to_a_median_setting(tmp_path: Path) -> None:
    write(tmp_path)
    (table,) = find(tmp_path)
    assert (table.regret(table.best), table.regret(table.median)) == (0, 1)
    best, worst = (table.answers()(setting).dice.max() for setting in table.extremes)
    assert (best, worst) == (pytest.approx(table.best), pytest.approx(0, abs=0.01))
    assert 0 < table.regret(table.answers()(table.near_best(0)).dice.max()) < 0.7


def wrong_tables() -> dict[str, pa.Table]:
    return {
        "neither a column score nor valid_loss": pa.table({"rate": [0.1, 0.2]}),
        "lists of one length": pa.table({"rate": [0.1, 0.2], "score": [[0.1], [0.1, 0.2]]}),
        "column rate must hold numbers": pa.table({"rate": [0.1, 0.1], "score": [[0.1], [0.1]]}),
    }


@pytest.mark.parametrize("expected", wrong_tables())
def test_a_wrong_table_is_told(tmp_path: Path, expected: str) -> None:
    pq.write_table(wrong_tables()[expected], tmp_path / "wrong.parquet")
    with pytest.raises(InputError, match=expected):
        find(tmp_path)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither"):
        find(tmp_path)


def compare(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    arguments = ["--tables", str(folder), "--book", str(folder / "book.jsonl"), *more]
    monkeypatch.setattr(sys, "argv", ["strategies.py", *arguments])
    return strategies.main()


@pytest.mark.long
def test_a_comparison_goes_on_where_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    wanted = ("--strategies", "guided,random", "--seeds", "2", "--workers", "4")
    assert compare(tmp_path, monkeypatch, *wanted) == 0
    said = capsys.readouterr().out
    book = tmp_path / "book.jsonl"
    lines = book.read_text().splitlines()
    assert len(lines) == 4
    assert "guided less another" in said
    for line in lines:
        task, improvements, _, trials = json.loads(line)
        spent = [moment for moment, _ in improvements]
        assert spent == sorted(spent)
        assert spent[-1] <= 40
        assert trials <= (55 if task[1] == "random" else 700)
    book.write_text("\n".join([*lines[:2], lines[2][:20]]))  # cut in the middle of a line
    assert compare(tmp_path, monkeypatch, *wanted) == 0
    assert capsys.readouterr().out == said
    assert sorted(line for line in book.read_text().splitlines() if line in lines) == sorted(lines)


def test_wrong_strategies_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert compare(tmp_path, monkeypatch, "--strategies", "hunch") == 2
    assert "--strategies names 'hunch'" in capsys.readouterr().err


def test_what_ending_early_costs_and_saves(tmp_path: Path) -> None:
    write(tmp_path)
    (table,) = find(tmp_path)

    def course(strategy: str, seed: int, improvements: list[tuple[float, float]], ends: float | None) -> Course:
        return Course(Task(table.name, strategy, 4, 0.0, seed), improvements, ends, 50)

    whole = course("default", 0, [(1.0, 0.9), (10.0, 0.4), (30.0, 0.2), (35.0, -0.2)], None)
    assert [whole.regret(spent) for spent in (0.5, 1, 20, 30, 40)] == [1, 0.9, 0.4, 0.2, 0]
    courses = [
        whole,
        course("ending", 0, whole.improvements[:2], 20.0),  # too early
        course("default", 1, [(1.0, 0.9), (8.0, 0.0)], None),
        course("ending", 1, [(1.0, 0.9), (8.0, 0.0)], 10.0),  # in time
        course("default", 2, [(1.0, 0.1)], None),
        course("ending", 2, [(1.0, 0.1)], None),  # not at all
    ]
    said = Console(width=200, file=io.StringIO())
    report.show(said, courses, [table])
    assert "in 2 of 3 searches, 0.133 of regret lost on average" in said.file.getvalue()
    assert "(1) 75 % of the budget saved" in said.file.getvalue()
