"""Tables and lists that lie beside the images: what cases belong to, and the split that a data set was published with.

    groups_beside(folder, ids)      # by metadata.csv with columns such as image and patient_id
    split_beside(folder, ids)       # by split.csv with columns such as image and split, or train.txt, val.txt and test.txt

Only what names all cases is taken; cases without a mask may be listed as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdal.data.dataset import PARTS, Split
from cdal.data.folds import LEAST_GROUPS
from cdal.data.layouts import names
from cdal.data.own.groups import Groups, given_groups, read_groups, read_split, splits_of
from cdal.data.own.tables import named
from cdal.errors import InputError

_MOST = 20  # tables or lists that are looked into
_LARGEST = 2**24  # bytes


def groups_beside(folder: Path, ids: Sequence[str]) -> tuple[Groups | None, list[str]]:
    """The groups of the first table in the folder that has a column for cases and one for patients, and names all cases; notes."""
    told: list[str] = []
    for path in _files(folder, ".csv", ".tsv"):
        try:
            groups, notes = given_groups(ids, read_groups(path, only_patients="group" not in path.stem.lower()))
        except InputError as error:
            if "leave out" in str(error):
                told.append(f"{path.name} has groups, but not of every case, and is not used: {error}")
            continue
        if len(set(groups.of.values())) >= LEAST_GROUPS:  # fewer are arms of a study rather than patients
            return Groups(groups.of, f"as {path.name} says"), told + notes
    return None, told


def split_beside(folder: Path, ids: Sequence[str]) -> tuple[dict[str, Split], list[str]]:
    """The splits of the first table or lists in the folder that put every case into a part; notes."""
    told: list[str] = []
    for name, folds in _listed(folder):
        known = [fold | {part: [case for case in fold[part] if named([case], ids)] for part in PARTS} for fold in folds]
        if not any(fold[part] for fold in known for part in PARTS):
            continue
        try:
            splits, notes = splits_of(known, ids)
        except InputError as error:
            told.append(f"{name} is not used: {error}")
            continue
        if any(
            len(split.train) == 0 or len({*split.train, *split.validation, *split.test}) < len(ids) for split in splits.values()
        ):
            told.append(f"{name} lists a split, but not of every case, and is not used; --split FILE takes one")
        elif any(split.validation or split.test for split in splits.values()):
            parts = ", ".join(f"{part} ({len(split[part])})" for split in [*splits.values()][:1] for part in PARTS if split[part])
            told.append(
                f"{name} gives the split{'s, the first one' if len(splits) > 1 else ''}: {parts}; --split FILE says otherwise"
            )
            return {f"{fold} of {name}": split for fold, split in splits.items()}, told + notes
    counts = Counter(names.part(case_id.rsplit("/", 1)[-1]) or "" for case_id in ids)
    if len(counts) > 1 and "" not in counts:
        shown = ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))
        told.append(f"the names of the cases tell parts, {shown}, which are not used as a split; --split FILE takes one")
    return {}, told


def _listed(folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Folds by tables, and by a list of names for each part in one folder."""
    for path in _files(folder, ".csv", ".tsv"):
        try:
            yield path.name, read_split(path)
        except InputError:
            continue
    lists: dict[Path, dict[str, Path]] = {}
    for path in _files(folder, ".txt"):
        if names.is_only_part(path.stem):
            lists.setdefault(path.parent, {}).setdefault(names.part(path.stem) or "", path)
    for parts in lists.values():
        if "train" in parts and len(parts) > 1:
            yield " and ".join(path.name for path in parts.values()), [_of_lists(parts)]


def _of_lists(parts: Mapping[str, Path]) -> dict[str, Any]:
    """One fold; a line holds the name of an image, perhaps that of its mask behind it."""
    return {part: [line.split()[0] for line in _lines(parts[part])] if part in parts else [] for part in PARTS}


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def _files(folder: Path, *endings: str) -> list[Path]:
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix.lower() in endings)
    return [path for path in sorted(found) if path.is_file() and path.stat().st_size <= _LARGEST][:_MOST]
