"""What the commands that train on Ray have in common: where results go, how to go on, and how they end."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cdal.command import INTERRUPTED, WORK_FAILED, WRONG_INPUT, no_room, tell
from cdal.errors import InputError, disk_is_full

if TYPE_CHECKING:
    from rich.console import Console

_STORAGE = "results"


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """Ctrl-C, or a polite request to end; all is saved."""


class Paused(Exception):  # noqa: N818 (the search ended itself, in good order)
    """Something keeps going wrong that is not the settings' fault, which is why the search waits for a person; all is saved.

    Its text is the reason, in words that end a sentence without a full stop.
    """


def add_address(group: argparse._ArgumentGroup) -> None:
    """`--address`: where to compute."""
    group.add_argument("--address", help="Ray cluster to use, such as auto (default: this machine alone)")


def add_storage(group: argparse._ArgumentGroup) -> None:
    """`--storage`: where results go."""
    group.add_argument(
        "--storage",
        default=_STORAGE,
        metavar="ROOT",
        help=f"results lake: a folder, or s3://bucket/prefix (default: {_STORAGE})",
    )


def add_notify(group: argparse._ArgumentGroup) -> None:
    """`--notify` and `--notify-command`: who is told of the end."""
    group.add_argument(
        "--notify",
        metavar="URL",
        default=os.environ.get("CDAL_NOTIFY"),
        help="webhook that is told how it ends: Slack, Teams, ntfy or your own (default: $CDAL_NOTIFY)",
    )
    group.add_argument("--notify-command", metavar="COMMAND", help="command that is run then, with the message on standard input")


def lake_root(storage: str) -> str:
    """The results lake that the user named: a folder, or an address on S3. Raises InputError for other addresses."""
    if "://" in storage and not storage.startswith("s3://"):
        raise InputError(f"--storage is {storage}, where checkpoints cannot be kept; name a folder or s3://BUCKET/FOLDER")
    return os.path.expanduser(storage).rstrip("/") or "/"


def command_for(door: str, given: argparse.Namespace, *options: str) -> str:
    """What to type to go on: the door as this process was entered by it, some options, and the places where they are not the usual.

    Args:
        door: `search` or `finalists`.
        given: has `address` and `storage`.
        options: that come first.
    """
    program = [f"cdal-{door}"] if Path(sys.argv[0]).name == f"cdal-{door}" else ["python", f"tune/{door}.py"]
    address = ["--address", given.address] if given.address else []
    storage = ["--storage", given.storage] if given.storage != _STORAGE else []
    return shlex.join([*program, *options, *address, *storage])


@contextmanager
def ends_well(work: str, go_on: str, console: Console, *, after_pause: str | None = None) -> Iterator[None]:
    """Where the work inside is interrupted, pauses or fails, say how to go on and end the process.

    It ends at once: Ray Tune's thread may still run, and the processes that Ray started end with this one.

    Args:
        work: what fails, in words.
        go_on: the command that goes on.
        console: where it is said.
        after_pause: the command that goes on where the work paused, if that is another one.

    Raises:
        InputError: the user's mistake was found before Ray was started, or another process is at work.
    """
    try:
        yield
        return
    except InputError as error:
        from tune.lake import LostError, TakenError

        if not _ray_runs() or isinstance(error, TakenError):
            raise
        tell(error)
        status = WORK_FAILED if isinstance(error, LostError) else WRONG_INPUT
        if status == WRONG_INPUT:
            console.print(f"all results are saved. Go on with:\n{go_on}", markup=False)
    except Paused as reason:
        console.print(
            f"paused: {reason}\nall results are saved. Once that is mended, go on with:\n{after_pause or go_on}", markup=False
        )
        status = WORK_FAILED
    except Interrupted:
        console.print(f"interrupted; all results are saved. Go on with:\n{go_on}", markup=False)
        status = INTERRUPTED
    except Exception as error:
        if disk_is_full(error):
            why = no_room(error)
        else:
            why = str(error)
            traceback.print_exc()
        console.print(f"{work} failed: {why}\ngo on with: {go_on}", markup=False)
        status = WORK_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _ray_runs() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())
