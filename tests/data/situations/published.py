"""Data sets as they are published, and exports of tools: which files make a case."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from own_folders import mask, picture, save, volume, volume_label
from PIL import Image

from .folders import named
from .situation import (
    Kind,
    Steps,
    find,
    is_class,
    is_foreground,
    leaks,
    opened,
    opened_or_refused,
    refusal,
    said,
    truth,
)

published = Kind("published")

Array = npt.NDArray[Any]


@published.holds(
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


@published.holds(
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


@published.holds(
    "several masks of a lesion image (BUSI)",
    "https://github.com/Jiaoyang45/Rolling-Unet/issues/11",
    "merged and told; kinds are no groups",
)
def _(folder: Path) -> Steps:
    for kind in ("benign", "malignant", "normal"):
        for number in range(1, 5):
            save(folder / kind / f"{kind} ({number}).png", picture(number + 10 * len(kind) + ord(kind[0]), colours=3))
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


@published.holds(
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


@published.holds(
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


@published.holds("a patient without one modality", "https://github.com/MIC-DKFZ/nnUNet/issues/448", "refused: names it")
def _(folder: Path) -> Steps:
    for number in range(5):
        name = f"BraTS20_Training_{number + 1:03}"
        for place, kind in enumerate(("flair", "t1", "t2")):
            if (number, kind) != (3, "t1"):
                save(folder / name / f"{name}_{kind}.nii.gz", volume(10 * number + place, 20, 14, 6))
        save(folder / name / f"{name}_seg.nii.gz", volume_label((20, 14, 6), (1, 2)))
    yield
    refusal(folder, "BraTS20_Training_004", "t1", "channel", "missing")


@published.holds("imaging and segmentation of a case (KiTS)", "https://github.com/neheller/kits19/issues/22", "a case a folder")
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


@published.holds(
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


@published.holds(
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


@published.holds(
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


@published.holds(
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


@published.holds(
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


@published.holds(
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


@published.holds(
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


@published.holds(
    "train and trainannot (CamVid)",
    "https://github.com/ryouchinsa/Rectlabel-support/issues/108",
    "train, val and test as they are, or refused",
)
def _(folder: Path) -> Steps:
    for part, count in (("train", 6), ("val", 2), ("test", 2)):
        for number in range(count):
            save(folder / part / f"{part}_{number}.png", picture(number + ord(part[-1]) * 10, colours=3))
            save(folder / f"{part}annot" / f"{part}_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "data", "images/", "layout")
    if dataset is not None:
        split = dataset.split(0)
        assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]
        is_foreground(dataset, truth(dataset, "train_3"), mask(3) > 0)


@published.holds(
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


@published.holds(
    "Roboflow's masks",
    "https://github.com/roboflow/roboflow-python/issues/165",
    "X.jpg and X_mask.png in train, valid, test; or refused",
)
def _(folder: Path) -> Steps:
    for part, count in (("train", 6), ("valid", 2), ("test", 2)):
        for number in range(count):
            name = f"{part}{number}_jpg.rf.0a1b"
            (folder / part).mkdir(exist_ok=True)
            Image.fromarray(picture(number + ord(part[-1]) * 10, colours=3)).save(folder / part / f"{name}.jpg")
            save(folder / part / f"{name}_mask.png", mask(number, values=(1,)))
        (folder / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n")
    yield
    dataset = opened_or_refused(folder, "data", "images/", "layout", "_classes.csv")
    if dataset is not None:
        split = dataset.split(0)
        assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]
        assert len(dataset.spec.classes) == 1
        is_class(dataset, dataset.spec.classes[0], truth(dataset, find(dataset, "train3")), mask(3) > 0)


@published.holds(
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


@published.holds(
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
    dataset = opened_or_refused(folder, "Mask")
    if dataset is not None:
        assert np.count_nonzero(truth(dataset, "MCUCXR_0003_0")) == 2 * 25 * 14
