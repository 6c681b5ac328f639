"""The leaderboard as one HTML page: boards in, text out. Every value from the lake is escaped here."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards import figures, summaries
from dashboards.gallery import picture
from dashboards.published import Published, published
from dashboards.summaries import Board

MAX_TABLE_ROWS = 1000
MAX_FAILURES = 50
MAX_IMPROVEMENTS = 100
_DASH = "–"
_KINDS = {"searched": "searched", "published": "as published", "unet": "plain U-Net"}
_STATUSES = ("finished", "stopped", "running", "pending", "interrupted", "infeasible", "diverged", "failed")
_TIMESTEPS, _LATENT = "config.diffusion.timesteps", "config.model.latent_size"

Pictures = Callable[[Board], Sequence[Mapping[str, Any]]]
"""The gallery rows of a board with their PNGs: fetched only when needed."""


@dataclass(frozen=True)
class _Column:
    """A column of the ranking table: its heading, a tooltip, and a trial's cell as (shown HTML, value to sort by)."""

    heading: str
    explanation: str
    cell: Callable[[Mapping[str, Any]], tuple[str, float | str | None]]
    numeric: bool = True


def render(boards: Sequence[Board], source: str, pictures: Pictures) -> str:
    """The whole page, self-contained: nothing is loaded from anywhere."""
    charts: dict[str, go.Figure] = {}
    sections = "".join(_section(place, board, charts, pictures(board)) for place, board in enumerate(boards, 1))
    links = "".join(f'<a href="#dataset-{place}">{_text(board.dataset)}</a>' for place, board in enumerate(boards, 1))
    data = {
        "figures": {name: _figure_json(figure) for name, figure in charts.items()},
        "themes": figures.THEMES,
        "config": figures.CONFIG,
    }
    scripts = [get_plotlyjs() if charts else "", _asset("page.js")]
    return _PAGE.format(
        policy=_policy(scripts, compiles=any(name.endswith("-parallel") for name in charts)),
        style=_asset("style.css"),
        links=f'<nav aria-label="Datasets">{links}</nav>' if len(boards) > 1 else "",
        summary=_summary(boards),
        sections=sections,
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        source=_text(source),
        data=json.dumps(data, default=str).replace("<", "\\u003c"),
        plotly=f"<script>{scripts[0]}</script>" if charts else "",
        script=scripts[1],
    )


# -------------------------------------------------------------------------------------------------------------------- sections


def _summary(boards: Sequence[Board]) -> str:
    trials = pd.concat([board.trials for board in boards]) if boards else pd.DataFrame()
    tiles = []
    for board in boards:
        best = board.trials.iloc[0] if len(board.trials) and pd.notna(board.trials["score"].iloc[0]) else None
        note = (
            f"{_text(board.dataset)}, trial {_text(best['label'])}"
            if best is not None
            else f"{_text(board.dataset)}: no trial scored yet"
        )
        tiles.append(("Best validation Dice", _number(None if best is None else best["score"], 4), note))
    counts = trials["status"].fillna("unknown").value_counts() if len(trials) else pd.Series(dtype=int)
    states = ", ".join(f"{count} {_text(status)}" for status, count in counts.items()) or "none started yet"
    tiles.append(("Trials", str(len(trials)), states))
    gpu, cpu = (float(trials[name].sum()) if len(trials) else 0.0 for name in ("gpu_seconds", "cpu_seconds"))
    main = ("GPU time", gpu) if gpu > 0 else ("CPU time", cpu)
    other = f"and {_duration(cpu)} of CPU time" if gpu > 0 and cpu > 0 else "added over all trials"
    tiles.append((main[0], _duration(main[1]), other))
    items = "".join(
        f'<div class="tile"><dt>{name}</dt><dd><b>{value}</b><span>{note}</span></dd></div>' for name, value, note in tiles
    )
    return f'<dl class="summary">{items}</dl>'


