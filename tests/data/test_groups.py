"""Which cases belong together: by names, by tables; and splits that files give."""

import json
from pathlib import Path

import pandas as pd
import pytest
from own_folders import two_folders

from cdal.data import open_dataset
from cdal.data.own.groups import find_groups, given_groups, read_groups, read_split, splits_of, spread
from cdal.errors import InputError

RANDOM = "0a1b2c3d-1111-2222-3333-0000000000"
TOGETHER = {
    "p0{i}_s00{j}": "p0{i}",
    "patient00{i}_slice{j}": "patient00{i}",
    "patient00{i}_frame01_slice_{j}": "patient00{i}",
    "patient0{i}/image_{j}": "patient0{i}",
    "patient{a}_{j}": "patient{a}",
    "train_subject_{i}_{j}": "train_subject_{i}",
    "T{j}_patient_{i}": "patient_{i}",
    "slice_{j}_case_{i}": "case_{i}",
    "volume-{i}_slice_{j}": "volume-{i}",
    "slide{i}_tile_{j}_0": "slide{i}",
    "000{i}_{j}": "000{i}",
    "MS_00{i}_t{j}": "MS_00{i}",
    "MS01s0{i}s00{j}": "MS01s0{i}",
    "IMG-000{i}-0000{j}": "IMG-000{i}",
    "LIDC-IDRI-000{i}_{j}": "LIDC-IDRI-000{i}",
    "BraTS20_Training_00{i}_{j}": "BraTS20_Training_00{i}",
    "site1_00{i}_{j}": "site1_00{i}",
    "image{i}_{j}_256": "image{i}",
    "sub-0{i}_ses-0{j}_T1w": "sub-0{i}",
    "TCGA-A7-A13{i}-01Z-00-DX1_patch{j}": "TCGA-A7-A13{i}",
    "TCGA_CS_494{i}_19960909_{j}": "TCGA_CS_494{i}",
    "1.3.6.1.4.1.14519.5.2.{i}_{j}": "1.3.6.1.4.1.14519.5.2.{i}",
    RANDOM + "0{i}_{j}": RANDOM + "0{i}",
}


@pytest.mark.parametrize(("name", "group"), TOGETHER.items())
def test_names_that_tell_whose_a_case_is(name: str, group: str) -> None:
    found = find_groups([name.format(i=i, j=j, a="WXYZ"[i]) for i in range(4) for j in range(3)])
    assert found is not None
    assert found.of == {name.format(i=i, j=j, a="WXYZ"[i]): group.format(i=i, a="WXYZ"[i]) for i in range(4) for j in range(3)}
    assert str(found).startswith("12 cases of 4 groups, by ")
    assert f"{group.format(i=0, a='W')} (3)" in str(found)


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (["Image_01L", "Image_01R", "Image_02L", "Image_02R", "Image_03L"], [2, 2, 1]),
        (["1_left", "1_right", "2_left", "2_right", "3_left"], [2, 2, 1]),
        (["case1", "case1(2)", "case2", "case3"], [2, 1, 1]),
        (["MS_001_flair", "MS_001_t2", "MS_002_flair", "MS_003"], [2, 1, 1]),
        (["0001_1", "0002_1", "0003_1", "0003_2"], [1, 1, 2]),
        (["img_1", "img_2", "patient1_1", "patient1_2"], [1, 1, 2]),
        (["covid-19_1_1", "covid-19_1_2", "covid-19_2_1", "covid-19_3_1", "normal_1"], [2, 1, 1, 1]),
    ],
)
def test_pairs_and_cases_that_stand_alone(names: list[str], sizes: list[int]) -> None:
    found = find_groups(names)
    assert found is not None
    assert list(pd.Series(list(found.of.values())).value_counts(sort=False)) == sizes


ALONE = {
    "numbers": [f"case_{i}" for i in range(6)],
    "digits": [str(i) for i in range(9)],
    "letters": list("abcdefgh"),
    "decathlon": [f"hippocampus_{i:03}" for i in range(6)],
    "generated": [f"phantom_{i:05}" for i in range(6)],
    "busi": [f"{word} ({i})" for i in range(6) for word in ("benign", "malignant", "normal")],
    "classes": [f"{word}_{i:03}" for i in range(6) for word in ("benign", "malignant", "normal")],
    "a class with a number": [f"{word}_{i:03}" for i in range(6) for word in ("covid-19", "pneumonia", "normal")],
    "grades": [f"grade{grade}_{i:03}" for i in range(6) for grade in range(4)],
    "numbered classes": [f"class_{number}_{i:03}" for i in range(6) for number in range(4)],
    "sequences": [f"T{number}_{i:03}" for i in range(6) for number in (1, 2)],
    "places": [f"site{number}_{i:03}" for i in range(6) for number in range(4)],
    "magnifications": [f"{x}x_{i}" for i in range(6) for x in (10, 20, 40)],
    "tiles": [f"tile_{x}_{y}" for x in (0, 256, 512, 768) for y in (0, 256)],
    "isic": [f"ISIC_{i:07}" for i in range(6)],
    "isic of a year": [f"ISIC2018_{i:07}" for i in range(6)],
    "images": [f"img_{i:03}" for i in range(6)],
    "cells": [f"cell_{i:05}" for i in range(6)],
    "drive": [f"{i}_training" for i in range(21, 29)],
    "one image a patient": ["TCGA-2Z-A9J9-01A-01-TS1", "TCGA-44-2665-01B-06-BS6", "TCGA-44-7764-01A-01-TS1"],
    "hospitals": [f"{start}_{i:04}_{i % 2}" for i in range(6) for start in ("CHNCXR", "MCUCXR")],
    "dates": [f"2021-{month:02}-{day:02}" for month in (1, 2, 3) for day in (4, 5, 6)],
    "dates and numbers": [f"202103{day:02}_{i:03}" for day in (4, 5, 6) for i in range(3)],
    "years": [f"{year}_{i:03}" for year in range(2011, 2015) for i in range(3)],
    "a telephone's": [f"IMG-202103{day:02}-WA{i:04}" for day in (4, 5, 6) for i in range(3)],
    "random": ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju1c3218j7kp0855ncnkcpen", "00071198d059"],
    "all of one patient": [f"patient1_{i}" for i in range(9)],
}


