"""All that lies below a folder, found once.

    tree = scan(Path("MyData"))
    tree.files, tree.others, tree.problems

A folder of DICOM slices and nothing else is one volume, and counts as a file.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cdal.data.layouts.layout import ending, is_hidden, is_outline, plain
from cdal.errors import InputError

_MOST = 1_000_000  # entries
_SLICES = (".dcm", ".dicom", ".ima")


class Tree(NamedTuple):
    """What lies below a folder, in the order of names; paths are absolute, links among them as they are."""

    root: Path
    files: Sequence[Path]
    """Images, volumes and folders of DICOM slices."""
    outlines: Sequence[Path]
    """JSON files."""
    others: Sequence[Path]
    """Files of no kind that is read."""
    odd: Sequence[Path]
    """What is neither a file nor a folder with something in it."""
    problems: Sequence[str]
    """Links that are not followed, names that cannot be used."""


def scan(root: Path, follow_links: bool = True) -> Tree:
    """Everything below a resolved folder but what operating systems leave.

    Raises:
        InputError: more than a million files.
    """
    found: dict[str, list[Path]] = {"files": [], "outlines": [], "others": [], "odd": []}
    problems: list[str] = []
    seen = 0

    def enter(folder: Path, holders: frozenset[Path]) -> None:
        nonlocal seen
        files, folders = [], []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            seen += 1
            if seen > _MOST:
                raise InputError(f"{root} holds more than {_MOST:,} files; give the folder of the data set alone")
            if is_hidden(entry.name):
                continue
            if entry.name != plain(entry.name):
                problems.append(f"{folder} has a file named {entry.name!a}; rename it without odd characters")
            elif entry.is_symlink() and not path.exists():
                problems.append(f"{path} is a link that leads nowhere; put the file in its place or remove it")
            elif entry.is_symlink() and not follow_links and not path.resolve().is_relative_to(root):
                problems.append(f"{path} is a link that leads out of the folder {root}; copy the file into it")
            elif entry.is_symlink() and path.resolve() in holders:
                problems.append(f"{path} is a link to a folder that it lies in; remove it")
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file():
                files.append(path)
            else:
                found["odd"].append(path)
        slices = [path for path in files if path.name.lower().endswith(_SLICES)]
        if slices and not folders and folder != root and not any(ending(path.name) for path in files):
            found["files"].append(folder)
            return
        for path in files:
            kind = "files" if ending(path.name) else "outlines" if is_outline(path.name) else "others"
            found[kind].append(path)
        if not files and not folders and folder != root:
            found["odd"].append(folder)
        for path in folders:
            enter(path, holders | {path.resolve()})

    enter(root, frozenset({root}))
    return Tree(root=root, problems=problems, **found)
