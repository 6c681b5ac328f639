"""What is recorded once and replayed gives the numbers of what is computed; the recordings are tapes of the CPU's operations."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tape import TapedGraphs
from torch import Tensor

from cdal import predict, trainer
from cdal.config import Config
from cdal.data import Dataset, open_dataset
from cdal.devices import adam
from cdal.devices.graphs import Graphs
from cdal.predict import sampler
from cdal.training import train

TINY: dict[str, Any] = {
    "model.image_size": 16,
    "model.base_width": 8,
    "model.width_multipliers": [1, 1],
    "model.attention_resolutions": [8],
    "model.encoder_blocks": 1,
    "model.latent_size": 4,
    "model.latent_embedding": 8,
    "model.discriminator_width": 4,
    "model.discriminator_time_embedding": 8,
    "diffusion.timesteps": 2,
    "loss.r1_interval": 2,
    "loss.adversarial": 0.1,
    "loss.soft_dice": 1.0,
    "optimiser.discriminator_interval": 2,
    "optimiser.ema_decay": 0.5,
    "optimiser.cosine_epochs": 3,
    "training.epochs": 3,
    "training.steps_per_epoch": 8,
    "training.batch_size": 4,
    "evaluation.validation_cases": 2,
}


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[TapedGraphs]:
    """Makes trainings and samplings use tapes; all that are made."""
    made: list[TapedGraphs] = []

    def make(device: torch.device, *, wanted: bool = True) -> TapedGraphs:
        made.append(TapedGraphs(device, wanted=wanted))
        return made[-1]

    for module in (trainer, predict):
        monkeypatch.setattr(module, "Graphs", make)
    return made


class GpuAdam(adam.Adam):
    """As on a GPU, its rate is in a tensor."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.param_groups[0]["lr"] = torch.tensor(self.param_groups[0]["lr"])


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return open_dataset("phantom", size=16, cases=8, classes=1)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training(
    tmp_path: Path, phantom: Dataset, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """With R1 and without, with an update of the discriminator and without, at changing rates, validated by the same weights."""
    monkeypatch.setattr(trainer, "Adam", GpuAdam)
    config = Config().replace(TINY | {"training.precision": precision})
    expected = [report.values for report in train(config, phantom, tmp_path / "computed")]
    made: list[TapedGraphs] = request.getfixturevalue("taped")
    found = [report.values for report in train(config, phantom, tmp_path / "replayed")]
    assert [len(graphs.recorded) for graphs in made] == [3, 1]  # kinds of steps; shapes of validation
    for one, other in zip(found, expected, strict=True):
        for name in one:
            if name.startswith(("loss", "lr", "r1", "attention", "dice", "iou")):
                assert one[name] == other[name], name


@pytest.mark.parametrize("architecture", ["cdal", "unet"])
def test_sampling(taped: list[TapedGraphs], architecture: str) -> None:
    config = Config().replace(TINY | {"model.architecture": architecture})
    generator = trainer.Trainer(config, torch.device("cpu")).generator
    sample, plain = sampler(config, generator), sampler(config, generator, graphs=False)
    for number in range(5):
        images = torch.randn(2 + number // 4, 1, 16, 16)
        masks, expected = (draw(images, [torch.Generator().manual_seed(vote) for vote in range(3)]) for draw in (sample, plain))
        assert masks.shape == (3, len(images), 1, 16, 16)
        torch.testing.assert_close(masks, expected)
        with torch.no_grad():
            generator.image_stem.weight *= 1.5  # a recording reads the weights of the time
    assert len(taped[1].recorded) == 1


def test_what_is_given_back_stays() -> None:
    graphs = TapedGraphs(torch.device("cpu"))
    results = [graphs.run("", lambda x: 2 * x, torch.full((2,), float(number))) for number in range(4)]
    assert [result.tolist() for result in results] == [[2.0 * number] * 2 for number in range(4)]
    assert len(graphs.recorded) == 1
    graphs.run("", lambda x: 2 * x, torch.zeros(3))
    graphs.run("", lambda x: 2 * x, torch.zeros(3))
    graphs.run("other", lambda x: 3 * x, torch.zeros(3))
    assert graphs.run("other", lambda x: 3 * x, torch.ones(3)).tolist() == [3.0] * 3
    assert len(graphs.recorded) == 3
    graphs.forget()
    assert graphs.run("other", lambda x: 4 * x, torch.ones(3)).tolist() == [4.0] * 3


def test_what_cannot_be_recorded_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(function: Any, inputs: tuple[Tensor, ...]) -> Any:
        raise torch.OutOfMemoryError("no memory left\nand more")

    graphs = TapedGraphs(torch.device("cpu"))
    monkeypatch.setattr(graphs, "_record", full)
    with pytest.warns(UserWarning, match="not recorded as a CUDA graph, which costs some speed: no memory left$"):
        assert [float(graphs.run("", torch.neg, torch.ones(()))) for _ in range(2)] == [-1.0, -1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(graphs.run("", torch.neg, torch.ones(()))) == -1.0


def test_a_cpu_has_no_graphs() -> None:
    calls = []
    graphs = Graphs(torch.device("cpu"))
    for _ in range(3):
        graphs.run("", lambda x: calls.append(1) or x, torch.zeros(1))  # type: ignore[func-returns-value]
    assert len(calls) == 3
