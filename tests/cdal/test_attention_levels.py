"""Where the generator attends: at the level nearest to a named side, whatever the size of the samples; and in older files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import dataset_of
from safetensors.torch import load_file

from cdal.checkpoint import load, load_model, save
from cdal.config import PRESETS, Config, preset
from cdal.data import open_dataset
from cdal.errors import InputError
from cdal.generator import Generator
from cdal.layers import SelfAttention
from cdal.sections import ModelConfig
from cdal.training import BEST, LAST, train


def attentions(model: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(isinstance(module, SelfAttention) for module in Generator.from_config(model).modules())


def sides(model: ModelConfig) -> list[int]:
    return [model.image_size >> level for level in model.attention_levels]


@pytest.mark.parametrize("size", range(32, 513, 32))
def test_attention_does_not_vanish_with_the_image_size(size: int) -> None:
    """Down, in the middle and up; with six levels its side stays between 11 and 23 pixels."""
    assert attentions(ModelConfig(image_size=size)) == 3
    deep = preset("chest_xray").replace({"model.image_size": size, "model.discriminator": "small"}).model
    assert attentions(deep) == 3
    assert all(16 / 2**0.5 < side < 16 * 2**0.5 for side in sides(deep))


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "monuseg": [16, 8], "chest_xray": [16], "hippocampus": [16], "hippocampus_sampling": [16],
        "monuseg_fast": [16], "chest_xray_fast": [16], "hippocampus_fast": [8],
    }.items(),
)  # fmt: skip
def test_presets_attend_where_they_say(name: str, expected: list[int]) -> None:
    assert name in PRESETS
    assert sides(preset(name).model) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attention_resolutions": ()}, []),
        ({"attention_resolutions": (16, 17, 20)}, [16]),  # three names of one level
        ({"attention_resolutions": (1, 8192)}, [64, 8]),
        ({"attention_resolutions": (22, 23)}, [32, 16]),  # 22.6 is half way by ratio
        ({"attention_resolutions": (16,), "width_multipliers": (1,)}, [64]),
    ],
    ids=str,
)
def test_the_nearest_level_is_taken(changes: dict[str, Any], expected: list[int]) -> None:
    model = ModelConfig(image_size=64, **changes)
    assert sides(model) == expected
    assert attentions(model) == 1 + len(expected) * 2


OLD: dict[str, Any] = {
    "model.image_size": 16,
    "model.base_width": 8,
    "model.width_multipliers": [1, 1],
    "model.attention_resolutions": [],
    "model.encoder_blocks": 0,
    "model.latent_size": 4,
    "model.latent_embedding": 8,
    "model.discriminator_width": 4,
    "model.discriminator_time_embedding": 8,
    "training.steps_per_epoch": 1,
    "training.epochs": 1,
    "evaluation.validation_cases": 1,
}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training by a version for which a side that no level has meant no attention: 4 of the sides 16 and 8."""
    folder = tmp_path_factory.mktemp("older")
    dataset = open_dataset("phantom", size=16, cases=8, classes=1)
    list(train(Config().replace(OLD), dataset_of(dataset.spec, [dataset.case(name) for name in dataset.ids]), folder))
    for name in (BEST, LAST):
        tensors, info = load(folder / name)
        info["config"]["model"]["attention_resolutions"] = [4]
        save(folder / name, tensors, info)
    return folder


def test_an_older_model_attends_where_it_did(older: Path) -> None:
    config, generator = load_model(older / BEST)
    assert config == Config().replace(OLD)
    stored = load_file(older / BEST)
    assert all(torch.equal(tensor, stored[f"generator.{name}"]) for name, tensor in generator.state_dict().items())
    assert attentions(config.model) == 1


def test_an_older_training_does_not_go_on_as_another_one(older: Path) -> None:
    before = (older / LAST).read_bytes()
    config = Config().replace(OLD | {"model.attention_resolutions": [4], "training.epochs": 2})
    with pytest.raises(
        InputError, match=r"last\.safetensors was trained by an older version, .*= \[4\] meant self-attention at other"
    ):
        list(train(config, open_dataset("phantom", size=16, cases=8, classes=1), older))
    assert (older / LAST).read_bytes() == before
