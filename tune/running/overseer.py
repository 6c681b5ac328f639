"""What becomes of trials that do not go on by themselves: they hang, their process dies, a person or a deadline ends them.

All of it happens in Ray Tune's own thread: as its callback, an overseer hears what trials say and how they fail; as the scheduler's
`look`, it acts before trials are started. Whose fault a failure is decides what follows, see `tune/trials/faults.py`.
"""

import math
import os
import queue
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from cdal.errors import InputError
from tune.command import Paused
from tune.lake.status import FAILED, INPUT, INTERRUPTED, MACHINE, SETTING, STOPPED
from tune.running.recorder import Recorder
from tune.stopping import Breaker, Budget
from tune.trials import PULSE_SECONDS, Fault, Message, TrialSettings, request

RESTARTS = 3  # without an epoch in between
_TWICE = 2  # on one machine, and the trial goes elsewhere; with the same error of Python's, and it is the setting's
_BAD_MACHINE = 3  # failures in a row on one machine, of whatever trials
_FLOOR = "CDAL_HANG_SECONDS"
_FLOOR_SECONDS, _USUAL, _FIRST = 60.0, 3.0, 5.0  # least silence that is one too many; times an epoch; times the floor at first
_LOOK_SECONDS = 2.0
DEAF_SECONDS = 12.0  # without even a word that it is silent, which would have come every few seconds


class Verdict(NamedTuple):
    """How a trial ends that has not said so itself."""

    status: str
    reason: str
    cause: str | None = None
    error: str | None = None


@dataclass
class _Watched:
    """A trial, as far as it is watched."""

    faults: list[tuple[Fault, str]] = field(default_factory=list)
    """Since its last epoch, each with the machine's name."""
    fault: Fault | None = None
    """That its process has told of and is about to die from."""
    node: str = ""
    began: float = 0.0
    heard: float = 0.0
    """Both by the monotonic clock."""
    epochs: int = 0
    """In this process."""
    spoke: bool = False
    """Whether this process has said anything yet."""


