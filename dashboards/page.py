"""The pages: an overview of the lake, a page per experiment and per trial, or everything in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pandas as pd

from dashboards import figures, ranking, summaries
from dashboards.figures import DASH
from dashboards.markup import (
    Sheet,
    details,
    duration,
    empty,
    figure_of,
    long_text,
    moment,
    panel,
    pictures,
    plain_table,
    scrolling,
    text,
    tiles,
)
from dashboards.panels import GROUPS, PANELS, TRIAL_PANELS, Drawn, Panel
from dashboards.summaries import Board, Rows, Trial

MAX_FAILURES = 50
MAX_CASES = 500  # rows of a trial's table
WORST = 5
_ON_THE_OVERVIEW = ("history", "tradeoffs")
_OVERVIEW_ROWS, _ROWS = 100, 500  # of a ranking
_PARALLEL_CHARTS = 2  # of one page: each takes three of the few WebGL contexts that a browser has
_FAILED = ("failed", "diverged", "infeasible")
_STATUSES = ("finished", "stopped", "running", "pending", "interrupted", "infeasible", "diverged", "failed")
_GALLERY = "Best, median and worst cases"

Pictures = Callable[[pd.DataFrame], Sequence[Mapping[str, Any]]]
"""Rows of the gallery with their PNGs: fetched only when needed."""


@dataclass(frozen=True)
class Links:
    """Where other pages are, relative to the page at hand; None where there is no such page."""

    experiment: Callable[[str], str | None] = lambda name: None
    trial: Callable[[str, str], str | None] = lambda experiment, trial_id: None


def overview(rows: Rows, boards: Sequence[Board], source: str, find: Pictures, links: Links, assets: str, notes: str) -> str:
    """The first page of a site: all datasets and experiments."""
    sheet = Sheet("cDAL Search leaderboard", assets)
    sections = []
    for place, board in enumerate(boards, 1):
        name = f"dataset-{place}"
        shown = [_panel(sheet, name, board, item) for item in PANELS if item.name in _ON_THE_OVERVIEW]
        middle = board.gallery.groupby("place", sort=False).head(1)
        more = [
            _experiments(rows, board, links),
            _ranking(name, board, links, _OVERVIEW_ROWS),
            f'<div class="grid">{"".join(shown)}</div>',
            _gallery(board, find(middle)),
        ]
        sections.append(_dataset(name, board, "".join(more)))
    left_out = f'<p class="muted lead">{text(notes, 1000)}</p>' if notes else ""
    body = _summary(boards) + left_out + "".join(sections)
    return sheet.render(body, heading=_TITLE, navigation=_datasets(boards), source=source)


def everything(boards: Sequence[Board], source: str, find: Pictures) -> str:
    """All datasets on one self-contained page."""
    sheet = Sheet("cDAL Search leaderboard")
    sections = []
    for place, board in enumerate(boards, 1):
        name = f"dataset-{place}"
        shown = [
            empty(
                item.title,
                "One page holds two such charts; python dashboards/leaderboard.py --out FOLDER draws this one.",
                wide=True,
            )
            if item.name == "parallel" and place > _PARALLEL_CHARTS
            else _panel(sheet, name, board, item)
            for item in PANELS
        ]
        content = (
            _ranking(name, board, Links()) + f'<div class="grid">{"".join(shown)}</div>' + _gallery(board, find(board.gallery))
        )
        sections.append(_dataset(name, board, content))
    body = _summary(boards) + "".join(sections)
    return sheet.render(body, heading=_TITLE, navigation=_datasets(boards), source=source)


def experiment(board: Board, source: str, find: Pictures, links: Links, assets: str, home: str) -> str:
    """The page of one experiment."""
    (name,) = board.experiments
    sheet = Sheet(f"{name} – cDAL Search", assets)
    groups = []
    for place, group in enumerate(GROUPS):
        shown = "".join(_panel(sheet, "chart", board, item) for item in PANELS if item.group == group)
        groups.append(
            f'<section aria-labelledby="group-{place}"><h2 id="group-{place}">{group}</h2><div class="grid">{shown}</div></section>'
        )
    body = (
        f'<p class="muted lead">{text(board.dataset)}{_protocol(board)}</p>'
        + _summary([board])
        + _ranking("experiment", board, links)
        + "".join(groups)
        + _gallery(board, find(board.gallery))
        + _description(board.descriptions[name])
    )
    places = "".join(f'<a href="#group-{place}">{group}</a>' for place, group in enumerate(GROUPS))
    navigation = f'<nav aria-label="Pages"><a href="{home}">All experiments</a></nav><nav aria-label="On this page">{places}</nav>'
    return sheet.render(body, heading=f"<h1>{text(name)} <span>experiment</span></h1>", navigation=navigation, source=source)


def trial_page(trial: Trial, source: str, find: Pictures, assets: str, home: str, up: str) -> str:
    """The page of one trial."""
    row = trial.row
    sheet = Sheet(f"Trial {row['label']} of {row['experiment']} – cDAL Search", assets)
    shown = "".join(_panel(sheet, "chart", trial, item) for item in TRIAL_PANELS)
    cases = find(trial.gallery)
    body = (
        _trial_summary(row)
        + _how_it_ended(row)
        + f'<div class="grid">{shown}</div>'
        + (
            _pictured(cases, "Its cases")
            if cases
            else empty("Its cases", "No pictures of this trial: one that finishes adds them.")
        )
        + _cases(trial.cases)
        + _settings(trial.settings)
        + _environment(trial)
    )
    navigation = f'<nav aria-label="Pages"><a href="{home}">All experiments</a><a href="{up}">{text(row["experiment"])}</a></nav>'
    return sheet.render(body, heading=f"<h1>Trial {text(row['label'])} {_status(row)}</h1>", navigation=navigation, source=source)


# ------------------------------------------------------------------------------------------------------------- parts of boards


_TITLE = "<h1>cDAL Search <span>leaderboard</span></h1>"


def _datasets(boards: Sequence[Board]) -> str:
    links = "".join(f'<a href="#dataset-{place}">{text(board.dataset)}</a>' for place, board in enumerate(boards, 1))
    return f'<nav aria-label="Datasets">{links}</nav>' if len(boards) > 1 else ""


def _dataset(name: str, board: Board, content: str) -> str:
    searches = "Experiment" if len(board.experiments) == 1 else "Experiments"
    about = f"{searches}: {', '.join(text(item) for item in board.experiments)}{_protocol(board)}"
    return f"""
