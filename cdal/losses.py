"""Losses of both networks and the spatial attention between them (cDAL section 3.2).

Shapes: B batch, M mask channels, H and W pixels. The mean of a loss over all workers is the loss of their joint batch.
"""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def real_loss(logits: Tensor) -> Tensor:
    """Discriminator's loss on true pairs, logits (B, 1) -> scalar (Xiao et al. 2022, equation 5, first term)."""
    return F.softplus(-logits).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """Discriminator's loss on generated pairs, logits (B, 1) -> scalar (Xiao et al. 2022, equation 5, second term)."""
    return F.softplus(logits).mean()


def adversarial_loss(logits: Tensor) -> Tensor:
    """Generator's loss for being recognised, in its non-saturating form, logits (B, 1) -> scalar."""
    return F.softplus(-logits).mean()


def r1_penalty(logits: Tensor, x_t: Tensor, gamma: float) -> Tensor:
    """Half gamma times the mean squared gradient norm of the logits at true masks (Mescheder et al. 2018, equation 9).

    Args:
        logits: discriminator output for `x_t`, (B, 1).
        x_t: the true mask at step t, (B, M, H, W), which requires a gradient.
        gamma: weight, 0 or more.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x_t, create_graph=True)
    return gamma / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()


def reconstruction_loss(predicted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the predicted mask, both (B, M, H, W) -> scalar."""
    return F.mse_loss(predicted, mask)


def soft_dice_loss(predicted: Tensor, mask: Tensor, batch_sums: Tensor | None = None, parts: int = 1) -> Tensor:
    """1 - soft Dice of the foreground over the whole batch of all workers, mean over classes (Milletari et al. 2016).

    It counts over the batch and not per sample, because samples without a class would reward predicting none anywhere. One is added
    above and below the fraction, so that a batch without a class costs nothing where none is predicted.

    Args:
        predicted: (B, M, H, W) in [-1, 1].
        mask: the same.
        batch_sums: where B is one of several parts of a worker's share, the sums of `soft_dice_sums` over all parts and workers.
        parts: how many parts; the gradient is right after it has been averaged over them and the workers.
    """
    own = soft_dice_sums(predicted, mask)
    if batch_sums is None:
        overlap, total = sum_over_workers(own)
    else:
        overlap, total = batch_sums + parts * _workers() * (own - own.detach())
    dice: Tensor = ((2 * overlap + 1) / (total + 1)).mean()
    return 1 - dice


def soft_dice_sums(predicted: Tensor, mask: Tensor) -> Tensor:
    """Soft overlap, and the sum of both sizes, of every foreground class: two (B, M, H, W) in [-1, 1] -> (2, K).

    Where there are several channels, those behind the first are foreground.
    """
    probability, truth = (predicted + 1) / 2, (mask + 1) / 2
    if mask.shape[1] > 1:
        probability, truth = probability[:, 1:], truth[:, 1:]
    return torch.stack([(probability * truth).sum(dim=(0, 2, 3)), probability.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))])


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers, whose gradient is right after the workers' gradients have been averaged."""
    if _workers() == 1:
        return values
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    own = _workers() * values
    return own + (total - own).detach()


def _workers() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def spatial_attention(feature: Tensor, size: tuple[int, int], *, normalised: bool = False) -> Tensor:
    """Attention map: channel mean of a discriminator feature, resized bilinearly to the mask (cDAL equation 4).

    Args:
        feature: discriminator feature, (B, C, h, w).
        size: height and width of the mask.
        normalised: scale every map to [0, 1]; as released, maps are unbounded and may be negative.

    Returns:
        (B, 1, H, W).
    """
    attention = feature.mean(dim=1, keepdim=True, dtype=torch.promote_types(feature.dtype, torch.float32))
    if normalised:
        low, high = attention.amin(dim=(2, 3), keepdim=True), attention.amax(dim=(2, 3), keepdim=True)
        attention = (attention - low) / (high - low).clamp(min=1e-8)
    return F.interpolate(attention, size, mode="bilinear", align_corners=False)


def attend(mask: Tensor, attention: Tensor, strength: float) -> Tensor:
    """The mask that the generator's input is diffused from: the mask itself at strength 0, mask times attention at 1."""
    return mask * (1 - strength + strength * attention)
