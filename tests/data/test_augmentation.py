"""Random changes of samples: their geometry, their colours, and what stays."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import ndimage

from cdal.data import Augmentation
from cdal.data.augmentation import Changes, augment, draw_changes

FULL = Augmentation(flips=True, rotation=22, scale=(0.75, 1.25), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
NAMES = Changes._fields


def changes(count: int = 1, **values: object) -> Changes:
    """Neutral but for some fields, each one number for all or one per sample."""
    neutral = {"flip_across": 1, "flip_down": 1, "angle": 0, "scale": 1, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0}
    return Changes(**{name: np.broadcast_to(np.float32(value), count) for name, value in (neutral | values).items()})


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).byte()


def no_label(image: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(image), *image.shape[2:], dtype=torch.uint8)


def recoloured(image: torch.Tensor, **values: object) -> torch.Tensor:
    return augment(image, no_label(image), changes(len(image), **values))[0]


def test_what_changes_nothing_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_changes(Augmentation(), 4, rng)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
    label = noise(4, 16, 16)
    for image in (noise(4, 3, 16, 16), torch.rand(4, 1, 16, 16) * 2 - 1, torch.full((4, 1, 16, 16), -0.0)):
        same, same_label = augment(image, label, drawn)
        assert same.dtype == torch.float32
        assert torch.equal(same, image.float())
        assert same_label is label
    floats = torch.rand(4, 1, 16, 16)
    assert augment(floats, label, drawn)[0] is floats


def test_draws_lie_in_their_ranges_and_fill_them() -> None:
    drawn = draw_changes(FULL, 4000, np.random.default_rng(0))
    limits = {
        "angle": (-math.radians(22), math.radians(22)),
        "scale": (0.75, 1.25),
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.6, 1.4),
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in limits.items():
        values = getattr(drawn, name)
        assert values.dtype == np.float32
        assert low - 1e-6 <= values.min() < low + (high - low) / 100
        assert high - (high - low) / 100 < values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=(high - low) / 50)
    for flips in (drawn.flip_across, drawn.flip_down):
        assert set(flips) == {-1, 1}
        assert abs(flips.mean()) < 0.06
    assert abs(np.corrcoef(np.stack(drawn)) - np.eye(8)).max() < 0.08  # one says nothing of another


def test_draws_depend_on_the_generator_alone() -> None:
    first, again, other = (draw_changes(FULL, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for name in NAMES:
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name)) or name.startswith("flip")


@pytest.mark.parametrize(("across", "down"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize(("degrees", "scale"), [(0.0, 1.0), (22.0, 1.0), (-13.0, 0.75), (5.0, 1.25), (180.0, 0.4)])
def test_geometry_against_scipy(across: int, down: int, degrees: float, scale: float) -> None:
    size, angle = 40, math.radians(degrees)
    image, label = noise(1, 2, size, size), noise(1, size, size, seed=1)
    ours, our_label = augment(image, label, changes(flip_across=across, flip_down=down, angle=angle, scale=scale))
    # In (row, column): a place p of the sample goes to flip(scale * turn(p)), about the centre.
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    backwards = np.linalg.inv(np.diag([down, across]) @ (scale * turn))
    centre = np.full(2, (size - 1) / 2)
    for plane, mine, order in [*zip(image[0], ours[0], (1, 1), strict=True), (label[0], our_label[0], 0)]:
        theirs = ndimage.affine_transform(
            plane.numpy().astype(np.float64), backwards, centre - backwards @ centre, order=order, mode="reflect"
        )
        different = np.abs(mine.numpy() - theirs) > 0.02
        assert different.mean() <= (0 if order else 0.005)  # a place between two pixels may be rounded to either
    assert our_label.dtype == torch.uint8
    assert ours.shape == image.shape


def test_every_sample_has_changes_of_its_own() -> None:
    image, label = noise(6, 3, 24, 24), noise(6, 24, 24)
    drawn = draw_changes(FULL, 6, np.random.default_rng(3))
    together = augment(image, label, drawn)
    for number in range(6):
        one = slice(number, number + 1)
        alone = augment(image[one], label[one], Changes(*(values[one] for values in drawn)))
        torch.testing.assert_close(together[0][one], alone[0], atol=1e-3, rtol=0)
        assert torch.equal(together[1][one], alone[1])


def test_quarter_turns_and_flips_move_whole_pixels() -> None:
    image, label = noise(1, 3, 17, 17), noise(1, 17, 17)
    for values, expected in (
        ({"flip_across": -1}, lambda x: x.flip(-1)),
        ({"flip_down": -1}, lambda x: x.flip(-2)),
        ({"angle": math.pi / 2}, lambda x: x.rot90(-1, (-2, -1))),  # clockwise, as seen
        ({"angle": math.pi / 2, "flip_down": -1}, lambda x: x.rot90(-1, (-2, -1)).flip(-2)),
    ):
        ours, our_label = augment(image, label, changes(**values))
        torch.testing.assert_close(ours, expected(image).float(), atol=0.01, rtol=0)
        assert torch.equal(our_label, expected(label))


def test_image_and_label_stay_together() -> None:
    """A bright disc and its mask: after any change their centres lie within a fraction of a pixel."""
    size, count = 96, 32
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((x - 55.3) ** 2 + (y - 40.8) ** 2 < 14.2**2).byte()
    image, label = (disc * 200)[None, None].repeat(count, 1, 1, 1), disc[None].repeat(count, 1, 1)
    geometry = Augmentation(flips=True, rotation=22, scale=(0.75, 1.25))
    ours, our_label = augment(image, label, draw_changes(geometry, count, np.random.default_rng(0)))
    for axis in (x, y):
        seen = (ours[:, 0] * axis).sum(dim=(1, 2)) / ours[:, 0].sum(dim=(1, 2))
        marked = (our_label * axis).sum(dim=(1, 2)) / our_label.sum(dim=(1, 2))
        torch.testing.assert_close(seen, marked, atol=0.25, rtol=0)
    assert not torch.allclose(ours, image.float())


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.3])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_colours_against_pillow(name: str, enhance: type, factor: float) -> None:
    pixels = noise(1, 3, 32, 32)
    theirs = np.asarray(enhance(Image.fromarray(pixels[0].permute(1, 2, 0).numpy())).enhance(factor))
    ours = recoloured(pixels, **{name: factor})[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1.6)  # Pillow computes in whole numbers


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.1, 0.4])
def test_hue_against_colorsys(turn: float) -> None:
    pixels = noise(1, 3, 12, 12)
    pixels[0, :, 0, :4] = torch.tensor([[0, 255, 128, 9], [0, 255, 128, 9], [0, 255, 128, 255]])  # greys, and one with two equal
    ours = recoloured(pixels, hue=turn)[0].flatten(1).T / 255
    for before, after in zip(pixels[0].flatten(1).T.tolist(), ours.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in before))
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=1e-5)


def test_colours_change_in_the_stated_order() -> None:
    image = noise(3, 3, 16, 16)
    values = {"brightness": 1.4, "contrast": 0.6, "saturation": 1.4, "hue": 0.1}
    step = image.float() / 127.5 - 1  # as floats from -1 to 1, so that a step can follow a step without rounding
    for name, value in values.items():
        step = recoloured(step, **{name: value})
    torch.testing.assert_close(recoloured(image, **values), (step + 1) * 127.5, atol=1e-3, rtol=0)


def test_bytes_and_floats_are_the_same_picture() -> None:
    image, label = noise(4, 3, 20, 20), noise(4, 20, 20)
    drawn = draw_changes(FULL, 4, np.random.default_rng(0))
    as_bytes, _ = augment(image, label, drawn)
    as_floats, _ = augment(image.float() / 127.5 - 1, label, drawn)
    torch.testing.assert_close((as_floats + 1) * 127.5, as_bytes, atol=2e-3, rtol=0)
    assert as_bytes.min() >= 0
    assert as_bytes.max() <= 255


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_only_three_channels_have_a_colour(channels: int) -> None:
    image = noise(2, channels, 16, 16)
    torch.testing.assert_close(recoloured(image, saturation=0.3, hue=0.2), image.float(), atol=1e-3, rtol=0)
    mean = image.float().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(recoloured(image, contrast=0.5), mean + 0.5 * (image - mean), atol=1e-3, rtol=0)
