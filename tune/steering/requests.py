"""What people ask of a search: requests from words or from JSON, every field checked, and how a search obeys them.

    request = worded("budget", "+10h")       # {"ask": "budget", "seconds": 36000.0}

How they travel says `tune.steering.inbox`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cdal.errors import InputError, short
from cdal.plain_yaml import read_yaml

ASKS = STOP, PAUSE, GO, ENQUEUE, BUDGET, TRIALS = ("stop", "pause", "go", "enqueue", "budget", "trials")
"""What can be asked for."""

_MOST_BYTES = 32 * 1024  # of settings
_MOST_SETTINGS, _MOST_TEXT = 200, 200  # fields of one setting; letters of a name
_MOST = {"trial": 10**9, "seconds": 1e9, "gpu_hours": 1e9, "count": 10**6}


class Steered(Protocol):
    """A search that can be steered. Every method says in words what was done, or raises InputError where it cannot be."""

    def stop(self, number: int) -> str:
        """Stop a trial; what it has reached stays."""
        ...

    def pause(self) -> str:
        """Start no further trial until `go`."""
        ...

    def go(self) -> str:
        """Go on after `pause`."""
        ...

    def enqueue(self, settings: Mapping[str, Any]) -> str:
        """Run a trial with these values next; the fields that they do not name have their published values."""
        ...

    def add_seconds(self, seconds: float) -> str:
        """Give the time budget so much more."""
        ...

    def add_gpu_hours(self, hours: float) -> str:
        """Give the budget of GPU-hours so much more."""
        ...

    def add_trials(self, count: int) -> str:
        """Run so many more trials."""
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, checked."""

    id: str
    """The file's name, which begins with the time."""
    ask: str
    """One of ASKS."""
    values: Mapping[str, Any]
    """`trial`, `settings` and `source`, `seconds` or `gpu_hours`, or `count`, as `ask` needs them."""
    by: str = ""
    """Who asks, as they say."""
    at: str = ""
    """When, by their clock, ISO 8601."""

    def __str__(self) -> str:
        """As it is typed after `python -m tune.control NAME`."""
        if self.ask == BUDGET:
            amount = f"{self.values['gpu_hours']:g}gpuh" if "gpu_hours" in self.values else f"{self.values['seconds'] / 3600:g}h"
            return f"{self.ask} +{amount}"
        if self.ask == TRIALS:
            return f"{self.ask} +{self.values['count']}"
        return " ".join([self.ask, *(str(self.values[name]) for name in ("trial", "source") if name in self.values)])


def obey(request: Request, steered: Steered) -> str:
    """Do what is asked; returns the answer in words.

    Raises:
        InputError: it cannot be done, as the search says.
    """
    values = request.values
    match request.ask:
        case "stop":
            return steered.stop(values["trial"])
        case "pause":
            return steered.pause()
        case "go":
            return steered.go()
        case "enqueue":
            return steered.enqueue(values["settings"])
        case "trials":
            return steered.add_trials(values["count"])
    return steered.add_gpu_hours(values["gpu_hours"]) if "gpu_hours" in values else steered.add_seconds(values["seconds"])


def worded(ask: str, argument: str = "", source: str = "") -> dict[str, Any]:
    """A request from words.

    Args:
        ask: one of ASKS.
        argument: `12` of stop, `+10h` or `+10gpuh` of budget, `+50` of trials, the text of a YAML file of enqueue.
        source: the name of that file.

    Raises:
        InputError: what is wrong, in one sentence.
    """
    argument = argument if ask == ENQUEUE else argument.strip()
    if ask in (PAUSE, GO) and argument:
        raise InputError(f"{ask} takes nothing more; it was given {short(argument)}")
    if ask == STOP:
        if not re.fullmatch(r"#?\d{1,9}", argument, re.ASCII):
            raise InputError(f"stop {argument or 'nothing'}: give a trial's number, such as stop 12")
        return checked({"ask": ask, "trial": int(argument.removeprefix("#"))})
    if ask == TRIALS:
        if not re.fullmatch(r"\+\d{1,6}", argument, re.ASCII):
            raise InputError(f"trials {argument or 'nothing'}: say how many more, such as trials +50")
        return checked({"ask": ask, "count": int(argument)})
    if ask == BUDGET:
        return checked({"ask": ask} | _more(argument))
    if ask == ENQUEUE:
        return checked({"ask": ask, "settings": read_settings(argument, source), "source": source[-_MOST_TEXT:]})
    return checked({"ask": ask})


