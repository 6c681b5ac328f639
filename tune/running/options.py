"""What the user asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdal.errors import InputError
from tune.steering import Granted
from tune.stopping import DEFAULT_SCHEDULER

DEFAULT_TRIALS = 8
"""Where neither trials nor a budget were said."""

AUTO = "auto"
"""As many trials share a GPU as a short measurement finds worthwhile."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for; None where nothing was said. Kept in experiment.json, so that a resumed search does the same."""

    dataset: str | None = None
    data: str | None = None
    space: str | None = None
    sets: tuple[str, ...] = ()
    groups: Mapping[str, str] | str | None = None
    """The group of every case of own data; "none": each stands alone."""
    split: Sequence[Mapping[str, Any]] | None = None
    """Folds of own data, as `cdal.data.own.groups.read_split` returns them."""
    fold: int = 0
    trials: int | None = None
    epochs: int | None = None
    time_budget: float | None = None
    """Seconds."""
    gpu_hours: float | None = None
    cost_per_gpu_hour: float | None = None
    """In whatever currency."""
    min_improvement: float | None = None
    """Dice below which further trials do not pay."""
    sampler: str = ""
    """Empty for the one that suits the objectives."""
    scheduler: str = DEFAULT_SCHEDULER
    objectives: tuple[str, ...] = ("dice",)
    tries: tuple[Mapping[str, Any], ...] = ()
    """Settings of people, values by the fields' paths, which run before the sampler's proposals."""
    warm_start: str | None = None
    """An experiment of the lake, or another lake, or an experiment of it."""
    seed: int = 0
    max_concurrent: int | None = None
    workers_per_trial: int = 1
    cpus_per_worker: float | None = None
    gpus_per_worker: float | str | None = None
    """A number, or AUTO, which is what nothing said means for trials of one worker."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        """Inverse of `to_dict`."""
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        lists = {name: tuple(known.get(name, getattr(cls, name))) for name in ("sets", "objectives", "tries")}
        return cls(**known | lists)

    @property
    def trials_in_all(self) -> int | None:
        """How many trials; None where only a budget ends the search."""
        if self.trials is None and self.time_budget is None and self.gpu_hours is None:
            return DEFAULT_TRIALS
        return self.trials

    def with_granted(self, granted: Granted) -> Options:
        """The same with what people have given to the search since it began."""
        return replace(
            self,
            trials=(self.trials_in_all or 0) + granted.trials if granted.trials else self.trials,
            time_budget=None if self.time_budget is None else self.time_budget + granted.seconds,
            gpu_hours=None if self.gpu_hours is None else self.gpu_hours + granted.gpu_hours,
            tries=(*self.tries, *granted.settings),
        )


def absolute(data: str) -> str:
    """The data's place as other processes find it."""
    return data if "://" in data else str(Path(data).expanduser().absolute())


def parse_duration(text: str) -> float:
    """Seconds from `90`, `90s`, `30m`, `2h` or `1h30m`.

    Raises:
        InputError: another form, or no time at all.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0.0
    if seconds <= 0:
        raise InputError(f"--time-budget is {text!r}; write it as 90s, 30m, 2h or 1h30m")
    return seconds


def parse_gpus(text: str) -> float | str:
    """A number of GPUs, or AUTO.

    Raises:
        InputError: something else.
    """
    try:
        return AUTO if text.strip() == AUTO else float(text)
    except ValueError:
        raise InputError(f"--gpus-per-worker is {text!r}; write auto, or a number such as 1 or 0.25") from None
