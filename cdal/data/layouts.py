"""Which files make a case: the folder layouts that need no code, and what their dataset.json says.

    layout = find_layout(Path("MyData"))
    layout.sources, layout.labels, layout.problems

    Decathlon     dataset.json with "training": [{"image": FILE, "label": FILE}, ...], "labels": {"0": "background", "1": NAME}
    nnU-Net raw   dataset.json with "channel_names", "labels": {"background": 0, NAME: 1} and "file_ending";
                  imagesTr/CASE_0000.EXT with one file per channel, labelsTr/CASE.EXT
    two folders   images/CASE.EXT and masks/ or labels/ with CASE.EXT, CASE_mask.EXT, CASE_label.EXT, CASE_seg.EXT or
                  CASE_segmentation.EXT, each with an ending of its own

Only files within the folder count, links followed. Nothing is decoded here.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdal.data.dataset import Source, Split
from cdal.data.folds import PARTITIONS
from cdal.data.images import ENDINGS as IMAGE_ENDINGS
from cdal.errors import InputError

VOLUME_ENDINGS = (".nii.gz", ".nii")

_MASK_NAMES = re.compile(r"_(mask|label|seg|segmentation)$", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's control characters, halves of characters, line and paragraph separators
_LAYOUTS = "images/ and masks/ (or labels/), or a dataset.json in Decathlon or nnU-Net layout"


@contextmanager
def _told_by_name() -> Iterator[None]:
    """Folders that may not be listed, disks that fail."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The cases of a folder and what is written of them."""

    kind: str
    """The layout's name, in words."""
    sources: list[Source]
    """In the order that the folder gives them."""
    labels: Mapping[int, str] | None = None
    """Names of the foreground classes by their values in the masks (where coloured, 65536 red + 256 green + blue), in the order of
    the classes; None where only the masks can tell."""
    ignored: int | None = None
    """The value of pixels that nobody judged, where it is declared."""
    channels: tuple[str, ...] | None = None
    """Image channels; None where only the images can tell."""
    volumetric: bool
    licence: str = "not stated"
    groups: Mapping[str, str] = field(default_factory=dict)
    """What each case belongs to, where the layout tells (a folder a patient)."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """Splits that the folder gives, by name (train/ val/ test/, splits_final.json, "fold" of a datalist). Where it gives two parts
    only, the second is `test`, and `validation` is empty: it is cut from `train`."""
    notes: list[str] = field(default_factory=list)
    """What was decided, a sentence each: masks that were merged, files that were left out."""
    problems: list[str] = field(default_factory=list)
    """One sentence for each case or file that cannot be used; whoever wants all cases refuses the folder by the first."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the foreground classes; None where only the masks can tell."""
        return None if self.labels is None else tuple(self.labels.values())


@_told_by_name()
def find_layout(folder: Path) -> Layout:
    """The layout of a folder, recognised by what lies in it.

    Raises:
        InputError: no known layout, or a dataset.json that does not say what it must.
    """
    folder = _checked(folder)
    listing = folder / "dataset.json"
    if listing.is_file():
        content = _read_json(listing)
        if "training" in content:
            return decathlon_layout(folder)
        if "channel_names" in content or "file_ending" in content:
            return _nnunet_layout(listing, content)
        raise InputError(
            f'{listing} has neither "training" (Decathlon layout) nor "channel_names" and "file_ending" (nnU-Net layout)'
        )
    for masks in ("masks", "labels"):
        if (folder / "images").is_dir() and (folder / masks).is_dir():
            return _two_folders(folder, masks)
    inner = next((child for child in sorted(folder.iterdir()) if _looks_like_data(child)), None)
    hint = f"did you mean {inner}?" if inner else f"--data must be a folder with {_LAYOUTS}"
    raise InputError(f"{folder} has no known layout; {hint}")


