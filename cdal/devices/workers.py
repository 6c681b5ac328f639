"""What the workers of one training do together: average gradients, wait for the first of them, and end when one fails.

    average = GradientAverage(network)
    with together():
        with average.overlapped():
            loss.backward()
        score = from_rank_zero(validate)

Workers are the processes of a torch.distributed group; without one, or alone in it, a process computes as if nothing of this were.
"""

import functools
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _abort_process_group, _get_default_store

from cdal.errors import DivergedError, InputError

LONGEST_WAIT = timedelta(minutes=30)
"""For another worker, in a collective: its first batches may come from a slow disk, its checkpoint go to a slow store.

What takes as long as the data want it to, `from_rank_zero` waits for in another way.
"""
_POLL_SECONDS = 0.05
_FAILED = "cdal/failed"
_TOLD = {error.__name__: error for error in (InputError, DivergedError, torch.OutOfMemoryError, MemoryError)}

T = TypeVar("T")


class WorkerError(RuntimeError):
    """Another worker failed. The message says which, and what its error was."""


def rank_and_world() -> tuple[int, int]:
    """The number of this worker, counted from 0, and how many there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


class GradientAverage:
    """The mean of a network's gradients over all workers, under way while the backward pass goes on.

    Weights are put into buckets, the last registered first, which is about the order in which their gradients come. A full bucket
    is sent as one flat tensor, whose pieces are the gradients from then on. All workers need gradients of the same weights.

    Args:
        network: on its device, with weights of one data type that are dense in memory, in whatever order of their dimensions.
        bucket_bytes: a bucket's size, unless a single weight is larger.
    """

    def __init__(self, network: nn.Module, bucket_bytes: int = 4 * 2**20) -> None:
        _, self._world = rank_and_world()
        self._buckets: list[list[nn.Parameter]] = []
        self._missing: list[int] = []  # gradients of every bucket that are still to come; empty outside of `overlapped`
        self._sent: list[tuple[Tensor, torch.distributed.Work]] = []
        self._next = 0
        if self._world == 1:
            return
        self._mean_on_the_way = torch.distributed.get_backend() == "nccl"  # gloo only adds
        self._buckets = _buckets([weight for weight in network.parameters() if weight.requires_grad], bucket_bytes)
        for number, bucket in enumerate(self._buckets):
            for weight in bucket:
                weight.register_post_accumulate_grad_hook(functools.partial(self._arrived, number))  # type: ignore[no-untyped-call]

    @contextmanager
    def overlapped(self, last: bool = True) -> Iterator[None]:
        """Around a backward pass. In the last one of a step, gradients are averaged, those of earlier passes in them included.

        Weights without a gradient are left alone.
        """
        if not last or not self._buckets:
            yield
            return
        self._missing, self._next = [len(bucket) for bucket in self._buckets], 0
        try:
            yield
            while self._next < len(self._buckets):
                self._send()
            for flat, work in self._sent:
                work.wait()
                if not self._mean_on_the_way:
                    flat /= self._world
        finally:
            self._missing, self._sent = [], []

    def _arrived(self, bucket: int, _: Tensor) -> None:
        if self._missing:
            self._missing[bucket] -= 1
            while self._next < len(self._buckets) and self._missing[self._next] == 0:  # in the same order everywhere
                self._send()

    def _send(self) -> None:
        weights = [weight for weight in self._buckets[self._next] if weight.grad is not None]
        self._next += 1
        if not weights:
            return
        flat = torch.cat([_in_memory_order(weight.grad) for weight in weights if weight.grad is not None])
        start = 0
        for weight in weights:
            weight.grad = flat.as_strided(weight.shape, weight.stride(), start)
            start += weight.numel()
        operation = torch.distributed.ReduceOp.AVG if self._mean_on_the_way else torch.distributed.ReduceOp.SUM
        work = torch.distributed.all_reduce(flat, operation, async_op=True)
        assert work is not None
        self._sent.append((flat, work))


def _buckets(weights: list[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for weight in reversed(weights):
        if not buckets or weight.nbytes > room:
            buckets.append([])
            room = size
        buckets[-1].append(weight)
        room -= weight.nbytes
    return buckets


def _in_memory_order(tensor: Tensor) -> Tensor:
    """All elements of a tensor that is dense in memory, (N,)."""
    return tensor.as_strided((tensor.numel(),), (1,))


def from_rank_zero(compute: Callable[[], T]) -> T:
    """What the first worker computes, on every worker. The others wait for it as long as it takes.

    Raises:
        WorkerError: on the other workers, where a worker has failed meanwhile; `together` says it better.
    """
    rank, world = rank_and_world()
    if world == 1:
        return compute()
    store = _get_default_store()
    done = f"cdal/from rank zero/{store.add(f'cdal/calls of rank {rank}', 1)}"
    box = [compute() if rank == 0 else None]
    if rank == 0:
        store.set(done, "")
    while not store.check([done]):  # in a collective they would run out of time
        if store.check([_FAILED]):
            raise WorkerError("another worker failed")
        time.sleep(_POLL_SECONDS)
    torch.distributed.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]


@contextmanager
def together() -> Iterator[None]:
    """All workers begin together, and end when one of them fails, with the first one's error, instead of waiting for it.

    To one that still joins the group, a failure would be no more than a closed connection; so nobody begins before all have joined.
    After a failure they cannot go on: their group is gone. Under NCCL, a worker that waits on the GPU itself is ended by what
    started it, torchrun or Ray Train, as soon as the one that failed has ended.

    Raises:
        InputError, DivergedError, torch.OutOfMemoryError, MemoryError: on all workers, where one had it first.
        WorkerError: on the other workers, where one had any other error first.
    """
    rank, world = rank_and_world()
    if world > 1:
        store = _get_default_store()
        store.set(f"cdal/there/{rank}", "")
        store.wait([f"cdal/there/{number}" for number in range(world)], LONGEST_WAIT)
    try:
        yield
    except Exception as error:
        if world == 1:
            raise
        first = _first(error)
        traceback.clear_frames(error.__traceback__)  # what is under way in them keeps connections open
        _abort_process_group()
        if first is error:
            raise
        raise first from None


def _first(error: Exception) -> Exception:
    """Tell the others of an error; returns what they were told first."""
    rank, _ = rank_and_world()
    try:
        told = _get_default_store().compare_set(_FAILED, "", json.dumps([rank, type(error).__name__, str(error)]))
    except RuntimeError:  # the process that keeps what is told has ended
        return error
    teller, name, words = json.loads(told)
    if teller == rank:
        return error
    return _TOLD[name](words) if name in _TOLD else WorkerError(f"worker {teller} failed: {name}: {words}")
