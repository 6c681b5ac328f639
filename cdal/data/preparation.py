"""Decoded arrays made into what a case holds: resized, laid out as (C, D, H, W), in the values that `Preparation` names.

The same functions prepare the cases of a dataset and the new files that a trained model is given.

CT shows the same tissue with the same number in every scan, so its window is one for the whole dataset, by nnU-Net's rule:

    if all(is_ct(name, low, high, dtype) for low, high, dtype in cases):    # lowest and highest voxel of every case
        window = choose_window([foreground_sample(channel, label) for channel, label in cases])
"""

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cdal.data.dataset import IGNORED, Preparation, Window
from cdal.data.geometry import Grid, Spacing, resample_image, resample_label, resampled_size, sliced, to_slices

Size = tuple[int, int]

_LOW, _HIGH = 0.5, 99.5  # percentiles
_CT_NAMES = {"ct", "cta", "cect", "ncct", "cbct", "hu", "hounsfield"}
_OTHER_NAMES = {"mr", "mri", "t1", "t2", "flair", "adc", "dwi", "pd", "pet", "suv", "us", "nonorm", "zscore", "rescale"}
_AIR = (-3100, -900)  # HU: -1000 is air; scanners give down to -3024 to what lies outside their field
_TISSUE = 200  # HU: above soft tissue
_FILLINGS = (-1000, -1024, -2000, -2048, -3024)  # HU that scanners and tools give to air and to what lies outside


def prepare_image(pixels: npt.NDArray[Any], preparation: Preparation, channels: int) -> Tensor:
    """A 2D image (H, W) or (H, W, colours) as the image (C, 1, H', W') of a case.

    One channel of a colour image is the mean of its colours; three channels of a grey image are three times the same.
    """
    image = torch.from_numpy(np.ascontiguousarray(pixels)).float()
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    if len(image) != channels:
        image = image.mean(dim=0, keepdim=True).expand(channels, -1, -1)
    height, width = prepared_size((image.shape[1], image.shape[2]), preparation)
    if (height, width) != tuple(image.shape[1:]):
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    return _scaled(image[:, None].numpy(), preparation)


def prepare_label(values: npt.NDArray[Any], preparation: Preparation) -> Tensor:
    """Whole numbers (H, W) of a 2D mask on the grid of the prepared image: (1, H', W') of the same type, by the nearest pixel."""
    label = torch.from_numpy(np.ascontiguousarray(values))
    height, width = prepared_size((label.shape[0], label.shape[1]), preparation)
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long() for new, old in ((height, label.shape[0]), (width, label.shape[1]))
    )
    return label[rows[:, None], columns][None].contiguous()


def prepare_volume(voxels: npt.NDArray[Any], preparation: Preparation, spacing: Spacing = (1, 1, 1)) -> Tensor:
    """Voxels (C, inferior, left, posterior) on their own grid as the image (C, D, H, W) of a case; every channel by itself.

    Args:
        voxels: as `cdal.data.volumes.to_dhw` turns them.
        preparation: what is done.
        spacing: mm along (inferior, left, posterior).

    Raises:
        InputError: a spacing that `resampled_size` refuses; the message needs the file's name before it.
    """
    size = _sliced_size(voxels.shape, spacing, preparation)
    image = _scaled(to_slices(voxels, preparation.plane), preparation)
    return resample_image(image, size)  # scaled before: what lies outside a window rings no more


def prepare_volume_label(
    values: npt.NDArray[Any], preparation: Preparation, spacing: Spacing = (1, 1, 1), ignored: int | None = IGNORED
) -> tuple[Tensor, Tensor | None]:
    """Whole numbers (inferior, left, posterior) as a label (D, H, W) on the grid of the prepared image, and on that of the file.

    The second is None where both grids are one. `ignored` is the value of pixels that nobody judged; None where there is none.
    Raises what `prepare_volume` does.
    """
    native = torch.from_numpy(np.ascontiguousarray(to_slices(values, preparation.plane)))
    label = resample_label(native, _sliced_size(values.shape, spacing, preparation), ignored)
    return label, None if label is native else native


