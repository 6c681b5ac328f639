"""What the settings do to the Dice: which matter, one at a time, two together, all together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards import summaries
from dashboards.figures.axes import dimension, in_words, ticks
from dashboards.figures.theme import BLUE, GROUPS, THEMES, blank, legend, marks, plain
from dashboards.summaries import parameter_name

_COLOURS = {"colorbar": {"title": {"text": "Dice"}, "thickness": 12, "tickformat": ".2f"}}


def importances(found: pd.DataFrame) -> go.Figure:
    """One bar per parameter, the longest on top."""
    figure = blank(x="Share of the differences in Dice (%)", y="")
    found = found.iloc[::-1]
    share, names = 100 * found["importance"], [plain(parameter_name(column), 26) for column in found["column"]]
    text = {"text": share.map("{:.0f} %".format), "textposition": "outside", "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>"}
    figure.add_bar(x=share, y=names, orientation="h", marker={"color": BLUE}, cliponaxis=False, **text)
    figure.update_layout(height=max(200, 90 + 38 * len(found)), bargap=0.35, margin={"r": 56})
    figure.update_xaxes(rangemode="tozero", nticks=5, tickangle=0)
    figure.update_yaxes(type="category")
    return figure


def slices(trials: pd.DataFrame, searched: Sequence[str]) -> go.Figure:
    """Dice against every searched parameter by itself, side by side."""
    columns = summaries.varying(trials, searched)
    scored = trials[trials["score"].notna()]
    rows = summaries.sample(scored, summaries.MAX_SLICE_POINTS // max(len(columns), 1))
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure = make_subplots(rows=down, cols=across, shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.26 / down)
    figure.update_layout(height=300 * down + 40, template=go.layout.Template(THEMES["light"]))
    groups = list(legend(rows))
    for place, column in enumerate(columns):
        where: dict[str, Any] = {"row": place // across + 1, "col": place % across + 1}
        axis = dimension(rows[column], column, 26)
        jitter = np.random.default_rng(0).uniform(-0.08, 0.08, len(rows)) if "categories" in axis else 0.0
        x = np.asarray(axis["values"], dtype=float) + jitter
        for name, chosen in groups:
            own, hover = rows[chosen], f"trial %{{text}}<br>%{{customdata}}: Dice %{{y:.4f}}<extra>{name}</extra>"
            values = [plain(value, 24) for value in in_words(own[column])]
            more = where | {"legendgroup": name, "showlegend": place == 0, "customdata": values}
            marks(figure, x[chosen], own["score"], own["label"], name, GROUPS[name] | {"size": 7}, hover, **more)
        figure.update_xaxes(title={"text": axis["label"]}, **ticks(axis), **where)
    figure.update_yaxes(title={"text": "Validation Dice"}, col=1)
    return figure


def contour(trials: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Dice over two parameters: the trials, and between them a smooth estimate where trials are near."""
    scored = trials[trials["score"].notna()].dropna(subset=[first, second])
    rows = summaries.sample(scored, summaries.MAX_TRIALS)
    axes = [dimension(rows[column], column, 30) for column in (first, second)]
    places = [np.asarray(axis["values"], dtype=float) for axis in axes]
    figure = blank(x=axes[0]["label"], y=axes[1]["label"])
    x, y, smooth = _smooth(places[0], places[1], rows["score"].to_numpy(dtype=float))
    heat = {"coloring": "heatmap"}  # filled contours and marks cannot share a colour axis: plotly.js would loop for ever
    look = {"coloraxis": "coloraxis", "opacity": 0.55, "line": {"width": 0.5}, "ncontours": 12, "contours": heat}
    figure.add_contour(x=x, y=y, z=smooth, hoverinfo="skip", connectgaps=False, **look)
    dice = [f"{dice:.4f}" for dice in rows["score"]]
    words = np.stack([in_words(rows[first]), in_words(rows[second]), dice], axis=1)
    hover = (
        "trial %{text}: Dice %{customdata[2]}<br>%{xaxis.title.text} %{customdata[0]}"
        "<br>%{yaxis.title.text} %{customdata[1]}<extra></extra>"
    )
    marker = {"color": rows["score"], "coloraxis": "coloraxis", "size": 9, "line": {"width": 1.5, "color": "#ffffff"}}
    marks(figure, places[0], places[1], rows["label"], None, marker, hover, customdata=words, showlegend=False)
    figure.update_xaxes(**ticks(axes[0]), showgrid=False)
    figure.update_yaxes(**ticks(axes[1]), showgrid=False)
    figure.update_layout(coloraxis=_COLOURS)
    return figure


def parallel_coordinates(trials: pd.DataFrame, searched: Sequence[str]) -> go.Figure:
    """One line per trial through its searched parameters to its Dice, coloured by Dice; unused parameters are at the bottom."""
    rows, columns, _ = summaries.parallel(trials, searched)
    dice = rows["score"].to_numpy(dtype=float)
    margin = {"l": 72, "r": 40, "t": 56, "b": 32}
    figure = go.Figure(layout={"height": 420, "margin": margin, "template": go.layout.Template(THEMES["light"])})
    axes = [dimension(rows[column], column) for column in columns]
    for axis in axes:
        axis.pop("categories", None)  # for other charts
    axes.append({"label": "Dice", "values": dice, "tickformat": ".2f"})
    fonts = {"labelfont": {"size": 14}, "tickfont": {"size": 14}, "rangefont": {"size": 14, "color": "rgba(0, 0, 0, 0)"}}
    figure.add_parcoords(dimensions=axes, line={"color": dice, "coloraxis": "coloraxis"}, **fonts)
    figure.update_layout(coloraxis=_COLOURS)
    return figure


def _smooth(x: np.ndarray, y: np.ndarray, z: np.ndarray, side: int = 48, width: float = 0.09) -> tuple[np.ndarray, ...]:
    """Kernel regression (Nadaraya 1964) over a grid; NaN where no trial is near."""
    grids = [np.linspace(values.min(), values.max(), side) for values in (x, y)]
    weights = []
    for grid, values in zip(grids, (x, y), strict=True):
        spread = np.ptp(values) or 1.0
        weights.append(np.exp(-(((grid[:, None] - values) / spread / width) ** 2) / 2))
    joint = np.einsum("it,jt->jit", *weights)
    total = joint.sum(axis=2)
    smooth = (joint * z).sum(axis=2) / np.maximum(total, 1e-12)
    return *grids, np.where(total > np.exp(-2.0), smooth, np.nan)
