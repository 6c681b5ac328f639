"""Where this machine keeps what it can make or fetch again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$CDAL_CACHE`, else `cdal-search` in `$XDG_CACHE_HOME` or in `~/.cache`; the folder need not exist."""
    chosen = os.environ.get("CDAL_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cdal-search")
    return Path(os.path.expanduser(chosen)).absolute()
