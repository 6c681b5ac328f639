"""What the dashboards say, computed from the lake as plain data frames. Knows nothing of Plotly or HTML.

rows = read(load("results"))           # the lake, read once
for board in boards(rows): ...         # all searches on one dataset together
board_of(rows, "first")                # one experiment
"""

from dashboards.summaries.boards import MAX_TRIALS, Board, Trial, board_of, board_of_dataset, boards, trials_of
from dashboards.summaries.cases import counted, pairs
from dashboards.summaries.importance import MAX_FOREST, MIN_FOREST, importances
from dashboards.summaries.progress import HIGHLIGHTED_CURVES, MAX_CURVE_POINTS, curves, history, improvements, loss_columns, thin
from dashboards.summaries.rows import Rows, read
from dashboards.summaries.settings import (
    DASH,
    MAX_PARALLEL_ROWS,
    MAX_SLICE_POINTS,
    parallel,
    parameter_name,
    searched_columns,
    varying,
    without_inactive,
)
from dashboards.summaries.spending import MAX_BARS, costs, timeline
from dashboards.summaries.trials import labels, last_lines, of_trials, rank, records, sample, with_final_scores
