"""Intervals and paired tests over cases, and Dice against seconds per case."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from tune.lake.statistics import comparison, finalists, mean_interval, told_from_best, wilcoxon
from tune.results import Writer, create_experiment, load


def table_of(figures: dict[str, list[float]], *, split: str = "validation", votes: int = 3) -> pa.Table:
    """Cases of several trials; each figure is split into two classes around it, and into a worse one at fewer votes."""
    rows = [
        {"experiment": "e", "trial_id": trial, "split": split, "case": f"c{case}", "class": name, "votes": count, "dice": dice}
        for trial, values in figures.items()
        for case, value in enumerate(values)
        for name, count, dice in (("a", votes, value - 0.05), ("b", votes, value + 0.05), ("a", 1, 0.0), ("b", 1, 0.0))
    ]
    return pa.Table.from_pylist(rows)


def trials_of(figures: dict[str, list[float]], dataset: str = "d") -> pa.Table:
    return pa.Table.from_pylist([{"experiment": "e", "trial_id": trial, "dataset": dataset} for trial in figures])


def compared(figures: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {row["trial_id"]: row for row in comparison(table_of(figures), trials_of(figures)).to_pylist()}


def test_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(1).beta(8, 2, (40, 3))
    low, high = mean_interval(values)
    for column in range(3):
        theirs = stats.bootstrap((values[:, column],), np.mean, method="percentile", n_resamples=20_000, rng=2)
        assert (low[column], high[column]) == pytest.approx(tuple(theirs.confidence_interval), abs=0.003)


def test_intervals_cover_the_true_mean() -> None:
    """Of many samples, about 95 % of the intervals hold the mean they were drawn with."""
    samples = np.random.default_rng(0).normal(0.8, 0.1, (60, 600))
    low, high = mean_interval(samples)
    assert 0.91 < np.mean((low <= 0.8) & (high >= 0.8)) < 0.98


def test_one_case_has_no_interval() -> None:
    row = compared({"a": [0.8]})["a"]
    assert (row["mean"], row["low"], row["high"], row["best"]) == (pytest.approx(0.8), None, None, True)
    assert (row["p"], row["in_best_set"]) == (None, True)
    assert compared({"a": [0.8], "b": [0.2]})["b"]["p"] is None


def noisy(rng: np.random.Generator, cases: int, trials: int, shape: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Figures (cases, trials) of trials that are equally good."""
    if shape == "skewed":  # and now and then a case is missed altogether
        return np.asarray(rng.beta(2, 1, (cases, 1)) * rng.beta(8, 2, (cases, trials)) * (rng.random((cases, trials)) > 0.05))
    spread = np.where(np.arange(trials) % 10 == 0, 0.09, 0.03) if shape == "some noisier" else 0.03
    return np.asarray(rng.normal(0.8, 0.1, (cases, 1)) + spread * rng.standard_normal((cases, trials)))


@pytest.mark.parametrize("shape", ["alike", "skewed", "some noisier"])
@pytest.mark.parametrize("trials", [20, 100, 200])
def test_of_equal_trials_hardly_ever_one_is_called_worse(trials: int, shape: str) -> None:
    rng, repeats = np.random.default_rng(trials), 150
    wrong = sum((told_from_best(noisy(rng, (8, 12)[n % 2], trials, shape)) <= 0.05).any() for n in range(repeats))
    assert wrong <= stats.binom.ppf(0.999, repeats, 0.05)


@pytest.mark.parametrize("shape", ["alike", "skewed", "some noisier"])
def test_the_set_holds_the_truly_best_and_leaves_out_what_is_clearly_worse(shape: str) -> None:
    rng, repeats = np.random.default_rng(0), 100
    lost = 0
    for _ in range(repeats):
        values = noisy(rng, 24, 30, shape)
        values[:, 5] += 0.01  # the best, by little
        values[:, 20:] -= 0.5
        p = told_from_best(values)
        assert (p[20:] < 0.01).all()
        lost += p[5] <= 0.05
    assert lost <= stats.binom.ppf(0.999, repeats, 0.05)


def test_two_trials_are_told_apart_as_by_the_exact_test_of_signs() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0.7, 0.1, (10, 2))
    found = told_from_best(values).min()
    differences = values[:, 0] - values[:, 1]
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found == pytest.approx(exact.pvalue)


def test_fewer_than_six_cases_tell_nothing() -> None:
    assert (told_from_best(np.tile([0.9, 0.1], (5, 1))) > 0.05).all()
    assert told_from_best(np.tile([0.9, 0.1], (6, 1))).tolist() == [1, pytest.approx(1 / 32)]


