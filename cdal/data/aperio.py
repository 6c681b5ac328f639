"""Nuclei outlined in Aperio ImageScope (XML), as the pixels of an image.

    instances = read_instances(Path("Annotations/TCGA-A7-A13E-01Z-00-DX1.xml"), shape=(1000, 1000))
    read_outlines(path).left_out    # {"rulers": 2, 'regions of the layer "FOV"': 1}

A vertex (x, y) is a point of the plane in which pixel (row r, column c) is the square from (c, r) to (c + 1, r + 1), as ImageScope
shows it: the image goes from 0 to its size. A pixel belongs to a region when its centre does.

Pathologists draw more than nuclei into the same file: fields of view, rulers, arrows, tissue. Such regions are told apart by their
type, their layer's name and what they surround; they are left out, and `left_out` and `describe` say which.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from cdal.errors import InputError, one_line

Vertices = npt.NDArray[np.float64]

_MAX_FILE = 2**26  # bytes
_MAX_REGIONS = 10_000
_MAX_VERTICES = 1_000_000
_FARTHEST = 1e9  # pixels from the origin
_MOST_CROSSINGS = 2**20  # of edges and rows, held at once
_OUTLINE, _RECTANGLE, _ELLIPSE = "0", "1", "2"  # Type of a region; an ellipse gives two corners instead of an outline
_MARKS = {"3": "arrows", "4": "rulers"}
_OTHER_LAYERS = re.compile(
    r"(?<![a-z])(fov|roi|fields?|regions? of interest|rulers?|scale ?bars?|arrows?|art[ei]facts?|exclu(ded?|sions?)|ignored?|"
    r"ambiguous|background|unlabell?ed)(?![a-z])",
    re.IGNORECASE,
)
_TISSUES = re.compile(r"tissue|tumou?r|stroma|necro|gland", re.IGNORECASE)  # of which nuclei may be drawn as well
_NUCLEI = re.compile(r"nucle|cell", re.IGNORECASE)
_MUCH_LARGER = 10  # times the median outline: a rectangle of that size is no nucleus
_MOST = 0.5  # of all regions
_LARGE = 0.1  # of an image: a region of that size is no nucleus if it holds most of the others, or many
_FEW, _MANY = 3, 10
# What a file has that holds something else than outlines in one layer without a name, in any encoding; else it need not be parsed.
_NOTABLE = re.compile(
    rb"""<Region\b[^>]*\b(?:Type|NegativeROA)\s*=\s*["'][^0"']|<Annotation\b[^>]*\bName\s*=\s*["'][^"']|"""
    rb"""<Attribute\b[^>]*\b(?:Value\s*=\s*["'][^"']|Name\s*=\s*["'](?!Description["'])[^"'])|\0"""
)


class Outlines(NamedTuple):
    """What a file holds."""

    regions: list[Vertices]
    """Outlines of nuclei in file order, each (n, 2) as (x = column, y = row), pixels; they may run out of the image."""
    left_out: dict[str, int]
    """What is no nucleus, in words, and how often it is there."""
    layers: tuple[str, ...]
    """Names of the layers that the regions lie in, where they have one."""


@dataclass
class _Region:
    type: str
    layer: str
    is_negative: bool
    vertices: list[tuple[float, float]] = field(default_factory=list)


def read_outlines(path: Path) -> Outlines:
    """The nuclei of all layers, and what was left out.

    That is arrows, rulers, regions marked NegativeROA, layers that are called FOV, ROI, artefact or the like, rectangles that frame
    nuclei, and large regions of layers that are called by a tissue. Regions without vertices count nowhere.

    Raises:
        InputError: a file that is missing, too large, not sound XML or of another kind; a document type or entity declaration;
            a vertex without two finite numbers; an ellipse, a region of an unknown type, rectangles and nothing else.
    """
    left_out: Counter[str] = Counter()
    kept: list[_Region] = []
    for number, region in enumerate(_parse(path), start=1):
        if region.is_negative:
            left_out["negative regions (NegativeROA)"] += 1
        elif region.type in _MARKS:
            left_out[_MARKS[region.type]] += 1
        elif _OTHER_LAYERS.search(region.layer.replace("_", " ")) and not _NUCLEI.search(region.layer):
            left_out[f'regions of the layer "{region.layer}"'] += 1
        elif region.type == _ELLIPSE:
            raise InputError(f"{path}: region {number} is an ellipse; only outlines are read, so draw it again with the pen")
        elif region.type not in (_OUTLINE, _RECTANGLE):
            raise InputError(f"{path}: region {number} is of the type {region.type[:40]!r}, which is no outline; delete it")
        elif region.vertices:
            kept.append(region)
    reasons = _frames(path, kept)
    left_out.update(reason for reason in reasons if reason)
    kept = [region for region, reason in zip(kept, reasons, strict=True) if not reason]
    layers = dict.fromkeys(region.layer for region in kept if region.layer)
    return Outlines([np.array(region.vertices, np.float64) for region in kept], dict(left_out), tuple(layers))


