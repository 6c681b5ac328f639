"""NIfTI volumes: read within bounds, turned to LPI, and turned back.

    volume = read_volume(Path("imagesTr/case_1.nii.gz"))
    array = to_dhw(volume)                      # (D, H, W) = (inferior, left, posterior): a slice [d] is an axial one
    stored = from_dhw(segment(array), volume)   # on the file's own grid; save it with volume.affine

Axes: X, Y and Z as a file stores them, C channels, D slices, H and W pixels of a slice. The axis "left" runs towards the left.
"""

import logging
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.volumeutils import apply_read_scaling

from cdal.data.dataset import Source
from cdal.errors import InputError

_LARGEST = 8 * 2**30  # bytes that a file may declare
_PIECE = 2**20  # bytes decompressed at once
_HEADERS: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}  # by the number that files start with
_GZIP = b"\x1f\x8b"
_APART = 0.5  # voxels by which the corners of an image and its label may lie apart

_silent = logging.Logger("nibabel headers", logging.CRITICAL + 1)  # oddities that matter are raised, and told in our own words


class Volume(NamedTuple):
    """Voxels on the stored grid, and the way from there to LPI."""

    voxels: npt.NDArray[Any]
    """(X, Y, Z), or (X, Y, Z, C) of a file of four axes."""
    affine: npt.NDArray[np.float64]
    """(4, 4): voxel indices to mm."""
    to_lpi: npt.NDArray[np.float64]
    """(3, 2): row i says which axis stored axis i becomes, and 1 or -1, its direction."""


def read_volume(path: Path) -> Volume:
    """Decode a NIfTI file to its last byte, so that damage is noticed wherever it is.

    No more is decompressed than the header declares, and no file that declares more than 8 GiB.

    Raises:
        InputError: a file that is missing, damaged or too large, has other axes, or voxels that are not finite plain numbers.
    """
    try:
        with np.errstate(all="ignore"):  # what a damaged header makes of numbers is told below
            voxels, affine = _decode(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or _one_line(error)}") from error
    except Exception as error:  # nibabel lets through whatever its parsing of damaged bytes happens to raise
        raise InputError(f"{path} is not a readable NIfTI file: {_one_line(error)}") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim not in (3, 4) or not voxels.size:
        raise InputError(f"{path} has the shape {voxels.shape}; a volume of three axes, or four with the channels last, is needed")
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path} has voxels of the type {voxels.dtype}; plain numbers are needed")
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(voxels.astype(np.float32, copy=False)).all()
        if not finite:
            raise InputError(f"{path} has voxels that are NaN or infinite (as 32-bit numbers)")
    return Volume(voxels, affine, _orientation(path, affine))


def to_dhw(volume: Volume) -> npt.NDArray[Any]:
    """The voxels as (D, H, W) = (inferior, left, posterior), or (C, D, H, W) of a file of four axes."""
    lpi = apply_orientation(volume.voxels, volume.to_lpi)  # type: ignore[no-untyped-call]
    array: npt.NDArray[Any] = np.ascontiguousarray(lpi.transpose(*range(3, lpi.ndim), 2, 0, 1))
    return array


def from_dhw(array: npt.NDArray[Any], volume: Volume) -> npt.NDArray[Any]:
    """Inverse of `to_dhw`: an array (D, H, W) or (C, D, H, W) on the grid of a volume, to be saved with its affine."""
    last = array.ndim
    lpi = array.transpose(last - 2, last - 1, last - 3, *range(last - 3))
    back = np.empty_like(volume.to_lpi)
    back[volume.to_lpi[:, 0].astype(int)] = [(stored, flip) for stored, (_, flip) in enumerate(volume.to_lpi)]
    stored: npt.NDArray[Any] = np.ascontiguousarray(apply_orientation(lpi, back))  # type: ignore[no-untyped-call]
    return stored


def spacing_dhw(volume: Volume) -> tuple[float, float, float]:
    """Distance of neighbouring voxels along D, H and W, mm."""
    sizes = voxel_sizes(volume.affine)  # type: ignore[no-untyped-call]
    left, posterior, inferior = (float(sizes[axis]) for axis in np.argsort(volume.to_lpi[:, 0]))
    return inferior, left, posterior


