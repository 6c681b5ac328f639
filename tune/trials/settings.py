"""What one trial is told, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cdal.data import Dataset, open_dataset
from cdal.training import BEST, LAST, MIDWAY, PREVIOUS
from tune.lake import Mirror

Message = dict[str, Any]
"""`epochs`: rows of the metrics table, new or repeated; `curve`: the same as (epoch, best Dice so far); a trial's last message has
`done`, `status`, `reason`, and where it finished `trial`, `costs`, `cases` and `gallery`. Besides: `waits`, where its workers
wait for machines; `silent`, seconds since the last sign of life; `fault`, why the process cannot go on."""


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """All that a trial needs to know; plain values, sent as JSON."""

    number: int
    kind: str
    config: Mapping[str, Any]
    dataset: str
    options: Mapping[str, Any]
    data: str | None
    fold: int
    folder: str
    """The trial's own folder in the lake: one that every worker sees, or s3://bucket/prefix."""
    workers: int = 1
    cpus: float = 1
    """Of one worker."""
    gpus: float = 0
    """Of one worker."""
    population: bool = False
    """Whether the trial may become a copy of another one."""
    parent: int | None = None
    """The trial that it is a copy of."""
    test_evaluations: int = 0
    """How often the settings will have been scored on the test split after this trial; 0: it is not to see the test split."""
    only_score: bool = False
    """Whether nothing is to be trained: the best checkpoint is scored."""
    avoid: Sequence[str] = ()
    """Ray's names of machines that are not to be used."""

    def to_json(self) -> str:
        """Inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialSettings:
        """Inverse of `to_json`."""
        return cls(**json.loads(text))

    def open_dataset(self) -> Dataset:
        """The dataset, kept in memory by the process."""
        return open_dataset(self.dataset, self.data, **self.options)

    def files(self) -> Mirror:
        """The trial's checkpoints."""
        return Mirror(self.folder, (BEST, LAST, MIDWAY), {LAST: PREVIOUS})

    @property
    def place(self) -> str:
        """The folder of all trials."""
        return self.folder.rpartition("/")[0]

    @property
    def device(self) -> torch.device:
        """Where this process computes; Ray shows a worker its own GPUs only."""
        return torch.device("cuda" if self.gpus > 0 else "cpu")
