"""How well a sampler segments: cheap validation after an epoch, and the full protocol case by case.

    score = validate(dataset, split.validation[:8], sample, votes=1, multiple=8, seed=0, device="cpu")
    for result in evaluate(dataset, split.test, sample, votes=5, multiple=8, seed=0, device="cpu"):
        rows = result.scores
    seen = draw_votes(case.image, case.id, spec, sample, votes=5, multiple=8, seed=0, device="cpu")     # needs no truth
    mask = seen.labels[-1]

A sampler draws random masks of an image. Several draws of a case are its votes; they are averaged as probabilities, and the class
of a pixel is decided from the average. Every prefix 1..V of the votes is scored from one set of draws; `cdal.metrics` defines the
scores, also those of empty masks. With a confidence, drawing ends as soon as the votes that are left could hardly change the mask.

Where slices were resampled to train on them, averages are resampled back before classes are decided, and scored on the file's grid.

Shapes: N images, C image channels, M mask channels, V votes, D slices, H and W pixels, S side of a window.
"""

import hashlib
import itertools
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cdal.data.dataset import Case, Dataset, DatasetSpec
from cdal.data.geometry import resample_maps
from cdal.data.preparation import Size, pad, padded_size, unpad
from cdal.devices.memory import out_of_memory
from cdal.devices.transfer import to_device
from cdal.metrics import count_pixels, dice_and_iou, error_correlation
from cdal.pulse import beat
from cdal.scores import Score, Truth, score_votes

Sample = Callable[[Tensor, Sequence[torch.Generator]], Tensor]
"""(normalised images (N, C, H, W), one random generator per vote) -> masks (V, N, M, H, W) in [-1, 1], new draws at every call.

Vote v depends on the images and the v-th generator alone."""

Window = Literal["sliding", "whole"]
Blend = Literal["soft", "rounded"]
Device = torch.device | str

# Both bound memory. They are constants because draws depend on them: the images of a batch share the random streams of the votes.
BATCH_PIXELS = 2**18
"""Pixels given to a sampler at once: 256 slices of 32 x 32."""
SLAB_PIXELS = 2**20
"""Pixels of the slices that are blended and decided together."""

FIRST_ROUND = 4
"""Votes that are drawn before it is asked whether more are needed."""


