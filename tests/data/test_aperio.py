"""Outlines of nuclei: parsed from XML, and turned into pixels."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cdal.data.aperio import describe, fill, rasterise, read_instances, read_outlines, read_regions
from cdal.data.images import read_image
from cdal.errors import InputError

Region = Sequence[tuple[float, float]] | np.ndarray


def pixels(*regions: Region, shape: tuple[int, int] = (8, 10)) -> np.ndarray:
    return rasterise([np.array(region, float) for region in regions], shape)


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def nuclei(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    """Wobbly ellipses all over an image and a little beyond."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    wobble = [1 + 0.1 * np.sin(3 * angle + phase)[:, None] for phase in rng.uniform(0, 6, count)]
    return [rng.uniform(0, size, 2) + rng.uniform(6, 16, 2) * turn * circle for turn in wobble]


def around(outline: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Winding number of points, by the angle that the outline's vertices sweep: slow, but the definition."""
    angles = np.arctan2(outline[:, 1] - y[..., None], outline[:, 0] - x[..., None])
    swept = (np.diff(angles, append=angles[..., :1]) + np.pi) % (2 * np.pi) - np.pi
    return np.rint(swept.sum(axis=-1) / (2 * np.pi)).astype(int)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def test_a_pixel_is_the_square_right_of_and_below_its_numbers() -> None:
    expected = np.zeros((8, 10), int)
    expected[3:5, 2:6] = 1
    assert np.array_equal(pixels(box(2, 3, 6, 5)), expected)
    assert np.array_equal(pixels(box(2, 3, 6, 5)[::-1]), expected)
    assert np.array_equal(pixels(box(1.6, 2.6, 6.4, 5.4)), expected)
    expected[3, :] = 0
    assert np.array_equal(pixels(box(1.6, 3.6, 6.4, 5.4)), expected)


def test_neighbours_share_no_pixel_and_leave_none() -> None:
    for edge in np.arange(2, 4, 0.125):
        found = pixels(box(0, 0, edge, 8), box(edge, 0, 10, 8))
        assert (found > 0).all()
        alone = [pixels(box(0, 0, edge, 8)) > 0, pixels(box(edge, 0, 10, 8)) > 0]
        assert not (alone[0] & alone[1]).any()


def test_outlines_are_cut_at_the_border() -> None:
    assert (pixels(box(-5, -3, 30, 40)) == 1).all()
    expected = np.zeros((8, 10), int)
    expected[6:, 8:] = 1
    assert np.array_equal(pixels(box(8, 6, 12, 11)), expected)
    for outside in (box(-9, -9, -1, -1), box(10, 0, 14, 8), box(0, 8, 10, 20), [(-1, 3)], [(10, 3)], [(3, 8)], box(-3, 2, 0, 5)):
        assert not pixels(outside).any()
    assert (pixels(box(-1e9, -1e9, 1e9, 1e9)) == 1).all()


@pytest.mark.parametrize("order", [1, -1])
def test_overlap_belongs_to_the_smaller(order: int) -> None:
    regions = [box(0, 0, 10, 8), box(4, 3, 6, 5), box(5, 2, 9, 7)][::order]
    found = pixels(*regions)
    big, small, middle = (1, 2, 3) if order == 1 else (3, 2, 1)
    assert (found[3:5, 4:6] == small).all()
    assert (found[2:7, 6:9] == middle).all()
    assert (found == small).sum() == 4
    assert (found == middle).sum() == 20 - 2
    assert (found == big).sum() == 80 - 18 - 4


def test_among_equals_the_last_is_on_top() -> None:
    found = pixels(box(1, 1, 5, 5), box(3, 3, 7, 7))
    assert (found[3:5, 3:5] == 2).all()
    assert (found == 1).sum() == 12


@pytest.mark.parametrize(
    "region",
    [
        [(4.3, 2.7)],
        [(4.0, 2.0), (4.9, 2.9)],
        [(4.3, 2.2), (4.31, 2.2), (4.3, 2.21)],
        box(4.1, 2.1, 4.4, 2.4),
        box(4.0, 2.1, 5.0, 2.4),
        [(2.5, 2.2), (6.5, 2.2)],
        [(4.2, 2.2)] * 5,
    ],
)
def test_what_is_smaller_than_a_pixel_still_has_one(region: Region) -> None:
    expected = np.zeros((8, 10), int)
    expected[2, 4] = 1
    assert np.array_equal(pixels(region), expected)


def test_self_crossing_outlines() -> None:
    eight = pixels([(0, 0), (10, 8), (10, 0), (0, 8)])
    assert eight[4, 0] == eight[4, 9] == 1
    assert eight[0, 5] == eight[7, 4] == 0
    twice = [*box(1, 1, 7, 6), (1, 1), (7, 1), (7, 4)]  # drawn on past its start
    assert (pixels(twice)[1:6, 1:7] == 1).all()
    star = [(25 + 20 * np.sin(k * 4 * np.pi / 5), 25 - 20 * np.cos(k * 4 * np.pi / 5)) for k in range(5)]
    assert pixels(star, shape=(50, 50))[25, 25] == 1


def test_pixels_are_the_centres_that_the_outline_goes_around() -> None:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    for trial in range(60):
        outline = rng.uniform(-8, 45, (rng.integers(3, 12), 2))
        if trial % 2:
            outline = np.round(outline)  # vertices on whole numbers, edges along rows and columns
        sides = [around(outline, x + step, y + 0.271828 * step) != 0 for step in (-1e-6, 1e-6)]
        clear = sides[0] == sides[1]  # of the outline itself
        assert clear.mean() > 0.9
        if sides[0].any():
            assert np.array_equal(pixels(outline, shape=(30, 40))[clear] > 0, sides[0][clear])


def finer(regions: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels at least half filled by Pillow's polygons on a grid 8 times as fine; Pillow centres pixels on whole numbers."""
    canvas = Image.new("1", (shape[1] * 8, shape[0] * 8))
    for vertices in regions:
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in vertices * 8 - 0.5], fill=1)
    return np.asarray(canvas).reshape(shape[0], 8, shape[1], 8).mean(axis=(1, 3)) >= 0.5


