"""MoNuSeg folders: in every layout that the downloads unpack to, damaged ones, and the real samples."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage

from cdal.data import DatasetSpec, open_dataset
from cdal.data.folds import MONUSEG_TEST
from cdal.errors import InputError

SIDE = 48
TRAINING = tuple(f"TCGA-A{number:02}" for number in range(12))
BOXES = ((2, 3, 12, 11), (12, 3, 20, 11), (30, 30, 60, 44))  # left, top, right, bottom; the first two share an edge


def picture(seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def outlines(boxes: Sequence[tuple[int, int, int, int]] = BOXES) -> str:
    corners = [((a, b), (c, b), (c, d), (a, d)) for a, b, c, d in boxes]
    vertices = ["".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in around) for around in corners]
    regions = "".join(f"<Region><Vertices>{inside}</Vertices></Region>" for inside in vertices)
    return f'<?xml version="1.0"?><Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>'


def instances(boxes: Sequence[tuple[int, int, int, int]] = BOXES, side: int = SIDE) -> np.ndarray:
    found = np.zeros((side, side), np.int32)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        found[top:bottom, left:right] = number
    return found


def write_image(path: Path, seed: int = 0, side: int = SIDE, compression: str | None = "lzw") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, picture(seed, side), photometric="rgb", compression=compression, rowsperstrip=2)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_mask(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """12 training images and the 14 test images, side by side with their outlines."""
    for number, name in enumerate((*TRAINING, *MONUSEG_TEST)):
        write_image(tmp_path / "data" / f"{name}.tif", seed=number, compression=("lzw", "packbits", None)[number % 3])
        write_text(tmp_path / "data" / f"{name}.xml", outlines())
    return tmp_path / "data"


def test_a_sound_folder(slides: Path) -> None:
    dataset = open_dataset("monuseg", slides, size=0, sample_size=32)
    assert dataset.ids == tuple(sorted(MONUSEG_TEST + TRAINING))
    case = dataset.case("TCGA-A04")
    assert np.array_equal(case.image.numpy(), picture(4).transpose(2, 0, 1)[:, None])
    assert np.array_equal(case.instances.numpy(), instances()[None])
    assert np.array_equal(case.label.numpy(), (instances() > 0)[None])
    spec = dataset.spec
    assert (spec.image_channels, spec.classes, spec.mask_channels, spec.image_size) == (3, ("nucleus",), 1, 32)
    assert (spec.foreground, spec.folds, spec.volumetric) == (1, ("official test images",), False)
    assert "native resolution" in spec.protocol
    assert "CC BY-NC-SA 4.0" in spec.licence
    assert DatasetSpec.from_dict(json.loads(json.dumps(asdict(spec)))) == spec
    images, labels = dataset.draw("TCGA-A04", 3, np.random.default_rng(0))
    assert (images.shape, images.dtype) == ((3, 3, 32, 32), np.uint8)
    assert (labels.shape, labels.dtype) == ((3, 32, 32), np.uint8)


def test_the_published_split_and_preparation(slides: Path) -> None:
    dataset = open_dataset("monuseg", slides)
    split = dataset.split(0)
    assert split.test == MONUSEG_TEST
    assert split.validation == ("TCGA-A00", "TCGA-A05", "TCGA-A10")
    assert split.train == tuple(name for name in TRAINING if name not in split.validation)
    spec, case = dataset.spec, dataset.case("TCGA-A01")
    assert "12 training images" in spec.protocol
    assert "first of every 5 validates" in spec.protocol
    assert "14 test images" in spec.protocol
    assert "resized to 512 x 512, random 256 px crops" in spec.protocol
    assert case.image.shape == (3, 1, 512, 512)
    assert case.label.shape == case.instances.shape == (1, 512, 512)
    assert sorted(case.instances.unique().tolist()) == [0, 1, 2, 3]
    assert case.label.float().mean() == pytest.approx((instances() > 0).mean(), abs=0.01)
    changes = spec.augmentation
    assert (changes.flips, changes.rotation, changes.scale, changes.hue) == (True, 22, (0.75, 1.25), 0.1)
    assert (changes.brightness, changes.contrast, changes.saturation) == (0.4, 0.4, 0.4)
    colours = torch.tensor([142.07, 98.48, 132.96]).view(1, 3, 1, 1)
    assert spec.normalise(colours).abs().max() < 1e-6
    assert spec.normalise(colours + torch.tensor([65.78, 57.05, 57.78]).view(1, 3, 1, 1)).mean() == pytest.approx(1)


def test_crops_are_uniform_and_not_drawn_to_nuclei(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.tif", side=256)
        write_text(tmp_path / f"{name}.xml", outlines([(0, 0, 16, 16)]))
    dataset = open_dataset("monuseg", tmp_path, size=256, sample_size=16)
    _, labels = dataset.draw("a", 400, np.random.default_rng(0))
    assert labels.any(axis=(1, 2)).mean() < 0.05


LAYOUTS: dict[str, Callable[[Path, str, int, bool], None]] = {
    "as the downloads unpack": lambda folder, name, seed, test: (
        write_image(folder / "MoNuSegTestData" / f"{name}.tif", seed)
        if test
        else write_image(folder / "MoNuSeg 2018 Training Data" / "Tissue Images" / f"{name}.tif", seed),
        write_text(folder / ("MoNuSegTestData" if test else "MoNuSeg 2018 Training Data/Annotations") / f"{name}.xml", outlines()),
    ),
    "two folders": lambda folder, name, seed, test: (
        write_image(folder / ("Test" if test else "Training") / f"{name}.TIF", seed),
        write_text(folder / ("Test" if test else "Training") / f"{name}.XML", outlines()),
    ),
    "PNG images, masks in folders": lambda folder, name, seed, test: (
        write_mask(folder / ("test_folder" if test else "train") / "img" / f"{name}.png", picture(seed)),
        write_mask(folder / ("test_folder" if test else "train") / "labelcol" / f"{name}.png", binary()),
    ),
    "masks beside images": lambda folder, name, seed, test: (
        write_image(folder / ("test" if test else "train") / f"{name}.tif", seed),
        write_mask(folder / ("test" if test else "train") / f"{name}_bin_mask.png", binary() // 255),
    ),
    "masks in a folder, named masks": lambda folder, name, seed, test: (
        write_image(folder / ("tests" if test else "latest") / f"{name}.tif", seed),
        write_mask(folder / "Binary_masks" / f"{name}_mask.png", binary() > 0),
    ),
}


def binary() -> np.ndarray:
    return np.where(instances() > 0, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    data = tmp_path / "tests and more"  # what lies above the folder does not matter
    for number, name in enumerate(("a", "b", "c", "x", "y")):
        LAYOUTS[layout](data, name, number, number > 2)
    for dropping in ("._a.tif", "__MACOSX/Training/._a.tif", "__MACOSX/b.tif", ".DS_Store", "readme.txt"):
        write_text(data / dropping, "not an image")
    dataset = open_dataset("monuseg", data, size=SIDE, sample_size=16)
    assert dataset.ids == ("a", "b", "c", "x", "y")
    split = dataset.split(0)
    assert (split.train, split.validation, split.test) == (("b", "c"), ("a",), ("x", "y"))
    for number, name in enumerate(dataset.ids):
        assert np.array_equal(dataset.case(name).image.numpy()[:, 0], picture(number).transpose(2, 0, 1))
        assert np.array_equal(dataset.case(name).label.numpy()[0], instances() > 0)
    numbers = dataset.case("a").instances.unique().tolist()
    assert numbers == ([0, 1, 2] if "masks" in layout else [0, 1, 2, 3])  # in a mask, nuclei that touch are one
    words = "connected parts of masks" if "masks" in layout else "Aperio outlines"
    assert words in dataset.spec.protocol


def test_parts_of_a_mask_are_connected_at_corners(tmp_path: Path) -> None:
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[2, 2] = values[3, 3] = values[10, 10] = 1
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.tif")
        write_mask(tmp_path / f"{name}_mask.png", values)
    found = open_dataset("monuseg", tmp_path, size=0, sample_size=16).case("a").instances.numpy()[0]
    assert np.array_equal(found, ndimage.label(values, np.ones((3, 3)))[0])
    assert found.max() == 2


def test_outlines_count_where_there_is_a_mask_as_well(slides: Path) -> None:
    write_mask(slides / "masks" / "TCGA-A00.png", np.zeros((SIDE, SIDE), np.uint8))
    assert open_dataset("monuseg", slides, size=0, sample_size=16).case("TCGA-A00").instances.max() == 3


def test_what_is_no_nucleus_is_left_out_and_noted(slides: Path) -> None:
    assert open_dataset("monuseg", slides, size=0, sample_size=16).spec.notes == ()
    field = '<Region Type="1"><Vertices>' + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((0, 0), (48, 0), (48, 48), (0, 48)))
    ruler = '<Region Type="4"><Vertices><Vertex X="1" Y="46"/><Vertex X="40" Y="46"/></Vertices></Region>'
    for name, more in (("TCGA-A03", f"{field}</Vertices></Region>"), ("TCGA-A04", ruler), ("TCGA-A05", ruler)):
        write_text(slides / f"{name}.xml", outlines().replace("</Regions>", f"{more}</Regions>"))
    dataset = open_dataset("monuseg", slides, size=0, sample_size=16)
    assert dataset.spec.notes == (
        "left out as no nuclei: rectangles that frame nuclei (1) in TCGA-A03.xml",
        "left out as no nuclei: rulers (2) in 2 files (TCGA-A04.xml, ...)",
    )
    for name in ("TCGA-A03", "TCGA-A04"):
        assert np.array_equal(dataset.case(name).label.numpy()[0], instances() > 0)
    assert open_dataset("monuseg", slides, size=0, sample_size=16).spec == dataset.spec  # from the cache


def test_both_kinds_of_annotation_are_told(slides: Path) -> None:
    (slides / "TCGA-A00.xml").unlink()
    write_mask(slides / "masks" / "TCGA-A00.png", binary())
    protocol = open_dataset("monuseg", slides, size=0, sample_size=16).spec.protocol
    assert "Aperio outlines (25) or instances are the connected parts of masks (1)" in protocol


@pytest.mark.parametrize("count", [30, 37])
def test_the_protocol_tells_which_list_was_used(tmp_path: Path, count: int) -> None:
    for number in range(count):
        write_image(tmp_path / "Training" / f"TCGA-{number:02}.tif", side=16)
        write_text(tmp_path / "Training" / f"TCGA-{number:02}.xml", outlines())
    for name in MONUSEG_TEST:
        write_image(tmp_path / "Test" / f"{name}.tif", side=16)
        write_text(tmp_path / "Test" / f"{name}.xml", outlines())
    dataset = open_dataset("monuseg", tmp_path, size=16, sample_size=16)
    split = dataset.split(0)
    assert f"{count} training images" in dataset.spec.protocol
    assert len(split.train) + len(split.validation) == count
    assert len(split.validation) == -(-count // 5)
    assert split.test == MONUSEG_TEST


def link_to_nothing(folder: Path) -> None:
    (folder / "TCGA-A03.tif").unlink()
    (folder / "TCGA-A03.tif").symlink_to(folder.parent / "nothing.tif")


def grey(folder: Path, dtype: type = np.uint8, shape: tuple[int, ...] = (SIDE, SIDE)) -> None:
    tifffile.imwrite(folder / "TCGA-A03.tif", np.zeros(shape, dtype))


def masked(folder: Path, values: np.ndarray) -> None:
    (folder / "TCGA-A03.xml").unlink()
    write_mask(folder / "TCGA-A03_mask.png", values)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


THREE_VALUES = np.where(instances() == 3, 255, instances() > 0).astype(np.uint8)
ANTIALIASED = ndimage.gaussian_filter(binary(), 2)
# What was done to a sound folder, the file that the message must name, and what it must say of it.
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no annotation": (lambda f: (f / "TCGA-A03.xml").unlink(), "TCGA-A03.tif", "has no annotation; TCGA-A03.xml"),
    "no image": (lambda f: (f / "TCGA-A03.tif").unlink(), "TCGA-A03.xml", "has no image; TCGA-A03.tif"),
    "mask of no image": (lambda f: write_mask(f / "masks" / "other.png", binary()), "other.png", "has no image; other.tif"),
    "two images": (lambda f: write_image(f / "more" / "TCGA-A03.tiff"), "TCGA-A03.tiff", "both belong to the image TCGA-A03"),
    "two outlines": (
        lambda f: write_text(f / "more" / "TCGA-A03.xml", outlines()),
        "more/TCGA-A03.xml",
        "both belong to the image",
    ),
    "two masks": (
        lambda f: [write_mask(f / "masks" / f"TCGA-A03{end}.png", binary()) for end in ("", "_mask")],
        "TCGA-A03_mask.png",
        "both belong to the image TCGA-A03",
    ),
    "empty image": (lambda f: (f / "TCGA-A03.tif").write_bytes(b""), "TCGA-A03.tif", "is empty"),
    "cut image": (lambda f: cut(f / "TCGA-A03.tif", 0.7), "TCGA-A03.tif", "is not a readable TIFF image"),
    "text as image": (lambda f: (f / "TCGA-A03.tif").write_text("hello"), "TCGA-A03.tif", "is no PNG, TIFF, JPEG or BMP image"),
    "grey image": (lambda f: grey(f), "TCGA-A03.tif", "is a grey image of the type uint8; RGB images of 8 bits are needed"),
    "16-bit image": (lambda f: grey(f, np.uint16, (SIDE, SIDE, 3)), "TCGA-A03.tif", "is a colour image of the type uint16"),
    "empty outlines": (lambda f: (f / "TCGA-A03.xml").write_text(""), "TCGA-A03.xml", "is empty"),
    "cut outlines": (lambda f: cut(f / "TCGA-A03.xml", 0.7), "TCGA-A03.xml", "is not sound XML"),
    "bomb": (
        lambda f: (f / "TCGA-A03.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + outlines()[21:]),
        "TCGA-A03.xml",
        "declares a document type",
    ),
    "NaN vertex": (lambda f: write_text(f / "TCGA-A03.xml", outlines([(1, np.nan, 2, 3)])), "TCGA-A03.xml", "has 'nan' as X or Y"),
    "outlines of a whole slide": (
        lambda f: write_text(f / "TCGA-A03.xml", outlines([(900, 900, 912, 910), (950, 900, 960, 910)])),
        "TCGA-A03.xml",
        "2 of 2 regions lie outside the image of 48 x 48 px",
    ),
    "mask of another shape": (lambda f: masked(f, binary()[:-1]), "TCGA-A03_mask.png", "has the shape (47, 48), but its image has"),
    "mask of three values": (lambda f: masked(f, THREE_VALUES), "TCGA-A03_mask.png", "holds the values 0, 1, 255"),
    "mask with soft edges": (
        lambda f: masked(f, ANTIALIASED),
        "TCGA-A03_mask.png",
        ", ...; a mask of nuclei holds 0 and one other",
    ),
    "mask of one value": (lambda f: masked(f, binary() | 255), "TCGA-A03_mask.png", "holds the values 255;"),
    "mask of colours": (lambda f: masked(f, picture()), "TCGA-A03_mask.png", "has colours"),
    "link to nothing": (link_to_nothing, "TCGA-A03.tif", "is a link that leads nowhere or in a circle"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence_that_names_the_file(slides: Path, kind: str) -> None:
    harm, file, words = DAMAGE[kind]
    harm(slides)
    with pytest.raises(InputError) as caught:
        open_dataset("monuseg", slides, size=32, sample_size=16)
    message = str(caught.value)
    assert file in message
    assert words in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        open_dataset("monuseg", tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no images; --data must be the folder that the MoNuSeg downloads"):
        open_dataset("monuseg", tmp_path)


@pytest.mark.parametrize(
    "option", [{"size": -1}, {"size": 9000}, {"size": 3.5}, {"size": True}, {"sample_size": 0}, {"sample_size": 600}]
)
def test_options_out_of_range(slides: Path, option: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"option {next(iter(option))} of monuseg is .*; it must be a whole number from"):
        open_dataset("monuseg", slides, **option)


def test_too_few_images_for_the_fold(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif")
    write_text(tmp_path / "a.xml", outlines())
    for name in ("b.tif", "test/c.tif"):
        with pytest.raises(InputError, match=r"monuseg has \d training and \d test images; its fold needs at least 2"):
            open_dataset("monuseg", tmp_path, size=0, sample_size=16).split(0)
        write_image(tmp_path / name)
        write_text((tmp_path / name).with_suffix(".xml"), outlines())
    assert len(open_dataset("monuseg", tmp_path, size=0, sample_size=16).split(0).train) == 1


def test_random_damage_is_never_anything_but_an_input_error(tmp_path: Path) -> None:
    """Damaged images and outlines: opened as if sound, or refused with the file's name."""
    rng = np.random.default_rng(0)
    files = [write_image(tmp_path / "a.tif", side=24), write_text(tmp_path / "a.xml", outlines())]
    raw = [path.read_bytes() for path in files]
    refused: list[str] = []
    for trial in range(150):
        damaged = trial % 2
        data = bytearray(raw[damaged][: int(rng.integers(len(raw[damaged])))] if trial % 3 == 0 else raw[damaged])
        for at in rng.integers(0, max(1, len(data)), 3):
            if at < len(data):
                data[at] = rng.integers(256)
        for path, sound in zip(files, raw, strict=True):
            path.write_bytes(bytes(data) if path == files[damaged] else sound)
        try:
            case = open_dataset("monuseg", tmp_path, size=0, sample_size=16).case("a")
        except InputError as error:
            refused.append(str(error))
        else:
            assert case.image.shape[1:] == case.label.shape == case.instances.shape
    assert len(refused) > 60
    assert all("a.tif" in message or "a.xml" in message for message in refused)


@pytest.fixture
def monuseg_folder() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "MoNuSeg"
    if not folder.is_dir():
        pytest.skip(f"the MoNuSeg samples are not in {folder}")
    return folder


def test_the_real_samples(monuseg_folder: Path) -> None:
    kidney, brain = "TCGA-B0-5710-01Z-00-DX1", "TCGA-HT-8564-01Z-00-DX1"
    for size, side in ((512, 512), (0, 1000)):
        dataset = open_dataset("monuseg", monuseg_folder, size=size)
        assert dataset.ids == (kidney, brain)
        for name, count in ((kidney, 359), (brain, 249)):
            case = dataset.case(name)
            assert case.image.shape == (3, 1, side, side)
            assert case.image.dtype == torch.uint8
            assert case.instances.unique().tolist() == list(range(count + 1))
            assert torch.equal(case.label, (case.instances > 0).byte())
        assert "1 training images" in dataset.spec.protocol
        with pytest.raises(InputError, match="monuseg has 1 training and 1 test images"):
            dataset.split(0)
