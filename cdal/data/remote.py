"""Data that lie elsewhere, copied to this machine."""

from __future__ import annotations

from pathlib import Path


def local_folder(data: str | Path) -> Path:
    """The folder on this machine that holds the data."""
    return Path(data).expanduser().absolute()