def _section(place: int, board: Board, charts: dict[str, go.Figure], pictures: Sequence[Mapping[str, Any]]) -> str:
    name = f"dataset-{place}"
    searches = "Search" if len(board.experiments) == 1 else "Searches"
    protocol = f". {_text(board.protocol, 500)}" if board.protocol else ""
    return f"""
<section id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{_text(board.dataset)}</h2>
<p class="muted">{searches}: {", ".join(_text(item) for item in board.experiments)}{protocol}</p>
{_ranking(name, board)}
<div class="pair">
{_history(name, board, charts)}
{_curves(name, board, charts)}
</div>
{_tradeoffs(name, board, charts)}
{_parallel(name, board, charts)}
{_gallery(board, pictures)}
</section>"""


def _history(name: str, board: Board, charts: dict[str, go.Figure]) -> str:
    scored = int(board.trials["score"].notna().sum())
    if not scored:
        return _empty(
            "Optimisation history",
            "No trial has a validation Dice yet. The first appears after the first epoch of the first trial.",
        )
    charts[f"{name}-history"] = figures.optimisation_history(board.trials)
    missing = len(board.trials) - scored
    caption = (
        "Each mark is one trial, placed by the order of its start; the green line is the best validation Dice so far. "
        "While the line still climbs, more trials are likely to pay off."
        + (f" {missing} of {len(board.trials)} trials ended or run without a Dice and have no mark." if missing else "")
    )
    steps = summaries.improvements(board.trials).tail(MAX_IMPROVEMENTS)
    rows = "".join(
        f"<tr><td>{row.position}</td><td>{_text(row.label)}</td><td>{row.score:.4f}</td></tr>" for row in steps.itertuples()
    )
    title = f"The last {len(steps)} trials" if len(steps) == MAX_IMPROVEMENTS else "The trials"
    title += " that improved on all before"
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in ("Order", "Trial", "Validation Dice"))
    table = (
        f'<details><summary>{title}</summary><div class="scroll">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
    return _chart(f"{name}-history", "Optimisation history", caption, table)


def _curves(name: str, board: Board, charts: dict[str, go.Figure]) -> str:
    points, left_out = summaries.curves(board.trials, board.metrics)
    if points.empty:
        return _empty(
            "Learning curves", "No epoch has been reported with a Dice yet. Curves appear as soon as a trial ends its first epoch."
        )
    charts[f"{name}-curves"] = figures.learning_curves(board.trials, board.metrics)
    drawn = points["place"].nunique()
    coloured = min(drawn, summaries.HIGHLIGHTED_CURVES)
    caption = (
        f"Validation Dice after each epoch: {'the best trial' if coloured == 1 else f'the best {coloured} trials'} in colour"
        + (f", {drawn - coloured} more in grey" if drawn > coloured else "")
        + ". A short curve belongs to a trial that was stopped early or is still running."
        + (f" {left_out} lower-ranked trials are left out." if left_out else "")
    )
    return _chart(f"{name}-curves", "Learning curves", caption)


def _tradeoffs(name: str, board: Board, charts: dict[str, go.Figure]) -> str:
    title = "Dice and the time for a mask"
    if board.tradeoffs.empty:
        return _empty(title, "No trial has been scored by the full protocol yet. Points appear when the first trial finishes.")
    charts[f"{name}-tradeoffs"] = figures.dice_and_seconds(board.tradeoffs)
    front = board.tradeoffs[board.tradeoffs["on_front"]].sort_values("seconds")
    caption = (
        "Each grey line is one trial, from one vote on the left to all its votes on the right. Up and to the left is better; the "
        "green line joins the points that no other beats in both, so the choice is among these. Seconds are for one case by the "
        "full protocol, on the machine that ran the trial."
    )
    rows = "".join(
        f"<tr><td>{_text(row.label)}</td><td>{row.votes}</td><td>{row.dice:.4f}</td><td>{row.seconds:.3g}</td></tr>"
        for row in front.itertuples()
    )
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in ("Trial", "Votes", "Dice", "Seconds per case"))
    table = (
        f'<details><summary>The {len(front)} point{"s" * (len(front) > 1)} that none beats</summary><div class="scroll">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
    return _chart(f"{name}-tradeoffs", title, caption, table)


def _parallel(name: str, board: Board, charts: dict[str, go.Figure]) -> str:
    title = "Searched parameters"
    rows, columns, left_out = summaries.parallel(board.trials, board.searched)
    if len(rows) < 2 or not columns:
        return _empty(title, "This chart compares trials: it needs at least two with a Dice that differ in a searched parameter.")
    charts[f"{name}-parallel"] = figures.parallel_coordinates(board.trials, board.searched)
    fixed = [figures.parameter_name(column) for column in board.searched if column not in columns]
    caption = (
        "Each line is one trial: it crosses every axis at the trial's value and ends at its Dice, which also gives its colour. "
        "Drag along an axis to keep only the lines that pass there; drag an axis title to reorder."
        + (f" The same in all trials, so not drawn: {_text(', '.join(fixed))}." if fixed else "")
        + (
            f" {left_out} trials are left out (a value is missing, or beyond {summaries.MAX_PARALLEL_ROWS} lines)."
            if left_out
            else ""
        )
    )
    return _chart(f"{name}-parallel", title, caption, wide=True)


def _gallery(board: Board, rows: Sequence[Mapping[str, Any]]) -> str:
    title = "Best and worst cases"
    if not rows:
        return _empty(title, "No pictures yet: a trial that ends adds masks of its best and worst cases.")
    cards = []
    for row in rows:
        case, dice = _text(row["case"]), _number(row["dice"], 3)
        drawn = picture(row["image"], row["truth"], row["prediction"])
        if drawn is None:
            content = '<p class="empty">The picture of this case is missing or damaged.</p>'
        else:
            box = f'viewBox="0 0 {drawn.width} {drawn.height}" role="img"'
            image = f'<image href="{drawn.image}" width="{drawn.width}" height="{drawn.height}"/>'
            paths = "".join(
                f'<g class="{kind}"><path class="halo" d="{path}"/><path d="{path}"/></g>'
                for kind, path in (("truth", drawn.truth), ("prediction", drawn.prediction))
            )
            content = (
                f'<div class="panels"><svg {box} aria-label="Case {case}: image">{image}</svg>'
                f'<svg {box} aria-label="Case {case}: outlines of truth and prediction, Dice {dice}">{image}{paths}</svg></div>'
            )
        cards.append(
            f'<figure class="case" role="group" aria-label="Case {case}">{content}<figcaption><span class="badge {row["place"]}">'
            f"{row['place']}</span> {case}: <b>Dice {dice}</b></figcaption></figure>"
        )
    split, votes = _text(rows[0]["split"]), rows[0]["votes"]
    how = f" by majority of {int(votes)} votes" if pd.notna(votes) and votes > 1 else ""
    return f"""
<section class="panel" aria-label="{title}"><h3>{title}</h3>
<p class="legend"><label><input type="checkbox" data-outline="truth" checked><span class="key truth"></span>truth, solid</label>
<label><input type="checkbox" data-outline="prediction" checked><span class="key prediction"></span>prediction, dashed</label></p>
<div class="cases">{"".join(cards)}</div>
<p class="caption">Trial {_text(rows[0]["label"])}, {split} split{how}. Left the image, right the same image with the outlines
of the true mask and of the predicted one; where both coincide, the mask is right.</p></section>"""


def _chart(name: str, title: str, caption: str, more: str = "", *, wide: bool = False) -> str:
    box = f'<div class="chart" id="{name}" data-figure="{name}"></div>'
    if wide:
        label = f"{title}, scrolls sideways"
        box = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><div class="wide">{box}</div></div>'
    return f"""<figure class="panel" role="group" aria-label="{title}"><h3>{title}</h3>
{box}<figcaption class="caption">{caption}</figcaption>{more}</figure>"""


def _empty(title: str, sentence: str) -> str:
    return f'<div class="panel"><h3>{title}</h3><p class="empty">{sentence}</p></div>'


# --------------------------------------------------------------------------------------------------------------- ranking table


def _ranking(name: str, board: Board) -> str:
    others = published(board.dataset)
    if board.trials.empty and not others:
        return _empty("Ranking", "This search has no trials yet. Rows appear as soon as its first trial starts.")
    columns = _columns(board, others)
    shown = board.trials.head(MAX_TABLE_ROWS)
    rows = [(row["score"], _trial_row(row, columns)) for row in summaries.records(shown)]
    rows += [(other.dice, _published_row(other, columns)) for other in others]
    rows.sort(key=lambda row: -row[0] if pd.notna(row[0]) else math.inf)
    heads = "".join(
        f'<th scope="col" title="{_text(column.explanation)}"{" class=num" if column.numeric else ""} '
        f'aria-sort="none"><button type="button">{_text(column.heading)}</button></th>'
        for column in columns
    )
    left_out = len(board.trials) - len(shown)
    notes = [
        "Ranked by validation Dice (best epoch, on the search's validation cases). Final Dice and IoU score the best checkpoint "
        "by the full protocol with majority vote, on the validation split; Dice and IoU are fractions, higher is better."
    ]
    if board.trials["p_holm"].notna().any():
        notes.append(
            "A p above 0.05 means that the cases do not tell the trial from the best one: its place may be luck. "
            "The best of many is also luckier than it will be on new cases."
        )
    if others:
        notes.append(
            "Striped rows are published test figures, placed by their Dice for comparison: protocols differ, and those marked "
            "“selected on test” chose their checkpoint by the very figure they report."
        )
    elif not board.trials.empty:
        notes.append("Nothing published is known for this dataset.")
    if left_out:
        notes.append(f"{left_out} lower-ranked trials are left out.")
    empty = "" if len(board.trials) else '<p class="empty">This search has no trials of its own yet.</p>'
    return f"""<section class="panel" aria-labelledby="{name}-ranking"><h3 id="{name}-ranking">Ranking</h3>{empty}
<div class="scroll table" tabindex="0" role="region" aria-labelledby="{name}-ranking">
<table class="ranking"><thead><tr>{heads}</tr></thead>
<tbody>{"".join(row for _, row in rows)}</tbody></table></div>
<p class="caption">{" ".join(notes)} Press a heading to sort by it.</p>{_failures(board)}</section>"""


def _failures(board: Board) -> str:
    """Why trials failed, diverged or ran out of memory, in order of proposal."""
    trials = board.trials[board.trials["status"].isin(["failed", "diverged", "infeasible"])].sort_values("number", kind="stable")
    if trials.empty:
        return ""
    items = "".join(
        f"<li><b>{_text(row['label'])}</b> {_text(row['status'])}: <span>{_text(_why(row), 2000)}</span></li>"
        for row in summaries.records(trials.head(MAX_FAILURES))
    )
    more = f"<p>{len(trials) - MAX_FAILURES} more are left out.</p>" if len(trials) > MAX_FAILURES else ""
    title = f"Why {len(trials)} trial{'' if len(trials) == 1 else 's'} failed, diverged or ran out of memory"
    return f'<details class="failures"><summary>{title}</summary><ul>{items}</ul>{more}</details>'


def _why(row: Mapping[str, Any]) -> str:
    texts = (row["error"], row["reason"])
    return next((str(text) for text in texts if pd.notna(text) and str(text).strip()), "no reason was recorded")


def _columns(board: Board, others: Sequence[Published]) -> list[_Column]:
    trials = board.trials
    voted = "Best checkpoint, full protocol, majority vote, validation split"
    columns = [
        _Column("Rank", "Place by validation Dice; equal Dice shares a place", lambda row: _cell(row["rank"], 0)),
        _Column("Trial", "Number in order of proposal", _trial_cell, numeric=False),
        _Column("Validation Dice", "Best epoch, on the search's validation cases", _figure_of("score")),
        _Column("Final Dice", voted, _figure_of("final_dice")),
        _Column("Final IoU", voted, _figure_of("final_iou")),
    ]
    if trials["low"].notna().any():
        columns.insert(4, _Column("95 % interval", "Of the final Dice: bootstrap over the validation cases", _interval_cell))
    if trials["p_holm"].notna().any():
        tested = "That it differs from the best final Dice on the same cases: paired Wilcoxon test, Holm-corrected over all trials"
        columns.append(_Column("p", tested, _p_cell))
    for name, heading, quoted in (
        ("test_dice", "Test Dice", bool(others)),
        ("test_iou", "Test IoU", any(other.iou for other in others)),
    ):
        if quoted or trials[name].notna().any():
            columns.append(_Column(heading, "On the held-out test split", _figure_of(name)))
    columns += [
        _Column("Kind", "Who proposed the settings", lambda row: _badge(_KINDS.get(str(row["kind"]), row["kind"])), numeric=False),
        _Column("Status", "How the trial stands or ended", _status_cell, numeric=False),
    ]
    for column, heading in ((_TIMESTEPS, "Time steps"), (_LATENT, "Latent size")):
        if column in trials:
            columns.append(_Column(heading, column.removeprefix("config."), _value_of(column)))
    for column in board.searched:
        if column not in (_TIMESTEPS, _LATENT):
            numeric = pd.api.types.is_numeric_dtype(trials[column])
            columns.append(
                _Column(figures.parameter_name(column), column.removeprefix("config."), _value_of(column), numeric=numeric)
            )
    columns += [
        _Column("Epochs", "Epochs trained", lambda row: _cell(row["epochs"], 0)),
        _Column("s / case", "Seconds to predict one case", lambda row: _cell(row["seconds_per_case"], 3)),
    ]
    for seconds, heading in (("gpu_seconds", "GPU-h"), ("cpu_seconds", "CPU-h")):
        if trials[seconds].fillna(0).gt(0).any():
            columns.append(_Column(heading, f"{heading[:3]}-hours used", _hours_of(seconds)))
    return columns


def _trial_row(row: Mapping[str, Any], columns: Sequence[_Column]) -> str:
    return "<tr>" + "".join(_td(column, *column.cell(row)) for column in columns) + "</tr>"


def _published_row(other: Published, columns: Sequence[_Column]) -> str:
    mark = ' <span class="badge warn">selected on test</span>' if other.selected_on_test else ""
    cells: dict[str, tuple[str, float | str | None]] = {
        "Trial": (_text(other.who), other.who),
        "Kind": ('<span class="badge">literature</span>', "literature"),
        "Test Dice": _cell(other.dice, 4),
        "Test IoU": _cell(other.iou, 4),
    }
    own = max(place for place, column in enumerate(columns, 1) if column.heading in cells)
    tds = "".join(_td(column, *cells.get(column.heading, (_DASH, None))) for column in columns[:own])
    return f'<tr class="published">{tds}<td colspan="{len(columns) - own}">{_text(other.protocol)}{mark}</td></tr>'


def _td(column: _Column, shown: str, value: float | str | None) -> str:
    kind = ' class="num"' if column.numeric else ""
    tag, scope = ("th", ' scope="row"') if column.heading == "Trial" else ("td", "")
    return f'<{tag}{scope}{kind} data-value="{_text("" if value is None else value)}">{shown}</{tag}>'


def _trial_cell(row: Mapping[str, Any]) -> tuple[str, float | str | None]:
    number = row["number"]
    return _text(row["label"], 80), float(number) if pd.notna(number) else str(row["label"])


def _status_cell(row: Mapping[str, Any]) -> tuple[str, float | str | None]:
    status = str(row["status"]) if pd.notna(row["status"]) else "unknown"
    return f'<span class="status {status if status in _STATUSES else "unknown"}">{_text(status, 40)}</span>', status


def _value_of(column: str) -> Callable[[Mapping[str, Any]], tuple[str, float | str | None]]:
    def cell(row: Mapping[str, Any]) -> tuple[str, float | str | None]:
        value = row[column]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return _DASH, None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:g}", float(value)
        text = str(value.tolist() if hasattr(value, "tolist") else value)
        return _text(text, 60), text[:60]

    return cell


