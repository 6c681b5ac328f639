"""What the values in masks mean: classes, soft edges, numbered objects, pixels that nobody judged.

    reading = decide([facts.mask for facts in found], layout.labels, layout.ignored, where="the masks in MyData")
    reading.classes, reading.notes
    label, instances = reading(values, path)

A value is a class where dataset.json (or a list of colours) names it. Where nothing does, the values of all masks together decide:

- One value besides 0, or 1 in some masks and 255 in others, is the class "foreground".
- 255 in masks that hold class numbers from 1 on as well marks pixels that nobody judged.
- Two levels and greys between them that fill no area anywhere are a mask that was resized, or saved as JPEG: half of the higher
  level and above is foreground.
- Objects numbered 1, 2, ... (each one connected part, another number of them in every mask) are one class, objects told apart on
  demand.
- Otherwise every value is a class, up to 31.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from cdal.data.dataset import IGNORED
from cdal.data.own.masks import FEW_OBJECTS, MOST_CLASSES, MaskFacts
from cdal.data.own.reading import Reading, hex_colour, listed
from cdal.errors import InputError

FOREGROUND = "foreground"
_FULL_SCALE = 255  # what tools write for "yes", besides 1 and the highest number of more bits
_SOFT_FROM = 32  # a level below has no room for greys
_AREA = 0.02  # of a value's pixels lie within a square of their own, if it is a class
_LITTLE = 0.005  # of the foreground: what is rarer is no class, whatever it fills
_LOSS = 0.1  # of the higher level, by which JPEG changes values
_CONNECTED = 0.8  # of numbered objects are in one part
_SOME_OBJECTS = 6
_FEW_NUMBERS = 3
_VOC_VOID = 0xE0E0C0
_MOST_COLOURS = 256  # of the objects in a mask; pictures have more


def decide(
    masks: Sequence[MaskFacts],
    names: Mapping[int, str] | None,
    ignored: int | None,
    *,
    where: str,
    files: Sequence[Path] = (),
    declared_by: str = "dataset.json",
    volumetric: bool = False,
    instances: bool | None = None,
    ignore_label: int | None = None,
) -> Reading:
    """What the values of all masks mean.

    Args:
        masks: facts of every mask.
        names: declared names of the foreground values, in the order of the classes; None where nothing declares them.
        ignored: the declared value of pixels that nobody judged.
        where: the masks, in words, for sentences.
        files: their files, for sentences.
        declared_by: what declares the names.
        volumetric: whether masks are volumes, where a fixed number of numbered parts are organs rather than cells.
        instances: whether objects are told apart; None: they are not, and numbered objects are recognised.
        ignore_label: the value of pixels that nobody judged; None recognises it, 0 says that there is none.

    Raises:
        InputError: no foreground, or values that cannot be told to be classes.
    """
    _check_palettes(masks, files)
    if names is not None:
        return _named(masks, names, ignored if ignore_label is None else ignore_label or None, declared_by, instances)
    if len(files) == len(masks) and masks:
        most = max(range(len(masks)), key=lambda number: len(masks[number].values))
        where = f"the masks (such as {files[most]})"
    if any(mask.coloured for mask in masks):
        if ignore_label:
            raise InputError(f"{where} are coloured, so dataset.ignore_label={ignore_label} means none of them; leave it out")
        found = _colours(masks, where, instances)
    else:
        _check_signs(masks, files, where)
        found = _decide_values(masks, where, volumetric, instances, ignore_label)
        if found.at_least is None and not any(0 in mask.values for mask in masks):
            note = f"no pixel of {where} is 0: every pixel belongs to a class, and there is no background"
            found = replace(found, notes=(*found.notes, note))
    folders = {f"{path.parent.parent}/" for path in files} - {"./", "//"}  # notes travel with models, and are read elsewhere
    return replace(found, notes=tuple(reduce(lambda note, folder: note.replace(folder, ""), folders, note) for note in found.notes))


def _check_signs(masks: Sequence[MaskFacts], files: Sequence[Path], where: str) -> None:
    """Refuse values below 0."""
    lowest = [min(mask.values, default=0) for mask in masks]
    if min(lowest, default=0) < 0:
        odd = lowest.index(min(lowest))
        which = str(files[odd]) if len(files) == len(masks) else f"one of {where}"
        raise InputError(
            f"{which} has the value {lowest[odd]}; a mask must hold whole class numbers from 0 on: write 0 there, or 255 where "
            "nobody judged, and see that it is a mask and no image"
        )


def _check_palettes(masks: Sequence[MaskFacts], files: Sequence[Path]) -> None:
    """Refuse indices that stand for one colour in a mask and for another in the next."""
    seen: dict[int, tuple[int, int]] = {}
    for number, mask in enumerate(masks):
        for value, colour in zip(mask.values, mask.palette, strict=False):
            first, meant = seen.setdefault(value, (number, colour))
            if value and colour != meant and len(files) == len(masks):
                raise InputError(
                    f"{files[number]} shows the value {value} as {hex_colour(colour)}, but {files[first].name} as "
                    f"{hex_colour(meant)}: their palettes differ, so their values mean nothing together; save the masks with one "
                    "palette, or as RGB"
                )


def _decide_values(
    masks: Sequence[MaskFacts], where: str, volumetric: bool, instances: bool | None, ignore_label: int | None
) -> Reading:
    several = any(mask.objects for mask in masks)
    plain = [mask for mask in masks if not mask.objects]
    values = sorted({value for mask in plain for value in mask.foreground})
    if not values and not any(mask.foreground for mask in masks):
        raise InputError(f"all {where.removeprefix('the ')} are empty; the pixels of a class need a value above 0")
    told_apart = bool(instances)
    if several:  # files of an object each
        high = max(values, default=1)
        return Reading(classes=(FOREGROUND,), at_least=1, instances=told_apart, numbered=high <= 1 or not plain)
    together = max(len(mask.foreground) for mask in masks)
    if ignore_label is None and _marks_unjudged(masks, values):
        ignore_label = IGNORED
    if ignore_label:
        return _with_unjudged(masks, ignore_label, where, volumetric, instances)
    full_scale = together == 1 and values[-1] >= _FULL_SCALE and (values[0] == 1 or values[-1] > _FULL_SCALE)
    if len(values) == 1 or full_scale:
        notes: tuple[str, ...] = ()
        if len(values) > 1:
            each = " or ".join(map(str, values))
            notes = (f"{where} hold {each}, each mask one of them: one class, {FOREGROUND!r}",)
        return Reading(classes=(FOREGROUND,), at_least=1, instances=told_apart, notes=notes)
    if ignore_label is None and (odd := _of_another_scale(masks, values)):
        others = listed([value for value in values if value != odd])
        raise InputError(
            f"some of {where} hold {odd} alone and others {others}, never together: whether {odd} is a class of its own cannot be "
            f"told; save all masks with the same values, or say it with --set dataset.ignore_label={odd} (nobody judged it) or "
            "dataset.ignore_label=0 (every value is a class)"
        )
    if (level := soft_level(masks, values)) is not None:
        greys = len(values) - 1
        how = "saved as JPEG" if any(mask.lossy for mask in masks) else "resized with interpolation"
        note = (
            f"{where} hold {level} and {greys} grey{'s' * (greys != 1)} below it that fill no area: they were {how}, and are "
            f"read as one class, thresholded at {-(-level // 2)}"
        )
        return Reading(classes=(FOREGROUND,), at_least=-(-level // 2), instances=told_apart, notes=(note,))
    numbered = instances is not False and _numbers_objects(masks, values, volumetric)
    if numbered or (instances and _may_number_objects(masks)):
        most = max(len(mask.foreground) for mask in masks)
        note = f"{where} hold numbered objects (up to {most} in one): they are read as one class, {FOREGROUND!r}"
        if not instances:
            note += "; --set dataset.instances=true scores objects (AJI, PQ), dataset.instances=false makes every value a class"
        return Reading(classes=(FOREGROUND,), at_least=1, instances=told_apart, numbered=True, notes=(note,))
    found = _classes(masks, values, where, told_apart)
    if instances is None and _may_number_objects(masks):
        note = "the values may number objects instead of classes: --set dataset.instances=true reads them so, as one class"
        found = replace(found, notes=(*found.notes, note))
    return found


def _classes(masks: Sequence[MaskFacts], values: Sequence[int], where: str, instances: bool) -> Reading:
    """Every value a class."""
    lossy = any(mask.lossy for mask in masks)
    counts, solid = _totals(masks)
    thin = [value for value in values if solid[value] < _AREA * counts[value]]
    if len(values) > MOST_CLASSES or lossy or (len(thin) > 2 and values[-1] >= _SOFT_FROM and len(thin) > len(values) / 2):
        raise InputError(
            f"{where} hold {len(values) + 1} different values together; they look "
            f"antialiased{', saved with loss' if lossy else ''} or continuous, and must hold whole class numbers: resize masks "
            "by the nearest pixel and save them as PNG"
        )
    notes = []
    if thin and values[-1] >= _SOFT_FROM:
        notes.append(
            f"the value{'s' * (len(thin) > 1)} {listed(thin)} in {where} fill{'s' * (len(thin) == 1)} no area: thin lines, or "
            "edges that a resize has blurred; read as a class"
        )
    if values != list(range(1, len(values) + 1)) or notes:
        notes.append(f"{where} hold the values {listed(values)}, each read as a class")
    labels = {value: number for number, value in enumerate(values, start=1)}
    return Reading(classes=tuple(f"value {value}" for value in values), labels=labels, instances=instances, notes=tuple(notes))


def _named(
    masks: Sequence[MaskFacts], names: Mapping[int, str], ignored: int | None, declared_by: str, instances: bool | None
) -> Reading:
    labels = {value: number for number, value in enumerate(names, start=1)}
    notes = []
    alike = [name for name in names.values() if [other.casefold() for other in names.values()].count(name.casefold()) > 1]
    if alike:
        notes.append(
            f"the classes {', '.join(alike)} differ in capital letters alone: they are kept apart; rename what is the same"
        )
    found = {value for mask in masks for value in mask.foreground} - {ignored}
    if len(names) == 1 and found - {*names} == {IGNORED} and ignored is None and all(len(mask.foreground) < 2 for mask in masks):
        labels[IGNORED] = 1
        notes.append(
            f"masks hold {IGNORED} where {declared_by} names {next(iter(names))}: it is read as {next(iter(names.values()))}"
        )
    if ignored is not None:
        labels[ignored] = IGNORED
        notes.append(f"pixels of the value {ignored} are left out: no loss, no score ({declared_by} names it ignore)")
    if not any(labels.get(value, 0) not in (0, IGNORED) for mask in masks for value in mask.values):
        shown = hex_colour if any(value > _MOST_COLOURS for value in (*names, *found)) else str
        those, theirs = (", ".join(map(shown, values)) or "nothing but 0" for values in (names, sorted(found)[:_SOME_OBJECTS]))
        raise InputError(
            f"no mask holds a class that {declared_by} names ({those}); they hold {theirs}: see that the masks belong to it"
        )
    coloured = any(mask.coloured for mask in masks)
    return Reading(
        classes=tuple(names.values()), labels=labels, coloured=coloured, declared=declared_by, instances=bool(instances),
        notes=tuple(notes),
    )  # fmt: skip


def _colours(masks: Sequence[MaskFacts], where: str, instances: bool | None) -> Reading:
    """Every colour a class; black is the background, or else the most frequent colour."""
    numbers = {value for mask in masks if not (mask.coloured or mask.palette) for value in mask.foreground}
    if odd := [value for value in sorted(numbers) if value < _SOFT_FROM or value > _FULL_SCALE]:
        raise InputError(f"some of {where} are coloured, and others hold the numbers {listed(odd)}; save all of them in one way")
    masks = [mask.as_colours() for mask in masks]
    counts, _ = _totals(masks)
    colours = sorted(counts)
    if max(len(mask.values) for mask in masks) <= _MOST_COLOURS and _differ_from_mask_to_mask(masks):
        raise InputError(
            f"{where} hold {len(colours)} colours, nearly each of them in one mask only: they tell objects apart, and name no "
            "class; save the masks with one colour per class, or with numbered objects"
        )
    if len(colours) > MOST_CLASSES + 1:
        raise InputError(
            f"{where} hold {len(colours)} colours; they look antialiased or like pictures, and a mask holds one plain colour per "
            "class: save them as PNG without smoothing, or as class numbers"
        )
    if not any(colour & 0xFEFEFE for colour in colours):
        raise InputError(
            f"{where} have channels of 0 and 1 that differ, as where each channel is a class (one-hot); save one number per pixel, "
            "for example by numpy.argmax over the channels"
        )
    background = 0 if 0 in counts else max(colours, key=lambda colour: counts[colour])
    void = {_VOC_VOID} & counts.keys() if background == 0 and len(colours) > 2 else set()
    classes = [colour for colour in colours if colour != background and colour not in void]
    labels = {colour: number for number, colour in enumerate(classes, start=1)} | {background: 0} | dict.fromkeys(void, IGNORED)
    note = f"{where} are coloured: each of {len(classes)} colours is read as a class, {hex_colour(background)} as the background"
    if void:
        note += f"; {hex_colour(_VOC_VOID)}, VOC's colour of borders, is left out: no loss, no score"
    return Reading(classes=tuple(map(hex_colour, classes)), labels=labels, coloured=True, instances=bool(instances), notes=(note,))


def _marks_unjudged(masks: Sequence[MaskFacts], values: Sequence[int]) -> bool:
    """Whether 255 stands beside class numbers 1, 2, ... in most masks that hold it, as in PASCAL VOC."""
    classes = [value for value in values if value != IGNORED]
    low = IGNORED in values and bool(classes) and max(classes) <= MOST_CLASSES
    holding = [mask for mask in masks if IGNORED in mask.values]
    beside = sum(len(mask.foreground) > 1 for mask in holding)
    return low and beside > len(holding) / 2 and not any(mask.lossy for mask in masks)


def _with_unjudged(masks: Sequence[MaskFacts], ignored: int, where: str, volumetric: bool, instances: bool | None) -> Reading:
    """What is left without the pixels that nobody judged, read as any masks are."""
    rest = [mask.without(ignored) for mask in masks]
    if not any(mask.foreground for mask in rest):
        raise InputError(
            f"{where} hold no class besides the ignored value {ignored}; say with dataset.ignore_label what is ignored"
        )
    found = _decide_values(rest, where, volumetric, instances, 0)
    total = sum(sum(mask.counts) for mask in masks)
    share = total - sum(sum(mask.counts) for mask in rest)
    note = (
        f"pixels of the value {ignored} ({share / total:.2%}) are left out: no loss, no score; "
        "--set dataset.ignore_label=0 reads them as a class"
        if share
        else f"no pixel of {where} has the value {ignored}, which dataset.ignore_label leaves out"
    )
    return replace(found, labels={**found.labels, ignored: IGNORED}, notes=(note, *found.notes))


def soft_level(masks: Sequence[MaskFacts], values: Sequence[int]) -> int | None:
    """The higher one of two levels, where all other values are edges between them; None where they are not."""
    level = values[-1]
    lossy = any(mask.lossy for mask in masks)
    if level < _SOFT_FROM or any(mask.foreground and mask.values[-1] * 2 < level and mask.solid[-1] for mask in masks):
        return None  # a mask on another scale would become empty
    counts, solid = _totals(masks)
    if len(values) < 3 and not lossy and counts[values[0]] > _LITTLE * counts[level]:
        return None
    foreground = sum(counts[value] for value in values if value * 2 >= level)
    margin = _LOSS * level if lossy else 0
    between = [value for value in values if margin < value < level - margin]
    areas = [value for value in between if solid[value] >= _AREA * counts[value] and counts[value] > _LITTLE * foreground]
    little = sum(counts[value] for value in between) <= foreground
    return level if not areas and little and (lossy or solid[level] > 0) else None


def _numbers_objects(masks: Sequence[MaskFacts], values: Sequence[int], volumetric: bool) -> bool:
    """Whether values number the objects of each mask."""
    filled = [mask for mask in masks if mask.foreground and mask.whole >= 0]
    sizes = [len(mask.foreground) for mask in filled]
    if not sizes or sum(mask.whole for mask in filled) < _CONNECTED * sum(sizes):
        return False
    if len(values) > MOST_CLASSES:
        return True
    if _differ_from_mask_to_mask(filled):
        return True
    in_a_row = sum(_in_a_row(mask) for mask in filled) >= _CONNECTED * len(filled)
    many = max(sizes) >= (FEW_OBJECTS if len(set(sizes)) > 1 else _SOME_OBJECTS)
    return in_a_row and many and (len(set(sizes)) > 1 or not volumetric)


def _may_number_objects(masks: Sequence[MaskFacts]) -> bool:
    """Whether values could number objects, though they may as well be classes: as many as come, or one part each."""
    filled = [mask for mask in masks if mask.foreground]
    if len({tuple(mask.foreground) for mask in filled}) < 2 or max(len(mask.foreground) for mask in filled) < _FEW_NUMBERS:
        return False
    looked_at = [mask for mask in filled if mask.whole >= 0]
    one_part = sum(mask.whole for mask in looked_at) >= _CONNECTED * sum(len(mask.foreground) for mask in looked_at)
    return one_part and (bool(looked_at) or all(map(_in_a_row, filled)))


def _in_a_row(mask: MaskFacts) -> bool:
    return mask.foreground == list(range(1, len(mask.foreground) + 1))


def _differ_from_mask_to_mask(masks: Sequence[MaskFacts]) -> bool:
    """Whether nearly every value is in one mask only, as numbers or colours drawn for every object are."""
    owners = Counter(value for mask in masks for value in mask.foreground)
    return (
        len(masks) > 2 and len(owners) > 2 * len(masks) and sum(count == 1 for count in owners.values()) >= _CONNECTED * len(owners)
    )


def _of_another_scale(masks: Sequence[MaskFacts], values: Sequence[int]) -> int | None:
    """1 or the highest value, where masks hold it alone and others hold none of it, but values of another scale."""
    if len(values) > MOST_CLASSES:
        return None
    for value, apart in ((1, values[-1] >= _SOFT_FROM), (values[-1], values[-1] >= _FULL_SCALE and values[0] < _SOFT_FROM)):
        holding = [mask for mask in masks if value in mask.values]
        if apart and holding and all(mask.foreground == [value] for mask in holding):
            return value
    return None


def _totals(masks: Sequence[MaskFacts]) -> tuple[dict[int, int], dict[int, int]]:
    """Pixels, and solid ones, of every value in all masks."""
    counts: dict[int, int] = {}
    solid: dict[int, int] = {}
    for mask in masks:
        for value, count, own in zip(mask.values, mask.counts, mask.solid, strict=True):
            counts[value] = counts.get(value, 0) + count
            solid[value] = solid.get(value, 0) + own
    return counts, solid
