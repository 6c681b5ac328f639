"""Pages from templates: autoescape is on, and whatever is printed is text of bounded length without surprises."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards import ranking
from dashboards.pages.charts import Chart, compile_functions, script_data
from dashboards.pages.words import clean, digits, duration, moment, printed
from dashboards.summaries import DASH

ASSETS = ("style.css", "page.js", "plotly.min.js")
"""The files that pages need."""


def render(template: str, charts: Sequence[Chart], source: str, assets: str | None, **parts: Any) -> str:
    """The text of a page.

    Args:
        template: a file of `templates`.
        charts: all that the page's script draws.
        source: where the lake is.
        assets: where style and scripts lie, relative to the page and ending in '/'; None: within the page itself.
        parts: what the template shows.
    """
    data = script_data(charts)
    scripts = ["page.js", "plotly.min.js"] if data["figures"] else ["page.js"]
    if data["figures"] and assets is not None:
        data["plotly"] = f"{assets}plotly.min.js"
    built, compiles = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), compile_functions(charts)
    common = {"assets": assets, "built": built, "charts": charts, "compiles": compiles, "data": data, "source": source}
    return _environment().get_template(template).render(inline_scripts=scripts if assets is None else [], **common, **parts)


@cache
def asset(name: str) -> str:
    """The content of one of the `ASSETS`."""
    if name == "plotly.min.js":
        return str(get_plotlyjs())
    room = "dashboards" if name == "style.css" else "dashboards.pages"
    return files(room).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    loader = PackageLoader("dashboards.pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=printed)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.policies["json.dumps_kwargs"] = {"default": str}
    environment.filters |= {"clean": clean, "digits": digits, "duration": duration, "moment": moment, "sha256": _sha256}
    environment.filters["inline"] = lambda name: Markup(asset(name))
    environment.filters["right_aligned"] = lambda frame: [_are_figures(frame[name]) for name in frame]
    environment.filters["setting"] = lambda value: ranking.setting(value)[0]
    environment.tests["missing"] = lambda value: pd.api.types.is_scalar(value) and pd.isna(value)
    environment.globals["DASH"] = DASH
    return environment


@cache
def _sha256(name: str) -> str:
    """The hash by which a policy knows an inline script."""
    return base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode()


def _are_figures(values: pd.Series) -> bool:
    """Whether a column holds figures: they are aligned to the right."""
    words = [str(value) for value in values]
    return bool(words) and all(word[:1] in "+-<0123456789–" for word in words)