<section id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{text(board.dataset)}</h2>
<p class="muted">{about}</p>
{content}
</section>"""


def _protocol(board: Board) -> str:
    return f". {text(board.protocol, 500)}" if board.protocol else ""


def _summary(boards: Sequence[Board]) -> str:
    items = []
    for board in boards:
        best = board.trials.iloc[0] if len(board.trials) and pd.notna(board.trials["score"].iloc[0]) else None
        known = (
            f"{text(board.dataset)}, trial {text(best['label'])}"
            if best is not None
            else f"{text(board.dataset)}: no trial scored yet"
        )
        items.append(("Best validation Dice", figure_of(None if best is None else best["score"], 4), known))
    tested = [row for board in boards for row in summaries.records(board.finalists.head(1)) if pd.notna(row["test_dice"])]
    if len(boards) == 1 and tested:
        note = f"best finalist, {int(tested[0]['cases'])} test cases, {int(tested[0]['trainings'])} trainings"
        items.append(("Test Dice", figure_of(tested[0]["test_dice"], 4), note))
    own = {id(frame): frame for board in boards for frame in (board.trials, board.trainings)}
    trials = pd.concat([frame for frame in own.values() if len(frame)]) if any(map(len, own.values())) else pd.DataFrame()
    trials = trials.drop_duplicates(["experiment", "trial_id"]) if len(trials) else trials
    counts = trials["status"].fillna("unknown").value_counts() if len(trials) else pd.Series(dtype=int)
    states = ", ".join(f"{count} {text(status)}" for status, count in counts.items()) or "none started yet"
    items.append(("Trials", str(len(trials)), states))
    gpu, cpu = (float(trials[name].sum()) if len(trials) else 0.0 for name in ("gpu_seconds", "cpu_seconds"))
    main = ("GPU time", gpu) if gpu > 0 else ("CPU time", cpu)
    other = f"and {duration(cpu)} of CPU time" if gpu > 0 and cpu > 0 else "added over all trials"
    money = float(trials["cost"].sum()) if len(trials) else 0.0
    items.append((main[0], duration(main[1]), other + (f", cost {money:.2f}" if money > 0 else "")))
    return tiles(items)


def _experiments(rows: Rows, board: Board, links: Links) -> str:
    """A line per experiment, with the way to its page."""
    lines = []
    for name in board.experiments:
        about, own = rows.descriptions[name], rows.trials[rows.trials["experiment"] == name]
        own = own[own["dataset"] == board.dataset]
        arguments = _mapping(about.get("arguments"))
        how = (
            "finalists"
            if "finalists" in about
            else ", ".join(str(arguments[key]) for key in ("sampler", "scheduler") if arguments.get(key))
        )
        href = links.experiment(name)
        shown = text(name, 120)
        scores = pd.to_numeric(own["validation_dice"], errors="coerce")
        hours = own["gpu_seconds"].sum() or own["cpu_seconds"].sum()
        cells = [
            str(len(own)),
            figure_of(scores.max(), 4),
            text(how or DASH, 60),
            moment(own["started_at"].min() if len(own) else None),
            duration(hours) if hours else DASH,
        ]
        first = f'<th scope="row">{f"<a href={chr(34)}{href}{chr(34)}>{shown}</a>" if href else shown}</th>'
        kinds = ("num", "num", "", "", "num")
        tds = "".join(f"<td{f' class={kind}' if kind else ''}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True))
        lines.append(f"<tr>{first}{tds}</tr>")
    headings = (("Experiment", ""), ("Trials", "num"), ("Best Dice", "num"), ("How", ""), ("Began", ""), ("Device time", "num"))
    heads = "".join(f'<th scope="col"{f" class={kind}" if kind else ""}>{heading}</th>' for heading, kind in headings)
    table = scrolling(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>", "Experiments", " table")
    return panel(
        "Experiments", table, "Each experiment has a page with all its charts; each of its best trials has one too.", wide=True
    )


def _panel(sheet: Sheet, name: str, subject: Any, item: Panel[Any]) -> str:
    drawn: Drawn | None = item.draw(subject)
    if drawn is None:
        return empty(item.title, item.empty, wide=item.wide)
    chart = f"{name}-{item.name}"
    content = sheet.chart(chart, drawn.figure, item.title, wide=item.wide)
    if item.name == "pairs":
        content = _choice(sheet, chart, subject) + content
    more = details(drawn.table_title, plain_table(drawn.table, drawn.table_title)) if len(drawn.table) else ""
    return panel(item.title, content, text(drawn.caption, 2000), more=more, wide=item.wide)


def _choice(sheet: Sheet, chart: str, board: Board) -> str:
    """Two lists to choose trials from, and a sentence that says how these compare."""
    own = [part for _, part in board.cases.groupby("place", sort=True)]
    found = summaries.pairs(board.cases)
    place_of = {int(part["place"].iloc[0]): order for order, part in enumerate(own)}
    sheet.data.setdefault("pairs", {})[chart] = {
        "labels": [figures.plain(part["label"].iloc[0], 28) for part in own],
        "dice": [part["dice"].round(5).tolist() for part in own],
        "pairs": {
            f"{place_of[int(row['first'])]}-{place_of[int(row['second'])]}": [
                None if pd.isna(row[key]) else round(float(row[key]), 6) for key in ("difference", "low", "high", "p")
            ]
            for row in summaries.records(found)
        },
    }

    def options(chosen: int) -> str:
        return "".join(
            f'<option value="{order}"{" selected" if order == chosen else ""}>{text(part["label"].iloc[0], 60)}</option>'
            for order, part in enumerate(own)
        )

    return f"""<div class="tools" data-pairs="{chart}" hidden>
