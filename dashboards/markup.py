"""HTML by small functions: every value is escaped here. A `Sheet` is one page; it collects the charts that its parts draw."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards import figures
from dashboards.figures import DASH
from dashboards.gallery import picture

ASSETS = ("style.css", "page.js", "plotly.min.js")
_LONGEST = 10_000  # letters of an error that are shown


@dataclass(eq=False)
class Sheet:
    """One page in the making."""

    title: str
    assets: str | None = None
    """Where style and scripts lie, relative to the page and ending in '/'; None: within the page itself."""
    figures: dict[str, go.Figure] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """What the page's script needs besides."""

    def chart(self, name: str, figure: go.Figure, label: str, *, wide: bool = False) -> str:
        """The place where a figure is drawn."""
        self.figures[name] = figure
        height = int(figure.layout.height or 400)
        box = f'<div class="chart" id="{name}" data-figure="{name}" style="min-height:{height}px"></div>'
        if wide:
            box = scrolling(f'<div class="wide">{box}</div>', f"{label}, scrolls sideways")
        return box

    def render(self, body: str, *, heading: str, navigation: str = "", source: str) -> str:
        """The page's text.

        Args:
            body: what stands between header and footer.
            heading: of the header, as HTML.
            navigation: links in the header, as HTML.
            source: where the lake is.
        """
        data = {
            "figures": {name: _figure_json(figure) for name, figure in self.figures.items()},
            "themes": figures.THEMES if self.figures else {},
            "config": figures.CONFIG,
            **self.data,
        }
        inline = self.assets is None
        scripts = [asset("page.js"), *([asset("plotly.min.js")] if self.figures else [])] if inline else []
        compiles = any("parcoords" in {trace.type for trace in figure.data} for figure in self.figures.values())
        if inline:
            style = f"<style>{asset('style.css')}</style>"
            code = "".join(f"<script>{script}</script>" for script in scripts)
        else:
            style = f'<link rel="stylesheet" href="{self.assets}style.css">'
            code = f'<script src="{self.assets}page.js"></script>'
            code += f'<script src="{self.assets}plotly.min.js" async></script>' if self.figures else ""
        return _PAGE.format(
            policy=_policy(scripts, compiles=compiles),
            style=style,
            title=text(self.title),
            heading=heading,
            navigation=navigation,
            body=body,
            built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            source=text(source),
            data=json.dumps(data, default=str).replace("<", "\\u003c"),
            code=code,
        )


