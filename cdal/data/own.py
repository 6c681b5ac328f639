"""Your own data, without code: `images/` and `masks/`, nnU-Net raw or Decathlon layout (see `cdal.data.layouts`).

    dataset = open_dataset("own", "MyData")
    dataset.spec.classes, dataset.spec.image_channels, dataset.spec.volumetric

Classes are those that dataset.json names, or else the values found in the masks: one value besides 0 is the class "foreground",
several become classes in ascending order. Images keep their channels; 8-bit ones stay bytes, others and volumes are scaled by their
percentiles. Volumes train by axial slices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cdal.data.cache import load_cases
from cdal.data.cases import CaseDataset
from cdal.data.dataset import Augmentation, Case, DatasetSpec, LabelArray, Preparation, Source, check_whole
from cdal.data.folds import PARTITION_NAMES, PARTITIONS, partitioned_split
from cdal.data.images import read_image, read_mask
from cdal.data.layouts import Layout, find_layout, plain
from cdal.data.preparation import prepare_image, prepare_label, prepare_volume
from cdal.errors import InputError

_MOST_VALUES = 32  # in masks that no dataset.json explains
_STEP, _LARGEST_SAMPLE = 32, 256  # pixels
_AUGMENTATION = Augmentation(rotation=15, scale=(0.85, 1.15), brightness=0.2, contrast=0.2)  # no flips: left and right may matter


class Form(NamedTuple):
    """What the images of all cases must have in common."""

    channels: int
    is_bytes: bool

    @classmethod
    def of(cls, case: Case) -> Form:
        """The form of a case's image."""
        return cls(len(case.image), case.image.dtype == torch.uint8)


