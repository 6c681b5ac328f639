"""A panel: a chart with the words and figures that belong to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pandas as pd
import plotly.graph_objects as go

from dashboards.summaries import Board, Trial

_Subject = TypeVar("_Subject", Board, Trial)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A panel with its data."""

    figure: go.Figure
    caption: str
    """What it shows, how to read it, and what was left out."""
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same in words and figures, ready to be shown; without rows where the ranking says it already."""
    table_title: str = ""


@dataclass(frozen=True, eq=False)
class Panel(Generic[_Subject]):
    """One chart of a board, or of a trial."""

    name: str
    """Short, for addresses."""
    title: str
    empty: str
    """What is said where there is nothing to draw: why, and what to do."""
    draw: Callable[[_Subject], Drawn | None]
    group: str = ""
    """Heading under which it stands."""
    wide: bool = False
    """Whether it scrolls sideways on a narrow screen rather than shrink."""

    def figure(self, subject: _Subject) -> go.Figure | None:
        """The chart alone, for a notebook."""
        drawn = self.draw(subject)
        return None if drawn is None else drawn.figure
