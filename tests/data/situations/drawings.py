"""Masks as they were drawn: a colour a class, outlines in JSON and XML."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from own_folders import mask, picture, save
from PIL import Image, ImageDraw

from cdal.data import Dataset, open_dataset
from cdal.data.folds import MONUSEG_TEST
from cdal.errors import InputError

from .folders import with_images, write_tiff
from .situation import (
    Kind,
    Steps,
    is_class,
    opened,
    opened_or_refused,
    refusal,
    said,
    sentence,
    truth,
)

drawings = Kind("drawings")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@drawings.holds(
    "colours that labelmap.txt does not name",
    "https://github.com/cvat-ai/cvat/issues/6274",
    "refused: names the colour and the file",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "JPEGImages" / f"scan{number}.png", picture(number, 40, 48, 3))
        colours = np.array([(0, 0, 0), (48, 112, 32), (176, 112, 33)], np.uint8)
        save(folder / "SegmentationClass" / f"scan{number}.png", colours[mask(number, values=(1, 2))])
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nCat:48,112,32::\nbackground:0,0,0::\nDog:176,112,32::\n")
    yield
    refusal(folder, "scan0.png", "labelmap.txt", "#b07021", "176")


@drawings.holds(
    "lesions in red and green (BUS-UCLM)",
    "https://www.nature.com/articles/s41597-025-04562-3",
    "a class per colour, named #rrggbb",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        colours = np.array([(0, 0, 0), GREEN, RED], np.uint8)
        save(folder / "masks" / f"{name}.png", colours[mask(number, 64, 64, values=(1 + number % 2,))])
    yield
    dataset = opened(folder)
    assert sorted(dataset.spec.classes) == ["#00ff00", "#ff0000"]
    for number, name in ((2, "#00ff00"), (3, "#ff0000")):
        is_class(dataset, name, truth(dataset, f"case_{number}"), mask(number, 64, 64) > 0)


@drawings.holds(
    "colour masks saved as JPEG",
    "https://github.com/GeorgeSeif/Semantic-Segmentation-Suite/issues/202",
    "refused: the colours are lost",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        colours = np.array([(0, 0, 0), GREEN, RED, BLUE], np.uint8)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours[mask(number, 64, 64, (1, 2, 3))]).save(folder / "masks" / f"{name}.jpg", quality=75)
    yield
    refusal(folder, ".jpg", "PNG", "lossless", "without loss", "colour")


def labelme(
    folder: Path, name: str, shapes: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], size: tuple[int, int]
) -> None:
    """labelme's file beside an image; `size` is (width, height)."""
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None}
            for label, kind, points in shapes
        ],
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }
    (folder / f"{name}.json").write_text(json.dumps(content))


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@drawings.holds(
    "labelme's JSON beside the images",
    "https://github.com/wkentaro/labelme/issues/539",
    "outlines filled, a class per name; or refused with the conversion",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / f"photo{number}.png", picture(number, 40, 48, 3))
        lesion, hair = box(5 + number, 6, 25 + number, 26), box(30, 30, 44, 36)
        labelme(folder, f"photo{number}", [("lesion", "polygon", lesion), ("hair", "rectangle", [hair[0], hair[2]])], (48, 40))
    yield
    dataset = opened_or_refused(folder, ".json", "labelme", "convert")
    if dataset is not None:
        assert dataset.spec.classes == ("hair", "lesion")
        expected = np.zeros((40, 48), bool)
        expected[6:26, 8:28] = True
        is_class(dataset, "lesion", truth(dataset, "photo3"), expected)


@drawings.holds(
    "a labelme file of another image's size",
    "https://github.com/wkentaro/labelme/issues/1529",
    "refused: names the file and both sizes",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / f"photo{number}.png", picture(number, 40, 48, 3))
        size = (40, 48) if number == 4 else (48, 40)
        labelme(folder, f"photo{number}", [("lesion", "polygon", box(5, 6, 25, 26))], size)
    yield
    refusal(folder, "photo4.json", "40 x 48", "48 x 40", "size", "turn")


@drawings.holds(
    "labelme lines and points",
    "https://github.com/wkentaro/labelme/issues/1213",
    "left out and told, or refused; they have no inside",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / f"photo{number}.png", picture(number, 40, 48, 3))
        shapes = [
            ("lesion", "polygon", box(5, 6, 25, 26)),
            ("scale", "line", [(1.0, 1.0), (40.0, 1.0)]),
            ("dot", "point", [(3.0, 3.0)]),
        ]
        labelme(folder, f"photo{number}", shapes, (48, 40))
    yield
    dataset = opened_or_refused(folder, "photo0.json", "line", "point", "polygon")
    if dataset is not None:
        assert dataset.spec.classes == ("lesion",)
        expected = np.zeros((40, 48), bool)
        expected[6:26, 5:25] = True
        is_class(dataset, "lesion", truth(dataset, "photo3"), expected)
        said(dataset, "line|point|left out")


