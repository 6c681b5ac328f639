"""The generator: a conditional U-Net that predicts the clean mask from a noisy one (cDAL section 3.1).

Shapes: B batch, M mask channels, C image channels, H and W pixels (multiples of 2 ** (levels - 1)), Z latent size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdal.devices import fused
from cdal.layers import (
    HALF_POWER,
    EncoderBlock,
    Given,
    LatentMapping,
    PyramidDown,
    ResidualBlock,
    SelfAttention,
    bias_of,
    convolve,
    entering,
    norm_groups,
    normalise,
    scaled_conv,
    scaled_linear,
    time_features,
)
from cdal.sections import ModelConfig

Conditions = Tensor | Given


class DownLevel(nn.Module):
    """Residual blocks (each with attention, where the level has it), then one halving together with the input pyramid."""

    def __init__(
        self,
        blocks: list[ResidualBlock],
        attentions: list[SelfAttention],
        shrink: ResidualBlock | None,
        pyramid: PyramidDown | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions or [nn.Identity() for _ in blocks])
        self.shrink = shrink
        self.pyramid = pyramid

    def forward(
        self, h: Tensor, pyramid: Tensor, time: Conditions, latent: Conditions, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The running feature and the pyramid after this level; every feature on the way is pushed onto `skips`."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = _attend(attention, block(h, time, latent), time)
            skips.append(h)
        if self.shrink is not None and self.pyramid is not None:
            if isinstance(time, Given):
                pyramid = self.pyramid.unbiased(pyramid)
                h = pyramid = fused.join(pyramid, self.shrink(h, time, latent), time.of(self.pyramid.conv), HALF_POWER)
            else:
                h = pyramid = (self.pyramid(pyramid) + self.shrink(h, time, latent)) * HALF_POWER
            skips.append(h)
        return h, pyramid


class UpLevel(nn.Module):
    """Residual blocks that each take one skip connection, attention where the level has it, then one doubling."""

    def __init__(self, blocks: list[ResidualBlock], attention: SelfAttention | None, grow: ResidualBlock | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention or nn.Identity()
        self.grow = grow

    def forward(self, h: Tensor, time: Conditions, latent: Conditions, skips: list[Tensor]) -> Tensor:
        """The running feature after this level, which pops what `DownLevel` pushed."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time, latent)
        h = _attend(self.attention, h, time)
        return h if self.grow is None else self.grow(h, time, latent)


