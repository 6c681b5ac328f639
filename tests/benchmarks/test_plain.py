"""The plain side of the benchmarks is the release, by its vectors and its count of operations, and it learns what ours learns."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import MODELS, load_formula_weights
from operations import Operations
from plain import (
    PlainDiscriminator,
    PlainGenerator,
    PlainTrainer,
    predict_image,
    predict_volume,
    released_state,
    reverse,
    sample,
)
from released import manifest, model_config
from safetensors.torch import load_file
from torch import Tensor, nn

from cdal.config import Config, preset
from cdal.trainer import Draws, Trainer

CPU = torch.device("cpu")

# --- The release's own vectors, within the tolerances of tests/cdal/test_parity.py ---


def with_weights(network: nn.Module, parity: Path, name: str) -> Any:
    network.load_state_dict(load_file(parity / f"{name}.params.safetensors"), strict=True)
    return network


def relative(ours: Tensor | None, theirs: Tensor) -> float:
    assert ours is not None
    return float((ours - theirs).detach().norm() / theirs.norm().clamp(min=1e-12))


def assert_gradient_norms(norms: dict[str, float], expected: dict[str, float | None], tolerance: float = 1e-5) -> None:
    """Every parameter's gradient norm, measured against the norm of the whole gradient."""
    total = sum((norm or 0) ** 2 for norm in expected.values()) ** 0.5
    assert set(norms) == set(expected)
    for name, norm in norms.items():
        assert abs(norm - (expected[name] or 0)) <= tolerance * total, name


def gradient_norms(network: nn.Module) -> dict[str, float]:
    return {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in network.named_parameters()}


@pytest.mark.long
@pytest.mark.parametrize("name", ["gen_monu_small", "gen_hippo_small"])
def test_generator_equals_the_release(parity: Path, name: str) -> None:
    generator = with_weights(PlainGenerator(model_config(parity, name)), parity, name)
    io = load_file(parity / f"{name}.io.safetensors")
    x, y, z = (io[key].requires_grad_() for key in "xyz")
    out = generator(x, io["t"], y, z)
    torch.testing.assert_close(out, io["out"], atol=2e-5, rtol=0)
    (out * io["cot"]).sum().backward()
    for tensor, key in ((x, "grad_x"), (y, "grad_y"), (z, "grad_z")):
        assert relative(tensor.grad, io[key]) < 1e-4, key
    assert_gradient_norms(gradient_norms(generator), manifest(parity)["generators_and_discriminators"][name]["param_grad_l2"])


@pytest.mark.parametrize(("name", "generator"), [("disc_small", "gen_hippo_small"), ("disc_large", "gen_monu_small")])
def test_discriminator_equals_the_release(parity: Path, name: str, generator: str) -> None:
    discriminator = with_weights(PlainDiscriminator(model_config(parity, generator)), parity, name)
    io = load_file(parity / f"{name}.io.safetensors")
    for case in ("b1", "b2", "b3", "b8", "b2_big"):
        logits = discriminator(io[f"{case}.x"], io[f"{case}.t"], io[f"{case}.x_t"])
        assert relative(logits, io[f"{case}.logits"]) < 1e-5, case
    features = discriminator.features(io["b2.x"], io["b2.t"], io["b2.x_t"])
    assert len(features) == len([key for key in io if key.startswith("b2.feature")])
    for tap, feature in enumerate(features):
        assert relative(feature, io[f"b2.feature{tap}"]) < 1e-5


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("monu", "monuseg"), ("lung", "chest_xray"), ("hippo", "hippocampus"), ("hippo_sampling", "hippocampus_sampling")],
)
def test_full_size_networks_have_the_released_parameters(parity: Path, theirs: str, ours: str) -> None:
    listed = json.loads((parity / "params_full.json").read_text())[theirs]
    for kind, network in (("generator", PlainGenerator), ("discriminator", PlainDiscriminator)):
        with torch.device("meta"):
            built = network(preset(ours).model)
        shapes = {name: tuple(shape) for name, shape in listed[kind]["params"]}
        assert {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()} == shapes


