"""Scores of masks: by hand, against other people's implementations, and where a mask is empty."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from cdal.evaluation import decide, prefix_means_
from cdal.metrics import (
    count_pixels,
    dice_and_iou,
    error_correlation,
    object_scores,
    rank_correlation,
    surface_distances,
    volume_error,
)


def cube(*corner: int, side: int = 3, of: int = 12) -> Tensor:
    mask = torch.zeros(of, of, of, dtype=torch.bool)
    mask[tuple(slice(at, at + side) for at in corner)] = True
    return mask


def blobs(shape: tuple[int, ...], seed: int, share: float = 0.3) -> Tensor:
    """Smooth random shapes, some of them at the border."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return torch.from_numpy(field > np.quantile(field, 1 - share))


def as_monai(predicted: Tensor, true: Tensor, spacing: tuple[float, ...]) -> tuple[float, float]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance  # here: not every process of the tests needs it
    from monai.metrics.surface_distance import compute_average_surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(predicted[None, None], true[None, None], True, percentile=95, spacing=list(spacing))
        assd = compute_average_surface_distance(
            predicted[None, None], true[None, None], True, symmetric=True, spacing=list(spacing)
        )
    return float(hd95), float(assd)


def aji_by_definition(predicted: Tensor, instances: Tensor) -> float:
    """Algorithm 1 of Kumar et al. 2017, word for word."""
    found, count = ndimage.label(predicted.numpy(), np.ones((3, 3, 3)))
    guesses = [found == number for number in range(1, count + 1)]
    overlap, union, used = 0, 0, set()
    for number in instances.unique().tolist():
        if number == 0:
            continue
        truth = (instances == number).numpy()
        jaccard = [(truth & guess).sum() / (truth | guess).sum() for guess in guesses]
        if not jaccard or max(jaccard) == 0:
            union += truth.sum()
            continue
        best = int(np.argmax(jaccard))
        overlap += (truth & guesses[best]).sum()
        union += (truth | guesses[best]).sum()
        used.add(best)
    union += sum(guess.sum() for number, guess in enumerate(guesses) if number not in used)
    return float(overlap / union)


def test_dice_and_iou_by_hand() -> None:
    # Classes: partly found, missed, invented, absent from both, found exactly.
    both, predicted, true = (np.array(counts) for counts in ([2, 0, 0, 0, 7], [3, 0, 4, 0, 7], [5, 6, 0, 0, 7]))
    dice, iou = dice_and_iou(both, predicted, true)
    np.testing.assert_allclose(dice, [4 / 8, 0, 0, 1, 1])
    np.testing.assert_allclose(iou, [2 / 6, 0, 0, 1, 1])


def test_volume_error_by_hand() -> None:
    # Too small, missed, invented, absent from both, as large as the truth, too large.
    error = volume_error(np.array([3, 0, 4, 0, 7, 9]), np.array([5, 6, 0, 0, 7, 3]))
    np.testing.assert_allclose(error, [-0.5, -2, 2, 0, 0, 1])


def test_pixels_of_every_class_in_every_prefix() -> None:
    rng = torch.Generator().manual_seed(0)
    true = torch.randint(0, 4, (3, 5, 7), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 4, (6, 3, 5, 7), dtype=torch.uint8, generator=rng)
    both, predicted, there = count_pixels(labels, true, 4)
    assert both.shape == predicted.shape == there.shape == (6, 4)
    for row in range(6):
        for index, value in enumerate((1, 2, 3, 4)):
            assert both[row, index] == ((labels[row] == value) & (true == value)).sum()
            assert predicted[row, index] == (labels[row] == value).sum()
            assert there[row, index] == (true == value).sum()


