"""Axes: where values stand on them, and what is written beside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.theme import plain
from dashboards.summaries import DASH, parameter_name


def dimension(values: pd.Series, column: str, length: int = 22) -> dict[str, Any]:
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


def ticks(axis: Mapping[str, Any]) -> dict[str, Any]:
    """What Plotly is told of an axis' own ticks."""
    return {name: axis[name] for name in ("tickvals", "ticktext") if name in axis}


def in_words(values: pd.Series) -> list[str]:
    """Values as text, a dash where there are none."""
    return [DASH if value is None or value is pd.NA or value != value else _word(value) for value in values.map(_listed)]


def count_along_x(figure: go.Figure, values: pd.Series) -> None:
    """Whole numbers below the axis; few of them would otherwise be named twice, at halves."""
    figure.update_xaxes(tickformat="d", dtick=1 if len(values) and values.max() - values.min() <= 8 else None)


def log_ticks(values: pd.Series) -> dict[str, Any]:
    """Marks at 1, 2 and 5 of every power of ten; Plotly's own have small digits between them."""
    positive = values[values > 0]
    if positive.empty:
        return {}
    powers = range(int(np.floor(np.log10(positive.min()))), int(np.ceil(np.log10(positive.max()))) + 1)
    marks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}


def _listed(value: Any) -> Any:
    return str(value.tolist()) if hasattr(value, "__len__") and hasattr(value, "tolist") else value


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
