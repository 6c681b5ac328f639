"""Layouts that folders and names tell, without a dataset.json.

    two folders           images/ and masks/ by any of their names, with folders of parts, classes or patients within or around
    side by side          case_1.png and case_1_mask.png in one folder
    a folder a case       case_1/image.nii.gz and case_1/segmentation.nii.gz, case_1/images/ and case_1/masks/
    outlines              JSON files beside the images, or one for all (see `outlines`)

Names are read by `names`; which mask belongs to which image is told by `pairing`.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cdal.data.dataset import PARTS, Source, Split
from cdal.data.layouts import names, outlines
from cdal.data.layouts.declared import SPLITS
from cdal.data.layouts.foreign import described, remedy
from cdal.data.layouts.layout import READ, Found, Layout, ending, is_outline, is_series, normal, some, stem
from cdal.data.layouts.pairing import Item, Pairing, Pairs, pair
from cdal.data.layouts.tree import Tree
from cdal.errors import InputError

_SHOWN = 3
_LEAST_PATIENTS = 3
_FIRST_CHANNEL = "_0000"
AS_THE_FOLDERS = "as the folders are"


def folder_layout(tree: Tree, follow_links: bool = True) -> Layout | None:
    """The cases of a folder; None where no image can be told from a mask.

    Raises:
        InputError: images without masks or masks without images, where files that are not read may hold the others.
    """
    base = _base(tree)
    found = Found(tree.root, follow_links)
    found.problems.extend(tree.problems)
    items = [_item(path, base) for path in tree.files]
    series = [item for item in items if _is_of_all_cases(item)]
    for_eyes = [item for item in items if any(map(names.is_not_for_training, (*item.folders, item.stem)))]
    left = {item.path for item in series + for_eyes}
    items = [item for item in items if item.path not in left]
    by_folder = any(item.role == "mask" for item in items) or _has_both_folders(base)
    images, masks = _by_folder(found, items, base) if by_folder else _by_name(items)
    if images and not masks:
        outlined = outlines.outlined_cases(found, [_item(path, base) for path in tree.outlines], images)
        if outlined:
            return _finished(found, "images and outlines in JSON", outlined)
    if not (images and masks):
        foreign = described([*tree.others, *(item.path for item in series)])
        if foreign and (images or masks or by_folder):
            raise InputError(f"{tree.root} has no {'masks' if images else 'images'} that can be read; it holds {foreign}")
        if not by_folder:
            return None
    _left_out(found, for_eyes, "no images or masks by their names")
    _left_out(found, [_item(path, base) for path in tree.outlines if path.name != SPLITS], "as there are masks")
    if by_folder:
        found.problems.extend(_strange(tree, base))
    images = _one_of_a_name(found, images)
    pairs = pair(images, masks, by_folder=by_folder)
    found.problems.extend(pairs.problems)
    voc = outlines.is_voc(base)
    if not pairs.cases and images and masks:
        unlike = f"{images[0].path} and {masks[0].path} and all others have names that do not fit each other"
        found.problems.append(f"{unlike}; give every mask the name of its image, or that name and _mask")
    elif voc:
        _left_out(found, pairs.images, "without a mask in SegmentationClass")
    else:
        _tell_unpaired(found, replace(pairs, images=_without_unlabelled_parts(found, pairs)), base, by_folder)
    cases, labels, values = _with_classes(found, pairs.cases)
    layout = _finished(found, _kind(images, masks, base, by_folder), cases, labels, values, pairs.channels)
    return outlines.with_voc(layout, base) if voc else layout


def _base(tree: Tree) -> Path:
    """The folder below which names tell cases apart; those that all files share tell nothing."""
    if _has_both_folders(tree.root) or not tree.files:
        return tree.root
    return Path(os.path.commonpath([path.parent for path in tree.files]))


def _has_both_folders(folder: Path) -> bool:
    roles = {names.role(child.name) for child in folder.iterdir() if child.is_dir()}
    return {("image", True), ("mask", True)} <= roles


def _item(path: Path, base: Path) -> Item:
    """What the folders of a file tell of it: the innermost that is called nothing but images or masks, or else is called so too."""
    folders = path.parent.relative_to(base).parts if path.parent.is_relative_to(base) else ()
    roles = [names.role(name) for name in folders]
    telling = [number for number, role in enumerate(roles) if role and role[1]] or [n for n, role in enumerate(roles) if role]
    own = telling[-1] if telling else None
    role = None if own is None else roles[own]
    return Item(
        path=path,
        stem=normal(path.stem) if is_outline(path.name) else stem(path.name),
        folders=folders,
        role=role and role[0],
        place=tuple(
            name
            for number, name in enumerate(folders)
            if number != own and not (roles[number] or ("", False))[1] and not names.is_only_part(name)
        ),
        part=next(filter(None, map(names.part, folders)), None),
        home=path.parent if own is None else base.joinpath(*folders[: own + 1]),
    )


def _is_of_all_cases(item: Item) -> bool:
    """Whether a folder of DICOM slices is called like one of images and lies where all cases do: no volume of one case."""
    return is_series(item.path) and not item.folders and names.role(item.path.name) == ("image", True)


def _by_name(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Images and masks, where names of files tell."""
    return [item for item in items if not names.is_mask(item.stem)], [item for item in items if names.is_mask(item.stem)]


