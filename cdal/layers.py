"""Building blocks of the generator and the discriminator.

Shapes: B batch, C channels, H and W height and width in pixels, E width of the time embedding, L width of the latent embedding.
Blocks of the generator follow NCSN++ (Song et al. 2021, appendix H) with the latent entering through adaptive group normalisation
(Xiao et al. 2022, section 4).
"""

import math
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Resample = Literal["up", "down"] | None
HALF_POWER = math.sqrt(0.5)  # keeps the variance of a sum of two branches


def uniform_variance_(weight: Tensor, scale: float, mode: Literal["fan_avg", "fan_out"]) -> None:
    """Fill a linear or convolution weight from U(-b, b) with variance scale / fan (Glorot and Bengio 2010)."""
    area = weight[0, 0].numel() if weight.dim() > 2 else 1
    fan_out, fan_in = weight.shape[0] * area, weight.shape[1] * area
    fan = (fan_in + fan_out) / 2 if mode == "fan_avg" else max(1, fan_out)
    bound = math.sqrt(3 * scale / fan)
    nn.init.uniform_(weight, -bound, bound)


def scaled_linear(
    features_in: int, features_out: int, mode: Literal["fan_avg", "fan_out"] = "fan_avg", scale: float = 1.0
) -> nn.Linear:
    """A linear layer with variance-scaled weights and zero bias."""
    layer = nn.Linear(features_in, features_out)
    uniform_variance_(layer.weight, scale, mode)
    nn.init.zeros_(layer.bias)
    return layer


