"""Random changes of training samples, made for a whole batch at once on the device that trains.

    changes = draw_changes(spec.augmentation, count=4, rng=np.random.default_rng(0))     # plain numbers, on the CPU
    image, label = augment(image, label, changes)                                        # tensors, wherever they are

Geometry is one resampling: a sample is turned and enlarged about its centre, then flipped. Outside lies its reflection (edge pixels
count twice). Images are interpolated between the four nearest pixels, labels take the nearest one.

Colours change in this order, in values v from 0 to 1, clamped to that range after each step:
- brightness b: v * b
- contrast c: mean + c * (v - mean), with the mean grey of the sample
- saturation s: grey + s * (v - grey), with the grey of the pixel
- hue h: a turn of the colour circle by that fraction of it, at the same value and chroma (HSV)
Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); of images without three channels it is the mean of the channels.

Shapes: N samples, C image channels, S side of a sample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cdal.data.dataset import Augmentation
from cdal.devices.transfer import to_device

Numbers = npt.NDArray[np.float32]


class Changes(NamedTuple):
    """What to do with each of N samples; every field is (N,)."""

    flip_across: Numbers
    """-1 for a sample that is flipped left-right, otherwise 1."""
    flip_down: Numbers
    """-1 for a sample that is flipped up-down, otherwise 1."""
    angle: Numbers
    """Turn, radians; the x axis (rightwards) moves towards the y axis (downwards)."""
    scale: Numbers
    """Above 1 enlarges."""
    brightness: Numbers
    """Factor of the values."""
    contrast: Numbers
    """Factor of the distances from the mean."""
    saturation: Numbers
    """Factor of the distances from grey."""
    hue: Numbers
    """Turn, as a fraction of the colour circle."""


_NEUTRAL = Changes(*np.array([1, 1, 0, 1, 1, 1, 1, 0], np.float32))
"""What changes nothing."""


def draw_changes(augmentation: Augmentation, count: int, rng: np.random.Generator) -> Changes:
    """Draw for `count` samples. An augmentation that changes nothing takes nothing from the random generator."""

    def uniform(low: float, high: float) -> Numbers:
        return (rng.uniform(low, high, count) if low < high else np.full(count, low)).astype(np.float32)

    def around(middle: float, most: float) -> Numbers:
        return uniform(middle - most, middle + most)

    def sign() -> Numbers:
        return (1 - 2 * rng.integers(2, size=count) if augmentation.flips else np.ones(count)).astype(np.float32)

    return Changes(
        flip_across=sign(),
        flip_down=sign(),
        angle=np.radians(around(0, augmentation.rotation)),
        scale=uniform(*augmentation.scale),
        brightness=around(1, augmentation.brightness),
        contrast=around(1, augmentation.contrast),
        saturation=around(1, augmentation.saturation),
        hue=around(0, augmentation.hue),
    )


def augment(image: Tensor, label: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """Change images (N, C, S, S) with values as cases store them, and labels (N, S, S), on their device.

    Returns float32 images in the range of the stored values, and labels; where nothing is to change, exactly what was given.
    """
    low, high = (0.0, 255.0) if image.dtype == torch.uint8 else (-1.0, 1.0)
    image = image.float()
    numbers = to_device(torch.from_numpy(np.stack(changes)), image.device)
    # What there is to do is read from the numbers on the CPU, which so never waits for a GPU.
    needed = [bool((values != neutral).any()) for values, neutral in zip(changes, _NEUTRAL, strict=True)]
    if any(needed[:4]):
        image, label = _resample(image, label, numbers[:4, :, None, None])
    if any(needed[4:]):
        unit = _recolour((image - low) / (high - low), numbers[4:, :, None, None, None], needed[4:])
        image = unit * (high - low) + low
    return image, label


def _resample(image: Tensor, label: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Turn, scale and flip by numbers (4, N, 1, 1): one sampling grid for images and labels."""
    across, down, angle, scale = numbers
    # Centres of pixels, -1 and 1 being the borders of a sample; then the place each comes from, by the changes in reverse order.
    centres = (2 * torch.arange(image.shape[-1], device=image.device) + 1) / image.shape[-1] - 1
    x, y = centres * across, centres[:, None] * down  # (N, 1, S), (N, S, 1)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    grid = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)  # (N, S, S, 2)
    pictures = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    classes = F.grid_sample(label[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return pictures, classes[:, 0].to(label.dtype)


def _recolour(image: Tensor, numbers: Tensor, needed: Sequence[bool]) -> Tensor:
    """Change the colours of images (N, C, S, S) in values from 0 to 1 by numbers (4, N, 1, 1, 1), where needed at all."""
    brightness, contrast, saturation, hue = numbers
    coloured = image.shape[1] == 3
    if needed[0]:
        image = (image * brightness).clamp_(0, 1)
    if needed[1]:
        mean = _grey(image).mean(dim=(2, 3), keepdim=True)
        image = (mean + contrast * (image - mean)).clamp_(0, 1)
    if needed[2] and coloured:
        grey = _grey(image)
        image = (grey + saturation * (image - grey)).clamp_(0, 1)
    if needed[3] and coloured:
        image = _turn_hue(image, hue)
    return image


def _grey(image: Tensor) -> Tensor:
    """(N, C, S, S) to (N, 1, S, S)."""
    if image.shape[1] != 3:
        return image.mean(dim=1, keepdim=True)
    red, green, blue = image.chunk(3, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _turn_hue(image: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of every pixel of RGB images (N, 3, S, S) by (N, 1, 1, 1), a fraction of the circle; value and chroma stay."""
    red, green, blue = image.chunk(3, dim=1)
    value, lowest = image.amax(dim=1, keepdim=True), image.amin(dim=1, keepdim=True)
    chroma = value - lowest
    divisor = chroma.clamp(min=torch.finfo(image.dtype).tiny)  # grey has no hue, and keeps none
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    corner = torch.arange(5, 0, -2, device=image.device).view(3, 1, 1)  # of red, green and blue on the colour hexagon
    place = (corner + hue + 6 * turn) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
