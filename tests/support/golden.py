"""Golden vectors of our own, for clones that do not have the authors' vectors beside them.

Weights are a pure function of a tensor's name and shape, inputs come from NumPy's generator; only results are stored. They were
written when every vector made with the authors' code agreed (tests/cdal/test_parity.py):

    python tests/support/golden.py        # write tests/golden/*.safetensors again, after that test passed
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cdal.checkpoint import from_published, published_names
from cdal.config import Config
from cdal.devices.precision import numerics
from cdal.discriminator import Discriminator
from cdal.generator import Generator
from cdal.losses import r1_penalty
from cdal.sections import ModelConfig
from cdal.trainer import Draws, Trainer

FOLDER = Path(__file__).resolve().parents[1] / "golden"

MODELS = {
    "binary_large": ModelConfig(
        image_size=64, image_channels=3, mask_channels=1, width_multipliers=(1, 1, 2), residual_blocks=2, encoder_blocks=2,
        latent_size=16, latent_embedding=32, discriminator="large", discriminator_width=8, discriminator_time_embedding=32,
        attention_tap=3,
    ),
    "three_classes_small": ModelConfig(
        image_size=32, image_channels=1, mask_channels=3, width_multipliers=(1, 2, 2), residual_blocks=1, encoder_blocks=3,
        latent_size=16, latent_embedding=32, discriminator="small", discriminator_width=8, discriminator_time_embedding=32,
    ),
}  # fmt: skip


def fill(name: str, shape: Iterable[int], is_norm_scale: bool = False) -> Tensor:
    """Deterministic values for a released parameter: splitmix64 of (crc32 of the name, index), scaled by the kind."""
    shape = tuple(shape)
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.uint64(zlib.crc32(name.encode()) << 32) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    s = 2.0 * ((x >> np.uint64(40)).astype(np.float64) / 2.0**24) - 1.0
    if name.endswith("style.bias"):
        values = 0.10 * s
        values[: count // 2] += 1.0
    elif is_norm_scale:
        values = 1.0 + 0.10 * s
    elif len(shape) == 1:
        values = 0.10 * s
    elif name.endswith("style.weight"):
        values = 0.25 * s
    elif name.endswith(".W"):
        values = s * np.sqrt(3.0 / shape[0]) * 1.5
    else:
        values = s * np.sqrt(3.0 / (count // shape[0]))
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def load_formula_weights(network: Generator | Discriminator) -> None:
    """Replace every parameter by its formula values."""
    parameters = dict(network.named_parameters())
    scales = {
        f"{path}.weight" for path, module in network.named_modules() if isinstance(module, torch.nn.GroupNorm) and module.affine
    }
    theirs = {
        name: fill(name, parameters[mine].shape[::-1] if name.endswith(".W") else parameters[mine].shape, mine in scales)
        for name, mine in published_names(network).items()
    }
    network.load_state_dict(from_published(network, theirs))


def results(name: str, device: str = "cpu", precision: str = "fp32") -> dict[str, Tensor]:
    """Outputs, losses and gradient norms of one small configuration: forward passes, sampling, and two steps as released.

    Only the steps are of another precision; what comes before them is in float32, on a GPU with TF32 where the precision has it.
    """
    config = Config(model=MODELS[name]).replace({"optimiser.ema_decay": 0.9, "training.precision": precision})
    with numerics(config.training, torch.device(device)):
        return {key: value.cpu() for key, value in _results(config, torch.device(device)).items()}


def _results(config: Config, device: torch.device) -> dict[str, Tensor]:
    trainer = Trainer(config, device)
    generator, discriminator = trainer.generator, trainer.discriminator
    assert discriminator is not None
    load_formula_weights(generator)
    load_formula_weights(discriminator)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)

    model, batch = config.model, 4
    masks = (batch, model.mask_channels, model.image_size, model.image_size)
    image = normal(batch, model.image_channels, *masks[2:])
    mask, t = normal(*masks).sign(), torch.arange(batch, device=device) % config.diffusion.timesteps
    noisy, z = normal(*masks).requires_grad_(), normal(batch, model.latent_size)

    x0 = generator(noisy, t, generator.encode(image), z)
    logits = discriminator(noisy, t, mask)
    penalty = r1_penalty(logits, noisy, gamma=1.0)
    starts = {t: (normal(batch, model.latent_size), normal(*masks)) for t in range(config.diffusion.timesteps)}
    with torch.no_grad():
        features = generator.encode(image)
        sampled = trainer.diffusion.sample(
            lambda x, t, z: generator(x, t, features, z), normal(*masks), lambda t: starts[t][0], lambda t: starts[t][1]
        )
        feature = discriminator.features(noisy, t, mask, model.attention_tap)
    found = {"x0": x0[:, :, ::8, ::8], "logits": logits, "penalty": penalty, "sampled": sampled[:, :, ::8, ::8]}
    found["feature"] = torch.stack([feature.mean(), feature.std(), feature.abs().max()])

    for number in range(2):
        draws = Draws(
            torch.from_numpy(rng.integers(0, config.diffusion.timesteps, batch)).to(device),
            normal(*masks), normal(*masks), normal(batch, model.latent_size), normal(*masks),
            torch.from_numpy(rng.integers(0, config.diffusion.timesteps, batch)).to(device),
            normal(*masks), normal(*masks), normal(batch, model.latent_size), normal(*masks), normal(*masks), normal(*masks),
        )  # fmt: skip
        losses = trainer.step(image, mask, draws)
        found |= {f"step{number}.{key}": value for key, value in losses.items()}
        for kind, network in (("generator", generator), ("discriminator", discriminator), ("average", trainer.average)):
            assert network is not None
            weights = [parameter.detach() for parameter in network.parameters()]
            found[f"step{number}.{kind}_weights"] = torch.stack([weight.double().norm() for weight in weights]).float()
            if kind != "average":
                gradients = [torch.zeros(()) if p.grad is None else p.grad.double().norm() for p in network.parameters()]
                found[f"step{number}.{kind}_gradients"] = torch.stack(gradients).float()
    return {key: value.detach().clone().contiguous() for key, value in found.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for model in MODELS:
        safetensors.torch.save_file(results(model), FOLDER / f"{model}.safetensors")
