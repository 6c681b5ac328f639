"""Dice of single cases: trial by trial, and one trial against another."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.theme import BLUE, MUTED, blank, curve, marks, plain

_BOX: dict[str, Any] = {"boxpoints": "all", "jitter": 0.4, "pointpos": 0, "boxmean": True, "line": {"color": BLUE, "width": 1.5}}
_BOX |= {"marker": {"color": BLUE, "size": 4, "opacity": 0.55}, "fillcolor": "rgba(0, 114, 178, 0.12)"}


def case_boxes(cases: pd.DataFrame) -> go.Figure:
    """Dice of every validation case of the best trials: a box and the cases themselves per trial."""
    figure = blank(x="Trial", y="Dice of a case")
    for _, own in cases.groupby("place", sort=True):
        name = plain(own["label"].iloc[0], 28)
        text, hover = [plain(case) for case in own["case"]], f"case %{{text}}: Dice %{{y:.4f}}<extra>{name}</extra>"
        figure.add_box(y=own["dice"], x=[name] * len(own), name=name, text=text, hovertemplate=hover, **_BOX)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(type="category")  # "#12" would pass for a number
    return figure


def paired_cases(cases: pd.DataFrame, first: int, second: int) -> go.Figure:
    """Dice of every case in one trial against that in another; trials by their `place` among the compared."""
    one, other = (cases[cases["place"] == place] for place in (first, second))
    names = [plain(own["label"].iloc[0], 28) for own in (one, other)]
    figure = blank(x=f"Dice of trial {names[0]}", y=f"Dice of trial {names[1]}")
    low = float(cases["dice"].min())
    low, high = low - 0.03, min(1.0, float(cases["dice"].max()) + 0.03)
    curve(figure, [low, high], [low, high], "equal", {"color": MUTED, "dash": "dot", "width": 2}, hoverinfo="skip")
    marker = {"color": BLUE, "size": 8, "opacity": 0.75}
    hover = "case %{text}: %{x:.4f} and %{y:.4f}<extra></extra>"
    marks(figure, one["dice"], other["dice"], one["case"], "a case", marker, hover)
    figure.update_layout(showlegend=True)
    return figure
