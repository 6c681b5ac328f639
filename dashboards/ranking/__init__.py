"""The ranking: trials, finalists and published figures as rows of plain cells, for whoever draws a table of them."""

from dashboards.ranking.literature import published
from dashboards.ranking.table import FINALIST, KINDS, LITERATURE, Column, Ranking, Row, ranking, setting, status_of
