"""The leaderboard's charts: data frame in, Plotly figure out. They work in a notebook as well:

from dashboards import figures, summaries
from tune.results import load
board = summaries.boards(load("results"))[0]
figures.optimisation_history(board.trials).show(config=figures.CONFIG)
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards import summaries

# Okabe-Ito colours with a contrast of at least 3:1 on white and on the dark page.
BLUE, VERMILLION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_MUTED = "rgba(128, 136, 144, 0.55)"

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
}
"""Plotly's toolbar without the button that uploads a chart's data."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def _template(text: str, grid: str, surface: str, scale: Sequence[tuple[float, str]]) -> dict[str, Any]:
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 14}},
    }
    return {
        "layout": {
            "font": {"family": _FONT, "size": 14, "color": text},
            "paper_bgcolor": surface,
            "plot_bgcolor": surface,
            "colorway": [BLUE, VERMILLION, GREEN, PINK],
            "coloraxis": {"colorscale": [list(step) for step in scale]},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": surface, "bordercolor": grid, "font": {"color": text, "size": 14, "family": _FONT}},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "title": {"text": ""}},
            "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
            "hovermode": "closest",
        }
    }


# The best trials stand out most: darkest on a light page, brightest on a dark one.
THEMES: dict[str, dict[str, Any]] = {
    "light": _template("#1f2933", "#dde3e9", "#ffffff", [(0, "#8796a5"), (0.5, BLUE), (1, "#3b0f52")]),
    "dark": _template("#e6ebf0", "#36404a", "#181d23", [(0, "#5d6b79"), (0.5, "#3da5d9"), (1, "#f0e442")]),
}

_GROUPS = {  # name in the legend: marker
    "finished": {"symbol": "circle", "color": BLUE, "size": 9},
    "stopped early": {"symbol": "diamond-open", "color": BLUE, "size": 9, "line": {"width": 2}},
    "running": {"symbol": "triangle-up-open", "color": GREEN, "size": 10, "line": {"width": 2}},
    "other": {"symbol": "x-thin-open", "color": VERMILLION, "size": 9, "line": {"width": 2}},
    "published settings": {"symbol": "star", "color": VERMILLION, "size": 13},
    "plain U-Net": {"symbol": "square", "color": PINK, "size": 10},
}


def optimisation_history(trials: pd.DataFrame) -> go.Figure:
    """Validation Dice of every trial in the order of their start, and the best so far."""
    points = summaries.history(trials)
    figure = _figure(x="Trial, in order of start", y="Validation Dice")
    figure.add_scatter(
        x=points["position"],
        y=points["best"],
        mode="lines",
        line={"color": GREEN, "width": 2.5, "shape": "hv"},
        name="best so far",
        hovertemplate="best so far %{y:.4f}<extra></extra>",
    )
    groups = pd.Series([_group(kind, status) for kind, status in zip(points["kind"], points["status"], strict=True)], dtype=object)
    for name, marker in _GROUPS.items():
        chosen = points[(groups == name).to_numpy()]
        if not chosen.empty:
            figure.add_scatter(
                x=chosen["position"],
                y=chosen["score"],
                mode="markers",
                marker=marker,
                name=name,
                text=[plain(label) for label in chosen["label"]],
                hovertemplate="trial %{text}<br>Dice %{y:.4f}<extra>" + name + "</extra>",
            )
    _count_along_x(figure, points["position"])
    return figure


