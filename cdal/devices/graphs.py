"""CUDA graphs: work that repeats is launched as a whole, not kernel by kernel."""

import functools
import warnings
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

_KEPT = 16
"""Recordings of one instance: kinds of steps, or shapes of batches. What comes after them is computed as usual."""


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: PyTorch remembers on which stream a weight's gradient was added up, and keeps freed memory for its stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Graphs:
    """Runs functions of tensors; on a GPU, what recurs is recorded at its second time and replayed from then on.

    A recording holds the memory that its function needs, and reads and writes the same weights again and again: they must stay
    where they are. Numbers are those of the function itself, which is what is called elsewhere than on a GPU, and where recording
    fails.
    """

    def __init__(self, device: torch.device, *, wanted: bool = True) -> None:
        self._wanted = wanted and device.type == "cuda"
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}
        if self._wanted:
            self._stream = _stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, kind: Hashable, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What the function says of the inputs; whatever else decides what it does must be told by the kind."""
        if not self._wanted:
            return function(*inputs)
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = self._run((kind, tuple((x.shape, x.dtype) for x in inputs)), function, inputs)
        current.wait_stream(self._stream)
        return output

    def forget(self) -> None:
        """Record anew: what the functions read or write has moved."""
        self._seen.clear()
        self._recordings.clear()

    def _run(self, key: Hashable, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        if key not in self._recordings and key in self._seen and len(self._recordings) < _KEPT:
            try:
                self._recordings[key] = self._record(function, inputs)
            except RuntimeError as error:  # mostly too little memory
                self._wanted = False
                self._recordings.clear()
                warnings.warn(f"not recorded as a CUDA graph, which costs some speed: {str(error).splitlines()[0]}", stacklevel=4)
        self._seen.add(key)
        recording = self._recordings.get(key)
        if recording is None:
            return function(*inputs)
        for kept, new in zip(recording.inputs, inputs, strict=True):
            kept.copy_(new)
        recording.graph.replay()
        return recording.output.clone()

    def _record(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> _Recording:
        kept = [x.clone() for x in inputs]
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, for example to bring the next batch.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = function(*kept)
        return _Recording(graph, kept, output)
