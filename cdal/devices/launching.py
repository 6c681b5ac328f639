"""What launches of Triton's kernels have in common.

Shapes: B batch, C channels.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as always before Triton 3.9, which warns where it is not told

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]


def tiling(x: Tensor, numbers: int, most: int = 512) -> dict[str, int]:
    """A tile of about so many numbers: at most so many rows of all channels, filled up to a power of two."""
    lanes = triton.next_power_of_2(x.shape[1])
    return {"tile": min(most, max(1, numbers // lanes)), "lanes": lanes}


def dense(x: Tensor) -> Tensor:
    """Channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def table(values: Tensor | None) -> tuple[Tensor | None, int]:
    """(C,) or (B, C) with its channels side by side, and how far a sample is from the next."""
    if values is None:
        return None, 0
    values = values if values.stride(-1) == 1 else values.contiguous()
    return values, values.stride(0) if values.dim() == 2 else 0


_LIBRARY = torch.library.Library("cdal", "DEF")  # type: ignore[no-untyped-call]


def register(schema: str, launch: Callable[..., Any], empty: Callable[..., Any]) -> None:
    """An operator, on a CPU too for Triton's interpreter, and what it returns where nothing is computed."""
    _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    name, _, _ = schema.partition("(")
    for device in ("CUDA", "CPU"):
        _LIBRARY.impl(name, launch, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"cdal::{name}", empty, lib=_LIBRARY)
