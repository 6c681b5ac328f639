"""Trainings that share a GPU: what each of them may take, and how many images a second they make together.

with side_by_side(settings, 4, seconds=3, until=time.monotonic() + 30) as rate:
    print(rate(1), rate(4))
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from torch import Tensor

from cdal.config import Config
from cdal.data import Dataset
from cdal.trainer import Trainer
from cdal.training import draw_batch
from tune.trials.mps import mps_folder, start_mps
from tune.trials.settings import TrialSettings

SHARED_OUT = 0.95  # of the memory of a GPU that trials share; the rest is what CUDA itself takes in each of their processes


class Rate(NamedTuple):
    """Of trainings side by side."""

    images_per_second: float
    """Of all together."""
    reserved: int
    """Bytes that PyTorch holds on their GPU."""


def take_share(settings: TrialSettings) -> None:
    """What a process does before it uses a GPU, and again for every trial: it has the part that is its own."""
    if settings.device.type == "cuda":
        if settings.gpus < 1:
            start_mps(mps_folder(settings.place))
        limit_memory(settings.gpus)


def limit_memory(gpus: float) -> None:
    """A trial that wants more than its part runs out of memory itself, and not one beside it."""
    torch.cuda.set_per_process_memory_fraction(SHARED_OUT * gpus if gpus < 1 else 1.0)


def kinds_of_steps(config: Config) -> tuple[int, int, int]:
    """Numbers of three steps: one with R1, where that is ever due, one with an update of the discriminator, and one in between."""
    interval = config.optimiser.discriminator_interval
    period = interval * (config.loss.r1_interval if config.loss.r1_gamma > 0 else 1)
    return period, period + interval, period + 1


@contextmanager
def side_by_side(settings: TrialSettings, most: int, *, seconds: float, until: float) -> Iterator[Callable[[int], Rate]]:
    """Processes that train the same setting; inside, some of them do so at the same time, to tell their rate.

    Args:
        settings: what to train, and where; `cpus` are those of all together.
        most: how many processes.
        seconds: that they train for each time.
        until: when it has to be over, by `time.monotonic`.

    Raises:
        TimeoutError: inside, when it is.
        RuntimeError: inside, where a process died or failed.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    pipes: list[Connection] = []
    processes = []
    try:
        for _ in range(most):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            process = context.Process(target=_train, args=(settings.to_json(), theirs), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()  # so that a process that died is heard of

        def rate(number: int) -> Rate:
            try:
                for order in (number, seconds):  # all get ready, then all begin
                    for pipe in pipes[:number]:
                        pipe.send(order)
                    heard = [_hear(pipe, until) for pipe in pipes[:number]]
            except (EOFError, ConnectionError):
                raise RuntimeError("a process died") from None
            return Rate(sum(one.images_per_second for one in heard), sum(one.reserved for one in heard))

        yield rate
    finally:
        for pipe in pipes:
            pipe.close()
        latest = max(until, time.monotonic()) + seconds
        for process in processes:
            process.join(max(0.0, latest - time.monotonic()))  # one that is killed in the middle of its work may take MPS along
            process.kill()
            process.join()


def _hear(pipe: Connection, until: float) -> Rate:
    if not pipe.poll(max(0.0, until - time.monotonic())):
        raise TimeoutError("it took too long")
    heard = pipe.recv()
    if isinstance(heard, str):
        raise RuntimeError(heard)
    assert isinstance(heard, Rate)
    return heard


def _train(settings: str, pipe: Connection) -> None:
    """One of the processes, until nobody listens any more."""
    try:
        _obey(TrialSettings.from_json(settings), pipe)
    except (EOFError, ConnectionError):
        pass
    except Exception as error:  # handed over
        with contextlib.suppress(OSError):
            pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _obey(settings: TrialSettings, pipe: Connection) -> None:
    config, device, dataset = Config.from_dict(settings.config), settings.device, settings.open_dataset()
    cases = dataset.split(settings.fold).train
    trainer: Trainer | None = None
    while True:
        number = pipe.recv()
        torch.set_num_threads(max(1, int(settings.cpus / number)))
        if device.type == "cuda":
            limit_memory(1 / number)
        if trainer is None:
            trainer = Trainer(config, device)
            for kind in kinds_of_steps(config) * 2:  # memory is got, kernels are chosen, what recurs is recorded
                _step(trainer, dataset, cases, kind)
        pipe.send(Rate(0.0, 0))
        seconds, started = pipe.recv(), time.perf_counter()
        first, steps = kinds_of_steps(config)[0], 1
        loss = _step(trainer, dataset, cases, first)
        while time.perf_counter() - started < seconds:
            before, loss = loss, _step(trainer, dataset, cases, first + steps)
            before.item()  # no more than one step ahead of the device
            steps += 1
        loss.item()
        images = steps * config.training.batch_size / (time.perf_counter() - started)
        pipe.send(Rate(images, torch.cuda.memory_reserved(device) if device.type == "cuda" else 0))


def _step(trainer: Trainer, dataset: Dataset, cases: tuple[str, ...], number: int) -> Tensor:
    """A training's step; one of its losses, which may be still to come."""
    trainer.steps = number
    return next(iter(trainer.step(*draw_batch(trainer.config, dataset, cases, number, trainer.device)).values()))
