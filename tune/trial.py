"""What one trial does, on the machine where it runs: train, then score its best checkpoint by the full protocol.

A trial of a search is scored on the validation split only; a finalist's training on the test split as well.

`messages(settings)` is the one code path. A trial of one worker pulls it in the trial's own process, which Ray Tune reuses for the
next trial; a trial of several workers runs it in every worker of a Ray Train TorchTrainer and passes on what the first one says. It
can be called again after any crash: epochs that are in the trial's checkpoint are repeated word for word, and the training goes on.
"""

from __future__ import annotations

import io
import json
import math
import queue
import shutil
import socket
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.tune
import torch
import torch.distributed
from PIL import Image
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from cdal.checkpoint import load, load_model, read_info, save
from cdal.config import Config
from cdal.data import Case, Dataset, SplitName, open_dataset
from cdal.errors import DivergedError, InputError
from cdal.evaluation import CaseResult
from cdal.metrics import rank_correlation
from cdal.predict import full_protocol
from cdal.training import BEST, LAST, Report, history, peak_memory, train
from tune.mirror import Mirror, ray_storage
from tune.status import DIVERGED, FAILED, FINISHED, INFEASIBLE, STOPPED

Message = dict[str, Any]
"""`epochs`: rows of the metrics table, new or repeated; `curve`: the same as (epoch, best Dice so far); a trial's last message has
`done`, `status`, `reason`, and where it finished `trial`, `costs`, `cases` and `gallery`."""

PICTURES = 3  # best cases, as many worst, and the median one
RESTARTS = 3  # of a worker that died
_POLL_SECONDS = 1.0
_DRIVER_BYTES = 2**20  # a process that only waits for workers takes no CPU, but Tune wants it to take something
_DRIVER_HOME = "driver"  # the resource of machines that outlive the search: no spot machine shall take all workers of a trial along


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """All that a trial needs to know; plain values, sent as JSON."""

    number: int
    kind: str
    config: Mapping[str, Any]
    dataset: str
    options: Mapping[str, Any]
    data: str | None
    fold: int
    folder: str
    """The trial's own folder in the lake: one that every worker sees, or s3://bucket/prefix."""
    workers: int = 1
    cpus: float = 1
    """Of one worker."""
    gpus: float = 0
    """Of one worker."""
    population: bool = False
    """Whether the trial may become a copy of another one."""
    parent: int | None = None
    """The trial that it is a copy of."""
    test_evaluations: int = 0
    """How often the settings will have been scored on the test split after this trial; 0: it is not to see the test split."""

    def to_json(self) -> str:
        """Inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialSettings:
        """Inverse of `to_json`."""
        return cls(**json.loads(text))

    def open_dataset(self) -> Dataset:
        """The dataset, kept in memory by the process."""
        return open_dataset(self.dataset, self.data, **self.options)

    def files(self) -> Mirror:
        """The trial's checkpoints."""
        return Mirror(self.folder, (BEST, LAST))

    @property
    def device(self) -> torch.device:
        """Where this process computes; Ray shows a worker its own GPUs only."""
        return torch.device("cuda" if self.gpus > 0 else "cpu")