class OwnDataset(CaseDataset):
    """The cases of a folder in a known layout."""

    def __init__(self, folder: Path, *, longest_side: int = 512, sample_size: int = 0) -> None:
        """Decode and check every case.

        Args:
            folder: where the files are.
            longest_side: larger 2D images are reduced until their longer side has this many pixels; volumes keep their grid.
            sample_size: side of the training samples, pixels; 0 takes the smallest multiple of 32 that holds every image or slice,
                256 at most.

        Raises:
            InputError: an option out of its range, or anything wrong with the folder or a file; the message names it.
        """
        check_whole("own", "longest_side", longest_side, 16, 8192)
        if sample_size != 0:
            check_whole("own", "sample_size", sample_size, 16, 1024)
        layout = find_layout(folder)
        _refuse(layout.problems)
        sources = sorted(layout.sources, key=lambda source: source.id)
        declared = {"channels": _declared(layout.channels), "classes": _declared(layout.classes)}
        recipe = {"reader": "own", "version": 1, "longest_side": None if layout.volumetric else longest_side} | declared
        cases = load_cases(sources, reader(layout, longest_side), recipe)
        _refuse(disagreements(sources, [Form.of(case) for case in cases]))
        classes = layout.classes
        if classes is None:
            classes, numbers = found_classes(folder, [label_values(case) for case in cases])
            if numbers.max() != numbers.argmax():  # else the values are the classes, and labels stay maps of files
                cases = [replace(case, label=torch.from_numpy(numbers[case.label.numpy()])) for case in cases]

        longest = max(max(case.label.shape[1:]) for case in cases)
        size = sample_size or min(-(-longest // _STEP) * _STEP, _LARGEST_SAMPLE)
        spec = DatasetSpec(
            name=re.sub(r"[^\w.-]+", "_", plain(folder.resolve().name)) or "own",
            image_channels=len(cases[0].image),
            classes=classes,
            image_size=size,
            volumetric=layout.volumetric,
            folds=PARTITION_NAMES,
            protocol=_protocol(layout, cases, size, longest_side),
            licence=layout.licence,
            preparation=_preparation(cases[0].image.dtype == torch.uint8, None if layout.volumetric else longest_side),
            augmentation=_AUGMENTATION,
        )
        super().__init__(spec, cases, partial(partitioned_split, [case.id for case in cases]))


def reader(layout: Layout, longest_side: int) -> Callable[[Source], Case]:
    """The function that decodes and checks one case of a layout; labels stay the values of the masks where no class is declared."""
    channels, classes = _declared(layout.channels), _declared(layout.classes)
    if layout.volumetric:
        return partial(read_volume_case, channels=channels, classes=classes, preparation=_preparation(False, None))
    return partial(_read_image_case, channels=channels, classes=classes, longest_side=longest_side)


def read_volume_case(source: Source, *, channels: int | None, classes: int | None, preparation: Preparation) -> Case:
    """A case from NIfTI files. `channels` and `classes` are how many dataset.json declares.

    Raises:
        InputError: files that are damaged, do not fit each other, or do not hold what is declared.
    """
    from cdal.data.volumes import read_labelled  # needs nibabel, which images do without

    voxels, values, spacing = read_labelled(source, channels)
    return Case(
        id=source.id,
        image=prepare_volume(voxels, preparation),
        label=torch.from_numpy(_checked_values(source.labels[0], values, classes)),
        spacing=spacing,
    )


def disagreements(sources: Sequence[Source], forms: Sequence[Form]) -> list[str]:
    """A sentence for every case whose image has another form than the first one."""
    first, first_name = forms[0], sources[0].images[0].name
    found = []
    for source, form in zip(sources, forms, strict=True):
        if form.channels != first.channels:
            mine, theirs = _count(form.channels, "channel"), str(first.channels)
        elif form.is_bytes != first.is_bytes:
            mine, theirs = ("8-bit values" if one.is_bytes else "values of more bits" for one in (form, first))
        else:
            continue
        found.append(f"{source.images[0]} has {mine}, but {first_name} has {theirs}; all images of a dataset need the same")
    return found


def label_values(case: Case) -> list[int]:
    """The different values of a label, in order."""
    return np.flatnonzero(_histogram(case.label.numpy())).tolist()


def found_classes(folder: Path, values: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], LabelArray]:
    """Classes from the values of all masks: their names, and the label (256,) that each value becomes.

    Raises:
        InputError: no value besides 0, or more than classes can be meant by.
    """
    distinct = sorted(set().union(*values) - {0})
    if not distinct:
        raise InputError(f"all masks in {folder} are empty; the pixels of a class need a value above 0")
    if len(distinct) >= _MOST_VALUES:
        raise InputError(
            f"the masks in {folder} hold {len(distinct) + 1} different values together; they look antialiased or continuous, "
            "and must hold whole class numbers"
        )
    numbers = np.zeros(256, np.uint8)
    numbers[distinct] = np.arange(1, len(distinct) + 1)
    return ("foreground",) if len(distinct) == 1 else tuple(f"value {value}" for value in distinct), numbers


def _read_image_case(source: Source, *, channels: int | None, classes: int | None, longest_side: int) -> Case:
    parts = [read_image(path) for path in source.images]
    for path, part in zip(source.images, parts, strict=True):
        if part.shape[:2] != parts[0].shape[:2]:
            raise InputError(f"{path} is {_size(part)}, but {source.images[0].name} of the same case is {_size(parts[0])}")
    pixels = parts[0] if len(parts) == 1 else np.dstack(parts)
    count = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels is not None and count != channels:
        raise InputError(f"{source.images[0]} has {_count(count, 'channel')}; dataset.json names {channels}")
    values = read_mask(source.labels[0])
    if values.shape != pixels.shape[:2]:
        raise InputError(f"{source.labels[0]} is {_size(values)}, but its image {source.images[0].name} is {_size(pixels)}")
    preparation = _preparation(pixels.dtype == np.uint8, longest_side)
    return Case(
        id=source.id,
        image=prepare_image(pixels, preparation, count),
        label=prepare_label(_checked_values(source.labels[0], values, classes), preparation),
    )


def _checked_values(path: Path, values: npt.NDArray[Any], classes: int | None) -> LabelArray:
    """Values of a mask as bytes: those that are declared, or else few whole numbers."""
    wrong = (values < 0) | (values > (255 if classes is None else classes))
    if values.dtype.kind == "f":
        wrong |= values != np.rint(values)
    if wrong.any():
        value = f"{values[wrong][0]:g}"
        if classes is not None:
            raise InputError(f"{path} has the label {value}; dataset.json declares 0 to {classes}")
        raise InputError(f"{path} has the value {value}; a mask must hold whole class numbers from 0 to 255")
    whole: LabelArray = values.astype(np.uint8)
    count = np.count_nonzero(_histogram(whole))
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    if classes is None and count > (2 if lossy else _MOST_VALUES):
        raise InputError(
            f"{path} holds {count} different values; it looks antialiased{', saved with loss' if lossy else ''} or continuous, "
            "and a mask must hold whole class numbers"
        )
    return whole


def _histogram(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How often each of 0..255 occurs; slice by slice, because NumPy widens what it counts to 64 bits."""
    total: npt.NDArray[np.int64] = sum((np.bincount(part.ravel(), minlength=256) for part in values), np.zeros(256, np.int64))
    return total


def _declared(names: Sequence[str] | None) -> int | None:
    return None if names is None else len(names)


def _preparation(is_bytes: bool, longest_side: int | None) -> Preparation:
    if is_bytes:
        return Preparation(longest_side=longest_side, scaling="bytes", mean=(127.5,), std=(127.5,))
    return Preparation(longest_side=longest_side, scaling="percentiles")


def _protocol(layout: Layout, cases: Sequence[Case], size: int, longest_side: int) -> str:
    if layout.volumetric:
        what = f"{len(cases)} volumes, LPI, on their own grid; axial slices"
    else:
        what = f"{len(cases)} images, reduced to at most {longest_side} px where larger; crops"
    values = (
        "8-bit values" if cases[0].image.dtype == torch.uint8 else "values from the 0.5th to the 99.5th percentile of each case"
    )
    change = _AUGMENTATION
    return (
        f"own data ({layout.kind}): {what} of {size} px, centred on foreground and background alike; {values} to [-1, 1]; "
        f"turned by up to {change.rotation:g} degrees, scaled by {change.scale[0]} to {change.scale[1]}, brightness and contrast "
        f"changed by up to {change.brightness:.0%}, no flips; in name order case i tests in fold i mod {PARTITIONS}, the first of "
        "every five others validates"
    )


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise InputError(problems[0])


def _size(pixels: npt.NDArray[Any]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} px"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
