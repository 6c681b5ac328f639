"""What all charts look like: colours, marks, themes, and the text that may stand in them."""

import html
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

# Okabe-Ito colours with a contrast of at least 3:1 on white and on the dark page.
BLUE, VERMILLION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
MUTED = "rgba(128, 136, 144, 0.55)"

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
}
"""Plotly's toolbar without the button that uploads a chart's data."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def _template(text: str, grid: str, surface: str, scale: Sequence[tuple[float, str]]) -> dict[str, Any]:
    title = {"standoff": 8, "font": {"size": 14}}
    axis = {"gridcolor": grid, "linecolor": grid, "zeroline": False, "automargin": True, "title": title}
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

BEST = {"color": GREEN, "width": 2.5, "shape": "hv"}
"""The line of the best so far."""

_KINDS = {"published": "published settings", "unet": "plain U-Net"}
_STATUSES = {"finished": "finished", "stopped": "stopped early", "running": "running", "pending": "running"}
GROUPS: dict[str, dict[str, Any]] = {  # name in the legend: marker
    "finished": {"symbol": "circle", "color": BLUE, "size": 9},
    "stopped early": {"symbol": "diamond-open", "color": BLUE, "size": 9, "line": {"width": 2}},
    "running": {"symbol": "triangle-up-open", "color": GREEN, "size": 10, "line": {"width": 2}},
    "other": {"symbol": "x-thin-open", "color": VERMILLION, "size": 9, "line": {"width": 2}},
    "published settings": {"symbol": "star", "color": VERMILLION, "size": 13},
    "plain U-Net": {"symbol": "square", "color": PINK, "size": 10},
}


def plain(text: object, limit: int = 60) -> str:
    """Text that Plotly shows as it is: no markup, no line breaks or direction overrides, of bounded length."""
    clean = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") else letter for letter in str(text))
    short = clean if len(clean) <= limit else clean[: limit - 1] + "…"
    return html.escape(short, quote=False)


def blank(x: str, y: str) -> go.Figure:
    """A chart with nothing on it but the titles of its axes."""
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    return go.Figure(layout={**axes, "height": 400, "template": go.layout.Template(THEMES["light"])})


def legend(rows: pd.DataFrame, *, by_kind: bool = True) -> Iterator[tuple[str, np.ndarray]]:
    """Names of the legend that have trials, and which these are; controls have names of their own, but for `by_kind`."""
    kinds, both = _KINDS if by_kind else {}, zip(rows["kind"], rows["status"], strict=True)
    names = [kinds.get(str(kind)) or _STATUSES.get(str(status), "other") for kind, status in both]
    for name in GROUPS:
        chosen = np.array([own == name for own in names], dtype=bool)
        if chosen.any():
            yield name, chosen


def curve(figure: go.Figure, x: Any, y: Any, name: str, line: Mapping[str, Any], hover: str | None = None, **more: Any) -> None:
    """Draw a line."""
    figure.add_scatter(x=x, y=y, name=name, line=line, hovertemplate=hover, **{"mode": "lines", **more})


def marks(
    figure: go.Figure, x: Any, y: Any, labels: pd.Series, name: str | None, marker: Mapping[str, Any], hover: str, **more: Any
) -> None:
    """Draw marks that are called by their labels."""
    text = [plain(label) for label in labels]
    figure.add_scatter(x=x, y=y, text=text, name=name, marker=marker, hovertemplate=hover, **{"mode": "markers", **more})


def unlike(position: int, count: int) -> dict[str, Any]:
    """How one of several curves of so many points is drawn, unlike those before it."""
    colour, dash = (BLUE, VERMILLION, GREEN, PINK)[position % 4], ("solid", "dash", "dot", "dashdot")[position // 4 % 4]
    symbol = ("circle", "square", "diamond", "triangle-up", "x", "star")[position % 6]
    line, marker = {"color": colour, "dash": dash, "width": 2}, {"symbol": symbol, "size": 6}
    return {"line": line, "marker": marker, "mode": "lines+markers" if count <= 30 else "lines"}
