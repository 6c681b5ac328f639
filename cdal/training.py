"""The training loop: one report per epoch.

    for report in train(preset("hippocampus"), dataset, Path("runs/hippocampus")):
        print(report.epoch, report.values["dice"])

The same call goes on after a crash, from `last.safetensors` in the folder, and gives the numbers that an uninterrupted run gives:
all randomness of a step derives from the seed and the number of the step. Where that file is torn it goes on from the one before
it, `previous.safetensors`. Under torch.distributed every worker calls `train`; each takes its share of the same global batch and of
the same random draws.
"""

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from cdal import checkpoint
from cdal.config import Config
from cdal.data import Dataset, steps_per_pass, training_batch
from cdal.data.dataset import DatasetSpec
from cdal.data.folds import spread
from cdal.devices.memory import keep_freed_memory, peak_memory
from cdal.devices.workers import from_rank_zero, rank_and_world, together
from cdal.errors import DivergedError, InputError, short
from cdal.evaluation import ValidationScore, validate
from cdal.pulse import Ended, beat
from cdal.trainer import Draws, Trainer, needs_discriminator

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
MIDWAY = "midway.safetensors"  # of an epoch that was ended in its middle


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
    An epoch that a listener ends (`cdal.pulse`) goes on in its middle, from `midway.safetensors`.
    A torn checkpoint is deleted, with a warning that names it, and the one before it (`previous.safetensors`) is taken up. Where
    none is left, or the weights of the best epoch are lost and no later one is better, the training begins again with epoch 1.
    Where a batch does not fit a GPU's memory, the epoch is begun again with less memory and more time, and a warning says so.

    Raises:
        InputError: the configuration does not fit the dataset, the number of workers or the checkpoint in the folder.
        DivergedError: a loss became NaN or infinite.
        WorkerError: another worker failed.
    """
    with together():
        yield from _train(config, dataset, folder, fold, torch.device(device))
        if from_rank_zero(partial(_best_is_lost, folder)):
            yield from _train(config, dataset, folder, fold, torch.device(device))  # from the beginning, see `_newest`


def _train(config: Config, dataset: Dataset, folder: Path, fold: int, device: torch.device) -> Iterator[Report]:
    called = time.perf_counter()
    if device.type == "cpu":
        keep_freed_memory()
    rank, world = rank_and_world()
    check_fit(config, dataset.spec, world)
    cases = dataset.split(fold)
    trainer = Trainer(config, device)
    model_seconds = time.perf_counter() - called
    reports = _resume(trainer, folder)
    if reports:
        from_rank_zero(partial(_check_data, folder / LAST, dataset.spec))
    best_dice = max((report.values["dice"] for report in reports), default=-math.inf)
    settings = config.training
    steps = settings.steps_per_epoch or steps_per_pass(len(cases.train), settings.batch_size, settings.samples_per_case)

    started = time.perf_counter()
    for epoch in range(len(reports) + 1, settings.epochs + 1):
        per_step, seconds = _take_up_epoch(trainer, folder, epoch)
        values: dict[str, Any] = dict(trainer.set_learning_rates(epoch))
        epoch_start = time.perf_counter() - seconds
        try:
            losses = None
            try:
                losses = _run_epoch(trainer, dataset, cases.train, per_step, epoch, steps, rank, world)
            except torch.OutOfMemoryError:
                if trainer.recompute or world > 1:
                    raise
            if losses is None:  # out here, where the error no longer holds on to what filled the memory
                warnings.warn(
                    "a batch does not fit the memory: activations are computed again on the way back, which takes less memory, "
                    "more time, and changes no number; training.accumulation splits the batch",
                    stacklevel=2,
                )
                trainer = Trainer(config, device, recompute=True)
                if len(_resume(trainer, folder)) + 1 != epoch:
                    raise RuntimeError(f"the checkpoint of epoch {epoch - 1} in {folder} was lost")
                per_step, _ = _take_up_epoch(trainer, folder, epoch)
                trainer.set_learning_rates(epoch)
                losses = _run_epoch(trainer, dataset, cases.train, per_step, epoch, steps, rank, world)
            trained = time.perf_counter()
            score = from_rank_zero(partial(_validate, trainer, dataset, cases.validation))
        except Ended:
            _save_epoch(trainer, folder, per_step, epoch, time.perf_counter() - epoch_start)
            raise
        values |= losses
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
            (folder / MIDWAY).unlink(missing_ok=True)
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
    """The reports of all epochs that the newest readable checkpoint of a folder covers; empty where there is none.

    A torn one is named in a warning. Only headers are read: `train` may find the rest torn, and yield some of these epochs again.
    """
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_file():
            try:
                return _reports(path, checkpoint.read_info(path))
            except checkpoint.TornError as error:
                warnings.warn(str(error), stacklevel=2)
    return []


def stored_config(folder: Path) -> Config | None:
    """The configuration that the newest readable checkpoint of a folder was trained with; None where there is none."""
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_file():
            with suppress(checkpoint.TornError):
                return Config.from_dict(checkpoint.read_info(path)["config"])
    return None


def draw_batch(
    config: Config, dataset: Dataset, cases: tuple[str, ...], step: int, device: torch.device, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor, Draws, Tensor | None]:
    """What `Trainer.step` takes, a function of the seed and the step's number; a worker's share where there are several."""
    settings, model = config.training, config.model
    image, mask, known = training_batch(
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
    return image, mask, Draws.random(size, config.diffusion.timesteps, model.latent_size, rng).share(rank, world), known


def _run_epoch(
    trainer: Trainer,
    dataset: Dataset,
    cases: tuple[str, ...],
    per_step: list[dict[str, Tensor]],
    epoch: int,
    steps: int,
    rank: int,
    world: int,
) -> dict[str, float | None]:
    """All steps of one epoch that are still to do; returns the mean of every loss over the steps that had it.

    `per_step` has the losses of those that are done, and gets the others'.
    """
    while len(per_step) < steps:
        per_step.append(trainer.step(*draw_batch(trainer.config, dataset, cases, trainer.steps, trainer.device, rank, world)))
        beat()
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
        spread(cases, dataset.groups, config.evaluation.validation_cases),
        trainer.sample,
        votes=config.evaluation.validation_votes,
        multiple=config.model.size_multiple,
        seed=config.training.seed,
        device=trainer.device,
    )


def _save_epoch(trainer: Trainer, folder: Path, per_step: list[dict[str, Tensor]], epoch: int, seconds: float) -> None:
    """Keep an epoch that somebody ends in its middle, of one worker: the machine is about to be taken away, perhaps."""
    losses = [{name: loss.item() for name, loss in step.items()} for step in per_step]
    info = {"config": trainer.config.to_dict(), "epoch": epoch, "step": trainer.steps, "losses": losses, "seconds": seconds}
    checkpoint.save(folder / MIDWAY, trainer.state(), info)


def _take_up_epoch(trainer: Trainer, folder: Path, epoch: int) -> tuple[list[dict[str, Tensor]], float]:
    """Go on in the middle of an epoch, if it was ended there; returns the losses of its steps so far, and its seconds."""
    found = from_rank_zero(partial(_midway, trainer, folder / MIDWAY, epoch))
    if found is None:
        return [], 0.0
    tensors, info = found
    trainer.restore(tensors, info["step"])
    losses = [{name: torch.tensor(loss, device=trainer.device) for name, loss in step.items()} for step in info["losses"]]
    return losses, info["seconds"]


def _midway(trainer: Trainer, path: Path, epoch: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What was kept of an epoch; None where it is of another epoch, or torn: the epoch is begun again then."""
    try:
        if path.is_file():
            tensors, info = checkpoint.load(path)
            _check_config(trainer.config, path, info, tensors)
            _check_shapes(trainer, path, tensors)
            if info["epoch"] == epoch:
                return tensors, info
    except (checkpoint.TornError, KeyError):
        pass
    path.unlink(missing_ok=True)
    return None


