"""Which cases belong together, such as the slices of a patient: by their names, or as a file says; and splits that a file gives.

    find_groups(["p01_s003", "p01_s004", "p02_s001", ...])        # Groups, or None where the names show none
    groups = read_groups("patients.csv")                          # {case: group}, as a dataset's option `groups` takes it
    split = read_split("splits_final.json")                       # folds as a dataset's option `split` takes them

Names are read in this order; what one rule recognises is not read by the next:

    TCGA-A7-A13E-01Z-00-DX1_3, TCGA_CS_4941_19960909_1    TCGA barcodes: the patient
    sub-01_ses-02_T1w                                     BIDS: the subject
    1.3.6.1.4.1.14519.5.2.1_12, UUID_12                   DICOM and random identifiers that names begin with
    patient003_slice12, p01_s003, slice_7_case_2          a word for a patient or for what is cut into images, with its number
    MS_001_t2, 0001_12, IMG-0012-00003, 01L, 7_left       the shortest beginning of names that ends in a number, where at least
                                                          three such beginnings differ and one of them is shared

Numbers after words for a slice, a class, a set or a place (slice_3, BIRADS4_001, fold1_7, site2_7) count nobody, nor do dates.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdal.data.dataset import PARTS, Split, SplitName
from cdal.data.own.tables import CASES, FOLD, GROUPS, IN_PART, PATIENTS, alike, column, named, read_list, read_rows
from cdal.errors import InputError, short

_LEAST_KEYS = 3  # different beginnings, before they are taken for those of patients
_SHOWN = 3  # groups that are shown by name
_TCGA = re.compile(r"(?<![^/])TCGA[-_][A-Z0-9]{2}[-_][A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)
_BIDS = re.compile(r"(?<![^/])sub-[A-Za-z0-9]+")
_IDENTIFIER = re.compile(r"(?<![^/])(\d+(\.\d+){5,}|[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12})", re.IGNORECASE)
_NUMBER = r"[-_ .#]?(\d+|(?<=[-_ .])[a-z](?![a-z0-9])|(?-i:[A-Z])(?![A-Za-z0-9]))"
_PEOPLE = re.compile(
    r"(?<![a-z])(patient|pat|pt|subject|subj|sub|participant|volunteer|donor|person|pid|animal|mouse|rat)" + _NUMBER
    + r"|(?<![^/])p\d+(?![a-z0-9]|/p\d)",
    re.IGNORECASE,
)  # fmt: skip
_STAIN = re.compile(r"p(16|40|53|63)", re.IGNORECASE)
_WHOLES = re.compile(r"(?<![a-z])(case|volume|vol|specimen|biopsy|slide|wsi|video)" + _NUMBER, re.IGNORECASE)
_PLACES = re.compile(r"(?<![a-z])(train|training|val|validation|test|site|cent(er|re)|hospital|cohort|set|fold)", re.IGNORECASE)
_TOKEN_ENDS = re.compile(r"(?<=[^\W_])(?=[^a-z0-9]|$)|(?<=\d)(?=([lr]|o[ds])$|(slice|frame|s|z|t)\d+$)", re.IGNORECASE)
_COUNTS_NOBODY = re.compile(
    r"(?<![a-z])(slice|sl|frame|fr|patch|tile|crop|roi|row|col|class|grade|stage|type|(bi|ti|pi|lung)?[-_ ]?rads|gleason|mayo|kl|"
    r"dr|score|tooth|vertebra|lobe|level|label|dose|phase|reader|rater|observer|annotator|device|scanner|tma|plate|fold|set|split|"
    r"part|batch|dataset|task|site|center|centre|hospital|cohort|day|week|month|ch|channel|size|res|her2)[-_ .]?\d+(plus)?$|"
    r"(?<![a-z])(ki[-_]?67|cd(3|4|8|20|31|34|45|68)|p(16|40|53|63))$|(?<![a-z])x\d+[-_]?y\d+$|"
    r"(?<![a-z0-9])([xyzv][-_ .]?\d+|[bceglnqt](0|[1-9]\d*)|her2)$|"
    r"(?<![a-z0-9])\d+([xc]|mm|um|nm|mg|ml|gy|kvp?|hpf|dpi|px|hrs?|min)$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?<!\d)(19[5-9]|20[0-4])\d([-_.]?(0[1-9]|1[0-2])([-_.]?(0[1-9]|[12]\d|3[01]))?)?$")
_MOMENT = re.compile(r"(?<!\d)(19[5-9]|20[0-4])\d([-_.](\d\d)){2}([-_ T]| at |_at_)\d{1,2}([-_.:]\d\d){1,2}(?!\d)")


_NOTHING = ("", "nan", "na", "n/a", "none", "null", "-", "?")
_PART_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_NO_FOLDS = 'is no list of folds, each {"train": [...], "val": [...]}, as in nnU-Net\'s splits_final.json'


class Groups(NamedTuple):
    """What cases belong to."""

    of: dict[str, str]
    """The group of every case; one that stands alone is its own."""
    rule: str
    """How they are known, in words."""

    def __str__(self) -> str:
        """For instance `40 cases of 10 groups, by TCGA barcodes: TCGA-A7-A13E (4), ...`."""
        sizes = Counter(self.of.values())
        shown = ", ".join(f"{name} ({size})" for name, size in list(sizes.items())[:_SHOWN])
        return f"{len(self.of)} cases of {len(sizes)} groups, {self.rule}: {shown}{', ...' if len(sizes) > _SHOWN else ''}"


def find_groups(ids: Sequence[str]) -> Groups | None:
    """What cases belong to by their names; None where the names show nothing, and for cases that all stand alone, or all together.

    Cases whose names no rule recognises stand alone.
    """
    found: dict[str, str] = {}
    rules: list[str] = []
    for rule, keys_of in _RULES.items():
        keys = keys_of([case_id for case_id in ids if case_id not in found])
        found |= keys
        if len(set(keys.values())) < len(keys):
            rules.append(rule)
    of = {case_id: found.get(case_id, case_id) for case_id in ids}
    return Groups(of, "by " + " and ".join(rules)) if rules and len(set(of.values())) > 1 else None


def given_groups(ids: Sequence[str], given: Mapping[str, str]) -> tuple[Groups, list[str]]:
    """What cases belong to as their user says, and notes.

    Args:
        ids: all cases.
        given: groups by case, as `read_groups` returns them: names may be those of files, with folders and endings.

    Raises:
        InputError: a case without a group, or with two.
    """
    meant = named(given, ids)
    of: dict[str, str] = {}
    for name, case_id in meant.items():
        if of.setdefault(case_id, str(given[name])) != str(given[name]):
            raise InputError(f"the groups given put {case_id} into {of[case_id]} and {given[name]}; a case has one group")
    of = {case_id: of[case_id] for case_id in ids if case_id in of}
    missing = [case_id for case_id in ids if case_id not in of]
    unknown = [name for name in given if name not in meant]
    if missing:
        others = f", and name {len(unknown)} that are not there, {unknown[0]} the first" if unknown else ""
        raise InputError(
            f"the groups given leave out {len(missing)} of {len(ids)} cases, {missing[0]} the first{others}; every case needs one, "
            "of its own where it stands alone"
        )
    notes = [f"groups were given for {len(unknown)} cases that are not there, {unknown[0]} the first"] if unknown else []
    return Groups(of, "as given"), notes + _otherwise(meant)


def read_groups(path: str | Path, *, only_patients: bool = False) -> dict[str, str]:
    """Groups by case: a table (CSV, also with semicolons or tabs, or Parquet) with a column case, image, filename or id, and a
    column group, patient or subject; `only_patients` where a column group may as well tell diagnoses.

    Raises:
        InputError: a file that cannot be read, lacks a column, has two that may be meant, or puts a case into two groups.
    """
    rows = read_rows(path)
    case, group = column(rows, CASES, path), column(rows, PATIENTS if only_patients else GROUPS, path)
    for other in (name for name in (() if only_patients else GROUPS) if name in rows[0] and name != group):
        if any(row[other] != row[group] for row in rows):
            raise InputError(f"{path} has the columns {group} and {other}; keep the one that tells what belongs together")
    found: dict[str, str] = {}
    for row in rows:
        name, value = row[case], row[group]
        if not name or value.lower() in _NOTHING:
            raise InputError(f"{path}: a row has no {case if not name else group}: {short(dict(row))}")
        if found.setdefault(name, value) != value:
            raise InputError(f"{path} puts {name} into the groups {found[name]} and {value}; a case has one")
    if same := alike(found.values()):
        raise InputError(f"{path} has the groups {same[0]} and {same[1]}, which may be one; write them alike, or apart")
    return found


def read_split(path: str | Path) -> list[dict[str, Any]]:
    """Folds, each `{"name": ..., "train": [...], "validation": [...], "test": [...]}` with names of cases.

    Reads nnU-Net's splits_final.json, whose `val` is what others call test: validation is then empty. Reads tables (CSV, Parquet,
    or a folder of Parquet files, as searches write it) with columns fold, case and part, which is train, validation or test.
    Without a column fold there is one; without a column part, each fold tests on the cases that have its number.

    Raises:
        InputError: a file that cannot be read, or another form.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _json_split(path)
    rows = read_rows(path)
    case = column(rows, CASES, path)
    if FOLD in rows[0] and not any(name in rows[0] for name in IN_PART):
        return _numbered_folds(rows, case, path)
    part = column(rows, IN_PART, path)
    folds: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = _PART_NAMES.get(row[part].lower())
        if known is None:
            raise InputError(f"{path}: {row[case]} is in the part {row[part]!r}; parts are {', '.join(PARTS)}")
        number = row.get(FOLD, "0")
        folds.setdefault(number, {"name": f"fold {number}"} | {each: [] for each in PARTS})[known].append(row[case])
    return [folds[number] for number in sorted(folds, key=lambda number: (len(number), number))]