@pytest.mark.long
@pytest.mark.parametrize("name", ["sample_monu_T4", "sample_monu_T2", "sample_hippo_T4"])
def test_sampling_equals_the_release(parity: Path, name: str) -> None:
    about, io = manifest(parity)["sampling"][name], load_file(parity / f"{name}.safetensors")
    weights = about["params"].removesuffix(".params")
    config = Config(model=model_config(parity, weights)).replace({"diffusion.timesteps": about["T"]})
    generator, inputs = with_weights(PlainGenerator(config.model), parity, weights), []
    generator.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    out = reverse(config, generator, io["y"], io["x_init"], given_draws(list(io["latents"]), list(io["noises"])))
    torch.testing.assert_close(out, io["out"], atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.stack(inputs), io["steps_input"], atol=2e-5, rtol=0)


def given_draws(latents: list[Tensor], noises: list[Tensor]) -> Callable[..., Tensor]:
    """What `reverse` draws: latent and noise of every step in turn."""
    draws = iter([draw for pair in zip(latents, noises, strict=True) for draw in pair])

    def normal(*shape: int) -> Tensor:
        draw = next(draws)
        assert draw.shape == shape
        return draw

    return normal


@pytest.mark.long
@pytest.mark.parametrize("name", ["train_monu_rand", "train_hippo_rand"])
def test_training_steps_equal_the_release(parity: Path, name: str) -> None:
    """Losses, gradients after every part (also those that are computed and then erased), weights and average."""
    about, io = manifest(parity)["train"][name], load_file(parity / f"{name}.safetensors")
    hyper = about["hyper"]
    config = Config(model=model_config(parity, about["G_init"].removesuffix(".params"))).replace(
        {
            "diffusion.timesteps": hyper["num_timesteps"],
            "diffusion.beta_min": hyper["beta_min"],
            "diffusion.beta_max": hyper["beta_max"],
            "loss.r1_gamma": hyper["r1_gamma"],
            "loss.r1_interval": hyper["lazy_reg"],
            "optimiser.lr_generator": hyper["lr_g"],
            "optimiser.lr_discriminator": hyper["lr_d"],
            "optimiser.beta1": hyper["beta1"],
            "optimiser.beta2": hyper["beta2"],
            "optimiser.ema_decay": hyper.get("ema_decay", 0.0),
        }
    )
    trainer = PlainTrainer(config, CPU)
    with_weights(trainer.generator, parity, about["G_init"].removesuffix(".params"))
    with_weights(trainer.discriminator, parity, about["D_init"].removesuffix(".params"))
    networks = {"G": trainer.generator, "D": trainer.discriminator}
    rates = {"G": hyper["lr_g"], "D": hyper["lr_d"]}
    seen: dict[str, dict[str, dict[str, float]]] = {}
    trainer.mark = lambda part: seen.setdefault(part, {kind: gradient_norms(network) for kind, network in networks.items()})

    for number, expected in enumerate(about["steps"]):
        step = {key.removeprefix(f"step{number}."): value for key, value in io.items() if key.startswith(f"step{number}.")}
        draw = {key.removeprefix("draw."): value for key, value in step.items() if key.startswith("draw.")}
        draws = Draws(
            draw["t_d"], draw["noise_d_xtp1"], draw["noise_d_xt"], draw["z_d"], draw["noise_posterior"],
            draw["t_g"], draw["noise_attn_xtp1"], draw["noise_attn_xt"], draw["z_g"],
            draw["noise_gen_xtp1"], draw["noise_gen_xt_unused"], torch.zeros_like(draw["noise_posterior"]),
        )  # fmt: skip
        seen.clear()
        losses = trainer.step(step["image"], step["mask"], draws)

        close = {"rtol": 1e-4, "atol": 1e-7}
        torch.testing.assert_close(losses["loss_real"].reshape(1), step["errD_real"], **close)
        torch.testing.assert_close(losses["loss_fake"].reshape(1), step["errD_fake"], **close)
        torch.testing.assert_close(losses["loss_reconstruction"], step["mse"].mean(), **close)
        torch.testing.assert_close(losses["attention_mean"], step["attn"].mean(), rtol=1e-3, atol=1e-6)
        assert ("r1_penalty" in losses) == ("R1" in seen) == expected["r1"]
        tolerance = 1e-5 if number == 0 else 1e-4
        if expected["r1"]:
            torch.testing.assert_close(losses["r1_penalty"].reshape(1), step["r1_penalty"], **close)
            assert_gradient_norms(seen["R1"]["D"], expected["D_grad_l2_after_real_and_r1"], tolerance)
        assert_gradient_norms(seen["discriminator real"]["D"], expected["D_grad_l2_after_real"], tolerance)
        assert_gradient_norms(seen["discriminator fake"]["D"], expected["D_grad_l2"], tolerance)
        assert_gradient_norms(seen["generator"]["G"], expected["G_grad_l2"], tolerance)
        erased = sum(norm**2 for norm in seen["discriminator fake"]["G"].values()) ** 0.5
        assert erased == pytest.approx(expected["G_grad_total_l2_right_before_zero_grad"], rel=1e-4 if number == 0 else 3e-4)

        for key, value in step.items():
            kind, _, rest = key.partition(".")
            which, _, parameter = rest.partition(".")
            if kind not in networks:
                continue
            ours = trainer.average[parameter] if which == "ema" else networks[kind].get_parameter(parameter)
            if which == "grad":
                assert relative(ours.grad, value) < (3e-4 if number == 0 else 1e-3), key
            else:
                worst = float((ours - value).detach().abs().max())
                assert worst < 0.5 * rates[kind] or relative(ours, value) < 1e-5, key


