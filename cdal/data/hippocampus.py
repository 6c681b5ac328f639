"""The hippocampus volumes of the Medical Segmentation Decathlon (Task04), or any folder of that layout with one modality.

    FOLDER/dataset.json               labels, and the list of training pairs in the order that the folds are cut from
    FOLDER/imagesTr/*.nii.gz
    FOLDER/labelsTr/*.nii.gz

All volumes are decoded and checked when the dataset is opened, before any training. Arrays are turned to LPI and then laid out as
(D, H, W) = (inferior, left, posterior), so that a slice [d] is an axial one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from nibabel.affines import voxel_sizes
from nibabel.imageglobals import logger
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from cdal.data.cases import CaseDataset
from cdal.data.dataset import Case, DatasetSpec
from cdal.data.folds import PARTITION_NAMES, PARTITIONS, partitioned_split
from cdal.errors import InputError

_CROP = 32  # voxels, as published
_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540  # bytes; a NIfTI file starts with this number
_TO_DHW = (2, 0, 1)  # (left, posterior, inferior) -> (inferior, left, posterior)


class HippocampusDataset(CaseDataset):
    """All labelled volumes of a Decathlon folder."""

    def __init__(self, folder: Path) -> None:
        """Decode and check every volume.

        Raises:
            InputError: anything wrong with the folder, its dataset.json or a volume; the message names the file.
        """
        folder = folder.resolve()
        listing = _read_listing(folder)
        with _quiet_nibabel(), ThreadPoolExecutor(max_workers=2) as pool:
            cases = list(pool.map(lambda pair: _read_case(pair, len(listing.classes)), listing.pairs))
        spec = DatasetSpec(
            name="hippocampus",
            image_channels=1,
            classes=listing.classes,
            image_size=_CROP,
            volumetric=True,
            sample_depth=_CROP,
            folds=PARTITION_NAMES,
            protocol=(
                f"{len(cases)} volumes, LPI, intensity of each volume to [-1, 1]; axial slices of balanced {_CROP}-voxel crops; "
                f"case i tests in fold i mod {PARTITIONS} (published partitions), the first of every five others validates"
            ),
            licence=listing.licence,
        )
        super().__init__(spec, cases, partial(partitioned_split, [case.id for case in cases]))


class _Pair(NamedTuple):
    id: str
    image: Path
    label: Path


class _Listing(NamedTuple):
    classes: tuple[str, ...]
    pairs: list[_Pair]
    licence: str


class _Volume(NamedTuple):
    """Voxels on the stored grid, and the way from there to LPI."""

    voxels: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    to_lpi: npt.NDArray[np.float64]


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """Keep nibabel from printing each oddity of a header: what matters is raised, and told in our own words."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _read_listing(folder: Path) -> _Listing:
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --data must be the folder that holds dataset.json, imagesTr and labelsTr")
    if not path.is_file():
        inner = next((child.parent for child in sorted(folder.glob("*/dataset.json"))), None)
        hint = f"did you mean {inner}?" if inner else "--data must be the folder that holds dataset.json, imagesTr and labelsTr"
        raise InputError(f"{folder} has no dataset.json; {hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {_one_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise InputError(f'{path} has no list "training" of image and label files')
    classes = _classes(path, content.get("labels"))
    pairs = _pairs(path, content["training"])
    return _Listing(classes, pairs, str(content.get("licence") or "not stated"))


def _classes(path: Path, labels: object) -> tuple[str, ...]:
    """Names of the foreground classes, from {"0": "background", "1": ...}."""
    names = labels if isinstance(labels, dict) else {}
    if len(names) < 2 or set(names) != {str(value) for value in range(len(names))}:
        raise InputError(f'{path} must give "labels" as {{"0": "background", "1": NAME, ...}} without gaps, not {_short(labels)}')
    if len(names) > 256:
        raise InputError(f"{path} declares {len(names)} labels; at most 256 are supported")
    classes = tuple(str(names[str(value)]).lower() for value in range(1, len(names)))
    if len(set(classes)) < len(classes):
        raise InputError(f"{path} gives two classes the same name: {', '.join(classes)}")
    return classes


def _pairs(path: Path, entries: Sequence[object]) -> list[_Pair]:
    pairs: dict[str, _Pair] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise InputError(f'{path}: every training case must be {{"image": FILE, "label": FILE}}, not {_short(entry)}')
        if Path(entry["image"]).name.startswith("._"):  # left by macOS archives; not an image
            continue
        image, label = (_inside(path, entry[key]) for key in ("image", "label"))
        case_id = Path(entry["image"]).name.removesuffix(".gz").removesuffix(".nii")
        if case_id in pairs:
            raise InputError(f"{path} lists the case {case_id!r} twice")
        pairs[case_id] = _Pair(case_id, image, label)
    if len(pairs) < PARTITIONS:
        raise InputError(f"{path} lists {len(pairs)} training cases; the {PARTITIONS} folds need at least {PARTITIONS}")
    return list(pairs.values())


def _inside(listing: Path, name: str) -> Path:
    """The file that dataset.json names, which must exist within the folder."""
    try:
        path = (listing.parent / name).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{listing} names {_short(name)}, which is no usable path: {_one_line(error)}") from error
    if not path.is_relative_to(listing.parent):
        raise InputError(f"{listing} names {_short(name)}, which leads out of the folder")
    if not found:
        raise InputError(f"{path} is missing; {listing.name} lists it")
    return path


def _read_case(pair: _Pair, num_classes: int) -> Case:
    image, label = _read_volume(pair.image), _read_volume(pair.label)
    if image.voxels.shape != label.voxels.shape:
        raise InputError(f"{pair.label} has the shape {label.voxels.shape}, but its image has {image.voxels.shape}")
    if not np.array_equal(image.to_lpi, label.to_lpi):
        raise InputError(f"{pair.label} has another orientation than its image {pair.image.name}")
    values = _dhw(label)
    wrong = values[(values != np.rint(values)) | (values < 0) | (values > num_classes)]
    if wrong.size:
        raise InputError(f"{pair.label} has the label {wrong[0]:g}; dataset.json declares 0 to {num_classes}")
    sizes = voxel_sizes(image.affine)  # type: ignore[no-untyped-call]
    axes = np.argsort(image.to_lpi[:, 0])  # which stored axis became left, posterior, inferior
    left, posterior, inferior = (float(sizes[axis]) for axis in axes)
    return Case(
        id=pair.id,
        image=torch.from_numpy(_to_unit_range(_dhw(image))[None]),
        label=torch.from_numpy(values.astype(np.uint8)),
        spacing=(inferior, left, posterior),
    )


def _read_volume(path: Path) -> _Volume:
    """Decode a NIfTI file to the last byte, so that a damaged archive is noticed wherever the damage is."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)  # checks length and checksum, which reading just the voxels would not
        size = {data[:4]} & {_NIFTI2_HEADER.to_bytes(4, "little"), _NIFTI2_HEADER.to_bytes(4, "big")}
        image = (nibabel.Nifti2Image if size else nibabel.Nifti1Image).from_bytes(data)
        voxels, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, np.float64)
    except Exception as error:  # nibabel lets through whatever its parsing of damaged bytes happens to raise
        raise InputError(f"{path} is not a readable NIfTI file: {_one_line(error)}") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3 or not voxels.size:
        raise InputError(f"{path} has the shape {voxels.shape}; a volume of three axes is needed")
    if not (np.issubdtype(voxels.dtype, np.integer) or np.issubdtype(voxels.dtype, np.floating)):
        raise InputError(f"{path} has voxels of the type {voxels.dtype}; plain numbers are needed")
    if not np.isfinite(voxels).all():
        raise InputError(f"{path} has voxels that are NaN or infinite")
    return _Volume(voxels, affine, _orientation(path, affine))


def _orientation(path: Path, affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The axis swaps and flips that turn an array of this affine to LPI: row i says where stored axis i goes, and its direction."""
    try:
        stored = io_orientation(affine)  # type: ignore[no-untyped-call]
    except np.linalg.LinAlgError:
        stored = np.full((3, 2), np.nan)
    if not np.isfinite(stored).all() or not np.isfinite(affine).all():
        raise InputError(f"{path} has an affine that tells no orientation")
    turn: npt.NDArray[np.float64] = ornt_transform(stored, axcodes2ornt("LPI"))  # type: ignore[no-untyped-call]
    return turn


def _dhw(volume: _Volume) -> npt.NDArray[Any]:
    turned = apply_orientation(volume.voxels, volume.to_lpi)  # type: ignore[no-untyped-call]
    array: npt.NDArray[Any] = np.ascontiguousarray(turned.transpose(_TO_DHW))
    return array


def _to_unit_range(voxels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Lowest value to -1, highest to 1; a volume of one value becomes -1, as scaling to [0, 1] leaves 0."""
    values = voxels.astype(np.float64)
    low, high = values.min(), values.max()
    scaled: npt.NDArray[np.float32] = (2 * (values - low) / max(high - low, np.finfo(np.float64).tiny) - 1).astype(np.float32)
    return scaled


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