def agrees_with_the_finer_grid(regions: Sequence[np.ndarray], shape: tuple[int, int]) -> None:
    assert iou(rasterise(regions, shape) > 0, finer(regions, shape)) > 0.98
    alone = []
    for vertices in regions:
        moved = vertices - np.floor(vertices.min(axis=0)) + 1
        width, height = np.ceil(moved.max(axis=0)).astype(int) + 1
        alone.append(iou(rasterise([moved], (height, width)) > 0, finer([moved], (height, width))))
    assert np.median(alone) > 0.98


def test_pixels_agree_with_a_fill_of_a_grid_8_times_as_fine() -> None:
    agrees_with_the_finer_grid(nuclei(60, 200), (200, 200))


def test_no_nucleus_is_lost_among_many() -> None:
    regions = nuclei(400, 1000)
    middles = np.array([region.mean(axis=0) for region in regions])
    apart = [number for number, at in enumerate(middles) if np.sort(np.abs(middles - at).sum(axis=1))[1] > 2]
    found = rasterise(regions, (1000, 1000))
    assert found.dtype == np.int32
    assert {number + 1 for number in apart} <= set(np.unique(found))


@pytest.mark.long
def test_the_real_images(monuseg_folder: Path) -> None:
    """Counts of nuclei are those of the files' Region elements."""
    for name, count in (("Training/TCGA-B0-5710-01Z-00-DX1", 359), ("Test/TCGA-HT-8564-01Z-00-DX1", 249)):
        regions = read_regions(monuseg_folder / f"{name}.xml")
        image = read_image(monuseg_folder / f"{name}.tif")
        found = rasterise(regions, image.shape[:2])
        assert len(regions) == count
        assert np.array_equal(np.unique(found), np.arange(count + 1))
        assert image[found > 0].mean() < image[found == 0].mean() - 50  # nuclei are dark
        agrees_with_the_finer_grid(regions, image.shape[:2])


@pytest.fixture
def monuseg_folder() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "MoNuSeg"
    if not folder.is_dir():
        pytest.skip(f"the MoNuSeg samples are not in {folder}")
    return folder


def xml(*regions: str, declaration: str = "") -> str:
    inside = "".join(regions)
    return f"{declaration}<Annotations><Annotation><Regions>{inside}</Regions></Annotation></Annotations>"


