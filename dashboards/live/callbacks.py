"""What happens on the page: it follows the watch, and answers to the user."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, callback_context, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate
from flask import Response

from dashboards import figures, ranking, summaries
from dashboards.live import parts
from dashboards.live.layout import aria
from dashboards.live.watch import Watch
from dashboards.panels import PANELS, Panel
from dashboards.summaries import Board

_CONFIG: Any = figures.CONFIG


def live_page(watch: Watch) -> Dash:
    """The page as a Dash app without its layout. The lake's strings become text: React escapes children, `figures.plain` others."""
    ours: dict[str, Any] = {"external_stylesheets": ["/style.css"], "external_scripts": ["/live.js"], "include_assets_files": False}
    app = Dash("dashboards", title="cDAL Search live", update_title="", add_log_handler=False, **ours)
    app.index_string = _file("index.html")
    app.config.suppress_callback_exceptions = True  # charts are put on the page when there is something to draw
    style = _file("style.css", "dashboards") + _file("live.css")
    app.server.add_url_rule("/style.css", "style", lambda: Response(style, mimetype="text/css"))
    app.server.add_url_rule("/live.js", "script", lambda: Response(_file("live.js"), mimetype="text/javascript"))
    app.clientside_callback(ClientsideFunction("live", "scheme"), Output("scheme", "data"), Input("scheme", "id"))  # type: ignore[no-untyped-call]

    @app.callback(
        Output("state", "data"),
        *(Output(name, "children") for name in ("choices", "status", "clock")),
        *(Output(name, "hidden") for name in ("several", "waiting", "results")),
        Input("tick", "n_intervals"),
        Input("choice", "data"),
        State("state", "data"),
        State({"set": "choice", "to": ALL}, "id"),
    )
    def follow(_: int, choice: str | None, state: Mapping[str, str] | None, there: Ids) -> tuple[Any, ...]:
        """Every other second: what there is to choose, how it stands, and whether there is something new to draw."""
        choices = watch.choices()
        chosen = choice if choice in choices else next(iter(choices), None)
        board = None if chosen is None else watch.board(chosen)
        new = None if chosen is None else {"choice": chosen, "version": watch.version}
        waiting = "Waiting for a search." if watch.checked_at else "Reading the results."
        status = watch.trouble or (waiting if board is None else parts.status(board))
        clock = f"checked {watch.checked_at:%H:%M:%S} UTC" if watch.checked_at else ""
        hidden = len(choices) < 2, board is not None or watch.checked_at is None, board is None
        return new if new != state else no_update, _buttons("choice", choices, chosen, there), status, clock, *hidden

    for name in ("choice", "first", "second"):

        @app.callback(Output(name, "data"), Input({"set": name, "to": ALL}, "n_clicks"), prevent_initial_call=True)
        def press(_: Sequence[int | None]) -> str:
            """A button of a choice was pressed."""
            return _pressed("to")

    for panel in PANELS:
        _draw(app, watch, panel)

    @app.callback(Output("order", "data"), Input({"heading": ALL}, "n_clicks"), State("order", "data"), prevent_initial_call=True)
    def order(_: Sequence[int | None], order: Mapping[str, Any]) -> dict[str, Any]:
        """A heading was pressed: order by it, or the other way round; scores start with the largest."""
        heading = _pressed("heading")
        if order["heading"] == heading:
            return {"heading": heading, "ascending": not order["ascending"]}
        return {"heading": heading, "ascending": not any(word in heading for word in ("Dice", "IoU", "95 %"))}

    @app.callback(
        *(Output(name, "children") for name in ("headings", "rows", "shown", "tiles")),
        Input("state", "data"),
        Input("filter", "value"),
        Input("order", "data"),
        State({"heading": ALL}, "id"),
    )
    def rank(state: Mapping[str, str] | None, words: str | None, order: Mapping[str, Any], there: Ids) -> tuple[Any, ...]:
        board = None if state is None else watch.board(state["choice"])
        if board is None:
            raise PreventUpdate
        table = ranking.ranking(board)
        ways = {column.heading: "none" for column in table.columns}
        ways[order["heading"]] = "ascending" if order["ascending"] else "descending"
        headings: Any = no_update
        if [one["heading"] for one in there] == [column.heading for column in table.columns]:
            for column in table.columns:  # new headings in their place would lose the keyboard's focus
                set_props({"column": column.heading}, {"aria-sort": ways[column.heading]})
        else:
            headings = [parts.heading(column, ways[column.heading]) for column in table.columns]
        return headings, *parts.rows(table, words or "", order), parts.tiles(board)

    @app.callback(
        *(Output(*one) for one in (("log", "children"), ("log", "hidden"), ("log-note", "children"))),
        Input("log-trial", "value"),
        Input("state", "data"),
        prevent_initial_call=True,
    )
    def read(label: str | None, state: Mapping[str, str] | None) -> tuple[str, bool, str]:
        """What a trial printed last, whenever there is something new."""
        text = watch.log(state["choice"], label) if state is not None and label else ""
        if text is None:
            return "", True, "There is no such trial."
        return text, not text, "" if text or not label else "Nothing is kept of what this trial printed."

    return app


