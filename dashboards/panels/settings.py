"""What the settings do to the Dice."""

import pandas as pd

from dashboards import figures, summaries
from dashboards.panels.panel import Drawn, Panel
from dashboards.summaries import DASH, MAX_FOREST, MIN_FOREST, Board, parameter_name

# What is said where there is nothing to draw: why, and what to do.
_FEW = f"Importances need at least {MIN_FOREST} trials with a Dice that differ in a searched parameter. Let the search go on: "
_FEW_FOR_TWO = f"This map needs at least {MIN_FOREST} trials with a Dice that differ in two searched parameters."
_ONE = "Slices need at least two trials with a Dice that differ in a searched parameter."
_NO_OTHER = "This chart compares trials: it needs at least two with a Dice that differ in a searched parameter."


def _importances(board: Board) -> Drawn | None:
    found = board.importances
    if found.empty:
        return None
    first = parameter_name(str(found["column"].iloc[0]))
    caption = (
        f"How much of the differences in Dice each parameter explains by itself (fANOVA); {first} matters most. A long bar is "
        "worth a finer search, a short one may be fixed. Stopped trials count with the Dice they had reached, the plain U-Net "
        "not at all. An importance is an estimate, rough below some 50 trials, and says nothing about which values are good: see "
        "the slices."
    )
    scored = int(board.trials["score"].notna().sum())
    if scored > MAX_FOREST:
        caption += f" Computed on {MAX_FOREST} of {scored} trials, evenly from the best to the worst."
    names = found["column"].map(parameter_name)
    table = pd.DataFrame({"Parameter": names, "Share": (100 * found["importance"]).map("{:.1f} %".format)})
    return Drawn(figures.importances(found), caption, table, "The shares in figures")


def _slices(board: Board) -> Drawn | None:
    columns = summaries.varying(board.trials, board.searched)
    scored = int(board.trials["score"].notna().sum())
    if scored < 2 or not columns:
        return None
    caption = (
        "Dice against one parameter at a time: look for where the best trials gather. If they crowd at an end of an axis, widen "
        f"the range there. Scales are logarithmic where values span powers of ten; “{DASH}” are trials that do not use "
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
    if len(both) < MIN_FOREST or any(both[column].map(str).nunique() < 2 for column in (first, second)):
        return None
    caption = (
        f"The two parameters that matter most, {parameter_name(first)} and {parameter_name(second)}: dots are "
        "trials, the shading a smooth estimate of the Dice between them, blank where no trial is near. A ridge that runs aslant "
        "says that the two must be chosen together."
    )
    return Drawn(figures.contour(board.trials, first, second), caption)


def _parallel(board: Board) -> Drawn | None:
    rows, columns, left_out = summaries.parallel(board.trials, board.searched)
    if len(rows) < 2 or not columns:
        return None
    fixed = [parameter_name(column) for column in board.searched if column not in columns]
    caption = (
        "Each line is one trial: it crosses every axis at the trial's value and ends at its Dice, which also gives its colour. "
        f"Drag along an axis to keep only the lines that pass there; drag an axis title to reorder. “{DASH}” at the "
        "bottom of an axis: not used by the trial."
    )
    if fixed:
        caption += f" The same in all trials, so not drawn: {', '.join(fixed)}."
    if left_out:
        caption += (
            f" {left_out} trials of the lower-ranked half are left out at random, beyond {summaries.MAX_PARALLEL_ROWS} lines."
        )
    return Drawn(figures.parallel_coordinates(board.trials, board.searched), caption)


_GROUP = "The settings"
PANELS: tuple[Panel[Board], ...] = (
    Panel("importances", "What matters", _FEW + "python tune/search.py --resume.", _importances, _GROUP),
    Panel("contour", "Two parameters together", _FEW_FOR_TWO, _contour, _GROUP),
    Panel("slices", "One parameter at a time", _ONE, _slices, _GROUP, wide=True),
    Panel("parallel", "All parameters together", _NO_OTHER, _parallel, _GROUP, wide=True),
)
