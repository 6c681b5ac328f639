"""What the values of masks mean: classes, objects, pixels that nobody judged, soft edges, colours, outlines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
from own_folders import LPI, mask, nnunet, picture, save, two_folders, volume, volume_label
from PIL import Image, ImageDraw

from cdal.data import Dataset, open_dataset
from cdal.data.folds import MONUSEG_TEST
from cdal.errors import InputError

from .situation import (
    ISSUE,
    Kind,
    Steps,
    find,
    is_class,
    is_foreground,
    is_ignored,
    opened,
    opened_or_refused,
    refusal,
    said,
    sentence,
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


def with_images(folder: Path, count: int = 6, side: int = 64) -> Sequence[str]:
    """images/case_0.png, ... of three colours; returns their names."""
    names = [f"case_{number}" for number in range(count)]
    for number, name in enumerate(names):
        save(folder / "images" / f"{name}.png", picture(number, side, side, 3))
    return names


def write_tiff(path: Path, values: npt.NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, **options)


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
    refusal(folder, "labels/case_0.nii.gz", "whole class numbers", "class numbers", "label")


@labels.holds("photographs in masks/", "https://github.com/xuebinqin/U-2-Net/issues/202", "refused: continuous values")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", picture(50 + number, 64, 64))
    yield
    refusal(folder, "masks/case_0.png", "class numbers")


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


@labels.holds(
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


@labels.holds(
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


@labels.holds(
    "lesions in red and green (BUS-UCLM)",
    "http://preview-www.nature.com/articles/s41597-025-04562-3",
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


@labels.holds("a white mask of three channels", "https://github.com/milesial/Pytorch-UNet/issues/164", "one class")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        save(folder / "masks" / f"{name}.png", np.repeat(mask(number, 64, 64)[..., None], 3, axis=2))
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_3"), mask(3, 64, 64) > 0)


@labels.holds("colour masks saved as JPEG", "https://github.com/heyoeyo/muggled_sam/issues/14", "refused: the colours are lost")
def _(folder: Path) -> Steps:
    for number, name in enumerate(with_images(folder)):
        colours = np.array([(0, 0, 0), GREEN, RED, BLUE], np.uint8)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours[mask(number, 64, 64, (1, 2, 3))]).save(folder / "masks" / f"{name}.jpg", quality=75)
    yield
    refusal(folder, ".jpg", "PNG", "lossless", "without loss", "colour")


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


@labels.holds("masks of 16 bits, 0 and 65535", "https://github.com/imageio/imageio/issues/355", "one class, or refused")
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


@labels.holds(
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


@labels.holds(
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


@labels.holds(
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


@labels.holds(
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


@labels.holds(
    "Roboflow's COCO folders",
    "https://github.com/roboflow/notebooks/issues/23",
    "train, valid and test as they are; or refused with the conversion",
)
def _(folder: Path) -> Steps:
    for part, count in (("train", 6), ("valid", 2), ("test", 2)):
        names = [f"{part}{number}_jpg.rf.0a1b.png" for number in range(count)]
        for number, name in enumerate(names):
            save(folder / part / name, picture(number + len(part), 40, 48, 3))
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
        is_class(dataset, "cell", truth(dataset, find(dataset, "train2")), expected)


@labels.holds("ImageJ's *.roi files", ISSUE, "refused: names the conversion")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"cell{number}.png", picture(number, 40, 48))
        (folder / "masks").mkdir(exist_ok=True)
        (folder / "masks" / f"cell{number}.roi").write_bytes(b"Iout\x00\xe3" + bytes(58))
    yield
    refusal(folder, ".roi", "ImageJ", "Fiji", "TIFF", "convert")


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


@labels.holds(
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


@labels.holds(
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


@labels.holds(
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


@labels.holds(
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
    refusal(folder, "masks/case_0.png", "colour", "antialiased", "nearest")
