"""MoNuSeg 2018: nuclei in H&E stained tissue, 30 or 37 training images and 14 test images of 1000 x 1000 pixels.

However the downloads unpack: all in one folder, or in folders of any name and depth.

    FOLDER/MoNuSeg 2018 Training Data/Tissue Images/TCGA-A7-A13E-01Z-00-DX1.tif
    FOLDER/MoNuSeg 2018 Training Data/Annotations/TCGA-A7-A13E-01Z-00-DX1.xml       outlines, Aperio ImageScope
    FOLDER/MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.tif and .xml

What was drawn besides nuclei (fields of view, rulers, arrows) is left out, and the notes say so. Instead of outlines, an image may
have a mask of two values: a file of its name in a folder that is called something with mask, label, binary or ground truth, or a
file of its name and `_mask`, `_bin_mask`, `_binary`, `_label`, `_seg` or `_segmentation`. A test image has one of the 14 official
names, or lies in a folder that is called something with test.
"""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from cdal.data.aperio import describe, read_instances
from cdal.data.cache import load_cases
from cdal.data.cases import CaseDataset
from cdal.data.dataset import Augmentation, Case, DatasetSpec, Preparation, Source, check_whole
from cdal.data.folds import MONUSEG_FOLDS, MONUSEG_TEST, VALIDATION_EVERY, monuseg_split
from cdal.data.images import ENDINGS, find_files, read_image, read_mask
from cdal.data.preparation import prepare_image, prepare_label
from cdal.errors import InputError

_VERSION = 2  # of the reader; a higher one has cached cases decoded again
_MASK_FOLDER = re.compile(r"mask|label(?!l?ed)|binary|ground.?truth", re.IGNORECASE)
_MASK_NAME = re.compile(r"_(bin_mask|mask|binary|label|seg|segmentation)$", re.IGNORECASE)
_TEST_FOLDER = re.compile(r"(?<!la)test", re.IGNORECASE)  # not "latest"
_CORNERS_TOO = np.ones((3, 3), bool)  # pixels that touch at a corner are connected
_LARGEST = 8192  # pixels


class MonusegDataset(CaseDataset):
    """All images of a folder, with every nucleus its own instance."""

    def __init__(self, folder: Path, *, size: int = 512, sample_size: int = 256) -> None:
        """Decode and check every image and annotation.

        Args:
            folder: where the downloads were unpacked.
            size: side that images and masks are resized to, pixels; 0 keeps the native resolution.
            sample_size: side of the training crops and of the evaluation's windows, pixels.

        Raises:
            InputError: an option out of its range, or anything wrong in the files; the message names the file.
        """
        check_whole("monuseg", "size", size, 0, _LARGEST)
        check_whole("monuseg", "sample_size", sample_size, 1, size or _LARGEST)
        preparation = Preparation(
            size=(size, size) if size else None, scaling="bytes", mean=(142.07, 98.48, 132.96), std=(65.78, 57.05, 57.78)
        )
        folder = folder.resolve()
        sources = find_sources(folder)
        recipe = {"reader": "monuseg", "version": _VERSION, "size": size}
        cases = load_cases(sources, partial(read_case, preparation=preparation), recipe)
        test = [source.id for source in sources if _is_test(source, folder)]
        training = [source.id for source in sources if source.id not in test]
        outlines = [source.labels[0] for source in sources if _is_outline(source.labels[0])]
        spec = DatasetSpec(
            name="monuseg",
            image_channels=3,
            classes=("nucleus",),
            image_size=sample_size,
            volumetric=False,
            folds=MONUSEG_FOLDS,
            protocol=(
                f"{len(training)} training images (by name, the first of every {VALIDATION_EVERY} validates, the others train) and "
                f"{len(test)} test images; {_annotations(len(outlines), len(sources) - len(outlines))}; "
                + (f"resized to {size} x {size}" if size else "native resolution")
                + f", random {sample_size} px crops, flips, affine, colour jitter; any nucleus against background"
            ),
            licence="CC BY-NC-SA 4.0; cite Kumar et al. 2017 and Kumar et al. 2020",
            notes=describe(outlines),
            preparation=preparation,
            augmentation=Augmentation(
                flips=True, rotation=22.0, scale=(0.75, 1.25), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
            ),
        )
        super().__init__(spec, cases, partial(monuseg_split, training, test), balanced=False)