def test_a_clear_loser_and_a_tie() -> None:
    rng = np.random.default_rng(0)
    best = rng.uniform(0.8, 0.9, 20)
    figures = {
        "best": best.tolist(),
        "tied": (best - 0.001 + rng.permutation(np.linspace(-0.02, 0.02, 20))).tolist(),
        "worse": (best - rng.uniform(0.02, 0.05, 20)).tolist(),
    }
    rows = compared(figures)
    assert list(rows) == ["best", "tied", "worse"]
    assert rows["best"]["best"]
    assert not rows["tied"]["best"]
    assert rows["tied"]["p"] > 0.2
    assert rows["worse"]["p"] < 0.001
    assert [row["in_best_set"] for row in rows.values()] == [True, True, False]
    assert rows["worse"]["difference"] == pytest.approx(np.mean(figures["worse"]) - best.mean())
    assert rows["best"]["low"] < best.mean() < rows["best"]["high"]


def test_equal_trials_do_not_differ() -> None:
    assert wilcoxon(np.array([0.5, 0.6]), np.array([0.5, 0.6])) == 1
    rows = compared({"a": [0.5, 0.6, 0.7], "b": [0.5, 0.6, 0.7]})
    assert rows["b"]["p"] == 1


def test_only_the_same_cases_are_compared() -> None:
    """A trial scored on fewer cases, or on another dataset, is in a group of its own."""
    figures = {"many": [0.8, 0.7, 0.9], "few": [0.95, 0.95]}
    rows = compared(figures)
    assert rows["many"]["best"]
    assert rows["few"]["best"]
    cases = table_of({"x": [0.8, 0.7], "y": [0.9, 0.9]})
    trials = pa.concat_tables([trials_of({"x": []}, "one"), trials_of({"y": []}, "two")])
    assert comparison(cases, trials)["best"].to_pylist() == [True, True]


def test_of_distances_the_least_is_best() -> None:
    rows = table_of({"far": [9.0, 8.0], "near": [1.0, 2.0]}).rename_columns(
        ["experiment", "trial_id", "split", "case", "class", "votes", "hd95"]
    )
    found = comparison(rows, trials_of({"far": [], "near": []}), metric="hd95").to_pylist()
    assert [(row["trial_id"], row["best"]) for row in found] == [("near", True), ("far", False)]


def test_splits_are_apart() -> None:
    cases = pa.concat_tables([table_of({"a": [0.5, 0.6]}), table_of({"a": [0.1, 0.2]}, split="test")])
    assert comparison(cases, trials_of({"a": []}), split="test")["mean"].to_pylist() == [pytest.approx(0.15)]
    assert comparison(cases, trials_of({"a": []}), split="train").num_rows == 0


def test_the_lake_compares_its_trials(tmp_path: Path) -> None:
    create_experiment(tmp_path, "e", {"dataset": "d", "fold": 0})
    with Writer(tmp_path, "e") as writer:
        for number, shift in enumerate((0.0, -0.1)):
            writer.append("trials", {"trial_id": f"{number:05d}", "number": number, "dataset": "d"})
            for case in range(8):
                row = {"trial_id": f"{number:05d}", "split": "validation", "case": f"c{case}", "class": "x", "votes": 5}
                writer.append("cases", row | {"dice": 0.8 + 0.01 * case + shift, "iou": 0.5})
    best, other = load(tmp_path).comparison().to_pylist()
    assert (best["trial_id"], best["mean"], best["cases"]) == ("00000", pytest.approx(0.835), 8)
    assert other["p"] == pytest.approx(2 / 2**8)  # all eight differ in the same direction
    assert load(tmp_path).comparison("iou")["difference"].to_pylist() == [0, 0]


def trained_again(figures: dict[str, list[list[float]]]) -> tuple[pa.Table, pa.Table]:
    """Tables of the trainings of finalists: per finalist and seed the test Dice of every case."""
    cases, trials = [], []
    for finalist, seeds in figures.items():
        for seed, values in enumerate(seeds):
            name = f"{finalist}{seed}"
            own = {"experiment": "f", "trial_id": name, "dataset": "d", "finalist": finalist, "seed": seed, "kind": "searched"}
            figure = {"test_dice": float(np.mean(values)) if values else None, "final_dice": 0.7, "search_dice": 0.9}
            trials.append(own | figure | {"test_evaluations": 1 if values else None})
            key = {"experiment": "f", "trial_id": name, "split": "test", "class": "a", "votes": 3}
            cases += [key | {"case": f"c{case}", "dice": dice} for case, dice in enumerate(values)]
    return pa.Table.from_pylist(cases), pa.Table.from_pylist(trials)


