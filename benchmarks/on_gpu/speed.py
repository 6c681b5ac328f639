"""How fast a GPU is, a training step on it, and sampling; plain is the recipe as released (`benchmarks/plain.py`)."""

import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import torch
from batches import noise
from operations import Operations
from plain import PlainGenerator, PlainTrainer, predict_image, released_state
from torch import Tensor

from cdal.config import Config
from cdal.devices.precision import numerics
from cdal.generator import Generator
from cdal.predict import sampler
from cdal.sections import TrainingConfig
from cdal.trainer import Trainer
from on_gpu.run import FAST, PUBLISHED, Run, configuration, kinds, seconds_of, wait

GRIDS = {"chest_xray": (1, 1), "monuseg": (2, 2), "hippocampus": (8, 8)}  # tiles that are segmented together


def device(run: Run) -> None:
    """What the machine is, and what it does at most."""
    names = {"python": sys.version.split()[0], "torch": torch.__version__, "CUDA": torch.version.cuda}
    names |= {"cuDNN": torch.backends.cudnn.version(), "cores": len(os.sched_getaffinity(0))}
    if run.on_gpu:
        about = torch.cuda.get_device_properties(run.device)
        names |= {"name": about.name, "multiprocessors": about.multi_processor_count, "GiB": round(about.total_memory / 2**30, 1)}
        names |= {"capability": ".".join(map(str, torch.cuda.get_device_capability(run.device)))}
    try:
        names["triton"] = version("triton")
    except ImportError:
        names["triton"] = None
    run.result["machine"] = names
    run.note(", ".join(f"{key} {value}" for key, value in names.items()))
    run.row({"peak": "copy"}, lambda: _copy(run))
    for precision in ("bf16", "tf32", "fp32"):
        run.row({"peak": precision}, lambda precision=precision: _peak(run, precision))
    run.note("copy: TB/s, read and written; otherwise TFLOP/s")


def _peak(run: Run, precision: str) -> dict[str, float]:
    side, images = (8192, [(32, 256, 64), (16, 128, 128), (8, 64, 256)]) if run.on_gpu else (512, [(2, 64, 32)])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rng, found = torch.Generator(run.device).manual_seed(0), {}
    with numerics(TrainingConfig(precision=precision), run.device), torch.inference_mode():
        a, b = (torch.randn(side, side, generator=rng, device=run.device).to(dtype) for _ in range(2))
        found["product"] = 2 * side**3 / _median_of_ten(lambda: torch.mm(a, b), run) / 1e12
        for batch, channels, size in images:
            x = torch.randn(batch, channels, size, size, generator=rng, device=run.device)
            w = torch.randn(channels, channels, 3, 3, generator=rng, device=run.device)
            x, w = (tensor.to(dtype, memory_format=torch.channels_last) for tensor in (x, w))
            work = 2 * 9 * batch * channels**2 * size**2
            seconds = _median_of_ten(lambda x=x, w=w: torch.nn.functional.conv2d(x, w, padding=1), run)
            found["convolution"] = max(found.get("convolution", 0.0), work / seconds / 1e12)
    return found | {"most": max(found.values())}


def _copy(run: Run) -> dict[str, float]:
    numbers = 2**30 if run.on_gpu else 2**24
    source = torch.randn(numbers, generator=torch.Generator(run.device).manual_seed(0), device=run.device)
    target = torch.empty_like(source)
    return {"most": 2 * source.nbytes / _median_of_ten(lambda: target.copy_(source), run) / 1e12}


def _median_of_ten(action: Callable[[], object], run: Run) -> float:
    for _ in range(3):
        action()
    if not run.on_gpu:
        return seconds_of(action, run)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(10)]
    for start, end in events:
        start.record()
        action()
        end.record()
    torch.cuda.synchronize(run.device)
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1000


# --------------------------------------------------------------------------------------------------------------------------- step