@dataclass(frozen=True)
class ValidationScore:
    """Means over the cases (whole images or volumes); `dice` and `iou` are also means over the classes."""

    dice: float
    iou: float
    class_dice: tuple[float, ...]
    class_iou: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """What the votes for an image say, on its own grid unless another was asked for."""

    labels: Tensor
    """What the first 1..V votes decide, (V, D, H, W) uint8; beyond those that were drawn, what these decide."""
    entropy: Tensor
    """Entropy of the average of all votes, (D, H, W) float32: 0 where all are sure and agree, 1 where every class is as likely."""
    used: int
    """Votes that were drawn, 1..V; where the slices of a volume needed different numbers, the largest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseResult:
    """A case under the full protocol: its scores, and the maps that a gallery shows, all on the grid of its `truth`.

    Pixels that nobody judged are background, of no entropy, and no part of any figure.
    """

    case_id: str
    scores: tuple[Score, ...]
    """For every number of votes 1..V, every class."""
    labels: Tensor
    """The decision of all votes, (D, H, W) uint8."""
    entropy: Tensor
    """Of all votes, (D, H, W), see `Votes`."""
    mean_entropy: float
    """Over all pixels that were judged."""
    entropy_error: float | None
    """Pearson correlation over these pixels of the entropy and of being wrong; None where it is not defined (no pixel is wrong)."""
    seconds: float
    """Time to draw and blend all votes."""
    votes_used: int
    """Votes that were drawn, see `Votes`."""

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
    more memory than there is. Those, and slices that were resampled, go through case by case.

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
        truth = Truth.of(case, spec)
        counts = count_pixels(truth.within(labels)[None], truth.label, len(spec.classes))
        scores.append(dice_and_iou(*(count[0] for count in counts)))
        beat()

    for case in map(dataset.case, sorted(cases)):  # so that the order given does not change the draws
        small = max(case.label.shape[1:]) <= 2 * spec.image_size
        if small and case.native is None:
            together.setdefault(padded_size(case.label.shape, multiple), []).append(case)
        else:
            seen = draw_votes(
                case.image, case.id, spec, sample, votes=votes, multiple=multiple, seed=seed, device=device,
                window="whole" if small else "sliding", overlap=0.0, size=_size(case.truth),
            )  # fmt: skip
            score(case, seen.labels[-1])
    for size, group in together.items():
        rngs = _rngs(device, seed, votes, *(case.id for case in group))
        slices = [(case, number) for case in group for number in range(len(case.label))]
        labels = []
        most = _most(BATCH_PIXELS, size)
        for start in range(0, len(slices), most):
            batch = torch.stack([pad(case.image[:, number], size) for case, number in slices[start : start + most]])
            masks = sample(spec.normalise(to_device(batch, device)), rngs)  # (V, N, M, H, W)
            average = probabilities(masks).mean(dim=0).transpose(0, 1)
            labels.append(decide(average, spec.foreground))
        decided = iter(torch.cat(labels).cpu())  # all at the end: a GPU goes on meanwhile
        for case in group:
            score(case, torch.stack([unpad(next(decided), case.label.shape) for _ in range(len(case.label))]))
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
    confidence: float = 0.0,
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
        window: overlapping windows of the size of the training samples, or whole slices.
        overlap: overlap of neighbouring windows, as a fraction of their side.
        blend: what is averaged where windows overlap, the votes' mean probability or (as published for hippocampus) that rounded.
        confidence: 0 draws all votes. Otherwise below 1: no more are drawn once all votes are expected to change fewer than
            1 - confidence pixels per pixel of foreground. Those drawn are the first of all votes.
    """
    import_module("monai.inferers.utils")  # takes seconds, which shall not count for the first case
    for case in map(dataset.case, cases):
        truth = Truth.of(case, dataset.spec)
        started = time.perf_counter()
        seen = draw_votes(
            case.image, case.id, dataset.spec, sample, votes=votes, multiple=multiple, seed=seed, device=device, window=window,
            overlap=overlap, blend=blend, confidence=confidence, size=_size(case.truth),
        )  # fmt: skip
        seconds = time.perf_counter() - started
        entropy = truth.pixels(seen.entropy)
        yield CaseResult(
            case_id=case.id,
            scores=score_votes(case, truth, dataset.spec.classes, seen.labels, used=seen.used, seconds=seconds),
            labels=truth.within(seen.labels[-1]),
            entropy=truth.within(seen.entropy),
            mean_entropy=float(entropy.mean(dtype=torch.float64)),
            entropy_error=error_correlation(entropy, truth.pixels(seen.labels[-1] != truth.label)),
            seconds=seconds,
            votes_used=seen.used,
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
    confidence: float = 0.0,
    size: Size | None = None,
) -> Votes:
    """What the votes for one image (C, D, H, W) say; a new file has no truth to be scored against.

    The image holds stored values, as that of a `Case` of the dataset `spec`. The draws depend on its name (a case's id) and on the
    seed. `size` is the height and width that averages are resampled to, linearly, before classes are decided; None keeps the
    image's. The other arguments are those of `evaluate`. Where the maps of all votes do not fit a GPU's memory, a warning says so,
    and they are put together in the machine's.
    """
    sliding = window == "sliding"
    roi = (spec.image_size, spec.image_size) if sliding else padded_size(image.shape, multiple)
    rounded = sliding and blend == "rounded"
    size = size or _size(image)
    shrunk = math.prod(_size(image)) / math.prod(size)  # pixels of the image in one of the maps

    def decide_at(means: Tensor) -> Tensor:
        if size == _size(means):
            return decide(means, spec.foreground)
        return torch.stack([decide(resample_maps(mean, size), spec.foreground) for mean in means])  # one by one: they may be large

    def decided(number: int, slab: Tensor, maps_on: torch.device) -> tuple[Tensor, Tensor]:
        """What each vote that was drawn decides of some slices, and the entropy."""
        slices = spec.normalise(to_device(slab.transpose(0, 1), device))
        rngs = _rngs(device, seed + (number << 32), votes, name)  # its own, whatever the slabs before it used
        decisions = []
        try:
            for means, doubt in _rounds(slices, sample, rngs, roi, overlap, rounded, adaptive=confidence > 0, maps_on=maps_on):
                decisions.append(decide_at(means).cpu())
                if doubt is None:
                    break
                foreground = int(decisions[-1][-1].count_nonzero()) * shrunk
                if _flips(means[-1], doubt, rounded) <= (1 - confidence) * max(1, foreground):
                    break
            return torch.cat(decisions), _entropy(resample_maps(means[-1], size)).cpu()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or maps_on.type == "cpu":
                raise
        what = "the maps of all votes do not fit the GPU: they are put together on the CPU"
        warnings.warn(f"{what}, which takes more time and changes no number", stacklevel=3)
        torch.cuda.empty_cache()
        return decided(number, slab, torch.device("cpu"))

    labels, entropies, used = [], [], []
    for number, slab in enumerate(torch.split(image, _most(SLAB_PIXELS, image.shape[-2:]), dim=1)):
        drawn, entropy = decided(number, slab, torch.device(device))
        used.append(len(drawn))
        labels.append(drawn[torch.arange(votes).clamp_(max=len(drawn) - 1)])
        entropies.append(entropy)
    return Votes(labels=torch.cat(labels, dim=1), entropy=torch.cat(entropies), used=max(used))


