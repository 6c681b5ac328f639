"""The table that a part fills row by row, its time, and what several parts need."""

import argparse
import gc
import json
import os
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from cdal.config import Config, preset

POISONED = 3  # exit status: the device no longer answers this process
PUBLISHED = ("monuseg", "chest_xray", "hippocampus")
FAST = ("hippocampus_fast", "monuseg_fast", "chest_xray_fast")
_NARROW = {"model.base_width": 8, "model.discriminator_width": 8, "model.latent_embedding": 32, "model.latent_layers": 1}
_FEW = {"training.batch_size": 4, "evaluation.votes": 2}
_SMALL = {"training.batch_size": 1, "evaluation.votes": 2, "model.image_size": 64}


class Run:
    """The table of one part, written to a file after every row, and its time."""

    def __init__(self, options: argparse.Namespace, ends: float, earlier: dict[str, Any]) -> None:
        """Of a process that has to be done by a time of the monotonic clock, which is the same in all processes."""
        self.device, self.quick, self.mps, self.parity = torch.device(options.device), options.quick, options.mps, options.parity
        self.path, self.earlier = options.out, earlier
        self.on_gpu = self.device.type == "cuda"
        self._ends, self._needed = ends, 2.0
        self.result: dict[str, Any] = {"rows": [], "notes": [], "begun": [], "tracebacks": []}
        if self.path.exists():  # an earlier process did not come through
            self.result = json.loads(self.path.read_text())

    def left(self) -> float:
        """Seconds."""
        return self._ends - time.monotonic()

    def row(self, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Add what is measured as a row, unless an earlier process began it or no time is left. An error is a row, too."""
        if about in self.result["begun"]:
            return
        if self.left() < self._needed:
            self.result["rows"].append(about | {"skipped": "no time left"})
            self.save()
            return
        self.result["begun"].append(about)
        self.save()
        start = time.monotonic()
        try:
            self.result["rows"].append(about | measure())
        except Exception as error:
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.result["rows"].append(about | {"failed": said[:200]})
            self.result["tracebacks"].append(traceback.format_exc()[-3000:])
        took = time.monotonic() - start
        self.result["rows"][-1]["row took"] = round(took, 1)
        self._needed = min(10.0, max(2.0, took))  # as much as for this one, probably
        self.save()
        self._free()

    def note(self, words: str) -> None:
        """Say something once below the table."""
        if words not in self.result["notes"] and len(self.result["notes"]) < 30:
            self.result["notes"].append(words)

    def save(self) -> None:
        """Write the table, or nothing."""
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.result))
        temporary.replace(self.path)

    def _free(self) -> None:
        gc.collect()
        if self.on_gpu:
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:  # after some errors nothing works in a process any more
                self.note(f"the GPU no longer answered, and a new process went on: {str(error).splitlines()[0][:200]}")
                self.save()
                os._exit(POISONED)


def configuration(run: Run, name: str, precision: str) -> Config:
    """A preset with its batch as published; on a CPU narrow, small, and with a small batch."""
    config = preset(name).replace({"training.precision": precision, "training.samples_per_case": 1})
    if run.on_gpu:
        return config
    return config.replace(_NARROW | (_FEW if name.startswith("hippocampus") else _SMALL))


def kinds(config: Config) -> dict[int, float]:
    """A number of every kind of step (with an update of the discriminator, with R1), and how often the kind occurs."""
    every = config.optimiser.discriminator_interval
    period = every * config.loss.r1_interval
    kind = {number: (number % every == 0, number % period == 0) for number in range(period, 2 * period)}
    return {min(n for n in kind if kind[n] == each): count / period for each, count in Counter(kind.values()).items()}


def wait(device: torch.device) -> None:
    """For all that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(action: Callable[[], object], run: Run) -> float:
    """The median of a few turns; what is short is done many times in a turn."""
    times: list[float] = []
    number, turns = 1, 1 + (2 if run.quick else 3)
    while len(times) < turns:
        wait(run.device)
        start = time.perf_counter()
        for _ in range(number):
            action()
        wait(run.device)
        times.append((time.perf_counter() - start) / number)
        if len(times) == 1:
            number = min(100, max(1, int((0.05 if run.quick else 0.1) / times[0])))
            turns = turns if times[0] < 0.3 else 2
    return statistics.median(times[1:])
