"""Triton kernels of group normalisation, as operators `torch.ops.cdal.*`; `fused` gives them derivatives.

Shapes: B batch, C channels, H and W height and width, S splits of a sample's H W pixels, as many as it takes to fill a GPU.
Tensors (B, C, H, W) lie in memory as (B, H W, C), channels last. Arithmetic is in float32, sums are added up in an order that
depends on shapes alone, and nothing waits for the device.
"""

# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import math

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor

from cdal.devices.launching import dense, register, table, tiling

_PROGRAMS = 256  # about two for each multiprocessor of an H100
_COUNTS = ["pixels", "groups", "rows", "splits", "scale_step", "shift_step", "add_step"]  # for whose values no code is made


@triton.jit
def _over_group(values, channel, width, groups, tile: tl.constexpr, lanes: tl.constexpr):
    """For every channel the sum over its group, which has `width` channels: (C,) -> (C,)."""
    total = tl.zeros([lanes], tl.float32)
    for first in range(0, groups, tile):
        member = (channel // width)[:, None] == (first + tl.arange(0, tile))[None, :]
        sums = tl.sum(tl.where(member, values[:, None], 0.0), 0)
        total += tl.sum(tl.where(member, sums[None, :], 0.0), 1)
    return total


@triton.jit
def _over_splits(partial, channel, channels, splits, tile: tl.constexpr, lanes: tl.constexpr):
    """The sum of one of two partial sums: (S, 2, C) -> (C,)."""
    total = tl.zeros([lanes], tl.float32)
    for first in range(0, splits, tile):
        split = first + tl.arange(0, tile)[:, None]
        inside = (split < splits) & (channel < channels)[None, :]
        total += tl.sum(tl.load(partial + split * 2 * channels + channel[None, :], mask=inside, other=0.0), 0)
    return total


@triton.jit
def _spread(x, first, last, channels, tile: tl.constexpr, lanes: tl.constexpr):
    """For every channel the mean over some rows, and the sum of squared differences from it: two (C,)."""
    channel = tl.arange(0, lanes)[None, :]
    x += channel
    lane = tl.arange(0, tile)[:, None]
    origin = tl.load(x + first.to(tl.int64) * channels, mask=channel < channels, other=0.0).to(tl.float32)  # (1, C)

    mean = tl.zeros([tile, lanes], tl.float32)  # of every tile-th row, as seen from the origin (Welford 1962)
    squares = tl.zeros([tile, lanes], tl.float32)
    count = 0.0
    for start in range(first, last, tile):
        row = start + lane
        inside = (row < last) & (channel < channels)
        value = tl.load(x + row.to(tl.int64) * channels, mask=inside, other=0.0).to(tl.float32) - origin
        count += 1.0
        step = tl.where(inside, value - mean, 0.0)
        mean += step * (1.0 / count)
        squares += step * (value - mean)

    counts = ((last - first - lane + tile - 1) // tile).to(tl.float32)
    middle = tl.sum(counts * mean, 0) / (last - first)
    squares += counts * (mean - middle[None, :]) * (mean - middle[None, :])  # (Chan, Golub and LeVeque 1983)
    return middle + tl.sum(origin, 0), tl.sum(squares, 0)


@triton.jit(do_not_specialize=_COUNTS)
def _measure(x, partial, pixels, channels, rows, splits, tile: tl.constexpr, lanes: tl.constexpr):
    """What `_spread` finds in a split: x -> partial (B, S, 2, C)."""
    sample, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, lanes)
    first = split * rows
    x += sample * pixels * channels
    mean, squares = _spread(x, first, tl.minimum(first + rows, pixels), channels, tile, lanes)
    partial += (sample * splits + split) * 2 * channels + channel
    tl.store(partial, mean, mask=channel < channels)
    tl.store(partial + channels, squares, mask=channel < channels)


@triton.jit
def _split_means(partial, first, channel, pixels, channels, rows, splits, tile: tl.constexpr):
    """Number of pixels, and mean of every channel, of some splits from the first on."""
    split = first + tl.arange(0, tile)[:, None]
    inside = (split < splits) & (channel < channels)[None, :]
    count = tl.where(inside, tl.minimum(rows, pixels - split * rows), 0).to(tl.float32)
    return count, tl.load(partial + split * 2 * channels + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _joint_spread(partial, channel, pixels, channels, rows, splits, split_tile: tl.constexpr, lanes: tl.constexpr):
    """What `_spread` would find in all splits together."""
    origin = tl.load(partial + channel, mask=channel < channels, other=0.0)
    away = tl.zeros([lanes], tl.float32)
    for first in range(0, splits, split_tile):
        count, means = _split_means(partial, first, channel, pixels, channels, rows, splits, split_tile)
        away += tl.sum(count * (means - origin[None, :]), 0)
    mean = origin + away / pixels
    squares = _over_splits(partial + channels, channel, channels, splits, split_tile, lanes)
    for first in range(0, splits, split_tile):
        count, means = _split_means(partial, first, channel, pixels, channels, rows, splits, split_tile)
        squares += tl.sum(count * (means - mean[None, :]) * (means - mean[None, :]), 0)
    return mean, squares


@triton.jit(do_not_specialize=_COUNTS)
def _normalise(
    x, partial, scale, scale_step, shift, shift_step, add, add_step, y, moments, pixels, channels, groups, rows, splits, eps,
    silu: tl.constexpr, tile: tl.constexpr, split_tile: tl.constexpr, group_tile: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """From x to y, and moments (B, 3, C): the mean, what is subtracted, what the difference is multiplied with.

    Without `partial` a program has a whole sample, and looks at it twice.
    """
    sample, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, lanes)
    there = channel < channels
    x += sample * pixels * channels
    y += sample * pixels * channels
    begin = split * rows
    last = tl.minimum(begin + rows, pixels)
    if partial is None:
        mean, squares = _spread(x, begin, last, channels, tile, lanes)
    else:
        mean, squares = _joint_spread(
            partial + sample * splits * 2 * channels, channel, pixels, channels, rows, splits, split_tile, lanes
        )

    added = tl.zeros([lanes], tl.float32)
    if add is not None:
        added += tl.load(add + sample * add_step + channel, mask=there, other=0.0).to(tl.float32)
    width = channels // groups
    middle = _over_group(mean + added, channel, width, groups, group_tile, lanes) / width
    centre = middle - added
    squares += pixels * (mean - centre) * (mean - centre)
    variance = _over_group(squares, channel, width, groups, group_tile, lanes) / width / pixels
    inverse = 1.0 / tl.sqrt(variance + eps)
    told = channel + split * lanes < channels  # by the first split's program alone
    moments += sample * 3 * channels + channel
    tl.store(moments, mean, mask=told)
    tl.store(moments + channels, centre, mask=told)
    tl.store(moments + 2 * channels, inverse, mask=told)

    factor = inverse * tl.load(scale + sample * scale_step + channel, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(shift + sample * shift_step + channel, mask=there, other=0.0).to(tl.float32)
    for start in range(begin, last, tile):
        row = start + tl.arange(0, tile)[:, None]
        inside = (row < last) & there[None, :]
        place = row.to(tl.int64) * channels + channel[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        value = (value - centre[None, :]) * factor[None, :] + offset[None, :]
        if silu:
            value *= tl.sigmoid(value)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _behind(gradient, x, place, inside, centre, inverse, factor, offset, silu: tl.constexpr):
    """The gradient behind the activation taken in front of it, and the normalised values."""
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    normal = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - centre[None, :]) * inverse[None, :]
    if silu:
        value = normal * factor[None, :] + offset[None, :]
        on = tl.sigmoid(value)
        g *= on * (1.0 + value * (1.0 - on))
    return g, normal


@triton.jit
def _sums(
    gradient, x, first, last, channels, centre, inverse, factor, offset, silu: tl.constexpr, tile: tl.constexpr, lanes: tl.constexpr
):
    """Sums over some rows of the gradient of the shift and of the scale: two (C,)."""
    channel = tl.arange(0, lanes)[None, :]
    shifts = tl.zeros([tile, lanes], tl.float32)
    scales = tl.zeros([tile, lanes], tl.float32)
    for start in range(first, last, tile):
        row = start + tl.arange(0, tile)[:, None]
        inside = (row < last) & (channel < channels)
        place = row.to(tl.int64) * channels + channel
        g, normal = _behind(gradient, x, place, inside, centre, inverse, factor, offset, silu)
        shifts += g
        scales += g * normal
    return tl.sum(shifts, 0), tl.sum(scales, 0)


@triton.jit(do_not_specialize=_COUNTS)
def _sum_gradients(
    gradient, x, moments, scale, scale_step, shift, shift_step, partial, pixels, channels, rows, splits,
    silu: tl.constexpr, tile: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """What `_sums` finds in a split: partial (B, S, 2, C)."""
    sample, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, lanes)
    there = channel < channels
    centre = tl.load(moments + (sample * 3 + 1) * channels + channel, mask=there, other=0.0)
    inverse = tl.load(moments + (sample * 3 + 2) * channels + channel, mask=there, other=0.0)
    factor = tl.load(scale + sample * scale_step + channel, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(shift + sample * shift_step + channel, mask=there, other=0.0).to(tl.float32)
    gradient += sample * pixels * channels
    x += sample * pixels * channels
    first = split * rows
    last = tl.minimum(first + rows, pixels)
    shifts, scales = _sums(gradient, x, first, last, channels, centre, inverse, factor, offset, silu, tile, lanes)
    partial += (sample * splits + split) * 2 * channels + channel
    tl.store(partial, shifts, mask=there)
    tl.store(partial + channels, scales, mask=there)


@triton.jit(do_not_specialize=_COUNTS)
def _differentiate(
    gradient, x, moments, scale, scale_step, shift, shift_step, partial, beside, dx, small, pixels, channels, groups, rows,
    splits, silu: tl.constexpr, tile: tl.constexpr, split_tile: tl.constexpr, group_tile: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """Gradients of x, to which what comes from `beside` is added, and small (B, 3, C): those of scale, shift and add.

    Without `partial` a program has a whole sample, and looks at it twice.
    """
    sample, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, lanes)
    there = channel < channels
    moments += sample * 3 * channels + channel
    mean = tl.load(moments, mask=there, other=0.0)
    centre = tl.load(moments + channels, mask=there, other=0.0)
    inverse = tl.load(moments + 2 * channels, mask=there, other=0.0)
    factor = tl.load(scale + sample * scale_step + channel, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(shift + sample * shift_step + channel, mask=there, other=0.0).to(tl.float32)
    gradient += sample * pixels * channels
    x += sample * pixels * channels
    dx += sample * pixels * channels
    first = split * rows
    last = tl.minimum(first + rows, pixels)
    if partial is None:
        shifts, scales = _sums(gradient, x, first, last, channels, centre, inverse, factor, offset, silu, tile, lanes)
    else:
        partial += sample * splits * 2 * channels
        shifts = _over_splits(partial, channel, channels, splits, split_tile, lanes)
        scales = _over_splits(partial + channels, channel, channels, splits, split_tile, lanes)

    width = channels // groups
    constant = _over_group(factor * shifts, channel, width, groups, group_tile, lanes) / width / pixels
    slope = _over_group(factor * scales, channel, width, groups, group_tile, lanes) / width / pixels
    sums = factor * shifts - pixels * (constant + slope * (mean - centre) * inverse)
    told = channel + split * lanes < channels  # by the first split's program alone
    small += sample * 3 * channels + channel
    tl.store(small, scales.to(small.dtype.element_ty), mask=told)
    tl.store(small + channels, shifts.to(small.dtype.element_ty), mask=told)
    tl.store(small + 2 * channels, (inverse * sums).to(small.dtype.element_ty), mask=told)

    if beside is not None:
        beside += sample * pixels * channels
    for start in range(first, last, tile):
        row = start + tl.arange(0, tile)[:, None]
        inside = (row < last) & there[None, :]
        place = row.to(tl.int64) * channels + channel[None, :]
        g, normal = _behind(gradient, x, place, inside, centre, inverse, factor, offset, silu)
        value = inverse[None, :] * (g * factor[None, :] - constant[None, :] - normal * slope[None, :])
        if beside is not None:
            value += tl.load(beside + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + place, value.to(dx.dtype.element_ty), mask=inside)


def _combining(lanes: int) -> dict[str, int]:
    """How many splits and groups are looked at together."""
    return {"split_tile": min(128, max(1, 4096 // lanes)), "group_tile": min(32, max(1, 8192 // lanes))}


def whole(x: Tensor) -> bool:
    """Whether one program takes a whole sample of a group normalisation: it is small, or samples are many enough."""
    return x[0].numel() <= (2**16 if len(x) >= 100 else 2**14)


def _splits(x: Tensor) -> tuple[int, int]:
    """Pixels in a split, and the number of splits: one where a sample stays whole, else few enough."""
    pixels = x.shape[2] * x.shape[3]
    if whole(x):
        return pixels, 1
    rows = -(-pixels // max(1, min(_PROGRAMS // len(x), math.isqrt(pixels) // 2)))
    return rows, -(-pixels // rows)


def _empty_group_norm(
    x: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, silu: bool, add: Tensor | None
) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.channels_last)
    return y, x.new_empty((len(x), 3, x.shape[1]), dtype=torch.float32)


def _group_norm(
    x: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, silu: bool, add: Tensor | None
) -> tuple[Tensor, Tensor]:
    y, moments = _empty_group_norm(x, groups, scale, shift, eps, silu, add)
    x, (batch, channels, height, width) = dense(x), x.shape
    pixels, partial, (rows, splits), warps = height * width, None, _splits(x), 16 if whole(x) else 8
    tiles = tiling(x, 1024 * warps)
    with torch.cuda.device_of(x):
        if not whole(x):
            partial = x.new_empty((batch, splits, 2, channels), dtype=torch.float32)
            _measure[batch, splits](x, partial, pixels, channels, rows, splits, **tiles, num_warps=8)
        _normalise[batch, splits](
            x, partial, *table(scale), *table(shift), *table(add), y, moments, pixels, channels, groups, rows, splits, eps,
            silu=silu, **tiles, **_combining(tiles["lanes"]), num_warps=warps,
        )  # fmt: skip
    return y, moments


def _empty_group_norm_backward(
    gradient: Tensor, x: Tensor, moments: Tensor, groups: int, scale: Tensor, shift: Tensor, silu: bool, beside: Tensor | None
) -> tuple[Tensor, Tensor]:
    dtype = scale.dtype if scale.dim() == 2 else torch.float32  # what is yet to be added up over the batch stays precise
    return torch.empty_like(x, memory_format=torch.channels_last), torch.empty_like(moments, dtype=dtype)


def _group_norm_backward(
    gradient: Tensor, x: Tensor, moments: Tensor, groups: int, scale: Tensor, shift: Tensor, silu: bool, beside: Tensor | None
) -> tuple[Tensor, Tensor]:
    outputs = _empty_group_norm_backward(gradient, x, moments, groups, scale, shift, silu, beside)
    gradient, x, (batch, channels, height, width) = dense(gradient), dense(x), x.shape
    beside = None if beside is None else dense(beside)
    scales, shifts = table(scale), table(shift)
    pixels, partial, (rows, splits), warps = height * width, None, _splits(x), 16 if whole(x) else 8
    tiles = tiling(x, 512 * warps)
    with torch.cuda.device_of(x):
        if not whole(x):
            partial = x.new_empty((batch, splits, 2, channels), dtype=torch.float32)
            _sum_gradients[batch, splits](
                gradient, x, moments, *scales, *shifts, partial, pixels, channels, rows, splits, silu=silu, **tiles, num_warps=8
            )
        _differentiate[batch, splits](
            gradient, x, moments, *scales, *shifts, partial, beside, *outputs, pixels, channels, groups, rows, splits,
            silu=silu, **tiles, **_combining(tiles["lanes"]), num_warps=warps,
        )  # fmt: skip
    return outputs


register(
    "group_norm(Tensor x, int groups, Tensor scale, Tensor shift, float eps, bool silu, Tensor? add) -> (Tensor, Tensor)",
    _group_norm,
    _empty_group_norm,
)
register(
    "group_norm_backward(Tensor gradient, Tensor x, Tensor moments, int groups, Tensor scale, Tensor shift, bool silu,"
    " Tensor? beside) -> (Tensor, Tensor)",
    _group_norm_backward,
    _empty_group_norm_backward,
)
