"""The panels that every dashboard shows, in their order: what each is called, draws and says.

for panel in PANELS:                       # of a dataset's or an experiment's board
    drawn = panel.draw(board)              # figure, caption, table; None where there is nothing to draw yet
    print(panel.title, drawn.caption if drawn else panel.empty)

All texts are plain; whoever shows them as HTML escapes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pandas as pd
import plotly.graph_objects as go

from dashboards import figures, summaries
from dashboards.importance import MAX_TRIALS as MAX_FOREST
from dashboards.importance import MIN_TRIALS
from dashboards.summaries import Board, Trial

GROUPS = _SEARCH, _SETTINGS, _CASES, _TIME = ("The search", "The settings", "The cases", "Time and cost")
_MAX_LISTED = 100
_Subject = TypeVar("_Subject", Board, Trial)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A panel with its data."""

    figure: go.Figure
    caption: str
    """What it shows, how to read it, and what was left out."""
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same in words and figures, ready to be shown; without rows where the ranking says it already."""
    table_title: str = ""


@dataclass(frozen=True, eq=False)
class Panel(Generic[_Subject]):
    """One chart of a board, or of a trial."""

    name: str
    """Short, for addresses."""
    title: str
    empty: str
    """What is said where there is nothing to draw: why, and what to do."""
    draw: Callable[[_Subject], Drawn | None]
    group: str = ""
    """Heading under which it stands."""
    wide: bool = False
    """Whether it scrolls sideways on a narrow screen rather than shrink."""

    def figure(self, subject: _Subject) -> go.Figure | None:
        """The chart alone, for a notebook."""
        drawn = self.draw(subject)
        return None if drawn is None else drawn.figure


# -------------------------------------------------------------------------------------------------------------- how the search went


def _history(board: Board) -> Drawn | None:
    scored = int(board.trials["score"].notna().sum())
    if not scored:
        return None
    missing = len(board.trials) - scored
    caption = (
        "Each mark is one trial, placed by the order of its start; the green line is the best validation Dice so far. "
        "While the line still climbs, more trials are likely to pay off."
    )
    if missing:
        caption += f" {missing} of {len(board.trials)} trials ended or run without a Dice and have no mark."
    points = summaries.sample(board.trials, figures.MAX_MARKS)
    if len(points) < len(board.trials):
        caption += f" {len(board.trials) - len(points)} of the lower-ranked half are left out at random."
    steps = summaries.improvements(board.trials)
    table = pd.DataFrame(
        {"Order": steps["position"], "Trial": steps["label"], "Validation Dice": steps["score"].map("{:.4f}".format)}
    ).tail(_MAX_LISTED)
    title = f"The last {len(table)} trials" if len(table) < len(steps) else "The trials"
    return Drawn(figures.optimisation_history(board.trials), caption, table, f"{title} that improved on all before")


def _curves(board: Board) -> Drawn | None:
    points, left_out = summaries.curves(board.trials, board.metrics)
    if points.empty:
        return None
    drawn = points["place"].nunique()
    coloured = min(drawn, summaries.HIGHLIGHTED_CURVES)
    caption = (
        f"Validation Dice after each epoch: {'the best trial' if coloured == 1 else f'the best {coloured} trials'} in colour"
        + (f", {drawn - coloured} more in grey" if drawn > coloured else "")
        + ". A short curve belongs to a trial that was stopped early or is still running."
    )
    if board.rungs:
        epochs = ", ".join(map(str, board.rungs))
        caption += (
            f" Dotted lines are the rungs of successive halving (epochs {epochs}): only the best third of the trials that reach "
            "one goes on, besides the published settings and those that `hedged` spares."
        )
    if left_out:
        caption += f" {left_out} lower-ranked trials are left out."
    best = points[points["place"] < summaries.HIGHLIGHTED_CURVES].groupby("place", sort=True)
    table = pd.DataFrame(
        [
            {
                "Trial": own["label"].iloc[0],
                "Epochs": int(own["epoch"].max()),
                "Best Dice": f"{own['dice'].max():.4f}",
                "at epoch": int(own["epoch"].iloc[own["dice"].to_numpy().argmax()]),
                "Last Dice": f"{own['dice'].iloc[-1]:.4f}",
            }
            for _, own in best
        ]
    )
    return Drawn(
        figures.learning_curves(board.trials, board.metrics, board.rungs), caption, table, "The coloured curves in figures"
    )


def _tradeoffs(board: Board) -> Drawn | None:
    if board.tradeoffs.empty:
        return None
    front = board.tradeoffs[board.tradeoffs["on_front"]].sort_values("seconds")
    caption = (
        "Each grey line is one trial, from one vote on the left to all its votes on the right. Up and to the left is better; the "
        "green line joins the points that no other beats in both, so the choice is among these. Seconds are for one case by the "
        "full protocol, on the machine that ran the trial."
    )
    table = pd.DataFrame(
        {
            "Trial": front["label"],
            "Votes": front["votes"],
            "Dice": front["dice"].map("{:.4f}".format),
            "Seconds per case": front["seconds"].map("{:.3g}".format),
        }
    )
    title = f"The {len(table)} point{'s' * (len(table) > 1)} that none beats"
    return Drawn(figures.dice_and_seconds(board.tradeoffs), caption, table, title)


# --------------------------------------------------------------------------------------------------------- what the settings matter


def _importances(board: Board) -> Drawn | None:
    found = board.importances
    if found.empty:
        return None
    first = figures.parameter_name(str(found["column"].iloc[0]))
    caption = (
        f"How much of the differences in Dice each parameter explains by itself (fANOVA); {first} matters most. A long bar is "
        "worth a finer search, a short one may be fixed. Stopped trials count with the Dice they had reached, the plain U-Net "
        "not at all. An importance is an estimate, rough below some 50 trials, and says nothing about which values are good: see "
        "the slices."
    )
    scored = int(board.trials["score"].notna().sum())
    if scored > MAX_FOREST:
        caption += f" Computed on {MAX_FOREST} of {scored} trials, evenly from the best to the worst."
    names = found["column"].map(figures.parameter_name)
    table = pd.DataFrame({"Parameter": names, "Share": (100 * found["importance"]).map("{:.1f} %".format)})
    return Drawn(figures.importances(found), caption, table, "The shares in figures")


def _slices(board: Board) -> Drawn | None:
    columns = summaries.varying(board.trials, board.searched)
    scored = int(board.trials["score"].notna().sum())
    if scored < 2 or not columns:
        return None
    caption = (
        "Dice against one parameter at a time: look for where the best trials gather. If they crowd at an end of an axis, widen "
        f"the range there. Scales are logarithmic where values span powers of ten; “{figures.DASH}” are trials that do not use "
        "the parameter."
    )
    drawn = min(scored, summaries.MAX_SLICE_POINTS // len(columns))
    if drawn < scored:
        caption += f" {scored - drawn} of the lower-ranked half are left out at random."
    return Drawn(figures.slices(board.trials, board.searched), caption)


def _contour(board: Board) -> Drawn | None:
    if len(board.importances) < 2:
        return None
    first, second = (str(column) for column in board.importances["column"].iloc[:2])
    both = board.trials[board.trials["score"].notna()].dropna(subset=[first, second])
    if len(both) < MIN_TRIALS or any(both[column].map(str).nunique() < 2 for column in (first, second)):
        return None
    caption = (
        f"The two parameters that matter most, {figures.parameter_name(first)} and {figures.parameter_name(second)}: dots are "
        "trials, the shading a smooth estimate of the Dice between them, blank where no trial is near. A ridge that runs aslant "
        "says that the two must be chosen together."
    )
    return Drawn(figures.contour(board.trials, first, second), caption)


def _parallel(board: Board) -> Drawn | None:
    rows, columns, left_out = summaries.parallel(board.trials, board.searched)
    if len(rows) < 2 or not columns:
        return None
    fixed = [figures.parameter_name(column) for column in board.searched if column not in columns]
    caption = (
        "Each line is one trial: it crosses every axis at the trial's value and ends at its Dice, which also gives its colour. "
        f"Drag along an axis to keep only the lines that pass there; drag an axis title to reorder. “{figures.DASH}” at the "
        "bottom of an axis: not used by the trial."
    )
    if fixed:
        caption += f" The same in all trials, so not drawn: {', '.join(fixed)}."
    if left_out:
        caption += (
            f" {left_out} trials of the lower-ranked half are left out at random, beyond {summaries.MAX_PARALLEL_ROWS} lines."
        )
    return Drawn(figures.parallel_coordinates(board.trials, board.searched), caption)


# -------------------------------------------------------------------------------------------------------------- cases, time, cost


def _cases(board: Board) -> Drawn | None:
    if board.cases.empty:
        return None
    count, cases = board.cases["place"].nunique(), board.cases["case"].nunique()
    caption = (
        f"Dice of each of the {cases} validation cases at full votes, for the best {count} trials that were scored on them: the "
        "box holds the middle half, the line in it is the median, the dashed line the mean. Long tails downward are cases that "
        "the model misses."
    )
    rows = []
    for _, own in board.cases.groupby("place", sort=True):
        low = own["case"].iloc[own["dice"].to_numpy().argmin()]
        figures_of = {"Mean": own["dice"].mean(), "Median": own["dice"].median(), "Lowest": own["dice"].min()}
        words = {name: f"{value:.4f}" for name, value in figures_of.items()}
        rows.append({"Trial": own["label"].iloc[0], **words, "Lowest case": low})
    return Drawn(figures.case_boxes(board.cases), caption, pd.DataFrame(rows), "The boxes in figures")


def _pairs(board: Board) -> Drawn | None:
    found = summaries.pairs(board.cases)
    if found.empty:
        return None
    names = dict(zip(board.cases["place"], board.cases["label"], strict=True))
    caption = (
        "Each dot is one validation case; above the dotted line the second trial is better on it, below the first. The interval "
        "is a bootstrap over cases, p is Wilcoxon's signed-rank test, for this one comparison: choose the pair before you look, "
        "or take the p of the ranking, which is corrected for looking at all."
    )
    table = pd.DataFrame(
        {
            "First": found["first"].map(names),
            "Second": found["second"].map(names),
            "Mean difference": found["difference"].map("{:+.4f}".format),
            "95 % interval": [
                f"{low:+.4f} to {high:+.4f}" if low == low else figures.DASH
                for low, high in zip(found["low"], found["high"], strict=True)
            ],
            "p": found["p"].map(lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}"),
        }
    )
    first, second = int(found["first"].iloc[0]), int(found["second"].iloc[0])
    return Drawn(figures.paired_cases(board.cases, first, second), caption, table, f"All {len(table)} pairs in figures")


def _timeline(board: Board) -> Drawn | None:
    bars, left_out = summaries.timeline(board.trials)
    if bars.empty:
        return None
    busy, span = float((bars["finish"] - bars["begin"]).sum()), float(bars["finish"].max() - bars["begin"].min())
    lanes = bars["lane"].nunique()
    caption = "Who ran where and when: a lane per worker, a bar per trial. Gaps are idle time"
    caption += f"; the workers were busy {min(100 * busy / (span * lanes), 100):.0f} % of the time." if span > 0 else "."
    if (bars["restarts"].fillna(0) > 0).any():
        caption += " A triangle marks a trial whose worker died and that went on in another."
    waiting = int(board.trials["started_at"].isna().sum())
    if waiting:
        caption += f" {waiting} trials have not started, or their start was not recorded."
    if left_out:
        caption += f" The first {left_out} trials are left out."
    by_lane = bars.assign(hours=bars["finish"] - bars["begin"]).groupby("lane", sort=True)["hours"].agg(["size", "sum"])
    table = pd.DataFrame({"Worker": by_lane.index, "Trials": by_lane["size"], "Busy, hours": by_lane["sum"].map("{:.3g}".format)})
    return Drawn(figures.timeline(bars), caption, table, "The lanes in figures")


def _costs(board: Board) -> Drawn | None:
    spent, unit = summaries.costs(board.trials)
    if spent.empty:
        return None
    drawn = spent.tail(summaries.MAX_BARS)
    caption = (
        f"Above, the best validation Dice against all {unit} spent so far, trials placed at their end; below, what each trial "
        f"took, as wide as it is high. {spent['hours'].sum():.3g} {unit} in all"
    )
    money = spent["cost"].sum()
    caption += f", at a cost of {money:.2f} (in the currency of --cost-per-gpu-hour)." if money > 0 else "."
    if len(drawn) < len(spent):
        caption += f" The first {len(spent) - len(drawn)} trials are counted, but not drawn."
    dear = spent.sort_values("hours", ascending=False).head(10)
    table = pd.DataFrame({"Trial": dear["label"], unit: dear["hours"].map("{:.3g}".format)})
    table["Validation Dice"] = dear["score"].map(lambda dice: figures.DASH if pd.isna(dice) else f"{dice:.4f}")
    if money > 0:
        table["Cost"] = dear["cost"].map(lambda cost: figures.DASH if pd.isna(cost) else f"{cost:.2f}")
    return Drawn(figures.costs(drawn, unit), caption, table, f"The {len(table)} dearest trials" if len(table) > 1 else "The trial")


PANELS: tuple[Panel[Board], ...] = (
    Panel(
        "history",
        "Optimisation history",
        "No trial has a validation Dice yet. The first appears after the first epoch of the first trial; build this "
        "page again then.",
        _history,
        _SEARCH,
    ),
    Panel(
        "curves",
        "Learning curves",
        "No epoch has been reported with a Dice yet. Curves appear as soon as a trial ends its first epoch; build this "
        "page again then.",
        _curves,
        _SEARCH,
    ),
    Panel(
        "tradeoffs",
        "Dice and the time for a mask",
        "No trial has been scored by the full protocol yet. Points appear when the first trial finishes.",
        _tradeoffs,
        _SEARCH,
    ),
    Panel(
        "importances",
        "What matters",
        f"Importances need at least {MIN_TRIALS} trials with a Dice that differ in a searched parameter. Let the search go on: "
        "python tune/search.py --resume.",
        _importances,
        _SETTINGS,
    ),
    Panel(
        "contour",
        "Two parameters together",
        f"This map needs at least {MIN_TRIALS} trials with a Dice that differ in two searched parameters.",
        _contour,
        _SETTINGS,
    ),
    Panel(
        "slices",
        "One parameter at a time",
        "Slices need at least two trials with a Dice that differ in a searched parameter.",
        _slices,
        _SETTINGS,
        wide=True,
    ),
    Panel(
        "parallel",
        "All parameters together",
        "This chart compares trials: it needs at least two with a Dice that differ in a searched parameter.",
        _parallel,
        _SETTINGS,
        wide=True,
    ),
    Panel(
        "cases",
        "Case by case",
        "No trial has been scored case by case on the validation split yet. Boxes appear when the first trial finishes.",
        _cases,
        _CASES,
    ),
    Panel(
        "pairs",
        "Two trials compared",
        "A comparison needs two trials that were scored on the same validation cases. It appears when the second trial finishes.",
        _pairs,
        _CASES,
    ),
    Panel(
        "timeline",
        "Who ran when",
        "No start of a trial has been recorded yet.",
        _timeline,
        _TIME,
    ),
    Panel(
        "costs",
        "What it cost",
        "No trial has ended with a recorded time yet, so nothing can be added up.",
        _costs,
        _TIME,
    ),
)
"""Of a board: of a dataset with all its searches, or of one experiment."""


# --------------------------------------------------------------------------------------------------------------------- of one trial


def _trial_curve(trial: Trial) -> Drawn | None:
    metrics = trial.metrics[trial.metrics["dice"].notna()]
    if metrics.empty:
        return None
    row = pd.DataFrame([trial.row])
    best = int(metrics["dice"].to_numpy().argmax())
    caption = (
        f"Validation Dice after each epoch, on the search's validation cases; highest after epoch {metrics['epoch'].iloc[best]} "
        f"({metrics['dice'].iloc[best]:.4f}), whose checkpoint is kept."
    )
    if trial.rungs:
        caption += f" Dotted lines are the rungs of successive halving (epochs {', '.join(map(str, trial.rungs))})."
    return Drawn(figures.learning_curves(row, metrics, trial.rungs), caption)


def _trial_losses(trial: Trial) -> Drawn | None:
    columns = summaries.loss_columns(trial.metrics)
    if not columns:
        return None
    names = ", ".join(column.removeprefix("loss_").replace("_", " ") for column in columns)
    caption = (
        f"Mean over each epoch of every loss that was recorded ({names}). A discriminator near zero has won and teaches little; "
        "losses that grow without end announce divergence."
    )
    return Drawn(figures.losses(trial.metrics), caption)


TRIAL_PANELS: tuple[Panel[Trial], ...] = (
    Panel(
        "curve",
        "Learning curve",
        "This trial has reported no epoch with a Dice. If it still runs, build this page again later; if it ended, its "
        "reason is above.",
        _trial_curve,
    ),
    Panel(
        "losses",
        "Losses",
        "No losses were recorded for this trial.",
        _trial_losses,
    ),
)
"""Of one trial."""
