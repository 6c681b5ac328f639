"""Runs the product on a CUDA device that is not there, and counts what a real one would have to do.

    python tests/support/fake_cuda.py hippocampus bf16          # JSON: a step with and without R1, and sampling

PyTorch's FakeTensorMode follows shapes, layouts, types and devices of tensors that hold no values; a small library
(`fake_cuda.cpp`) gives it a CUDA device, which gradients need. It must be loaded before torch, so this file runs in a process of
its own. A tensor on the wrong device is an error there, and so is a number that the CPU would have to wait for.

Kernels are counted as PyTorch launches them: a convolution with a bias is two, its gradient one for each of the three that is
wanted, a group normalisation of PyTorch three, operations over lists one for as many tensors as fit a launch, views none.
"""

import ctypes
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()


def load_device() -> None:
    """Compile the library, once for each of its versions and torch's, and load it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch_folder = Path(spec.origin).parent
    source = _HERE.with_suffix(".cpp")
    key = hashlib.sha256(source.read_bytes() + str(torch_folder).encode() + (torch_folder / "version.py").read_bytes()).hexdigest()
    library = _HERE.parent / "__pycache__" / f"fake_cuda_{key[:16]}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        fresh = library.with_suffix(f".{os.getpid()}")
        folders = [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
        command = ["c++", "-std=c++20", "-shared", "-fPIC", *folders, str(source), "-o", str(fresh), "-lc10", "-ltorch_cpu"]
        subprocess.run(command, check=True)
        fresh.replace(library)
    ctypes.CDLL(str(torch_folder / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))


if __name__ == "__main__":
    load_device()
    sys.path.append(str(_HERE.parents[2] / "benchmarks"))

import torch
from operations import NO_KERNEL, bytes_of
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cdal.config import Config, preset

DEVICE = torch.device("cuda", 0)
_ENTRY = 8  # channels: masks and images have fewer, features more
_LISTS = {"_foreach_add_": 110, "_foreach_copy_": 64, "_foreach_lerp_": 64, "_fused_adam_": 36}  # tensors that fit a launch


class Trace(TorchDispatchMode):
    """Counts kernels, their bytes, changes of layout and waits, within a FakeTensorMode."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0
        self.layout_copies: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        silent = func.is_view or name.startswith(("prim::", "profiler::")) or name in NO_KERNEL
        if torch.is_inference_mode_enabled() and not name.startswith("prim::"):  # operations come here before they are taken apart
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not silent and any(x.device.type == "cuda" for x in [*tensors, *tree_leaves(out)] if isinstance(x, Tensor)):
            self._count(name, args, kwargs, tensors, out)
        return out

    def _count(self, name: str, args: Any, kwargs: Any, tensors: list[Tensor], out: Any) -> None:
        outs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        kernels, moved = 1, sum(map(bytes_of, [*tensors, *outs]))
        if name == "_to_copy" and outs[0].device != tensors[0].device:
            if not kwargs.get("non_blocking"):
                self.waits[f"{name} {tensors[0].device} -> {outs[0].device}"] += 1
        elif name in ("_to_copy", "clone", "copy_", "contiguous"):
            source, target = (_layout(x) for x in (tensors[-1], outs[0]))
            if source and target and source != target and tensors[-1].shape == outs[0].shape and outs[0].shape[1] > _ENTRY:
                self.layout_copies[f"{name} {tuple(outs[0].shape)}"] += 1
        elif name == "convolution":
            features = args[0]
            if _layout(features) == "first" and features.shape[1] > _ENTRY:
                self.layout_copies[f"into convolution {tuple(features.shape)}"] += 1
            if args[2] is not None:
                kernels, moved = 2, moved + 2 * bytes_of(outs[0])
        elif name == "convolution_backward":
            for place, x in (("gradient", args[0]), ("input", args[1])):
                if _layout(x) == "first" and x.shape[1] > _ENTRY:
                    self.layout_copies[f"{place} into backward convolution {tuple(x.shape)}"] += 1
            wanted = args[-1]
            kernels = sum(wanted)
            moved += bytes_of(args[0]) * (kernels - 1)
        elif name in ("native_group_norm", "native_group_norm_backward"):
            kernels, moved = 3, moved + bytes_of(tensors[0])
            for x in tensors[:2] if name.endswith("backward") else tensors[:1]:
                if _layout(x) == "last":
                    kernels, moved = kernels + 1, moved + 2 * bytes_of(x)
                    self.layout_copies[f"within group norm {tuple(x.shape)}"] += 1
        elif name in _LISTS:
            kernels = math.ceil(len(args[0]) / _LISTS[name])
        elif name.startswith("cdal::group_norm"):
            from cdal.devices.norm_kernels import whole  # not there without Triton

            kernels, moved = (1, moved) if whole(tensors[0]) else (2, moved + bytes_of(tensors[0]))
        self.kernels += kernels
        self.bytes += moved
        self.names[name] += kernels


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As a GPU computes it; without CUDA, PyTorch would take it apart."""
    if query.dtype == torch.bfloat16:
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    else:
        out = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
    return out


def _layout(x: Any) -> str | None:
    """`last` or `first`, where the channels are in memory; None where that is one and the same."""
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] == 1 or x.shape[2] * x.shape[3] == 1:
        return None
    return "last" if x.stride(1) == 1 else "first"


def _deepcopy(self: FakeTensor, memo: dict[int, Any]) -> Tensor:
    """Tensors would copy what is behind fake ones, which is nothing."""
    fresh = self.detach().clone()
    memo[id(self)] = fresh = nn.Parameter(fresh, self.requires_grad) if isinstance(self, nn.Parameter) else fresh
    return fresh


def _as_cudnn(features: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
    """cuDNN computes channels last as soon as one of the two is; without CUDA, PyTorch thinks of other libraries."""
    last = torch.channels_last in map(suggest_memory_format, (features, weight))
    return torch.channels_last if last else torch.contiguous_format


def _apply(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` cannot change the device of fake tensors; weights are new tensors here."""
    for module in self.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    with torch.no_grad():
                        moved = fn(tensor)
                    is_weight = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(moved, tensor.requires_grad) if is_weight else moved
    return self


