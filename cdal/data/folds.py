"""Which cases train, validate and test in each fold: rules without chance, so that anyone can check them.

Every published rule is on names alone. It leaves the published test part untouched and cuts a validation split from the published
training part: the first of every five cases, in order. (The release chose its best epoch on the test part itself.)

Own data is cut by the same rule, but where cases belong together, or where that rule would leave a class out: then groups of cases
are dealt to the parts by their sizes and classes (`own_folds`). Splits that the data brings are kept.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

from cdal.data.dataset import PARTS, Split
from cdal.errors import InputError

PARTITIONS = 4
PARTITION_NAMES = tuple(f"partition {number} of {PARTITIONS}" for number in range(1, PARTITIONS + 1))
VALIDATION_EVERY = 5
LEAST_GROUPS = 3
"""One to train, one to validate, one to test."""

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


class Folds(NamedTuple):
    """The folds of a dataset."""

    names: tuple[str, ...]
    splits: tuple[Split, ...]
    rule: str
    """How they were cut, in words."""
    notes: tuple[str, ...] = ()
    """What its user should know, a sentence each."""

    def split(self, fold: int) -> Split:
        """The splits of a fold.

        Raises:
            InputError: a fold that there is not.
        """
        _check_fold(fold, len(self.splits))
        return self.splits[fold]


def own_folds(
    ids: Sequence[str],
    groups: Mapping[str, str],
    classes: Mapping[str, Collection[Hashable]],
    given: Mapping[str, Split] | None = None,
    *,
    asked: bool = False,
) -> Folds:
    """The folds of own data; no group is in two parts of a fold.

    Given splits are kept. Where they have no test part, what they validate with is it; where they have no validation part, or none
    any more, it is the first of every five groups of their training part.

    Else, where cases stand alone, case i tests in fold i mod 4 and the first of every five others validates. Where cases belong
    together, or where that rule leaves a class out of a part although as many cases as there are folds have it, groups are dealt
    to 4 partitions (3, if there are no more groups), and within each fold a fifth of the other cases validates: rarest classes
    first, then large groups first, each to a part that lacks its classes, or else to the emptiest.

    Args:
        ids: all cases, in order.
        groups: what each case belongs to; empty where cases stand alone.
        classes: what classes each case has.
        given: splits by name, in order.
        asked: the user has named these splits, so that a group in two of their parts is told and not refused.

    Raises:
        InputError: fewer than three groups, or given splits that no training can use, or with a group in two parts.
    """
    if given:
        return _given_folds(ids, groups, given, asked)
    count = len(set(groups.values()) if groups else ids)
    if groups and count < LEAST_GROUPS:
        sizes = ", ".join(f"{name} ({size})" for name, size in Counter(groups.values()).items())
        raise InputError(
            f"the {len(ids)} cases belong to {count} group{'s' * (count != 1)}, {sizes}; folds need at least {LEAST_GROUPS}: "
            "bring more; or say with --groups FILE.csv what belongs together, --groups none: nothing does"
        )
    simple = tuple(partitioned_split(ids, fold) for fold in range(PARTITIONS))
    if not groups and not _left_out(simple, classes):
        rule = f"in name order case i tests in fold i mod {PARTITIONS}, the first of every five others validates"
        return Folds(PARTITION_NAMES, simple, rule)
    partitions = min(PARTITIONS, count)
    members = _members(ids, groups)
    dealt = _dealt(members, classes, [1 / partitions] * partitions)
    splits = []
    for test in dealt:
        rest = {name: cases for name, cases in members.items() if name not in test}
        validation, train = _dealt(rest, classes, [1 / VALIDATION_EVERY, 1 - 1 / VALIDATION_EVERY])
        splits.append(_split(ids, *({case for name in part for case in members[name]} for part in (train, validation, test))))
    what = f"{count} groups of cases, none in two parts," if groups else "cases"
    rule = f"{what} are dealt to {partitions} partitions by their number and classes; a fifth of the others validates"
    notes = () if groups else (f"{_left_out(simple, classes)}; so cases are dealt to the parts by their classes",)
    return Folds(tuple(f"partition {number} of {partitions}" for number in range(1, partitions + 1)), tuple(splits), rule, notes)


def spread(cases: Sequence[str], groups: Mapping[str, str], count: int) -> tuple[str, ...]:
    """So many of the cases, in order; 0 for all.

    The first ones, or where cases belong together as many of each group, spread evenly over it: the first slices of one patient say
    little.
    """
    if not groups or not 0 < count < len(cases):
        return tuple(cases[: count or None])
    members: dict[str, list[str]] = defaultdict(list)
    for case_id in cases:
        members[groups.get(case_id, case_id)].append(case_id)
    turns = sorted((turn, place) for place, own in enumerate(members.values()) for turn in range(len(own)))
    taken = Counter(place for _, place in turns[:count])
    chosen = {
        own[(2 * number + 1) * len(own) // (2 * taken[place])]
        for place, own in enumerate(members.values())
        for number in range(taken[place])
    }
    return tuple(case_id for case_id in cases if case_id in chosen)


def counted(cases: Collection[str], groups: Mapping[str, str]) -> str:
    """How many cases, and of how many groups where they belong together: `40`, or `40 (10 groups)`."""
    count = len({groups.get(case_id, case_id) for case_id in cases})
    return f"{len(cases)} ({count} group{'s' * (count != 1)})" if groups else str(len(cases))


def _given_folds(ids: Sequence[str], groups: Mapping[str, str], given: Mapping[str, Split], asked: bool) -> Folds:
    """Given splits with all three parts, once they are checked."""
    splits, notes = [], []
    for name, split in given.items():
        train, validation, test = split.train, split.validation, split.test
        if not test:
            validation, test = (), validation
            notes.append(f"{name} has no test part: what it validates with is kept for testing")
        if not validation:
            names = list(dict.fromkeys(groups.get(case_id, case_id) for case_id in train))
            held_out = set(names[::VALIDATION_EVERY])
            validation = tuple(case_id for case_id in train if groups.get(case_id, case_id) in held_out)
            train = tuple(case_id for case_id in train if groups.get(case_id, case_id) not in held_out)
            notes.append(
                f"{name} has no validation part: the first of every five {'groups' if groups else 'cases'} of training is it"
            )
        if not train or not validation or not test:
            raise InputError(
                f"the split {name} has {len(train)} cases to train, {len(validation)} to validate and {len(test)} to test; "
                "each part needs one, of a group of its own"
            )
        splits.append(Split(train=train, validation=validation, test=test))
        if shared := _shared(splits[-1], groups):
            several = f"{len(shared)} groups are" if len(shared) > 1 else "1 group is"
            told = f"in the split {name} {several} in two parts, {shared[0]} the first, so its figures are too good"
            if not asked:
                raise InputError(
                    f"{told}; say with --groups FILE.csv what belongs together, or keep the split with --split FILE, a table with "
                    "the columns fold, case and part"
                )
            notes.append(told)
        if unused := len(ids) - len(train) - len(validation) - len(test):
            notes.append(f"{unused} of {len(ids)} cases are in no part of the split {name}")
    return Folds(tuple(given), tuple(splits), "splits as given", tuple(dict.fromkeys(notes)))


def _shared(split: Split, groups: Mapping[str, str]) -> list[str]:
    """Groups with cases in two parts."""
    found = Counter(name for part in (split.train, split.validation, split.test) for name in {groups.get(case) for case in part})
    return sorted(name for name, count in found.items() if name is not None and count > 1)


def _left_out(splits: Sequence[Split], classes: Mapping[str, Collection[Hashable]]) -> str:
    """A class that some part lacks although as many cases have it as there are folds, in words; empty where there is none."""
    counts = Counter(label for case_classes in classes.values() for label in set(case_classes))
    for label in sorted((label for label in counts if counts[label] >= len(splits)), key=str):
        for fold, split in enumerate(splits):
            for part in PARTS:
                if not any(label in classes.get(case_id, ()) for case_id in split[part]):
                    return f"in name order no {part} case of fold {fold} would have class {label}, which {counts[label]} cases have"
    return ""


def _members(ids: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Cases by group, in order."""
    members: dict[str, list[str]] = {}
    for case_id in ids:
        members.setdefault(groups.get(case_id, case_id), []).append(case_id)
    return members


