"""A clean copy in nnU-Net's layout: opened again it is the same, and nnU-Net's own rules hold."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_folders import mask, nnunet, picture, save, two_folders, volume, volume_label

from cdal.data import Dataset, open_dataset
from cdal.data.inspection.convert import convert
from cdal.data.layouts import find_layout
from cdal.data.own import sorted_sources
from cdal.errors import InputError


def pairs(folder: Path, names: list[str], **values: Any) -> None:
    for number, name in enumerate(names):
        save(folder / "images" / f"{name}.png", picture(number))
        save(folder / "masks" / f"{name}.png", mask(number, **values))


def parts(folder: Path) -> None:
    for seed, (part, count) in enumerate((("train", 6), ("val", 2), ("test", 2))):
        for number in range(count):
            save(folder / part / "images" / f"{part}{number}.png", picture(10 * seed + number))
            save(folder / part / "masks" / f"{part}{number}.png", mask(number))


def patients(folder: Path) -> None:
    for number in range(10):
        save(folder / f"patient {number // 2}" / "images" / f"slice{number % 2}.png", picture(number))
        save(folder / f"patient {number // 2}" / "masks" / f"slice{number % 2}.png", mask(number))


def rare(folder: Path) -> None:
    pairs(folder, [f"case_{number}" for number in range(12)], values=(1,))
    for number in (0, 1, 4, 8):  # in name order, folds would lack the second class
        save(folder / "masks" / f"case_{number}.png", mask(number, values=(1, 2)))


def colours(folder: Path) -> None:
    table = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    pairs(folder, [f"case_{number}" for number in range(6)])
    for number in range(6):
        save(folder / "masks" / f"case_{number}.png", table[mask(number, values=(1, 2))])


def mixed(folder: Path) -> None:
    two_folders(folder)
    save(folder / "images" / "case_2.png", picture(2, colours=3))


def spacings(folder: Path) -> None:
    for number in range(5):
        affine = np.diag([-1 - 0.2 * number, -1 - 0.2 * number, -5, 1])
        save(folder / "images" / f"c {number}.nii.gz", volume(number, 24, 20, 8), affine)
        save(folder / "labels" / f"c {number}.nii.gz", volume_label((24, 20, 8), (1, 3)), affine)


KINDS: dict[str, Callable[[Path], object]] = {
    "images": two_folders,
    "names of all kinds": lambda folder: pairs(
        folder, ["Größe 1", "über (2)", "日本 3", "日本 4", "a b", "a_b", "A_B", "-x", "y.z"]
    ),
    "groups by names": lambda folder: pairs(folder, [f"p{n // 3:02}_s{n % 3:02}" for n in range(15)]),
    "groups by folders": patients,
    "parts": parts,
    "dealt folds": rare,
    "ignored pixels": lambda folder: pairs(folder, [f"case_{n}" for n in range(6)], values=(1, 2, 255)),
    "colours": colours,
    "grey and RGB": mixed,
    "volumes of several channels": nnunet,
    "volumes of other spacings": spacings,
}


def same(copy: Dataset, first: Dataset, origin: Mapping[str, str]) -> None:
    """All that training and scoring sees; `origin` has the case that a case of the copy was."""
    assert copy.spec.classes == first.spec.classes
    assert copy.spec.has_ignored == first.spec.has_ignored
    assert {origin[case_id] for case_id in copy.ids} == set(first.ids)
    for case_id in copy.ids:
        ours, theirs = copy.case(case_id), first.case(origin[case_id])
        assert np.array_equal(ours.truth.numpy(), theirs.truth.numpy())
        assert np.allclose(ours.image.numpy(), theirs.image.numpy(), atol=1e-3)
        assert ours.spacing == theirs.spacing
    assert len(copy.spec.folds) == len(first.spec.folds)
    for fold in range(len(first.spec.folds)):
        ours_split, theirs_split = copy.split(fold), first.split(fold)
        for part in ("train", "validation", "test"):
            assert {origin[case_id] for case_id in ours_split[part]} == set(theirs_split[part]), (fold, part)

    def together(dataset: Dataset, name: Callable[[str], str]) -> set[frozenset[str]]:
        groups = [dataset.groups.get(case_id, case_id) for case_id in dataset.ids]
        return {
            frozenset(name(case_id) for case_id, own in zip(dataset.ids, groups, strict=True) if own == group) for group in groups
        }

    assert together(copy, lambda case_id: origin[case_id]) == together(first, str)


def origins(folder: Path, out: Path) -> dict[str, str]:
    ids = {tuple(map(str, source.images + source.labels)): source.id for source in sorted_sources(find_layout(folder))}
    cases = json.loads((out / "decisions.json").read_text(encoding="utf-8"))["cases"]
    return {name: ids[tuple(files)] for name, files in cases.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same(tmp_path: Path, kind: str) -> None:
    folder, out = tmp_path / "data", tmp_path / "Dataset101_Mine"
    KINDS[kind](folder)
    convert(folder, out)
    same(open_dataset("own", out), open_dataset("own", folder), origins(folder, out))
    follows_nnunet(out)


def follows_nnunet(out: Path) -> None:
    """Plain names that differ in more than case, labels in a row with ignore as the highest, files as they are listed."""
    listing = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    labels = listing["labels"]
    assert sorted(labels.values()) == list(range(len(labels)))
    assert labels.get("ignore", len(labels) - 1) == len(labels) - 1
    ending, channels = listing["file_ending"], len(listing["channel_names"])
    cases = sorted(path.name.removesuffix(ending) for path in (out / "labelsTr").iterdir())
    assert len({case.lower() for case in cases}) == len(cases) == listing["numTraining"]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", case) for case in cases)
    images = {path.name for path in (out / "imagesTr").iterdir()}
    stored = 1 if ending == ".png" and channels == 3 else channels  # RGB is one file
    assert images == {f"{case}_{number:04}{ending}" for case in cases for number in range(stored)}
    for fold in json.loads((out / "splits_final.json").read_text()):
        assert not set(fold["train"]) & set(fold["val"])
        assert set(fold["train"] + fold["val"]) <= set(cases)


def test_cases_that_stand_alone_as_was_said(tmp_path: Path) -> None:
    """The names of the copy would tell groups again."""
    folder, out = tmp_path / "data", tmp_path / "clean"
    KINDS["groups by names"](folder)
    convert(folder, out, groups="none")
    same(open_dataset("own", out), open_dataset("own", folder, groups="none"), origins(folder, out))


def test_groups_of_a_table(tmp_path: Path) -> None:
    folder, out = two_folders(tmp_path / "data", 12), tmp_path / "clean"
    (tmp_path / "g.csv").write_text("case,group\n" + "".join(f"case_{n},P{n // 2}\n" for n in range(12)))
    convert(folder, out, groups=str(tmp_path / "g.csv"))
    same(open_dataset("own", out), open_dataset("own", folder, groups=str(tmp_path / "g.csv")), origins(folder, out))


def test_a_class_that_nnunet_would_take_for_something_else(tmp_path: Path) -> None:
    folder, out = two_folders(tmp_path / "data"), tmp_path / "clean"
    for number in range(6):
        (folder / "masks" / f"case_{number}.png").unlink()
        for place, name in enumerate(("ignore", "vessel")):
            save(folder / "masks" / name / f"case_{number}.png", np.roll(mask(number), 20 * place, axis=0))
    convert(folder, out)
    assert open_dataset("own", out).spec.classes == ("ignore (class)", "vessel")
    labels = json.loads((out / "dataset.json").read_text())["labels"]
    assert "ignore" not in labels


REFUSED: dict[str, Callable[[Path], object]] = {
    "a case that nobody judged": lambda folder: (
        pairs(folder, [f"case_{n}" for n in range(6)], values=(1, 2, 255)),
        save(folder / "masks" / "case_3.png", np.full((40, 48), 255, np.uint8)),
    ),
    "two cases": lambda folder: two_folders(folder, 2),
    "empty masks": lambda folder: two_folders(folder, values=()),
    "a mask that lacks": lambda folder: (two_folders(folder) / "masks" / "case_1.png").unlink(),
    "255 among class numbers": lambda folder: (
        pairs(folder, [f"case_{n}" for n in range(6)], values=(1, 2)),
        save(folder / "masks" / "case_3.png", mask(3)),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_opened_is_not_converted(tmp_path: Path, kind: str) -> None:
    folder, out = tmp_path / "data", tmp_path / "clean"
    REFUSED[kind](folder)
    with pytest.raises(InputError) as opened:
        open_dataset("own", folder)
    with pytest.raises(InputError) as converted:
        convert(folder, out)
    assert str(converted.value) == str(opened.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_where_a_copy_cannot_go(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "data")
    for out, words in ((folder / "inner", "outside"), (tmp_path / "no" / "where", "no folder"), (folder, "already")):
        with pytest.raises(InputError, match=words):
            convert(folder, out)
    with pytest.raises(InputError, match="unknown option 'colour'"):
        convert(folder, tmp_path / "clean", colour=1)
