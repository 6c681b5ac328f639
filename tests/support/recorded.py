"""Lakes of made-up searches whose truth is known: smooth curves over a small space, with noise, written by the real Writer."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tune.proposing import Space
from tune.proposing.space import parse
from tune.results import Writer, create_experiment

EPOCHS = 6
NOISE = 0.01


def space(**changes: Any) -> Space:
    parameters = {
        "diffusion.timesteps": {"values": [1, 2, 4]},
        "loss.attention_normalised": {"values": [False, True]},
        "loss.soft_dice": {"min": 0.0, "max": 1.0},
        "optimiser.lr_generator": {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform"},
    }
    fixed = {"training.epochs": EPOCHS}
    return parse({"dataset": "phantom", "fixed": fixed, "parameters": parameters | changes}, "test.yaml")


def settings(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "diffusion.timesteps": int(random.choice([1, 2, 4])),
            "loss.attention_normalised": bool(random.integers(2)),
            "loss.soft_dice": float(random.uniform()),
            "optimiser.lr_generator": float(10 ** random.uniform(-4, -2)),
        }
        for _ in range(count)
    ]


def true_curve(values: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Dice (epochs,) without noise: best at a learning rate of 1e-3, much soft Dice and normalised attention."""
    away = math.log10(values["optimiser.lr_generator"]) + 3
    top = 0.75 + 0.12 * values["loss.soft_dice"] - 0.3 * away**2 + 0.05 * values["loss.attention_normalised"]
    return np.asarray(top * (1 - np.exp(-np.arange(1, EPOCHS + 1) / (1 + 0.3 * values["diffusion.timesteps"]))))


def true_seconds(values: Mapping[str, Any]) -> float:
    return 60.0 * (1 + 0.5 * float(values["diffusion.timesteps"]))


def write_lake(
    root: Path,
    name: str = "first",
    *,
    of: Space | None = None,
    tried: Sequence[Mapping[str, Any]] = (),
    stopped: float = 0.0,
    failed: Mapping[int, int] | None = None,
    seed: int = 0,
) -> list[npt.NDArray[np.float64]]:
    """Record one trial per setting (by default 40), and a U-Net; returns the Dice of every epoch as recorded.

    Args:
        root: the lake.
        name: of the experiment.
        of: the space.
        tried: the settings.
        stopped: trials with a Dice below this at the second epoch were stopped there.
        failed: trials that diverged, and after how many epochs.
        seed: of the noise.
    """
    random, found = np.random.default_rng(seed), []
    tried = tried or settings(40, seed)
    create_experiment(root, name, {"dataset": "phantom", "fold": 0, "space": (of or space()).to_dict()})
    with Writer(root, name, flush_seconds=60) as writer:
        for number, values in enumerate(tried):
            dice = np.clip(true_curve(values) + random.normal(0, NOISE, EPOCHS), 0, 1)
            status = "finished"
            if dice[1] < stopped:
                dice, status = dice[:2], "stopped"
            if number in (failed or {}):
                dice, status = dice[: (failed or {})[number]], "diverged"
            _write(writer, number, "searched", status, values, dice)
            found.append(dice)
        _write(writer, len(tried), "unet", "finished", tried[0], np.ones(EPOCHS))
    return found


def _write(writer: Writer, number: int, kind: str, status: str, values: Mapping[str, Any], dice: npt.NDArray[np.float64]) -> None:
    trial_id = f"{number:05d}"
    row = {"trial_id": trial_id, "number": number, "kind": kind, "status": status, "startup_seconds": 5.0}
    writer.append("trials", row | {f"config.{path}": value for path, value in values.items()})
    for epoch, value in enumerate(dice.tolist(), 1):
        seconds = {"train_seconds": true_seconds(values) - 10, "validation_seconds": 10.0}
        writer.append("metrics", {"trial_id": trial_id, "epoch": epoch, "dice": value} | seconds)
