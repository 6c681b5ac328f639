"""What the files of every case hold, looked at once, before anything is decided that concerns them all.

    found = list(survey(sources, channels=1))          # facts, or what is wrong, of every source in order
    found[0].size, found[0].mask.values

Which values are classes, which window suits a CT, which spacing is the usual one: no file tells that alone. Facts are plain numbers
and are kept in the cache folder, so that a later opening reads none of the files for them.

Axes: C image channels, D slices, H and W pixels; of a volume (inferior, left, posterior).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdal.data.cache import load_facts
from cdal.data.dataset import Source
from cdal.data.geometry import Grid
from cdal.data.own.masks import MaskFacts, mask_facts
from cdal.data.own.pairs import Pair, read_pair
from cdal.data.preparation import foreground_sample
from cdal.errors import InputError

_VERSION = 6  # of the facts; a higher one has files looked at again
_SKETCH = 16  # side of the sketch that near-copies are found by, pixels
_COMPARED = 96  # longer side at which the edges of image and mask are compared, pixels
_FEWEST = 32  # pixels of a side, below which chance places edges
_SEARCHED = 12  # pixels of that, that a mask is looked for around its place


class Form(NamedTuple):
    """What the images of all cases must have in common."""

    channels: int
    is_bytes: bool


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What the files of one case hold; plain numbers."""

    id: str
    form: Form
    size: Sequence[int]
    """(width, height) of an image, (left-right, front-back, up-down) of a volume."""
    spacing: Sequence[float] | None
    """mm, in the order of `size`; None of images."""
    dtype: str
    low: float
    high: float
    mean: float
    """Of the first channel."""
    channels: Sequence[Sequence[float]]
    """Per channel of a volume its lowest and its highest value, and 1 where all are whole numbers, else 0."""
    sample: Sequence[Sequence[float]]
    """Per channel of a volume, intensities where the mask is not 0, evenly spaced."""
    sampled: Sequence[int]
    """The values of the mask in these places."""
    mask: MaskFacts
    turned: bool
    """See `Pair`."""
    note: str
    """What its reader should be told of how the header of the image was understood; "" where nothing was in doubt."""
    digest: str
    """Of the image's pixels."""
    sketch: Sequence[int]
    """The first channel of the image, or of the slice with most foreground, reduced to 16 x 16 pixels, 0 to 255."""
    shift: Sequence[float]
    """How far to move the mask (down, right; as fractions of the image) for its edges to lie on those of the image, and how much
    better they agree there than in their place (0: not at all)."""
    flips: Sequence[float]
    """How much better the edges agree when the mask is flipped left-right, up-down, or both; empty of small images."""

    @property
    def grid(self) -> Grid:
        """That of a volume."""
        assert self.spacing is not None
        (across, deep, high), (left, back, up) = self.size, self.spacing
        return Grid((high, across, deep), (up, left, back))


def survey(
    sources: Sequence[Source], *, channels: int | None = None, names: Sequence[str] = (), coloured: bool = False
) -> Iterator[CaseFacts | InputError]:
    """The facts of every case in order, or the error on what is wrong with it.

    Args:
        sources: the files of every case.
        channels: how many image channels dataset.json declares, if it does.
        names: the classes of outlines in JSON, in their order.
        coloured: whether the colours of masks are declared.
    """
    recipe = {"facts": _VERSION, "channels": channels, "names": list(names), "coloured": coloured}
    look = partial(_look, channels=channels, names=names, coloured=coloured)
    for source, found in zip(sources, load_facts(sources, look, recipe), strict=True):
        if isinstance(found, InputError):
            yield found
        else:
            parts = {"form": Form(*found["form"]), "mask": MaskFacts(**found["mask"])}
            yield CaseFacts(id=source.id, **(found | parts))


