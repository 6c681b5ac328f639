"""Population based training (Jaderberg et al. 2017) by Ray Tune's scheduler: bad trials go on as copies of good ones.

Every few epochs a trial in the lower quarter takes over weights, optimiser state and settings of one in the upper quarter, and
changes those settings that may change in the middle of a training: loss weights and learning rates, if they are searched. From then
on its curve is that of its lineage, and its row in the lake says whose child it is. The controls take no part.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from cdal.config import Config
from tune.lake.status import SEARCHED
from tune.proposing import Outcome, Parameter, Space

MUTABLE = ("loss.", "optimiser.lr_")
_FACTORS = (0.8, 1.25)
_RESAMPLED = 0.25  # how often a setting is drawn afresh


class PopulationTraining(PopulationBasedTraining):
    """Ray's scheduler for trials that carry their settings as JSON, beside a searcher and controls."""

    look: Callable[[Any], None] | None = None
    """As of `InOrder`."""

    def __init__(self, space: Space, *, interval: int, seed: int) -> None:
        """Make a scheduler.

        Args:
            space: what is searched.
            interval: epochs between two comparisons.
            seed: of the changes.
        """
        super().__init__(
            time_attr="epoch",
            metric="dice",
            mode="max",
            perturbation_interval=interval,
            custom_explore_fn=lambda config: config,  # it wants one or the other; `_get_new_config` does the work
            log_config=False,
            require_attrs=False,  # a trial's last message has no Dice
        )
        self._space, self._rng = space, np.random.default_rng(seed)

    def replay(self, outcomes: Sequence[Outcome]) -> None:
        """Nothing: trials compare themselves with those that run now."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial into the population. (Ray's refuses searchers; here one draws the population.)"""
        if trial.config["kind"] == SEARCHED:
            no_searcher: Any = SimpleNamespace(search_alg=None)
            super().on_trial_add(no_searcher, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on, and as whose copy."""
        if trial.config["kind"] != SEARCHED or result.get("done") or not np.isfinite(result.get("dice", np.nan)):
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The controls first, then whoever has trained least."""
        if self.look is not None:
            self.look(tune_controller)
        waiting = [trial for trial in tune_controller.get_trials() if trial.status in ("PENDING", "PAUSED")]
        controls = [trial for trial in waiting if trial.config["kind"] != SEARCHED]
        return controls[0] if controls else super().choose_trial_to_run(SimpleNamespace(get_trials=lambda: waiting))  # type: ignore[arg-type]

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        own, donor = (json.loads(one.config["settings"]) for one in (trial, trial_to_clone))
        config = Config.from_dict(donor["config"]).replace(mutate(self._space, donor["config"], self._rng))
        settings = own | {"config": config.to_dict(), "parent": donor["number"]}
        return dict(trial.config) | {"settings": json.dumps(settings)}, {}


def mutate(space: Space, config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """New values for the searched settings that may change in the middle of a training.

    Numbers are multiplied by 0.8 or 1.25 and kept within their range, choices move to a neighbour; one in four is drawn afresh.

    Args:
        space: what is searched.
        config: of the trial that is copied, as `Config.to_dict` gives it.
        rng: for the draws.
    """
    values = space.values_of(Config.from_dict(config))
    return {path: _change(space.parameters[path], value, rng) for path, value in values.items() if path.startswith(MUTABLE)}


def mutable(space: Space) -> list[str]:
    """The searched settings that may change in the middle of a training."""
    return [path for path in space.parameters if path.startswith(MUTABLE)]


def _change(parameter: Parameter, value: Any, rng: np.random.Generator) -> Any:
    afresh = rng.random() < _RESAMPLED
    if parameter.values:
        place = parameter.values.index(value)
        last = len(parameter.values) - 1
        return parameter.values[int(rng.integers(last + 1)) if afresh else min(max(place + int(rng.choice([-1, 1])), 0), last)]
    low, high = parameter.low, parameter.high
    if afresh and parameter.log:
        changed = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    elif afresh:
        changed = float(rng.uniform(low, high))
    else:
        changed = value * float(rng.choice(_FACTORS))
    changed = min(max(changed, low), high)
    return round(changed) if parameter.whole else changed
