"""Which cases train, validate and test in each fold."""

from __future__ import annotations

from collections.abc import Sequence

from cdal.data.dataset import Split
from cdal.errors import InputError

PARTITIONS = 4
PARTITION_NAMES = tuple(f"partition {number} of {PARTITIONS}" for number in range(1, PARTITIONS + 1))
VALIDATION_EVERY = 5


def partitioned_split(ids: Sequence[str], fold: int) -> Split:
    """Cut a list of cases as the published hippocampus protocol does, and a validation split from what it trains on.

    Case i belongs to partition i mod 4, without shuffling; fold k tests on partition k. Of the other cases, in order, the first of
    every five validates and the rest trains. (The release chose its best epoch on partition k itself; here it stays untouched.)

    Raises:
        InputError: a fold outside 0..3.
    """
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < PARTITIONS:
        raise InputError(f"fold is {fold!r}; the folds are {', '.join(map(str, range(PARTITIONS)))}")
    test = tuple(ids[fold::PARTITIONS])
    rest = [case_id for index, case_id in enumerate(ids) if index % PARTITIONS != fold]
    validation = tuple(rest[::VALIDATION_EVERY])
    train = tuple(case_id for index, case_id in enumerate(rest) if index % VALIDATION_EVERY)
    return Split(train=train, validation=validation, test=test)
