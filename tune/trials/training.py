"""What one trial does, on the machine where it runs: train, then score its best checkpoint by the full protocol.

A trial of a search is scored on the validation split only; a finalist's training on the test split as well.

`messages(settings)` can be called again after any crash: epochs that are in the trial's checkpoint are repeated word for word, and
the training goes on.
"""

import math
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from cdal.checkpoint import load, read_info, save
from cdal.config import Config
from cdal.errors import DivergedError, InputError
from cdal.training import BEST, LAST, Report, history, peak_memory, train
from tune.lake import Mirror
from tune.lake.status import DIVERGED, FAILED, FINISHED, INFEASIBLE, trial_id
from tune.trials.scoring import score
from tune.trials.settings import Message, TrialSettings
from tune.trials.together import take_share


def messages(settings: TrialSettings) -> Iterator[Message]:
    """Train from the last checkpoint on, one message per epoch, then score. The last message says how the trial ended."""
    started = time.process_time()
    torch.set_num_threads(max(1, int(settings.cpus)))
    take_share(settings)
    here = {"host": socket.gethostname(), "device": "cpu"}
    if settings.device.type == "cuda":
        here["device"] = torch.cuda.get_device_name()
        torch.cuda.reset_peak_memory_stats()  # of the trial that this process ran before
    files = settings.files()
    try:
        for message in _messages(settings, files):
            if message.get("done") and not files.close():
                message["reason"] += "; its last checkpoint could not be stored"
            used = (time.process_time() - started) * settings.workers  # the workers do the same, so one stands for all
            yield message | here | {"cpu_seconds": used, "checkpoint": files.has(BEST)}
    finally:  # the trial may have been stopped
        files.close()


def _messages(settings: TrialSettings, files: Mirror) -> Iterator[Message]:
    files.fetch()
    folder, config = files.path, Config.from_dict(settings.config)
    lineage: Message = {}
    if settings.population and (folder / LAST).is_file():  # its settings may have changed since it was proposed
        config = Config.from_dict(read_info(folder / LAST)["config"])
        lineage = {"parent": settings.parent, "settings": config.flatten()}
    try:
        dataset = settings.open_dataset()
        known = history(folder)
        best = -math.inf
        called = time.time()
        for report in train(config, dataset, folder, fold=settings.fold, device=settings.device):
            news, known = [*known, report], []
            message, best = _epochs(settings.number, news, best)
            files.keep()
            yield message | lineage | {"first_step_at": called + report.values["first_step_seconds"]}
            lineage = {}
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        message, best = _epochs(settings.number, known, best)
        scored = score(settings, folder)
        if settings.test_evaluations > 0:
            scored = _together(scored, score(settings, folder, "test"))
        yield message | lineage | scored | _costs(settings, folder, scored["trial"]) | ended(FINISHED, "trained and scored")
    except DivergedError as error:
        yield ended(DIVERGED, str(error))
    except InputError as error:
        yield ended(FAILED, str(error))
    except Exception as error:  # a trial that cannot work shall not be tried again and again, nor end the search
        if _out_of_memory(error):
            peak = peak_memory(settings.device)
            reason = f"out of memory, with {peak / 2**30:.2f} GiB in use: {' '.join(str(error).split())[:200]}"
            yield ended(INFEASIBLE, reason, traceback.format_exc()) | {"trial": {"memory_bytes": peak}}
            return
        if settings.workers > 1:
            raise  # most likely another worker died: Ray Train starts them all again
        yield ended(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", traceback.format_exc())


def metrics_row(number: int, report: Report) -> dict[str, Any]:
    """A report as a row of the metrics table."""
    values = {key: value for key, value in report.values.items() if key not in ("model_seconds", "first_step_seconds")}
    return {"trial_id": trial_id(number), "epoch": report.epoch, "step": report.step} | values


def adopt(donor: Path, settings: TrialSettings) -> None:
    """Put another trial's checkpoints into the trial's own folder, under its new settings; once, however often it is restarted."""
    files, config = settings.files(), dict(settings.config)
    files.fetch()
    own = files.path
    if (own / LAST).is_file() and Config.from_dict(read_info(own / LAST)["config"]) == Config.from_dict(config):
        return
    for name in (BEST, LAST):  # the last one in the end: it tells that all is done
        tensors, info = load(donor / name)
        save(own / name, tensors, info | {"config": config})
    files.keep()
    if not files.close():
        raise OSError(f"{settings.folder} could not be written")


def _epochs(number: int, reports: list[Report], best: float) -> tuple[Message, float]:
    """The message of some epochs, the last of which are new, and the best Dice so far."""
    points = []
    for report in reports:
        best = max(best, report.values["dice"])
        points.append((report.epoch, best))
    message: Message = {"epochs": [metrics_row(number, report) for report in reports], "curve": points}
    if reports:
        message |= {"model_seconds": reports[-1].values.get("model_seconds")}
    return message, best


def _costs(settings: TrialSettings, folder: Path, scored: Mapping[str, Any]) -> Message:
    """The objectives other than Dice, of a trial that was scored."""
    values = [report.values for report in history(folder)]
    seconds = sum(value["train_seconds"] + value["validation_seconds"] for value in values) + scored["scoring_seconds"]
    hours = seconds * settings.workers * (settings.gpus or settings.cpus) / 3600
    costs = {"seconds_per_case": scored["seconds_per_case"], "gpu_hours": hours}
    return {"costs": costs, "trial": dict(scored) | {"gpu_hours": hours}}


def _out_of_memory(error: Exception) -> bool:
    """PyTorch has a class of its own for GPUs only."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _together(validation: Message, test: Message) -> Message:
    """The scores of both splits in one message."""
    seconds = validation["trial"]["scoring_seconds"] + test["trial"]["scoring_seconds"]
    trial = validation["trial"] | test["trial"] | {"scoring_seconds": seconds}
    return validation | {"trial": trial, "cases": validation["cases"] + test["cases"]}


def ended(status: str, reason: str, error: str | None = None) -> Message:
    """A trial's last message."""
    return {"done": True, "status": status, "reason": reason, "error": error}
