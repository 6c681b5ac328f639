"""Drawing masks: several votes go through the generator together, and say what each says alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cdal import predict
from cdal.config import Config
from cdal.generator import Generator
from cdal.predict import sampler

SMALL: dict[str, Any] = {
    "model.image_size": 16,
    "model.base_width": 8,
    "model.width_multipliers": [1, 1],
    "model.attention_resolutions": [8],
    "model.encoder_blocks": 1,
    "model.latent_size": 8,
    "model.latent_embedding": 16,
    "diffusion.timesteps": 2,
}


def config_and_generator(**changes: Any) -> tuple[Config, Generator]:
    """A small generator whose output depends on everything: as initialised, its last layers give almost nothing."""
    config = Config().replace(SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    generator = Generator.from_config(config.model)
    rng = torch.Generator().manual_seed(0)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=rng)
    return config, generator


def rngs(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def images() -> Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("together", "expected"), [(3, [3] * 10), (7, [7, 7, 1, 7, 7, 1]), (15, [15, 15])])
def test_votes_drawn_together_equal_votes_drawn_alone(monkeypatch: pytest.MonkeyPatch, together: int, expected: list[int]) -> None:
    config, generator = config_and_generator()
    batches = []
    generator.mask_stem.register_forward_hook(lambda _module, _inputs, out: batches.append(len(out)))
    encoded = []
    generator.image_stem.register_forward_hook(lambda _module, _inputs, out: encoded.append(len(out)))
    monkeypatch.setitem(predict.PASS_PIXELS, "cpu", together * 16 * 16)
    found = sampler(config, generator)(images(), rngs(5))
    assert found.shape == (5, 3, 1, 16, 16)
    assert encoded == [3]  # images, once for all votes and steps
    assert batches == expected  # 15 masks, in each of two steps
    alone = torch.cat([sampler(config, generator)(images(), [rng]) for rng in rngs(5)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(found[0], found[1], atol=0.01)


def test_sampling_in_half_precision_stays_close() -> None:
    config, generator = config_and_generator()
    full = sampler(config, generator)(images(), rngs(2))
    half = sampler(config.replace({"training.precision": "bf16"}), generator)(images(), rngs(2))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert float((half - full).abs().mean()) < 0.05


def test_a_plain_network_says_the_same_in_every_vote() -> None:
    config, generator = config_and_generator(model__architecture="unet")
    found = sampler(config, generator)(images(), rngs(3))
    assert found.shape == (3, 3, 1, 16, 16)
    assert torch.equal(found[0], found[2])
