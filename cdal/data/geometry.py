"""Where the voxels of a whole dataset lie: across which axis slices are cut, at which spacing, and arrays brought there and back.

    plane = choose_plane(grids)                          # grids of all volumes, read from headers: `cdal.data.volumes.read_grid`
    spacing = choose_spacing(grids, plane)               # mm along H and W, or None where nothing has to be resampled
    slices = to_slices(voxels, plane)                    # (..., inferior, left, posterior) -> (..., D, H, W)
    slices = resample_image(slices, resampled_size(slices.shape[-2:], in_plane, spacing))

Axes: C channels, D slices, H and W pixels of a slice. What they are of a volume that lies LPI:

    plane      cut across   (D, H, W)
    axial      inferior     (inferior, left, posterior)
    coronal    posterior    (posterior, inferior, left)
    sagittal   left         (left, inferior, posterior)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cdal.data.dataset import IGNORED, Plane
from cdal.errors import InputError

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

_AXES: dict[Plane, Shape] = {"axial": (0, 1, 2), "coronal": (2, 0, 1), "sagittal": (1, 0, 2)}
"""Which of (inferior, left, posterior) become (D, H, W)."""
_ACROSS: tuple[Plane, Plane, Plane] = ("axial", "sagittal", "coronal")
"""The plane that is cut across each of (inferior, left, posterior)."""
_COARSER = 1.5  # times the next coarser axis
_SHORTER = 4.0  # times shorter than both other axes
_SAME = 0.01  # by which spacings may differ and still be one
_FARTHEST = 10.0  # times that a slice is enlarged or reduced


class Grid(NamedTuple):
    """The grid of a volume that lies LPI."""

    shape: Shape
    """Voxels along (inferior, left, posterior)."""
    spacing: Spacing
    """Distance of neighbouring voxels along the same axes, mm."""
    note: str = ""
    """What its reader should be told of how the header was understood, without the file's name; "" where nothing was in doubt."""


def choose_plane(grids: Sequence[Grid]) -> Plane:
    """The plane that the slices of all volumes are cut in.

    Slices are cut across the coarsest axis, as nnU-Net does, where in the median it is at least 1.5 times as coarse as the next
    one: what a scanner took as slices stays a slice. Else, because headers may tell no spacing, across the shortest axis, where in
    the median both others have more than four times as many voxels. Else they are axial. Volumes with an axis of length 1, which
    are cut across it whatever the others say, count only where there are no others.
    """
    counted = [grid for grid in grids if 1 not in grid.shape] or grids
    shape, spacing = (np.median(sides, axis=0) for sides in ([grid.shape for grid in counted], [grid.spacing for grid in counted]))
    short = int(shape.argmin())
    if 1 not in counted[0].shape and (coarse := _coarsest(spacing.tolist())):
        return coarse
    return _ACROSS[short] if shape[short] * _SHORTER < np.delete(shape, short).min() else "axial"


def is_cut_through(grid: Grid, plane: Plane) -> bool:
    """Whether slices of this plane go through those that the scanner took, so that pixels are coarse along one of their sides."""
    return 1 not in grid.shape and _coarsest(grid.spacing) not in (None, plane)


def _coarsest(spacing: Sequence[float]) -> Plane | None:
    """The plane across the axis that is far coarser than both others, if there is one."""
    coarse = int(np.argmax(spacing))
    return _ACROSS[coarse] if spacing[coarse] >= _COARSER * np.delete(spacing, coarse).max() else None


def plane_of(shape: Sequence[int], plane: Plane) -> Plane:
    """The plane that a volume (..., inferior, left, posterior) is cut in: across its axis of length 1, if it has one."""
    sides = shape[-3:]
    if 1 not in sides or sides[_AXES[plane][0]] == 1:
        return plane
    return _ACROSS[list(sides).index(1)]


def to_slices(array: npt.NDArray[Any], plane: Plane) -> npt.NDArray[Any]:
    """An array (..., inferior, left, posterior) as the slices (..., D, H, W) of `plane_of` its shape; a view."""
    leading = range(array.ndim - 3)
    return array.transpose(*leading, *(array.ndim - 3 + axis for axis in _AXES[plane_of(array.shape, plane)]))


def from_slices(slices: npt.NDArray[Any], plane: Plane, shape: Sequence[int]) -> npt.NDArray[Any]:
    """Inverse of `to_slices`; `shape` is that of the volume, whose last three axes are (inferior, left, posterior)."""
    leading = range(slices.ndim - 3)
    return slices.transpose(*leading, *(slices.ndim - 3 + int(axis) for axis in np.argsort(_AXES[plane_of(shape, plane)])))


