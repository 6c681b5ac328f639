"""A trial's checkpoints in an object store: two of them, sent once, and the torn one replaced by the one before."""

from pathlib import Path

import pytest
from patience import wait_for
from s3 import Bucket

from cdal.checkpoint import read_info
from cdal.config import Config
from cdal.data import Dataset, open_dataset
from cdal.training import BEST, LAST, PREVIOUS, history, train
from tune.lake import Mirror

pytestmark = pytest.mark.long

CONFIG = Config().replace(
    {
        "model.image_size": 16,
        "model.architecture": "unet",
        "model.base_width": 8,
        "model.width_multipliers": [1],
        "model.attention_resolutions": [8],
        "model.encoder_blocks": 0,
        "loss.soft_dice": 1.0,
        "training.epochs": 5,
        "training.steps_per_epoch": 1,
        "training.batch_size": 2,
        "evaluation.validation_cases": 1,
    }
)


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return open_dataset("phantom", size=16, cases=12, classes=1)


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working copies are the test's own, and sent without pauses."""
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tune.lake.mirror._PAUSE_SECONDS", 0)


def session(s3: Bucket, phantom: Dataset, epochs: int) -> list[int]:
    """Train some epochs, on a machine that has nothing yet, whose store keeps pace."""
    files, seen = mirror(s3), []
    files.fetch()
    for report in train(CONFIG, phantom, files.path):
        seen.append(report.epoch)
        files.keep()
        wait_for(lambda: f"trial/{LAST}" in s3.keys and s3.get(f"trial/{LAST}") == (files.path / LAST).read_bytes())
        if len(seen) == epochs:
            break
    assert files.close()
    return seen


def mirror(s3: Bucket) -> Mirror:
    return Mirror(f"{s3.address}/trial", (BEST, LAST), {LAST: PREVIOUS})


def stored(s3: Bucket, name: str, folder: Path) -> int:
    """The epoch of a checkpoint in the store."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(s3.get(f"trial/{name}"))
    return int(read_info(folder / name)["epoch"])


def test_the_checkpoint_before_is_kept_without_sending_it(s3: Bucket, phantom: Dataset, tmp_path: Path) -> None:
    files = mirror(s3)
    files.fetch()
    for report in train(CONFIG, phantom, files.path):
        files.keep()
        if report.epoch == 3:
            break
    assert files.close()
    assert stored(s3, LAST, tmp_path / "there") == 3
    assert stored(s3, PREVIOUS, tmp_path / "there") < 3
    assert not [request for request in s3.service.requests if request.method == "PUT" and request.copies and LAST in request.key]
    assert all(request.copies for request in s3.service.requests if request.method == "PUT" and PREVIOUS in request.key)


@pytest.mark.parametrize("torn", [LAST, PREVIOUS])
def test_another_machine_goes_on_from_what_is_whole(torn: str, s3: Bucket, phantom: Dataset, tmp_path: Path) -> None:
    assert session(s3, phantom, 3) == [1, 2, 3]
    assert (stored(s3, LAST, tmp_path / "there"), stored(s3, PREVIOUS, tmp_path / "there")) == (3, 2)
    content = s3.get(f"trial/{torn}")
    s3.put(f"trial/{torn}", content[: len(content) // 2])
    if torn == LAST:
        with pytest.warns(UserWarning, match=f"{LAST}.*it is deleted"):
            assert session(s3, phantom, 1) == [3]
    else:
        assert session(s3, phantom, 1) == [4]
    newest = 3 if torn == LAST else 4
    assert (stored(s3, LAST, tmp_path / "there"), stored(s3, PREVIOUS, tmp_path / "there")) == (newest, newest - 1)
    assert session(s3, phantom, 9) == list(range(newest + 1, 6))
    files = mirror(s3)
    files.fetch()
    assert len(history(files.path)) == 5
