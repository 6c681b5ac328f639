"""Training batches that depend on the seed and the step alone, whatever the number of workers.

Crops are cut on the CPU, from cases in memory or in mapped files, and go to the device that trains as they are stored; there the
whole batch is augmented, normalised and encoded at once.

Shapes: B samples of one worker, C image channels, M mask channels, S side of a sample, pixels.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdal.data.augmentation import Changes, augment, draw_changes
from cdal.data.dataset import IGNORED, Dataset
from cdal.devices.transfer import to_device
from cdal.errors import InputError

_ORDER, _SAMPLES, _CHANGES = 1, 2, 3  # what a random stream is for, so that no two streams share a seed


class Batch(NamedTuple):
    """Images (B, C, S, S), normalised, and masks (B, M, S, S) in {-1, 1}, both float32 and on the device that trains."""

    image: Tensor
    mask: Tensor
    known: Tensor | None = None
    """(B, 1, S, S) bool, False where nobody judged, which the mask has as background; None of a dataset without ignored pixels."""


def steps_per_pass(num_cases: int, batch_size: int, samples_per_case: int) -> int:
    """Optimiser steps in which every training case is seen at least once."""
    return -(-num_cases // (batch_size // samples_per_case))


def training_batch(
    dataset: Dataset,
    cases: Sequence[str],
    *,
    step: int,
    batch_size: int,
    samples_per_case: int,
    mask_channels: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Batch:
    """One worker's share of a step's batch: every world-th sample of the batch that a single worker would get, from number rank on.

    Cases come in a new random order on every pass; a case's samples depend on its place in that endless sequence. (Strided shares
    keep the groups of four that the discriminator compares, so several workers compute what one computes.)

    Args:
        dataset: where the cases are from.
        cases: ids of the training cases.
        step: optimiser steps since the start of the training.
        batch_size: samples of one step, over all workers.
        samples_per_case: how many of them, in a row, come from one case.
        mask_channels: 1, or the number of classes and the background.
        seed: seed of the training.
        rank: number of this worker.
        world: number of workers.
        device: where the batch is wanted.

    Raises:
        InputError: a batch that does not divide into cases or among the workers.
    """
    if batch_size % samples_per_case or batch_size % world:
        raise InputError(
            f"training.batch_size is {batch_size}; it must be a multiple of training.samples_per_case ({samples_per_case}) "
            f"and of the number of workers ({world})"
        )
    groups = batch_size // samples_per_case
    images, labels = [], []
    for group in range(groups):
        mine = slice((rank - group * samples_per_case) % world, None, world)
        if mine.start >= samples_per_case:
            continue
        position = step * groups + group
        turn, index = divmod(position, len(cases))
        case_id = cases[_order(seed, turn, len(cases))[index]]
        image, label = dataset.draw(case_id, samples_per_case, np.random.default_rng((_SAMPLES, seed, position)))
        images.append(image[mine])
        labels.append(label[mine])
    image_batch, label_batch = (to_device(torch.from_numpy(np.concatenate(parts)), device) for parts in (images, labels))
    changes = draw_changes(dataset.spec.augmentation, batch_size, np.random.default_rng((_CHANGES, seed, step)))
    image_batch, label_batch = augment(image_batch, label_batch, Changes(*(values[rank::world] for values in changes)))
    known = None
    if dataset.spec.has_ignored:
        known = (label_batch != IGNORED)[:, None]
        label_batch = label_batch * known[:, 0]
    return Batch(dataset.spec.normalise(image_batch), encode_mask(label_batch, mask_channels, dataset.spec.foreground), known)


def encode_mask(label: Tensor, mask_channels: int, foreground: int = 1) -> Tensor:
    """Labels (B, H, W), none of them ignored, to the mask (B, M, H, W) in {-1, 1} that a model learns.

    One channel holds `foreground` (1 or -1) where the label is above 0; several channels are one-hot over background and classes.
    """
    if mask_channels == 1:
        return torch.where(label[:, None] > 0, float(foreground), -float(foreground))
    values = torch.arange(mask_channels, dtype=label.dtype, device=label.device)[:, None, None]
    return (label[:, None] == values).float().mul_(2).sub_(1)


@lru_cache(maxsize=8)
def _order(seed: int, turn: int, num_cases: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((_ORDER, seed, turn)).permutation(num_cases)
