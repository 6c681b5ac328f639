"""Volumes whose slices were resampled to train on them: they are predicted on that grid, and scored on that of their files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import dataset_of
from torch import Tensor

from cdal.data import Case, DatasetSpec, encode_mask
from cdal.data.cases import CaseDataset
from cdal.data.folds import PARTITION_NAMES
from cdal.data.geometry import resample_label, resample_maps
from cdal.evaluation import Votes, draw_votes, evaluate, validate
from cdal.metrics import surface_distances

SPEC = DatasetSpec(
    name="v", image_channels=1, classes=("a", "b"), image_size=16, volumetric=True, sample_depth=4, folds=PARTITION_NAMES,
    protocol="", licence="",
)  # fmt: skip
NATIVE = ((36, 30), (9, 10), (24, 20))
"""(H, W) of the files; the grid of training is 18 x 20."""
SPACING = (3.0, 0.5, 0.75)


def discs(height: int, width: int, depth: int = 3) -> Tensor:
    """Labels of two ellipses that move from slice to slice, wherever their pixels lie: (depth, height, width)."""
    label = torch.zeros(depth, height, width, dtype=torch.uint8)
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    for number in range(depth):
        for value, (row, column) in enumerate(((0.35, 0.3), (0.6, 0.7)), start=1):
            label[number][((y[:, None] - row - 0.05 * number) / 0.2) ** 2 + ((x - column) / 0.25) ** 2 < 1] = value
    return label


def volumes(sizes: Sequence[tuple[int, int]] = NATIVE) -> CaseDataset:
    cases = []
    for number, size in enumerate(sizes):
        label = discs(18, 20)
        native = discs(*size)
        cases.append(Case(id=f"case_{number}", image=label[None].float() - 1, label=label, native=native, spacing=SPACING))
    return dataset_of(SPEC, cases)


def reader(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
    """Reads the label from the image, with noise."""
    one_hot = encode_mask((images[:, 0] + 1).round().to(torch.uint8), 3)
    return torch.stack([one_hot * 0.8 + torch.randn(one_hot.shape, generator=rng) for rng in rngs])


COMMON: dict[str, Any] = {"votes": 6, "multiple": 2, "seed": 0, "device": "cpu"}


def votes_for(case: Case, **settings: Any) -> Votes:
    return draw_votes(case.image, case.id, SPEC, reader, **COMMON | settings)


@pytest.mark.parametrize("settings", [{"window": "whole"}, {"overlap": 0.5}, {"overlap": 0.5, "blend": "rounded"}], ids=str)
def test_scores_are_those_on_the_grid_of_the_file(settings: dict[str, Any]) -> None:
    dataset = volumes()
    for result, case in zip(evaluate(dataset, dataset.ids, reader, **COMMON, **settings), dataset._cases.values(), strict=True):
        assert case.native is not None
        assert result.labels.shape == result.entropy.shape == case.native.shape
        for index, score in enumerate(result.scores[-2:], start=1):
            found, there = result.labels == index, case.native == index
            assert score.dice == pytest.approx(2 * (found & there).sum() / (found.sum() + there.sum()))
            assert (score.hd95, score.assd) == surface_distances(found, there, SPACING)
            assert score.dice > 0.75
        assert result.mean_entropy == pytest.approx(float(result.entropy.mean()))


def test_averages_are_resampled_before_anything_is_decided() -> None:
    """A sampler that is half sure along borders, where a pixel of training holds more than one class of the file."""
    case = volumes(((54, 60),)).case("case_0")
    shares = resample_maps((case.truth == torch.arange(3)[:, None, None, None]).float(), (18, 20))  # (M, D, H, W)
    masks = (2 * shares.transpose(0, 1) - 1)[None] + torch.tensor([0.2, -0.3, 0.1])[:, None, None, None, None]  # (V, D, M, H, W)
    means = masks.add(1).div(2).clamp(0, 1).mean(dim=0).transpose(0, 1)

    def unsure(_: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        return masks[: len(rngs)]

    settings: dict[str, Any] = COMMON | {"votes": 3, "window": "whole"}
    found = draw_votes(case.image, "x", SPEC, unsure, **settings, size=(54, 60))
    assert torch.equal(found.labels[-1], resample_maps(means, (54, 60)).argmax(dim=0).byte())
    kept = draw_votes(case.image, "x", SPEC, unsure, **settings)
    assert torch.equal(kept.labels, draw_votes(case.image, "x", SPEC, unsure, **settings, size=(18, 20)).labels)
    errors = [int((labels != case.truth).sum()) for labels in (found.labels[-1], resample_label(kept.labels[-1], (54, 60)))]
    assert errors[0] < errors[1]


def test_validation_scores_the_same_grid() -> None:
    dataset = volumes()
    score = validate(dataset, dataset.ids, reader, **COMMON)
    results = list(evaluate(dataset, dataset.ids, reader, **COMMON, window="whole"))
    assert score.dice == pytest.approx(sum(result.dice for result in results) / len(results))
    large = replace(SPEC, image_size=8)  # slices of more than two samples go through in windows
    tiled = validate(dataset_of(large, list(dataset._cases.values())), dataset.ids, reader, **COMMON)
    assert tiled.dice == pytest.approx(score.dice, abs=0.05)


def test_drawing_ends_as_early_on_a_finer_grid() -> None:
    """What the votes that are left could change is counted on the grid of the image."""
    case = volumes().case("case_0")
    used = {
        votes_for(case, votes=60, confidence=0.9, window="whole", size=size).used for size in (None, (18, 20), (72, 80), (9, 10))
    }
    assert len(used) == 1
    assert used < {6, 9, 13, 19, 28, 42}


def test_cases_on_their_own_grid_draw_as_they_did_beside_others() -> None:
    """A volume that was not resampled has the same random streams, whatever else is in the dataset."""
    native = volumes()
    plain = [replace(case, native=None, id=f"plain_{case.id}") for case in native._cases.values()]
    mixed = dataset_of(SPEC, [*plain, *native._cases.values()])
    alone = dataset_of(SPEC, plain)
    ids = [case.id for case in plain]
    assert validate(mixed, ids, reader, **COMMON) == validate(alone, ids, reader, **COMMON)
    both = validate(mixed, mixed.ids, reader, **COMMON)
    apart = [validate(mixed, some, reader, **COMMON).dice for some in (ids, native.ids)]
    assert both.dice == pytest.approx(sum(apart) / 2)
