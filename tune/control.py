r"""Steer a search while it runs, from wherever its results lake can be written.

    python tune/control.py NAME stop 12                # end a trial; what it has reached stays
    python tune/control.py NAME pause                  # start no further trial
    python tune/control.py NAME go                     # go on after a pause
    python tune/control.py NAME enqueue settings.yaml  # run these settings next: lines such as loss.adversarial: 0.1
    python tune/control.py NAME budget +10h            # more time; +10gpuh: more GPU-hours
    python tune/control.py NAME trials +50             # more trials

The search obeys within seconds, answers, and writes down who asked for what; docs/control.md says more.
"""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from cdal.command import DONE, command_line, run
    from cdal.errors import InputError
    from tune.command import add_storage, command_for, lake_root
    from tune.lake.status import ENDED
    from tune.results import load, read_experiment
    from tune.steering import ASKS, answered, ask, read_text, worded
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] not in ("cdal", "tune"):
        sys.exit(f"The package {missing.name} is missing; run `pip install -e .` in the project's folder.")
    sys.exit("The project is not installed; run `pip install -e .` in its folder.")

if TYPE_CHECKING:
    from rich.console import Console

_PATIENCE = 30.0  # seconds that an answer is waited for
_TICK = 0.5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = command_line(__doc__)
    found.add_argument("name", metavar="NAME", help="the experiment")
    found.add_argument("ask", choices=ASKS, help="what to do")
    found.add_argument("argument", nargs="?", default="", help="the trial, the file, or how much more")
    found.add_argument("--no-wait", action="store_true", help="leave the request and do not wait for the answer")
    add_storage(found.add_argument_group("results"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 2 the input is wrong or the search refused, 130 interrupted."""
    return run(control, parser().parse_args(arguments))


def control(given: argparse.Namespace, console: Console) -> int:
    """Leave the request, wait for the answer and print it.

    Raises:
        InputError: what was asked for is wrong, or the search refuses it.
    """
    root, name = lake_root(given.storage), given.name
    request = _read(given)
    _check(request, root, name)
    id = ask(root, name, request, f"{_user()}@{socket.gethostname()}")
    if given.no_wait:
        console.print("left for the search, which answers in experiment.json", markup=False)
        return DONE
    answer = _wait(root, name, id)
    if answer is None:
        go_on = command_for("search", argparse.Namespace(address=None, storage=given.storage), "--resume", name)
        console.print(f"nobody works on {name}; it will be obeyed when the search goes on:\n{go_on}", markup=False)
        return DONE
    if answer.get("obeyed") is not True:
        raise InputError(str(answer.get("answer")).removeprefix("refused: "))
    console.print(str(answer.get("answer")), markup=False)
    return DONE


def _read(given: argparse.Namespace) -> dict[str, Any]:
    """The request, whose settings are in a file."""
    if given.ask != "enqueue":
        return worded(given.ask, given.argument)
    if not given.argument:
        raise InputError("enqueue needs a file with settings, such as enqueue settings.yaml")
    return worded(given.ask, read_text(given.argument), given.argument)


def _check(request: Mapping[str, Any], root: str, name: str) -> None:
    """Raise InputError where it is known without the driver that nothing can be done."""
    description = read_experiment(root, name).description
    if request["ask"] == "stop":
        rows = load(root).only([name]).trials().select(["number", "status"]).to_pylist()
        status = next((row["status"] for row in rows if row["number"] == request["trial"]), None)
        if status is None:
            known = f"its trials are 0 to {len(rows) - 1}" if rows else "none has begun"
            raise InputError(f"{name} has no trial {request['trial']}; {known}")
        if status in ENDED:
            raise InputError(f"trial {request['trial']} has ended already: it is {status}")
    if request["ask"] == "enqueue":
        space = description.get("space")
        searched = space.get("parameters") if isinstance(space, Mapping) else None
        for path in request["settings"]:
            if isinstance(searched, Mapping) and path not in searched:
                raise InputError(f"{request['source']}: {path} is not searched by {name}, which searches {', '.join(searched)}")


def _wait(root: str, name: str, id: str) -> Mapping[str, Any] | None:
    """The answer, where one comes in time."""
    end = time.monotonic() + _PATIENCE
    while (answer := answered(root, name, id)) is None and time.monotonic() < end:
        time.sleep(_TICK)
    return answer


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"  # in a container without a name for its user


if __name__ == "__main__":
    if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # tune/ itself is no place to import from
    sys.exit(main())
