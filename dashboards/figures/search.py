"""How the search went: trial by trial, epoch by epoch, and what a vote or a time step buys."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from dashboards import summaries
from dashboards.figures.axes import count_along_x, log_ticks
from dashboards.figures.theme import BEST, GROUPS, MUTED, blank, curve, legend, marks, plain, unlike

MAX_MARKS = 4000  # of the history
_DOTTED = "#7b8794"


def optimisation_history(trials: pd.DataFrame) -> go.Figure:
    """Validation Dice of every trial in the order of their start, and the best so far."""
    points = summaries.history(trials)
    line = points[(points["best"] > points["best"].shift(fill_value=-1.0)) | (points["position"] == points["position"].max())]
    points = points.loc[points.index.isin(summaries.sample(trials, MAX_MARKS).index)]
    figure = blank(x="Trial, in order of start", y="Validation Dice")
    curve(figure, line["position"], line["best"], "best so far", BEST, "best so far %{y:.4f}<extra></extra>")
    for name, chosen in legend(points):
        own, hover = points[chosen], f"trial %{{text}}<br>Dice %{{y:.4f}}<extra>{name}</extra>"
        marks(figure, own["position"], own["score"], own["label"], name, GROUPS[name], hover)
    count_along_x(figure, points["position"])
    return figure


def learning_curves(trials: pd.DataFrame, metrics: pd.DataFrame, rungs: Sequence[int] = ()) -> go.Figure:
    """Validation Dice after every epoch: the best trials in colour, the others grey behind them, the rungs dotted."""
    points, _ = summaries.curves(trials, metrics)
    figure = blank(x="Epoch", y="Validation Dice")
    best = list(points["place"].drop_duplicates()[: summaries.HIGHLIGHTED_CURVES])
    rest = points[~points["place"].isin(best)]
    hover = "trial %{text}<br>epoch %{x}: Dice %{y:.4f}<extra></extra>"
    if not rest.empty:
        x, y, text = _with_gaps(rest)
        curve(figure, x, y, "other trials", {"color": MUTED, "width": 1}, hover, text=text)
    for position, place in enumerate(best):
        own = points[points["place"] == place]
        name = plain(own["label"].iloc[0])
        curve(figure, own["epoch"], own["dice"], name, hover=hover, text=[name] * len(own), **unlike(position, len(own)))
    count_along_x(figure, points["epoch"])
    dotted = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": _DOTTED, "width": 2, "dash": "dot"}}
    figure.update_layout(shapes=[dotted | {"x0": rung, "x1": rung} for rung in rungs])
    return figure


def losses(metrics: pd.DataFrame) -> go.Figure:
    """Every part of the losses of one trial, after every epoch."""
    figure = blank(x="Epoch", y="Loss")
    for position, column in enumerate(summaries.loss_columns(metrics)):
        name = plain(column.removeprefix("loss_").replace("_", " "))
        hover = f"epoch %{{x}}: %{{y:.4g}}<extra>{name}</extra>"
        curve(figure, metrics["epoch"], metrics[column], name, hover=hover, **unlike(position, len(metrics)))
    figure.update_layout(showlegend=True)
    count_along_x(figure, metrics["epoch"])
    return figure


def dice_and_seconds(tradeoffs: pd.DataFrame) -> go.Figure:
    """Dice against seconds per case: a line per trial through its numbers of votes, and the front of the best."""
    figure = blank(x="Seconds per case", y="Validation Dice")
    figure.update_xaxes(type="log", **log_ticks(tradeoffs["seconds"]))
    gap = pd.DataFrame([{}], columns=tradeoffs.columns, dtype=object)
    joined = pd.concat([part for _, trial in tradeoffs.groupby("place", sort=True) for part in (trial.astype(object), gap)])
    text = ["" if label is None else plain(label) for label in joined["label"].where(joined["label"].notna(), None)]
    hover = "trial %{text}, %{customdata} votes<br>Dice %{y:.4f}, %{x:.3g} s<extra></extra>"
    grey = {"text": text, "customdata": joined["votes"], "mode": "lines+markers", "marker": {"size": 5, "color": MUTED}}
    name = "trials at 1, 2, ... votes"
    curve(figure, joined["seconds"], joined["dice"], name, {"color": MUTED, "width": 1}, hover, **grey)
    front = tradeoffs[tradeoffs["on_front"]].sort_values("seconds")
    hover = hover.replace("<extra>", "<extra>front")
    green = {"customdata": front["votes"], "mode": "lines+markers", "line": BEST}
    name = "none is better for less"
    marks(figure, front["seconds"], front["dice"], front["label"], name, {"size": 9}, hover, **green)
    return figure


def _with_gaps(points: pd.DataFrame) -> tuple[list[float | None], list[float | None], list[str]]:
    """Many curves as one trace, a gap between each two: one SVG path instead of hundreds."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for _, own in points.groupby("place", sort=True):
        x += [*own["epoch"].tolist(), None]
        y += [*own["dice"].round(5).tolist(), None]
        text += [plain(own["label"].iloc[0])] * (len(own) + 1)
    return x, y, text
