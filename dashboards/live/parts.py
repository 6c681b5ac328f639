"""What is shown of a board, as components. Strings of the lake become text: React escapes children."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import html

from dashboards import ranking
from dashboards.live.layout import aria
from dashboards.summaries import DASH, Board

_MAX_ROWS = 100  # of the ranking shown at once; the filter and the order see all


def status(board: Board) -> str:
    """One sentence; it changes, and is read out by screen readers, only when a trial starts, ends or is the new best."""
    trials = board.trials
    running = int(trials["status"].isin(["running", "pending"]).sum())
    best = f", best validation Dice {trials['score'].iloc[0]:.4f}" if trials["score"].notna().any() else ""
    return f"{running} of {len(trials)} trial{'' if len(trials) == 1 else 's'} running{best}."


def table(rows: pd.DataFrame) -> list[Any]:
    """Head and body of a panel's table."""
    head = html.Tr([html.Th(str(name), scope="col") for name in rows.columns])
    body = [html.Tr([html.Td(plain(value)) for value in row]) for row in rows.itertuples(index=False)]
    return [html.Thead(head), html.Tbody(body)]


def tiles(board: Board) -> list[html.Div]:
    """Large figures."""
    trials = board.trials
    best = trials.iloc[0] if trials["score"].notna().any() else None
    states = ", ".join(f"{count} {status}" for status, count in trials["status"].fillna("unknown").value_counts().items())
    gpu, cpu = float(trials["gpu_seconds"].sum()) / 3600, float(trials["cpu_seconds"].sum()) / 3600
    dice, trial = (DASH, "") if best is None else (f"{best['score']:.4f}", f"trial {best['label']}")
    hours = ("GPU-hours" if gpu else "CPU-hours", f"{gpu or cpu:.2f}", "added over all trials")
    shown = (("Best validation Dice", dice, trial), ("Trials", str(len(trials)), states), hours)
    return [html.Div([html.Dt(name), html.Dd([html.B(value), html.Span(note)])], className="tile") for name, value, note in shown]


def heading(column: ranking.Column, way: str) -> html.Th:
    """A heading of the ranking, with the way in which it is ordered."""
    name = column.heading
    button = html.Button(name, id={"heading": name}, type="button")
    kind = "num" if column.numeric else ""
    return html.Th(button, id={"column": name}, scope="col", title=column.explanation, className=kind, **aria(sort=way))


def rows(table: ranking.Ranking, words: str, order: Mapping[str, Any]) -> tuple[list[html.Tr], str]:
    """The first rows that hold all the words, in order, and a sentence on how many these are."""
    wanted = words.casefold().split()
    found = [row for row in table.rows if all(word in _text_of(row) for word in wanted)]
    if order["heading"] in (column.heading for column in table.columns):
        # Numbers before words, rows without a value last either way, equal ones in their order.
        valued = [(row.cells.get(order["heading"], (DASH, None))[1], row) for row in found]
        having = [(isinstance(value, str), value, row) for value, row in valued if value is not None]
        having.sort(key=lambda item: item[:2], reverse=not order["ascending"])
        found = [row for *_, row in having] + [row for value, row in valued if value is None]
    shown = found[:_MAX_ROWS]
    sentence = f"All {len(table.rows)} rows" if len(found) == len(table.rows) else f"{len(found)} of {len(table.rows)} rows"
    sentence += f", the first {len(shown)} shown. " if len(shown) < len(found) else ". "
    return [_row(row, table.columns) for row in shown], sentence + "Press a heading to order by it. " + " ".join(table.notes)


def _text_of(row: ranking.Row) -> str:
    return " ".join((*(shown for shown, _ in row.cells.values()), row.note, row.warning)).casefold()


def _row(row: ranking.Row, columns: Sequence[ranking.Column]) -> html.Tr:
    warning = [" ", html.Span(row.warning, className="badge warn")] if row.warning else []
    if row.status != ranking.LITERATURE:
        return html.Tr([_cell(row, column, warning if column.heading == "Trial" else []) for column in columns])
    own = max(place for place, column in enumerate(columns, 1) if column.heading in row.cells)
    note: list[Any] = [row.note, *warning]
    rest = html.Td(note, colSpan=len(columns) - own)
    return html.Tr([*(_cell(row, column, []) for column in columns[:own]), rest], className="published")


def _cell(row: ranking.Row, column: ranking.Column, more: list[Any]) -> html.Td | html.Th:
    text = plain(row.cell(column)[0])
    if column.heading == "Trial":
        return html.Th([text, *more], scope="row")
    content: Any = text
    if column.heading == "Status" and text != DASH:
        content = html.Span(text, className=f"status {text if text.isalpha() else 'unknown'}")
    return html.Td(content, className="num" if column.numeric else "")


def plain(value: object, letters: int = 80) -> str:
    """A value as text of bounded length, without control characters or direction overrides."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value)[:letters])
