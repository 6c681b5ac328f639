"""Requests through a real lake: they arrive, once, whatever lies beside them, and whatever the store does meanwhile."""

import json
import os
from pathlib import Path

import pytest
from patience import wait_for
from s3 import Answer, Bucket
from steered import Obedient, at_work

from cdal.errors import InputError
from tune.lake import create_experiment, read_experiment
from tune.steering import Inbox, answered, ask, granted, worded


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_experiment(tmp_path, "first", {"dataset": "phantom"})
    return tmp_path


@pytest.mark.long
def test_a_request_is_obeyed_answered_and_written_down(root: Path) -> None:
    with at_work(root, "first") as driver:
        asked = {
            ask(str(root), "first", worded(*words), "ann@ws1"): said
            for words, said in {
                ("stop", "1"): "stop 1: done",
                ("budget", "+1gpuh"): "refused: the search has no GPU-hours to add to",
                ("trials", "+13"): "it failed: nobody expected thirteen",
                ("trials", "+50"): "trials 50: done",
            }.items()
        }
        for id, said in asked.items():
            wait_for(lambda id=id: answered(str(root), "first", id))
            found = answered(str(root), "first", id)
            assert found is not None
            assert (found["answer"], found["by"], found["obeyed"]) == (said, "ann@ws1", said.endswith(": done"))
    assert driver.told == ["stop 1", "trials 50"]
    about = read_experiment(root, "first").description
    assert about["dataset"] == "phantom"
    assert [one["id"] for one in about["requests"]] == sorted(asked)
    assert not list((root / "first/tune/requests").iterdir())
    assert granted(about).trials == 50  # what was refused or failed counts for nothing


def test_what_waits_for_a_driver_is_obeyed_once_and_in_order(root: Path) -> None:
    for words in (("budget", "+1h"), ("enqueue", "loss.adversarial: 0.1", "a.yaml"), ("budget", "+2h"), ("pause",)):
        ask(str(root), "first", worded(*words), "ann")
    inbox, driver = Inbox(str(root), "first"), Obedient()
    assert len(list(inbox.obeyed(driver))) == 4
    assert driver.told == ["seconds 3600.0", "enqueue {'loss.adversarial': 0.1}", "seconds 7200.0", "pause"]
    (left,) = [path for path in (root / "first/tune/requests").iterdir() if '"pause"' in path.read_text()]
    content = left.read_text()
    inbox.close()
    assert list(inbox.obeyed(driver)) == []

    left.write_text(content)  # the driver died before it could delete it
    inbox = Inbox(str(root), "first")
    assert list(inbox.obeyed(driver)) == []
    inbox.close()
    assert not left.exists()
    found = granted(read_experiment(root, "first").description)
    assert (found.seconds, found.gpu_hours, found.trials, found.settings) == (10800.0, 0.0, 0, ({"loss.adversarial": 0.1},))


HOSTILE = {
    "a": b"",
    "b": b"{",
    "c": b"[" * 50_000,
    "d": b'{"ask": "stop", "trial": NaN}',
    "e": b'{"ask": "stop", "trial": true}',
    "f": b'{"ask": "stop", "trial": 1e400}',
    "g": b'{"ask": "stop", "trial": -1}',
    "h": b"{\"ask\": \"__import__('os').system('true')\"}",
    "i": b'{"ask": ["stop"]}',
    "j": b'{"ask": "trials", "count": "9"}',
    "k": b'{"ask": "budget", "seconds": -5}',
    "l": b'{"ask": "enqueue", "settings": {"a": {"b": 1}}}',
    "m": b'{"ask": "enqueue", "settings": {"a": 1e999}}',
    "n": b'{"ask": "pause", "by": "' + b"x" * 70_000 + b'"}',
    "o": b"\x80\x04\x95cposix\nsystem\n.",
    "p": b'{"ask": "stop", "trial": ' + b"9" * 5000 + b"}",
}


def test_hostile_files_are_refused_and_do_no_harm(root: Path) -> None:
    folder = root / "first/tune/requests"
    folder.mkdir(parents=True)
    for name, content in HOSTILE.items():
        (folder / f"{name}.json").write_bytes(content)
    (folder / "q.json").write_text(json.dumps({"ask": "pause", "by": "\x1b[2J\u202eann\n" * 100, "more": [1]}))
    (folder / "notes.txt").write_text("not a request")
    (folder / "a folder.json").mkdir()
    with at_work(root, "first") as driver:
        wait_for(lambda: not [path for path in folder.glob("?.json")])
    assert driver.told == ["pause"]
    records = {one["id"]: one for one in read_experiment(root, "first").description["requests"]}
    assert set(records) == {*HOSTILE, "q"}
    assert all(records[name]["answer"].startswith("refused: ") for name in HOSTILE)
    assert records["q"]["by"].isprintable()
    assert len(records["q"]["by"]) <= 200


@pytest.mark.long
def test_a_store_that_is_away_keeps_nobody_waiting_and_loses_nothing(s3: Bucket) -> None:
    create_experiment(s3.address, "first", {"dataset": "phantom"})
    with at_work(s3.address, "first") as driver:
        s3.service.misbehave = lambda request: Answer(503) if request.method == "PUT" and "experiment.json" in request.key else None
        id = ask(s3.address, "first", worded("pause"), "ann")
        wait_for(lambda: driver.told == ["pause"])
        assert answered(s3.address, "first", id) is None
        s3.service.misbehave = lambda _: None
        wait_for(lambda: answered(s3.address, "first", id))
    assert driver.told == ["pause"]
    assert not [key for key in s3.keys if "requests" in key]


def test_what_cannot_be_left_is_told(root: Path) -> None:
    with pytest.raises(InputError, match="no experiment named 'second'"):
        ask(str(root), "second", worded("pause"), "ann")
    create_experiment(root, "winners", {"dataset": "phantom", "finalists": [], "source": "first"})
    with pytest.raises(InputError, match="holds finalists"):
        ask(str(root), "winners", worded("pause"), "ann")
    (root / "first/tune").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        ask(str(root), "first", worded("pause"), "ann")
    assert os.listdir(root / "winners") == ["experiment.json"]
