"""Windows: the same Hounsfield units become the same values in every case."""

import numpy as np
import pytest
import torch

from cdal.data.dataset import Preparation
from cdal.data.preparation import choose_window, foreground_sample, is_ct, prepare_image, prepare_volume


def test_a_window_is_the_same_in_every_case_and_per_channel() -> None:
    preparation = Preparation(scaling="range", windows=((-100.0, 300.0), None))
    for metal in (400, 30_000):  # in one case only
        voxels = np.array([[-1000, -100, 100, 300, metal], [0, 1, 2, 3, 4]], np.int16).reshape(2, 1, 1, 5)
        image = prepare_volume(voxels, preparation)
        assert image[0].flatten().tolist() == [-1, -1, 0, 1, 1]
        assert image[1].flatten().tolist() == [-1, -0.5, 0, 0.5, 1]
    flat = prepare_image(
        np.array([[0, 500], [1000, 65535]], np.uint16), Preparation(scaling="percentiles", windows=((0, 1000),)), 1
    )
    assert flat.flatten().tolist() == [-1, 0, 1, 1]
    assert flat.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "low", "high", "dtype", "expected"),
    [
        ("CT", 0, 255, "uint8", True),  # declared
        ("ct", -3, 3, "float32", True),
        ("Arterial-CT", 0, 1, "float32", True),
        ("MRI", -1024, 3071, "int16", False),  # declared as something else
        ("T2", -1000, 1000, "float32", False),
        ("PET/CT", -1024, 3071, "int16", True),  # may be either: its values tell
        ("PET/CT", 0, 40, "float32", False),
        (None, -1024, 3071, "int16", True),
        (None, -3024, 1800, "int16", True),
        (None, -1000, 900, "float32", True),  # a resampled scan
        (None, -1023.7, 3000, "float32", False),
        (None, -4096, 4094, "int16", False),  # the phase of an MRI
        (None, 0, 4095, "uint16", False),
        (None, -1024, 0, "int16", False),
        ("distinct", 0, 1, "float32", False),  # not the letters alone
        ("channel_0", -1024, 3071, "int16", True),
    ],
)
def test_what_is_ct(name: str | None, low: float, high: float, dtype: str, expected: bool) -> None:
    assert is_ct(name, low, high, dtype) is expected


def test_the_window_is_that_of_the_foreground_of_all_cases() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for mean in (40, 60):
        channel, label = rng.integers(-1000, 1000, (4, 50, 50)), np.zeros((4, 50, 50), np.uint8)
        label[:, 10:40, 10:40] = 2
        channel[label > 0] = rng.normal(mean, 5, np.count_nonzero(label))
        sample = foreground_sample(channel, label)
        assert sample.shape == (1000,)
        assert sample.mean() == pytest.approx(mean, abs=2)
        samples.append(sample)
    low, high = choose_window(samples)
    assert 20 < low < 40 < 60 < high < 80
    few = foreground_sample(np.arange(10), np.arange(10) > 6)
    assert few.tolist() == [7, 8, 9]
    assert foreground_sample(np.arange(10), np.zeros(10)).tolist() == []
    assert foreground_sample(np.arange(100), np.ones(100), most=3).tolist() == [0, 50, 99]
    assert choose_window([]) is None
    assert choose_window([np.full(9, 7, np.float32)]) is None
