"""Small pictures of cases with their masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdal.data.dataset import IGNORED

MOST_THUMBNAILS = 200
_LONGER_SIDE = 320  # pixels


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small image and its mask: of a volume, the axial slice with most foreground, seen from below with the front at the top."""

    pixels: npt.NDArray[np.uint8]
    """(h, w) or (h, w, 3)."""
    label: npt.NDArray[np.uint8]
    """(h, w)."""
    slice: int | None
    """Number of the slice of a volume, from 0."""
    has_ignored: bool
    """Whether `IGNORED` in the label stands for pixels that nobody judged."""


def thumbnail(
    image: npt.NDArray[Any], label: npt.NDArray[np.uint8], spacing: Sequence[float] | None, has_ignored: bool = False
) -> Thumbnail:
    """The picture of a case.

    Args:
        image: (C, D, H, W), with its values as stored; of a volume (C, inferior, left, posterior).
        label: (D, H, W).
        spacing: mm along the same axes, of a volume.
        has_ignored: whether the label may be `IGNORED`.
    """
    judged = (label > 0) & (label != IGNORED) if has_ignored else label > 0
    covered = [np.count_nonzero(part) for part in judged]
    shown = int(np.argmax(covered)) if any(covered) else len(covered) // 2
    channels = image[:, shown] if len(image) == 3 and spacing is None else image[:1, shown]
    as_stored = spacing is None and channels.dtype == np.uint8
    low, high = (0, 255) if as_stored else np.percentile(channels, (0.5, 99.5))
    scaled = np.clip((channels - low) * (255 / max(float(high - low), 1e-12)), 0, 255).astype(np.uint8)
    values = label[shown]
    step_h, step_w = (1.0, 1.0) if spacing is None else spacing[1:]
    if spacing is not None:  # rows to the back, columns to the left of the patient, as radiologists look at it
        scaled, values, step_h, step_w = scaled.swapaxes(1, 2), values.T, step_w, step_h
    height, width = scaled.shape[1] * step_h, scaled.shape[2] * step_w
    factor = _LONGER_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled[0]
    return Thumbnail(
        pixels=np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS, reducing_gap=2)),
        label=np.array(Image.fromarray(np.ascontiguousarray(values)).resize(size, Image.Resampling.NEAREST)),
        slice=None if spacing is None else shown,
        has_ignored=has_ignored,
    )
