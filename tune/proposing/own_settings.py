"""A person's own settings to try: a few searched fields, by path; the others keep their published values."""

from collections.abc import Mapping
from typing import Any

from cdal.config import coerce
from cdal.errors import InputError, short
from tune.proposing.space import Space


def settings(space: Space, mapping: object, source: str) -> dict[str, Any]:
    """The values of all active searched fields, for `Queue.start(tries=...)` and `Queue.enqueue`.

    Args:
        space: what is searched, fitted to its dataset.
        mapping: what the person wrote: values by the path of their field.
        source: where, for messages.

    Raises:
        InputError: a field that is not searched or has no effect here, a value out of its range, or values that do not go together.
    """
    if not isinstance(mapping, Mapping) or not mapping:
        raise InputError(f"{source}: settings are lines of the form `diffusion.timesteps: 4`, for one searched field or more")
    named: dict[str, Any] = {}
    for path, value in mapping.items():
        if path not in space.parameters:
            raise InputError(f"{source}: {short(path)} is not searched here; fields that are: {', '.join(space.parameters)}")
        try:
            named[path] = coerce(path, value)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
    values = space.active(named)
    for path in named:
        if path not in values:
            raise InputError(f"{source}: {path} has no effect with these values; it is searched as {space.parameters[path]}")
    for path, value in values.items():
        if not space.parameters[path].contains(value):
            problem = f"{path} is {short(value)}" if path in named else f"it leaves {path} at the published {short(value)}"
            raise InputError(f"{source}: {problem}, but the search has {space.parameters[path]}; name a value within")
    try:
        space.config(values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return values
