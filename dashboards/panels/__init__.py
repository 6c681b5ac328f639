"""The panels that every dashboard shows, in their order: what each is called, draws and says.

for panel in PANELS:                       # of a dataset's or an experiment's board
    drawn = panel.draw(board)              # figure, caption, table; None where there is nothing to draw yet
    print(panel.title, drawn.caption if drawn else panel.empty)

All texts are plain; whoever shows them as HTML escapes them.
"""

from dashboards.panels import cases, search, settings, spending
from dashboards.panels.panel import Drawn, Panel
from dashboards.panels.search import TRIAL_PANELS
from dashboards.summaries import Board

PANELS: tuple[Panel[Board], ...] = (*search.PANELS, *settings.PANELS, *cases.PANELS, *spending.PANELS)
"""Of a board: of a dataset with all its searches, or of one experiment."""

GROUPS = tuple(dict.fromkeys(panel.group for panel in PANELS))
"""Headings under which they stand."""
