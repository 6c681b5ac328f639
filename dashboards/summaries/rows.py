"""What the dashboards read of a lake, once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from dashboards.summaries.settings import without_inactive, without_unused
from tune.results import Lake


@dataclass(frozen=True, eq=False)
class Rows:
    """A lake, read once."""

    descriptions: Mapping[str, Mapping[str, Any]]
    """By experiment: what its experiment.json says."""
    trials: pd.DataFrame
    """All trials, without the settings that do not matter to them."""
    metrics: pa.Table
    cases: pa.Table
    gallery: pa.Table
    """Without the pictures' bytes."""
    finalists: pd.DataFrame

    def dataset(self, experiment: str) -> str:
        """Name of an experiment's dataset."""
        return str(self.descriptions[experiment].get("dataset") or "unknown dataset")

    @cached_property
    def searches(self) -> Mapping[str, Sequence[str]]:
        """Names of the experiments by dataset, both in order of their names; one without trials stands under its own dataset."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.descriptions):
            own = set(self.trials.loc[self.trials["experiment"] == name, "dataset"])
            for dataset in own or {self.dataset(name)}:
                found.setdefault(dataset, []).append(name)
        return dict(sorted(found.items()))


def read(lake: Lake) -> Rows:
    """Read what the dashboards show."""
    descriptions = {experiment.name: experiment.description for experiment in lake.experiments}
    trials = lake.trials().to_pandas()
    known = {name: str(about.get("dataset") or "unknown dataset") for name, about in descriptions.items()}
    trials["dataset"] = trials["dataset"].fillna(trials["experiment"].map(known)).astype(str)
    trials = without_unused(trials)
    for name, about in descriptions.items():
        trials = without_inactive(trials, name, about)
    cases, gallery = lake.cases(["group", "dice", "iou", "hd95", "assd", "seconds"]), lake.gallery(["dice", "votes"])
    return Rows(descriptions, trials, lake.metrics(), cases, gallery, lake.finalists().to_pandas())