def sliced(grid: Grid, plane: Plane) -> Grid:
    """The grid of the slices that `to_slices` cuts: its shape and spacing are along (D, H, W)."""
    depth, height, width = _AXES[plane_of(grid.shape, plane)]
    shape, spacing = grid.shape, grid.spacing
    return Grid((shape[depth], shape[height], shape[width]), (spacing[depth], spacing[height], spacing[width]), grid.note)


def choose_spacing(grids: Sequence[Grid], plane: Plane) -> tuple[float, float] | None:
    """The spacing along H and W that the slices of all volumes are resampled to, mm: the median, as in nnU-Net's 2d plans.

    None where all volumes agree within 1 %. The distance of slices is never changed. Volumes whose own slices lie in another plane
    count only where there are no others.
    """
    in_plane = np.array([sliced(grid, plane).spacing[1:] for grid in grids])
    counted = np.array([not is_cut_through(grid, plane) for grid in grids])
    usual = np.median(in_plane[counted] if counted.any() else in_plane, axis=0)
    height, width = (float(f"{side:.6g}") for side in usual)  # headers hold 32-bit numbers
    return None if _agree(in_plane, (height, width)) else (height, width)


def resampled_size(size: Sequence[int], spacing: Sequence[float], wanted: tuple[float, float] | None) -> tuple[int, int]:
    """(H, W) of slices at a wanted spacing; their own size where that is None or theirs within 1 %.

    Args:
        size: (H, W) as they are.
        spacing: along H and W as they are, mm.
        wanted: along H and W, mm.

    Raises:
        InputError: slices that would be enlarged or reduced more than ten times; the message needs the file's name before it.
    """
    height, width = size
    if wanted is None or _agree(np.asarray(spacing), wanted):
        return height, width
    factors = [have / want for have, want in zip(spacing, wanted, strict=True)]
    if max(factors) > _FARTHEST or min(factors) < 1 / _FARTHEST:
        have, want = (" x ".join(f"{side:.3g}" for side in sides) for sides in (spacing, wanted))
        raise InputError(
            f"has pixels of {have} mm, more than {_FARTHEST:g} times off the {want} mm of the dataset; correct its header"
        )
    return max(1, round(height * factors[0])), max(1, round(width * factors[1]))


def resample_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Slices (..., H, W), float32, at another size: cubic, averaged where they are reduced, within the range that they had."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return _resampled(image, size, "bicubic").clamp_(image.amin(), image.amax())  # cubic curves overshoot


def resample_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., H, W) of probabilities or entropies, at another size: linear, averaged where they are reduced."""
    return maps if tuple(maps.shape[-2:]) == tuple(size) else _resampled(maps, size, "bilinear")


def resample_label(label: Tensor, size: tuple[int, int], ignored: int | None = IGNORED) -> Tensor:
    """Whole numbers (..., H, W) at another size and of the same type: of every value the mask resampled linearly, the largest wins.

    So does nnU-Net: borders are smooth, and no value comes up that was not there. Of two as large, the lower value wins. Pixels
    are `ignored` where the nearest one was.
    """
    if tuple(label.shape[-2:]) == tuple(size):
        return label
    slices = label.reshape(-1, *label.shape[-2:])
    out = label.new_empty(len(slices), *size)
    for number, values in enumerate(slices):
        out[number] = _resampled_slice(values, size, ignored)
    return out.reshape(*label.shape[:-2], *size)


def _resampled_slice(label: Tensor, size: tuple[int, int], ignored: int | None) -> Tensor:
    """One slice (H, W) of `resample_label`."""
    present = torch.unique(label).tolist()  # in ascending order
    if len(present) == 1:
        return label.new_full(size, present[0])
    best = torch.zeros(size, device=label.device)
    chosen = label.new_full(size, present[0])
    for value in present:
        if value == ignored:
            continue
        share = _resampled((label == value).float(), size, "bilinear")
        wins = share > best
        best[wins], chosen[wins] = share[wins], value
    if ignored is not None and ignored in present:
        rows, columns = (((torch.arange(new) + 0.5) * (old / new)).long() for new, old in zip(size, label.shape, strict=True))
        chosen[label[rows[:, None], columns] == ignored] = ignored
    return chosen


def _resampled(array: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """An array (..., H, W) at another size, slice by slice, so that little memory is needed besides the result."""
    slices = array.reshape(-1, *array.shape[-2:])
    out = array.new_empty(len(slices), *size)
    for number, values in enumerate(slices):
        out[number] = F.interpolate(values[None, None], size, mode=mode, antialias=True, align_corners=False)[0, 0]
    return out.reshape(*array.shape[:-2], *size)


def _agree(spacings: npt.NDArray[np.float64], wanted: tuple[float, float]) -> bool:
    """Whether spacings (..., 2) are the wanted ones, as far as anybody cares."""
    return bool((np.abs(spacings / wanted - 1) <= _SAME).all())