def _dealt(
    members: Mapping[str, Sequence[str]], classes: Mapping[str, Collection[Hashable]], shares: Sequence[float]
) -> list[list[str]]:
    """Names of groups, dealt to parts that shall have these shares of all cases.

    Groups with the rarest class come first, and larger ones before smaller ones. A group goes where its classes are missing, rare
    ones before others, as long as the part does not grow beyond twice its share, and else where the part is emptiest. What only one
    group has belongs to the largest share: to training.
    """
    held = {name: {label for case_id in cases for label in classes.get(case_id, ())} for name, cases in members.items()}
    rarity = Counter(label for labels in held.values() for label in labels)
    total = sum(map(len, members.values()))

    def rarest(name: str) -> tuple[int, int]:
        return min((rarity[label] for label in held[name]), default=len(members) + 1), -len(members[name])

    parts: list[list[str]] = [[] for _ in shares]
    sizes, there = [0] * len(shares), [Counter[Hashable]() for _ in shares]
    for name in sorted(members, key=rarest):
        size, labels = len(members[name]), held[name]

        def place(part: int, size: int = size, labels: Collection[Hashable] = labels) -> tuple[float, float, float, float]:
            share, has = shares[part], there[part]
            fits = sizes[part] + size <= 2 * share * total
            lacks = [label for label in labels if fits and not has[label] and (rarity[label] > 1 or share == max(shares))]
            missing = sum(1 / rarity[label] ** 2 for label in lacks)
            return -missing, -share if lacks else 0, (sizes[part] + size) / share, sum(has[label] for label in labels) / share

        part = min(range(len(shares)), key=place)
        parts[part].append(name)
        sizes[part] += size
        there[part].update(labels)
    for empty in (part for part in parts if not part):  # a fifth of a few groups can be less than any of them
        largest = max(parts, key=len)
        smallest = min(largest, key=lambda name: len(members[name]))
        largest.remove(smallest)
        empty.append(smallest)
    _complete(parts, {name: len(cases) for name, cases in members.items()}, held, shares)
    return parts


