"""What earlier searches teach a new one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cdal.errors import InputError
from tune.lake.status import FINISHED, SEARCHED, STOPPED
from tune.proposing import Proposal, Queue, Space, Study, WarmStart, gather
from tune.proposing.space import parse
from tune.results import Writer, create_experiment

CASES = "a" * 64


def space(**changes: Any) -> Space:
    parameters = {
        "diffusion.timesteps": {"values": [1, 2, 4]},
        "loss.soft_dice": {"min": 0.0, "max": 1.0},
        "loss.attention": {"min": 0.0, "max": 1.0},
        "loss.attention_normalised": {"values": [False, True], "condition": {"loss.attention": {"min": 0.5}}},
    }
    fixed = {"training.epochs": 3}
    return parse({"dataset": "phantom", "fixed": fixed | changes, "parameters": parameters}, "test.yaml")


def write(root: Path, name: str, of: Space, trials: Mapping[float, tuple[str, list[float]]], cases: str = CASES) -> None:
    """Record trials by their soft Dice weight: (status, Dice per epoch)."""
    create_experiment(root, name, {"dataset": "phantom", "space": of.to_dict(), "split_hash": cases})
    with Writer(root, name) as writer:
        for number, (weight, (status, dice)) in enumerate(trials.items(), 2):
            config = of.config({"loss.soft_dice": weight, "diffusion.timesteps": 2, "loss.attention": 0.25}).flatten()
            row = {"trial_id": f"{number:05d}", "number": number, "kind": "searched", "status": status}
            writer.append("trials", row | {f"config.{path}": value for path, value in config.items()})
            writer.append("metrics", [{"trial_id": row["trial_id"], "epoch": e, "dice": d} for e, d in enumerate(dice, 1)])


def values(weight: float) -> dict[str, Any]:
    return {"diffusion.timesteps": 2, "loss.soft_dice": weight, "loss.attention": 0.25}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path, "same", space(), {0.1: (FINISHED, [0.4, 0.6, 0.5]), 0.2: (STOPPED, [0.3]), 0.3: ("interrupted", [0.2])})
    write(tmp_path, "other", space(), {0.4: (FINISHED, [0.7, 0.7, 0.8]), 0.5: (FINISHED, [0.9, 0.9, 0.9])}, cases="b" * 64)
    return tmp_path


def test_comparable_trials_are_told_as_they_ended(lake: Path) -> None:
    found = gather("same", str(lake), space(), CASES)
    assert [(outcome.proposal, outcome.status, outcome.curve) for outcome in found.told] == [
        (Proposal(-1, SEARCHED, values(0.1)), FINISHED, [(1, 0.4), (2, 0.6), (3, 0.6)]),
        (Proposal(-2, SEARCHED, values(0.2)), STOPPED, [(1, 0.3)]),
    ]
    assert found.hints == ()
    study = Study(space(), seed=0, startup=1)
    for outcome in found.told:
        study.add_ended(outcome)
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE", "PRUNED"]
    assert study.optuna.best_value == 0.6


def test_of_other_cases_the_best_settings_come_first(lake: Path) -> None:
    found = gather("other", str(lake), space(), CASES)
    assert found.told == ()
    assert found.hints == (values(0.5), values(0.4))
    queue = Queue.start(space(), Study(space(), seed=0, startup=4), 6, hints=found.hints)
    assert [proposal.values for proposal in queue.waiting[2:]] == [values(0.5), values(0.4)]


def test_a_whole_lake_from_elsewhere_serves_as_well(lake: Path, tmp_path: Path) -> None:
    found = gather(str(lake), str(tmp_path / "mine"), space(), CASES)
    assert (len(found.told), len(found.hints)) == (2, 2)
    assert gather(str(lake / "other"), str(tmp_path / "mine"), space(), CASES).hints == found.hints


def test_other_fixed_settings_make_a_dice_incomparable(lake: Path) -> None:
    found = gather("same", str(lake), space(**{"training.batch_size": 256}), CASES)
    assert found.told == ()
    assert found.hints == (values(0.1), values(0.2))


def test_ranges_that_overlap_in_part_are_met_at_their_ends(lake: Path) -> None:
    narrow = parse({"dataset": "phantom", "parameters": {"loss.soft_dice": {"min": 0.45, "max": 0.6}}}, "narrow.yaml")
    assert gather("other", str(lake), narrow, CASES).hints == ({"loss.soft_dice": 0.5}, {"loss.soft_dice": 0.45})


def test_what_was_learnt_survives_json(lake: Path) -> None:
    found = gather(str(lake), str(lake), space(), CASES)
    again = WarmStart.from_dict(json.loads(json.dumps(found.to_dict())), space())
    assert again.hints == found.hints
    assert [(o.proposal, o.status, list(o.curve)) for o in again.told] == [
        (o.proposal, o.status, list(o.curve)) for o in found.told
    ]


def test_sources_that_do_not_serve_are_told(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--warm-start is nowhere, which is neither an experiment of"):
        gather("nowhere", str(lake), space(), CASES)
    strange = parse({"dataset": "phantom", "parameters": {"diffusion.timesteps": {"values": [8, 16]}}}, "strange.yaml")
    with pytest.raises(InputError, match=r"none of its trials has settings that strange.yaml can take"):
        gather("same", str(lake), strange, CASES)