def read_labelled(
    source: Source, channels: int | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[float, float, float]]:
    """The voxels (C, D, H, W), label values (D, H, W) and spacing of a case whose files share one grid.

    Raises:
        InputError: what `read_volume` raises, images of other than the declared number of channels, a label of four axes, or files
            of different shape, orientation or place.
    """
    first = read_volume(source.images[0])
    arrays = []
    for path in source.images:
        volume = first if path == source.images[0] else read_volume(path)
        _check_grid(path, volume, source.images[0], first)
        array = to_dhw(volume)
        arrays.append(array[None] if array.ndim == 3 else array)
    image = np.concatenate(arrays)
    if channels is not None and len(image) != channels:
        needed = f"{channels} channel{'' if channels == 1 else 's'}"
        raise InputError(f"{source.images[0]} has the shape {first.voxels.shape}, but dataset.json names {needed}")
    label = read_volume(source.labels[0])
    if label.voxels.ndim != 3:
        raise InputError(f"{source.labels[0]} has the shape {label.voxels.shape}; a label of three axes is needed")
    _check_grid(source.labels[0], label, source.images[0], first)
    return image, to_dhw(label), spacing_dhw(first)


def _check_grid(path: Path, volume: Volume, image_path: Path, image: Volume) -> None:
    """Refuse a volume whose voxels are not where those of its image are."""
    if volume.voxels.shape[:3] != image.voxels.shape[:3]:
        raise InputError(f"{path} has the shape {volume.voxels.shape}, but its image {image_path.name} has {image.voxels.shape}")
    if not np.array_equal(volume.to_lpi, image.to_lpi):
        raise InputError(f"{path} has another orientation than its image {image_path.name}")
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.voxels.shape[:3]) - 1)
    gaps = apply_affine(volume.affine, corners) - apply_affine(image.affine, corners)  # type: ignore[no-untyped-call]
    apart = float(np.linalg.norm(gaps, axis=1).max())
    if apart > _APART * voxel_sizes(image.affine).min():  # type: ignore[no-untyped-call]
        raise InputError(f"{path} lies elsewhere than its image {image_path.name}: their affines put corners {apart:.3g} mm apart")


def _decode(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Voxels and affine of a file; anything may be raised where it is damaged."""
    data = bytearray()
    pieces = _pieces(path)
    while len(data) < max(_HEADERS):
        piece = next(pieces, None)
        if piece is None:
            break
        data += piece
    if not data:
        raise ValueError("it is empty")
    header = _header(bytes(data[: max(_HEADERS)]))
    start, shape, dtype = header.get_data_offset(), tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    declared = start + math.prod(shape) * dtype.itemsize
    if declared > _LARGEST:
        raise InputError(f"{path} declares {declared / 2**30:.0f} GiB of voxels; at most {_LARGEST // 2**30} GiB are read")
    for piece in pieces:
        data += piece
        if len(data) > declared:
            break
    if len(data) != declared:
        raise ValueError(f"it holds {'more' if len(data) > declared else 'less'} than its header declares ({declared} bytes)")
    voxels: npt.NDArray[Any] = np.ndarray(shape, dtype, data, start, order="F")
    slope, inter = header.get_slope_inter()
    if slope is not None:
        voxels = apply_read_scaling(voxels, slope, inter)
    return voxels, np.asarray(header.get_best_affine(), np.float64)


def _header(data: bytes) -> Any:
    """The header that data start with, checked and repaired as nibabel does when it loads a file, but silently."""
    for order in ("<", ">"):
        size = int.from_bytes(data[:4], "little" if order == "<" else "big")
        if size in _HEADERS:
            if len(data) < size:
                raise ValueError("its header is cut")
            header = _HEADERS[size](data[:size], order, check=False)
            header.check_fix(_silent)
            return header
    raise ValueError("it has no NIfTI header")


def _pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, decompressed and verified where it is compressed, in pieces of bounded size."""
    with path.open("rb") as file:
        start = file.read(_PIECE)
        if not start.startswith(_GZIP):
            while start:
                yield start
                start = file.read(_PIECE)
            return
        rest, member = start, zlib.decompressobj(wbits=31)  # 31: gzip, its length and checksum verified at the end
        while rest:
            if member.eof:  # a file may be several archives in a row; zeros fill its last block on some media
                if not rest.strip(b"\0"):
                    return
                member = zlib.decompressobj(wbits=31)
            yield member.decompress(rest, _PIECE)
            rest = member.unconsumed_tail or member.unused_data or file.read(_PIECE)
        if not member.eof:
            raise ValueError("its end is missing")


def _orientation(path: Path, affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The axis swaps and flips that turn an array of this affine to LPI."""
    try:
        stored = io_orientation(affine)  # type: ignore[no-untyped-call]
    except np.linalg.LinAlgError:
        stored = np.full((3, 2), np.nan)
    if not np.isfinite(stored).all() or not np.isfinite(affine).all():
        raise InputError(f"{path} has an affine that tells no orientation")
    turn: npt.NDArray[np.float64] = ornt_transform(stored, axcodes2ornt("LPI"))  # type: ignore[no-untyped-call]
    return turn


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
