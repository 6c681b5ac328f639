"""One of two workers: `python one_of_two.py RANK FOLDER` prints, as JSON, what each of its scenes came to in this process."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn

from cdal.devices.workers import LONGEST_WAIT, GradientAverage, from_rank_zero, together
from cdal.errors import InputError


class Net(nn.Module):
    """Channels-last weights; one is used in a first pass only, one never."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.never = nn.Parameter(torch.ones(3))
        self.first = nn.Conv2d(3, 8, 3)
        self.sometimes = nn.Conv2d(8, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, *, everything: bool) -> Tensor:
        x = self.first(x)
        return self.second(self.sometimes(x) if everything else x).square().mean()


def two_passes(network: Net, average: GradientAverage, rank: int) -> None:
    """The gradients of a step of two passes with a worker's own data."""
    data = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    for last, x in zip((False, True), data, strict=True):
        with average.overlapped(last):
            network(x, everything=not last).backward()


def averages(rank: int) -> list[float]:
    """Largest relative error of the averaged gradients, with a bucket for each weight, some, and one."""
    expected: list[Tensor] = []
    for number in range(2):
        two_passes(network := Net(), GradientAverage(nn.Identity()), number)
        expected += [weight.grad for weight in network.parameters() if weight.grad is not None]
    means = [(one + other) / 2 for one, other in zip(expected[: len(expected) // 2], expected[len(expected) // 2 :], strict=True)]
    worst = []
    for size in (1, 2000, 2**20):
        two_passes(network := Net(), GradientAverage(network, size), rank)
        found = [weight.grad for weight in network.parameters() if weight.grad is not None]
        worst.append(max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, means, strict=True)))
    return worst


def file_is_bad(rank: int) -> None:
    """The second worker fails while the first waits for its gradients."""
    network = Net()
    average = GradientAverage(network, 1)
    if rank == 1:
        raise InputError("the file is bad")
    two_passes(network, average, rank)


def disk_is_full(rank: int) -> None:
    """The first worker fails in what the other waits for."""

    def save() -> None:
        raise OSError("the disk is full")

    from_rank_zero(save)


def memory_is_full(rank: int) -> int:
    """The second worker fails while the first computes for both."""
    if rank == 1:
        raise torch.OutOfMemoryError("out of memory")
    return from_rank_zero(lambda: 1)


def dies(rank: int) -> int:
    """The second worker is gone without a word."""
    if rank == 1:
        sys.stdout.flush()
        os._exit(9)
    return from_rank_zero(lambda: 1)


def main(rank: int, folder: Path) -> None:
    """Play all scenes, each in a group of its own."""
    scenes: list[Callable[[int], object]] = [
        averages,
        lambda rank: from_rank_zero(lambda: [rank, "from the first"]),
        file_is_bad,
        disk_is_full,
        memory_is_full,
        dies,
    ]
    for number, scene in enumerate(scenes):
        place = f"file://{folder / str(number)}"
        torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2, timeout=LONGEST_WAIT)
        try:
            with together():
                print(json.dumps(scene(rank)))  # noqa: T201
            torch.distributed.destroy_process_group()
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
