"""Predicted masks over their images: outlines traced as vectors, so that a mask of 32 pixels is as crisp as one of 512."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dashboards.summaries import of_trials, records
from tune.results import Lake

Pictures = Callable[[pd.DataFrame], Sequence[Mapping[str, Any]]]
"""Rows of the gallery with their PNGs: fetched only when needed."""

_MAX_SIDE = 320  # pixels; larger pictures are shrunk, which keeps the page small
_MAX_BYTES = 24_000  # of a picture without loss
_FILES = ["image", "truth", "prediction", "uncertainty"]


@dataclass(frozen=True)
class Picture:
    """An image as data URI and, in its pixel coordinates, the SVG paths around true and predicted masks."""

    width: int
    height: int
    image: str
    truth: str
    prediction: str
    uncertainty: str
    """Data URI; empty where there is none."""


def pictures_of(lake: Lake) -> Pictures:
    """Where pages get the pictures of a lake's cases from; read once, and only if any are asked for."""

    @cache
    def everything() -> pa.Table:
        return lake.gallery(_FILES)

    def find(cases: pd.DataFrame) -> Sequence[Mapping[str, Any]]:
        if cases.empty:
            return []
        key = ["experiment", "trial_id", "split", "case"]
        images = of_trials(everything(), cases).select([*key, *_FILES]).to_pandas()
        return records(cases.merge(images, on=key, how="left"))

    return find


def pictured(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of the gallery, each with its `picture`; None where that is missing or damaged."""
    return [{**row, "picture": picture(*(row[name] for name in _FILES))} for row in rows]


def picture(image: bytes | None, truth: bytes | None, prediction: bytes | None, uncertainty: bytes | None = None) -> Picture | None:
    """Compose one case; None where there is no image or a file is damaged."""
    if not image:
        return None
    try:
        shown = _opened(image)
        full = shown.size
        shown.thumbnail((_MAX_SIDE, _MAX_SIDE))
        entropy = _opened(uncertainty).resize(shown.size) if isinstance(uncertainty, bytes) else None
        masks = [outlines(_labels(mask, full, shown.size)) if mask else "" for mask in (truth, prediction)]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return Picture(shown.width, shown.height, _uri(shown), masks[0], masks[1], "" if entropy is None else _uri(entropy))


def _opened(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
        return opened.convert("RGB" if len(opened.getbands()) > 1 or opened.mode == "P" else "L")


def _uri(image: Image.Image) -> str:
    """Without loss where that is small, else nearly so."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    kind = "png"
    if buffer.tell() > _MAX_BYTES:
        buffer, kind = io.BytesIO(), "webp"
        image.save(buffer, "WEBP", quality=88, method=2)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def outlines(labels: NDArray[Any]) -> str:
    """SVG path of the borders of all classes but 0, along pixel edges, one closed loop after another."""
    return "".join(_loop_path(loop) for value in np.unique(labels[labels > 0]) for loop in _loops(labels == value))


def _labels(mask: bytes, full: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(mask), formats=["PNG"]) as opened:
        if opened.size != full:
            raise ValueError(f"a mask of {opened.size} pixels belongs to an image of {full}")
        grey = opened if opened.mode in ("L", "P", "1") else opened.convert("L")
        return np.asarray(grey.resize(size, Image.Resampling.NEAREST), dtype=np.uint8)


def _loops(inside: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Closed walks along the pixel edges between inside and outside, with the inside to the right."""
    padded = np.pad(inside, 1)
    core = padded[1:-1, 1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sides = (  # neighbour, then start and end of the edge as offsets from the pixel's upper left corner
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, start, end in sides:
        rows, columns = np.nonzero(core & ~neighbour)
        for x, y in zip(columns.tolist(), rows.tolist(), strict=True):
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while following:
        first = point = next(iter(following))
        loop = [first]
        while True:
            ends = following[point]
            step = ends.pop()
            if not ends:
                del following[point]
            point = step
            if point == first:
                break
            loop.append(point)
        loops.append(loop)
    return loops


def _loop_path(loop: list[tuple[int, int]]) -> str:
    """Corners only: points on a straight run are left out."""
    corners = [
        (x, y)
        for (x0, y0), (x, y), (x1, y1) in zip(loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1], strict=True)
        if (x - x0, y - y0) != (x1 - x, y1 - y)
    ]
    (x, y), *others = corners
    path = f"M{x} {y}"
    for next_x, next_y in others:
        path += f"H{next_x}" if next_y == y else f"V{next_y}"
        x, y = next_x, next_y
    return path + "Z"
