"""The dashboards' charts: data frame in, Plotly figure out. They work in a notebook as well:

from dashboards import figures, summaries
from tune.results import load
board = summaries.boards(summaries.read(load("results")))[0]
figures.optimisation_history(board.trials).show(config=figures.CONFIG)
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards import summaries

# Okabe-Ito colours with a contrast of at least 3:1 on white and on the dark page.
BLUE, VERMILLION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_MUTED = "rgba(128, 136, 144, 0.55)"
_DOTTED = "#7b8794"
DASH = "–"
MAX_MARKS = 4000  # of the history

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

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_BARS = {  # name in the legend: colour and hatching
    "finished": (BLUE, ""),
    "stopped early": ("#7fa8c4", ""),
    "running": (GREEN, "/"),
    "other": (VERMILLION, "x"),
}
_GROUPS: dict[str, dict[str, Any]] = {  # name in the legend: marker
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
    line = points[(points["best"] > points["best"].shift(fill_value=-1.0)) | (points["position"] == points["position"].max())]
    points = points.loc[points.index.isin(summaries.sample(trials, MAX_MARKS).index)]
    figure = _figure(x="Trial, in order of start", y="Validation Dice")
    figure.add_scatter(
        x=line["position"],
        y=line["best"],
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


def learning_curves(trials: pd.DataFrame, metrics: pd.DataFrame, rungs: Sequence[int] = ()) -> go.Figure:
    """Validation Dice after every epoch: the best trials in colour, the others grey behind them, the rungs dotted."""
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
            line=_line(position),
            marker={"symbol": _SYMBOLS[position % 6], "size": 6},
            name=name,
            hovertemplate="trial %{text}<br>epoch %{x}: Dice %{y:.4f}<extra></extra>",
        )
    _count_along_x(figure, points["epoch"])
    dotted = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": _DOTTED, "width": 2, "dash": "dot"}}
    figure.update_layout(shapes=[dotted | {"x0": rung, "x1": rung} for rung in rungs])
    return figure


def losses(metrics: pd.DataFrame) -> go.Figure:
    """Every part of the losses of one trial, after every epoch."""
    figure = _figure(x="Epoch", y="Loss")
    columns = summaries.loss_columns(metrics)
    for position, column in enumerate(columns):
        name = plain(column.removeprefix("loss_").replace("_", " "))
        figure.add_scatter(
            x=metrics["epoch"],
            y=metrics[column],
            mode="lines+markers" if len(metrics) <= 30 else "lines",
            line=_line(position),
            marker={"symbol": _SYMBOLS[position % 6], "size": 6},
            name=name,
            hovertemplate="epoch %{x}: %{y:.4g}<extra>" + name + "</extra>",
        )
    figure.update_layout(showlegend=True)
    _count_along_x(figure, metrics["epoch"])
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


def importances(found: pd.DataFrame) -> go.Figure:
    """One bar per parameter, the longest on top."""
    figure = _figure(x="Share of the differences in Dice (%)", y="")
    found = found.iloc[::-1]
    figure.add_bar(
        x=100 * found["importance"],
        y=[plain(parameter_name(column), 26) for column in found["column"]],
        orientation="h",
        marker={"color": BLUE},
        text=[f"{100 * value:.0f} %" for value in found["importance"]],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
    )
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
    groups = pd.Series([_group(kind, status) for kind, status in zip(rows["kind"], rows["status"], strict=True)], dtype=object)
    for place, column in enumerate(columns):
        where: dict[str, Any] = {"row": place // across + 1, "col": place % across + 1}
        axis = _dimension(rows[column], column, 26)
        jitter = np.random.default_rng(0).uniform(-0.08, 0.08, len(rows)) if "categories" in axis else 0.0
        x = np.asarray(axis["values"], dtype=float) + jitter
        for name, marker in _GROUPS.items():
            chosen = (groups == name).to_numpy()
            if chosen.any():
                figure.add_scatter(
                    x=x[chosen],
                    y=rows["score"][chosen],
                    mode="markers",
                    marker=marker | {"size": 7},
                    name=name,
                    legendgroup=name,
                    showlegend=name not in {trace.name for trace in figure.data},
                    text=[plain(label) for label in rows["label"][chosen]],
                    customdata=[plain(value, 24) for value in _in_words(rows[column][chosen])],
                    hovertemplate="trial %{text}<br>%{customdata}: Dice %{y:.4f}<extra>" + name + "</extra>",
                    **where,
                )
        figure.update_xaxes(title={"text": axis["label"]}, **_ticks(axis), **where)
    figure.update_yaxes(title={"text": "Validation Dice"}, col=1)
    return figure


def contour(trials: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Dice over two parameters: the trials, and between them a smooth estimate where trials are near."""
    scored = trials[trials["score"].notna()].dropna(subset=[first, second])
    rows = summaries.sample(scored, summaries.MAX_TRIALS)
    axes = [_dimension(rows[column], column, 30) for column in (first, second)]
    places = [np.asarray(axis["values"], dtype=float) for axis in axes]
    figure = _figure(x=axes[0]["label"], y=axes[1]["label"])
    x, y, smooth = _smooth(places[0], places[1], rows["score"].to_numpy(dtype=float))
    figure.add_contour(
        x=x,
        y=y,
        z=smooth,
        coloraxis="coloraxis",
        opacity=0.55,
        line={"width": 0.5},
        hoverinfo="skip",
        ncontours=12,
        contours={"coloring": "heatmap"},  # filled contours and marks cannot share a colour axis: plotly.js would loop for ever
        connectgaps=False,
    )
    figure.add_scatter(
        x=places[0],
        y=places[1],
        mode="markers",
        marker={"color": rows["score"], "coloraxis": "coloraxis", "size": 9, "line": {"width": 1.5, "color": "#ffffff"}},
        text=[plain(label) for label in rows["label"]],
        customdata=np.stack([_in_words(rows[first]), _in_words(rows[second]), [f"{dice:.4f}" for dice in rows["score"]]], axis=1),
        hovertemplate="trial %{text}: Dice %{customdata[2]}<br>%{xaxis.title.text} %{customdata[0]}"
        "<br>%{yaxis.title.text} %{customdata[1]}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(**_ticks(axes[0]), showgrid=False)
    figure.update_yaxes(**_ticks(axes[1]), showgrid=False)
    figure.update_layout(coloraxis={"colorbar": {"title": {"text": "Dice"}, "thickness": 12, "tickformat": ".2f"}})
    return figure


def timeline(bars: pd.DataFrame) -> go.Figure:
    """A lane per worker, a bar per trial from its start to its end."""
    figure = _figure(x="Hours since the start", y="")
    lanes = sorted(bars["lane"].unique(), reverse=True)
    names = {lane: plain(lane, 34) for lane in lanes}
    groups = pd.Series([_group("searched", status) for status in bars["status"]], dtype=object)
    for name, (colour, shape) in _BARS.items():
        chosen = bars[(groups == name).to_numpy()]
        if not chosen.empty:
            figure.add_bar(
                y=[names[lane] for lane in chosen["lane"]],
                x=chosen["finish"] - chosen["begin"],
                base=chosen["begin"],
                orientation="h",
                name=name,
                marker={
                    "color": colour,
                    "pattern": {"shape": shape, "fgcolor": "#ffffff", "size": 6, "fillmode": "overlay"},
                    "line": {"width": 0},
                },
                text=[plain(label) for label in chosen["label"]],
                textposition="none",
                customdata=[_span(row) for row in summaries.records(chosen)],
                hovertemplate="trial %{text}, %{customdata}<extra>" + name + "</extra>",
            )
    again = bars[bars["restarts"].fillna(0) > 0]
    if not again.empty:
        figure.add_scatter(
            x=(again["begin"] + again["finish"]) / 2,
            y=[names[lane] for lane in again["lane"]],
            mode="markers",
            marker={"symbol": "triangle-up", "size": 12, "color": VERMILLION, "line": {"width": 1.5, "color": "#ffffff"}},
            name="was restarted",
            text=[f"{plain(label)}: {count:.0f}" for label, count in zip(again["label"], again["restarts"], strict=True)],
            hovertemplate="restarts of trial %{text}<extra></extra>",
        )
    figure.update_layout(barmode="overlay", bargap=0.25, height=130 + 34 * max(len(lanes), 3), showlegend=True)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[names[lane] for lane in lanes], showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    return figure


def costs(spent: pd.DataFrame, unit: str) -> go.Figure:
    """Best Dice so far against the hours spent on all trials, and below what every trial took."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.07)
    figure.update_layout(height=460, template=go.layout.Template(THEMES["light"]), barmode="overlay")
    scored = spent[spent["score"].notna()]
    figure.add_scatter(
        x=spent["total"],
        y=spent["best"],
        mode="lines",
        line={"color": GREEN, "width": 2.5, "shape": "hv"},
        name="best so far",
        hovertemplate="after %{x:.3g} " + unit + ": best Dice %{y:.4f}<extra></extra>",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=scored["total"],
        y=scored["score"],
        mode="markers",
        marker={"color": BLUE, "size": 7, "symbol": "circle-open", "line": {"width": 1.5}},
        name="trials, at their end",
        text=[plain(label) for label in scored["label"]],
        hovertemplate="trial %{text}: Dice %{y:.4f}<extra></extra>",
        row=1,
        col=1,
    )
    figure.add_bar(
        x=spent["total"] - spent["hours"],
        y=spent["hours"],
        width=spent["hours"],
        offset=0,
        name="hours of a trial",
        marker={"color": BLUE, "opacity": 0.75, "line": {"width": 0.5, "color": "#ffffff"}},
        text=[plain(label) for label in spent["label"]],
        textposition="none",
        hovertemplate="trial %{text}: %{y:.3g} " + unit + "<extra></extra>",
        row=2,
        col=1,
    )
    figure.update_yaxes(title={"text": "Validation Dice"}, row=1)
    figure.update_yaxes(title={"text": f"{unit} each"}, row=2)
    figure.update_xaxes(title={"text": f"{unit} spent so far"}, row=2)
    return figure


def case_boxes(cases: pd.DataFrame) -> go.Figure:
    """Dice of every validation case of the best trials: a box and the cases themselves per trial."""
    figure = _figure(x="Trial", y="Dice of a case")
    for _, own in cases.groupby("place", sort=True):
        name = plain(own["label"].iloc[0], 28)
        figure.add_box(
            y=own["dice"],
            x=[name] * len(own),
            name=name,
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            boxmean=True,
            marker={"color": BLUE, "size": 4, "opacity": 0.55},
            line={"color": BLUE, "width": 1.5},
            fillcolor="rgba(0, 114, 178, 0.12)",
            text=[plain(case) for case in own["case"]],
            hovertemplate="case %{text}: Dice %{y:.4f}<extra>" + name + "</extra>",
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(type="category")  # "#12" would pass for a number
    return figure


def paired_cases(cases: pd.DataFrame, first: int, second: int) -> go.Figure:
    """Dice of every case in one trial against that in another; trials by their `place` among the compared."""
    one, other = (cases[cases["place"] == place] for place in (first, second))
    names = [plain(own["label"].iloc[0], 28) for own in (one, other)]
    figure = _figure(x=f"Dice of trial {names[0]}", y=f"Dice of trial {names[1]}")
    low = float(cases["dice"].min())
    low, high = low - 0.03, min(1.0, float(cases["dice"].max()) + 0.03)
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": _MUTED, "dash": "dot", "width": 2},
        name="equal",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=one["dice"],
        y=other["dice"],
        mode="markers",
        marker={"color": BLUE, "size": 8, "opacity": 0.75},
        name="a case",
        text=[plain(case) for case in one["case"]],
        hovertemplate="case %{text}: %{x:.4f} and %{y:.4f}<extra></extra>",
    )
    figure.update_layout(showlegend=True)
    return figure


def parallel_coordinates(trials: pd.DataFrame, searched: Sequence[str]) -> go.Figure:
    """One line per trial through its searched parameters to its Dice, coloured by Dice; unused parameters are at the bottom."""
    rows, columns, _ = summaries.parallel(trials, searched)
    dice = rows["score"].to_numpy(dtype=float)
    figure = go.Figure(
        layout={"height": 420, "margin": {"l": 72, "r": 40, "t": 56, "b": 32}, "template": go.layout.Template(THEMES["light"])}
    )
    figure.add_parcoords(
        dimensions=[
            *(_without_categories(_dimension(rows[column], column)) for column in columns),
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


def _line(position: int) -> dict[str, Any]:
    colour, dash = (BLUE, VERMILLION, GREEN, PINK)[position % 4], ("solid", "dash", "dot", "dashdot")[position // 4 % 4]
    return {"color": colour, "dash": dash, "width": 2}


def _span(row: Mapping[str, Any]) -> str:
    minutes = 60 * (row["finish"] - row["begin"])
    return f"{minutes * 60:.0f} s" if minutes < 1 else f"{minutes:.0f} min" if minutes < 60 else f"{minutes / 60:.1f} h"


def _in_words(values: pd.Series) -> list[str]:
    return [DASH if value is None or value is pd.NA or value != value else _word(value) for value in values.map(_listed)]


def _listed(value: Any) -> Any:
    return str(value.tolist()) if hasattr(value, "__len__") and hasattr(value, "tolist") else value


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _dimension(values: pd.Series, column: str, length: int = 22) -> dict[str, Any]:
    """One axis: its label, every trial's position, and its ticks where they are not Plotly's own.

    Numbers are placed as they are or by powers of ten, anything else as `categories`. Trials without a value are placed below all.
    """
    label = plain(parameter_name(column), length)
    there = values.notna().to_numpy()
    known = values[there]
    numeric = pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known)
    if not numeric and len(known) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        known, numeric = known.astype(float), True
    numbers = known.to_numpy(dtype=float) if numeric else np.empty(0)
    if not numeric or not np.isfinite(numbers).all():
        texts = known.map(_listed).map(str)
        names = sorted(texts.unique())
        positions = texts.map({name: place for place, name in enumerate(names)}).to_numpy(dtype=float)
        marked = _with_missing(positions, there, list(range(len(names))), [plain(name, 16) for name in names], gap=1)
        return {"label": label, "categories": names} | marked
    distinct = np.unique(numbers)
    few = len(distinct) <= 8
    if len(distinct) and distinct[0] > 0 and distinct[-1] / distinct[0] >= 8:
        logs = np.log10(numbers)
        if few:
            return {"label": label} | _with_missing(
                logs, there, np.log10(distinct).tolist(), [f"{value:.3g}" for value in distinct]
            )
        marks = np.unique(np.concatenate([[logs.min()], np.arange(np.ceil(logs.min()), np.floor(logs.max()) + 1), [logs.max()]]))
        marks = marks[np.concatenate([[True], np.diff(marks) > 0.15 * (logs.max() - logs.min())])]
        return {"label": label} | _with_missing(logs, there, marks.tolist(), [_brief(10**mark) for mark in marks])
    if few:
        return {"label": label} | _with_missing(numbers, there, distinct.tolist(), [f"{value:.3g}" for value in distinct])
    if there.all():
        return {"label": label, "values": numbers}
    steps = _round_numbers(float(distinct[0]), float(distinct[-1]))
    return {"label": label} | _with_missing(numbers, there, steps, [_brief(step) for step in steps])


def _brief(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _round_numbers(low: float, high: float) -> list[float]:
    """Three to six multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough)
    return [float(mark) for mark in np.arange(np.ceil(low / step), np.floor(high / step + 1e-9) + 1) * step]


def _with_missing(
    known: np.ndarray, there: np.ndarray, marks: Sequence[float], texts: list[str], gap: float | None = None
) -> dict[str, Any]:
    """Positions of all trials, with a tick of their own, a gap below the others, for those without a value."""
    if there.all():
        return {"values": known, "tickvals": marks, "ticktext": texts}
    spread = float(np.ptp(known)) if len(known) else 0.0
    below = (float(known.min()) if len(known) else 0.0) - (gap or 0.15 * spread or 1.0)
    values = np.full(len(there), below)
    values[there] = known
    return {"values": values, "tickvals": [below, *marks], "ticktext": [DASH, *texts]}


def _ticks(axis: Mapping[str, Any]) -> dict[str, Any]:
    return {name: axis[name] for name in ("tickvals", "ticktext") if name in axis}


def _without_categories(axis: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in axis.items() if name != "categories"}


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
