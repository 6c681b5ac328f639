"""What a dataset.json declares besides its files: labels, channels, licence, and splits that lie beside it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cdal.data.dataset import Split
from cdal.data.layouts.layout import plain, some
from cdal.errors import InputError, one_line, short

SPLITS = "splits_final.json"

_MOST_CLASSES = 255


class Labels(NamedTuple):
    """What the values of masks mean."""

    names: dict[int, str]
    """Foreground classes in the order of their values."""
    ignored: int | None = None
    note: str | None = None


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        InputError: no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f'{path} has no list "training" of image and label files')
    return content


def declared_labels(path: Path, content: Mapping[str, Any]) -> Labels:
    """From {"0": "background", "1": NAME, ...} or {"background": 0, NAME: 1, ..., "ignore": 4}, values also as text and with gaps;
    or regions, {NAME: [1, 2], ...}, whose exclusive parts `regions_class_order` numbers.

    Raises:
        InputError: anything else.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise _no_labels(path, labels)
    if any(isinstance(value, list) for value in labels.values()):
        return _regions(path, labels, content.get("regions_class_order"))
    by_name = [(name, _whole(value)) for name, value in labels.items()]
    if any(value is None for _, value in by_name):  # then the keys must be the values
        by_name = [(name, _whole(value)) for value, name in labels.items() if isinstance(name, str)]
    values = [value for _, value in by_name if value is not None]
    if len(values) < len(labels) or len(set(values)) < len(values) or 0 not in values:
        raise _no_labels(path, labels)
    ignored = next((value for name, value in by_name if name.lower() == "ignore"), None)
    names = {value: name for name, value in by_name if value and value != ignored}
    if not names:
        raise _no_labels(path, labels)
    return Labels(_named(path, names), ignored)


def declared_channels(path: Path, names: object, key: str) -> tuple[str, ...]:
    """Names of the image channels, from {"0": "T1", "1": ...} or ["T1", ...].

    Raises:
        InputError: anything else.
    """
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names or set(names) != {str(value) for value in range(len(names))}:
        raise InputError(f'{path} must give "{key}" as {{"0": NAME, ...}} without gaps, not {short(names)}')
    return tuple(plain(str(names[str(value)])) for value in range(len(names)))


def declared_licence(content: Mapping[str, Any]) -> str:
    """The licence as it is written."""
    return plain(str(content.get("licence") or content.get("license") or "not stated")).strip()


def given_splits(folder: Path, ids: Iterable[str]) -> tuple[dict[str, Split], list[str], list[str]]:
    """The folds of nnU-Net's splits_final.json, in the folder or among nnU-Net's preprocessed data; notes; problems.

    "val" of a fold is its test part: what nnU-Net scores it by; "validation", as `convert` writes it, is cut from "train".
    """
    known = set(ids)
    places = (folder, folder.parent.parent / "nnUNet_preprocessed" / folder.name)
    path = next((place / SPLITS for place in places if (place / SPLITS).is_file()), None)
    if path is None or not known:
        return {}, [], []
    wrong = f'{path} is no list of folds like {{"train": [CASE, ...], "val": [CASE, ...]}}; put it right or remove it'
    try:
        folds = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, [], [f"{path} cannot be read as JSON: {one_line(error)}"]
    if not isinstance(folds, list) or not folds:
        return {}, [], [wrong]
    splits = {}
    for number, fold in enumerate(folds):
        train, test = (_names(fold.get(key)) if isinstance(fold, dict) else () for key in ("train", "val"))
        if not train or not test:
            return {}, [], [wrong]
        held_out = tuple(name for name in _names(fold.get("validation")) if name in train)
        strangers, both = [name for name in train + test if name not in known], set(train) & set(test)
        if strangers:
            told = f"fold {number} of {path} names {len(strangers)} cases that are not there ({some(strangers)})"
            return {}, [], [f"{told}; put it right or remove it"]
        if both:
            return {}, [], [f"fold {number} of {path} has {some(sorted(both))} in train and in val; put it right or remove it"]
        splits[f"fold {number} of {SPLITS}"] = Split(
            train=tuple(name for name in train if name not in held_out), validation=held_out, test=test
        )
    left = known - {name for split in splits.values() for name in split.train + split.validation + split.test}
    notes = [f"{path} gives the {len(splits)} folds: val tests"]
    if left:
        notes.append(f"{len(left)} cases are in no fold of {path.name}: {some(sorted(left))}")
    return splits, notes, []


def _names(part: object) -> tuple[str, ...]:
    """Names of cases; none where a list holds anything else."""
    names = part if isinstance(part, list) else []
    return tuple(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else ()


def _regions(path: Path, labels: Mapping[str, Any], order: object) -> Labels:
    """Every value is named after the last region that has it: of a region, what no later one covers."""
    told = f'{path} gives "labels" that are regions of several values, which is not supported'
    regions: dict[str, list[int]] = {}
    ignored = None
    for name, value in labels.items():
        values = [_whole(one) for one in (value if isinstance(value, list) else [value])]
        if None in values or not values:
            raise _no_labels(path, labels)
        whole = [one for one in values if one is not None]
        if name.lower() == "ignore":
            ignored = whole[0]
        elif whole != [0]:
            regions[name] = whole
    if not isinstance(order, list) or [_whole(value) for value in order] != order or len(order) != len(regions):
        raise InputError(f'{told} without "regions_class_order", a number for each region; give it, or one value for each label')
    last = {value: name for name, values in regions.items() for value in values}
    if last != dict(zip(order, regions, strict=True)):
        raise InputError(
            f'{told} where the values are not those of "regions_class_order", each in the region of its place and in no later one; '
            "give one value for each label"
        )
    parts = ", ".join(f"{name} is the value {value}" for value, name in last.items())
    note = f"the regions of {path.name} are read as parts that exclude each other, what no later region covers: {parts}"
    return Labels(_named(path, last), ignored, note)


def _named(path: Path, names: Mapping[int, str]) -> dict[int, str]:
    """In the order of the values, with names that can be printed."""
    classes = {value: plain(str(names[value])).strip() for value in sorted(names)}
    if len(classes) > _MOST_CLASSES:
        raise InputError(f"{path} declares {len(classes) + 1} labels; at most {_MOST_CLASSES + 1} are supported")
    if len({name.lower() for name in classes.values()}) < len(classes):
        raise InputError(f"{path} gives two classes the same name: {short(', '.join(classes.values()))}")
    return classes


def _no_labels(path: Path, labels: object) -> InputError:
    return InputError(
        f'{path} must give "labels" as {{"background": 0, NAME: 1, ...}} or {{"0": "background", "1": NAME, ...}}, a value for '
        f"each name, not {short(labels)}"
    )


def _whole(value: object) -> int | None:
    """A whole number from 0 on, which may be written as text."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value) if len(value) < 10 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
