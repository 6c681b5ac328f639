"""What the leaderboard computes and draws, without a browser."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dashboards import figures, summaries
from dashboards.pages import gallery
from dashboards.ranking import published
from tune.results import load


def frame(**columns: list[object]) -> pd.DataFrame:
    """Trials as the lake gives them, only with few columns."""
    count = len(next(iter(columns.values())))
    defaults = {
        "experiment": ["e"] * count,
        "trial_id": [f"t{i}" for i in range(count)],
        "number": range(count),
        "started_at": pd.NaT,
    }
    return pd.DataFrame({"kind": "searched", "status": "finished", "validation_dice": math.nan, **defaults, **columns})


def test_ranks_share_ties_and_leave_out_what_has_no_dice() -> None:
    ranked = summaries.rank(frame(validation_dice=[0.5, math.nan, 0.9, 0.9, math.inf, None]))
    assert ranked["label"].tolist()[:3] == ["#2", "#3", "#0"]
    assert ranked["rank"].tolist()[:3] == [1, 1, 3]
    assert ranked["rank"].isna().sum() == 3


def test_trials_that_fell_have_no_rank_whatever_their_dice_was() -> None:
    status = ["finished", "diverged", "failed", "infeasible", "stopped", "interrupted"]
    ranked = summaries.rank(frame(validation_dice=[0.5, 0.9, 0.8, 0.7, 0.4, 0.6], status=status))
    assert ranked["status"].tolist() == ["interrupted", "finished", "stopped", "diverged", "failed", "infeasible"]
    assert ranked["rank"].tolist()[:3] == [1, 2, 3]
    assert ranked["score"].isna().tolist() == [False] * 3 + [True] * 3
    assert summaries.history(ranked)["best"].max() == 0.6


def test_labels_name_the_experiment_where_there_are_several() -> None:
    assert summaries.labels(frame(experiment=["a", "b"])).tolist() == ["a #0", "b #1"]
    assert summaries.labels(frame(number=[None])).tolist() == ["t0"]


def test_history_runs_in_order_of_start() -> None:
    starts = pd.to_datetime(["2026-01-03", "2026-01-01", "2026-01-02", "2026-01-04"], utc=True)
    points = summaries.history(summaries.rank(frame(validation_dice=[0.5, 0.3, math.nan, 0.4], started_at=list(starts))))
    assert points["position"].tolist() == [1, 3, 4]
    assert points["best"].tolist() == [0.3, 0.5, 0.5]
    assert summaries.improvements(summaries.rank(frame(validation_dice=[0.3, 0.2, 0.4])))["position"].tolist() == [1, 3]


def test_searched_parameters_come_from_the_experiment_or_from_what_differs() -> None:
    trials = frame(**{"config.a.x": [1, 2], "config.a.y": [3, 3], "config.b.z": [[1], [2]]})
    assert summaries.searched_columns(trials, [{}]) == ("config.a.x", "config.b.z")
    assert summaries.searched_columns(trials, [{"searched": ["a.y"]}]) == ("config.a.y",)
    assert summaries.searched_columns(trials, [{"space": {"a.x": {"low": 1}}}]) == ("config.a.x",)
    assert summaries.searched_columns(trials, [{"space": {"parameters": {"a.y": {}}}}]) == ("config.a.y",)
    assert summaries.searched_columns(trials, [{"space": {"unknown": {}}}]) == ("config.a.x", "config.b.z")


def test_final_scores_are_the_mean_over_cases_then_classes_at_the_most_votes() -> None:
    trials = frame(final_dice=[None, 0.7], final_iou=[None, None], test_dice=[None, None], test_iou=[None, None]).astype(
        {"final_dice": float, "final_iou": float, "test_dice": float, "test_iou": float}
    )
    rows = [
        ("t0", "validation", "c1", "a", 5, 0.8),
        ("t0", "validation", "c2", "a", 5, 0.6),
        ("t0", "validation", "c1", "b", 5, 0.1),
    ]
    rows += [("t0", "validation", "c1", "a", 1, 0.0), ("t1", "validation", "c1", "a", 5, 0.2), ("t1", "test", "c9", "a", 3, 0.4)]
    cases = pd.DataFrame(rows, columns=["trial_id", "split", "case", "class", "votes", "dice"]).assign(experiment="e", iou=0.5)
    filled = summaries.with_final_scores(trials, cases)
    assert filled["final_dice"].tolist() == pytest.approx([0.4, 0.7])
    assert filled["test_dice"].tolist()[1] == pytest.approx(0.4)
    assert math.isnan(filled["test_dice"].tolist()[0])


def test_thinned_curves_keep_their_extremes() -> None:
    rng = np.random.default_rng(0)
    curve = pd.DataFrame({"epoch": range(10_000), "dice": rng.random(10_000)})
    thin = summaries.thin(curve)
    assert len(thin) <= summaries.MAX_CURVE_POINTS
    assert (thin["dice"].min(), thin["dice"].max()) == (curve["dice"].min(), curve["dice"].max())
    assert {0, 9999} <= set(thin["epoch"])


def test_parallel_coordinates_say_what_they_leave_out() -> None:
    count = 3 * summaries.MAX_PARALLEL_ROWS
    trials = summaries.rank(frame(validation_dice=list(np.linspace(0, 1, count)), **{"config.x": [*range(count - 1), None]}))
    rows, columns, left_out = summaries.parallel(trials, ["config.x"])
    assert (len(rows), columns, left_out) == (summaries.MAX_PARALLEL_ROWS, ["config.x"], count - summaries.MAX_PARALLEL_ROWS)
    assert rows["score"].nlargest(5).tolist() == trials["score"].iloc[:5].tolist()


def test_axes_of_parallel_coordinates_suit_their_values() -> None:
    columns = {
        "config.loss.soft_dice": [0.0, 0.5, 1.0], "config.optimiser.lr_generator": [1e-5, 1e-4, 1e-3],
        "config.model.width_multipliers": [[1, 2], [1, 2, 2], [1]], "config.loss.attention_normalised": [True, False, True],
    }  # fmt: skip
    trials = summaries.rank(frame(validation_dice=[0.1, 0.2, 0.3], **columns))
    weight, rate, widths, flag, dice = figures.parallel_coordinates(trials, list(columns)).data[0].dimensions
    assert (weight.label, list(weight.ticktext)) == ("soft dice weight", ["0", "0.5", "1"])
    assert list(rate.values) == pytest.approx([-3, -4, -5])
    assert list(rate.ticktext) == ["1e-05", "0.0001", "0.001"]
    assert list(widths.ticktext) == ["[1, 2, 2]", "[1, 2]", "[1]"]
    assert list(flag.ticktext) == ["False", "True"]
    assert list(dice.values) == [0.3, 0.2, 0.1]


def test_text_in_charts_cannot_be_markup() -> None:
    assert figures.plain("<b>&\n\u202e") == "&lt;b&gt;&amp;  "
    assert len(figures.plain("x" * 10_000)) == 60


def test_the_share_button_is_configured_away() -> None:
    assert "sendChartToCloud" in figures.CONFIG["modeBarButtonsToRemove"]
    assert figures.CONFIG["displaylogo"] is False


def test_figures_of_a_real_lake(make_lake: Callable[..., Path]) -> None:
    (board,) = summaries.boards(summaries.read(load(make_lake(trials=30))))
    history = figures.optimisation_history(board.trials)
    running = next(trace for trace in history.data if trace.name == "best so far")
    assert max(running.y) == board.trials["validation_dice"].max()
    marks = sum(len(trace.x) for trace in history.data if trace.mode == "markers")
    assert marks == 30
    curves = figures.learning_curves(board.trials, board.metrics)
    assert len(curves.data) == 1 + summaries.HIGHLIGHTED_CURVES
    drawn = sum(sum(x is not None for x in trace.x) for trace in curves.data)
    assert drawn == len(board.metrics)
    assert board.gallery["place"].tolist() == ["best"] * 3 + ["median"] + ["worst"] * 3
    assert board.gallery["dice"].is_monotonic_decreasing


def test_figures_of_nothing() -> None:
    trials = summaries.rank(frame(validation_dice=[math.nan]))
    assert not figures.optimisation_history(trials).data[0].x.size
    assert not figures.learning_curves(trials, pd.DataFrame(columns=["experiment", "trial_id", "epoch", "dice"])).data
    assert summaries.parallel(trials, [])[0].empty


@pytest.mark.parametrize(
    ("colour", "background"), [(c, b) for c in ["BLUE", "VERMILLION", "GREEN", "PINK"] for b in ("light", "dark")]
)
def test_colours_stand_out_from_the_page(colour: str, background: str) -> None:
    def luminance(text: str) -> float:
        parts = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    surface = figures.THEMES[background]["layout"]["paper_bgcolor"]
    low, high = sorted([luminance(getattr(figures, colour)), luminance(surface)])
    assert (high + 0.05) / (low + 0.05) >= 3


# -------------------------------------------------------------------------------------------------------- pictures and literature


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_outlines_run_along_pixel_edges() -> None:
    labels = np.zeros((5, 6), np.uint8)
    labels[1:3, 2:5] = 1
    assert gallery.outlines(labels) in {"M2 1H5V3H2Z", "M5 1V3H2V1Z", "M5 3H2V1H5Z", "M2 3V1H5V3Z"}
    assert gallery.outlines(np.zeros((4, 4), np.uint8)) == ""


def test_outlines_cover_holes_touching_corners_and_every_class() -> None:
    ring = np.ones((5, 5), np.uint8)
    ring[2, 2] = 0
    assert gallery.outlines(ring).count("Z") == 2
    corners = np.array([[1, 0], [0, 1]], np.uint8)
    assert sum(gallery.outlines(corners).count(letter) for letter in "HVMZ") >= 8
    assert gallery.outlines(np.array([[1, 2]], np.uint8)).count("Z") == 2


def test_large_pictures_are_shrunk_with_their_masks() -> None:
    mask = np.zeros((600, 1200))
    mask[300:, 600:] = 1
    drawn = gallery.picture(png(np.full((600, 1200, 3), 90)), png(mask), None)
    assert drawn is not None
    assert (drawn.width, drawn.height, drawn.prediction) == (320, 160, "")
    assert set(drawn.truth.replace("Z", "").replace("M", " ").replace("H", " ").replace("V", " ").split()) == {"160", "320", "80"}


@pytest.mark.parametrize("image", [None, b"", b"\x89PNG\r\n\x1a\n broken", b"<svg/>"])
def test_damaged_pictures_are_no_pictures(image: bytes | None) -> None:
    assert gallery.picture(image, None, None) is None


def test_a_mask_of_another_size_is_no_picture() -> None:
    assert gallery.picture(png(np.zeros((8, 8))), png(np.zeros((9, 8))), None) is None


def test_published_figures_are_those_of_the_sources() -> None:
    hippocampus = {row.who: round(row.dice, 4) for row in published("hippocampus")}
    assert hippocampus["cDAL, released checkpoints"] == 0.8753
    assert hippocampus["nnU-Net 3d_fullres"] == 0.889
    assert [row.who for row in published("MoNuSeg") if row.selected_on_test] == ["cDAL, released checkpoint"]
    assert [row.iou for row in published("chest-xray")][1] == pytest.approx(0.9304)
    assert published("phantom") == ()
