"""Look at data before training on them.

    python -m cdal.data inspect MyData                    # a table, all problems, and a contact sheet in inspection.html
    python -m cdal.data inspect s3://bucket/MyData --dataset own --out sheet.html

Exit status 0: ready to train; 2: something must be put right first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdal.command import DONE, command_line, run
from cdal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from cdal.data.inspection import CaseFacts, Inspection

_INSPECT = "Decode every case, print what the folder holds and all that is wrong, and write a contact sheet."
_DATASETS = ("own", "hippocampus", "monuseg", "chest_xray")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 ready to train, 2 something must be put right, 130 interrupted."""
    parser = command_line(__doc__, "python -m cdal.data")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_arguments(commands.add_parser("inspect", help=_INSPECT, description=_INSPECT))
    return run(_inspect, parser.parse_args(arguments))


def inspect(arguments: Sequence[str] | None = None) -> int:
    """`python -m cdal.data inspect` as a command of its own."""
    parser = command_line(_INSPECT)
    _add_arguments(parser)
    return run(_inspect, parser.parse_args(arguments))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder of the data, or an s3:// address")
    parser.add_argument("--dataset", choices=_DATASETS, help="how to read it (default: recognised by what lies in it)")
    parser.add_argument("--out", type=Path, default=Path("inspection.html"), help="contact sheet (default: %(default)s)")


def _inspect(given: argparse.Namespace, _: Console) -> int:
    from rich.console import Console

    from cdal.data.contact_sheet import contact_sheet
    from cdal.data.inspection import inspect_folder
    from cdal.data.remote import local_folder

    data, out = given.data, given.out
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out is {out}; it must be a file in a folder that exists")
    folder = local_folder(data)
    if sys.stderr.isatty():
        print(f"decoding {folder}", file=sys.stderr)  # noqa: T201
    found = inspect_folder(folder, given.dataset, _watched)
    _print(found, Console(highlight=False))
    try:
        out.write_text(contact_sheet(found), encoding="utf-8", errors="xmlcharrefreplace")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    print(f"contact sheet: {out}")  # noqa: T201
    if found.problems:
        many = len(found.problems) > 1
        what = f"{len(found.problems)} problems, listed above; put them" if many else "a problem, told above; put it"
        raise InputError(f"{data} has {what} right before training on it")
    return DONE


def _watched(cases: Iterable[CaseFacts | str], total: int) -> Iterable[CaseFacts | str]:
    """The cases, with a bar on a terminal that shows how many were looked at."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(cases, "looking at the cases", total, console=console, transient=True, disable=not console.is_terminal)


def _print(found: Inspection, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from cdal.data.inspection import class_rows, fold_rows, overview
    from cdal.data.layouts import plain

    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in overview(found):
        facts.add_row(name, Text(plain(value)))
    console.print(facts)
    for title, heads, rows in (
        ("Classes", ("label", "class", "share of all pixels", "cases"), class_rows(found)),
        ("Folds", ("fold", "name", "train", "validation", "test"), fold_rows(found)),
    ):
        if rows:
            table = Table(title=title, title_justify="left")
            for head in heads:
                table.add_column(head, justify="left" if head in ("class", "name") else "right", overflow="fold")
            for row in rows:
                table.add_row(*(Text(plain(value)) for value in row))
            console.print(table)
    for title, style, sentences in (("Worth a look", "yellow", found.warnings), ("Problems", "red", found.problems)):
        if sentences:
            console.print(Text(f"{title}:", style=f"bold {style}"))
        for sentence in sentences:
            console.print(Text(f"  {plain(sentence)}"), soft_wrap=True)
    if not found.problems:
        console.print(Text("No problems found.", style="green"))


if __name__ == "__main__":
    sys.exit(main())
