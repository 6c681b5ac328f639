"""Resampling whose derivatives of any order are its own transposes."""

import pytest
import torch

from cdal.layers import Fir


@pytest.mark.long
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_derivatives_of_resampling(size: tuple[int, int], direction: str) -> None:
    fir = Fir().double()
    resample = getattr(fir, direction)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(resample, x)
    assert torch.autograd.gradgradcheck(resample, x)


def test_resampling_keeps_constants_and_the_layout() -> None:
    x = torch.ones(1, 2, 8, 8).to(memory_format=torch.channels_last)
    for resampled, side in ((Fir().down(x), 4), (Fir().up(x), 16)):
        assert resampled.shape == (1, 2, side, side)
        assert resampled.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(resampled[:, :, 1:-1, 1:-1], torch.ones(()))