def coco(names: Sequence[str], categories: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """COCO's file: in image i, a polygon of each category."""
    annotations = []
    for number, _ in enumerate(names):
        for place, (category, _) in enumerate(categories):
            outline = box(4 + 20 * place, 6 + number, 20 + 20 * place, 26 + number)
            flat = [coordinate for point in outline for coordinate in point]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": [flat],
                    "bbox": [4 + 20 * place, 6 + number, 16, 20],
                    "area": 320,
                    "iscrowd": 0,
                }
            )
    images = [{"id": number, "file_name": name, "width": 48, "height": 40} for number, name in enumerate(names)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


@drawings.holds(
    "COCO's JSON",
    "https://github.com/cvat-ai/cvat/issues/8124",
    "outlines filled, a class per category by its id; or refused with the conversion",
)
def _(folder: Path) -> Steps:
    names = [f"cell{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        save(folder / "images" / name, picture(number, 40, 48, 3))
    (folder / "annotations").mkdir()
    content = coco(names, [(3, "nucleus"), (7, "cytoplasm")])
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(content))
    yield
    dataset = opened_or_refused(folder, "instances_default.json", "convert")
    if dataset is not None:
        assert dataset.spec.classes == ("nucleus", "cytoplasm")
        expected = np.zeros((40, 48), bool)
        expected[8:28, 24:40] = True
        is_class(dataset, "cytoplasm", truth(dataset, "cell2"), expected)


def aperio(layers: Sequence[tuple[str, Sequence[tuple[int, Sequence[tuple[float, float]]]]]]) -> str:
    """ImageScope's XML: layers by name, with regions of a type (0 outline, 1 rectangle, 3 arrow, 4 ruler)."""
    told = []
    for number, (name, regions) in enumerate(layers, start=1):
        inside = ""
        for region, (kind, points) in enumerate(regions, start=1):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
            inside += f'<Region Id="{region}" Type="{kind}" NegativeROA="0"><Vertices>{vertices}</Vertices></Region>'
        told.append(f'<Annotation Id="{number}" Name="{name}" Type="4"><Regions>{inside}</Regions></Annotation>')
    return f'<?xml version="1.0"?><Annotations MicronsPerPixel="0.25">{"".join(told)}</Annotations>'


def slides(folder: Path, text: str) -> None:
    for number, name in enumerate(("TCGA-A0", "TCGA-A1", "TCGA-A2", MONUSEG_TEST[0])):
        write_tiff(folder / f"{name}.tif", picture(number, 48, 48, 3), photometric="rgb")
        (folder / f"{name}.xml").write_text(text)


def nuclei(dataset: Dataset) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = dataset.case("TCGA-A1").truth[0].numpy() == 1
    return found


@drawings.holds(
    "a ruler and an arrow in ImageScope",
    "https://github.com/laclouis5/globox/issues/3",
    "left out and told; only outlines are nuclei",
)
def _(folder: Path) -> Steps:
    drawn = [(0, box(5, 6, 15, 16)), (0, box(20, 20, 30, 32)), (4, [(1.0, 40.0), (47.0, 46.0)]), (3, [(2.0, 45.0), (40.0, 2.0)])]
    slides(folder, aperio([("", drawn)]))
    yield
    dataset = open_dataset("monuseg", folder, size=0, sample_size=32)
    expected = np.zeros((48, 48), bool)
    expected[6:16, 5:15] = expected[20:32, 20:30] = True
    assert np.array_equal(nuclei(dataset), expected)
    said(dataset, "ruler|arrow")


@drawings.holds(
    "a field of view round all nuclei",
    "https://github.com/DigitalSlideArchive/HistomicsTK/pull/778",
    "told apart from nuclei: left out and told, or refused",
)
def _(folder: Path) -> Steps:
    drawn = [(0, box(5, 6, 15, 16)), (0, box(20, 20, 30, 32)), (0, box(34, 4, 40, 12)), (1, box(1, 1, 46, 46))]
    slides(folder, aperio([("", drawn)]))
    yield
    try:
        dataset = open_dataset("monuseg", folder, size=0, sample_size=32)
    except InputError as error:
        sentence(str(error), ".xml", "rectangle")
        return
    expected = np.zeros((48, 48), bool)
    expected[6:16, 5:15] = expected[20:32, 20:30] = expected[4:12, 34:40] = True
    assert np.array_equal(nuclei(dataset), expected)
    said(dataset, "rectangle|field")


@drawings.holds(
    "a layer that is no nuclei", "https://github.com/computationalpathologygroup/ASAP/issues/242", "its name is told; or refused"
)
def _(folder: Path) -> Steps:
    cells = [(0, box(5, 6, 15, 16)), (0, box(20, 20, 30, 32))]
    slides(folder, aperio([("Nuclei", cells), ("FOV", [(1, box(0, 0, 48, 48))])]))
    yield
    try:
        dataset = open_dataset("monuseg", folder, size=0, sample_size=32)
    except InputError as error:
        sentence(str(error), ".xml", "FOV")
        return
    expected = np.zeros((48, 48), bool)
    expected[6:16, 5:15] = expected[20:32, 20:30] = True
    assert np.array_equal(nuclei(dataset), expected)
    said(dataset, "FOV")


@drawings.holds(
    "outlines of overlapping cells in colours",
    "https://github.com/cvat-ai/cvat/issues/7058",
    "a drawn image is no mask: refused where greys blend",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = Image.new("RGB", (256, 256))
        ImageDraw.Draw(drawn).ellipse((40 + number, 40, 160, 200), fill=RED)
        ImageDraw.Draw(drawn).ellipse((120, 90 + number, 230, 220), fill=GREEN)
        (folder / "masks").mkdir(exist_ok=True)
        drawn.resize((64, 64), Image.Resampling.LANCZOS).save(folder / "masks" / f"{name}.png")
    yield
    refusal(folder, "case_", "without smoothing", "PNG", "nearest")


@drawings.holds(
    "CVAT's segmentation masks", "https://github.com/cvat-ai/cvat/issues/2032", "a class per colour, named by labelmap.txt"
)
def _(folder: Path) -> Steps:
    names = [f"scan{number}" for number in range(6)]
    for number, name in enumerate(names):
        save(folder / "JPEGImages" / f"{name}.png", picture(number, 40, 48, 3))
        drawn = mask(number, values=(1, 2))
        colours = np.array([(0, 0, 0), (48, 112, 32), (176, 112, 32)], np.uint8)
        save(folder / "SegmentationClass" / f"{name}.png", colours[drawn])
        save(folder / "SegmentationObject" / f"{name}.png", colours[drawn[::-1]])
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("\n".join(names))
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nCat:48,112,32::\nbackground:0,0,0::\nDog:176,112,32::\n")
    yield
    dataset = opened(folder)
    assert sorted(dataset.spec.classes) == ["Cat", "Dog"]
    for value, name in enumerate(("Cat", "Dog"), start=1):
        is_class(dataset, name, truth(dataset, "scan4"), mask(4, values=(1, 2)) == value)


@drawings.holds(
    "Roboflow's COCO folders",
    "https://github.com/roboflow/notebooks/issues/23",
    "train, valid and test as they are; or refused with the conversion",
)
def _(folder: Path) -> Steps:
    for part, count in (("train", 6), ("valid", 2), ("test", 2)):
        names = [f"{part}{number}_jpg.rf.0a1b.png" for number in range(count)]
        for number, name in enumerate(names):
            save(folder / part / name, picture(number + ord(part[-1]), 40, 48, 3))
        categories = [(0, "cells"), (1, "cell")]  # Roboflow begins with a category that stands over all
        content = coco(names, categories)
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 1]
        (folder / part / "_annotations.coco.json").write_text(json.dumps(content))
    yield
    dataset = opened_or_refused(folder, "_annotations.coco.json", "convert")
    if dataset is not None:
        split = dataset.split(0)
        assert (len(split.train), len(split.validation), len(split.test)) == (6, 2, 2)
        expected = np.zeros((40, 48), bool)
        expected[8:28, 24:40] = True
        is_class(dataset, "cell", truth(dataset, "train2"), expected)


@drawings.holds("ImageJ's *.roi files", "https://github.com/SchmollerLab/Cell_ACDC/issues/526", "refused: names the conversion")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"cell{number}.png", picture(number, 40, 48))
        (folder / "masks").mkdir(exist_ok=True)
        (folder / "masks" / f"cell{number}.roi").write_bytes(b"Iout\x00\xe3" + bytes(58))
    yield
    refusal(folder, ".roi", "ImageJ", "Fiji", "TIFF", "convert")
