"""What workers do together: averaged gradients, which are on their way early, and errors that reach all of them."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import one_of_two
import pytest
import torch
import torch.distributed
from one_of_two import Net, two_passes
from own_folders import two_folders
from patience import communicate, end, run, wait_for
from torch import Tensor, nn

from cdal.devices import workers
from cdal.devices.workers import GradientAverage, from_rank_zero, rank_and_world, together
from cdal.errors import InputError


class Done:
    """A collective that has ended."""

    def wait(self) -> bool:
        return True


class Twins:
    """Another worker that computes the same, at the same time; `events` says when something was sent, `sizes` how much."""

    def __init__(self, patch: pytest.MonkeyPatch, backend: str) -> None:
        self.events: list[str] = []
        self.sizes: list[int] = []
        self.backend = backend
        patch.setattr(workers, "rank_and_world", lambda: (0, 2))
        patch.setattr(torch.distributed, "get_backend", lambda: backend)
        patch.setattr(torch.distributed, "all_reduce", self.all_reduce)

    def all_reduce(self, flat: Tensor, operation: Any, async_op: bool) -> Done:
        assert async_op
        assert flat.dim() == 1
        self.events.append("sent")
        self.sizes.append(len(flat))
        if self.backend == "gloo":
            assert operation == torch.distributed.ReduceOp.SUM
            flat *= 2
        else:
            assert operation == torch.distributed.ReduceOp.AVG
        return Done()


@pytest.fixture(params=["gloo", "nccl"])
def twins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Twins:
    return Twins(monkeypatch, request.param)


@pytest.mark.parametrize("size", [1, 2000, 2**20])
def test_the_mean_of_equal_gradients_is_each_in_the_weights_own_layout(twins: Twins, size: int) -> None:
    plain, averaged = Net(), Net()
    average = GradientAverage(averaged, size)
    for _ in range(2):  # the second step finds what the first one left behind
        for network in (plain, averaged):
            network.zero_grad()
        two_passes(averaged, average, 0)
        two_passes(plain, GradientAverage(nn.Identity()), 0)
        for ours, theirs in zip(averaged.parameters(), plain.parameters(), strict=True):
            if theirs.grad is None:
                assert ours.grad is None
            else:
                assert ours.grad is not None
                assert ours.grad.stride() == ours.stride()
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    assert averaged.never.grad is None


def test_a_bucket_is_one_tensor_which_the_gradients_share(twins: Twins) -> None:
    network = Net()
    two_passes(network, GradientAverage(network), 0)
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert twins.events == ["sent"]
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == 1
    assert gradients[0].untyped_storage().nbytes() == sum(gradient.nbytes for gradient in gradients)


def test_gradients_are_sent_before_the_backward_pass_has_ended(twins: Twins) -> None:
    network = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    average = GradientAverage(network, bucket_bytes=1)
    for number, layer in enumerate(network):
        layer.register_full_backward_pre_hook(lambda *_, number=number: twins.events.append(f"layer {number}"))
    layers, x = [f"layer {number}" for number in (3, 2, 1, 0)], torch.randn(2, 3, requires_grad=True)
    network(x).sum().backward()
    assert twins.events == layers  # not in the earlier passes of a step

    twins.events.clear()
    with average.overlapped():
        network(x).sum().backward()
        assert twins.events.count("sent") == 8
    assert twins.events == [event for layer in layers for event in (layer, "sent", "sent")]


def test_buckets_are_sent_in_the_same_order_everywhere(twins: Twins) -> None:
    last, first = network = nn.ModuleList([nn.Linear(4, 5, bias=False), nn.Linear(3, 4, bias=False)])
    average = GradientAverage(network, bucket_bytes=1)
    with average.overlapped():
        last(first(torch.randn(2, 3))).sum().backward()
    with average.overlapped():
        last(torch.randn(2, 4)).sum().backward()  # the other's gradient is an earlier one
    assert twins.sizes == 2 * [12, 20]


def test_networks_that_only_judge_send_nothing(twins: Twins) -> None:
    network, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    average = GradientAverage(network)
    network.requires_grad_(False)
    network(x).sum().backward()
    with average.overlapped():
        network(x).sum().backward()
    assert twins.events == []
    network.requires_grad_(True)
    with average.overlapped():
        network(x).sum().backward()
        assert twins.events == ["sent"]


def test_a_pass_that_fails_leaves_nothing_under_way(twins: Twins) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    average = GradientAverage(network, bucket_bytes=1)
    x = torch.randn(2, 3, requires_grad=True)
    breaks = network[0].register_full_backward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), average.overlapped():
        network(x).sum().backward()
    assert twins.events == ["sent", "sent"]
    breaks.remove()
    network(x).sum().backward()
    assert twins.events == ["sent", "sent"]


def test_alone_nothing_is_added_to_a_network() -> None:
    network = Net()
    two_passes(network, GradientAverage(network), 0)
    assert not any(weight._post_accumulate_grad_hooks for weight in network.parameters())
    assert rank_and_world() == (0, 1)
    assert from_rank_zero(lambda: 5) == 5
    with pytest.raises(InputError, match="mine"), together():
        raise InputError("mine")


def test_the_first_worker_is_waited_for_outside_of_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    store, received, got = torch.distributed.HashStore(), threading.Event(), list[Any]()

    def receive(box: list[Any]) -> None:
        received.set()
        box[0] = "score"

    monkeypatch.setattr(workers, "rank_and_world", lambda: (1, 2))
    monkeypatch.setattr(workers, "_get_default_store", lambda: store)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", receive)
    thread = threading.Thread(target=lambda: got.append(from_rank_zero(lambda: "not called")))
    thread.start()
    assert not received.wait(0.2)
    store.set("cdal/from rank zero/1", "")
    wait_for(received.is_set)
    thread.join()
    assert got == ["score"]


def test_nobody_begins_before_all_have_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun = torch.distributed.HashStore(), threading.Event()

    def begin() -> None:
        with together():
            begun.set()

    monkeypatch.setattr(workers, "rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(workers, "_get_default_store", lambda: store)
    thread = threading.Thread(target=begin)
    thread.start()
    assert not begun.wait(0.2)
    store.set("cdal/there/1", "")
    wait_for(begun.is_set)
    thread.join()


@pytest.mark.long
def test_two_processes(tmp_path: Path) -> None:
    """Gradients, and errors of one of them; nobody waits until time is up, which takes half an hour."""
    command = [sys.executable, one_of_two.__file__]
    processes = [
        subprocess.Popen([*command, str(rank), tmp_path], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        outputs = [communicate(process, 60) for process in processes]
    finally:
        for process in processes:
            end(process)
    first, second = ([json.loads(line) for line in output.splitlines()] for output, _ in outputs)
    assert len(first) == 6, outputs
    for found in (first, second):
        assert max(found[0]) < 1e-5
        assert found[1] == [0, "from the first"]
        assert found[2] == ["InputError", "the file is bad"]
        assert found[4] == ["OutOfMemoryError", "out of memory"]
    assert first[3] == ["OSError", "the disk is full"]
    assert second[3] == ["WorkerError", "worker 0 failed: OSError: the disk is full"]
    assert first[5][0] == "RuntimeError"  # gloo's own: nobody is left who could tell more


DAMAGED = """
import os, sys
from cdal.train import main
sys.exit(main([*sys.argv[1:], "--data", "data" + os.environ["RANK"]]))
"""
UNREADABLE = """
import os, sys
import cdal.training
from cdal.errors import InputError
from cdal.train import main

