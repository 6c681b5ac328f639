"""The forward process, its posterior, and sampling in a few steps (Xiao et al. 2022, sections 2 and 3; cDAL section 3.1).

Shapes: B batch, M mask channels, H and W pixels. Index t runs over 0..T-1; x_0 is the clean mask, x_T almost pure noise.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn


class Diffusion(nn.Module):
    """The T-step forward process x_0 -> x_1 -> ... -> x_T and the posterior that walks it back.

    Buffers, all float32: `signal` and `noise` (T + 1,), the square roots of 1 - beta_i and beta_i; `total_signal` and
    `total_noise` (T + 1,), the same from the clean mask; `mean_x0`, `mean_next` and `deviation` (T,), the coefficients of
    q(x_t | x_{t+1}, x_0).
    """

    signal: Tensor
    noise: Tensor
    total_signal: Tensor
    total_noise: Tensor
    mean_x0: Tensor
    mean_next: Tensor
    deviation: Tensor

    def __init__(
        self,
        timesteps: int,
        schedule: Literal["variance_preserving", "geometric"] = "variance_preserving",
        beta_min: float = 0.1,
        beta_max: float = 20.0,
    ) -> None:
        super().__init__()
        self.timesteps = timesteps
        tau = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps * (1 - 1e-3) + 1e-3
        if schedule == "variance_preserving":  # Song et al. 2021, equation 33
            kept = torch.exp(-0.5 * tau**2 * (beta_max - beta_min) - tau * beta_min)
        else:
            kept = 1 - beta_min * (beta_max / beta_min) ** tau
        beta = torch.cat([torch.tensor([1e-8], dtype=torch.float64), 1 - kept[1:] / kept[:-1]]).float()

        total_signal = torch.cumprod(torch.sqrt(1 - beta), 0)
        step_beta = beta[1:]
        kept_to = torch.cumprod(1 - step_beta, 0)
        kept_before = torch.cat([torch.ones(1), kept_to[:-1]])
        variance = step_beta * (1 - kept_before) / (1 - kept_to)  # Ho et al. 2020, equation 7
        for name, values in {
            "signal": torch.sqrt(1 - beta),
            "noise": torch.sqrt(beta),
            "total_signal": total_signal,
            "total_noise": torch.sqrt(1 - total_signal**2),
            "mean_x0": step_beta * torch.sqrt(kept_before) / (1 - kept_to),
            "mean_next": (1 - kept_before) * torch.sqrt(1 - step_beta) / (1 - kept_to),
            "deviation": torch.sqrt(variance),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def pair(self, clean: Tensor, t: Tensor, noise_t: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbouring states (x_t, x_{t+1}) of a clean mask (B, M, H, W) at indices t (B,), from two standard normal draws."""
        x_t = _at(self.total_signal, t) * clean + _at(self.total_noise, t) * noise_t
        x_next = _at(self.signal, t + 1) * x_t + _at(self.noise, t + 1) * noise_next
        return x_t, x_next

    def posterior(self, x0: Tensor, x_next: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A sample of q(x_t | x_{t+1}, x_0); at t = 0 it is the mean, which is x_0. All (B, M, H, W), t (B,)."""
        mean = _at(self.mean_x0, t) * x0 + _at(self.mean_next, t) * x_next
        return mean + _at(self.deviation, t) * noise

    def sample(
        self,
        denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
        start: Tensor,
        latent: Callable[[int], Tensor],
        noise: Callable[[int], Tensor],
    ) -> Tensor:
        """Walk from x_T to the mask (Xiao et al. 2022, equation 4).

        Args:
            denoise: (x_{t+1}, t, z) -> x0, the generator with the image's features filled in.
            start: x_T, standard normal, (B, M, H, W).
            latent: step index -> z, (B, Z).
            noise: step index -> standard normal, (B, M, H, W); not called for step 0, which adds no noise.

        Returns:
            The predicted mask in [-1, 1], (B, M, H, W).
        """
        x = start
        for index in reversed(range(self.timesteps)):
            t = torch.full((len(x),), index, device=x.device)
            x0 = denoise(x, t, latent(index))
            x = self.posterior(x0, x, t, noise(index)) if index > 0 else x0
        return x


def _at(values: Tensor, t: Tensor) -> Tensor:
    return values[t][:, None, None, None]