def _complete(
    parts: Sequence[list[str]], size: Mapping[str, int], held: Mapping[str, Collection[Hashable]], shares: Sequence[float]
) -> None:
    """Move or exchange groups as long as a part lacks a class that at least as many groups have as there are parts.

    No part grows beyond twice its share by that; a class that one group has stays in the largest share.
    """
    rarity = Counter(label for labels in held.values() for label in labels)
    common = [label for label, count in rarity.items() if count >= len(parts)]
    most = [2 * share * sum(size.values()) for share in shares]
    nothing = ("", 0, frozenset[Hashable]())

    def lacking(part: int, without: Collection[Hashable] = (), with_: Collection[Hashable] = ()) -> int:
        return sum(there[part][label] - (label in without) + (label in with_) <= 0 for label in common)

    while True:
        there = [Counter(label for name in part for label in held[name]) for part in parts]
        sizes = [sum(size[name] for name in part) for part in parts]
        free = [
            [
                (name, size[name], held[name])
                for name in part
                if shares[number] < max(shares) or min(shares) == max(shares) or all(rarity[label] > 1 for label in held[name])
            ]
            for number, part in enumerate(parts)
        ]
        best: tuple[int, float, str, int, str, int] | None = None
        for to in range(len(parts)):
            missing = {label for label in common if not there[to][label]}
            for start in range(len(parts)) if missing else ():
                for name, own, labels in free[start] if start != to else ():
                    for back, other, others in [nothing, *free[to]] if missing & set(labels) else ():
                        grown = (sizes[start] - own + other, sizes[to] + own - other)
                        fits = grown[0] <= max(most[start], sizes[start]) and grown[1] <= max(most[to], sizes[to])
                        gain = lacking(start, labels, others) + lacking(to, others, labels) - lacking(start) - lacking(to)
                        if gain < 0 and fits and (back or len(parts[start]) > 1):
                            uneven = sum(one**2 / shares[part] for one, part in zip(grown, (start, to), strict=True))
                            uneven -= sum(sizes[part] ** 2 / shares[part] for part in (start, to))
                            best = min(best or (0, 0.0, "", 0, "", 0), (gain, uneven, name, start, back, to))
        if best is None:
            return
        _, _, name, start, back, to = best
        parts[start].remove(name)
        parts[to].append(name)
        if back:
            parts[to].remove(back)
            parts[start].append(back)


def _split(ids: Sequence[str], train: Collection[str], validation: Collection[str], test: Collection[str]) -> Split:
    """Cases in the order of `ids`."""
    parts = {"train": train, "validation": validation, "test": test}
    return Split(**{name: tuple(case_id for case_id in ids if case_id in part) for name, part in parts.items()})


def _with_validation(rest: Sequence[str], test: Sequence[str]) -> Split:
    train = tuple(case_id for index, case_id in enumerate(rest) if index % VALIDATION_EVERY)
    return Split(train=train, validation=tuple(rest[::VALIDATION_EVERY]), test=tuple(test))


def _check_fold(fold: int, count: int) -> None:
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < count:
        folds = "folds are " + ", ".join(map(str, range(count))) if count > 1 else "only fold is 0"
        raise InputError(f"fold is {fold!r}; the {folds}")
