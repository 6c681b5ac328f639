"""Numbers for a predicted mask: overlap, surface distances, volume, objects, and what uncertainty tells of errors.

    both, predicted, true = count_pixels(labels, truth, len(classes))    # labels (V, D, H, W): one row per prefix of the votes
    dice, iou = dice_and_iou(both, predicted, true)                      # (V, K)
    hd95, assd = surface_distances(labels[-1] == 1, truth == 1, spacing)
    aji, quality = object_scores(labels[-1] == 1, instances)

Defined values, where a class is

| | in neither mask | in one of them only |
| --- | --- | --- |
| Dice, IoU | 1 | 0 |
| HD95, ASSD | 0 | the diagonal of the case, mm |
| volume error | 0 | 2 where it is invented, -2 where it is missed |
| AJI, panoptic quality | 1 | 0 |

A surface is made of the pixels of a mask that have a neighbour outside it or lie at the border of the case; distances are those
between centres. So an object of one pixel is its own surface. A case of a single slice is taken as an image: only distances
within the slice count.

Shapes: V prefixes of the votes, K classes, D slices, H and W pixels.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Numbered = npt.NDArray[np.integer[Any]]

_FEWEST_RANKED = 3


def count_pixels(labels: Tensor, true: Tensor, num_classes: int) -> tuple[Counts, Counts, Counts]:
    """Pixels of each class in both label maps, in the predicted ones and in the true one.

    Args:
        labels: several predictions of one case, (V, D, H, W) uint8 on the CPU.
        true: (D, H, W) uint8.
        num_classes: K; the classes have labels 1..K.

    Returns:
        Three arrays (V, K).
    """
    predictions: npt.NDArray[np.uint8] = labels.numpy()
    both, predicted, there = (np.zeros((len(predictions), num_classes), dtype=np.int64) for _ in range(3))
    for index in range(num_classes):
        truth = true.numpy() == index + 1
        there[:, index] = np.count_nonzero(truth)
        for row, prediction in enumerate(predictions):
            found = prediction == index + 1
            predicted[row, index] = np.count_nonzero(found)
            both[row, index] = np.count_nonzero(found & truth)
    return both, predicted, there


def dice_and_iou(both: Counts, predicted: Counts, true: Counts) -> tuple[Numbers, Numbers]:
    """Dice and IoU from the numbers of pixels in both masks, in the prediction and in the truth: three arrays of one shape."""
    union = predicted + true - both
    empty = union == 0
    dice = np.where(empty, 1.0, 2 * both / np.maximum(predicted + true, 1))
    iou = np.where(empty, 1.0, both / np.maximum(union, 1))
    return dice, iou


def volume_error(predicted: Counts, true: Counts) -> Numbers:
    """2 (P - T) / (P + T), from -2 to 2: below 0 where the prediction P is smaller than the truth T."""
    error: Numbers = 2 * (predicted - true) / np.maximum(predicted + true, 1)
    return error


def surface_distances(predicted: Tensor, true: Tensor, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """HD95 and ASSD of two masks (D, H, W) bool, mm, as MONAI defines them.

    From every pixel of either surface to the nearest one of the other surface: HD95 is the 95th percentile of the distances in one
    direction, the larger of both directions; ASSD is the mean of the distances in both directions.
    """
    masks: list[Mask] = [predicted.numpy(), true.numpy()]
    empty = [not mask.any() for mask in masks]
    if any(empty):
        diagonal = math.dist((0, 0, 0), [side * step for side, step in zip(true.shape, spacing, strict=True)])
        return (0.0, 0.0) if all(empty) else (diagonal, diagonal)
    from monai.metrics.utils import get_edge_surface_distance  # here: it takes seconds to import, and training does without

    steps = [float(step) for step in spacing]  # MONAI refuses a mixture of whole and other numbers
    box = _bounding_box(masks[0] | masks[1])  # MONAI does so too, but slowly
    one, other = (torch.from_numpy(mask[box]) for mask in masks)
    if len(true) == 1:
        one, other, steps = one[0], other[0], steps[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI about its own deprecated arguments
        _, distances, _ = get_edge_surface_distance(one, other, spacing=steps, symmetric=True)
    there, back = (distance.double().numpy() for distance in distances)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(np.concatenate([there, back]).mean())


def object_scores(predicted: Tensor, instances: Tensor, known: Tensor | None = None) -> tuple[float, float]:
    """Aggregated Jaccard index (Kumar et al. 2017) and panoptic quality (Kirillov et al. 2019) of a mask.

    The predicted objects are the connected parts of the mask; pixels that touch at a corner are connected. Pixels that nobody
    judged are cut from the objects; a predicted object that lies mostly there and meets no true one is none.

    Args:
        predicted: (D, H, W) bool.
        instances: (D, H, W) whole numbers, 0 where there is no object, and where nobody judged.
        known: (D, H, W) bool, where pixels were judged; None: everywhere.
    """
    from scipy import ndimage, sparse  # here: training does without

    found, num_found = ndimage.label(predicted.numpy(), structure=np.ones((3, 3, 3)))
    mask = instances.numpy() > 0
    if known is not None:
        found, num_found = _judged(found, num_found, mask, known.numpy())
    names, inside = np.unique(instances.numpy()[mask], return_inverse=True)
    there, num_there = np.zeros(mask.shape, dtype=np.int64), len(names)
    there[mask] = inside + 1
    if num_there == 0 or num_found == 0:
        return (1.0, 1.0) if num_there == num_found else (0.0, 0.0)

    # One contingency table of true and predicted objects, sparse: most pairs do not meet.
    area_there = np.bincount(there.ravel(), minlength=num_there + 1)[1:]
    area_found = np.bincount(found.ravel(), minlength=num_found + 1)[1:]
    meet = mask & (found > 0)
    pairs = (np.ones(np.count_nonzero(meet), dtype=np.int64), (there[meet] - 1, found[meet] - 1))
    table = sparse.coo_matrix(pairs, shape=(num_there, num_found)).tocsr().tocoo()
    truth, guess, both = table.row, table.col, table.data
    union = area_there[truth] + area_found[guess] - both
    iou = both / union

    matched = iou > 0.5  # which makes it the only match of both
    quality = iou[matched].sum() / ((num_there + num_found) / 2)

    # Every true object takes the predicted one of highest IoU, be it taken or not; what is left over on either side is missed.
    best = np.full(num_there, -1)
    order = np.lexsort((-guess, iou))
    best[truth[order]] = order  # the last assignment stands: highest IoU, then lowest number
    paired = best[best >= 0]
    untaken = np.delete(area_found, np.unique(guess[paired]))
    missed = area_there[best < 0]
    jaccard = both[paired].sum() / (union[paired].sum() + missed.sum() + untaken.sum())
    return float(jaccard), float(quality)


def _judged(found: Numbered, num_found: int, true: Mask, known: Mask) -> tuple[Numbered, int]:
    """Numbered objects without what nobody judged, numbered anew, and how many they are (Kirillov et al. 2019, section 4.2)."""
    area, seen, met = (np.bincount(found[where], minlength=num_found + 1) for where in (found > 0, known, true))
    kept = (met > 0) | (2 * seen >= area) & (seen > 0)
    kept[0] = False
    return np.where(known, (kept.cumsum() * kept)[found], 0), int(kept.sum())


def error_correlation(uncertainty: Tensor, wrong: Tensor) -> float | None:
    """Pearson correlation over pixels between an uncertainty and being wrong (bool), both of one shape.

    None where it is not defined: no pixel is wrong or every one is, or the uncertainty is the same everywhere.
    """
    share = float(wrong.sum()) / wrong.numel()
    low, high = uncertainty.aminmax()
    if share in (0, 1) or low == high:
        return None
    mean = uncertainty.mean(dtype=torch.float64)
    deviation = (uncertainty - mean).square_().mean(dtype=torch.float64).sqrt()
    excess = uncertainty[wrong].mean(dtype=torch.float64) - mean
    return min(1.0, max(-1.0, float(excess / deviation) * math.sqrt(share / (1 - share))))


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman correlation of two rows of numbers; None for fewer than three, or where one row is all the same."""
    if len(one) < _FEWEST_RANKED or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    from scipy import stats  # here: training does without

    ranks: list[Any] = [stats.rankdata(row) for row in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds a mask (D, H, W), which is not empty."""
    plane: Mask = np.any(mask, axis=0)
    lines = (np.any(mask, axis=(1, 2)), np.any(plane, axis=1), np.any(plane, axis=0))
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)
