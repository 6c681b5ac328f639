"""Ray Tune at work: in a thread, while the main thread shows progress and listens for requests to end."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
import ray.exceptions
import ray.tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cdal.config import Config
from tune.command import Interrupted
from tune.lake import ray_storage
from tune.lake.status import trial_id
from tune.running.machines import Node, Resources, connect
from tune.running.options import absolute
from tune.running.overseer import DEAF_SECONDS, Overseer
from tune.running.plan import Plan
from tune.trials import CdalTrial, Message, TrialSettings, mps_folder, stop_mps

TICK_SECONDS = 0.25
_STOP_SECONDS = 30.0  # for all machines together
_MACHINE_SECONDS = 1800.0  # until one is free


class RequestsToEnd:
    """Ctrl-C and SIGTERM, which end the work in good order."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def check(self) -> None:
        """Raise Interrupted where somebody asked for the end."""
        if self._asked.is_set():
            raise Interrupted

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Inside, signals are requests."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def connect(self, address: str | None, machine: Node | None) -> None:
        """Start Ray, or join a cluster, and go on listening: Ray sets handlers of its own when it starts."""
        connect(address, this=machine)
        self._listen()

    def _listen(self) -> None:
        def ask_for_end(number: int, frame: FrameType | None) -> None:
            self._asked.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask_for_end)


def trial_settings(plan: Plan, number: int, kind: str, config: Config, folder: str, **own: Any) -> TrialSettings:
    """What a trial's workers are told: what all trials of a plan share, and `own`, fields of TrialSettings that they do not."""
    shared: dict[str, Any] = {
        "dataset": plan.space.dataset,
        "options": dict(plan.space.options),
        "data": plan.data,
        "fold": plan.options.fold,
        "workers": plan.resources.workers,
        "cpus": plan.resources.cpus,
        "gpus": plan.resources.gpus,
    }
    return TrialSettings(number=number, kind=kind, config=config.to_dict(), folder=absolute(folder), **shared | own)


def make_tuner(
    searcher: Searcher,
    resources: Resources,
    place: str,
    overseer: Overseer,
    scheduler: TrialScheduler,
    *,
    at_once: int | None = None,
    stop: ray.tune.Stopper | None = None,
) -> ray.tune.Tuner:
    """Ray Tune, ready to run trials until the searcher says that there are enough.

    Args:
        searcher: gives configurations with `number`, `kind` and `settings`.
        resources: of a trial.
        place: folder of the lake for Ray Tune's own state.
        overseer: hears of everything.
        scheduler: stops trials early, and calls the overseer.
        at_once: trials; None for as many as fit.
        stop: a budget.
    """
    return ray.tune.Tuner(
        CdalTrial,
        tune_config=ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when there are enough
            max_concurrent_trials=at_once or resources.at_once,
            reuse_actors=resources.workers == 1,
            trial_name_creator=lambda trial: f"trial_{trial_id(trial.config['number'])}",
            trial_dirname_creator=lambda trial: trial_id(trial.config["number"]),
        ),
        run_config=ray.tune.RunConfig(
            name="ray",
            **ray_storage(place),
            callbacks=[overseer, _Silent()],
            stop=stop,
            failure_config=ray.tune.FailureConfig(max_failures=-1),  # the overseer gives trials up
            verbose=0,
        ),
    )


class _Silent(TrialProgressCallback):
    """Stands where Ray Tune would put one that prints results of its own accord."""

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        """Nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Nothing."""


def run_tuner(tuner: ray.tune.Tuner, watch: Callable[[], None]) -> None:
    """Let Ray Tune run in a thread until it is done; `watch` is called now and then, and once more at the end.

    Raises:
        Exception: what ended Ray Tune, or what `watch` raised, upon which Ray Tune is left running.
    """
    problems: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:  # handed over to the caller's thread
            problems.append(error)

    thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
    thread.start()
    while thread.is_alive():
        watch()
        thread.join(TICK_SECONDS)
    watch()
    if problems:
        raise problems[0]


def run_alone(settings: TrialSettings, watch: Callable[[], None], patience: float) -> tuple[Message | None, str | None]:
    """Run a trial without Ray Tune, to its last message; returns that, or else what went wrong, in a sentence.

    Args:
        settings: of a trial of one worker.
        watch: called now and then; it may raise.
        patience: seconds for which there may be no sign of life, once the trial has a machine.
    """
    needs = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    actor: Any = ray.remote(CdalTrial).options(**needs).remote(config={"settings": settings.to_json()})
    heard, began = time.monotonic(), False
    try:
        while True:
            reference = actor.train.remote()
            while not ray.wait([reference], timeout=TICK_SECONDS)[0]:
                watch()
                if time.monotonic() - heard > (patience + DEAF_SECONDS if began else _MACHINE_SECONDS):
                    return None, "its process says nothing" if began else "no machine was free for it"
            heard, began = time.monotonic(), True
            message: Message = ray.get(reference)["payload"]
            if message.get("silent", 0.0) > patience:
                actor.hangs.remote()
            elif "fault" in message:
                return None, str(message["fault"]["sentence"])
            elif message.get("done"):
                return (message, None) if "trial" in message else (None, str(message["reason"]))
    except ray.exceptions.RayError as error:
        return None, " ".join(str(error).split())[:300]
    finally:
        ray.kill(actor)


def stop_sharing(resources: Resources, place: str, machine: Node | None) -> None:
    """End what trials have started on their machines to share GPUs.

    Args:
        resources: of a trial.
        place: folder of the lake for trials.
        machine: None on a cluster.
    """
    if not 0 < resources.gpus < 1:
        return
    if machine is not None:
        _stop_here(absolute(place))
    elif ray.is_initialized():
        with contextlib.suppress(Exception):  # what ended the search may have been the cluster
            nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]  # type: ignore[no-untyped-call]
            task = ray.remote(num_cpus=0)(_stop_here)
            there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
            stopped = [task.options(scheduling_strategy=node).remote(absolute(place)) for node in there]
            ray.wait(stopped, num_returns=len(stopped), timeout=_STOP_SECONDS)


def _stop_here(place: str) -> None:
    stop_mps(mps_folder(place))  # its name differs from machine to machine, with their users and temporary folders
