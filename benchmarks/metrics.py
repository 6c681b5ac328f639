"""Dice and IoU of many masks at every vote prefix: ours, and scikit-learn's f1_score and jaccard_score on the same masks.

    python benchmarks/metrics.py                 # about a minute and a half on one core
    python benchmarks/metrics.py --masks 14

The size is that of the published chest X-ray test: 138 masks of 256 x 256, 30 votes each. Ours starts from the votes' probabilities
and includes averaging and rounding them at every prefix, by the functions that `cdal.evaluation` uses; scikit-learn is given the
rounded masks. Both score all masks in one thread of the same process. The masks are made up: ellipses with uncertain borders.
"""

import argparse
import sys
import time

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from cdal.evaluation import decide, prefix_means_
from cdal.metrics import count_pixels, dice_and_iou

BAR = 100  # times as fast
TOLERANCE = 1e-6


def make_case(number: int, votes: int, size: int) -> tuple[Tensor, Tensor]:
    """Probabilities (V, 1, 1, H, W) around two ellipses, each vote with borders of its own, and the true mask (1, H, W)."""
    rng = torch.Generator().manual_seed(number)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    centre = 0.4 + 0.1 * torch.rand(2, generator=rng)
    radius = 0.3 + 0.1 * torch.rand(2, generator=rng)
    distance = torch.minimum(*(((x - side * centre[0]) / radius[0]) ** 2 + (y / (2 * radius[1])) ** 2 for side in (-1, 1)))
    borders = 1 + 0.3 * torch.randn(votes, 1, 1, 1, 1, generator=rng)
    noise = 0.3 * torch.randn(votes, 1, 1, size, size, generator=rng)
    return (4 * (borders - distance) + noise).add(0.5).clamp(0, 1), (distance < 1).to(torch.uint8)[None]


def ours(votes: Tensor, truth: Tensor) -> npt.NDArray[np.float64]:
    """Dice and IoU (2, V), from probabilities, which are overwritten."""
    dice, iou = dice_and_iou(*count_pixels(decide(prefix_means_(votes)), truth, 1))
    return np.stack([dice[:, 0], iou[:, 0]])


def scikit_learn(masks: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Dice and IoU (2, V), from masks (V, H * W)."""
    scores = [(f1_score(truth, mask, zero_division=1.0), jaccard_score(truth, mask, zero_division=1.0)) for mask in masks]
    return np.array(scores).T


def main() -> int:
    """Print the table; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=138)
    parser.add_argument("--votes", type=int, default=30)
    parser.add_argument("--size", type=int, default=256, help="pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)

    seconds, largest = np.zeros(2), 0.0
    for number in range(options.masks):
        votes, truth = make_case(number, options.votes, options.size)
        # Made by other means than ours, from the same votes.
        means = [votes[:count].mean(dim=0).round().to(torch.uint8) for count in range(1, options.votes + 1)]
        masks, flat = torch.stack(means).flatten(1).numpy(), truth.flatten().numpy()
        started = time.perf_counter()
        mine = ours(votes, truth)
        between = time.perf_counter()
        theirs = scikit_learn(masks, flat)
        seconds += between - started, time.perf_counter() - between
        largest = max(largest, float(np.abs(mine - theirs).max()))

    ratio = seconds[1] / seconds[0]
    print(f"Dice and IoU of {options.masks} masks of {options.size} x {options.size} at 1 to {options.votes} votes")
    print(f"{'cDAL Search, from the votes':34}{seconds[0]:9.2f} s")
    print(f"{'scikit-learn, from the masks':34}{seconds[1]:9.2f} s")
    print(f"largest difference: {largest:.1e} (bar: {TOLERANCE:g})")
    met = ratio >= BAR and largest <= TOLERANCE
    print(f"bar: {BAR} times as fast and equal: {'met' if met else 'missed'}; {ratio:.0f} times")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
