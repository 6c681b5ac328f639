"""The training loop: one report per epoch.

    for report in train(preset("hippocampus"), dataset, Path("runs/hippocampus")):
        print(report.epoch, report.values["dice"])

The same call goes on after a crash, from `last.safetensors` in the folder, and gives the numbers that an uninterrupted run gives:
all randomness of a step derives from the seed and the number of the step. Under torch.distributed every worker calls `train`; each
takes its share of the same global batch and of the same random draws.
"""

import math
import resource
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from cdal import checkpoint
from cdal.config import Config
from cdal.data import Dataset, steps_per_pass, training_batch
from cdal.data.dataset import DatasetSpec
from cdal.devices.workers import from_rank_zero, rank_and_world, together
from cdal.errors import DivergedError, InputError
from cdal.evaluation import ValidationScore, validate
from cdal.memory import keep_freed_memory
from cdal.trainer import Draws, Trainer, needs_discriminator

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Report:
    """What one epoch brought. `values` holds losses (mean over the epoch's steps), validation scores, seconds and bytes."""

    epoch: int
    step: int
    values: dict[str, Any]
    best: bool
    last: bool


def train(config: Config, dataset: Dataset, folder: Path, *, fold: int = 0, device: torch.device | str = "cpu") -> Iterator[Report]:
    """Train on a fold's training cases, validate after every epoch, and yield one report per epoch.

    `folder` receives `last.safetensors` before every report and `best.safetensors` whenever the validation Dice rose. Where it
    holds a checkpoint of the same configuration, the training goes on from there and yields only the epochs that are missing.
    Where a batch does not fit a GPU's memory, the epoch is begun again with less memory and more time, and a warning says so.

    Raises:
        InputError: the configuration does not fit the dataset, the number of workers or the checkpoint in the folder.
        DivergedError: a loss became NaN or infinite.
        WorkerError: another worker failed.
    """
    with together():
        yield from _train(config, dataset, folder, fold, torch.device(device))


def _train(config: Config, dataset: Dataset, folder: Path, fold: int, device: torch.device) -> Iterator[Report]:
    called = time.perf_counter()
    if device.type == "cpu":
        keep_freed_memory()
    rank, world = rank_and_world()
    check_fit(config, dataset.spec, world)
    cases = dataset.split(fold)
    trainer = Trainer(config, device)
    model_seconds = time.perf_counter() - called
    reports = _resume(trainer, folder / LAST)
    best_dice = max((report.values["dice"] for report in reports), default=-math.inf)
    settings = config.training
    steps = settings.steps_per_epoch or steps_per_pass(len(cases.train), settings.batch_size, settings.samples_per_case)

    started = time.perf_counter()
    for epoch in range(len(reports) + 1, settings.epochs + 1):
        values: dict[str, Any] = dict(trainer.set_learning_rates(epoch))
        epoch_start = time.perf_counter()
        losses = None
        try:
            losses = _run_epoch(trainer, dataset, cases.train, epoch, steps, rank, world)
        except torch.OutOfMemoryError:
            if trainer.recompute or world > 1:
                raise
        if losses is None:  # out here, where the error no longer holds on to what filled the memory
            warnings.warn(
                "a batch does not fit the memory: activations are computed again on the way back, which takes less memory, more "
                "time, and changes no number; training.accumulation splits the batch",
                stacklevel=2,
            )
            trainer = Trainer(config, device, recompute=True)
            _resume(trainer, folder / LAST)
            trainer.set_learning_rates(epoch)
            losses = _run_epoch(trainer, dataset, cases.train, epoch, steps, rank, world)
        values |= losses
        trained = time.perf_counter()
        score = from_rank_zero(partial(_validate, trainer, dataset, cases.validation))
        values |= {
            "images": trainer.steps * settings.batch_size,
            "dice": score.dice,
            "iou": score.iou,
            "class_dice": list(score.class_dice),
            "train_seconds": trained - epoch_start,
            "validation_seconds": time.perf_counter() - trained,
            "images_per_second": steps * settings.batch_size / (trained - epoch_start),
            "memory_bytes": peak_memory(device),
            "model_seconds": model_seconds,
            "first_step_seconds": started - called,
        }
        report = Report(epoch, trainer.steps, values, best=score.dice > best_dice, last=epoch == settings.epochs)
        best_dice = max(best_dice, score.dice)
        reports.append(report)
        if rank == 0:
            _save(trainer, folder, reports, dataset.spec)
        yield report