def _figure_of(column: str) -> Callable[[Mapping[str, Any]], tuple[str, float | str | None]]:
    return lambda row: _cell(row[column], 4)


def _interval_cell(row: Mapping[str, Any]) -> tuple[str, float | str | None]:
    if pd.isna(row["low"]):
        return _DASH, None
    return f"{row['low']:.3f}–{row['high']:.3f}", float(row["low"])


def _p_cell(row: Mapping[str, Any]) -> tuple[str, float | str | None]:
    if pd.isna(row["p_holm"]):
        return ("best", 2.0) if row["best"] is True else (_DASH, None)
    return "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}", float(row["p_holm"])


def _hours_of(seconds: str) -> Callable[[Mapping[str, Any]], tuple[str, float | str | None]]:
    def cell(row: Mapping[str, Any]) -> tuple[str, float | str | None]:
        hours = row[seconds] / 3600 if pd.notna(row[seconds]) else None
        return _cell(hours, 3 if hours is not None and hours < 1 else 1)

    return cell


# ------------------------------------------------------------------------------------------------------------------ small parts


def _text(value: object, limit: int = 200) -> str:
    """Text safe in HTML and in attributes, of bounded length; direction overrides cannot leak out of it."""
    text = "".join(letter if letter.isprintable() or letter.isspace() else "\ufffd" for letter in str(value))
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=True)


