"""A batch made of noise, for what is timed on whatever it is given."""

import torch
from torch import Tensor

from cdal.config import Config
from cdal.trainer import Draws


def noise(config: Config, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor, Draws]:
    """Images (B, C, H, W), masks (B, M, H, W) of -1 and 1, and draws of one step, on a device."""
    model, batch = config.model, config.training.batch_size
    rng = torch.Generator(device).manual_seed(seed)
    masks = (batch, model.mask_channels, model.image_size, model.image_size)
    image = torch.randn(batch, model.image_channels, *masks[2:], generator=rng, device=device)
    mask = torch.randn(masks, generator=rng, device=device).sign()
    return image, mask, Draws.random(masks, config.diffusion.timesteps, model.latent_size, rng)
