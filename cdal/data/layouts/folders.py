"""Layouts that folders and names tell, without a dataset.json.

two folders           images/ and masks/ by any of their names, with folders of parts, classes or patients within or around
side by side          case_1.png and case_1_mask.png in one folder
a folder a case       case_1/image.nii.gz and case_1/segmentation.nii.gz, case_1/images/ and case_1/masks/
outlines              JSON files beside the images, or one for all (see `outlines`)
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cdal.data.dataset import Source, Split
from cdal.data.layouts import names, outlines
from cdal.data.layouts.foreign import described, remedy
from cdal.data.layouts.layout import READ, Found, Layout, ending, is_outline, normal, some, stem
from cdal.data.layouts.pairing import Item, Pairs, pair
from cdal.data.layouts.tree import Tree
from cdal.errors import InputError

_SHOWN = 3
_LEAST_PATIENTS = 3
_FIRST_CHANNEL = "_0000"
AS_THE_FOLDERS = "as the folders are"


def folder_layout(tree: Tree, follow_links: bool = True) -> Layout | None:
    """The cases of a folder; None where no image can be told from a mask."""
    base = _base(tree)
    found = Found(tree.root, follow_links)
    found.problems.extend(tree.problems)
    everything = [_item(path, base) for path in tree.files if not _is_loose_series(path, base)]
    items = [item for item in everything if not _is_for_eyes(item[0], base)]
    voc = outlines.voc(base)
    by_folder = any(role == "mask" for _, role in items) or _has_both_folders(base)
    if by_folder:
        masks = [item for item, role in items if role == "mask"]
        images = [item for item, role in items if role == "image"]
        apart = [item for item, role in items if role is None]
        if not images:
            images, apart = apart, []
        masks = _preferred(masks, base, found)
        _left_out(found, apart, "in no folder of images or masks")
    else:
        masks = [item for item, _ in items if names.is_mask(item.stem)]
        images = [item for item, _ in items if not names.is_mask(item.stem)]
    if not masks and images:
        outlined = outlines.outlined_cases(found, [_item(path, base)[0] for path in tree.outlines], images)
        if outlined:
            return _finished(found, "images and outlines in JSON", _identified(outlined), tree=tree)
    if not (masks and images):
        foreign = described([*tree.others, *(path for path in tree.files if _is_loose_series(path, base))])
        if foreign and (images or masks or by_folder):
            raise InputError(f"{tree.root} has no {'masks' if images else 'images'} that can be read; it holds {foreign}")
        if not by_folder:
            return None
    _left_out(found, [item for item, _ in everything if _is_for_eyes(item, base)], "no images or masks by their names")
    images = _one_of_a_name(found, images)
    if by_folder:
        found.problems.extend(_strange(tree, base))
    pairs = pair(images, masks, by_folder=by_folder)
    found.problems.extend(pairs.problems)
    if not pairs.cases and images and masks:
        unlike = f"{images[0].path} and {masks[0].path} and all others have names that do not fit each other"
        found.problems.append(f"{unlike}; give every mask the name of its image, or that name and _mask")
    elif voc:
        _left_out(found, pairs.images, "without a mask in SegmentationClass")
    else:
        pairs = replace(pairs, images=_without_unlabelled_parts(found, pairs))
        _tell_unpaired(found, pairs, base, by_folder)
    cases, labels, values = _with_classes(found, pairs.cases)
    layout = _finished(found, _kind(images, masks, base, by_folder), _identified(cases), values, pairs.channels, tree)
    return outlines.with_voc(layout, base) if voc else _with_labels(layout, labels)


def _base(tree: Tree) -> Path:
    """The folder below which names tell cases apart; those that all files share tell nothing."""
    if _has_both_folders(tree.root) or not tree.files:
        return tree.root
    return Path(os.path.commonpath([path.parent for path in tree.files]))


def _has_both_folders(folder: Path) -> bool:
    roles = {names.role(child.name) for child in folder.iterdir() if child.is_dir()}
    return {("image", True), ("mask", True)} <= roles


def _item(path: Path, base: Path) -> tuple[Item, names.Role | None]:
    """What the folders of a file tell of it: the innermost that is called nothing but images or masks, or else is called so too."""
    folders = path.parent.relative_to(base).parts if path.parent.is_relative_to(base) else ()
    roles = [names.role(name) for name in folders]
    placed = [number for number, role in enumerate(roles) if role and role[1]] or [n for n, role in enumerate(roles) if role]
    own = placed[-1] if placed else None
    place = tuple(
        name
        for number, (name, role) in enumerate(zip(folders, roles, strict=True))
        if number != own and not (role and role[1]) and not names.is_only_part(name)
    )
    item = Item(
        path=path,
        stem=normal(path.stem) if is_outline(path.name) else stem(path.name),
        place=place,
        part=next(filter(None, map(names.part, folders)), None),
        home=path.parent if own is None else base.joinpath(*folders[: own + 1]),
    )
    role = None if own is None else roles[own]
    return item, role and role[0]


def _is_loose_series(path: Path, base: Path) -> bool:
    """Whether a folder of DICOM slices is that of all cases, and no volume."""
    return path.is_dir() and path.parent == base and names.role(path.name) == ("image", True)


def _is_for_eyes(item: Item, base: Path) -> bool:
    folders = item.path.parent.relative_to(base).parts if item.path.is_relative_to(base) else ()
    return any(map(names.is_not_for_training, (*folders, item.stem)))


def _preferred(masks: list[Item], base: Path, found: Found) -> list[Item]:
    """Those of masks/ where it lies beside images/, whatever else is called so there."""
    others = [item for item in masks if item.home.parent == base and item.home.name != "masks"]
    if not (base / "images").is_dir() or len(others) == len(masks) or not any(item.home == base / "masks" for item in masks):
        return masks
    _left_out(found, others, "not in masks/")
    return [item for item in masks if item not in others]


def _one_of_a_name(found: Found, images: Sequence[Item]) -> list[Item]:
    """Images of one name in one folder would be one case."""
    first: dict[tuple[Path, str], Item] = {}
    for item in images:
        known = first.setdefault((item.path.parent, item.stem), item)
        if known is not item:
            found.problems.append(f"{item.path} and {known.path.name} would be the same case {item.stem!r}")
    return list(first.values())


def _without_unlabelled_parts(found: Found, pairs: Pairs) -> list[Item]:
    """Images without a mask, but for those of parts of a split (test/) in which nothing has any."""
    labelled = {images[0].part for images, _ in pairs.cases} | {item.part for item in pairs.masks}
    _left_out(found, [item for item in pairs.images if item.part not in labelled], "in folders without any mask")
    return [item for item in pairs.images if item.part in labelled]


def _tell_unpaired(found: Found, pairs: Pairs, base: Path, by_folder: bool) -> None:
    for item in pairs.masks:
        where = f" in {_common_home(found, pairs, base)}/" if by_folder else ""
        found.problems.append(f"{item.path} has no image{where}; they are paired by name")
    homes = [masks[0].home for _, masks in pairs.cases] + [item.home for item in pairs.masks]
    for item in pairs.images:
        end = ending(item.path.name) or ""
        if by_folder:
            home = _within(homes[0], base) if homes else "masks"
            where = f"{home}/ should hold {item.stem}{end} or {item.stem}_mask{end}"
        else:
            where = f"{item.stem}_mask{end} should lie beside it"
        told = f"{item.path} has no mask; {where}, of zeros if there is nothing to mark"
        found.problems.append(f"{told}; images that nobody labelled belong elsewhere")


def _common_home(found: Found, pairs: Pairs, base: Path) -> str:
    homes = [images[0].home for images, _ in pairs.cases] + [item.home for item in pairs.images]
    return _within(homes[0], base) if homes else "images"


def _strange(tree: Tree, base: Path) -> list[str]:
    """Files of no kind that is read among images and masks, and things that are no files."""
    strange = []
    beside = {path.parent for path in tree.files}
    for path in tree.others:
        item, role = _item(path, base)
        if role and path.parent in beside and not names.is_about(path.name):
            strange.append(f"{path} is of no kind that is read ({READ}){remedy(path)}")
    for path in tree.odd:
        item, role = _item(path, base)
        if role:
            strange.append(f"{path} is not a file; only images lie in {_within(item.home, base)}/")
    return strange


def _with_classes(
    found: Found, cases: Sequence[tuple[list[Item], list[Item]]]
) -> tuple[list[tuple[list[Item], list[Item]]], dict[int, str] | None, dict[Path, int]]:
    """Cases whose masks are understood; where each mask of a case is of a class, the classes and the value of every mask."""
    several = [masks for _, masks in cases if len(masks) > 1]
    if not several:
        return list(cases), None, {}
    classes = _classes(several)
    values: dict[Path, int] = {}
    labels = None
    if classes:
        ordered = {name: number for number, name in enumerate(sorted(set(classes.values())), 1)}
        labels = {number: re.sub(r"^\d+[. _-]+", "", name) or name for name, number in ordered.items()}
        values = {path: ordered[name] for path, name in classes.items()}
        rest = [masks for _, masks in cases if any(item.path not in values for item in masks)]
        for masks in rest:  # of a single class
            values |= {item.path: ordered[name] for item in masks if (name := _class_name(item, bool(item.place))) in ordered}
        found.notes.append(f"the masks of a case are of a class each: {some(labels.values(), 8)}")
    understood = []
    merged = []
    for images, masks in cases:
        homes = list(dict.fromkeys(item.home for item in masks))
        if classes and all(item.path in values for item in masks):
            pass
        elif len(homes) > 1:
            first, second = homes[:2]
            told = f"{images[0].path} has masks in two folders, {first} and {second}"
            found.problems.append(f"{told}; keep the one that is meant, and move the other elsewhere")
            continue
        elif len(masks) > 1 and not _are_objects(images[0], masks):
            names_of = f"{masks[1].path} and {masks[0].path.name} are both masks of {images[0].path.name}"
            found.problems.append(f"{names_of}; keep the one that is meant")
            continue
        elif len(masks) > 1:
            merged.append(images[0].path.name)
        understood.append((images, masks))
    if merged:
        found.notes.append(f"{len(merged)} images have several masks each, which are merged: {some(merged)}")
    return understood, labels, values


def _classes(several: Sequence[Sequence[Item]]) -> dict[Path, str] | None:
    """The class of each mask, where all cases with several masks have one for each class, by its folder or by its name."""
    for by_folder in (True, False):
        named = {item.path: _class_name(item, by_folder) for masks in several for item in masks}
        homes = all(len({item.home for item in masks}) == 1 for masks in several)
        distinct = all(len({named[item.path] for item in masks}) == len(masks) for masks in several)
        counts = Counter(named.values())
        recurring = sum(count > 1 for count in counts.values()) >= len(counts) / 2
        if homes and distinct and recurring and all(map(names.may_be_class, counts)):
            return named
    return None


def _class_name(item: Item, by_folder: bool) -> str:
    if by_folder:
        return item.place[-1] if item.place else ""
    return re.sub(r"[ _.-]+", " ", names.MASK.sub(" ", names.spaced(item.stem))).strip()


def _are_objects(image: Item, masks: Sequence[Item]) -> bool:
    """Whether the masks of an image differ by a number behind a word for masks, or are in a folder to themselves."""
    forms = [names.numbered(item.stem) for item in masks]
    if all(forms):
        return len({form[0] for form in forms if form}) == 1 and len({form[1] for form in forms if form}) == len(forms)
    alone = image.place and all(item.home.is_relative_to(image.home.parent) and item.home != image.home for item in masks)
    return bool(alone) and not any(names.tokens(item.stem) == names.tokens(image.stem) for item in masks)


def _identified(cases: Sequence[tuple[list[Item], list[Item]]]) -> dict[str, tuple[list[Item], list[Item]]]:
    """Cases by name: that of the image; with its folders where names are not enough, or by the folder where it is one a case."""
    stems = [_stem_of(images, masks) for images, masks in cases]
    places = ["/".join(images[0].place) for images, _ in cases]
    parts = [images[0].part or "" for images, _ in cases]
    both = ["/".join(filter(None, pair)) for pair in zip(places, stems, strict=True)]
    choices: list[list[str]] = [stems]
    if all(places) and len(set(zip(parts, places, strict=True))) == len(cases):
        choices += [places, ["/".join(filter(None, pair)) for pair in zip(parts, places, strict=True)]]
    choices += [both, ["/".join(filter(None, pair)) for pair in zip(parts, both, strict=True)]]
    choices.append([images[0].path.as_posix() for images, _ in cases])
    ids = next(choice for choice in choices if len(set(choice)) == len(choice) and all(choice))
    return dict(zip(ids, cases, strict=True))


def _stem_of(images: Sequence[Item], masks: Sequence[Item]) -> str:
    """Of an image its name; of several channels that of the mask, without the words for masks."""
    name = images[0].stem
    if len(images) == 1:
        shorter = name.removesuffix(_FIRST_CHANNEL)
        return shorter if names.bare(shorter) == names.bare(masks[0].stem) else name
    left = names.MASK.sub(" ", masks[0].stem)
    return left.strip(" _.-") or "/".join(images[0].place)


def _finished(
    found: Found,
    kind: str,
    cases: dict[str, tuple[list[Item], list[Item]]],
    values: dict[Path, int] | None = None,
    channels: tuple[str, ...] | None = None,
    tree: Tree | None = None,
) -> Layout:
    for case_id, (images, masks) in cases.items():
        classes = tuple(values[item.path] for item in masks) if values and all(item.path in values for item in masks) else ()
        found.sources[case_id] = Source(
            id=case_id, images=tuple(item.path for item in images), labels=tuple(item.path for item in masks), values=classes
        )
    if len(cases) and channels:
        found.notes.append(f"the files of a case are its channels, in this order: {', '.join(channels)}")
    found.enough()
    groups = _patients(found, cases)
    return Layout(
        kind=kind,
        sources=list(found.sources.values()),
        channels=channels,
        volumetric=found.volumetric(),
        groups=groups,
        splits=_parts(found, cases),
        notes=found.notes,
        problems=found.problems,
    )


def _with_labels(layout: Layout, labels: dict[int, str] | None) -> Layout:
    return layout if labels is None else outlines.replace_labels(layout, labels)


def _patients(found: Found, cases: dict[str, tuple[list[Item], list[Item]]]) -> dict[str, str]:
    """Cases by the folder of their patient, where such folders hold several."""
    groups: dict[str, str] = {}
    for case_id, (images, _) in cases.items():
        place = images[0].place
        number = next((number for number, name in enumerate(place) if names.may_be_patient(name)), None)
        if number is None:
            continue
        name = place[number]  # of digits alone, it may count anew in another folder
        around = "/".join(filter(None, (images[0].part, *place[: number + 1])))
        groups[case_id] = name if any(word.isalpha() for word in names.tokens(name)) else around
    counts = Counter(groups.values())
    if len(counts) < _LEAST_PATIENTS or max(counts.values()) < 2:
        return {}
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:_SHOWN])
    found.notes.append(
        f"{len(groups)} cases are of {len(counts)} patients, by their folders: {shown}, ...; --groups FILE.csv says otherwise"
    )
    return {case_id: groups.get(case_id, case_id) for case_id in cases}


def _parts(found: Found, cases: dict[str, tuple[list[Item], list[Item]]]) -> dict[str, Split]:
    """The split that folders give: train/ and test/, perhaps with val/; of two parts, the second tests."""
    members: dict[str | None, list[str]] = defaultdict(list)
    for case_id, (images, _) in cases.items():
        members[images[0].part].append(case_id)
    loose = members.pop(None, [])
    if not members:
        return {}
    if loose and "train" not in members:
        members["train"], loose = loose, []
    given = [part for part in names.PARTS if members.get(part)]
    if "train" not in given or len(given) < 2:
        return {}
    if loose:
        told = f"{found.sources[loose[0]].images[0]} lies in no part of the split that the folders {', '.join(given)} are"
        found.problems.append(f"{told}; move it into one")
        return {}
    test = given[-1]
    found.notes.append(
        "the split is the one that the folders are: " + ", ".join(f"{part} ({len(members[part]):,})" for part in given)
        + (f"; {test} tests" if len(given) == 2 else "")
    )  # fmt: skip
    validation = members["validation"] if len(given) == 3 else []
    return {AS_THE_FOLDERS: Split(train=tuple(members["train"]), validation=tuple(validation), test=tuple(members[test]))}


def _kind(images: Sequence[Item], masks: Sequence[Item], base: Path, by_folder: bool) -> str:
    if not by_folder:
        several = len({item.path.parent for item in images}) > 1
        return "images and masks side by side" + (", in several folders" if several else "")
    homes = [dict.fromkeys(_within(item.home, base) for item in items) for items in (images, masks)]
    if all(len(home) == 1 for home in homes):
        return " and ".join(f"{next(iter(home))}/" for home in homes)
    if not images or not masks:
        return "images/ and masks/"
    first = [images[0].home.name, masks[0].home.name]
    return f"folders like {first[0]}/ and {first[1]}/"


def _left_out(found: Found, items: Iterable[Item], why: str) -> None:
    paths = [_within(item.path, found.folder) for item in items]
    if paths:
        found.notes.append(f"{len(paths):,} {'file is' if len(paths) == 1 else 'files are'} left out, {why}: {some(paths)}")


def _within(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
