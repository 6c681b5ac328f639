"""Agreement with vectors made by the authors' code, within the tolerances stated beside them."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden import load_formula_weights
from released import manifest, model_config
from safetensors.torch import load_file
from torch import Tensor, nn

from cdal.checkpoint import _PARTS, from_published, published_names
from cdal.config import Config, preset
from cdal.diffusion import Diffusion
from cdal.discriminator import Discriminator
from cdal.generator import Generator
from cdal.layers import (
    AdaptiveGroupNorm,
    DiscriminatorBlock,
    EncoderBlock,
    Fir,
    LatentMapping,
    PyramidDown,
    ResidualBlock,
    SelfAttention,
    time_features,
)
from cdal.losses import r1_penalty, spatial_attention
from cdal.trainer import Draws, Trainer

GENERATORS = ["gen_monu_small", "gen_hippo_small"]
DISCRIMINATORS = ["disc_small", "disc_large"]


def small_generator(parity: Path, name: str) -> Generator:
    generator = Generator.from_config(model_config(parity, name))
    generator.load_state_dict(from_published(generator, load_file(parity / f"{name}.params.safetensors")))
    return generator


def small_discriminator(parity: Path, name: str) -> Discriminator:
    kind = "small" if name == "disc_small" else "large"
    discriminator = Discriminator(kind=kind, mask_channels=3 if kind == "small" else 1, width=8, time_embedding=32)
    discriminator.load_state_dict(from_published(discriminator, load_file(parity / f"{name}.params.safetensors")))
    return discriminator


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.norm().clamp(min=1e-12))


def assert_gradient_norms(network: Generator | Discriminator, expected: dict[str, float | None], tolerance: float = 1e-5) -> None:
    """Every parameter's gradient norm, measured against the norm of the whole gradient."""
    parameters, total = dict(network.named_parameters()), sum((norm or 0) ** 2 for norm in expected.values()) ** 0.5
    names = published_names(network)
    assert set(names) == set(expected)
    for theirs, norm in expected.items():
        gradient = parameters[names[theirs]].grad
        ours = 0.0 if gradient is None else float(gradient.norm())
        assert abs(ours - (norm or 0)) <= tolerance * total, theirs


