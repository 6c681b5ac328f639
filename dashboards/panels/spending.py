"""Time and cost."""

import pandas as pd

from dashboards import figures, summaries
from dashboards.panels.panel import Drawn, Panel
from dashboards.summaries import DASH, Board


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
    table["Validation Dice"] = dear["score"].map(lambda dice: DASH if pd.isna(dice) else f"{dice:.4f}")
    if money > 0:
        table["Cost"] = dear["cost"].map(lambda cost: DASH if pd.isna(cost) else f"{cost:.2f}")
    return Drawn(figures.costs(drawn, unit), caption, table, f"The {len(table)} dearest trials" if len(table) > 1 else "The trial")


_GROUP = "Time and cost"
PANELS: tuple[Panel[Board], ...] = (
    Panel("timeline", "Who ran when", "No start of a trial has been recorded yet.", _timeline, _GROUP),
    Panel("costs", "What it cost", "No trial has ended with a recorded time yet, so nothing can be added up.", _costs, _GROUP),
)