def _by_folder(found: Found, items: Sequence[Item], base: Path) -> tuple[list[Item], list[Item]]:
    """Images and masks, where names of folders tell; what is called neither are images if nothing else is."""
    masks = [item for item in items if item.role == "mask"]
    images = [item for item in items if item.role == "image"]
    apart = [item for item in items if item.role is None]
    if not images:
        images, apart = apart, []
    _left_out(found, apart, "in no folder of images or masks")
    if (base / "images").is_dir() and any(item.home == base / "masks" for item in masks):  # then nothing else there is a mask
        others = [item for item in masks if item.home.parent == base and item.home.name != "masks"]
        _left_out(found, others, "not in masks/")
        masks = [item for item in masks if item.home.parent != base or item.home.name == "masks"]
    return images, masks


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
    if not labelled:
        return pairs.images
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
        item = _item(path, base)
        if item.role and path.parent in beside and not names.is_about(path.name):
            strange.append(f"{path} is of no kind that is read ({READ}){remedy(path)}")
    for path in tree.odd:
        item = _item(path, base)
        if item.role:
            strange.append(f"{path} is not a file; only images lie in {_within(item.home, base)}/")
    return strange


def _with_classes(found: Found, cases: Sequence[Pairing]) -> tuple[list[Pairing], dict[int, str] | None, dict[Path, int]]:
    """Cases whose masks are understood; where each mask of a case is of a class, the classes and the value of every mask."""
    class_of = _classes([masks for _, masks in cases if len(masks) > 1])
    if class_of is None:
        return _merged(found, cases), None, {}
    named = {item.path: class_of(item) for _, masks in cases for item in masks}
    order = sorted({class_of(item) for _, masks in cases if len(masks) > 1 for item in masks})
    labels = {value: re.sub(r"^\d+[. _-]+", "", name) or name for value, name in enumerate(order, 1)}
    known = {path: order.index(name) + 1 for path, name in named.items() if name in order}
    found.notes.append(f"each mask of a case is of a class of its own: {some(labels.values(), 8)}")
    for path in named:
        if path not in known:
            found.problems.append(f"{path} is of none of the classes that other masks are named after ({some(labels.values(), 8)})")
    return [case for case in cases if all(item.path in known for item in case[1])], labels, known


def _classes(several: Sequence[Sequence[Item]]) -> Callable[[Item], str] | None:
    """What names the class of a mask, its folder or its name, where all cases with several masks have one for each class."""
    if any(len({item.home for item in masks}) > 1 for masks in several):
        return None
    for class_of in (_folder, _own_name):
        named = [[class_of(item) for item in masks] for masks in several]
        counts = Counter(name for found in named for name in found)
        recurring = sum(count > 1 for count in counts.values()) >= len(counts) / 2
        if named and recurring and all(len(set(found)) == len(found) for found in named) and all(map(names.may_be_class, counts)):
            return class_of
    return None


