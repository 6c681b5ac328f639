"""Masks of one image or volume with published votes and steps: sampling as released (`plain.py`) beside ours, from one run.

    python benchmarks/sample.py                                      # all presets on the CPU, float32; half an hour on two cores
    python benchmarks/sample.py --preset hippocampus --device cuda --precision bf16
    python benchmarks/sample.py --votes 2 --repeats 1                  # less of the same

A chest X-ray of 256 px, a MoNuSeg image of 512 px in four tiles, a hippocampus volume of 36 x 51 x 35 voxels in windows of 32 that
overlap by 3/4. Both sides have the same weights and take turns; medians are printed with the lowest and the highest. Ours goes
through `cdal.evaluation.draw_votes`, as scoring and `python -m cdal.segment` do. The precision is ours; plain is float32 always.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from operations import Operations
from plain import PlainTrainer, predict_image, predict_volume
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cdal.config import Config, preset
from cdal.data.dataset import DatasetSpec
from cdal.evaluation import draw_votes
from cdal.predict import protocol, sampler
from cdal.training import Trainer

SHAPES = {"chest_xray": (1, 1, 256, 256), "monuseg": (3, 1, 512, 512), "hippocampus": (1, 36, 51, 35)}  # channels, D, H, W


def both_sides(name: str, config: Config, device: torch.device) -> dict[str, Callable[[], object]]:
    """Each side as a function that predicts the same input."""
    trainer = Trainer(config, device)
    plain = PlainTrainer(config, device)
    plain.load(trainer)
    image = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(0)).to(device)
    classes = ("foreground",) if config.model.mask_channels == 1 else ("anterior", "posterior")
    spec = DatasetSpec(
        name=name, image_channels=SHAPES[name][0], classes=classes, image_size=config.model.image_size,
        volumetric=SHAPES[name][1] > 1, folds=("",), protocol="", licence="",
    )  # fmt: skip
    sample, settings = sampler(config, trainer.generator), protocol(config, trainer.generator)

    def released() -> Tensor:
        rng = torch.Generator(device).manual_seed(0)
        if spec.volumetric:
            return predict_volume(config, plain.generator, image, rng)
        return predict_image(config, plain.generator, image[:, 0], rng)

    return {"plain": released, "ours": lambda: draw_votes(image, "case", spec, sample, **settings)}


def main() -> None:
    """Compare one preset or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(SHAPES), action="append", help="default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--votes", type=int, help="default: as published")
    parser.add_argument("--repeats", type=int, default=3, help="of each side (default: 3)")
    options = parser.parse_args()
    device = torch.device(options.device)
    console = Console(width=120)
    for name in options.preset or SHAPES:
        config = preset(name).replace({"training.precision": options.precision})
        config = config.replace({"evaluation.votes": options.votes or config.evaluation.votes})
        sides = both_sides(name, config, device)
        seconds: dict[str, list[float]] = defaultdict(list)
        work = {}
        if device.type == "cuda":  # kernels are loaded and chosen at their first use
            for predict in both_sides(name, config.replace({"evaluation.votes": 1}), device).values():
                predict()
        for repeat in range(options.repeats):
            for side, predict in sides.items():
                start = time.perf_counter()
                with Operations() as count:
                    predict()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[side].append(time.perf_counter() - start)
                if repeat == 0:
                    work[side] = count.total
        votes, steps = config.evaluation.votes, config.diffusion.timesteps
        table = Table(title=f"{name}: {' x '.join(map(str, SHAPES[name][1:]))}, {votes} votes, T = {steps}, {device}")
        for heading in ("", "seconds", "lowest - highest", "TFLOP", "GFLOP/s"):
            table.add_column(heading, justify="right")
        for side, spent in seconds.items():
            middle = statistics.median(spent)
            precision = "fp32" if side == "plain" else options.precision
            table.add_row(
                f"{side}, {precision}", f"{middle:.2f}", f"{min(spent):.2f} - {max(spent):.2f}", f"{work[side] / 1e12:.2f}",
                f"{work[side] / middle / 1e9:.0f}",
            )  # fmt: skip
        faster = statistics.median(seconds["plain"]) / statistics.median(seconds["ours"])
        table.add_row("plain / ours", f"{faster:.2f}", "", f"{work['plain'] / work['ours']:.2f}", "")
        console.print(table)


if __name__ == "__main__":
    main()
