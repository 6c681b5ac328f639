"""Cases that a JSON file lists: Decathlon's dataset.json, nnU-Net's of the first version, MONAI's datalists.

    Decathlon     "training": [{"image": FILE, "label": FILE}, ...], "labels": {"0": "background", "1": NAME}, "modality": {...}
    nnU-Net 1     the same, but FILE.nii.gz of an image stands for FILE_0000.nii.gz and those of the other modalities
    MONAI         "training": [{"image": FILE or [FILE, ...], "label": FILE, "fold": 0}, ...], "validation", "testing"

Paths are relative to the folder that the file lies in.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdal.data.dataset import Split
from cdal.data.folds import PARTITIONS
from cdal.data.layouts.declared import Labels, declared_channels, declared_labels, declared_licence, read_json
from cdal.data.layouts.layout import Found, Layout, checked, ending, some, stem, told_by_name
from cdal.errors import InputError, short


class _Entry(NamedTuple):
    images: tuple[str, ...]
    label: str
    fold: int | None


@told_by_name()
def decathlon_layout(folder: Path, *, follow_links: bool = True) -> Layout:
    """The training cases that a Decathlon folder's dataset.json lists, in its order; labels are named in it without gaps.

    Raises:
        InputError: no such folder or file, or a dataset.json that does not say what it must.
    """
    needs = "dataset.json, imagesTr and labelsTr"
    folder = checked(folder, needs)
    path = folder / "dataset.json"
    if not path.is_file():
        inner = next((child.parent for child in sorted(folder.glob("*/dataset.json"))), None)
        hint = f"did you mean {inner}?" if inner else f"--data must be the folder that holds {needs}"
        raise InputError(f"{folder} has no dataset.json; {hint}")
    content = read_json(path)
    if not isinstance(content.get("training"), list):
        raise InputError(f'{path} has no list "training" of image and label files')
    labels = content.get("labels")
    names = labels if isinstance(labels, dict) else {}
    if len(names) < 2 or set(names) != {str(value) for value in range(len(names))}:
        raise InputError(f'{path} must give "labels" as {{"0": "background", "1": NAME, ...}} without gaps, not {short(labels)}')
    return listed_layout(path, content, follow_links)


def listed_layout(path: Path, content: dict[str, Any], follow_links: bool = True) -> Layout:
    """The cases that a JSON file with a list "training" lists, in its order; paths are relative to its folder.

    Raises:
        InputError: a file that does not say what it must.
    """
    found = Found(path.parent, follow_links)
    training = content["training"]
    if not isinstance(training, list):
        raise InputError(f'{path} has no list "training" of image and label files')
    modality = content.get("modality") or {"0": "image"}
    channels = declared_channels(path, modality, "modality")
    labels = declared_labels(path, content) if "labels" in content else Labels({})
    if labels.note:
        found.notes.append(labels.note)
    parts = {"training": _entries(found, path, training)}
    for key in ("validation", "testing"):  # "test" of the Decathlon has no labels
        listed = content.get(key)
        labelled = [entry for entry in listed if _label(entry) is not None] if isinstance(listed, list) else []
        if labelled:
            parts[key] = _entries(found, path, labelled)
        elif listed and key == "validation":
            found.notes.append(f'the entries of "{key}" in {path.name} have no labels and are left out')
    ids = _ids([entry for entries in parts.values() for entry in entries])
    folds: dict[str, int | None] = {}
    members: dict[str, list[str]] = {key: [] for key in parts}
    stacked = isinstance(content.get("modality"), dict | list)  # one file of all modalities, or files of nnU-Net
    for key, entries in parts.items():
        for entry in entries:
            case_id = ids[entry.images]
            images = _images(found, path, entry.images, len(channels) if stacked else 1)
            label = found.listed(path, entry.label)
            if images and label:
                found.add(case_id, images, [label], f"{path} lists")
                members[key].append(case_id)
                folds[case_id] = entry.fold
    if len(found.sources) < PARTITIONS and not found.problems:
        count = len(found.sources)
        found.problems.append(f"{path} lists {count} training cases; the {PARTITIONS} folds need at least {PARTITIONS}")
    several = any(len(source.images) > 1 for source in found.sources.values())
    return Layout(
        kind="Decathlon layout" if path.name == "dataset.json" else f"the list {path.name}",
        sources=list(found.sources.values()),
        labels=labels.names or None,
        ignored=labels.ignored,
        channels=channels if stacked or (path.name == "dataset.json" and not several) else None,
        volumetric=found.volumetric(),
        licence=declared_licence(content),
        splits={} if found.problems else _splits(found, path, members, folds),
        notes=found.notes,
        problems=found.problems,
    )


def is_datalist(content: object) -> bool:
    """Whether a JSON file lists training cases."""
    training = content.get("training") if isinstance(content, dict) else None
    return isinstance(training, list) and bool(training) and all(isinstance(entry, dict) and "image" in entry for entry in training)


def _entries(found: Found, path: Path, listed: Sequence[Any]) -> list[_Entry]:
    entries = []
    for entry in listed:
        image = entry.get("image") if isinstance(entry, dict) else None
        images = tuple(image) if isinstance(image, list) else (image,)
        label = _label(entry)
        fold = entry.get("fold") if isinstance(entry, dict) else None
        if label is None or not images or not all(isinstance(name, str) for name in images):
            found.problems.append(f'{path}: every training case must be {{"image": FILE, "label": FILE}}, not {short(entry)}')
        elif not Path(images[0]).name.startswith("._"):  # left by macOS archives; not an image
            images = tuple(Path(name).as_posix() for name in images)  # without ./
            entries.append(_Entry(images, label, fold if isinstance(fold, int) and not isinstance(fold, bool) else None))
    return entries


def _label(entry: object) -> str | None:
    label = next((entry[key] for key in ("label", "mask", "seg") if entry.get(key)), None) if isinstance(entry, dict) else None
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    return label if isinstance(label, str) else None


def _ids(entries: Sequence[_Entry]) -> dict[tuple[str, ...], str]:
    """Of a file its name without ending, of several what their names begin with; with its folder where names are not enough."""
    files = list(dict.fromkeys(entry.images for entry in entries))
    names = {images: _common([stem(Path(name).name) for name in images]) or Path(images[0]).parent.name for images in files}
    counts = Counter(names.values())
    if max(counts.values(), default=0) > 1:
        places = {images: Path(images[0]).parent.as_posix() for images in files}
        if len(set(places.values())) == len(files):
            return places
        return {images: f"{places[images]}/{name}" if counts[name] > 1 else name for images, name in names.items()}
    return names


def _common(stems: Sequence[str]) -> str:
    """What all names begin with, up to a separator; the name itself where there is one."""
    if len(stems) == 1:
        return stems[0]
    length = 0
    for letters in zip(*stems, strict=False):
        if len(set(letters)) > 1:
            break
        length += 1
    start = stems[0][:length]
    return start[: max(start.rfind("_"), start.rfind("-"), 0)] if not start.endswith(("_", "-")) else start.rstrip("_-")


def _images(found: Found, path: Path, names: Sequence[str], channels: int) -> list[Path] | None:
    """The files of an image; nnU-Net's first version has a file for each modality, whose number its list leaves out."""
    if len(names) == 1:
        whole = found.named(path, names[0])
        if whole is None:
            return None
        cut = len(names[0]) - len(ending(names[0]) or "")
        first, end = names[0][:cut], names[0][cut:]
        if not whole.is_file() and (found.folder / f"{first}_0000{end}").is_file():
            names = [f"{first}_{number:04}{end}" for number in range(channels)]
    files = [found.listed(path, name) for name in names]
    return [file for file in files if file] if all(files) else None


