"""Splits: the published rules, checked on names alone."""

import random
from collections.abc import Sequence

import pytest

from cdal.data import Split
from cdal.data.folds import (
    CHEST_XRAY_FOLDS,
    MONUSEG_TEST,
    PARTITION_NAMES,
    Folds,
    chest_xray_split,
    monuseg_split,
    own_folds,
    partitioned_split,
)
from cdal.data.phantom import PhantomDataset
from cdal.errors import InputError


@pytest.mark.parametrize("count", [4, 5, 11, 48, 260])
def test_published_partitions(count: int) -> None:
    ids = [f"case_{number}" for number in range(count)]
    tests: list[str] = []
    for fold in range(4):
        split = partitioned_split(ids, fold)
        assert split.test == tuple(ids[number] for number in range(count) if number % 4 == fold)
        rest = [name for name in ids if name not in split.test]
        assert split.validation == tuple(rest[number] for number in range(0, len(rest), 5))
        assert split.train == tuple(rest[number] for number in range(len(rest)) if number % 5 != 0)
        assert sorted(split.train + split.validation + split.test) == sorted(ids)
        assert split.train
        assert split.validation
        tests += split.test
    assert sorted(tests) == sorted(ids)


@pytest.mark.parametrize("fold", [-1, 4, True, "0", 1.0])
def test_a_fold_that_does_not_exist(fold: object) -> None:
    with pytest.raises(InputError, match="the folds are 0, 1, 2, 3"):
        PhantomDataset(cases=8).split(fold)  # type: ignore[arg-type]


def test_a_split_refuses_a_case_twice() -> None:
    with pytest.raises(AssertionError, match="share a case"):
        Split(train=("a", "b"), validation=("c",), test=("a",))


def test_splits_by_name() -> None:
    split = PhantomDataset(cases=8).split(1)
    assert (split["train"], split["validation"], split["test"]) == (split.train, split.validation, split.test)


def hospital(start: str, count: int) -> list[str]:
    """Names as in the download: numbers with gaps, 0 for healthy and 1 for ill at their end."""
    return [f"{start}_{number:04}_{int(number > count // 2)}" for number in range(1, 2 * count, 2)]


@pytest.mark.parametrize(("num_shenzhen", "num_montgomery"), [(566, 138), (10, 10), (7, 3), (3, 7)])
def test_published_chest_xray_folds(num_shenzhen: int, num_montgomery: int) -> None:
    """With the download's counts: 566 train and 138 test, then twice 138 + 428 train and 138 test."""
    shenzhen, montgomery = hospital("CHNCXR", num_shenzhen), hospital("MCUCXR", num_montgomery)
    n = min(num_shenzhen, num_montgomery)
    published = [
        (shenzhen, montgomery),
        (montgomery + shenzhen[n:], shenzhen[:n]),
        (montgomery + shenzhen[: num_shenzhen - n], shenzhen[num_shenzhen - n :]),
    ]
    listed = shenzhen + montgomery
    random.Random(0).shuffle(listed)  # the order of files does not matter
    assert len(CHEST_XRAY_FOLDS) == 3
    for fold, (rest, test) in enumerate(published):
        split = chest_xray_split(listed, fold)
        assert list(split.test) == test
        rest = sorted(rest)
        assert list(split.validation) == [name for number, name in enumerate(rest) if number % 5 == 0]
        assert list(split.train) == [name for number, name in enumerate(rest) if number % 5 != 0]
        if num_shenzhen == 566:
            counts = len(split.train), len(split.validation), len(split.test)
            assert counts == (452, 114, 138)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_chest_xray_folds_need_both_hospitals(fold: int) -> None:
    with pytest.raises(InputError, match=r"chest_xray has 9 Shenzhen and 0 Montgomery images with masks; fold \d .* test on 0"):
        chest_xray_split(hospital("CHNCXR", 9), fold)


@pytest.mark.parametrize(("count", "validating"), [(30, 6), (37, 8), (2, 1), (3, 1)])
def test_published_monuseg_images(count: int, validating: int) -> None:
    training = [f"TCGA-{number:02}" for number in range(count)]
    split = monuseg_split(training[::-1], MONUSEG_TEST[::-1], 0)
    assert split.test == MONUSEG_TEST
    assert split.validation == tuple(training[::5])
    assert len(split.validation) == validating
    assert split.train == tuple(name for name in training if name not in split.validation)
    assert len(set(MONUSEG_TEST)) == 14
    assert list(MONUSEG_TEST) == sorted(MONUSEG_TEST)


