"""Configuration: round trips, dotted paths, and one clear sentence for every mistake."""

import json
from typing import Any

import pytest

from cdal.config import PRESETS, Config, parse_setting, preset
from cdal.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = preset(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert Config().replace(config.flatten()) == config


def test_replace_changes_only_what_it_names() -> None:
    changed = preset("hippocampus").replace({"diffusion.timesteps": 2, "loss.adversarial": 1})
    different = {key for key, value in changed.flatten().items() if value != preset("hippocampus").flatten()[key]}
    assert different == {"diffusion.timesteps", "loss.adversarial"}
    assert isinstance(changed.loss.adversarial, float)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.latentsize", 3, "did you mean 'model.latent_size'"),
        ("colour", 3, "unknown configuration field 'colour'"),
        ("diffusion.timesteps", 0, "diffusion.timesteps is 0; it must be above 0"),
        ("diffusion.timesteps", 2.5, "must be a whole number"),
        ("diffusion.timesteps", True, "must be a whole number"),
        ("diffusion.timesteps", "4", "must be a whole number"),
        ("diffusion.schedule", "linear", "must be one of variance_preserving, geometric"),
        ("diffusion.schedule", "geometric", "the geometric schedule needs a value below 1"),
        ("diffusion.beta_max", 0.05, "must be larger than beta_min"),
        ("model.base_width", 20, "must be a multiple of 8"),
        ("model.image_size", 36, "cannot halve evenly"),
        ("model.width_multipliers", [], "width_multipliers is empty"),
        ("model.width_multipliers", [1, 0], "every number must be above 0"),
        ("model.width_multipliers", [1.5], "a list of whole numbers"),
        ("model.attention_tap", 5, "has taps 0 to 4"),
        ("model.discriminator", "large", "needs at least 64 pixels"),
        ("model.discriminator_blocks", 5, "model.discriminator_blocks is 5; the small discriminator has 4"),
        ("model.discriminator_blocks", 1, "model.attention_tap is 2; the small discriminator has taps 0 to 1"),
        ("optimiser.discriminator_interval", 0, "must be above 0"),
        ("training.accumulation", 0, "must be above 0"),
        ("training.precision", "fp16", "must be one of fp32, tf32, bf16"),
        ("loss.attention", 1.5, "must lie between 0 and 1"),
        ("loss.r1_gamma", -1, "must be at least 0"),
        ("loss.r1_gamma", float("nan"), "must be a number"),
        ("loss.reconstruction", 0, "would learn nothing"),
        ("loss.attention_normalised", 1, "must be true or false"),
        ("optimiser.ema_decay", 1, "must be below 1"),
        ("training.samples_per_case", 3, "must be a multiple of samples_per_case"),
        ("evaluation.overlap", 1, "must be below 1"),
        ("evaluation.vote_confidence", 1, "evaluation.vote_confidence is 1.0; it must be 0 (all votes) or between 0 and 1"),
        ("evaluation.vote_confidence", -0.1, "must be 0 (all votes) or between 0 and 1"),
        ("evaluation.vote_confidence", float("nan"), "must be a number"),
        ("evaluation.vote_confidence", "high", "must be a number"),
    ],
)
def test_mistakes_are_told_in_one_sentence(path: str, value: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        Config().replace({path: value})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("loss.adversarial=0.1", "loss.adversarial", 0.1),
        ("optimiser.lr_generator=1e-3", "optimiser.lr_generator", 1e-3),
        ("model.width_multipliers=[1, 2]", "model.width_multipliers", [1, 2]),
        ("model.architecture=unet", "model.architecture", "unet"),
        ("loss.attention_normalised=true", "loss.attention_normalised", True),
    ],
)
def test_settings_on_the_command_line(text: str, path: str, value: Any) -> None:
    assert parse_setting(text) == (path, value)


@pytest.mark.parametrize("text", ["loss.adversarial", "loss.adversarial=[1", ""])
def test_malformed_settings(text: str) -> None:
    with pytest.raises(InputError, match="is not a setting"):
        parse_setting(text)


def test_unknown_section_and_preset() -> None:
    with pytest.raises(InputError, match="unknown configuration section 'models'"):
        Config.from_dict({"models": {}})
    with pytest.raises(InputError, match="presets are monuseg"):
        preset("brain")


@pytest.mark.parametrize("name", ["monuseg", "chest_xray", "hippocampus"])
def test_a_cheaper_recipe_keeps_what_the_dataset_needs(name: str) -> None:
    published, fast = preset(name), preset(f"{name}_fast")
    assert fast.training.epochs == published.training.epochs
    assert fast.training.seed == published.training.seed
    for field in ("image_size", "image_channels", "mask_channels", "discriminator", "attention_tap", "latent_size"):
        assert getattr(fast.model, field) == getattr(published.model, field)
    assert fast.diffusion == published.diffusion
    assert fast.evaluation == published.evaluation


def test_fewer_blocks_need_fewer_pixels() -> None:
    config = Config().replace({"model.discriminator": "large", "model.discriminator_blocks": 4, "model.image_size": 16})
    assert config.model.discriminator_reduction == 16
