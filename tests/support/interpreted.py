"""Kernels in Triton's interpreter, on a CPU: what test_fused.py runs by pytest in a process of its own, with TRITON_INTERPRET=1."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import cdal.devices.kernels  # noqa: F401  registers the operators
from cdal.config import preset
from cdal.devices import fused, norm_kernels
from cdal.trainer import Draws, Trainer

F32, BF16 = torch.float32, torch.bfloat16
TOLERANCE = {F32: 1e-5, BF16: 2e-2}

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of far negative numbers, whose sigmoid is 0


@pytest.fixture(autouse=True)
def _kernels_serve_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the types that they serve; float64 is left to PyTorch."""
    monkeypatch.setattr(fused, "available", lambda x: x.dtype in TOLERANCE)
    torch.manual_seed(0)
    return


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


def image(*shape: int, dtype: torch.dtype) -> Tensor:
    return normal(*shape, dtype=dtype).to(memory_format=torch.channels_last)


def compare(function: Callable[..., Tensor], *inputs: Tensor, twice: bool = True, tolerance: float = 0.0) -> Tensor:
    """Values, and derivatives of the first and the second order, against those in float64."""
    found, expected = [], []
    weight = torch.randn_like(function(*inputs))
    for results, precise in ((found, False), (expected, True)):
        given = [(x.detach().double() if precise else x.detach()).requires_grad_() for x in (*inputs, weight)]
        y = function(*given[:-1])
        results += [y, *torch.autograd.grad(y, given[:-1], given[-1], retain_graph=True)]
        if twice:
            first = torch.autograd.grad(y, given[:-1], given[-1], create_graph=True)
            along = [weight.to(x) for weight, x in zip(inputs, first, strict=True)]
            results += [*first, *torch.autograd.grad(first, given, along, materialize_grads=True)]
    tolerance = tolerance or TOLERANCE[inputs[0].dtype]
    for one, other in zip(found, expected, strict=True):
        scale = max(other.norm().item(), weight.norm().item())  # some derivatives are 0
        assert (one.double() - other).norm() <= tolerance * scale
    assert [x.dtype for x in found[1 : len(inputs) + 1]] == [x.dtype for x in inputs]
    return found[0]


NORMS = [  # shape, groups, whether the style is of every sample, SiLU, add, a branch around, type, programs, samples whole
    ((2, 1, 5, 7), 1, False, True, False, False, F32, 256, True),
    ((2, 3, 1, 1), 1, True, True, True, False, F32, 256, True),
    ((2, 4, 5, 3), 4, True, False, True, False, F32, 256, False),
    ((2, 4, 5, 3), 2, True, True, False, True, F32, 256, True),
    ((1, 30, 7, 9), 6, False, True, True, False, F32, 256, False),
    ((2, 32, 6, 6), 32, False, True, True, False, BF16, 256, False),
    ((2, 64, 9, 8), 1, True, True, False, True, BF16, 256, False),
    ((1, 96, 17, 19), 24, True, True, True, False, F32, 2, False),  # more rows than a tile has
    ((1, 96, 17, 19), 24, False, True, False, True, F32, 256, True),
]


