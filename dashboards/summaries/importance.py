"""How much each searched parameter matters: fANOVA (Hutter et al. 2014), by Optuna, over a study made of the lake's rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_FOREST = 10  # fewer say nothing
MAX_FOREST = 300  # of the forest's work; enough for its figures to settle
_TREES = 32
_SEED = 0


def importances(trials: pd.DataFrame, searched: Sequence[str]) -> pd.DataFrame:
    """Share of the Dice's variance that each parameter explains by itself: `column`, `importance`; the largest first.

    A trial that was stopped counts with the Dice that it had reached. A parameter that is not active in a trial counts there as its
    middle value. Empty where fewer than `MIN_FOREST` trials have a Dice, or nothing differs between them.

    Args:
        trials: ranked; an even sample of at most `MAX_FOREST` is looked at, and never the plain U-Net, which is another model.
        searched: config columns.
    """
    nothing = pd.DataFrame({"column": pd.Series(dtype=object), "importance": pd.Series(dtype=float)})
    rows = trials[trials["score"].notna() & (trials["kind"] != "unet")]
    columns = {column: axis for column in searched if (axis := _axis(rows[column])) is not None}
    if len(rows) < MIN_FOREST or not columns or rows["score"].nunique() < 2:
        return nothing
    if len(rows) > MAX_FOREST:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, MAX_FOREST).round().astype(int)]
    if len(columns) == 1:
        return pd.DataFrame({"column": list(columns), "importance": [1.0]})
    found = _fanova(rows, columns)
    return pd.DataFrame({"column": list(found), "importance": list(found.values())})


def _fanova(rows: pd.DataFrame, columns: dict[str, tuple[BaseDistribution, Any]]) -> dict[str, float]:
    import optuna  # here: it takes a second to import, and most pages need it only once

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {column: distribution for column, (distribution, _) in columns.items()}
    for row in rows[[*columns, "score"]].to_dict("records"):
        params = {}
        for column, (_, filler) in columns.items():
            value = _plain(row[str(column)])
            params[column] = filler if value is None else value
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=float(row["score"])))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, max_depth=16, seed=_SEED)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _axis(values: pd.Series) -> tuple[BaseDistribution, Any] | None:
    """Optuna's distribution over the values that occur, and the value of trials that have none; None where all are the same."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known = [value for value in map(_plain, values) if value is not None]
    if len(set(known)) < 2:
        return None
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        low, high = float(min(known)), float(max(known))
        return FloatDistribution(low, high, log=low > 0 and high / low >= 8), float(np.median(known))
    choices = sorted(set(known), key=str)
    return CategoricalDistribution(choices), max(choices, key=known.count)


def _plain(value: Any) -> Any:
    """A value that Optuna takes: lists as text; None where there is none."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return None if value is None or value != value else value
