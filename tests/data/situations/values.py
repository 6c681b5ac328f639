"""Values of masks that do not go together: scales, strays, mixed ways of storing, objects among classes."""

import json
from pathlib import Path

import numpy as np
from own_folders import mask, picture, save
from PIL import Image

from .drawings import coco
from .folders import with_images, write_tiff
from .labels import RED, disc, objects, soft
from .situation import (
    Kind,
    Steps,
    is_class,
    is_foreground,
    is_ignored,
    opened,
    opened_or_refused,
    refusal,
    said,
    truth,
    warned,
)

values = Kind("values")
WHITE = np.uint8(255)
OURS = "tried out"
"""Source of the situations that were made up from how tools write masks."""


@values.holds("one mask 0/1 among soft ones", OURS, "refused: the one on another scale would become empty")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, side=96)):
        drawn = soft(number) >= 128
        save(folder / "masks" / f"{name}.png", drawn.astype(np.uint8) if number == 2 else soft(number))
    yield
    refusal(folder, "masks/case_", "same values", "nearest")


@values.holds(
    "a single pixel of 1 in masks of 0 and 255",
    OURS,
    "one class, told; never one pixel of class 1 with all of 255 ignored",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = disc(number) * WHITE
        drawn[3, 3] = number == 2
        save(folder / "masks" / f"{name}.png", drawn)
    yield
    dataset = opened_or_refused(folder, "case_2", "same values", "nearest")
    if dataset is not None:
        for number in (1, 2):
            is_foreground(dataset, truth(dataset, f"case_{number}"), disc(number))
        said(dataset, "255", "grey")


@values.holds(
    "PNG made of JPEG masks", "https://github.com/DengPingFan/PraNet/issues/54", "one class at half of 255, told; or refused"
)
def _(folder: Path) -> Steps:
    (folder / "masks").mkdir()
    for number, name in enumerate(with_images(folder)):
        Image.fromarray(disc(number) * WHITE).save(folder / "lossy.jpg", quality=80)
        Image.open(folder / "lossy.jpg").save(folder / "masks" / f"{name}.png")
    (folder / "lossy.jpg").unlink()
    yield
    dataset = opened_or_refused(folder, "case_", "PNG")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_3"), disc(3))
        said(dataset, "thresholded", "128")


@values.holds("255 in some masks, 1 and 2 in others", OURS, "refused: a class of its own, or nobody's? asks for ignore_label")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", mask(number, 64, 64, (1, 2) if number % 2 else (255,)))
    yield
    refusal(folder, "masks/case_", "ignore_label")
    dataset = opened(folder, ignore_label=0)
    is_class(dataset, "value 255", truth(dataset, "case_2"), mask(2, 64, 64) > 0)


@values.holds(
    "ImageMagick's 1-bit files among those of 8 bits",
    OURS,
    "refused: 1 and 255 are the same white",
)
def _(folder: Path) -> Steps:
    (folder / "masks").mkdir()
    for number, name in enumerate(with_images(folder)):
        drawn = mask(number, 64, 64, (255,) if number % 2 else (128, 255))
        Image.fromarray(drawn).convert("1" if number % 2 else "L").save(folder / "masks" / f"{name}.png")
    yield
    refusal(folder, "masks/case_", "same values")


@values.holds(
    "boolean TIFF of scikit-image and tifffile",
    OURS,
    "True is the object, though it is stored as black",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        write_tiff(folder / "masks" / f"{name}.tif", disc(number))
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_3"), disc(3))


@values.holds("grey masks among red ones", OURS, "a class per colour, white and red; or refused")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = disc(number)
        save(folder / "masks" / f"{name}.png", drawn * WHITE if number % 2 else drawn[..., None] * np.array(RED, np.uint8))
    yield
    dataset = opened_or_refused(folder, "masks/case_", "one way")
    if dataset is not None:
        is_class(dataset, "#ffffff", truth(dataset, "case_3"), disc(3))
        is_class(dataset, "#ff0000", truth(dataset, "case_2"), disc(2))


@values.holds("class numbers among colours", OURS, "refused: 1 is no colour")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = disc(number)
        save(folder / "masks" / f"{name}.png", drawn.astype(np.uint8) if number % 2 else drawn[..., None] * np.array(RED, np.uint8))
    yield
    refusal(folder, "masks/case_", "one way")


@values.holds(
    "objects in colours of their own (SegmentationObject)",
    "https://github.com/cvat-ai/cvat/issues/2032",
    "refused: colours of objects are no classes",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        palette = np.random.default_rng(number).integers(40, 255, (8, 3)).astype(np.uint8)
        palette[0] = 0
        save(folder / "masks" / f"{name}.png", palette[objects(7, number)])
    yield
    refusal(folder, "masks/case_", "numbered objects", "one colour per class")


@values.holds(
    "numbers of objects that run on through the whole set",
    "https://github.com/stardist/stardist/issues/168",
    "one class; objects are told apart on demand",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = objects(5, number, dtype=np.uint16)
        write_tiff(folder / "masks" / f"{name}.tif", np.where(drawn > 0, drawn + 1000 + 5 * number, 0).astype(np.uint16))
    yield
    is_foreground(opened(folder), truth(opened(folder), "case_3"), objects(5, 3) > 0)
    numbered = opened(folder, instances=True).case("case_3").instances
    assert numbered is not None
    assert len(numbered.unique()) == 1 + 5


@values.holds(
    "objects of which those at the border were removed",
    "https://github.com/MouseLand/cellpose/issues/50",
    "told that the values may number objects; with instances=True they do",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = objects(15, number)
        drawn[np.isin(drawn, np.random.default_rng(number).integers(1, 16, 5))] = 0
        save(folder / "masks" / f"{name}.png", drawn)
    yield
    said(opened(folder), "number objects|numbered objects", "dataset.instances")
    is_foreground(
        opened(folder, instances=True), truth(opened(folder, instances=True), "case_1"), truth(opened(folder), "case_1") > 0
    )


@values.holds("a folder per class, with numbered objects in each", OURS, "refused, or all of them; never only the higher half")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        for place, kind in enumerate(("glands", "nuclei")):
            save(folder / "masks" / kind / f"{name}.png", np.roll(objects(6, number), 32 * place, axis=0))
    yield
    dataset = opened_or_refused(folder, "case_0.png", "one value", "one mask")
    if dataset is not None:
        is_class(dataset, "nuclei", truth(dataset, "case_1"), np.roll(objects(6, 1), 32, axis=0) > 0)


@values.holds("a folder per class, of JPEG and of soft masks", OURS, "each from half of its highest level on")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, side=96)):
        for kind, ending in (("glands", "jpg"), ("nuclei", "png")):
            (folder / "masks" / kind).mkdir(parents=True, exist_ok=True)
            drawn = np.roll(soft(number), -40 if kind == "glands" else 0, axis=0)
            Image.fromarray(drawn).save(folder / "masks" / kind / f"{name}.{ending}", quality=95)
    yield
    dataset = opened(folder)
    is_class(dataset, "nuclei", truth(dataset, "case_1"), soft(1) >= 128)


@values.holds("a number to be ignored, in masks of colours", OURS, "refused: it means no colour")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", disc(number)[..., None] * np.array(RED, np.uint8))
    yield
    refusal(folder, "masks/case_", "leave it out", ignore_label=255)


@values.holds("several masks of an image, one of them with two classes", OURS, "refused; a class is never lost in the other")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / f"case_{number}.png", picture(number))
        save(folder / f"case_{number}_mask.png", mask(number, values=(1, 2)))
        save(folder / f"case_{number}_mask_1.png", np.roll(mask(number, values=(1,)), 20, axis=1))
    yield
    refusal(folder, "case_0_mask.png", "one value", "one mask")


@values.holds("a case that nobody judged", OURS, "refused at opening: its mask is named")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", mask(number, 64, 64, (1, 255)))
    save(folder / "masks" / "case_4.png", np.full((64, 64), 255, np.uint8))
    yield
    assert "every pixel" in refusal(folder, "masks/case_4.png", "leave")


@values.holds("255 ignored where it is all there is", OURS, "refused: nothing is left; never read as a class in silence")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", disc(number) * WHITE)
    yield
    refusal(folder, "masks/case_", "ignore_label", ignore_label=255)


@values.holds("channels of 0 and 1, a class each (one-hot)", OURS, "refused: names argmax")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = mask(number, 64, 64, (1, 2))
        save(folder / "masks" / f"{name}.png", np.dstack([drawn == value for value in range(3)]).astype(np.uint8))
    yield
    refusal(folder, "masks/case_", "argmax")


@values.holds("VOC's colours with a void border", OURS, "the border's colour is ignored, told")
def _(folder: Path) -> Steps:
    table = np.zeros((256, 3), np.uint8)
    table[[1, 2, 255]] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", table[mask(number, 64, 64, (1, 2, 255))])
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("#008000", "#800000")
    is_ignored(dataset, truth(dataset, "case_1"), mask(1, 64, 64, (1, 2, 255)) == 255)
    said(dataset, "#e0e0c0", "left out")


@values.holds("masks turned against their images", OURS, "refused: both sizes, and to turn it")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"case_{number}.png", picture(number))
        save(folder / "masks" / f"case_{number}.png", np.ascontiguousarray(mask(number).T))
    yield
    assert "40 x 48" in refusal(folder, "masks/case_0.png", "turn")


@values.holds("masks of half the size", OURS, "refused: both sizes, and how to scale")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"case_{number}.png", picture(number, 80, 96))
        save(folder / "masks" / f"case_{number}.png", mask(number))
    yield
    refusal(folder, "masks/case_0.png", "nearest")


@values.holds("labelmap.txt beside masks of class numbers", OURS, "refused: what it names and what is there; or read")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "JPEGImages" / f"scan{number}.png", picture(number))
        save(folder / "SegmentationClass" / f"scan{number}.png", mask(number, values=(1, 2)))
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\na:128,0,0::\nb:0,128,0::\n")
    yield
    refusal(folder, "labelmap.txt", "#800000")


@values.holds("COCO with boxes alone for some images", OURS, "refused: they would count as empty")
def _(folder: Path) -> Steps:
    names = [f"cell{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        save(folder / "images" / name, picture(number, 40, 48, 3))
    content = coco(names, [(1, "cell")])
    content["annotations"][2]["segmentation"] = []
    (folder / "annotations.json").write_text(json.dumps(content))
    yield
    refusal(folder, "annotations.json", "outlines there")


@values.holds("one inverted mask", OURS, "told: its name")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, 12)):
        save(folder / "masks" / f"{name}.png", (disc(number) ^ (number == 5)) * WHITE)
    yield
    warned(folder, "case_5", "inverted")
