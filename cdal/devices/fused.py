"""Operations of the networks that on a GPU are bound by memory: there each is one or two kernels, elsewhere plain PyTorch.

Shapes: B batch, C channels, H and W height and width. On a GPU outputs lie in memory channels last, and so should inputs.
"""

import functools
import importlib
import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def available(x: Tensor) -> bool:
    """Whether kernels serve a tensor: float32 or bfloat16, on a GPU that Triton serves."""
    return x.is_cuda and x.dtype in (torch.float32, torch.bfloat16) and _triton_works()


@functools.cache
def _triton_works() -> bool:
    try:
        importlib.import_module("cdal.devices.kernels")
    except ImportError:
        return False
    if not torch.cuda.is_available():
        return True  # for tensors of a GPU that have no data
    try:
        target = importlib.import_module("triton.runtime").driver.active.get_current_target()
        if target.backend == "cuda" and target.arch < 80:
            return False  # older ones know no bfloat16
        x = torch.ones(1, 16, 2, 2, device="cuda")
        if not torch.equal(torch.ops.cdal.sum(x, x, None, 1.0, 1.0), x + x):
            raise RuntimeError("one and one are not two")
    except Exception as error:  # of many kinds; mostly there is no C compiler
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"Triton does not work here, so that networks are slower: {reason}", stacklevel=3)
        return False
    return True


# ------------------------------------------------------------------------------------------------------------ group normalisation


Style = Tensor | tuple[Tensor, Tensor]  # (B, 2 C), scale first, or scale and shift (C,)


def group_norm(x: Tensor, groups: int, style: Style, eps: float, *, silu: bool, add: Tensor | None = None) -> Tensor:
    """Group normalisation of x + add, times a scale plus a shift, then SiLU if wanted: (B, C, H, W) -> (B, C, H, W).

    Args:
        x: (B, C, H, W); may be written over where `add` is given.
        groups: a divisor of C.
        style: scale and shift, of every sample (B, 2 C), or of all a pair of (C,).
        eps: added to the variance.
        silu: whether the activation follows.
        add: (B, C).
    """
    if available(x):
        return _group_norm(x, groups, style, eps, silu, add, beside=False)[0]
    return _plain_group_norm(x if add is None else x.add_(add[:, :, None, None]), groups, style, eps, silu)


def group_norm_beside(x: Tensor, groups: int, style: Style, eps: float, *, silu: bool) -> tuple[Tensor, Tensor]:
    """The same, and x for a branch around it: what comes back through both is added up in passing."""
    if available(x):
        y, around = _group_norm(x, groups, style, eps, silu, None, beside=True)
        return y, around
    return _plain_group_norm(x, groups, style, eps, silu), x


def _group_norm(
    x: Tensor, groups: int, style: Style, eps: float, silu: bool, add: Tensor | None, *, beside: bool
) -> tuple[Tensor, ...]:
    x = x.contiguous(memory_format=torch.channels_last)
    pair = (style, None) if isinstance(style, Tensor) else style
    out: tuple[Tensor, ...] = _GroupNorm.apply(x, *pair, add, groups, eps, silu, beside)  # type: ignore[no-untyped-call]
    return out


def _plain_group_norm(x: Tensor, groups: int, style: Style, eps: float, silu: bool) -> Tensor:
    if isinstance(style, Tensor):
        scale, shift = style.chunk(2, dim=1)
        y = torch.addcmul(shift[:, :, None, None], scale[:, :, None, None], F.group_norm(x, groups, eps=eps))
    else:
        y = F.group_norm(x, groups, *style, eps)
    return F.silu(y) if silu else y


