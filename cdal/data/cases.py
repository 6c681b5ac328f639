"""A dataset of decoded cases, in memory or in mapped files, with crops cut straight from the arrays.

Axes: C image channels, D slices, H and W pixels, S side of a sample, N samples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cdal.data.dataset import IGNORED, Case, DatasetSpec, ImageArray, LabelArray, Split

Extent = tuple[int, int, int]


class CaseDataset:
    """Cases, their splits and their training samples; see `cdal.data.Dataset`."""

    def __init__(
        self,
        spec: DatasetSpec,
        cases: Sequence[Case],
        split: Callable[[int], Split],
        *,
        balanced: bool = True,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        """Take the cases as they are; their voxels are not looked at before a crop is drawn.

        Args:
            spec: the description of the dataset.
            cases: all cases.
            split: the splits of a fold.
            balanced: centre crops on foreground and on background with equal chance, and never on ignored pixels; otherwise every
                place is as likely.
            groups: what each case belongs to; None where cases stand alone.
        """
        self.spec = spec
        self.ids = tuple(case.id for case in cases)
        self.split = split
        self.groups = groups or {}
        self._cases = {case.id: case for case in cases}
        assert len(self._cases) == len(cases), "two cases share an id"
        crop = (spec.sample_depth, spec.image_size, spec.image_size)
        self._croppable = {case.id: _Croppable(case, crop, balanced) for case in cases}

    def case(self, case_id: str) -> Case:
        """A whole case on its own grid, without the padding that crops may need."""
        return self._cases[case_id]

    def draw(self, case_id: str, count: int, rng: np.random.Generator) -> tuple[ImageArray, LabelArray]:
        """Axial slices of as few random crops as hold `count` of them: images (N, C, S, S), labels (N, S, S).

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


class _Croppable:
    """A case padded so that a crop fits into it; one that is large enough is never copied."""

    def __init__(self, case: Case, extent: Extent, balanced: bool) -> None:
        self._case, self._extent, self._balanced = case, extent, balanced

    @cached_property
    def image(self) -> ImageArray:
        """(C, D, H, W)."""
        return self._padded(self._case.image.numpy())

    @cached_property
    def label(self) -> LabelArray:
        """(D, H, W)."""
        return self._padded(self._case.label.numpy())

    def crop(self, rng: np.random.Generator) -> tuple[ImageArray, LabelArray]:
        """Views of a crop: images (C, *extent) and labels (*extent)."""
        full = self.label.shape
        if self._balanced:
            centre = self._centre(rng)
            starts = [min(max(at - side // 2, 0), end - side) for at, side, end in zip(centre, self._extent, full, strict=True)]
        else:
            starts = [int(rng.integers(end - side + 1)) for side, end in zip(self._extent, full, strict=True)]
        d, h, w = (slice(start, start + side) for start, side in zip(starts, self._extent, strict=True))
        return self.image[:, d, h, w], self.label[d, h, w]

    def _centre(self, rng: np.random.Generator) -> Extent:
        """A voxel of the foreground or of the background with equal chance; the crop is moved inside where it would stick out.

        The rule is that of MONAI's RandCropByPosNegLabel with pos = neg = 1: a case without foreground, or without background,
        is centred on what it has, and one that is ignored as a whole anywhere. Voxels are numbered slice by slice, so that only one
        slice has to be searched.
        """
        inside = bool(rng.random() < 0.5)
        if not self._voxels_up_to[inside][-1]:
            inside = not inside
        up_to = self._voxels_up_to[inside]
        if not up_to[-1]:
            d, h, w = map(int, rng.integers(self.label.shape))
            return d, h, w
        number = rng.integers(up_to[-1])
        d = int(np.searchsorted(up_to, number, side="right"))
        before = up_to[d - 1] if d else 0
        plane = self.label[d]
        wanted = (plane > 0) & (plane != IGNORED) if inside else plane == 0
        h, w = divmod(int(np.flatnonzero(wanted)[number - before]), self.label.shape[2])
        return d, h, w

    @cached_property
    def _voxels_up_to(self) -> dict[bool, npt.NDArray[np.int64]]:
        """How many voxels of the foreground (True) and of the background every slice and those before it have: (D,)."""
        filled = np.array([np.count_nonzero(plane) for plane in self.label])
        ignored = np.array([np.count_nonzero(plane == IGNORED) for plane in self.label])
        return {True: (filled - ignored).cumsum(), False: (self.label[0].size - filled).cumsum()}

    def _padded(self, array: ImageArray) -> ImageArray:
        """An array (..., D, H, W) with its edges repeated, the same on both sides, where it is smaller than a crop."""
        missing = [max(0, least - have) for least, have in zip(self._extent, array.shape[-3:], strict=True)]
        if not any(missing):
            return array
        widths = [(gap // 2, gap - gap // 2) for gap in missing]
        return np.pad(array, [(0, 0)] * (array.ndim - 3) + widths, mode="edge")
