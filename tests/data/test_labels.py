"""What the values of masks mean, decided from all of them together."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from own_folders import mask
from PIL import Image
from scipy import ndimage

from cdal.data.dataset import IGNORED
from cdal.data.own.labels import decide
from cdal.data.own.masks import MaskFacts, mask_facts
from cdal.data.own.reading import Reading
from cdal.errors import InputError

HERE = Path("case.png")


def disc(seed: int = 0, side: int = 64) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:side, :side]
    found: npt.NDArray[np.bool_] = (rows - 24 - seed) ** 2 + (columns - 28) ** 2 < 15**2
    return found


def soft(seed: int = 0, level: int = 255) -> npt.NDArray[Any]:
    """A disc that was resized with interpolation."""
    edges = ndimage.uniform_filter(disc(seed).astype(float), 3) * level
    return np.rint(edges).astype(np.uint8 if level < 256 else np.uint16)


def boxes(numbers: Sequence[int], dtype: type = np.uint16) -> npt.NDArray[Any]:
    """A square of every number."""
    found = np.zeros((64, 64), dtype)
    for place, number in enumerate(numbers):
        top, left = 9 * (place // 7), 9 * (place % 7)
        found[top : top + 7, left : left + 7] = number
    return found


def meaning(masks: Sequence[npt.NDArray[Any]], **options: Any) -> Reading:
    return decide([mask_facts(values) for values in masks], None, None, where="the masks in data", **options)


def refused(masks: Sequence[npt.NDArray[Any]], *words: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        meaning(masks, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


ONE_CLASS = {
    "1": [disc(n) * np.uint8(1) for n in range(4)],
    "255": [disc(n) * np.uint8(255) for n in range(4)],
    "1 or 255": [disc(n) * np.uint8(1 if n else 255) for n in range(4)],
    "255 or 65535": [disc(n) * np.uint16(65535 if n else 255) for n in range(4)],
    "soft": [soft(n) for n in range(4)],
    "soft, of 16 bits": [soft(n, 65535) for n in range(4)],
    "a sharp one and soft ones": [soft(0), soft(1), disc(2) * np.uint8(255)],
    "a stray 1": [np.where(np.eye(64, k=60)[::-1] > 0, 1, disc(n) * 255).astype(np.uint8) if n else soft(0) for n in range(3)],
    "a few 254": [
        np.where(np.eye(64) * (n == 1) * (np.arange(64) == 28) > 0, 254, disc(n) * 255).astype(np.uint8) for n in range(3)
    ],
    "numbered objects": [boxes(range(1, 6 + 3 * n)) for n in range(4)],
    "objects with numbers of the whole set": [boxes(range(1000 + 50 * n, 1005 + 50 * n)) for n in range(5)],
}


@pytest.mark.parametrize("kind", ONE_CLASS)
def test_one_class(kind: str) -> None:
    """Foreground is at least half of the highest level, or all that is numbered."""
    masks = ONE_CLASS[kind]
    reading = meaning(masks)
    assert reading.classes == ("foreground",)
    assert not reading.has_ignored
    half = 0 if "objects" in kind or kind.startswith("1") else 127
    for values in masks:
        assert np.array_equal(
            reading(values, HERE)[0], values > min(half, int(values.max()) - 1) if "16" not in kind else values >= 32768
        )
    assert bool(reading.notes) == (kind not in ("1", "255"))


REFUSED = {
    "nothing": ([np.zeros((64, 64), np.uint8)] * 3, "are empty"),
    "1 among greys": ([disc() * np.uint8(1), soft(1), soft(2)], "1 alone"),
    "1 among 128 and 255": ([disc() * np.uint8(1), mask(1, 64, 64, (128, 255)), mask(2, 64, 64, (128, 255))], "1 alone"),
    "255 among class numbers": ([disc() * np.uint8(255), mask(1, 64, 64, (1, 2)), mask(2, 64, 64, (1, 2))], "ignore_label=255"),
    "negative": ([disc().astype(np.int16) - 1] * 3, "-1"),
    "a picture": ([np.random.default_rng(n).integers(0, 256, (64, 64)).astype(np.uint8) for n in range(3)], "nearest"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_means_nothing(kind: str) -> None:
    masks, words = REFUSED[kind]
    refused(masks, words)


def test_a_scale_of_its_own_can_be_said() -> None:
    masks = [disc() * np.uint8(255), mask(1, 64, 64, (1, 2)), mask(2, 64, 64, (1, 2))]
    assert meaning(masks, ignore_label=0).classes == ("value 1", "value 2", "value 255")
    assert meaning(masks, ignore_label=255).classes == ("value 1", "value 2")
    assert meaning(masks, ignore_label=255).has_ignored


def test_255_beside_most_classes_is_ignored() -> None:
    masks = [mask(n, 64, 64, (1, 2, 255)) for n in range(4)]
    reading = meaning(masks)
    assert reading.classes == ("value 1", "value 2")
    assert np.array_equal(reading(masks[1], HERE)[0] == IGNORED, masks[1] == 255)
    assert meaning(masks, ignore_label=0).classes[-1] == "value 255"


def test_a_value_that_is_ignored_as_its_user_says() -> None:
    """What is left is read as any masks are: classes, one class, soft edges, numbered objects."""
    assert meaning([mask(n, 64, 64, (1, 2, 7)) for n in range(4)], ignore_label=7).classes == ("value 1", "value 2")
    edges = [np.where(np.arange(64) < 5, np.uint8(100), soft(n)) for n in range(4)]
    reading = meaning(edges, ignore_label=100)
    label, _ = reading(edges[1], HERE)
    assert np.array_equal(label == 1, (edges[1] >= 128))
    assert (label[:, :5] == IGNORED).all()
    numbered = [np.where(np.arange(64) > 62, np.uint16(9999), boxes(range(1, 6 + 3 * n))) for n in range(4)]
    label, objects = meaning(numbered, ignore_label=9999, instances=True)(numbered[1], HERE)
    assert objects is not None
    assert objects.max() == 8
    assert (label[:, 63] == IGNORED).all()
    refused([disc(n) * np.uint8(255) for n in range(4)], "no class besides the ignored value 255", ignore_label=255)
    assert any("no pixel" in note for note in meaning([mask(n, 64, 64, (1, 2)) for n in range(4)], ignore_label=9).notes)


MAYBE = {
    "one to three": [boxes(range(1, 2 + n % 3)) for n in range(6)],
    "some numbers lack": [boxes(np.random.default_rng(n).permutation(20)[:9] + 1) for n in range(6)],
}


@pytest.mark.parametrize("kind", MAYBE)
def test_values_that_may_number_objects(kind: str) -> None:
    """They are classes with a note, and objects where the user says so."""
    reading = meaning(MAYBE[kind])
    assert len(reading.classes) > 1
    assert any("dataset.instances=true" in note for note in reading.notes)
    assert meaning(MAYBE[kind], instances=True).classes == ("foreground",)
    assert meaning(MAYBE[kind], instances=True)(MAYBE[kind][2], HERE)[1] is not None
    assert not any("instances" in note for note in meaning(MAYBE[kind], instances=False).notes)


def test_the_same_classes_in_every_mask_are_no_objects() -> None:
    masks = [mask(n, 64, 64, (1, 2, 3, 4)) for n in range(6)]
    assert len(meaning(masks).classes) == 4
    assert not meaning(masks).notes
    assert len(meaning(masks, instances=True).classes) == 4


def coloured(values: npt.NDArray[Any]) -> MaskFacts:
    return mask_facts(values.astype(np.int32), coloured=True)


def test_grey_masks_among_coloured_ones() -> None:
    """Black and white are colours there; class numbers are not."""
    red, white = disc() * 0xFF0000, mask_facts(disc() * np.uint8(255))
    reading = decide([coloured(red), white, coloured(red)], None, None, where="the masks")
    assert reading.classes == ("#ff0000", "#ffffff")
    assert reading.present(white) == {2}
    assert reading.counts(white)[2] == np.count_nonzero(disc())
    assert reading.refusal(white, HERE) is None
    with pytest.raises(InputError, match="coloured, and others hold the numbers 1;"):
        decide([coloured(red), mask_facts(disc() * np.uint8(1))], None, None, where="the masks")


def test_colours_that_tell_objects_apart_are_no_classes() -> None:
    masks = [coloured(boxes([70001 * k + 977 * n for k in range(1, 5)], np.int32)) for n in range(5)]
    with pytest.raises(InputError, match="tell objects apart"):
        decide(masks, None, None, where="the masks")


@pytest.mark.parametrize("declared", [True, False])
def test_a_mask_that_nobody_judged_is_refused(declared: bool) -> None:
    names = {1: "vessel"} if declared else None
    facts = [mask_facts(mask(n, 64, 64, (1, 255))) for n in range(3)]
    nothing = mask_facts(np.full((8, 8), 255, np.uint8))
    reading = decide([*facts, nothing], names, 255 if declared else None, where="the masks")
    assert reading.refusal(facts[0], HERE) is None
    assert "every pixel of case.png is ignored" in str(reading.refusal(nothing, HERE))


def test_a_reading_tells_every_pixel() -> None:
    """Labels, objects as connected parts, and values that mean nothing."""
    values = np.zeros((8, 8), np.uint8)
    values[1:3, 1:3] = values[5:7, 5:7] = 1
    values[1:3, 5:7] = 4
    reading = Reading(classes=("a", "b"), labels={1: 1, 4: 2, 9: IGNORED}, instances=True)
    label, objects = reading(values, HERE)
    assert objects is not None
    assert sorted(np.unique(label)) == [0, 1, 2]
    assert len(np.unique(objects)) == 1 + 3
    with pytest.raises(InputError, match=r"case\.png has the value 3"):
        reading(np.where(values == 4, 3, values), HERE)
    assert np.array_equal(reading.lenient(np.where(values == 4, 3, values)), values == 1)
    assert replace(reading, declared="dataset.json").refusal(mask_facts(values + np.uint8(2)), HERE) is not None


def test_png_of_jpeg() -> None:
    """Masks that went through JPEG and were saved as PNG then."""
    masks = []
    for number in range(4):
        data = BytesIO()
        Image.fromarray(disc(number) * np.uint8(255)).save(data, "JPEG", quality=75)
        masks.append(np.array(Image.open(data)))
    assert len(np.unique(masks)) > 30
    reading = meaning(masks)
    assert reading.classes == ("foreground",)
    assert np.array_equal(reading(masks[2], HERE)[0] == 1, disc(2))
