"""What every dataset is: a description, three disjoint splits per fold, and cases in memory.

Axes: C image channels, D axial slices (1 for a 2D image), H and W pixels of a slice, S side of a training sample, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.uint8]
SplitName = Literal["train", "validation", "test"]


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
    folds: int
    protocol: str
    """How cases become training samples and splits, in words, for the leaderboard."""
    licence: str
    foreground: Literal[1, -1] = 1
    """Value of the foreground in a mask of one channel. The published chest X-ray weights need -1."""

    @property
    def mask_channels(self) -> int:
        """1 for one foreground class, otherwise one per class and one for the background."""
        return 1 if len(self.classes) == 1 else len(self.classes) + 1


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
    """One whole image or volume, shared between its readers: do not write into its tensors."""

    id: str
    image: Tensor
    """(C, D, H, W) float32 in [-1, 1]."""
    label: Tensor
    """(D, H, W) uint8: 0 background, i + 1 the i-th class of the dataset."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Distance of neighbouring voxels along D, H and W, mm; 1 where the format tells none."""


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

    def split(self, fold: int) -> Split:
        """The three disjoint splits of a fold.

        Raises:
            InputError: a fold that the dataset does not have.
        """
        ...

    def case(self, case_id: str) -> Case:
        """A whole case."""
        ...

    def draw(self, case_id: str, count: int, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
        """Random training samples of one case: images (N, C, S, S) in [-1, 1] and labels (N, S, S)."""
        ...
