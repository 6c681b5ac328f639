"""Volumes, NIfTI files or folders of DICOM slices: read within bounds, turned to LPI, and turned back.

    volume = read_volume(Path("imagesTr/case_1.nii.gz"))
    array = to_dhw(volume)                      # (D, H, W) = (inferior, left, posterior): a slice [d] is an axial one
    stored = from_dhw(segment(array), volume)   # on the file's own grid; save it with volume.affine

Axes: X, Y and Z as a file stores them, C channels, D slices, H and W pixels of a slice. The axis "left" runs towards the left.
Which other slices may be cut, `cdal.data.geometry` knows.
"""

import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine, obliquity, voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt2axcodes, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from cdal.data.dataset import Source
from cdal.data.dicom import open_series, read_voxels
from cdal.data.geometry import Grid
from cdal.errors import InputError, one_line

_LARGEST = 8 * 2**30  # bytes that a file may declare
_PIECE = 2**20  # bytes decompressed at once
_HEADERS: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}  # by the number that files start with
_GZIP = b"\x1f\x8b"
_APART = 0.5  # voxels by which the corners of an image and its label may lie apart
_TURNED = 0.5  # degrees that are worth a word
_OBLIQUE = 10.0  # degrees
_PERPENDICULAR = 0.01  # cosine of the angle of two axes that are
_STRETCHED = 0.02  # by which sizes of voxels may differ and still be one
_WHOLE = 1e-3  # by which a label may be off its whole number: scl_slope is a 32-bit number

_CONFLICT = "sform and qform put it in two places; the sform is used"
_PLACELESS = "neither sform nor qform is set; its axes are taken to run left, to the front and up"
_ASKEW = "it lies oblique in its scanner; slices follow its own axes"
_SHEARED = "its slices are shifted against each other (gantry tilt); scores take its axes to be perpendicular"
_UNITS = "its header counts in other units than mm; lengths are read as mm"

_silent = logging.Logger("nibabel headers", logging.CRITICAL + 1)  # oddities that matter are raised, and told in our own words


class Volume(NamedTuple):
    """Voxels on the stored grid, and the way from there to LPI."""

    voxels: npt.NDArray[Any]
    """(X, Y, Z), or (X, Y, Z, C) of a file of channels."""
    affine: npt.NDArray[np.float64]
    """(4, 4): voxel indices to mm."""
    to_lpi: npt.NDArray[np.float64]
    """(3, 2): row i says which axis stored axis i becomes, and 1 or -1, its direction."""
    note: str = ""
    """What its reader should be told of how the header was understood, without the file's name; "" where nothing was in doubt."""


def read_volume(path: Path) -> Volume:
    """Decode a NIfTI file, or the slices in a folder, to the last byte, so that damage is noticed wherever it is.

    No more is decompressed than the header declares, and no file that declares more than 8 GiB. A file of two axes is a volume of
    one slice; axes of length 1 behind the third are left out.

    Raises:
        InputError: a file that is missing, damaged or too large, has other axes, two orientations, or voxels that are not finite
            plain numbers; of a folder, what `cdal.data.dicom.open_series` and `read_voxels` raise.
    """
    if path.is_dir():
        series = open_series(path)
        return Volume(read_voxels(series), series.affine, _orientation(path, series.affine), _note(series.affine))
    with _told(path), np.errstate(all="ignore"):  # what a damaged header makes of numbers is told below
        voxels, header = _decode(path)
        voxels = voxels.reshape(_axes(path, voxels.shape), order="A")
        affine, note = _place(path, header, voxels.shape)
    if voxels.dtype.kind not in "iuf":
        kind = f"{'/'.join(voxels.dtype.names)} colours" if voxels.dtype.names else f"the type {voxels.dtype}"
        raise InputError(f"{path} has voxels of {kind}; plain numbers are needed, along a fourth axis where they are several")
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # slab by slab, because a scan may fill much of the memory
            count = sum(slab.size - np.count_nonzero(np.isfinite(slab.astype(np.float32, copy=False))) for slab in voxels.T)
        if count:
            raise InputError(
                f"{path} has {count} voxels that are NaN or infinite (as 32-bit numbers); give them a value, such as 0 in the "
                "background (numpy.nan_to_num, or fslmaths IN -nan OUT)"
            )
    return Volume(voxels, affine, _orientation(path, affine), note)


