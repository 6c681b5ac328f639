"""DICOM: a folder with the slices of one series, as one volume. Needs pydicom (`pip install pydicom`).

    series = open_series(Path("patient_1/CT"))      # from the headers: which slices in which order, shape and affine
    voxels = read_voxels(series)

Axes: X columns and Y rows of a slice, Z slices. Headers are a stranger's: whatever a volume cannot be made of without a guess is
refused, and dcm2niix, which knows the habits of every scanner, is named as the way out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cdal.errors import InputError, one_line

_LARGEST = 8 * 2**30  # bytes of decoded voxels
_ENDINGS = ("", ".dcm", ".ima", ".dicom")  # of files that must be slices; others may lie beside them
_UNEVEN = 0.05  # of the usual distance of slices, by which a distance may differ from it
_TILTED = 0.5  # degrees
_SAME = 1e-3  # by which directions and spacings of one series differ at most
_DEFLATED = "1.2.840.10008.1.2.1.99"  # unfolds whole before any of it can be checked
_TAGS = [
    "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "SliceThickness", "Modality",
]  # fmt: skip
_CONVERT = "convert the series with dcm2niix"


class _Slice(NamedTuple):
    """What the header of one file says."""

    path: Path
    series: str
    size: tuple[int, int]
    """(columns, rows)."""
    spacing: npt.NDArray[np.float64]
    """Distance of columns and of rows, mm (2,)."""
    directions: npt.NDArray[np.float64]
    """In which columns and rows follow each other, unit vectors to the left, to the back and up (2, 3)."""
    position: npt.NDArray[np.float64]
    """Of the first pixel, mm to the left, to the back and up (3,)."""
    scale: tuple[float, float]
    """Slope and intercept."""
    thickness: float


class Series(NamedTuple):
    """The slices of a volume in their order, and its grid."""

    slices: tuple[_Slice, ...]
    shape: tuple[int, int, int]
    """(X, Y, Z)."""
    affine: npt.NDArray[np.float64]
    """(4, 4): voxel indices to mm to the right, to the front and up, as NIfTI has it."""


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM files do. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def open_series(folder: Path) -> Series:
    """The slices that lie in a folder, by their places in the patient; their names and numbers decide nothing.

    Raises:
        InputError: pydicom is not installed, a folder without DICOM files, files that are damaged, hold several frames, colours or
            other things than images, belong to several series, or lie unevenly or askew.
    """
    paths = _files(folder)
    headers = [_read_header(path) for path in paths]
    first = headers[0]
    for header in headers:
        if header.series != first.series:
            raise InputError(
                f"{folder} holds several series ({first.path.name} and {header.path.name}); give each a folder of its own"
            )
        for what, same in (
            ("size", header.size == first.size),
            ("pixel spacing", np.allclose(header.spacing, first.spacing, rtol=_SAME)),
            ("orientation", np.allclose(header.directions, first.directions, atol=_SAME)),
        ):
            if not same:
                raise InputError(f"{header.path} has another {what} than {first.path.name}; take scouts out, or {_CONVERT}")
    across = np.cross(*first.directions)
    slices = sorted(headers, key=lambda header: float(header.position @ across))
    step = _step(folder, slices, across)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = to_ras @ np.column_stack([*(first.spacing[:, None] * first.directions), step])
    affine[:3, 3] = to_ras @ slices[0].position
    return Series(tuple(slices), (*first.size, len(slices)), affine)


def read_voxels(series: Series) -> npt.NDArray[Any]:
    """The values (X, Y, Z) of all slices, slope and intercept applied: int32 where these are whole numbers, else float32.

    Raises:
        InputError: pixels that are damaged, compressed in a way that pydicom cannot undo, or too many.
    """
    from pydicom import dcmread

    whole = all(number.is_integer() for header in series.slices for number in header.scale)
    size = 4 * int(np.prod(series.shape, dtype=np.int64))
    if size > _LARGEST:
        raise InputError(
            f"{series.slices[0].path.parent} declares {size / 2**30:.0f} GiB of voxels; at most {_LARGEST // 2**30} GiB are read"
        )
    voxels = np.empty(series.shape, np.int32 if whole else np.float32)
    for z, header in enumerate(series.slices):
        with _told(header.path):
            pixels = dcmread(header.path).pixel_array
            if pixels.shape != header.size[::-1]:
                raise ValueError(f"its pixels have the shape {pixels.shape}, not that of its header")
            slope, intercept = header.scale
            values = pixels.T.astype(np.float64) * slope + intercept
            if np.abs(values).max() >= 2**31:
                raise ValueError("its values take more than 32 bits")
            voxels[:, :, z] = values
    return voxels


def _files(folder: Path) -> list[Path]:
    """The DICOM files of a folder; a file that should be one and is not might be a slice that is lost."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        found = {path: is_dicom(path) for path in paths if path.name.upper() != "DICOMDIR"}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not any(found.values()):
        raise InputError(f"{folder} cannot be read: Is a directory without DICOM files")
    for path, dicom in found.items():
        if not dicom and path.suffix.lower() in _ENDINGS:
            raise InputError(
                f"{path} is not a DICOM file, though it lies among slices; remove it, or copy it anew if it is damaged"
            )
    return [path for path, dicom in found.items() if dicom]