def find_sources(folder: Path) -> list[Source]:
    """Images with their annotations, in name order; outlines count where an image has a mask as well.

    Raises:
        InputError: no images, an image without annotation or the other way round, or two files for one name.
    """
    images: list[Path] = []
    masks: list[Path] = []
    outlines: list[Path] = []
    for path in find_files(folder, (*ENDINGS, ".xml")):
        in_mask_folder = any(_MASK_FOLDER.search(part) for part in path.parent.relative_to(folder).parts)
        kind = outlines if _is_outline(path) else masks if in_mask_folder or _MASK_NAME.search(path.stem) else images
        kind.append(path)
    named_images = _by_name((path.stem, path) for path in images)
    named_masks = _by_name((path.stem if path.stem in named_images else _MASK_NAME.sub("", path.stem), path) for path in masks)
    annotations = named_masks | _by_name((path.stem, path) for path in outlines)
    if not images:
        raise InputError(f"{folder} has no images; --data must be the folder that the MoNuSeg downloads were unpacked to")
    for name, path in annotations.items():
        if name not in named_images:
            raise InputError(f"{path} has no image; {name}.tif should be in the folder")
    for name, path in named_images.items():
        if name not in annotations:
            raise InputError(f"{path} has no annotation; {name}.xml (Aperio outlines) or {name}_mask.png should be in the folder")
    return [Source(id=name, images=(path,), labels=(annotations[name],)) for name, path in sorted(named_images.items())]


def read_case(source: Source, preparation: Preparation) -> Case:
    """An image, 8-bit RGB, with its nuclei.

    Raises:
        InputError: a damaged file, another kind of image, outlines that do not fit it, or a mask of another shape or with other
            than two values.
    """
    (image_path,), (label_path,) = source.images, source.labels
    pixels = read_image(image_path)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        kind = "colour" if pixels.ndim == 3 else "grey"
        raise InputError(f"{image_path} is a {kind} image of the type {pixels.dtype}; RGB images of 8 bits are needed")
    shape = pixels.shape[:2]
    instances = read_instances(label_path, shape) if _is_outline(label_path) else _read_mask(label_path, shape)
    prepared = prepare_label(instances, preparation)
    return Case(
        id=source.id,
        image=prepare_image(pixels, preparation, channels=3),
        label=(prepared > 0).to(torch.uint8),
        instances=prepared,
    )


def _by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, path in named:
        if name in files:
            raise InputError(f"{path} and {files[name]} both belong to the image {name}; keep one of them")
        files[name] = path
    return files


def _is_outline(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def _is_test(source: Source, folder: Path) -> bool:
    folders = source.images[0].parent.relative_to(folder).parts
    return source.id in MONUSEG_TEST or any(_TEST_FOLDER.search(part) for part in folders)


def _annotations(outlined: int, masked: int) -> str:
    """What the nuclei were taken from, in words."""
    outlines, masks = "instances from Aperio outlines", "instances are the connected parts of masks"
    return f"{outlines} ({outlined}) or {masks} ({masked})" if outlined and masked else outlines if outlined else masks


def _read_mask(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Numbered connected parts of a mask of two values."""
    values = read_mask(path)
    if values.shape != shape:
        raise InputError(f"{path} has the shape {values.shape}, but its image has {shape}")
    found = np.unique(values)
    if found[0] != 0 or len(found) > 2:
        listed = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise InputError(f"{path} holds the values {listed}; a mask of nuclei holds 0 and one other value")
    parts: npt.NDArray[np.int32] = ndimage.label(values, _CORNERS_TOO, output=np.int32)[0]
    return parts
