"""Panels where they stand on a page, and what the page's script needs to draw them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards import figures, summaries
from dashboards.panels import Drawn, Panel
from dashboards.summaries import Board


@dataclass(frozen=True, eq=False)
class Chart:
    """A panel at its place."""

    id: str
    panel: Panel[Any]
    drawn: Drawn | None
    choices: Sequence[str] = ()
    """Names of the trials of which the reader chooses two."""
    pairs: Mapping[str, Any] | None = None
    """How each two of these compare, for the script."""


def chart(place: str, panel: Panel[Any], subject: Any) -> Chart:
    """A panel of a board or trial, drawn at a place of a page."""
    drawn = panel.draw(subject)
    choices, pairs = _compared(subject) if drawn is not None and panel.name == "pairs" else ([], None)
    return Chart(f"{place}-{panel.name}", panel, drawn, choices, pairs)


def script_data(charts: Iterable[Chart]) -> dict[str, Any]:
    """Figures, and how they are drawn."""
    drawn = {chart.id: _figure(chart.drawn) for chart in charts if chart.drawn}
    pairs = {chart.id: chart.pairs for chart in charts if chart.pairs}
    return {"figures": drawn, "themes": figures.THEMES if drawn else {}, "config": figures.CONFIG, "pairs": pairs}


def compile_functions(charts: Iterable[Chart]) -> bool:
    """Whether a chart draws by WebGL, for which plotly.js compiles functions from text."""
    return any(trace.type == "parcoords" for chart in charts if chart.drawn for trace in chart.drawn.figure.data)


def _figure(drawn: Drawn) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(drawn.figure.to_json(validate=False))
    content["layout"].pop("template", None)  # the page sets one template per theme for all charts
    return content


def _compared(board: Board) -> tuple[Sequence[str], Mapping[str, Any]]:
    """The labels of the compared trials, and what the script says of each two of them."""
    own = [part for _, part in board.cases.groupby("place", sort=True)]
    labels = [part["label"].iloc[0] for part in own]
    place_of = {int(part["place"].iloc[0]): order for order, part in enumerate(own)}
    pairs = {}
    for row in summaries.records(summaries.pairs(board.cases)):
        found = [None if pd.isna(row[key]) else round(float(row[key]), 6) for key in ("difference", "low", "high", "p")]
        pairs[f"{place_of[int(row['first'])]}-{place_of[int(row['second'])]}"] = found
    dice = [part["dice"].round(5).tolist() for part in own]
    return labels, {"labels": [figures.plain(label, 28) for label in labels], "dice": dice, "pairs": pairs}
