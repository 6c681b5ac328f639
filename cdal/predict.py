"""A trained generator as a function from images to random masks, and its scores by the full protocol.

Shapes: N images, M mask channels, H and W pixels.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cdal.config import Config
from cdal.data import Dataset
from cdal.devices.graphs import Graphs
from cdal.devices.precision import Rounded, numerics
from cdal.diffusion import Diffusion
from cdal.evaluation import CaseResult, Sample, evaluate
from cdal.generator import Generator
from cdal.memory import keep_freed_memory

PASS_PIXELS = {"cpu": 2**16, "cuda": 2**20}
"""Pixels that go through the generator at once. On a CPU, features of more leave its caches."""


def sampler(config: Config, generator: Generator, *, graphs: bool = True) -> Sample:
    """A function that draws masks of normalised images, see `cdal.evaluation.Sample`, with the weights of the time it is called.

    The images are encoded once for all votes and steps, all votes go through the generator together in passes of `PASS_PIXELS`, and
    all denoising steps are done inside, without gradients. A plain U-Net has no randomness: every vote is the same. On a GPU, all
    of it is one CUDA graph as soon as a shape recurs, unless `graphs` is off.
    """
    process = config.diffusion
    device = next(generator.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    diffusion = Diffusion(process.timesteps, process.schedule, process.beta_min, process.beta_max).to(device)
    generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = Rounded(generator) if config.training.precision == "bf16" else None
    plain = config.model.architecture == "unet"
    recorded = Graphs(device, wanted=graphs)

    def predict(images: Tensor, *draws: Tensor) -> Tensor:
        """Masks (V N, M, H, W) of images (N, C, H, W) from x_T, then latent and noise of every step, the last step first."""
        network = half.now() if half else generator
        most = max(1, PASS_PIXELS.get(device.type, 2**16) // math.prod(images.shape[2:]))
        features = torch.cat([network.encode(part) for part in torch.split(images, most)])
        if plain:
            return plain_prediction(network, features, mask_shape(images)).float()
        following = iter(draws)
        start = next(following)
        image = torch.arange(len(start), device=device) % len(images)

        def denoise(noisy: Tensor, t: Tensor, z: Tensor) -> Tensor:
            passes = zip(*(torch.split(tensor, most) for tensor in (noisy, t, image, z)), strict=True)
            return torch.cat([network(x, step, features[of], latent).float() for x, step, of, latent in passes])

        return diffusion.sample(denoise, start, lambda _: next(following), lambda _: next(following))

    def mask_shape(images: Tensor) -> tuple[int, ...]:
        return (len(images), config.model.mask_channels, *images.shape[2:])

    @torch.inference_mode()
    def sample(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        shape = mask_shape(images)

        def normal(*size: int) -> Tensor:
            return torch.cat([torch.randn(size, generator=rng, device=rng.device) for rng in rngs]).to(device)

        draws = [] if plain else [normal(*shape)]
        for step in [] if plain else reversed(range(process.timesteps)):
            draws += [normal(len(images), config.model.latent_size)] + ([normal(*shape)] if step > 0 else [])
        with numerics(config.training, device):
            masks = recorded.run(len(rngs), predict, images, *draws)
        return masks.expand(len(rngs), *shape) if plain else masks.reshape(len(rngs), *shape)

    return sample


def plain_prediction(generator: Generator, features: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The generator as a plain U-Net: an empty mask, step 0 and an empty latent; features (N, width, H, W) -> (N, M, H, W)."""
    noisy = features.new_zeros(shape)
    t = torch.zeros(shape[0], dtype=torch.long, device=features.device)
    out: Tensor = generator(noisy, t, features, features.new_zeros(shape[0], generator.latent_size))
    return out


def full_protocol(config: Config, generator: Generator, dataset: Dataset, cases: Sequence[str]) -> Iterator[CaseResult]:
    """Score a trained generator case by case as `config.evaluation` says, on the generator's device.

    A plain U-Net says the same every time, so it votes once.
    """
    return evaluate(dataset, cases, sampler(config, generator), **protocol(config, generator))


def protocol(config: Config, generator: Generator) -> dict[str, Any]:
    """The keyword arguments of `cdal.evaluation.evaluate` and `draw_votes` that a configuration decides."""
    settings = config.evaluation
    return {
        "votes": 1 if config.model.architecture == "unet" else settings.votes,
        "multiple": config.model.size_multiple,
        "seed": config.training.seed,
        "device": next(generator.parameters()).device,
        "window": settings.window,
        "overlap": settings.overlap,
        "blend": settings.blend,
        "confidence": settings.vote_confidence,
    }
