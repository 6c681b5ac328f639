"""The page before there is anything to show."""

from typing import Any

from dash import dcc, html

from dashboards.panels import GROUPS, PANELS, Panel
from dashboards.summaries import Board

LOCAL_SECONDS = 2.0  # between two looks at a lake in a folder, and between two questions of the page


def layout(source: str, steering: html.Section | None = None) -> html.Div:
    """All components, by whose ids the callbacks know them; `steering` for those who may."""
    stores = [dcc.Store(name) for name in ("state", "scheme", "choice", "first", "second")]
    order = dcc.Store("order", data={"heading": "", "ascending": True})
    status = html.P("Starting.", id="status", role="status", className="muted live-status")
    clock = html.P(id="clock", className="muted live-status")
    heading = html.Div([html.H1(["cDAL Search ", html.Span("live")]), status, clock], className="page")
    several = html.Div(_choice("Show", "choices"), id="several", hidden=True)
    groups = [_group(group) for group in GROUPS]
    own = [] if steering is None else [steering]
    results = [several, html.Dl(id="tiles", className="summary"), _ranking(), *own, *groups]
    main = [_waiting(source), html.Div(results, id="results", hidden=True)]
    tick = dcc.Interval("tick", interval=1000 * LOCAL_SECONDS)
    footer = html.Footer(["From ", html.Code(source), ". Drag in a chart to zoom, double-click to reset."], className="page")
    return html.Div([tick, *stores, order, html.Header(heading), html.Main(main, id="main", className="page", tabIndex=-1), footer])


def aria(**values: str) -> dict[str, Any]:
    """Attributes by which screen readers know a component."""
    return {f"aria-{name}": value for name, value in values.items()}


def _waiting(source: str) -> html.Div:
    command = html.Pre(f"python tune/search.py --storage {source}")
    said = [html.H2("No search has written here yet"), html.P(["Start one, and this page shows it within seconds:"]), command]
    return html.Div(said, id="waiting", className="panel", hidden=True)


def _ranking() -> html.Section:
    find = dcc.Input(id="filter", type="search", debounce=0.3, placeholder="status, kind or a setting")
    table = html.Table([html.Thead(html.Tr(id="headings")), html.Tbody(id="rows")], className="ranking")
    parts = [
        html.H3("Ranking", id="ranking-title"),
        html.Div([html.Label("Show rows with", htmlFor="filter"), find], className="live-choice"),
        html.Div(table, className="scroll table", tabIndex=0, role="region", **aria(labelledby="ranking-title")),
        html.P(id="shown", className="caption"),
        _log(),
    ]
    return html.Section(parts, className="panel")


def _log() -> html.Details:
    field = dcc.Input(id="log-trial", type="text", debounce=0.3, placeholder="as the ranking calls it", autoComplete="off")
    text = html.Pre(id="log", hidden=True, tabIndex=0, role="region", **aria(label="Log"))
    choice = html.Div([html.Label("Trial", htmlFor="log-trial"), field], className="live-choice")
    return html.Details([html.Summary("Log of a trial"), choice, text, html.P(id="log-note", className="caption")])


def _group(group: str) -> html.Section:
    shown = [_panel(panel) for panel in PANELS if panel.group == group]
    return html.Section([html.H2(group), html.Div(shown, className="grid")])


def _choice(title: str, name: str) -> html.Fieldset:
    return html.Fieldset([html.Legend(title), html.Div(id=name, className="live-buttons")])


def _panel(panel: Panel[Board]) -> html.Section:
    name = panel.name
    chart = html.Div(id=f"{name}-box", className="wide" if panel.wide else "")
    if panel.wide:
        label = aria(label=f"{panel.title}, scrolls sideways")
        chart = html.Div(chart, className="scroll", tabIndex=0, role="region", **label)
    pair = [_choice("First", "firsts"), _choice("Second", "seconds")] if name == "pairs" else []
    table = html.Div(html.Table(id=f"{name}-table"), className="scroll")
    caption = html.P(id=f"{name}-caption", className="caption")
    details = html.Details([html.Summary(id=f"{name}-table-title"), table], id=f"{name}-details", hidden=True)
    content = [html.H3(panel.title), *pair, chart, caption, details]
    return html.Section(content, className="panel full" if panel.wide else "panel", **aria(label=panel.title))
