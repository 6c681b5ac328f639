"""A trained generator as a function from images to random masks, and its scores by the full protocol.

Shapes: N images, M mask channels, H and W pixels.
"""

import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cdal.config import Config
from cdal.data import Dataset
from cdal.devices.graphs import Graphs
from cdal.devices.memory import keep_freed_memory, out_of_memory
from cdal.devices.precision import Rounded, numerics
from cdal.diffusion import Diffusion
from cdal.evaluation import CaseResult, Sample, evaluate
from cdal.generator import Generator
from cdal.pulse import beat

PASS_PIXELS = {"cpu": 2**16, "cuda": 2**20}
"""Pixels that go through the generator at once. On a CPU, features of more leave its caches."""


def sampler(config: Config, generator: Generator, *, graphs: bool = True) -> Sample:
    """A function that draws masks of normalised images, see `cdal.evaluation.Sample`, with the weights of the time it is called.

    The images are encoded once for all votes and steps, all votes go through the generator together in passes of `PASS_PIXELS`, and
    all denoising steps are done inside, without gradients. A plain U-Net has no randomness: every vote is the same. On a GPU, all
    of it is one CUDA graph as soon as a shape recurs, unless `graphs` is off.

    Where the memory is too small, a warning says so, and ever fewer votes and images are drawn at once, down to one vote of one
    image. The draws are the same, so the masks are too.
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
    pass_pixels = PASS_PIXELS.get(device.type, 2**16)
    room = sys.maxsize  # masks that are drawn at once

    def predict(images: Tensor, *draws: Tensor) -> Tensor:
        """Masks (V N, M, H, W) of images (N, C, H, W) from x_T, then latent and noise of every step, the last step first."""
        network = half.now() if half else generator
        most = in_a_pass(images)
        features = torch.cat([network.encode(part) for part in torch.split(images, most)])
        if plain:
            return plain_prediction(network, features, mask_shape(images)).float()
        following = iter(draws)
        start = next(following)
        image = torch.arange(len(start), device=device) % len(images)

        def denoise(noisy: Tensor, t: Tensor, z: Tensor) -> Tensor:
            masks = []
            for x, step, of, latent in zip(*(torch.split(tensor, most) for tensor in (noisy, t, image, z)), strict=True):
                masks.append(network(x, step, features[of], latent).float())
                beat()
            return torch.cat(masks)

        return diffusion.sample(denoise, start, lambda _: next(following), lambda _: next(following))

    def mask_shape(images: Tensor) -> tuple[int, ...]:
        return (len(images), config.model.mask_channels, *images.shape[2:])

    def in_a_pass(images: Tensor) -> int:
        return min(room, max(1, pass_pixels // math.prod(images.shape[2:])))

    def draw(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        """Masks (V N, M, H, W); as many of them at once as there is room for."""
        votes = max(1, room // len(images))
        if votes < len(rngs):
            return torch.cat([draw(images, rngs[first : first + votes]) for first in range(0, len(rngs), votes)])
        shape = mask_shape(images)

        def normal(*size: int) -> Tensor:
            return torch.cat([torch.randn(size, generator=rng, device=rng.device) for rng in rngs]).to(device)

        draws = [] if plain else [normal(*shape)]
        for step in [] if plain else reversed(range(process.timesteps)):
            draws += [normal(len(images), config.model.latent_size)] + ([normal(*shape)] if step > 0 else [])
        if room < len(images):  # of one vote
            parts = zip(*(torch.split(tensor, room) for tensor in (images, *draws)), strict=True)
            return torch.cat([predict(*part) for part in parts])
        return recorded.run(len(rngs), predict, images, *draws)

    @torch.inference_mode()
    def sample(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        nonlocal room, recorded
        wanted = rngs[:1] if plain else rngs
        before = [rng.get_state() for rng in wanted]
        while True:
            at_once = min(room, len(images) * len(wanted))
            try:
                with numerics(config.training, device):
                    masks = draw(images, wanted)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or at_once == 1:
                    raise
            # Out here, where the error no longer holds on to what filled the memory.
            if room == sys.maxsize:
                warnings.warn(
                    "the masks that are drawn at once do not fit the memory: fewer votes and images are drawn at once, which takes "
                    "more time and changes no number",
                    stacklevel=2,
                )
            room, recorded = max(1, min(at_once, in_a_pass(images)) // 2), Graphs(device, wanted=False)
            if device.type == "cuda":
                torch.cuda.empty_cache()
            for rng, state in zip(wanted, before, strict=True):
                rng.set_state(state)
        beat()
        shape = (len(rngs), *mask_shape(images))
        return masks.expand(shape) if plain else masks.reshape(shape)

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
