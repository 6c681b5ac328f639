"""Splits: the published rules, checked on names alone."""

import random

import pytest

from cdal.data import Split
from cdal.data.folds import CHEST_XRAY_FOLDS, MONUSEG_TEST, chest_xray_split, monuseg_split, partitioned_split
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
