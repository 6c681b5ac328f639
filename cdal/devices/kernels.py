"""Triton kernels of the networks' memory-bound operations, as operators `torch.ops.cdal.*`; `fused` gives them derivatives.

Shapes: B batch, C channels, H and W height and width, P programs. Tensors (B, C, H, W) lie in memory as (B, H W, C), channels last.
Arithmetic is in float32, sums are added up in an order that depends on shapes alone, and nothing waits for the device.
"""

# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor

import cdal.devices.norm_kernels  # noqa: F401  registers its own operators
from cdal.devices.launching import dense, register, table, tiling

_SIZES = ["pixels", "add_step", "total", "height", "width", "height_to", "width_to"]


@triton.jit(do_not_specialize=_SIZES)
def _resample(
    x, y, other, of_other, total, channels, height, width, height_to, width_to, gain,
    up: tl.constexpr, down: tl.constexpr, pad: tl.constexpr, tile: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """Filter [1, 3, 3, 1] along both axes: x (B, H, W, C) -> y (B, H', W', C), of which `total` pixels; and another x."""
    if tl.program_id(1) == 1:
        x, y = other, of_other
    pixel = tl.program_id(0) * tile + tl.arange(0, tile)
    channel = tl.arange(0, lanes)[None, :]
    there = (pixel < total)[:, None] & (channel < channels)
    row, column = pixel // width_to % height_to, pixel % width_to
    taps: tl.constexpr = 4 // up
    # The first tap is ceil((o down - pad) / up); no division here sees a negative number.
    top = (row * down - pad + 4 + up - 1) // up - taps
    left = (column * down - pad + 4 + up - 1) // up - taps
    corner = (pixel // (width_to * height_to) * height + top).to(tl.int64) * width + left
    total_sum = tl.zeros([tile, lanes], tl.float32)
    for i in tl.static_range(taps):
        tap = (top + i) * up - row * down + pad
        line = tl.zeros([tile, lanes], tl.float32)
        for j in tl.static_range(taps):
            tip = (left + j) * up - column * down + pad
            inside = (top + i >= 0) & (top + i < height) & (left + j >= 0) & (left + j < width)
            place = (corner + i * width + j)[:, None] * channels + channel
            value = tl.load(x + place, mask=inside[:, None] & there, other=0.0).to(tl.float32)
            line += value * tl.where((tip == 0) | (tip == 3), 0.125, 0.375)[:, None]
        total_sum += line * tl.where((tap == 0) | (tap == 3), 0.125, 0.375)[:, None]
    place = pixel.to(tl.int64)[:, None] * channels + channel
    tl.store(y + place, (total_sum * gain).to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=_SIZES)
def _combine(h, x, add, add_step, y, total, pixels, channels, factor, slope, tile: tl.constexpr, lanes: tl.constexpr):
    """Leaky ReLU of (h + x + add) * factor, where x may be missing and so may add."""
    row = tl.program_id(0) * tile + tl.arange(0, tile)[:, None]
    channel = tl.arange(0, lanes)[None, :]
    inside = (row < total) & (channel < channels)
    place = row.to(tl.int64) * channels + channel
    value = tl.load(h + place, mask=inside, other=0.0).to(tl.float32)
    if x is not None:
        value += tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if add is not None:
        value += tl.load(add + (row // pixels).to(tl.int64) * add_step + channel, mask=inside, other=0.0).to(tl.float32)
    value *= factor
    value = tl.where(value > 0, value, value * slope)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["total", "rows"])
def _uncombine(
    gradient, pitch, y, other, dh, sums, total, rows, channels, factor, slope, tile: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """From the gradient of `_combine`'s y to dh, that of h, plus `other`, and sums (P, C): those of every program's rows.

    Only where the ReLU was leaky y is there, only where it differs from the gradient dh, only where they are wanted the sums.
    """
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, lanes)[None, :]
    found = tl.zeros([tile, lanes], tl.float32)
    first = program * rows
    last = tl.minimum(first + rows, total)
    for start in range(first, last, tile):
        row = start + tl.arange(0, tile)[:, None]
        inside = (row < last) & (channel < channels)
        place = row.to(tl.int64) * channels + channel
        value = tl.load(gradient + row.to(tl.int64) * pitch + channel, mask=inside, other=0.0).to(tl.float32) * factor
        if y is not None:
            value = tl.where(tl.load(y + place, mask=inside, other=0.0).to(tl.float32) > 0, value, value * slope)
        if other is not None:
            value += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
        if dh is not None:
            tl.store(dh + place, value.to(dh.dtype.element_ty), mask=inside)
        found += value
    if sums is not None:
        sums += program * channels + channel
        tl.store(sums, tl.sum(found, 0)[None, :].to(sums.dtype.element_ty), mask=channel < channels)


@triton.jit(do_not_specialize=["number", "pixels"])
def _deviate(x, y, number, pixels, channels, group: tl.constexpr, tile: tl.constexpr, lanes: tl.constexpr):
    """To x (B, H W, C) one more channel, y (B, H W, C + 1): the deviation over every number-th sample, its mean over all."""
    channel = tl.arange(0, lanes)[None, :]
    sample = tl.program_id(0).to(tl.int64)
    total = tl.zeros([tile, lanes], tl.float32)
    for start in range(0, pixels, tile):
        row = start + tl.arange(0, tile)[:, None]
        inside = (row < pixels) & (channel < channels)
        _, squares = _over_samples(x, sample, row, channel, inside, number, pixels, channels, group, tile, lanes)
        total += tl.where(inside, tl.sqrt(squares + 1e-8), 0.0)
        for i in tl.static_range(group):
            at = (sample + i * number) * pixels + row
            tl.store(y + at * (channels + 1) + channel, tl.load(x + at * channels + channel, mask=inside), mask=inside)
    deviation = tl.sum(tl.sum(total, 0), 0) / pixels / channels
    for start in range(0, pixels, tile):
        row = start + tl.arange(0, tile)
        for i in tl.static_range(group):
            at = ((sample + i * number) * pixels + row) * (channels + 1) + channels
            tl.store(y + at, (deviation + tl.zeros([tile], tl.float32)).to(y.dtype.element_ty), mask=row < pixels)


@triton.jit
def _over_samples(
    x, sample, row, channel, inside, number, pixels, channels, group: tl.constexpr, tile: tl.constexpr, lanes: tl.constexpr
):
    """Mean and variance over a group of samples."""
    mean = tl.zeros([tile, lanes], tl.float32)
    for i in tl.static_range(group):
        at = ((sample + i * number) * pixels + row) * channels + channel
        mean += tl.load(x + at, mask=inside, other=0.0).to(tl.float32) / group
    squares = tl.zeros([tile, lanes], tl.float32)
    for i in tl.static_range(group):
        at = ((sample + i * number) * pixels + row) * channels + channel
        away = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean
        squares += away * away / group
    return mean, squares


@triton.jit(do_not_specialize=["number", "pixels"])
def _differentiate_deviation(
    gradient, x, dx, number, pixels, channels, group: tl.constexpr, tile: tl.constexpr, lanes: tl.constexpr
):
    """The gradient of x from that of what `_deviate` makes of it."""
    channel = tl.arange(0, lanes)[None, :]
    sample = tl.program_id(0).to(tl.int64)
    total = tl.zeros([tile], tl.float32)
    for start in range(0, pixels, tile):
        row = start + tl.arange(0, tile)
        for i in tl.static_range(group):
            at = ((sample + i * number) * pixels + row) * (channels + 1) + channels
            total += tl.load(gradient + at, mask=row < pixels, other=0.0).to(tl.float32)
    slope = tl.sum(total, 0) / pixels / channels / group
    for start in range(0, pixels, tile):
        row = start + tl.arange(0, tile)[:, None]
        inside = (row < pixels) & (channel < channels)
        mean, squares = _over_samples(x, sample, row, channel, inside, number, pixels, channels, group, tile, lanes)
        factor = slope / tl.sqrt(squares + 1e-8)
        for i in tl.static_range(group):
            at = (sample + i * number) * pixels + row
            value = factor * (tl.load(x + at * channels + channel, mask=inside, other=0.0).to(tl.float32) - mean)
            value += tl.load(gradient + at * (channels + 1) + channel, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + at * channels + channel, value.to(dx.dtype.element_ty), mask=inside)


# ------------------------------------------------------------------------------------------------------------------------ launches


def _empty_fir(
    x: Tensor, other: Tensor | None, up: int, down: int, pad: int, size: list[int], gain: float
) -> tuple[Tensor, Tensor]:
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return y, x.new_empty(0) if other is None else torch.empty_like(y)


def _fir(x: Tensor, other: Tensor | None, up: int, down: int, pad: int, size: list[int], gain: float) -> tuple[Tensor, Tensor]:
    y, of_other = _empty_fir(x, other, up, down, pad, size, gain)
    x, other, (batch, channels, height, width) = dense(x), None if other is None else dense(other), x.shape
    tiles, total = tiling(x, 2048, 128), batch * size[0] * size[1]
    with torch.cuda.device_of(x):
        _resample[triton.cdiv(total, tiles["tile"]), 1 if other is None else 2](
            x, y, x if other is None else other, y if other is None else of_other, total, channels, height, width, *size, gain,
            up=up, down=down, pad=pad, **tiles, num_warps=4,
        )  # fmt: skip
    return y, of_other


def _empty_sum(h: Tensor, x: Tensor | None, add: Tensor | None, factor: float, slope: float) -> Tensor:
    return torch.empty_like(h, memory_format=torch.channels_last)


def _sum(h: Tensor, x: Tensor | None, add: Tensor | None, factor: float, slope: float) -> Tensor:
    y = _empty_sum(h, x, add, factor, slope)
    h, x, (batch, channels, height, width) = dense(h), None if x is None else dense(x), h.shape
    tiles, pixels = tiling(h, 4096), height * width
    with torch.cuda.device_of(h):
        _combine[(triton.cdiv(batch * pixels, tiles["tile"]),)](
            h, x, *table(add), y, batch * pixels, pixels, channels, factor, slope, **tiles, num_warps=8
        )
    return y


def _empty_sum_backward(
    gradient: Tensor, y: Tensor | None, other: Tensor | None, factor: float, slope: float, programs: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    changed = y is not None or other is not None or factor != 1
    dh = torch.empty_like(gradient, memory_format=torch.channels_last) if changed else gradient.new_empty(0)
    return dh, gradient.new_empty((programs, gradient.shape[1]), dtype=dtype)


def _sum_backward(
    gradient: Tensor, y: Tensor | None, other: Tensor | None, factor: float, slope: float, programs: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    dh, sums = _empty_sum_backward(gradient, y, other, factor, slope, programs, dtype)
    y, other = None if y is None else dense(y), None if other is None else dense(other)
    _, _, height, width = gradient.shape
    pitch = gradient.stride(3)  # of a part of a concatenation it is that of the whole
    if gradient.stride() != (height * width * pitch, 1, width * pitch, pitch):
        gradient, pitch = dense(gradient), gradient.shape[1]
    total, channels = gradient.numel() // gradient.shape[1], gradient.shape[1]
    tiles = tiling(gradient, 8192 if programs else 4096)
    rows = triton.cdiv(total, programs) if programs else tiles["tile"]
    with torch.cuda.device_of(gradient):
        _uncombine[(programs or triton.cdiv(total, rows),)](
            gradient, pitch, y, other, dh if len(dh) else None, sums if programs else None, total, rows, channels, factor, slope,
            **tiles, num_warps=8,
        )  # fmt: skip
    return dh, sums


def _empty_deviation(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.new_empty((batch, height, width, channels + 1)).permute(0, 3, 1, 2)


def _deviation(x: Tensor) -> Tensor:
    y, x, group = _empty_deviation(x), dense(x), min(len(x), 4)
    with torch.cuda.device_of(x):
        _deviate[(len(x) // group,)](
            x, y, len(x) // group, x.shape[2] * x.shape[3], x.shape[1], group=group, **tiling(x, 4096), num_warps=8
        )
    return y


def _empty_deviation_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _deviation_backward(gradient: Tensor, x: Tensor) -> Tensor:
    dx, gradient, x, group = _empty_deviation_backward(gradient, x), dense(gradient), dense(x), min(len(x), 4)
    with torch.cuda.device_of(x):
        _differentiate_deviation[(len(x) // group,)](
            gradient, x, dx, len(x) // group, x.shape[2] * x.shape[3], x.shape[1], group=group, **tiling(x, 4096), num_warps=8
        )
    return dx


register("fir(Tensor x, Tensor? other, int up, int down, int pad, int[] size, float gain) -> (Tensor, Tensor)", _fir, _empty_fir)
register("sum(Tensor h, Tensor? x, Tensor? add, float factor, float slope) -> Tensor", _sum, _empty_sum)
register(
    "sum_backward(Tensor gradient, Tensor? y, Tensor? other, float factor, float slope, int programs, ScalarType dtype)"
    " -> (Tensor, Tensor)",
    _sum_backward,
    _empty_sum_backward,
)
register("deviation(Tensor x) -> Tensor", _deviation, _empty_deviation)
register("deviation_backward(Tensor gradient, Tensor x) -> Tensor", _deviation_backward, _empty_deviation_backward)