def test_monuseg_needs_two_training_images_and_a_test_image() -> None:
    for training, test in ((["a"], ["x"]), ([], ["x"]), (["a", "b"], [])):
        with pytest.raises(InputError, match="its fold needs at least 2"):
            monuseg_split(training, test, 0)


def test_folds_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="fold is 1; the only fold is 0"):
        monuseg_split(["a", "b"], ["x"], 1)
    for fold in (-1, 3, True, "0", None):
        with pytest.raises(InputError, match=r"the folds are 0, 1, 2$"):
            chest_xray_split(hospital("CHNCXR", 5) + hospital("MCUCXR", 3), fold)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------- own folds


def parts(split: Split) -> list[tuple[str, ...]]:
    return [split.train, split.validation, split.test]


def check_folds(ids: list[str], groups: dict[str, str], folds: Folds) -> None:
    """Every case tests once, all cases take part in every fold, and no group is in two parts."""
    assert sorted(case for split in folds.splits for case in split.test) == sorted(ids)
    for number, split in enumerate(folds.splits):
        assert folds.split(number) is split
        assert sorted(case for part in parts(split) for case in part) == sorted(ids)
        assert all(parts(split))
        assert all(list(part) == [case for case in ids if case in part] for part in parts(split))
        owners = [{groups.get(case, case) for case in part} for part in parts(split)]
        assert sum(map(len, owners)) == len(set().union(*owners))


@pytest.mark.parametrize("count", [3, 4, 5, 11, 48])
def test_cases_that_stand_alone_are_cut_as_ever(count: int) -> None:
    ids = [f"case_{number}" for number in range(count)]
    folds = own_folds(ids, {}, {name: {1} for name in ids})
    assert folds.names == PARTITION_NAMES
    assert folds.splits == tuple(partitioned_split(ids, fold) for fold in range(4))
    assert folds.rule == "in name order case i tests in fold i mod 4, the first of every five others validates"
    assert folds.notes == ()


@pytest.mark.parametrize("seed", range(40))
def test_groups_of_any_size_stay_together(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([1, 1, 2, 3, 10, 30]) for _ in range(rng.randint(3, 30))]
    groups = {f"{number:02}_{case:02}": f"{number:02}" for number, size in enumerate(sizes) for case in range(size)}
    ids = sorted(groups)
    rng.shuffle(ids)
    folds = own_folds(ids, groups, {case: rng.sample([1, 2, 3], rng.randint(0, 3)) for case in ids})
    assert len(folds.splits) == min(4, len(sizes))
    check_folds(ids, groups, folds)
    tested = [len(split.test) for split in folds.splits]
    assert max(tested) - min(tested) <= 2 * max(sizes)
    for split in folds.splits:
        assert len(split.validation) <= len(ids) * 0.8 * 0.4 + max(sizes)


def test_groups_of_one_size_are_cut_evenly() -> None:
    groups = {f"p{patient:02}_s{case}": f"p{patient:02}" for patient in range(20) for case in range(10)}
    folds = own_folds(list(groups), groups, {case: {1, 2} for case in groups})
    check_folds(list(groups), groups, folds)
    assert [[len(part) for part in parts(split)] for split in folds.splits] == [[120, 30, 50]] * 4


def test_a_rare_class_is_in_every_part() -> None:
    """Four of 40 patients have it, all of whom would test in fold 0 by name order."""
    groups = {f"p{patient:02}_s{case}": f"p{patient:02}" for patient in range(40) for case in range(3)}
    classes = {case: {1, 2} if group in ("p00", "p04", "p08", "p12") else {1} for case, group in groups.items()}
    alone = [f"case_{number:02}" for number in range(40)]
    classes_alone = {case: {1, 2} if number in (0, 4, 8, 12) else {1} for number, case in enumerate(alone)}
    for ids, own_groups, own_classes in ((list(groups), groups, classes), (alone, {}, classes_alone)):
        folds = own_folds(ids, own_groups, own_classes)
        check_folds(ids, own_groups, folds)
        for split in folds.splits:
            assert all(any(2 in own_classes[case] for case in part) for part in parts(split))
    assert "no train case of fold 0 would have class 2, which 4 cases have" in folds.notes[0]


