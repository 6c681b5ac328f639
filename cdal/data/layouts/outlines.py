"""Masks that are outlines in JSON, and the folders of Pascal VOC.

    a file an image      labelme's JSON or GeoJSON, called like the image and beside it or in a folder of its own
    one file for all     COCO: annotations/instances_*.json, _annotations.coco.json; VIA
    VOC                  JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt, and CVAT's labelmap.txt

Of a JSON file only the names of its images are read here.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdal.data.dataset import PARTS, Split
from cdal.data.layouts import names
from cdal.data.layouts.layout import Found, Layout, normal, plain, some
from cdal.data.layouts.pairing import Item, Pairing, pair

_MOST = 2**30  # bytes of a JSON file
_MASKS = ("SegmentationClass", "SegmentationClassPNG")
_IMAGES = "JPEGImages"


def outlined_cases(found: Found, files: Sequence[Item], images: Sequence[Item]) -> list[Pairing]:
    """Images with the JSON file that outlines their objects; none where no JSON file is of that kind."""
    if not files:
        return []
    pairs = pair(images, files, by_folder=True)
    shared = [(item, listed) for item in pairs.masks if (listed := _listed(item.path))]
    if not shared and not (pairs.cases and _outlines_one(pairs.cases[0][1][0].path)):
        return []
    cases = [] if shared else list(pairs.cases)
    for images_of, masks in list(cases):
        if len(masks) > 1:
            first, second = masks[:2]
            found.problems.append(
                f"{second.path} and {first.path.name} both outline {images_of[0].path.name}; keep the one that is meant"
            )
    owners: dict[Path, list[Item]] = defaultdict(list)
    for item, listed in shared:
        part = item.part or next(filter(None, [names.part(item.stem)]), None)
        inside = [image for image in images if image.part == part] or list(images)
        by_name = {normal(image.path.name): image for image in inside}
        missing = [name for name in listed if name not in by_name]
        if missing:
            told = f"{item.path} outlines {len(listed)} images, of which {len(missing)} are missing ({some(missing)})"
            found.problems.append(f"{told}; copy them, or export it anew for those that are there")
        for name in listed:
            if name in by_name:
                owners[by_name[name].path].append(item)
    for image in images if shared else ():
        outlining = owners.get(image.path, [])
        if len(outlining) > 1:
            first, second = outlining[:2]
            found.problems.append(f"{second.path} and {first.path} both outline {image.path.name}; keep the one that is meant")
        elif outlining:
            cases.append(([image], outlining))
    with_outlines = {case[0][0].path for case in cases}
    for image in images:
        if image.path not in with_outlines and image.path not in owners:
            name = some(item.path.name for item, _ in shared) if shared else f"{image.stem}.json"
            told = f"{image.path} has no outlines: {'it is not listed in ' if shared else 'there is no '}{name}"
            found.problems.append(f"{told}; save an empty annotation if there is nothing to mark, or move the image elsewhere")
    return cases


def is_voc(folder: Path) -> bool:
    """Whether a folder has the folders of Pascal VOC, as CVAT and labelme export them."""
    return (folder / _IMAGES).is_dir() and any((folder / name).is_dir() for name in _MASKS)


def with_voc(layout: Layout, folder: Path) -> Layout:
    """With the colours of labelmap.txt and the split of ImageSets/Segmentation."""
    labels = _colours(folder / "labelmap.txt")
    splits = _image_sets(folder / "ImageSets" / "Segmentation", {source.id for source in layout.sources})
    notes = [*layout.notes]
    if labels:
        notes.append(f"labelmap.txt names the colours of the masks: {some(labels.values(), 8)}")
    if splits:
        notes.append("the split is that of ImageSets/Segmentation")
    if labels:
        layout = replace(layout, labels=labels, coloured=True, declared_by="labelmap.txt")
    return replace(layout, splits=splits or layout.splits, notes=notes)


def _colours(path: Path) -> dict[int, str]:
    """From lines `name:red,green,blue::`; black is the background."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except (OSError, ValueError):
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        numbers = rest.split(":")[0].split(",")
        if line.startswith("#") or len(numbers) != 3 or not all(one.strip().isdigit() for one in numbers):
            continue
        red, green, blue = (min(int(one), 255) for one in numbers)
        value = 65536 * red + 256 * green + blue
        if value:
            found[value] = plain(name).strip()
    return found


def _image_sets(folder: Path, ids: set[str]) -> dict[str, Split]:
    """From train.txt, val.txt and test.txt, where together they list every case once."""
    parts = {}
    for part, name in zip(PARTS, ("train", "val", "test"), strict=True):
        try:
            lines = (folder / f"{name}.txt").read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError):
            continue
        listed = tuple(dict.fromkeys(stem for line in lines if (stem := normal(line.strip())) in ids))
        if listed:
            parts[part] = listed
    together = [name for part in parts.values() for name in part]
    if "train" not in parts or len(parts) < 2 or sorted(together) != sorted(ids):
        return {}
    *_, test = parts
    validation = parts["validation"] if len(parts) == 3 else ()
    return {"as ImageSets list": Split(train=parts["train"], validation=validation, test=parts[test])}


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size <= _MOST else None
    except (OSError, ValueError, RecursionError):
        return None


def _listed(path: Path) -> list[str] | None:
    """Names of the images that a JSON file of COCO or VIA outlines; None for other files."""
    content = _content(path)
    if isinstance(content, dict) and isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        entries, key = content["images"], "file_name"
    elif isinstance(content, dict):
        entries, key = list(content.get("_via_img_metadata", content).values()) if content else [], "filename"
        if not all(isinstance(entry, dict) and "regions" in entry for entry in entries):
            return None
    else:
        return None
    found = [entry.get(key) for entry in entries if isinstance(entry, dict)]
    return list(dict.fromkeys(normal(Path(name).name) for name in found if isinstance(name, str))) or None


def _outlines_one(path: Path) -> bool:
    """Whether a JSON file called like an image holds outlines: labelme's shapes, GeoJSON's features."""
    content = _content(path)
    if isinstance(content, dict):
        return isinstance(content.get("shapes"), list) or isinstance(content.get("features"), list)
    return isinstance(content, list) and bool(content) and all(isinstance(one, dict) and "geometry" in one for one in content)
