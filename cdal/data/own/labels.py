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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cdal.data.dataset import IGNORED, LabelArray
from cdal.errors import InputError

Values = npt.NDArray[np.integer[Any]]
Instances = npt.NDArray[np.int32]

FOREGROUND = "foreground"
MOST_CLASSES = 31  # where nothing names them
MOST_VALUES = 20_000  # that are noted of a mask; more are no class numbers, and hardly objects
_FULL_SCALE = {1, 255, 65535}  # what tools write for "yes"
_SOFT_FROM = 32  # a level below has no room for greys
_AREA = 0.02  # of a value's pixels lie within a square of their own, if it is a class
_LITTLE = 0.005  # of the foreground: what is rarer is no class, whatever it fills
_LOSS = 0.1  # of the higher level, by which JPEG changes values
_CONNECTED = 0.8  # of numbered objects are in one part
_FEW_OBJECTS, _SOME_OBJECTS = 4, 6
_MOST_BOXES = 16  # times the pixels of a mask, that its objects' bounding boxes may have together, to be looked into
_ALL_NEIGHBOURS = {2: np.ones((3, 3), bool), 3: np.ones((3, 3, 3), bool)}


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """The values of a mask as it is stored; plain numbers."""

    values: Sequence[int]
    """In ascending order, the first 20,000."""
    counts: Sequence[int]
    """How many pixels have each."""
    solid: Sequence[int]
    """How many of those have eight neighbours of the same value."""
    whole: int = -1
    """How many of the values above 0 form one connected part; -1 where it was not looked at."""
    coloured: bool = False
    """Values are 65536 red + 256 green + blue."""
    lossy: bool = False
    """Stored as JPEG."""
    objects: bool = False
    """Put together from files that hold an object each, which are numbered."""

    @property
    def foreground(self) -> list[int]:
        """The values besides 0."""
        return [value for value in self.values if value]