@_told_by_name()
def decathlon_layout(folder: Path) -> Layout:
    """The training cases that a Decathlon folder's dataset.json lists, in its order.

    Raises:
        InputError: no such folder or file, or a dataset.json that does not say what it must.
    """
    needs = "dataset.json, imagesTr and labelsTr"
    folder = _checked(folder, needs)
    path = folder / "dataset.json"
    if not path.is_file():
        inner = next((child.parent for child in sorted(folder.glob("*/dataset.json"))), None)
        hint = f"did you mean {inner}?" if inner else f"--data must be the folder that holds {needs}"
        raise InputError(f"{folder} has no dataset.json; {hint}")
    content = _read_json(path)
    if not isinstance(content.get("training"), list):
        raise InputError(f'{path} has no list "training" of image and label files')
    found = _Found(folder)
    for entry in content["training"]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            found.problems.append(f'{path}: every training case must be {{"image": FILE, "label": FILE}}, not {_short(entry)}')
        elif not Path(entry["image"]).name.startswith("._"):  # left by macOS archives; not an image
            image, label = (found.listed(path, entry[key]) for key in ("image", "label"))
            if image and label:
                found.add(_stem(Path(entry["image"]).name), [image], label, f"{path} lists")
    if len(found.sources) < PARTITIONS and not found.problems:
        count = len(found.sources)
        found.problems.append(f"{path} lists {count} training cases; the {PARTITIONS} folds need at least {PARTITIONS}")
    return Layout(
        kind="Decathlon layout",
        sources=list(found.sources.values()),
        labels=_numbered(_decathlon_classes(path, content.get("labels"))),
        channels=_channels(path, content.get("modality") or {"0": "image"}, "modality"),
        volumetric=found.volumetric(),
        licence=_licence(content),
        problems=found.problems,
    )


@_told_by_name()
def recognise(folder: Path) -> str:
    """The name of the dataset that a folder looks like, one of `cdal.data.DATASETS`; "own" where it is none of the known ones.

    Raises:
        InputError: no such folder, or a dataset.json that cannot be read.
    """
    folder = _checked(folder)
    if (folder / "dataset.json").is_file():
        content = _read_json(folder / "dataset.json")
        hippocampus = "hippocampus" in str(content.get("name")).lower() and isinstance(content.get("training"), list)
        return "hippocampus" if hippocampus else "own"
    slides: set[str] = set()
    outlines: set[str] = set()
    for _, folders, files in os.walk(folder):
        if {"cxr_png", "leftmask"} & {name.lower() for name in folders}:
            return "chest_xray"
        slides |= {Path(name).stem for name in files if name.lower().endswith((".tif", ".tiff"))}
        outlines |= {Path(name).stem for name in files if name.lower().endswith(".xml")}
    return "monuseg" if slides & outlines else "own"


def plain(text: str) -> str:
    """Text with `_` for each character that would break a line, a table or a file format."""
    return "".join("_" if unicodedata.category(character) in _BREAKING else character for character in text)


