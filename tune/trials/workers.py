"""A trial of several workers: a Ray Train TorchTrainer runs its `messages` in every one of them, and the first is heard."""

import math
import queue
import threading
import time
import zlib
from collections.abc import Generator
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cdal.devices.workers import LONGEST_WAIT
from cdal.pulse import listening
from tune.lake import ray_storage
from tune.lake.status import MACHINE
from tune.trials.alongside import PULSE_SECONDS
from tune.trials.faults import Fault, fault_of
from tune.trials.log import TrialLog
from tune.trials.settings import Message, TrialSettings
from tune.trials.training import messages

_POLL_SECONDS = 1.0
_FIRST_WORD_SECONDS = 30.0
"""For the first worker to say itself why another one ended; it cannot where it waits on its GPU."""
_END_SECONDS = 60.0  # for Ray Train to end after the last word


def distributed(settings: TrialSettings) -> Generator[Message | float, None, None]:
    """Run `messages` in the workers of a TorchTrainer and pass on what the first one says, or why another one ended.

    As `Alongside`, it gives the seconds since the last sign of life where nothing else is to be said; before the first one, while
    the workers wait for machines, messages with `waits`.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
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
        torch_config=TorchConfig(timeout_s=int(LONGEST_WAIT.total_seconds())),
        run_config=RunConfig(name="train", failure_config=FailureConfig(max_failures=0), **ray_storage(settings.folder)),
    )
    before = _machines()
    problem: queue.Queue[BaseException | None] = queue.Queue()

    def fit() -> None:
        try:
            trainer.fit()
            problem.put(None)
        except BaseException as error:  # handed over to the trial's own thread
            problem.put(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    seen, other, deadline = 0, None, math.inf
    alive, said = math.inf, time.monotonic()
    try:
        while True:
            try:
                first, message = mailbox.get(timeout=_POLL_SECONDS)
            except Empty:
                now = time.monotonic()
                if thread.is_alive() and now < deadline:
                    if now - said > PULSE_SECONDS:
                        yield {"waits": True} if alive == math.inf else now - alive
                        said = now
                    continue
                yield other or {"fault": _why_they_ended(problem, before)}
                return
            if not first:
                other, deadline = message, time.monotonic() + _FIRST_WORD_SECONDS
                continue
            alive = time.monotonic()
            if "silent" in message:
                continue
            message["curve"] = [point for point in message.get("curve", []) if point[0] > seen]
            seen = max([seen, *(epoch for epoch, _ in message["curve"])])
            end = alive + _END_SECONDS
            while message.get("done") and thread.is_alive() and time.monotonic() < end:
                thread.join(PULSE_SECONDS)
                yield 0.0  # Ray Train takes its time
            said = alive
            yield message
    finally:
        if thread.is_alive():
            _release(settings)
        mailbox.shutdown(force=True)


def _why_they_ended(problem: queue.Queue[BaseException | None], before: set[str]) -> Fault:
    """Of workers that ended without a word."""
    try:
        error = problem.get(timeout=_POLL_SECONDS)
    except queue.Empty:
        error = None
    lost = before - _machines()
    return Fault(MACHINE, f"the workers ended: {_sentences(error)[:300]}", str(error), counts=not lost)


def _machines() -> set[str]:
    """Those that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def _sentences(error: BaseException | None) -> str:
    """How every worker's error ends, the shortest first: the others cite it."""
    failures = getattr(error, "worker_failures", {}).values() or [error]
    return "; ".join(sorted({str(failure).strip().rpartition("\n")[2] for failure in failures}, key=len))


def _beside_this_process() -> NodeAffinitySchedulingStrategy:
    """What the trial's own process needs lives and dies with its machine, and with no other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def work(config: dict[str, Any]) -> None:
    """One worker of a trial of several; the first passes on its messages and signs of life, each of the others that it failed."""
    import ray.train

    settings, tell = TrialSettings.from_json(config["settings"]), config["mailbox"].put
    first = ray.train.get_context().get_world_rank() == 0
    log = TrialLog(settings.folder, whole_process=True) if first else None
    said = 0.0

    def live() -> None:
        nonlocal said
        if first and time.monotonic() - said > PULSE_SECONDS:
            tell((True, {"silent": 0.0}))
            said = time.monotonic()

    try:
        live()
        with listening(live):
            for message in messages(settings):
                if first or message.get("done"):
                    tell((first, message))
    except Exception as error:
        tell((first, {"fault": fault_of(error)._replace(code=False)}))  # it may as well be another worker that failed
        raise
    finally:
        if log is not None:
            log.close()


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
