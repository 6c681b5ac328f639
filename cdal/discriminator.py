"""Time-dependent discriminators and the features that give the spatial attention map (cDAL section 3.2).

Shapes: B batch, M mask channels, H and W pixels, n base width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdal.devices import fused
from cdal.layers import (
    DiscriminatorBlock,
    Given,
    append_batch_deviation,
    bias_of,
    convolve,
    entering,
    scaled_conv,
    scaled_linear,
    time_features,
)
from cdal.sections import ModelConfig

# Channels into and out of every block as multiples of n, and whether the block halves the resolution.
_BLOCKS = {
    "small": ((2, 2, False), (2, 4, True), (4, 8, True), (8, 8, True)),
    "large": ((2, 4, True), (4, 8, True), (8, 8, True), (8, 8, True), (8, 8, True), (8, 8, True)),
}


class Discriminator(nn.Module):
    """Tells true pairs (x_t, x_{t+1}) from pairs whose x_t was generated, knowing the step t (Xiao et al. 2022, section 3.2)."""

    def __init__(
        self, *, kind: Literal["small", "large"], mask_channels: int, width: int, time_embedding: int, blocks: int = 0
    ) -> None:
        super().__init__()
        shapes = _BLOCKS[kind][: blocks or None]
        self.time_embedding = time_embedding
        self.time1 = scaled_linear(time_embedding, time_embedding, "fan_out")
        self.time2 = scaled_linear(time_embedding, time_embedding, "fan_out")
        self.stem = scaled_conv(2 * mask_channels, 2 * width, 1, mode="fan_out")
        self.blocks = nn.ModuleList(DiscriminatorBlock(a * width, b * width, time_embedding, down) for a, b, down in shapes)
        channels = shapes[-1][1] * width
        self.final_conv = scaled_conv(channels + 1, channels, mode="fan_out", scale=1e-10 if kind == "small" else 1.0)
        self.final_linear = scaled_linear(channels, 1, "fan_out")
        if kind == "large":  # as released, the 2D recipe redraws every convolution, the near-zero ones too
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.02)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Discriminator:
        """The discriminator that a configuration describes."""
        return cls(
            kind=config.discriminator,
            mask_channels=config.mask_channels,
            width=config.discriminator_width,
            time_embedding=config.discriminator_time_embedding,
            blocks=config.discriminator_blocks,
        )

    def forward(self, x_t: Tensor, t: Tensor, x_next: Tensor) -> Tensor:
        """Logits, larger for true pairs: x_t, x_next (B, M, H, W), t (B,) -> (B, 1). B is at most 4 or a multiple of 4."""
        h = self.features(x_t, t, x_next, len(self.blocks))
        h, bias = convolve(self.final_conv, append_batch_deviation(h))
        h = F.leaky_relu(h, 0.2) if bias is None else fused.add_leaky(h, bias.expand(len(h), -1), 0.2)
        out: Tensor = self.final_linear(h.sum(dim=(2, 3)))
        return out

    def features(self, x_t: Tensor, t: Tensor, x_next: Tensor, tap: int) -> Tensor:
        """The feature map at a tap, 0 for the stem and i for the i-th block; nothing behind the tap is computed."""
        time: Tensor | Given = F.leaky_relu(self.time1(time_features(t, self.time_embedding, self.time1.weight.dtype)), 0.2)
        time = F.leaky_relu(self.time2(time), 0.2)
        h, bias = convolve(self.stem, entering(torch.cat([x_t, x_next], dim=1), self.stem))
        h = h if bias is None else h + bias[:, None, None]
        blocks = [block for block in self.blocks[:tap] if isinstance(block, DiscriminatorBlock)]
        if blocks and fused.available(h):
            given = Given()
            given.project(time, [block.time for block in blocks], [block.conv1 for block in blocks])
            given.repeat(fused.ROWS, {block.conv2: [bias_of(block.conv2)] for block in blocks})
            time = given
        for block in blocks:
            h = block(h, time)
        return h
