"""Cases of one patient, splits that a folder gives, and classes that few cases have."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from own_folders import LPI, decathlon, mask, nnunet, picture, save, two_folders, volume, volume_label

from .situation import (
    ISSUE,
    Kind,
    Steps,
    apart,
    as_partitioned_by_name,
    find,
    is_grouped,
    leaks,
    opened,
    opened_or_refused,
    refusal,
    said,
    sentence,
    warned,
)

splits = Kind("splits")


def pairs(folder: Path, names: Sequence[str], ending: str = ".png") -> None:
    """images/ and masks/ of small pictures, each with noise of its own."""
    for number, name in enumerate(names):
        save(folder / "images" / f"{name}{ending}", picture(number, 20, 24))
        save(folder / "masks" / f"{name}{ending}", mask(number, 20, 24))


def by_listing(folder: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """PART/images and PART/masks, as many tools export."""
    for number, (part, names) in enumerate(parts.items()):
        for name in names:
            save(folder / part / "images" / f"{name}.png", picture(number * 100 + len(name) + ord(name[-1]), 20, 24))
            save(folder / part / "masks" / f"{name}.png", mask(number, 20, 24))


@splits.holds("ten slices a patient", ISSUE, "grouped by the patient in the name, told; no patient in two parts of any fold")
def _(folder: Path) -> Steps:
    pairs(folder, [f"p{patient:02}_s{place:03}" for patient in range(1, 9) for place in range(10)])
    yield
    dataset = opened(folder)
    is_grouped(dataset, lambda case_id: case_id[:3])
    said(dataset, "80", r"\b8\b", "group|patient")


@splits.holds("time points MS_001_t2", "https://github.com/MIC-DKFZ/nnUNet/issues/2688", "grouped by the number of the patient")
def _(folder: Path) -> Steps:
    pairs(folder, [f"MS_{patient:03}_t{time}" for patient in range(1, 6) for time in range(1, 4)])
    yield
    dataset = opened(folder)
    is_grouped(dataset, lambda case_id: case_id[:6])
    said(dataset, "MS_001", "group|patient")


@splits.holds("BIDS subjects and sessions", "https://github.com/ivadomed/ms-challenge-2021/pull/71", "grouped by sub-")
def _(folder: Path) -> Steps:
    for number in range(10):
        name = f"sub-{number // 2 + 1:02}_ses-{number % 2 + 1:02}_T1w"
        save(folder / "images" / f"{name}.nii.gz", volume(number, 12, 14, 6))
        save(folder / "labels" / f"{name}_seg.nii.gz", volume_label((12, 14, 6)))
    yield
    dataset = opened(folder)
    is_grouped(dataset, lambda case_id: case_id[:6])
    said(dataset, "sub-01", "group|patient")


@splits.holds(
    "patches of TCGA slides",
    "https://github.com/lifangda01/AdaptiveSupervisedPatchNCE/issues/6",
    "grouped by the patient of the barcode",
)
def _(folder: Path) -> Steps:
    patients = ("TCGA-A7-A13E", "TCGA-A7-A13F", "TCGA-AR-A1AK", "TCGA-B0-5711", "TCGA-G9-6336")
    pairs(folder, [f"{patient}-01Z-00-DX1_{number}" for patient in patients for number in range(3)])
    yield
    is_grouped(opened(folder), lambda case_id: case_id[:12])


@splits.holds(
    "both eyes of a child (CHASE_DB1)", "https://blogs.kingston.ac.uk/retinal/chasedb1/", "grouped by the number before L and R"
)
def _(folder: Path) -> Steps:
    pairs(folder, [f"Image_{number:02}{side}" for number in range(1, 7) for side in "LR"])
    yield
    is_grouped(opened(folder), lambda case_id: case_id[:8])


@splits.holds("slices cut from volumes", "https://github.com/frankkramer-lab/MIScnn/issues/34", "grouped by the volume")
def _(folder: Path) -> Steps:
    pairs(folder, [f"volume-{number}_slice_{place}" for number in range(5) for place in (9, 10, 11)])
    yield
    is_grouped(opened(folder), lambda case_id: case_id.split("_")[0])


@splits.holds("numbers that are no patients", ISSUE, "no groups; the folds of such sets stay what they were")
def _(folder: Path) -> Steps:
    pairs(folder, [f"ISIC_{number:07}" for number in range(8)])
    yield
    as_partitioned_by_name(opened(folder))


@splits.holds(
    "kinds that are no patients (benign, malignant)",
    "https://huggingface.co/datasets/Angelou0516/BUSI",
    "no groups: a kind of lesion is no patient",
)
def _(folder: Path) -> Steps:
    pairs(folder, [f"{kind} ({number})" for kind in ("benign", "malignant", "normal") for number in range(1, 5)])
    yield
    as_partitioned_by_name(opened(folder))


@splits.holds(
    "patients that names cannot tell", "https://github.com/MIC-DKFZ/nnUNet/issues/1871", "groups given by hand hold in every fold"
)
def _(folder: Path) -> Steps:
    names = [f"genius_{patient:02}{time:02}" for patient in range(8, 13) for time in range(3)]
    pairs(folder, names)
    yield
    groups = {name: name[7:9] for name in names}
    is_grouped(opened(folder, groups=groups), apart(groups))


@splits.holds(
    "a table of patients",
    "https://github.com/ieee8023/covid-chestxray-dataset/blob/master/metadata.csv",
    "a CSV file of file names and patients gives the groups",
)
def _(folder: Path) -> Steps:
    names = [f"scan{number:03}" for number in range(12)]
    pairs(folder, names)
    table = folder.parent / "patients.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("patient_id", "filename"), *((f"P{number // 3}", f"{name}.png") for number, name in enumerate(names))]
        )
    yield
    from cdal.data.own.groups import read_groups

    groups = read_groups(table)
    is_grouped(opened(folder, groups=groups), lambda case_id: int(case_id[4:]) // 3)


@splits.holds("a table of patients that lacks one", ISSUE, "refused: names the case without a group")
def _(folder: Path) -> Steps:
    names = [f"scan{number:03}" for number in range(12)]
    pairs(folder, names)
    yield
    refusal(folder, "scan011", "group", groups={name: f"P{number // 3}" for number, name in enumerate(names[:-1])})


@splits.holds(
    "nnU-Net's splits_final.json",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2688",
    "its folds are taken: val tests, validation is cut from train",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 10, 1)
    ids = [f"case_{number}" for number in range(10)]
    given = [{"train": ids[:start] + ids[start + 2 :], "val": ids[start : start + 2]} for start in (0, 2, 4, 6, 8)]
    (folder / "splits_final.json").write_text(json.dumps(given))
    yield
    dataset = opened(folder)
    assert len(dataset.spec.folds) == 5
    for fold, parts in enumerate(given):
        split = dataset.split(fold)
        assert sorted(split.test) == parts["val"]
        assert sorted(split.train + split.validation) == sorted(parts["train"])
        assert split.validation


@splits.holds(
    "a splits_final.json of other cases",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1871",
    "refused, or left out and told; never used in part",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_0", "case_1", "patient_7"], "val": ["case_2"]}]))
    yield
    dataset = opened_or_refused(folder, "splits_final.json")
    if dataset is not None:
        said(dataset, "splits_final.json", "patient_7")
        assert leaks(dataset, str) == []


@splits.holds("folders train, val and test", ISSUE, "one fold, the one that the folders are")
def _(folder: Path) -> Steps:
    by_listing(folder, {"train": "abcdef", "val": "gh", "test": "ij"})
    yield
    dataset = opened(folder)
    assert len(dataset.spec.folds) == 1
    split = dataset.split(0)
    assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]
    assert set(split.test) == {find(dataset, "i"), find(dataset, "j")}
    said(dataset, "train", "test")


@splits.holds(
    "equal names in train and test",
    "https://github.com/lifangda01/AdaptiveSupervisedPatchNCE/issues/6",
    "all are cases, with ids of their own, in the part of their folder",
)
def _(folder: Path) -> Steps:
    by_listing(folder, {"train": "123456", "valid": "12", "test": "123"})
    yield
    dataset = opened(folder)
    split = dataset.split(0)
    assert len(dataset.ids) == 11
    assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 3]
    assert find(dataset, "test", "2") in split.test


@splits.holds("folders train and test only", "https://drive.grand-challenge.org/", "test tests, validation is cut from train")
def _(folder: Path) -> Steps:
    by_listing(folder, {"train": "abcdefghij", "test": "klm"})
    yield
    split = opened(folder).split(0)
    assert len(split.test) == 3
    assert len(split.train + split.validation) == 10
    assert split.validation


@splits.holds(
    "images/train and masks/train", "https://github.com/Jordan-Pierce/yolo-tiling/pull/38", "the split that the inner folders are"
)
def _(folder: Path) -> Steps:
    for number in range(9):
        part = ("train", "val", "test")[max(0, number - 6)] if number < 8 else "test"
        save(folder / "images" / part / f"im{number}.png", picture(number, 20, 24))
        save(folder / "masks" / part / f"im{number}.png", mask(number, 20, 24))
    yield
    dataset = opened(folder)
    split = dataset.split(0)
    assert (len(split.train), len(split.validation), len(split.test)) == (7, 1, 1)
    assert split.test == (find(dataset, "im8"),)


@splits.holds(
    "a test folder without masks", "https://github.com/rezazad68/BCDU-Net/issues/4", "left out and told; the others make folds"
)
def _(folder: Path) -> Steps:
    by_listing(folder, {"train": "abcdefgh"})
    for number in range(3):
        save(folder / "test" / "images" / f"t{number}.png", picture(number, 20, 24))
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 8
    assert leaks(dataset, str) == []
    said(dataset, "test")


@splits.holds(
    "a patient in the folders train and test",
    "https://github.com/UCSD-AI4H/COVID-CT/issues/11",
    "refused, or told: the folders share patients",
)
def _(folder: Path) -> Steps:
    parts = {
        "train": [f"p{patient}_s{place}" for patient in range(1, 6) for place in range(2)],
        "test": ["p1_s2", "p6_s0", "p6_s1"],
    }
    by_listing(folder, parts)
    yield
    dataset = opened_or_refused(folder, "p1", "--groups", "--split")
    if dataset is not None:
        said(dataset, "p1", "train", "test")


@splits.holds(
    "a MONAI datalist with folds",
    "https://github.com/Project-MONAI/tutorials/pull/1919",
    "fold k tests on the cases that it marks with k",
)
def _(folder: Path) -> Steps:
    entries = []
    for number in range(8):
        save(folder / "imagesTr" / f"amos_{number:04}.nii.gz", volume(number, 12, 14, 6))
        save(folder / "labelsTr" / f"amos_{number:04}.nii.gz", volume_label((12, 14, 6)))
        names = {key: f"{key}sTr/amos_{number:04}.nii.gz" for key in ("image", "label")}
        entries.append(names | {"fold": (number * 3) % 4})
    (folder / "datalist.json").write_text(json.dumps({"training": entries, "testing": []}))
    yield
    dataset = opened(folder)
    assert len(dataset.spec.folds) == 4
    for fold in range(4):
        marked = {Path(str(entry["image"])).name.removesuffix(".nii.gz") for entry in entries if entry["fold"] == fold}
        assert set(dataset.split(fold).test) == marked
    assert leaks(dataset, str) == []


@splits.holds(
    "a datalist with a validation list",
    "https://github.com/Project-MONAI/MONAI/issues/3288",
    "one fold: nothing of the list trains",
)
def _(folder: Path) -> Steps:
    decathlon(folder, 9)
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["validation"] = content["training"][6:]
    content["training"] = content["training"][:6]
    path.write_text(json.dumps(content))
    yield
    dataset = opened(folder)
    split = dataset.split(0)
    assert len(dataset.spec.folds) == 1
    assert set(split.test + split.validation) >= {"case_6", "case_7", "case_8"}
    assert not {"case_6", "case_7", "case_8"} & set(split.train)


@splits.holds("a split given again", ISSUE, "--split repeats it to the case")
def _(folder: Path) -> Steps:
    pairs(folder, [f"im{number}" for number in range(8)])
    yield
    given = {"name": "as published", "train": ["im0", "im3", "im5"], "validation": ["im1", "im6"], "test": ["im2", "im4", "im7"]}
    dataset = opened(folder, split=[given])
    assert dataset.spec.folds == ("as published",)
    split = dataset.split(0)
    assert [sorted(split.train), sorted(split.validation), sorted(split.test)] == [
        given["train"],
        given["validation"],
        given["test"],
    ]


@splits.holds("a split that puts a case into two parts", ISSUE, "refused: names the case")
def _(folder: Path) -> Steps:
    pairs(folder, [f"im{number}" for number in range(8)])
    yield
    given = {"name": "torn", "train": ["im0", "im1", "im2", "im3"], "validation": ["im4"], "test": ["im3", "im5", "im6", "im7"]}
    refusal(folder, "im3", "part", "twice", "both", split=[given])


@splits.holds("a rare class in every fourth case", ISSUE, "folds are balanced by class: all parts that can have it do")
def _(folder: Path) -> Steps:
    for number in range(16):
        save(folder / "images" / f"case_{number:02}.png", picture(number, 40, 48))
        save(folder / "masks" / f"case_{number:02}.png", mask(number, values=(1,) if number % 4 else (1, 2)))
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("value 1", "value 2")
    rare = {case_id for case_id in dataset.ids if (dataset.case(case_id).label == 2).any()}
    assert len(rare) == 4
    for fold in range(len(dataset.spec.folds)):
        split = dataset.split(fold)
        assert rare & set(split.train), fold
        assert rare & set(split.test), fold


@splits.holds("a class in two patients", ISSUE, "inspect tells: too few groups to be in all three parts")
def _(folder: Path) -> Steps:
    for number in range(24):
        name = f"p{number // 4:02}_s{number % 4}"
        save(folder / "images" / f"{name}.png", picture(number, 40, 48))
        save(folder / "masks" / f"{name}.png", mask(number, values=(1, 2) if number < 8 else (1,)))
    yield
    is_grouped(opened(folder), lambda case_id: case_id[:3])
    warned(folder, "value 2", r"\b2 (of \d+ )?(groups|patients)")


@splits.holds("two patients in all", ISSUE, "refused: three groups are needed for training, validation and test")
def _(folder: Path) -> Steps:
    pairs(folder, [f"patient{patient}_slice{place:02}" for patient in (1, 2) for place in range(8)])
    yield
    refusal(folder, "patient1", "--groups", "bring more")


@splits.holds("a frame twice under two names", "https://arxiv.org/abs/2401.14497", "inspect names both, and what it does to scores")
def _(folder: Path) -> Steps:
    pairs(folder, [f"polyp{number:03}" for number in range(8)])
    save(folder / "images" / "polyp005.png", picture(2, 20, 24))
    yield
    warned(folder, "polyp002", "polyp005", "same|duplicate|twice")


@splits.holds(
    "a patient's folder of slices (Kaggle LGG MRI)",
    "https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
    "grouped by the folder",
)
def _(folder: Path) -> Steps:
    for number in range(12):
        patient = f"TCGA_CS_494{number // 3}_19960909"
        save(folder / patient / f"{patient}_{number % 3 + 1}.tif", picture(number, 20, 24, 3))
        save(folder / patient / f"{patient}_{number % 3 + 1}_mask.tif", mask(number, 20, 24))
    yield
    is_grouped(opened(folder), lambda case_id: case_id.split("/")[-1][:12])


@splits.holds(
    "two frames of a heart (ACDC)",
    "https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
    "the 4D film is left out and told, both frames are of one patient",
)
def _(folder: Path) -> Steps:
    for number in range(4):
        name = f"patient{number + 1:03}"
        for frame in ("frame01", "frame12"):
            save(folder / name / f"{name}_{frame}.nii.gz", volume(number, 12, 14, 6))
            save(folder / name / f"{name}_{frame}_gt.nii.gz", volume_label((12, 14, 6), (1, 2)))
        nibabel.save(nibabel.Nifti1Image(np.zeros((12, 14, 6, 3), np.int16), LPI), folder / name / f"{name}_4d.nii.gz")
        (folder / name / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 8
    is_grouped(dataset, lambda case_id: case_id.split("/")[-1][:10])
    said(dataset, "4d")


@splits.holds(
    "two views of a heart (CAMUS)", "https://www.creatis.insa-lyon.fr/Challenge/camus/", "all views of a patient in one part"
)
def _(folder: Path) -> Steps:
    for number in range(12):
        patient, view = f"patient{number // 2 + 1:04}", ("2CH_ED", "4CH_ED")[number % 2]
        save(folder / patient / f"{patient}_{view}.nii.gz", volume(number, 20, 24, 1))
        label = np.zeros((20, 24, 1), np.uint8)
        label[4:12, 5:15] = 1
        label[13:17, 5:15] = 2
        save(folder / patient / f"{patient}_{view}_gt.nii.gz", label)
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 12
    is_grouped(dataset, lambda case_id: case_id.split("/")[-1][:11])
    assert dataset.case(dataset.ids[0]).truth.shape[0] == 1


@splits.holds("a listing of a group each", ISSUE, "a table as the search writes it is read again")
def _(folder: Path) -> Steps:
    two_folders(folder, 8)
    parts = ("train", "train", "train", "train", "validation", "validation", "test", "test")
    rows = [(0, f"case_{number}", part) for number, part in enumerate(parts)]
    with (folder.parent / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("fold", "case", "part"), *rows])
    yield
    from cdal.data.own.groups import read_split

    split = opened(folder, split=read_split(folder.parent / "split.csv")).split(0)
    assert (sorted(split.validation), sorted(split.test)) == (["case_4", "case_5"], ["case_6", "case_7"])


@splits.holds("a split file of a case that is not there", ISSUE, "refused: names the case")
def _(folder: Path) -> Steps:
    two_folders(folder, 8)
    yield
    given = {"name": "old", "train": ["case_0", "case_1", "case_99"], "validation": ["case_2"], "test": ["case_3"]}
    message = refusal(folder, "case_99", split=[given])
    sentence(message, "case_99", "split")
