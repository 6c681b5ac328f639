"""The panels, without a browser: what they compute, draw and say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboards import summaries
from dashboards.pages.facts import how_it_was_run
from dashboards.panels import GROUPS, PANELS, TRIAL_PANELS
from dashboards.ranking.table import ranking
from tune.results import Writer, create_experiment, load

MakeLake = Callable[..., Path]


def ranked(count: int, **columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    settings = {"config.matters": rng.random(count), "config.idle": rng.random(count), "config.word": rng.choice(["a", "b"], count)}
    score = settings["config.matters"] + 0.05 * (settings["config.word"] == "a")
    return pd.DataFrame({"kind": "searched", "score": score, **settings, **columns})


def test_importances_find_what_matters_and_are_the_same_every_time() -> None:
    searched = ["config.idle", "config.word", "config.matters"]
    found = summaries.importances(ranked(60), searched)
    assert found["column"].iloc[0] == "config.matters"
    assert found["importance"].iloc[0] > 0.7
    assert found["importance"].sum() == pytest.approx(1)
    pd.testing.assert_frame_equal(found, summaries.importances(ranked(60), searched))
    unused = ranked(60)
    unused.loc[::3, "config.idle"] = np.nan
    assert summaries.importances(unused, searched)["column"].iloc[0] == "config.matters"


@pytest.mark.parametrize(
    "trials", [ranked(summaries.MIN_FOREST - 1), ranked(30, score=0.5), ranked(30, **{"config.matters": 1.0})[["kind", "score"]]]
)
def test_importances_of_too_little_are_none(trials: pd.DataFrame) -> None:
    columns = [column for column in ("config.matters", "config.word") if column in trials]
    assert summaries.importances(trials, columns).empty


def test_every_panel_draws_or_says_what_to_do(make_lake: MakeLake) -> None:
    rows = summaries.read(load(make_lake(trials=24)))
    board = summaries.board_of(rows, "first")
    assert {panel.group for panel in PANELS} == set(GROUPS)
    for panel in PANELS:
        drawn = panel.draw(board)
        assert drawn is not None, panel.name
        assert len(drawn.caption) > 60
        assert drawn.figure.data
        assert panel.empty.endswith(".")
    trial = next(summaries.trials_of(rows, board, board.trials.head(1)))
    for of_trial in TRIAL_PANELS:
        assert of_trial.figure(trial) is not None
    assert set(trial.settings.loc[trial.settings["searched"], "field"]) == {
        column.removeprefix("config.") for column in board.searched
    }


def test_rungs_are_those_of_successive_halving(make_lake: MakeLake) -> None:
    board = summaries.board_of(summaries.read(load(make_lake(trials=4))), "first")
    assert board.rungs == (3, 9)  # of 27 epochs
    curves = next(panel for panel in PANELS if panel.name == "curves").draw(board)
    assert curves is not None
    assert [shape.x0 for shape in curves.figure.layout.shapes] == [3, 9]
    assert "epochs 3, 9" in curves.caption
    trials = pd.DataFrame({"config.training.epochs": [27]})
    assert summaries.progress.rungs(trials, [{"arguments": {"scheduler": "asha"}, "grace_epochs": 1}]) == (1, 3, 9)
    assert summaries.progress.rungs(trials, [{"arguments": {"scheduler": "asha"}, "grace_epochs": "x"}]) == (3, 9)


def test_the_timeline_has_a_lane_for_whatever_ran_side_by_side(tmp_path: Path) -> None:
    create_experiment(tmp_path, "e", {"dataset": "phantom"})
    times = [("a", 0, 100), ("a", 50, 150), ("a", 110, 200), ("b", 0, 3600), ("b", 3600, None)]
    with Writer(tmp_path, "e") as writer:
        for number, (host, begin, end) in enumerate(times):
            about = {"host": host, "started_at": 1e9 + begin, "ended_at": None if end is None else 1e9 + end, "cpu_seconds": 360.0}
            row = {"trial_id": f"t{number}", "number": number, "validation_dice": 0.5 + 0.1 * (number % 2), "status": "finished"}
            writer.append("trials", row | about)
    board = summaries.board_of(summaries.read(load(tmp_path)), "e")
    bars, left_out = summaries.timeline(board.trials)
    assert left_out == 0
    lanes = bars.sort_values("number")["lane"].tolist()
    assert lanes == ["a (1)", "a (2)", "a (1)", "b", "b"]
    assert bars.set_index("number")["finish"][3] == pytest.approx(1)
    spent, unit = summaries.costs(board.trials)
    assert unit == "CPU-hours"
    assert spent["total"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert spent["best"].tolist() == pytest.approx([0.5, 0.6, 0.6, 0.6, 0.6])


def test_pairs_are_paired_over_cases() -> None:
    dice = {0: [0.9, 0.8, 0.7, 0.95, 0.6, 0.5], 1: [0.85, 0.75, 0.65, 0.9, 0.55, 0.45]}
    cases = pd.DataFrame(
        [{"place": place, "case": f"c{case}", "dice": value} for place, own in dice.items() for case, value in enumerate(own)]
    )
    (row,) = summaries.pairs(cases).to_dict("records")
    assert (row["first"], row["second"]) == (0, 1)
    assert [row[name] for name in ("difference", "low", "high")] == pytest.approx([0.05] * 3)
    assert row["p"] == pytest.approx(2 / 2**6)  # all six differ in the same direction


def test_slices_are_said_to_be_of_patients(tmp_path: Path) -> None:
    """Twelve cases of six patients: the second trial is worse on all, as six pairs say."""
    create_experiment(tmp_path, "e", {"dataset": "own", "groups": 6})
    with Writer(tmp_path, "e") as writer:
        for number in range(2):
            about = {"trial_id": f"t{number}", "number": number, "dataset": "own", "status": "finished"}
            writer.append("trials", about | {"validation_dice": 0.9 - 0.1 * number, "final_dice": 0.8})
            for case in range(12):
                row = {"trial_id": f"t{number}", "split": "validation", "case": f"c{case:02}", "class": "x", "votes": 5}
                writer.append("cases", row | {"group": f"p{case // 2}", "dice": 0.9 - 0.01 * case - 0.1 * number})
    board = summaries.board_of(summaries.read(load(tmp_path)), "e")
    assert board.trials["groups"].tolist() == [6, 6]
    (pair,) = summaries.pairs(board.cases).to_dict("records")
    assert pair["p"] == pytest.approx(2 / 2**6)
    captions = {panel.name: drawn.caption for panel in PANELS if (drawn := panel.draw(board)) is not None}
    assert "each of the 12 validation cases of 6 groups" in captions["cases"]
    assert "a bootstrap over the 6 groups that the cases belong to" in captions["pairs"]
    assert any("intervals and p count groups of cases" in note for note in ranking(board).notes)
    assert ("groups of cases", 6) in how_it_was_run(board.descriptions["e"])


def test_conditions_hide_what_a_trial_does_not_use() -> None:
    rules = {
        "a": {"values": [1, 2]},
        "b": {"values": [1, 2], "condition": {"a": [2]}},
        "c": {"min": 0.0, "max": 1.0, "condition": {"b": {"min": 2}}},
    }
    trials = pd.DataFrame({"experiment": "e", "config.a": [1, 2, 2], "config.b": [2, 1, 2], "config.c": [0.5, 0.5, 0.5]})
    found = summaries.without_inactive(trials, "e", {"space": {"parameters": rules}})
    assert found["config.b"].isna().tolist() == [True, False, False]
    assert found["config.c"].isna().tolist() == [True, True, False]
    pd.testing.assert_frame_equal(summaries.without_inactive(trials, "another", {"space": {"parameters": rules}}), trials)