def check_fit(config: Config, spec: DatasetSpec, world: int) -> None:
    """Raise InputError where a configuration does not fit a dataset or a number of workers."""
    for name, ours, theirs in (
        ("model.image_channels", config.model.image_channels, spec.image_channels),
        ("model.mask_channels", config.model.mask_channels, spec.mask_channels),
        ("model.image_size", config.model.image_size, spec.image_size),
    ):
        if ours != theirs:
            raise InputError(f"{name} is {ours}, but dataset {spec.name} has {theirs}; set {name} to {theirs}")
    share, remainder = divmod(config.training.batch_size, world)
    if remainder or (needs_discriminator(config) and share > 4 and share % 4):
        raise InputError(
            f"training.batch_size is {config.training.batch_size} for {world} worker(s); each worker's share must be a whole "
            "number, and at most 4 or a multiple of 4 (the discriminator compares samples in groups of four)"
        )
    parts = config.training.accumulation
    if share % parts or (needs_discriminator(config) and parts > 1 and share // parts % 4):
        raise InputError(
            f"training.accumulation is {parts} for a worker's share of {share} samples; parts must be equal, and multiples of 4 "
            "(the discriminator compares samples in groups of four)"
        )


def history(folder: Path) -> list[Report]:
    """The reports of all epochs that the last checkpoint of a folder covers; empty where there is none."""
    if not (folder / LAST).is_file():
        return []
    return [Report(**report) for report in checkpoint.read_info(folder / LAST)["reports"]]


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: allocated on a GPU, or resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw_batch(
    config: Config, dataset: Dataset, cases: tuple[str, ...], step: int, device: torch.device, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor, Draws]:
    """Images, masks and draws of a step, a function of the seed and the step's number; a worker's share where there are several."""
    settings, model = config.training, config.model
    image, mask = training_batch(
        dataset,
        cases,
        step=step,
        batch_size=settings.batch_size,
        samples_per_case=settings.samples_per_case,
        mask_channels=model.mask_channels,
        seed=settings.seed,
        rank=rank,
        world=world,
        device=device,
    )
    size = (settings.batch_size, model.mask_channels, model.image_size, model.image_size)
    rng = torch.Generator(device).manual_seed(_step_seed(settings.seed, step))
    return image, mask, Draws.random(size, config.diffusion.timesteps, model.latent_size, rng).share(rank, world)


def _run_epoch(
    trainer: Trainer, dataset: Dataset, cases: tuple[str, ...], epoch: int, steps: int, rank: int, world: int
) -> dict[str, float | None]:
    """All steps of one epoch; returns the mean of every loss over the steps that had it."""
    per_step: list[dict[str, Tensor]] = []
    for _ in range(steps):
        per_step.append(trainer.step(*draw_batch(trainer.config, dataset, cases, trainer.steps, trainer.device, rank, world)))
    return _mean_losses(per_step, epoch, trainer.steps - steps)


def _mean_losses(per_step: list[dict[str, Tensor]], epoch: int, first_step: int) -> dict[str, float | None]:
    names = list(dict.fromkeys(name for losses in per_step for name in losses))
    absent = torch.full((), math.nan, device=next(iter(per_step[0].values())).device)
    table = torch.stack([torch.stack([losses.get(name, absent) for name in names]) for losses in per_step])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(table)
        table /= torch.distributed.get_world_size()
    table = table.double().cpu()
    for number, losses in enumerate(per_step):
        for column, name in enumerate(names):
            if name in losses and not math.isfinite(table[number, column]):
                raise DivergedError(f"{name} became {table[number, column]} in epoch {epoch}, step {first_step + number + 1}")
    return {name: mean for name, mean in zip(names, table.nanmean(dim=0).tolist(), strict=True)}


def _validate(trainer: Trainer, dataset: Dataset, cases: tuple[str, ...]) -> ValidationScore:
    """The cheap validation after an epoch, with the weights that would be saved as best."""
    config = trainer.config
    return validate(
        dataset,
        cases[: config.evaluation.validation_cases or None],
        trainer.sample,
        votes=config.evaluation.validation_votes,
        multiple=config.model.size_multiple,
        seed=config.training.seed,
        device=trainer.device,
    )


def _save(trainer: Trainer, folder: Path, reports: list[Report], spec: DatasetSpec) -> None:
    info = {"config": trainer.config.to_dict(), "dataset": asdict(spec), "epoch": reports[-1].epoch, "step": reports[-1].step}
    if reports[-1].best:
        weights = checkpoint.prefixed(trainer.evaluated.state_dict(), "generator.")
        checkpoint.save(folder / BEST, weights, info | {"dice": reports[-1].values["dice"]})
    checkpoint.save(folder / LAST, trainer.state(), info | {"reports": [asdict(report) for report in reports]})


def _resume(trainer: Trainer, path: Path) -> list[Report]:
    """Take up the checkpoint of an earlier run, where there is one, and return its reports."""
    found = from_rank_zero(lambda: checkpoint.load(path) if path.is_file() else None)
    if found is None:
        return []
    tensors, info = found
    theirs, ours = Config.from_dict(info["config"]).flatten(), trainer.config.flatten()
    for name in ours:
        if theirs[name] != ours[name] and name != "training.epochs":
            raise InputError(f"{path} was trained with {name} = {theirs[name]}, not {ours[name]}; use another folder")
    trainer.restore(tensors, info["step"])
    return [Report(**report) for report in info["reports"]]


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