class Overseer(Callback):
    """Watches the trials of one search."""

    def __init__(self, recorder: Recorder, budget: Budget, say: Callable[[str], None]) -> None:
        """Begin to watch.

        Args:
            recorder: hears of all that trials say and of how they end.
            budget: of the search.
            say: tells the user.

        Raises:
            InputError: CDAL_HANG_SECONDS is no time.
        """
        self._recorder, self._budget, self._say = recorder, budget, say
        self.breaker = Breaker()
        self.wrong_input: str | None = None
        """The user's mistake that a trial has come upon, in a sentence."""
        self._trials: dict[int, _Watched] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._asked: queue.SimpleQueue[tuple[int, Verdict]] = queue.SimpleQueue()
        self._on_machines: Counter[str] = Counter()  # failures since the last epoch there
        self._avoided: set[str] = set()
        self._input_faults: dict[str, set[str]] = {}  # the machines that say so, by sentence
        self._epoch_seconds = sorted(second for record in recorder.snapshot() for second in record.seconds.values())
        self._first_seconds = 0.0  # the longest time from the start of a process to its first epoch
        self._looked = 0.0
        self._floor = _seconds(os.environ.get(_FLOOR, str(_FLOOR_SECONDS)))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore from; nothing here is restored like that

    @property
    def avoided(self) -> list[str]:
        """Machines on which nothing works, as long as there are others."""
        return sorted(self._avoided)

    def check(self) -> None:
        """See whether the work may go on; for the main thread.

        Raises:
            InputError: a trial has come upon the user's mistake.
            Paused: too much fails.
        """
        if self.wrong_input is not None:
            raise InputError(self.wrong_input)
        if self.breaker.tripped is not None:
            raise Paused(self.breaker.tripped)

    def end(self, number: int, verdict: Verdict) -> None:
        """Have a trial end, from whatever thread."""
        self._asked.put((number, verdict))

    def verdict(self, number: int) -> Verdict | None:
        """How a trial ends that has not said so itself; None where it has, or just was stopped."""
        return self._verdicts.get(number)

    # --- Ray Tune's scheduler asks. ---

    def look(self, controller: Any) -> None:
        """Do what is due; called several times a second."""
        self._budget.turn_away(controller)
        while not self._asked.empty():
            number, verdict = self._asked.get()
            self._verdicts[number] = verdict
        if not self._verdicts and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        late = time.monotonic() - self._looked - _LOOK_SECONDS
        self._looked = time.monotonic()
        for watched in self._trials.values():
            watched.heard += max(late, 0.0)  # nobody listened meanwhile
        live = {trial.config["number"]: trial for trial in controller.get_live_trials()}
        self._verdicts = {number: verdict for number, verdict in self._verdicts.items() if number in live}
        for number, trial in live.items():
            if number in self._verdicts:
                controller.stop_trial(trial)
            elif trial.status == Trial.PAUSED:  # to take turns with others of a population
                self._recorder.leaves(number)
            elif trial.status == Trial.RUNNING and number in self._trials:
                self._look_at(controller, trial, self._trials[number])

    def _look_at(self, controller: Any, trial: Any, watched: _Watched) -> None:
        """Whoever does not even say that it is silent is stopped, by force where it should go on."""
        unheard = self._looked - watched.heard
        if unheard > DEAF_SECONDS and (reason := self._budget.why_over()) is not None:
            self._verdicts[trial.config["number"]] = Verdict(STOPPED if watched.epochs else INTERRUPTED, reason)
            controller.stop_trial(trial)
        elif unheard + _LOOK_SECONDS > self.patience(watched) and watched.fault is None:
            watched.fault = Fault(MACHINE, "it hung: its process said nothing any more", f"nothing for {unheard:.0f} s")
            ray.kill(trial.temporary_state.ray_actor)

    def patience(self, watched: _Watched | None = None) -> float:
        """Seconds for which a trial may give no sign of life; without one, a trial that is scored."""
        if not self._epoch_seconds or (watched and not watched.spoke):  # one with several workers has much to start
            return _FIRST * self._floor
        usual = _USUAL * self._epoch_seconds[len(self._epoch_seconds) // 2]
        return max(self._floor, usual if watched and watched.epochs else max(usual, _USUAL * self._first_seconds))

    # --- Ray Tune's callbacks. ---

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process began or went on with a trial."""
        now = time.monotonic()
        watched = self._trials.setdefault(trial.config["number"], _Watched())
        watched.began = watched.heard = now
        watched.fault, watched.epochs, watched.spoke = None, 0, False
        self._recorder.start(trial.config["number"])
        if trial.placement_group_factory.required_resources.get("CPU"):  # else its workers may have to wait
            self._recorder.holds(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A message came; Tune shall not keep its rows and pictures."""
        message: Message = result.pop("payload")
        number = trial.config["number"]
        watched = self._trials[number]
        watched.heard, watched.node, watched.spoke = time.monotonic(), message.get("node", ""), True
        if "waits" in message:
            watched.began = watched.heard
            return
        self._recorder.holds(number)
        if "silent" in message:
            if message["silent"] + PULSE_SECONDS > self.patience(watched):  # by the next word it would be
                trial.temporary_state.ray_actor.hangs.remote()
            return
        if "fault" in message:
            watched.fault = Fault(**message["fault"])
            return
        if "scoring_seconds" in message.get("trial", ()):
            self._budget.saw_scoring(message["trial"]["scoring_seconds"])
        self._went_well(watched, message)
        self._recorder.take(number, message)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended: by its own last message, because it was stopped, or because there was no time for it to begin."""
        number = trial.config["number"]
        watched, verdict = self._trials.pop(number, _Watched()), self._verdicts.pop(number, None)
        if verdict is None and watched.fault is not None:  # stopped just before its process dies
            verdict = Verdict(INTERRUPTED, watched.fault.sentence, watched.fault.cause, watched.fault.details)
        if verdict is None:
            reason = self._budget.stopped.get(trial.trial_id, "behind the others at the same epoch")
            verdict = Verdict(STOPPED if self._recorder.has_epochs(number) else INTERRUPTED, reason)
        self._recorder.end(number, verdict.status, verdict.reason, verdict.error, verdict.cause)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process ended, and Tune starts the trial again, unless it is given up."""
        number = trial.config["number"]
        self._budget.lost(trial.trial_id)
        watched = self._trials[number]
        fault = watched.fault or self._killed(watched)
        watched.fault = None
        self._recorder.restarted(number, fault.sentence, fault.details)
        if not fault.counts:
            return
        watched.faults.append((fault, watched.node))
        self.breaker.failed(fault.sentence)
        self._on_machines[watched.node] += 1
        alike = sum(other.sentence == fault.sentence for other, _ in watched.faults)
        if fault.cause == INPUT and self._is_the_users(trial, fault, watched.node, alike):
            self.wrong_input = fault.sentence
        elif fault.code and alike >= _TWICE:
            self._verdicts[number] = Verdict(FAILED, f"{alike} times alike: {fault.sentence}", SETTING, fault.details)
        elif len(watched.faults) > RESTARTS and fault.cause != INPUT:
            reason = f"given up after {len(watched.faults)} attempts without an epoch: {fault.sentence}"
            self._verdicts[number] = Verdict(FAILED, reason, fault.cause, fault.details)
        else:
            self._send_elsewhere(trial, watched)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune gave a trial up that had no process yet."""
        lines = str(trial.get_error() or "its process did not start").splitlines()
        self._recorder.end(
            trial.config["number"], FAILED, f"its process did not start: {lines[-1][:300]}", "\n".join(lines), MACHINE
        )

    # --- What follows. ---

    def _went_well(self, watched: _Watched, message: Message) -> None:
        if message.get("done"):
            self.breaker.went_well(ended=True)
        if not message.get("epochs"):
            return
        self.breaker.went_well(ended=False)
        watched.faults.clear()
        self._on_machines.pop(watched.node, None)
        newest = message["epochs"][-1]
        insort(self._epoch_seconds, float((newest.get("train_seconds") or 0) + (newest.get("validation_seconds") or 0)))
        if watched.epochs == 0:
            self._first_seconds = max(self._first_seconds, watched.heard - watched.began)
        watched.epochs += 1

    def _killed(self, watched: _Watched) -> Fault:
        """Of a process that ended without a word."""
        machines = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        if watched.node and watched.node not in machines:
            return Fault(MACHINE, "its machine was lost", counts=False)
        return Fault(MACHINE, "its process was killed")

    def _is_the_users(self, trial: Any, fault: Fault, node: str, alike: int) -> bool:
        """Whether input is wrong, and not only on one machine: another one has said so too, or there is none."""
        settings = TrialSettings.from_json(trial.config["settings"])
        agreeing = self._input_faults.setdefault(fault.sentence, set())
        agreeing.add(node)
        nowhere_else = settings.workers > 1 or not self._others(settings, {node})
        return len(agreeing) > 1 or (alike >= _TWICE and nowhere_else)

    def _send_elsewhere(self, trial: Any, watched: _Watched) -> None:
        """Where a machine has failed a trial twice, or everybody lately, or lacks the data, it goes to another, if there is one."""
        settings = TrialSettings.from_json(trial.config["settings"])
        if settings.workers > 1 or not watched.node:
            return
        if self._on_machines[watched.node] >= _BAD_MACHINE and self._others(settings, self._avoided | {watched.node}):
            self._avoided.add(watched.node)
            self._say(f"nothing works any more on the machine {watched.node[:8]}: no further trial is sent there")
        nodes = Counter(node for _, node in watched.faults)
        own = {node for node, count in nodes.items() if count >= _TWICE} | self._avoided
        own |= {node for fault, node in watched.faults if fault.cause == INPUT}
        if own and self._others(settings, own):
            trial.update_resources(request(settings, sorted(own)))

    def _others(self, settings: TrialSettings, but: set[str]) -> set[str]:
        """The machines that are alive and large enough for a trial, some left out."""
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        kind, needed = ("GPU", settings.gpus) if settings.gpus else ("CPU", settings.cpus)
        return {node["NodeID"] for node in alive if node["Resources"].get(kind, 0) >= needed} - but


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"{_FLOOR} is {text!r}; it is the seconds for which a trial may be silent, such as 60")
    return seconds