def region(*vertices: tuple[object, object], attributes: str = "") -> str:
    inside = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in vertices)
    return f"<Region {attributes}><Attributes/><Vertices>{inside}</Vertices></Region>"


TRIANGLE = region((1, 2), (3.5, "4e0"), (-5, 1002.25))


def test_outlines_are_read_in_file_order(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    layer = "</Regions></Annotation><Annotation><Regions>"
    hole, empty, rectangle = region((0, 0), attributes='NegativeROA="1"'), region(), region((7, 8), attributes='Type="1"')
    path.write_text(xml(TRIANGLE, hole, empty, layer, rectangle, '<Vertex X="1" Y="1"/>'))
    found = read_regions(path)
    assert [outline.tolist() for outline in found] == [[[1, 2], [3.5, 4], [-5, 1002.25]], [[7, 8]]]
    path.write_text("<Annotations/>")
    assert read_regions(path) == []
    for encoding in ("utf-8-sig", "utf-16", "iso-8859-1"):
        name = encoding.removesuffix("-sig")
        path.write_bytes(xml("<!-- Kern ä -->", TRIANGLE, declaration=f'<?xml version="1.0" encoding="{name}"?>').encode(encoding))
        assert len(read_regions(path)) == 1


def layer(*regions: str, name: str = "", attributes: str = "") -> str:
    inside = "".join(regions)
    return f'<Annotation Name="{name}" Type="4"><Attributes>{attributes}</Attributes><Regions>{inside}</Regions></Annotation>'


def slide(path: Path, *layers: str) -> Path:
    path.write_text(f"<Annotations>{''.join(layers)}</Annotations>")
    return path


def drawn(outline: Region, kind: str = "0", negative: str = "0") -> str:
    return region(*outline, attributes=f'Type="{kind}" NegativeROA="{negative}"')


CELLS = [box(x, y, x + 6, y + 5) for x in (5, 25, 45, 65) for y in (5, 35, 65)]
NUCLEI = [drawn(cell) for cell in CELLS]
EXPECTED = pixels(*CELLS, shape=(80, 80))
FIELD = box(0, 0, 76, 76)
QUARTER = box(0, 0, 35, 42)
OTHER_THINGS: dict[str, tuple[list[str], dict[str, int]]] = {
    "a field in the same layer": ([layer(*NUCLEI, drawn(FIELD, "1"))], {"rectangles that frame nuclei": 1}),
    "fields of a part each": ([layer(drawn(QUARTER, "1"), *NUCLEI, drawn(QUARTER, "1"))], {"rectangles that frame nuclei": 2}),
    "an empty field": ([layer(*NUCLEI, drawn(box(10, 44, 40, 62), "1"))], {"rectangles that frame nuclei": 1}),
    "a rectangle in its own layer": ([layer(*NUCLEI), layer(drawn(CELLS[0], "1"), name="2")], {"rectangles that frame nuclei": 1}),
    "a field drawn by hand": ([layer(drawn(FIELD), name="FOV_1"), layer(*NUCLEI)], {'regions of the layer "FOV_1"': 1}),
    "an elliptic field": ([layer(drawn(FIELD[::2], "2"), name="roi"), layer(*NUCLEI)], {'regions of the layer "roi"': 1}),
    "rulers and arrows": (
        [layer(drawn(FIELD[::2], "4"), drawn(FIELD[::2], "3"), *NUCLEI, drawn(FIELD[:2], "4"))],
        {"rulers": 2, "arrows": 1},
    ),
    "a ruler of another program": ([layer(drawn(FIELD[::2]), name="Ruler"), layer(*NUCLEI)], {'regions of the layer "Ruler"': 1}),
    "a tumour": ([layer(drawn(QUARTER), name="Tumor area"), layer(*NUCLEI)], {'large regions of the layer "Tumor area"': 1}),
    "what is left out of an analysis": ([layer(*NUCLEI, drawn(FIELD, negative="1"))], {"negative regions (NegativeROA)": 1}),
    "a described layer": (
        [layer(drawn(FIELD), attributes='<Attribute Name="Description" Id="0" Value="field of view"/>'), layer(*NUCLEI)],
        {'regions of the layer "field of view"': 1},
    ),
    "a layer named as in MoNuSAC": (
        [layer(drawn(FIELD), attributes='<Attribute Name="Ambiguous" Id="0" Value=""/>'), layer(*NUCLEI)],
        {'regions of the layer "Ambiguous"': 1},
    ),
}


@pytest.mark.parametrize("kind", OTHER_THINGS)
def test_what_is_no_nucleus_is_left_out_and_told(tmp_path: Path, kind: str) -> None:
    layers, left_out = OTHER_THINGS[kind]
    path = slide(tmp_path / "a.xml", *layers)
    found = read_instances(path, (80, 80))
    assert np.array_equal(found > 0, EXPECTED > 0)
    assert len(np.unique(found)) == len(CELLS) + 1
    assert read_outlines(path).left_out == left_out
    assert len(read_regions(path)) == len(CELLS)
    plain = slide(tmp_path / "plain.xml", layer(*NUCLEI))
    notes = describe([plain, path])
    assert [note for note in notes if note.startswith("left out")] == sorted(
        f"left out as no nuclei: {what} ({count}) in a.xml" for what, count in left_out.items()
    )
    again = slide(tmp_path / "b.xml", *layers)
    assert all("in 2 files (a.xml, ...)" in note for note in describe([path, again]) if note.startswith("left out"))


@pytest.mark.parametrize("name", ["", "nuclei", "Nuclei in the ROI", "Tumor", "Layer 1", "profiler"])
def test_nuclei_in_a_layer_of_any_name(tmp_path: Path, name: str) -> None:
    path = slide(tmp_path / "a.xml", layer(*NUCLEI[:6], name=name), layer(*NUCLEI[6:]))
    assert np.array_equal(read_instances(path, (80, 80)), EXPECTED)
    assert read_outlines(path).left_out == {}
    told = (f'every region of the layers "{name}" counts as a nucleus',) if name else ()
    assert describe([path]) == told


def test_a_rectangle_among_outlines_may_be_a_nucleus(tmp_path: Path) -> None:
    path = slide(tmp_path / "a.xml", layer(*NUCLEI[:-1], drawn(CELLS[-1], "1")))
    assert np.array_equal(read_instances(path, (80, 80)), EXPECTED)


MISFITS: dict[str, tuple[list[str], str]] = {
    "rectangles only": (
        [layer(*(drawn(cell, "1") for cell in CELLS))],
        "holds rectangles and no outlines; draw nuclei with the pen",
    ),
    "a field only": ([layer(drawn(FIELD, "1"))], "holds rectangles and no outlines"),
    "an unknown type": ([layer(drawn(CELLS[0], "Polygon"))], "region 1 is of the type 'Polygon', which is no outline"),
    "an ellipse": ([layer(NUCLEI[0], drawn(CELLS[1][::2], "2"))], "region 2 is an ellipse; only outlines are read"),
    "a field by hand in the same layer": (
        [layer(*NUCLEI, drawn(FIELD))],
        "(0, 0) to (76, 76) holds 12 others, so it is no nucleus",
    ),
    "a tissue by hand": (
        [layer(drawn(box(0, 0, 62, 40)), *NUCLEI)],
        "holds 6 others, so it is no nucleus; delete it in ImageScope",
    ),
    "outlines of a whole slide": (
        [layer(*(drawn([(x + 9000, y + 70) for x, y in cell]) for cell in CELLS))],
        "12 of 12 regions lie outside the image of 80 x 80 px",
    ),
    "twice the magnification": (
        [layer(*(drawn([(3 * x, 3 * y) for x, y in cell]) for cell in CELLS))],
        "10 of 12 regions lie outside the image of 80 x 80 px; they were drawn on another image",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_cannot_be_told_apart_is_refused(tmp_path: Path, kind: str) -> None:
    layers, words = MISFITS[kind]
    path = slide(tmp_path / "a.xml", *layers)
    with pytest.raises(InputError) as caught:
        read_instances(path, (80, 80))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_outline_in_zigzag_does_not_fill_the_memory() -> None:
    """Filled in parts, it is what it is as a whole: 1,000 teeth down 2,000 rows cross 4 million of them, 200 MB at once."""
    x = np.repeat(np.arange(1000) / 100, 2)
    teeth = np.stack([x, np.tile([0.0, 2000.0], 1000)], axis=1)
    tracemalloc.start()
    found = rasterise([teeth], (2000, 10))
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()
    assert found[:1900].any()


def test_a_hole_without_pixel_centre_has_no_pixel() -> None:
    speck = np.array(box(4.1, 2.1, 4.4, 2.4))
    assert fill(speck, (8, 10))[1].sum() == 1
    assert not fill(speck, (8, 10), at_least_one=False)[1].any()


ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMB = f'<?xml version="1.0"?><!DOCTYPE Annotations [<!ENTITY l0 "lol">{ENTITIES}]>'
OUTSIDE = '<!DOCTYPE Annotations [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
DAMAGE: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "is empty (0 bytes)"),
    "text": ("nuclei", "is not sound XML"),
    "cut": (xml(TRIANGLE)[:-9], "is not sound XML"),
    "cut within a vertex": (xml(TRIANGLE)[:90], "is not sound XML"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0", "is not sound XML"),
    "two roots": (xml(TRIANGLE) * 2, "is not sound XML"),
    "an encoding that does not exist": (xml(TRIANGLE, declaration='<?xml version="1.0" encoding="klingon"?>'), "is not sound XML"),
    "XML of another kind": ("<html><body/></html>", "is no Aperio annotation: it holds <html>"),
    "a billion laughs": (xml("&l9;", declaration=BOMB), "declares a document type"),
    "a file from outside": (xml("&x;", declaration=OUTSIDE), "declares a document type"),
    "an entity without declaration": (xml("&x;"), "is not sound XML"),
    "NaN": (xml(TRIANGLE, region((1, "NaN"))), "a vertex of region 2 has 'NaN' as X or Y"),
    "infinity": (xml(region(("inf", 1))), "a vertex of region 1 has 'inf' as X or Y"),
    "far away": (xml(region((1e300, 1))), "a vertex of region 1 has '1e+300' as X or Y"),
    "a word": (xml(region((1, 1), ("two", 1))), "a vertex of region 1 has 'two' as X or Y"),
    "no number": (xml(region((1, ""))), "a vertex of region 1 has '' as X or Y"),
    "a decimal comma": (xml(region(("1,5", 2))), "a vertex of region 1 has '1,5' as X or Y"),
    "no Y": (xml('<Region><Vertices><Vertex X="1"/></Vertices></Region>'), "a vertex of region 1 has None as X or Y"),
    "an ellipse": (xml(TRIANGLE, region((1, 1), (5, 5), attributes='Type="2"')), "region 2 is an ellipse"),
    "too many regions": (xml("<Region/>" * 10_001), "has more than 10000 regions"),
    "too many vertices": (xml("<Region>" + '<Vertex X="1" Y="1"/>' * 1_000_001 + "</Region>"), "has more than 1000000 vertices"),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence_that_names_the_file(tmp_path: Path, kind: str) -> None:
    content, words = DAMAGE[kind]
    path = tmp_path / "kerne.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_regions(path)
    message = str(caught.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 300


def test_a_file_that_is_missing_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kerne\.xml cannot be read: No such file"):
        read_regions(tmp_path / "kerne.xml")
    with (tmp_path / "kerne.xml").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(InputError, match=r"kerne\.xml has more than 64 MiB"):
        read_regions(tmp_path / "kerne.xml")


def test_random_damage_is_never_anything_but_an_input_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "kerne.xml"
    raw = xml(*(region(*outline.round(2)) for outline in nuclei(3, 60))).encode()
    refused: list[str] = []
    for trial in range(300):
        data = bytearray(raw[: int(rng.integers(len(raw)))] if trial % 3 == 0 else raw)
        for at in rng.integers(0, max(1, len(data)), 3):
            if at < len(data):
                data[at] = rng.integers(256) if trial % 2 else rng.choice(list(b'0123456789.-e"<>/'))
        path.write_bytes(bytes(data))
        try:
            found = rasterise(read_regions(path), (60, 60))
        except InputError as error:
            refused.append(str(error))
        else:
            assert 0 <= found.min() <= found.max() <= 3
    assert 50 < len(refused) < 300
    assert all("kerne.xml" in message and "\n" not in message for message in refused)
