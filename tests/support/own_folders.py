"""Small folders in the layouts that users bring, generated."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image

LPI = np.diag([-1.0, -1.0, -1.0, 1.0])


def picture(seed: int, height: int = 40, width: int = 48, colours: int = 0) -> npt.NDArray[np.uint8]:
    """Noise, (H, W) or (H, W, colours)."""
    shape = (height, width, colours) if colours else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def mask(seed: int, height: int = 40, width: int = 48, values: Sequence[int] = (255,)) -> npt.NDArray[np.uint8]:
    """A box per value on 0."""
    found = np.zeros((height, width), np.uint8)
    for number, value in enumerate(values):
        top, left = 2 + 9 * number + seed % 3, 3 + seed % 5
        found[top : top + 8, left : left + 11] = value
    return found


def save(path: Path, array: npt.NDArray, affine: npt.NDArray = LPI) -> Path:
    """As the format that the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    else:
        Image.fromarray(array).save(path)
    return path


def two_folders(folder: Path, count: int = 6, colours: int = 0, values: Sequence[int] = (255,), mask_name: str = "{}.png") -> Path:
    """images/case_0.png, masks/case_0.png, ..."""
    for number in range(count):
        save(folder / "images" / f"case_{number}.png", picture(number, colours=colours))
        save(folder / "masks" / mask_name.format(f"case_{number}"), mask(number, values=values))
    return folder


def volume(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Noise."""
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def volume_label(shape: Sequence[int], values: Sequence[int] = (1,)) -> npt.NDArray[np.uint8]:
    """A box per value on 0."""
    label = np.zeros(shape, np.uint8)
    for number, value in enumerate(values):
        label[2 + 3 * number : 5 + 3 * number, 3:9, 1:4] = value
    return label


def decathlon(folder: Path, count: int = 5, modalities: int = 1, classes: Sequence[str] = ("Front", "Back")) -> Path:
    """dataset.json that lists imagesTr/case_0.nii.gz of (12, 14, 6) voxels, ..."""
    pairs = []
    for number in range(count):
        image, label = f"imagesTr/case_{number}.nii.gz", f"labelsTr/case_{number}.nii.gz"
        shape = (12, 14, 6, modalities) if modalities > 1 else (12, 14, 6)
        save(folder / image, volume(number, *shape))
        save(folder / label, volume_label((12, 14, 6), range(1, len(classes) + 1)))
        pairs.append({"image": f"./{image}", "label": f"./{label}"})
    listing = {
        "name": "Made up",
        "licence": "CC0",
        "modality": {str(number): f"T{number}" for number in range(modalities)},
        "labels": {"0": "background"} | {str(number): name for number, name in enumerate(classes, 1)},
        "training": pairs,
    }
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


def nnunet(folder: Path, count: int = 5, channels: int = 2, ending: str = ".nii.gz", **entries: object) -> Path:
    """dataset.json, imagesTr/case_0_0000.nii.gz, labelsTr/case_0.nii.gz, ..."""
    flat = not ending.startswith(".nii")
    for number in range(count):
        for channel in range(channels):
            image = picture(10 * number + channel) if flat else volume(10 * number + channel, 12, 14, 6)
            save(folder / "imagesTr" / f"case_{number}_{channel:04}{ending}", image)
        label = mask(number, values=(1, 2)) if flat else volume_label((12, 14, 6), (1, 2))
        save(folder / "labelsTr" / f"case_{number}{ending}", label)
    listing = {
        "channel_names": {str(channel): f"T{channel}" for channel in range(channels)},
        "labels": {"background": 0, "edema": 2, "core": 1},
        "numTraining": count,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(listing | entries))
    return folder
