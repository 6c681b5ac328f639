"""Which cases train, validate and test in each fold: rules on names alone, so that anyone can check them.

Every rule leaves the published test part untouched and cuts a validation split from the published training part: the first of every
five cases, in order. (The release chose its best epoch on the test part itself.)
"""

from collections.abc import Sequence

from cdal.data.dataset import Split
from cdal.errors import InputError

PARTITIONS = 4
PARTITION_NAMES = tuple(f"partition {number} of {PARTITIONS}" for number in range(1, PARTITIONS + 1))
VALIDATION_EVERY = 5

MONUSEG_FOLDS = ("official test images",)
MONUSEG_TEST = (
    "TCGA-2Z-A9J9-01A-01-TS1", "TCGA-44-2665-01B-06-BS6", "TCGA-69-7764-01A-01-TS1", "TCGA-A6-6782-01A-01-BS1",
    "TCGA-AC-A2FO-01A-01-TS1", "TCGA-AO-A0J2-01A-01-BSA", "TCGA-CU-A0YN-01A-02-BSB", "TCGA-EJ-A46H-01A-03-TSC",
    "TCGA-FG-A4MU-01B-01-TS1", "TCGA-GL-6846-01A-01-BS1", "TCGA-HC-7209-01A-01-TS1", "TCGA-HT-8564-01Z-00-DX1",
    "TCGA-IZ-8196-01A-01-BS1", "TCGA-ZF-A9R5-01A-01-TS1",
)  # fmt: skip
"""The test images of the MoNuSeg 2018 challenge."""

CHEST_XRAY_FOLDS = (
    "Shenzhen -> Montgomery",
    "Montgomery and the last Shenzhen -> the first Shenzhen",
    "Montgomery and the first Shenzhen -> the last Shenzhen",
)
SHENZHEN, MONTGOMERY = "CHNCXR_", "MCUCXR_"
"""How the names of the two hospitals' images start."""


def partitioned_split(ids: Sequence[str], fold: int) -> Split:
    """Cut a list of cases as the published hippocampus protocol does.

    Case i belongs to partition i mod 4, without shuffling; fold k tests on partition k and trains on the others, in order.

    Raises:
        InputError: a fold outside 0..3.
    """
    _check_fold(fold, PARTITIONS)
    rest = [case_id for index, case_id in enumerate(ids) if index % PARTITIONS != fold]
    return _with_validation(rest, ids[fold::PARTITIONS])


def monuseg_split(training: Sequence[str], test: Sequence[str], fold: int) -> Split:
    """The only fold: the training images in name order, and the test images.

    Raises:
        InputError: a fold other than 0, fewer than 2 training images, or no test image.
    """
    _check_fold(fold, len(MONUSEG_FOLDS))
    if len(training) < 2 or not test:
        raise InputError(
            f"monuseg has {len(training)} training and {len(test)} test images; its fold needs at least 2 (one validates) and 1"
        )
    return _with_validation(sorted(training), sorted(test))


def chest_xray_split(ids: Sequence[str], fold: int) -> Split:
    """The published folds, by names that start with CHNCXR_ (Shenzhen) or MCUCXR_ (Montgomery), in name order.

    Fold 0 trains on Shenzhen and tests on Montgomery. With n Montgomery images, fold 1 tests on the first n of Shenzhen, fold 2 on
    the last n; both train on Montgomery and the rest of Shenzhen.

    Raises:
        InputError: a fold outside 0..2, or too few images of a hospital for it.
    """
    _check_fold(fold, len(CHEST_XRAY_FOLDS))
    shenzhen, montgomery = (sorted(name for name in ids if name.startswith(start)) for start in (SHENZHEN, MONTGOMERY))
    first, last = shenzhen[: len(montgomery)], shenzhen[max(len(shenzhen) - len(montgomery), 0) :]
    test = (montgomery, first, last)[fold]
    train = sorted(set(shenzhen + montgomery) - set(test))
    if len(train) < 2 or not test:
        raise InputError(
            f"chest_xray has {len(shenzhen)} Shenzhen and {len(montgomery)} Montgomery images with masks; fold {fold} "
            f"({CHEST_XRAY_FOLDS[fold]}) would train on {len(train)} and test on {len(test)} of them"
        )
    return _with_validation(train, test)


def _with_validation(rest: Sequence[str], test: Sequence[str]) -> Split:
    train = tuple(case_id for index, case_id in enumerate(rest) if index % VALIDATION_EVERY)
    return Split(train=train, validation=tuple(rest[::VALIDATION_EVERY]), test=tuple(test))


def _check_fold(fold: int, count: int) -> None:
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < count:
        folds = "folds are " + ", ".join(map(str, range(count))) if count > 1 else "only fold is 0"
        raise InputError(f"fold is {fold!r}; the {folds}")
