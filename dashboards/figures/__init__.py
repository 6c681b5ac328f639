"""The dashboards' charts: data frame in, Plotly figure out. They work in a notebook as well:

from dashboards import figures, summaries
from tune.results import load
board = summaries.boards(summaries.read(load("results")))[0]
figures.optimisation_history(board.trials).show(config=figures.CONFIG)
"""

from dashboards.figures.cases import case_boxes, paired_cases
from dashboards.figures.search import MAX_MARKS, dice_and_seconds, learning_curves, losses, optimisation_history
from dashboards.figures.settings import contour, importances, parallel_coordinates, slices
from dashboards.figures.spending import costs, timeline
from dashboards.figures.theme import BLUE, CONFIG, GREEN, PINK, THEMES, VERMILLION, plain