def scaled_conv(
    channels_in: int,
    channels_out: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    mode: Literal["fan_avg", "fan_out"] = "fan_avg",
    scale: float = 1.0,
) -> nn.Conv2d:
    """A convolution with variance-scaled weights and zero bias, by default keeping height and width."""
    layer = nn.Conv2d(channels_in, channels_out, size, stride, size // 2 if padding is None else padding, bias=bias)
    uniform_variance_(layer.weight, scale, mode)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm_groups(channels: int, most: int) -> int:
    """Number of groups of a group normalisation: at most `most`, and a divisor of the channels."""
    return next(groups for groups in range(min(most, 32), 0, -1) if channels % groups == 0)


def time_features(t: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sinusoidal features of the step index (Vaswani et al. 2017, section 3.5): t (B,) -> (B, width), sines first."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t.device, dtype=dtype) * (-math.log(10_000) / max(half - 1, 1)))
    angle = t.to(dtype)[:, None] * frequency
    features = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(features, (0, width % 2))


class _Halve(torch.autograd.Function):
    """Channel-by-channel convolution of stride 2, or its transpose, with a symmetric 4x4 kernel.

    Each is the other's gradient, at any order. PyTorch's own second derivative of a depthwise convolution, which R1 needs, goes
    through the channels one by one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, double_to: tuple[int, int] | None) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2, W // 2), or the transpose to a given height and width."""
        ctx.save_for_backward(kernel)
        channels, size = x.shape[1], (x.shape[2], x.shape[3])
        ctx.double_to = size if double_to is None else None
        weight = kernel.to(x.dtype).expand(channels, 1, 4, 4)
        if double_to is None:
            return F.conv2d(x, weight, stride=2, padding=1, groups=channels)
        odd = (double_to[0] - 2 * size[0], double_to[1] - 2 * size[1])
        return F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=odd, groups=channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The other of the two."""
        return _Halve.apply(gradients[0], *ctx.saved_tensors, ctx.double_to), None, None  # type: ignore[no-untyped-call]


class Fir(nn.Module):
    """Anti-aliased resampling with the kernel [1, 3, 3, 1] along both axes (Karras et al. 2020), channel by channel."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def down(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2, W // 2)."""
        out: Tensor = _Halve.apply(x, self.kernel, None)  # type: ignore[no-untyped-call]
        return out

    def up(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = _Halve.apply(x, 4 * self.kernel, (2 * x.shape[2], 2 * x.shape[3]))  # type: ignore[no-untyped-call]
        return out

    def blur(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H + 1, W + 1), the input of an unpadded 3x3 convolution of stride 2."""
        return F.conv2d(x, self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4), padding=2, groups=x.shape[1])


class PyramidDown(nn.Module):
    """One step of the generator's input pyramid: blur, then a 3x3 convolution of stride 2. (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.fir = Fir()
        self.conv = scaled_conv(channels_in, channels_out, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.fir.blur(x))
        return out


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift are a linear function of the latent embedding (B, L)."""

    def __init__(self, channels: int, latent_embedding: int) -> None:
        super().__init__()
        self.groups = norm_groups(channels, channels // 4)
        self.style = scaled_linear(latent_embedding, 2 * channels, "fan_out")
        with torch.no_grad():
            self.style.bias[:channels] = 1

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        scale, shift = self.style(latent)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, scale, F.group_norm(x, self.groups, eps=1e-6))


class ResidualBlock(nn.Module):
    """BigGAN residual block conditioned on time and latent, optionally resampling by 2.

    x (B, C, H, W), time (B, E) already activated, latent (B, L) -> (B, C', H', W').
    """

    def __init__(self, channels_in: int, channels_out: int, time: int, latent: int, resample: Resample = None) -> None:
        super().__init__()
        self.resample = resample
        self.fir = Fir() if resample else None
        self.norm1 = AdaptiveGroupNorm(channels_in, latent)
        self.conv1 = scaled_conv(channels_in, channels_out)
        self.time = scaled_linear(time, channels_out)
        self.norm2 = AdaptiveGroupNorm(channels_out, latent)
        self.conv2 = scaled_conv(channels_out, channels_out, scale=1e-10)
        self.skip = scaled_conv(channels_in, channels_out, 1) if resample or channels_in != channels_out else None

    def forward(self, x: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        h = F.silu(self.norm1(x, latent))
        if self.fir is not None:
            resample = self.fir.up if self.resample == "up" else self.fir.down
            h, x = resample(h), resample(x)
        h = self.conv1(h).add_(self.time(time)[:, :, None, None])
        h = self.conv2(F.silu(self.norm2(h, latent)))
        if self.skip is not None:
            x = self.skip(x)
        out: Tensor = h.add_(x).mul_(HALF_POWER)
        return out


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels, channels // 4), channels, eps=1e-6)
        self.query = scaled_linear(channels, channels, scale=0.1)
        self.key = scaled_linear(channels, channels, scale=0.1)
        self.value = scaled_linear(channels, channels, scale=0.1)
        self.output = scaled_linear(channels, channels, scale=1e-10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, H W, C): fused attention wants an axis of heads
        mixed = F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        out: Tensor = (x + self.output(mixed)[:, 0].transpose(1, 2).reshape(x.shape)) * HALF_POWER
        return out


class EncoderBlock(nn.Module):
    """Residual block of the image encoder, without time and latent: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups(channels, channels), channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(norm_groups(channels, channels), channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = self.conv2(F.silu(self.norm2(h))).add_(x)
        return out


class LatentMapping(nn.Module):
    """Normalises the random latent and maps it to the latent embedding: (B, Z) -> (B, L) (Karras et al. 2019, section 2)."""

    def __init__(self, latent_size: int, width: int, hidden_layers: int) -> None:
        super().__init__()
        widths = [latent_size] + [width] * (hidden_layers + 1)
        self.layers = nn.ModuleList(scaled_linear(a, b, "fan_out") for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            z = F.silu(layer(z))
        return z


class DiscriminatorBlock(nn.Module):
    """Residual block of the discriminator: x (B, C, H, W), time (B, E) -> (B, C', H', W'), halved when `down`."""

    def __init__(self, channels_in: int, channels_out: int, time: int, down: bool) -> None:
        super().__init__()
        self.fir = Fir() if down else None
        self.conv1 = scaled_conv(channels_in, channels_out, mode="fan_out")
        self.time = scaled_linear(time, channels_out, "fan_out")
        self.conv2 = scaled_conv(channels_out, channels_out, mode="fan_out", scale=1e-10)
        self.skip = scaled_conv(channels_in, channels_out, 1, bias=False, mode="fan_out")

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2)).add_(self.time(time)[:, :, None, None])
        h = F.leaky_relu_(h, 0.2)
        if self.fir is not None:
            h, x = self.fir.down(h), self.fir.down(x)
        out: Tensor = self.conv2(h).add_(self.skip(x)).mul_(HALF_POWER)
        return out


def append_batch_deviation(x: Tensor) -> Tensor:
    """Append one channel with the minibatch standard deviation: (B, C, H, W) -> (B, C + 1, H, W) (Karras et al. 2018, section 3).

    Samples are grouped by fours; B must be at most 4 or a multiple of 4.
    """
    batch, _, height, width = x.shape
    group = min(batch, 4)
    columns = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(group, batch // group, -1)
    deviation = (columns.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1).to(x.dtype)
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(batch, 1, height, width)], dim=1)


def recompute_activations(network: nn.Module) -> None:
    """Keep only the inputs of the network's blocks and compute the rest again on the way back: less memory, equal numbers."""
    for module in network.modules():
        if isinstance(module, (ResidualBlock, EncoderBlock, DiscriminatorBlock)):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
