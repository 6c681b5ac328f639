"""Lungs in chest X-rays of two hospitals: Montgomery County (138 with masks) and Shenzhen (566 with masks).

The Kaggle download "Chest Xray Masks and Labels", or the originals, in folders of any depth:

    FOLDER/CXR_png/CHNCXR_0001_0.png      Shenzhen; MCUCXR_* is Montgomery
    FOLDER/masks/CHNCXR_0001_0_mask.png   with or without _mask; also a folder called mask
    FOLDER/leftMask/MCUCXR_0001_0.png     left and right lung apart, used where masks/ has none of the image
    FOLDER/rightMask/MCUCXR_0001_0.png

Other folders do not count. The download holds its files twice, which is no error as long as their sizes agree.
"""

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdal.data.cache import load_cases
from cdal.data.cases import CaseDataset
from cdal.data.dataset import Augmentation, Case, DatasetSpec, Preparation, Source, check_whole
from cdal.data.folds import CHEST_XRAY_FOLDS, MONTGOMERY, SHENZHEN, VALIDATION_EVERY, chest_xray_split
from cdal.data.images import find_files, read_image, read_mask
from cdal.data.preparation import prepare_image, prepare_label
from cdal.errors import InputError

_VERSION = 2  # of the reader; a higher one has cached cases decoded again
_KINDS = {"cxr_png": "image", "masks": "mask", "mask": "mask", "leftmask": "left", "rightmask": "right"}  # by folder name
_SOFT_EDGE = 0.25  # of the lung's pixels; more values in between are no edge but another class
_SAME_ASPECT = 0.01
_SMALLEST, _LARGEST = 16, 4096  # pixels


class ChestXrayDataset(CaseDataset):
    """All images that have a mask."""

    def __init__(self, folder: Path, *, size: int = 256) -> None:
        """Decode and check every image that has a mask.

        Args:
            folder: where the download was unpacked.
            size: side that images and masks are resized to, pixels.

        Raises:
            InputError: an option out of its range, or anything wrong in the files; the message names the file.
        """
        check_whole("chest_xray", "size", size, _SMALLEST, _LARGEST)
        preparation = Preparation(size=(size, size), scaling="bytes", mean=(127.5,), std=(127.5,))
        sources, num_images = find_sources(folder.resolve())
        recipe = {"reader": "chest_xray", "version": _VERSION, "size": size}
        cases = load_cases(sources, partial(read_case, preparation=preparation), recipe)
        ids = [source.id for source in sources]
        num_shenzhen = sum(name.startswith(SHENZHEN) for name in ids)
        spec = DatasetSpec(
            name="chest_xray",
            image_channels=1,
            classes=("lung",),
            image_size=size,
            volumetric=False,
            folds=CHEST_XRAY_FOLDS,
            protocol=(
                f"{len(ids)} of {num_images} images have a mask: {num_shenzhen} Shenzhen, {len(ids) - num_shenzhen} Montgomery; "
                f"resized to {size} x {size}, mean of the colours, affine; published folds, by name the first of every "
                f"{VALIDATION_EVERY} training images validates"
            ),
            licence=(
                "X-rays and Montgomery masks: US National Library of Medicine, public; cite Jaeger et al. 2014 and Candemir et al. "
                "2014. Shenzhen masks: Stirenko et al. 2018, reported by a third party as CC BY-NC-SA 4.0"
            ),
            foreground=-1,
            preparation=preparation,
            augmentation=Augmentation(rotation=22.0, scale=(0.75, 1.25)),
        )
        super().__init__(spec, cases, partial(chest_xray_split, ids), balanced=False)


def find_sources(folder: Path) -> tuple[list[Source], int]:
    """Images that have masks, in name order, and the number of all images.

    Raises:
        InputError: no images, no masks, a mask without image or of neither hospital, one lung without the other, two different
            files for one name.
    """
    found: dict[str, dict[str, Path]] = {kind: {} for kind in _KINDS.values()}
    for path in find_files(folder):
        parts = path.parent.relative_to(folder).parts
        kind = next((_KINDS[part.lower()] for part in reversed(parts) if part.lower() in _KINDS), None)
        if kind is None:
            continue
        name = path.stem if kind == "image" else path.stem.removesuffix("_mask")
        first = found[kind].setdefault(name, path)
        if first.stat().st_size != path.stat().st_size:
            raise InputError(f"{path} and {first} are different files of the same image; keep one of them")
    images = found["image"]
    if not images:
        raise InputError(f"{folder} has no images in a folder CXR_png; --data must be the folder that the download was unpacked to")
    masks = _halves(found["left"], found["right"]) | {name: (path,) for name, path in found["mask"].items()}
    if not masks:
        raise InputError(f"{folder} has no masks; they should be in a folder masks, or in leftMask and rightMask")
    for name, paths in masks.items():
        if name not in images:
            raise InputError(f"{paths[0]} has no image; {name}.png should be in a folder CXR_png")
        if not name.startswith((SHENZHEN, MONTGOMERY)):
            raise InputError(f"{paths[0]} is of neither hospital; names start with {SHENZHEN} or {MONTGOMERY}")
    return [Source(id=name, images=(images[name],), labels=masks[name]) for name in sorted(masks)], len(images)


def read_case(source: Source, preparation: Preparation) -> Case:
    """An 8-bit image as one channel, with its lungs.

    Raises:
        InputError: a damaged file, an image of more bits, a mask of another aspect or with other than two values.
    """
    (path,) = source.images
    pixels = read_image(path)
    if pixels.dtype != np.uint8:
        raise InputError(f"{path} is an image of the type {pixels.dtype}; images of 8 bits are needed")
    label = np.zeros((), np.uint8)
    for mask in source.labels:
        lung = _read_lung(mask)
        (height, width), (image_height, image_width) = lung.shape, pixels.shape[:2]
        if abs(height * image_width - width * image_height) > _SAME_ASPECT * height * image_width:
            raise InputError(f"{mask} has the shape {lung.shape}, but its image has {pixels.shape[:2]}")
        label = label | prepare_label(lung, preparation).numpy()
    return Case(id=source.id, image=prepare_image(pixels, preparation, channels=1), label=torch.from_numpy(label))


def _halves(left: dict[str, Path], right: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    for name in sorted(left.keys() ^ right.keys()):
        have, lack = (left[name], "rightMask") if name in left else (right[name], "leftMask")
        raise InputError(f"{have} is one lung; {have.name} should be in a folder {lack} too")
    return {name: (left[name], right[name]) for name in left}


def _read_lung(path: Path) -> npt.NDArray[np.uint8]:
    """1 where a mask is nearer to its highest value than to 0. It has two values, and others only where its edges are soft."""
    values = read_mask(path)
    highest = int(values.max())
    if values.min() != 0 or highest == 0:
        raise InputError(f"{path} holds the values {values.min()} to {highest}; a mask of lungs holds 0 and one higher value")
    lung = values > highest / 2
    between = np.count_nonzero(values) - np.count_nonzero(values == highest)
    if between > _SOFT_EDGE * np.count_nonzero(lung):
        raise InputError(f"{path} holds {len(np.unique(values))} values; a mask of lungs holds 0 and one higher value")
    return lung.astype(np.uint8)