def groups_of_split(path: str | Path) -> dict[str, str]:
    """Groups by case that a table of folds has in a column `group`; none of others."""
    rows = [] if Path(path).suffix.lower() == ".json" else read_rows(path)
    if not any(row.get("group") for row in rows):
        return {}
    case = column(rows, CASES, path)
    return {row[case]: row["group"] or row[case] for row in rows}


def own_options(groups: str | None, split: str | None) -> dict[str, Any]:
    """The options `groups` and `split` of own data, as plain values, from what `--groups` and `--split` name.

    Tables of folds give the groups as well, if they have a column `group`. "none" is kept for groups: each case stands alone.

    Raises:
        InputError: as `read_groups` and `read_split` do.
    """
    found: dict[str, Any] = {}
    if split is not None:
        found["split"] = read_split(split)
        if grouped := groups_of_split(split):
            found["groups"] = grouped
    if groups is not None:
        found["groups"] = groups if groups == "none" else read_groups(groups)
    return found


def check_own(dataset: str, options: Mapping[str, Any]) -> None:
    """Raise InputError where groups or splits are given for a dataset whose folds are published."""
    for name in ("split", "groups"):
        if dataset != "own" and name in options:
            raise InputError(f"--{name} is for your own data (--dataset own); the dataset {dataset} has folds of its own")


