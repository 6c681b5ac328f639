"""Values in words, as pages say them."""

import math
from typing import Any

import pandas as pd
from markupsafe import Markup

from dashboards.summaries import DASH


class Clean(str):
    """Text that `clean` has cut to a length of its own."""


def clean(value: object, limit: int | None = 200) -> str:
    """Any value as text of bounded length, out of which no control character or direction override leaks."""
    text = str(value) if limit is None else str(value)[: limit + 1]
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() or letter.isspace() else "\ufffd" for letter in text)
    return Clean(text if limit is None or len(text) <= limit else text[: limit - 1] + "…")


def printed(value: object) -> str:
    """What a template prints of a value: it is cleaned, unless that has been done, or a template has made it."""
    return value if isinstance(value, (Clean, Markup)) else clean(value)


def digits(value: Any, count: int) -> str:
    """A number with so many digits, or a dash."""
    return DASH if value is None or pd.isna(value) or not math.isfinite(value) else f"{value:.{count}f}"


def duration(seconds: Any) -> str:
    """In the unit that suits."""
    if seconds is None or pd.isna(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def moment(time: Any) -> str:
    """A time of day in UTC."""
    return DASH if time is None or pd.isna(time) else f"{time:%Y-%m-%d %H:%M} UTC"
