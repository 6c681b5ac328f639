"""The leaderboard live: a page that follows a search while it runs and keeps your zoom, selection, filter and order.

python dashboards/serve.py --storage results                                    # on this machine; prints the address
python dashboards/serve.py --storage s3://bucket/prefix --experiment NAME       # one search
python dashboards/serve.py --host 0.0.0.0                                       # on any, for who has that address

It needs Dash: pip install -e '.[live]'
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from dashboards import live
    from tune.results import InputError, print_anything, read_experiment
except ModuleNotFoundError as error:
    missing = (error.name or "").split(".")[0]
    if missing in ("dash", "flask", "waitress"):
        print(f"the live page needs {error.name}: run `pip install -e '.[live]'` in the folder of cDAL Search", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    if missing not in ("dashboards", "tune", "cdal"):
        raise
    sys.exit("cDAL Search is not installed in this Python: run `pip install -e .` in its folder first")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when it was interrupted, 2 when the input is wrong."""
    print_anything()
    parser = argparse.ArgumentParser(description="Serve the leaderboard of a results lake as a page that follows running searches.")
    parser.add_argument(
        "--storage", default="results", metavar="ROOT", help="results lake: a folder or s3://bucket/prefix (default: results)"
    )
    parser.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="show only these searches (default: all)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but loopback takes the token to read")
    parser.add_argument("--port", type=int, default=8050, help="port to listen on, 0 for a free one (default: 8050)")
    options = parser.parse_args(arguments)
    try:
        if "://" not in options.storage and not Path(options.storage).expanduser().is_dir():
            raise InputError(f"no results at {options.storage}: there is no such folder; --storage names it")
        for name in options.experiment:
            read_experiment(options.storage, name)
        listening = live.listen(options.host, options.port)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    server, address = live.make_server(options.storage, options.experiment, listening)
    print(address, flush=True)  # noqa: T201
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