def _number(value: Any, digits: int) -> str:
    return _DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _cell(value: Any, digits: int) -> tuple[str, float | str | None]:
    finite = value is not None and not pd.isna(value) and math.isfinite(value)
    return (f"{value:.{digits}f}", float(value)) if finite else (_DASH, None)


def _badge(value: object) -> tuple[str, float | str | None]:
    if value is None or value != value:
        return _DASH, None
    return f'<span class="badge {"own" if value == "searched" else "reference"}">{_text(value)}</span>', str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _figure_json(figure: go.Figure) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(figure.to_json())
    content["layout"].pop("template", None)  # the page sets one template per theme for all charts
    return content


def _asset(name: str) -> str:
    return files("dashboards").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], *, compiles: bool) -> str:
    """Only the page's own scripts may run, and nothing may be loaded or sent.

    Args:
        scripts: the texts of the inline scripts.
        compiles: whether a chart draws by WebGL, for which plotly.js compiles functions from text ('unsafe-eval').
    """
    sources = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts if script]
    sources += ["'unsafe-eval'"] if compiles else []
    return (
        f"default-src 'none'; script-src {' '.join(sources)}; style-src 'unsafe-inline'; img-src data: blob:; "
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
<title>cDAL Search leaderboard</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header><div class="page"><h1>cDAL Search <span>leaderboard</span></h1>{links}</div></header>
<main id="main" class="page" tabindex="-1">
{summary}
{sections}
</main>
<footer class="page">Built {built} from <code>{source}</code>. Charts are interactive: drag to zoom, double-click to reset.</footer>
<noscript><p class="page empty">Charts and sorting need JavaScript; the tables above are complete without it.</p></noscript>
<script type="application/json" id="data">{data}</script>
{plotly}
<script>{script}</script>
</body>
</html>
"""
