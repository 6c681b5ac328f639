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
    cudnn, before = torch.backends.cudnn, [getattr(*place) for place in _convolutions()]
    flags, products = (cudnn.benchmark, cudnn.deterministic), _products()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    exact = settings.precision == "fp32"
    try:
        for place, name in _convolutions():
            setattr(place, name, not exact if name == "allow_tf32" else "ieee" if exact else "tf32")
        torch.set_float32_matmul_precision("highest" if exact else "high")
        cudnn.benchmark, cudnn.deterministic = not settings.deterministic, settings.deterministic
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products are not repeatable without
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        if settings.deterministic:
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        for (place, name), value in zip(_convolutions(), before, strict=True):
            setattr(place, name, value)
        if products in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(products)
        else:
            torch.backends.cuda.matmul.fp32_precision = products


def _convolutions() -> list[tuple[Any, str]]:
    """Where PyTorch keeps how float32 is convolved. From 2.9 on it has new names, and wants cuDNN's two parts to agree."""
    cudnn: Any = torch.backends.cudnn
    if hasattr(getattr(cudnn, "conv", None), "fp32_precision"):
        return [(cudnn.conv, "fp32_precision"), (cudnn.rnn, "fp32_precision")]
    return [(cudnn, "allow_tf32")]


def _products() -> str:
    """How float32 is multiplied: in PyTorch's old words, or in the new ones where somebody used those."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return str(torch.backends.cuda.matmul.fp32_precision)


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
