"""The values of one mask as they are stored, counted.

facts = mask_facts(values)      # (H, W) or (D, H, W) whole numbers
facts.values, facts.counts, facts.solid
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Values = npt.NDArray[np.integer[Any]]

MOST_CLASSES = 31  # where nothing names them
MOST_VALUES = 20_000  # that are noted of a mask; more are no class numbers, and hardly objects
FEW_OBJECTS = 4
ALL_NEIGHBOURS = {2: np.ones((3, 3), bool), 3: np.ones((3, 3, 3), bool)}
_MOST_BOXES = 16  # times the pixels of a mask, that its objects' bounding boxes may have together, to be looked into


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
    palette: Sequence[int] = ()
    """Colours of the values, where the mask is stored with a palette."""

    @property
    def foreground(self) -> list[int]:
        """The values besides 0."""
        return [value for value in self.values if value]

    def without(self, ignored: int) -> "MaskFacts":
        """The facts of all pixels but those of one value."""
        kept = [place for place, value in enumerate(self.values) if value != ignored]
        values, counts, solid = ([row[place] for place in kept] for row in (self.values, self.counts, self.solid))
        return replace(self, values=values, counts=counts, solid=solid, whole=min(self.whole, len(values)))

    def as_colours(self) -> "MaskFacts":
        """The facts of a grey mask, or of one with a palette, among coloured ones."""
        if self.coloured:
            return self
        known = self.palette and -1 not in self.palette
        return replace(self, values=list(self.palette) if known else [value * 0x010101 for value in self.values], coloured=True)


def mask_facts(
    values: Values, *, coloured: bool = False, lossy: bool = False, objects: bool = False, palette: Sequence[int] = ()
) -> MaskFacts:
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
        inner = np.concatenate([_inner(plane[None]) for plane in (values if values.ndim == 3 else values[None])])
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
        palette=[palette[value] if value < len(palette) else -1 for value in distinct.tolist()] if len(palette) else [],
    )


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
    enough = FEW_OBJECTS if values.ndim == 2 else MOST_CLASSES
    if count < enough or count >= MOST_VALUES:
        return -1
    ranks = np.searchsorted(distinct, values) + 1
    ranks[values <= 0] = 0
    boxes = ndimage.find_objects(ranks, count)
    pixels = sum(int(np.prod([side.stop - side.start for side in box])) for box in boxes if box)
    if pixels > _MOST_BOXES * values.size:
        return -1
    structure = ALL_NEIGHBOURS[values.ndim]
    return sum(ndimage.label(ranks[box] == number, structure)[1] == 1 for number, box in enumerate(boxes, start=1) if box)