def test_overlap_of_vote_prefixes_is_that_of_scikit_learn() -> None:
    truth = blobs((1, 48, 48), 0)
    votes = (truth + 0.8 * torch.randn(30, 1, 1, 48, 48, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    labels = decide(prefix_means_(votes.clone()))
    dice, iou = dice_and_iou(*count_pixels(labels, truth.to(torch.uint8), 1))
    flat = truth.flatten().int().numpy()
    for row in range(30):
        mask = votes[: row + 1].mean(dim=0).round().flatten().int().numpy()
        assert dice[row, 0] == pytest.approx(f1_score(flat, mask), abs=1e-6)
        assert iou[row, 0] == pytest.approx(jaccard_score(flat, mask), abs=1e-6)


def test_surface_distances_by_hand() -> None:
    true = cube(4, 4, 4)
    assert surface_distances(true, true, (1, 1, 1)) == (0, 0)
    for axis, steps in enumerate([(3, 1, 1), (3, 1.5, 1), (3, 1, 0.5)]):
        hd95, _ = surface_distances(true.roll(2, axis), true, steps)
        assert hd95 == pytest.approx(2 * steps[axis])
    assert surface_distances(cube(1, 1, 1, side=1), cube(1, 4, 5, side=1), (1, 1, 1)) == pytest.approx((5, 5))
    # A point in the middle of one face of a cube of side 3, whose surface are 26 pixels: on it, and at five distances from it.
    point = cube(4, 5, 5, side=1)
    offsets = [math.dist((0, 1, 1), place) for place in np.ndindex(3, 3, 3) if place != (1, 1, 1)]
    hd95, assd = surface_distances(point, true, (1, 1, 1))
    assert assd == pytest.approx(sum(offsets) / 27)
    assert hd95 == pytest.approx(np.percentile(offsets, 95))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 14, 11), (3.0, 0.7, 1.0)), ((20, 20, 20), (1, 1, 1)), ((2, 9, 9), (5.0, 1.0, 0.5))]
)
def test_surface_distances_are_those_of_monai(shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int) -> None:
    predicted, true = blobs(shape, seed), blobs(shape, seed + 100, share=0.1)
    assert surface_distances(predicted, true, spacing) == pytest.approx(as_monai(predicted, true, spacing), rel=1e-5)


def test_surface_distances_of_flat_objects_in_a_volume_are_those_of_monai() -> None:
    predicted, true = torch.zeros(2, 7, 20, 20, dtype=torch.bool)
    predicted[3:4], true[3:4] = blobs((1, 20, 20), 0), blobs((1, 20, 20), 1)
    steps = (3.0, 1.0, 0.5)
    assert surface_distances(predicted, true, steps) == pytest.approx(as_monai(predicted, true, steps), rel=1e-5)


def test_surface_distances_of_an_image_are_measured_in_its_plane() -> None:
    true = torch.zeros(1, 12, 12, dtype=torch.bool)
    true[0, 4:8, 4:8] = True
    assert surface_distances(true, true, (99, 1, 2)) == (0, 0)
    hd95, assd = surface_distances(true.roll(3, 2), true, (99, 1, 2))
    assert hd95 == pytest.approx(6)
    assert 0 < assd < hd95
    predicted, there = blobs((1, 30, 30), 0), blobs((1, 30, 30), 1)
    assert surface_distances(predicted, there, (99, 1, 2)) == pytest.approx(as_monai(predicted[0], there[0], (1.0, 2.0)), rel=1e-5)


def test_surface_distances_of_empty_masks() -> None:
    empty, some = torch.zeros(3, 4, 12, dtype=torch.bool), torch.ones(3, 4, 12, dtype=torch.bool)
    assert surface_distances(empty, empty, (1, 1, 1)) == (0, 0)
    assert surface_distances(some, empty, (1, 1, 1)) == surface_distances(empty, some, (1, 1, 1)) == (13, 13)
    assert surface_distances(some[:1], empty[:1], (0, 3, 0.75)) == (15, 15)


def test_object_scores_by_hand() -> None:
    instances = torch.zeros(1, 8, 8, dtype=torch.int32)
    instances[0, :2, :2], instances[0, :2, 4:8], instances[0, 5:7, :2] = 7, 3, 9  # 4, 8 and 4 pixels
    predicted = torch.zeros(1, 8, 8, dtype=torch.bool)
    predicted[0, :2, :2] = True  # the first exactly
    predicted[0, :2, 4:6] = True  # half of the second
    predicted[0, 7, 5:8] = True  # invented; the third is missed
    aji, quality = object_scores(predicted, instances)
    assert aji == pytest.approx((4 + 4) / (4 + 8 + 4 + 3))
    assert quality == pytest.approx(1 / (1 + 2 / 2 + 2 / 2))  # IoU 0.5 is no match
    predicted[0, 0, 6] = True
    _, quality = object_scores(predicted, instances)
    assert quality == pytest.approx((1 + 5 / 8) / (2 + 1 / 2 + 1 / 2))


