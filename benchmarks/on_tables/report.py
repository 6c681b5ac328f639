"""What courses say: regret by budget, tails, paired differences, the price of ending early; with intervals over tables and seeds.

Intervals are 95 % percentile bootstraps on two levels: the tables of a family are drawn, then the seeds of each. The mean over
families has each family weigh the same.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table as Printed

from on_tables.courses import BUDGETS, Course
from on_tables.tables import Table

FloatArray = npt.NDArray[np.float64]
Figures = dict[str, FloatArray]
"""By family: one figure per (table, seed)."""

BAD = 0.3  # a regret that nobody forgives
_RESAMPLES = 2000


def show(console: Console, courses: Sequence[Course], tables: Sequence[Table], *, first: str = "default") -> None:
    """Print everything, for each kind of cluster that there are courses of."""
    for workers, losses in sorted({(course.task.workers, course.task.losses) for course in courses}):
        own = [course for course in courses if (course.task.workers, course.task.losses) == (workers, losses)]
        lost = f", each lost {losses:g} times in a whole training" if losses else ""
        _regrets(console, own, tables, f"{workers} workers{lost}")
        _differences(console, own, tables, first)
        _early_end(console, own, tables)


def _regrets(console: Console, courses: Sequence[Course], tables: Sequence[Table], title: str) -> None:
    printed = Printed(title=f"{title}: mean regret by whole trainings spent, 0 the best known, 1 a median random setting", box=None)
    for heading in ("strategy", "family", *(f"at {budget}" for budget in BUDGETS), "95 % interval", f"above {BAD:g}", "trials"):
        printed.add_column(heading, justify="left" if heading in ("strategy", "family") else "right")
    for strategy in dict.fromkeys(course.task.strategy for course in courses):
        own = [course for course in courses if course.task.strategy == strategy]
        last = _of_families(own, tables, lambda course: course.regret(BUDGETS[-1]))
        for families in (*([family] for family in last), list(last)):
            if len(families) == 1 or len(last) > 1:
                found = [_of_families(own, tables, lambda course, budget=budget: course.regret(budget)) for budget in BUDGETS]
                means = [f"{_mean({name: figures[name] for name in families}):.3f}" for figures in found]
                interval = "{:.3f} to {:.3f}".format(*_interval({name: last[name] for name in families}))
                bad = f"{100 * _mean({name: 1.0 * (last[name] > BAD) for name in families}):.0f} %"
                trials = _of_families(own, tables, lambda course: float(course.trials))
                count = f"{_mean({name: trials[name] for name in families}):.0f}"
                printed.add_row(strategy, families[0] if len(families) == 1 else "all", *means, interval, bad, count)
    console.print(printed)


def _differences(console: Console, courses: Sequence[Course], tables: Sequence[Table], first: str) -> None:
    """Of the first strategy to the others, table by table and seed by seed."""
    others = [name for name in dict.fromkeys(course.task.strategy for course in courses) if name != first]
    printed = Printed(title=f"{first} less another, regret at {BUDGETS[-1]}, and what it spends for the other's", box=None)
    for heading in ("to", "family", "difference", "95 % interval", "spent"):
        printed.add_column(heading, justify="left" if heading in ("to", "family") else "right")
    for other in others:
        theirs = {course.task.place: course for course in courses if course.task.strategy == other}
        pairs = [course for course in courses if course.task.strategy == first and course.task.place in theirs]
        found = _of_families(
            pairs, tables, lambda c, theirs=theirs: c.regret(BUDGETS[-1]) - theirs[c.task.place].regret(BUDGETS[-1])
        )
        reached = _of_families(list(theirs.values()), tables, lambda c: c.regret(BUDGETS[-1]))
        for family, values in found.items():
            own = [course for course in pairs if _family(course, tables) == family]
            spent = _spent(own, tables, _mean({family: reached[family]}))
            share = "never" if spent is None else f"{100 * spent / BUDGETS[-1]:.0f} %"
            interval = "{:+.3f} to {:+.3f}".format(*_interval({family: values}))
            printed.add_row(other, family, f"{_mean({family: values}):+.3f}", interval, share)
    if others:
        console.print(printed)


def _early_end(console: Console, courses: Sequence[Course], tables: Sequence[Table]) -> None:
    """What it costs and saves, search by search; one that had nothing more to find lost no more than a hundredth."""
    without = {course.task.place: course for course in courses if course.task.strategy == "default"}
    pairs = [course for course in courses if course.task.strategy == "ending" and course.task.place in without]

    def lost(course: Course) -> float:
        return course.regret(BUDGETS[-1]) - without[course.task.place].regret(BUDGETS[-1])

    for family, values in _of_families(pairs, tables, lost).items():
        ended = [course for course in pairs if course.ends is not None and _family(course, tables) == family]
        saved = [1 - (course.ends or 0) / BUDGETS[-1] for course in ended if lost(course) <= 0.01]
        console.print(
            f"early end, {family}: in {len(ended)} of {values.size} searches, {np.nanmean(values):.3f} of regret lost on average; "
            f"where nothing more was to be had ({len(saved)}) {100 * np.mean(saved or [0]):.0f} % of the budget saved"
        )


def _spent(courses: Sequence[Course], tables: Sequence[Table], regret: float) -> float | None:
    """Whole trainings after which the mean regret of a family is as low; None: never."""
    for spent in np.arange(0.5, BUDGETS[-1] + 0.5, 0.5):
        if courses and _mean(_of_families(courses, tables, lambda course, spent=spent: course.regret(spent))) <= regret:
            return float(spent)
    return None


def _family(course: Course, tables: Sequence[Table]) -> str:
    return next(table.family for table in tables if table.name == course.task.table)


def _of_families(courses: Sequence[Course], tables: Sequence[Table], figure: Callable[[Course], float]) -> Figures:
    """Arrays (tables, seeds), NaN where a course is missing."""
    found: Figures = {}
    seeds = sorted({course.task.seed for course in courses})
    for family in dict.fromkeys(table.family for table in tables):
        rows = []
        for table in tables:
            own = {course.task.seed: figure(course) for course in courses if course.task.table == table.name}
            if table.family == family and own:
                rows.append([own.get(seed, np.nan) for seed in seeds])
        if rows:
            found[family] = np.array(rows)
    return found


def _mean(figures: Figures) -> float:
    return float(np.mean([np.nanmean(values) for values in figures.values()]))


def _interval(figures: Figures) -> tuple[float, float]:
    random, drawn = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        means = []
        for values in figures.values():
            rows = values[random.integers(len(values), size=len(values))]
            columns = random.integers(values.shape[1], size=values.shape)
            means.append(np.nanmean(np.take_along_axis(rows, columns, axis=1)))
        drawn.append(np.mean(means))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
