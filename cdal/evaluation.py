"""How well a sampler segments: cheap validation after an epoch, and the full protocol case by case.

    score = validate(dataset, split.validation[:8], sample, votes=1, multiple=8, seed=0, device="cpu")
    for result in evaluate(dataset, split.test, sample, votes=5, multiple=8, seed=0, device="cpu"):
        rows = result.scores
    seen = draw_votes(case.image, case.id, spec, sample, votes=5, multiple=8, seed=0, device="cpu")     # needs no truth
    mask = seen.labels[-1]

A sampler draws random masks of an image. Several draws of a case are its votes; they are averaged as probabilities, and the class
of a pixel is decided from the average. Every prefix 1..V of the votes is scored from one set of draws; `cdal.metrics` defines the
scores, also those of empty masks.

Shapes: N images, C image channels, M mask channels, V votes, D slices, H and W pixels, S side of a window.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cdal.data.dataset import Case, Dataset, DatasetSpec
from cdal.metrics import count_pixels, dice_and_iou, error_correlation, object_scores, surface_distances, volume_error

Sample = Callable[[Tensor, Sequence[torch.Generator]], Tensor]
"""(normalised images (N, C, H, W), one random generator per vote) -> masks (V, N, M, H, W) in [-1, 1], new draws at every call.

