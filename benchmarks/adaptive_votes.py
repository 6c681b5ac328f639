"""How many votes does a case need? Dice and cost of a trained model where drawing ends early, at several confidences.

    python benchmarks/adaptive_votes.py --model BEST.safetensors --dataset chest_xray --data DIR --set dataset.size=128

A row per `evaluation.vote_confidence`; 0 draws all votes. Every confidence sees the same draws, since votes are prefixes.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cdal.checkpoint import load_model
from cdal.config import parse_setting
from cdal.data import DATASETS, open_dataset
from cdal.evaluation import draw_votes
from cdal.metrics import count_pixels, dice_and_iou
from cdal.predict import protocol, sampler
from cdal.training import check_fit

CONFIDENCES = (0.0, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999)
LARGEST_CHANGE = 0.0005  # of the mean Dice
LARGEST_SHARE = 1 / 3  # of the votes


def main() -> int:
    """Print the table; 1 where no confidence meets the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="best.safetensors of a training or of a trial")
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument("--data", help="folder of the dataset")
    parser.add_argument("--set", action="append", default=[], metavar="dataset.NAME=VALUE", help="an option of the dataset")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--votes", type=int, default=30)
    args = parser.parse_args()

    config, generator = load_model(args.model)
    options = {path.removeprefix("dataset."): value for path, value in map(parse_setting, args.set)}
    dataset = open_dataset(args.dataset, args.data, **options)
    spec = dataset.spec
    check_fit(config, spec, world=1)
    cases = [dataset.case(name) for name in dataset.split(args.fold)[args.split]]
    sample, settings = sampler(config, generator), protocol(config, generator)
    draw_votes(cases[0].image, "first", spec, sample, **settings | {"votes": 1})  # loads what the first call loads

    table = Table(title=f"{len(cases)} {args.split} cases of {spec.name}, fold {args.fold}, up to {args.votes} votes")
    for heading in ("confidence", "mean Dice", "change", "mean votes", "most votes", "share of votes", "s / case"):
        table.add_column(heading, justify="right")
    all_votes, met = 0.0, []
    for confidence in CONFIDENCES:
        dice, used = [], []
        started = time.perf_counter()
        for case in cases:
            seen = draw_votes(case.image, case.id, spec, sample, **settings | {"votes": args.votes, "confidence": confidence})
            dice.append(dice_and_iou(*count_pixels(seen.labels[-1:], case.label, len(spec.classes)))[0].mean())
            used.append(seen.used)
        seconds = (time.perf_counter() - started) / len(cases)
        mean, share = float(np.mean(dice)), float(np.mean(used)) / args.votes
        if confidence == 0:
            all_votes = mean
        elif abs(mean - all_votes) < LARGEST_CHANGE and share <= LARGEST_SHARE:
            met.append(f"{confidence:g}")
        table.add_row(
            f"{confidence:g}" if confidence else "all votes",
            f"{mean:.5f}",
            f"{mean - all_votes:+.5f}",
            f"{np.mean(used):.1f}",
            str(max(used)),
            f"{share:.3f}",
            f"{seconds:.3f}",
        )
    Console(width=120).print(table)
    bar = f"bar: Dice changes by less than {LARGEST_CHANGE:g} with at most {LARGEST_SHARE:.2f} of the votes"
    print(f"{bar}: {'met at ' + ', '.join(met) if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
