"""What every dataset is: a description, three disjoint splits per fold, and cases.

Axes: C image channels, D axial slices (1 for a 2D image), H and W pixels of a slice, S side of a training sample, N samples.

A case holds its image as decoded, resized and laid out, in bytes or floats; `DatasetSpec.normalise` makes of it what a model reads.
So arrays stay small on disk and on the way to a GPU, and colours can be changed at random before they are normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cdal.devices.transfer import constants
from cdal.errors import InputError

ImageArray = npt.NDArray[Any]
LabelArray = npt.NDArray[np.uint8]
SplitName = Literal["train", "validation", "test"]
PARTS: tuple[SplitName, ...] = ("train", "validation", "test")
Plane = Literal["axial", "coronal", "sagittal"]
Window = tuple[float, float]

IGNORED = 255
"""Label of pixels that nobody judged: they take no part in losses, scores and pictures."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a decoded image becomes the image of a case, and that what a model reads: enough to give a trained model new files."""

    size: tuple[int, int] | None = None
    """(H, W) that every 2D image is resized to, whatever its aspect; None keeps its own size."""
    longest_side: int | None = None
    """Larger 2D images are reduced, keeping their aspect, until their longer side has this many pixels."""
    scaling: Literal["bytes", "range", "percentiles"] = "range"
    """What a case holds. `bytes`: the 8-bit values as they are; `range`: floats, lowest value of the case at -1 and highest at 1;
    `percentiles`: the same from the 0.5th to the 99.5th percentile, clipped."""
    windows: tuple[Window | None, ...] = ()
    """Per image channel, the values that become -1 and 1, clipped, the same in every case (CT); None: as `scaling` says."""
    plane: Plane = "axial"
    """Which slices of a volume are cut. A volume with an axis of length 1 is cut across that one."""
    spacing: tuple[float, float] | None = None
    """Distance of neighbouring pixels along H and W that slices of volumes are resampled to, mm; None keeps the file's own grid."""
    mean: tuple[float, ...] = (0.0,)
    """Per image channel, or one for all: a model reads (value - mean) / std."""
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training samples, drawn anew for every sample. The default changes nothing."""

    flips: bool = False
    """Left-right and up-down, each with a chance of one half."""
    rotation: float = 0.0
    """Largest angle, degrees."""
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    """Values, taken from 0 to 1, are multiplied by a factor from 1 - brightness to 1 + brightness."""
    contrast: float = 0.0
    """Distances from the sample's mean are multiplied by a factor from 1 - contrast to 1 + contrast."""
    saturation: float = 0.0
    """Distances from grey, likewise; images of three channels only."""
    hue: float = 0.0
    """Largest turn of the colour circle, as a fraction of it; images of three channels only."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a model and a reader must know of a dataset before seeing a case."""

    name: str
    image_channels: int
    classes: tuple[str, ...]
    """Names of the foreground classes; class i of this tuple has label i + 1, the background has label 0."""
    image_size: int
    """Side S of the square training samples, pixels."""
    volumetric: bool
    """Cases are volumes, cut into axial slices; otherwise they are images with D = 1."""
    sample_depth: int = 1
    """Neighbouring slices that a crop holds; every slice is a training sample."""
    folds: tuple[str, ...]
    """What each fold is, in words; fold k is number k."""
    protocol: str
    """How cases become training samples and splits, in words, for the leaderboard."""
    licence: str
    foreground: Literal[1, -1] = 1
    """Value of the foreground in a mask of one channel. The published chest X-ray weights need -1."""
    preparation: Preparation = field(default_factory=Preparation)
    augmentation: Augmentation = field(default_factory=Augmentation)
    has_ignored: bool = False
    """Whether some label has pixels that are `IGNORED`."""
    notes: tuple[str, ...] = ()
    """What was found in the data and decided for their user, a sentence each."""

    @property
    def mask_channels(self) -> int:
        """1 for one foreground class, otherwise one per class and one for the background."""
        return 1 if len(self.classes) == 1 else len(self.classes) + 1

    def normalise(self, samples: Tensor) -> Tensor:
        """Stored values of samples or slices (N, C, H, W) to what a model reads: float32, near [-1, 1]."""
        mean, std = (constants(values, samples.device).view(-1, 1, 1) for values in (self.preparation.mean, self.preparation.std))
        return (samples.float() - mean) / std

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetSpec:
        """Inverse of `dataclasses.asdict`, also after a way through JSON."""
        preparation, augmentation = (_tuples(values.get(part) or {}) for part in ("preparation", "augmentation"))
        parts = {"preparation": Preparation(**preparation), "augmentation": Augmentation(**augmentation)}
        return cls(**(_tuples(values) | parts))


@dataclass(frozen=True, kw_only=True)
class Split:
    """Ids of the cases of one fold. The search may look at train and validation; test is touched once, by finalists."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        together = self.train + self.validation + self.test
        assert len(set(together)) == len(together), "the splits of a fold share a case"

    def __getitem__(self, name: SplitName) -> tuple[str, ...]:
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One whole image or volume, shared between its readers and perhaps a map of a file: do not write into its tensors."""

    id: str
    image: Tensor
    """(C, D, H, W), uint8 or float32, as `Preparation.scaling` says."""
    label: Tensor
    """(D, H, W) uint8, on the grid of the image: 0 background, i + 1 the i-th class of the dataset, or `IGNORED`."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Distance of neighbouring voxels along D, H and W on the grid of `truth`, mm; 1 where the format tells none."""
    instances: Tensor | None = None
    """(D, H, W) int32 on the grid of `truth`: 0 background, every object its own number; None where the dataset does not tell
    objects apart."""
    native: Tensor | None = None
    """The label on the grid of the file, (D, H', W') uint8, where image and label were resampled; None where they were not."""

    @property
    def truth(self) -> Tensor:
        """The label that predictions are scored against, on the grid of the file."""
        return self.label if self.native is None else self.native


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of one case."""

    id: str
    images: tuple[Path, ...]
    """One file, or one per image channel."""
    labels: tuple[Path, ...]
    """One file, or several that together make the mask."""
    values: tuple[int, ...] = ()
    """The value of each label file, where each holds one class; () where a file holds values, or files hold an object each."""


class Dataset(Protocol):
    """The interface that training, evaluation and the search use."""

    @property
    def spec(self) -> DatasetSpec:
        """The description of the dataset."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """Stable ids of all cases, in the order that the folds are cut from."""
        ...

    @property
    def groups(self) -> Mapping[str, str]:
        """What each case belongs to, such as its patient; no group is in two parts of a fold. Empty where cases stand alone."""
        ...

    def split(self, fold: int) -> Split:
        """The three disjoint splits of a fold.

        Raises:
            InputError: a fold that the dataset does not have, or too few cases for it.
        """
        ...

    def case(self, case_id: str) -> Case:
        """A whole case."""
        ...

    def draw(self, case_id: str, count: int, rng: np.random.Generator) -> tuple[ImageArray, LabelArray]:
        """Random crops of one case, not augmented: images (N, C, S, S) as the case stores them, and labels (N, S, S)."""
        ...


def check_whole(dataset: str, option: str, value: object, least: int, most: int) -> None:
    """Raise InputError where an option of a dataset is not a whole number in its range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"option {option} of {dataset} is {value!r}; it must be a whole number from {least} to {most}")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _tuple(value) for key, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, (list, tuple)) else value
