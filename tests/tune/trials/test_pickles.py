"""Bytes of the lake are never run: somebody plants pickles wherever Ray looks, while a search and its continuation work."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from searches import here, tiny, trials

from tune.trials import CdalTrial

NAMES = ("_dict_checkpoint.pkl", "tuner.pkl", "trainable.pkl", "params.pkl", "error.pkl", "callback-states-x.pkl")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.long
def test_no_pickle_of_the_lake_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sprung, lake = tmp_path / "sprung", tmp_path / "lake"
    trap, save = pickle.dumps(Trap(sprung)), CdalTrial.save_checkpoint

    def save_with_trap(trial: CdalTrial, folder: str) -> Any:
        for name in NAMES:
            Path(folder, name).write_bytes(trap)
        return save(trial, folder)

    monkeypatch.setattr(CdalTrial, "save_checkpoint", save_with_trap)
    storage = ("--storage", lake)
    here("--space", tiny(tmp_path, epochs=4), *storage, "--name", "a", "--trials", 6, "--scheduler", "pbt", "--max-concurrent", 2)
    assert trials(lake, "a")["parent"].notna().any(), "nobody took another one over"
    for folder in (path for path in (lake / "a").rglob("*") if path.is_dir()):
        for name in NAMES:
            (folder / name).write_bytes(trap)
    here(*storage, "--resume", "a", "--trials", 8)
    assert set(trials(lake, "a")["status"]) <= {"finished", "stopped"}
    assert not sprung.exists()
    with open(lake / "a" / "tune" / NAMES[0], "rb") as planted:
        pickle.load(planted)  # the trap works
    assert sprung.exists()
