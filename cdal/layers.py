"""Building blocks of the generator and the discriminator.

Shapes: B batch, C channels, H and W height and width in pixels, E width of the time embedding, L width of the latent embedding.
Blocks of the generator follow NCSN++ (Song et al. 2021, appendix H) with the latent entering through adaptive group normalisation
(Xiao et al. 2022, section 4).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cdal.devices import fused
from cdal.devices.transfer import to_device

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
    frequency, phase = _waves(width // 2, torch.promote_types(dtype, torch.float32), t.device)
    angle = torch.addcmul(phase, t[:, None], frequency)
    features = torch.sin(angle, out=torch.empty_like(angle, dtype=dtype))
    return F.pad(features, (0, 1)) if width % 2 else features


@functools.lru_cache(maxsize=64)
def _waves(number: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies and phases; a cosine is a sine that is a quarter ahead."""
    with torch.inference_mode(False):
        frequency = torch.exp(torch.arange(number, dtype=dtype) * (-math.log(10_000) / max(number - 1, 1)))
        phase = torch.tensor([0.0, math.pi / 2], dtype=dtype).repeat_interleave(number)
        return to_device(frequency.repeat(2), device), to_device(phase, device)


class Fir(nn.Module):
    """Anti-aliased resampling with the kernel [1, 3, 3, 1] along both axes (Karras et al. 2020), channel by channel."""

    def down(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2, W // 2)."""
        return fused.fir(x, *_halving(x))

    def up(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return fused.fir(x, *_doubling(x))

    def both(self, h: Tensor, x: Tensor, direction: Literal["up", "down"]) -> tuple[Tensor, Tensor]:
        """Both branches of a block, of one height and width."""
        return fused.fir_pair(h, x, *(_doubling(x) if direction == "up" else _halving(x)))

    def blur(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H + 1, W + 1), the input of an unpadded 3x3 convolution of stride 2."""
        return fused.fir(x, 1, 1, 2, (x.shape[2] + 1, x.shape[3] + 1), 1.0)


def _halving(x: Tensor) -> tuple[int, int, int, tuple[int, int], float]:
    return 1, 2, 1, (x.shape[2] // 2, x.shape[3] // 2), 1.0


def _doubling(x: Tensor) -> tuple[int, int, int, tuple[int, int], float]:
    return 2, 1, 2, (2 * x.shape[2], 2 * x.shape[3]), 4.0


class Given:
    """Small things that many layers need, computed for all at once: on a GPU a few operations take as long as a large one."""

    def __init__(self) -> None:
        self._of: dict[nn.Module, Tensor] = {}

    def project(self, x: Tensor, layers: Sequence[nn.Linear], others: Sequence[nn.Conv2d] = ()) -> None:
        """What linear layers make of one input (B, N), each plus the bias of another layer if wanted."""
        biases = [bias_of(layer) for layer in layers]
        if others:
            biases = list(torch._foreach_add(biases, [bias_of(other) for other in others]))
        out = F.linear(x, torch.cat([layer.weight for layer in layers]), torch.cat(biases))
        self._share(out, {layer: layer.out_features for layer in layers})

    def repeat(self, rows: int, weights: Mapping[nn.Module, Sequence[Tensor]]) -> None:
        """Every layer's weights (N,) side by side, in as many rows: their gradients, too, are then added up at once."""
        table = torch.cat([weight for of in weights.values() for weight in of]).expand(rows, -1)
        self._share(table, {layer: sum(len(weight) for weight in of) for layer, of in weights.items()})

    def _share(self, table: Tensor, widths: Mapping[Any, int]) -> None:
        self._of.update(zip(widths, torch.split(table, list(widths.values()), dim=1), strict=True))

    def of(self, layer: nn.Module) -> Tensor:
        """What a layer was given."""
        return self._of[layer]


def project(layer: nn.Linear, x: Tensor | Given, bias: Tensor | None = None) -> Tensor:
    """A layer's output plus a bias, both of which may be given already."""
    if isinstance(x, Given):
        return x.of(layer)
    out: Tensor = layer(x)
    return out if bias is None else out + bias


def bias_of(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The bias of a layer that has one."""
    assert layer.bias is not None
    return layer.bias


def convolve(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution, and its bias where that is left to the next operation, which adds it in passing."""
    if fused.available(x):
        return fused.convolve(x, layer.weight, layer.stride, layer.padding), layer.bias  # type: ignore[arg-type]
    return layer(x), None


def entering(x: Tensor, stem: nn.Conv2d) -> Tensor:
    """What goes into a network as its first layer computes: in the type and the layout of the weights."""
    return x.to(stem.weight.dtype, memory_format=torch.channels_last)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two biases that may be left out."""
    return b if a is None else a if b is None else a + b


class PyramidDown(nn.Module):
    """One step of the generator's input pyramid: blur, then a 3x3 convolution of stride 2. (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.fir = Fir()
        self.conv = scaled_conv(channels_in, channels_out, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.fir.blur(x))
        return out

    def unbiased(self, x: Tensor) -> Tensor:
        """The same without its bias."""
        return convolve(self.conv, self.fir.blur(x))[0]


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift are a linear function of the latent embedding (B, L)."""

    def __init__(self, channels: int, latent_embedding: int) -> None:
        super().__init__()
        self.groups = norm_groups(channels, channels // 4)
        self.style = scaled_linear(latent_embedding, 2 * channels, "fan_out")
        with torch.no_grad():
            self.style.bias[:channels] = 1

    def forward(self, x: Tensor, latent: Tensor | Given, *, silu: bool = False, add: Tensor | None = None) -> Tensor:
        return fused.group_norm(x, self.groups, project(self.style, latent), 1e-6, silu=silu, add=add)

    def beside(self, x: Tensor, latent: Tensor | Given) -> tuple[Tensor, Tensor]:
        """What comes out with SiLU, and x for a branch around."""
        return fused.group_norm_beside(x, self.groups, project(self.style, latent), 1e-6, silu=True)


def normalise_beside(norm: nn.GroupNorm, x: Tensor, given: Given | None = None, *, silu: bool = False) -> tuple[Tensor, Tensor]:
    """A group normalisation with weights, and SiLU behind it if wanted; and x for a branch around."""
    if not fused.available(x):
        return normalise(norm, x, silu=silu), x
    return fused.group_norm_beside(x, norm.num_groups, _style(norm, given), norm.eps, silu=silu)


def normalise(
    norm: nn.GroupNorm, x: Tensor, given: Given | None = None, *, silu: bool = False, add: Tensor | None = None
) -> Tensor:
    """A group normalisation with weights, of x + add where that is given, (C,) or (B, C), and SiLU behind it if wanted."""
    if not fused.available(x):
        y: Tensor = norm(x if add is None else x + add[:, None, None])
        return F.silu(y) if silu else y
    add = None if add is None else add.expand(len(x), -1)
    return fused.group_norm(x, norm.num_groups, _style(norm, given), norm.eps, silu=silu, add=add)


def _style(norm: nn.GroupNorm, given: Given | None) -> fused.Style:
    return (norm.weight, norm.bias) if given is None else given.of(norm)


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

    def forward(self, x: Tensor, time: Tensor | Given, latent: Tensor | Given) -> Tensor:
        h, x = self.norm1.beside(x, latent)
        if self.fir is not None:
            h, x = self.fir.both(h, x, "up" if self.resample == "up" else "down")
        h, bias = convolve(self.conv1, h)
        h = self.norm2(h, latent, silu=True, add=project(self.time, time, bias))
        x, skipped = (x, None) if self.skip is None else convolve(self.skip, x)
        h, bias = convolve(self.conv2, h)
        return fused.join(h, x, time.of(self.conv2) if isinstance(time, Given) else plus(bias, skipped), HALF_POWER)


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels, channels // 4), channels, eps=1e-6)
        self.query = scaled_linear(channels, channels, scale=0.1)
        self.key = scaled_linear(channels, channels, scale=0.1)
        self.value = scaled_linear(channels, channels, scale=0.1)
        self.output = scaled_linear(channels, channels, scale=1e-10)

    def forward(self, x: Tensor, given: Given | None = None) -> Tensor:
        tokens, x = normalise_beside(self.norm, x, given)
        tokens = tokens.flatten(2).transpose(1, 2)[:, None]  # (B, 1, H W, C): fused attention wants an axis of heads
        layers = (self.query, self.key, self.value)
        if given:
            parts = F.linear(tokens, torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))
            query, key, value = parts.chunk(3, dim=-1)
        else:
            query, key, value = (layer(tokens) for layer in layers)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = F.linear(mixed, self.output.weight) if given else self.output(mixed)
        out = mixed[:, 0].transpose(1, 2).reshape(x.shape)
        return fused.join(out, x, given.of(self.output) if given else None, HALF_POWER)


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

    def forward(self, x: Tensor, given: Given | None = None) -> Tensor:
        h, x = normalise_beside(self.norm1, x, given, silu=True)
        h, bias = convolve(self.conv1, h)
        h = normalise(self.norm2, h, given, silu=True, add=given.of(self.conv1) if given else bias)
        h, bias = convolve(self.conv2, h)
        return fused.join(h, x, given.of(self.conv2) if given else bias, 1.0)


class LatentMapping(nn.Module):
    """Normalises the random latent and maps it to the latent embedding: (B, Z) -> (B, L) (Karras et al. 2019, section 2)."""

    def __init__(self, latent_size: int, width: int, hidden_layers: int) -> None:
        super().__init__()
        widths = [latent_size] + [width] * (hidden_layers + 1)
        self.layers = nn.ModuleList(scaled_linear(a, b, "fan_out") for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        z = F.rms_norm(z, z.shape[1:], eps=1e-8)
        for layer in self.layers:
            z = F.silu(layer(z.to(layer.weight.dtype)))  # type: ignore[arg-type]
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

    def forward(self, x: Tensor, time: Tensor | Given) -> Tensor:
        h, x = fused.leaky_beside(x, 0.2)
        h, bias = convolve(self.conv1, h)
        h = fused.add_leaky(h, project(self.time, time, bias), 0.2)
        if self.fir is not None:
            h, x = self.fir.both(h, x, "down")
        h, bias = convolve(self.conv2, h)
        return fused.join(h, convolve(self.skip, x)[0], time.of(self.conv2) if isinstance(time, Given) else bias, HALF_POWER)


def append_batch_deviation(x: Tensor) -> Tensor:
    """Append one channel with the minibatch standard deviation: (B, C, H, W) -> (B, C + 1, H, W) (Karras et al. 2018, section 3).

    Samples are grouped by fours; B must be at most 4 or a multiple of 4.
    """
    return fused.append_deviation(x)


def recompute_activations(network: nn.Module) -> None:
    """Keep only the inputs of the network's blocks and compute the rest again on the way back: less memory, equal numbers."""
    for module in network.modules():
        if isinstance(module, (ResidualBlock, EncoderBlock, DiscriminatorBlock)):
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)  # nothing in them is random
            module.forward = again  # type: ignore[method-assign]
