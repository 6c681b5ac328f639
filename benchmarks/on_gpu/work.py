"""Several trainings on one GPU at once, a short training, and whether `torch.compile` would pay."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import packing
import torch
from batches import noise
from torch import Tensor

from cdal.config import preset
from cdal.data.cases import CaseDataset
from cdal.data.dataset import Case, DatasetSpec, Split
from cdal.devices import fused
from cdal.devices.graphs import Graphs
from cdal.devices.precision import numerics
from cdal.generator import Generator
from cdal.training import train
from on_gpu.run import Run, configuration, seconds_of, wait


def packing_together(run: Run) -> None:
    """Several trainings of hippocampus_fast on the device at once; the first row is what the others are compared with."""
    numbers, served = [1, 4, 8, 2] if run.on_gpu else [1, 2], packing.mps_serves()
    for number in numbers[:2] if run.quick else numbers:
        run.row({"trainings": number, "MPS": served}, lambda number=number: _several(run, number))
    control = shutil.which("nvidia-cuda-mps-control")
    if run.mps and run.on_gpu and control and not served:
        with _mps(control):
            for number in (1, 4, 8):
                run.row({"trainings": number, "MPS": True}, lambda number=number: _several(run, number))


def _several(run: Run, number: int) -> dict[str, Any]:
    seconds = 5.0 if run.on_gpu and not run.quick else 2.0
    (row,) = packing.measure([number], run.device.type, "bf16" if run.on_gpu else "fp32", seconds) or [{}]
    if not row:
        raise RuntimeError(f"{number} trainings do not run together")
    alone = next((done["images/s"] for done in run.result["rows"] if done["trainings"] == 1 and "images/s" in done), None)
    rate = row["images_per_second"]
    return {"images/s": rate, "of one alone": rate / (alone or rate / number), "GiB": row["memory_bytes"] / 2**30}


@contextmanager
def _mps(control: str) -> Iterator[None]:
    """NVIDIA's MPS for the processes that are started meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        subprocess.run([control, "-d"], check=True, timeout=20)
        try:
            yield
        finally:
            subprocess.run([control], input="quit\n", text=True, timeout=20, check=False)


# ----------------------------------------------------------------------------------------------------------------------- training


def training(run: Run) -> None:
    """Epochs of hippocampus_fast on generated volumes."""
    epochs, steps = (10, 100) if run.on_gpu and not run.quick else (3, 10)
    dataset = ellipsoids(48)
    run.note(f"{steps} steps an epoch; volumes with an ellipsoid of two halves, generated without SciPy; 8 of them validate")
    for precision in ("bf16", "fp32"):
        about = {"preset": "hippocampus_fast", "precision": precision}
        run.row(about, lambda precision=precision: _training(run, precision, dataset, epochs, steps))


def _training(run: Run, precision: str, dataset: CaseDataset, epochs: int, steps: int) -> dict[str, Any]:
    config = preset("hippocampus_fast") if run.on_gpu else configuration(run, "hippocampus_fast", precision)
    config = config.replace({"training.precision": precision, "training.samples_per_case": 4})
    config = config.replace({"training.epochs": epochs, "training.steps_per_epoch": steps, "evaluation.validation_votes": 1})
    dice: list[float] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for report in train(config, dataset, Path(folder), device=run.device):
            dice.append(report.values["dice"])
            last = report.values["train_seconds"]
            if run.left() < 3:
                break
    spent = time.perf_counter() - start
    values = {"epochs": len(dice), "s": spent, "s of an epoch": last, "best Dice": max(dice)}
    return values | {"Dice": " ".join(f"{score:.3f}" for score in dice), "dice": dice}


def ellipsoids(number: int) -> CaseDataset:
    """Volumes of 8 x 40 x 40 voxels with noise and an ellipsoid whose two halves are two classes."""
    z, y, x = np.meshgrid(np.arange(8), np.arange(40), np.arange(40), indexing="ij")
    cases = []
    for index in range(number):
        rng = np.random.default_rng(index)
        centre, radius = rng.uniform((3, 14, 14), (5, 26, 26)), rng.uniform((3, 5, 7), (5, 8, 12))
        inside = ((z - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 + ((x - centre[2]) / radius[2]) ** 2 < 1
        label = (inside * np.where(x < centre[2], 1, 2)).astype(np.uint8)
        image = np.array([-0.5, 0.2, 0.6])[label] + rng.normal(0, 0.15, label.shape)
        image = torch.from_numpy(image.clip(-1, 1).astype(np.float32)[None])
        cases.append(Case(id=f"ellipsoid{index:02d}", image=image, label=torch.from_numpy(label)))
    names = tuple(case.id for case in cases)
    spec = DatasetSpec(
        name="ellipsoids", image_channels=1, classes=("front", "rear"), image_size=32, volumetric=True, sample_depth=4,
        folds=("all",), protocol="the first 8 validate", licence="generated",
    )  # fmt: skip
    return CaseDataset(spec, cases, lambda fold: Split(train=names[8:], validation=names[:8], test=()))


# ------------------------------------------------------------------------------------------------------------------------ compile


def compiled(run: Run) -> None:
    """Whether `torch.compile` would pay: the generator there and back in bf16, with our kernels and compiled without them."""
    backend = "inductor" if run.on_gpu else "eager"
    run.note(f"backend {backend}; 'compiled' has plain PyTorch in the place of our kernels")
    for name in ("hippocampus", "hippocampus_fast")[1 if run.quick or not run.on_gpu else 0 :]:
        for way in ("kernels", "compiled"):
            for graphs in (False, True) if run.on_gpu else (False,):
                about = {"preset": name, "way": way, "graphs": graphs}
                run.row(about, lambda about=about: _compiled(run, *about.values(), backend))


def _compiled(run: Run, name: str, way: str, graphs: bool, backend: str) -> dict[str, Any]:
    config = configuration(run, name, "bf16")
    generator = Generator.from_config(config.model).to(run.device, torch.bfloat16, memory_format=torch.channels_last)
    image, mask, draws = noise(config, run.device)
    forward: Callable[..., Tensor] = lambda noisy, t, image, z: generator(noisy, t, generator.encode(image), z)  # noqa: E731
    if way == "compiled":
        forward = torch.compile(forward, backend=backend)

    def both_ways(*given: Tensor) -> Tensor:
        loss = forward(*given).float().square().mean()
        torch.autograd.backward(loss)
        return loss.detach()

    patched = mock.patch.object(fused, "available", _never) if way == "compiled" else nullcontext()
    with patched, numerics(config.training, run.device):
        recorded, given = Graphs(run.device, wanted=graphs), (mask, draws.t_generator, image, draws.latent_generator)
        start = time.perf_counter()
        for _ in range(3):
            recorded.run("both ways", both_ways, *given)
        wait(run.device)
        ready = time.perf_counter() - start
        return {"s to begin": ready, "ms": 1000 * seconds_of(lambda: recorded.run("both ways", both_ways, *given), run)}


def _never(x: Tensor) -> bool:
    """In the place of `fused.available`: plain PyTorch on a GPU, too."""
    return False
