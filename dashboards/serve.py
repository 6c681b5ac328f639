"""The leaderboard live: a page that follows a search while it runs and keeps your zoom, selection, filter and order.

python dashboards/serve.py --storage results                                    # http://127.0.0.1:8050, this machine only
python dashboards/serve.py --storage s3://bucket/prefix --experiment NAME       # one search
python dashboards/serve.py --host 0.0.0.0                                       # any machine; the printed address holds a token

It needs Dash: pip install -e '.[live]'
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

try:
    from dash import ALL, Dash, Input, Output, State, callback_context, dcc, html, no_update, set_props
    from dash.exceptions import PreventUpdate
    from flask import Response, make_response, redirect, request
    from waitress import create_server
except ModuleNotFoundError as error:
    print(f"the live page needs {error.name}: run `pip install -e '.[live]'` in the folder of cDAL Search", file=sys.stderr)  # noqa: T201
    sys.exit(2)
try:
    import pandas as pd

    from dashboards import figures, ranking, summaries
    from dashboards.figures import DASH
    from dashboards.panels import GROUPS, PANELS, Drawn, Panel
    from dashboards.summaries import Board, Rows
    from tune.results import InputError, load, read_experiment
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("dashboards", "tune", "cdal"):
        raise
    sys.exit("cDAL Search is not installed in this Python: run `pip install -e .` in its folder first")

_CONFIG: Any = figures.CONFIG
LOCAL_SECONDS, REMOTE_SECONDS = 2.0, 15.0  # between two looks at the lake
MAX_ROWS = 100  # of the ranking shown at once; the filter and the order see all


# ------------------------------------------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when it was interrupted, 2 when the input is wrong."""
    parser = argparse.ArgumentParser(description="Serve the leaderboard of a results lake as a page that follows running searches.")
    parser.add_argument(
        "--storage", default="results", metavar="ROOT", help="results lake: a folder or s3://bucket/prefix (default: results)"
    )
    parser.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="show only these searches (default: all)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but a loopback address asks for a token")
    parser.add_argument("--port", type=int, default=8050, help="port to listen on, 0 for a free one (default: 8050)")
    options = parser.parse_args(arguments)
    try:
        remote = "://" in options.storage
        if not remote and not Path(options.storage).expanduser().is_dir():
            raise InputError(f"no results at {options.storage}: there is no such folder; --storage names it")
        for name in options.experiment:
            read_experiment(options.storage, name)
        listening = _listen(options.host, options.port)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    host, port = listening.getsockname()[:2]
    token = "" if ipaddress.ip_address(host).is_loopback else secrets.token_urlsafe(24)
    watch = Watch(options.storage, options.experiment, REMOTE_SECONDS if remote else LOCAL_SECONDS)
    app = live_page(watch, options.storage)
    guard(app, token, f"cdal-{port}")
    logging.getLogger("waitress").setLevel(logging.ERROR)  # a page asks for all its panels at once; on Ctrl-C requests may wait
    server = create_server(app.server, sockets=[listening], threads=8, ident=None, max_request_body_size=1 << 20)
    named = socket.gethostname() if ipaddress.ip_address(host).is_unspecified else f"[{host}]" if ":" in host else host
    print(f"http://{named}:{port}/" + (f"?token={token}" if token else ""), flush=True)  # noqa: T201
    server.run()  # returns when interrupted
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the address is wrong or taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host}, port {port}: {reason}; choose another with --port or --host") from error
    return listening


# ------------------------------------------------------------------------------------------------------------------ who may look


