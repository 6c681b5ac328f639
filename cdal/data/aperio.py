"""Nuclei outlined in Aperio ImageScope (XML), as the pixels of an image.

    regions = read_regions(Path("Annotations/TCGA-A7-A13E-01Z-00-DX1.xml"))
    instances = rasterise(regions, shape=(1000, 1000))

A vertex (x, y) is a point of the plane in which pixel (row r, column c) is the square from (c, r) to (c + 1, r + 1), as ImageScope
shows it: the image goes from 0 to its size. A pixel belongs to a region when its centre does.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from cdal.errors import InputError

Vertices = npt.NDArray[np.float64]

_MAX_FILE = 2**26  # bytes
_MAX_REGIONS = 10_000
_MAX_VERTICES = 1_000_000
_FARTHEST = 1e9  # pixels from the origin
_ELLIPSE = "2"  # Type of a region that gives two corners instead of an outline


def read_regions(path: Path) -> list[Vertices]:
    """Outlines of all layers in file order, each (n, 2) as (x = column, y = row), pixels; they may run out of the image.

    Regions without vertices are left out, and so are those marked NegativeROA: areas to leave out of an analysis, not nuclei.

    Raises:
        InputError: a file that is missing, too large, not sound XML or of another kind; a document type or entity declaration;
            a vertex without two finite numbers.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise InputError(f"{path} has more than {_MAX_FILE // 2**20} MiB; that is no annotation of an image")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes)")
    reader = _Reader(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        parser.Parse(data, True)
    except InputError:
        raise
    except Exception as error:  # besides ExpatError, what Python's codecs make of an encoding that the file claims
        raise InputError(f"{path} is not sound XML: {' '.join(str(error).split())[:200]}") from error
    return [np.array(region, np.float64) for region in reader.regions if region]


def rasterise(regions: Sequence[Vertices], shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """A map (H, W) of the regions: 0 background, i + 1 the i-th region.

    - Outlines are closed, and cut at the border of the image. Where one crosses itself, it holds what it goes around in total
      (non-zero winding), so that an outline drawn past its start has no hole there.
    - A pixel of several regions belongs to the one with the smallest bounding box, and among equals to the last: no region
      vanishes beneath one that surrounds it.
    - A region that has no pixel centre (a point, a line, a speck) has the pixel that the mean of its vertices lies in.
    """
    instances = np.zeros(shape, np.int32)
    boxes = [float(np.prod(np.ptp(vertices, axis=0))) for vertices in regions]
    for index in sorted(range(len(regions)), key=lambda index: -boxes[index]):
        (top, left), inside = _fill(regions[index], shape)
        instances[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = index + 1
    return instances


class _Reader:
    """What expat tells, element by element."""

    def __init__(self, path: Path) -> None:
        self.regions: list[list[tuple[float, float]]] = []
        self._path = path
        self._is_open = False  # within a region that counts
        self._depth = self._num_vertices = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._depth and tag != "Annotations":
            raise InputError(f"{self._path} is no Aperio annotation: it holds <{tag[:40]}>, not <Annotations>")
        self._depth += 1
        if tag == "Vertex" and self._is_open:
            self._num_vertices += 1
            if self._num_vertices > _MAX_VERTICES:
                raise InputError(f"{self._path} has more than {_MAX_VERTICES} vertices; that is no annotation of an image")
            self.regions[-1].append((self._number(attributes.get("X")), self._number(attributes.get("Y"))))
        elif tag == "Region":
            self._is_open = attributes.get("NegativeROA", "0") != "1"
            if self._is_open:
                self._open(attributes)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "Region":
            self._is_open = False

    def refuse_doctype(self, *_: object) -> None:
        raise InputError(f"{self._path} declares a document type, which annotations do not need; remove the DOCTYPE")

    def _open(self, attributes: dict[str, str]) -> None:
        self.regions.append([])
        if len(self.regions) > _MAX_REGIONS:
            raise InputError(f"{self._path} has more than {_MAX_REGIONS} regions; that is no annotation of an image")
        if attributes.get("Type") == _ELLIPSE:
            raise InputError(f"{self._path}: region {len(self.regions)} is an ellipse; only outlines are read")

    def _number(self, text: str | None) -> float:
        try:
            value = float(text or "")
        except ValueError:
            value = float("nan")
        if not abs(value) <= _FARTHEST:  # NaN is not
            place = f"{self._path}: a vertex of region {len(self.regions)}"
            raise InputError(f"{place} has {text and text[:40]!r} as X or Y; it must be a number of pixels")
        return value


def _fill(vertices: Vertices, shape: tuple[int, int]) -> tuple[tuple[int, int], npt.NDArray[np.bool_]]:
    """Row and column of a window of the image, and which of its pixels belong to the region."""
    limits = np.array(shape)[::-1]
    low = np.clip(np.ceil(vertices.min(axis=0) - 0.5), 0, limits).astype(int)  # first pixel whose centre c + 0.5 is in the box
    high = np.clip(np.floor(vertices.max(axis=0) - 0.5) + 1, low, limits).astype(int)
    inside = _inside(vertices - low, *(high - low))
    if not inside.any():
        middle = np.floor(vertices.mean(axis=0))
        if (middle >= 0).all() and (middle < limits).all():
            low, inside = middle.astype(int), np.ones((1, 1), bool)
    return (int(low[1]), int(low[0])), inside


def _inside(vertices: Vertices, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Whether an outline goes around the centre of each pixel of a window (height, width).

    Every edge adds 1 or -1, by its direction, to the pixels right of it in the rows whose centres it passes; their sum along a row
    is the winding number.
    """
    x0, y0 = vertices.T
    x1, y1 = np.roll(vertices, -1, axis=0).T
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (np.minimum(y0, y1), np.maximum(y0, y1)))
    count = last - first  # rows of an edge: centres from its lower y, included, to its higher y
    edge = np.repeat(np.arange(len(vertices)), count)
    row = np.arange(len(edge)) + np.repeat(first - np.cumsum(count) + count, count)
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)  # first centre that is not left of the edge
    steps = np.bincount(row * (width + 1) + column, np.where(y1 > y0, 1, -1)[edge], height * (width + 1))
    winding = np.cumsum(steps.reshape(height, width + 1), axis=1)[:, :width]
    return np.not_equal(winding, 0)
