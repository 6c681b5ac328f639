"""Masks of one image or volume with published votes and steps: sampling as released (`plain.py`) beside ours, from one run.

    python benchmarks/sample.py                                      # all presets on the CPU, float32; half an hour on two cores
    python benchmarks/sample.py --preset hippocampus --device cuda --precision bf16
    python benchmarks/sample.py --votes 2 --repeats 1                  # less of the same

A chest X-ray of 256 px, a MoNuSeg image of 512 px in four tiles, a hippocampus volume of 36 x 51 x 35 voxels in windows of 32 that
overlap by 3/4. Both sides have the same weights and take turns, each in a process of its own, since ours keeps freed memory;
medians are printed with the lowest and the highest. Ours goes through `cdal.evaluation.draw_votes`, as scoring and
`python -m cdal.segment` do. The precision is ours; plain is float32 always.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from operations import Operations
from plain import PlainTrainer, predict_image, predict_volume
from rich.console import Console
from rich.table import Table

from cdal.config import Config, preset
from cdal.data.dataset import DatasetSpec
from cdal.evaluation import draw_votes
from cdal.predict import protocol, sampler
from cdal.trainer import Trainer

SIDES = ("plain", "ours")
SHAPES = {"chest_xray": (1, 1, 256, 256), "monuseg": (3, 1, 512, 512), "hippocampus": (1, 36, 51, 35)}  # channels, D, H, W


def predictor(side: str, name: str, config: Config, device: torch.device) -> Callable[[], object]:
    """A side as a function that predicts the input."""
    trainer = Trainer(config, device)
    image = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(0)).to(device)
    volumetric = SHAPES[name][1] > 1
    if side == "plain":
        plain, rng = PlainTrainer(config, device), torch.Generator(device)
        plain.load(trainer)
        predict, shown = (predict_volume, image) if volumetric else (predict_image, image[:, 0])
        return lambda: predict(config, plain.generator, shown, rng.manual_seed(0))
    spec = DatasetSpec(
        name=name, image_channels=SHAPES[name][0], image_size=config.model.image_size, volumetric=volumetric, folds=("",),
        classes=("foreground",) if config.model.mask_channels == 1 else ("anterior", "posterior"), protocol="", licence="",
    )  # fmt: skip
    sample, settings = sampler(config, trainer.generator), protocol(config, trainer.generator)
    return lambda: draw_votes(image, "case", spec, sample, **settings)


def serve(turns: Connection, side: str, name: str, config: Config, device: torch.device) -> None:
    """Predict once and send the operations; then predict at every request and send the seconds."""
    predict = predictor(side, name, config, device)
    with Operations() as count:  # which warms up, too
        predict()
    turns.send(count.total)
    while turns.recv():
        start = time.perf_counter()
        predict()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        turns.send(time.perf_counter() - start)


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
        work: dict[str, int] = {}
        seconds: dict[str, list[float]] = defaultdict(list)
        turns: dict[str, Connection] = {}
        for side in SIDES:
            turns[side], theirs = get_context("spawn").Pipe()
            get_context("spawn").Process(target=serve, args=(theirs, side, name, config, device), daemon=True).start()
            theirs.close()  # so that its end is noticed
            work[side] = turns[side].recv()
        for side in SIDES * options.repeats:
            turns[side].send(True)
            seconds[side].append(turns[side].recv())
        for side in SIDES:
            turns[side].send(False)
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