class _GroupNorm(torch.autograd.Function):
    """Of a style (B, 2 C), or of a scale and a shift (C,)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, style: Tensor, shift: Tensor | None, add: Tensor | None, groups: int, eps: float, silu: bool,
        beside: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        pair = style.chunk(2, dim=1) if shift is None else (style, shift)
        y, moments = torch.ops.cdal.group_norm(x, groups, *pair, eps, silu, add)
        ctx.save_for_backward(x, style, shift, add, moments)
        ctx.settings = groups, eps, silu
        return (y, x) if beside else (y,)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, beside: Tensor | None = None) -> tuple[Tensor | None, ...]:
        x, style, shift, add, moments = ctx.saved_tensors
        groups, eps, silu = ctx.settings
        if torch.is_grad_enabled():  # the gradient will be differentiated, for which there is no kernel
            inputs = [tensor for tensor, needed in zip((x, style, shift, add), ctx.needs_input_grad, strict=False) if needed]
            precise = x.float() if add is None else x.float() + add.float()[:, :, None, None]
            y = _plain_group_norm(precise, groups, style.float() if shift is None else (style.float(), shift.float()), eps, silu)
            found = iter(torch.autograd.grad(y.to(x.dtype), inputs, gradient, create_graph=True))
            dx, *others = (next(found) if needed else None for needed in ctx.needs_input_grad[:4])
            return dx if dx is None or beside is None else dx + beside, *others, None, None, None, None
        pair = style.chunk(2, dim=1) if shift is None else (style, shift)
        dx, small = torch.ops.cdal.group_norm_backward(gradient, x, moments, groups, *pair, silu, beside)
        dadd = None if add is None else small[:, 2].to(add.dtype)
        if shift is None:
            return dx, small[:, :2].flatten(1), None, dadd, None, None, None, None
        dscale, dshift = small[:, :2].sum(dim=0).to(style.dtype)
        return dx, dscale, dshift, dadd, None, None, None, None


# --------------------------------------------------------------------------------------------------------------------- resampling


def fir(x: Tensor, up: int, down: int, pad: int, size: tuple[int, int], gain: float) -> Tensor:
    """Resampling through the filter w = [1, 3, 3, 1] / 8 along both axes, channel by channel: (B, C, H, W) -> (B, C, *size).

    Along each axis y[o] is the sum over i of x[i] w[i up - o down + pad], and `gain` times that altogether. Its derivatives of any
    order are of the same kind.

    Args:
        x: (B, C, H, W).
        up: 1 or 2.
        down: 1 or 2, but not 2 together with `up`.
        pad: 0 to 3; elsewhere than on a GPU 1 for down = 2 and 2 for up = 2.
        size: height and width of the output.
        gain: factor.
    """
    if up == down and not available(x):
        return F.conv2d(x, _filter(x, gain), padding=pad, groups=x.shape[1])
    out: Tensor = _Fir.apply(x, None, up, down, pad, size, gain)[0]  # type: ignore[no-untyped-call]
    return out


def fir_pair(x: Tensor, other: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
    """`fir` of two tensors, at once on a GPU."""
    if available(x) and x.shape == other.shape:
        y, of_other = _Fir.apply(x, other, *how)  # type: ignore[no-untyped-call]
        return y, of_other
    return fir(x, *how), fir(other, *how)


class _Fir(torch.autograd.Function):
    """Its gradient is the same with `up` and `down` exchanged.

    PyTorch's own second derivative of a depthwise convolution, which R1 needs, goes through the channels one by one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, other: Tensor | None, up: int, down: int, pad: int, size: tuple[int, int], gain: float
    ) -> tuple[Tensor, ...]:
        ctx.back = down, up, 3 - pad, tuple(x.shape[2:]), gain
        if available(x):
            y, of_other = torch.ops.cdal.fir(x, other, up, down, pad, size, gain)
            return (y,) if other is None else (y, of_other)
        channels = x.shape[1]
        if down == 2:
            return (F.conv2d(x, _filter(x, gain), stride=2, padding=1, groups=channels),)
        odd = (size[0] - 2 * x.shape[2], size[1] - 2 * x.shape[3])
        return (F.conv_transpose2d(x, _filter(x, gain), stride=2, padding=1, output_padding=odd, groups=channels),)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_other: Tensor | None = None) -> tuple[Tensor | None, ...]:
        dx, *dother = _Fir.apply(gradient, of_other, *ctx.back)  # type: ignore[no-untyped-call]
        return dx, dother[0] if dother else None, None, None, None, None, None