def is_ct(name: str | None, low: float, high: float, dtype: npt.DTypeLike) -> bool:
    """Whether a channel of a case holds Hounsfield units.

    It does where dataset.json calls it CT, and does not where it names another modality. Where no name tells, its values do: air,
    or what scanners give to the outside of their field, at the lower end (-3100 to -900), more than soft tissue at the upper end
    (above 200), in whole numbers. Of a type for numbers that are not whole, such as that of resampled scans, the lowest must be
    exactly one of those that stand for air or for the outside, because maps of MRI have negative values too.

    Args:
        name: what dataset.json calls the channel, or None.
        low: lowest value of the case.
        high: highest value of the case.
        dtype: type of the voxels as read.
    """
    words = set(re.split(r"[^a-z0-9]+", (name or "").lower()))
    if bool(words & _CT_NAMES) != bool(words & _OTHER_NAMES):  # "PET/CT" may be either
        return bool(words & _CT_NAMES)
    if not (_AIR[0] <= low <= _AIR[1] and high > _TISSUE):
        return False
    return np.dtype(dtype).kind in "iu" or low in _FILLINGS


def foreground_sample(channel: npt.NDArray[Any], label: npt.NDArray[Any], most: int = 1000) -> npt.NDArray[np.float32]:
    """At most so many values of an image channel, evenly spaced among those where a label of the same shape is not 0 (N,)."""
    values = channel[label != 0]
    kept = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(np.int64)
    sample: npt.NDArray[np.float32] = values[kept].astype(np.float32)
    return sample


def choose_window(samples: Sequence[npt.NDArray[np.float32]]) -> Window | None:
    """The 0.5th and 99.5th percentile of the foreground of all cases, to which nnU-Net clips CT; None where that is no range."""
    values = np.concatenate([np.empty(0, np.float32), *samples])
    if not len(values) or values.min() == values.max():
        return None
    low, high = np.percentile(values.astype(np.float64), (_LOW, _HIGH)).tolist()
    return (low, high) if low < high else None


def prepared_size(size: Size, preparation: Preparation) -> Size:
    """(H, W) of a 2D image after preparation."""
    if preparation.size is not None:
        return preparation.size
    factor = min(1.0, (preparation.longest_side or max(size)) / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def padded_size(shape: Sequence[int], multiple: int) -> Size:
    """The last two sides, enlarged to multiples."""
    height, width = (-(-side // multiple) * multiple for side in shape[-2:])
    return height, width


def pad(image: Tensor, size: Size) -> Tensor:
    """Repeat the edges of a slice (C, H, W) of any type on both sides until it has a size."""
    rows, columns = (
        torch.arange(want).sub_((want - have) // 2).clamp_(0, have - 1) for want, have in zip(size, image.shape[1:], strict=True)
    )
    return image[:, rows[:, None], columns]


def unpad(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `pad` on the last two axes."""
    h, w = (slice(start := (have - want) // 2, start + want) for want, have in zip(shape[-2:], image.shape[-2:], strict=True))
    return image[..., h, w]


def _sliced_size(shape: Sequence[int], spacing: Spacing, preparation: Preparation) -> Size:
    """(H, W) of the prepared slices of a volume (..., inferior, left, posterior)."""
    inferior, left, posterior = shape[-3:]
    grid = sliced(Grid((inferior, left, posterior), spacing), preparation.plane)
    return resampled_size(grid.shape[1:], grid.spacing[1:], preparation.spacing)


def _scaled(image: npt.NDArray[Any], preparation: Preparation) -> Tensor:
    """An image (C, D, H, W) in the values that a case holds; a slice at a time, because a scan may fill much of the memory."""
    if preparation.scaling == "bytes":
        return torch.from_numpy(np.ascontiguousarray(image)).round().clamp(0, 255).to(torch.uint8)
    out = torch.empty(image.shape)
    for channel, (part, window) in enumerate(zip_longest(image, preparation.windows[: len(image)])):
        low, high = window or _limits(part, preparation)
        span = max(high - low, torch.finfo(torch.float64).tiny)
        for number, plane in enumerate(part):
            values = torch.from_numpy(plane.astype(np.float32)).double()
            out[channel, number] = (2 * (values - low) / span - 1).clamp(-1, 1)  # a channel of one value becomes -1
    return out


def _limits(values: npt.NDArray[Any], preparation: Preparation) -> Window:
    """The values of a channel that become -1 and 1 where no window is given."""
    if preparation.scaling == "range":
        return float(np.float32(values.min())), float(np.float32(values.max()))
    low, high = (_percentile(values.ravel(), percent) for percent in (_LOW, _HIGH))
    return low, high


def _percentile(values: npt.NDArray[Any], percent: float) -> float:
    """What `numpy.percentile` says of the values (N,) as 32-bit numbers, without copies of 64 bits."""
    place = (len(values) - 1) * (percent / 100)
    below = int(place)
    pair = np.array([below, min(below + 1, len(values) - 1)])
    first, second = np.partition(values, pair)[pair].astype(np.float32).astype(np.float64)
    share = place - below
    return float(first + (second - first) * share if share < 0.5 else second - (second - first) * (1 - share))
