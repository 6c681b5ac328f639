"""One training step with published settings: the recipe as released (`plain.py`) beside ours, from one run.

    python benchmarks/step.py                                            # all presets on the CPU, float32; about 15 minutes
    python benchmarks/step.py --preset hippocampus --device cuda --precision bf16

Both sides begin with the same weights and get the same batch and draws. They take turns, so that a machine whose speed changes does
not decide; medians are printed with the lowest and the highest. Where the penalty R1 is due every n-th step, a step with it and one
without are timed and weighted. The precision is ours; the plain side is float32 always.

FLOP are counted from the operations of convolutions and matrix products, two per multiply-add; the peak is the faster of a matrix
product and a convolution on the same machine. Memory is the most that a step takes beside what a process holds that has only
imported the library, in a process of its own for each side; on a GPU, the most that was allocated.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from batches import noise
from operations import Operations
from plain import PlainTrainer
from rich.console import Console
from rich.table import Table

from cdal.config import Config, preset
from cdal.trainer import Trainer

NAMES = ("chest_xray", "monuseg", "hippocampus")
CPU_BATCH = {"chest_xray": 2, "monuseg": 1, "hippocampus": 32}
SIDES = ("plain", "ours")


class Side:
    """A trainer of one side with its batch, timed part by part."""

    def __init__(self, side: str, config: Config, device: torch.device) -> None:
        ours = Trainer(config, device, mark=self._mark)
        if side == "plain":
            self.trainer: Trainer | PlainTrainer = PlainTrainer(config, device, self._mark)
            self.trainer.load(ours)
        else:
            self.trainer = ours
        self.batch = noise(config, device)
        self.device, self.parts, self._last = device, defaultdict[str, float](float), 0.0

    def step(self, penalised: bool | None = None) -> float:
        """Seconds of one step, with R1 or without, or the next one."""
        if penalised is not None:
            self.trainer.steps = 0 if penalised else 1
        self.parts.clear()
        self._last = start = self._now()
        self.trainer.step(*self.batch)
        return self._now() - start

    def _mark(self, part: str) -> None:
        now = self._now()
        self.parts[part] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def configuration(name: str, batch: int | None, device: str, precision: str) -> Config:
    """A published preset with a batch size; what the presets leave open is as released."""
    config = preset(name)
    size = batch or (CPU_BATCH[name] if device == "cpu" else config.training.batch_size)
    return config.replace({"training.batch_size": size, "training.samples_per_case": 1, "training.precision": precision})


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the faster of a matrix product and a convolution, the best of five."""
    a, b = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(8, 256, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)

    def best(action: Callable[[], object]) -> float:
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    with torch.no_grad():
        product = 2 * 2048**3 / best(lambda: a @ b)
        convolution = 2 * 9 * 8 * 256**2 * 64**2 / best(lambda: torch.nn.functional.conv2d(x, w, padding=1))
    return max(product, convolution)


def peak_memory(side: str, name: str, options: argparse.Namespace) -> int:
    """Bytes that a step with R1 takes, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--preset", name, "--device", options.device]
    command += ["--precision", options.precision, "--batch", str(options.batch or 0), "--memory-of", side]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_memory(side: str, config: Config, device: torch.device) -> None:
    """In that process: make the step, print the bytes."""
    before = most_resident()
    Side(side, config, device).step(penalised=True)
    print(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else most_resident() - before)


def most_resident() -> int:
    """Most bytes that this process held in memory so far."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def compare(name: str, config: Config, options: argparse.Namespace, console: Console) -> None:
    """Print both sides of one preset."""
    device = torch.device(options.device)
    sides = {side: Side(side, config, device) for side in SIDES}
    share = 1 / config.loss.r1_interval  # of the steps with R1
    kinds = [True] if share == 1 else [True, False]
    flop: dict[tuple[str, bool], int] = {}
    seconds: dict[tuple[str, bool], list[float]] = defaultdict(list)
    parts: dict[tuple[str, bool], dict[str, float]] = {}
    for key in [(side, kind) for kind in kinds for side in SIDES]:  # which warms up, too
        with Operations() as count:
            sides[key[0]].step(key[1])
        flop[key] = count.total
    for _ in range(options.steps):
        for kind in kinds:
            for side in SIDES:
                seconds[side, kind].append(sides[side].step(kind))
                parts[side, kind] = dict(sides[side].parts)
    del sides
    precise = torch.float32 if options.precision == "fp32" else torch.bfloat16
    peak = {"plain": peak_flops(device, torch.float32), "ours": peak_flops(device, precise)}

    def weighted(values: dict[bool, float]) -> float:
        return values[True] if share == 1 else share * values[True] + (1 - share) * values[False]

    batch, ratios = config.training.batch_size, {}
    table = Table(title=f"{name}: batch {batch}, {config.model.image_size} px, R1 every {config.loss.r1_interval}, {device}")
    for heading in ("", "s / step", "lowest - highest", "images/s", "GFLOP / image", "of peak", "memory"):
        table.add_column(heading, justify="right")
    for side in SIDES:
        middle = weighted({kind: statistics.median(seconds[side, kind]) for kind in kinds})
        work, memory = weighted({kind: flop[side, kind] for kind in kinds}), peak_memory(side, name, options)
        spread = [weighted({kind: pick(seconds[side, kind]) for kind in kinds}) for pick in (min, max)]
        ratios[side] = (middle, work, memory)
        table.add_row(
            f"{side}, {'float32' if side == 'plain' else options.precision}", f"{middle:.3f}", "{:.3f} - {:.3f}".format(*spread),
            f"{batch / middle:.2f}", f"{work / batch / 1e9:.1f}", f"{work / middle / peak[side]:.0%}", f"{memory / 2**30:.2f} GiB",
        )  # fmt: skip
    faster, less, smaller = (plain / ours for plain, ours in zip(ratios["plain"], ratios["ours"], strict=True))
    table.add_row("plain / ours", f"{faster:.2f}", "", f"{faster:.2f}", f"{less:.2f}", "", f"{smaller:.2f}")
    console.print(table)
    for side in SIDES:
        for kind in kinds:
            whole = sum(parts[side, kind].values())
            told = ", ".join(f"{part} {spent / whole:.0%}" for part, spent in parts[side, kind].items())
            console.print(f"  {side}, step {'with' if kind else 'without'} R1: {told}", highlight=False)


def main() -> None:
    """Compare one preset or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=NAMES, action="append", help="default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=0, help=f"default: as published; on a CPU {CPU_BATCH}")
    parser.add_argument("--steps", type=int, default=3, help="steps of each kind and side (default: 3)")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.preset or NAMES:
        config = configuration(name, options.batch, options.device, options.precision)
        if options.memory_of:
            print_memory(options.memory_of, config, torch.device(options.device))
        else:
            compare(name, config, options, Console(width=120))


if __name__ == "__main__":
    main()
