"""JSON of annotation tools, read as masks; what is no such file, and what is damaged in one."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdal.data.dataset import IGNORED
from cdal.data.polygons import class_names, describe, image_names, is_polygons, read_polygons
from cdal.errors import InputError

H, W = 40, 60
SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]
INNER = [[15, 10], [20, 10], [20, 15], [15, 15]]
RIGHT = [[40, 30], [52, 30], [52, 36], [40, 36]]


def box(points: list[list[int]], value: int = 1) -> np.ndarray:
    (left, top), _, (right, bottom), _ = points
    found = np.zeros((H, W), np.int32)
    found[top:bottom, left:right] = value
    return found


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def shape(label: Any, points: list[list[float]], kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": 7, "shape_type": kind, "flags": {}} | more


def labelme(*shapes: dict[str, Any], height: Any = H, width: Any = W) -> dict[str, Any]:
    return {"version": "5.5.0", "shapes": list(shapes), "imagePath": "renamed.jpg", "imageHeight": height, "imageWidth": width}


def flat(points: list[list[int]]) -> list[int]:
    return [number for point in points for number in point]


def coco(*drawn: Any, category: int = 3) -> dict[str, Any]:
    """Two images, of which the first has shapes."""
    return {
        "images": [{"id": 5, "file_name": "train/a.png", "height": H, "width": W}, {"id": 9, "file_name": "b.png", "height": H}],
        "categories": [{"id": 3, "name": "vessel"}, {"id": 1, "name": "wall"}, {"id": 0, "name": "things"}],
        "annotations": [
            {"id": number, "image_id": 5, "category_id": category, "segmentation": one, "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for number, one in enumerate(drawn)
        ],
    }


def via(*regions: tuple[dict[str, Any], dict[str, Any]], project: bool = True) -> dict[str, Any]:
    drawn = [{"shape_attributes": about, "region_attributes": attributes} for about, attributes in regions]
    entries = {"a.png123": {"filename": "a.png", "size": 123, "regions": drawn, "file_attributes": {}}}
    return {"_via_settings": {}, "_via_img_metadata": entries} if project else entries


def feature(kind: str, coordinates: Any, classification: Any = None) -> dict[str, Any]:
    about = {"objectType": "annotation"} | ({"classification": classification} if classification else {})
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": about}


def closed(points: list[list[int]]) -> list[list[int]]:
    return [*points, points[0]]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Of columns, outside first."""
    values = np.concatenate([[0], mask.T.ravel() > 0])
    changes = np.flatnonzero(np.diff(values)).tolist()
    return np.diff([0, *changes, mask.size]).tolist()


def packed(runs: list[int]) -> str:
    """Run lengths as COCO compresses them."""
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        while True:
            bits, number = number & 31, number >> 5
            is_last = number == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if is_last else 32))
            if is_last:
                break
    return text


