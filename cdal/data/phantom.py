"""Synthetic medical-looking images with masks, generated from a seed: the dataset that needs no download.

H and W are both `size`. An image has a soft-textured background under a bias field, one or two deformed elliptic organs per class,
each class with its own brightness, blurred borders and noise; and vessels, as bright or dark as organs but thin and without
a label, so that brightness alone does not tell the classes.
"""

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from cdal.data.cases import CaseDataset
from cdal.data.dataset import Case, DatasetSpec, LabelArray, check_whole
from cdal.data.folds import PARTITION_NAMES, PARTITIONS, partitioned_split
from cdal.errors import InputError

Image = npt.NDArray[np.float64]
_SALT = 0x7068616E  # keeps the stream of a case apart from other users of the same seed
_ATTEMPTS = 50
_PLACES = 6  # tried for every organ
_MOST_VESSELS = 8
_MIN_SIZE, _MAX_CLASSES = 16, 6


class PhantomDataset(CaseDataset):
    """Generated 2D cases; case i depends on the parameters and the seed, not on the number of cases."""

    def __init__(self, *, size: int = 32, cases: int = 48, classes: int = 2, difficulty: float = 0.5, seed: int = 0) -> None:
        """Generate all cases.

        Args:
            size: side of the images, pixels.
            cases: number of images over all folds.
            classes: foreground classes.
            difficulty: 0 (crisp and bright) to 1 (faint, blurred, noisy, uneven, full of vessels).
            seed: seed of the images.

        Raises:
            InputError: a parameter out of its range.
        """
        check_whole("phantom", "size", size, _MIN_SIZE, 1024)
        check_whole("phantom", "cases", cases, PARTITIONS, 100_000)
        check_whole("phantom", "classes", classes, 1, _MAX_CLASSES)
        check_whole("phantom", "seed", seed, 0, 2**63 - 1)
        if isinstance(difficulty, bool) or not isinstance(difficulty, (int, float)) or not 0 <= difficulty <= 1:
            raise InputError(f"option difficulty of phantom is {difficulty!r}; it must be a number from 0 to 1")
        spec = DatasetSpec(
            name="phantom",
            image_channels=1,
            classes=tuple(f"organ{number}" for number in range(1, classes + 1)),
            image_size=size,
            volumetric=False,
            folds=PARTITION_NAMES,
            protocol=(
                f"generated: {cases} images of {size} px, {classes} classes, difficulty {difficulty:g}, seed {seed}; case i "
                f"tests in fold i mod {PARTITIONS}, the first of every five others validates"
            ),
            licence="generated, no rights reserved",
        )
        generated = [_case(index, size, classes, difficulty, seed) for index in range(cases)]
        super().__init__(spec, generated, partial(partitioned_split, [case.id for case in generated]))


def _case(index: int, size: int, classes: int, difficulty: float, seed: int) -> Case:
    rng = np.random.default_rng((_SALT, seed, index))
    for _ in range(_ATTEMPTS):
        label, image = _organs(rng, size, classes, difficulty)
        if len(np.unique(label)) == classes + 1:  # a class hidden by a later one is drawn again
            break
    image = image * _bias_field(rng, size, 0.1 + 0.4 * difficulty) + rng.normal(0, 0.02 + 0.08 * difficulty, image.shape)
    image = 2 * (image - image.min()) / (image.max() - image.min()) - 1
    return Case(
        id=f"phantom_{index:05d}",
        image=torch.from_numpy(image.astype(np.float32)[None, None]),
        label=torch.from_numpy(label[None]),
    )


def _organs(rng: np.random.Generator, size: int, classes: int, difficulty: float) -> tuple[LabelArray, Image]:
    """Background texture with the organs of every class painted over it, and their labels: both (H, W)."""
    texture = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 8, mode="wrap")
    texture += 0.5 * ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 24, mode="wrap")
    image = 0.5 + (0.04 + 0.06 * difficulty) * texture / texture.std()
    label = np.zeros((size, size), np.uint8)
    contrast = 0.45 - 0.15 * difficulty
    for _ in range(round(_MOST_VESSELS * difficulty)):
        level = 0.5 + contrast * rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
        image += _vessel(rng, size) * (level - image)
    radius = size * 0.24 / math.sqrt(classes)
    for number in range(1, classes + 1):
        # Odd classes are brighter than the background and even ones darker; further pairs lie closer to it.
        level = 0.5 + contrast * (1 if number % 2 else -1) * (1 - (number - 1) // 2 / math.ceil(classes / 2))
        for _ in range(rng.integers(1, 3)):
            places = [_blob(rng, size, radius * rng.uniform(0.75, 1.25)) for _ in range(_PLACES)]
            inside = min(places, key=lambda place: int(np.count_nonzero(label[place])))  # organs rarely overlap
            label[inside] = number
            border = ndimage.gaussian_filter(inside.astype(np.float64), size / 32 * (0.4 + 0.6 * difficulty))
            image += border * (level + rng.normal(0, 0.02 + 0.06 * difficulty) - image + 0.2 * (image - 0.5))
    return label, image


def _blob(rng: np.random.Generator, size: int, radius: float) -> npt.NDArray[np.bool_]:
    """An ellipse with a wavy outline, wholly inside the image: (H, W)."""
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    x, y = across - rng.uniform(1.3 * radius, size - 1.3 * radius), down - rng.uniform(1.3 * radius, size - 1.3 * radius)
    turn, stretch = rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
    along, aside = x * math.cos(turn) + y * math.sin(turn), (y * math.cos(turn) - x * math.sin(turn)) / stretch
    angle = np.arctan2(aside, along)
    outline = 1 + sum(rng.uniform(0, 0.12) / wave * 2 * np.cos(wave * angle + rng.uniform(0, 2 * math.pi)) for wave in (2, 3, 4))
    inside: npt.NDArray[np.bool_] = np.hypot(along, aside) < radius * outline
    return inside


def _vessel(rng: np.random.Generator, size: int) -> Image:
    """A thin bent line from border to border, 1 in its middle: (H, W)."""
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    turn, offset, bend = rng.uniform(0, math.pi), rng.uniform(-0.4, 0.4) * size, rng.uniform(-0.6, 0.6) / size
    x, y = across - size / 2, down - size / 2
    along, aside = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    line: Image = np.exp(-(((aside - offset - bend * along**2) / (size / 32 * rng.uniform(0.7, 1.3))) ** 2))
    return line


def _bias_field(rng: np.random.Generator, size: int, strength: float) -> Image:
    """A smooth factor around 1, as a receiver coil leaves it: (H, W)."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    a, b, c, d, e = rng.uniform(-1, 1, 5)
    field: Image = a * x + b * y + c * x * y + d * (x**2 - 1 / 3) + e * (y**2 - 1 / 3)
    return 1 + strength * field / max(float(np.abs(field).max()), 1e-9)
