"""The pages: an overview of the lake, a page per experiment and per trial, or everything on one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from dashboards.pages import facts
from dashboards.pages.charts import Chart, chart
from dashboards.pages.gallery import Pictures, pictured
from dashboards.pages.rendering import render
from dashboards.panels import GROUPS, PANELS, TRIAL_PANELS, Panel
from dashboards.ranking import KINDS, ranking, status_of
from dashboards.summaries import Board, Rows, Trial, last_lines, records

MAX_CASES = 500  # rows of a trial's table
WORST = 5  # of these, marked
LOG_LINES = 200  # of a trial
_ON_THE_OVERVIEW = ("history", "tradeoffs")
_OVERVIEW_ROWS, _ROWS = 100, 500  # of a ranking
_PARALLEL_CHARTS = 2  # of one page: each takes three of the few WebGL contexts that a browser has
_SCORES = [("Split", "split", 0), ("Case", "case", 0), ("Class", "class", 0), ("Dice", "dice", 4), ("IoU", "iou", 4)]
_SCORES += [("HD95, mm", "hd95", 2), ("ASSD, mm", "assd", 2), ("Seconds", "seconds", 3)]  # heading, column, digits


@dataclass(frozen=True)
class Links:
    """Where other pages are, relative to the page at hand; None where there is no such page."""

    experiment: Callable[[str], str | None] = lambda name: None
    trial: Callable[[str, str], str | None] = lambda experiment, trial_id: None


def overview(rows: Rows, boards: Sequence[Board], source: str, find: Pictures, links: Links, assets: str, notes: str) -> str:
    """The first page of a site: all datasets and experiments."""
    sections = []
    for place, board in enumerate(boards, 1):
        shown = [chart(f"dataset-{place}", panel, board) for panel in PANELS if panel.name in _ON_THE_OVERVIEW]
        middle = board.gallery.groupby("place", sort=False).head(1)
        part = _section(board, f"dataset-{place}", shown, find(middle), _OVERVIEW_ROWS)
        sections.append(part | {"experiments": list(facts.experiments(rows, board))})
    return _overview(boards, sections, source, links, assets, notes)


def everything(boards: Sequence[Board], source: str, find: Pictures) -> str:
    """All datasets on one self-contained page."""
    sections = []
    for place, board in enumerate(boards, 1):
        panels = [_elsewhere(panel) if panel.name == "parallel" and place > _PARALLEL_CHARTS else panel for panel in PANELS]
        shown = [chart(f"dataset-{place}", panel, board) for panel in panels]
        sections.append(_section(board, f"dataset-{place}", shown, find(board.gallery), _ROWS) | {"experiments": []})
    return _overview(boards, sections, source, Links(), None, "")


def experiment(board: Board, source: str, find: Pictures, links: Links, assets: str, home: str) -> str:
    """The page of one experiment."""
    (name,) = board.experiments
    groups = {group: [chart("chart", panel, board) for panel in PANELS if panel.group == group] for group in GROUPS}
    charts = [it for group in groups.values() for it in group]
    part = _section(board, "experiment", charts, find(board.gallery), _ROWS)
    summary, description = facts.board_tiles([board]), facts.how_it_was_run(board.descriptions[name])
    shown = {"name": name, "groups": groups, "part": part, "summary": summary, "description": description}
    return render("experiment.html", charts, source, assets, home=home, links=links, **shown)


def trial(subject: Trial, source: str, find: Pictures, log: str, assets: str, home: str, up: str) -> str:
    """The page of one trial."""
    row = subject.row
    charts = [chart("chart", panel, subject) for panel in TRIAL_PANELS]
    about = {"row": row, "kind": KINDS.get(str(row["kind"]), row["kind"]), "state": status_of(row)}
    shown = {"pictured": pictured(find(subject.gallery)), "cases": _scores(subject.cases), "settings": records(subject.settings)}
    shown["log"] = last_lines(log, LOG_LINES)
    words = {"summary": facts.trial_tiles(row), "environment": facts.where_it_ran(subject)}
    return render("trial.html", charts, source, assets, home=home, up=up, **about, **shown, **words)


def _elsewhere(panel: Panel[Board]) -> Panel[Board]:
    words = "One page holds two such charts; python dashboards/leaderboard.py --out FOLDER draws this one."
    return replace(panel, draw=lambda board: None, empty=words)


def _section(board: Board, id: str, charts: Sequence[Chart], cases: Sequence[Mapping[str, Any]], limit: int) -> dict[str, Any]:
    """What templates show of a board."""
    listed = {"ranking": ranking(board, limit), "failures": facts.failures(board)}
    return {"id": id, "board": board, "charts": charts, "cases": pictured(cases), **listed}


def _overview(
    boards: Sequence[Board], sections: Sequence[dict[str, Any]], source: str, links: Links, assets: str | None, notes: str
) -> str:
    charts = [it for part in sections for it in part["charts"]]
    summary = facts.board_tiles(boards)
    return render("overview.html", charts, source, assets, sections=sections, summary=summary, links=links, notes=notes)


def _scores(cases: pd.DataFrame) -> Mapping[str, Any]:
    """A table of a trial's cases: those that there is room for, and the columns that say something."""
    columns = [(heading, name, digits) for heading, name, digits in _SCORES if cases[name].notna().any()]
    return {"columns": columns, "rows": records(cases.head(MAX_CASES)), "total": len(cases), "worst": WORST}