def png(mask: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def disc(x: float, y: float, across: float, along: float) -> np.ndarray:
    columns, rows = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    return ((columns - x) / across) ** 2 + ((rows - y) / along) ** 2 <= 1


BLOB = disc(25, 20, 13, 9) | (box(RIGHT) > 0)
HOLE = box(SQUARE) - box(INNER)
NAMED = {"name": "cell", "color": [1, 2, 3]}
RUNS = {"size": [H, W], "counts": run_lengths(BLOB)}
PACKED = {"size": [H, W], "counts": packed(run_lengths(BLOB))}
BITMAP = shape("cell", [[10, 5], [29, 24]], "mask", mask=png(BLOB[5:25, 10:30]))
DRAWN: dict[str, tuple[Any, np.ndarray]] = {
    "labelme polygon": (labelme(shape("cell", SQUARE)), box(SQUARE)),
    "labelme before it had types": (labelme(shape("cell", SQUARE, None), height=None), box(SQUARE)),
    "labelme rectangle": (labelme(shape("cell", [SQUARE[2], SQUARE[0]], "rectangle")), box(SQUARE)),
    "labelme circle": (labelme(shape("cell", [[25, 20], [25, 29]], "circle")), disc(25, 20, 9, 9)),
    "labelme mask": (labelme(BITMAP), BLOB & (box(SQUARE) > 0)),
    "labelme mask beyond the border": (
        labelme(shape("cell", [[-4, -3]], "mask", mask=png(np.ones((H + 9, W + 9), bool)))),
        np.ones((H, W)),
    ),
    "COCO polygon": (coco([flat(SQUARE)]), box(SQUARE)),
    "COCO polygons of one object": (coco([flat(SQUARE), flat(RIGHT)]), box(SQUARE) + box(RIGHT)),
    "COCO without an inner list": (coco(flat(SQUARE)), box(SQUARE)),
    "COCO run lengths": (coco(RUNS), BLOB),
    "COCO compressed run lengths": (coco(PACKED), BLOB),
    "COCO run lengths of nothing": (coco({"size": [H, W], "counts": [H * W]}), np.zeros((H, W))),
    "VIA polygon": (
        via(({"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [5, 5, 25, 25]}, {})),
        box(SQUARE),
    ),
    "VIA export, rectangle": (
        via(({"name": "rect", "x": 10, "y": 5, "width": 20, "height": 20}, {"class": "cell", "note": ""}), project=False),
        box(SQUARE),
    ),
    "VIA circle": (via(({"name": "circle", "cx": 25, "cy": 20, "r": 9}, {})), disc(25, 20, 9, 9)),
    "VIA ellipse": (via(({"name": "ellipse", "cx": 25, "cy": 20, "rx": 13, "ry": 9, "theta": 0}, {})), disc(25, 20, 13, 9)),
    "GeoJSON with a hole": (
        {"type": "FeatureCollection", "features": [feature("Polygon", [closed(SQUARE), closed(INNER)], NAMED)]},
        HOLE,
    ),
    "GeoJSON of several parts": (
        [feature("MultiPolygon", [[closed(SQUARE), closed(INNER)], [closed(RIGHT)]], {"names": ["cell"]})],
        HOLE + box(RIGHT),
    ),
    "one GeoJSON feature": (feature("Polygon", [closed(SQUARE)]), box(SQUARE)),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_shapes_become_the_pixels_that_they_hold(tmp_path: Path, kind: str) -> None:
    content, expected = DRAWN[kind]
    path = write(tmp_path / "a.json", content)
    classes = class_names([path])
    assert classes == (("vessel",) if "COCO" in kind else ("cell",) if "cell" in json.dumps(content) else ("object",))
    drawn = read_polygons(path, "folder/a.png", (H, W), classes)
    assert drawn.values.dtype == drawn.instances.dtype == np.int32
    wrong = np.count_nonzero(drawn.values != expected)
    assert wrong <= (4 if "circle" in kind or "ellipse" in kind else 0)  # they are drawn with corners
    assert np.array_equal(drawn.instances > 0, drawn.values > 0)
    assert is_polygons(path)


def test_classes_are_numbered_over_all_files(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", labelme(shape("wall", SQUARE), shape("cell", RIGHT)))
    second = write(tmp_path / "b.json", labelme(shape("cell", SQUARE), shape(" nerve ", RIGHT)))
    classes = class_names([first, second])
    assert classes == ("cell", "nerve", "wall")
    assert np.array_equal(read_polygons(first, "a.png", (H, W), classes).values, box(SQUARE, 3) + box(RIGHT, 1))
    found = read_polygons(second, "b.png", (H, W), classes)
    assert np.array_equal(found.values, box(SQUARE, 1) + box(RIGHT, 2))
    assert np.array_equal(found.instances, box(SQUARE, 1) + box(RIGHT, 2))
    with pytest.raises(InputError, match=r"b\.json has shapes of the class 'nerve'; the classes are cell, wall"):
        read_polygons(second, "b.png", (H, W), ("cell", "wall"))


def test_coco_keeps_the_order_of_its_categories_and_drops_those_without_shapes(tmp_path: Path) -> None:
    content = coco([flat(SQUARE)], [flat(RIGHT)])
    content["annotations"][1] |= {"category_id": 1}
    content["annotations"].append({"image_id": 77, "category_id": 0, "segmentation": [flat(RIGHT)]})  # of no image
    path = write(tmp_path / "all.json", content)
    assert class_names([path]) == ("wall", "vessel")
    assert np.array_equal(read_polygons(path, "a.png", (H, W), ("wall", "vessel")).values, box(SQUARE, 2) + box(RIGHT, 1))


def test_images_are_found_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", coco([flat(SQUARE)]))
    assert image_names(path) == ("a.png", "b.png")
    assert image_names(write(tmp_path / "a.json", labelme(shape("cell", SQUARE)))) == ()
    for name in ("a.png", "images/a.png", "C:\\images\\a.png", "a.tif"):
        assert read_polygons(path, name, (H, W), ("vessel",)).values.any()
    assert not read_polygons(path, "b.png", (H, W), ("vessel",)).values.any()
    with pytest.raises(InputError, match=r"all\.json lists no images called c\.png; it must list one"):
        read_polygons(path, "c.png", (H, W), ("vessel",))
    content = coco([flat(SQUARE)])
    content["images"][1]["file_name"] = "test/a.png"
    with pytest.raises(InputError, match=r"twice\.json lists 2 images called a\.png"):
        read_polygons(write(tmp_path / "twice.json", content), "a.png", (H, W), ("vessel",))


def test_the_grid_is_the_one_that_the_file_states(tmp_path: Path) -> None:
    stated = write(tmp_path / "a.json", labelme(shape("cell", SQUARE), height=W, width=H))
    assert read_polygons(stated, "a.png", (H, W), ("cell",)).values.shape == (W, H)
    silent = write(tmp_path / "b.json", labelme(shape("cell", SQUARE), height=None, width=None))
    assert read_polygons(silent, "b.png", (30, 31), ("cell",)).values.shape == (30, 31)


def test_what_lies_on_top(tmp_path: Path) -> None:
    """In labelme the later; elsewhere the smaller."""
    ordered = write(tmp_path / "a.json", labelme(shape("inner", INNER), shape("outer", SQUARE)))
    assert np.array_equal(read_polygons(ordered, "a.png", (H, W), ("inner", "outer")).values, box(SQUARE, 2))
    content = coco([flat(INNER)], [flat(SQUARE)])
    free = read_polygons(write(tmp_path / "b.json", content), "a.png", (H, W), ("vessel",))
    assert np.array_equal(free.instances, box(SQUARE, 2) - box(INNER, 1))


def test_background_and_what_is_to_be_ignored(tmp_path: Path) -> None:
    hole = write(
        tmp_path / "a.json", labelme(*(shape(n, p) for n, p in (("cell", SQUARE), ("_background_", INNER), ("__ignore__", RIGHT))))
    )
    assert class_names([hole]) == ("cell",)
    found = read_polygons(hole, "a.png", (H, W), ("cell",))
    assert np.array_equal(found.values, HOLE + box(RIGHT, IGNORED))
    assert np.array_equal(found.instances, HOLE)
    qupath = [feature("Polygon", [closed(SQUARE)], NAMED), feature("Polygon", [closed(RIGHT)], {"name": "Ignore*"})]
    found = read_polygons(write(tmp_path / "b.geojson", qupath), "b.png", (H, W), class_names([tmp_path / "b.geojson"]))
    assert np.array_equal(found.values, box(SQUARE) + box(RIGHT, IGNORED))


def test_what_has_no_area_is_left_out_and_told(tmp_path: Path) -> None:
    lines = [shape("ruler", SQUARE[:2], "line"), shape("x", SQUARE[:1], "point"), shape("path", SQUARE, "linestrip")]
    paths = [write(tmp_path / f"{name}.json", labelme(shape("cell", SQUARE), *lines[number:])) for number, name in enumerate("abc")]
    assert class_names(paths) == ("cell",)
    assert np.array_equal(read_polygons(paths[0], "a.png", (H, W), ("cell",)).values, box(SQUARE))
    assert describe(paths) == (
        "left out: line, which has no area (1) in a.json",
        "left out: linestrip, which has no area (3) in 3 files (a.json, ...)",
        "left out: point, which has no area (2) in 2 files (a.json, ...)",
    )
    other = [
        write(tmp_path / "d.json", coco([flat(SQUARE)], [], [[]])),
        write(
            tmp_path / "e.json", via(({"name": "point", "cx": 1, "cy": 1}, {}), ({"name": "circle", "cx": 9, "cy": 9, "r": 5}, {}))
        ),
        write(tmp_path / "f.json", [feature("LineString", SQUARE), feature("Polygon", [closed(SQUARE)])]),
    ]
    assert describe(other) == (
        "left out: LineString, which has no area (1) in f.json",
        "left out: boxes without outline (2) in d.json",
        "left out: point, which has no area (1) in e.json",
    )


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", labelme(shape("cell", SQUARE)))
    assert class_names([path]) == ("cell",)
    assert class_names([write(path, labelme(shape("nucleus", SQUARE)))]) == ("nucleus",)


def text(content: Any) -> bytes:
    return json.dumps(content).encode()


def with_counts(counts: Any) -> bytes:
    return text(coco({"size": [H, W], "counts": counts}))


DAMAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not sound JSON"),
    "a cut": (text(labelme(shape("cell", SQUARE)))[:-9], "is not sound JSON"),
    "no text": (b"\xff\xfe\xfa{", "is not sound JSON"),
    "depth": (b"[" * 200_000, "is not sound JSON"),
    "a long number": (b'{"shapes": ' + b"9" * 5000 + b"}", "is not sound JSON"),
    "NaN": (text(labelme(shape("cell", [[float("nan"), 1], [2, 3], [4, 5]]))), "it holds NaN, which is no number"),
    "infinity": (
        text(labelme(shape("cell", SQUARE))).replace(b"[30, 5]", b"[1e999, 5]"),
        "points are not two numbers of pixels each",
    ),
    "far away": (text(labelme(shape("cell", [[1e12, 1], [2, 3], [4, 5]]))), "points are not two numbers of pixels each"),
    "words": (text(labelme(shape("cell", [["a", "b"], [2, 3], [4, 5]]))), "points are not two numbers of pixels each"),
    "numbers as text": (text(labelme(shape("cell", [["1", "2"], ["2", "3"], ["4", "5"]]))), "points are not two numbers"),
    "one number": (text(labelme(shape("cell", [[1], [2], [3]]))), "points are not two numbers of pixels each"),
    "ragged points": (text(labelme(shape("cell", [[1, 2], [2]]))), "has outlines of an unknown or damaged structure"),
    "no points": (text(labelme(shape("cell", []))), "points are not two numbers of pixels each"),
    "no label": (text({"shapes": [{"points": SQUARE}]}), "has outlines of an unknown or damaged structure"),
    "an empty label": (text(labelme(shape(" ", SQUARE))), "has a class named ' '; give it a name"),
    "a label of two lines": (text(labelme(shape("a\nb", SQUARE))), "has a class named 'a\\nb'; give it a name"),
    "an unknown shape": (text(labelme(shape("cell", SQUARE, "spline"))), "has a shape of the kind 'spline'"),
    "a huge image": (text(labelme(shape("cell", SQUARE), height=10**7)), "states an image of 60 x 10000000 px, which is none"),
    "a negative image": (text(labelme(shape("cell", SQUARE), height=-H, width=-W)), "states an image of -60 x -40 px"),
    "a bitmap that is none": (text(labelme(shape("cell", [[0, 0]], "mask", mask="AAAA"))), "has a mask that is no readable image"),
    "a bitmap in other letters": (text(labelme(shape("cell", [[0, 0]], "mask", mask="ä"))), "unknown or damaged structure"),
    "an odd number of coordinates": (text(coco([[1, 2, 3, 4, 5]])), "has outlines of an unknown or damaged structure"),
    "an unknown category": (text(coco([flat(SQUARE)], category=8)), "has outlines of an unknown or damaged structure"),
    "boxes only": (text(coco([], [])), "holds boxes and no outlines; draw the objects' outlines"),
    "runs of another size": (
        text(coco({"size": [W, H], "counts": [H * W]})),
        "has a mask of 40 x 60 px for an image of 60 x 40 px",
    ),
    "too few runs": (with_counts([1, 2, 3]), "run lengths do not add up to its size"),
    "negative runs": (with_counts([-5, H * W + 5]), "run lengths do not add up to its size"),
    "runs of fractions": (with_counts([0.5, H * W - 0.5]), "run lengths do not add up to its size"),
    "runs beyond 64 bits": (with_counts([2**70, 1]), "run lengths do not add up to its size"),
    "runs in other letters": (with_counts("!!"), "compressed run lengths are damaged"),
    "runs without end": (with_counts("o" * 40), "compressed run lengths are damaged"),
    "runs that are cut": (with_counts("o"), "compressed run lengths are cut"),
    "a region of two attributes": (
        text(via(({"name": "circle", "cx": 9, "cy": 9, "r": 5}, {"kind": "cell", "grade": "2"}))),
        "has regions with the attributes kind, grade; keep the one that names their class",
    ),
    "a region of an unknown kind": (text(via(({"name": "cube"}, {}))), "has a region of the kind 'cube'"),
    "a collection of geometries": (text([feature("GeometryCollection", [])]), "has a geometry of the kind 'GeometryCollection'"),
    "no geometry": (text([{"type": "Feature", "geometry": None}]), "has outlines of an unknown or damaged structure"),
    "Label Studio": (text([{"id": 1, "data": {}, "annotations": []}]), "is of Label Studio's own kind; export it as COCO"),
    "JSON of another kind": (text({"training": [], "labels": {}}), "is JSON without outlines of labelme, COCO, VIA or QuPath"),
    "a number": (b"3", "is JSON without outlines of labelme, COCO, VIA or QuPath; export it as COCO or labelme JSON"),
    "an ImageJ outline": (b"Iout\0\xe4\0\0", "is an outline of ImageJ (.roi); in Fiji"),
    "a set of ImageJ outlines": (b"PK\3\4\x14\0\0\0\0\0001-2.roi", "is a set of outlines of ImageJ (RoiSet.zip)"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS instead of the file itself"),
}


def read(path: Path) -> None:
    read_polygons(path, "a.png", (H, W), class_names([path]))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence_that_names_the_file(tmp_path: Path, kind: str) -> None:
    data, words = DAMAGE[kind]
    path = tmp_path / "umrisse.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 300


@pytest.mark.parametrize("count", [0, 255])
def test_too_few_or_too_many_classes(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "a.json", labelme(*(shape(f"class {number}", SQUARE) for number in range(count))))
    with pytest.raises(InputError, match=rf"a\.json and those before it hold {count} classes of outlines; 1 to 254 are read"):
        class_names([path])


def test_what_is_no_file_of_outlines(tmp_path: Path) -> None:
    assert not is_polygons(tmp_path / "missing.json")
    assert not is_polygons(write(tmp_path / "dataset.json", {"channel_names": {}, "labels": {}, "file_ending": ".png"}))
    with pytest.raises(InputError, match=r"missing\.json cannot be read: No such file"):
        image_names(tmp_path / "missing.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(InputError, match=r"large\.json has more than 256 MiB"):
        image_names(tmp_path / "large.json")


SAMPLES: dict[str, Callable[[], Any]] = {
    "labelme": lambda: labelme(shape("cell", SQUARE), BITMAP, shape("cell", [[25, 20], [25, 29]], "circle")),
    "COCO": lambda: coco([flat(SQUARE)], RUNS, PACKED),
    "VIA": lambda: via(({"name": "rect", "x": 10, "y": 5, "width": 20, "height": 20}, {"class": "cell"})),
    "GeoJSON": lambda: [feature("MultiPolygon", [[closed(SQUARE), closed(INNER)], [closed(RIGHT)]], NAMED)],
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_random_damage_is_never_anything_but_an_input_error(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    raw = text(SAMPLES[kind]())
    refused: list[str] = []
    for trial in range(300):
        data = bytearray(raw[: int(rng.integers(len(raw)))] if trial % 10 == 0 else raw)
        for at in rng.integers(0, max(1, len(data)), 3):
            if at < len(data):
                data[at] = rng.choice(list(b'0123456789.-e"[]{},: nul')) if trial % 4 else rng.integers(256)
        path = tmp_path / f"{trial}.json"
        path.write_bytes(bytes(data))
        try:
            read(path)
        except InputError as error:
            refused.append(str(error))
    assert 50 < len(refused) < 300
    assert all(".json" in message and "\n" not in message for message in refused)