# --- In any clone ---


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "generator", "discriminator", "step"),
    [("monuseg", 163.9, 152.4, 2805), ("chest_xray", 39.8, 152.4, 2062), ("hippocampus", 0.90, 2.97, 40.9)],
)
def test_does_the_work_of_the_release(name: str, generator: float, discriminator: float, step: float) -> None:
    """Billions of operations per image of a forward pass and of a step with R1, as counted in the release: no more and no less."""
    config, meta = preset(name), torch.device("meta")
    with torch.device("meta"):
        trainer, draws = PlainTrainer(config, meta), random_draws(config, batch=1)
        image, mask = torch.zeros(1, config.model.image_channels, *draws.noise_posterior.shape[2:]), draws.noise_posterior
    with Operations() as count:
        trainer.generator(mask, draws.t_generator, image, draws.latent_generator)
    assert count.total / 1e9 == pytest.approx(generator, abs=0.05 if generator > 1 else 0.005)
    with Operations() as count:
        trainer.discriminator(mask, draws.t_generator, mask)
    assert count.total / 1e9 == pytest.approx(discriminator, abs=0.05 if discriminator > 100 else 0.005)
    with Operations() as count:
        trainer.step(image, mask, draws)
    assert count.total / 1e9 == pytest.approx(step, abs=0.5 if step > 100 else 0.055)


def random_draws(config: Config, batch: int) -> Draws:
    """Draws of the global random state, on the default device."""
    model = config.model
    masks = (batch, model.mask_channels, model.image_size, model.image_size)
    return Draws(
        *(
            torch.randint(config.diffusion.timesteps, (batch,))
            if name.startswith("t_")
            else torch.randn(batch, model.latent_size)
            if name.startswith("latent_")
            else torch.randn(masks)
            for name in Draws._fields
        )
    )


def our_trainer(config: Config) -> Trainer:
    trainer = Trainer(config, CPU)
    assert trainer.discriminator is not None
    for network in (trainer.generator, trainer.discriminator):  # as initialised, some layers give almost 0, which hides errors
        load_formula_weights(network)
    return trainer


@pytest.mark.parametrize("name", [pytest.param("binary_large", marks=pytest.mark.long), "three_classes_small"])
def test_two_steps_equal_ours(name: str) -> None:
    config = Config(model=MODELS[name]).replace({"optimiser.ema_decay": 0.9, "loss.r1_interval": 2})
    ours, parts = our_trainer(config), []
    plain = PlainTrainer(config, CPU, parts.append)
    plain.load(ours)
    torch.manual_seed(0)
    image = torch.randn(4, config.model.image_channels, config.model.image_size, config.model.image_size)
    mask = torch.randn(4, config.model.mask_channels, *image.shape[2:]).sign()
    assert ours.discriminator is not None
    assert ours.average is not None
    before = {**released_state(ours.generator), **released_state(ours.discriminator)}
    before = {key: value.clone() for key, value in before.items()}

    for number in range(2):
        parts.clear()
        draws = random_draws(config, batch=4)
        found, expected = plain.step(image, mask, draws), ours.step(image, mask, draws)
        assert ("r1_penalty" in found) == ("R1" in parts) == (number == 0)
        assert {key for key in expected if key.startswith("r1")} == {key for key in found if key.startswith("r1")}
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    assert parts == ["discriminator real", "discriminator fake", "optimiser", "attention", "generator", "optimiser"]

    for mine, theirs in (
        (plain.generator.state_dict(), ours.generator),
        (plain.discriminator.state_dict(), ours.discriminator),
        (plain.average, ours.average),
    ):
        expected = released_state(theirs)
        assert mine.keys() == expected.keys()
        for key, value in mine.items():
            if key.endswith(("in_layers.2.bias", "NIN_1.b")):  # their gradients are rounding errors, which Adam makes steps of
                continue
            # Against the way that the weights went: Adam makes a whole step of the sign of a gradient, be it ever so small.
            assert float((value - expected[key]).norm()) <= 0.05 * float((expected[key] - before[key]).norm()), key