def test_one_predicted_object_may_be_taken_by_two_true_ones() -> None:
    instances = torch.tensor([[[1, 1, 1, 2, 2]]])
    aji, quality = object_scores(instances > 0, instances)
    assert aji == pytest.approx((3 + 2) / (5 + 5))
    assert quality == pytest.approx((3 / 5) / (1 + 1 / 2))


def test_pixels_that_touch_at_a_corner_are_one_object() -> None:
    mask = torch.eye(4, dtype=torch.bool)[None]
    assert object_scores(mask, mask.int()) == (1, 1)
    assert object_scores(mask, torch.diag(torch.arange(1, 5))[None])[0] == pytest.approx(1 / 4)
    volume = torch.zeros(2, 2, 2, dtype=torch.bool)
    volume[0, 0, 0] = volume[1, 1, 1] = True
    assert object_scores(volume, volume.int()) == (1, 1)


def test_object_scores_of_empty_masks_and_single_pixels() -> None:
    empty, point = torch.zeros(1, 5, 5, dtype=torch.int32), torch.zeros(1, 5, 5, dtype=torch.int32)
    point[0, 2, 2] = 4
    assert object_scores(empty > 0, empty) == (1, 1)
    assert object_scores(point > 0, empty) == object_scores(empty > 0, point) == (0, 0)
    assert object_scores(point > 0, point) == (1, 1)
    assert object_scores(point.roll(1, 2) > 0, point) == (0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_object_scores_are_those_of_the_definitions(seed: int) -> None:
    from monai.metrics.panoptic_quality import compute_panoptic_quality

    instances = torch.from_numpy(ndimage.label(blobs((1, 60, 60), seed))[0])
    instances[instances == 2] = 100_000  # numbers need not be consecutive
    predicted = (instances > 0) ^ blobs((1, 60, 60), seed + 50, share=0.15)
    aji, quality = object_scores(predicted, instances)
    found = torch.from_numpy(ndimage.label(predicted[0].numpy(), np.ones((3, 3)))[0])
    assert found.max() > 5
    assert aji == pytest.approx(aji_by_definition(predicted, instances), abs=1e-9)
    assert quality == pytest.approx(float(compute_panoptic_quality(found, instances[0])), abs=1e-5)
    assert 0 < aji < 1
    assert 0 < quality < 1


def test_correlation_of_uncertainty_and_error_is_pearsons() -> None:
    rng = torch.Generator().manual_seed(0)
    uncertainty = torch.rand(3, 8, 9, generator=rng)
    for wrong in (uncertainty > 0.7, uncertainty < 0.2, torch.rand(3, 8, 9, generator=rng) < uncertainty):
        expected = np.corrcoef(uncertainty.flatten(), wrong.flatten())[0, 1]
        assert error_correlation(uncertainty, wrong) == pytest.approx(expected, abs=1e-6)
    binary = uncertainty > 0.9
    assert error_correlation(binary.float(), binary) == pytest.approx(1)
    assert error_correlation(binary.float(), ~binary) == pytest.approx(-1)


def test_correlation_of_uncertainty_and_error_where_it_is_not_defined() -> None:
    uncertainty, wrong = torch.rand(1, 4, 4), torch.eye(4, dtype=torch.bool)[None]
    assert error_correlation(uncertainty, torch.zeros_like(wrong)) is None
    assert error_correlation(uncertainty, torch.ones_like(wrong)) is None
    assert error_correlation(torch.full_like(uncertainty, 0.3), wrong) is None


def test_rank_correlation_is_spearmans() -> None:
    one, other = [3.0, 1, 4, 1, 5, 9], [2.0, 7, 1, 8, 2, 8]
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert rank_correlation([1, 2, 3], [10, 100, 1e9]) == pytest.approx(1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2], [1, 2]) is None
