"""What becomes of trials whose processes fail; Ray Tune's controller and its trials are stood in for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdal.config import preset
from cdal.errors import InputError
from tune.lake.status import FAILED, INPUT, MACHINE, PENDING, SEARCHED, SETTING, STOPPED
from tune.proposing import Proposal
from tune.results import create_experiment
from tune.running import Overseer, Recorder, overseer
from tune.running.overseer import Verdict
from tune.stopping import Budget
from tune.trials import Fault, TrialSettings

CUDA = Fault(MACHINE, "RuntimeError: CUDA error: device-side assert triggered")


class Machines:
    """Ray's list of machines, and what it is asked to kill."""

    def __init__(self, names: str) -> None:
        self.alive, self.killed = list(names), list[Any]()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": 4.0}} for name in self.alive]


class Trial:
    """As much of a trial of Ray Tune as an overseer looks at."""

    def __init__(self, number: int) -> None:
        settings = TrialSettings(
            number=number, kind=SEARCHED, config={}, dataset="phantom", options={}, data=None, fold=0, folder=f"{number:05d}"
        )
        self.config = {"number": number, "kind": SEARCHED, "settings": settings.to_json()}
        self.trial_id, self.status = f"tune-{number}", "RUNNING"
        self.placement_group_factory = SimpleNamespace(required_resources={"CPU": 1.0})
        self.hung: list[bool] = []
        told = SimpleNamespace(remote=lambda: self.hung.append(True))
        self.temporary_state = SimpleNamespace(ray_actor=SimpleNamespace(hangs=told))
        self.places: list[str] = []

    def update_resources(self, factory: Any) -> None:
        self.places.append(factory._kwargs["bundle_label_selector"][0]["ray.io/node-id"])


class Search:
    """An overseer, and a recorder with a lake."""

    def __init__(self, folder: Path, machines: Machines) -> None:
        create_experiment(folder, "a", {"dataset": "phantom"})
        self.recorder = Recorder(str(folder), "a", {"dataset": "phantom"})
        self.said: list[str] = []
        self.overseer = Overseer(self.recorder, Budget(seconds=None, epochs=9), self.said.append)
        self.machines, self.trials = machines, dict[int, Trial]()
        self.controller = SimpleNamespace(get_live_trials=lambda: list(self.trials.values()), stop_trial=self._stop)

    def begin(self, number: int) -> Trial:
        if number not in self.trials:
            self.trials[number] = Trial(number)
            self.recorder.propose(Proposal(number, SEARCHED, {}), preset("hippocampus"))
        self.overseer.on_trial_start(0, [], self.trials[number])
        return self.trials[number]

    def hear(self, number: int, node: str = "m", **message: Any) -> None:
        self.overseer.on_trial_result(0, [], self.trials[number], {"payload": message | {"node": node}})

    def epoch(self, number: int, epoch: int, seconds: float = 1.0, node: str = "m") -> None:
        row = {"trial_id": f"{number:05d}", "epoch": epoch, "dice": 0.5, "train_seconds": seconds, "validation_seconds": 0.0}
        self.hear(number, node, epochs=[row])

    def fail(self, number: int, fault: Fault | None, node: str = "m") -> None:
        self.begin(number)
        if fault is None:
            self.hear(number, node, silent=0.0)
        else:
            self.hear(number, node, fault=fault._asdict())
        self.overseer.on_trial_recover(0, [], self.trials[number])
        self.overseer.look(self.controller)

    def row(self, number: int) -> dict[str, Any]:
        return next(record.row for record in self.recorder.snapshot() if record.number == number)

    def _stop(self, trial: Trial) -> None:
        self.overseer.on_trial_complete(0, [], trial)
        del self.trials[trial.config["number"]]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Search]:
    def make(names: str = "m") -> Search:
        machines = Machines(names)
        monkeypatch.setattr(overseer, "ray", SimpleNamespace(nodes=machines.nodes, kill=machines.killed.append))
        return Search(tmp_path, machines)

    return make


def test_a_trial_is_given_up_after_three_restarts_without_an_epoch(search: Callable[..., Search]) -> None:
    found = search()
    for _ in range(3):
        found.fail(0, CUDA)
    assert found.row(0)["status"] == PENDING
    found.begin(0)
    found.epoch(0, 1)
    for _ in range(3):
        found.fail(0, None)
    assert found.row(0)["status"] == PENDING
    found.fail(0, CUDA)
    row = found.row(0)
    assert (row["status"], row["cause"], row["restarts"]) == (FAILED, MACHINE, 7)
    assert CUDA.sentence in row["reason"]
    assert not found.trials


def test_a_lost_machine_is_never_the_trials_fault(search: Callable[..., Search]) -> None:
    found = search("abcdefgh")
    for node in "abcdefg":
        found.machines.alive.remove(node)
        found.fail(0, None, node)
    assert found.row(0)["status"] == PENDING
    assert found.row(0)["reason"] == "tried again: its machine was lost"
    assert found.overseer.breaker.tripped is None


