"""Which files make a case: the folder layouts that need no code, and what their JSON files say.

    layout = find_layout(Path("MyData"))
    layout.sources, layout.labels, layout.splits, layout.groups, layout.notes, layout.problems

    Decathlon       dataset.json with "training": [{"image": FILE, "label": FILE}, ...], "labels": {"0": "background", "1": NAME}
    MONAI           any JSON file with such a list, perhaps with "fold" (see `listed`)
    nnU-Net raw     dataset.json with "channel_names", "labels": {"background": 0, NAME: 1} and "file_ending";
                    imagesTr/CASE_0000.EXT with one file per channel, labelsTr/CASE.EXT (see `nnunet`); splits_final.json
    two folders     images/CASE.EXT and masks/ or labels/ with CASE.EXT, CASE_mask.EXT, ..., by any name that tells which is which
    other folders   masks beside images, a folder a case or a patient, train/ val/ test/ around or within (see `folders`, `pairing`)
    outlines        JSON of labelme or COCO, folders of Pascal VOC (see `outlines`)

Only files within the folder count, and what links in it lead to. Nothing is decoded here.
"""

from dataclasses import replace
from pathlib import Path

from cdal.data.layouts.declared import given_splits, read_json
from cdal.data.layouts.folders import folder_layout
from cdal.data.layouts.foreign import described
from cdal.data.layouts.layout import (
    LAYOUTS,
    VOLUME_ENDINGS,
    Layout,
    checked,
    ending,
    is_hidden,
    is_outline,
    is_series,
    plain,
    some,
    told_by_name,
)
from cdal.data.layouts.listed import decathlon_layout, is_datalist, listed_layout
from cdal.data.layouts.nnunet import nnunet_layout
from cdal.data.layouts.recognise import recognise
from cdal.data.layouts.tree import Tree, scan
from cdal.errors import InputError

__all__ = ["VOLUME_ENDINGS", "Layout", "decathlon_layout", "find_layout", "plain", "recognise"]

_DEEPEST = 4  # folders that hold nothing but a folder
_LARGEST_LIST = 2**26  # bytes


@told_by_name()
def find_layout(folder: Path, *, follow_links: bool = True) -> Layout:
    """The layout of a folder, recognised by what lies in it.

    Args:
        folder: where the data are; a folder that holds nothing but one folder stands for that one.
        follow_links: take what links lead to outside of the folder, as for data too large to copy; not for a copy of foreign data.

    Raises:
        InputError: no known layout, or a JSON file that does not say what it must.
    """
    outer = checked(folder, LAYOUTS)
    folder = _innermost(outer)
    layout = _listed(folder, follow_links)
    if layout is None:
        inner = next((path.parent for path in sorted(folder.glob("*/dataset.json"))), None)
        if inner and not (folder / "images").is_dir():
            raise InputError(f"{outer} has no known layout; did you mean {inner}?")
        tree = scan(folder, follow_links)
        layout = folder_layout(tree, follow_links)
        if layout is None:
            raise InputError(_unknown(tree, outer))
    splits, notes, problems = given_splits(folder, [source.id for source in layout.sources])
    problems = layout.problems or problems
    layout = replace(layout, splits=splits or layout.splits, notes=layout.notes + notes, problems=problems)
    if folder != outer:
        layout = replace(layout, notes=[f"read from {folder}, the only folder in {outer}", *layout.notes])
    return layout


def _unknown(tree: Tree, folder: Path) -> str:
    """Why nothing in a folder can be read."""
    foreign = described([*tree.others, *(path for path in tree.files if is_series(path))])
    if tree.problems and not tree.files:
        return tree.problems[0]
    if foreign:
        return f"{folder} has no known layout: it holds {foreign}"
    if tree.files and tree.outlines:
        unread = f"{len(tree.outlines):,} JSON files such as {tree.outlines[0]}"
        return f"{folder} has no masks that can be read; it holds {unread}: export as COCO, labelme or mask images"
    inner = next((path for path in sorted(tree.root.iterdir()) if (path / "images").is_dir()), None)
    return f"{folder} has no known layout; " + (f"did you mean {inner}?" if inner else f"--data must be a folder with {LAYOUTS}")


def _listed(folder: Path, follow_links: bool) -> Layout | None:
    """The layout of a folder with a JSON file that lists its cases."""
    listing = folder / "dataset.json"
    if listing.is_file():
        content = read_json(listing)
        if "training" in content:
            return listed_layout(listing, content, follow_links)
        if {"channel_names", "file_ending"} & set(content):
            return nnunet_layout(listing, content, follow_links)
        if not {"images", "annotations"} <= set(content):  # COCO
            raise InputError(
                f'{listing} has neither "training" (Decathlon layout) nor "channel_names" and "file_ending" (nnU-Net layout)'
            )
    lists = {}
    images = {path.stem for path in folder.iterdir() if ending(path.name)}
    for path in sorted(folder.glob("*.json")):
        if path.stem not in images and path.is_file() and path.stat().st_size <= _LARGEST_LIST:
            try:
                content = read_json(path)
            except InputError:
                continue
            if is_datalist(content):
                lists[path] = content
    if len(lists) > 1:
        raise InputError(f"{folder} has several lists of cases, {some(path.name for path in lists)}; keep the one that is meant")
    return next((listed_layout(path, content, follow_links) for path, content in lists.items()), None)


def _innermost(folder: Path) -> Path:
    """The folder with the data, of one that an archive was unpacked to."""
    for _ in range(_DEEPEST):
        children = [child for child in sorted(folder.iterdir()) if not is_hidden(child.name)]
        folders = [child for child in children if child.is_dir()]
        if len(folders) != 1 or any(ending(child.name) or is_outline(child.name) for child in children if child.is_file()):
            break
        folder = folders[0].resolve()
    return folder
