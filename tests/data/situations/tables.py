"""Tables and lists that data sets bring along, or that are given: groups, splits, and their spreadsheets' quirks."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from own_folders import mask, picture, save

from cdal.data.own.groups import own_options, read_split

from .situation import ISSUE, Kind, Steps, as_partitioned_by_name, inspected, is_grouped, leaks, opened, refusal, said

tables = Kind("tables")


def numbered(folder: Path, count: int = 12) -> list[str]:
    """images/001.png, masks/001.png, ..."""
    return named_pairs(folder, [f"{number:03}" for number in range(1, count + 1)])


def named_pairs(folder: Path, names: Sequence[str]) -> list[str]:
    for number, name in enumerate(names):
        save(folder / "images" / f"{name}.png", picture(number, 20, 24))
        save(folder / "masks" / f"{name}.png", mask(number, 20, 24))
    return list(names)


def table(path: Path, header: str, rows: Mapping[str, object]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows.items()])


def quarter(number: int) -> int:
    return number // 3


@tables.holds(
    "patient_id of ISIC's metadata",
    "https://www.kaggle.com/c/siim-isic-melanoma-classification/data",
    "a table in the folder tells the patients",
)
def _(folder: Path) -> Steps:
    ids = named_pairs(folder, [f"ISIC_{number * 37:07}" for number in range(12)])
    table(folder / "train.csv", "image_name,patient_id", {name: f"IP_{quarter(number)}" for number, name in enumerate(ids)})
    yield
    is_grouped(opened(folder), lambda case_id: quarter(ids.index(case_id)))
    said(opened(folder), "train.csv", "groups")


@tables.holds(
    "a column group that tells diagnoses",
    "https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
    "nobody is grouped by class words",
)
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    table(folder / "metadata.csv", "image,group", {name: ("DCM", "HCM", "NOR")[n % 3] for n, name in enumerate(ids)})
    yield
    as_partitioned_by_name(opened(folder))


@tables.holds(
    "EchoNet's FileList with a column Split",
    "https://echonet.github.io/dynamic/",
    "the split that the data set was published with",
)
def _(folder: Path) -> Steps:
    ids = named_pairs(folder, [f"0X{number:06X}A1C" for number in range(12)])
    parts = {name: ("TRAIN", "VAL", "TEST")[number % 3] for number, name in enumerate(ids)}
    table(folder / "FileList.csv", "FileName,Split", parts | {"0XNOTHERE": "TEST"})
    yield
    dataset = opened(folder)
    assert len(dataset.spec.folds) == 1
    split = dataset.split(0)
    assert (set(split.train), set(split.validation), set(split.test)) == (set(ids[0::3]), set(ids[1::3]), set(ids[2::3]))
    said(dataset, "FileList.csv", "split")


@tables.holds(
    "train.txt, val.txt and test.txt",
    "https://github.com/4uiiurz1/pytorch-nested-unet/issues/22",
    "the split that the lists are, whether they name cases, files or pairs of files",
)
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    forms = ("{0}", "images/{0}.png", "images/{0}.png masks/{0}.png")
    for place, part in enumerate(("train", "val", "test")):
        (folder / f"{part}.txt").write_text("".join(forms[place].format(name) + "\r\n" for name in ids[place * 4 : place * 4 + 4]))
    yield
    dataset = opened(folder)
    split = dataset.split(0)
    assert len(dataset.spec.folds) == 1
    assert (list(split.train), list(split.validation), list(split.test)) == (ids[:4], ids[4:8], ids[8:])


@tables.holds(
    "lists that leave cases out",
    "https://github.com/Beckschen/TransUNet/issues/67",
    "not used, and told: no case is lost in silence",
)
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    for part, names in (("train", ids[:6]), ("test", ids[9:])):
        (folder / f"{part}.txt").write_text("\n".join(names))
    yield
    as_partitioned_by_name(opened(folder))
    said(opened(folder), "train.txt", "not used", "--split")


@tables.holds("a column fold alone", "https://www.kaggle.com/code/cdeotte/how-to-use-k-fold", "each fold tests on its cases")
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    table(folder / "folds.csv", "image_id,fold", {name: number % 4 for number, name in enumerate(ids)})
    yield
    dataset = opened(folder)
    assert [list(dataset.split(fold).test) for fold in range(len(dataset.spec.folds))] == [ids[start::4] for start in range(4)]
    assert leaks(dataset, str) == []
    said(dataset, "folds.csv")


@tables.holds(
    "splits_final.json beside images and masks",
    "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/manual_data_splits.md",
    "its folds are taken in any layout",
)
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ids[:9], "val": ids[9:]}, {"train": ids[3:], "val": ids[:3]}]))
    yield
    dataset = opened(folder)
    assert [list(dataset.split(fold).test) for fold in range(len(dataset.spec.folds))] == [ids[9:], ids[:3]]


@tables.holds("a split beside the images that tears patients", ISSUE, "refused: names the patient, and how to keep it")
def _(folder: Path) -> Steps:
    ids = named_pairs(folder, [f"p{quarter(number)}_s{number}" for number in range(12)])
    table(folder / "split.csv", "image,split", {name: "test" if number > 9 else "train" for number, name in enumerate(ids)})
    yield
    refusal(folder, "p3", "--groups", "--split")


@tables.holds(
    "parts in the names of files", "https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/", "told: no split is made of names"
)
def _(folder: Path) -> Steps:
    named_pairs(folder, [f"{part}_{number}" for part in ("train", "testA", "testB") for number in range(4)])
    yield
    as_partitioned_by_name(opened(folder))
    said(opened(folder), "names", "test", "train", "--split")


@tables.holds(
    "a spreadsheet took the leading zeros",
    "https://support.microsoft.com/en-us/office/keeping-leading-zeros-and-large-numbers-1bf7b935-36e1-4985-842f-5dfa51f85fe7",
    "001 is found by 1, and that is told",
)
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    table(folder.parent / "g.csv", "Image ID,Patient ID", {str(int(name)): quarter(number) for number, name in enumerate(ids)})
    yield
    options = own_options(str(folder.parent / "g.csv"), None)
    dataset = opened(folder, **options)
    is_grouped(dataset, lambda case_id: quarter(ids.index(case_id)))
    said(dataset, "numbers", "001")


@tables.holds("a table of groups that names two sorts of them", ISSUE, "refused: names the columns")
def _(folder: Path) -> Steps:
    ids = numbered(folder)
    rows = ["case,patient,group", *(f"{name},{quarter(number)},{number % 2}" for number, name in enumerate(ids))]
    (folder.parent / "g.csv").write_text("\n".join(rows))
    yield
    found = inspected(folder, "--groups", str(folder.parent / "g.csv"))
    assert found.status == 2
    assert "has the columns group and patient; keep the one" in found.told


@tables.holds("a split given that tears patients", ISSUE, "kept, as it was asked for, and told; nothing says that it does not leak")
def _(folder: Path) -> Steps:
    ids = named_pairs(folder, [f"p{quarter(number)}_s{number}" for number in range(12)])
    (folder.parent / "s.json").write_text(json.dumps({"train": ids[0::3], "val": ids[1::3], "test": ids[2::3]}))
    yield
    dataset = opened(folder, split=read_split(folder.parent / "s.json"))
    said(dataset, "4 groups are in two parts", "p0")
    assert not any("no group is in two parts" in note for note in dataset.spec.notes)
