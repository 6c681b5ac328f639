"""The image and the mask of one case, with the values that their files hold.

    pair = read_pair(source)
    pair.image, pair.values        # (C, D, H, W), (D, H, W)

Nothing is decided here but which pixel of the mask belongs to which pixel of the image: files of one case have the same grid, and
an image that a camera stored turned (EXIF) is turned upright, unless its mask was drawn on the pixels as stored.

Axes: C image channels, D slices, H and W pixels; of a volume (inferior, left, posterior).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdal.data.dataset import Source
from cdal.data.images import ColoursError, orientation, read_image, read_mask
from cdal.data.layouts import VOLUME_ENDINGS
from cdal.data.own.labels import soft_level
from cdal.data.own.masks import Values, mask_facts
from cdal.errors import InputError

OUTLINES = ".json"
_LOSSY = (".jpg", ".jpeg")


class Pair(NamedTuple):
    """What the files of a case hold."""

    image: npt.NDArray[Any]
    """(C, D, H, W)."""
    values: Values
    """(D, H, W)."""
    spacing: tuple[float, float, float] | None
    """Distance of neighbouring voxels along D, H and W, mm; None of images."""
    coloured: bool = False
    """Values are 65536 red + 256 green + blue."""
    lossy: bool = False
    """The mask was stored as JPEG."""
    objects: bool = False
    """The mask was put together from files that hold an object each: values number them."""
    turned: bool = False
    """The image tells that it is stored turned, but its mask fits the pixels as they are stored."""
    note: str = ""
    """How the header of a volume was understood, where that was in doubt; how an image was turned."""
    palette: Sequence[int] = ()
    """Colours, as 65536 red + 256 green + blue, of the values from 0 on, where the mask is stored with a palette."""
    instances: npt.NDArray[np.int32] | None = None
    """(D, H, W), where outlines tell objects apart."""


def is_volume(path: Path) -> bool:
    """Whether a file, or a folder of DICOM slices, holds a volume."""
    return path.name.lower().endswith(VOLUME_ENDINGS) or path.is_dir()


def read_pair(source: Source, *, channels: int | None = None, coloured: bool | None = None, names: Sequence[str] = ()) -> Pair:
    """Decode and check the files of a case.

    Args:
        source: the files.
        channels: how many dataset.json declares, if it does.
        coloured: whether masks are read as colours; None finds out.
        names: the classes of outlines in JSON, in their order.

    Raises:
        InputError: files that are damaged, do not fit each other, or do not hold what is declared.
    """
    return _read_volumes(source, channels) if is_volume(source.images[0]) else _read_images(source, channels, coloured, names)


def _read_volumes(source: Source, channels: int | None) -> Pair:
    from cdal.data.volumes import read_grid, read_label, read_labelled, read_volume  # needs nibabel, which images do without

    image, first, spacing = read_labelled(source, channels)
    masks = [first]
    if len(source.labels) > 1:
        volume = read_volume(source.images[0])
        masks += [read_label(path, source.images[0], volume) for path in source.labels[1:]]
    values, objects = _together(masks, source)
    return Pair(image, values, spacing, objects=objects, note=read_grid(source.images[0]).note)


def _read_images(source: Source, channels: int | None, coloured: bool | None, names: Sequence[str]) -> Pair:
    parts = [read_image(path) for path in source.images]
    for path, part in zip(source.images, parts, strict=True):
        if part.shape[:2] != parts[0].shape[:2]:
            raise InputError(
                f"{path} is {_size(part)}, but {source.images[0].name} of its case is {_size(parts[0])}; they need one size"
            )
    pixels = parts[0] if len(parts) == 1 else np.dstack(parts)
    count = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels is not None and count != channels:
        raise InputError(f"{source.images[0]} has {count} channel{'s' * (count != 1)}; dataset.json names {channels}")
    instances: npt.NDArray[np.int32] | None = None
    masks: list[npt.NDArray[Any]]
    if source.labels[0].suffix.lower() == OUTLINES:
        from cdal.data.polygons import read_polygons  # most data come without

        outlined = read_polygons(source.labels[0], source.images[0].name, pixels.shape[:2], names)
        masks, coloured, instances = [outlined.values], False, outlined.instances[None]
    else:
        masks, coloured = _read_masks(source.labels, coloured)
    is_turned, turned = orientation(source.images[0]) != 1, False
    for path, values in zip(source.labels, masks, strict=True):
        if values.shape == pixels.shape[:2]:
            continue
        stored = read_image(source.images[0], upright=False) if is_turned and len(parts) == 1 else None
        if stored is None or values.shape != stored.shape[:2]:
            how = (
                "turn the mask"
                if values.shape == pixels.shape[1::-1]
                else "export it at the image's size, or scale it by the nearest pixel"
            )
            raise InputError(f"{path} is {_size(values)}, but its image {source.images[0].name} is {_size(pixels)}; {how}")
        pixels, turned = stored, True
    values, objects = _together(masks, source)
    palette = [] if coloured or len(source.labels) > 1 else _palette(source.labels[0])
    lossy = any(path.suffix.lower() in _LOSSY for path in source.labels)
    note = "stored turned, and shown upright as EXIF tells" if is_turned and not turned else ""
    return Pair(_as_case(pixels), values[None], None, coloured, lossy, objects, turned, note, palette, instances)


def _read_masks(paths: Sequence[Path], coloured: bool | None) -> tuple[list[npt.NDArray[Any]], bool]:
    """Masks (H, W), and whether as colours; None finds out."""
    if not coloured:
        try:
            return [read_mask(path) for path in paths], False
        except ColoursError:
            if coloured is False:
                raise
    return [read_mask(path, colours=True) for path in paths], True


def _palette(path: Path) -> list[int]:
    """The colours of a file that was decoded and stores indices; none of others."""
    if path.suffix.lower() == OUTLINES:
        return []
    with Image.open(path) as image:
        colours = image.getpalette("RGB") if image.mode == "P" else None
    table = np.array(colours or [], np.int64).reshape(-1, 3)
    return (table @ (65536, 256, 1)).tolist()  # type: ignore[no-any-return]


def _together(masks: Sequence[npt.NDArray[Any]], source: Source) -> tuple[Values, bool]:
    """One mask of several: each file's own class where the source gives it, or else a number for the object in each file."""
    if len(masks) == 1 and not source.values:
        return masks[0], False
    together = np.zeros(masks[0].shape, np.int32)
    for number, (mask, path) in enumerate(zip(masks, source.labels, strict=True)):
        together[_drawn(mask, path)] = source.values[number] if source.values else number + 1
    return together, not source.values


def _drawn(mask: npt.NDArray[Any], path: Path) -> npt.NDArray[np.bool_]:
    """Where a mask that holds one object, or one class, has it."""
    drawn: npt.NDArray[np.bool_] = mask > 0
    if drawn.any() and (low := int(mask[drawn].min())) < (high := int(mask.max())):
        facts = mask_facts(mask, lossy=path.suffix.lower() in _LOSSY)
        if soft_level([facts], facts.foreground) is None:
            raise InputError(
                f"{path} holds values from {low} to {high} besides 0; where a case has several masks, or a folder per class, each "
                "file holds one object or class: save it with one value, or all of them in one mask"
            )
        drawn = mask >= high / 2
    return drawn


def _as_case(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) or (H, W, C) as (C, 1, H, W)."""
    planes = pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    return planes[:, None]


def _size(pixels: npt.NDArray[Any]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} px"