def fails(*_, **__):
    raise InputError("images/case_3.png is damaged")

if os.environ["RANK"] == "1":
    cdal.training.training_batch = fails
sys.exit(main([*sys.argv[1:], "--data", "data0"]))
"""
TINY = [
    *("--device", "cpu", "--out", "run", "--dataset", "own", "--set", "training.epochs=2", "--set", "training.steps_per_epoch=2"),
    *("--set", "training.batch_size=8", "--set", "model.width_multipliers=[1,1]", "--set", "model.base_width=8"),
    *("--set", "model.encoder_blocks=0", "--set", "model.discriminator_width=4", "--set", "evaluation.validation_cases=1"),
]


@pytest.mark.long
@pytest.mark.parametrize("script", [DAMAGED, UNREADABLE])
def test_what_is_wrong_for_one_worker_is_what_all_of_them_say(tmp_path: Path, script: str) -> None:
    """Before there is a group, and in the midst of an epoch."""
    for number in range(2):
        two_folders(tmp_path / f"data{number}", count=12)
    (tmp_path / "data1" / "images" / "case_3.png").write_bytes(b"damaged")
    (tmp_path / "train.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = run([*launcher, *TINY], cwd=tmp_path, seconds=60)
    assert done.returncode == 1  # of torchrun
    assert "images/case_3.png" in done.stderr
    told = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert len(told) == 1, done.stderr
    assert "Connection closed" not in done.stderr
