"""Which cases belong together: by names, by tables; and splits that files give."""

import json
from pathlib import Path

import pandas as pd
import pytest
from own_folders import two_folders

from cdal.data import open_dataset
from cdal.data.dataset import Split
from cdal.data.folds import spread
from cdal.data.own.groups import find_groups, given_groups, read_groups, read_split, splits_of
from cdal.errors import InputError

RANDOM = "0a1b2c3d-1111-2222-3333-0000000000"
TOGETHER = {
    "p0{i}_s00{j}": "p0{i}",
    "patient00{i}_slice{j}": "patient00{i}",
    "patient00{i}_frame01_slice_{j}": "patient00{i}",
    "patient0{i}/image_{j}": "patient0{i}",
    "patient{a}_{j}": "patient{a}",
    "p10/p1000{i}/s5{j}/x": "p1000{i}",
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
    "{a}B1{i}_{j}": "{a}B1{i}",
    "normal_00{i}_x{j}_y{j}": "normal_00{i}",
    "tumor_00{i}_x{j}_y{j}": "tumor_00{i}",
    "{a}0S9V{i}_sa_{j}": "{a}0S9V{i}",
    "CD1{i}_{j}": "CD1{i}",
    "S19-100{i}_{j}": "S19-100{i}",
    "OAS1_000{i}_MR{j}_t1": "OAS1_000{i}",
    "19{i}_2019010{j}": "19{i}",
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
        (["RET001OD", "RET001OS", "RET002OD", "RET002OS", "RET003OD"], [2, 2, 1]),
        (["A0S9V9_ED", "A0S9V9_ES", "A1D0Q7_ED", "A1D0Q7_ES", "B0H7X1_ED"], [2, 2, 1]),
        (["AB1_1", "AB1_2", "CD13_1", "CD13_2", "EF2_1"], [2, 2, 1]),
        (["P01_1", "P01_2", "P16_1", "P16_2", "P53_1"], [2, 2, 1]),
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
    "grades of a scale": [
        f"{scale}{grade}_{i:03}" for i in range(6) for scale in ("BIRADS", "TI-RADS-", "KL") for grade in range(5)
    ],
    "grades in a letter": [f"G{grade}_{i:03}" for i in range(6) for grade in range(1, 5)],
    "stains": [f"{stain}_{i:03}" for i in range(6) for stain in ("p53", "p63", "ki67", "cd3", "cd8", "her2")],
    "scores of a stain": [f"her2_{score}plus_{i:03}" for i in range(6) for score in range(4)],
    "vertebrae": [f"L{number}_{i:03}" for i in range(6) for number in range(1, 6)],
    "amounts": [f"{amount}{unit}_{i:03}" for i in range(6) for amount in (10, 20, 40) for unit in ("C", "um", "mg")],
    "screenshots": [f"Screenshot 2021-03-{day:02} at 10.22.{second}" for day in (1, 2, 3) for second in (11, 12)],
    "moments": [f"2021-03-{day:02}_10-{minute}-33" for day in (1, 2, 3, 4) for minute in (11, 12)],
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


@pytest.mark.parametrize(
    "text",
    [
        "case,group\n1,1\n2,1\n10,2\n",  # a spreadsheet took the zeros
        "case,group\n1.0,1\n2.0,1\n10.0,2\n",
        'sep=;\nImage Name;Patient ID\n="001";1\n="002";1\n="010";2\n',
        "id,image,patient\n1,010.png,2\n2,001.png,1\n10,002.png,1\n",
        ",file_path,Subject\r\n0,C:\\x\\001.PNG,1\r\n1,C:\\x\\002.PNG,1\r\n2,C:\\x\\010.PNG,2\r\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(text.encode(encoding))
    found, notes = given_groups(["001", "002", "010"], read_groups(path))
    assert found.of == {"001": "1", "002": "1", "010": "2"}
    assert bool(notes) == text.startswith("case")
    assert not notes or ("1" in notes[0] and "001" in notes[0])


def test_numbers_that_two_cases_could_have() -> None:
    with pytest.raises(InputError, match="leave out 2 of 2 cases"):
        given_groups(["01", "001"], {"1": "a"})


def test_files_of_folders_of_patients() -> None:
    names = ["data/p1/img1.png", "p2\\img1.png", "img2"]
    found, _ = given_groups(["p1/img1", "p2/img1", "p2/img2"], dict(zip(names, "abc", strict=True)))
    assert list(found.of.values()) == ["a", "b", "c"]
    with pytest.raises(InputError, match="leave out"):
        given_groups(["p1/img1", "p2/img1", "p2/img2"], {"img1": "a", "img2": "b"})


def test_groups_that_leave_cases_out() -> None:
    with pytest.raises(InputError, match=r"leave out 2 of 3 cases, b the first"):
        given_groups(["a", "b", "c"], {"a": "1"})
    _, notes = given_groups(["a"], {"a": "1", "x": "1", "y": "2"})
    assert notes == ["groups were given for 2 cases that are not there, x the first"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("case,size\na,1\n", "has the columns 'case, size'; it needs a header with one of group"),
        ("case,group\na,1\na,2\n", "puts a into the groups 1 and 2"),
        ("case,group\na,\n", "a row has no group"),
        ("case,group\na,NaN\n", "a row has no group"),
        ("case,group\na,1\nb,1.0\n", "the groups 1 and 1.0, which may be one"),
        ("case,group\na,P1\nb,p1\n", "the groups P1 and p1, which may be one"),
        ("case,patient,group\na,1,sick\nb,2,well\n", "the columns group and patient; keep the one"),
        ("PK\x03\x04", "is an Excel workbook; save it as CSV UTF-8"),
        ("case,group\na,\0\n", "is no text in UTF-8; save it as CSV UTF-8"),
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
    splits, _ = splits_of(read_split(path), ["c", "b", "a"])
    assert list(splits) == ["fold 0", "fold 1"]
    assert (splits["fold 0"].train, splits["fold 0"].validation, splits["fold 0"].test) == (("b", "a"), (), ("c",))
    assert splits["fold 1"].test == ("a",)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_of_folds(tmp_path: Path, ending: str) -> None:
    rows = [(fold, case, part) for fold in (10, 2) for case, part in (("a.png", "train"), ("b", "val"), ("c", "test"))]
    table = pd.DataFrame(rows, columns=["fold", "case", "part"])
    path = tmp_path / f"split.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    splits, _ = splits_of(read_split(path), ["a", "b", "c", "d"])
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


@pytest.mark.parametrize(
    "text",
    [
        '{"train": ["a"], "dev": ["b"], "test": ["c"]}',
        '{"training": ["a"], "validation": ["b"], "testing": ["c"]}',
        '{"fold_0": {"train": ["a"], "val": ["b"], "test": ["c"]}}',
        "filename,split\na.png,Training\nb.png,dev\nc.png,TEST\n",
    ],
)
def test_splits_as_people_write_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("split.json" if text.startswith("{") else "split.csv")
    path.write_text(text)
    splits, _ = splits_of(read_split(path), ["a", "b", "c"])
    assert list(splits.values()) == [Split(train=("a",), validation=("b",), test=("c",))]


def test_numbered_folds_test_on_their_cases(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    path.write_text("case,fold\n1,0\n2,1\n3,0\n4,1\n")
    splits, notes = splits_of(read_split(path), ["001", "002", "003", "004"])
    assert [split.test for split in splits.values()] == [("001", "003"), ("002", "004")]
    assert [split.train for split in splits.values()] == [("002", "004"), ("001", "003")]
    assert notes == ["4 cases are named by their numbers alone: 2 is 002"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.json", "[]"),
        ("text.json", '[{"train": ["a", "b"], "val": "c"}]'),
        ("one.json", '[{"train": ["a", "b"]}]'),
        ("files.json", '[{"train": [{"image": "a.png"}], "val": [{"image": "b.png"}]}]'),
        ("one.csv", "case,fold\na,0\nb,0\n"),
        ("minus.csv", "case,fold\na,-1\nb,0\n"),
        ("pickle.csv", "\x80\x04]q\0."),
    ],
)
def test_files_that_are_no_split(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_split(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).count(str(path)) == 1