def learning_curves(trials: pd.DataFrame, metrics: pd.DataFrame) -> go.Figure:
    """Validation Dice after every epoch: the best trials in colour, the others grey behind them."""
    points, _ = summaries.curves(trials, metrics)
    figure = _figure(x="Epoch", y="Validation Dice")
    best = list(points["place"].drop_duplicates()[: summaries.HIGHLIGHTED_CURVES])
    rest = points[~points["place"].isin(best)]
    if not rest.empty:
        x, y, text = _with_gaps(rest)
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="lines",
            line={"color": _MUTED, "width": 1},
            name="other trials",
            hovertemplate="trial %{text}<br>epoch %{x}: Dice %{y:.4f}<extra></extra>",
        )
    for position, place in enumerate(best):
        curve = points[points["place"] == place]
        name = plain(curve["label"].iloc[0])
        figure.add_scatter(
            x=curve["epoch"],
            y=curve["dice"],
            text=[name] * len(curve),
            mode="lines+markers" if len(curve) <= 30 else "lines",
            line={
                "color": (BLUE, VERMILLION, GREEN, PINK)[position % 4],
                "dash": ("solid", "dash", "dot")[position // 4],
                "width": 2,
            },
            marker={"symbol": ("circle", "square", "diamond", "triangle-up", "x", "star")[position % 6], "size": 6},
            name=name,
            hovertemplate="trial %{text}<br>epoch %{x}: Dice %{y:.4f}<extra></extra>",
        )
    _count_along_x(figure, points["epoch"])
    return figure


def dice_and_seconds(tradeoffs: pd.DataFrame) -> go.Figure:
    """Dice against seconds per case: a line per trial through its numbers of votes, and the front of the best."""
    figure = _figure(x="Seconds per case", y="Validation Dice")
    figure.update_xaxes(type="log", **_log_ticks(tradeoffs["seconds"]))
    gap = pd.DataFrame([{}], columns=tradeoffs.columns, dtype=object)
    joined = pd.concat([part for _, trial in tradeoffs.groupby("place", sort=True) for part in (trial.astype(object), gap)])
    figure.add_scatter(
        x=joined["seconds"],
        y=joined["dice"],
        mode="lines+markers",
        line={"color": _MUTED, "width": 1},
        marker={"size": 5, "color": _MUTED},
        name="trials at 1, 2, ... votes",
        text=["" if label is None else plain(label) for label in joined["label"].where(joined["label"].notna(), None)],
        customdata=joined["votes"],
        hovertemplate="trial %{text}, %{customdata} votes<br>Dice %{y:.4f}, %{x:.3g} s<extra></extra>",
    )
    front = tradeoffs[tradeoffs["on_front"]].sort_values("seconds")
    figure.add_scatter(
        x=front["seconds"],
        y=front["dice"],
        mode="lines+markers",
        line={"color": GREEN, "width": 2.5, "shape": "hv"},
        marker={"size": 9},
        name="none is better for less",
        text=[plain(label) for label in front["label"]],
        customdata=front["votes"],
        hovertemplate="trial %{text}, %{customdata} votes<br>Dice %{y:.4f}, %{x:.3g} s<extra>front</extra>",
    )
    return figure


def parallel_coordinates(trials: pd.DataFrame, searched: Sequence[str]) -> go.Figure:
    """One line per trial through its searched parameters to its Dice, coloured by Dice."""
    rows, columns, _ = summaries.parallel(trials, searched)
    dice = rows["score"].to_numpy(dtype=float)
    figure = go.Figure(
        layout={"height": 420, "margin": {"l": 72, "r": 40, "t": 56, "b": 32}, "template": go.layout.Template(THEMES["light"])}
    )
    figure.add_parcoords(
        dimensions=[
            *(_dimension(rows[column], column) for column in columns),
            {"label": "Dice", "values": dice, "tickformat": ".2f"},
        ],
        line={"color": dice, "coloraxis": "coloraxis"},
        labelfont={"size": 14},
        tickfont={"size": 14},
        rangefont={"size": 14, "color": "rgba(0, 0, 0, 0)"},
    )
    figure.update_layout(coloraxis={"colorbar": {"title": {"text": "Dice"}, "thickness": 12, "tickformat": ".2f"}})
    return figure


def plain(text: object, limit: int = 60) -> str:
    """Text that Plotly shows as it is: no markup, no line breaks or direction overrides, of bounded length."""
    clean = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") else letter for letter in str(text))
    short = clean if len(clean) <= limit else clean[: limit - 1] + "…"
    return html.escape(short, quote=False)


def parameter_name(column: str) -> str:
    """A config column in words: `config.loss.soft_dice` -> `soft dice weight`."""
    path = column.removeprefix("config.").split(".")
    known = {
        "timesteps": "time steps",
        "lr_generator": "generator lr",
        "lr_discriminator": "discriminator lr",
        "r1_gamma": "R1 gamma",
    }
    name = known.get(path[-1], path[-1].replace("_", " "))
    return f"{name} weight" if path[0] == "loss" and path[-1] in ("adversarial", "reconstruction", "soft_dice") else name


def _figure(x: str, y: str) -> go.Figure:
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    return go.Figure(layout={**axes, "height": 400, "template": go.layout.Template(THEMES["light"])})


def _count_along_x(figure: go.Figure, values: pd.Series) -> None:
    """Whole numbers below the axis; few of them would otherwise be named twice, at halves."""
    figure.update_xaxes(tickformat="d", dtick=1 if len(values) and values.max() - values.min() <= 8 else None)


def _log_ticks(values: pd.Series) -> dict[str, Any]:
    """Marks at 1, 2 and 5 of every power of ten; Plotly's own have small digits between them."""
    positive = values[values > 0]
    if positive.empty:
        return {}
    powers = range(int(np.floor(np.log10(positive.min()))), int(np.ceil(np.log10(positive.max()))) + 1)
    marks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}


