"""What a process of a trial may take of its GPU; PyTorch notes what it is told, as there is no GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cdal.errors import InputError
from tune.trials import SHARED_OUT, TrialSettings, messages
from tune.trials.mps import mps_folder


def settings(folder: Path, gpus: float, **own: Any) -> TrialSettings:
    return TrialSettings(
        **own,
        number=0,
        kind="searched",
        config={},
        dataset="phantom",
        options={},
        data=None,
        fold=0,
        folder=str(folder / "00000"),
        gpus=gpus,
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Fractions of memory, and folders of services that were started."""
    noted: list[object] = []

    def start(folder: Path) -> str:
        noted.append(folder)
        return "with MPS"

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", noted.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made up")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr("tune.trials.together.start_mps", start)
    return noted


def test_every_trial_of_a_process_has_its_part_of_the_memory(tmp_path: Path, told: list[object]) -> None:
    """It is set first, anew for every trial, and taken back for one that has the GPU for itself."""
    for gpus in (0.25, 0.5, 1, 2, 0):
        with pytest.raises(InputError, match="mask_channels"):
            list(messages(settings(tmp_path, gpus)))
    place = mps_folder(str(tmp_path))
    assert told == [place, SHARED_OUT / 4, place, SHARED_OUT / 2, 1.0, 1.0]


def test_so_has_a_process_that_only_scores(tmp_path: Path, told: list[object]) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        list(messages(settings(tmp_path, 0.5, only_score=True)))
    assert told == [mps_folder(str(tmp_path)), SHARED_OUT / 2]