class _Found:
    """Collects the cases of a folder and the sentences on what is wrong with some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, Source] = {}
        self.problems: list[str] = []

    def add(self, case_id: str, images: Iterable[Path], label: Path, told_by: str) -> None:
        if case_id in self.sources:
            self.problems.append(f"{told_by} the case {case_id!r} twice")
        else:
            self.sources[case_id] = Source(id=case_id, images=tuple(images), labels=(label,))

    def listed(self, listing: Path, name: str) -> Path | None:
        """The file that dataset.json names, which must exist within the folder."""
        try:
            path = (self.folder / name).resolve()
            found = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            self.problems.append(f"{listing} names {_short(name)}, which is no usable path: {_one_line(error)}")
            return None
        if name != plain(name):
            self.problems.append(f"{listing} names {_short(name)}, which has control characters; rename the file")
        elif not path.is_relative_to(self.folder):
            self.problems.append(f"{listing} names {_short(name)}, which leads out of the folder")
        elif not found:
            self.problems.append(f"{path} is missing; {listing.name} lists it")
        elif _ending(path.name) is None:
            self.problems.append(f"{path} is of no kind that is read ({', '.join(IMAGE_ENDINGS + VOLUME_ENDINGS)})")
        else:
            return path
        return None

    def files(self, name: str) -> list[Path]:
        """The image or volume files in a folder of this name, in name order, without those of the operating system."""
        folder = self.folder / name
        if not folder.is_dir():
            raise InputError(f"{folder} is missing")
        if not folder.resolve().is_relative_to(self.folder):
            raise InputError(f"{folder} is a link that leads out of the folder {self.folder}; copy the files into it")
        files = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES:
                continue
            if path.name != plain(path.name):
                self.problems.append(f"{folder} has a file named {path.name!a}; rename it without odd characters")
            elif not path.exists():
                self.problems.append(f"{path} is a link that leads nowhere")
            elif not path.resolve().is_relative_to(self.folder):
                self.problems.append(f"{path} is a link that leads out of the folder {self.folder}; copy the file into it")
            elif not path.is_file():
                self.problems.append(f"{path} is not a file; only images lie in {name}/")
            elif _ending(path.name) is None:
                self.problems.append(f"{path} is of no kind that is read ({', '.join(IMAGE_ENDINGS + VOLUME_ENDINGS)})")
            else:
                files.append(path)
        return files

    def volumetric(self) -> bool:
        """Whether the first case is a volume; cases of the other kind are problems."""
        volumetric = None
        for source in self.sources.values():
            for path in source.images + source.labels:
                kind = _ending(path.name) in VOLUME_ENDINGS
                volumetric = kind if volumetric is None else volumetric
                if kind != volumetric:
                    kinds = ("a volume", "an image") if kind else ("an image", "a volume")
                    first = next(iter(self.sources.values())).images[0].name
                    self.problems.append(f"{path} is {kinds[0]}, but {first} is {kinds[1]}; a dataset holds one kind")
        return bool(volumetric)

    def enough(self) -> None:
        """Tell if there are fewer cases than folds, where nothing else explains it."""
        count = len(self.sources)
        if count < PARTITIONS and not self.problems:
            self.problems.append(f"{self.folder} has {count} cases; the {PARTITIONS} folds need at least {PARTITIONS}")


def _nnunet_layout(path: Path, content: dict[str, Any]) -> Layout:
    channels = _channels(path, content.get("channel_names"), "channel_names")
    classes = _nnunet_classes(path, content.get("labels"))
    ending = content.get("file_ending")
    if ending not in IMAGE_ENDINGS + VOLUME_ENDINGS:
        supported = ", ".join(IMAGE_ENDINGS + VOLUME_ENDINGS)
        raise InputError(f'{path} gives "file_ending" as {_short(ending)}; those that are read are {supported}')
    if isinstance(content.get("dataset"), dict):
        raise InputError(f'{path} lists its files under "dataset", which is not supported; put them into imagesTr and labelsTr')
    found = _Found(path.parent)
    images: dict[str, dict[int, Path]] = {}
    for file in found.files("imagesTr"):
        match = _CHANNEL.fullmatch(_normal(file.name.removesuffix(ending))) if file.name.endswith(ending) else None
        if match is None:
            found.problems.append(f"{file} is not named CASE_0000{ending}, as the layout of nnU-Net and its dataset.json ask")
        elif int(match[2]) >= len(channels):
            found.problems.append(f"{file} is channel {int(match[2])}, but {path.name} names {len(channels)} from 0 on")
        else:
            images.setdefault(match[1], {})[int(match[2])] = file
    labels: dict[str, Path] = {}
    for file in found.files("labelsTr"):
        if file.name.endswith(ending):
            labels[_normal(file.name.removesuffix(ending))] = file
        else:
            found.problems.append(f"{file} is not named CASE{ending}, as dataset.json asks")
    for case_id, files in images.items():
        one_file = ending in IMAGE_ENDINGS and len(channels) == 3 and set(files) == {0}  # of three colours
        missing = [] if one_file else [number for number in range(len(channels)) if number not in files]
        if missing:
            name = f"{case_id}_{missing[0]:04}{ending}"
            found.problems.append(f"{path.parent / 'imagesTr' / name} is missing; {path.name} names {len(channels)} channels")
        elif case_id not in labels:
            found.problems.append(f"{path.parent / 'labelsTr' / f'{case_id}{ending}'} is missing; it is the label of a case")
        else:
            found.add(case_id, [files[key] for key in sorted(files)], labels[case_id], f"{path.parent} holds")
    found.problems += [f"{file} has no image in imagesTr" for case_id, file in labels.items() if case_id not in images]
    expected = content.get("numTraining")
    if isinstance(expected, int) and expected != len(images) and not found.problems:
        found.problems.append(f'{path} gives "numTraining" as {expected}, but imagesTr has {len(images)} cases')
    found.enough()
    return Layout(
        kind="nnU-Net layout",
        sources=list(found.sources.values()),
        labels=_numbered(classes),
        channels=channels,
        volumetric=ending in VOLUME_ENDINGS,
        licence=_licence(content),
        problems=found.problems,
    )


def _two_folders(folder: Path, masks: str) -> Layout:
    found = _Found(folder)
    images: dict[str, Path] = {}
    for file in found.files("images"):
        first = images.setdefault(_stem(file.name), file)
        if first != file:
            found.problems.append(f"{file} and {first.name} would be the same case {_stem(file.name)!r}")
    labels: dict[str, Path] = {}
    for file in found.files(masks):
        stem = _stem(file.name)
        case_id = stem if stem in images else _MASK_NAMES.sub("", stem)
        if case_id not in images:
            found.problems.append(f"{file} has no image in images/; they are paired by name")
        elif labels.setdefault(case_id, file) != file:
            found.problems.append(f"{file} and {labels[case_id].name} are both masks of {images[case_id].name}")
    for case_id, image in images.items():
        if case_id in labels:
            found.add(case_id, [image], labels[case_id], f"{folder} holds")
        else:
            name = f"{case_id}{_ending(image.name)}"
            found.problems.append(f"{image} has no mask; {masks}/ should hold {name} or {case_id}_mask{_ending(image.name)}")
    found.enough()
    return Layout(
        kind=f"images/ and {masks}/",
        sources=list(found.sources.values()),
        volumetric=found.volumetric(),
        problems=found.problems,
    )


def _checked(folder: Path, needs: str = _LAYOUTS) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --data must be the folder that holds {needs}")
    return folder.resolve()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f'{path} has no list "training" of image and label files')
    return content


def _decathlon_classes(path: Path, labels: object) -> tuple[str, ...]:
    """Names of the foreground classes, from {"0": "background", "1": ...}."""
    names = labels if isinstance(labels, dict) else {}
    if len(names) < 2 or set(names) != {str(value) for value in range(len(names))}:
        raise InputError(f'{path} must give "labels" as {{"0": "background", "1": NAME, ...}} without gaps, not {_short(labels)}')
    return _named(path, [names[str(value)] for value in range(1, len(names))])


def _nnunet_classes(path: Path, labels: object) -> tuple[str, ...]:
    """Names of the foreground classes, from {"background": 0, NAME: 1, ...}."""
    values = labels if isinstance(labels, dict) else {}
    if any(isinstance(value, list) for value in values.values()):
        raise InputError(f'{path} gives "labels" that are regions of several values, which is not supported; give one value each')
    if "ignore" in values:
        raise InputError(f'{path} gives the label "ignore", which is not supported; give those pixels a class or background')
    order = {value: name for name, value in values.items() if isinstance(value, int) and not isinstance(value, bool)}
    if len(order) < max(2, len(values)) or set(order) != set(range(len(order))):
        raise InputError(f'{path} must give "labels" as {{"background": 0, NAME: 1, ...}} without gaps, not {_short(labels)}')
    return _named(path, [order[value] for value in range(1, len(order))])


def _numbered(classes: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(classes, start=1))


def _named(path: Path, names: Iterable[object]) -> tuple[str, ...]:
    classes = tuple(plain(str(name)).strip() for name in names)
    if len(classes) > 255:
        raise InputError(f"{path} declares {len(classes) + 1} labels; at most 256 are supported")
    if len({name.lower() for name in classes}) < len(classes):
        raise InputError(f"{path} gives two classes the same name: {_short(', '.join(classes))}")
    return classes


def _channels(path: Path, names: object, key: str) -> tuple[str, ...]:
    """Names of the image channels, from {"0": "T1", "1": ...}."""
    if not isinstance(names, dict) or not names or set(names) != {str(value) for value in range(len(names))}:
        raise InputError(f'{path} must give "{key}" as {{"0": NAME, ...}} without gaps, not {_short(names)}')
    return tuple(plain(str(names[str(value)])) for value in range(len(names)))


def _licence(content: dict[str, Any]) -> str:
    return plain(str(content.get("licence") or content.get("license") or "not stated")).strip()


def _ending(name: str) -> str | None:
    """The ending of a file that is read, in small letters."""
    return next((ending for ending in VOLUME_ENDINGS + IMAGE_ENDINGS if name.lower().endswith(ending)), None)


def _stem(name: str) -> str:
    """A file's name without its ending: the id of its case."""
    return _normal(name[: len(name) - len(_ending(name) or "")])


def _normal(name: str) -> str:
    """The same letters in one way: macOS stores é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)


def _looks_like_data(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "dataset.json").is_file() or (folder / "images").is_dir())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