@pytest.mark.parametrize("name", MODELS)
def test_sampling_equals_ours(name: str) -> None:
    config = Config(model=MODELS[name])
    ours, plain = our_trainer(config), PlainTrainer(config, CPU)
    plain.load(ours)
    torch.manual_seed(0)
    image = torch.randn(2, config.model.image_channels, config.model.image_size, config.model.image_size)
    start = torch.randn(2, config.model.mask_channels, *image.shape[2:])
    latents = [torch.randn(2, config.model.latent_size) for _ in range(config.diffusion.timesteps)]
    noises = [torch.randn_like(start) for _ in latents]
    with torch.no_grad():
        features = ours.generator.encode(image)
        expected = ours.diffusion.sample(
            lambda x, t, z: ours.generator(x, t, features, z), start, lambda t: latents[t], lambda t: noises[t]
        )
    found = reverse(config, plain.generator, image, start, given_draws(latents[::-1], noises[::-1]))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


class Threshold(nn.Module):
    """Stands in for a generator: mask channel 0 is where the image is negative, the last one where it is positive."""

    def __init__(self, mask_channels: int) -> None:
        super().__init__()
        self.mask_channels, self.batches = mask_channels, Counter[int]()

    def forward(self, x: Tensor, t: Tensor, image: Tensor, z: Tensor) -> Tensor:
        self.batches[len(image)] += 1
        sign = image[:, :1].sign()
        return sign if self.mask_channels == 1 else torch.cat([-sign, -torch.ones_like(sign), sign], dim=1)


def test_an_image_is_predicted_in_tiles_that_form_one_batch() -> None:
    config = preset("monuseg").replace({"model.image_size": 64})
    generator, image = Threshold(1), torch.randn(3, 128, 192, generator=torch.Generator().manual_seed(0))
    mask = predict_image(config, generator, image, torch.Generator())
    assert torch.equal(mask, (image[:1] > 0).float())
    assert generator.batches == {6: 5 * 4}  # votes and time steps
    with pytest.raises(ValueError, match="tiles of 64"):
        predict_image(config, generator, image[:, 1:], torch.Generator())


def test_a_volume_is_predicted_in_cubes_that_overlap_along_all_axes() -> None:
    config = preset("hippocampus")
    generator, volume = Threshold(3), torch.randn(1, 36, 51, 35, generator=torch.Generator().manual_seed(0))
    labels = predict_volume(config, generator, volume, torch.Generator())
    assert torch.equal(labels, 2 * (volume[0] > 0))
    assert generator.batches == {32: 16 * 5 * 4}  # 2 x 4 x 2 cubes, votes and time steps


def test_votes_are_drawn_anew_from_the_given_generator() -> None:
    config = Config(model=MODELS["three_classes_small"])
    generator = PlainTrainer(config, CPU).generator
    image = torch.randn(1, 1, 32, 32)
    first, second, again = (
        [sample(config, generator, image, rng) for _ in range(2)]
        for rng in (torch.Generator().manual_seed(seed) for seed in (0, 1, 0))
    )
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("change", [{"loss.adversarial": 0.1}, {"loss.attention": 0.0}, {"model.architecture": "unet"}])
def test_what_the_release_does_not_know_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="the release"):
        PlainTrainer(Config(model=MODELS["three_classes_small"]).replace(change), CPU)


def test_only_a_fresh_trainer_is_copied() -> None:
    config = Config(model=MODELS["three_classes_small"])
    ours = Trainer(config, CPU)
    ours.steps = 1
    with pytest.raises(ValueError, match="fresh"):
        PlainTrainer(config, CPU).load(ours)
