"""What the values of masks mean: classes, objects, pixels that nobody judged, soft edges, colours, outlines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from own_folders import LPI, mask, nnunet, picture, save, two_folders, volume, volume_label
from PIL import Image

from .folders import with_images, write_tiff
from .situation import (
    ISSUE,
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
)

labels = Kind("labels")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def disc(seed: int, side: int = 64) -> npt.NDArray[np.bool_]:
    """A round object."""
    rows, columns = np.ogrid[:side, :side]
    return (rows - 24 - 3 * (seed % 4)) ** 2 + (columns - 28 - 2 * (seed % 5)) ** 2 < 15**2


def soft(seed: int) -> npt.NDArray[np.uint8]:
    """A disc of 0 and 255 that was resized with interpolation: a dozen and more greys at its edge."""
    large = Image.fromarray(disc(seed).astype(np.uint8) * 255)
    return np.array(large.resize((96, 96), Image.Resampling.BILINEAR))


def objects(count: int, seed: int, side: int = 64, dtype: type = np.uint8) -> npt.NDArray[Any]:
    """Small squares numbered from 1 in no order of place."""
    places = np.random.default_rng(seed).permutation((side // 5) ** 2)[:count]
    found = np.zeros((side, side), dtype)
    for number, place in enumerate(places, start=1):
        top, left = 5 * (place // (side // 5)) + 1, 5 * (place % (side // 5)) + 1
        found[top : top + 3, left : left + 3] = number
    return found


def labelled_volumes(folder: Path, label: npt.NDArray[Any], slope: float = 1.0) -> None:
    """images/ and labels/ of five volumes; labels are stored through a slope where one is given."""
    for number in range(5):
        save(folder / "images" / f"case_{number}.nii.gz", volume(number, 12, 14, 6))
        stored = nibabel.Nifti1Image(label, LPI)
        stored.header.set_slope_inter(slope, 0)
        (folder / "labels").mkdir(exist_ok=True)
        nibabel.save(stored, folder / "labels" / f"case_{number}.nii.gz")


def in_lpi(label: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What is stored in LPI (X, Y, Z) as (D, H, W)."""
    return label.transpose(2, 0, 1)


@labels.holds(
    "255 beside classes", "https://github.com/CAMMA-public/Endoscapes/issues/5", "255 is ignored: no class, no loss, no score; told"
)
def _(folder: Path) -> Steps:
    two_folders(folder, values=(1, 2, 255))
    yield
    dataset = opened(folder)
    assert len(dataset.spec.classes) == 2
    stored = mask(3, values=(1, 2, 255))
    is_ignored(dataset, truth(dataset, "case_3"), stored == 255)
    is_class(dataset, dataset.spec.classes[1], truth(dataset, "case_3"), stored == 2)
    said(dataset, "255", "ignore|no part|nobody")


