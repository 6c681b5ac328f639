"""Searches on tables, one after the other on all cores, each written down when it has ended, so that a cut loses one."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import optuna
from threadpoolctl import threadpool_limits

from on_tables.contestants import make
from on_tables.tables import Table
from tune.rehearsal import Cluster, Simulation

BUDGETS = (10, 20, 40)  # whole trainings of a mean random setting
STARTUP, AWAY = 0.25, 5.0  # of an epoch, and epochs


class Task(NamedTuple):
    """One search."""

    table: str
    strategy: str
    workers: int
    losses: float
    """Of each worker, in the time of a whole training."""
    seed: int

    @property
    def place(self) -> tuple[str, int]:
        """What strategies are compared on."""
        return self.table, self.seed


class Course(NamedTuple):
    """How it went; spent is in whole trainings."""

    task: Task
    improvements: list[tuple[float, float]]
    """Spent and regret, whenever the best score rose."""
    ends: float | None
    """Spent when the search ended by itself; None where the budget did."""
    trials: int

    def regret(self, spent: float) -> float:
        """After so much was spent; 0 where it is better than what was known."""
        reached = [regret for moment, regret in self.improvements if moment <= spent]
        return max(reached[-1], 0.0) if reached else 1.0


def run_all(tables: Sequence[Table], tasks: Sequence[Task], book: Path) -> list[Course]:
    """The courses of all tasks; those that the book has are not run again."""
    from rich.progress import track

    known = {course.task: course for course in _whole(book)}
    missing = [task for task in tasks if task not in known]
    processes = min(len(missing), len(os.sched_getaffinity(0)))
    if missing:
        _TABLES.update({table.name: table for table in tables})
        with (
            multiprocessing.get_context("fork").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
            book.open("a") as file,
        ):
            for course in track(pool.imap_unordered(run_one, missing), "searching", total=len(missing), transient=True):
                known[course.task] = course
                file.write(json.dumps(course) + "\n")
                file.flush()
    return [known[task] for task in tasks]


_TABLES: dict[str, Table] = {}  # of the forked processes


@threadpool_limits.wrap(limits=1)
def run_one(task: Task) -> Course:
    """One search, up to the largest budget."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = _TABLES[task.table]
    whole = table.epochs * table.seconds
    searcher, scheduler = make(task.strategy, table, task.workers, task.seed)
    answer = table.answers()
    budget = max(BUDGETS) * whole
    course = Simulation(
        Cluster(
            gpus=task.workers,
            startup_seconds=STARTUP * table.seconds,
            losses_per_hour=3600 * task.losses / whole,
            away_seconds=AWAY * table.seconds,
        ),
        searcher,
        scheduler,
        lambda config: answer(config.get("values", config)),
        epochs=table.epochs,
        trials=None,
        seed=task.seed,
        budget=budget,
    ).run()
    improvements = [(round(moment.gpu_seconds / whole, 4), round(table.regret(moment.dice), 5)) for moment in course.improvements]
    ends = round(course.gpu_seconds / whole, 4) if course.gpu_seconds < budget else None
    return Course(task, improvements, ends, len(course.trials))


def _whole(book: Path) -> Iterator[Course]:
    """What a book holds; a last line that was cut is taken out of it."""
    lines = book.read_text().splitlines(keepends=True) if book.exists() else []
    if lines and not lines[-1].endswith("\n"):
        book.write_text("".join(lines[:-1]))
        del lines[-1]
    for line in lines:
        task, improvements, ends, trials = json.loads(line)
        yield Course(Task(*task), [(spent, regret) for spent, regret in improvements], ends, trials)
