"""How well a sampler segments: cheap validation after an epoch, and the full protocol case by case.

    score = validate(dataset, split.validation[:8], sample, votes=1, multiple=8, seed=0, device="cpu")
    for result in evaluate(dataset, split.test, sample, votes=5, multiple=8, seed=0, device="cpu"):
        rows = result.scores

A sampler draws one random mask per image. Several draws of a case are its votes; they are averaged as probabilities, and the class
of a pixel is decided from the average. Every prefix 1..V of the votes is scored from one set of draws.

Defined values: where a class is in neither mask, Dice and IoU are 1 and HD95 is 0; where it is in one of them only, Dice and IoU
are 0 and HD95 is the diagonal of the case.

Shapes: N images, C image channels, M mask channels, V votes, D slices, H and W pixels.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cdal.data.dataset import Case, Dataset, DatasetSpec

Sample = Callable[[Tensor, torch.Generator], Tensor]
"""(images (N, C, H, W) in [-1, 1], random generator) -> masks (N, M, H, W) in [-1, 1], a new draw at every call."""

MAX_PIXELS = 2**18
"""Pixels given to a sampler at once, which bounds memory: 256 slices of 32 x 32."""

Device = torch.device | str
Box = tuple[slice, slice, slice]
Extent = tuple[int, int, int]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ValidationScore:
    """Means over the cases (whole images or volumes); `dice` and `iou` are also means over the classes."""

    dice: float
    iou: float
    class_dice: tuple[float, ...]
    class_iou: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One class of one case, from the first `votes` draws."""

    class_name: str
    votes: int
    dice: float
    iou: float
    hd95: float
    """95th percentile of the distances between the two surfaces, the larger of both directions, mm."""
    seconds: float
    """Time to draw and blend this many votes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseResult:
    """A case under the full protocol: its scores, and the maps that a gallery shows, all on the grid of the case."""

    case_id: str
    scores: tuple[Score, ...]
    """For every number of votes 1..V, every class."""
    labels: Tensor
    """The decision of all votes, (D, H, W) uint8."""
    entropy: Tensor
    """Entropy of the averaged votes, (D, H, W) float32: 0 where all are sure and agree, 1 where every class is as likely."""
    seconds: float
    """Time to draw and blend all votes."""

    @property
    def dice(self) -> float:
        """Mean over the classes, from all votes."""
        votes = self.scores[-1].votes
        return float(np.mean([score.dice for score in self.scores if score.votes == votes]))


def validate(
    dataset: Dataset,
    cases: Sequence[str],
    sample: Sample,
    *,
    votes: int,
    multiple: int,
    seed: int,
    device: Device,
    max_pixels: int = MAX_PIXELS,
) -> ValidationScore:
    """Dice and IoU of whole cases, from whole slices; slices of all cases that pad to the same size go through together.

    Args:
        dataset: where the cases are from.
        cases: ids of the cases.
        sample: the sampler.
        votes: draws that are averaged.
        multiple: heights and widths that the sampler takes are multiples of this.
        seed: seed of the draws.
        device: where the sampler computes.
        max_pixels: most pixels that the sampler gets at once.
    """
    together: dict[tuple[int, int], list[Case]] = {}
    for case in map(dataset.case, sorted(cases)):  # so that the order given does not change the draws
        together.setdefault(_padded_size(case.label.shape[1:], multiple), []).append(case)
    counts = []
    for size, group in together.items():
        images = torch.cat([_pad(case.image, (case.label.shape[0], *size)).transpose(0, 1) for case in group])
        rngs = [_rng(device, seed, vote, *(case.id for case in group)) for vote in range(votes)]
        probability = torch.stack([probabilities(_draw(sample, images, rng, max_pixels)) for rng in rngs]).mean(dim=0)
        starts = itertools.accumulate((case.label.shape[0] for case in group), initial=0)
        for case, start in zip(group, starts, strict=False):
            own = _unpad(probability[start : start + case.label.shape[0]].transpose(0, 1), case.label.shape)
            counts.append(_count(decide(own, dataset.spec.foreground), case.label, len(dataset.spec.classes)))
    dice, iou = (np.mean([dice_and_iou(*count)[kind] for count in counts], axis=0) for kind in (0, 1))
    return ValidationScore(float(dice.mean()), float(iou.mean()), tuple(dice.tolist()), tuple(iou.tolist()))


def evaluate(
    dataset: Dataset,
    cases: Sequence[str],
    sample: Sample,
    *,
    votes: int,
    multiple: int,
    seed: int,
    device: Device,
    window: Literal["sliding", "whole"] = "sliding",
    overlap: float = 0.75,
    blend: Literal["soft", "rounded"] = "soft",
    max_pixels: int = MAX_PIXELS,
) -> Iterator[CaseResult]:
    """The full protocol, case by case. A result depends on the case and the seed, not on the other cases or their order.

    Args:
        dataset: where the cases are from.
        cases: ids of the cases.
        sample: the sampler.
        votes: draws of every case; each prefix 1..votes is scored.
        multiple: heights and widths that the sampler takes are multiples of this.
        seed: seed of the draws.
        device: where the sampler computes.
        window: overlapping windows of the size of the training samples (cubes, of volumes), or whole slices.
        overlap: overlap of neighbouring windows, as a fraction of their side.
        blend: what is averaged where windows overlap, the votes' mean probability or (as published for hippocampus) that rounded.
        max_pixels: most pixels that the sampler gets at once.
    """
    spec = dataset.spec
    for case in map(dataset.case, cases):
        started = time.perf_counter()
        rngs = [_rng(device, seed, vote, case.id) for vote in range(votes)]
        if window == "whole":
            extent = (case.label.shape[0], *_padded_size(case.label.shape[1:], multiple))
        else:
            extent = (spec.sample_depth, spec.image_size, spec.image_size)
        rounded = blend == "rounded" and window == "sliding"
        prefixes = _prefixes(case, sample, rngs, extent, overlap, rounded, max_pixels)
        yield _result(case, spec, prefixes, time.perf_counter() - started)


def probabilities(masks: Tensor) -> Tensor:
    """Masks in [-1, 1] to probabilities: (x + 1) / 2, clamped."""
    return masks.add(1).div_(2).clamp_(0, 1)


def decide(probability: Tensor, foreground: int = 1) -> Tensor:
    """Labels (D, H, W) uint8 from averaged probabilities (M, D, H, W): rounded half to even, or the most probable class."""
    if len(probability) > 1:
        return probability.argmax(dim=0).to(torch.uint8)
    rounded = probability[0].round()
    return (rounded if foreground == 1 else 1 - rounded).to(torch.uint8)


def dice_and_iou(both: Counts, predicted: Counts, true: Counts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Dice and IoU of each class, from the number of pixels that have it in both masks, in the prediction and in the truth."""
    union = predicted + true - both
    empty = union == 0
    dice = np.where(empty, 1.0, 2 * both / np.maximum(predicted + true, 1))
    iou = np.where(empty, 1.0, both / np.maximum(union, 1))
    return dice, iou