@labels.holds(
    "a void border round objects (VOC palette)",
    "https://github.com/arthurdouillard/CVPR2021_PLOP/issues/32",
    "palette indices are the classes, 255 is ignored",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        values = np.zeros((64, 64), np.uint8)
        values[9:31, 9:31] = 255
        values[10:30, 10:30] = 15 if number % 2 else 3
        image = Image.fromarray(values, "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        (folder / "masks").mkdir(exist_ok=True)
        image.save(folder / "masks" / f"{name}.png")
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("value 3", "value 15")
    expected = np.zeros((64, 64), bool)
    expected[10:30, 10:30] = True
    is_class(dataset, "value 15", truth(dataset, "case_1"), expected)
    ring = np.zeros((64, 64), bool)
    ring[9:31, 9:31] = True
    is_ignored(dataset, truth(dataset, "case_1"), ring & ~expected)


@labels.holds(
    "nnU-Net's label ignore", "https://github.com/MIC-DKFZ/nnUNet/issues/1926", "its value is ignored, the others are classes"
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png", labels={"background": 0, "vessel": 1, "ignore": 2})
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("vessel",)
    is_ignored(dataset, truth(dataset, "case_2"), mask(2, values=(1, 2)) == 2)
    is_class(dataset, "vessel", truth(dataset, "case_2"), mask(2, values=(1, 2)) == 1)


@labels.holds(
    "regions with regions_class_order",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2900",
    "parts named after their region and told, or refused",
)
def _(folder: Path) -> Steps:
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    nnunet(folder, 5, 1, ".png", labels=regions, regions_class_order=[1, 2, 3])
    yield
    dataset = opened_or_refused(folder, "dataset.json", "region", "one value")
    if dataset is not None:
        assert len(dataset.spec.classes) == 3
        is_class(dataset, dataset.spec.classes[1], truth(dataset, "case_2"), mask(2, values=(1, 2)) == 2)
        assert "core" in dataset.spec.classes[1]
        said(dataset, "region")


@labels.holds(
    "a region whose order swaps values",
    "https://github.com/MIC-DKFZ/nnUNet/pull/1503",
    "value i of the order is named after region i, or refused",
)
def _(folder: Path) -> Steps:
    regions = {"background": 0, "tumour": [1, 2], "core": [1]}
    nnunet(folder, 5, 1, ".png", labels=regions, regions_class_order=[2, 1])
    yield
    dataset = opened_or_refused(folder, "dataset.json", "region", "one value")
    if dataset is not None:
        named = {name: next(one for one in dataset.spec.classes if name in one) for name in ("tumour", "core")}
        is_class(dataset, named["core"], truth(dataset, "case_2"), mask(2, values=(1, 2)) == 1)
        is_class(dataset, named["tumour"], truth(dataset, "case_2"), mask(2, values=(1, 2)) == 2)


@labels.holds("regions without an order", "https://github.com/MIC-DKFZ/nnUNet/issues/1514", "refused: names regions_class_order")
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png", labels={"background": 0, "whole": [1, 2], "core": [2]})
    yield
    refusal(folder, "dataset.json", "regions_class_order")


@labels.holds(
    "masks resized with interpolation",
    "https://github.com/JCruan519/EGE-UNet/issues/13",
    "one class at half of 255, told; or refused",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, side=96)):
        save(folder / "masks" / f"{name}.png", soft(number))
    yield
    assert len(np.unique(soft(0))) > 10
    dataset = opened_or_refused(folder, "masks", "128", "nearest", "class")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_1"), soft(1) >= 128)
        said(dataset, "128")


@labels.holds(
    "a few masks with soft edges among sharp ones",
    "https://github.com/ESandML/FCBFormer/issues/6",
    "one class at half of 255, told; or refused",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, side=96)):
        values = soft(number) if number == 2 else np.where(soft(number) >= 128, np.uint8(255), np.uint8(0))
        save(folder / "masks" / f"{name}.png", values)
    yield
    dataset = opened_or_refused(folder, "case_2", "128", "nearest", "class")
    if dataset is not None:
        for number in (1, 2):
            is_foreground(dataset, truth(dataset, f"case_{number}"), soft(number) >= 128)
        said(dataset, "128")


@labels.holds(
    "JPEG masks (Kvasir-SEG)",
    "https://github.com/DengPingFan/PraNet/issues/54",
    "two tight groups of values are one class, told; or refused",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        (folder / "masks").mkdir(exist_ok=True)
        rgb = np.repeat(disc(number)[..., None] * np.uint8(255), 3, axis=2)
        Image.fromarray(rgb).save(folder / "masks" / f"{name}.jpg", quality=90)
    (folder / "kavsir_bboxes.json").write_text(json.dumps({"case_0": {"height": 64, "width": 64, "bbox": []}}))
    yield
    dataset = opened_or_refused(folder, ".jpg", "PNG", "lossless", "128")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_1"), disc(1))
        said(dataset, "128|JPEG")


@labels.holds(
    "JPEG masks of three classes", "https://github.com/MIC-DKFZ/nnUNet/issues/2404", "refused: which values were meant is lost"
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        values = np.where(disc(number), np.uint8(128), np.uint8(0))
        values[:20, :20] = 255
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / "masks" / f"{name}.jpg", quality=60)
    yield
    refusal(folder, ".jpg", "PNG", "lossless", "without loss", "class numbers")


@labels.holds("some masks 0/1, others 0/255", ISSUE, "one class, told")
def _(folder: Path) -> Steps:
    two_folders(folder)
    for number in (1, 4):
        save(folder / "masks" / f"case_{number}.png", mask(number, values=(1,)))
    yield
    dataset = opened(folder)
    for number in (0, 1):
        is_foreground(dataset, truth(dataset, f"case_{number}"), mask(number) > 0)
    said(dataset, r"\b1\b", "255")


@labels.holds(
    "0/255 masks where 1 is declared",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1777",
    "read as the declared class and told, or refused",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png", labels={"background": 0, "nodule": 1})
    for number in range(5):
        save(folder / "labelsTr" / f"case_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "labelsTr/case_0.png", "255")
    if dataset is not None:
        is_class(dataset, "nodule", truth(dataset, "case_1"), mask(1) > 0)
        said(dataset, "255")


@labels.holds(
    "objects numbered from 1 (cellpose)",
    "https://github.com/MouseLand/cellpose/issues/50",
    "one class; told how objects are scored; with instances=True they are told apart",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}_masks.png", objects(9 + 7 * number, number))
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_1"), objects(16, 1) > 0)
    said(dataset, "numbered|objects", "dataset.instances=true")
    numbered = opened(folder, instances=True).case("case_3").instances
    assert numbered is not None
    assert len(numbered.unique()) == 1 + 30
    assert np.array_equal(numbered[0].numpy() > 0, objects(30, 3) > 0)


@labels.holds(
    "more objects than a byte can number (StarDist)",
    "https://github.com/stardist/stardist/issues/168",
    "one class; all objects are kept",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, side=128)):
        write_tiff(folder / "masks" / f"{name}.tif", objects(300 + number, number, 128, np.uint16))
    yield
    is_foreground(opened(folder), truth(opened(folder), "case_2"), objects(302, 2, 128, np.uint16) > 0)
    numbered = opened(folder, instances=True).case("case_2").instances
    assert numbered is not None
    assert len(numbered.unique()) == 1 + 302


@labels.holds("class maps that look like numbers", ISSUE, "the same few values in every mask are classes, not objects")
def _(folder: Path) -> Steps:
    two_folders(folder, 8, values=(1, 2, 3))
    yield
    dataset = opened(folder)
    assert len(dataset.spec.classes) == 3
    for number, name in enumerate(dataset.spec.classes, start=1):
        is_class(dataset, name, truth(dataset, "case_5"), mask(5, values=(1, 2, 3)) == number)


@labels.holds("labels 1.0000153 through scl_slope", "https://github.com/nipy/nibabel/issues/1001", "rounded to whole numbers")
def _(folder: Path) -> Steps:
    label = volume_label((12, 14, 6), (1, 2)).astype(np.int16)
    labelled_volumes(folder, label * 1000, slope=0.0010000153)
    yield
    dataset = opened(folder)
    is_class(dataset, dataset.spec.classes[1], truth(dataset, "case_0"), in_lpi(label) == 2)
    assert len(dataset.spec.classes) == 2


@labels.holds(
    "labels 0.99999 after resampling", "https://github.com/spinalcordtoolbox/spinalcordtoolbox/issues/3229", "rounded within 1e-3"
)
def _(folder: Path) -> Steps:
    label = volume_label((12, 14, 6), (1, 2))
    labelled_volumes(folder, (label * 0.99999).astype(np.float32))
    yield
    dataset = opened(folder)
    assert len(dataset.spec.classes) == 2
    is_class(dataset, dataset.spec.classes[0], truth(dataset, "case_0"), in_lpi(label) == 1)


@labels.holds(
    "labels truncated to 7000.98", "https://github.com/nipreps/petprep/issues/152", "refused, with digits enough to see it"
)
def _(folder: Path) -> Steps:
    label = volume_label((12, 14, 6), (1, 2)).astype(np.float32)
    label[label == 2] = 2.0234
    labelled_volumes(folder, label)
    yield
    assert "2.0234" in refusal(folder, "labels/case_0.nii.gz", "whole", "class number")


@labels.holds("a scan as its own label", "https://github.com/MIC-DKFZ/nnUNet/issues/1007", "refused: -1024 is no class")
def _(folder: Path) -> Steps:
    labelled_volumes(folder, np.linspace(-1024, 1500, 12 * 14 * 6).astype(np.int16).reshape(12, 14, 6))
    yield
    refusal(folder, "case_0.nii.gz", "whole class numbers")


@labels.holds("photographs in masks/", "https://github.com/xuebinqin/U-2-Net/issues/202", "refused: continuous values")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", picture(50 + number, 64, 64))
    yield
    refusal(folder, "case_", "class numbers")


@labels.holds(
    "BraTS labels 0, 1, 2, 4", "https://github.com/Rubics-Xuan/TransBTS/issues/59", "three classes by their names; 4 is the third"
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png", labels={"background": 0, "necrosis": 1, "edema": 2, "enhancing": 4})
    for number in range(5):
        save(folder / "labelsTr" / f"case_{number}.png", mask(number, values=(1, 2, 4)))
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("necrosis", "edema", "enhancing")
    is_class(dataset, "enhancing", truth(dataset, "case_3"), mask(3, values=(1, 2, 4)) == 4)


@labels.holds(
    "a label that is not declared", "https://github.com/MIC-DKFZ/nnUNet/issues/2868", "refused: names the value and the file"
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png")
    save(folder / "labelsTr" / "case_3.png", mask(3, values=(1, 25)))
    yield
    assert "25" in refusal(folder, "labelsTr/case_3.png", "dataset.json")


@labels.holds("a white mask of three channels", "https://github.com/milesial/Pytorch-UNet/issues/164", "one class")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", np.repeat(mask(number, 64, 64)[..., None], 3, axis=2))
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_3"), mask(3, 64, 64) > 0)


@labels.holds(
    "objects on a transparent background", "https://github.com/pymatting/pymatting/issues/69", "the right pixels, or refused"
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        drawn = mask(number, 64, 64) > 0
        rgba = np.zeros((64, 64, 4), np.uint8)
        rgba[drawn] = (255, 0, 0, 255)
        save(folder / "masks" / f"{name}.png", rgba)
    yield
    dataset = opened_or_refused(folder, "masks/case_0.png", "alpha", "transparen")
    if dataset is not None:
        assert len(dataset.spec.classes) == 1
        is_class(dataset, dataset.spec.classes[0], truth(dataset, "case_1"), mask(1, 64, 64) > 0)


@labels.holds(
    "a mask that is in the alpha channel alone",
    "https://github.com/pymatting/pymatting/issues/69",
    "the right pixels, or refused; not an empty mask",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        rgba = np.zeros((64, 64, 4), np.uint8)
        rgba[..., 3] = mask(number, 64, 64)
        save(folder / "masks" / f"{name}.png", rgba)
    yield
    dataset = opened_or_refused(folder, "case_0.png", "alpha", "transparen")
    if dataset is not None:
        is_class(dataset, dataset.spec.classes[0], truth(dataset, "case_1"), mask(1, 64, 64) > 0)


@labels.holds(
    "ImageJ's inverting look-up table", "https://github.com/scifio/scifio/issues/309", "255 is the object, as in ImageJ; or refused"
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        write_tiff(folder / "masks" / f"{name}.tif", mask(number, 64, 64), photometric="miniswhite", description="ImageJ=1.54f\n")
    yield
    dataset = opened_or_refused(folder, "case_0.tif", "invert", "white", "look-up")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_1"), mask(1, 64, 64) > 0)


@labels.holds("masks of floats 0.0 and 1.0", "https://github.com/MIC-DKFZ/nnUNet/issues/1678", "one class")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        write_tiff(folder / "masks" / f"{name}.tif", (mask(number, 64, 64) > 0).astype(np.float32))
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_1"), mask(1, 64, 64) > 0)


@labels.holds("probabilities as masks", "https://github.com/tensorflow/docs/pull/2159", "one class at one half, told; or refused")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder, side=96)):
        write_tiff(folder / "masks" / f"{name}.tif", soft(number).astype(np.float32) / 255)
    yield
    dataset = opened_or_refused(folder, "case_0.tif", "whole", "class number")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_1"), soft(1) >= 128)
        said(dataset, "half|0.5|128")


@labels.holds("masks of 16 bits, 0 and 65535", "https://github.com/wkentaro/labelme/issues/68", "one class, or refused")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", (mask(number, 64, 64) > 0) * np.uint16(65535))
    yield
    dataset = opened_or_refused(folder, "case_0.png", "class number")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_1"), mask(1, 64, 64) > 0)


@labels.holds(
    "trimaps 1, 2, 3 without a 0 (Oxford pets)",
    "https://github.com/jakeret/unet/issues/3",
    "told that no pixel is background, or refused",
)
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        values = np.full((64, 64), 2, np.uint8)
        values[9:31, 9:31] = 3
        values[10 + number : 30, 10:30] = 1
        save(folder / "masks" / f"{name}.png", values)
    yield
    dataset = opened_or_refused(folder, "masks", "background", "0")
    if dataset is not None:
        said(dataset, "background|value 0")


@labels.holds("masks without a single object", "https://github.com/GriffinLiang/AISD/issues/17", "refused: all masks are empty")
def _(folder: Path) -> Steps:
    two_folders(folder, values=())
    yield
    refusal(folder, "data", "empty")


@labels.holds(
    "two readers of an image (CHASE_DB1)",
    "https://blogs.kingston.ac.uk/retinal/chasedb1/",
    "never merged: one of them and told, or refused",
)
def _(folder: Path) -> Steps:
    for number in range(1, 7):
        save(folder / f"Image_{number:02}L.png", picture(number, 40, 48, 3))
        save(folder / f"Image_{number:02}L_1stHO.png", mask(number))
        save(folder / f"Image_{number:02}L_2ndHO.png", mask(number + 1))
    yield
    dataset = opened_or_refused(folder, "Image_01L", "1stHO", "2ndHO")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "Image_02L"), mask(2) > 0)
        said(dataset, "2ndHO")


def with_palette(path: Path, colours: npt.NDArray[Any], order: Sequence[tuple[int, int, int]]) -> None:
    """A PNG of indices into a palette whose colours come in this order."""
    indices = np.zeros(colours.shape[:2], np.uint8)
    for number, colour in enumerate(order):
        indices[(colours == colour).all(axis=2)] = number
    image = Image.fromarray(indices, "P")
    image.putpalette([value for colour in order for value in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@labels.holds(
    "palettes that differ from mask to mask",
    "https://github.com/NVIDIA/DIGITS/issues/1676",
    "classes by colour, or refused; an index alone means nothing",
)
def _(folder: Path) -> Steps:
    table = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    black, red, green = (tuple(map(int, colour)) for colour in table)
    for number, name in enumerate(with_images(folder)):
        drawn = mask(number, 64, 64, (1, 2))
        with_palette(folder / "masks" / f"{name}.png", table[drawn], (black, red, green) if number % 2 else (black, green, red))
    yield
    dataset = opened_or_refused(folder, "case_", "palette")
    if dataset is not None:
        where = [{int(value) for value in truth(dataset, f"case_{n}")[mask(n, 64, 64, (1, 2)) == 1]} for n in range(6)]
        assert all(len(values) == 1 for values in where)
        assert len(set.union(*where)) == 1, "what is red is one class in some masks and another in others"


@labels.holds(
    "a palette that begins with white",
    "https://github.com/NVIDIA/DIGITS/issues/1476",
    "white is the object, as it is shown; or refused",
)
def _(folder: Path) -> Steps:
    white, black = (255, 255, 255), (0, 0, 0)
    for number, name in enumerate(with_images(folder)):
        shown = np.repeat(mask(number, 64, 64)[..., None], 3, axis=2)
        with_palette(folder / "masks" / f"{name}.png", shown, (white, black))
    yield
    dataset = opened_or_refused(folder, "case_", "palette")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_1"), mask(1, 64, 64) > 0)
