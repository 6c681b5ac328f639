"""Splits."""

import pytest

from cdal.data import Split
from cdal.data.folds import partitioned_split
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
