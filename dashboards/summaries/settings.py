"""Settings of trials: which were searched, which are in use, how they are called, and where they differ from the published ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.summaries.trials import sample

MAX_PARALLEL_ROWS = 1000  # parallel coordinates are sluggish beyond
MAX_SLICE_POINTS = 6000  # in all slices together; beyond some 10,000 SVG marks a page is sluggish
DASH = "–"
"""Stands for a value that is not there."""

_CONFIG = "config."
_NAMES = {"timesteps": "time steps", "lr_generator": "generator lr", "lr_discriminator": "discriminator lr", "r1_gamma": "R1 gamma"}
_DIFFUSION = ("config.diffusion.", "config.model.latent")
_ADVERSARIAL = ("config.model.discriminator", "config.loss.adversarial", "config.loss.r1", "config.optimiser.lr_discriminator")
_ATTENTION = ("config.model.attention_tap", "config.loss.attention")


def parameter_name(column: str) -> str:
    """A config column in words: `config.loss.soft_dice` -> `soft dice weight`."""
    path = column.removeprefix("config.").split(".")
    name = _NAMES.get(path[-1], path[-1].replace("_", " "))
    return f"{name} weight" if path[0] == "loss" and path[-1] in ("adversarial", "reconstruction", "soft_dice") else name


def without_unused(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials without the settings that a plain U-Net has no use for, such as its time steps."""
    columns = [column for column in trials.columns if column.startswith(_DIFFUSION + _ADVERSARIAL + _ATTENTION)]
    return trials.assign(**{column: trials[column].mask(trials["kind"] == "unet") for column in columns})


def without_inactive(trials: pd.DataFrame, experiment: str, description: Mapping[str, Any]) -> pd.DataFrame:
    """Trials without the values of searched parameters whose condition does not hold; the lake has the published ones there."""
    conditions = {
        f"{_CONFIG}{path}": rule["condition"]
        for path, rule in _declared(description).items()
        if isinstance(rule, Mapping) and isinstance(rule.get("condition"), Mapping) and f"{_CONFIG}{path}" in trials
    }
    if not conditions:
        return trials
    changed = trials.copy()
    own = changed["experiment"] == experiment
    for _ in conditions:  # an inactive parameter makes those inactive that depend on it
        for column, condition in conditions.items():
            for other, allowed in condition.items():
                if f"{_CONFIG}{other}" in changed:
                    met = [_allows(allowed, value) for value in changed[f"{_CONFIG}{other}"]]
                    changed[column] = changed[column].mask(own & ~np.array(met))
    return changed


def _allows(allowed: Any, value: Any) -> bool:
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None or value != value:
        return False
    if isinstance(allowed, Mapping):
        is_number = isinstance(value, (int, float))
        return is_number and allowed.get("min", -math.inf) <= value <= allowed.get("max", math.inf)
    return value in allowed if isinstance(allowed, list) else bool(value == allowed)


def searched_columns(trials: pd.DataFrame, descriptions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Config columns that the experiments name as `searched` or as the keys of `space`; else all that differ between trials."""
    named = {f"{_CONFIG}{path}" for description in descriptions for path in _declared(description)}
    columns = [column for column in trials.columns if column.startswith(_CONFIG)]
    declared = tuple(column for column in columns if column in named)
    return declared or tuple(column for column in columns if trials[column].dropna().map(str).nunique() > 1)


def _declared(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The searched fields with their rules, as far as the description tells."""
    for name in ("searched", "space"):
        value = description.get(name)
        if isinstance(value, Mapping):
            inner = next((value[key] for key in ("parameters", "search") if isinstance(value.get(key), Mapping)), value)
            return {str(path): rule for path, rule in inner.items()}
        if isinstance(value, (list, tuple)):
            return {str(path): None for path in value}
    return {}


def varying(trials: pd.DataFrame, searched: Sequence[str]) -> list[str]:
    """The searched columns that differ between trials that have a Dice."""
    scored = trials[trials["score"].notna()]
    return [column for column in searched if scored[column].dropna().map(str).nunique() > 1]


def parallel(trials: pd.DataFrame, searched: Sequence[str]) -> tuple[pd.DataFrame, list[str], int]:
    """Rows and the varying columns for parallel coordinates, and how many scored trials were left out.

    Beyond `MAX_PARALLEL_ROWS` the better half stays whole and the rest is a random sample.
    """
    scored = trials[trials["score"].notna()]
    rows = sample(scored, MAX_PARALLEL_ROWS)
    return rows, varying(rows, searched), len(scored) - len(rows)


def settings(row: Mapping[str, Any], searched: Sequence[str], published: Mapping[str, Any]) -> pd.DataFrame:
    """A trial's settings beside the published ones, see `Trial`; searched ones first."""
    found = [
        {
            "field": name.removeprefix(_CONFIG),
            "value": value,
            "published": published.get(name),
            "searched": name in searched,
            "changed": bool(published) and _listed(value) is not None and _listed(value) != _listed(published.get(name)),
        }
        for name, value in row.items()
        if name.startswith(_CONFIG)
    ]
    columns = ["field", "value", "published", "searched", "changed"]
    ordered = [item for item in found if item["searched"]] + [item for item in found if not item["searched"]]
    return pd.DataFrame(ordered, columns=columns, dtype=object)


def _listed(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if value is None or value is pd.NA or value != value else value
