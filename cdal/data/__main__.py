"""Look at data before training on them.

    python -m cdal.data inspect MyData                    # a table, all that is odd, and a contact sheet in inspection.html
    python -m cdal.data inspect s3://bucket/MyData --dataset own --out sheet.html
    python -m cdal.data inspect MyData --json             # the same for programs
    python -m cdal.data convert MyData --to Dataset101_Mine    # a clean copy in nnU-Net's layout, as was decided

Exit status 0: ready to train; 2: something must be put right first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdal.command import DONE, command_line, run
from cdal.config import parse_setting
from cdal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from cdal.data.inspection import CaseFacts, Inspection

_INSPECT = "Decode every case, print what the folder holds and all that is wrong or odd, and write a contact sheet."
_CONVERT = "Write a clean copy of your own data in nnU-Net's raw layout, with labels, splits and what was decided."
_DATASETS = ("own", "hippocampus", "monuseg", "chest_xray")
_OPTION = "dataset."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 ready to train, 2 something must be put right, 130 interrupted."""
    parser = command_line(__doc__, "python -m cdal.data")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_inspect(commands.add_parser("inspect", help=_INSPECT, description=_INSPECT))
    convert = commands.add_parser("convert", help=_CONVERT, description=_CONVERT)
    _add_data(convert)
    convert.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to make, such as Dataset101_Mine")
    given = parser.parse_args(arguments)
    return run(_inspect if given.command == "inspect" else _convert, given)


