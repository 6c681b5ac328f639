"""A lake as a folder of pages that refer to each other: to be opened from a disk, mailed, or put on any web server.

index.html                          all datasets and experiments
pages/experiments/<name>.html       one page per experiment
pages/trials/<name>/<trial>.html    one page per trial that is worth one
pages/assets/                       style and scripts, shared by all pages
"""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards import summaries
from dashboards.pages import sheets
from dashboards.pages.gallery import Pictures
from dashboards.pages.rendering import ASSETS, asset
from dashboards.pages.sheets import Links
from dashboards.summaries import Rows
from tune.results import InputError

Logs = Callable[[Mapping[str, Any]], str]
"""What a trial printed, by its row."""

MAX_TRIAL_PAGES = 200  # of one experiment, beside its controls
_MARK = ".written-by-cdal-search"
_MARK_SAYS = b"Everything in this folder is written by dashboards/leaderboard.py, and removed when it is outdated.\n"
_THREADS = 16  # that wait for the store
_PLAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")


def write(rows: Rows, folder: Path, source: str, find: Pictures, log: Logs) -> Path:
    """Write all pages and return the first one; pages of what is no longer in the lake are removed.

    Args:
        rows: the lake.
        folder: where to.
        source: the lake's name.
        find: its pictures.
        log: the end of what a trial printed, by its row.

    Raises:
        InputError: the folder cannot be written, or holds something else.
    """
    pages = folder / "pages"
    try:
        _claim(folder, pages)
        for name in ASSETS:
            shared = asset(name).encode()
            if not _same(pages / "assets" / name, shared):
                write_whole(pages / "assets" / name, shared)
        written = {pages / "assets" / name for name in ASSETS} | {pages / _MARK}
        for path, content in _pages(rows, pages, source, find, log):
            write_whole(path, content.encode())
            written.add(path)
        _remove_others(pages, written)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; give another place with --out") from error
    return folder / "index.html"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def file_name(name: str) -> str:
    """A name of an experiment or trial as a file's: readable where it is plain, and never that of another one, on any disk."""
    if _PLAIN.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{readable or 'x'}~{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:16]}"


def worth_a_page(trials: pd.DataFrame, limit: int = MAX_TRIAL_PAGES) -> pd.DataFrame:
    """The trials of an experiment that get a page: the best, the controls, and, as far as there is room, the newest others."""
    kept = (trials["rank"] <= limit) | trials["kind"].isin(["published", "unet"]) | trials["finalist"].notna()
    rest = trials[~kept]
    room = max(limit - int(kept.sum()), 0)
    return trials[kept | trials.index.isin(rest.sort_values("number", kind="stable").tail(room).index)]


def _pages(rows: Rows, pages: Path, source: str, find: Pictures, log: Logs) -> Iterator[tuple[Path, str]]:
    """All pages; the first one last, when what it refers to is there."""
    boards = [summaries.board_of(rows, name) for name in rows.descriptions]
    chosen = {board.experiments[0]: worth_a_page(board.trials) for board in boards}
    known = {(name, str(trial)) for name, trials in chosen.items() for trial in trials["trial_id"]}

    def link(prefix: str) -> Callable[[str, str], str | None]:
        return lambda name, trial: f"{prefix}trials/{file_name(name)}/{file_name(trial)}.html" if (name, trial) in known else None

    for board in boards:
        (name,) = board.experiments
        own = file_name(name)
        with ThreadPoolExecutor(_THREADS) as pool:
            logs = list(pool.map(log, summaries.records(chosen[name])))
        for trial, said in zip(summaries.trials_of(rows, board, chosen[name]), logs, strict=True):
            path = pages / "trials" / own / f"{file_name(str(trial.row['trial_id']))}.html"
            up = f"../../experiments/{own}.html"
            yield path, sheets.trial(trial, source, find, said, "../../assets/", "../../../index.html", up)
        links = Links(lambda name: f"{file_name(name)}.html", link("../"))
        yield pages / "experiments" / f"{own}.html", sheets.experiment(board, source, find, links, "../assets/", "../../index.html")
    left_out = sum(len(board.trials) for board in boards) - sum(map(len, chosen.values()))
    notes = f"{left_out} trials have no page of their own: each experiment's best {MAX_TRIAL_PAGES} and its controls do."
    links = Links(lambda name: f"pages/experiments/{file_name(name)}.html", link("pages/"))
    index = sheets.overview(
        rows, summaries.boards(rows, boards), source, find, links, "pages/assets/", notes if left_out > 0 else ""
    )
    yield pages.parent / "index.html", index


def _claim(folder: Path, pages: Path) -> None:
    """Make the folder of pages, marked as one of ours."""
    if (pages / _MARK).exists():
        return
    if (folder / "index.html").exists() or (pages.exists() and any(pages.iterdir())):
        raise InputError(f"{folder} holds pages that this command has not written; give another place with --out")
    write_whole(pages / _MARK, _MARK_SAYS)


def _remove_others(pages: Path, written: set[Path]) -> None:
    for path in sorted(pages.rglob("*"), reverse=True):  # files before their folders
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif path not in written:
            path.unlink()


def _same(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False
