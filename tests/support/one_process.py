"""Ray Tune without Ray: its own controller, schedulers and checkpoints, over trials that live in this process.

with one_process(cpus=2):
    search.main(["--trials", "3", ...])

A search then takes as long as its trials train: no service is started, and nothing is imported anew. Trials take turns, one message
each, so that what a search finds depends on its seed alone. What Ray does (processes, crashes, machines) is tested with Ray.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.tune.execution.tune_controller as controller
from ray.air.execution import FixedResourceManager
from ray.exceptions import RayTaskError

from tune.running import machines
from tune.stopping import budget
from tune.trials import alongside

_order = itertools.count()


class Call:
    """A method that an actor was asked for, in the place of a reference to its result."""

    def __init__(self, actor: Actor | None, work: Callable[[], Any]) -> None:
        self.number, self._actor, self._work = next(_order), actor, work
        self._result: Any = None
        self._error: BaseException | None = None
        self.done = False
        if actor is not None:
            actor.calls.append(self)

    def run(self) -> None:
        """Do it, after all that the actor was asked for before."""
        if self.done:
            return
        self.done = True
        if self._actor is not None:
            for earlier in self._actor.calls[: self._actor.calls.index(self)]:
                earlier.run()
            self._actor.calls.remove(self)
        try:
            self._result = self._work()
        except Exception as error:
            self._error = RayTaskError("", traceback.format_exc(), error).as_instanceof_cause()
        except BaseException as error:
            self._error = error

    def get(self) -> Any:
        """The result, or the error."""
        self.run()
        if self._error is not None:
            raise self._error
        return self._result


class Method:
    """What `actor.method` is."""

    def __init__(self, actor: Actor, work: Callable[..., Any]) -> None:
        self._actor, self._work = actor, work

    def remote(self, *arguments: Any, **keywords: Any) -> Call:
        """Ask for it."""
        return Call(self._actor, lambda: self._work(*arguments, **keywords))


class Actor:
    """An object of this process that is spoken to as if it were elsewhere."""

    def __init__(self, make: Callable[[], Any], clock: Clock) -> None:
        self.calls: list[Call] = []
        self._made: Any = None
        self._make, self._clock = make, clock

    def _ready(self) -> bool:
        self._made = self._make()
        return True

    def __getattr__(self, name: str) -> Method:
        if name in ("__ray_ready__", "__ray_terminate__"):
            return Method(self, self._ready if name == "__ray_ready__" else lambda: None)

        def work(*arguments: Any, **keywords: Any) -> Any:
            if self._made is None:
                self._ready()
            result = getattr(self._made, name)(*arguments, **keywords)
            return self._clock.passed(result) if name == "train" else result

        return Method(self, work)


class Remote:
    """A class or a function after `ray.remote`."""

    def __init__(self, what: Any, clock: Clock) -> None:
        self._what, self._clock = what, clock

    def options(self, **_: Any) -> Remote:
        """The same: there is one place to run."""
        return self

    def remote(self, *arguments: Any, **keywords: Any) -> Actor | Call:
        """An actor, or a call."""
        make = lambda: self._what(*arguments, **keywords)  # noqa: E731
        return Actor(make, self._clock) if isinstance(self._what, type) else Call(None, make)


class Clock:
    """What budgets look at; stands still but for the steps of trials where these are given a length."""

    def __init__(self, step_seconds: float | None) -> None:
        self.now, self.stopped, self._step = 0.0, False, step_seconds

    def passed(self, result: dict[str, Any]) -> dict[str, Any]:
        """A trial has made a step."""
        if self._step is not None:
            self.now += self._step
            result["time_this_iter_s"] = self._step
        return result


@contextlib.contextmanager
def one_process(cpus: int = 2, step_seconds: float | None = None) -> Iterator[Clock]:
    """Inside, Ray is this process.

    Args:
        cpus: of the machine: so many trials of one CPU take turns.
        step_seconds: how long every step of a trial takes by the clock that budgets look at; None: as long as it takes.
    """
    clock = Clock(step_seconds)

    def remote(*what: Any, **options: Any) -> Any:
        if not what:
            return remote
        return what[0] if isinstance(what[0], Remote) else Remote(what[0], clock)

    def wait(calls: Sequence[Call], *, num_returns: int = 1, timeout: float | None = None) -> tuple[list[Call], list[Call]]:
        if clock.stopped:
            raise SystemExit
        first = sorted(calls, key=lambda call: call.number)[:num_returns]
        for call in first:
            call.run()
        return first, [call for call in calls if call not in first]

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for name, value in machines.QUIET.items() | {("RAY_CHDIR_TO_TRIAL_DIR", "0")}:
            patch.setenv(name, value)
        for name, double in {
            "remote": remote,
            "get": lambda calls, timeout=None: [call.get() for call in calls] if isinstance(calls, list) else calls.get(),
            "wait": wait,
            "kill": lambda actor: None,
            "is_initialized": lambda: True,
            "util.get_current_placement_group": lambda: None,
            "train._internal.storage._get_ray_train_session_dir": lambda: folder,
            "nodes": lambda: [{"NodeID": "", "Alive": True, "Resources": {"CPU": float(cpus)}}],
            "cluster_resources": lambda: {"CPU": float(cpus)},
        }.items():
            patch.setattr(f"ray.{name}", double)
        patch.setattr(controller, "PlacementGroupResourceManager", lambda: FixedResourceManager({"CPU": cpus, "GPU": 0}))
        patch.setattr(alongside, "PULSE_SECONDS", 600.0)  # a trial's turn ends with a message
        patch.setattr("dashboards.leaderboard.build", lambda root: Path(root) / "leaderboard" / "index.html")  # tested elsewhere
        if step_seconds is not None:
            patch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock.now))
        try:
            yield clock
        finally:
            clock.stopped = True
            for thread in threading.enumerate():
                if thread.name == "ray-tune":  # left running, as a process that is about to end does
                    thread.join()


if __name__ == "__main__":  # a search in a process of its own, to be killed
    from tune import search

    with one_process():
        sys.exit(search.main())