def hd95(predicted: Tensor, true: Tensor, spacing: tuple[float, float, float]) -> float:
    """95th percentile Hausdorff distance of two masks (D, H, W), mm, as MONAI defines it; a single slice is taken as an image."""
    if not predicted.any() or not true.any():
        either = predicted.any() or true.any()
        return math.dist((0, 0, 0), [side * step for side, step in zip(true.shape, spacing, strict=True)]) if either else 0.0
    from monai.metrics.hausdorff_distance import (
        compute_hausdorff_distance,
    )  # here: it takes seconds to import, and training does without

    steps = [float(step) for step in spacing]  # MONAI refuses a mixture of whole and other numbers
    if len(true) == 1:
        predicted, true, steps = predicted[0], true[0], steps[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI about its own deprecated arguments
        distance = compute_hausdorff_distance(predicted[None, None], true[None, None], True, percentile=95, spacing=steps)
    return float(distance)


def _result(case: Case, spec: DatasetSpec, prefixes: Tensor, seconds: float) -> CaseResult:
    """Score all prefixes: (V, M, D, H, W) probabilities, entry v averaged over v + 1 votes."""
    scores: list[Score] = []
    labels, distances = None, [0.0] * len(spec.classes)
    for votes, probability in enumerate(prefixes, start=1):
        decided = decide(probability, spec.foreground)
        if labels is None or not torch.equal(decided, labels):  # distances are the costly part, and late votes change little
            labels = decided
            distances = [hd95(labels == value, case.label == value, case.spacing) for value in range(1, len(spec.classes) + 1)]
        dice, iou = dice_and_iou(*_count(labels, case.label, len(spec.classes)))
        scores += [
            Score(
                class_name=name,
                votes=votes,
                dice=float(dice[index]),
                iou=float(iou[index]),
                hd95=distances[index],
                seconds=seconds * votes / len(prefixes),
            )
            for index, name in enumerate(spec.classes)
        ]
    assert labels is not None
    return CaseResult(case_id=case.id, scores=tuple(scores), labels=labels, entropy=_entropy(prefixes[-1]), seconds=seconds)


def _count(predicted: Tensor, true: Tensor, num_classes: int) -> tuple[Counts, Counts, Counts]:
    """Pixels of each foreground class in both label maps, in the prediction and in the truth."""
    kinds = num_classes + 1
    pairs = torch.bincount((predicted.long() * kinds + true.long()).flatten(), minlength=kinds**2)
    table = pairs.reshape(kinds, kinds).numpy()
    return table.diagonal()[1:], table.sum(axis=1)[1:], table.sum(axis=0)[1:]


def _entropy(probability: Tensor) -> Tensor:
    """Entropy of averaged probabilities (M, D, H, W) over the classes, divided by its largest value: (D, H, W)."""
    classes = torch.cat([probability, 1 - probability]) if len(probability) == 1 else probability
    classes = classes / classes.sum(dim=0).clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(classes).sum(dim=0)
    return entropy.div_(math.log(len(classes))).clamp_(0, 1)


def _prefixes(
    case: Case, sample: Sample, rngs: list[torch.Generator], extent: Extent, overlap: float, rounded: bool, max_pixels: int
) -> Tensor:
    """Probabilities (V, M, D, H, W) on the grid of a case, entry v averaged over v + 1 votes.

    Overlapping windows are blended with equal weight, as MONAI's sliding_window_inference does in its constant mode.
    """
    image = _pad(case.image, [max(pair) for pair in zip(case.label.shape, extent, strict=True)])
    boxes = _windows(image.shape[1:], extent, overlap)
    images = torch.cat([image[:, *box].transpose(0, 1) for box in boxes])  # (windows * extent[0], C, H, W)
    cover = torch.zeros(image.shape[1:])
    for box in boxes:
        cover[box] += 1
    total, prefixes = torch.zeros(()), []
    for votes, rng in enumerate(rngs, start=1):
        total = total + probabilities(_draw(sample, images, rng, max_pixels))
        mean = (total / votes).round() if rounded else total / votes
        blended = torch.zeros(mean.shape[1], *image.shape[1:])
        for number, box in enumerate(boxes):
            blended[:, *box] += mean[number * extent[0] : (number + 1) * extent[0]].transpose(0, 1)
        prefixes.append(_unpad(blended / cover, case.label.shape))
    return torch.stack(prefixes)


def _windows(shape: Sequence[int], extent: Extent, overlap: float) -> list[Box]:
    """Boxes of an extent that cover a shape; the last along each axis is moved inside."""
    starts = []
    for full, side in zip(shape, extent, strict=True):
        step = max(1, int(side * (1 - overlap)))
        count = -(-(full - side) // step) + 1
        starts.append([min(number * step, full - side) for number in range(count)])
    return [(slice(d, d + extent[0]), slice(h, h + extent[1]), slice(w, w + extent[2])) for d, h, w in itertools.product(*starts)]


def _draw(sample: Sample, images: Tensor, rng: torch.Generator, max_pixels: int) -> Tensor:
    """One vote of every image, in batches of bounded size: (N, C, H, W) -> (N, M, H, W), on the CPU."""
    most = max(1, max_pixels // images[0, 0].numel())
    parts = (images[start : start + most] for start in range(0, len(images), most))
    return torch.cat([sample(part.to(rng.device), rng).float().cpu() for part in parts])


def _rng(device: Device, seed: int, vote: int, *case_ids: str) -> torch.Generator:
    """The random stream of one vote, a function of the seed and of what is drawn."""
    digest = hashlib.blake2b(repr((seed, vote, case_ids)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def _padded_size(size: Sequence[int], multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def _pad(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat the edges of an image (C, D, H, W) on both sides until it has a shape (D, H, W)."""
    gaps = [(want - have) for want, have in zip(shape, image.shape[1:], strict=True)]
    if not any(gaps):
        return image
    before_after = [side for gap in reversed(gaps) for side in (gap // 2, gap - gap // 2)]
    return F.pad(image[None], before_after, mode="replicate")[0]


def _unpad(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `_pad` on the last three axes."""
    d, h, w = (slice(start := (have - want) // 2, start + want) for want, have in zip(shape, image.shape[-3:], strict=True))
    return image[..., d, h, w]
