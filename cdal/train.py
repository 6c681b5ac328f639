"""Train one configuration without a search: `python -m cdal.train`.

    python -m cdal.train --dataset phantom --out runs/phantom
    python -m cdal.train --dataset hippocampus --data Task04_Hippocampus --preset hippocampus --device cuda --out runs/hippocampus
    torchrun --nproc-per-node 2 -m cdal.train --dataset phantom --out runs/phantom      # two workers, one model

The same command goes on where an earlier run stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed

from cdal.command import DONE, WORK_FAILED, command_line, run
from cdal.config import PRESETS, Config, parse_setting, preset
from cdal.data import DATASETS, open_dataset
from cdal.data.dataset import PARTS
from cdal.data.folds import counted
from cdal.data.own.groups import check_own, own_options
from cdal.devices.transfer import named_device
from cdal.devices.workers import LONGEST_WAIT, WorkerError
from cdal.errors import DivergedError
from cdal.training import history, train

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 1 the training diverged or another worker failed, 2 the input is wrong, 130 interrupted."""
    parser = command_line(__doc__, "python -m cdal.train")
    parser.add_argument("--dataset", choices=list(DATASETS), default="phantom", help="default: phantom, which needs no data")
    parser.add_argument("--data", help="folder of the dataset")
    parser.add_argument("--groups", metavar="FILE", help="own data: CSV with columns case and group, such as the patient")
    parser.add_argument(
        "--split", metavar="FILE", help="own data: nnU-Net's splits_final.json, or a table with columns fold, case and part"
    )
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--preset", choices=PRESETS, help="start from published settings")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a setting, for example loss.adversarial=0.1, or an option of the dataset, for example dataset.size=64",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    return run(_train, parser.parse_args(arguments))


def _train(args: argparse.Namespace, console: Console) -> int:
    try:
        return _trained(args)
    except DivergedError as error:
        print(f"training diverged: {error}", file=sys.stderr)  # noqa: T201
        return WORK_FAILED
    except WorkerError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return WORK_FAILED
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _trained(args: argparse.Namespace) -> int:
    given = own_options(args.groups, args.split)
    check_own(args.dataset, given)
    settings = dict(parse_setting(text) for text in args.set)
    options = {path.removeprefix("dataset."): value for path, value in settings.items() if path.startswith("dataset.")}
    dataset = open_dataset(args.dataset, args.data, **options | given)
    spec, split = dataset.spec, dataset.split(args.fold)
    config = preset(args.preset) if args.preset else Config()
    config = config.replace(
        {
            "model.image_channels": spec.image_channels,
            "model.mask_channels": spec.mask_channels,
            "model.image_size": spec.image_size,
        }
        | {path: value for path, value in settings.items() if not path.startswith("dataset.")}
    )
    device = named_device(args.device)
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    reports = train(config, dataset, args.out, fold=args.fold, device=device)
    if int(os.environ.get("RANK", "0")) > 0:
        for _ in reports:
            pass
        return DONE
    parts = (f"{counted(split[part], dataset.groups)} {part}" for part in PARTS)
    print(f"fold {args.fold}, {spec.folds[args.fold]}: {', '.join(parts)}")  # noqa: T201
    for note in spec.notes:
        print(f"note: {note}")  # noqa: T201
    for report in reports:
        values = report.values
        print(  # noqa: T201
            f"epoch {report.epoch:4d}   loss {values['loss_generator']:.4f}   Dice {values['dice']:.4f}"
            f"{' (best)' if report.best else ''}   {values['images_per_second']:.1f} images/s",
            flush=True,
        )
    best = max(history(args.out), key=lambda report: report.values["dice"])
    print(f"best Dice {best.values['dice']:.4f} in epoch {best.epoch}: {args.out / 'best.safetensors'}")  # noqa: T201
    return DONE


if __name__ == "__main__":
    sys.exit(main())