def read_regions(path: Path) -> list[Vertices]:
    """The regions of `read_outlines`, which raises the same."""
    return read_outlines(path).regions


def read_instances(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """The nuclei of a file as a map (H, W) of the image that they were drawn on, see `rasterise`.

    Raises:
        InputError: what `read_outlines` raises, regions most of which lie outside the image, and a large one around others.
    """
    regions = read_outlines(path).regions
    boxes = np.array([[*region.min(axis=0), *region.max(axis=0)] for region in regions]).reshape(-1, 4)
    outside = (boxes[:, :2] >= shape[::-1]).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    num_outside = np.count_nonzero(outside)
    if num_outside > _MOST * len(regions):
        raise InputError(
            f"{path}: {num_outside} of {len(regions)} regions lie outside the image of {shape[1]} x {shape[0]} px; they were drawn "
            "on another image, on a whole slide or at another magnification"
        )
    sides = np.clip(boxes[:, 2:], 0, shape[::-1]) - np.clip(boxes[:, :2], 0, shape[::-1])
    for number in np.flatnonzero(sides.prod(axis=1) > _LARGE * shape[0] * shape[1]):
        count = _count_within(boxes[number], regions)
        if count > _MANY or count > max(_FEW, _MOST * len(regions)):
            left, top, right, bottom = boxes[number]
            raise InputError(
                f"{path}: the region from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) holds {count - 1} others, so it is no "
                'nucleus; delete it in ImageScope, or move it to a layer called "FOV"'
            )
    return rasterise(regions, shape)


def describe(paths: Iterable[Path]) -> tuple[str, ...]:
    """What of some files counts as nuclei and what was left out, a sentence each; none where they hold nothing but outlines.

    Raises:
        InputError: what `read_outlines` raises.
    """
    counts: Counter[str] = Counter()
    files: dict[str, list[str]] = {}
    layers: dict[str, None] = {}
    for path in paths:
        if _NOTABLE.search(_bytes(path)) is None:
            continue
        outlines = read_outlines(path)
        layers |= dict.fromkeys(outlines.layers)
        counts.update(outlines.left_out)
        for what in outlines.left_out:
            files.setdefault(what, []).append(path.name)
    notes = [f"left out as no nuclei: {what} ({counts[what]}) in {_listed(files[what])}" for what in sorted(counts)]
    if layers:
        notes.append("every region of the layers " + ", ".join(f'"{layer}"' for layer in layers) + " counts as a nucleus")
    return tuple(notes)


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
        (top, left), inside = fill(regions[index], shape)
        instances[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = index + 1
    return instances


def fill(vertices: Vertices, shape: tuple[int, int], *, at_least_one: bool = True) -> tuple[tuple[int, int], npt.NDArray[np.bool_]]:
    """Row and column of a window of the image, and which of its pixels belong to the region, as `rasterise` has it.

    Args:
        vertices: the outline, (n, 2) as (x, y).
        shape: (H, W) of the image.
        at_least_one: the pixel of a region that has no pixel centre; not wanted of a hole.
    """
    limits = np.array(shape)[::-1]
    low = np.clip(np.ceil(vertices.min(axis=0) - 0.5), 0, limits).astype(int)  # first pixel whose centre c + 0.5 is in the box
    high = np.clip(np.floor(vertices.max(axis=0) - 0.5) + 1, low, limits).astype(int)
    inside = _inside(vertices - low, *(high - low))
    if at_least_one and not inside.any():
        middle = np.floor(vertices.mean(axis=0))
        if (middle >= 0).all() and (middle < limits).all():
            low, inside = middle.astype(int), np.ones((1, 1), bool)
    return (int(low[1]), int(low[0])), inside


def _frames(path: Path, regions: Sequence[_Region]) -> list[str | None]:
    """What a region is if it surrounds nuclei instead of being one: a rectangle, or part of a tissue's layer."""
    if regions and all(region.type == _RECTANGLE for region in regions):
        raise InputError(
            f"{path} holds rectangles and no outlines; draw nuclei with the pen, and call the layer of a rectangle that shows the "
            'field "FOV"'
        )
    outlines = [region for region in regions if region.type != _RECTANGLE and not _is_tissue(region)]
    drawn = [np.array(region.vertices) for region in outlines]
    largest = _MUCH_LARGER * np.median([np.ptp(vertices, axis=0).prod() for vertices in drawn]) if drawn else np.inf
    layers = {region.layer for region in outlines}

    def reason(region: _Region) -> str | None:
        is_rectangle = region.type == _RECTANGLE
        if not (is_rectangle or _is_tissue(region)):
            return None
        vertices = np.array(region.vertices)
        box = np.concatenate([vertices.min(axis=0), vertices.max(axis=0)])
        is_frame = np.ptp(vertices, axis=0).prod() > largest or _count_within(box, drawn) > 1
        if is_rectangle:
            return "rectangles that frame nuclei" if is_frame or (layers and region.layer not in layers) else None
        return f'large regions of the layer "{region.layer}"' if is_frame else None

    return [reason(region) for region in regions]


def _is_tissue(region: _Region) -> bool:
    return bool(_TISSUES.search(region.layer)) and not _NUCLEI.search(region.layer)


def _count_within(box: npt.NDArray[np.float64], regions: Sequence[Vertices]) -> int:
    """How many regions have their middle in a box (left, top, right, bottom)."""
    middles = np.array([(vertices.min(axis=0) + vertices.max(axis=0)) / 2 for vertices in regions]).reshape(-1, 2)
    return int(((middles >= box[:2]) & (middles <= box[2:])).all(axis=1).sum())


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} files ({names[0]}, ...)"


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise InputError(f"{path} has more than {_MAX_FILE // 2**20} MiB; that is no annotation of an image")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes)")
    return data