<label>Trial <select data-side="0">{options(0)}</select></label> <label>against <select data-side="1">{options(1)}</select></label>
<output class="finding"></output></div>"""


def _gallery(board: Board, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return empty(_GALLERY, "No pictures yet: a trial that ends adds masks of its best, median and worst cases.")
    return _pictured(rows, _GALLERY)


def _pictured(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    split, votes = text(rows[0]["split"]), rows[0]["votes"]
    how = f" by majority of {int(votes)} votes" if pd.notna(votes) and votes > 1 else ""
    uncertain = any(row.get("uncertainty") is not None for row in rows)
    caption = (
        f"Trial {text(rows[0]['label'])}, {split} split{how}. First the image, then the same image with the outlines of the true "
        "mask and of the predicted one; where both coincide, the mask is right."
        + (" Last, where the votes disagree: the brighter, the less certain." if uncertain else "")
    )
    return panel(title, pictures(rows), caption, wide=True)


def _description(about: Mapping[str, Any]) -> str:
    """How an experiment was run."""
    arguments, space, versions = (_mapping(about.get(name)) for name in ("arguments", "space", "versions"))
    facts: list[tuple[str, Any]] = [
        (name.replace("_", " "), about.get(name)) for name in ("dataset", "fold_name", "source", "created_at")
    ]
    facts += [(name.replace("_", " "), arguments.get(name)) for name in ("sampler", "scheduler", "trials", "time_budget", "seed")]
    facts += [("space", PurePath(str(space["source"])).name if space.get("source") else None), ("preset", space.get("preset"))]
    for name, values in (("cases", about.get("split_sizes")), ("resources", about.get("resources")), ("versions", versions)):
        if isinstance(values, Mapping):
            facts.append((name, ", ".join(f"{key} {value}" for key, value in values.items())))
    facts.append(("git commit", about.get("git_commit")))
    known = [(name, value) for name, value in facts if value not in (None, "", {})]
    if not known:
        return empty("How it was run", "The experiment's experiment.json says nothing of how it was run.")
    return panel(
        "How it was run",
        _facts(known),
        "From the experiment's experiment.json, which has the whole search space as well.",
        wide=True,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _facts(items: Sequence[tuple[str, Any]]) -> str:
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value, 500)}</dd></div>" for name, value in items)
        + "</dl>"
    )


# --------------------------------------------------------------------------------------------------------------- ranking table


def _ranking(name: str, board: Board, links: Links, limit: int = _ROWS) -> str:
    found = ranking.ranking(board, limit)
    if not found.rows:
        return empty("Ranking", "This search has no trials yet. Rows appear as soon as its first trial starts.", wide=True)
    heads = "".join(
        f'<th scope="col" title="{text(column.explanation)}"{" class=num" if column.numeric else ""} '
        f'aria-sort="none"><button type="button">{text(column.heading)}</button></th>'
        for column in found.columns
    )
    body = "".join(_row(row, found.columns, links) for row in found.rows)
    statuses = "".join(f"<option>{text(status, 40)}</option>" for status in sorted({row.status for row in found.rows}))
    own = "" if len(board.trials) else '<p class="empty">This search has no trials of its own yet.</p>'
    table = f'<table class="ranking" id="{name}-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    content = f"""{own}<div class="tools" data-table="{name}-table" hidden>