@pytest.mark.long
@pytest.mark.parametrize("name", GENERATORS)
def test_generator_forward_and_gradients(parity: Path, name: str) -> None:
    generator, io = small_generator(parity, name), load_file(parity / f"{name}.io.safetensors")
    x, y, z = (io[key].requires_grad_() for key in "xyz")
    out = generator(x, io["t"], generator.encode(y), z)
    torch.testing.assert_close(out, io["out"], atol=2e-5, rtol=0)
    torch.testing.assert_close(generator.latent(z), io["zemb"], atol=2e-5, rtol=0)
    torch.testing.assert_close(generator.embed_time(io["t"]), io["temb_dense1"], atol=2e-5, rtol=0)

    (out * io["cot"]).sum().backward()
    for tensor, key in ((x, "grad_x"), (y, "grad_y"), (z, "grad_z")):
        assert relative(tensor.grad, io[key]) < 1e-4, key
    assert_gradient_norms(generator, manifest(parity)["generators_and_discriminators"][name]["param_grad_l2"])


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_in_double_precision(parity: Path, name: str) -> None:
    generator, io = small_generator(parity, name).double(), load_file(parity / f"{name}.io.safetensors")
    out = generator(io["x"].double(), io["t"], generator.encode(io["y"].double()), io["z"].double())
    torch.testing.assert_close(out, io["out_f64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_module_of_the_generator(parity: Path, name: str) -> None:
    """Mean, deviation and largest value of each module's output, in the order of the released list."""
    from cdal.checkpoint import _flat_modules

    generator, io = small_generator(parity, name), load_file(parity / f"{name}.io.safetensors")
    outputs: dict[int, Tensor] = {}
    for index, module in enumerate(_flat_modules(generator)):
        module.register_forward_hook(lambda _module, _inputs, out, index=index: outputs.__setitem__(index, out))
    generator(io["x"], io["t"], generator.encode(io["y"]), io["z"])
    assert len(outputs) == len(io["module_summary"])
    for index, expected in enumerate(io["module_summary"]):
        out = outputs[index].double()
        summary = torch.stack([out.mean(), out.std(correction=0), out.abs().max()])
        torch.testing.assert_close(
            summary, expected.double(), atol=1e-4, rtol=1e-4, msg=lambda text, i=index: f"module {i}: {text}"
        )


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("case", ["b1", "b2", "b3", "b8", "b2_big"])
def test_discriminator_logits(parity: Path, name: str, case: str) -> None:
    discriminator, io = small_discriminator(parity, name), load_file(parity / f"{name}.io.safetensors")
    x, t, x_next = io[f"{case}.x"], io[f"{case}.t"], io[f"{case}.x_t"]
    assert relative(discriminator(x, t, x_next), io[f"{case}.logits"]) < 1e-5
    double = discriminator.double()(x.double(), t, x_next.double())
    assert relative(double, io[f"{case}.logits_f64"]) < 1e-9


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator_features_and_r1(parity: Path, name: str) -> None:
    discriminator, io = small_discriminator(parity, name), load_file(parity / f"{name}.io.safetensors")
    x, t, x_next = io["b2.x"].requires_grad_(), io["b2.t"], io["b2.x_t"]
    features = [key for key in io if key.startswith("b2.feature")]
    assert len(features) == len(discriminator.blocks) + 1
    for tap in range(len(features)):
        assert relative(discriminator.features(x, t, x_next, tap), io[f"b2.feature{tap}"]) < 1e-5

    logits = discriminator(x, t, x_next)
    (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
    assert relative(gradient, io["b2.grad_sum_logits_wrt_x"]) < 1e-4
    penalty = r1_penalty(logits, x, gamma=1.0)
    torch.testing.assert_close(penalty.reshape(1), io["b2.r1_half"], rtol=1e-4, atol=0)
    penalty.backward()
    assert_gradient_norms(discriminator, manifest(parity)["generators_and_discriminators"][name]["r1_param_grad_l2"])


@pytest.mark.parametrize(
    ("file", "theirs", "ours"),
    [pytest.param("full_monu", "monu", "monuseg", marks=pytest.mark.long), ("full_hippo", "hippo", "hippocampus")],
)
def test_full_size_networks(parity: Path, file: str, theirs: str, ours: str) -> None:
    io, model = load_file(parity / f"{file}.safetensors"), preset(ours).model
    generator = Generator.from_config(model)
    load_formula_weights(generator)
    with torch.no_grad():
        out = generator(io["x"], io["t"], generator.encode(io["y"]), io["z"])
        torch.testing.assert_close(out, io["out"], atol=2e-5, rtol=0)
        torch.testing.assert_close(out.double(), io["out_f64"], atol=2e-5, rtol=0)
        discriminator = Discriminator.from_config(model)
        load_formula_weights(discriminator)
        assert relative(discriminator(io["d_x"], io["t"], io["x"]), io["d_logits"]) < 1e-5
        for tap in range(len(discriminator.blocks) + 1):
            feature = discriminator.features(io["d_x"], io["t"], io["x"], tap)
            summary = torch.stack([feature.mean(), feature.std(), feature.abs().max()])
            torch.testing.assert_close(summary, io[f"d_feature{tap}_mean_std_absmax"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("monu", "monuseg"), ("lung", "chest_xray"), ("hippo", "hippocampus"), ("hippo_sampling", "hippocampus_sampling")],
)
def test_every_published_parameter_has_its_place(parity: Path, theirs: str, ours: str) -> None:
    listed = json.loads((parity / "params_full.json").read_text())[theirs]
    for kind, network in (("generator", Generator), ("discriminator", Discriminator)):
        built = network.from_config(preset(ours).model)
        shapes = {name: tuple(shape) for name, shape in listed[kind]["params"]}
        names, state = published_names(built), built.state_dict()
        assert set(names) == set(shapes)
        assert set(names.values()) == set(state)
        assert len(set(names.values())) == len(names)
        for name, mine in names.items():
            shape = tuple(state[mine].shape)
            assert shapes[name] == (shape[::-1] if name.endswith(".W") else shape), name
        assert sum(parameter.numel() for parameter in built.parameters()) == listed[kind]["n_params"]


DIFFUSIONS = {"T1": (1,), "T2": (2,), "T4": (4,), "T8": (8,), "geo_T4": (4, "geometric", 0.01, 0.9)}


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_schedule(parity: Path, name: str) -> None:
    io, diffusion = load_file(parity / "diffusion.safetensors"), Diffusion(*DIFFUSIONS[name])
    for theirs, ours in {
        "sigmas": diffusion.noise,
        "a_s": diffusion.signal,
        "a_s_cum": diffusion.total_signal,
        "sigmas_cum": diffusion.total_noise,
        "posterior_mean_coef1": diffusion.mean_x0,
        "posterior_mean_coef2": diffusion.mean_next,
        "posterior_variance": diffusion.deviation**2,
    }.items():
        torch.testing.assert_close(ours, io[f"{name}.{theirs}"], atol=1e-6, rtol=0)


def test_pairs_and_posterior(parity: Path) -> None:
    io, diffusion = load_file(parity / "diffusion.safetensors"), Diffusion(4)
    fn = {key.removeprefix("fn."): value for key, value in io.items() if key.startswith("fn.")}
    x_t, x_next = diffusion.pair(fn["x_start"], fn["t"], fn["pairs_noise_second_drawn"], fn["pairs_noise_first_drawn"])
    torch.testing.assert_close(x_t, fn["x_t"], atol=1e-6, rtol=0)
    torch.testing.assert_close(x_next, fn["x_t_plus_one"], atol=1e-6, rtol=0)
    alone, _ = diffusion.pair(fn["x_start"], fn["t"], fn["q_sample_noise"], torch.zeros_like(fn["x_start"]))
    torch.testing.assert_close(alone, fn["q_sample"], atol=1e-6, rtol=0)
    sample = diffusion.posterior(fn["post_x0_pred"], fn["post_x_t"], fn["t"], fn["post_noise"])
    torch.testing.assert_close(sample, fn["post_sample"], atol=1e-6, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "expected", "tolerance"), [(torch.float32, "out", 2e-5), (torch.float64, "out_f64", 1e-6)])
@pytest.mark.parametrize("name", ["sample_monu_T4", "sample_monu_T2", "sample_hippo_T4"])
def test_sampling(parity: Path, name: str, dtype: torch.dtype, expected: str, tolerance: float) -> None:
    about, io = manifest(parity)["sampling"][name], load_file(parity / f"{name}.safetensors")
    generator = small_generator(parity, about["params"].removesuffix(".params")).to(dtype)
    last = about["T"] - 1
    inputs: list[Tensor] = []
    with torch.no_grad():
        features = generator.encode(io["y"].to(dtype))

        def denoise(noisy: Tensor, t: Tensor, z: Tensor) -> Tensor:
            inputs.append(noisy)
            return generator(noisy, t, features, z)

        out = Diffusion(about["T"]).sample(
            denoise,
            io["x_init"].to(dtype),
            latent=lambda t: io["latents"][last - t].to(dtype),
            noise=lambda t: io["noises"][last - t].to(dtype),
        )
    torch.testing.assert_close(out, io[expected].to(dtype), atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.stack(inputs), io["steps_input"].to(dtype), atol=2e-5, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize("name", ["train_monu_rand", "train_hippo_rand"])
def test_training_steps(parity: Path, name: str) -> None:
    """The released recipe, step by step, with every random draw given."""
    about, io = manifest(parity)["train"][name], load_file(parity / f"{name}.safetensors")
    hyper = about["hyper"]
    model = model_config(parity, about["G_init"].removesuffix(".params"))
    config = Config(model=model).replace(
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
    trainer = Trainer(config, torch.device("cpu"))
    assert trainer.discriminator is not None
    for network, key in ((trainer.generator, "G_init"), (trainer.discriminator, "D_init")):
        network.load_state_dict(from_published(network, load_file(parity / f"{about[key]}.safetensors")))
    names = {"G": published_names(trainer.generator), "D": published_names(trainer.discriminator)}

    def tensor(network: nn.Module, kind: str, name: str) -> Tensor:
        value = dict(network.named_parameters())[names[kind][name]]
        return value.T if name.endswith(".W") else value

    for number, expected in enumerate(about["steps"]):
        step = {key.removeprefix(f"step{number}."): value for key, value in io.items() if key.startswith(f"step{number}.")}
        draw = {key.removeprefix("draw."): value for key, value in step.items() if key.startswith("draw.")}
        draws = Draws(
            draw["t_d"], draw["noise_d_xtp1"], draw["noise_d_xt"], draw["z_d"], draw["noise_posterior"],
            draw["t_g"], draw["noise_attn_xtp1"], draw["noise_attn_xt"], draw["z_g"],
            draw["noise_gen_xtp1"], draw["noise_gen_xt_unused"], torch.zeros_like(draw["noise_posterior"]),
        )  # fmt: skip
        losses = trainer.step(step["image"], step["mask"], draws)

        close = {"rtol": 1e-4, "atol": 1e-7}
        torch.testing.assert_close(losses["loss_real"].reshape(1), step["errD_real"], **close)
        torch.testing.assert_close(losses["loss_fake"].reshape(1), step["errD_fake"], **close)
        torch.testing.assert_close(losses["loss_reconstruction"], step["mse"].mean(), **close)
        torch.testing.assert_close(losses["loss_generator"], step["mse"].mean(), **close)
        assert ("r1_penalty" in losses) == expected["r1"]
        if expected["r1"]:
            torch.testing.assert_close(losses["r1_penalty"].reshape(1), step["r1_penalty"], **close)
        torch.testing.assert_close(losses["attention_mean"], step["attn"].mean(), rtol=1e-3, atol=1e-6)

        for kind, network, rate in (("G", trainer.generator, hyper["lr_g"]), ("D", trainer.discriminator, hyper["lr_d"])):
            assert_gradient_norms(network, expected[f"{kind}_grad_l2"], tolerance=1e-5 if number == 0 else 1e-4)
            for key, value in step.items():
                prefix, _, name_in_file = key.partition(f"{kind}.")[2].partition(".")
                if not key.startswith(f"{kind}."):
                    continue
                ours = tensor(trainer.average if prefix == "ema" else network, kind, name_in_file)
                if prefix == "grad":
                    assert relative(ours.grad, value) < (3e-4 if number == 0 else 1e-3), key
                else:
                    worst = float((ours - value).detach().abs().max())
                    assert worst < 0.5 * rate or relative(ours, value) < 1e-5, key


def test_attention_map_of_a_training_step(parity: Path) -> None:
    io = load_file(parity / "train_hippo_rand.safetensors")
    attention = spatial_attention(io["step0.feature_attn"], (32, 32))
    torch.testing.assert_close(attention, io["step0.attn"], atol=1e-6, rtol=1e-5)


def block_under_test(name: str, inputs: list[Tensor], parameters: dict[str, Tensor]) -> tuple[nn.Module, dict[str, str]] | None:
    """Our module for a golden block, and the names of its parameters (theirs -> ours)."""
    if name.startswith("conv_down"):
        return PyramidDown(3, 8), _PARTS[PyramidDown]
    if name.startswith("attn_c") and name.endswith("_rescale"):
        return SelfAttention(inputs[0].shape[1]), _PARTS[SelfAttention]
    if name.startswith("adagn"):
        return AdaptiveGroupNorm(inputs[0].shape[1], 16), {"style.weight": "style.weight", "style.bias": "style.bias"}
    if name.startswith("res_"):
        resample = "up" if "up" in name else "down" if "down" in name else None
        return ResidualBlock(32, parameters["Conv_0.weight"].shape[0], 64, 16, resample), _PARTS[ResidualBlock]
    if name == "cond_resblock":
        return EncoderBlock(32), {theirs.removeprefix("0."): ours for theirs, ours in _PARTS[EncoderBlock].items()}
    if name.startswith("disc_block"):
        down = name.endswith("down")
        parts = {"conv1.0": "conv1", "conv2.0": "conv2", "skip.0": "skip", "dense_t1": "time"}
        names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in parts.items() for kind in ("weight", "bias")}
        return DiscriminatorBlock(16, parameters["conv1.0.weight"].shape[0], 16, down), names
    return None


BLOCKS = [
    "conv_down_8x8", "conv_down_6x10", "attn_c32_rescale", "attn_c192_rescale",
    "adagn_c32", "adagn_c96", "adagn_c160", "adagn_c192",
    "res_same", "res_widen", "res_up", "res_down", "res_down_odd", "cond_resblock", "disc_block_down", "disc_block_same",
]  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_block(parity: Path, name: str) -> None:
    io = {
        key.removeprefix(f"{name}."): value
        for key, value in load_file(parity / "blocks.safetensors").items()
        if key.startswith(f"{name}.")
    }
    inputs = [io[key].requires_grad_() for key in ("in0", "in1", "in2") if key in io]
    parameters = {key.removeprefix("param."): value for key, value in io.items() if key.startswith("param.")}
    found = block_under_test(name, inputs, parameters)
    assert found is not None
    block, names = found
    block.load_state_dict({names[key]: value.T if key.endswith(".W") else value for key, value in parameters.items()})
    arguments = list(inputs)
    if name.startswith("res_"):
        arguments[1] = F.silu(arguments[1])  # our generator activates the time embedding once for all blocks
    out = block(*arguments)
    torch.testing.assert_close(out, io["out"], atol=2e-5, rtol=0)
    (out * io["cot"]).sum().backward()
    for number, tensor in enumerate(inputs):
        assert relative(tensor.grad, io[f"grad_in{number}"]) < 1e-4


@pytest.mark.parametrize(
    "name",
    ["fir_up_6x6", "fir_up_5x7", "fir_down_8x8", "fir_down_6x10", "fir_down_5x7", "pixelnorm", "attn_map_8to32", "attn_map_16to32"],
)
def test_function(parity: Path, name: str) -> None:
    io = {
        key.removeprefix(f"{name}."): value
        for key, value in load_file(parity / "blocks.safetensors").items()
        if key.startswith(f"{name}.")
    }
    x = io["in0"].requires_grad_()
    if name.startswith("fir_up"):
        out = Fir().up(x)
    elif name.startswith("fir_down"):
        out = Fir().down(x)
    elif name == "pixelnorm":
        mapping = LatentMapping(16, 16, 0)
        mapping.layers = nn.ModuleList()
        out = mapping(x)
    else:
        out = spatial_attention(x, (32, 32))
    torch.testing.assert_close(out, io["out"], atol=1e-6, rtol=1e-5)
    (out * io["cot"]).sum().backward()
    assert relative(x.grad, io["grad_in0"]) < 1e-4


def test_per_pixel_projection(parity: Path) -> None:
    """Released projections are stored [in, out]; ours are linear layers over the channels."""
    io = load_file(parity / "blocks.safetensors")
    out = F.linear(io["nin.in0"].movedim(1, -1), io["nin.param.W"].T, io["nin.param.b"]).movedim(-1, 1)
    torch.testing.assert_close(out, io["nin.out"], atol=1e-5, rtol=0)


def test_time_embeddings(parity: Path) -> None:
    io = load_file(parity / "blocks.safetensors")
    for width in (32, 33):
        t = io[f"timestep_embedding_{width}.in0"]
        torch.testing.assert_close(time_features(t, width, torch.float32), io[f"timestep_embedding_{width}.out"], atol=1e-6, rtol=0)
    discriminator = Discriminator(kind="small", mask_channels=1, width=8, time_embedding=32)
    with torch.no_grad():
        for i, layer in ((0, discriminator.time1), (2, discriminator.time2)):
            layer.weight.copy_(io[f"disc_time_embed.param.main.{i}.weight"])
            layer.bias.copy_(io[f"disc_time_embed.param.main.{i}.bias"])
    features = time_features(io["disc_time_embed.in0"], 32, torch.float32)
    out = discriminator.time2(F.leaky_relu(discriminator.time1(features), 0.2))
    torch.testing.assert_close(out, io["disc_time_embed.out"], atol=1e-6, rtol=1e-5)