@pytest.mark.parametrize("names", ALONE.values(), ids=ALONE)
def test_names_that_tell_nothing(names: list[str]) -> None:
    assert find_groups(names) is None


@pytest.mark.parametrize(
    "text",
    [
        "case,group\na,1\nb,1\nc,2\n",
        "\ufeffFilename;Patient\nimages/a.png;1\nimages\\b.tif;1\nc_0000.nii.gz;2\n",
        "extra\tpatient_id\timage\nx\t1\ta\nx\t1\tb\n\ny\t2\tc\n",
    ],
)
def test_a_table_of_groups(tmp_path: Path, text: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(text)
    found, notes = given_groups(["a", "b", "c"], read_groups(path))
    assert found.of == {"a": "1", "b": "1", "c": "2"}
    assert notes == []


def test_groups_that_leave_cases_out() -> None:
    with pytest.raises(InputError, match=r"leave out 2 of 3 cases, b the first"):
        given_groups(["a", "b", "c"], {"a": "1"})
    _, notes = given_groups(["a"], {"a": "1", "x": "1", "y": "2"})
    assert notes == ["groups were given for 2 cases that are not there, x the first"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("case,size\na,1\n", "has the columns case, size; it needs one of group"),
        ("case,group\na,1\na,2\n", "puts a into the groups 1 and 2"),
        ("case,group\na,\n", "a row has no group"),
        ("case,group\n", "has no rows"),
    ],
)
def test_tables_that_tell_no_groups(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        read_groups(path)
    assert str(path) in str(caught.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_groups, read_split):
        for name in ("none.csv", "none.parquet", "none.json"):
            with pytest.raises(InputError, match=r"none\.\w+ cannot be read"):
                read(tmp_path / name)


def test_the_splits_of_nnunet(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}, {"train": ["b", "c"], "val": ["a"]}]))
    splits = splits_of(read_split(path), ["c", "b", "a"])
    assert list(splits) == ["fold 0", "fold 1"]
    assert (splits["fold 0"].train, splits["fold 0"].validation, splits["fold 0"].test) == (("b", "a"), (), ("c",))
    assert splits["fold 1"].test == ("a",)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_of_folds(tmp_path: Path, ending: str) -> None:
    rows = [(fold, case, part) for fold in (10, 2) for case, part in (("a.png", "train"), ("b", "val"), ("c", "test"))]
    table = pd.DataFrame(rows, columns=["fold", "case", "part"])
    path = tmp_path / f"split.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    splits = splits_of(read_split(path), ["a", "b", "c", "d"])
    assert list(splits) == ["fold 2", "fold 10"]
    assert all((one.train, one.validation, one.test) == (("a",), ("b",), ("c",)) for one in splits.values())


def test_splits_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"lists 1 cases that are not there, x the first \(fold 0\)"):
        splits_of([{"train": ["a", "x"], "test": ["b"]}], ["a", "b"])
    with pytest.raises(InputError, match=r"lists 1 cases twice in one fold, a the first"):
        splits_of([{"train": ["a"], "test": ["a.png", "b"]}], ["a", "b"])


@pytest.mark.parametrize("text", ["3", '[{"val": []}]', '{"train": 3}', "{"])
def test_json_that_holds_no_split(tmp_path: Path, text: str) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"splits_final\.json (is no list of folds|cannot be read)"):
        read_split(path)


def test_some_cases_are_some_of_every_patient() -> None:
    groups = {f"p{patient}_{place:02}": f"p{patient}" for patient in range(3) for place in range(20)}
    cases = list(groups)
    assert spread(cases, groups, 3) == ("p0_10", "p1_10", "p2_10")
    assert spread(cases, groups, 7) == ("p0_03", "p0_10", "p0_16", "p1_05", "p1_15", "p2_05", "p2_15")
    assert spread(cases, groups, 0) == spread(cases, groups, 60) == tuple(cases)
    assert [len(set(spread(cases, groups, count))) for count in range(1, 61)] == list(range(1, 61))
    assert spread(cases, {}, 2) == ("p0_00", "p0_01")


def test_a_table_in_the_folder_tells_the_groups(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "set", 12)
    rows = [f"case_{number}.png,patient {number // 3}" for number in range(12)]
    (folder / "metadata.csv").write_text("\n".join(["image,patient_id", *rows]))
    dataset = open_dataset("own", folder)
    assert len(set(dataset.groups.values())) == 4
    assert any("metadata.csv" in note for note in dataset.spec.notes)
    (folder / "metadata.csv").write_text("\n".join(["image,patient_id", *rows[:-1]]))
    dataset = open_dataset("own", folder)
    assert dataset.groups == {}
    assert any("metadata.csv has groups, but not of every case" in note for note in dataset.spec.notes)