def mask_facts(values: Values, *, coloured: bool = False, lossy: bool = False, objects: bool = False) -> MaskFacts:
    """Look at a mask (H, W) or (D, H, W)."""
    flat = values.dtype == np.uint8
    if flat:
        numbers = sum((np.bincount(part.ravel(), minlength=256) for part in values), np.zeros(256, np.int64))
        distinct = np.flatnonzero(numbers)
        counts = numbers[distinct]
    else:
        distinct, counts = np.unique(values, return_counts=True)
    distinct, counts = distinct[:MOST_VALUES], counts[:MOST_VALUES]
    solid = counts
    if len(distinct) > 2:
        inner = _inner(values if values.ndim == 3 else values[None])
        if flat:
            solid = np.bincount(inner, minlength=256)[distinct]
        else:
            own, times = np.unique(inner, return_counts=True)
            solid = np.zeros_like(counts)
            solid[np.isin(distinct, own)] = times[np.isin(own, distinct)]
    return MaskFacts(
        values=distinct.tolist(),
        counts=counts.tolist(),
        solid=solid.tolist(),
        whole=-1 if coloured else _whole(values, distinct[distinct > 0]),
        coloured=coloured,
        lossy=lossy,
        objects=objects,
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the values of all masks of a dataset mean."""

    classes: tuple[str, ...]
    labels: Mapping[int, int] = field(default_factory=dict)
    """The label that each value becomes, `IGNORED` among them; 0 becomes 0 where it is not named."""
    at_least: int | None = None
    """Values from this one on are class 1; `labels` is empty then."""
    coloured: bool = False
    """Masks are read as colours."""
    instances: bool = False
    """Whether objects are told apart."""
    numbered: bool = False
    """Values number the objects; otherwise connected parts are objects."""
    declared: str = ""
    """What names the values, such as dataset.json; "" where they were found in the masks."""
    notes: tuple[str, ...] = ()

    @property
    def has_ignored(self) -> bool:
        """Whether pixels may be `IGNORED`."""
        return IGNORED in self.labels.values()

    def __call__(self, values: Values, path: Path) -> tuple[LabelArray, Instances | None]:
        """The label of a mask, and its objects where they are told apart, in the shape of the values.

        Raises:
            InputError: a value that is not among those that were declared, or that were found.
        """
        label = self._label(values, path)
        if not self.instances:
            return label, None
        if self.numbered:
            return label, np.where(label > 0, values, 0).astype(np.int32)
        parts = np.zeros(values.shape, np.int32)
        for value in range(1, len(self.classes) + 1):
            own, count = ndimage.label(label == value, _ALL_NEIGHBOURS[label.ndim], output=np.int32)[:2]
            parts += np.where(own > 0, own + (parts.max() if count else 0), 0).astype(np.int32)
        return label, parts

    def present(self, mask: MaskFacts) -> frozenset[int]:
        """The labels that a mask has, background and ignored pixels aside."""
        return frozenset(map(self._one, mask.values)) - {0, IGNORED}

    def refusal(self, mask: MaskFacts, path: Path) -> str | None:
        """A sentence on the first value of a mask that was not declared; None where all were."""
        if self.at_least is not None:
            return None
        return next((self._unknown(path, value) for value in mask.values if value and value not in self.labels), None)

    def counts(self, mask: MaskFacts) -> npt.NDArray[np.int64]:
        """How many pixels of a mask have each label (256,); those of values that mean nothing count as background."""
        counts = np.zeros(256, np.int64)
        for value, count in zip(mask.values, mask.counts, strict=True):
            counts[self._one(value)] += count
        return counts

    def lenient(self, values: Values) -> LabelArray:
        """The label of a mask for a picture: values that mean nothing become background."""
        distinct, places = np.unique(values, return_inverse=True)
        becomes: LabelArray = np.array([self._one(int(value)) for value in distinct], np.uint8)
        return becomes[places].reshape(values.shape)

    def recipe(self) -> list[Any]:
        """All that decides a label besides the file, for the cache."""
        return [sorted(self.labels.items()), self.at_least, self.coloured, self.instances, self.numbered]

    def _one(self, value: int) -> int:
        """The label of a value, 0 where it means nothing."""
        return self.labels.get(value, 0) if self.at_least is None else int(value >= self.at_least)

    def _label(self, values: Values, path: Path) -> LabelArray:
        if self.at_least is not None:
            return (values >= self.at_least).astype(np.uint8)
        known = np.array(sorted({0, *self.labels} if not self.coloured else self.labels), np.int64)
        becomes = np.array([self.labels.get(int(value), 0) for value in known], np.uint8)
        if values.size and values.min() >= 0 and known.max() < 2**16 and values.max() < 2**16:  # a table is faster than a search
            table = np.zeros(2**16, np.uint8)
            table[known] = becomes
            unknown = np.ones(2**16, bool)
            unknown[known] = False
            wrong = unknown[values]
            label: LabelArray = table[values]
        else:
            place = np.clip(np.searchsorted(known, values), 0, len(known) - 1)
            wrong = known[place] != values
            label = becomes[place]
        if wrong.any():
            raise InputError(self._unknown(path, int(values[wrong][0])))
        return label

    def _unknown(self, path: Path, value: int) -> str:
        if self.declared:
            return f"{path} has the label {value}; {self.declared} declares {_listed(sorted({0, *self.labels}))}"
        return f"{path} has the value {value}; a mask must hold whole class numbers from 0 to 255"


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
    if names is not None:
        return _named(masks, names, ignored if ignore_label is None else ignore_label or None, declared_by, instances)
    if len(files) == len(masks) and masks:
        most = max(range(len(masks)), key=lambda number: len(masks[number].values))
        where = f"{where} (such as {files[most].name})"
    if any(mask.coloured for mask in masks):
        return _colours(masks, where, instances)
    found = _decide_values(masks, where, volumetric, instances, ignore_label)
    bare = sum(0 not in mask.values for mask in masks)
    if bare == len(masks) and found.at_least is None:
        note = f"no pixel of {where} is 0: every pixel belongs to a class, and there is no background"
        found = _with_notes(found, note)
    return found


def _decide_values(
    masks: Sequence[MaskFacts], where: str, volumetric: bool, instances: bool | None, ignore_label: int | None
) -> Reading:
    negative = min((value for mask in masks for value in mask.values), default=0)
    if negative < 0:
        raise InputError(f"{where} hold the value {negative}; a mask must hold whole class numbers from 0 on")
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
    full_scale = together == 1 and set(values) <= _FULL_SCALE
    if len(values) == 1 or full_scale:
        notes: tuple[str, ...] = ()
        if len(values) > 1:
            each = " or ".join(map(str, values))
            notes = (f"{where} hold {each}, each mask one of them: one class, {FOREGROUND!r}",)
        return Reading(classes=(FOREGROUND,), at_least=1, instances=told_apart, notes=notes)
    if ignore_label is None and _marks_unjudged(masks, values):
        ignore_label = IGNORED
    if ignore_label:
        return _with_unjudged(masks, values, ignore_label, where, told_apart)
    if (level := _soft_level(masks, values)) is not None:
        greys = len(values) - 1
        how = "saved as JPEG" if any(mask.lossy for mask in masks) else "resized with interpolation"
        note = (
            f"{where} hold {level} and {greys} greys below it that fill no area: they were {how}, and are read as one class, "
            f"thresholded at {-(-level // 2)}"
        )
        return Reading(classes=(FOREGROUND,), at_least=-(-level // 2), instances=told_apart, notes=(note,))
    if instances is not False and _numbers_objects(masks, values, volumetric):
        most = max(len(mask.foreground) for mask in masks)
        note = f"{where} hold numbered objects (up to {most} in one): they are read as one class, {FOREGROUND!r}"
        if not instances:
            note += "; --set dataset.instances=true scores objects (AJI, PQ), dataset.instances=false makes every value a class"
        return Reading(classes=(FOREGROUND,), at_least=1, instances=told_apart, numbered=True, notes=(note,))
    return _classes(masks, values, where, told_apart)


def _classes(masks: Sequence[MaskFacts], values: Sequence[int], where: str, instances: bool) -> Reading:
    """Every value a class."""
    lossy = any(mask.lossy for mask in masks)
    counts, solid = _totals(masks)
    thin = [value for value in values if solid[value] < _AREA * counts[value]]
    if len(values) > MOST_CLASSES or lossy or (len(thin) > 2 and values[-1] >= _SOFT_FROM and len(thin) > len(values) / 2):
        raise InputError(
            f"{where} hold {len(values) + 1} different values together; they look "
            f"antialiased{', saved with loss' if lossy else ''} or continuous, and must hold whole class numbers: resize masks by the nearest pixel and save them as PNG"
        )
    notes = []
    if thin and values[-1] >= _SOFT_FROM:
        notes.append(
            f"the value{'s' * (len(thin) > 1)} {_listed(thin)} in {where} fill{'s' * (len(thin) == 1)} no area: thin lines, or "
            "edges that a resize has blurred; read as a class"
        )
    if values != list(range(1, len(values) + 1)) or notes:
        notes.append(f"{where} hold the values {_listed(values)}, each read as a class")
    labels = {value: number for number, value in enumerate(values, start=1)}
    return Reading(classes=tuple(f"value {value}" for value in values), labels=labels, instances=instances, notes=tuple(notes))


def _named(
    masks: Sequence[MaskFacts], names: Mapping[int, str], ignored: int | None, declared_by: str, instances: bool | None
) -> Reading:
    labels = {value: number for number, value in enumerate(names, start=1)}
    notes = []
    if ignored is not None:
        labels[ignored] = IGNORED
        notes.append(f"pixels of the value {ignored} are left out: no loss, no score ({declared_by} names it ignore)")
    if not any(labels.get(value, 0) not in (0, IGNORED) for mask in masks for value in mask.values):
        raise InputError(f"no mask holds a class that {declared_by} names ({_listed([*names])})")
    coloured = any(mask.coloured for mask in masks)
    if coloured:
        labels.setdefault(0, 0)
    return Reading(
        classes=tuple(names.values()), labels=labels, coloured=coloured, declared=declared_by, instances=bool(instances),
        notes=tuple(notes),
    )  # fmt: skip


def _colours(masks: Sequence[MaskFacts], where: str, instances: bool | None) -> Reading:
    """Every colour a class; black is the background, or else the most frequent colour."""
    counts, _ = _totals(masks)
    colours = sorted(counts)
    if len(colours) > MOST_CLASSES + 1:
        raise InputError(
            f"{where} hold {len(colours)} colours; they look antialiased or like pictures, and a mask holds one plain colour per "
            "class: save them as PNG without smoothing, or as class numbers"
        )
    background = 0 if 0 in counts else max(colours, key=lambda colour: counts[colour])
    classes = [colour for colour in colours if colour != background]
    labels = {colour: number for number, colour in enumerate(classes, start=1)} | {background: 0}
    note = f"{where} are coloured: each of {len(classes)} colours is read as a class, {_hex(background)} as the background"
    return Reading(classes=tuple(map(_hex, classes)), labels=labels, coloured=True, instances=bool(instances), notes=(note,))


def _marks_unjudged(masks: Sequence[MaskFacts], values: Sequence[int]) -> bool:
    """Whether 255 stands beside class numbers 1, 2, ... in the same mask, as in PASCAL VOC."""
    classes = [value for value in values if value != IGNORED]
    low = IGNORED in values and bool(classes) and max(classes) <= MOST_CLASSES
    beside = sum(IGNORED in mask.values and len(mask.foreground) > 1 for mask in masks)
    return low and beside > 0 and not any(mask.lossy for mask in masks)


def _with_unjudged(masks: Sequence[MaskFacts], values: Sequence[int], ignored: int, where: str, instances: bool) -> Reading:
    classes = [value for value in values if value != ignored]
    if not classes:
        raise InputError(f"{where} hold no class besides the ignored value {ignored}")
    names = (FOREGROUND,) if len(classes) == 1 else tuple(f"value {value}" for value in classes)
    labels = {value: number for number, value in enumerate(classes, start=1)} | {ignored: IGNORED}
    share = sum(mask.counts[list(mask.values).index(ignored)] for mask in masks if ignored in mask.values)
    total = sum(sum(mask.counts) for mask in masks)
    note = (
        f"pixels of the value {ignored} ({share / total:.2%}) are left out: no loss, no score; "
        "--set dataset.ignore_label=0 reads them as a class"
    )
    return Reading(classes=names, labels=labels, instances=instances, notes=(note,))


def _soft_level(masks: Sequence[MaskFacts], values: Sequence[int]) -> int | None:
    """The higher one of two levels, where all other values are edges between them; None where they are not."""
    level = values[-1]
    lossy = any(mask.lossy for mask in masks)
    if level < _SOFT_FROM or (len(values) < 3 and not lossy):
        return None
    counts, solid = _totals(masks)
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
    in_a_row = sum(mask.foreground == list(range(1, len(mask.foreground) + 1)) for mask in filled) >= _CONNECTED * len(filled)
    many = max(sizes) >= (_FEW_OBJECTS if len(set(sizes)) > 1 else _SOME_OBJECTS)
    return in_a_row and many and (len(set(sizes)) > 1 or not volumetric)


def _totals(masks: Sequence[MaskFacts]) -> tuple[dict[int, int], dict[int, int]]:
    """Pixels, and solid ones, of every value in all masks."""
    counts: dict[int, int] = {}
    solid: dict[int, int] = {}
    for mask in masks:
        for value, count, own in zip(mask.values, mask.counts, mask.solid, strict=True):
            counts[value] = counts.get(value, 0) + count
            solid[value] = solid.get(value, 0) + own
    return counts, solid


def _inner(values: Values) -> Values:
    """The values (N,) of the pixels of (D, H, W) whose eight neighbours in their slice are the same."""
    beside = values[:, :, 1:] == values[:, :, :-1]
    rows = beside[:, :, 1:] & beside[:, :, :-1]  # three in a row, (D, H, W - 2)
    above = values[:, 1:, 1:-1] == values[:, :-1, 1:-1]
    block = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:] & above[:, 1:] & above[:, :-1]
    found: Values = values[:, 1:-1, 1:-1][block]
    return found


def _whole(values: Values, distinct: Values) -> int:
    """How many values form one connected part; -1 where that could not tell numbered objects from classes, or takes too long."""
    count = len(distinct)
    enough = _FEW_OBJECTS if values.ndim == 2 else MOST_CLASSES
    if count < enough or count >= MOST_VALUES:
        return -1
    ranks = np.searchsorted(distinct, values) + 1
    ranks[values <= 0] = 0
    boxes = ndimage.find_objects(ranks, count)
    pixels = sum(int(np.prod([side.stop - side.start for side in box])) for box in boxes if box)
    if pixels > _MOST_BOXES * values.size:
        return -1
    structure = _ALL_NEIGHBOURS[values.ndim]
    return sum(ndimage.label(ranks[box] == number, structure)[1] == 1 for number, box in enumerate(boxes, start=1) if box)


def _with_notes(reading: Reading, *notes: str) -> Reading:
    from dataclasses import replace

    return replace(reading, notes=(*reading.notes, *notes))


def _hex(colour: int) -> str:
    return f"#{colour:06x}"


def _listed(values: Sequence[int]) -> str:
    """1 to 3; or 0, 1 and 4."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    shown = [str(value) for value in values[:8]] + (["..."] if len(values) > 8 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