def normal(*size: int) -> Tensor:
    return torch.randn(size, device=DEVICE)


def traced(function: Any) -> dict[str, Any]:
    """What a call takes."""
    with Trace() as trace:
        function()
    return {
        "kernels": trace.kernels,
        "bytes": trace.bytes,
        "layout_copies": dict(trace.layout_copies),
        "waits": dict(trace.waits),
        "names": dict(trace.names.most_common(40)),
    }


def report(config: Config) -> dict[str, Any]:
    """Counts of training steps and of sampling."""
    import inspect

    from cdal.predict import sampler
    from cdal.trainer import Draws, Trainer

    model, batch = config.model, config.training.batch_size
    masks = (batch, model.mask_channels, model.image_size, model.image_size)
    eager = {"graphs": False} if "graphs" in inspect.signature(Trainer).parameters else {}
    trainer = Trainer(config, DEVICE, **eager)

    def steps() -> Tensor:
        return torch.zeros(batch, dtype=torch.long, device=DEVICE)

    image, mask = normal(batch, model.image_channels, *masks[2:]), normal(*masks)
    draws = Draws(
        steps(), normal(*masks), normal(*masks), normal(batch, model.latent_size), normal(*masks),
        steps(), normal(*masks), normal(*masks), normal(batch, model.latent_size), normal(*masks), normal(*masks),
        normal(*masks),
    )  # fmt: skip

    def step(number: int) -> dict[str, Any]:
        trainer.steps = number
        return traced(lambda: trainer.step(image, mask, draws))

    for network, adam in ((trainer.generator, trainer.generator_adam), (trainer.discriminator, trainer.discriminator_adam)):
        assert network is not None
        assert adam is not None
        for weight in network.parameters():
            weight.grad = torch.empty_like(weight)
        adam.step()  # gets its moments
    interval = config.optimiser.discriminator_interval
    found = {"penalised": step(interval * config.loss.r1_interval)}
    if config.loss.r1_interval > 1:
        found["update"] = step(interval)
    if interval > 1:
        found["rest"] = step(1)
    sample = sampler(config, trainer.evaluated, **eager)
    found["sampling"] = traced(lambda: sample(image, [_AnyRng()] * 2))  # type: ignore[list-item]
    if config == preset("hippocampus_fast").replace({"training.precision": config.training.precision}):
        found["batch"] = traced(lambda: _batch(config))
        found["evaluation"] = traced(lambda: _evaluate(config, sample))
    return found


