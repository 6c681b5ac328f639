"""Folders that several situations build alike."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tifffile
from own_folders import mask, picture, save


def with_images(folder: Path, count: int = 6, side: int = 64) -> Sequence[str]:
    """images/case_0.png, ... of three colours; returns their names."""
    names = [f"case_{number}" for number in range(count)]
    for number, name in enumerate(names):
        save(folder / "images" / f"{name}.png", picture(number, side, side, 3))
    return names


def write_tiff(path: Path, values: npt.NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, **options)


def named(folder: Path, image: Callable[[int], str], label: Callable[[int], str], numbers: Sequence[int] = range(6)) -> None:
    """An image and its mask for every number, under these names."""
    for number in numbers:
        save(folder / image(number), picture(number, colours=3))
        save(folder / label(number), mask(number))


def some(folder: Path, names: Sequence[str], content: bytes) -> None:
    """Files of these names, all with this content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
