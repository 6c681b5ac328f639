"""Decoded arrays made into what a case holds: resized, laid out as (C, D, H, W), in the values that `Preparation` names.

The same functions prepare the cases of a dataset and the new files that a trained model is given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cdal.data.dataset import Preparation

Size = tuple[int, int]

_LOW, _HIGH = 0.5, 99.5  # percentiles


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
    return _scaled(image[:, None], preparation)


def prepare_label(values: npt.NDArray[Any], preparation: Preparation) -> Tensor:
    """Whole numbers (H, W) of a 2D mask on the grid of the prepared image: (1, H', W') of the same type, by the nearest pixel."""
    label = torch.from_numpy(np.ascontiguousarray(values))
    height, width = prepared_size((label.shape[0], label.shape[1]), preparation)
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long() for new, old in ((height, label.shape[0]), (width, label.shape[1]))
    )
    return label[rows[:, None], columns][None].contiguous()


def prepare_volume(voxels: npt.NDArray[Any], preparation: Preparation) -> Tensor:
    """Voxels (C, D, H, W) on their own grid as the image of a case; every channel is scaled by itself."""
    return _scaled(torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32)), preparation)


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


def _scaled(image: Tensor, preparation: Preparation) -> Tensor:
    if preparation.scaling == "bytes":
        return image.round().clamp(0, 255).to(torch.uint8)
    values = image.flatten(1).double()
    if preparation.scaling == "range":
        low, high = values.amin(dim=1), values.amax(dim=1)
    else:
        low, high = (torch.from_numpy(np.percentile(values.numpy(), at, axis=1)) for at in (_LOW, _HIGH))
    span = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    scaled = 2 * (values - low[:, None]) / span[:, None] - 1  # a channel of one value becomes -1
    return scaled.clamp(-1, 1).float().view(image.shape)