def read_grid(path: Path) -> Grid:
    """The grid of a volume once it is turned to LPI, from its header alone; what `read_volume` says of headers is said here too."""
    if path.is_dir():
        series = open_series(path)
        shape, affine, note = series.shape, series.affine, _note(series.affine)
    else:
        with _told(path), np.errstate(all="ignore"):
            header = _header(_beginning(_pieces(path)))
            sides = _axes(path, header.get_data_shape())
            shape = (sides[0], sides[1], sides[2])
            affine, note = _place(path, header, shape)
    order = np.argsort(_orientation(path, affine)[:, 0])
    sizes = voxel_sizes(affine)  # type: ignore[no-untyped-call]
    left, posterior, inferior = order.tolist()
    return Grid(
        (shape[inferior], shape[left], shape[posterior]),
        (float(sizes[inferior]), float(sizes[left]), float(sizes[posterior])),
        note,
    )


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
    """The voxels (C, D, H, W), label values (D, H, W) and spacing of a case whose files share one grid, each stored as it likes.

    Label values are whole numbers, see `whole_numbers`.

    Raises:
        InputError: what `read_volume` raises, images of other than the declared number of channels, a label of four axes or
            of other than whole numbers, or files of different shape or place.
    """
    first = _in_32_bits(read_volume(source.images[0]))
    arrays = []
    for path in source.images:
        volume = first if path == source.images[0] else _in_32_bits(read_volume(path))
        _check_grid(path, volume, source.images[0], first)
        array = to_dhw(volume)
        arrays.append(array[None] if array.ndim == 3 else array)
    image = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    del arrays, array, volume
    first = first._replace(voxels=np.broadcast_to(image.dtype.type(0), first.voxels.shape))  # its grid is all that is needed now
    if channels is not None and len(image) != channels:
        needed = f"{channels} channel{'' if channels == 1 else 's'}"
        raise InputError(f"{source.images[0]} has the shape {first.voxels.shape}, but dataset.json names {needed}")
    return image, read_label(source.labels[0], source.images[0], first), spacing_dhw(first)


def read_label(path: Path, image_path: Path, image: Volume) -> npt.NDArray[Any]:
    """The values (D, H, W) of a label of an image that was read. Raises what `read_labelled` does of a label."""
    label = read_volume(path)
    if label.voxels.ndim != 3:
        raise InputError(f"{path} has the shape {label.voxels.shape}; a label of three axes is needed")
    _check_grid(path, label, image_path, image)
    return to_dhw(label._replace(voxels=whole_numbers(label.voxels, path)))