def _save(trainer: Trainer, folder: Path, reports: list[Report], spec: DatasetSpec) -> None:
    info = {"config": trainer.config.to_dict(), "dataset": asdict(spec), "epoch": reports[-1].epoch, "step": reports[-1].step}
    if reports[-1].best:
        _save_best(trainer, folder, info, reports[-1])
    told = info | {"reports": [asdict(report) for report in reports]}
    checkpoint.save(folder / LAST, trainer.state(), told, before=folder / PREVIOUS)


def _save_best(trainer: Trainer, folder: Path, info: dict[str, Any], report: Report) -> None:
    weights = checkpoint.prefixed(trainer.evaluated.state_dict(), "generator.")
    checkpoint.save(folder / BEST, weights, info | {"dice": report.values["dice"]})


class _Stored(NamedTuple):
    """A whole checkpoint."""

    tensors: dict[str, Tensor]
    info: dict[str, Any]
    reports: list[Report]


def _resume(trainer: Trainer, folder: Path) -> list[Report]:
    """Take up what an earlier run left, where that is of use, and return its reports."""
    found = from_rank_zero(partial(_newest, trainer, folder))  # one worker decides for all
    if found is None:
        return []
    last = found.reports[-1]
    trainer.restore(found.tensors, last.step)
    if last.best and rank_and_world()[0] == 0 and not (folder / BEST).is_file():
        _save_best(trainer, folder, {name: value for name, value in found.info.items() if name != "reports"}, last)
    return found.reports


