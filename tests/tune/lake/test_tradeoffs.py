"""Dice against seconds per case, from the lake."""

from pathlib import Path

from tune.results import Writer, create_experiment, load

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