def read_text(path: str) -> str:
    """The text of a file with settings.

    Raises:
        InputError: it cannot be read, is too large, or is no text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; settings are a few lines of YAML") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path} has more than {_MOST_BYTES:,} bytes; settings are a few lines of YAML")
    return text


def read_settings(text: str, source: str) -> dict[str, Any]:
    """Settings of a trial from plain YAML, lines of the form `loss.adversarial: 0.1`. Whether they suit a search, it says itself.

    Raises:
        InputError: it is something else; the sentence names the source.
    """
    if len(text) > _MOST_BYTES:
        raise InputError(f"{source} has more than {_MOST_BYTES:,} letters; settings are a few lines of YAML")
    found = read_yaml(text, source)
    try:
        return _settings(found)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _more(argument: str) -> dict[str, float]:
    """What `+10h`, `+90m`, `+1h30m`, `+30s` or `+10gpuh` adds."""
    gpu = re.fullmatch(r"\+(\d+(?:\.\d+)?)gpuh", argument, re.ASCII)
    if gpu and float(gpu[1]) > 0:
        return {"gpu_hours": float(gpu[1])}
    number = r"(\d+(?:\.\d+)?)"
    time_ = re.fullmatch(rf"\+(?:{number}h)?(?:{number}m(?:in)?)?(?:{number}s)?", argument, re.ASCII)
    seconds = sum(float(part or 0) * unit for part, unit in zip(time_.groups(), (3600, 60, 1), strict=True)) if time_ else 0.0
    if seconds <= 0:
        raise InputError(f"budget {argument or 'nothing'}: say how much more, such as +10h, +90m or +10gpuh (GPU-hours)")
    return {"seconds": seconds}


def checked(content: object) -> dict[str, Any]:
    """The known fields of a request, each of its kind and within its bounds.

    Raises:
        InputError: it is no request.
    """
    if not isinstance(content, Mapping):
        raise InputError("a request is a JSON object")
    ask = content.get("ask")
    if ask not in ASKS:
        raise InputError(f"{short(ask)} cannot be asked for; what can be is {', '.join(ASKS)}")
    found: dict[str, Any] = {"ask": ask}
    if ask in (STOP, TRIALS):
        field = "trial" if ask == STOP else "count"
        found[field] = _number(content, field, int)
    elif ask == BUDGET:
        field = "gpu_hours" if "gpu_hours" in content else "seconds"
        found[field] = _number(content, field, float)
    elif ask == ENQUEUE:
        found |= {"settings": _settings(content.get("settings")), "source": plain(content.get("source", ""))}
    return found | {name: plain(content[name]) for name in ("by", "at") if name in content}


def _number(content: Mapping[str, Any], name: str, kind: type) -> Any:
    value: Any = content.get(name)
    right = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not right or not 0 <= value <= _MOST[name] or (value == 0 and name != "trial"):  # which NaN is not either
        raise InputError(f"{name} is {short(value)}; it must be a number of at most {_MOST[name]:,.0f}")
    return kind(value)


def _settings(value: object) -> dict[str, Any]:
    """A setting's fields: dotted paths, with values that are words, numbers, yes or no, or lists of these."""
    if not isinstance(value, Mapping) or not value:
        raise InputError("settings are lines of the form `loss.adversarial: 0.1`")
    if len(value) > _MOST_SETTINGS:
        raise InputError(f"settings have {len(value)} fields; at most {_MOST_SETTINGS} are read")
    for path, one in value.items():
        if not isinstance(path, str) or not path.isprintable() or len(path) > _MOST_TEXT:
            raise InputError(f"{short(path)} is no field of a configuration")
        if not all(map(_is_plain, one if isinstance(one, list) and len(one) <= _MOST_SETTINGS else [one])):
            raise InputError(f"{path} is {short(one)}; it must be a number, a word, true or false, or a list of these")
    return dict(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MOST_TEXT
    return isinstance(value, bool) or (isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 2**63)


def plain(value: object) -> str:
    """Text of bounded length, without control characters or direction overrides."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value)[:_MOST_TEXT])
