"""Outlines that annotation tools write as JSON, as masks: labelme, COCO, VIA (VGG Image Annotator) and QuPath (GeoJSON).

    classes = class_names([Path("annotations.json")])                                    # ("nucleus", "vessel")
    drawn = read_polygons(Path("annotations.json"), "case_1.png", (480, 640), classes)
    drawn.values, drawn.instances                                                        # (H, W) int32

labelme and QuPath write one file per image, under the image's name; COCO and VIA one for all, which names them. Pixels belong to a
shape as in `cdal.data.aperio`: when their centre does. In labelme later shapes lie over earlier ones, as its users see them; the
others tell no order, and smaller shapes lie over larger ones.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cdal.data.dataset import IGNORED
from cdal.data.images import what_else
from cdal.data.shapes import (
    Parts,
    ShapeError,
    Window,
    box,
    circle,
    draw_bitmap,
    draw_parts,
    draw_runs,
    ellipse,
    flat_rings,
    one_ring,
    rings,
)
from cdal.errors import InputError

ENDINGS = (".json", ".geojson")

_MAX_FILE = 2**28  # bytes
_MAX_PIXELS = 2**27
_MAX_CLASSES = IGNORED - 1
_UNNAMED = "object"
_BACKGROUND, _IGNORE = "_background_", "__ignore__"  # labelme's names
_WITHOUT_AREA = {"line", "linestrip", "point", "points", "polyline", "LineString", "MultiLineString", "Point", "MultiPoint"}
_OTHER_KINDS = "export it as COCO or labelme JSON, or as one PNG mask per image"


class Outlined(NamedTuple):
    """The shapes of an image as pixels, (H, W) int32 each."""

    values: npt.NDArray[np.int32]
    """0 background, i + 1 the i-th class, or `IGNORED`."""
    instances: npt.NDArray[np.int32]
    """0 background, every shape its own number."""


@dataclass(frozen=True)
class _Shape:
    name: str
    draw: Callable[[tuple[int, int]], Window]


@dataclass
class _Image:
    """The shapes of an image, of whose name and (H, W) a file may say nothing."""

    name: str | None = None
    size: tuple[int, int] | None = None
    shapes: list[_Shape] = field(default_factory=list)


@dataclass
class _Document:
    images: list[_Image] = field(default_factory=list)
    ranks: dict[str, int] = field(default_factory=dict)
    """Places of the classes, where a file gives an order."""
    left_out: Counter[str] = field(default_factory=Counter)
    is_ordered: bool = False
    """Whether later shapes lie over earlier ones."""


def is_polygons(path: Path) -> bool:
    """Whether a file is sound JSON of a kind that is read here."""
    try:
        _load(path)
    except InputError:
        return False
    return True


def image_names(path: Path) -> tuple[str, ...]:
    """Names of the images that a file describes, without folders; () where it belongs to the image of its own name.

    Raises:
        InputError: a file that is missing, too large, damaged or of another kind.
    """
    return tuple(image.name for image in _load(path).images if image.name is not None)


def class_names(paths: Iterable[Path]) -> tuple[str, ...]:
    """Names of the classes that are drawn in some files: in COCO's order of categories, otherwise by name.

    labelme's `_background_` and `__ignore__`, and QuPath's `Ignore*`, are no classes.

    Raises:
        InputError: what `image_names` raises, no shapes at all, or more than 254 classes.
    """
    names: set[str] = set()
    ranks: dict[str, int] = {}
    path = None
    for path in paths:
        document = _load(path)
        ranks = document.ranks | ranks
        names |= {shape.name for image in document.images for shape in image.shapes}
    classes = sorted(names - {_BACKGROUND, _IGNORE}, key=lambda name: (ranks.get(name, 0), name))
    if not 0 < len(classes) <= _MAX_CLASSES:
        raise InputError(f"{path} and those before it hold {len(classes)} classes of outlines; 1 to {_MAX_CLASSES} are read")
    return tuple(classes)


def describe(paths: Iterable[Path]) -> tuple[str, ...]:
    """What of some files was left out, a sentence each.

    Raises:
        InputError: what `image_names` raises.
    """
    counts: Counter[str] = Counter()
    files: dict[str, list[str]] = {}
    for path in paths:
        left_out = _load(path).left_out
        counts.update(left_out)
        for what in left_out:
            files.setdefault(what, []).append(path.name)
    return tuple(
        f"left out: {what} ({counts[what]}) in {names[0] if len(names) == 1 else f'{len(names)} files ({names[0]}, ...)'}"
        for what, names in sorted(files.items())
    )


def read_polygons(path: Path, image_name: str, shape: tuple[int, int], classes: Sequence[str]) -> Outlined:
    """The shapes of an image, on a grid (H, W) that is the one the file states, or `shape` where it states none.

    Whoever calls compares the grid with the image: a file that states another was drawn on another image, or on one that was not
    turned as its EXIF says.

    Args:
        path: the file of outlines.
        image_name: the image's file name; folders before it do not count.
        shape: (H, W) of the image.
        classes: names in the order of their numbers, see `class_names`.

    Raises:
        InputError: what `image_names` raises, an image that is not described, a class that is not in `classes`, coordinates that
            are no finite numbers.
    """
    document = _load(path)
    with _told(path):
        image = _find(document.images, PurePosixPath(image_name.replace("\\", "/")).name)
        size = image.size or shape
        values, instances = np.zeros(size, np.int32), np.zeros(size, np.int32)
        numbers = {_BACKGROUND: 0, _IGNORE: IGNORED} | {name: number for number, name in enumerate(classes, start=1)}
        unknown = next((shape.name for shape in image.shapes if shape.name not in numbers), None)
        if unknown is not None:
            raise ShapeError(f"has shapes of the class {unknown!r}; the classes are {', '.join(classes)}")
        windows = [shape.draw(size) for shape in image.shapes]
        order = list(range(len(windows)))
        if not document.is_ordered:
            order.sort(key=lambda index: -np.count_nonzero(windows[index][1]))
        for index in order:
            (top, left), inside = windows[index]
            place = (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
            number = numbers[image.shapes[index].name]
            values[place][inside] = number
            instances[place][inside] = index + 1 if number not in (0, IGNORED) else 0
    return Outlined(values, instances)


def _find(images: Sequence[_Image], name: str) -> _Image:
    if len(images) == 1 and images[0].name is None:
        return images[0]
    stem = PurePosixPath(name).stem
    found = [image for image in images if image.name == name]
    found = found or [image for image in images if image.name and PurePosixPath(image.name).stem == stem]
    if len(found) != 1:
        raise ShapeError(f"lists {len(found) or 'no'} images called {name}; it must list one")
    return found[0]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except ShapeError as error:
        raise InputError(f"{path} {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path} has outlines of an unknown or damaged structure; {_OTHER_KINDS}") from error


_reading = Lock()


def _load(path: Path) -> _Document:
    """A file's shapes, not yet drawn. The last files stay known, since COCO's are asked for every image."""
    try:
        status = path.stat()
        if status.st_size > _MAX_FILE:
            raise InputError(f"{path} has more than {_MAX_FILE // 2**20} MiB; outlines of that size are not read, {_OTHER_KINDS}")
        with _reading:  # or threads that start at once would each hold a parsed copy
            return _parse(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=2)
def _parse(path: Path, modified: int, size: int) -> _Document:
    data = path.read_bytes()
    if what := what_else(data):
        raise InputError(f"{path} {what}")
    try:
        content = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not sound JSON: {' '.join(str(error).split())[:200] or 'it is empty'}") from error
    with _told(path):
        return _document(content)


def _no_number(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no number")


def _document(content: Any) -> _Document:
    if isinstance(content, list):
        if content and all(isinstance(part, dict) and part.get("type") == "Feature" for part in content):
            return _geojson(content)
        if content and isinstance(content[0], dict) and {"data", "annotations"} <= content[0].keys():
            raise ShapeError("is of Label Studio's own kind; export it as COCO, or as PNG masks")
    if isinstance(content, dict):
        if isinstance(content.get("shapes"), list):
            return _labelme(content)
        if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
            return _coco(content)
        if content.get("type") in ("FeatureCollection", "Feature"):
            return _geojson(content["features"] if content["type"] == "FeatureCollection" else [content])
        entries = content.get("_via_img_metadata", content)
        if entries and all(isinstance(entry, dict) and {"filename", "regions"} <= entry.keys() for entry in entries.values()):
            return _via(entries.values())
    raise ShapeError(f"is JSON without outlines of labelme, COCO, VIA or QuPath; {_OTHER_KINDS}")


def _labelme(content: dict[str, Any]) -> _Document:
    image = _Image(size=_size(content.get("imageHeight"), content.get("imageWidth")))
    document = _Document([image], is_ordered=True)
    for shape in content["shapes"]:
        kind, name, points = shape.get("shape_type") or "polygon", _name(shape["label"]), shape["points"]
        if kind in _WITHOUT_AREA:
            document.left_out[f"{kind}, which has no area"] += 1
        elif kind == "rectangle" and len(points) == 2:
            image.shapes.append(_Shape(name, partial(draw_parts, partial(box, points))))
        elif kind == "circle":
            image.shapes.append(_Shape(name, partial(draw_parts, partial(circle, points))))
        elif kind == "mask":
            image.shapes.append(_Shape(name, partial(draw_bitmap, points[0], shape["mask"])))
        elif kind in ("polygon", "rectangle", "rotation", "oriented_rectangle"):
            image.shapes.append(_Shape(name, partial(draw_parts, partial(one_ring, points))))
        else:
            raise ShapeError(f"has a shape of the kind {str(kind)[:40]!r}; polygons, rectangles, circles and masks are read")
    return document


def _coco(content: dict[str, Any]) -> _Document:
    names = {category["id"]: _name(category["name"]) for category in content["categories"]}
    images = {
        image["id"]: _Image(_base(image["file_name"]), _size(image.get("height"), image.get("width")))
        for image in content["images"]
    }
    document = _Document(list(images.values()))
    for rank, number in enumerate(sorted(names)):
        document.ranks.setdefault(names[number], rank)
    boxed = {}
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:  # of an image that was taken out of the list
            continue
        drawn = annotation.get("segmentation")
        name = names[annotation["category_id"]]
        if isinstance(drawn, dict):
            image.shapes.append(_Shape(name, partial(draw_runs, drawn["size"], drawn["counts"])))
        elif drawn and drawn != [[]]:
            lists = drawn if isinstance(drawn[0], list) else [drawn]
            image.shapes.append(_Shape(name, partial(draw_parts, partial(flat_rings, lists))))
        else:
            document.left_out["boxes without outline"] += 1
            boxed[annotation["image_id"]] = image
    if document.left_out and not any(image.shapes for image in images.values()):
        raise ShapeError("holds boxes and no outlines; draw the objects' outlines, or turn the boxes into masks")
    if bare := [str(image.name) for image in boxed.values() if not image.shapes]:
        raise ShapeError(
            f"holds boxes and no outlines for {len(bare)} of its images ({', '.join(bare[:3])}), which would count as empty; draw "
            "the outlines there, or take those images out"
        )
    return document


_VIA_SHAPES: dict[str, Callable[[dict[str, Any]], Parts]] = {
    "polygon": lambda shape: one_ring(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))),
    "rect": lambda shape: box([(shape["x"], shape["y"]), (shape["x"] + shape["width"], shape["y"] + shape["height"])]),
    "circle": lambda shape: ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"]),
    "ellipse": lambda shape: ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], shape.get("theta", 0.0)),
}


def _via(entries: Iterable[dict[str, Any]]) -> _Document:
    document = _Document()
    for entry in entries:
        image = _Image(_base(entry["filename"]))
        document.images.append(image)
        regions = entry["regions"].values() if isinstance(entry["regions"], dict) else entry["regions"]
        for region in regions:
            shape = region["shape_attributes"]
            attributes = {key: value for key, value in region["region_attributes"].items() if value}
            if len(attributes) > 1:
                raise ShapeError(f"has regions with the attributes {', '.join(attributes)}; keep the one that names their class")
            name = _name(next(iter(attributes.values()), _UNNAMED))
            if shape["name"] in _WITHOUT_AREA:
                document.left_out[f"{shape['name']}, which has no area"] += 1
            elif shape["name"] in _VIA_SHAPES:
                image.shapes.append(_Shape(name, partial(draw_parts, partial(_VIA_SHAPES[shape["name"]], shape))))
            else:
                raise ShapeError(f"has a region of the kind {str(shape['name'])[:40]!r}; polygons, rectangles and circles are read")
    return document


def _geojson(features: Sequence[dict[str, Any]]) -> _Document:
    image = _Image()
    document = _Document([image])
    for feature in features:
        geometry = feature["geometry"]
        about = (feature.get("properties") or {}).get("classification") or {}
        name = _name(about.get("name") or ": ".join(about.get("names") or ()) or _UNNAMED)
        if geometry["type"] in _WITHOUT_AREA:
            document.left_out[f"{geometry['type']}, which has no area"] += 1
        elif geometry["type"] in ("Polygon", "MultiPolygon"):
            parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
            image.shapes.append(_Shape(_IGNORE if name == "Ignore*" else name, partial(draw_parts, partial(rings, parts))))
        else:
            raise ShapeError(f"has a geometry of the kind {str(geometry['type'])[:40]!r}; Polygon and MultiPolygon are read")
    return document


def _name(name: Any) -> str:
    if not isinstance(name, str | int) or not str(name).strip() or not str(name).isprintable():
        raise ShapeError(f"has a class named {str(name)[:40]!r}; give it a name")
    return str(name).strip()


def _base(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _size(height: Any, width: Any) -> tuple[int, int] | None:
    if not height or not width:
        return None
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= _MAX_PIXELS and height > 0):
        raise ShapeError(f"states an image of {str(width)[:20]} x {str(height)[:20]} px, which is none that is read")
    return height, width
