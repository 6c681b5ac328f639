"""Counts floating-point operations, two per multiply-add, of convolutions and matrix products, on any device and of any pass.

And bytes: what every operation reads and writes, views left out. A fused kernel is one operation, its inner values are not counted.
"""

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
_EMPTY = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
NO_KERNEL = _EMPTY | {"detach", "_unsafe_view", "alias", "lift_fresh"}


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
        self.total, self.bytes = 0, 0
        self.by_type: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and count it where it is of those kinds."""
        kwargs = kwargs or {}
        formula = FORMULAS.get(func._overloadpacket)
        if formula is None:
            with self:  # in inference mode, operations come here before they are taken apart
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if not (func.is_view or name in NO_KERNEL or name.startswith(("prim::", "profiler::"))):
            self.bytes += sum(bytes_of(x) for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        if formula is not None:
            operations = formula(*args, **kwargs, out_val=out)
            self.total += operations
            self.by_type[next(x.dtype for x in tree_leaves(args) if isinstance(x, Tensor))] += operations
        return out


def bytes_of(x: Tensor) -> int:
    """What lies in memory, however often it is repeated."""
    return x.element_size() * math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
