"""A torn checkpoint costs an epoch, or at worst the training so far, and never the whole trial or a right number."""

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import run
from safetensors.torch import load_file, save_file

from cdal import training
from cdal.checkpoint import load, load_model, read_info, save
from cdal.config import Config
from cdal.data import Dataset, open_dataset
from cdal.errors import InputError
from cdal.evaluation import ValidationScore
from cdal.train import main
from cdal.trainer import Trainer
from cdal.training import BEST, LAST, PREVIOUS, Report, history, stored_config, train

EPOCHS = 4
SMALL: dict[str, Any] = {
    "model.image_size": 16,
    "model.architecture": "unet",
    "model.base_width": 8,
    "model.width_multipliers": [1],
    "model.attention_resolutions": [8],
    "model.encoder_blocks": 0,
    "loss.soft_dice": 1.0,
    "optimiser.lr_generator": 1e-3,
    "training.epochs": EPOCHS,
    "training.steps_per_epoch": 1,
    "training.batch_size": 2,
    "evaluation.validation_cases": 1,
}
CONFIG = Config().replace(SMALL)


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return open_dataset("phantom", size=16, cases=12, classes=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, phantom: Dataset) -> Path:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    list(train(CONFIG, phantom, folder))
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, phantom: Dataset) -> Path:
    """The same, cut after three epochs."""
    folder = tmp_path_factory.mktemp("half")
    source = train(CONFIG, phantom, folder)
    for _ in range(3):
        next(source)
    source.close()
    return folder


@pytest.fixture
def half(halves: Path, tmp_path: Path) -> Path:
    return shutil.copytree(halves, tmp_path / "half")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def fill_with_zeros(path: Path) -> None:
    """As a power cut leaves blocks that never reached the disk; the length and the header are right."""
    content = path.read_bytes()
    path.write_bytes(content[:-4000] + bytes(4000))


def rewrite(path: Path, **changes: object) -> None:
    tensors, info = load(path)
    save(path, tensors, info | changes)


def lose_a_tensor(path: Path) -> None:
    tensors, info = load(path)
    save(path, dict(sorted(tensors.items())[1:]), info)


def misshape(path: Path) -> None:
    tensors, info = load(path)
    save(path, {name: tensor.reshape(-1) for name, tensor in tensors.items()}, info)


def cut_reports(path: Path) -> None:
    rewrite(path, reports=read_info(path)["reports"][1:])


def of_somebody_else(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"cdal": json.dumps(["not", "ours"])})


TEARS: list[Callable[[Path], object]] = [
    cut,
    fill_with_zeros,
    lose_a_tensor,
    misshape,
    cut_reports,
    of_somebody_else,
    lambda path: save_file({"weight": torch.zeros(3)}, path),
    lambda path: os.truncate(path, 0),
    lambda path: shutil.copy(__file__, path),
    lambda path: rewrite(path, reports="none"),
    lambda path: rewrite(path, reports=[{"epoch": 1}]),
    lambda path: rewrite(path, config=None),
]


def dice(reports: list[Report]) -> list[float]:
    return [report.values["dice"] for report in reports]


def assert_same_tensors(a: Path, b: Path) -> None:
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_as_uncut(folder: Path, whole: Path) -> None:
    assert dice(history(folder)) == dice(history(whole))
    for name in (LAST, BEST):
        assert_same_tensors(folder / name, whole / name)


def test_two_checkpoints_are_kept(half: Path) -> None:
    assert [len(read_info(half / name)["reports"]) for name in (PREVIOUS, LAST)] == [2, 3]
    assert read_info(half / BEST)["dice"] == max(dice(history(half)))
    assert not [path for path in half.iterdir() if path.name not in (LAST, PREVIOUS, BEST)]


@pytest.mark.parametrize("tear", TEARS, ids=range(len(TEARS)))
def test_a_torn_checkpoint_costs_one_epoch(tear: Callable[[Path], object], half: Path, whole: Path, phantom: Dataset) -> None:
    tear(half / LAST)
    with pytest.warns(UserWarning, match=f"{LAST}.*it is deleted"):
        reports = list(train(CONFIG, phantom, half))
    assert [report.epoch for report in reports] == [3, 4]
    assert_as_uncut(half, whole)


def test_a_checkpoint_that_was_being_replaced_costs_one_epoch_too(half: Path, whole: Path, phantom: Dataset) -> None:
    (half / LAST).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [report.epoch for report in train(CONFIG, phantom, half)] == [3, 4]
    assert_as_uncut(half, whole)


