"""What a layout is, and what all layouts need: the endings that are read, ids of cases, a place to collect problems."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cdal.data.dataset import Source, Split
from cdal.data.folds import PARTITIONS
from cdal.data.images import ENDINGS as IMAGE_ENDINGS
from cdal.data.layouts.foreign import remedy
from cdal.errors import InputError, one_line, short

VOLUME_ENDINGS = (".nii.gz", ".nii")
LAYOUTS = "images/ and masks/ (or labels/), or a dataset.json in Decathlon or nnU-Net layout"
READ = ", ".join(IMAGE_ENDINGS + VOLUME_ENDINGS)

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's control characters, halves of characters, line and paragraph separators


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
    coloured: bool = False
    """Whether `labels` names colours."""
    declared_by: str = "dataset.json"
    """The file that declares them."""
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


class Found:
    """Collects the cases of a folder, and the sentences on what is wrong with some or was decided on others."""

    def __init__(self, folder: Path, follow_links: bool) -> None:
        self.folder = folder
        self.follow_links = follow_links
        self.sources: dict[str, Source] = {}
        self.notes: list[str] = []
        self.problems: list[str] = []

    def add(self, case_id: str, images: Iterable[Path], labels: Iterable[Path], told_by: str) -> None:
        """Keep a case, unless there is one of its id."""
        if case_id in self.sources:
            self.problems.append(f"{told_by} the case {case_id!r} twice")
        else:
            self.sources[case_id] = Source(id=case_id, images=tuple(images), labels=tuple(labels))

    def listed(self, listing: Path, name: str) -> Path | None:
        """The file that a JSON file names, which must exist within the folder."""
        path = self.named(listing, name)
        if path is None:
            return None
        if not path.is_file():
            self.problems.append(f"{path} is missing; {listing.name} lists it")
        elif ending(path.name) is None:
            self.problems.append(f"{path} is of no kind that is read ({READ}){remedy(path)}")
        else:
            return path
        return None

    def named(self, listing: Path, name: str) -> Path | None:
        """The path that a JSON file names, which need not exist, but lies in the folder or is a link in it."""
        try:
            path = (self.folder / name).resolve()
            written = Path(os.path.normpath(self.folder / name))
            path.is_file()  # raises where no file system can hold such a name
        except (OSError, ValueError, RuntimeError) as error:
            self.problems.append(f"{listing} names {short(name)}, which is no usable path: {one_line(error)}")
            return None
        if name != plain(name):
            self.problems.append(f"{listing} names {short(name)}, which has control characters; rename the file")
        elif not (path.is_relative_to(self.folder) or (self.follow_links and written.is_relative_to(self.folder))):
            self.problems.append(
                f"{listing} names {short(name)}, which leads out of the folder; copy or link the file into {self.folder}"
            )
        else:
            return path
        return None

    def files(self, name: str) -> list[Path]:
        """The image or volume files in a folder of this name, in name order, without those of the operating system."""
        folder = self.folder / name
        if not folder.is_dir():
            raise InputError(f"{folder} is missing")
        if self.leads_out(folder):
            raise InputError(f"{folder} is a link that leads out of the folder {self.folder}; copy the files into it")
        files = []
        for path in sorted(folder.iterdir()):
            if is_hidden(path.name):
                continue
            problem = self.wrong_with(path)
            if problem:
                self.problems.append(problem)
            elif not path.is_file():
                self.problems.append(f"{path} is not a file; only images lie in {name}/")
            elif ending(path.name) is None:
                self.problems.append(f"{path} is of no kind that is read ({READ}){remedy(path)}")
            else:
                files.append(path)
        return files

    def wrong_with(self, path: Path) -> str | None:
        """Why a name or a link is not followed."""
        if path.name != plain(path.name):
            return f"{path.parent} has a file named {path.name!a}; rename it without odd characters"
        if not path.exists():
            return f"{path} is a link that leads nowhere; put the file in its place or remove it"
        if self.leads_out(path):
            return f"{path} is a link that leads out of the folder {self.folder}; copy the file into it"
        return None

    def leads_out(self, path: Path) -> bool:
        """Whether this is a link that may not be followed."""
        return not self.follow_links and not path.resolve().is_relative_to(self.folder)

    def volumetric(self) -> bool:
        """Whether the first case is a volume; cases of the other kind are problems."""
        volumetric = None
        for source in self.sources.values():
            for path in source.images + tuple(path for path in source.labels if not is_outline(path.name)):
                kind = ending(path.name) in VOLUME_ENDINGS or is_series(path)
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


@contextmanager
def told_by_name() -> Iterator[None]:
    """Folders that may not be listed, disks that fail."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


def checked(folder: Path, needs: str) -> Path:
    """The resolved path of a folder that exists."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --data must be the folder that holds {needs}")
    return folder.resolve()


def plain(text: str) -> str:
    """Text with `_` for each character that would break a line, a table or a file format."""
    return "".join("_" if unicodedata.category(character) in _BREAKING else character for character in text)


def ending(name: str) -> str | None:
    """The ending of a file that is read, in small letters."""
    return next((ending for ending in VOLUME_ENDINGS + IMAGE_ENDINGS if name.lower().endswith(ending)), None)


def is_outline(name: str) -> bool:
    """Whether a file may hold outlines."""
    return name.lower().endswith((".json", ".geojson"))


def is_series(path: Path) -> bool:
    """Whether one of the images is a folder of DICOM slices."""
    return ending(path.name) is None and path.is_dir()


def is_hidden(name: str) -> bool:
    """What operating systems leave."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def stem(name: str) -> str:
    """A file's name without its ending: the id of its case."""
    return normal(name[: len(name) - len(ending(name) or "")])


def normal(name: str) -> str:
    """The same letters in one way: macOS stores é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)


def some(names: Iterable[object], most: int = 3) -> str:
    """The first names of many."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