def whole_numbers(values: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """The values of a label as integers of the same shape; those within 0.001 of a whole number are rounded.

    A label that was stored through a slope comes back as 1.0000153.

    Raises:
        InputError: a value farther from whole numbers, with as many digits as show it.
    """
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    whole = np.empty_like(values, np.int32)
    for number in range(values.shape[-1]):  # slab by slab, because a label may fill much of the memory
        slab = values[..., number]
        rounded = np.rint(slab)
        wrong = ~(np.abs(slab - rounded) <= _WHOLE) | ~(np.abs(rounded) < 2**31)
        if wrong.any():
            raise InputError(
                f"{path} has the value {slab[wrong][0]:.7g}; a mask must hold whole class numbers: threshold it, or resample it by "
                "the nearest voxel"
            )
        whole[..., number] = rounded
    return whole.astype(np.uint8) if whole.size and whole.min() >= 0 and whole.max() <= 255 else whole


def _in_32_bits(volume: Volume) -> Volume:
    """The same with voxels of at most 32 bits where they are no whole numbers; images are computed with in no more."""
    if volume.voxels.dtype.kind != "f":
        return volume
    return volume._replace(voxels=volume.voxels.astype(np.float32, copy=False))


def _check_grid(path: Path, volume: Volume, image_path: Path, image: Volume) -> None:
    """Refuse a volume whose voxels are not where those of its image are, once both are turned to LPI."""
    (shape, place), (wanted, image_place) = _lpi_grid(volume), _lpi_grid(image)
    apart = _apart(place, image_place, wanted)
    if shape == wanted and apart <= _APART * voxel_sizes(image.affine).min():  # type: ignore[no-untyped-call]
        return
    stored = [one.voxels.shape for one in (volume, image)]
    if shape != wanted and stored[0][:3] != stored[1][:3]:
        raise InputError(f"{path} has the shape {stored[0]}, but its image {image_path.name} has {stored[1]}")
    if not np.array_equal(volume.to_lpi, image.to_lpi):
        found = f"has another orientation than its image {image_path.name}: {_codes(volume.affine)} against {_codes(image.affine)}"
    else:
        turn = _degrees_between(place, image_place)
        turned = f", turned by {turn:.1f} degrees" if turn > _TURNED else ""
        found = f"lies elsewhere than its image {image_path.name}: their affines put corners {apart:.3g} mm apart{turned}"
    hints = []
    same = path.name == image_path.name
    for name, one in ((path.name, volume), ("the image" if same else image_path.name, image)):
        if np.array_equal(np.abs(one.affine), np.eye(4)):
            hints.append(f"; {name} has no affine but the identity, as tools write that lose the true one")
        if _CONFLICT in one.note:
            hints.append(f"; of {name}, {_CONFLICT}")
    remedy = "; give it the affine of the image if the voxels fit, or resample it to the image's grid"
    raise InputError(f"{path} {found}{''.join(hints)}{remedy}")


def _apart(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape: Sequence[int]) -> float:
    """The largest distance of corners of a grid that two affines put it at, mm."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    gaps = apply_affine(first, corners) - apply_affine(second, corners)  # type: ignore[no-untyped-call]
    return float(np.linalg.norm(gaps, axis=1).max())


def _codes(affine: npt.NDArray[np.float64]) -> str:
    """Where the axes run, such as RAS: to the right, to the front and up."""
    return "".join(ornt2axcodes(_stored(affine)))  # type: ignore[no-untyped-call]


def _lpi_grid(volume: Volume) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """The shape and the affine of a volume once it is turned to LPI."""
    shape = volume.voxels.shape[:3]
    turned = tuple(shape[axis] for axis in np.argsort(volume.to_lpi[:, 0]))
    return turned, volume.affine @ inv_ornt_aff(volume.to_lpi, shape)  # type: ignore[no-untyped-call]


def _degrees_between(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """By which the axes of two affines are turned against each other: the angle of the rotation from one to the other."""
    one, other = (affine[:3, :3] / voxel_sizes(affine) for affine in (first, second))  # type: ignore[no-untyped-call]
    return float(np.degrees(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1))))


def _decode(path: Path) -> tuple[npt.NDArray[Any], Any]:
    """Voxels and header of a file; anything may be raised where it is damaged."""
    pieces = _pieces(path)
    data = _beginning(pieces)
    header = _header(data)
    start, shape, dtype = header.get_data_offset(), tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    _axes(path, shape)
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
    return voxels, header


def _beginning(pieces: Iterator[bytes]) -> bytearray:
    """As many pieces as a header may take."""
    data = bytearray()
    while len(data) < max(_HEADERS):
        piece = next(pieces, None)
        if piece is None:
            break
        data += piece
    if not data:
        raise ValueError("it is empty")
    return data


def _axes(path: Path, shape: Sequence[int]) -> tuple[int, ...]:
    """(X, Y, Z) or (X, Y, Z, C) of what a header declares: (X, Y) is one slice, and of five axes one of time must be empty."""
    axes = (*map(int, shape), *[1] * (3 - len(shape) if len(shape) == 2 else 0))
    channels = [side for side in axes[3:] if side != 1]
    if len(axes) < 3 or len(channels) > 1 or min(axes) < 1:
        raise InputError(f"{path} has the shape {tuple(shape)}; a volume of three axes, or four with the channels last, is needed")
    return (*axes[:3], *channels)


def _place(path: Path, header: Any, shape: Sequence[int]) -> tuple[npt.NDArray[np.float64], str]:
    """The affine (4, 4) of a file, and the note on it. Its sform counts, as for most tools, unless it contradicts the qform."""
    affine = np.asarray(header.get_best_affine(), np.float64)
    notes = [] if int(header["sform_code"]) or int(header["qform_code"]) else [_PLACELESS]
    try:
        other = header.get_qform(coded=True)[0] if int(header["sform_code"]) else None
    except HeaderDataError:  # no rotation at all
        other = None
    if other is not None and _apart(affine, other, shape[:3]) > voxel_sizes(affine).min():  # type: ignore[no-untyped-call]
        if _codes(affine) != _codes(other):
            raise InputError(
                f"{path} is stored {_codes(affine)} by its sform, but {_codes(other)} by its qform; keep the true one (fslorient "
                "-copysform2qform or -copyqform2sform)"
            )
        notes.append(_CONFLICT)
    zooms = header.get_zooms()[:3]
    sizes = voxel_sizes(affine)[: len(zooms)]  # type: ignore[no-untyped-call]
    if int(header["sform_code"]) and other is None and not np.allclose(zooms, sizes, rtol=_STRETCHED):
        told = (" x ".join(f"{side:.3g}" for side in sides) for sides in (zooms, sizes))
        notes.append("pixdim says voxels of {} mm, its sform {}; the sform is used".format(*told))
    if header.get_xyzt_units()[0] in ("meter", "micron"):
        notes.append(_UNITS)
    return affine, "; ".join([*notes, *filter(None, [_note(affine)])])


def _note(affine: npt.NDArray[np.float64]) -> str:
    """What is to be told of the directions of an affine."""
    with np.errstate(all="ignore"):
        axes = affine[:3, :3] / voxel_sizes(affine)  # type: ignore[no-untyped-call]
        if np.abs(axes.T @ axes - np.eye(3)).max() > _PERPENDICULAR:
            return _SHEARED
        angles = np.degrees(obliquity(affine))  # type: ignore[no-untyped-call]
    return _ASKEW if angles.max() > _OBLIQUE else ""


def _header(data: bytes | bytearray) -> Any:
    """The header that data start with, checked and repaired as nibabel does when it loads a file, but silently."""
    for order in ("<", ">"):
        size = int.from_bytes(data[:4], "little" if order == "<" else "big")
        if size in _HEADERS:
            if len(data) < size:
                raise ValueError("its header is cut")
            header = _HEADERS[size](bytes(data[:size]), order, check=False)
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
    stored = _stored(affine)
    if not np.isfinite(stored).all() or not np.isfinite(affine).all():
        raise InputError(f"{path} has an affine that tells no orientation; write a true one (fslorient -setsform)")
    turn: npt.NDArray[np.float64] = ornt_transform(stored, axcodes2ornt("LPI"))  # type: ignore[no-untyped-call]
    return turn


def _stored(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The orientation (3, 2) that an affine tells; NaN where it tells none."""
    try:
        found: npt.NDArray[np.float64] = io_orientation(affine)  # type: ignore[no-untyped-call]
    except np.linalg.LinAlgError:
        found = np.full((3, 2), np.nan)
    return found


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever reading damaged bytes raises, in one sentence."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    except Exception as error:  # nibabel lets through whatever its parsing happens to raise
        raise InputError(f"{path} is not a readable NIfTI file: {one_line(error)}") from error