def guard(app: Dash, token: str, cookie: str) -> None:
    """Let nobody in who may not, and let the page load from and send to nowhere but this server.

    Without a token the server is on a loopback address: only pages that were opened by such an address get an answer, or a
    foreign page could read this one through a name of its own that it lets point here.
    """
    server = app.server
    app.index()  # type: ignore[no-untyped-call]  # collects the scripts that are part of the page
    policy = (
        f"default-src 'none'; script-src 'self' 'unsafe-eval' {' '.join(app.csp_hashes())}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )  # plotly.js compiles functions from text for charts that it draws by WebGL

    def same(given: str | None) -> bool:
        return hmac.compare_digest((given or "").encode(), token.encode())

    @server.before_request  # type: ignore[untyped-decorator]
    def check() -> Response | None:
        if not token:
            return None if _is_loopback(request.host) else _plain("open this page as http://localhost, with its port", 403)
        if request.method == "GET" and request.path == "/" and same(request.args.get("token")):
            answer: Response = make_response(redirect("/"))  # the token does not stay in the address bar
            answer.set_cookie(cookie, token, httponly=True, samesite="Strict")
            return answer
        return None if same(request.cookies.get(cookie)) else _plain("open the address that serve.py printed, with its token", 401)

    @server.after_request  # type: ignore[untyped-decorator]
    def protect(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cross-Origin-Resource-Policy"] = answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not request.path.startswith("/_dash-component-suites/"):  # Dash's own scripts hold no results
            answer.headers["Cache-Control"] = "no-store"
        return answer


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine by a name that nobody else can own."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _plain(sentence: str, status: int) -> Response:
    return Response(sentence + "\n", status, mimetype="text/plain")


# ------------------------------------------------------------------------------------------------------------- following the lake


class Watch:
    """Reads the lake in a thread of its own: only while pages ask, and only when its files are others than before.

    Pages get what was last read, also while the lake cannot be read. What has been computed from it is kept for all pages.
    """

    def __init__(self, root: str, experiments: Sequence[str], seconds: float) -> None:
        """Start to follow `experiments` (empty: all) of a lake, with at least so many seconds between two looks."""
        self.version = ""
        """Changes with the results; empty before they were first read."""
        self.trouble = ""
        """Why the results cannot be read at the moment, in a sentence."""
        self.checked_at: datetime | None = None
        self._root, self._experiments, self._seconds = root, experiments, seconds
        self._rows: Rows | None = None
        self._boards: dict[str, Board] = {}  # by choice
        self._drawn: dict[tuple[str, str], Drawn | None] = {}  # by choice and panel
        self._busy = 0.0  # seconds that all this took
        self._lock = threading.RLock()
        self._asked = threading.Event()
        self._asked.set()
        threading.Thread(target=self._follow, name="results-lake-watch", daemon=True).start()

    def choices(self) -> dict[str, str]:
        """What can be shown, by its key: every dataset, and every search on those that have several."""
        self._asked.set()
        found = {}
        for dataset, searches in sorted(self._searches().items()):
            several = len(searches) > 1
            found[json.dumps(["dataset", dataset])] = f"{dataset}, all {len(searches)} searches" if several else dataset
            found |= {json.dumps(["search", dataset, name]): f"{dataset}: {name}" for name in searches if several}
        return found

    def board(self, choice: str) -> Board | None:
        """The board of one of the choices; None where it is none any more."""
        with self._lock, self._counted():
            if choice not in self._boards:
                _, dataset, *chosen = json.loads(choice)
                searches = [name for name in self._searches().get(dataset, []) if name in chosen or not chosen]
                if self._rows is None or not searches:
                    return None
                own = replace(
                    self._rows,
                    descriptions={name: self._rows.descriptions[name] for name in searches},
                    trials=self._rows.trials[self._rows.trials["dataset"] == dataset],
                )
                self._boards[choice] = next(board for board in summaries.boards(own) if board.dataset == dataset)
            return self._boards[choice]

    def draw(self, choice: str, panel: Panel[Board]) -> Drawn | None:
        """A panel of one of the choices; None where there is nothing to draw yet."""
        with self._lock:
            board = self.board(choice)
            with self._counted():
                if (choice, panel.name) not in self._drawn:
                    self._drawn[choice, panel.name] = None if board is None else panel.draw(board)
                return self._drawn[choice, panel.name]

    def _searches(self) -> dict[str, list[str]]:
        """Names of the experiments by dataset."""
        with self._lock:
            rows = self._rows
        found: dict[str, list[str]] = {}
        if rows is None:
            return found
        for name in sorted(rows.descriptions):
            own = set(rows.trials["dataset"][rows.trials["experiment"] == name])
            for dataset in own or {rows.dataset(name)}:
                found.setdefault(dataset, []).append(name)
        return found

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._busy += time.monotonic() - started

    def _follow(self) -> None:
        while self._asked.wait():
            self._asked.clear()
            try:
                with self._counted():
                    self._look()
                self.trouble, self.checked_at = "", datetime.now(UTC)
            except Exception as error:  # whatever others write or a network does, the page stays
                if not isinstance(error, (OSError, InputError)):
                    traceback.print_exc()
                first = str(error).strip().split("\n")[0]
                self.trouble = f"The results cannot be read at the moment: {first or type(error).__name__}"
            time.sleep(self._seconds)
            while self._busy > 0:  # three times as long as the work took: a search on this machine keeps its processors
                busy, self._busy = self._busy, 0.0
                time.sleep(max(0.0, 3 * busy - self._seconds))

    def _look(self) -> None:
        try:
            lake = load(self._root)
        except InputError as error:
            if self._rows is not None or type(error) is not InputError:  # a store that cannot be used has an error of its own
                raise
            return  # empty as yet
        if self._experiments:
            lake = lake.only(self._experiments)
        state = repr(([experiment.name for experiment in lake.experiments], lake.files()))
        version = hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()[:16]
        if version != self.version:
            rows = summaries.read(lake)
            with self._lock:
                self.version, self._rows, self._boards, self._drawn = version, rows, {}, {}


# ------------------------------------------------------------------------------------------------------------------------ the page


_INDEX = """<!doctype html>
<html lang="en">
<head>
{%metas%}
<meta name="color-scheme" content="light dark">
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
{%app_entry%}
{%config%}
{%scripts%}
{%renderer%}
</body>
</html>
"""

_SCHEME = """() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => dash_clientside.set_props("scheme", {data: dark.matches ? "dark" : "light"}));
  return dark.matches ? "dark" : "light";
}"""

# Dash writes the user's zoom into its own copy of the figure, where plotly.js no longer knows it for the user's.
_ZOOMED = """(drawn, shown) => {
  if (shown.layout.uirevision !== drawn.layout.uirevision) return drawn;
  const layout = {...drawn.layout};
  for (const [name, axis] of Object.entries(shown.layout)) {
    if (/^[xy]axis/.test(name) && axis.autorange === false) {
      layout[name] = {...layout[name], range: axis.range, autorange: false};
    }
  }
  return {...drawn, layout};
}"""


def live_page(watch: Watch, source: str) -> Dash:
    """The page as a Dash app. Strings of the lake become text: React escapes children, `figures.plain` what Plotly draws."""
    app = Dash(
        "dashboards",
        title="cDAL Search live",
        update_title="",
        index_string=_INDEX,
        external_stylesheets=["/style.css"],
        include_assets_files=False,
        suppress_callback_exceptions=True,  # charts are put on the page when there is something to draw
        add_log_handler=False,
    )
    app.layout = _layout(source)
    style = "".join(files("dashboards").joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "live.css"))
    app.server.add_url_rule("/style.css", "style", lambda: Response(style, mimetype="text/css"))
    app.clientside_callback(_SCHEME, Output("scheme", "data"), Input("scheme", "id"))  # type: ignore[no-untyped-call]

    @app.callback(
        Output("state", "data"),
        Output("choices", "children"),
        Output("status", "children"),
        Output("clock", "children"),
        Output("several", "hidden"),
        Output("waiting", "hidden"),
        Output("results", "hidden"),
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
        return (
            new if new != state else no_update,
            _buttons("choice", choices, chosen, there),
            watch.trouble or (waiting if board is None else _status(board)),
            f"checked {watch.checked_at:%H:%M:%S} UTC" if watch.checked_at else "",
            len(choices) < 2,
            board is not None or watch.checked_at is None,
            board is None,
        )

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
        Output("headings", "children"),
        Output("rows", "children"),
        Output("shown", "children"),
        Output("tiles", "children"),
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
            headings = [_heading(column, ways[column.heading]) for column in table.columns]
        return headings, *_rows(table, words or "", order), _tiles(board)

    return app


def _draw(app: Dash, watch: Watch, panel: Panel[Board]) -> None:
    name = panel.name

    @app.callback(
        Output(f"{name}-box", "children"),
        Output(f"{name}-caption", "children"),
        Output(f"{name}-table", "children"),
        Output(f"{name}-table-title", "children"),
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
        return chart, words, _table(drawn.table), drawn.table_title, drawn.table.empty

    app.clientside_callback(  # type: ignore[no-untyped-call]
        _ZOOMED,
        Output(f"{name}-chart", "figure"),
        Input(f"{name}-new", "data"),
        State(f"{name}-chart", "figure"),
        prevent_initial_call=True,
    )

    if name != "pairs":
        return

    @app.callback(
        Output("firsts", "children"),
        Output("seconds", "children"),
        Input("state", "data"),
        Input("first", "data"),
        Input("second", "data"),
        State({"set": "first", "to": ALL}, "id"),
        State({"set": "second", "to": ALL}, "id"),
    )
    def offer(state: Mapping[str, str] | None, first: str | None, second: str | None, *there: Ids) -> tuple[Any, ...]:
        board = None if state is None else watch.board(state["choice"])
        if board is None:
            raise PreventUpdate
        labels = {label: plain(label) for label in board.cases["label"]}
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
    return f"Mean Dice of {plain(first)} less that of {plain(second)}: {difference:+.4f}{interval}, {p}."


Ids = Sequence[Mapping[str, str]]
"""Of components that are on the page."""


def _buttons(name: str, options: Mapping[str, str], chosen: str | None, there: Ids) -> Any:
    """Buttons of which one is pressed. Those that are there stay: new ones in their place would lose the keyboard's focus."""
    pressed = {value: "true" if value == chosen else "false" for value in options}
    if [one["to"] for one in there] != list(options):
        return [
            html.Button(label, id={"set": name, "to": value}, type="button", **_aria(pressed=pressed[value]))
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


def _layout(source: str) -> html.Div:
    return html.Div(
        [
            dcc.Interval("tick", interval=1000 * LOCAL_SECONDS),
            dcc.Store("state"),
            dcc.Store("scheme"),
            *(dcc.Store(name) for name in ("choice", "first", "second")),
            dcc.Store("order", data={"heading": "", "ascending": True}),
            html.Header(
                html.Div(
                    [
                        html.H1(["cDAL Search ", html.Span("live")]),
                        html.P("Starting.", id="status", role="status", className="muted live-status"),
                        html.P(id="clock", className="muted live-status"),
                    ],
                    className="page",
                )
            ),
            html.Main(
                [
                    html.Div(
                        [
                            html.H2("No search has written here yet"),
                            html.P(["Start one, and this page shows it within seconds:"]),
                            html.Pre(f"python tune/search.py --storage {source}"),
                        ],
                        id="waiting",
                        className="panel",
                        hidden=True,
                    ),
                    html.Div(
                        [
                            html.Div(
                                _choice("Show", "choices"),
                                id="several",
                                hidden=True,
                            ),
                            html.Dl(id="tiles", className="summary"),
                            html.Section(
                                [
                                    html.H3("Ranking", id="ranking-title"),
                                    html.Div(
                                        [
                                            html.Label("Show rows with", htmlFor="filter"),
                                            dcc.Input(
                                                id="filter", type="search", debounce=0.3, placeholder="status, kind or a setting"
                                            ),
                                        ],
                                        className="live-choice",
                                    ),
                                    html.Div(
                                        html.Table(
                                            [html.Thead(html.Tr(id="headings")), html.Tbody(id="rows")], className="ranking"
                                        ),
                                        className="scroll table",
                                        tabIndex=0,
                                        role="region",
                                        **_aria(labelledby="ranking-title"),
                                    ),
                                    html.P(id="shown", className="caption"),
                                ],
                                className="panel",
                            ),
                            *(
                                html.Section(
                                    [
                                        html.H2(group),
                                        html.Div([_panel(panel) for panel in PANELS if panel.group == group], className="grid"),
                                    ],
                                )
                                for group in GROUPS
                            ),
                        ],
                        id="results",
                        hidden=True,
                    ),
                ],
                id="main",
                className="page",
                tabIndex=-1,
            ),
            html.Footer(["From ", html.Code(source), ". Drag in a chart to zoom, double-click to reset."], className="page"),
        ]
    )


def _aria(**values: str) -> dict[str, Any]:
    return {f"aria-{name}": value for name, value in values.items()}


def _choice(title: str, name: str) -> html.Fieldset:
    return html.Fieldset([html.Legend(title), html.Div(id=name, className="live-buttons")])


def _panel(panel: Panel[Board]) -> html.Section:
    name = panel.name
    chart = html.Div(id=f"{name}-box", className="wide" if panel.wide else "")
    if panel.wide:
        label = _aria(label=f"{panel.title}, scrolls sideways")
        chart = html.Div(chart, className="scroll", tabIndex=0, role="region", **label)
    pair = [_choice("First", "firsts"), _choice("Second", "seconds")] if name == "pairs" else []
    table = html.Div(html.Table(id=f"{name}-table"), className="scroll")
    return html.Section(
        [
            html.H3(panel.title),
            *pair,
            chart,
            html.P(id=f"{name}-caption", className="caption"),
            html.Details([html.Summary(id=f"{name}-table-title"), table], id=f"{name}-details", hidden=True),
        ],
        className="panel full" if panel.wide else "panel",
        **_aria(label=panel.title),
    )


# ------------------------------------------------------------------------------------------------------------- what is shown of it


def _status(board: Board) -> str:
    """One sentence; it changes, and is read out by screen readers, only when a trial starts, ends or is the new best."""
    trials = board.trials
    running = int(trials["status"].isin(["running", "pending"]).sum())
    best = f", best validation Dice {trials['score'].iloc[0]:.4f}" if trials["score"].notna().any() else ""
    return f"{running} of {len(trials)} trial{'' if len(trials) == 1 else 's'} running{best}."


def _table(rows: pd.DataFrame) -> list[Any]:
    """Head and body of a panel's table."""
    head = html.Tr([html.Th(str(name), scope="col") for name in rows.columns])
    body = [html.Tr([html.Td(plain(value)) for value in row]) for row in rows.itertuples(index=False)]
    return [html.Thead(head), html.Tbody(body)]


def _tiles(board: Board) -> list[html.Div]:
    trials = board.trials
    best = trials.iloc[0] if trials["score"].notna().any() else None
    states = ", ".join(f"{count} {status}" for status, count in trials["status"].fillna("unknown").value_counts().items())
    gpu, cpu = float(trials["gpu_seconds"].sum()) / 3600, float(trials["cpu_seconds"].sum()) / 3600
    shown = (
        (
            "Best validation Dice",
            DASH if best is None else f"{best['score']:.4f}",
            "" if best is None else f"trial {best['label']}",
        ),
        ("Trials", str(len(trials)), states),
        ("GPU-hours" if gpu else "CPU-hours", f"{gpu or cpu:.2f}", "added over all trials"),
    )
    return [html.Div([html.Dt(name), html.Dd([html.B(value), html.Span(note)])], className="tile") for name, value, note in shown]


def _heading(column: ranking.Column, way: str) -> html.Th:
    heading = column.heading
    button = html.Button(heading, id={"heading": heading}, type="button")
    kind = "num" if column.numeric else ""
    return html.Th(button, id={"column": heading}, scope="col", title=column.explanation, className=kind, **_aria(sort=way))


def _rows(table: ranking.Ranking, words: str, order: Mapping[str, Any]) -> tuple[list[html.Tr], str]:
    """The first rows that hold all the words, in order, and a sentence on how many these are."""
    wanted = words.casefold().split()
    found = [row for row in table.rows if all(word in _text_of(row) for word in wanted)]
    if order["heading"] in (column.heading for column in table.columns):
        # Numbers before words, rows without a value last either way, equal ones in their order.
        valued = [(row.cells.get(order["heading"], (DASH, None))[1], row) for row in found]
        having = [(isinstance(value, str), value, row) for value, row in valued if value is not None]
        having.sort(key=lambda item: item[:2], reverse=not order["ascending"])
        found = [row for *_, row in having] + [row for value, row in valued if value is None]
    shown = found[:MAX_ROWS]
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
    text = plain(row.cells.get(column.heading, (DASH, None))[0])
    if column.heading == "Trial":
        return html.Th([text, *more], scope="row")
    content: Any = text
    if column.heading == "Status" and text != DASH:
        content = html.Span(text, className=f"status {text if text.isalpha() else 'unknown'}")
    return html.Td(content, className="num" if column.numeric else "")


def plain(value: object) -> str:
    """A value as text of bounded length, without control characters or direction overrides."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value)[:80])


if __name__ == "__main__":
    sys.exit(main())
