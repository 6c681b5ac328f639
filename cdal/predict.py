"""A trained generator as a function from images to random masks, and its scores by the full protocol.

Shapes: N images, M mask channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cdal.config import Config
from cdal.data import Dataset
from cdal.diffusion import Diffusion
from cdal.evaluation import CaseResult, Sample, evaluate
from cdal.generator import Generator

VOTE_PIXELS = {"cpu": 2**18, "cuda": 2**20}
"""Pixels that go through the generator at once, in as many votes as they make. On a CPU, more would leave its caches."""


def sampler(config: Config, generator: Generator) -> Sample:
    """A function that draws masks of normalised images, see `cdal.evaluation.Sample`.

    The images are encoded once for all votes and steps, several votes go through the generator together, and all denoising steps
    are done inside, without gradients. A plain U-Net has no randomness: every vote is the same.
    """
    process = config.diffusion
    device = next(generator.parameters()).device
    diffusion = Diffusion(process.timesteps, process.schedule, process.beta_min, process.beta_max).to(device)
    generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")

    def votes(features: Tensor, shape: tuple[int, ...], rngs: Sequence[torch.Generator]) -> Tensor:
        repeated = torch.cat([features] * len(rngs))

        def normal(*size: int) -> Tensor:
            return torch.cat([torch.randn(size, generator=rng, device=rng.device) for rng in rngs]).to(device)

        masks = diffusion.sample(
            lambda noisy, t, z: generator(noisy, t, repeated, z).float(),
            normal(*shape),
            latent=lambda _: normal(shape[0], config.model.latent_size),
            noise=lambda _: normal(*shape),
        )
        return masks.reshape(len(rngs), *shape)

    @torch.inference_mode()
    def sample(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        shape = (len(images), config.model.mask_channels, *images.shape[2:])
        together = max(1, VOTE_PIXELS.get(device.type, 2**18) // (len(images) * math.prod(images.shape[2:])))
        with autocast:
            features = generator.encode(images)
            if config.model.architecture == "unet":
                return plain_prediction(generator, features, shape).float().expand(len(rngs), *shape)
            return torch.cat([votes(features, shape, rngs[at : at + together]) for at in range(0, len(rngs), together)])

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