def splits_of(split: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> tuple[dict[str, Split], list[str]]:
    """Splits by name, from the folds that `read_split` returns, cases in the order of `ids`; and notes.

    Raises:
        InputError: cases that are not there, or that are in two parts of a fold; a value that `read_split` does not return.
    """
    found: dict[str, Split] = {}
    every: dict[str, str] = {}
    for number, fold in enumerate(split):
        name = str(fold.get("name") or f"fold {number}")
        parts = {part: [str(case) for case in fold.get(part) or ()] for part in PARTS}
        listed = [case for part in PARTS for case in parts[part]]
        meant = named(listed, ids)
        if unknown := [case for case in listed if case not in meant]:
            raise InputError(
                f"the split given lists {len(set(unknown))} cases that are not there, {unknown[0]} the first ({name}); name "
                f"cases as inspect does, such as {ids[0]}"
            )
        if twice := [case_id for case_id, count in Counter(meant[case] for case in listed).items() if count > 1]:
            raise InputError(
                f"the split given lists {len(twice)} cases twice in one fold, {twice[0]} the first ({name}); a case is in one part"
            )
        own = {part: {meant[case] for case in parts[part]} for part in PARTS}
        found[name if name not in found else f"{name} ({number})"] = Split(
            **{part: tuple(case_id for case_id in ids if case_id in own[part]) for part in PARTS}
        )
        every |= meant
    return found, _otherwise(every)


def _otherwise(meant: Mapping[str, str]) -> list[str]:
    """A note on cases that are told by a number without their zeros."""
    other = {name: case_id for name, case_id in meant.items() if name.removesuffix(".0").isdigit() and name != case_id}
    return [f"{len(other)} cases are named by their numbers alone: {name} is {other[name]}" for name in list(other)[:1]]


def _numbered_folds(rows: Sequence[Mapping[str, str]], case: str, path: Path) -> list[dict[str, Any]]:
    """Each fold tests on the cases that have its number, and trains on the others."""
    numbers = sorted({row[FOLD] for row in rows}, key=lambda number: (len(number), number))
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        raise InputError(
            f"{path} has no column part ({', '.join(PARTS)}); then each fold tests on the cases with its number, but its folds are "
            f"{short(', '.join(numbers))}; number at least two from 0 on"
        )
    return [
        {"name": f"fold {number}", "validation": []}
        | {part: [row[case] for row in rows if (row[FOLD] == number) == (part == "test")] for part in ("train", "test")}
        for number in numbers
    ]


def _json_split(path: Path) -> list[dict[str, Any]]:
    content = read_list(path)
    if isinstance(content, dict) and content and all(isinstance(fold, dict) for fold in content.values()):
        content = [fold | {"name": name} for name, fold in content.items()]  # {"fold_0": {"train": ..., "val": ...}}
    folds = []
    for number, fold in enumerate(content if isinstance(content, list) else [content]):
        lists = {_PART_NAMES.get(str(key).lower()): names for key, names in fold.items()} if isinstance(fold, dict) else {}
        lists.pop(None, None)
        if not isinstance(fold, dict) or "train" not in lists or len(lists) < 2 or not all(map(_is_names, lists.values())):
            raise InputError(f"{path} {_NO_FOLDS}")
        held_out = lists.get("validation") or []
        three = bool(lists.get("test"))
        folds.append(
            {
                "name": str(fold.get("name") or f"fold {number}"),
                "train": lists["train"],
                "validation": held_out if three else [],
                "test": lists["test"] if three else held_out,
            }
        )
    if not folds:
        raise InputError(f"{path} {_NO_FOLDS}")
    return folds


def _is_names(listed: object) -> bool:
    return isinstance(listed, list) and all(isinstance(name, str | int) for name in listed)


# ------------------------------------------------------------------------------------------------------------------- names


def _by(pattern: re.Pattern[str]) -> Callable[[Sequence[str]], dict[str, str]]:
    """Keys that names, or those of their folders, begin with."""
    return lambda ids: {case_id: match[0] for case_id in ids if (match := pattern.search(case_id))}


def _by_word(ids: Sequence[str]) -> dict[str, str]:
    """A word for a patient, or for what is cut into images, and its number; before them a place, or a part of the set."""
    keys = {}
    for case_id in ids:
        if match := _PEOPLE.search(case_id) or _WHOLES.search(case_id):
            keys[case_id] = case_id[0 if _PLACES.search(case_id[: match.start()]) else match.start() : match.end()]
    different = set(keys.values())
    return {} if all(map(_STAIN.fullmatch, different)) else keys


def _by_beginning(ids: Sequence[str]) -> dict[str, str]:
    """The shortest beginnings that end in a number, where several of one form differ and one of these is shared."""
    ends = {case_id: [match.start() for match in _TOKEN_ENDS.finditer(_MOMENT.sub(_blank, case_id))] for case_id in ids}
    keys: dict[str, str] = {}
    for tokens in range(1, max(map(len, ends.values()), default=0) + 1):
        forms: dict[str, dict[str, str]] = defaultdict(dict)
        for case_id in ids:
            if case_id not in keys and len(ends[case_id]) >= tokens:
                key = case_id[: ends[case_id][tokens - 1]]
                if re.search(r"\d[^\W_]*$", key):
                    forms[re.sub(r"[^\W_]*\d[^\W_]*", "#", key)][case_id] = key
        for of_form in forms.values():
            different = set(of_form.values())
            nobody = any(all(map(pattern.search, different)) for pattern in (_COUNTS_NOBODY, _DATE))
            if _LEAST_KEYS <= len(different) < len(of_form) and not nobody:
                keys |= of_form
    return keys


def _blank(match: re.Match[str]) -> str:
    """As many underscores."""
    return "_" * len(match[0])


_RULES: dict[str, Callable[[Sequence[str]], dict[str, str]]] = {
    "TCGA barcodes": _by(_TCGA),
    "BIDS subjects": _by(_BIDS),
    "the identifiers that names begin with": _by(_IDENTIFIER),
    "the word and the number in their names": _by_word,
    "what their names begin with": _by_beginning,
}