def _draw(app: Dash, watch: Watch, panel: Panel[Board]) -> None:
    name = panel.name

    @app.callback(
        *(Output(f"{name}-{part}", "children") for part in ("box", "caption", "table", "table-title")),
        Output(f"{name}-details", "hidden"),
        Input("state", "data"),
        Input("scheme", "data"),
        State(f"{name}-caption", "children"),
        *([Input("first", "data"), Input("second", "data")] if name == "pairs" else []),
    )
    def draw(state: Mapping[str, str] | None, scheme: str | None, caption: str | None, *chosen: str | None) -> tuple[Any, ...]:
        board = None if state is None else watch.board(state["choice"])
        if state is None or scheme is None or board is None:
            raise PreventUpdate
        drawn = watch.draw(state["choice"], panel)
        if drawn is None:
            return html.P(panel.empty, className="empty"), "", [], "", True
        figure, words, pair = drawn.figure, drawn.caption, _pair(board, chosen)
        if pair:
            figure = figures.paired_cases(board.cases, *pair.values())
            words = f"{_finding(board, pair)} {words}"
        content = figure.to_plotly_json()
        # What the user did to a chart stays while this is the same: zoom, selected ranges, traces switched off.
        revision = json.dumps([state["choice"], *pair])
        content["layout"] |= {"uirevision": revision, "template": figures.THEMES["dark" if scheme == "dark" else "light"]}
        names: dict[str, int] = {}
        for trace in content["data"]:  # traces are known by their names, for others may appear before them
            called = str(trace.get("name", ""))
            names[called] = names.get(called, 0) + 1
            trace["uid"] = "u" + hashlib.sha256(f"{called} {names[called]}".encode("utf-8", "replace")).hexdigest()[:12]
        height = {"height": f"{content['layout'].get('height', 400)}px"}
        chart: Any = no_update
        if caption:  # the chart is there: a new one in its place would forget what the user did to it
            set_props(f"{name}-chart", {"style": height})
            set_props(f"{name}-new", {"data": content})
        else:
            graph = dcc.Graph(id=f"{name}-chart", figure=content, config=_CONFIG, responsive=True, style=height)
            chart = [graph, dcc.Store(f"{name}-new")]
        return chart, words, parts.table(drawn.table), drawn.table_title, drawn.table.empty

    zoomed = ClientsideFunction("live", "zoomed")
    drawn, shown = Input(f"{name}-new", "data"), State(f"{name}-chart", "figure")
    app.clientside_callback(zoomed, Output(f"{name}-chart", "figure"), drawn, shown, prevent_initial_call=True)  # type: ignore[no-untyped-call]

    if name != "pairs":
        return

    @app.callback(
        *(Output(name, "children") for name in ("firsts", "seconds")),
        *(Input(name, "data") for name in ("state", "first", "second")),
        *(State({"set": name, "to": ALL}, "id") for name in ("first", "second")),
    )
    def offer(state: Mapping[str, str] | None, first: str | None, second: str | None, *there: Ids) -> tuple[Any, ...]:
        board = None if state is None else watch.board(state["choice"])
        if board is None:
            raise PreventUpdate
        labels = {label: parts.plain(label) for label in board.cases["label"]}
        pair = [*_pair(board, (first, second)), None, None]
        return tuple(_buttons(*given) for given in zip(("first", "second"), (labels, labels), pair[:2], there, strict=True))


def _pair(board: Board, chosen: Sequence[str | None]) -> dict[str, int]:
    """The two trials to compare and their places: those chosen, else the two best; empty where there are no two."""
    places = dict(zip(board.cases["label"], board.cases["place"], strict=True))
    if len(chosen) < 2 or len(places) < 2:
        return {}
    first = chosen[0] if chosen[0] in places and chosen[0] != chosen[1] else next(name for name in places if name != chosen[1])
    second = chosen[1] if chosen[1] in places else next(name for name in places if name != first)
    return {str(name): places[name] for name in (first, second)}


def _finding(board: Board, pair: Mapping[str, int]) -> str:
    """How two trials compare, in a sentence."""
    (first, one), (second, other) = pair.items()
    found = summaries.pairs(board.cases[board.cases["place"].isin([one, other])]).iloc[0]
    difference, low, high = (found["difference"], found["low"], found["high"])
    if one > other:  # pairs are the better one less the other
        difference, low, high = -difference, -high, -low
    interval = f" (95 % interval {low:+.4f} to {high:+.4f})" if low == low else ""
    p = "p < 0.001" if found["p"] < 0.001 else f"p {found['p']:.3f}"
    return f"Mean Dice of {parts.plain(first)} less that of {parts.plain(second)}: {difference:+.4f}{interval}, {p}."


Ids = Sequence[Mapping[str, str]]
"""Of components that are on the page."""


def _buttons(name: str, options: Mapping[str, str], chosen: str | None, there: Ids) -> Any:
    """Buttons of which one is pressed. Those that are there stay: new ones in their place would lose the keyboard's focus."""
    pressed = {value: "true" if value == chosen else "false" for value in options}
    if [one["to"] for one in there] != list(options):
        return [
            html.Button(label, id={"set": name, "to": value}, type="button", **aria(pressed=pressed[value]))
            for value, label in options.items()
        ]
    if callback_context.triggered_id != "tick":
        for value in options:
            set_props({"set": name, "to": value}, {"aria-pressed": pressed[value]})
    return no_update


def _pressed(key: str) -> str:
    """What the button that was pressed stands for."""
    if not callback_context.triggered[0]["value"]:
        raise PreventUpdate  # the buttons were only drawn
    return str(callback_context.triggered_id[key])


def _file(name: str, room: str = "dashboards.live") -> str:
    return files(room).joinpath(name).read_text(encoding="utf-8")