def _filter(x: Tensor, gain: float) -> Tensor:
    """Weights of a depthwise convolution of x: (C, 1, 4, 4)."""
    kept = _kept_filter if type(x) in (Tensor, torch.nn.Parameter) else _new_filter  # a fake tensor wants a fake filter
    return kept(x.device, x.dtype, gain).expand(x.shape[1], 1, 4, 4)


def _new_filter(device: torch.device, dtype: torch.dtype, gain: float) -> Tensor:
    with torch.inference_mode(False):  # or no gradient could ever pass it
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        return (gain * torch.outer(taps, taps)).to(device, dtype)


_kept_filter = functools.cache(_new_filter)


# ------------------------------------------------------------------------------------------------------------------- convolutions


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """A convolution whose second derivatives, which R1 needs, are convolutions of the same kind.

    PyTorch's own take the gradient for a filter as large as an image, and change the layout of all that they touch.
    """
    if available(x):
        out: Tensor = _Convolution.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]
        return out
    return F.conv2d(x, weight, None, stride, padding)


def _back(gradient: Tensor, x: Tensor, weight: Tensor, how: tuple[Any, Any], of_x: bool, of_weight: bool) -> list[Any]:
    """Gradients of the input and the weight of a convolution."""
    wanted = [of_x, of_weight, False]
    found: list[Any] = torch.ops.aten.convolution_backward(gradient, x, weight, None, *how, (1, 1), False, (0, 0), 1, wanted)
    return found


def _wanted(ctx: Any, number: int) -> bool:
    """Whether the gradient of an input is wanted now; `needs_input_grad` says whether it could be."""
    if not ctx.needs_input_grad[number]:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(ctx.next_functions[number][0]))
    except RuntimeError:  # it does not tell of a weight whose gradient is asked for by name
        return True


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = (_wanted(ctx, number) for number in range(2))
        if torch.is_grad_enabled() and of_x and not of_weight:
            return _OfInput.apply(gradient, x.detach(), weight, ctx.how), None, None, None  # type: ignore[no-untyped-call]
        dx, dweight, _ = _back(gradient, x, weight, ctx.how, of_x, of_weight)
        return dx, dweight, None, None