def inspect(arguments: Sequence[str] | None = None) -> int:
    """`python -m cdal.data inspect` as a command of its own."""
    parser = command_line(_INSPECT)
    _add_inspect(parser)
    return run(_inspect, parser.parse_args(arguments))


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder of the data, or an s3:// address")
    parser.add_argument("--groups", metavar="FILE", help="table (CSV) of cases and their groups, such as patients")
    parser.add_argument("--split", metavar="FILE", help="folds to use: a lake's splits table, or nnU-Net's splits_final.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="dataset.NAME=VALUE",
        dest="sets",
        help="an option of your own data; repeatable",
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--dataset", choices=_DATASETS, help="how to read it (default: recognised by what lies in it)")
    parser.add_argument("--out", type=Path, default=Path("inspection.html"), help="contact sheet (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON instead of tables")


def _inspect(given: argparse.Namespace, _: Console) -> int:
    try:
        found = _look_at(given)
    except InputError as error:
        if given.json:
            _print_json(_unread(given, str(error)))
        raise
    _tell(given, found)
    if found.problems:
        many = len(found.problems) > 1
        what = f"{len(found.problems)} problems, listed above; put them" if many else "a problem, told above; put it"
        raise InputError(f"{given.data} has {what} right before training on it")
    return DONE


def _look_at(given: argparse.Namespace) -> Inspection:
    """Inspect the folder and write the contact sheet."""
    from cdal.data.inspection import inspect_folder
    from cdal.data.inspection.contact_sheet import contact_sheet
    from cdal.data.remote import local_folder

    data, out = given.data, given.out
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out is {out}; it must be a file in a folder that exists")
    folder = local_folder(data)
    if sys.stderr.isatty():
        print(f"decoding {folder}", file=sys.stderr)  # noqa: T201
    found = inspect_folder(folder, given.dataset, _watched, **_options(given))
    try:
        out.write_text(contact_sheet(found), encoding="utf-8", errors="xmlcharrefreplace")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    return found


def _tell(given: argparse.Namespace, found: Inspection) -> None:
    from rich.console import Console

    if given.json:
        _print_json(_plain(found, _search_command(given, found)))
        return
    _print(found, Console(highlight=False))
    print(f"contact sheet: {given.out}")  # noqa: T201
    if not found.problems:
        print(f"search on it: {_search_command(given, found)}")  # noqa: T201


def _print_json(told: dict[str, Any]) -> None:
    print(json.dumps(told, indent=2))  # noqa: T201  in ASCII, which every pipe takes and every name survives


def _convert(given: argparse.Namespace, _: Console) -> int:
    from cdal.data.inspection.convert import convert
    from cdal.data.remote import local_folder

    for note in convert(local_folder(given.data), given.to, **_options(given)):
        print(f"note  {note}")  # noqa: T201
    print(f"written: {given.to}")  # noqa: T201
    return DONE


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Options of the dataset from the command line."""
    options = {name: value for name, value in (("groups", given.groups), ("split", given.split)) if value is not None}
    for path, value in map(parse_setting, given.sets):
        if not path.startswith(_OPTION):
            raise InputError(f"--set is {path}; here it sets options of the data, such as dataset.instances=true")
        options[path.removeprefix(_OPTION)] = value
    return options


def _search_command(given: argparse.Namespace, found: Inspection) -> str:
    """What starts a search on the data as they were inspected."""
    import shlex

    words = ["python", "tune/search.py", "--data", str(given.data)]
    words += ["--dataset", found.dataset] if given.dataset else []
    for name in ("groups", "split"):
        if getattr(given, name):
            words += [f"--{name}", getattr(given, name)]
    for setting in given.sets:
        words += ["--set", setting]
    return shlex.join(words)


def _watched(cases: Iterable[CaseFacts | InputError], total: int) -> Iterable[CaseFacts | InputError]:
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
    odd = [f"{finding.text}\n    (the search: {finding.action})" for finding in found.findings]
    for title, style, sentences in (
        ("Decided for you", "cyan", found.notes),
        ("Worth a look", "yellow", odd),
        ("Problems", "red", found.problems),
    ):
        if sentences:
            console.print(Text(f"{title}:", style=f"bold {style}"))
        for sentence in sentences:
            for line in sentence.split("\n"):
                console.print(Text(f"  {plain(line)}"), soft_wrap=True)
    if not found.problems:
        console.print(Text("No problems found.", style="green"))


def _unread(given: argparse.Namespace, problem: str) -> dict[str, Any]:
    """What `_plain` gives, of data in which no cases can be told."""
    lists: dict[str, Any] = {name: [] for name in ("findings", "decided", "classes", "folds", "cases")}
    first = {"folder": str(given.data), "dataset": given.dataset, "ready": False, "problems": [problem]}
    return first | lists | {"splits": {}, "groups": {}, "command": None}


def _plain(found: Inspection, command: str) -> dict[str, Any]:
    """An inspection as JSON values."""
    from cdal.data.inspection import class_rows, fold_rows

    return {
        "folder": str(found.folder),
        "dataset": found.dataset,
        "ready": not found.problems,
        "problems": found.problems,
        "findings": [
            {"kind": one.kind, "text": one.text, "action": one.action, "cases": one.cases, "files": one.files}
            for one in found.findings
        ],
        "decided": found.notes,
        "classes": [
            dict(zip(("label", "name", "share", "cases"), (int(label), name, share, int(cases.replace(",", ""))), strict=True))
            for label, name, share, cases in class_rows(found)
        ],
        "folds": [dict(zip(("fold", "name", "train", "validation", "test"), row, strict=True)) for row in fold_rows(found)],
        "splits": {
            str(fold): {"train": split.train, "validation": split.validation, "test": split.test}
            for fold, split in found.splits.items()
        },
        "groups": dict(found.groups),
        "cases": [
            {
                "id": case.id,
                "files": [str(path) for path in source.images + source.labels],
                "size": case.size,
                "spacing": case.spacing,
                "channels": case.form.channels,
                "dtype": case.dtype,
                "low": case.low,
                "high": case.high,
                "labels": {str(label): int(count) for label, count in enumerate(counts) if count},
            }
            for case, source, counts in zip(found.cases, found.sources, found.counts, strict=True)
        ],
        "command": None if found.problems else command,
    }


if __name__ == "__main__":
    sys.exit(main())
