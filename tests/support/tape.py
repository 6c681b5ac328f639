"""CUDA graphs without CUDA: operations of a CPU are recorded with the very tensors they read and write, and repeated on these.

As in a CUDA graph, whatever Python decided while it was recorded stays decided: numbers, branches, addresses.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cdal.devices import graphs


class Tape(TorchDispatchMode):
    """Records while it is entered; `replay` repeats."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._fresh = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self._operations.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        """All operations again; the first time nothing, as a CUDA graph does not compute while it is recorded."""
        if self._fresh:
            self._fresh = False
            return
        with torch.inference_mode(torch.is_inference_mode_enabled()), torch.no_grad():
            for func, args, kwargs, out in self._operations:
                again = func(*args, **kwargs)
                for kept, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                        kept.copy_(new)


class TapedGraphs(graphs.Graphs):
    """`cdal.devices.graphs.Graphs` as on a GPU, with tapes."""

    def __init__(self, device: torch.device, *, wanted: bool = True) -> None:
        super().__init__(device, wanted=False)
        self._wanted = wanted
        self.recorded: list[Any] = []

    def run(self, kind: Any, function: Any, *inputs: Tensor) -> Tensor:
        """As on a GPU, without its streams."""
        if not self._wanted:
            return function(*inputs)  # type: ignore[no-any-return]
        return self._run((kind, tuple((x.shape, x.dtype) for x in inputs)), function, inputs)

    def _record(self, function: Any, inputs: tuple[Tensor, ...]) -> Any:
        kept = [x.clone() for x in inputs]
        with Tape() as tape:
            output = function(*kept)
        self.recorded.append(tape)
        return graphs._Recording(tape, kept, output)  # type: ignore[arg-type]
