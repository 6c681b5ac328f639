"""The best checkpoint of a trial, scored by the full protocol: its figures, rows of cases, and pictures for the gallery."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdal.checkpoint import load_model
from cdal.data import Case, SplitName
from cdal.data.dataset import IGNORED
from cdal.data.folds import spread
from cdal.data.geometry import resample_maps
from cdal.evaluation import CaseResult
from cdal.metrics import rank_correlation
from cdal.predict import full_protocol
from cdal.training import BEST
from tune.lake.status import trial_id
from tune.trials.settings import Message, TrialSettings

PICTURES = 3  # best cases, as many worst, and the median one


def score(settings: TrialSettings, folder: Path, split: SplitName = "validation") -> Message:
    """Evaluate the best checkpoint by the full protocol: on the validation split, or, pictures apart, on the whole test split."""
    started = time.perf_counter()
    config, generator = load_model(folder / BEST)
    dataset = settings.open_dataset()
    cases = dataset.split(settings.fold)[split]
    if split != "test":
        cases = spread(cases, dataset.groups, config.evaluation.cases)
    results = []
    rows: list[dict[str, Any]] = []
    entropy = []
    for result in full_protocol(config, generator.to(settings.device), dataset, cases):
        results.append(_Picture.of(dataset.case(result.case_id), result))
        rows += _case_rows(settings.number, split, result, dataset.groups.get(result.case_id))
        entropy.append(result.mean_entropy)
    votes = rows[-1]["votes"]
    last = [row for row in rows if row["votes"] == votes]
    dice, iou = (float(np.mean([row[name] for row in last])) for name in ("dice", "iou"))
    if split == "test":
        figures = {"test_dice": dice, "test_iou": iou, "test_evaluations": settings.test_evaluations}
        return {"trial": figures | {"scoring_seconds": time.perf_counter() - started}, "cases": rows}
    return {
        "trial": {
            "final_dice": dice,
            "final_iou": iou,
            "votes": votes,
            "uncertainty_correlation": rank_correlation(entropy, [1 - result.dice for result in results]),
            "seconds_per_case": float(np.mean([result.seconds for result in results])),
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            "scoring_seconds": time.perf_counter() - started,
        },
        "cases": rows,
        "gallery": [picture.row(settings.number, votes) for picture in _shown(results)],
    }


def _case_rows(number: int, split: SplitName, result: CaseResult, group: str | None) -> list[dict[str, Any]]:
    votes = result.scores[-1].votes
    of_all = {"entropy": result.mean_entropy, "entropy_error": result.entropy_error, "votes_used": result.votes_used}
    return [
        {
            "trial_id": trial_id(number),
            "split": split,
            "case": result.case_id,
            "group": group,
            "class": item.class_name,
            "votes": item.votes,
            "dice": item.dice,
            "iou": item.iou,
            "hd95": item.hd95,
            "assd": item.assd,
            "volume_error": item.volume_error,
            "aji": item.aji,
            "panoptic_quality": item.panoptic_quality,
            "seconds": item.seconds,
        }
        | (of_all if item.votes == votes else {})
        for item in result.scores
    ]


@dataclass(frozen=True)
class _Picture:
    """One slice of a case on the grid of its truth: image (C, H, W) in stored values, truth, prediction and uncertainty (H, W).

    No class is shown where nobody judged.
    """

    case_id: str
    dice: float
    seconds: float
    image: Tensor
    truth: Tensor
    prediction: Tensor
    uncertainty: Tensor

    @classmethod
    def of(cls, case: Case, result: CaseResult) -> _Picture:
        """The middle one of the slices that have foreground."""
        truth = case.truth.where(case.truth != IGNORED, 0)
        filled = truth.flatten(1).any(dim=1).nonzero().flatten().tolist() or list(range(len(truth)))
        middle = filled[len(filled) // 2]
        image = case.image[:, middle]
        if case.native is not None:
            resized = resample_maps(image.float(), (truth.shape[1], truth.shape[2]))
            image = resized if image.is_floating_point() else resized.round().to(image.dtype)
        return cls(
            result.case_id,
            result.dice,
            result.seconds,
            image,
            truth[middle],
            result.labels[middle].clone(),  # a view would keep the whole volume in memory
            result.entropy[middle].clone(),
        )

    def row(self, number: int, votes: int) -> dict[str, Any]:
        """A row of the gallery table; the uncertainty is the entropy of the votes, white where it is largest."""
        shown = self.image if self.image.dtype == torch.uint8 else ((self.image.clamp(-1, 1) + 1) * 127.5).round().byte()
        colours = shown[0] if len(shown) != 3 else shown.permute(1, 2, 0)
        return {
            "trial_id": trial_id(number),
            "split": "validation",
            "case": self.case_id,
            "votes": votes,
            "dice": self.dice,
            "image": _png(colours),
            "truth": _png(self.truth),
            "prediction": _png(self.prediction),
            "uncertainty": _png((self.uncertainty * 255).round().byte()),
        }


def _shown(pictures: list[_Picture]) -> list[_Picture]:
    """The best cases, the median one and the worst."""
    ranked = sorted(pictures, key=lambda picture: (-picture.dice, picture.case_id))
    middle = len(ranked) // 2
    return ranked if len(ranked) <= 2 * PICTURES else ranked[:PICTURES] + ranked[middle : middle + 1] + ranked[-PICTURES:]


def _png(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.to(torch.uint8).numpy())).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
