"""Chest X-ray folders: the Kaggle download, the originals with a mask per lung, damaged ones, and the real samples."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage

from cdal.data import DatasetSpec, encode_mask, open_dataset
from cdal.errors import InputError

SIDE = 40
SHENZHEN = tuple(f"CHNCXR_{number:04}_{number % 2}" for number in range(1, 8))
MONTGOMERY = tuple(f"MCUCXR_{number:04}_{number % 2}" for number in range(1, 4))


def xray(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def lung(half: str) -> np.ndarray:
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[8:30, {"left": slice(6, 16), "right": slice(24, 34)}[half]] = 255
    return values


BOTH = lung("left") | lung("right")


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_kaggle(folder: Path) -> Path:
    for number, name in enumerate(SHENZHEN + MONTGOMERY):
        write(folder / "CXR_png" / f"{name}.png", xray(number))
        write(folder / "masks" / f"{name}{'_mask' if name in SHENZHEN else ''}.png", BOTH)
    for number in range(4):  # as 96 of the 800 images
        write(folder / "CXR_png" / f"CHNCXR_050{number}_1.png", xray(number))
    return folder


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """The download in small: 7 Shenzhen and 3 Montgomery images with masks, and 4 images without."""
    return write_kaggle(tmp_path / "Lung Segmentation")


def test_a_sound_folder(kaggle: Path) -> None:
    dataset = open_dataset("chest_xray", kaggle, size=SIDE)
    assert dataset.ids == SHENZHEN + MONTGOMERY
    for number, name in enumerate(dataset.ids):
        case = dataset.case(name)
        assert np.array_equal(case.image.numpy(), xray(number)[None, None])
        assert np.array_equal(case.label.numpy(), (BOTH > 0)[None])
        assert case.instances is None
    spec = dataset.spec
    assert (spec.image_channels, spec.classes, spec.mask_channels, spec.image_size) == (1, ("lung",), 1, SIDE)
    assert "10 of 14 images have a mask: 7 Shenzhen, 3 Montgomery" in spec.protocol
    assert "National Library of Medicine" in spec.licence
    assert DatasetSpec.from_dict(json.loads(json.dumps(asdict(spec)))) == spec
    assert (spec.augmentation.rotation, spec.augmentation.scale, spec.augmentation.flips) == (22, (0.75, 1.25), False)
    assert spec.augmentation.brightness == 0
    assert spec.normalise(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2)).flatten().tolist() == [-1, 1]
    images, labels = dataset.draw(SHENZHEN[2], 2, np.random.default_rng(0))
    assert np.array_equal(images, np.stack([xray(2)[None]] * 2))
    mask = encode_mask(torch.from_numpy(labels), spec.mask_channels, spec.foreground)
    assert np.array_equal(mask[0, 0].numpy(), np.where(BOTH > 0, -1, 1))  # as the published weights have it


def test_the_published_size(kaggle: Path) -> None:
    case = open_dataset("chest_xray", kaggle).case(MONTGOMERY[0])
    assert case.image.shape == (1, 1, 256, 256)
    assert case.image.dtype == torch.uint8
    assert case.label.shape == (1, 256, 256)
    assert case.label.float().mean() == pytest.approx((BOTH > 0).mean(), abs=0.01)


def test_the_published_folds(kaggle: Path) -> None:
    dataset = open_dataset("chest_xray", kaggle, size=SIDE)
    assert len(dataset.spec.folds) == 3
    assert dataset.spec.folds[0] == "Shenzhen -> Montgomery"
    across, first, last = (dataset.split(fold) for fold in range(3))
    assert across.test == MONTGOMERY
    assert across.validation == (SHENZHEN[0], SHENZHEN[5])
    assert across.train == SHENZHEN[1:5] + SHENZHEN[6:]
    assert first.test == SHENZHEN[:3]
    assert first.validation == (SHENZHEN[3], MONTGOMERY[1])
    assert first.train == (*SHENZHEN[4:], MONTGOMERY[0], MONTGOMERY[2])
    assert last.test == SHENZHEN[-3:]
    assert last.validation == (SHENZHEN[0], MONTGOMERY[1])
    with pytest.raises(InputError, match="fold is 3; the folds are 0, 1, 2"):
        dataset.split(3)


def test_a_fold_without_a_hospital(kaggle: Path) -> None:
    for name in MONTGOMERY:
        (kaggle / "masks" / f"{name}.png").unlink()
    dataset = open_dataset("chest_xray", kaggle, size=SIDE)
    for fold in range(3):
        with pytest.raises(InputError, match=r"chest_xray has 7 Shenzhen and 0 Montgomery images with masks; fold \d"):
            dataset.split(fold)


def test_the_download_holds_its_files_twice_and_more(tmp_path: Path) -> None:
    for folder in (tmp_path / "Lung Segmentation", tmp_path / "data" / "Lung Segmentation"):
        write_kaggle(folder)
        write(folder / "test" / "CHNCXR_0025_0.png", BOTH)
        (folder / "ClinicalReadings").mkdir()
        (folder / "ClinicalReadings" / "MCUCXR_0001_0.txt").write_text("normal")
    (tmp_path / "__MACOSX" / "CXR_png").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "CXR_png" / "CHNCXR_0001_0.png").write_bytes(b"x")
    (tmp_path / "data" / "Lung Segmentation" / "masks" / "._CHNCXR_0001_0_mask.png").write_bytes(b"x")
    dataset = open_dataset("chest_xray", tmp_path, size=SIDE)
    assert dataset.ids == SHENZHEN + MONTGOMERY
    assert "10 of 14 images" in dataset.spec.protocol


def test_left_and_right_are_merged_where_only_they_exist(tmp_path: Path) -> None:
    for number, name in enumerate(SHENZHEN):
        write(tmp_path / "ChinaSet" / "CXR_png" / f"{name}.png", xray(number))
        write(tmp_path / "mask" / "mask" / f"{name}_mask.png", BOTH)
    for number, name in enumerate(MONTGOMERY):
        write(tmp_path / "MontgomerySet" / "CXR_png" / f"{name}.png", xray(number))
        for half in ("left", "right"):
            write(tmp_path / "MontgomerySet" / "ManualMask" / f"{half}Mask" / f"{name}.png", lung(half) // 255)
    write(tmp_path / "masks" / f"{MONTGOMERY[2]}.png", lung("left"))
    dataset = open_dataset("chest_xray", tmp_path, size=SIDE)
    assert dataset.ids == SHENZHEN + MONTGOMERY
    assert np.array_equal(dataset.case(MONTGOMERY[0]).label[0].numpy(), BOTH > 0)
    assert np.array_equal(dataset.case(MONTGOMERY[2]).label[0].numpy(), lung("left") > 0)


def enlarged(values: np.ndarray) -> np.ndarray:
    return values.repeat(8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize(
    "mask",
    [
        BOTH,
        BOTH // 255,
        BOTH > 0,
        BOTH.astype(np.uint16) * 257,
        np.dstack([BOTH] * 3),
        np.dstack([BOTH] * 3 + [np.full_like(BOTH, 255)]),
        ndimage.uniform_filter(enlarged(BOTH), 5),
        enlarged(BOTH),
    ],
    ids=["0 and 255", "0 and 1", "one bit", "16 bits", "colours", "opaque RGBA", "soft edges", "larger than its image"],
)
def test_masks_of_two_values_in_any_form(kaggle: Path, mask: np.ndarray) -> None:
    write(kaggle / "masks" / f"{SHENZHEN[1]}_mask.png", mask)
    label = open_dataset("chest_xray", kaggle, size=SIDE).case(SHENZHEN[1]).label[0].numpy()
    assert np.array_equal(label, BOTH > 0)


def test_one_channel_is_the_mean_of_the_colours(kaggle: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    write(kaggle / "CXR_png" / f"{SHENZHEN[1]}.png", colours)
    image = open_dataset("chest_xray", kaggle, size=SIDE).case(SHENZHEN[1]).image[0, 0].numpy()
    assert np.abs(image - colours.mean(axis=2)).max() <= 0.5001


def test_an_image_and_a_mask_are_turned_as_exif_says(kaggle: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8  # a quarter to the left
    for folder, values in (("CXR_png", xray(1)), ("masks", BOTH)):
        path = next((kaggle / folder).glob(f"{SHENZHEN[1]}*.png"))
        Image.fromarray(np.rot90(values, -1).copy()).save(path, exif=exif)
    case = open_dataset("chest_xray", kaggle, size=SIDE).case(SHENZHEN[1])
    assert np.array_equal(case.image[0, 0].numpy(), xray(1))
    assert np.array_equal(case.label[0].numpy(), BOTH > 0)


def set_mask(folder: Path, values: np.ndarray) -> None:
    write(folder / "masks" / "MCUCXR_0002_0.png", values)


def link_to_nothing(folder: Path) -> None:
    (folder / "masks" / "MCUCXR_0002_0.png").unlink()
    (folder / "masks" / "MCUCXR_0002_0.png").symlink_to(folder.parent / "nothing.png")


def other_copy(folder: Path) -> None:
    write(folder / "more" / "CXR_png" / "MCUCXR_0002_0.png", xray(0, side=20))


def one_lung(folder: Path) -> None:
    (folder / "masks" / "MCUCXR_0002_0.png").unlink()
    write(folder / "leftMask" / "MCUCXR_0002_0.png", lung("left"))


CLASSES = (lung("left") // 255 + lung("right") // 255 * 2).astype(np.uint8)
CLEAR = np.dstack([BOTH] * 3 + [xray(0)])
# What was done to a sound folder, the file that the message must name, and what it must say of it.
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "mask without image": (lambda f: (f / "CXR_png" / "MCUCXR_0002_0.png").unlink(), "masks/MCUCXR_0002_0.png", "has no image"),
    "mask of no hospital": (
        lambda f: [write(f / part / "JPCLN001.png", BOTH) for part in ("CXR_png", "masks")],
        "masks/JPCLN001.png",
        "is of neither hospital; names start with CHNCXR_ or MCUCXR_",
    ),
    "two different images": (other_copy, "MCUCXR_0002_0.png", "are different files of the same image"),
    "one lung": (one_lung, "leftMask/MCUCXR_0002_0.png", "is one lung; MCUCXR_0002_0.png should be in a folder rightMask too"),
    "empty image": (lambda f: (f / "CXR_png" / "MCUCXR_0002_0.png").write_bytes(b""), "MCUCXR_0002_0.png", "is empty"),
    "cut image": (
        lambda f: (f / "CXR_png" / "MCUCXR_0002_0.png").write_bytes((f / "CXR_png" / "MCUCXR_0002_0.png").read_bytes()[:-99]),
        "CXR_png/MCUCXR_0002_0.png",
        "is not a readable PNG image",
    ),
    "16-bit image": (
        lambda f: write(f / "CXR_png" / "MCUCXR_0002_0.png", xray(0).astype(np.uint16)),
        "CXR_png/MCUCXR_0002_0.png",
        "is an image of the type uint16; images of 8 bits are needed",
    ),
    "image of floats": (
        lambda f: tifffile.imwrite(f / "CXR_png" / "MCUCXR_0002_0.png", xray(0).astype(np.float32)),
        "CXR_png/MCUCXR_0002_0.png",
        "is an image of the type float32",
    ),
    "empty mask": (lambda f: set_mask(f, np.zeros_like(BOTH)), "masks/MCUCXR_0002_0.png", "holds the values 0 to 0;"),
    "full mask": (lambda f: set_mask(f, np.full_like(BOTH, 255)), "masks/MCUCXR_0002_0.png", "holds the values 255 to 255;"),
    "mask of classes": (
        lambda f: set_mask(f, CLASSES),
        "masks/MCUCXR_0002_0.png",
        "holds 3 values; a mask of lungs holds 0 and one",
    ),
    "an X-ray as mask": (
        lambda f: set_mask(f, xray(0)),
        "masks/MCUCXR_0002_0.png",
        "values; a mask of lungs holds 0 and one higher",
    ),
    "colours": (lambda f: set_mask(f, np.dstack([BOTH, BOTH, xray(0)])), "masks/MCUCXR_0002_0.png", "has colours"),
    "transparency": (lambda f: set_mask(f, CLEAR), "masks/MCUCXR_0002_0.png", "has an alpha channel that is not opaque"),
    "swapped sides": (lambda f: set_mask(f, BOTH[:20].T), "masks/MCUCXR_0002_0.png", "has the shape (40, 20), but its image has"),
    "link to nothing": (link_to_nothing, "masks/MCUCXR_0002_0.png", "is a link that leads nowhere or in a circle"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence_that_names_the_file(kaggle: Path, kind: str) -> None:
    harm, file, words = DAMAGE[kind]
    harm(kaggle)
    with pytest.raises(InputError) as caught:
        open_dataset("chest_xray", kaggle, size=SIDE)
    message = str(caught.value)
    assert file in message
    assert words in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        open_dataset("chest_xray", tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no images in a folder CXR_png; --data must be the folder"):
        open_dataset("chest_xray", tmp_path)
    write(tmp_path / "CXR_png" / "MCUCXR_0001_0.png", BOTH)
    with pytest.raises(InputError, match="has no masks; they should be in a folder masks, or in leftMask and rightMask"):
        open_dataset("chest_xray", tmp_path)


@pytest.mark.parametrize("size", [0, 8, 5000, 256.0, True, "256"])
def test_sizes_out_of_range(kaggle: Path, size: object) -> None:
    with pytest.raises(InputError, match=r"option size of chest_xray is .*; it must be a whole number from 16 to 4096"):
        open_dataset("chest_xray", kaggle, size=size)


def test_random_damage_is_never_anything_but_an_input_error(kaggle: Path) -> None:
    """Damaged images and masks: opened as if sound, or refused with the file's name."""
    rng = np.random.default_rng(0)
    refused: list[str] = []
    files = [kaggle / folder / "MCUCXR_0003_1.png" for folder in ("CXR_png", "masks")]
    raw = [path.read_bytes() for path in files]
    for trial in range(100):
        damaged = trial % 2
        data = bytearray(raw[damaged][: int(rng.integers(len(raw[damaged])))] if trial % 3 == 0 else raw[damaged])
        for at in rng.integers(0, max(1, len(data)), 2):
            if at < len(data):
                data[at] = rng.integers(256)
        for path, sound in zip(files, raw, strict=True):
            path.write_bytes(bytes(data) if path == files[damaged] else sound)
        try:
            open_dataset("chest_xray", kaggle, size=SIDE)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 60
    assert all("MCUCXR_0003_1.png" in message for message in refused)


@pytest.fixture
def lung_folder() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "Lung"
    if not folder.is_dir():
        pytest.skip(f"the chest X-ray samples are not in {folder}")
    return folder


def test_the_real_samples(lung_folder: Path) -> None:
    dataset = open_dataset("chest_xray", lung_folder)
    assert len(dataset.ids) == 20
    assert "20 of 20 images have a mask: 10 Shenzhen, 10 Montgomery" in dataset.spec.protocol
    for case in map(dataset.case, dataset.ids):
        assert case.image.shape == (1, 1, 256, 256)
        assert 0.1 < case.label.float().mean() < 0.5
        assert min(case.label[..., :128].float().mean(), case.label[..., 128:].float().mean()) > 0.05  # two lungs
    for fold, hospital in enumerate(("MCUCXR", "CHNCXR", "CHNCXR")):
        split = dataset.split(fold)
        assert (len(split.train), len(split.validation), len(split.test)) == (8, 2, 10)
        assert all(name.startswith(hospital) for name in split.test)
