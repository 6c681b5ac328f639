"""What a trial says of data with ignored pixels, with objects told apart, and of volumes of several spacings."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_folders import picture, save, volume
from PIL import Image

from cdal.config import preset
from cdal.data import Dataset, open_dataset
from tune.trials import Message, TrialSettings, messages

SMALL: dict[str, Any] = {
    "model.image_size": 32,
    "model.base_width": 8,
    "model.width_multipliers": [1, 1],
    "model.residual_blocks": 1,
    "model.encoder_blocks": 0,
    "model.latent_size": 8,
    "model.latent_embedding": 8,
    "model.discriminator": "small",
    "model.discriminator_width": 8,
    "training.epochs": 1,
    "training.steps_per_epoch": 8,
    "training.batch_size": 4,
    "training.samples_per_case": 1,
    "loss.soft_dice": 10.0,  # so that some foreground is predicted
    "optimiser.lr_generator": 0.01,
    "evaluation.votes": 2,
    "evaluation.window": "whole",
}


def outcome(folder: Path, **options: Any) -> tuple[Dataset, Message]:
    """The dataset, and the last message of a short trial on it."""
    options |= {"sample_size": 32}
    settings = TrialSettings(
        number=0, kind="searched", config=preset("chest_xray").replace(SMALL).to_dict(), dataset="own", options=options,
        data=str(folder / "data"), fold=0, folder=str(folder / "trial"),
    )  # fmt: skip
    last = list(messages(settings))[-1]
    assert last["status"] == "finished", last
    return open_dataset("own", folder / "data", **options), last


def pixels(shown: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(shown)))


@pytest.mark.long
def test_no_picture_and_no_score_shows_ignored_pixels(tmp_path: Path) -> None:
    for number in range(16):
        mask = np.zeros((40, 48), np.uint8)
        mask[5 + number % 3 : 20, 4:20], mask[12:36, 15:44] = 1, 255
        save(tmp_path / "data" / "images" / f"case_{number}.png", picture(number))
        save(tmp_path / "data" / "masks" / f"case_{number}.png", mask)
    dataset, last = outcome(tmp_path)
    assert dataset.spec.has_ignored
    for row in last["gallery"]:
        ignored = dataset.case(row["case"]).label[0].numpy() == 255
        assert ignored.any()
        for name in ("truth", "prediction", "uncertainty"):
            assert not pixels(row[name])[ignored].any()
        assert set(np.unique(pixels(row["truth"]))) == {0, 1}
    assert all(0 <= row["dice"] <= 1 for row in last["cases"])


@pytest.mark.long
def test_numbered_objects_are_scored(tmp_path: Path) -> None:
    for number in range(16):
        mask = np.zeros((40, 48), np.uint8)
        for place in range(5 + number % 4):
            top, left = divmod(place, 4)
            mask[3 + 12 * top : 11 + 12 * top, 2 + 11 * left : 10 + 11 * left] = place + 1
        save(tmp_path / "data" / "images" / f"case_{number}.png", picture(number))
        save(tmp_path / "data" / "masks" / f"case_{number}.png", mask)
    dataset, last = outcome(tmp_path, instances=True)
    assert dataset.spec.classes == ("foreground",)
    for row in last["cases"]:
        assert 0 <= row["aji"] <= 1
        assert 0 <= row["panoptic_quality"] <= 1


@pytest.mark.long
def test_pictures_of_resampled_volumes_are_on_the_grid_of_their_files(tmp_path: Path) -> None:
    sizes = {}
    for number in range(12):
        spacing = (0.5, 1.0, 1.5)[number % 3]
        side = round(40 / spacing)
        label = np.zeros((side, side, 4), np.uint8)
        label[side // 4 : side // 2, side // 3 : side // 2, 1:3] = 1
        affine = np.diag([-spacing, -spacing, -3.0, 1.0])
        save(tmp_path / "data" / "imagesTr" / f"case_{number:03d}.nii.gz", volume(number, side, side, 4) + 200 * label, affine)
        save(tmp_path / "data" / "labelsTr" / f"case_{number:03d}.nii.gz", label, affine)
        sizes[f"case_{number:03d}"] = (side, side)
    dataset, last = outcome(tmp_path)
    assert dataset.spec.preparation.spacing == pytest.approx((1.0, 1.0))
    assert len({dataset.case(name).image.shape for name in dataset.ids}) == 1
    for row in last["gallery"]:
        for name in ("image", "truth", "prediction", "uncertainty"):
            assert pixels(row[name]).shape == sizes[row["case"]]
        (middle,) = {int(depth) for depth in dataset.case(row["case"]).truth.flatten(1).any(dim=1).nonzero()[1:]}
        assert np.array_equal(pixels(row["truth"]), dataset.case(row["case"]).truth[middle].numpy())
