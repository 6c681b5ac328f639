"""Slices cut across the right axis, at one spacing, and everything brought back to where it was."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cdal.data.dataset import IGNORED, Plane, Preparation
from cdal.data.geometry import (
    Grid,
    choose_plane,
    choose_spacing,
    from_slices,
    plane_of,
    resample_image,
    resample_label,
    resample_maps,
    resampled_size,
    sliced,
    to_slices,
)
from cdal.data.preparation import prepare_volume, prepare_volume_label
from cdal.errors import InputError

PLANES: list[Plane] = ["axial", "coronal", "sagittal"]


def places(*shape: int) -> npt.NDArray[np.int64]:
    """Every voxel's own place (inferior, left, posterior) as channels (3, *shape)."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))


@pytest.mark.parametrize(
    ("plane", "axes"), [("axial", (0, 1, 2)), ("coronal", (2, 0, 1)), ("sagittal", (1, 0, 2))]
)  # fmt: skip
def test_the_axes_of_every_plane(plane: Plane, axes: tuple[int, ...]) -> None:
    """Rows of coronal and sagittal slices run down, columns to the left or to the back."""
    slices = to_slices(places(4, 5, 6), plane)
    assert slices[:, 1, 2, 3].tolist() == [(1, 2, 3)[axes.index(axis)] for axis in range(3)]
    grid = Grid((4, 5, 6), (0.4, 0.5, 0.6), "why")
    assert sliced(grid, plane) == (slices.shape[1:], tuple((0.4, 0.5, 0.6)[axis] for axis in axes), "why")


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6), (4, 1, 6), (4, 5, 1), (1, 5, 1), (1, 1, 1)])
def test_slices_are_put_back(plane: Plane, shape: tuple[int, int, int]) -> None:
    array = places(*shape)
    slices = to_slices(array, plane)
    assert slices.base is not None
    assert np.array_equal(from_slices(slices, plane, array.shape), array)
    assert np.array_equal(from_slices(to_slices(array[0], plane), plane, shape), array[0])
    assert slices.shape[1:] == sliced(Grid(shape, (1, 1, 1)), plane).shape
    if 1 in shape:  # never slices of one row
        assert slices.shape[1] == 1


@pytest.mark.parametrize(
    ("shape", "spacing", "plane"),
    [
        ((36, 50, 35), (1, 1, 1), "axial"),  # a hippocampus
        ((24, 320, 320), (3.6, 0.6, 0.6), "axial"),  # a prostate
        ((320, 24, 320), (0.6, 3.6, 0.6), "sagittal"),  # a knee or a spine
        ((320, 320, 24), (0.6, 0.6, 3.6), "coronal"),
        ((100, 100, 100), (1, 1.4, 1), "axial"),  # not much coarser
        ((100, 100, 100), (0.5, 1.2, 0.7), "sagittal"),
        ((320, 16, 320), (1, 1, 1), "sagittal"),  # a header that tells no spacing
        ((64, 20, 64), (1, 1, 1), "axial"),
        ((1, 96, 128), (1, 1, 1), "axial"),
        ((96, 128, 1), (1, 1, 1), "coronal"),
        ((96, 1, 128), (5, 1, 1), "sagittal"),
    ],
)
def test_slices_are_cut_across_the_coarsest_axis(shape: tuple, spacing: tuple, plane: Plane) -> None:
    grid = Grid(shape, spacing)
    assert choose_plane([grid] * 3) == plane
    assert choose_plane([grid, grid, Grid((40, 40, 40), (1, 1, 1))]) == (plane if 1 not in shape else "axial")


def test_a_flat_volume_is_cut_across_its_flat_axis_among_others() -> None:
    deep = Grid((320, 24, 320), (0.6, 3.6, 0.6))
    assert choose_plane([deep, Grid((320, 320, 1), (0.6, 0.6, 8)), Grid((320, 320, 1), (0.6, 0.6, 8))]) == "sagittal"
    assert plane_of((320, 320, 1), "sagittal") == "coronal"
    assert plane_of((320, 1, 1), "sagittal") == "sagittal"


def test_the_spacing_is_the_median_of_those_that_differ() -> None:
    def grids(*sides: float) -> list[Grid]:
        return [Grid((30, 40, 50), (3, side, 2 * side)) for side in sides]

    assert choose_spacing(grids(0.4, 0.8, 1.2), "axial") == (0.8, 1.6)
    assert choose_spacing(grids(0.4, 0.8, 0.9), "sagittal") == (3.0, 1.6)
    scanned = [Grid((30, 40, 50), (5, 1, 1)), Grid((40, 8, 50), (1, 5, 1))]  # axial, sagittal
    assert choose_spacing(scanned, "axial") == (1.0, 1.0)  # not 3 mm, which neither has
    assert choose_spacing(grids(0.8, 0.806, 0.795), "axial") is None
    assert choose_spacing([Grid((30, 40, 50), (depth, 1, 1)) for depth in (1, 3, 5)], "axial") is None  # slices stay
    # A flat volume has its own plane.
    assert choose_spacing([*grids(1, 1), Grid((30, 40, 1), (1, 2, 9))], "axial") is None


