"""One searched field: a choice or a range, when it is active, and how it is read from a search space (format: `space.py`)."""

import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from cdal.config import closest_field, coerce, field_types
from cdal.errors import InputError, short
from cdal.plain_yaml import Lines

DISTRIBUTIONS = ("uniform", "log_uniform", "int_uniform", "int", "int_log_uniform")

_KEYS = ("values", "min", "max", "distribution", "condition")


@dataclass(frozen=True)
class Source:
    """Where a space comes from, for messages: a file's name and, where known, the lines of its keys."""

    name: str
    lines: Lines = field(default_factory=dict, compare=False, repr=False)

    def error(self, problem: str, *keys: str) -> InputError:
        """The error that names the file and the line of a key, or of the nearest one around it."""
        line = next((self.lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self.lines), None)
        return InputError(f"{self.name}{'' if line is None else f', line {line}'}: {problem}")


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What a condition asks of another field: one of some values, or a number within bounds."""

    values: tuple[Any, ...] = ()
    """Empty for bounds."""
    low: float = -math.inf
    high: float = math.inf

    def contains(self, value: Any) -> bool:
        """Whether a value of the other field will do."""
        if self.values:
            return (tuple(value) if isinstance(value, list) else value) in self.values
        return bool(self.low <= value <= self.high)

    def to_dict(self) -> Any:
        """As in the YAML file."""
        if self.values:
            return _plain(self.values)
        return {name: end for name, end in (("min", self.low), ("max", self.high)) if math.isfinite(end)}

    def __str__(self) -> str:
        if self.values:
            return " or ".join(map(str, _plain(self.values)))
        ends = ((self.low, "at least"), (self.high, "at most"))
        return " and ".join(f"{words} {end:g}" for end, words in ends if math.isfinite(end))


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
    condition: Mapping[str, Allowed] = field(default_factory=dict)
    """It is active only where each of these other fields has an allowed value."""

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna, which takes lists only as text."""
        if self.values:
            return CategoricalDistribution([to_text(value) for value in self.values])
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: BaseTrial) -> Any:
        """Draw a value."""
        if self.values:
            return self.restored(trial.suggest_categorical(self.path, [to_text(value) for value in self.values]))
        if self.whole:
            return trial.suggest_int(self.path, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.path, self.low, self.high, log=self.log)

    def restored(self, value: Any) -> Any:
        """The value that one of Optuna's stands for."""
        return next((choice for choice in self.values if to_text(choice) == value), value)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Every choice, or both ends of the range."""
        return self.values or (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the choice, or within the range."""
        if self.values:
            return to_text(value) in [to_text(choice) for choice in self.values]
        return bool(self.low <= value <= self.high and (not self.whole or value == int(value)))

    def meeting(self, demands: Sequence[Allowed]) -> Any:
        """A value that meets all demands of conditions; None where no value does."""
        low, high = max(self.low, *(demand.low for demand in demands)), min(self.high, *(demand.high for demand in demands))
        ends = [math.ceil(low), math.floor(high)] if self.whole else [low, high]
        candidates = self.values or (*(value for demand in demands for value in demand.values), *ends)
        fitting = (value for value in candidates if self.contains(value) and all(demand.contains(value) for demand in demands))
        return next(fitting, None)

    def to_dict(self) -> dict[str, Any]:
        """As in the YAML file."""
        condition = {"condition": {path: allowed.to_dict() for path, allowed in self.condition.items()}} if self.condition else {}
        if self.values:
            return {"values": _plain(self.values)} | condition
        kind = ("int_" if self.whole else "") + ("log_uniform" if self.log else "uniform")
        return {"min": self.low, "max": self.high, "distribution": kind} | condition

    def __str__(self) -> str:
        what = " | ".join(map(str, _plain(self.values))) if self.values else f"{self.low:g} to {self.high:g}"
        condition = " and ".join(f"{path} is {allowed}" for path, allowed in self.condition.items())
        return what + (", log scale" if self.log else "") + (f", where {condition}" if condition else "")


def read_parameter(source: Source, path: str, rule: object) -> Parameter:
    """The parameter that a line of a search space describes.

    Raises:
        InputError: anything wrong in it.
    """
    keys = ("parameters", path)
    check_field(source, path, *keys)
    if not isinstance(rule, Mapping):
        raise source.error(f"{_name(keys)} is {short(rule)}; give {{values: [...]}} or {{min: ..., max: ...}}", *keys)
    for name in rule:
        if name not in _KEYS:
            raise source.error(f"{_name(keys)} has the unknown key {short(name)}; keys are {', '.join(_KEYS)}", *keys, str(name))
    condition = _condition(source, path, rule["condition"]) if "condition" in rule else {}
    if "values" in rule:
        return Parameter(path=path, values=_choice(source, path, rule), condition=condition)
    return Parameter(path=path, **_range(source, path, rule), condition=condition)


