"""All that is shown of a dataset, of an experiment, or of a trial, from the lake's rows."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from dashboards.summaries import cases
from dashboards.summaries.importance import importances
from dashboards.summaries.progress import MAX_CURVES, rungs
from dashboards.summaries.rows import Rows
from dashboards.summaries.settings import searched_columns, settings
from dashboards.summaries.trials import KEY, of_trials, rank, records, with_final_scores

MAX_TRIALS = 1000  # of a board that are looked at in detail: listed, tested, drawn as points


@dataclass(frozen=True, eq=False)
class Board:
    """Everything that is shown of one dataset, or of one experiment."""

    dataset: str
    experiments: tuple[str, ...]
    descriptions: Mapping[str, Mapping[str, Any]]
    trials: pd.DataFrame
    """Ranked, best first, with the added columns `rank`, `label` and `score` (NaN where a trial has no Dice yet), and those of
    `tune.lake.statistics` that say how sure the final Dice is: `groups`, `low`, `high`, `best`, `p`, `in_best_set`. Finalists'
    trainings are not among them, unless there is nothing else."""
    trainings: pd.DataFrame
    """Of finalists, ranked likewise."""
    finalists: pd.DataFrame
    """One row per finalist, see `tune.lake.statistics`."""
    searched: tuple[str, ...]
    """Config columns that the searches varied."""
    metrics: pd.DataFrame
    """Of the best trials' epochs."""
    tradeoffs: pd.DataFrame
    """Dice and seconds per case of every trial at every number of votes, see `tune.lake.statistics`, with the trials' labels."""
    cases: pd.DataFrame
    """Dice of every validation case of the best trials that were scored on the same ones, with `place` and `label`."""
    gallery: pd.DataFrame
    """Pictured cases of the best trial that has any, without the pictures' bytes."""
    rungs: tuple[int, ...]
    """Epochs after which successive halving stopped trials; empty where the searches had other rules, or differ."""

    @property
    def protocol(self) -> str:
        """How the dataset is split and scored, in words, where an experiment says so."""
        texts = (self.descriptions[name].get("protocol") for name in self.experiments)
        return next((str(text) for text in texts if text), "")

    @property
    def published_settings(self) -> Mapping[str, Any]:
        """The settings of the trial with the published ones; empty where there is none."""
        own = self.trials[self.trials["kind"] == "published"]
        return records(own.head(1))[0] if len(own) else {}

    @cached_property
    def importances(self) -> pd.DataFrame:
        """How much each searched parameter matters to the Dice, see `dashboards.summaries.importance`."""
        return importances(self.trials, self.searched)


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything that is shown of one trial."""

    row: Mapping[str, Any]
    """Its row of the board."""
    settings: pd.DataFrame
    """`field`, `value`, the `published` value, and whether it is `searched` and has `changed`."""
    metrics: pd.DataFrame
    cases: pd.DataFrame
    gallery: pd.DataFrame
    rungs: tuple[int, ...]
    description: Mapping[str, Any]
    """Of its experiment."""


def boards(rows: Rows, known: Iterable[Board] = ()) -> list[Board]:
    """One board per dataset, by name; where that is one of the `known` ones of single experiments, the same."""
    there = {(board.dataset, board.experiments): board for board in known}
    named = [(dataset, tuple(names)) for dataset, names in rows.searches.items()]
    return [there.get(key) or board_of_dataset(rows, *key) for key in named]


def board_of(rows: Rows, experiment: str) -> Board:
    """The board of one experiment."""
    own = rows.trials.loc[rows.trials["experiment"] == experiment, "dataset"]
    return board_of_dataset(rows, str(own.iloc[0]) if len(own) else rows.dataset(experiment), [experiment])


def board_of_dataset(rows: Rows, dataset: str, experiments: Sequence[str]) -> Board:
    """The board of some experiments on a dataset."""
    own = rows.trials[(rows.trials["dataset"] == dataset) & rows.trials["experiment"].isin(experiments)]
    is_training = own["finalist"].notna()
    trainings = rank(own[is_training])
    ranked = rank(own[~is_training]) if not is_training.all() else trainings
    shown = ranked.head(MAX_TRIALS)
    scores = of_trials(rows.cases, shown)
    ranked = with_final_scores(ranked, scores.to_pandas()).merge(cases.certainty(scores, shown), on=KEY, how="left")
    scored = ranked[ranked["score"].notna()]
    descriptions = {name: rows.descriptions[name] for name in experiments}
    finalists = rows.finalists[(rows.finalists["dataset"] == dataset) & rows.finalists["experiment"].isin(experiments)]
    return Board(
        dataset,
        tuple(experiments),
        descriptions,
        ranked,
        trainings,
        finalists.reset_index(drop=True),
        searched_columns(ranked, list(descriptions.values())),
        of_trials(rows.metrics, scored.head(MAX_CURVES)).to_pandas(),
        cases.tradeoffs(scores, shown),
        cases.compared(scores.to_pandas(), ranked),
        cases.pictured(of_trials(rows.gallery, shown).to_pandas(), ranked),
        rungs(ranked, descriptions.values()),
    )


def trials_of(rows: Rows, board: Board, chosen: pd.DataFrame) -> Iterator[Trial]:
    """Some trials of a board, each with all that is known of it."""
    tables = (rows.metrics, rows.cases, rows.gallery)
    metrics, scores, gallery = (_by_trial(of_trials(table, chosen).to_pandas()) for table in tables)
    published = board.published_settings
    for row in records(chosen):
        key = (row["experiment"], row["trial_id"])
        own = settings(row, board.searched, published)
        epochs = metrics[key].sort_values("epoch", kind="stable").reset_index(drop=True)
        pictured = cases.placed(gallery[key].assign(label=row["label"]))
        yield Trial(row, own, epochs, cases.worst_first(scores[key]), pictured, board.rungs, board.descriptions[row["experiment"]])


def _by_trial(frame: pd.DataFrame) -> Mapping[Any, pd.DataFrame]:
    """The rows of every trial; none for those that are not there."""
    nothing = frame.iloc[:0]
    return defaultdict(lambda: nothing, {key: own for key, own in frame.groupby(KEY)})
