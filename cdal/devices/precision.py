"""How exactly a GPU computes, and networks with bfloat16 weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from cdal.sections import TrainingConfig

N = TypeVar("N", bound=nn.Module)


@contextmanager
def numerics(settings: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Compute as `training.precision` and `training.deterministic` say; nobody else's settings decide, nor are they changed.

    In bf16 what stays in float32 is multiplied in TF32, which is still finer than bfloat16. On a CPU nothing happens.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, before = torch.backends.cudnn, _read()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.benchmark, cudnn.deterministic
    try:
        _write("ieee" if settings.precision == "fp32" else "tf32")
        cudnn.benchmark, cudnn.deterministic = not settings.deterministic, settings.deterministic
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products are not repeatable without
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        for place, value in zip(_places(), before, strict=True):
            setattr(*place, value)


def _places() -> list[tuple[Any, str]]:
    """Where PyTorch keeps how convolutions and matrix products of float32 are computed; 2.9 has new names."""
    convolutions, products = getattr(torch.backends.cudnn, "conv", None), torch.backends.cuda.matmul
    if hasattr(convolutions, "fp32_precision"):
        return [(convolutions, "fp32_precision"), (products, "fp32_precision")]
    return [(torch.backends.cudnn, "allow_tf32"), (products, "allow_tf32")]


def _read() -> list[Any]:
    return [getattr(*place) for place in _places()]


def _write(precision: str) -> None:
    for place, name in _places():
        setattr(place, name, precision if name == "fp32_precision" else precision == "tf32")


class Rounded(Generic[N]):
    """A copy of a network that computes in bfloat16, with the weights that the original has at the time.

    One operation rounds all weights, where autocast would take one for each, and gradients reach the original in float32.
    """

    def __init__(self, network: N) -> None:
        self._original, self._copy = network, copy.deepcopy(network)
        self._places: list[tuple[dict[str, Any], str]] = []
        for module in self._copy.modules():
            for name in list(module._parameters):
                if module._parameters.pop(name) is None:
                    setattr(module, name, None)
                else:
                    self._places.append((module.__dict__, name))

    def now(self) -> N:
        """The copy with the original's weights of this moment; gradients flow where they are on."""
        weights = _Round.apply(*self._original.parameters())  # type: ignore[no-untyped-call]
        for (attributes, name), weight in zip(self._places, weights, strict=True):
            attributes[name] = weight
        return self._copy


class _Round(torch.autograd.Function):
    """float32 tensors to bfloat16, all at once, in their own layouts; gradients the other way."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_converted(list(weights), torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        full = iter(_converted([gradient for gradient in gradients if gradient is not None], torch.float32))
        return tuple(None if gradient is None else next(full) for gradient in gradients)


def _converted(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    out = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(out, tensors)
    return out