def test_sizes_at_a_spacing() -> None:
    assert resampled_size((100, 200), (0.5, 0.5), (1.0, 0.25)) == (50, 400)
    assert resampled_size((100, 200), (0.5, 0.5), None) == (100, 200)
    assert resampled_size((1000, 200), (0.9995, 1.005), (1.0, 1.0)) == (1000, 200)
    assert resampled_size((1, 2), (0.2, 0.2), (1.0, 1.0)) == (1, 1)
    for spacing in ((0.001, 0.001), (1000, 1)):  # metres or micrometres for millimetres
        with pytest.raises(InputError, match=r"has pixels of .* mm, more than 10 times off the 1 x 1 mm .*; correct its header"):
            resampled_size((512, 512), spacing, (1.0, 1.0))


def blobs(depth: int, height: int, width: int) -> torch.Tensor:
    """Labels 0, 1 and 3: an ellipse in another in every slice."""
    d, h, w = np.meshgrid(np.arange(depth), *((np.arange(side) + 0.5) / side for side in (height, width)), indexing="ij")
    far = np.hypot(h - 0.5 - 0.01 * d, w - 0.45)
    return torch.from_numpy(np.where(far < 0.15, 3, np.where(far < 0.33, 1, 0)).astype(np.uint8))


def dice(first: torch.Tensor, second: torch.Tensor, value: int) -> float:
    one, other = first == value, second == value
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("size", [(64, 40), (40, 90), (130, 150)])
def test_labels_are_recovered_after_a_round_trip(size: tuple[int, int]) -> None:
    label = blobs(3, 80, 70)
    there = resample_label(label, size)
    assert there.shape == (3, *size)
    assert there.dtype == torch.uint8
    assert there.unique().tolist() == [0, 1, 3]  # not 2, which lies between
    back = resample_label(there, (80, 70))
    assert min(dice(back, label, value) for value in (0, 1, 3)) > 0.96
    assert min(dice(there, blobs(3, *size), value) for value in (0, 1, 3)) > 0.97
    assert resample_label(label, (80, 70)) is label


def test_ignored_pixels_stay_ignored_and_decide_nothing_else() -> None:
    label = blobs(1, 80, 80)
    marked = label.clone()
    marked[:, :20] = IGNORED
    small = resample_label(marked, (40, 40))
    assert (small[:, :10] == IGNORED).all()
    assert torch.equal(small[:, 11:], resample_label(label, (40, 40))[:, 11:])
    assert not (small[:, 10:] == IGNORED).any()
    # Where 255 is a class like others, its border is as smooth as theirs.
    eye = torch.eye(9, dtype=torch.uint8)[None] * 255
    assert torch.equal(resample_label(eye, (18, 18), ignored=None), 255 * resample_label(eye // 255, (18, 18)))


def test_images_are_averaged_where_reduced_and_smooth_where_enlarged() -> None:
    noise = torch.rand(2, 3, 64, 60, generator=torch.Generator().manual_seed(0))
    small = resample_image(noise, (16, 15))
    assert small.std() < 0.4 * noise.std()  # picked pixels would keep it
    assert small.mean() == pytest.approx(noise.mean().item(), abs=0.01)
    large = resample_image(noise, (128, 60))
    assert noise.min() <= large.min() < large.max() <= noise.max()
    ramp = torch.linspace(0, 1, 40).expand(1, 1, 30, 40)
    middle = resample_image(ramp, (30, 80))[..., 10:-10]
    torch.testing.assert_close(middle.diff(), torch.full_like(middle.diff(), 1 / 78), atol=1e-4, rtol=0)
    assert resample_image(noise, (64, 60)) is noise


def test_probabilities_still_sum_to_one() -> None:
    maps = torch.rand(3, 2, 31, 17, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    for size in ((62, 30), (9, 17)):
        found = resample_maps(maps, size)
        torch.testing.assert_close(found.sum(dim=0), torch.ones(2, *size))


@pytest.mark.parametrize("plane", PLANES)
def test_image_and_label_are_prepared_alike(plane: Plane) -> None:
    """A bright ball of 20 mm stays where its label is, and round, whatever the spacing of its file was."""
    shape, spacing = (30, 44, 64), (2.0, 1.2, 0.8)
    far = np.linalg.norm((places(*shape).T * spacing).T - np.reshape((28, 24, 26), (3, 1, 1, 1)), axis=0)
    values = (far < 20).astype(np.uint8)
    preparation = Preparation(plane=plane, spacing=(1.0, 1.0))
    image = prepare_volume(values[None] * 100.0, preparation, spacing)
    label, native = prepare_volume_label(values, preparation, spacing)
    assert native is not None
    assert torch.equal(native, torch.from_numpy(to_slices(values, plane).copy()))
    depth = to_slices(values, plane).shape[0]
    assert image.shape[1:] == label.shape
    assert len(label) == depth
    assert dice((image[0] > 0).byte(), label, 1) > 0.99
    middle = label[label.flatten(1).sum(dim=1).argmax()]
    assert middle.any(dim=0).sum() == pytest.approx(40, abs=2)
    assert middle.any(dim=1).sum() == pytest.approx(40, abs=2)
    back = from_slices(resample_label(label, tuple(native.shape[1:])).numpy(), plane, shape)
    assert dice(torch.from_numpy(back.copy()), torch.from_numpy(values), 1) > 0.97


def test_a_spacing_out_of_all_proportion_is_refused() -> None:
    with pytest.raises(InputError, match="correct its header"):
        prepare_volume(np.zeros((1, 2, 8, 8)), Preparation(spacing=(1.0, 1.0)), (1, 0.01, 0.01))
    label, native = prepare_volume_label(np.zeros((2, 8, 8), np.uint8), Preparation(spacing=(1.0, 1.0)), (5, 1, 1))
    assert (label.shape, native) == ((2, 8, 8), None)