class Generator(nn.Module):
    """Predicts the clean mask x0 in [-1, 1] from the noisy mask, the step index, the image and a random latent."""

    def __init__(
        self,
        *,
        image_channels: int,
        mask_channels: int,
        base_width: int,
        width_multipliers: tuple[int, ...],
        residual_blocks: int,
        attention_levels: tuple[int, ...],
        encoder_blocks: int,
        latent_size: int,
        latent_embedding: int,
        latent_layers: int,
    ) -> None:
        super().__init__()
        self.base_width = base_width
        self.latent_size = latent_size
        widths = [base_width * multiplier for multiplier in width_multipliers]
        time = 4 * base_width

        def block(channels_in: int, channels_out: int) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, time, latent_embedding)

        self.time1 = scaled_linear(base_width, time)
        self.time2 = scaled_linear(time, time)
        self.latent = LatentMapping(latent_size, latent_embedding, latent_layers)
        self.image_stem = nn.Conv2d(image_channels, base_width, 3, padding=1)
        self.image_blocks = nn.ModuleList(EncoderBlock(base_width) for _ in range(encoder_blocks))
        self.mask_stem = scaled_conv(mask_channels, base_width)

        channels, pyramid, skips = base_width, mask_channels, [base_width]
        self.down = nn.ModuleList()
        for number, width in enumerate(widths):
            blocks = [block(channels if i == 0 else width, width) for i in range(residual_blocks)]
            attentions = [SelfAttention(width) for _ in blocks] if number in attention_levels else []
            last = number == len(widths) - 1
            shrink = None if last else ResidualBlock(width, width, time, latent_embedding, "down")
            self.down.append(DownLevel(blocks, attentions, shrink, None if last else PyramidDown(pyramid, width)))
            skips += [width] * (residual_blocks + (not last))
            channels = pyramid = width

        self.middle1 = block(channels, channels)
        self.middle_attention = SelfAttention(channels)
        self.middle2 = block(channels, channels)

        self.up = nn.ModuleList()
        for number in reversed(range(len(widths))):
            width = widths[number]
            blocks = []
            for _ in range(residual_blocks + 1):
                blocks.append(block(channels + skips.pop(), width))
                channels = width
            grow = ResidualBlock(width, width, time, latent_embedding, "up") if number > 0 else None
            self.up.append(UpLevel(blocks, SelfAttention(width) if number in attention_levels else None, grow))

        self.out_norm = nn.GroupNorm(norm_groups(channels, channels // 4), channels, eps=1e-6)
        self.out_conv = scaled_conv(channels, mask_channels, scale=1e-10)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Generator:
        """The generator that a configuration describes."""
        return cls(
            image_channels=config.image_channels,
            mask_channels=config.mask_channels,
            base_width=config.base_width,
            width_multipliers=config.width_multipliers,
            residual_blocks=config.residual_blocks,
            attention_levels=config.attention_levels,
            encoder_blocks=config.encoder_blocks,
            latent_size=config.latent_size,
            latent_embedding=config.latent_embedding,
            latent_layers=config.latent_layers,
        )

    def encode(self, image: Tensor) -> Tensor:
        """Image features, the same for every time step, latent and vote: (B, C, H, W) -> (B, base_width, H, W)."""
        features: Tensor = self.image_stem(entering(image, self.image_stem))
        given = None
        blocks = [block for block in self.image_blocks if isinstance(block, EncoderBlock)]
        if blocks and fused.available(features):
            given = Given()
            norms = [norm for block in blocks for norm in (block.norm1, block.norm2)]
            within: dict[nn.Module, list[Tensor]] = {block.conv1: [bias_of(block.conv1)] for block in blocks}
            given.repeat(len(features), within | {norm: [norm.weight, norm.bias] for norm in norms})
            given.repeat(fused.ROWS, {block.conv2: [bias_of(block.conv2)] for block in blocks})
        for block in blocks:
            features = block(features, given) if given else block(features)
        return features

    def embed_time(self, t: Tensor) -> Tensor:
        """Embedding of the step index: t (B,) -> (B, 4 base_width)."""
        features = time_features(t, self.base_width, self.time1.weight.dtype)
        out: Tensor = self.time2(F.silu(self.time1(features)))
        return out

    def forward(self, noisy: Tensor, t: Tensor, features: Tensor, z: Tensor) -> Tensor:
        """Predict the clean mask.

        Args:
            noisy: x_{t+1}, (B, M, H, W).
            t: step index 0..T-1, (B,).
            features: `encode(image)`, (B, base_width, H, W).
            z: random latent, (B, Z).

        Returns:
            x0 in [-1, 1], (B, M, H, W).
        """
        embedded, mapped = F.silu(self.embed_time(t)), self.latent(z)
        given = self._given(embedded, mapped) if fused.available(features) else None
        time: Conditions = given or embedded
        latent: Conditions = given or mapped
        noisy = entering(noisy, self.mask_stem)
        h, _ = convolve(self.mask_stem, noisy)
        h = fused.join(h, features, given.of(self.mask_stem), 1.0) if given else h + features
        skips, pyramid = [h], noisy
        for level in self.down:
            h, pyramid = level(h, pyramid, time, latent, skips)
        h = self.middle2(_attend(self.middle_attention, self.middle1(h, time, latent), time), time, latent)
        for level in self.up:
            h = level(h, time, latent, skips)
        out: Tensor = torch.tanh(self.out_conv(normalise(self.out_norm, h, given, silu=True)))
        return out

    def _given(self, time: Tensor, latent: Tensor) -> Given:
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        attentions = [module for module in self.modules() if isinstance(module, SelfAttention)]
        pyramids = [module for module in self.modules() if isinstance(module, PyramidDown)]
        given = Given()
        given.project(time, [block.time for block in blocks], [block.conv1 for block in blocks])
        given.project(latent, [norm.style for block in blocks for norm in (block.norm1, block.norm2)])
        norms = [*(attention.norm for attention in attentions), self.out_norm]
        given.repeat(len(latent), {norm: [norm.weight, norm.bias] for norm in norms})
        layers: list[nn.Conv2d | nn.Linear] = [
            self.mask_stem,
            *(pyramid.conv for pyramid in pyramids),
            *(attention.output for attention in attentions),
        ]
        joined: dict[nn.Module, list[Tensor]] = {layer: [bias_of(layer)] for layer in layers}
        joined |= {block.conv2: [bias_of(block.conv2)] for block in blocks}
        pairs = [(block.conv2, block.skip) for block in blocks if block.skip is not None]
        sums = torch._foreach_add([bias_of(conv) for conv, _ in pairs], [bias_of(skip) for _, skip in pairs])
        joined |= {conv: [both] for (conv, _), both in zip(pairs, sums, strict=True)}
        given.repeat(fused.ROWS, joined)
        return given


def _attend(attention: nn.Module, h: Tensor, time: Conditions) -> Tensor:
    out: Tensor = attention(h, time) if isinstance(attention, SelfAttention) and isinstance(time, Given) else attention(h)
    return out