def _splits(found: Found, path: Path, members: Mapping[str, Sequence[str]], folds: Mapping[str, int | None]) -> dict[str, Split]:
    """By "fold" of the entries, or else by the lists of the file."""
    training = members["training"]
    numbers = sorted({fold for name in training if (fold := folds[name]) is not None})
    if numbers:
        lacking = [name for name in training if folds[name] is None]
        if lacking:
            found.notes.append(f'"fold" in {path.name} is left out: {len(lacking)} cases have none ({some(lacking)})')
        elif len(numbers) < 2:
            found.notes.append(f'"fold" in {path.name} is left out: all cases have the same')
        else:
            found.notes.append(f'"fold" in {path.name} gives the {len(numbers)} folds: fold k tests on its cases')
            return {
                f"fold {number} of {path.name}": Split(
                    train=tuple(name for name in training if folds[name] != number),
                    validation=(),
                    test=tuple(name for name in training if folds[name] == number),
                )
                for number in numbers
            }
    others = [key for key in ("validation", "testing") if members.get(key)]
    if not others or not training:
        return {}
    found.notes.append(f"the lists {', '.join(['training', *others])} of {path.name} give the split")
    validation = members["validation"] if len(others) == 2 else ()
    return {f"as {path.name} lists": Split(train=tuple(training), validation=tuple(validation), test=tuple(members[others[-1]]))}
