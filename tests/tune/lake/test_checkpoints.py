"""What is removed of old checkpoints, and what never is."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from searches import assert_whole, here, tiny, trials

from cdal.checkpoint import load_model
from cdal.errors import InputError
from tune.lake import hold
from tune.lake.commands import main
from tune.results import Store, Writer, create_experiment, load, prune

NAME = "first"
ROWS: list[tuple[str, float | None, dict[str, Any]]] = [  # status, Dice
    ("finished", 0.1, {"kind": "published"}),
    ("finished", 0.2, {"kind": "unet"}),
    ("stopped", 0.8, {}),
    ("finished", 0.9, {}),
    ("stopped", 0.7, {}),
    ("diverged", 0.99, {"cause": "setting"}),
    ("infeasible", None, {"cause": "setting"}),
    ("failed", 0.95, {"cause": "setting"}),
    ("failed", 0.3, {"cause": "machine"}),
    ("failed", 0.3, {"cause": None}),  # of an older release
    ("interrupted", 0.3, {}),
    ("running", 0.4, {"parent": 4}),
    ("pending", None, {}),
    ("stopped", float("nan"), {}),
]
NAMES = ("best.safetensors", "last.safetensors", "previous.safetensors", "log.txt", "train/.validate_storage_marker")


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A lake with one trial of every kind, all files of each, and those of a trial that the lake does not know."""
    root = str(tmp_path / "lake") if request.param == "local" else f"{request.getfixturevalue('s3').address}/lake"
    create_experiment(root, NAME, {"dataset": "phantom"})
    with Writer(root, NAME) as writer:
        for number, (status, dice, more) in enumerate(ROWS):
            row = {"trial_id": f"{number:05d}", "number": number, "status": status, "validation_dice": dice, "kind": "searched"}
            writer.append("trials", row | more)
    store = Store(f"{root}/{NAME}/tune")
    for number in range(len(ROWS) + 1):
        for name in NAMES:
            store.write(f"{number:05d}/{name}", b"12345")
    store.write("00005/.last.safetensors.123", b"half")
    return root


def gone(root: str, keep: int, **how: Any) -> dict[str, set[str]]:
    """Names of the files that went, by trial; checks what is said of them."""
    store = Store(f"{root}/{NAME}/tune")
    before = store.tree()
    said = prune(root, NAME, keep, **how)
    lost = before.keys() - store.tree().keys()
    assert (said.files, said.bytes) == (len(lost), sum(before[path].size for path in lost))
    found: dict[str, set[str]] = {}
    for path in lost:
        found.setdefault(path.partition("/")[0], set()).add(path.partition("/")[2])
    return found


REST = {"last.safetensors", "previous.safetensors", "train/.validate_storage_marker"}
WITHOUT_FIGURE = {"00005": REST | {".last.safetensors.123"}, "00006": REST, "00007": REST, "00013": REST}


def test_the_beaten_keep_their_weights_and_those_that_may_go_on_keep_all(root: str) -> None:
    assert gone(root, 20) == WITHOUT_FIGURE
    assert gone(root, 1) == {"00002": REST}  # trial 4 is a parent
    assert gone(root, 0) == {"00003": REST}
    assert gone(root, 0) == {}


def test_nobody_loses_what_a_dry_run_tells_of(root: str) -> None:
    store = Store(f"{root}/{NAME}/tune")
    before = store.tree()
    assert prune(root, NAME, 0, dry=True) == prune(root, NAME, 0, dry=True)
    assert store.tree() == before


def test_copies_of_a_population_go_by_age_while_it_is_at_work(tmp_path: Path) -> None:
    create_experiment(tmp_path, NAME, {"dataset": "phantom"})
    folder = tmp_path / NAME / "tune" / "ray"
    for age, (trial, copy) in enumerate([("00002", 0), *(("00003", number) for number in (1, 2, 3, 0, 4, 5))]):
        file = folder / trial / f"checkpoint_{copy:06d}" / "last.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"copy")
        os.utime(file, (1000 + age, 1000 + age))
    for age, name in enumerate(["experiment_state-2.json", "experiment_state-1.json", "search_gen_state-1.json", "tuner.pkl"]):
        (folder / name).write_bytes(b"state")
        os.utime(folder / name, (1000 + age, 1000 + age))

    def at_work(status: str) -> None:
        with Writer(tmp_path, NAME) as writer:
            writer.append("trials", {"trial_id": "00002", "number": 2, "status": status, "kind": "searched"})

    at_work("running")
    assert prune(tmp_path, NAME).files == 3
    assert not list((folder / "00003" / "checkpoint_000001").iterdir() or (folder / "00003" / "checkpoint_000002").iterdir())
    assert not (folder / "experiment_state-2.json").exists()
    at_work("stopped")
    assert prune(tmp_path, NAME).files == 5
    assert sorted(Store(folder).tree()) == ["experiment_state-1.json", "search_gen_state-1.json", "tuner.pkl"]


def test_the_command_leaves_running_searches_and_finalists_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    for name in ("finals", "idle", "at work"):
        create_experiment(tmp_path, name, {"finalists": []} if name == "finals" else {})
        with Writer(tmp_path, name) as writer:
            writer.append("trials", {"trial_id": "00002", "number": 2, "status": "stopped", "kind": "searched"})
        Store(tmp_path / name / "tune").write("00002/last.safetensors", b"12345")

    def said(*more: str) -> tuple[int, str]:
        status = main(["prune", "--storage", str(tmp_path), *more])
        out, err = capsys.readouterr()
        return status, out + err

    begun, end = threading.Event(), threading.Event()

    def drive() -> None:
        with hold(f"{tmp_path}/at work/tune", print):
            begun.set()
            end.wait()

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        assert begun.wait(60)
        assert "idle: 1 files of 5 bytes would go" in said("--dry-run")[1]
        status, text = said("--experiment", "at work")
        assert (status, text.count("\n")) == (2, 1)
        status, text = said()
        assert status == 0
        assert "at work: left alone, for " in text
        assert "idle: 1 files of 5 bytes removed" in text
    finally:
        end.set()
        driver.join()
    assert [name for name in ("finals", "idle", "at work") if Store(tmp_path / name / "tune").tree().keys() & LAST] == [
        "finals",
        "at work",
    ]
    assert said("--experiment", "finals")[0] == 2
    assert said("--keep", "-1")[0] == 2
    assert "at work: 1 files of 5 bytes removed" in said()[1]
    with pytest.raises(InputError, match="holds no experiment"):
        prune(tmp_path, "nobody")


LAST = {"00002/last.safetensors"}


def test_a_search_goes_on_after_it_was_pruned(tmp_path: Path) -> None:
    told = ["--space", tiny(tmp_path, epochs=2), "--storage", tmp_path, "--name", NAME]
    here(*told, "--trials", 4, "--scheduler", "pbt", "--sampler", "random")
    kept = trials(tmp_path, NAME)
    assert prune(tmp_path, NAME, 0).files >= 2
    left = Store(tmp_path / NAME / "tune").tree()
    assert [path for path in left if path.endswith("last.safetensors")] == ["00000/last.safetensors", "00001/last.safetensors"]
    for number in range(4):
        load_model(tmp_path / NAME / "tune" / f"{number:05d}" / "best.safetensors")
    here("--resume", NAME, "--storage", tmp_path, "--trials", 5)
    assert_whole(tmp_path, NAME, 5, 2)
    columns = ["number", "status", "validation_dice", "final_dice"]
    assert trials(tmp_path, NAME)[columns].head(4).equals(kept[columns])
    assert load(tmp_path).only([NAME]).cases().num_rows
