"""The cases, one by one."""

import pandas as pd

from dashboards import figures, summaries
from dashboards.panels.panel import Drawn, Panel
from dashboards.summaries import DASH, Board

# What is said where there is nothing to draw: why, and what to do.
_NO_CASES = "No trial has been scored case by case on the validation split yet. Boxes appear when the first trial finishes."
_NO_PAIR = "A comparison needs two trials that were scored on the same validation cases. It appears when the second trial finishes."


def _cases(board: Board) -> Drawn | None:
    if board.cases.empty:
        return None
    count, groups = board.cases["place"].nunique(), board.cases["group"].nunique() or None
    cases = summaries.counted(f"{board.cases['case'].nunique()} validation cases", groups)
    caption = (
        f"Dice of each of the {cases} at full votes, for the best {count} trials that were scored on them: the "
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
    groups = board.cases["group"].nunique()
    over = f"the {groups} groups that the cases belong to" if groups else "cases"
    caption = (
        "Each dot is one validation case; above the dotted line the second trial is better on it, below the first. The interval "
        f"is a bootstrap over {over}, p is Wilcoxon's signed-rank test, for this one comparison: choose the pair before you look, "
        "or take the p of the ranking, which is corrected for looking at all."
    )
    bounds = zip(found["low"], found["high"], strict=True)
    table = pd.DataFrame({"First": found["first"].map(names), "Second": found["second"].map(names)})
    table["Mean difference"] = found["difference"].map("{:+.4f}".format)
    table["95 % interval"] = [f"{low:+.4f} to {high:+.4f}" if low == low else DASH for low, high in bounds]
    table["p"] = found["p"].map(lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}")
    first, second = int(found["first"].iloc[0]), int(found["second"].iloc[0])
    return Drawn(figures.paired_cases(board.cases, first, second), caption, table, f"All {len(table)} pairs in figures")


_GROUP = "The cases"
PANELS: tuple[Panel[Board], ...] = (
    Panel("cases", "Case by case", _NO_CASES, _cases, _GROUP),
    Panel("pairs", "Two trials compared", _NO_PAIR, _pairs, _GROUP),
)