def case_facts(case_id: str, pair: Pair) -> CaseFacts:
    """The facts of files that were decoded."""
    image, values = pair.image, pair.values
    _, depth, height, width = image.shape
    filled = [np.count_nonzero(plane) for plane in values]
    shown = int(np.argmax(filled))
    bytes_ = image.dtype == np.uint8
    small = _reduced(image[0, shown].astype(np.float32), _COMPARED)
    shift, flips = _place(small, _at(_reduced((values[shown] > 0).astype(np.float32), _COMPARED), small.shape))
    return CaseFacts(
        id=case_id,
        form=Form(len(image), bytes_),
        size=(width, height) if pair.spacing is None else (height, width, depth),
        spacing=pair.spacing and (pair.spacing[1], pair.spacing[2], pair.spacing[0]),
        dtype=str(image.dtype.newbyteorder("=")),
        low=float(image.min()),
        high=float(image.max()),
        mean=float(image[0].mean(dtype=np.float64)),
        channels=[] if pair.spacing is None else [[float(one.min()), float(one.max()), _whole(one)] for one in image],
        sample=[] if pair.spacing is None else [foreground_sample(channel, values).tolist() for channel in image],
        sampled=[] if pair.spacing is None else foreground_sample(values, values).astype(int).tolist(),
        mask=mask_facts(
            values if pair.spacing is not None else values[0],
            coloured=pair.coloured,
            lossy=pair.lossy,
            objects=pair.objects,
            palette=pair.palette,
        ),
        turned=pair.turned,
        note=pair.note,
        digest=_digest(image),
        sketch=_sketch(image[0, shown]),
        shift=shift,
        flips=flips,
    )


def _look(source: Source, channels: int | None, names: Sequence[str], coloured: bool) -> dict[str, Any]:
    facts = asdict(case_facts(source.id, read_pair(source, channels=channels, coloured=coloured or None, names=names)))
    del facts["id"]  # the same files may have another name
    return facts


def _whole(channel: npt.NDArray[Any]) -> int:
    return int(channel.dtype.kind in "iu" or all(bool((plane == np.rint(plane)).all()) for plane in channel))


def _digest(image: npt.NDArray[Any]) -> str:
    found = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    found.update(repr(image.shape).encode())
    return found.hexdigest()


def _reduced(plane: npt.NDArray[np.float32], longest: int) -> npt.NDArray[np.float32]:
    """An image (H, W) whose longer side is at most so long: means of square blocks."""
    step = -(-max(plane.shape) // longest)
    height, width = (max(side // step, 1) for side in plane.shape)
    tall, wide = (min(step, side) for side in plane.shape)
    blocks = plane[: height * tall, : width * wide].reshape(height, tall, width, wide)
    found: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3))
    return found


def _at(plane: npt.NDArray[np.float32], size: Sequence[int]) -> npt.NDArray[np.float32]:
    """An image (H, W) at another size, by the nearest pixel."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1) for new, old in zip(size, plane.shape, strict=True)
    )
    found: npt.NDArray[np.float32] = plane[rows[:, None], columns]
    return found


def _sketch(plane: npt.NDArray[Any]) -> list[int]:
    picked = np.array(Image.fromarray(plane.astype(np.float32)).resize((_SKETCH, _SKETCH), Image.Resampling.BILINEAR))
    low, high = picked.min(), picked.max()
    sketch: list[int] = np.rint((picked - low) * (255 / max(high - low, 1e-12))).astype(int).ravel().tolist()
    return sketch


def _place(image: npt.NDArray[np.float32], mask: npt.NDArray[np.float32]) -> tuple[tuple[float, float, float], list[float]]:
    """`shift` and `flips`, by how the edges of an image correlate with those of its mask; shifts of up to 12 pixels, periodic."""
    if min(image.shape) < _FEWEST:
        return (0.0, 0.0, 0.0), []
    edges, border = (np.hypot(*np.gradient(plane)) for plane in (image, mask))
    if not border.any() or not edges.any():
        return (0.0, 0.0, 0.0), []
    edges = np.minimum(edges, np.percentile(edges, 98))
    edges, border = ((plane - plane.mean()) / max(float(plane.std()), 1e-12) for plane in (edges, border))
    here = max(float((edges * border).mean()), 0.0)
    flips = [float((edges * flipped).mean()) - here for flipped in (border[:, ::-1], border[::-1], border[::-1, ::-1])]
    fit = np.fft.irfft2(np.fft.rfft2(edges) * np.conj(np.fft.rfft2(border)), s=edges.shape) / edges.size
    tall, wide = (min(_SEARCHED, side // 4) for side in fit.shape)
    near = np.roll(fit, (tall, wide), axis=(0, 1))[: 2 * tall + 1, : 2 * wide + 1]
    down, right = np.unravel_index(int(near.argmax()), near.shape)
    return ((int(down) - tall) / fit.shape[0], (int(right) - wide) / fit.shape[1], float(near.max()) - here), flips
