"""What `python -m tune.results` does with a lake."""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from cdal.command import DONE, WORK_FAILED, command_line, run
from cdal.errors import InputError
from tune.lake.check import verify
from tune.lake.checkpoints import KEPT, prune
from tune.lake.driver import hold
from tune.lake.experiments import read_experiment
from tune.lake.reader import Lake, compact, load
from tune.lake.s3 import RemoteError
from tune.lake.status import FALLEN
from tune.lake.storage import Store
from tune.lake.tables import KEYS
from tune.lake.writer import send

if TYPE_CHECKING:
    from rich.console import Console

_BEST = 5  # trials that are shown of every experiment
_BATCH = 10_000  # rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 something is wrong with the lake, 2 wrong input."""
    given = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)  # noqa: T201
        return run(_told, given)


def _told(given: argparse.Namespace, console: Console) -> int:
    work: Callable[[argparse.Namespace, Console], int] = given.work
    try:
        return work(given, console)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{error.filename or given.storage}: {error.strerror or error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = command_line("Look after a results lake.", "python -m tune.results")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, work: Callable[[argparse.Namespace, Console], int], words: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("--storage", required=True, metavar="ROOT", help="the lake: a folder or s3://BUCKET/FOLDER")
        command.add_argument("--experiment", metavar="NAME", help="only this one")
        command.set_defaults(work=work)
        return command

    add("compact", _compact, "Merge small files and drop replaced rows; may run while a search writes.")
    add("show", _show, "Summarise a lake: experiments, trials by status, the best of them, files and bytes.")
    for name, work, words in (
        ("verify", _verify, "Read every file and tell what is wrong; exit status 1 if anything is."),
        ("send", _send, "Send the rows that wait in this machine's spool, because the store was away."),
    ):
        add(name, work, words).add_argument("--spool", metavar="FOLDER", help="where rows wait (default: the cache folder)")
    pruned = add("prune", _prune, "Remove checkpoints that nobody will need again, of experiments that no search is at work in.")
    pruned.add_argument("--keep", type=int, default=KEPT, metavar="N", help=f"best trials that keep all (default: {KEPT})")
    pruned.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    export = add("export", _export, "Write one table to a file; lists are JSON, pictures base64, in CSV and JSON.")
    export.add_argument("--format", required=True, choices=list(_FORMATS))
    export.add_argument("--out", required=True, type=Path, metavar="PATH", help="replaced where it is there")
    export.add_argument("--table", choices=list(KEYS), default="trials", help="(default: trials)")
    return parser


def _compact(given: argparse.Namespace, console: Console) -> int:
    saved = compact(given.storage, given.experiment)
    console.print(f"{given.storage} has {saved} files fewer" if saved else f"{given.storage} is compact", markup=False)
    return DONE


def _verify(given: argparse.Namespace, console: Console) -> int:
    findings = verify(given.storage, given.experiment, spool=given.spool)
    for finding in findings:
        console.print(f"{'wrong' if finding.wrong else 'note'}: {finding.sentence}", markup=False)
    wrong = sum(finding.wrong for finding in findings)
    console.print(f"{given.storage}: {f'{wrong} to put right' if wrong else 'sound'}", markup=False)
    return WORK_FAILED if wrong else DONE


def _send(given: argparse.Namespace, console: Console) -> int:
    sent = send(given.storage, given.experiment, spool=given.spool)
    console.print(f"{sent} files sent to {given.storage}" if sent else f"nothing waits for {given.storage}", markup=False)
    return DONE


def _prune(given: argparse.Namespace, console: Console) -> int:
    """Of all experiments, but for those of finalists and those at work, or of one, whose driver must not be at work."""
    say = partial(console.print, markup=False)
    for experiment in _opened(given).experiments:
        name = experiment.name
        if given.experiment not in (None, name) or (given.experiment is None and "finalists" in experiment.description):
            continue
        found = prune(given.storage, name, given.keep, dry=True)
        if found.files and not given.dry_run:
            try:
                with hold(f"{given.storage.rstrip('/')}/{name}/tune", say):
                    found = prune(given.storage, name, given.keep)
            except RemoteError:
                raise
            except InputError as error:
                if given.experiment is not None:
                    raise
                say(f"{name}: left alone, for {error}")
                continue
        files = f"{found.files} files of {found.bytes:,} bytes"
        say(f"{name}: {files} {'would go' if given.dry_run else 'removed'}" if found.files else f"{name}: nothing to remove")
    return DONE


def _show(given: argparse.Namespace, console: Console) -> int:
    from rich.table import Table
    from rich.text import Text

    lake, store = _opened(given), Store(given.storage)
    trials = lake.trials().to_pylist()
    for experiment in lake.experiments:
        if given.experiment not in (None, experiment.name):
            continue
        own = [row for row in trials if row["experiment"] == experiment.name]
        about = [
            experiment.dataset or "unknown dataset",
            f"fold {experiment.description.get('fold', '?')}",
            experiment.created_at[:16],
        ]
        console.print(Text(f"{experiment.name}: {', '.join(filter(None, about))}", style="bold"))
        counts = Counter(str(row["status"]) for row in own)
        console.print(
            f"{len(own)} trials: {', '.join(f'{count} {status}' for status, count in counts.most_common())}", markup=False
        )
        best = Table("trial", "kind", "status", "epochs", "validation Dice", "final Dice", "test Dice", box=None)
        for row in sorted(own, key=lambda row: (row["status"] in FALLEN, -_or_nothing(row["validation_dice"])))[:_BEST]:
            figures = [row["epochs"], *(_figure(row[name]) for name in ("validation_dice", "final_dice", "test_dice"))]
            best.add_row(
                *(Text("" if cell is None else str(cell)) for cell in (row["trial_id"], row["kind"], row["status"], *figures))
            )
        files = Table("table", "files", "bytes", box=None)
        for table in KEYS:
            sizes = store.sizes(f"{experiment.name}/{table}")
            files.add_row(table, str(len(sizes)), f"{sum(sizes.values()):,}")
        console.print(best, files, "", sep="\n")
    return DONE


def _or_nothing(dice: float | None) -> float:
    return -math.inf if dice is None or math.isnan(dice) else dice


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _export(given: argparse.Namespace, console: Console) -> int:
    lake = _opened(given)
    rows: pa.Table = getattr(lake, given.table)()
    if given.experiment is not None:
        rows = rows.filter(pc.equal(rows["experiment"], given.experiment))
    if given.out.is_dir() or not given.out.absolute().parent.is_dir():
        raise InputError(f"--out {given.out} cannot be written: name a file in a folder that is there")
    unfinished = given.out.absolute().with_name(f".{given.out.name}.tmp")
    try:
        _FORMATS[given.format](rows, unfinished)
        os.replace(unfinished, given.out)
    finally:
        unfinished.unlink(missing_ok=True)
    console.print(f"{given.out}: {rows.num_rows} rows of {given.table}", markup=False)
    return DONE


def _opened(given: argparse.Namespace) -> Lake:
    lake = load(given.storage)
    if given.experiment is not None and given.experiment not in {experiment.name for experiment in lake.experiments}:
        read_experiment(given.storage, given.experiment)  # tells that it is not there
    return lake


def _to_parquet(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path, compression="zstd")


def _to_csv(rows: pa.Table, path: Path) -> None:
    for place, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_timestamp(field.type):
            texts = [_csv_text(value) for value in rows[field.name].to_pylist()]
            rows = rows.set_column(place, field.name, pa.array(texts, pa.string()))
        elif pa.types.is_null(field.type):
            rows = rows.set_column(place, field.name, rows[field.name].cast(pa.string()))
    pyarrow.csv.write_csv(rows, path)


def _csv_text(value: Any) -> str | None:
    plain = _json_value(value)
    return plain if plain is None or isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _to_json(rows: pa.Table, path: Path) -> None:
    """An array with one object per row; numbers that JSON lacks are the texts NaN, Infinity and -Infinity."""
    with path.open("w", encoding="utf-8") as sink:
        separator = "["
        for batch in rows.to_batches(max_chunksize=_BATCH):
            for row in batch.to_pylist():
                plain = {name: _json_value(value) for name, value in row.items()}
                sink.write(f"{separator}\n{json.dumps(plain, ensure_ascii=False, allow_nan=False)}")
                separator = ","
        sink.write("\n]\n" if separator == "," else "[]\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return [_json_value(item) for item in value] if isinstance(value, list) else value


_FORMATS: dict[str, Callable[[pa.Table, Path], None]] = {"csv": _to_csv, "parquet": _to_parquet, "json": _to_json}