def _folder(item: Item) -> str:
    return item.place[-1] if item.place else ""


def _own_name(item: Item) -> str:
    return re.sub(r"[ _.-]+", " ", names.MASK.sub(" ", names.spaced(item.stem))).strip()


def _merged(found: Found, cases: Sequence[Pairing]) -> list[Pairing]:
    """Cases without those of whose masks one would have to be chosen."""
    merged = []
    several = {id(case): case for case in cases if len(case[1]) > 1}
    for key, (images, masks) in list(several.items()):
        homes = list(dict.fromkeys(item.home for item in masks))
        if len(homes) > 1:
            told = f"{images[0].path} has masks in two folders, {homes[0]} and {homes[1]}"
            found.problems.append(f"{told}; keep the one that is meant, and move the other elsewhere")
        elif not _are_objects(images[0], masks):
            told = f"{masks[1].path} and {masks[0].path.name} are both masks of {images[0].path.name}"
            found.problems.append(f"{told}; keep the one that is meant")
        else:
            merged.append(images[0].path.name)
            del several[key]
    if merged:
        found.notes.append(f"{len(merged):,} images have several masks each, which are merged: {some(merged)}")
    kinds = {
        _folder(masks[0]) for images, masks in cases if images[0].place != masks[0].place and names.may_be_class(_folder(masks[0]))
    }
    if len(kinds) > 1:
        found.notes.append(f"the folders of masks {some(sorted(kinds), 8)} are not told apart: no image has a mask in two of them")
    return [case for case in cases if id(case) not in several]


def _are_objects(image: Item, masks: Sequence[Item]) -> bool:
    """Whether the masks of an image differ by a number behind a word for masks, or are in a folder to themselves."""
    forms = [names.numbered(item.stem) for item in masks]
    if all(forms):
        return len({form[0] for form in forms if form}) == 1 and len({form[1] for form in forms if form}) == len(forms)
    alone = image.place and all(item.home.is_relative_to(image.home.parent) and item.home != image.home for item in masks)
    return bool(alone) and not any(names.tokens(item.stem) == names.tokens(image.stem) for item in masks)


def _identified(cases: Sequence[Pairing]) -> dict[str, Pairing]:
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
    cases: Sequence[Pairing],
    labels: dict[int, str] | None = None,
    values: Mapping[Path, int] | None = None,
    channels: tuple[str, ...] | None = None,
) -> Layout:
    """The layout of cases that are understood."""
    identified = _identified(cases)
    for case_id, (images, masks) in identified.items():
        known = [values[item.path] for item in masks if item.path in values] if values else []
        found.sources[case_id] = Source(
            id=case_id,
            images=tuple(item.path for item in images),
            labels=tuple(item.path for item in masks),
            values=tuple(known),
        )
    if cases and channels:
        found.notes.append(f"the files of a case are its channels, in this order: {', '.join(channels)}")
    found.enough()
    return Layout(
        kind=kind,
        sources=list(found.sources.values()),
        labels=labels,
        channels=channels,
        volumetric=found.volumetric(),
        groups=_patients(found, identified),
        splits=_parts(found, identified),
        notes=found.notes,
        problems=found.problems,
    )


def _patients(found: Found, cases: dict[str, Pairing]) -> dict[str, str]:
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
    return {case_id: groups.get(case_id, case_id) for case_id in cases}


def _parts(found: Found, cases: dict[str, Pairing]) -> dict[str, Split]:
    """The split that folders give: train/ and test/, perhaps with val/; of two parts, the second tests."""
    members: dict[str | None, list[str]] = defaultdict(list)
    for case_id, (images, _) in cases.items():
        members[images[0].part].append(case_id)
    loose = members.pop(None, [])
    if not members:
        return {}
    if loose and "train" not in members:
        members["train"], loose = loose, []
    given = [part for part in PARTS if members.get(part)]
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