def step(run: Run) -> None:
    """A training step: the recipe as released and ours, in all precisions."""
    first, rest = [("ours", "bf16", True), ("plain", "fp32", False), ("ours", "bf16", False)], [("plain", "default", False)]
    rest += [("ours", precision, graphs) for graphs in (True, False) for precision in ("tf32", "fp32")]
    if not run.on_gpu:
        first, rest = [("ours", "bf16", False), ("plain", "fp32", False)], [("ours", "fp32", False)]
        run.note("a CPU has neither TF32 nor CUDA graphs; networks, images and batches are shrunken")
    ours = [side for side in first + rest if side[0] == "ours"]
    run.note("there is no plain side of the cheaper recipes, which the release does not have")
    for names, sides in ((PUBLISHED, first), (PUBLISHED, rest), (FAST, ours)):
        for name in names[-1:] if run.quick and run.on_gpu else names:
            for side, precision, graphs in sides:
                about = {"preset": name, "side": side, "precision": precision, "graphs": graphs}
                run.row(about, lambda about=about: _step(run, *about.values()))
    for name in (*PUBLISHED, *FAST) if run.on_gpu else ():
        about = {"table": "kernels of a step, ours in bf16, without graphs", "preset": name}
        run.row(about, lambda name=name: _kernels(run, name))