def _parse(path: Path) -> list[_Region]:
    data = _bytes(path)
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
        raise InputError(f"{path} is not sound XML: {one_line(error)}") from error
    return reader.regions


class _Reader:
    """What expat tells, element by element."""

    def __init__(self, path: Path) -> None:
        self.regions: list[_Region] = []
        self._path = path
        self._layer = ""
        self._is_open = False  # within a region
        self._depth = self._num_vertices = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._depth and tag != "Annotations":
            raise InputError(f"{self._path} is no Aperio annotation: it holds <{tag[:40]}>, not <Annotations>")
        self._depth += 1
        if tag == "Vertex" and self._is_open:
            self._num_vertices += 1
            if self._num_vertices > _MAX_VERTICES:
                raise InputError(f"{self._path} has more than {_MAX_VERTICES} vertices; that is no annotation of an image")
            self.regions[-1].vertices.append((self._number(attributes.get("X")), self._number(attributes.get("Y"))))
        elif tag == "Region":
            self._is_open = True
            self.regions.append(_Region(attributes.get("Type") or _OUTLINE, self._layer, attributes.get("NegativeROA", "0") == "1"))
            if len(self.regions) > _MAX_REGIONS:
                raise InputError(f"{self._path} has more than {_MAX_REGIONS} regions; that is no annotation of an image")
        elif tag == "Annotation":
            self._layer = _printable(attributes.get("Name", ""))
        elif tag == "Attribute" and not self._is_open and not self._layer:  # ImageScope's column of descriptions
            described = attributes.get("Name", "") == "Description"
            self._layer = _printable(attributes.get("Value", "") or ("" if described else attributes.get("Name", "")))

    def end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "Region":
            self._is_open = False

    def refuse_doctype(self, *_: object) -> None:
        raise InputError(f"{self._path} declares a document type, which annotations do not need; remove the DOCTYPE")

    def _number(self, text: str | None) -> float:
        try:
            value = float(text or "")
        except ValueError:
            value = float("nan")
        if not abs(value) <= _FARTHEST:  # NaN is not
            place = f"{self._path}: a vertex of region {len(self.regions)}"
            raise InputError(f"{place} has {text and text[:40]!r} as X or Y; it must be a number of pixels")
        return value


def _printable(name: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())[:40]


def _inside(vertices: Vertices, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Whether an outline goes around the centre of each pixel of a window (height, width).

    Every edge adds 1 or -1, by its direction, to the pixels right of it in the rows whose centres it passes; their sum along a row
    is the winding number.
    """
    ends = np.roll(vertices, -1, axis=0)
    steps = np.zeros(height * (width + 1))
    some = max(_MOST_CROSSINGS // max(height, 1), 1)  # edges at a time, or an outline in zigzag would fill the memory
    for first in range(0, len(vertices), some):
        steps += _steps(vertices[first : first + some], ends[first : first + some], width, height)
    winding = np.cumsum(steps.reshape(height, width + 1), axis=1)[:, :width]
    return np.not_equal(winding, 0)


def _steps(starts: Vertices, ends: Vertices, width: int, height: int) -> npt.NDArray[np.float64]:
    """What edges add, (height * (width + 1)), the last pixel of every row being outside."""
    (x0, y0), (x1, y1) = starts.T, ends.T
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (np.minimum(y0, y1), np.maximum(y0, y1)))
    count = last - first  # rows of an edge: centres from its lower y, included, to its higher y
    edge = np.repeat(np.arange(len(starts)), count)
    row = np.arange(len(edge)) + np.repeat(first - np.cumsum(count) + count, count)
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)  # first centre that is not left of the edge
    return np.asarray(np.bincount(row * (width + 1) + column, np.where(y1 > y0, 1, -1)[edge], height * (width + 1)), np.float64)
