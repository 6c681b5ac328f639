"""Search spaces: YAML files that say what is searched on which dataset, checked against the configuration before anything starts.

    dataset: {name: phantom, size: 32}       # a name, or a name with the dataset's options
    preset: hippocampus                      # published configuration that everything else starts from; the default
    fixed:                                   # configuration fields with other values, by dotted path
      training.epochs: 6
    parameters:                              # configuration fields that are searched: a choice of values, or a range
      diffusion.timesteps: {values: [2, 4, 8]}
      model.latent_size: {min: 8, max: 128, distribution: int_log_uniform}
      optimiser.lr_generator: {min: 1e-4, max: 1e-2, distribution: log_uniform}
      loss.attention: {min: 0.0, max: 1.0}
      loss.attention_normalised: {values: [false, true], condition: {loss.attention: {min: 0.01}}}

Distributions of a range, both ends included: uniform, log_uniform, int_uniform (or int), int_log_uniform; without one it is
uniform, over whole numbers where the field holds one.

A parameter with a condition is active only where every field that the condition names has a value it allows: one value, one of a
list of values, or a number from min to max (either may be left out). A field that is searched must be active itself; any other
decides for the whole search, by its preset or fixed value. Where a parameter is not active, its field has the preset's value.

Shapes that the data decide (`model.image_size`, `image_channels`, `mask_channels`) follow the dataset. It is plain YAML: no
aliases, no tags, at most 100,000 bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from cdal.config import Config, preset
from cdal.data import DATASETS, DatasetSpec
from cdal.errors import InputError, short
from cdal.plain_yaml import Lines, read_yaml_with_lines
from tune.proposing.axes import Axis
from tune.proposing.parameters import Allowed, Parameter, Source, check_field, read_parameter, to_text

FOLDER = Path(__file__).parents[1] / "spaces"

_SECTIONS = ("dataset", "preset", "fixed", "parameters")
_OF_THE_DATA = ("model.image_size", "model.image_channels", "model.mask_channels")
_MOST_BYTES = 100_000
_MANY = 2_000  # settings, more than any search has trials


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched, on what, starting from which published configuration."""

    origin: Source
    """Where it was read, for messages."""
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preset: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Parameter]
    """By path; those that a condition names come before those that have it."""

    @property
    def source(self) -> str:
        """The file it was read from."""
        return self.origin.name

    @cached_property
    def base(self) -> Config:
        """The preset with the fixed values; searched fields have their published values."""
        return preset(self.preset).replace(self.fixed)

    @cached_property
    def _plain_base(self) -> Mapping[str, Any]:
        return self.base.flatten()

    @property
    def published(self) -> dict[str, Any]:
        """The published values of the searched fields, as far as they are active with them."""
        return self.values_of(self.base)

    @property
    def middle(self) -> dict[str, Any]:
        """Values from the middle of every range and choice, as far as they are active with each other."""
        values = {path: Axis(distribution).value(0.5) for path, distribution in self.distributions.items()}
        return self.active(from_optuna(self, values))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All searched fields for Optuna, whatever their conditions."""
        return {path: parameter.distribution for path, parameter in self.parameters.items()}

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Draw the active parameters, those that decide before those that depend on them."""
        return self._active(lambda parameter: parameter.suggest(trial))

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the active parameters; one that `values` does not name has its published value."""
        known = {**self._plain_base, **values}
        return self._active(lambda parameter: known[parameter.path])

    @cached_property
    def every_setting(self) -> Sequence[Mapping[str, Any]] | None:
        """All active values that there are, each once; None where a field has a range of fractions, or where they are many."""
        choices: dict[str, Sequence[Any]] = {}
        for path, parameter in self.parameters.items():
            if not parameter.values and not parameter.whole:
                return None
            choices[path] = parameter.values or range(int(parameter.low), int(parameter.high) + 1)
            if math.prod(map(len, choices.values())) > _MANY:
                return None
        drawn = (self.active(dict(zip(choices, values, strict=True))) for values in product(*choices.values()))
        return list({setting_key(values): values for values in drawn}.values())

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration with some values of the searched fields. Raises InputError where they do not go together."""
        return self.base.replace(values)

    def values_of(self, config: Config) -> dict[str, Any]:
        """The active parameters of a configuration."""
        return self.active(config.flatten())

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether all active parameters have values, within their ranges; others do not matter."""
        return all(path in values and self.parameters[path].contains(values[path]) for path in self.active(values))

    def fitted(self, spec: DatasetSpec) -> Space:
        """The space with the shapes that the dataset decides, and without parameters that can then never be active.

        Raises:
            InputError: the file fixes a shape to something else, the shapes do not suit the networks, or nothing is left to search.
        """
        shapes = dict(zip(_OF_THE_DATA, (spec.image_size, spec.image_channels, spec.mask_channels), strict=True))
        for path, value in shapes.items():
            if self.fixed.get(path, value) != value:
                problem = f"fixed.{path} is {self.fixed[path]}, but {spec.name} has {value}; leave it out"
                raise self.origin.error(problem, "fixed", path)
        fitted = replace(self, fixed=dict(self.fixed) | shapes)
        _check_fixed(fitted)
        _check_values(fitted)
        decided = replace(fitted, parameters=_undecided(fitted))
        if not decided.parameters:
            raise self.origin.error(
                "nothing is left to search: every parameter is fixed, or has a condition that fixed values rule out"
            )
        return decided

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

    def _active(self, value: Callable[[Parameter], Any]) -> dict[str, Any]:
        """Values of the parameters whose conditions hold, asked for one after the other."""
        known = {path: found for path, found in self._plain_base.items() if path not in self.parameters}
        active = {}
        for path, parameter in self.parameters.items():
            if all(other in known and allowed.contains(known[other]) for other, allowed in parameter.condition.items()):
                active[path] = known[path] = value(parameter)
        return active


def to_optuna(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Optuna takes them: lists as JSON text."""
    return {path: to_text(value) for path, value in values.items()}


