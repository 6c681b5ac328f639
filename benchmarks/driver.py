"""How light the driver of a search stays with many trials: what a proposal, an epoch and a trial's end take, and its memory.

    python benchmarks/driver.py --trials 10000
    python benchmarks/driver.py --trials 1000 --sampler tpe --space monuseg

A session takes up so many trials and goes on for a hundred, eight at once. Searcher, queue, study, Optuna's journal, early stopping
and its question whether more trials pay are those of a real search. The trials are made up, of 60 epochs, those of earlier sessions
at random; neither Ray's processes nor the lake take part. All times are the processor's, so that a busy machine does not matter.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import TrialScheduler
from rich import box
from rich.console import Console
from rich.table import Table

from tune.lake.status import DIVERGED, FAILED, FINISHED, INFEASIBLE, MACHINE, STOPPED
from tune.proposing import SAMPLERS, Outcome, Proposal, Queue, Space, Study, TruthfulSearcher, default_sampler, startup_trials
from tune.proposing.space import load
from tune.stopping import make_scheduler, why_enough

EPOCHS, AT_ONCE, LATEST = 60, 8, 100
FIGURES = {"proposal": "proposal", "epoch": "epoch", "end": "trial's end", "enough": "enough?"}


class Course:
    """A session of a made-up search, and what its driver took."""

    def __init__(self, space: Space, sampler: str, journal: Path, earlier: Sequence[Outcome] = ()) -> None:
        started = time.process_time()
        startup = startup_trials(None, AT_ONCE)
        self.study = Study(space, seed=len(earlier), startup=startup, sampler=sampler, journal=journal)
        queue = Queue.start(space, self.study, None, earlier)
        self.scheduler = make_scheduler("asha", epochs=EPOCHS, grace=1, startup=startup)
        self.scheduler.replay(earlier)
        self.resumed = time.process_time() - started
        self.searcher = TruthfulSearcher(queue, self._configure, lambda proposal, why: None, lambda: False)
        self.outcomes: list[Outcome] = []
        self.seconds: dict[str, list[float]] = {name: [] for name in FIGURES}
        self._random = np.random.default_rng(len(earlier))
        self._running: list[Any] = []
        self._proposed: Proposal | None = None

    def go_on(self, trials: int) -> None:
        """Until so many further ones have ended."""
        while len(self.outcomes) < trials:
            while len(self._running) < AT_ONCE:
                name = f"{len(self.outcomes) + len(self._running):05d}"
                config = self._timed("proposal", partial(self.searcher.suggest, name))
                self._running.append(SimpleNamespace(trial_id=name, config=config, proposal=self._proposed))
            self._train(self._running.pop(0))

    def median(self, name: str) -> float:
        """Milliseconds."""
        return 1000 * float(np.median(self.seconds[name]))

    def _configure(self, proposal: Proposal) -> dict[str, Any]:
        self._proposed = proposal
        return {"number": proposal.number, "kind": proposal.kind}

    def _train(self, trial: Any) -> None:
        proposal, luck = trial.proposal, self._random.random()
        best = 0.9 * np.exp(-self._random.gamma(2.0, 0.3))
        curve: list[tuple[int, float]] = []
        status, cause = FINISHED, None
        for epoch in range(1, EPOCHS + 1):
            if luck < 0.05 and epoch == 5:
                status, cause = [(INFEASIBLE, None), (DIVERGED, None), (FAILED, MACHINE)][int(luck * 60)]
                break
            curve.append((epoch, float(best * epoch / (epoch + 8))))
            result = {"curve": curve[-1:], "epoch": epoch}
            decision = self._timed("epoch", partial(self._report, trial, result))
            if decision == TrialScheduler.STOP:
                status = STOPPED
                break
        result = {"curve": curve[-1:], "status": status, "cause": cause}
        self._timed("end", partial(self.searcher.on_trial_complete, trial.trial_id, result))
        self._timed("enough", lambda: why_enough(self.study.sampled, self.study.progress, EPOCHS, 0.001))
        self.outcomes.append(Outcome(proposal, status, curve, {}, cause, datetime.now(UTC)))

    def _report(self, trial: Any, result: dict[str, Any]) -> str:
        decision = self.scheduler.on_trial_result(None, trial, result)
        if decision != TrialScheduler.STOP:
            self.searcher.on_trial_result(trial.trial_id, result)
        return decision

    def _timed(self, name: str, act: Callable[[], Any]) -> Any:
        started = time.process_time()
        found = act()
        self.seconds[name].append(time.process_time() - started)
        return found


def memory() -> float:
    """MiB that this process holds."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--sampler", choices=SAMPLERS, default=default_sampler(1), help=f"default: {default_sampler(1)}")
    parser.add_argument("--space", default="hippocampus", help="a search space (default: hippocampus)")
    given = parser.parse_args()
    found = Table(title=f"{given.sampler}, {given.space}: processor time, medians of {LATEST} trials", box=box.SIMPLE_HEAD)
    for heading in ("trials", *(f"{name}\nms" for name in FIGURES.values()), "memory\nMiB", "resumed\ns"):
        found.add_column(heading, justify="right")
    space, before = load(given.space), memory()
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "experiment" / "tune" / "journal.log"
        course = Course(space, "random", journal)
        course.go_on(given.trials)
        earlier = course.outcomes
        del course
        for trials in sorted({max(given.trials // 10, 1), max(given.trials // 2, 1), given.trials}):
            course = Course(space, given.sampler, journal, earlier[:trials])
            course.go_on(LATEST)
            figures = [f"{course.median(name):.2f}" for name in FIGURES]
            found.add_row(f"{trials:,}", *figures, f"{memory() - before:.0f}", f"{course.resumed:.1f}")
            del course
    Console().print(found)


if __name__ == "__main__":
    main()