def _choice(source: Source, path: str, rule: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = ("parameters", path, "values")
    other = next((name for name in rule if name not in ("values", "condition")), None)
    if other is not None:
        raise source.error(f"parameters.{path} has both values and {other}; give a choice or a range", *keys[:2], other)
    if not isinstance(rule["values"], (list, tuple)) or not rule["values"]:
        raise source.error(f"{_name(keys)} is {short(rule['values'])}; it must be a list of at least one value", *keys)
    values = tuple(_value(source, path, value, *keys) for value in rule["values"])
    if len(set(values)) < len(values):
        raise source.error(f"{_name(keys)} names a value twice", *keys)
    return values


def _range(source: Source, path: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    keys, hint = ("parameters", path), field_types()[path]
    if hint not in (int, float):
        raise source.error(f"{_name(keys)} does not hold a number, so it has no range; give {{values: [...]}}", *keys)
    kind = rule.get("distribution", "int_uniform" if hint is int else "uniform")
    if kind not in DISTRIBUTIONS:
        allowed = ", ".join(DISTRIBUTIONS)
        raise source.error(f"{_name(keys)}.distribution is {short(kind)}; it must be one of {allowed}", *keys, "distribution")
    whole, log = kind.startswith("int"), kind.endswith("log_uniform")
    for name in ("min", "max"):
        value = _number(source, rule, *keys, name)
        if whole and value != int(value):
            raise source.error(f"{_name(keys)}.{name} is {value:g}; {kind} needs whole numbers", *keys, name)
    low, high = rule["min"], rule["max"]
    if low > high:
        raise source.error(f"{_name(keys)} has min {low:g} above max {high:g}", *keys, "min")
    if log and low <= 0:
        raise source.error(f"{_name(keys)}.min is {low:g}; {kind} needs a min above 0", *keys, "min")
    if hint is int and not whole:
        problem = f"{_name(keys)}.distribution is {kind}, but the field holds whole numbers; use int_{kind}"
        raise source.error(problem, *keys, "distribution")
    return {"low": low, "high": high, "log": log, "whole": whole}


def _condition(source: Source, path: str, condition: object) -> dict[str, Allowed]:
    keys = ("parameters", path, "condition")
    if not isinstance(condition, Mapping) or not condition:
        wanted = "it must name other fields, such as {model.architecture: cdal} or {loss.attention: {min: 0.01}}"
        raise source.error(f"{_name(keys)} is {short(condition)}; {wanted}", *keys)
    found = {}
    for other, rule in condition.items():
        check_field(source, other, *keys, str(other))
        if other == path:
            raise source.error(f"{_name(keys)} names the parameter itself", *keys, other)
        found[other] = _allowed(source, other, rule, *keys, other)
    return found


def _allowed(source: Source, path: str, rule: object, *keys: str) -> Allowed:
    """What a condition says of another field: a value, a list of values, or bounds."""
    hint = field_types()[path]
    if isinstance(rule, Mapping):
        if not rule or any(name not in ("min", "max") for name in rule):
            raise source.error(
                f"{_name(keys)} is {short(dict(rule))}; bounds are written {{min: ..., max: ...}}, or one of them", *keys
            )
        if hint not in (int, float):
            raise source.error(
                f"{_name(keys)} has bounds, but the field does not hold a number; give a value or a list of values", *keys
            )
        ends = {name: _number(source, rule, *keys, name) for name in rule}
        bounds = Allowed(low=ends.get("min", -math.inf), high=ends.get("max", math.inf))
        if bounds.low > bounds.high:
            raise source.error(f"{_name(keys)} has min {bounds.low:g} above max {bounds.high:g}", *keys)
        return bounds
    values = rule if isinstance(rule, (list, tuple)) else [rule]
    if typing.get_origin(hint) is tuple and not (values and all(isinstance(value, (list, tuple)) for value in values)):
        values = [rule]  # the field holds lists, and this is one of them
    if not values:
        raise source.error(f"{_name(keys)} is []; name at least one value", *keys)
    return Allowed(values=tuple(_value(source, path, value, *keys) for value in values))


def _value(source: Source, path: str, value: object, *keys: str) -> Any:
    try:
        return coerce(path, value)
    except InputError as error:
        raise source.error(f"{_name(keys)}: {error}", *keys) from None


def _number(source: Source, rule: Mapping[str, Any], *keys: str) -> float:
    value = rule.get(keys[-1])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        found = "missing" if keys[-1] not in rule else short(value)
        raise source.error(f"{_name(keys)} is {found}; it must be a number", *keys)
    return value


def check_field(source: Source, path: object, *keys: str) -> None:
    """Make sure that the configuration has a field.

    Raises:
        InputError: it has none.
    """
    if path not in field_types():
        near = closest_field(str(path))
        raise source.error(f"{_name(keys)} is no field of the configuration" + (f"; did you mean {near}?" if near else ""), *keys)


def to_text(value: Any) -> Any:
    """A value as Optuna takes it: a list as JSON text."""
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def _name(keys: Sequence[str]) -> str:
    text = ".".join(keys)
    return text if len(text) <= 120 and text.isprintable() else short(text)


def _plain(values: Sequence[Any]) -> list[Any]:
    return [list(value) if isinstance(value, tuple) else value for value in values]