def setting_key(values: Mapping[str, Any]) -> str:
    """The same for the same active values."""
    return json.dumps(to_optuna(values), sort_keys=True)


def from_optuna(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `to_optuna`, for values drawn from the space."""
    return {path: space.parameters[path].restored(value) for path, value in values.items()}


def load(source: str | Path) -> Space:
    """Read a space from a file, or by the name of one that comes with the project (`phantom`, `hippocampus`, ...).

    Raises:
        InputError: no such file, or anything wrong in it; one sentence that names file, line and key.
    """
    path = Path(source)
    if not path.suffix and not path.exists():
        path = FOLDER / f"{source}.yaml"
        if not path.is_file():
            raise InputError(f"there is no search space {str(source)!r}; those that come along are {', '.join(shipped())}")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"the search space {path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path} has more than {_MOST_BYTES:,} bytes; a search space is a few lines of YAML")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text; a search space is a few lines of YAML") from error
    content, lines = read_yaml_with_lines(text, str(path))
    return parse(content, str(path), lines)


def shipped() -> list[str]:
    """Names of the spaces that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def parse(content: object, source: str, lines: Lines | None = None) -> Space:
    """A space from the content of a YAML file, or from what `Space.to_dict` gave.

    Args:
        content: what the YAML holds.
        source: the file's name, for messages.
        lines: of its keys, for messages.

    Raises:
        InputError: anything wrong in it.
    """
    origin = Source(source, lines or {})
    top = _mapping(origin, content)
    for key in top:
        if key not in (*_SECTIONS, "source"):
            raise origin.error(f"unknown key {short(key)}; keys are {', '.join(_SECTIONS)}", key)
    dataset, options = _dataset(origin, top.get("dataset"))
    name = top.get("preset", "hippocampus")
    if not isinstance(name, str):
        raise origin.error(f"preset is {short(name)}; it must be a name", "preset")
    try:
        preset(name)
    except InputError as error:
        raise origin.error(str(error), "preset") from None
    fixed = _mapping(origin, top.get("fixed") or {}, "fixed")
    for path in fixed:
        check_field(origin, path, "fixed", path)
    searched = _mapping(origin, top.get("parameters") or {}, "parameters")
    if not searched:
        example = "name at least one field to search, for example diffusion.timesteps"
        raise origin.error(f"parameters is empty; {example}", "parameters")
    for path in searched:
        if path in fixed:
            raise origin.error(f"{path} is both in fixed and in parameters; keep one of them", "parameters", path)
        if path in _OF_THE_DATA:
            raise origin.error(f"parameters.{path} follows the dataset and cannot be searched", "parameters", path)
    parameters = {path: read_parameter(origin, path, rule) for path, rule in searched.items()}
    parameters = _parents_first(origin, parameters)
    space = Space(origin=origin, dataset=dataset, options=options, preset=name, fixed=fixed, parameters=parameters)
    _check_fixed(space)
    _check_conditions(space)
    _check_values(space)
    return space


def _dataset(origin: Source, value: object) -> tuple[str, dict[str, Any]]:
    options = dict(_mapping(origin, value, "dataset")) if isinstance(value, Mapping) else {"name": value}
    name = options.pop("name", None)
    if name not in DATASETS:
        raise origin.error(f"dataset is {short(name)}; datasets are {', '.join(DATASETS)}", "dataset", "name")
    return str(name), options


def _mapping(origin: Source, value: object, *keys: str) -> Mapping[str, Any]:
    what = ".".join(keys) or "the file"
    if not isinstance(value, Mapping):
        raise origin.error(f"{what} is {short(value)}; it must hold lines of the form `key: value`", *keys)
    return value


def _parents_first(origin: Source, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """In an order in which conditions name only what comes before; as in the file as far as that goes."""
    parents = {path: [other for other in parameter.condition if other in parameters] for path, parameter in parameters.items()}
    try:
        return {path: parameters[path] for path in TopologicalSorter(parents).static_order()}
    except CycleError as error:
        first, *others = [path for path in parameters if path in error.args[1]]
        problem = f"the condition of {first} depends on itself, by way of {' and '.join(others)}"
        raise origin.error(f"parameters: {problem}", "parameters", first, "condition") from None


def _check_fixed(space: Space) -> None:
    """The fixed values must be valid together."""
    try:
        _ = space.base
    except InputError as error:
        message = str(error)
        named = message.split()[0].rstrip(",")  # such messages begin with the field
        raise space.origin.error(f"fixed: {message}", "fixed", named if named in space.fixed else _to_blame(space)) from None


def _to_blame(space: Space) -> str:
    """The last fixed value without which the others would be valid."""
    for path in reversed(list(space.fixed)):
        try:
            _ = replace(space, fixed={other: value for other, value in space.fixed.items() if other != path}).base
        except InputError:
            continue
        return path
    return ""


def _check_conditions(space: Space) -> None:
    """Every condition on searched fields must hold for some of their values, together with those fields' own conditions."""
    for path, demands in _demands(space).items():
        for other, allowed in demands.items():
            if space.parameters[other].meeting(allowed) is None:
                wanted = f"{other} ({space.parameters[other]}) would have to be {' and '.join(map(str, allowed))}"
                raise space.origin.error(
                    f"parameters.{path}.condition can never hold: {wanted}", "parameters", path, "condition", other
                )


def _demands(space: Space) -> dict[str, dict[str, list[Allowed]]]:
    """For every parameter: what it demands of other searched fields, by its own condition and by theirs."""
    found: dict[str, dict[str, list[Allowed]]] = {}
    for path, parameter in space.parameters.items():
        found[path] = {}
        for other, allowed in parameter.condition.items():
            if other in space.parameters:
                for ancestor, demands in ({other: [allowed]} | found[other]).items():
                    known = found[path].setdefault(ancestor, [])
                    known += [demand for demand in demands if demand not in known]
    return found


def _undecided(space: Space) -> dict[str, Parameter]:
    """The parameters that fixed values do not rule out, with what is left of their conditions."""
    base = space.base.flatten()
    kept: dict[str, Parameter] = {}
    for path, parameter in space.parameters.items():
        fixed = {other: allowed for other, allowed in parameter.condition.items() if other not in space.parameters}
        left = {other: allowed for other, allowed in parameter.condition.items() if other not in fixed}
        if left.keys() <= kept.keys() and all(allowed.contains(base[other]) for other, allowed in fixed.items()):
            kept[path] = replace(parameter, condition=left)
    return kept


def _check_values(space: Space) -> None:
    """Every choice and end of a range must be valid with at least one setting of the others."""
    demands = _demands(space)
    for path, parameter in space.parameters.items():
        for value in parameter.extremes:
            problem = _problem(space, path, value, demands[path])
            if problem:
                raise space.origin.error(f"parameters.{path}: {problem}", "parameters", path)


def _problem(space: Space, path: str, value: object, demands: Mapping[str, list[Allowed]]) -> str:
    """Why a value is not valid with the published, first or last values of the others, changed so that its condition holds."""
    reasons = []
    for end in (None, 0, -1):
        others = {} if end is None else {other.path: other.extremes[end] for other in space.parameters.values()}
        values = space.base.flatten() | others
        for other, allowed in demands.items():
            if not all(demand.contains(values[other]) for demand in allowed):
                values[other] = space.parameters[other].meeting(allowed)
        try:
            space.config(space.active(values) | {path: value})
        except InputError as error:
            reasons.append(str(error))
        else:
            return ""
    return reasons[0]