def probabilities(masks: Tensor) -> Tensor:
    """Masks in [-1, 1] to probabilities: (x + 1) / 2, clamped."""
    return masks.float().add(1).div_(2).clamp_(0, 1)


def prefix_means_(votes: Tensor, total: Tensor | None = None, before: int = 0) -> Tensor:
    """Averages over the first 1..V votes, written over the votes (V, ...); each is what it would be without the votes after it.

    Votes drawn before count where their sum is given, and how many they are; the sum is updated.
    """
    total = torch.zeros_like(votes[0]) if total is None else total
    for number, vote in enumerate(votes, start=before + 1):
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


def _rounds(
    slices: Tensor,
    sample: Sample,
    rngs: Sequence[torch.Generator],
    roi: Size,
    overlap: float,
    rounded: bool,
    *,
    adaptive: bool,
    maps_on: torch.device,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Averages of the first 1..V votes for normalised slices (D, C, H, W), blended over the windows of a slice: (V, M, D, H, W).

    They are on the device `maps_on`, and come in rounds if adaptive, otherwise in one, each with the doubt that is left after it,
    (M, D, H, W), see `_flips`; the last has none. Averaging commutes with blending, so that a window's votes can be averaged (and
    rounded) before it is blended.
    """
    from monai.inferers.utils import sliding_window_inference  # here: it takes seconds to import, and training does without

    sums: deque[Tensor] = deque()
    """Of the votes so far and of their squares, (2, N, M, S, S) per batch of windows; every round has the same batches in order."""

    def draw(windows: Tensor, before: int, after: int) -> Tensor:  # (N, C, S, S) -> (N, V * M, S, S), the doubt like a vote more
        votes = probabilities(sample(windows, rngs[before:after]))  # (V, N, M, S, S)
        total, squares = both = sums.popleft() if before else votes.new_zeros(2, *votes.shape[1:])
        last = after == len(rngs)
        if not last:
            squares += votes.square().sum(dim=0)
            sums.append(both)
        means = prefix_means_(votes, total, before)
        if rounded:
            means.round_()
        maps = means if last else torch.cat([means, _doubt(total, squares, after, len(rngs), rounded)[None]])
        return maps.transpose(0, 1).flatten(1, 2)

    most, same = _most(BATCH_PIXELS, roi), slices.new_ones((1, 1, *roi))  # given, or a GPU would be waited for
    for before, after in itertools.pairwise((0, *_schedule(len(rngs), adaptive))):
        found = sliding_window_inference(
            slices, roi, most, draw, overlap, mode="constant", padding_mode="replicate", roi_weight_map=same, device=maps_on,
            before=before, after=after,
        )  # fmt: skip
        assert isinstance(found, Tensor)
        drawn, last = after - before, after == len(rngs)
        maps = found.reshape(len(found), drawn if last else drawn + 1, -1, *found.shape[2:]).permute(1, 2, 0, 3, 4)
        yield maps[:drawn], None if last else maps[-1]


def _schedule(votes: int, adaptive: bool) -> list[int]:
    """How many votes there are after each round: all of them, or 4, then half as many more every time."""
    if not adaptive:
        return [votes]
    rounds = [FIRST_ROUND]
    while rounds[-1] < votes:
        rounds.append(rounds[-1] * 3 // 2)
    return [*rounds[:-1], votes]


def _doubt(total: Tensor, squares: Tensor, drawn: int, votes: int, rounded: bool) -> Tensor:
    """By how much the mean of all votes may differ from that of those drawn, from the sum of these and that of their squares.

    This is one standard deviation of the difference; or, of means that are rounded, the chance that they differ.
    """
    # Few votes that happen to agree prove little, so half a vote for 0 and half a vote for 1 are counted with them (the prior of
    # Jeffreys for a proportion): 4 equal votes then vary as if 1 in 10 were of the other opinion.
    variance = ((squares + 0.5) / (drawn + 1) - ((total + 0.5) / (drawn + 1)).square_()) * ((drawn + 1) / drawn)
    deviation = variance.mul_((votes - drawn) / (votes * drawn)).sqrt_()  # of the mean of some votes from that of all of them
    return torch.special.ndtr((total / drawn - 0.5).abs_().neg_() / deviation) if rounded else deviation


def _flips(mean: Tensor, doubt: Tensor, rounded: bool) -> float:
    """How many pixels the votes that are left are expected to decide otherwise, from a mean and its doubt, both (M, D, H, W).

    Doubts add up, over windows as over classes: they are taken to go together, which overstates them.
    """
    if len(mean) == 1:
        margin = (mean[0] - 0.5).abs()
    else:
        two = mean.topk(2, dim=0)
        margin, doubt = two.values[0] - two.values[1], doubt.gather(0, two.indices).sum(dim=0, keepdim=True)
    certainty = margin.clamp(min=1e-6) / doubt[0]
    # A mean is roughly normal; one of rounded means is not, and what it moves by is only known on average (Markov's inequality).
    flips = certainty.reciprocal_().clamp_(max=1) if rounded else torch.special.ndtr(certainty.neg_())
    return float(flips.sum(dtype=torch.float64))


def _entropy(probability: Tensor) -> Tensor:
    """Entropy of averaged probabilities (M, D, H, W) over the classes, divided by its largest value: (D, H, W)."""
    classes = torch.cat([probability, 1 - probability]) if len(probability) == 1 else probability
    classes = classes / classes.sum(dim=0).clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(classes).sum(dim=0)
    return entropy.div_(math.log(len(classes))).clamp_(0, 1)


def _size(maps: Tensor) -> Size:
    return maps.shape[-2], maps.shape[-1]


def _rngs(device: Device, seed: int, votes: int, *case_ids: str) -> list[torch.Generator]:
    """The random stream of every vote, a function of the seed and of what is drawn."""
    digests = (hashlib.blake2b(repr((seed, vote, case_ids)).encode(), digest_size=8).digest() for vote in range(votes))
    return [torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1) for digest in digests]


def _most(pixels: int, size: Sequence[int]) -> int:
    """How many pieces of a size hold a number of pixels together, at least one."""
    return max(1, pixels // math.prod(size))
