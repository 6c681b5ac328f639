"""How the search went, and how a single trial."""

import pandas as pd

from dashboards import figures, summaries
from dashboards.panels.panel import Drawn, Panel
from dashboards.summaries import Board, Trial

_MAX_LISTED = 100

# What is said where there is nothing to draw: why, and what to do.
_NO_DICE = (
    "No trial has a validation Dice yet. The first appears after the first epoch of the first trial; build this page again then."
)
_NO_EPOCH = (
    "No epoch has been reported with a Dice yet. Curves appear as soon as a trial ends its first epoch; build this page again then."
)
_NO_VOTES = "No trial has been scored by the full protocol yet. Points appear when the first trial finishes."
_NO_CURVE = (
    "This trial has reported no epoch with a Dice. If it still runs, build this page again later; if it ended, its reason is above."
)


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
    rows = []
    for _, own in best:
        highest = own.iloc[own["dice"].to_numpy().argmax()]
        words = {
            "Best Dice": f"{highest['dice']:.4f}",
            "at epoch": int(highest["epoch"]),
            "Last Dice": f"{own['dice'].iloc[-1]:.4f}",
        }
        rows.append({"Trial": own["label"].iloc[0], "Epochs": int(own["epoch"].max())} | words)
    figure = figures.learning_curves(board.trials, board.metrics, board.rungs)
    return Drawn(figure, caption, pd.DataFrame(rows), "The coloured curves in figures")


def _tradeoffs(board: Board) -> Drawn | None:
    if board.tradeoffs.empty:
        return None
    front = board.tradeoffs[board.tradeoffs["on_front"]].sort_values("seconds")
    caption = (
        "Each grey line is one trial, from one vote on the left to all its votes on the right. Up and to the left is better; the "
        "green line joins the points that no other beats in both, so the choice is among these. Seconds are for one case by the "
        "full protocol, on the machine that ran the trial."
    )
    dice, seconds = front["dice"].map("{:.4f}".format), front["seconds"].map("{:.3g}".format)
    table = pd.DataFrame({"Trial": front["label"], "Votes": front["votes"], "Dice": dice, "Seconds per case": seconds})
    title = f"The {len(table)} point{'s' * (len(table) > 1)} that none beats"
    return Drawn(figures.dice_and_seconds(board.tradeoffs), caption, table, title)


_GROUP = "The search"
PANELS: tuple[Panel[Board], ...] = (
    Panel("history", "Optimisation history", _NO_DICE, _history, _GROUP),
    Panel("curves", "Learning curves", _NO_EPOCH, _curves, _GROUP),
    Panel("tradeoffs", "Dice and the time for a mask", _NO_VOTES, _tradeoffs, _GROUP),
)


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
    Panel("curve", "Learning curve", _NO_CURVE, _trial_curve),
    Panel("losses", "Losses", "No losses were recorded for this trial.", _trial_losses),
)
