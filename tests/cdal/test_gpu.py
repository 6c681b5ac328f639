"""On a real GPU: `make test-gpu`, or where little is installed `python -m pytest --noconftest -m gpu tests/cdal/test_gpu.py`."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from batches import noise
from safetensors.torch import load_file
from torch import Tensor

from cdal.config import Config, preset
from cdal.data import open_dataset
from cdal.devices import fused
from cdal.devices.precision import numerics
from cdal.evaluation import Votes, draw_votes
from cdal.predict import protocol, sampler
from cdal.trainer import Draws, Trainer
from cdal.training import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

GPU = torch.device("cuda", 0)
FAST = preset("hippocampus_fast")
NORMS = [((128, 32, 32, 32), 8), ((4, 64, 256, 256), 16), ((4, 256, 4, 4), 32), ((3, 96, 33, 31), 24)]  # shapes, groups


def batch(config: Config, seed: int = 0) -> tuple[Tensor, Tensor, Draws]:
    """Image, mask and draws on the GPU."""
    return noise(config, GPU, seed)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the size of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


@pytest.mark.parametrize("name", golden.MODELS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("tf32", 2e-2), ("bf16", 5e-2)])
def test_golden_vectors(name: str, precision: str, tolerance: float) -> None:
    expected = load_file(golden.FOLDER / f"{name}.safetensors")
    for key, value in golden.results(name, "cuda:0", precision).items():
        coarse = precision == "bf16" and key.endswith("_gradients")
        assert distance(value, expected[key]) < (0.25 if coarse else tolerance), key


@pytest.mark.parametrize(("shape", "groups"), NORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_kernels(shape: tuple[int, ...], groups: int, dtype: torch.dtype, tolerance: float) -> None:
    """Values and gradients, against float64."""
    x, h, weight = (torch.randn(shape, device=GPU).to(dtype, memory_format=torch.channels_last) for _ in range(3))
    style, add = torch.randn(shape[0], 2 * shape[1], device=GPU).to(dtype), torch.randn(shape[:2], device=GPU).to(dtype)
    half = (shape[2] // 2, shape[3] // 2)
    operations: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda x, style, add: fused.group_norm(1 * x, groups, style, 1e-6, silu=True, add=add), (x, style, add)),
        (lambda h, x, add: fused.join(1 * h, x, add[0], 0.7), (h, x, add)),
        (lambda h, add: fused.add_leaky(1 * h, add, 0.2), (h, add)),
        (lambda x: fused.fir(x, 1, 2, 1, half, 1.0), (x,)),
        (lambda x: fused.fir(x, 2, 1, 2, (2 * shape[2], 2 * shape[3]), 4.0), (x,)),
        (lambda x: fused.fir(x, 1, 1, 2, (shape[2] + 1, shape[3] + 1), 1.0), (x,)),
    ]
    assert fused.available(x)
    for function, inputs in operations:
        results = []
        for precise in (False, True):
            given = [(i.double() if precise else i).detach().requires_grad_() for i in inputs]
            y = function(*given)
            gradient = weight.to(y.dtype).flatten()[: y.numel()]
            gradient = torch.cat([gradient] * -(-y.numel() // len(gradient)))[: y.numel()].view(y.shape)
            results.append([y, *torch.autograd.grad(y, given, gradient)])
        for found, expected in zip(*results, strict=True):
            assert distance(found, expected) < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replayed_step_is_a_step(precision: str) -> None:
    config = FAST.replace({"training.precision": precision, "training.deterministic": True, "loss.adversarial": 0.1})
    recorded, computed = Trainer(config, GPU), Trainer(config, GPU, graphs=False)
    for number in range(3 * config.loss.r1_interval):
        one, other = (trainer.step(*batch(config, number)) for trainer in (recorded, computed))
        assert {name: float(value) for name, value in one.items()} == pytest.approx(
            {name: float(value) for name, value in other.items()}, rel=1e-3, abs=1e-4
        )
    assert len(recorded._graphs._recordings) > 1


def test_a_replayed_sample_is_a_sample() -> None:
    generator = Trainer(FAST, GPU).generator
    samples = sampler(FAST, generator), sampler(FAST, generator, graphs=False)
    images = batch(FAST)[0]
    for seed in range(4):
        one, other = (sample(images, [torch.Generator(GPU).manual_seed(seed + vote) for vote in range(3)]) for sample in samples)
        assert distance(one, other) < 1e-4


def test_masks_and_maps_that_do_not_fit_together_are_the_same() -> None:
    dataset = open_dataset("phantom", size=256, cases=8, classes=1)
    config = Config().replace(
        {"model.image_channels": dataset.spec.image_channels, "model.image_size": 256, "diffusion.timesteps": 2}
    )
    generator = Trainer(config, GPU).generator
    case = dataset.case(dataset.split(0).test[0])

    def seen() -> Votes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = protocol(config.replace({"evaluation.votes": 12}), generator)
            return draw_votes(case.image, case.id, dataset.spec, sampler(config, generator), **settings)

    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    expected = seen()
    needed = torch.cuda.max_memory_allocated() - before
    for part in (0.5, 0.25):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((before + part * needed) / torch.cuda.get_device_properties(GPU).total_memory)
        try:
            found = seen()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert (found.labels != expected.labels).float().mean() < 0.02
        torch.testing.assert_close(found.entropy, expected.entropy, atol=0.02, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_deterministic_runs_are_equal(precision: str) -> None:
    config = FAST.replace({"training.precision": precision, "training.deterministic": True})

    def losses() -> list[dict[str, float]]:
        trainer = Trainer(config, GPU)
        return [{name: float(x) for name, x in trainer.step(*batch(config, number)).items()} for number in range(6)]

    assert losses() == losses()


@pytest.mark.parametrize(
    "changes", [{}, {"training.precision": "bf16"}, {"model.architecture": "unet"}, {"training.accumulation": 2}]
)
def test_a_training(tmp_path: Path, changes: dict[str, Any]) -> None:
    """It learns, and goes on where it stopped."""
    config = FAST.replace({"training.epochs": 3, "training.steps_per_epoch": 30} | changes)
    dataset = open_dataset("phantom", size=32, cases=40, classes=2)
    first = list(train(config.replace({"training.epochs": 2}), dataset, tmp_path, device=GPU))
    (last,) = train(config, dataset, tmp_path, device=GPU)
    assert last.values["dice"] > 0.3
    assert last.values["loss_generator"] < first[0].values["loss_generator"]


def test_fp32_is_not_tf32() -> None:
    """A GPU's short cut shows; the product takes it only where it is asked to."""
    images, errors = batch(preset("hippocampus"))[0][:8], {}
    with torch.inference_mode():
        precise = Trainer(preset("hippocampus"), torch.device("cpu")).generator.encode(images.cpu())
        for precision in ("fp32", "tf32"):
            trainer = Trainer(preset("hippocampus").replace({"training.precision": precision}), GPU)
            with numerics(trainer.config.training, GPU):
                errors[precision] = distance(trainer.generator.encode(images).cpu(), precise)
    assert errors["fp32"] < 1e-5 < errors["tf32"]
