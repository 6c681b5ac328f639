"""What all commands have in common: how they are described, and how they end."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cdal.errors import InputError, disk_is_full

if TYPE_CHECKING:
    from rich.console import Console

DONE, WORK_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def command_line(words: str | None, program: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring: its first line, the options, all the rest. From now on all text can be printed.

    Args:
        words: the docstring.
        program: how the command is typed, unless it is an installed one (`cdal-train`), or a file.
    """
    print_anything()
    installed = Path(sys.argv[0]).name.startswith("cdal-")
    head, _, rest = (words or "").partition("\n")
    return argparse.ArgumentParser(
        prog=None if installed else program,
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run(work: Callable[[argparse.Namespace, Console], int], given: argparse.Namespace) -> int:
    """Do the work and return its exit status; wrong input and a full disk are told in one line."""
    from rich.console import Console

    try:
        return work(given, Console(soft_wrap=True, highlight=False))
    except InputError as error:
        tell(error)
        return WRONG_INPUT
    except OSError as error:
        if not disk_is_full(error):
            raise
        tell(no_room(error))
        return WORK_FAILED
    except KeyboardInterrupt:
        print("interrupted before anything began", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


def tell(wrong: InputError | str) -> None:
    """Say what is wrong, in one line."""
    print(f"error: {wrong}", file=sys.stderr)  # noqa: T201


def no_room(error: Exception) -> str:
    """What is said of a full disk."""
    return f"a disk of this machine is full ({error}); make room there"


def print_anything() -> None:
    """Print `?` for what a terminal or a pipe cannot take, as in Latin-1 or ASCII; standard error escapes it anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