class _OfInput(torch.autograd.Function):
    """The gradient of a convolution's input x, which depends on the shape of x alone."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, how: tuple[Any, Any]) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.how = how
        dx: Tensor = _back(gradient, x, weight, how, True, False)[0]
        return dx

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, beyond: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = ctx.saved_tensors
        beyond = beyond.contiguous(memory_format=torch.channels_last)
        of_weight = _back(gradient, beyond, weight, ctx.how, False, True)[1] if ctx.needs_input_grad[2] else None
        return F.conv2d(beyond, weight, None, *ctx.how), None, of_weight, None


# --------------------------------------------------------------------------------------------------------------------------- sums


ROWS = 512
"""How often a bias is repeated for `join`, so that what is added up into its gradient keeps a GPU busy."""


def join(h: Tensor, x: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    """(h + x + bias) * factor.

    Args:
        h: (B, C, H, W); may be written over.
        x: (B, C, H, W).
        bias: (C,), or repeated (ROWS, C), over whose rows its gradient is spread.
        factor: what keeps the variance of a sum, for example.
    """
    if available(h):
        out: Tensor = _Join.apply(h, x, bias, factor)  # type: ignore[no-untyped-call]
        return out
    if bias is not None:
        h = h.add_((bias if bias.dim() == 1 else bias[0])[:, None, None])
    h = h.add_(x)
    return h if factor == 1 else h.mul_(factor)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, x: Tensor, bias: Tensor | None, factor: float) -> Tensor:
        ctx.factor, ctx.types = factor, (h.dtype, x.dtype, None if bias is None else bias.dtype)
        ctx.repeated = bias is not None and bias.dim() == 2
        return torch.ops.cdal.sum(h, x, bias[0] if ctx.repeated and bias is not None else bias, factor, 1.0)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_h, of_x, of_bias = ctx.types
        needed = of_bias is not None and _wanted(ctx, 2)
        dbias = None
        if torch.is_grad_enabled():
            gradient = gradient if ctx.factor == 1 else gradient * ctx.factor
            if needed:
                dbias = gradient.sum(dim=(0, 2, 3), dtype=of_bias)
                dbias = (dbias / ROWS).expand(ROWS, -1) if ctx.repeated else dbias
        elif needed or ctx.factor != 1:
            dtype = of_bias if ctx.repeated else torch.float32
            dh, sums = torch.ops.cdal.sum_backward(gradient, None, None, ctx.factor, 1.0, ROWS if needed else 0, dtype)
            gradient = gradient if ctx.factor == 1 else dh
            if needed:
                dbias = sums if ctx.repeated else sums.sum(dim=0).to(of_bias)
        return gradient.to(of_h), gradient.to(of_x), dbias, None


def add_leaky(h: Tensor, add: Tensor, slope: float) -> Tensor:
    """Leaky ReLU of h + add.

    Args:
        h: (B, C, H, W); may be written over.
        add: (B, C).
        slope: of the negative side, above 0.
    """
    if available(h):
        out: Tensor = _AddLeaky.apply(h, add, slope)  # type: ignore[no-untyped-call]
        return out
    return F.leaky_relu_(h.add_(add[:, :, None, None]), slope)


class _AddLeaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, add: Tensor, slope: float) -> Tensor:
        y: Tensor = torch.ops.cdal.sum(h, None, add, 1.0, slope)
        ctx.save_for_backward(y)
        ctx.slope, ctx.type = slope, add.dtype
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y.detach(), ctx.slope, True)  # its sign is all that matters
            return gradient, gradient.sum(dim=(2, 3), dtype=ctx.type) if _wanted(ctx, 1) else None, None
        batch, pixels = len(y), y.shape[2] * y.shape[3]
        # Equal parts of a sample, whose sums must be added up; as many samples keep a GPU busy as they are.
        parts = 1 if batch >= 100 else math.gcd(pixels, 1 << max(1, ROWS // batch).bit_length() - 1)
        dtype = ctx.type if parts == 1 else torch.float32
        dh, sums = torch.ops.cdal.sum_backward(gradient, y, None, 1.0, ctx.slope, batch * parts, dtype)
        return dh, sums if parts == 1 else sums.view(batch, parts, -1).sum(dim=1).to(ctx.type), None


def leaky_beside(x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Leaky ReLU of x, and x for a branch around it: what comes back through both is added up in passing."""
    if available(x):
        y, around = _LeakyBeside.apply(x, slope)  # type: ignore[no-untyped-call]
        return y, around
    return F.leaky_relu(x, slope), x


class _LeakyBeside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return F.leaky_relu(x, slope), x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, beside: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.ops.aten.leaky_relu_backward(gradient, x.detach(), ctx.slope, False) + beside, None
        return torch.ops.cdal.sum_backward(gradient, x, beside, 1.0, ctx.slope, 0, x.dtype)[0], None


def append_deviation(x: Tensor) -> Tensor:
    """The minibatch standard deviation over groups of `min(B, 4)` samples as one more channel: (B, C, H, W) -> (B, C + 1, H, W)."""
    if available(x):
        out: Tensor = _AppendDeviation.apply(x)  # type: ignore[no-untyped-call]
        return out
    return _plain_deviation(x)


def _plain_deviation(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    group = min(batch, 4)
    last = x.permute(0, 2, 3, 1).reshape(group, batch // group, height, width, channels)  # as it lies in memory
    columns = last.flatten(2).to(torch.promote_types(x.dtype, torch.float32))
    deviation = (columns.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1).to(x.dtype)
    out = torch.cat([last, deviation[:, None, None, None].expand(*last.shape[:-1], 1)], dim=-1)
    return out.reshape(batch, height, width, channels + 1).permute(0, 3, 1, 2)


class _AppendDeviation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.ops.cdal.deviation(x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            dx: Tensor = torch.autograd.grad(_plain_deviation(x), x, gradient, create_graph=True)[0]
            return dx
        dx = torch.ops.cdal.deviation_backward(gradient, x)
        return dx