def _read_header(path: Path) -> _Slice:
    """The header of a file, its numbers checked."""
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise InputError(f"{path.parent} holds DICOM files, which take pydicom: `pip install pydicom`, or {_CONVERT}") from None
    with _told(path):
        if read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
            raise ValueError("it is deflated")
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        kind = header.get("Modality", "?")
        if "ImagePositionPatient" not in header or "Rows" not in header:
            raise ValueError(f"it is no slice with a place in the patient, but of the kind {kind}")
        if int(header.get("NumberOfFrames") or 1) != 1:
            raise ValueError(f"it holds {header.NumberOfFrames} frames")
        if header.get("SamplesPerPixel", 1) != 1 or header.get("PhotometricInterpretation", "") != "MONOCHROME2":
            raise ValueError(f"its pixels are {header.get('PhotometricInterpretation')}, not MONOCHROME2")
        rows_apart, columns_apart = _numbers(header, "PixelSpacing", 2)
        directions = _numbers(header, "ImageOrientationPatient", 6).reshape(2, 3)
        if min(rows_apart, columns_apart) <= 0 or not np.allclose(directions @ directions.T, np.eye(2), atol=_SAME):
            raise ValueError("its pixel spacing or its orientation is none")
        slope, intercept = (
            float(_numbers(header, f"Rescale{key}", 1, default)[0]) for key, default in (("Slope", 1), ("Intercept", 0))
        )
        return _Slice(
            path=path,
            series=str(header.get("SeriesInstanceUID", "")),
            size=(int(header.Columns), int(header.Rows)),
            spacing=np.array([columns_apart, rows_apart]),
            directions=directions,
            position=_numbers(header, "ImagePositionPatient", 3),
            scale=(slope, intercept),
            thickness=float(_numbers(header, "SliceThickness", 1, 1)[0]),
        )


def _numbers(header: Any, key: str, count: int, default: float | None = None) -> npt.NDArray[np.float64]:
    """So many finite numbers of a header (count,)."""
    value = header.get(key)
    if value in (None, "") and default is not None:
        value = default
    numbers = np.atleast_1d(np.asarray(value, np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"its {key} is {value}")
    return numbers


def _step(folder: Path, slices: Sequence[_Slice], across: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The way from a slice to the next, mm (3,)."""
    if len(slices) == 1:
        step: npt.NDArray[np.float64] = across * (slices[0].thickness or 1.0)
        return step
    positions = np.array([header.position for header in slices])
    gaps = np.diff(positions @ across)
    usual, twins = float(np.median(gaps)), int(gaps.argmin())
    odd = int(np.abs(gaps - usual).argmax())
    if gaps[twins] < _SAME:
        names = f"{slices[twins].path.name} and {slices[twins + 1].path.name}"
        raise InputError(
            f"{folder} holds two slices of one place ({names}), of several echoes or times perhaps; give each a folder"
        )
    if abs(gaps[odd] - usual) > _UNEVEN * usual:
        names = f"{slices[odd].path.name} and {slices[odd + 1].path.name}"
        raise InputError(
            f"{folder} misses slices: {names} lie {gaps[odd]:.4g} mm apart, the others {usual:.4g}; add them, or {_CONVERT}"
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    tilt = np.degrees(np.arccos(np.clip(step @ across / np.linalg.norm(step), -1, 1)))
    if tilt > _TILTED:
        raise InputError(
            f"{folder} holds slices that are tilted against their stack by {tilt:.1f} degrees (gantry tilt); {_CONVERT}"
        )
    return step


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever pydicom raises where a file is damaged or asks for more than it can, in one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as a slice ({one_line(error)}); {_CONVERT}") from error