def test_what_one_group_has_is_trained_on() -> None:
    groups = {f"p{patient}_s{case}": f"p{patient}" for patient in range(8) for case in range(2)}
    classes = {case: {int(group[1:])} for case, group in groups.items()}
    for split in own_folds(list(groups), groups, classes).splits:
        assert len(split.validation) == 2  # a fifth of 12, and not more to show rare classes


def test_too_few_groups() -> None:
    with pytest.raises(InputError, match=r"the 3 cases belong to 2 groups, p1 \(2\), p2 \(1\); folds need at least 3: .* --groups"):
        own_folds(["a", "b", "c"], {"a": "p1", "b": "p1", "c": "p2"}, {})


def test_given_splits_are_kept() -> None:
    ids = [f"case_{number}" for number in range(12)]
    given = {"mine": Split(train=tuple(ids[:6]), validation=tuple(ids[6:8]), test=tuple(ids[8:10]))}
    folds = own_folds(ids, {}, {}, given)
    assert (folds.names, folds.splits, folds.rule) == (("mine",), (given["mine"],), "splits as given")
    assert folds.notes == ("2 of 12 cases are in no part of the split mine",)


def test_missing_parts_of_given_splits() -> None:
    groups = {f"p{patient}_s{case}": f"p{patient}" for patient in range(8) for case in range(2)}
    ids = list(groups)
    without_validation = Split(train=tuple(ids[:12]), validation=(), test=tuple(ids[12:]))
    without_test = Split(train=tuple(ids[:12]), validation=tuple(ids[12:]), test=())
    folds = own_folds(ids, groups, {}, {"a": without_validation, "b": without_test})
    for split in folds.splits:
        assert split.validation == ("p0_s0", "p0_s1", "p5_s0", "p5_s1")
        assert split.test == tuple(ids[12:])
        assert len(split.train) == 8
    assert "b has no test part: what it validates with is kept for testing" in folds.notes
    with pytest.raises(InputError, match="has 0 cases to train, 2 to validate"):
        own_folds(ids, groups, {}, {"a": Split(train=tuple(ids[:2]), validation=(), test=tuple(ids[12:]))})


def test_a_group_in_two_parts_of_a_given_split() -> None:
    groups = {f"p{patient}_s{case}": f"p{patient}" for patient in range(4) for case in range(2)}
    ids = list(groups)
    given = {"mine": Split(train=tuple(ids[:4]), validation=(ids[4],), test=tuple(ids[5:]))}
    with pytest.raises(InputError, match=r"in the split mine 1 group is in two parts, p2 the first, so its figures are too good"):
        own_folds(ids, groups, {}, given)
    folds = own_folds(ids, groups, {}, given, asked=True)
    assert folds.splits == (given["mine"],)
    assert folds.notes == ("in the split mine 1 group is in two parts, p2 the first, so its figures are too good",)


@pytest.mark.parametrize(
    "rare", [((7, 5, 4, 6), (8, 6, 4, 3), (0, 2, 4, 7)), ((1, 2, 5, 6), (1, 2, 4, 6), (1, 4, 6, 7)), ((0, 2, 3, 8), (0, 1, 5, 6))]
)
def test_classes_that_share_groups_are_in_every_part(rare: Sequence[Sequence[int]]) -> None:
    groups = {f"p{patient}_s{case}": f"p{patient}" for patient in range(9) for case in range(5)}
    classes = {case_id: {label for label, own in enumerate(rare) if int(group[1:]) in own} for case_id, group in groups.items()}
    for split in own_folds(list(groups), groups, classes).splits:
        for part in (split.train, split.validation, split.test):
            assert {label for case_id in part for label in classes[case_id]} == set(range(len(rare)))
        assert len({groups[case_id] for case_id in split.train}) >= 4
        parts = [{groups[case_id] for case_id in part} for part in (split.train, split.validation, split.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 9
