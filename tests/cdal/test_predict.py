"""Drawing masks: several votes go through the generator together, and say what each says alone."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from cdal import predict
from cdal.config import Config
from cdal.data import open_dataset
from cdal.evaluation import ValidationScore, validate
from cdal.generator import Generator
from cdal.predict import full_protocol, protocol, sampler
from cdal.pulse import listening

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


@contextmanager
def little_memory(generator: Generator, most: int, error: Exception) -> Iterator[None]:
    """Inside, no more than so many images or masks fit."""

    def allocate(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise error

    hooks = [stem.register_forward_pre_hook(allocate) for stem in (generator.image_stem, generator.mask_stem)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


NOTHING_LEFT = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
PHANTOM = {"evaluation.votes": 4, "evaluation.overlap": 0.5, "evaluation.vote_confidence": 0.9}


@pytest.mark.parametrize("architecture", ["cdal", "unet"])
@pytest.mark.parametrize("most", [7, 3, 2, 1])
def test_masks_that_do_not_fit_together_are_drawn_one_after_the_other(most: int, architecture: str) -> None:
    config, generator = config_and_generator(model__architecture=architecture)
    expected, (one, other) = sampler(config, generator)(images(), rngs(5)), (rngs(5), rngs(5))
    sample = sampler(config, generator)
    with little_memory(generator, most, NOTHING_LEFT), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first, second = sample(images(), one), sample(images(), one)
    fits = most >= 3 and architecture == "unet"  # one vote of three images is all that it draws
    assert [str(warning.message).partition(":")[0] for warning in said] == [
        "the masks that are drawn at once do not fit the memory"
    ] * (not fits)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=0)
    full = sampler(config, generator)
    full(images(), other)
    torch.testing.assert_close(second, full(images(), other), atol=1e-5, rtol=0)  # the streams have gone on alike


def test_one_mask_that_does_not_fit_is_an_error() -> None:
    config, generator = config_and_generator()
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory")):
        with little_memory(generator, 0, error), pytest.warns(match="do not fit"), pytest.raises(type(error), match="memory"):
            sampler(config, generator)(images(), rngs(5))
    with little_memory(generator, 3, RuntimeError("another error")), pytest.raises(RuntimeError, match="another error"):
        sampler(config, generator)(images(), rngs(5))


def test_figures_do_not_depend_on_the_memory_that_there_is() -> None:
    dataset = open_dataset("phantom", size=32, cases=8, classes=1)
    config, generator = config_and_generator(**{name.replace(".", "__"): value for name, value in PHANTOM.items()})
    spec, cases = dataset.spec, dataset.split(0).validation[:2]
    config = config.replace({"model.image_channels": spec.image_channels, "model.image_size": 32})
    generator = Generator.from_config(config.model)

    def figures() -> tuple[ValidationScore, list[Any], int]:
        beats: list[None] = []
        settings = protocol(config, generator)
        how = {name: settings[name] for name in ("multiple", "seed", "device")}
        with listening(lambda: beats.append(None)):
            score = validate(dataset, cases, sampler(config, generator), votes=2, **how)
            results = list(full_protocol(config, generator, dataset, cases))
        return score, results, len(beats)

    cheap, scored, beats = figures()
    with little_memory(generator, 1, NOTHING_LEFT), pytest.warns(UserWarning, match="do not fit"):
        cheap_again, scored_again, more_beats = figures()
    assert cheap_again.dice == pytest.approx(cheap.dice, abs=1e-6)
    for one, other in zip(scored, scored_again, strict=True):
        assert one.votes_used == other.votes_used
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.entropy, other.entropy, atol=1e-4, rtol=0)
        assert [score.dice for score in one.scores] == pytest.approx([score.dice for score in other.scores], abs=1e-6)
    assert more_beats > beats > 3 * len(cases)