def _newest(trainer: Trainer, folder: Path) -> _Stored | None:
    """The newest checkpoint that the training can go on from, which is the last one afterwards.

    Where the best weights are lost, that is one that has them itself, or one that better ones may follow.
    """
    paths = (folder / LAST, folder / PREVIOUS)
    began = any(path.is_file() for path in (*paths, folder / BEST))
    best_is_there, newest = _best_is_whole(folder / BEST), True
    for path in paths:
        found = _stored(trainer, path)
        if found is not None:
            may_come = newest and len(found.reports) < trainer.config.training.epochs
            if best_is_there or may_come or found.reports[-1].best or not any(report.best for report in found.reports):
                path.replace(folder / LAST)
                return found
            newest = False
    if began:
        warnings.warn(f"{folder} holds nothing that the training could go on from; it begins again with epoch 1", stacklevel=2)
        for path in paths:  # or the next run would take for its own what is another training's
            path.unlink(missing_ok=True)
    return None


def _stored(trainer: Trainer, path: Path) -> _Stored | None:
    """A checkpoint of the training at hand. One that is torn is deleted, so that it never takes the place of a whole one."""
    if not path.is_file():
        return None
    try:
        tensors, info = checkpoint.load(path)
        reports = _reports(path, info)
        _check_config(trainer.config, path, info, tensors)
        _check_shapes(trainer, path, tensors)
    except checkpoint.TornError as error:
        warnings.warn(f"{error}; it is deleted", stacklevel=2)
        path.unlink()
        return None
    return _Stored(tensors, info, reports)


def _check_data(path: Path, spec: DatasetSpec) -> None:
    """Raise InputError where a checkpoint has seen other classes, or images prepared otherwise, than those at hand."""
    told = checkpoint.read_info(path).get("dataset")
    if told is None:
        return
    try:
        seen = DatasetSpec.from_dict(told)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} describes its data in a way that cannot be ({error}); delete it, or take another folder"
        ) from None
    if seen.classes != spec.classes or seen.has_ignored != spec.has_ignored:
        raise InputError(
            f"{path} comes from a training on the classes {short(seen.classes)}, now they are {short(spec.classes)}, or pixels are "
            "left out that were not; give this training a folder of its own"
        )
    if seen.preparation != spec.preparation:
        names = [item.name for item in fields(spec.preparation)]
        other = [name for name in names if getattr(seen.preparation, name) != getattr(spec.preparation, name)]
        raise InputError(
            f"{path} comes from a training on images that were prepared otherwise ({', '.join(other)}): options of the dataset or "
            "its files have changed; give this training a folder of its own"
        )


def _best_is_whole(path: Path) -> bool:
    """Whether the best weights can be read. What is torn is deleted."""
    try:
        if path.is_file():
            checkpoint.load(path)
    except checkpoint.TornError as error:
        warnings.warn(f"{error}; it is deleted", stacklevel=2)
        path.unlink()
    return path.is_file()


def _best_is_lost(folder: Path) -> bool:
    return not (folder / BEST).is_file() and any(report.best for report in history(folder))


def _reports(path: Path, info: dict[str, Any]) -> list[Report]:
    """The reports in a checkpoint, of epochs 1, 2, ... Raises TornError where they are something else."""
    try:
        reports = [Report(**report) for report in info["reports"]]
        sound = all(isinstance(report.values["dice"], float) and isinstance(report.step, int) for report in reports)
    except (KeyError, TypeError):
        sound = False
    if not sound or not reports or [report.epoch for report in reports] != list(range(1, len(reports) + 1)):
        raise checkpoint.TornError(f"{path} does not tell its epochs")
    return reports


def _check_config(config: Config, path: Path, info: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    if not isinstance(info.get("config"), dict):
        raise checkpoint.TornError(f"{path} does not tell its configuration")
    theirs, ours = Config.from_dict(info["config"]).flatten(), config.flatten()
    for name in ours:
        if theirs[name] != ours[name] and name != "training.epochs":
            raise InputError(f"{path} was trained with {name} = {theirs[name]}, not {ours[name]}; use another folder")
    if checkpoint.attending(config, checkpoint.unprefixed(tensors, "generator.")) != config:
        sides = list(config.model.attention_resolutions)
        raise InputError(
            f"{path} was trained by an older version, for which model.attention_resolutions = {sides} meant self-attention "
            "at other levels; use another folder"
        )


def _check_shapes(trainer: Trainer, path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise TornError where tensors are missing, or are not those of the networks and of their optimisers."""
    shapes = {name: tensor.shape for name, tensor in trainer.state().items() if "_adam." not in name}
    for name, tensor in tensors.items():
        weight, _, moment = name.replace("_adam.", ".").rpartition(".")
        expected = shapes.get(name) if "_adam." not in name else torch.Size() if moment == "step" else shapes.get(weight)
        if tensor.shape != expected:
            raise checkpoint.TornError(f"{path} holds {name} in a shape that does not fit its configuration")
    if missing := shapes.keys() - tensors.keys():
        raise checkpoint.TornError(f"{path} lacks {min(missing)}")


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
