"""Shapes as annotation tools write them, as pixels: rings with holes, boxes, circles, bitmaps, run lengths.

    (top, left), inside = draw_parts(lambda: [[outer, hole]], (480, 640))

What is wrong with a shape is a `ShapeError`, in words that follow the name of its file. Coordinates are (x, y), as in
`cdal.data.aperio`.
"""

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdal.data.aperio import Vertices, fill
from cdal.data.images import decode_mask
from cdal.errors import InputError

Window = tuple[tuple[int, int], npt.NDArray[np.bool_]]
"""Row and column of a part of an image, and which of its pixels belong to a shape."""
Parts = list[list[Vertices]]
"""What makes a shape together: outer rings, each with its holes."""

_FARTHEST = 1e9  # pixels from the origin
_CORNERS = 64  # of a circle


class ShapeError(Exception):
    """What is wrong with a shape or with the file that holds it."""


def _ring(points: Any) -> Vertices:
    ring = np.asarray(points)
    if ring.ndim != 2 or ring.shape[1] < 2 or ring.dtype.kind not in "iuf" or not (np.abs(ring) <= _FARTHEST).all():
        raise ShapeError("has a shape whose points are not two numbers of pixels each")
    return ring[:, :2].astype(np.float64)


def rings(parts: Any) -> Parts:
    """GeoJSON's polygons, each a list of rings: the outer one, and its holes."""
    return [[_ring(ring) for ring in part] for part in parts]


def one_ring(points: Any) -> Parts:
    """An outline without holes, as a list of points."""
    return [[_ring(points)]]


def flat_rings(lists: Any) -> Parts:
    """COCO's lists of x, y, x, y, ..."""
    return [[_ring(np.asarray(numbers).reshape(-1, 2))] for numbers in lists]


def box(points: Any) -> Parts:
    """By two opposite corners."""
    (x0, y0), (x1, y1) = _ring(points)
    return one_ring([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ellipse(x: float, y: float, across: float, along: float, turn: float = 0.0) -> Parts:
    """By its middle, two radii, and the angle from the x axis to the first of them."""
    angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    u, v = across * np.cos(angle), along * np.sin(angle)
    return one_ring(np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], axis=1))


def circle(points: Any) -> Parts:
    """By two points, as labelme does: the middle, and a point on the circle."""
    middle, other = _ring(points)
    radius = float(np.hypot(*(other - middle)))
    return ellipse(float(middle[0]), float(middle[1]), radius, radius)


def draw_parts(parts: Callable[[], Parts], size: tuple[int, int]) -> Window:
    """All parts together, without their holes, in the window of all outer rings."""
    drawn = [(fill(outer, size), [fill(hole, size, at_least_one=False) for hole in holes]) for outer, *holes in parts()]
    windows = [outer for outer, _ in drawn]
    top, left = (min((place[axis] for place, _ in windows), default=0) for axis in (0, 1))
    bottom, right = (max((place[axis] + inside.shape[axis] for place, inside in windows), default=0) for axis in (0, 1))
    total = np.zeros((bottom - top, right - left), bool)
    for ((row, column), inside), holes in drawn:
        kept = inside.copy()
        for (hole_row, hole_column), hole in holes:
            _take_out(kept, hole, hole_row - row, hole_column - column)
        total[row - top : row - top + kept.shape[0], column - left : column - left + kept.shape[1]] |= kept
    return (top, left), total


def _take_out(inside: npt.NDArray[np.bool_], hole: npt.NDArray[np.bool_], row: int, column: int) -> None:
    """Clear the pixels of a hole that lies `row` and `column` pixels from a window's corner; it may run out of the window."""
    top, left = max(row, 0), max(column, 0)
    part = hole[top - row :, left - column :][: max(inside.shape[0] - top, 0), : max(inside.shape[1] - left, 0)]
    inside[top : top + part.shape[0], left : left + part.shape[1]] &= ~part


def draw_bitmap(corner: Any, text: str, size: tuple[int, int]) -> Window:
    """A mask of labelme: a PNG in base 64 whose first pixel lies at a point."""
    try:
        pixels = decode_mask(Path("a mask in it"), base64.b64decode(text, validate=True)) > 0
    except (binascii.Error, InputError) as error:
        raise ShapeError("has a mask that is no readable image") from error
    left, top = (int(value) for value in np.rint(_ring([corner])[0]))
    cut = pixels[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return (min(max(top, 0), size[0]), min(max(left, 0), size[1])), cut


def draw_runs(grid: Any, counts: Any, size: tuple[int, int]) -> Window:
    """By COCO's run lengths: pixels column by column, outside and inside in turn."""
    height, width = grid
    if (height, width) != size:
        raise ShapeError(f"has a mask of {width} x {height} px for an image of {size[1]} x {size[0]} px")
    runs = np.asarray(_unpacked(counts) if isinstance(counts, str) else counts)
    is_sound = runs.ndim == 1 and runs.dtype.kind in "iu" and (runs >= 0).all() and (runs <= height * width).all()
    if not is_sound or runs.sum() != height * width:
        raise ShapeError("has a mask whose run lengths do not add up to its size")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0), np.zeros((0, 0), bool)
    return (int(rows[0]), int(columns[0])), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()


def _unpacked(text: str) -> list[int]:
    """COCO's compressed run lengths.

    A number is written in groups of 5 bits, the lowest first, as characters from "0" on. The sixth bit says that more follow, the
    fifth of the last is the sign. From the fourth number on it is the difference to the one two before.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ShapeError("has a mask whose compressed run lengths are damaged")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ShapeError("has a mask whose compressed run lengths are cut")
    return runs