def on_plain_side(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """`fp32`: real float32, and the fastest algorithms; `default`: PyTorch as it comes, convolutions in TF32."""
    return numerics(TrainingConfig(precision="fp32"), device) if precision == "fp32" else nullcontext()


def _stepper(run: Run, name: str, side: str, precision: str, graphs: bool) -> tuple[Config, Any, Callable[[int], object]]:
    """A trainer that has made its first step, and its step by number."""
    config = configuration(run, name, "fp32" if side == "plain" else precision)
    trainer: Any = Trainer(config, run.device, graphs=graphs)
    if side == "plain":
        ours, trainer = trainer, PlainTrainer(config, run.device)
        trainer.load(ours)
    batch = noise(config, run.device)

    def step(number: int) -> object:
        trainer.steps = number
        return trainer.step(*batch)

    return config, trainer, step


def _step(run: Run, name: str, side: str, precision: str, graphs: bool) -> dict[str, Any]:
    begun = time.perf_counter()
    config, trainer, step = _stepper(run, name, side, precision, graphs)
    with on_plain_side(precision, run.device) if side == "plain" else nullcontext():
        step(0)  # Adam gets its moments
        work: dict[int, Operations] = {}
        for number in kinds(config):
            with Operations() as work[number]:
                step(number)
            step(number)  # recorded, where there are graphs
        wait(run.device)
        ready = time.perf_counter() - begun
        if run.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(run.device)
        seconds = {number: seconds_of(lambda number=number: step(number), run) for number in kinds(config)}
    mean = sum(share * seconds[number] for number, share in kinds(config).items())
    values: dict[str, Any] = {"ms": 1000 * mean, "images/s": config.training.batch_size / mean}
    if run.on_gpu:
        values["GiB"] = torch.cuda.max_memory_reserved(run.device) / 2**30
        values["GiB used"] = torch.cuda.max_memory_allocated(run.device) / 2**30
    if graphs:
        values["recorded"] = len(trainer._graphs._recordings)
    values |= _shares(run, precision, mean, {number: (share, work[number]) for number, share in kinds(config).items()})
    return values | {"s to begin": ready, "ms of kinds": {str(number): 1000 * spent for number, spent in seconds.items()}}


def _shares(run: Run, precision: str, mean: float, work: dict[int, tuple[float, Operations]]) -> dict[str, float]:
    """How much of a step's time the operations would take at the device's peaks, and the bytes at its bandwidth."""
    flop = {dtype: sum(share * count.by_type[dtype] for share, count in work.values()) for dtype in (torch.bfloat16, torch.float32)}
    moved = sum(share * count.bytes for share, count in work.values())
    values = {"TFLOP": sum(flop.values()) / 1e12, "GB": moved / 1e9}
    most = {row["peak"]: row["most"] for row in run.earlier.get("device", {}).get("rows", []) if "most" in row}
    full = "fp32" if precision == "fp32" else "tf32"
    if {"bf16", full, "copy"} <= most.keys():
        values["FLOP share"] = (flop[torch.bfloat16] / most["bf16"] + flop[torch.float32] / most[full]) / 1e12 / mean
        values["byte share"] = moved / most["copy"] / 1e12 / mean
    return values


def _kernels(run: Run, name: str) -> dict[str, Any]:
    config, _, step = _stepper(run, name, "ours", "bf16", graphs=False)
    step(0)
    number, busy = 0.0, 0.0
    times: Counter[str] = Counter()
    for kind, share in kinds(config).items():
        step(kind)
        found = kernels_of(lambda kind=kind: step(kind), run.device)
        number += share * len(found)
        for kernel, spent in found:
            times[kernel[:90]] += share * spent
    busy = sum(times.values())
    longest = [[kernel, 1000 * spent, spent / busy] for kernel, spent in times.most_common(25)]
    return {"kernels": number, "ms busy": 1000 * busy, "longest (ms, share)": longest}


def kernels_of(action: Callable[[], object], device: torch.device) -> list[tuple[str, float]]:
    """Name and seconds of every kernel that an action launches."""
    from torch.profiler import ProfilerActivity, profile

    of_device = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    for activities in ([of_device], [of_device, ProfilerActivity.CPU]):
        wait(device)
        with profile(activities=activities) as profiled:
            action()
            wait(device)
        found = [event for event in profiled.events() if str(event.device_type).upper().endswith(device.type.upper())]
        kernels = [event for event in found if not event.name.startswith(("Memcpy", "Memset", "Optimizer", "ProfilerStep"))]
        if kernels:
            return [(event.name, event.time_range.elapsed_us() / 1e6) for event in kernels]
    raise RuntimeError("the profiler saw no kernels")


# ----------------------------------------------------------------------------------------------------------------------- sampling


def sampling(run: Run) -> None:
    """Masks of a batch with published votes and steps."""
    sides = [("ours", "bf16", True), ("plain", "fp32", False), ("ours", "fp32", True), ("ours", "bf16", False)]
    sides += [("ours", "fp32", False), ("plain", "default", False)]
    if not run.on_gpu:
        sides = [("ours", "bf16", False), ("plain", "fp32", False), ("ours", "fp32", False)]
    for names in (PUBLISHED, FAST):
        for name in names[-1:] if run.quick and run.on_gpu else names:
            for side, precision, graphs in sides:
                about = {"preset": name, "side": side, "precision": precision, "graphs": graphs}
                run.row(about, lambda about=about: _sampling(run, *about.values()))


def _sampling(run: Run, name: str, side: str, precision: str, graphs: bool) -> dict[str, Any]:
    config = configuration(run, name, "fp32" if side == "plain" else precision)
    model, votes = config.model, config.evaluation.votes
    rows, columns = GRIDS[name.removesuffix("_fast")] if run.on_gpu else (1, 1)
    rng, size = torch.Generator(run.device).manual_seed(0), model.image_size
    image = torch.randn(model.image_channels, rows * size, columns * size, generator=rng, device=run.device)
    generator = Generator.from_config(model).to(run.device)
    if side == "plain":
        network = PlainGenerator(model).to(run.device)
        network.load_state_dict(released_state(generator))
        with on_plain_side(precision, run.device):
            predict = lambda: predict_image(config, network, image, rng.manual_seed(0))  # noqa: E731
            predict()
            seconds = seconds_of(predict, run)
    else:
        tiles = image.unflatten(2, (columns, size)).unflatten(1, (rows, size)).permute(1, 3, 0, 2, 4).flatten(0, 1).contiguous()
        sample, rngs = sampler(config, generator, graphs=graphs), [torch.Generator(run.device) for _ in range(votes)]

        def predict_all() -> Tensor:
            drawn = sample(tiles, [rng.manual_seed(vote) for vote, rng in enumerate(rngs)])
            return ((drawn + 1) / 2).clamp(0, 1).mean(dim=0).round()

        for _ in range(2):  # recorded the second time
            predict_all()
        seconds = seconds_of(predict_all, run)
    return {"tiles": rows * columns, "px": size, "votes": votes, "T": config.diffusion.timesteps, "ms": 1000 * seconds}
