"""What a search knows of its trials after it was cut."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cdal.config import Config
from tune.lake.status import FAILED, INTERRUPTED, SEARCHED, SETTING, STOPPED
from tune.proposing import Outcome, Proposal
from tune.proposing.space import parse
from tune.results import create_experiment, load
from tune.running import Recorder

SPACE = {
    "dataset": "phantom",
    "parameters": {
        "loss.reconstruction": {"values": [0.0, 1.0]},
        "loss.adversarial": {"min": 0.0, "max": 0.2},
        "loss.soft_dice": {"values": [0.0, 1.0]},
        "model.width_multipliers": {"values": [[1, 1], [1, 2]]},
        "loss.r1_gamma": {"min": 0.1, "max": 10.0, "condition": {"loss.soft_dice": 1.0}},
    },
}


def test_a_refused_proposal_does_not_keep_a_search_from_going_on(tmp_path: Path) -> None:
    space = parse(SPACE, "test.yaml")
    values: dict[str, Any] = {"model.width_multipliers": [1, 2]}
    values |= {"loss.reconstruction": 0.0, "loss.adversarial": 0.0, "loss.soft_dice": 0.0}
    refused = Proposal(2, SEARCHED, values)
    create_experiment(tmp_path, "cut", {"space": space.to_dict()})
    first = Recorder(str(tmp_path), "cut", {"dataset": "phantom"})
    first.refuse(refused, "all weights are 0")
    first.close()
    second = Recorder(str(tmp_path), "cut", {"dataset": "phantom"})
    (outcome,) = second.restore(load(tmp_path), space)
    assert outcome.ended is not None
    assert outcome._replace(ended=None) == Outcome(refused, FAILED, [], cause=SETTING)
    second.close()


def start_and_cut(folder: Path, held: bool) -> tuple[datetime, datetime]:
    """One trial of a driver that was killed, and between which times the trial was proposed or held its machine."""
    create_experiment(folder, "cut", {"space": parse(SPACE, "test.yaml").to_dict()})
    recorder = Recorder(str(folder), "cut", {"dataset": "phantom"})
    before = datetime.now(UTC)
    recorder.propose(Proposal(0, SEARCHED, {}), Config())
    recorder.start(0)
    if held:
        before = datetime.now(UTC)
        recorder.holds(0)
    after = datetime.now(UTC)
    recorder.close()  # writes what it was told, and ends no trial
    return before, after


def test_losses_come_back_as_dice_do(tmp_path: Path) -> None:
    """By them a stopping rule tells trials of equal Dice apart, before and after a cut."""
    space = parse(SPACE, "test.yaml")
    create_experiment(tmp_path, "cut", {"space": space.to_dict()})
    first = Recorder(str(tmp_path), "cut", {"dataset": "phantom"})
    first.propose(Proposal(0, SEARCHED, {}), Config())
    rows = [{"trial_id": "00000", "epoch": epoch, "step": epoch, "dice": 0.0, "loss_soft_dice": 1 / epoch} for epoch in (1, 2)]
    rows.append({"trial_id": "00000", "epoch": 3, "step": 3, "dice": 0.1})
    first.take(0, {"epochs": rows})
    first.close()
    second = Recorder(str(tmp_path), "cut", {"dataset": "phantom"})
    (outcome,) = second.restore(load(tmp_path), space)
    second.close()
    assert outcome.curve == [(1, 0.0), (2, 0.0), (3, 0.1)]
    assert outcome.losses == {1: 1.0, 2: 0.5}


@pytest.mark.parametrize("written", [True, False])
def test_a_trial_of_a_killed_driver_began_when_it_began(tmp_path: Path, written: bool) -> None:
    before, after = start_and_cut(tmp_path, written)
    time.sleep(0.1)
    second = Recorder(str(tmp_path), "cut", {"dataset": "phantom"})
    second.restore(load(tmp_path), parse(SPACE, "test.yaml"), held={0: 60.0})
    second.holds(0)
    second.end(0, STOPPED, "enough")
    second.close()
    (row,) = load(tmp_path).trials().to_pylist()
    assert before <= row["started_at"] <= after
    assert row["seconds"] >= 60


def test_what_ray_tune_does_once_a_search_is_cut_goes_on_in_the_next_session_only(tmp_path: Path) -> None:
    create_experiment(tmp_path, "cut", {"space": parse(SPACE, "test.yaml").to_dict()})
    recorder = Recorder(str(tmp_path), "cut", {"dataset": "phantom"})
    for number in range(3):
        recorder.propose(Proposal(number, SEARCHED, {}), Config())
    recorder.start(0)
    recorder.end(2, STOPPED, "enough")
    recorder.interrupt("the search was interrupted")
    recorder.restarted(0, "its process was killed", None)
    recorder.start(1)
    recorder.holds(1)
    recorder.propose(Proposal(3, SEARCHED, {}), Config())
    recorder.close()
    rows = load(tmp_path).trials().to_pylist()
    assert [row["status"] for row in rows] == [INTERRUPTED, INTERRUPTED, STOPPED, INTERRUPTED]
    assert {row["reason"] for row in rows if row["status"] == INTERRUPTED} == {"the search was interrupted"}
