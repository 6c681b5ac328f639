"""What one trial does, on the machine where it runs: train, then score its best checkpoint by the full protocol.

A trial of a search is scored on the validation split only; a finalist's training on the test split as well.

`messages(settings)` can be called again after any crash: epochs that are in the trial's checkpoint are repeated word for word, and
the training goes on. What it raises is not the setting's fault, as far as one can tell (`faults.py`).
"""

import gc
import math
import socket
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cdal.checkpoint import load, save
from cdal.config import Config
from cdal.devices.memory import out_of_memory, peak_memory, reset_peak
from cdal.devices.workers import rank_and_world
from cdal.errors import DivergedError
from cdal.pulse import beat
from cdal.training import BEST, LAST, PREVIOUS, Report, history, stored_config, train
from tune.lake import Mirror
from tune.lake.status import DIVERGED, FINISHED, INFEASIBLE, SETTING, trial_id
from tune.trials.scoring import score
from tune.trials.settings import Message, TrialSettings
from tune.trials.together import take_share

LOSS = "loss_soft_dice"
"""The training loss that foretells the Dice best where it still is 0 (rank correlation 0.6 after the first of nine epochs)."""


def messages(settings: TrialSettings) -> Generator[Message, None, None]:
    """Train from the last checkpoint on, one message per epoch, then score. The last message says how the trial ended."""
    started = time.process_time()
    torch.set_num_threads(max(1, int(settings.cpus)))
    take_share(settings)
    device = settings.device
    here = {"host": socket.gethostname(), "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    gc.collect()  # what is left of the trial that this process ran before
    reset_peak(device)
    files = settings.files()
    try:
        for message in _scored_only(settings, files) if settings.only_score else _messages(settings, files):
            if message.get("done") and not files.close():
                message["reason"] += "; its last checkpoint could not be stored"
            used = (time.process_time() - started) * settings.workers  # the workers do the same, so one stands for all
            yield message | here | {"cpu_seconds": used, "checkpoint": files.has(BEST)}
    finally:  # the trial may have been stopped
        files.close()


def _messages(settings: TrialSettings, files: Mirror) -> Iterator[Message]:
    files.fetch()
    beat()
    folder, config = files.path, Config.from_dict(settings.config)
    lineage: Message = {}
    if settings.population and (stored := stored_config(folder)) is not None:  # they may have changed since it was proposed
        config = stored
        lineage = {"parent": settings.parent, "settings": config.flatten()}
    try:
        dataset = settings.open_dataset()
        known = history(folder)
        best, first = -math.inf, rank_and_world()[0] == 0
        beat()
        for report in train(config, dataset, folder, fold=settings.fold, device=settings.device):
            news, known = [*(old for old in known if old.epoch < report.epoch), report], []  # a torn one may be repeated
            message, best = _epochs(settings.number, news, best)
            if first:
                files.keep()
            yield message | lineage
            lineage = {}
        if not first:
            return
        message, best = _epochs(settings.number, known, best)
        yield message | lineage | _finished(settings, folder)
    except DivergedError as error:
        yield ended(DIVERGED, str(error), cause=SETTING)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        peak = peak_memory(settings.device)
        yield ended(INFEASIBLE, _too_little(peak, error), traceback.format_exc(), SETTING) | {"trial": {"memory_bytes": peak}}


def _finished(settings: TrialSettings, folder: Path) -> Message:
    """The last message of a trial that is trained: its figures, if they can be had."""
    try:
        scored = score(settings, folder)
        if settings.test_evaluations > 0:
            scored = _together(scored, score(settings, folder, "test"))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = f"trained; not scored: {_too_little(peak_memory(settings.device), error)}"
        return ended(FINISHED, reason, traceback.format_exc())
    return scored | _costs(settings, folder, scored["trial"]) | ended(FINISHED, "trained and scored")


def _too_little(peak: int, error: Exception) -> str:
    """What is said of a memory that does not suffice."""
    return f"out of memory, with {peak / 2**30:.2f} GiB in use: {' '.join(str(error).split())[:200]}"


def _scored_only(settings: TrialSettings, files: Mirror) -> Iterator[Message]:
    """The best checkpoint of a trial that was stopped, by the full protocol."""
    files.fetch()
    try:
        yield _finished(settings, files.path)
    finally:
        files.discard()


def metrics_row(number: int, report: Report) -> dict[str, Any]:
    """A report as a row of the metrics table."""
    values = {key: value for key, value in report.values.items() if key not in ("model_seconds", "first_step_seconds")}
    return {"trial_id": trial_id(number), "epoch": report.epoch, "step": report.step} | values


def adopt(donor: Path, settings: TrialSettings) -> None:
    """Put another trial's checkpoints into the trial's own folder, under its new settings; once, however often it is restarted."""
    files, config = settings.files(), dict(settings.config)
    files.fetch()
    own = files.path
    if stored_config(own) == Config.from_dict(config):
        return
    (own / PREVIOUS).unlink(missing_ok=True)
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
    losses = {report.epoch: report.values[LOSS] for report in reports if LOSS in report.values}
    message: Message = {"epochs": [metrics_row(number, report) for report in reports], "curve": points, "losses": losses}
    if reports:
        message |= {name: reports[-1].values.get(name) for name in ("model_seconds", "first_step_seconds")}
    return message, best


def _costs(settings: TrialSettings, folder: Path, scored: Mapping[str, Any]) -> Message:
    """The objectives other than Dice, of a trial that was scored."""
    values = [report.values for report in history(folder)]
    seconds = sum(value["train_seconds"] + value["validation_seconds"] for value in values) + scored["scoring_seconds"]
    hours = seconds * settings.workers * (settings.gpus or settings.cpus) / 3600
    costs = {"seconds_per_case": scored["seconds_per_case"], "gpu_hours": hours}
    return {"costs": costs, "trial": dict(scored) | {"gpu_hours": hours}}


def _together(validation: Message, test: Message) -> Message:
    """The scores of both splits in one message."""
    seconds = validation["trial"]["scoring_seconds"] + test["trial"]["scoring_seconds"]
    trial = validation["trial"] | test["trial"] | {"scoring_seconds": seconds}
    return validation | {"trial": trial, "cases": validation["cases"] + test["cases"]}


def ended(status: str, reason: str, error: str | None = None, cause: str | None = None) -> Message:
    """A trial's last message."""
    return {"done": True, "status": status, "reason": reason, "error": error, "cause": cause}
