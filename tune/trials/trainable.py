"""A trial as Ray Tune sees it.

A trial of one worker trains in this very process, which Ray Tune reuses for the next trial; one of several workers is trained by
those, and this process passes on what they say.
"""

import shutil
from pathlib import Path
from typing import Any

import ray
import ray.tune

from cdal.training import BEST, LAST
from tune.lake.status import FINISHED, STOPPED
from tune.trials.settings import TrialSettings
from tune.trials.training import adopt, messages
from tune.trials.workers import distributed

_DRIVER_BYTES = 2**20  # a process that only waits for workers takes no CPU, but Tune wants it to take something
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
        gpus = {"GPU": settings.gpus} if settings.gpus else {}
        return ray.tune.PlacementGroupFactory([{"CPU": settings.cpus} | gpus])

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the trial at hand, if there is one, and begin another."""
        self.cleanup()
        self._settings = TrialSettings.from_json(new_config["settings"])
        self._source = messages(self._settings) if self._settings.workers == 1 else distributed(self._settings)
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
