"""The buttons that steer a search, for whoever owns the page's token: what `python -m tune.control` does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, callback_context, dcc, html, no_update
from dash.exceptions import PreventUpdate
from flask import request

from dashboards.live.layout import aria
from dashboards.live.parts import plain
from dashboards.live.watch import Watch
from tune.results import InputError, answer_in, ask, worded

_WORDED = {  # what is asked for with words: its name, an example, and its button
    "stop": ("Trial", "12", "Stop this trial"),
    "budget": ("Budget", "+10h or +10gpuh", "Add to the budget"),
    "trials": ("Trials", "+50", "More trials"),
}
_TICK = 1.0  # seconds between two looks for an answer


def steering_panel() -> html.Section:
    """Buttons and fields; hidden until one search is shown."""
    plain_ones = html.Div([_button("pause", "Pause"), _button("go", "Go on")], className="live-buttons")
    lines = [_line(ask, *words) for ask, words in _WORDED.items()]
    label = html.Label("Settings to try next", htmlFor="steer-enqueue")
    settings = dcc.Textarea(id="steer-enqueue", placeholder="loss.adversarial: 0.1", rows=3, spellCheck=False)
    lines.append(html.Div([label, settings, _button("enqueue", "Try these settings")], className="live-steer"))
    answer = html.P(id="steer-answer", className="caption", **aria(live="polite"))
    waiting = [dcc.Store("steer-asked"), dcc.Interval("steer-tick", interval=1000 * _TICK, disabled=True)]
    content = [html.H3("Steer this search"), plain_ones, *lines, answer, *waiting]
    return html.Section(content, id="steer", className="panel", hidden=True)


def _line(name: str, title: str, example: str, button: str) -> html.Div:
    field = dcc.Input(id=f"steer-{name}", type="text", placeholder=example, autoComplete="off")
    return html.Div([html.Label(title, htmlFor=f"steer-{name}"), field, _button(name, button)], className="live-steer")


def _button(name: str, words: str) -> html.Button:
    return html.Button(words, id={"steer": name}, type="button")


def steer(app: Dash, watch: Watch, root: str, is_owner: Callable[[], bool]) -> None:
    """Have the buttons work. A request is looked at twice: a page without the buttons could still send one."""

    @app.callback(Output("steer", "hidden"), Input("state", "data"))
    def show(state: Mapping[str, str] | None) -> bool:
        """Only one search can be steered."""
        return state is None or watch.search(state["choice"]) is None

    @app.callback(
        *(Output(*one) for one in (("steer-asked", "data"), ("steer-answer", "children"), ("steer-tick", "disabled"))),
        Input({"steer": ALL}, "n_clicks"),
        Input("steer-tick", "n_intervals"),
        State("state", "data"),
        State("steer-asked", "data"),
        *(State(f"steer-{name}", "value") for name in (*_WORDED, "enqueue")),
        prevent_initial_call=True,
    )
    def press(
        _: Sequence[int | None], __: int | None, state: Mapping[str, str] | None, asked: Sequence[str] | None, *words: str | None
    ) -> tuple[Any, str, bool]:
        """A button was pressed, or it is time to look for the answer."""
        if callback_context.triggered_id == "steer-tick":
            return no_update, *_answer(watch, asked)
        search = None if state is None else watch.search(state["choice"])
        if not is_owner() or search is None or not callback_context.triggered[0]["value"]:
            raise PreventUpdate
        name = str(callback_context.triggered_id["steer"])
        given = dict(zip((*_WORDED, "enqueue"), words, strict=True)).get(name) or ""
        try:
            id = ask(root, search, worded(name, given, "the settings"), f"the live page, from {request.remote_addr}")
        except InputError as error:
            return None, plain(error, 500), True
        return [search, id], "Asked; the search answers within seconds.", False


def _answer(watch: Watch, asked: Sequence[str] | None) -> tuple[str, bool]:
    """What is said of a request, and whether that is the end of it."""
    if not asked:
        raise PreventUpdate
    search, id = asked
    answer = answer_in(watch.description(search), id)
    if answer is None:
        return "Asked. Where nobody works on the search now, it will be obeyed when the search goes on.", False
    return plain(answer.get("answer"), 500), True
