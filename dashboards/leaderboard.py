"""Draw the leaderboard of a results lake: pages that need no server and no network.

python dashboards/leaderboard.py                                    # results/ -> results/leaderboard/index.html and its pages
python dashboards/leaderboard.py --storage s3://bucket/prefix --out site/
python dashboards/leaderboard.py --out leaderboard.html             # all in one file, without the pages of single trials
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

try:
    from dashboards import pages, summaries
    from tune.results import InputError, load, print_anything, read_log
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("dashboards", "tune", "cdal"):
        raise
    sys.exit("cDAL Search is not installed in this Python: run `pip install -e .` in its folder first")


def build(storage: str | Path, out: str | Path | None = None) -> Path:
    """Write the leaderboard and return the page to open.

    Args:
        storage: the lake.
        out: a folder for a site, or a file ending in .html for one self-contained page. The default is the folder `leaderboard` in
            the lake; in the working folder, for a lake in an object store.

    Raises:
        InputError: there is no lake at `storage`, or `out` cannot be written.
    """
    remote = "://" in str(storage)
    target = Path(out) if out is not None else Path("leaderboard") if remote else Path(storage) / "leaderboard"
    lake = load(storage)
    rows = summaries.read(lake)
    find = pages.pictures_of(lake)
    if target.suffix.lower() not in (".html", ".htm"):
        return pages.write(rows, target, str(storage), find, partial(read_log, storage))
    content = pages.everything(summaries.boards(rows), str(storage), find)
    try:
        pages.write_whole(target, content.encode())
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}; give another place with --out") from error
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when the page is written, 2 when the input is wrong."""
    print_anything()
    parser = argparse.ArgumentParser(description="Draw the leaderboard of a results lake as pages that need no server.")
    parser.add_argument(
        "--storage", default="results", metavar="ROOT", help="results lake: a folder or s3://bucket/prefix (default: results)"
    )
    parser.add_argument("--out", metavar="PLACE", help="a folder, or FILE.html for a single page (default: ROOT/leaderboard)")
    options = parser.parse_args(arguments)
    try:
        print(build(options.storage, options.out))  # noqa: T201
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
