"""Search spaces: YAML files that say what is searched on which dataset, checked against the configuration before anything starts.

    dataset: {name: phantom, size: 32}       # a name, or a name with the dataset's options
    preset: hippocampus                      # published configuration that everything else starts from
    fixed:                                   # configuration fields with other values, by dotted path
      training.epochs: 6
    parameters:                              # configuration fields that are searched
      diffusion.timesteps: {values: [2, 4, 8]}
      model.latent_size: {min: 8, max: 128, distribution: int_log_uniform}
      optimiser.lr_generator: {min: 1e-4, max: 1e-2, distribution: log_uniform}

Distributions are uniform, log_uniform, int_uniform and int_log_uniform; without one it is uniform, over whole numbers where the
field holds one. Shapes that the data decide (`model.image_size`, `image_channels`, `mask_channels`) follow the dataset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cdal.config import Config, closest_field, field_types, preset
from cdal.data import DATASETS, DatasetSpec
from cdal.errors import InputError
from cdal.plain_yaml import read_yaml

FOLDER = Path(__file__).parent / "spaces"
DISTRIBUTIONS = ("uniform", "log_uniform", "int_uniform", "int_log_uniform")

_SECTIONS = ("dataset", "preset", "fixed", "parameters")
_OF_THE_DATA = ("model.image_size", "model.image_channels", "model.mask_channels")
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One searched field: a choice of values, or a range."""

    path: str
    values: tuple[Any, ...] = ()
    """The choice; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna, which takes lists only as text."""
        if self.values:
            return CategoricalDistribution([_to_optuna(value) for value in self.values])
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Every choice, or both ends of the range."""
        return self.values or (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the choice, or within the range."""
        if self.values:
            return _to_optuna(value) in [_to_optuna(choice) for choice in self.values]
        return bool(self.low <= value <= self.high and (not self.whole or value == int(value)))

    def to_dict(self) -> dict[str, Any]:
        """As in the YAML file."""
        if self.values:
            return {"values": [list(value) if isinstance(value, tuple) else value for value in self.values]}
        kind = ("int_" if self.whole else "") + ("log_uniform" if self.log else "uniform")
        return {"min": self.low, "max": self.high, "distribution": kind}

    def __str__(self) -> str:
        if self.values:
            return " | ".join(map(str, self.to_dict()["values"]))
        return f"{self.low:g} to {self.high:g}" + (", log scale" if self.log else "")


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched, on what, starting from which published configuration."""

    source: str
    """The file it was read from, for messages."""
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preset: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Parameter]

    @property
    def base(self) -> Config:
        """The preset with the fixed values; searched fields have their published values."""
        return preset(self.preset).replace(self.fixed)

    @property
    def published(self) -> dict[str, Any]:
        """The published values of the searched fields."""
        return self.values_of(self.base)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The searched fields for Optuna."""
        return {path: parameter.distribution for path, parameter in self.parameters.items()}

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration with some values of the searched fields. Raises InputError where they do not go together."""
        return self.base.replace(values)

    def values_of(self, config: Config) -> dict[str, Any]:
        """The searched fields of a configuration."""
        flat = config.flatten()
        return {path: flat[path] for path in self.parameters}

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether all values lie within the space."""
        return all(path in values and parameter.contains(values[path]) for path, parameter in self.parameters.items())

    def fitted(self, spec: DatasetSpec) -> Space:
        """The space with the shapes that the dataset decides.

        Raises:
            InputError: the file fixes a shape to something else, or the shapes do not suit the networks.
        """
        shapes = dict(zip(_OF_THE_DATA, (spec.image_size, spec.image_channels, spec.mask_channels), strict=True))
        for path, value in shapes.items():
            if self.fixed.get(path, value) != value:
                raise InputError(f"{self.source}: fixed.{path} is {self.fixed[path]}, but {spec.name} has {value}; leave it out")
        fitted = replace(self, fixed=dict(self.fixed) | shapes)
        _check_values(fitted)
        return fitted

    def with_fixed(self, values: Mapping[str, Any]) -> Space:
        """The space with further fixed values, which are no longer searched; `dataset.NAME` sets an option of the dataset.

        Raises:
            InputError: an unknown field, or a wrong value.
        """
        options = {path.removeprefix("dataset."): value for path, value in values.items() if path.startswith("dataset.")}
        fixed = {path: value for path, value in values.items() if not path.startswith("dataset.")}
        changed = replace(
            self,
            options=dict(self.options) | options,
            fixed=dict(self.fixed) | fixed,
            parameters={path: parameter for path, parameter in self.parameters.items() if path not in fixed},
        )
        _ = changed.base
        return changed

    def to_dict(self) -> dict[str, Any]:
        """As in the YAML file, ready for JSON."""
        return {
            "source": self.source,
            "dataset": {"name": self.dataset} | dict(self.options),
            "preset": self.preset,
            "fixed": dict(self.fixed),
            "parameters": {path: parameter.to_dict() for path, parameter in self.parameters.items()},
        }