def test_an_error_of_pythons_that_comes_again_is_the_settings(search: Callable[..., Search]) -> None:
    found = search()
    odd = Fault(MACHINE, "IndexError: list index out of range", code=True)
    found.fail(0, odd)
    found.fail(0, odd._replace(sentence="IndexError: another"))
    assert found.row(0)["status"] == PENDING
    found.fail(0, odd)
    assert (found.row(0)["status"], found.row(0)["cause"]) == (FAILED, SETTING)


def test_input_that_is_wrong_twice_is_the_users(search: Callable[..., Search]) -> None:
    found = search()
    found.fail(0, Fault(INPUT, "a.png cannot be read"))
    assert found.overseer.wrong_input is None
    found.fail(0, Fault(INPUT, "a.png cannot be read"))
    assert found.overseer.wrong_input == "a.png cannot be read"


def test_input_that_one_machine_lacks_is_looked_for_on_another(search: Callable[..., Search]) -> None:
    found = search("mn")
    lacks = Fault(INPUT, "data is not a folder")
    found.fail(0, lacks, "m")
    assert found.trials[0].places == ["!in(m)"]
    found.fail(1, lacks, "m")
    found.fail(1, lacks, "m")
    assert found.overseer.wrong_input is None
    found.fail(1, lacks, "n")
    assert found.overseer.wrong_input == "data is not a folder"


def test_where_a_machine_fails_a_trial_twice_it_goes_elsewhere(search: Callable[..., Search]) -> None:
    found = search("mn")
    found.fail(0, CUDA)
    assert found.trials[0].places == []
    found.fail(0, CUDA)
    assert found.trials[0].places == ["!in(m)"]
    alone = Trial(1)
    found.trials[1] = alone
    found.machines.alive = ["m"]
    found.recorder.propose(Proposal(1, SEARCHED, {}), preset("hippocampus"))
    for _ in range(2):
        found.fail(1, CUDA)
    assert alone.places == []  # there is no other


def test_a_machine_on_which_nothing_works_gets_no_further_trials(search: Callable[..., Search]) -> None:
    found = search("mn")
    for number in range(3):
        found.begin(9)
        found.epoch(9, number + 1, node="n")
        found.fail(number, CUDA, "m")
    assert found.overseer.avoided == ["m"]
    assert len(found.said) == 1
    assert found.trials[2].places == ["!in(m)"]


def test_patience_follows_from_the_epochs_that_were_seen(search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDAL_HANG_SECONDS", raising=False)
    found = search()
    trial = found.begin(0)
    found.hear(0, silent=290.0)
    assert not trial.hung
    found.epoch(0, 1, seconds=2.0)
    found.hear(0, silent=56.0)
    assert not trial.hung
    found.hear(0, silent=58.0)
    assert trial.hung
    slow = found.begin(1)
    for number in range(1, 6):
        found.epoch(1, number, seconds=100.0)
    found.hear(1, silent=296.0)
    assert not slow.hung
    found.hear(1, silent=298.0)
    assert slow.hung


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", ""])
def test_a_patience_that_is_no_time_is_told(search: Callable[..., Search], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDAL_HANG_SECONDS", text)
    with pytest.raises(InputError, match="CDAL_HANG_SECONDS is"):
        search()


def test_a_process_that_says_nothing_at_all_is_killed(search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(overseer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setenv("CDAL_HANG_SECONDS", "10")
    found = search()
    found.overseer.look(found.controller)
    found.begin(0)
    found.epoch(0, 1)
    for _ in range(3):
        now[0] += 2.5
        found.overseer.look(found.controller)
    now[0] += 100  # the driver itself stood still
    found.overseer.look(found.controller)
    assert not found.machines.killed
    now[0] += 2.5
    found.overseer.look(found.controller)
    assert len(found.machines.killed) == 1
    found.overseer.on_trial_recover(0, [], found.trials[0])
    assert "its process said nothing any more" in found.row(0)["reason"]


def test_workers_that_wait_for_machines_neither_hang_nor_cost(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search()
    found.trials[0] = trial = Trial(0)
    trial.placement_group_factory.required_resources = {"memory": 1.0}
    found.recorder.propose(Proposal(0, SEARCHED, {}), preset("hippocampus"))
    found.begin(0)
    found.hear(0, waits=True)
    assert found.recorder.ledger.running == {}
    found.hear(0, silent=0.0)
    assert list(found.recorder.ledger.running) == [0]
    assert not trial.hung


def test_a_person_may_end_a_trial(search: Callable[..., Search]) -> None:
    found = search()
    for number in range(2):
        found.begin(number)
    found.overseer.end(1, Verdict(STOPPED, "stopped by hand"))
    found.overseer.end(7, Verdict(STOPPED, "it has ended meanwhile"))
    found.overseer.look(found.controller)
    assert list(found.trials) == [0]
    assert (found.row(1)["status"], found.row(1)["reason"]) == (STOPPED, "stopped by hand")
