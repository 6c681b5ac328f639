"""Build the leaderboard of a results lake: one HTML page that needs no server, no network and nothing else beside it.

python dashboards/leaderboard.py                                    # results/ -> results/leaderboard.html
python dashboards/leaderboard.py --storage s3://bucket/prefix --out leaderboard.html
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from dashboards import page, summaries
    from tune.results import InputError, load
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("dashboards", "tune", "cdal"):
        raise
    sys.exit("cDAL Search is not installed in this Python: run `pip install -e .` in its folder first")


def build(storage: str | Path, out: str | Path | None = None) -> Path:
    """Write the page and return its path; `out` defaults to leaderboard.html in the lake (for s3://, in the working folder).

    Raises:
        InputError: there is no lake at `storage`, or `out` cannot be written.
    """
    remote = "://" in str(storage)
    target = Path(out) if out is not None else Path("leaderboard.html") if remote else Path(storage) / "leaderboard.html"
    lake = load(storage)
    boards = summaries.boards(summaries.read(lake))
    images = lake.gallery() if any(not board.gallery.empty for board in boards) else None

    def pictures(board: summaries.Board) -> Sequence[Mapping[str, Any]]:
        if images is None or board.gallery.empty:
            return []
        key = ["experiment", "trial_id", "split", "case"]
        chosen = images.select([*key, "image", "truth", "prediction"]).to_pandas()
        return summaries.records(board.gallery.merge(chosen, on=key, how="left"))

    content = page.render(boards, str(storage), pictures)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"cannot write {target}: {error.strerror or error}; give another place with --out") from error
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when the page is written, 2 when the input is wrong."""
    parser = argparse.ArgumentParser(description="Build the leaderboard of a results lake as one self-contained HTML page.")
    parser.add_argument(
        "--storage", default="results", metavar="ROOT", help="results lake: a folder or s3://bucket/prefix (default: results)"
    )
    parser.add_argument("--out", metavar="FILE", help="the page to write (default: ROOT/leaderboard.html)")
    options = parser.parse_args(arguments)
    try:
        print(build(options.storage, options.out))  # noqa: T201
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
