"""What the commands that train have in common: where results go, exit statuses, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cdal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

DONE, WORK_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def run(work: Callable[[argparse.Namespace, Console], int], given: argparse.Namespace) -> int:
    """Do the work and return its exit status; wrong input is told in one line."""
    from rich.console import Console

    try:
        return work(given, Console(soft_wrap=True, highlight=False))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted before anything began", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


def lake_root(storage: str) -> str:
    """The results lake that the user named: a folder, or an address on S3. Raises InputError for other addresses."""
    if "://" in storage and not storage.startswith("s3://"):
        raise InputError(f"--storage is {storage}, where checkpoints cannot be kept; name a folder or s3://BUCKET/FOLDER")
    return os.path.expanduser(storage).rstrip("/") or "/"


def leave(status: int) -> None:
    """End at once: Ray Tune's thread may still run, and the processes that Ray started end with this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