def to_optuna(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Optuna takes them: lists as JSON text."""
    return {path: _to_optuna(value) for path, value in values.items()}


def from_optuna(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `to_optuna`, for values drawn from the space."""
    return {
        path: next((choice for choice in space.parameters[path].values if _to_optuna(choice) == value), value)
        for path, value in values.items()
    }


def load(source: str | Path) -> Space:
    """Read a space from a file, or by the name of one that comes with the project (`phantom`, `hippocampus`, ...).

    Raises:
        InputError: no such file, or anything wrong in it; one sentence that names file and key.
    """
    path = Path(source)
    if not path.suffix and not path.exists():
        path = FOLDER / f"{source}.yaml"
        if not path.is_file():
            raise InputError(f"there is no search space {str(source)!r}; those that come along are {', '.join(shipped())}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} has more than {_MOST_BYTES:,} bytes; a search space is a few lines of YAML")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the search space {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    return parse(read_yaml(text, str(path)), str(path))


def shipped() -> list[str]:
    """Names of the spaces that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def parse(content: object, source: str) -> Space:
    """A space from the content of a YAML file, or from what `Space.to_dict` gave.

    Raises:
        InputError: anything wrong in it.
    """
    top = _mapping(content, source, "the file")
    for key in top:
        if key not in (*_SECTIONS, "source"):
            raise InputError(f"{source}: unknown key {key!r}; keys are {', '.join(_SECTIONS)}")
    dataset, options = _dataset(top.get("dataset"), source)
    name = top.get("preset", "hippocampus")
    if not isinstance(name, str):
        raise InputError(f"{source}: preset is {name!r}; it must be a name")
    fixed = _mapping(top.get("fixed") or {}, source, "fixed")
    searched = _mapping(top.get("parameters") or {}, source, "parameters")
    if not searched:
        raise InputError(f"{source}: parameters is empty; name at least one field to search, for example diffusion.timesteps")
    for path in searched:
        if path in fixed:
            raise InputError(f"{source}: {path} is both in fixed and in parameters; keep one of them")
    try:
        preset(name)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    for path in fixed:
        _check_field(source, f"fixed.{path}", path)
    parameters = {path: _parameter(source, path, rule) for path, rule in searched.items()}
    space = Space(source=source, dataset=dataset, options=options, preset=name, fixed=fixed, parameters=parameters)
    _check_values(space)
    return space


def _dataset(value: object, source: str) -> tuple[str, dict[str, Any]]:
    options = dict(_mapping(value, source, "dataset")) if isinstance(value, Mapping) else {"name": value}
    name = options.pop("name", None)
    if name not in DATASETS:
        raise InputError(f"{source}: dataset is {name!r}; datasets are {', '.join(DATASETS)}")
    return str(name), options


def _parameter(source: str, path: str, rule: object) -> Parameter:
    key = f"parameters.{path}"
    _check_field(source, key, path)
    if not isinstance(rule, Mapping):
        raise InputError(f"{source}: {key} is {_short(rule)}; give {{values: [...]}} or {{min: ..., max: ...}}")
    for name in rule:
        if name not in ("values", "min", "max", "distribution"):
            raise InputError(f"{source}: {key} has the unknown key {name!r}; keys are values, min, max, distribution")
    if "values" in rule:
        return _choice(source, key, path, rule)
    return _range(source, key, path, rule)


def _choice(source: str, key: str, path: str, rule: Mapping[str, Any]) -> Parameter:
    if len(rule) > 1:
        other = next(name for name in rule if name != "values")
        raise InputError(f"{source}: {key} has both values and {other}; give a choice or a range")
    values = rule["values"]
    if not isinstance(values, (list, tuple)) or not values:
        raise InputError(f"{source}: {key}.values is {_short(values)}; it must be a list of at least one value")
    if any(_to_optuna(value) in [_to_optuna(other) for other in values[:index]] for index, value in enumerate(values)):
        raise InputError(f"{source}: {key}.values names a value twice")
    return Parameter(path=path, values=tuple(tuple(value) if isinstance(value, list) else value for value in values))


def _range(source: str, key: str, path: str, rule: Mapping[str, Any]) -> Parameter:
    hint = field_types()[path]
    if hint not in (int, float):
        raise InputError(f"{source}: {key} does not hold a number, so it has no range; give {{values: [...]}}")
    kind = rule.get("distribution", "int_uniform" if hint is int else "uniform")
    if kind not in DISTRIBUTIONS:
        raise InputError(f"{source}: {key}.distribution is {_short(kind)}; it must be one of {', '.join(DISTRIBUTIONS)}")
    whole, log = kind.startswith("int_"), kind.endswith("log_uniform")
    for name in ("min", "max"):
        value = rule.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            found = "missing" if name not in rule else _short(value)
            raise InputError(f"{source}: {key}.{name} is {found}; it must be a number")
        if whole and value != int(value):
            raise InputError(f"{source}: {key}.{name} is {value:g}; {kind} needs whole numbers")
    low, high = rule["min"], rule["max"]
    if low > high:
        raise InputError(f"{source}: {key} has min {low:g} above max {high:g}")
    if log and low <= 0:
        raise InputError(f"{source}: {key}.min is {low:g}; {kind} needs a min above 0")
    if hint is int and not whole:
        raise InputError(f"{source}: {key}.distribution is {kind}, but the field holds whole numbers; use int_{kind}")
    return Parameter(path=path, low=low, high=high, log=log, whole=whole)


def _check_field(source: str, key: str, path: object) -> None:
    if path not in field_types():
        near = closest_field(str(path))
        raise InputError(f"{source}: {key} is no field of the configuration" + (f"; did you mean {near}?" if near else ""))


def _check_values(space: Space) -> None:
    """Every fixed value together, and every choice and end of a range with at least one setting of the others, must be valid."""
    try:
        _ = space.base
    except InputError as error:
        raise InputError(f"{space.source}: fixed: {error}") from None
    for path, parameter in space.parameters.items():
        for value in parameter.extremes:
            problem = next((found for found in _problems(space, path, value)), "")
            if problem:
                raise InputError(f"{space.source}: parameters.{path}: {problem}")


def _problems(space: Space, path: str, value: object) -> Iterator[str]:
    """The first reason why a value is not valid, unless it is valid with the published, first or last values of the others."""
    others = [other for other in space.parameters.values() if other.path != path]
    reasons = []
    for end in (None, 0, -1):
        rest = {} if end is None else {other.path: other.extremes[end] for other in others}
        try:
            space.base.replace(rest | {path: value})
        except InputError as error:
            reasons.append(str(error))
        else:
            return
    yield reasons[0]


def _mapping(value: object, source: str, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{source}: {key} is {_short(value)}; it must hold lines of the form `key: value`")
    for name in value:
        if not isinstance(name, str):
            raise InputError(f"{source}: {key} has the key {name!r}, which is no text")
    return value


def _to_optuna(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
