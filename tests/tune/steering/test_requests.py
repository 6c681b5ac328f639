"""Requests in words and in JSON: what is understood, and that nothing else is."""

from collections.abc import Mapping
from typing import Any

import pytest
from steered import Obedient

from cdal.errors import InputError
from tune.steering import Request, obey, worded


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("stop", "12"), "stop 12"),
        (("stop", "#12"), "stop 12"),
        (("pause",), "pause"),
        (("go",), "go"),
        (("enqueue", "loss.adversarial: 1e-1\nmodel.width_multipliers: [1, 2]", "mine.yaml"), None),
        (("budget", "+10h"), "seconds 36000.0"),
        (("budget", "+1h30m"), "seconds 5400.0"),
        (("budget", "+90min"), "seconds 5400.0"),
        (("budget", "+1.5s"), "seconds 1.5"),
        (("trials", "+50"), "trials 50"),
    ],
)
def test_words_are_obeyed(words: tuple[str, ...], told: str | None) -> None:
    asked = worded(*words)
    steered, values = Obedient(), {name: value for name, value in asked.items() if name != "ask"}
    obey(Request(id="1", ask=asked["ask"], values=values), steered)
    assert steered.told == [told or "enqueue {'loss.adversarial': 0.1, 'model.width_multipliers': [1, 2]}"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("stop",), "give a trial's number"),
        (("stop", "-1"), "give a trial's number"),
        (("stop", "٣"), "give a trial's number"),
        (("stop", "all"), "give a trial's number"),
        (("pause", "12"), "takes nothing more"),
        (("budget", "10h"), "such as \\+10h"),
        (("budget", "+"), "such as \\+10h"),
        (("budget", "+0h"), "such as \\+10h"),
        (("budget", "-1h"), "such as \\+10h"),
        (("budget", "+10gpuh2"), "such as \\+10h"),
        (("budget", "+99999999999999999999h"), "at most 1,000,000,000"),
        (("trials", "50"), "such as trials \\+50"),
        (("trials", "+0"), "at most 1,000,000"),
        (("trials", "+1.5"), "such as trials \\+50"),
        (("enqueue", "", "a.yaml"), "a.yaml: settings are lines"),
        (("enqueue", "- 1", "a.yaml"), "a.yaml: settings are lines"),
        (("enqueue", "a: {b: 1}", "a.yaml"), "a.yaml: a is"),
        (("enqueue", "a: [[1]]", "a.yaml"), "a.yaml: a is"),
        (("enqueue", "a: .nan", "a.yaml"), "a.yaml: a is"),
        (("enqueue", "a: 2024-01-01", "a.yaml"), "a.yaml"),
        (("enqueue", "1: 2", "a.yaml"), "a.yaml, line 1: the key"),
        (("enqueue", "a: !!python/object/apply:os.system [true]", "a.yaml"), "a.yaml, line 1"),
        (("enqueue", "a: &x [1]\nb: *x", "a.yaml"), "a.yaml, line"),
        (("enqueue", "a" * 40_000 + ": 1", "a.yaml"), "a.yaml has more than"),
        (("enqueue", "\n".join(f"a{n}: 1" for n in range(500)), "a.yaml"), "500 fields"),
        (("fly",), "what can be is stop, pause"),
    ],
)
def test_what_is_not_understood_is_one_sentence(words: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        worded(*words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("request_", "shown"),
    [
        ({"ask": "budget", "seconds": 5400.0}, "budget +1.5h"),
        ({"ask": "budget", "gpu_hours": 10.0}, "budget +10gpuh"),
        ({"ask": "trials", "count": 50}, "trials +50"),
        ({"ask": "stop", "trial": 3}, "stop 3"),
        ({"ask": "enqueue", "settings": {}, "source": "mine.yaml"}, "enqueue mine.yaml"),
        ({"ask": "go"}, "go"),
    ],
)
def test_a_request_is_shown_as_it_is_typed(request_: Mapping[str, Any], shown: str) -> None:
    assert str(Request(id="1", ask=request_["ask"], values={name: request_[name] for name in request_ if name != "ask"})) == shown