def test_cases_are_the_pairs_of_finalists_and_seeds_are_not() -> None:
    rng = np.random.default_rng(0)
    best = rng.uniform(0.8, 0.9, (4, 8))
    other = best - rng.uniform(0.01, 0.02, (4, 8))
    cases, trials = trained_again({"other": other.tolist(), "best": best.tolist()})
    first, second = comparison(cases, trials, split="test").to_pylist()
    assert (first["finalist"], first["trial_id"], first["best"], first["cases"]) == ("best", None, True, 8)
    assert first["mean"] == pytest.approx(best.mean())
    assert second["p"] == pytest.approx(2 / 2**8)  # eight pairs, not 32
    low, high = mean_interval(best.mean(axis=0)[:, None])
    assert (first["low"], first["high"]) == (pytest.approx(low[0]), pytest.approx(high[0]))


def test_the_table_of_finalists() -> None:
    rng = np.random.default_rng(0)
    best = rng.uniform(0.8, 0.9, (3, 6))
    cases, trials = trained_again({"none": [[], []], "worse": (best - 0.1).tolist(), "best": best.tolist()})
    rows = finalists(cases, trials).to_pylist()
    assert [(row["finalist"], row["trainings"], row["best"]) for row in rows] == [
        ("best", 3, True),
        ("worse", 3, False),
        ("none", 0, None),
    ]
    assert rows[0]["test_dice"] == pytest.approx(best.mean())
    assert rows[0]["seed_sd"] == pytest.approx(best.mean(axis=1).std(ddof=1))
    assert (rows[0]["search_dice"], rows[0]["final_dice"], rows[0]["test_evaluations"]) == (0.9, pytest.approx(0.7), 1)
    assert rows[1]["difference"] == pytest.approx(-0.1)
    assert rows[1]["p"] == pytest.approx(2 / 2**6)
    assert rows[2]["test_dice"] is None


def test_a_search_has_no_finalists(tmp_path: Path) -> None:
    create_experiment(tmp_path, "e", {"dataset": "d", "fold": 0})
    assert load(tmp_path).finalists().num_rows == 0


def test_searches_are_not_compared_with_finalists() -> None:
    """What a search says of its best is flattering: it does not set the bar."""
    cases, trials = trained_again({"best": [[0.8, 0.7]]})
    searched = table_of({"lucky": [0.9, 0.9]}, split="test")
    both = comparison(
        pa.concat_tables([cases, searched], promote_options="default"),
        pa.concat_tables([trials, trials_of({"lucky": []})], promote_options="default"),
        split="test",
    )
    assert both["best"].to_pylist() == [True, True]


def test_trials_that_fell_are_compared_with_nobody() -> None:
    figures = {"a": [0.5, 0.6, 0.7, 0.8], "b": [0.9, 0.9, 0.9, 0.9], "c": [0.4, 0.5, 0.6, 0.7]}
    status = pa.array(["finished", "diverged", "stopped"])
    rows = comparison(table_of(figures), trials_of(figures).append_column("status", status)).to_pylist()
    assert [(row["trial_id"], row["best"]) for row in rows] == [("a", True), ("c", False)]


POINTS = {  # trial: {votes: (Dice, seconds)}
    "a": {1: (0.70, 1.0), 2: (0.80, 2.0), 3: (0.81, 3.0)},
    "b": {1: (0.75, 0.5), 2: (0.76, 1.0), 3: (0.90, 4.0)},
}


