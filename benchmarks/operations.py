"""Counts floating-point operations, two per multiply-add, of convolutions and matrix products, on any device and of any pass."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)


FORMULAS = flop_registry | {  # PyTorch counts fused attention on GPUs only
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Operations(TorchDispatchMode):
    """`with Operations() as count: ...; count.total`. (PyTorch's own counter fails on gradients of gradients.)"""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and count it where it is of those kinds."""
        kwargs = kwargs or {}
        if func._overloadpacket not in FORMULAS:
            with self:  # in inference mode, operations come here before they are taken apart
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        self.total += FORMULAS[func._overloadpacket](*args, **kwargs, out_val=out)
        return out