Vote v depends on the images and the v-th generator alone."""

Window = Literal["sliding", "whole"]
Blend = Literal["soft", "rounded"]
Device = torch.device | str
Size = tuple[int, int]

# Both bound memory. They are constants because draws depend on them: the images of a batch share the random streams of the votes.
BATCH_PIXELS = 2**18
"""Pixels given to a sampler at once: 256 slices of 32 x 32."""
SLAB_PIXELS = 2**20
"""Pixels of the slices that are blended and decided together, where windows do not reach from slice to slice."""


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
    assd: float
    """Mean of the distances between the two surfaces, of both directions, mm."""
    volume_error: float
    """Difference of the volumes as a fraction of their mean, below 0 where the prediction is too small."""
    aji: float | None
    """Aggregated Jaccard index of the connected parts against the true objects; None where the case does not tell objects apart."""
    panoptic_quality: float | None
    """The same for panoptic quality."""
    seconds: float
    """Share of these votes in the time to draw and blend all of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """What the votes for an image say, on its own grid."""

    labels: Tensor
    """What the first 1..V votes decide, (V, D, H, W) uint8."""
    entropy: Tensor
    """Entropy of the average of all votes, (D, H, W) float32: 0 where all are sure and agree, 1 where every class is as likely."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseResult:
    """A case under the full protocol: its scores, and the maps that a gallery shows, all on the grid of the case."""

    case_id: str
    scores: tuple[Score, ...]
    """For every number of votes 1..V, every class."""
    labels: Tensor
    """The decision of all votes, (D, H, W) uint8."""
    entropy: Tensor
    """Of all votes, (D, H, W), see `Votes`."""
    mean_entropy: float
    """Over all pixels."""
    entropy_error: float | None
    """Pearson correlation over all pixels of the entropy and of being wrong; None where it is not defined (no pixel is wrong)."""
    seconds: float
    """Time to draw and blend all votes."""

    @property
    def dice(self) -> float:
        """Mean over the classes, from all votes."""
        votes = self.scores[-1].votes
        return float(np.mean([score.dice for score in self.scores if score.votes == votes]))


def validate(
    dataset: Dataset, cases: Sequence[str], sample: Sample, *, votes: int, multiple: int, seed: int, device: Device
) -> ValidationScore:
    """Dice and IoU of whole cases, from whole slices; slices of all cases that pad to the same size go through together.

    Slices with a side of more than two samples are predicted in windows side by side: attention over all their pixels could take
    more memory than there is.

    Args:
        dataset: where the cases are from.
        cases: ids of the cases.
        sample: the sampler.
        votes: draws that are averaged.
        multiple: heights and widths that the sampler takes are multiples of this.
        seed: seed of the draws.
        device: where the sampler computes.
    """
    spec = dataset.spec
    together: dict[Size, list[Case]] = {}
    scores = []

    def score(case: Case, labels: Tensor) -> None:
        scores.append(dice_and_iou(*(count[0] for count in count_pixels(labels[None], case.label, len(spec.classes)))))

    for case in map(dataset.case, sorted(cases)):  # so that the order given does not change the draws
        if max(case.label.shape[1:]) <= 2 * spec.image_size:
            together.setdefault(_padded_size(case.label.shape, multiple), []).append(case)
        else:
            seen = draw_votes(
                case.image, case.id, spec, sample, votes=votes, multiple=multiple, seed=seed, device=device, overlap=0.0
            )
            score(case, seen.labels[-1])
    for size, group in together.items():
        rngs = _rngs(device, seed, votes, *(case.id for case in group))
        slices = [(case, number) for case in group for number in range(len(case.label))]
        labels = []
        most = _most(BATCH_PIXELS, size)
        for start in range(0, len(slices), most):
            batch = torch.stack([_pad(case.image[:, number], size) for case, number in slices[start : start + most]])
            masks = sample(spec.normalise(batch.to(device)), rngs)  # (V, N, M, H, W)
            average = probabilities(masks).mean(dim=0).transpose(0, 1)
            labels += list(decide(average, spec.foreground).cpu())
        decided = iter(labels)
        for case in group:
            score(case, torch.stack([_unpad(next(decided), case.label.shape) for _ in range(len(case.label))]))
    dice, iou = np.mean(scores, axis=0)
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
    window: Window = "sliding",
    overlap: float = 0.75,
    blend: Blend = "soft",
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
    """
    import_module("monai.inferers.utils")  # takes seconds, which shall not count for the first case
    for case in map(dataset.case, cases):
        started = time.perf_counter()
        seen = draw_votes(
            case.image, case.id, dataset.spec, sample, votes=votes, multiple=multiple, seed=seed, device=device, window=window,
            overlap=overlap, blend=blend,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        yield CaseResult(
            case_id=case.id,
            scores=_scores(case, dataset.spec.classes, seen.labels, seconds),
            labels=seen.labels[-1],
            entropy=seen.entropy,
            mean_entropy=float(seen.entropy.mean(dtype=torch.float64)),
            entropy_error=error_correlation(seen.entropy, seen.labels[-1] != case.label),
            seconds=seconds,
        )


def draw_votes(
    image: Tensor,
    name: str,
    spec: DatasetSpec,
    sample: Sample,
    *,
    votes: int,
    multiple: int,
    seed: int,
    device: Device,
    window: Window = "sliding",
    overlap: float = 0.75,
    blend: Blend = "soft",
) -> Votes:
    """What the votes for one image (C, D, H, W) say; a new file has no truth to be scored against.

    The image holds stored values, as that of a `Case` of the dataset `spec`. The draws depend on its name (a case's id) and on the
    seed. The other arguments are those of `evaluate`.
    """
    rngs = _rngs(device, seed, votes, name)
    roi = (1, *_padded_size(image.shape, multiple))
    if window == "sliding":
        roi = (spec.sample_depth, spec.image_size, spec.image_size)
    rounded = blend == "rounded" and window == "sliding"
    depth = _most(SLAB_PIXELS, image.shape[-2:]) if roi[0] == 1 else image.shape[1]
    labels, entropy = [], []
    for slab in torch.split(image, depth, dim=1):
        slices = spec.normalise(slab.transpose(0, 1).to(device))
        means = _blended(slices.transpose(0, 1), sample, rngs, roi, overlap, rounded)
        labels.append(decide(means, spec.foreground).cpu())
        entropy.append(_entropy(means[-1]).cpu())
    return Votes(labels=torch.cat(labels, dim=1), entropy=torch.cat(entropy))


def probabilities(masks: Tensor) -> Tensor:
    """Masks in [-1, 1] to probabilities: (x + 1) / 2, clamped."""
    return masks.float().add(1).div_(2).clamp_(0, 1)


def prefix_means_(votes: Tensor) -> Tensor:
    """Averages over the first 1..V votes, written over the votes (V, ...); each is what it would be without the votes after it."""
    total = votes[0].clone()
    for number, vote in enumerate(votes[1:], start=2):
        total += vote
        torch.div(total, number, out=vote)
    return votes


def decide(probability: Tensor, foreground: int = 1) -> Tensor:
    """Labels (..., D, H, W) uint8 from averages (..., M, D, H, W): rounded half to even, or the (first) most probable class."""
    if probability.shape[-4] > 1:
        return probability.max(dim=-4).indices.to(torch.uint8)
    channel = probability.squeeze(-4)
    on_cpu = channel.device.type == "cpu"  # where NumPy compares five times as fast as PyTorch
    rounded = torch.from_numpy(channel.numpy() > 0.5) if on_cpu else channel > 0.5  # half is rounded to even, which is 0
    return (rounded if foreground == 1 else ~rounded).view(torch.uint8)


def _scores(case: Case, classes: Sequence[str], labels: Tensor, seconds: float) -> tuple[Score, ...]:
    """Score what each prefix of the votes decides, labels (V, D, H, W)."""
    both, predicted, true = count_pixels(labels, case.label, len(classes))
    dice, iou = dice_and_iou(both, predicted, true)
    error = volume_error(predicted, true)
    by_class = []
    for index, name in enumerate(classes):
        truth = case.label == index + 1
        objects = None if case.instances is None else case.instances * truth
        rows: list[Score] = []
        before = None
        for row, mask in enumerate(labels == index + 1):
            if before is None or not torch.equal(mask, before):  # the rest is costly, and late votes change little
                hd95, assd = surface_distances(mask, truth, case.spacing)
                aji, quality = (None, None) if objects is None else object_scores(mask, objects)
            before = mask
            rows.append(
                Score(
                    class_name=name,
                    votes=row + 1,
                    dice=float(dice[row, index]),
                    iou=float(iou[row, index]),
                    hd95=hd95,
                    assd=assd,
                    volume_error=float(error[row, index]),
                    aji=aji,
                    panoptic_quality=quality,
                    seconds=seconds * (row + 1) / len(labels),
                )
            )
        by_class.append(rows)
    return tuple(itertools.chain.from_iterable(zip(*by_class, strict=True)))


def _blended(
    image: Tensor, sample: Sample, rngs: Sequence[torch.Generator], roi: tuple[int, int, int], overlap: float, rounded: bool
) -> Tensor:
    """Averages of the first 1..V votes for a normalised image (C, D, H, W), each blended over the windows: (V, M, D, H, W).

    Averaging commutes with blending, so that the votes of a window can be averaged (and rounded) before it is blended.
    """
    from monai.inferers.utils import sliding_window_inference  # here: it takes seconds to import, and training does without

    def means(windows: Tensor) -> Tensor:  # (N, C, d, S, S) -> (N, V * M, d, S, S)
        number, _, depth, *side = windows.shape
        slices = windows.transpose(1, 2).flatten(0, 1)
        batches = torch.split(slices, _most(BATCH_PIXELS, side))
        average = prefix_means_(torch.cat([probabilities(sample(batch, rngs)) for batch in batches], dim=1))
        if rounded:
            average.round_()
        return average.view(len(rngs), number, depth, -1, *side).permute(1, 0, 3, 2, 4, 5).flatten(1, 2)

    found = sliding_window_inference(
        image[None], roi, _most(BATCH_PIXELS, roi), means, overlap, mode="constant", padding_mode="replicate"
    )
    assert isinstance(found, Tensor)
    return found.reshape(len(rngs), -1, *image.shape[1:])


def _entropy(probability: Tensor) -> Tensor:
    """Entropy of averaged probabilities (M, D, H, W) over the classes, divided by its largest value: (D, H, W)."""
    classes = torch.cat([probability, 1 - probability]) if len(probability) == 1 else probability
    classes = classes / classes.sum(dim=0).clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(classes).sum(dim=0)
    return entropy.div_(math.log(len(classes))).clamp_(0, 1)


def _rngs(device: Device, seed: int, votes: int, *case_ids: str) -> list[torch.Generator]:
    """The random stream of every vote, a function of the seed and of what is drawn."""
    digests = (hashlib.blake2b(repr((seed, vote, case_ids)).encode(), digest_size=8).digest() for vote in range(votes))
    return [torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1) for digest in digests]


def _most(pixels: int, size: Sequence[int]) -> int:
    """How many pieces of a size hold a number of pixels together, at least one."""
    return max(1, pixels // math.prod(size))


def _padded_size(shape: Sequence[int], multiple: int) -> Size:
    """The last two sides, enlarged to multiples."""
    height, width = (-(-side // multiple) * multiple for side in shape[-2:])
    return height, width


def _pad(image: Tensor, size: Size) -> Tensor:
    """Repeat the edges of a slice (C, H, W) of any type on both sides until it has a size."""
    rows, columns = (
        torch.arange(want).sub_((want - have) // 2).clamp_(0, have - 1) for want, have in zip(size, image.shape[1:], strict=True)
    )
    return image[:, rows[:, None], columns]


def _unpad(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `_pad` on the last two axes."""
    h, w = (slice(start := (have - want) // 2, start + want) for want, have in zip(shape[-2:], image.shape[-2:], strict=True))
    return image[..., h, w]
