"""A dataset of decoded cases, in memory or in mapped files, with crops cut straight from the arrays.

Axes: C image channels, D slices, H and W pixels, S side of a sample, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdal.data.dataset import Case, DatasetSpec, ImageArray, LabelArray, Split

Extent = tuple[int, int, int]


class CaseDataset:
    """Cases, their splits and their training samples; see `cdal.data.Dataset`."""

    def __init__(self, spec: DatasetSpec, cases: Sequence[Case], split: Callable[[int], Split]) -> None:
        self.spec = spec
        self.ids = tuple(case.id for case in cases)
        self.split = split
        self._cases = {case.id: case for case in cases}
        assert len(self._cases) == len(cases), "two cases share an id"
        crop = (spec.sample_depth, spec.image_size, spec.image_size)
        self._croppable = {case.id: _Croppable.of(case, crop) for case in cases}

    def case(self, case_id: str) -> Case:
        """A whole case on its own grid, without the padding that crops may need."""
        return self._cases[case_id]

    def draw(self, case_id: str, count: int, rng: np.random.Generator) -> tuple[ImageArray, LabelArray]:
        """Axial slices of as few balanced crops as hold `count` of them: images (N, C, S, S), labels (N, S, S).

        A crop that gives fewer samples than it has slices gives a random choice of them, in order.
        """
        case = self._croppable[case_id]
        images, labels = [], []
        while count > 0:
            image, label = case.crop(rng)
            if count < len(label):
                kept = np.sort(rng.choice(len(label), count, replace=False))
                image, label = image[:, kept], label[kept]
            images.append(image.swapaxes(0, 1))
            labels.append(label)
            count -= len(label)
        return np.concatenate(images), np.concatenate(labels)


@dataclass(frozen=True)
class _Croppable:
    """A case padded so that a crop fits into it, with the places a crop may be centred on."""

    image: ImageArray  # (C, D, H, W)
    label: LabelArray  # (D, H, W)
    extent: Extent  # of a crop
    foreground: npt.NDArray[np.int32]  # flat indices into label
    background: npt.NDArray[np.int32]

    @classmethod
    def of(cls, case: Case, extent: Extent) -> _Croppable:
        image: ImageArray = case.image.numpy()
        label: LabelArray = case.label.numpy()
        missing = [max(0, least - have) for least, have in zip(extent, label.shape, strict=True)]
        if any(missing):
            widths = [(gap // 2, gap - gap // 2) for gap in missing]
            image = np.pad(image, [(0, 0), *widths], mode="edge")
            label = np.pad(label, widths, mode="edge")
        foreground = np.flatnonzero(label).astype(np.int32)
        background = np.flatnonzero(label == 0).astype(np.int32)
        return cls(image, label, extent, foreground, background)

    def crop(self, rng: np.random.Generator) -> tuple[ImageArray, LabelArray]:
        """Views of a crop centred on foreground or background with equal chance, moved inside where it would stick out.

        The rule is that of MONAI's RandCropByPosNegLabel with pos = neg = 1: a case without foreground, or without background,
        is centred on what it has.
        """
        centres = self.foreground if rng.random() < 0.5 else self.background
        if not len(centres):
            centres = self.foreground if len(self.foreground) else self.background
        centre = np.unravel_index(int(centres[rng.integers(len(centres))]), self.label.shape)
        d, h, w = (
            slice(start := min(max(int(at) - side // 2, 0), full - side), start + side)
            for at, side, full in zip(centre, self.extent, self.label.shape, strict=True)
        )
        return self.image[:, d, h, w], self.label[d, h, w]