def test_without_a_whole_checkpoint_the_training_begins_again(half: Path, whole: Path, phantom: Dataset) -> None:
    cut(half / LAST)
    fill_with_zeros(half / PREVIOUS)
    with pytest.warns(UserWarning, match="begins again with epoch 1"):
        reports = list(train(CONFIG, phantom, half))
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert_as_uncut(half, whole)


def test_a_torn_checkpoint_never_takes_the_place_of_the_one_before(half: Path, whole: Path, phantom: Dataset) -> None:
    """Killed after the first epoch of the next session, whose checkpoint is torn as well."""
    cut(half / LAST)
    source = train(CONFIG, phantom, half)
    with pytest.warns(UserWarning, match="deleted"):
        next(source)
    source.close()
    cut(half / LAST)
    with pytest.warns(UserWarning, match="deleted"):
        assert [report.epoch for report in train(CONFIG, phantom, half)] == [3, 4]
    assert_as_uncut(half, whole)


def test_what_was_reported_is_read_from_what_is_whole(half: Path) -> None:
    assert len(history(half)) == 3
    assert stored_config(half) == CONFIG
    cut(half / LAST)
    with pytest.warns(UserWarning, match=LAST):
        assert len(history(half)) == 2
    assert stored_config(half) == CONFIG
    (half / PREVIOUS).write_bytes(b"{}")
    with pytest.warns(UserWarning, match=PREVIOUS):
        assert history(half) == []
    assert stored_config(half) is None


@pytest.mark.parametrize("best_epoch", range(1, EPOCHS + 1))
@pytest.mark.parametrize("epochs", [3, 4])
def test_torn_best_weights_come_back(
    best_epoch: int, epochs: int, tmp_path: Path, whole: Path, phantom: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a checkpoint of that epoch, with a later epoch that is better, or by training again; never those of a worse epoch."""
    measured = training._validate

    def best_in_that_epoch(trainer: Trainer, *rest: Any) -> ValidationScore:
        return replace(measured(trainer, *rest), dice=0.5 if trainer.steps == best_epoch else trainer.steps / 100)

    monkeypatch.setattr(training, "_validate", best_in_that_epoch)
    source = train(CONFIG, phantom, tmp_path)
    for _ in range(epochs):
        next(source)
    source.close()
    cut(tmp_path / BEST)
    with pytest.warns(UserWarning, match=f"{BEST}.*it is deleted"):
        list(train(CONFIG, phantom, tmp_path))
    assert read_info(tmp_path / BEST)["epoch"] == best_epoch
    assert load_model(tmp_path / BEST)[0] == CONFIG
    assert_same_tensors(tmp_path / LAST, whole / LAST)
    assert list(train(CONFIG, phantom, tmp_path)) == []


def test_what_cannot_be_read_is_not_what_is_torn(half: Path, phantom: Dataset) -> None:
    """A store that fails for a while must not cost the training."""
    (half / LAST).rename(half / "aside")
    (half / LAST).symlink_to(half / "aside")
    before = {path.name: path.read_bytes() for path in half.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdal.checkpoint.safe_open", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(InputError, match="Input/output error"):
            next(train(CONFIG, phantom, half))
    assert {path.name: path.read_bytes() for path in half.iterdir()} == before


def test_two_workers_agree_on_what_they_go_on_from(tmp_path: Path) -> None:
    """Each has a copy of its own; what the first one reads counts."""
    options = [
        "--device",
        "cpu",
        *(part for name, value in SMALL.items() if name != "model.image_size" for part in ("--set", f"{name}={json.dumps(value)}")),
    ]
    assert main([*options, "--out", str(tmp_path / "run"), "--set", "training.epochs=3"]) == 0
    cut(tmp_path / "run" / LAST)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run([*launcher, "-m", "cdal.train", *options, "--out", tmp_path / "run", "--set", "training.epochs=4"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("it is deleted") == 1
    assert [report.epoch for report in history(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_full_disk_costs_no_checkpoint(half: Path, whole: Path, phantom: Dataset) -> None:
    script = """
import resource, sys
from pathlib import Path
sys.path[:0] = ["tests/support", "tests/cdal"]
from test_torn import CONFIG
from cdal.data import open_dataset
from cdal.training import train
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    list(train(CONFIG, open_dataset("phantom", size=16, cases=12, classes=1), Path(sys.argv[1])))
except OSError as error:
    print("refused:", error)
"""
    done = run([sys.executable, "-c", script, half])
    assert "safetensors could not be written" in done.stdout, done.stderr
    assert [report.epoch for report in train(CONFIG, phantom, half)] == [4]
    assert_as_uncut(half, whole)
