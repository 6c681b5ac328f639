"""What the values of masks mean, once that is decided: labels and objects of a mask.

label, instances = reading(values, path)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cdal.data.dataset import IGNORED, LabelArray
from cdal.data.own.masks import ALL_NEIGHBOURS, MaskFacts, Values
from cdal.errors import InputError

Instances = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the values of all masks of a dataset mean."""

    classes: tuple[str, ...]
    labels: Mapping[int, int] = field(default_factory=dict)
    """The label that each value becomes, `IGNORED` among them; 0 becomes 0 where it is not named."""
    at_least: int | None = None
    """Values from this one on are class 1; `labels` holds only what is `IGNORED` then."""
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
        label = np.stack([self._label(plane, path) for plane in values])  # one by one: a table takes eight bytes for every voxel
        if not self.instances:
            return label, None
        if self.numbered:
            return label, np.where((label > 0) & (label != IGNORED), values, 0).astype(np.int32)
        parts = np.zeros(values.shape, np.int32)
        for value in range(1, len(self.classes) + 1):
            own, count = ndimage.label(label == value, ALL_NEIGHBOURS[label.ndim], output=np.int32)[:2]
            parts += np.where(own > 0, own + (parts.max() if count else 0), 0).astype(np.int32)
        return label, parts

    def present(self, mask: MaskFacts) -> frozenset[int]:
        """The labels that a mask has, background and ignored pixels aside."""
        return frozenset(map(self._one, self._values(mask))) - {0, IGNORED}

    def refusal(self, mask: MaskFacts, path: Path) -> str | None:
        """A sentence on the first value of a mask that was not declared, or on one that nobody judged; None where all is well."""
        values = self._values(mask)
        if values and all(self._one(value) == IGNORED and value in self.labels for value in values):
            return f"every pixel of {path} is ignored ({listed(list(values))}): nothing to learn or to score; leave the case out"
        if self.at_least is not None:
            return None
        return next((self._unknown(path, value) for value in values if value and value not in self.labels), None)

    def counts(self, mask: MaskFacts) -> npt.NDArray[np.int64]:
        """How many pixels of a mask have each label (256,); those of values that mean nothing count as background."""
        counts = np.zeros(256, np.int64)
        for value, count in zip(self._values(mask), mask.counts, strict=True):
            counts[self._one(value)] += count
        return counts

    def lenient(self, values: Values) -> LabelArray:
        """The label of a mask for a picture: values that mean nothing become background."""
        if values.dtype == np.uint8:
            table: LabelArray = np.array([self._one(value) for value in range(256)], np.uint8)
            return table[values]
        distinct, places = np.unique(values, return_inverse=True)
        becomes: LabelArray = np.array([self._one(int(value)) for value in distinct], np.uint8)
        return becomes[places].reshape(values.shape)

    def recipe(self) -> list[Any]:
        """All that decides a label besides the file, for the cache."""
        return [sorted(self.labels.items()), self.at_least, self.coloured, self.instances, self.numbered]

    def _one(self, value: int) -> int:
        """The label of a value, 0 where it means nothing."""
        return self.labels.get(value, int(self.at_least is not None and value >= self.at_least))

    def _values(self, mask: MaskFacts) -> Sequence[int]:
        return (mask.as_colours() if self.coloured else mask).values

    def _label(self, values: Values, path: Path) -> LabelArray:
        if self.at_least is not None:
            found: LabelArray = (values >= self.at_least).astype(np.uint8)
            for value, number in self.labels.items():
                found[values == value] = number
            return found
        known = np.array(sorted({0, *self.labels}), np.int64)
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
        if self.declared and self.coloured:
            names = ", ".join(map(hex_colour, sorted({0, *self.labels})))
            return f"{path} has the colour {hex_colour(value)}; {self.declared} declares {names}: add it there, or repaint it"
        if self.declared:
            return f"{path} has the label {value}; {self.declared} declares {listed(sorted({0, *self.labels}))}"
        return f"{path} has the value {value}; a mask must hold whole class numbers from 0 to 255"


def hex_colour(colour: int) -> str:
    """A colour as #rrggbb."""
    return f"#{colour:06x}"


def listed(values: Sequence[int]) -> str:
    """1 to 3; or 0, 1 and 4."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    shown = [str(value) for value in values[:8]] + (["..."] if len(values) > 8 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