def test_the_front_holds_what_none_beats_in_both(tmp_path: Path) -> None:
    for dataset in ("one", "two"):
        create_experiment(tmp_path, dataset, {"dataset": dataset})
        with Writer(tmp_path, dataset) as writer:
            for trial, points in POINTS.items():
                writer.append("trials", {"trial_id": trial, "number": 0, "dataset": dataset})
                for votes, (dice, seconds) in points.items():
                    for case, shift in (("x", 0.05), ("y", -0.05)):
                        row = {"trial_id": trial, "split": "validation", "case": case, "class": "c", "votes": votes}
                        writer.append("cases", row | {"dice": dice + shift, "seconds": seconds})
    table = load(tmp_path).tradeoffs().to_pandas()
    assert len(table) == 12
    for _, own in table.groupby("dataset"):
        assert own["seconds"].is_monotonic_increasing
        front = own[own["on_front"]]
        assert [*zip(front["trial_id"], front["votes"], strict=True)] == [("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert load(tmp_path).tradeoffs("test").num_rows == 0
    with Writer(tmp_path, "one") as writer:
        writer.append("trials", {"trial_id": "b", "number": 0, "dataset": "one", "status": "failed"})
    table = load(tmp_path).tradeoffs().to_pandas()
    assert set(table[table["dataset"] == "one"]["trial_id"]) == {"a"}


# ------------------------------------------------------------------------------------------------------------------- groups


def of_patients(
    rng: np.random.Generator, patients: int, slices: int, trials: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Figures (cases, trials) of equal trials that find all slices of a patient easy, or hard, together."""
    own = rng.normal(0, 0.05, (patients, trials)).repeat(slices, axis=0)
    return np.asarray(rng.normal(0.8, 0.05, (patients, 1)).repeat(slices, axis=0) + own + rng.normal(0, 0.01, own.shape))


def test_slices_do_not_pass_for_patients() -> None:
    """Of equal trials, about one search in twenty calls one worse, where groups count; where slices do, most searches do."""
    rng, repeats = np.random.default_rng(0), 120
    groups = np.arange(12).repeat(10)
    searches = [of_patients(rng, 12, 10, 8) for _ in range(repeats)]
    assert sum(bool((told_from_best(values, groups) <= 0.05).any()) for values in searches) <= stats.binom.ppf(0.999, repeats, 0.05)
    assert sum(bool((told_from_best(values) <= 0.05).any()) for values in searches[:20]) > 12


def test_p_of_a_pair_counts_patients() -> None:
    rng, repeats = np.random.default_rng(0), 200
    groups = np.arange(12).repeat(10)
    values = [of_patients(rng, 12, 10, 2) for _ in range(repeats)]
    assert sum(wilcoxon(each[:, 0], each[:, 1], groups) <= 0.05 for each in values) <= stats.binom.ppf(0.999, repeats, 0.05)
    assert sum(wilcoxon(each[:, 0], each[:, 1]) <= 0.05 for each in values) > 0.4 * repeats


@pytest.mark.parametrize("sizes", [[10] * 20, [1, 2, 5, 20] * 6])
def test_intervals_over_patients_cover_the_true_mean(sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    samples = rng.normal(0.8, 0.1, (len(sizes), 400))[groups] + rng.normal(0, 0.01, (len(groups), 400))

    def covered(low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]) -> float:
        return float(np.mean((low <= 0.8) & (high >= 0.8)))

    assert 0.85 < covered(*mean_interval(samples, groups)) < 0.98
    assert covered(*mean_interval(samples)) < 0.7


def test_groups_of_one_case_are_cases() -> None:
    values = np.random.default_rng(2).beta(8, 2, (20, 3))
    alone = np.arange(20)
    assert np.allclose(mean_interval(values, alone), mean_interval(values))
    assert np.allclose(told_from_best(values, alone), told_from_best(values))
    assert wilcoxon(values[:, 0], values[:, 1], alone) == wilcoxon(values[:, 0], values[:, 1])


def test_comparisons_and_finalists_count_groups() -> None:
    """Twelve slices of six patients; in older files, and where cases stand alone, there is no group."""
    rng = np.random.default_rng(0)
    best = rng.uniform(0.8, 0.9, (2, 12))
    cases, trials = trained_again({"best": best.tolist(), "worse": (best - 0.1).tolist()})
    owner = pa.array([f"p{int(name[1:]) // 2}" for name in cases["case"].to_pylist()])
    grouped = cases.append_column("group", owner)
    for table, groups, pairs in ((cases, None, 12), (grouped, 6, 6)):
        for found in (comparison(table, trials, split="test"), finalists(table, trials)):
            first, second = found.to_pylist()
            assert (first["cases"], first["groups"]) == (12, groups)
            assert second["p"] == pytest.approx(2 / 2**pairs)
            assert second["difference"] == pytest.approx(-0.1)
    assert comparison(grouped, trials, split="test")["mean"][0].as_py() == pytest.approx(best.mean())


def test_groups_come_through_the_lake(tmp_path: Path) -> None:
    splits = [{"fold": 0, "case": f"c{case}", "group": f"p{case // 4}", "part": "validation"} for case in range(8)]
    create_experiment(tmp_path, "e", {"dataset": "d", "fold": 0}, splits)
    with Writer(tmp_path, "e") as writer:
        writer.append("trials", {"trial_id": "a", "number": 0, "dataset": "d"})
        for row in splits:
            own = {"trial_id": "a", "split": "validation", "class": "x", "votes": 5, "dice": 0.8}
            writer.append("cases", own | {"case": row["case"], "group": row["group"]})
    lake = load(tmp_path)
    assert lake.splits().select(["fold", "case", "group", "part"]).to_pylist() == splits
    assert lake.splits()["experiment"].to_pylist() == ["e"] * 8
    (row,) = lake.comparison().to_pylist()
    assert (row["cases"], row["groups"]) == (8, 2)