def _group(kind: object, status: object) -> str:
    special = {"published": "published settings", "unet": "plain U-Net"}.get(str(kind))
    known = {"finished": "finished", "stopped": "stopped early", "running": "running", "pending": "running"}
    return special or known.get(str(status), "other")


def _with_gaps(points: pd.DataFrame) -> tuple[list[float | None], list[float | None], list[str]]:
    """Many curves as one trace, a gap between each two: one SVG path instead of hundreds."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for _, curve in points.groupby("place", sort=True):
        x += [*curve["epoch"].tolist(), None]
        y += [*curve["dice"].round(5).tolist(), None]
        text += [plain(curve["label"].iloc[0])] * (len(curve) + 1)
    return x, y, text


def _dimension(values: pd.Series, column: str) -> dict[str, Any]:
    """One axis: numbers as they are or by powers of ten, anything else as categories."""
    label = plain(parameter_name(column), 22)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    numbers = values.to_numpy(dtype=float) if numeric else np.empty(0)
    if not numeric or not np.isfinite(numbers).all():
        texts = values.map(str)
        names = sorted(texts.unique())
        ticks = {"tickvals": list(range(len(names))), "ticktext": [plain(name, 16) for name in names]}
        return {"label": label, "values": texts.map({name: place for place, name in enumerate(names)}).to_numpy(), **ticks}
    distinct = np.unique(numbers)
    if distinct[0] > 0 and distinct[-1] / distinct[0] >= 8:
        logs = np.log10(numbers)
        if len(distinct) <= 8:
            few = {"tickvals": np.log10(distinct).tolist(), "ticktext": [f"{value:.3g}" for value in distinct]}
            return {"label": label, "values": logs, **few}
        marks = np.unique(np.concatenate([[logs.min()], np.arange(np.ceil(logs.min()), np.floor(logs.max()) + 1), [logs.max()]]))
        marks = marks[np.concatenate([[True], np.diff(marks) > 0.15 * (logs.max() - logs.min())])]
        return {"label": label, "values": logs, "tickvals": marks.tolist(), "ticktext": [f"{10**mark:.2g}" for mark in marks]}
    ticks = {"tickvals": distinct.tolist(), "ticktext": [f"{value:.3g}" for value in distinct]} if len(distinct) <= 8 else {}
    return {"label": label, "values": numbers, **ticks}
