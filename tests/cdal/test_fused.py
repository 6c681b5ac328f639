"""The fused operations: in plain PyTorch here; their kernels in Triton's interpreter, and compiled for GPUs that are not there."""

import importlib.util
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from patience import run
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cdal.devices import fused

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton: pip install triton")


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def checked(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("silu", [True, False])
def test_group_norm(silu: bool) -> None:
    x, style, add = normal(2, 6, 3, 2), normal(2, 12), normal(2, 6)
    activated = F.silu if silu else lambda y: y

    scale, shift = style.chunk(2, dim=1)
    expected = torch.addcmul(shift[:, :, None, None], scale[:, :, None, None], F.group_norm(x + add[:, :, None, None], 3, eps=1e-6))
    assert torch.equal(fused.group_norm(1 * x, 3, style, 1e-6, silu=silu, add=add), activated(expected))
    checked(lambda x, style, add: fused.group_norm(1 * x, 3, style, 1e-6, silu=silu, add=add), x, style, add)

    scale, shift = style[0].chunk(2)
    y, beside = fused.group_norm_beside(x, 3, (scale, shift), 1e-6, silu=silu)
    assert torch.equal(y, activated(F.group_norm(x, 3, scale, shift, 1e-6)))
    assert beside is x


@pytest.mark.long
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize(("up", "down", "pad", "gain"), [(1, 2, 1, 1.0), (2, 1, 2, 4.0), (1, 1, 2, 1.0)])
def test_fir(up: int, down: int, pad: int, gain: float, size: tuple[int, int]) -> None:
    """As it is defined."""
    x = normal(2, 3, *size)
    height, width = (side * up // down + (up == down) for side in size)

    def matrix(inputs: int, outputs: int) -> Tensor:
        taps = {0: 1 / 8, 1: 3 / 8, 2: 3 / 8, 3: 1 / 8}
        rows = [[taps.get(i * up - o * down + pad, 0.0) for i in range(inputs)] for o in range(outputs)]
        return torch.tensor(rows, dtype=torch.float64)

    expected = gain * matrix(size[0], height) @ x @ matrix(size[1], width).T
    assert torch.allclose(fused.fir(x, up, down, pad, (height, width), gain), expected, atol=1e-12)
    if size == (5, 7):
        checked(lambda x: fused.fir(x, up, down, pad, (height, width), gain), x)


def test_the_filter_that_is_kept_serves_every_mode() -> None:
    fused._kept_filter.cache_clear()
    x = torch.randn(1, 2, 4, 4)
    with FakeTensorMode():
        assert fused.fir(torch.empty(1, 2, 4, 4), 1, 2, 1, (2, 2), 1.0).shape == (1, 2, 2, 2)
    with torch.inference_mode():
        expected = fused.fir(x, 1, 2, 1, (2, 2), 1.0)
    with FakeTensorMode():
        assert fused.fir(torch.empty(1, 2, 4, 4), 1, 1, 2, (5, 5), 1.0).shape == (1, 2, 5, 5)
    y = fused.fir(x.requires_grad_(), 1, 2, 1, (2, 2), 1.0)
    y.sum().backward()
    assert torch.equal(y, expected)
    assert fused._kept_filter.cache_info().currsize == 1


def test_sums() -> None:
    h, x, bias, add = normal(2, 3, 4, 2), normal(2, 3, 4, 2), normal(3), normal(2, 3)
    half = math.sqrt(0.5)
    assert torch.equal(fused.join(1 * h, x, None, half), (h + x) * half)
    assert torch.equal(fused.join(1 * h, x, None, 1.0), h + x)
    checked(lambda h, x, bias: fused.join(1 * h, x, bias, half), h, x, bias)
    assert torch.equal(fused.add_leaky(1 * h, add, 0.2), F.leaky_relu(h + add[:, :, None, None], 0.2))
    checked(lambda h, add: fused.add_leaky(1 * h, add, 0.2), h, add)


def test_a_cpu_has_no_kernels() -> None:
    assert not fused.available(torch.empty(1))


@needs_triton
@pytest.mark.long
def test_kernels_compute_the_same() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        SUPPORT / "interpreted.py",
    ]
    done = run([*command, "--quiet", "--durations=5"], cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.long
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """Of the generations 8.0 and 9.0, without numbers that do not fit the registers."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = run([sys.executable, SUPPORT / "compiled.py"], cwd=ROOT, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warn" not in done.stderr.lower()
    assert done.stdout.count("for sm90") > done.stdout.count("for sm80") > 0