def messages(settings: TrialSettings) -> Iterator[Message]:
    """Train from the last checkpoint on, one message per epoch, then score. The last message says how the trial ended."""
    started = time.process_time()
    torch.set_num_threads(max(1, int(settings.cpus)))
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
        yield message | lineage | scored | _costs(settings, folder, scored["trial"]) | _ended(FINISHED, "trained and scored")
    except DivergedError as error:
        yield _ended(DIVERGED, str(error))
    except InputError as error:
        yield _ended(FAILED, str(error))
    except Exception as error:  # a trial that cannot work shall not be tried again and again, nor end the search
        if _out_of_memory(error):
            peak = peak_memory(settings.device)
            reason = f"out of memory, with {peak / 2**30:.2f} GiB in use: {' '.join(str(error).split())[:200]}"
            yield _ended(INFEASIBLE, reason, traceback.format_exc()) | {"trial": {"memory_bytes": peak}}
            return
        if torch.distributed.is_initialized():
            raise  # most likely another worker died: Ray Train starts them all again
        yield _ended(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", traceback.format_exc())


def metrics_row(number: int, report: Report) -> dict[str, Any]:
    """A report as a row of the metrics table."""
    values = {key: value for key, value in report.values.items() if key not in ("model_seconds", "first_step_seconds")}
    return {"trial_id": trial_id(number), "epoch": report.epoch, "step": report.step} | values


def trial_id(number: int) -> str:
    """A trial's name in the lake and of its folder."""
    return f"{number:05d}"


def curve(dice: Mapping[int, float]) -> list[tuple[int, float]]:
    """(epoch, best Dice so far) from the Dice of every epoch."""
    epochs = sorted(dice)
    best = np.maximum.accumulate([dice[epoch] for epoch in epochs]).tolist() if epochs else []
    return list(zip(epochs, best, strict=True))


def score_stored(settings: TrialSettings) -> Message:
    """Evaluate the best checkpoint of a trial that was stopped, from the lake."""
    files = settings.files()
    files.fetch()
    try:
        return score(settings, files.path)
    finally:
        files.discard()


def score(settings: TrialSettings, folder: Path, split: SplitName = "validation") -> Message:
    """Evaluate the best checkpoint by the full protocol: on the validation split, or, pictures apart, on the whole test split."""
    started = time.perf_counter()
    config, generator = load_model(folder / BEST)
    dataset = settings.open_dataset()
    cases = dataset.split(settings.fold)[split]
    if split != "test":
        cases = cases[: config.evaluation.cases or None]
    results = []
    rows: list[dict[str, Any]] = []
    entropy = []
    for result in full_protocol(config, generator.to(settings.device), dataset, cases):
        results.append(_Picture.of(dataset.case(result.case_id), result))
        rows += _case_rows(settings.number, split, result)
        entropy.append(result.mean_entropy)
    votes = rows[-1]["votes"]
    last = [row for row in rows if row["votes"] == votes]
    dice, iou = (float(np.mean([row[name] for row in last])) for name in ("dice", "iou"))
    if split == "test":
        figures = {"test_dice": dice, "test_iou": iou, "test_evaluations": settings.test_evaluations}
        return {"trial": figures | {"scoring_seconds": time.perf_counter() - started}, "cases": rows}
    return {
        "trial": {
            "final_dice": dice,
            "final_iou": iou,
            "votes": votes,
            "uncertainty_correlation": rank_correlation(entropy, [1 - result.dice for result in results]),
            "seconds_per_case": float(np.mean([result.seconds for result in results])),
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            "scoring_seconds": time.perf_counter() - started,
        },
        "cases": rows,
        "gallery": [picture.row(settings.number, votes) for picture in _shown(results)],
    }


class CdalTrial(ray.tune.Trainable):
    """A trial as Ray Tune sees it: every step passes on the next message."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        """What this process takes; workers that a TorchTrainer starts take theirs themselves, and must find it free."""
        settings = TrialSettings.from_json(config["settings"])
        if settings.workers > 1:
            needs: dict[str, float] = {"memory": _DRIVER_BYTES}
            if ray.cluster_resources().get(_DRIVER_HOME):  # type: ignore[no-untyped-call]
                needs[_DRIVER_HOME] = 1
            return ray.tune.PlacementGroupFactory([needs])
        gpus = {"GPU": settings.gpus} if settings.gpus else {}
        return ray.tune.PlacementGroupFactory([{"CPU": settings.cpus} | gpus])

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the trial at hand, if there is one, and begin another."""
        self.cleanup()
        self._settings = TrialSettings.from_json(new_config["settings"])
        self._source = messages(self._settings) if self._settings.workers == 1 else _distributed(self._settings)
        return True

    def step(self) -> dict[str, Any]:
        """The next message, as a result for Tune: what schedulers read on top, all else under `payload`."""
        message = next(self._source)
        message.setdefault("curve", [])
        result: dict[str, Any] = {key: message[key] for key in ("curve", "done", "status") if key in message}
        result |= message.get("costs", {})
        if message["curve"]:
            result["epoch"], result["best_dice"] = message["curve"][-1]
            result["dice"] = message["epochs"][-1]["dice"]
        if self._settings.parent is not None:  # what it reaches now is no merit of the settings that it was proposed with
            result |= {"curve": []} | ({"status": STOPPED} if message.get("status") == FINISHED else {})
        return result | {"payload": message}

    def cleanup(self) -> None:
        """Tune stops the trial between two messages."""
        source = getattr(self, "_source", None)
        if source is not None:
            source.close()

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """A copy for those that may take the trial over; otherwise nothing: the training keeps its own checkpoints."""
        if self._settings.population:
            own = self._settings.files().path
            for name in (BEST, LAST):
                if (own / name).is_file():
                    shutil.copy(own / name, checkpoint_dir)
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Become a copy of another trial, where the scheduler has just decided so."""
        if checkpoint is not None and self._settings.parent is not None:
            adopt(Path(checkpoint), self._settings)


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


def _distributed(settings: TrialSettings) -> Iterator[Message]:
    """Run `messages` in the workers of a TorchTrainer and pass on what the first one says."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Empty, Queue

    _release(settings)
    gpus = {"GPU": settings.gpus} if settings.gpus else {}
    mailbox = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _beside_this_process()})
    trainer = TorchTrainer(
        work,
        train_loop_config={"settings": settings.to_json(), "mailbox": mailbox},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpus > 0,
            resources_per_worker={"CPU": settings.cpus, "memory": _mark(settings)} | gpus,
        ),
        run_config=RunConfig(name="train", failure_config=FailureConfig(max_failures=RESTARTS), **ray_storage(settings.folder)),
    )
    problem: queue.Queue[BaseException | None] = queue.Queue()

    def fit() -> None:
        try:
            trainer.fit()
            problem.put(None)
        except BaseException as error:  # handed over to the trial's own thread
            problem.put(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    seen = 0
    try:
        while True:
            try:
                message = mailbox.get(timeout=_POLL_SECONDS)
            except Empty:
                if thread.is_alive():
                    continue
                error = problem.get()
                yield _ended(FAILED, f"the workers ended: {' '.join(str(error).split())[:300]}")
                return
            message["curve"] = [point for point in message.get("curve", []) if point[0] > seen]
            seen = max([seen, *(epoch for epoch, _ in message["curve"])])
            if message.get("done"):
                thread.join()
            yield message
    finally:
        if thread.is_alive():
            _release(settings)
        mailbox.shutdown(force=True)


def _beside_this_process() -> NodeAffinitySchedulingStrategy:
    """What the trial's own process needs lives and dies with its machine, and with no other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def work(config: dict[str, Any]) -> None:
    """One worker of a trial of several; the first passes on its messages."""
    import ray.train

    settings = TrialSettings.from_json(config["settings"])
    first = ray.train.get_context().get_world_rank() == 0
    for message in messages(settings):
        if first:
            config["mailbox"].put(message)


def _release(settings: TrialSettings) -> None:
    """Give back what worker groups of the trial hold, which ends their workers at once.

    A group outlives the trial's own process where that is killed, and would keep its successor waiting for ever. (Ray Train's own
    cleaner needs Ray's dashboard.)
    """
    for name, group in placement_group_table().items():
        bundles = group["bundles"].values()
        if group["state"] != "REMOVED" and bundles and all(bundle.get("memory") == _mark(settings) for bundle in bundles):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


def _mark(settings: TrialSettings) -> int:
    """Bytes of memory that the trial's workers ask for: 1 to 2 MiB, another for every trial, to tell them apart."""
    return 2**20 + zlib.crc32(settings.folder.encode()) % 2**20


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


def _ended(status: str, reason: str, error: str | None = None) -> Message:
    return {"done": True, "status": status, "reason": reason, "error": error}


def _case_rows(number: int, split: SplitName, result: CaseResult) -> list[dict[str, Any]]:
    votes = result.scores[-1].votes
    of_all = {"entropy": result.mean_entropy, "entropy_error": result.entropy_error, "votes_used": result.votes_used}
    return [
        {
            "trial_id": trial_id(number),
            "split": split,
            "case": result.case_id,
            "class": item.class_name,
            "votes": item.votes,
            "dice": item.dice,
            "iou": item.iou,
            "hd95": item.hd95,
            "assd": item.assd,
            "volume_error": item.volume_error,
            "aji": item.aji,
            "panoptic_quality": item.panoptic_quality,
            "seconds": item.seconds,
        }
        | (of_all if item.votes == votes else {})
        for item in result.scores
    ]


@dataclass(frozen=True)
class _Picture:
    """One slice of a case: image (C, H, W) in stored values, truth, prediction and uncertainty (H, W)."""

    case_id: str
    dice: float
    seconds: float
    image: Tensor
    truth: Tensor
    prediction: Tensor
    uncertainty: Tensor

    @classmethod
    def of(cls, case: Case, result: CaseResult) -> _Picture:
        """The middle one of the slices that have foreground."""
        filled = case.label.flatten(1).any(dim=1).nonzero().flatten().tolist() or list(range(len(case.label)))
        middle = filled[len(filled) // 2]
        return cls(
            result.case_id,
            result.dice,
            result.seconds,
            case.image[:, middle],
            case.label[middle],
            result.labels[middle].clone(),  # a view would keep the whole volume in memory
            result.entropy[middle].clone(),
        )

    def row(self, number: int, votes: int) -> dict[str, Any]:
        """A row of the gallery table; the uncertainty is the entropy of the votes, white where it is largest."""
        shown = self.image if self.image.dtype == torch.uint8 else ((self.image.clamp(-1, 1) + 1) * 127.5).round().byte()
        colours = shown[0] if len(shown) != 3 else shown.permute(1, 2, 0)
        return {
            "trial_id": trial_id(number),
            "split": "validation",
            "case": self.case_id,
            "votes": votes,
            "dice": self.dice,
            "image": _png(colours),
            "truth": _png(self.truth),
            "prediction": _png(self.prediction),
            "uncertainty": _png((self.uncertainty * 255).round().byte()),
        }


def _shown(pictures: list[_Picture]) -> list[_Picture]:
    """The best cases, the median one and the worst."""
    ranked = sorted(pictures, key=lambda picture: (-picture.dice, picture.case_id))
    middle = len(ranked) // 2
    return ranked if len(ranked) <= 2 * PICTURES else ranked[:PICTURES] + ranked[middle : middle + 1] + ranked[-PICTURES:]


def _png(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.to(torch.uint8).numpy())).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