def asset(name: str) -> str:
    """The content of a file that pages need."""
    return get_plotlyjs() if name == "plotly.min.js" else files("dashboards").joinpath(name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------------------- parts


def text(value: object, limit: int = 200) -> str:
    """Text safe in HTML and in attributes, of bounded length; direction overrides cannot leak out of it."""
    clean = "".join(letter if letter.isprintable() or letter.isspace() else "\ufffd" for letter in str(value)[: limit + 1])
    return html.escape(clean if len(clean) <= limit else clean[: limit - 1] + "…", quote=True)


def long_text(value: object) -> str:
    """A message of many lines."""
    return text(value, _LONGEST)


def figure_of(value: Any, digits: int) -> str:
    """A number, or a dash."""
    return DASH if value is None or pd.isna(value) or not math.isfinite(value) else f"{value:.{digits}f}"


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


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Large figures: name, value and note of each, as HTML."""
    inner = "".join(
        f'<div class="tile"><dt>{name}</dt><dd><b>{value}</b><span>{note}</span></dd></div>' for name, value, note in items
    )
    return f'<dl class="summary">{inner}</dl>'


def scrolling(content: str, label: str, more: str = "") -> str:
    """A part that scrolls by itself, also by keyboard."""
    return f'<div class="scroll{more}" tabindex="0" role="region" aria-label="{text(label)}">{content}</div>'


def panel(title: str, content: str, caption: str = "", *, more: str = "", wide: bool = False) -> str:
    """A chart or table with its title and its caption; all but the title as HTML."""
    words = f'<p class="caption">{caption}</p>' if caption else ""
    kind = "panel full" if wide else "panel"
    return f'<section class="{kind}" aria-label="{text(title)}"><h3>{text(title)}</h3>{content}{words}{more}</section>'


def empty(title: str, sentence: str, *, wide: bool = False) -> str:
    """A panel that has nothing to show yet, and says what to do."""
    return panel(title, f'<p class="empty">{text(sentence, 500)}</p>', wide=wide)


def plain_table(frame: pd.DataFrame, label: str) -> str:
    """A table of words and figures as they are."""
    heads = "".join(f'<th scope="col"{_align(frame[name])}>{text(name)}</th>' for name in frame)
    aligned = [_align(frame[name]) for name in frame]
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{text(value)}</td>" for kind, value in zip(aligned, row, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return scrolling(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>", label)


def details(title: str, content: str) -> str:
    """What is folded away."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def pictures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Pictured cases: image, outlines of truth and prediction, uncertainty."""
    return f"""<p class="legend">
<label><input type="checkbox" data-outline="truth" checked><span class="key truth"></span>truth, solid</label>
<label><input type="checkbox" data-outline="prediction" checked><span class="key prediction"></span>prediction, dashed</label></p>
<div class="cases">{"".join(map(_case, rows))}</div>"""


def _case(row: Mapping[str, Any]) -> str:
    case, dice = text(row["case"]), figure_of(row["dice"], 3)
    drawn = picture(row["image"], row["truth"], row["prediction"], row.get("uncertainty"))
    if drawn is None:
        content = '<p class="empty">The picture of this case is missing or damaged.</p>'
    else:
        box = f'viewBox="0 0 {drawn.width} {drawn.height}" role="img"'
        size = f'width="{drawn.width}" height="{drawn.height}"'
        image = f'<image href="{drawn.image}" {size}/>'
        paths = "".join(
            f'<g class="{kind}"><path class="halo" d="{path}"/><path d="{path}"/></g>'
            for kind, path in (("truth", drawn.truth), ("prediction", drawn.prediction))
        )
        content = (
            f'<svg {box} aria-label="Case {case}: image">{image}</svg>'
            f'<svg {box} aria-label="Case {case}: outlines of truth and prediction, Dice {dice}">{image}{paths}</svg>'
        )
        if drawn.uncertainty:
            content += f'<svg {box} aria-label="Case {case}: uncertainty"><image href="{drawn.uncertainty}" {size}/></svg>'
        content = f'<div class="panels of-{content.count("<svg")}">{content}</div>'
    return (
        f'<figure class="case" role="group" aria-label="Case {case}">{content}<figcaption><span class="badge {row["place"]}">'
        f"{row['place']}</span> {case}: <b>Dice {dice}</b></figcaption></figure>"
    )


def _align(values: pd.Series) -> str:
    words = [str(value) for value in values]
    return ' class="num"' if words and all(word[:1] in "+-<0123456789–" for word in words) else ""


def _figure_json(figure: go.Figure) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(figure.to_json(validate=False))
    content["layout"].pop("template", None)  # the page sets one template per theme for all charts
    return content


def _policy(scripts: Sequence[str], *, compiles: bool) -> str:
    """Only the page's own scripts may run, and nothing may be loaded from elsewhere, or sent.

    Args:
        scripts: the texts of the inline scripts; none where they lie in files beside the page. `file:` is for browsers to which
            the files beside a page that was opened from a folder are not its own.
        compiles: whether a chart draws by WebGL, for which plotly.js compiles functions from text ('unsafe-eval').
    """
    sources = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    own = "" if scripts else "'self' file: "
    allowed = " ".join([*sources, *(["'unsafe-eval'"] if compiles else [])])
    return (
        f"default-src 'none'; script-src {own}{allowed}; style-src {own}'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
{style}
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header><div class="page">{heading}{navigation}</div></header>
<main id="main" class="page" tabindex="-1">
{body}
</main>
<footer class="page">Built {built} from <code>{source}</code>. Charts are interactive: drag to zoom, double-click to reset.</footer>
<noscript><p class="page empty">Charts and sorting need JavaScript; the tables above are complete without it.</p></noscript>
<script type="application/json" id="data">{data}</script>
{code}
</body>
</html>
"""