@pytest.mark.parametrize(("shape", "groups", "styled", "silu", "adding", "beside", "dtype", "programs", "whole"), NORMS)
def test_group_norm(
    shape: tuple[int, ...], groups: int, styled: bool, silu: bool, adding: bool, beside: bool, dtype: torch.dtype, programs: int,
    whole: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(norm_kernels, "_PROGRAMS", programs)
    monkeypatch.setattr(norm_kernels, "whole", lambda x: whole)
    wide = normal(*shape[:1] * styled, 2 * shape[1] + 3, dtype=dtype)  # of which the style is a part

    def function(x: Tensor, wide: Tensor, *add: Tensor) -> Tensor:
        pair = wide[..., 3:].chunk(2, dim=-1)
        style = wide[:, 3:] if styled else (pair[0], pair[1])
        if beside:
            y, around = fused.group_norm_beside(1 * x, groups, style, 1e-5, silu=silu)
            assert torch.equal(around, x)
            return y - 0.5 * around
        return fused.group_norm(1 * x, groups, style, 1e-5, silu=silu, add=add[0] if add else None)

    added = [normal(*shape[:2], dtype=dtype)] if adding else []
    y = compare(function, image(*shape, dtype=dtype), wide, *added, twice=shape[1] < 5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == dtype


@pytest.mark.parametrize("whole", [True, False])
def test_group_norm_far_from_zero(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand deviations away, where float32 itself is 3e-5 deviations coarse, and squares would lose all."""
    monkeypatch.setattr(norm_kernels, "whole", lambda x: whole)
    x = 1000 + image(1, 16, 12, 12, dtype=F32)
    style, add = normal(1, 32, dtype=F32), normal(1, 16, dtype=F32)
    compare(
        lambda x, *of: fused.group_norm(1 * x, 4, of[0], 1e-6, silu=True, add=of[1]), x, style, add, twice=False, tolerance=5e-5
    )


def test_any_layout_and_any_mixture_of_types() -> None:
    x, style, add = normal(3, 8, 4, 5, dtype=BF16), normal(16, 3, dtype=F32), normal(8, dtype=F32)

    def function(x: Tensor, style: Tensor, add: Tensor) -> Tensor:
        return fused.group_norm(1 * x, 2, style.T, 1e-6, silu=True, add=add.expand(3, 8))

    assert compare(function, x, style, add, twice=False).is_contiguous(memory_format=torch.channels_last)
    compare(lambda h, x, bias: fused.join(1 * h, x.transpose(2, 3), bias, 0.7), x, normal(3, 8, 5, 4, dtype=F32), add)


def sum_of(y: Tensor, x: Tensor) -> Tensor:
    return y - 0.5 * x


FIRS = [(1, 2, 1, 1.0), (2, 1, 2, 4.0), (1, 1, 2, 1.0)]


@pytest.mark.parametrize(("up", "down", "pad", "gain"), FIRS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 1, 5, 7), F32), ((1, 3, 4, 6), BF16), ((3, 30, 3, 2), F32), ((1, 96, 2, 2), F32), ((2, 64, 1, 1), F32)],
)
def test_fir(up: int, down: int, pad: int, gain: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    size = (shape[2] * up // down + (up == down), shape[3] * up // down + (up == down))
    if 0 not in size:
        y = compare(lambda x: fused.fir(x, up, down, pad, size, gain), image(*shape, dtype=dtype))
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_two_at_once() -> None:
    def function(x: Tensor, other: Tensor) -> Tensor:
        return torch.cat(fused.fir_pair(x, other, 1, 2, 1, (3, 2), 1.0), dim=1)

    compare(function, image(2, 5, 6, 4, dtype=F32), image(2, 5, 6, 4, dtype=F32))


@pytest.mark.parametrize(("shape", "dtype"), [((3, 5, 3, 2), F32), ((8, 16, 4, 4), F32), ((4, 64, 9, 9), BF16)])
def test_deviation(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    y = compare(lambda x: fused.append_deviation(1 * x), image(*shape, dtype=dtype), twice=dtype == F32)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (1, 1, 0), (3, 2, 0)])
def test_convolutions(size: int, stride: int, padding: int, dtype: torch.dtype) -> None:
    """With the second derivatives that R1 takes."""
    x, weight = image(2, 5, 9, 7, dtype=dtype), normal(6, 5, size, size, dtype=dtype)

    def penalty(x: Tensor, weight: Tensor) -> Tensor:
        x = x if x.requires_grad else x.clone().requires_grad_()
        y = fused.convolve(1 * x, weight, (stride, stride), (padding, padding))
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return gradient if dtype == F32 else gradient / 10

    compare(lambda x, weight: fused.convolve(1 * x, weight, (stride, stride), (padding, padding)), x, weight, twice=False)
    compare(penalty, x, weight, twice=False)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 1, 5, 7), F32), ((3, 30, 1, 1), F32), ((2, 32, 6, 6), BF16)])
def test_sums(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    h, x = image(*shape, dtype=dtype), image(*shape, dtype=dtype)
    bias, add = normal(shape[1], dtype=dtype), normal(*shape[:2], dtype=dtype)
    compare(lambda h, x: fused.join(1 * h, x, None, 1.0), h, x)
    compare(lambda h, x, bias: fused.join(1 * h, x, bias, 0.7), h, x, bias)
    compare(lambda h, x, bias: fused.join(1 * h, x, bias.expand(fused.ROWS, -1), 1.0), h, x, bias)
    compare(lambda h, add: fused.add_leaky(1 * h, add, 0.2), h, add)
    compare(lambda h, x, bias: torch.cat([x, fused.join(1 * h, x, bias, 0.7)], dim=1), h, x, bias)
    compare(lambda x: sum_of(*fused.leaky_beside(x, 0.2)), x)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_operators_on_fake_tensors(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        x, add = (torch.empty(2, 8, 6, 4, dtype=dtype, requires_grad=True), torch.empty(2, 8, dtype=dtype, requires_grad=True))
        scale = torch.empty(8, requires_grad=True)
        outputs = {
            (6, 4): fused.join(fused.group_norm(x, 2, (scale, scale), 1e-6, silu=True, add=add), x, scale, 0.5),
            (3, 2): fused.fir(fused.add_leaky(x, add, 0.2), 1, 2, 1, (3, 2), 1.0),
        }
        for size, y in outputs.items():
            assert y.shape == (2, 8, *size)
            assert y.stride() == (8 * size[0] * size[1], 1, 8 * size[1], 8)
            assert y.dtype == dtype
        of_x, of_add, of_scale = torch.autograd.grad([y.sum() for y in outputs.values()], [x, add, scale])
        assert (of_x.dtype, of_add.dtype, of_scale.dtype) == (dtype, dtype, F32)
        assert (of_x.shape, of_add.shape, of_scale.shape) == (x.shape, add.shape, scale.shape)


def test_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that a step has: losses and gradients of both networks, with R1 in them, are those of plain PyTorch."""
    changes = {
        "model.image_size": 8,
        "model.base_width": 8,
        "model.width_multipliers": (1, 2),
        "model.residual_blocks": 1,
        "model.attention_resolutions": (4,),
        "model.encoder_blocks": 1,
        "model.discriminator_width": 4,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "loss.adversarial": 0.1,
        "loss.r1_interval": 1,
    }
    config = preset("hippocampus_fast").replace(changes)
    model, kernels_serve = config.model, fused.available
    masks = (4, model.mask_channels, 8, 8)
    rng = torch.Generator().manual_seed(1)
    image, mask = torch.randn(4, model.image_channels, 8, 8, generator=rng), torch.randn(masks, generator=rng).sign()
    draws = Draws.random(masks, config.diffusion.timesteps, model.latent_size, rng)
    monkeypatch.setattr(fused, "ROWS", 4)  # the interpreter takes long for many
    monkeypatch.setattr(norm_kernels, "_PROGRAMS", 8)

    def step(serve: Callable[[Tensor], bool]) -> dict[str, Tensor]:
        monkeypatch.setattr(fused, "available", serve)
        trainer = Trainer(config, torch.device("cpu"))
        networks = {"generator": trainer.generator, "discriminator": trainer.discriminator}
        weights = {f"{key}.{name}": x for key, network in networks.items() if network for name, x in network.named_parameters()}
        with torch.no_grad():  # some begin as nothing
            for number, weight in enumerate(weights.values()):
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        losses = trainer.step(image, mask, draws)
        return losses | {name: weight.grad for name, weight in weights.items() if weight.grad is not None}

    expected, found = step(lambda x: False), step(kernels_serve)
    assert found.keys() == expected.keys()
    assert "r1_penalty" in found
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-3 * (value.norm() + 1e-3), name