<label>Find <input type="search" placeholder="any text of a row" data-find></label>
<label>Status <select data-status><option value="">all</option>{statuses}</select></label>
<output class="count"></output></div>
{scrolling(table, "Ranking", " table")}"""
    return panel(
        "Ranking", content, f"{text(' '.join(found.notes), 2000)} Press a heading to sort by it.", more=_failures(board), wide=True
    )


def _row(row: ranking.Row, columns: Sequence[ranking.Column], links: Links) -> str:
    warning = f' <span class="badge warn">{text(row.warning)}</span>' if row.warning else ""
    if row.status == ranking.LITERATURE:
        own = max(place for place, column in enumerate(columns, 1) if column.heading in row.cells)
        tds = "".join(_td(column, row, "") for column in columns[:own])
        rest = f'<td colspan="{len(columns) - own}">{text(row.note)}{warning}</td>'
        return f'<tr class="published" data-status="{row.status}">{tds}{rest}</tr>'
    href = links.trial(row.experiment, row.trial_id) if row.trial_id else links.experiment(row.experiment)
    tds = "".join(_td(column, row, warning if column.heading == "Trial" else "", href) for column in columns)
    kind = ' class="finalist"' if row.status == ranking.FINALIST else ""
    return f'<tr{kind} data-status="{text(row.status, 40)}">{tds}</tr>'


def _td(column: ranking.Column, row: ranking.Row, warning: str, href: str | None = None) -> str:
    words, value = row.cells.get(column.heading, (DASH, None))
    shown = text(words, 80)
    if column.heading == "Trial":
        link = f'<a href="{href}">{shown}</a>' if href else shown
        return f'<th scope="row" data-value="{text("" if value is None else value)}">{link}{warning}</th>'
    if column.heading == "Kind" and words != DASH:
        shown = f'<span class="badge {"own" if words == "searched" else "reference"}">{shown}</span>'
    elif column.heading == "Status" and words != DASH:
        shown = _badge(words)
    value_of = text("" if value is None else value)
    sort = "" if value_of == shown else f' data-value="{value_of}"'
    return f"<td{' class=num' if column.numeric else ''}{sort}>{shown}</td>"


def _badge(status: str) -> str:
    known = status if status in (*_STATUSES, ranking.FINALIST) else "unknown"
    return f'<span class="status {known}">{text(status, 40)}</span>'


def _status(row: Mapping[str, Any]) -> str:
    return _badge(ranking.status_of(row))


def _failures(board: Board) -> str:
    """Why trials failed, diverged or ran out of memory, in order of proposal."""
    trials = board.trials[board.trials["status"].isin(_FAILED)].sort_values("number", kind="stable")
    if trials.empty:
        return ""
    items = "".join(
        f"<li><b>{text(row['label'])}</b> {text(row['status'])}: <span>{text(_why(row), 2000)}</span></li>"
        for row in summaries.records(trials.head(MAX_FAILURES))
    )
    more = f"<p>{len(trials) - MAX_FAILURES} more are left out.</p>" if len(trials) > MAX_FAILURES else ""
    title = f"Why {len(trials)} trial{'' if len(trials) == 1 else 's'} failed, diverged or ran out of memory"
    return f'<details class="failures"><summary>{title}</summary><ul>{items}</ul>{more}</details>'


def _why(row: Mapping[str, Any]) -> str:
    texts = (row["error"], row["reason"])
    return next((str(words) for words in texts if pd.notna(words) and str(words).strip()), "no reason was recorded")


# ---------------------------------------------------------------------------------------------------------------- parts of trials


def _trial_summary(row: Mapping[str, Any]) -> str:
    place = f"rank {int(row['rank'])}" if pd.notna(row["rank"]) else "no rank"
    best = (
        f"epoch {int(row['best_epoch'])} of {int(row['epochs'])}, {place}"
        if pd.notna(row["best_epoch"]) and pd.notna(row["epochs"])
        else place
    )
    interval = f"95 % interval {row['low']:.3f} to {row['high']:.3f}" if pd.notna(row["low"]) else "full protocol, validation split"
    items = [("Validation Dice", figure_of(row["score"], 4), best), ("Final Dice", figure_of(row["final_dice"], 4), interval)]
    if pd.notna(row["test_dice"]):
        items.append(("Test Dice", figure_of(row["test_dice"], 4), f"seed {row['seed']}, fold {row['fold']}"))
    votes = f"{int(row['votes'])} votes" if pd.notna(row["votes"]) else "for the masks"
    items.append(("Seconds per case", figure_of(row["seconds_per_case"], 3), votes))
    gpu, cpu = row["gpu_seconds"], row["cpu_seconds"]
    used = ("GPU time", gpu) if pd.notna(gpu) and gpu > 0 else ("CPU time", cpu)
    money = f", cost {row['cost']:.2f}" if pd.notna(row["cost"]) and row["cost"] > 0 else ""
    items.append((used[0], duration(used[1]), f"{moment(row['started_at'])}{money}"))
    return tiles(items)


def _how_it_ended(row: Mapping[str, Any]) -> str:
    reason = str(row["reason"]) if pd.notna(row["reason"]) else "no reason was recorded"
    error = (
        f'<pre class="scroll" tabindex="0" role="region" aria-label="Error">{long_text(row["error"])}</pre>'
        if pd.notna(row["error"])
        else ""
    )
    kind = ranking.KINDS.get(str(row["kind"]), str(row["kind"]))
    sentence = f'<p class="ended"><span class="badge">{text(kind)}</span> {_status(row)} {long_text(reason)}</p>'
    return panel("How it stands", sentence + error, wide=True)


def _cases(cases: pd.DataFrame) -> str:
    title = "Case by case"
    if cases.empty:
        return empty(title, "This trial has not been scored case by case; one that finishes is.", wide=True)
    shown = cases.head(MAX_CASES)
    headings = [("Split", "split", None), ("Case", "case", None), ("Class", "class", None), ("Dice", "dice", 4), ("IoU", "iou", 4)]
    headings += [("HD95, mm", "hd95", 2), ("ASSD, mm", "assd", 2), ("Seconds", "seconds", 3)]
    headings = [item for item in headings if cases[item[1]].notna().any()]
    heads = "".join(
        f'<th scope="col"{" class=num" if digits else ""} aria-sort="none"><button type="button">{heading}</button></th>'
        for heading, _, digits in headings
    )
    lines = []
    for place, row in enumerate(summaries.records(shown)):
        tds = "".join(
            f'<td class="num" data-value="{"" if pd.isna(row[name]) else row[name]}">{figure_of(row[name], digits)}</td>'
            if digits
            else f"<td>{text(row[name])}</td>"
            for _, name, digits in headings
        )
        lines.append(f"<tr{' class=worst' if place < WORST and len(cases) > WORST else ''}>{tds}</tr>")
    table = scrolling(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>", title, " table")
    caption = "One row per case and class, by majority of all votes, the worst first"
    caption += f"; the {WORST} worst are marked." if len(cases) > WORST else "."
    caption += f" The best {len(cases) - MAX_CASES} rows are left out." if len(cases) > MAX_CASES else ""
    return panel(title, table, f"{caption} Press a heading to sort by it.", wide=True)


def _settings(settings: pd.DataFrame) -> str:
    title = "Settings"
    if settings.empty:
        return empty(title, "No settings were recorded for this trial.", wide=True)
    lines = []
    for row in summaries.records(settings):
        marks = [name for name, there in (("searched", row["searched"]), ("differs", row["changed"])) if there]
        badges = " ".join(f'<span class="badge {"warn" if mark == "differs" else "own"}">{mark}</span>' for mark in marks)
        cells = "".join(f"<td>{text(ranking.setting(row[name])[0], 60)}</td>" for name in ("value", "published"))
        head = f'<th scope="row"><code>{text(row["field"])}</code></th>'
        lines.append(f"<tr{' class=changed' if row['changed'] else ''}>{head}{cells}<td>{badges}</td></tr>")
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in ("Field", "Value", "Published", ""))
    table = scrolling(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>", title, " table")
    changed = int(settings["changed"].sum())
    known = settings["published"].notna().any()
    caption = (
        f"{changed} of {len(settings)} differ from the experiment's published settings."
        if known
        else "The experiment has no trial with the published settings to compare with."
    )
    return panel(title, table, f"{caption} {DASH}: not used by this trial.", wide=True)


def _environment(trial: Trial) -> str:
    row, about = trial.row, trial.description
    gib = f"{row['memory_bytes'] / 2**30:.2f} GiB at most" if pd.notna(row["memory_bytes"]) else None
    facts: list[tuple[str, Any]] = [
        ("trial id", row["trial_id"]),
        ("host", row["host"]),
        ("device", row["device"]),
        ("workers", row["workers"]),
        ("memory", gib),
        ("parameters of the network", f"{int(row['parameters']):,}" if pd.notna(row["parameters"]) else None),
        ("seed", row["seed"]),
        ("fold", row["fold"]),
        ("started", moment(row["started_at"])),
        ("ended", moment(row["ended_at"])),
        ("time on the device", duration(row["seconds"])),
        ("time to the first step", duration(row.get("startup_seconds"))),
        ("restarts", row["restarts"]),
        ("copy of trial", row["parent"]),
        ("checkpoint, within the lake", row["checkpoint"]),
        ("git commit", about.get("git_commit")),
    ]
    versions = about.get("versions")
    if isinstance(versions, Mapping):
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    shown = [
        (name, int(value) if isinstance(value, float) and value.is_integer() else value)
        for name, value in facts
        if value is not None and value == value and value != DASH
    ]
    return panel("Where and how it ran", _facts(shown), wide=True)
