"""Time and money: who ran when, and what the best Dice cost."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards import summaries
from dashboards.figures.theme import BEST, BLUE, GREEN, THEMES, VERMILLION, blank, curve, legend, marks, plain

_BARS = {  # name in the legend: colour and hatching
    "finished": (BLUE, ""),
    "stopped early": ("#7fa8c4", ""),
    "running": (GREEN, "/"),
    "other": (VERMILLION, "x"),
}


def timeline(bars: pd.DataFrame) -> go.Figure:
    """A lane per worker, a bar per trial from its start to its end."""
    figure = blank(x="Hours since the start", y="")
    lanes = sorted(bars["lane"].unique(), reverse=True)
    names = {lane: plain(lane, 34) for lane in lanes}
    for name, chosen in legend(bars, by_kind=False):
        own, (colour, shape) = bars[chosen], _BARS[name]
        pattern = {"shape": shape, "fgcolor": "#ffffff", "size": 6, "fillmode": "overlay"}
        marker: dict[str, Any] = {"color": colour, "pattern": pattern, "line": {"width": 0}}
        spans, hover = [_span(row) for row in summaries.records(own)], f"trial %{{text}}, %{{customdata}}<extra>{name}</extra>"
        lengths, on = own["finish"] - own["begin"], [names[lane] for lane in own["lane"]]
        more: dict[str, Any] = {"base": own["begin"], "orientation": "h", "customdata": spans}
        _bars(figure, lengths, on, own["label"], name, marker, hover, **more)
    again = bars[bars["restarts"].fillna(0) > 0]
    if not again.empty:
        marker = {"symbol": "triangle-up", "size": 12, "color": VERMILLION, "line": {"width": 1.5, "color": "#ffffff"}}
        middle, on = (again["begin"] + again["finish"]) / 2, [names[lane] for lane in again["lane"]]
        hover = "restarts of trial %{text}: %{customdata}<extra></extra>"
        marks(figure, middle, on, again["label"], "was restarted", marker, hover, customdata=again["restarts"].astype(int))
    figure.update_layout(barmode="overlay", bargap=0.25, height=130 + 34 * max(len(lanes), 3), showlegend=True)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[names[lane] for lane in lanes], showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    return figure


def costs(spent: pd.DataFrame, unit: str) -> go.Figure:
    """Best Dice so far against the hours spent on all trials, and below what every trial took."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.07)
    figure.update_layout(height=460, template=go.layout.Template(THEMES["light"]), barmode="overlay")
    scored = spent[spent["score"].notna()]
    above: dict[str, Any] = {"row": 1, "col": 1}
    hover = f"after %{{x:.3g}} {unit}: best Dice %{{y:.4f}}<extra></extra>"
    curve(figure, spent["total"], spent["best"], "best so far", BEST, hover, **above)
    marker = {"color": BLUE, "size": 7, "symbol": "circle-open", "line": {"width": 1.5}}
    hover = "trial %{text}: Dice %{y:.4f}<extra></extra>"
    marks(figure, scored["total"], scored["score"], scored["label"], "trials, at their end", marker, hover, **above)
    marker = {"color": BLUE, "opacity": 0.75, "line": {"width": 0.5, "color": "#ffffff"}}
    below: dict[str, Any] = {"width": spent["hours"], "offset": 0, "row": 2, "col": 1}
    hover = f"trial %{{text}}: %{{y:.3g}} {unit}<extra></extra>"
    _bars(figure, spent["total"] - spent["hours"], spent["hours"], spent["label"], "hours of a trial", marker, hover, **below)
    figure.update_yaxes(title={"text": "Validation Dice"}, row=1)
    figure.update_yaxes(title={"text": f"{unit} each"}, row=2)
    figure.update_xaxes(title={"text": f"{unit} spent so far"}, row=2)
    return figure


def _bars(
    figure: go.Figure, x: Any, y: Any, labels: pd.Series, name: str, marker: Mapping[str, Any], hover: str, **more: Any
) -> None:
    text = [plain(label) for label in labels]
    figure.add_bar(x=x, y=y, text=text, textposition="none", name=name, marker=marker, hovertemplate=hover, **more)


def _span(row: Mapping[str, Any]) -> str:
    minutes = 60 * (row["finish"] - row["begin"])
    return f"{minutes * 60:.0f} s" if minutes < 1 else f"{minutes:.0f} min" if minutes < 60 else f"{minutes / 60:.1f} h"