def _batch(config: Config) -> None:
    """A batch of changed samples, on its way to the device."""
    from cdal.data import Augmentation, open_dataset, training_batch

    with unset_fake_temporarily():
        dataset = open_dataset("phantom", size=32, cases=4, classes=2)
    dataset.spec = replace(dataset.spec, augmentation=Augmentation(flips=True, rotation=10, brightness=0.1))
    training_batch(
        dataset, dataset.split(0).train, step=0, batch_size=4, samples_per_case=2, mask_channels=3, seed=0, device=DEVICE
    )


def _evaluate(config: Config, sample: Any) -> None:
    """A volume of four slices by the full protocol, until its labels are on the CPU."""
    from cdal import evaluation
    from cdal.data.dataset import DatasetSpec

    spec = DatasetSpec(
        name="", image_channels=1, classes=("a", "b"), image_size=32, volumetric=True, folds=("",), protocol="", licence=""
    )
    evaluation._rngs = lambda device, seed, votes, *names: [_AnyRng()] * votes
    evaluation.draw_votes(torch.empty(1, 4, 40, 40), "", spec, sample, votes=2, multiple=8, seed=0, device=DEVICE)


class _AnyRng:
    device = DEVICE

    def get_state(self) -> None:
        """Kept in the process, as a real one's: nobody waits for the device."""

    def set_state(self, state: None) -> None:
        """Nothing."""


def spoiled() -> dict[str, Any]:
    """What a trace says of things that must not be."""

    def error(function: Callable[[], object]) -> str:
        try:
            function()
        except Exception as problem:
            return type(problem).__name__
        return ""

    x = normal(2, 16, 8, 8)
    return {
        "layout copy": traced(lambda: x.to(memory_format=torch.channels_last)),
        "waiting copy": traced(x.cpu),
        "number": error(lambda: float(x.sum())),
        "wrong device": error(lambda: x + torch.ones(8, 8)),
    }


def main() -> None:
    Tensor.pin_memory = lambda self: self  # type: ignore[method-assign]
    torch.nn.functional.scaled_dot_product_attention = _attention  # type: ignore[assignment]
    nn.Module._apply = _apply  # type: ignore[method-assign]
    FakeTensor.__deepcopy__ = _deepcopy  # type: ignore[method-assign]
    torch._C._conv_determine_backend_memory_format = _as_cudnn
    torch.cuda._lazy_init = lambda: None  # type: ignore[assignment]
    real = torch.randn
    torch.randn = lambda size, generator=None, device=None: real(size, device=device)  # type: ignore[assignment]
    known = torch.library.Library("aten", "IMPL")
    known.impl("_fused_rms_norm", lambda x, *_: (torch.empty_like(x), x.new_empty(len(x), 1)), "CUDA")
    known.impl("silu_backward", lambda gradient, x: torch.empty_like(x), "CUDA")  # without CUDA it would be taken apart
    known.impl("_fused_adam_.tensor_lr", lambda *args, **kwargs: None, "Meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = spoiled() if sys.argv[1:] == ["spoiled"] else {
            f"{name} {precision}": report(preset(name).replace({"training.precision": precision}))
            for name in sys.argv[1].split(",")
            for precision in sys.argv[2].split(",")
        }  # fmt: skip
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # the library is not made to be taken down in order


if __name__ == "__main__":
    main()
