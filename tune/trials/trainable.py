"""A trial as Ray Tune sees it.

A trial of one worker trains in this very process, which Ray Tune reuses for the next trial; one of several workers is trained by
those, and this process passes on what they say.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray._private.state import state
from ray._private.worker import WORKER_MODE, global_worker

from cdal.training import BEST, LAST
from tune.lake.status import FINISHED, MACHINE, STOPPED
from tune.trials.alongside import Alongside
from tune.trials.faults import Fault, MachineError, fault_of
from tune.trials.log import TrialLog
from tune.trials.settings import Message, TrialSettings
from tune.trials.training import adopt, messages
from tune.trials.workers import distributed

STACKS_SECONDS = 60.0  # for a message, which is never that long in coming while Python runs
_DRIVER_BYTES = 2**20  # a process that only waits for workers takes no CPU, but Tune wants it to take something
_NODE_LABEL = "ray.io/node-id"
_DRIVER_HOME = "driver"  # the resource of machines that outlive the search: no spot machine shall take all workers of a trial along


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
        return request(settings, settings.avoid)

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the trial at hand, if there is one, and begin another."""
        self.cleanup()
        if getattr(self, "_fault", None) is not None:  # stopped just before it could die
            os._exit(1)
        settings = self._settings = TrialSettings.from_json(new_config["settings"])
        self._log = TrialLog(settings.folder, whole_process=settings.workers == 1 and _is_worker())
        self._source = Alongside(messages(settings)) if settings.workers == 1 else distributed(settings)
        self._fault: Fault | None = None
        self._hangs, self._epoch = False, 0
        return True

    def step(self) -> dict[str, Any]:
        """The next message, as a result for Tune: what schedulers read on top, all else under `payload`."""
        if self._fault is not None:
            raise MachineError(self._fault.sentence)
        message = self._next_message()
        message.setdefault("curve", [])
        shown = ("curve", "losses", "done", "status", "cause", "waits")
        result: dict[str, Any] = {key: message[key] for key in shown if key in message}
        result |= message.get("costs", {})
        if message["curve"]:
            self._epoch, result["best_dice"] = message["curve"][-1]
            result["dice"] = message["epochs"][-1]["dice"]
        if self._settings.parent is not None:  # what it reaches now is no merit of the settings that it was proposed with
            result |= {"curve": []} | ({"status": STOPPED} if message.get("status") == FINISHED else {})
        return result | {"epoch": self._epoch, "payload": message | {"node": _node()}}

    def hangs(self) -> None:
        """Whoever waits for it has lost patience: the next message is its end."""
        self._hangs = True

    def cleanup(self) -> None:
        """Tune stops the trial between two messages."""
        source = getattr(self, "_source", None)
        if source is None:
            return
        if self._hangs or source.close() is False:
            self._log.say("the process ends, as its trial does not")
            self._log.close()
            os._exit(1)
        self._log.close()

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """A copy for those that may take the trial over; otherwise nothing: the training keeps its own checkpoints."""
        if self._settings.population:
            own = self._settings.files().path
            for name in (BEST, LAST):
                if (own / name).is_file():
                    shutil.copy(own / name, checkpoint_dir)
        return checkpoint_dir

    def restore(self, checkpoint_path: Any) -> None:
        """What Ray's own does, which would unpickle a file of the lake if somebody put one there, with leave to run any code."""
        with checkpoint_path.checkpoint.as_directory() as folder:
            self.load_checkpoint(folder)
        self._restored = True

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Become a copy of another trial, where the scheduler has just decided so."""
        if checkpoint is not None and self._settings.parent is not None:
            adopt(Path(checkpoint), self._settings)

    def _next_message(self) -> Message:
        try:
            with self._log.stacks_after(STACKS_SECONDS):
                heard = next(self._source)
        except Exception as error:
            return self._give_up(fault_of(error))
        if not isinstance(heard, float):
            self._hangs = False  # it was only slow
            self._log.keep()
            return self._give_up(heard["fault"]) if "fault" in heard else heard
        if self._hangs:
            self._log.say_stacks()
            return self._give_up(Fault(MACHINE, "it hung: it gave no sign of life any more", f"none for {heard:.0f} s"))
        if _leaves():
            return self._give_up(Fault(MACHINE, "its machine is about to be taken away", counts=False))
        return {"silent": heard}

    def _give_up(self, fault: Fault) -> Message:
        """Tell of a fault; with the next message that is asked for, the process ends."""
        self._fault = fault
        self._log.say(fault.details or fault.sentence)
        if not self._hangs:
            self._source.close()
        self._log.keep()
        return {"fault": fault._asdict()}


def request(settings: TrialSettings, avoid: Sequence[str]) -> ray.tune.PlacementGroupFactory:
    """What a trial of one worker takes, on any machine but some."""
    needs = {"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {})
    if not avoid:
        return ray.tune.PlacementGroupFactory([needs])
    elsewhere = {_NODE_LABEL: f"!in({','.join(sorted(avoid))})"}
    return ray.tune.PlacementGroupFactory([needs], bundle_label_selector=[elsewhere])


def _is_worker() -> bool:
    """Whether Ray has started this process."""
    return bool(global_worker.mode == WORKER_MODE)


def _node() -> str:
    """Ray's name of this machine."""
    return str(ray.get_runtime_context().get_node_id()) if _is_worker() else ""


def _leaves() -> bool:
    """Whether this machine has been told to end."""
    return _is_worker() and _node() in state.get_draining_nodes()
