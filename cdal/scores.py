"""What the votes for one case are worth: every class, every number of votes, against what is known of the case.

    truth = Truth.of(case, spec)
    rows = score_votes(case, truth, spec.classes, labels, used=5, seconds=1.0)      # labels (V, D, H, W) on the grid of the truth

Pixels that nobody judged count nowhere: they are background in the truth and in what is predicted.

Shapes: V prefixes of the votes, D slices, H and W pixels on the grid of the case's file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cdal.data.dataset import IGNORED, Case, DatasetSpec
from cdal.errors import InputError
from cdal.metrics import count_pixels, dice_and_iou, object_scores, surface_distances, volume_error
from cdal.pulse import beat


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
    """Share of these votes in the time to draw and blend all that were drawn."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a case."""

    label: Tensor
    """(D, H, W) uint8, on the grid of the file; background where nobody judged."""
    known: Tensor | None
    """(D, H, W) bool, where pixels were judged; None: everywhere."""

    @classmethod
    def of(cls, case: Case, spec: DatasetSpec) -> Truth:
        """Of a case of a dataset.

        Raises:
            InputError: no pixel was judged.
        """
        if not spec.has_ignored:
            return cls(case.truth, None)
        known = case.truth != IGNORED
        if not known.any():
            raise InputError(f"every pixel of case {case.id} of {spec.name} is ignored; leave its files out of the dataset")
        return cls(case.truth * known, known)

    def within(self, maps: Tensor) -> Tensor:
        """Maps (..., D, H, W), 0 where nobody judged."""
        return maps if self.known is None else maps * self.known

    def pixels(self, values: Tensor) -> Tensor:
        """Those of a map (D, H, W) that were judged."""
        return values if self.known is None else values[self.known]


def score_votes(
    case: Case, truth: Truth, classes: Sequence[str], labels: Tensor, *, used: int, seconds: float
) -> tuple[Score, ...]:
    """Score what each prefix of the votes decides, (V, D, H, W); the `used` votes that were drawn took some seconds."""
    judged = truth.within(labels)
    both, predicted, true = count_pixels(judged, truth.label, len(classes))
    dice, iou = dice_and_iou(both, predicted, true)
    error = volume_error(predicted, true)
    by_class = []
    for index, name in enumerate(classes):
        there = truth.label == index + 1
        objects = None if case.instances is None else case.instances * there
        rows: list[Score] = []
        before = None
        for row, (mask, whole) in enumerate(zip(judged == index + 1, labels == index + 1, strict=True)):
            beat()
            if before is None or not torch.equal(whole, before):  # the rest is costly, and late votes change little
                hd95, assd = surface_distances(mask, there, case.spacing)
                aji, quality = (None, None) if objects is None else object_scores(whole, objects, truth.known)
            before = whole
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
                    seconds=seconds * min(row + 1, used) / used,
                )
            )
        by_class.append(rows)
    return tuple(itertools.chain.from_iterable(zip(*by_class, strict=True)))
