"""cDAL as its authors released it: the side that the project's own training step and sampler are compared with.

Written from a description of the release in words, in plain eager PyTorch, and agreeing with vectors made by running the release
(tests/benchmarks/test_plain.py). Work that the release wastes is wasted here too, and named where it is; where the description
leaves a choice, the cheaper way was taken. The only knowing difference: on a GPU the release compiles an operator of its own for
FIR resampling; here, the path that it takes without that operator runs everywhere.

    plain = PlainTrainer(config, device)
    plain.load(trainer)                              # the weights of a fresh cdal.trainer.Trainer
    losses = plain.step(image, mask, draws)
    mask = predict_image(config, plain.generator, image, torch.Generator(device))

Modules have the names of the release, so its state dicts load as they are. Nothing of cdal's networks, losses or diffusion is used.

Shapes: B batch, C channels, M mask channels, H and W pixels, D slices, E width of the time embedding, L width of the latent
embedding, Z latent size, S side of a training sample, T time steps.
"""

# ruff: noqa: D102 (the shapes of a forward without docstring stand in that of its class)

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdal.checkpoint import published_names
from cdal.config import Config
from cdal.discriminator import Discriminator
from cdal.generator import Generator
from cdal.sections import DiffusionConfig, LossConfig, ModelConfig
from cdal.trainer import Draws, Trainer

Resample = Literal["up", "down"] | None

# --- Building blocks ---


def fir_kernel(gain: float, device: torch.device) -> Tensor:
    """The 4x4 kernel of [1, 3, 3, 1], built with NumPy and sent to the device at every call, as released."""
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32)
    return torch.tensor(gain * kernel / kernel.sum(), device=device)


def upfirdn(x: Tensor, gain: float, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, filter at full resolution, keep every `down`-th sample: (B, C, H, W) -> (B, C, H', W')."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, 1, height, width)
    if up > 1:
        x = F.pad(x[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch * channels, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, padding * 2), fir_kernel(gain, x.device)[None, None])[:, :, ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


fir_up = partial(upfirdn, gain=4, up=2, down=1, padding=(2, 1))  # (B, C, H, W) -> (B, C, 2 H, 2 W)
fir_down = partial(upfirdn, gain=1, up=1, down=2, padding=(1, 1))  # (B, C, H, W) -> (B, C, H / 2, W / 2)
fir_blur = partial(upfirdn, gain=1, up=1, down=1, padding=(2, 2))  # (B, C, H, W) -> (B, C, H + 1, W + 1)


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of the step index: (B,) -> (B, width)."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -(math.log(10_000) / (half - 1)))
    angle = t.float()[:, None] * frequency[None]
    return F.pad(torch.cat([torch.sin(angle), torch.cos(angle)], dim=1), (0, width % 2))


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation with at least four channels a group."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6, affine=affine)


class PixelNorm(nn.Module):
    """Scales every latent to mean square 1: (B, Z) -> (B, Z)."""

    def forward(self, z: Tensor) -> Tensor:
        return z / torch.sqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)


class AdaptiveGroupNorm(nn.Module):
    """x (B, C, H, W), latent (B, L) -> (B, C, H, W), scale and shift as operations of their own."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.style = nn.Linear(latent, 2 * channels)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        scale, shift = self.style(latent)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = scale * self.norm(x) + shift
        return out


class ResidualBlock(nn.Module):
    """x (B, C, H, W), time (B, E) not yet activated, latent (B, L) -> (B, C', H', W')."""

    def __init__(self, channels_in: int, channels_out: int, time: int, latent: int, resample: Resample = None) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.resample = {"up": fir_up, "down": fir_down, None: None}[resample]
        self.GroupNorm_0 = AdaptiveGroupNorm(channels_in, latent)
        self.Conv_0 = conv3x3(channels_in, channels_out)
        self.Dense_0 = nn.Linear(time, channels_out)
        self.GroupNorm_1 = AdaptiveGroupNorm(channels_out, latent)
        self.Conv_1 = conv3x3(channels_out, channels_out)
        self.Conv_2 = nn.Conv2d(channels_in, channels_out, 1) if resample or channels_in != channels_out else None

    def forward(self, x: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        h = self.act(self.GroupNorm_0(x, latent))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h)
        h = h + self.Dense_0(self.act(time))[:, :, None, None]
        h = self.Conv_1(self.act(self.GroupNorm_1(h, latent)))
        if self.Conv_2 is not None:
            x = self.Conv_2(x)
        out: Tensor = (x + h) / math.sqrt(2)
        return out


class PyramidDown(nn.Module):
    """Blur, then a 3x3 convolution of stride 2 whose bias is added after: (B, C, H, W) -> (B, C', H / 2, W / 2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.Conv2d_0 = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert self.Conv2d_0.bias is not None
        return F.conv2d(fir_blur(x), self.Conv2d_0.weight, stride=2) + self.Conv2d_0.bias[None, :, None, None]


class NIN(nn.Module):
    """A linear map of every pixel's channels, its matrix stored [in, out]: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        out: Tensor = torch.tensordot(pixels, self.W, dims=1) + self.b
        return out.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Self-attention over all pixels with all weights in memory: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)
        weights = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(channels)
        weights = torch.softmax(weights.reshape(batch, height, width, height * width), dim=-1)
        h = torch.einsum("bhwij,bcij->bchw", weights.reshape(batch, height, width, height, width), v)
        out: Tensor = (x + self.NIN_3(h)) / math.sqrt(2)
        return out


class EncoderBlock(nn.Module):
    """Residual block of the image encoder: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = min(32, channels)  # 32 as released; fewer only for networks narrower than the release can build
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), conv3x3(channels, channels))
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), nn.Dropout(0), conv3x3(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.out_layers(self.in_layers(x))
        return out


# --- Networks ---


class PlainGenerator(nn.Module):
    """Predicts the clean mask from a noisy one, all modules in one flat list."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.model, self.act = model, nn.SiLU()
        base, widths = model.base_width, [model.base_width * multiplier for multiplier in model.width_multipliers]
        block = partial(ResidualBlock, time=4 * base, latent=model.latent_embedding)
        attends = [model.image_size // 2**level in model.attention_resolutions for level in range(len(widths))]

        mapping: list[nn.Module] = [PixelNorm(), nn.Linear(model.latent_size, model.latent_embedding), nn.SiLU()]
        for _ in range(model.latent_layers):
            mapping += [nn.Linear(model.latent_embedding, model.latent_embedding), nn.SiLU()]
        self.z_transform = nn.Sequential(*mapping)

        modules: list[nn.Module] = [nn.Linear(base, 4 * base), nn.Linear(4 * base, 4 * base), conv3x3(model.image_channels, base)]
        modules += [nn.Sequential(EncoderBlock(base)) for _ in range(model.encoder_blocks)]
        modules += [conv3x3(model.mask_channels, base)]
        channels, pyramid, skips = base, model.mask_channels, [base]
        for level, width in enumerate(widths):
            for _ in range(model.residual_blocks):
                modules += [block(channels, width), Attention(width)] if attends[level] else [block(channels, width)]
                channels = width
                skips.append(width)
            if level < len(widths) - 1:
                modules += [block(width, width, resample="down"), PyramidDown(pyramid, width)]
                pyramid = width
                skips.append(width)
        modules += [block(channels, channels), Attention(channels), block(channels, channels)]
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(model.residual_blocks + 1):
                modules += [block(channels + skips.pop(), width)]
                channels = width
            if attends[level]:
                modules += [Attention(width)]
            if level > 0:
                modules += [block(width, width, resample="up")]
        modules += [group_norm(channels), conv3x3(channels, model.mask_channels)]
        self.all_modules = nn.ModuleList(modules)

    def forward(self, noisy: Tensor, t: Tensor, image: Tensor, z: Tensor) -> Tensor:
        """x_{t+1} (B, M, S, S), t (B,), image (B, C, S, S), z (B, Z) -> x0 (B, M, S, S) in [-1, 1]."""
        model, levels, modules = self.model, len(self.model.width_multipliers), iter(self.all_modules)
        latent = self.z_transform(z)
        time = next(modules)(time_features(t, model.base_width))
        time = next(modules)(self.act(time))

        features = next(modules)(image)  # encoded again at every time step and vote, though it depends on the image alone
        for _ in range(model.encoder_blocks):
            features = next(modules)(features)
        h = next(modules)(noisy) + features

        skips, pyramid = [h], noisy
        for level in range(levels):
            for _ in range(model.residual_blocks):
                h = next(modules)(h, time, latent)
                if h.shape[-1] in model.attention_resolutions:
                    h = next(modules)(h)
                skips.append(h)
            if level < levels - 1:
                h = next(modules)(h, time, latent)
                h = pyramid = (next(modules)(pyramid) + h) / math.sqrt(2)
                skips.append(h)

        h = next(modules)(h, time, latent)
        h = next(modules)(h)
        h = next(modules)(h, time, latent)

        for level in reversed(range(levels)):
            for _ in range(model.residual_blocks + 1):
                h = next(modules)(torch.cat([h, skips.pop()], dim=1), time, latent)
            if h.shape[-1] in model.attention_resolutions:
                h = next(modules)(h)
            if level > 0:
                h = next(modules)(h, time, latent)
        h = self.act(next(modules)(h))
        return torch.tanh(next(modules)(h))


class DiscriminatorBlock(nn.Module):
    """x (B, C, H, W), time (B, E) -> (B, C', H', W')."""

    def __init__(self, channels_in: int, channels_out: int, time: int, down: bool) -> None:
        super().__init__()
        self.down, self.act = down, nn.LeakyReLU(0.2)
        self.conv1 = nn.Sequential(conv3x3(channels_in, channels_out))
        self.conv2 = nn.Sequential(conv3x3(channels_out, channels_out))
        self.dense_t1 = nn.Linear(time, channels_out)
        self.skip = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(self.act(x))
        h = h + self.dense_t1(time)[:, :, None, None]
        h = self.act(h)
        if self.down:
            h, x = fir_down(h), fir_down(x)
        out: Tensor = (self.conv2(h) + self.skip(x)) / math.sqrt(2)
        return out


class PlainDiscriminator(nn.Module):
    """Tells true pairs (x_t, x_{t+1}) from generated ones."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        n, time, large = model.discriminator_width, model.discriminator_time_embedding, model.discriminator == "large"
        widths = [2 * n, 4 * n] + [8 * n] * 5 if large else [2 * n, 2 * n, 4 * n, 8 * n, 8 * n]
        self.time, self.blocks, self.act = time, len(widths) - 1, nn.LeakyReLU(0.2)
        self.t_embed = nn.ModuleDict({"main": nn.Sequential(nn.Linear(time, time), self.act, nn.Linear(time, time))})
        self.start_conv = nn.Conv2d(2 * model.mask_channels, 2 * n, 1)
        for i in range(1, len(widths)):
            self.add_module(f"conv{i}", DiscriminatorBlock(widths[i - 1], widths[i], time, down=large or i > 1))
        self.final_conv = conv3x3(8 * n + 1, 8 * n)
        self.end_linear = nn.Linear(8 * n, 1)

    def features(self, x_t: Tensor, t: Tensor, x_next: Tensor) -> list[Tensor]:
        """Outputs of the stem and of every block: x_t, x_next (B, M, H, W), t (B,) -> (B, C', H', W') each."""
        time = self.act(self.t_embed["main"](time_features(t, self.time)))
        features = [self.start_conv(torch.cat([x_t, x_next], dim=1))]
        for i in range(1, self.blocks + 1):
            features.append(self.get_submodule(f"conv{i}")(features[-1], time))
        return features

    def forward(self, x_t: Tensor, t: Tensor, x_next: Tensor) -> Tensor:
        """x_t, x_next (B, M, H, W), t (B,) -> logits (B, 1). B is at most 4 or a multiple of 4."""
        h = self.features(x_t, t, x_next)[-1]
        batch, channels, height, width = h.shape
        group = min(batch, 4)
        deviation = torch.sqrt(h.reshape(group, -1, channels, height, width).var(0, unbiased=False) + 1e-8)
        deviation = deviation.mean(dim=[1, 2, 3], keepdim=True).repeat(group, 1, height, width)
        h = self.act(self.final_conv(torch.cat([h, deviation], dim=1)))
        out: Tensor = self.end_linear(h.reshape(batch, channels, -1).sum(2))
        return out


# --- Diffusion and sampling ---


class Process:
    """Coefficients of the forward process (T + 1,) and of its posterior (T,), float32 on a device."""

    def __init__(self, config: DiffusionConfig, device: torch.device) -> None:
        low, high = config.beta_min, config.beta_max
        tau = np.linspace(0, 1, config.timesteps + 1) * (1 - 1e-3) + 1e-3
        if config.schedule == "variance_preserving":
            kept = np.exp(-0.5 * tau**2 * (high - low) - tau * low)
        else:
            kept = 1 - low * (high / low) ** tau
        every_beta = torch.tensor(np.r_[1e-8, 1 - kept[1:] / kept[:-1]], dtype=torch.float32, device=device)
        self.signal, self.noise = torch.sqrt(1 - every_beta), torch.sqrt(every_beta)
        self.total_signal = torch.cumprod(self.signal, dim=0)
        self.total_noise = torch.sqrt(1 - self.total_signal**2)

        beta = every_beta[1:]
        kept_to = torch.cumprod(1 - beta, dim=0)
        kept_before = torch.cat([torch.ones(1, device=device), kept_to[:-1]])
        self.mean_x0 = beta * torch.sqrt(kept_before) / (1 - kept_to)
        self.mean_next = (1 - kept_before) * torch.sqrt(1 - beta) / (1 - kept_to)
        self.log_variance = torch.log((beta * (1 - kept_before) / (1 - kept_to)).clamp(min=1e-20))

    def pair(self, clean: Tensor, t: Tensor, noise_t: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and x_{t+1} of a clean mask, all (B, M, H, W), t (B,)."""
        x_t = at(self.total_signal, t) * clean + at(self.total_noise, t) * noise_t
        return x_t, at(self.signal, t + 1) * x_t + at(self.noise, t + 1) * noise_next

    def posterior(self, x0: Tensor, x_next: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A sample of q(x_t | x_{t+1}, x_0), all (B, M, H, W), t (B,); at t = 0 the noise counts nothing."""
        mean = at(self.mean_x0, t) * x0 + at(self.mean_next, t) * x_next
        return mean + (t > 0).float()[:, None, None, None] * torch.exp(0.5 * at(self.log_variance, t)) * noise


def at(values: Tensor, t: Tensor) -> Tensor:
    """The coefficient of every sample: (T,), (B,) -> (B, 1, 1, 1)."""
    return torch.gather(values, 0, t)[:, None, None, None]


process_of = cache(Process)  # built once, not for every image


@torch.no_grad()
def reverse(config: Config, generator: nn.Module, image: Tensor, x: Tensor, normal: Callable[..., Tensor]) -> Tensor:
    """Walk from x_T to the mask: image (B, C, S, S), x (B, M, S, S) -> (B, M, S, S) in [-1, 1].

    `normal(*shape)` gives the next draw: for every step a latent, then the posterior's noise, which is drawn at step 0 too.
    """
    process = process_of(config.diffusion, image.device)
    for index in reversed(range(config.diffusion.timesteps)):
        t = torch.full((len(x),), index, dtype=torch.int64, device=image.device)
        x0 = generator(x, t, image, normal(len(x), config.model.latent_size))
        x = process.posterior(x0, x, t, normal(*x.shape))
    return x


def sample(config: Config, generator: nn.Module, image: Tensor, rng: torch.Generator) -> Tensor:
    """One vote for normalised images: (B, C, S, S) -> (B, M, S, S) in [-1, 1]."""
    normal = partial(torch.randn, generator=rng, device=image.device)
    return reverse(config, generator, image, normal(len(image), config.model.mask_channels, *image.shape[2:]), normal)


def decide(config: Config, generator: nn.Module, image: Tensor, rng: torch.Generator) -> Tensor:
    """All votes, one after another, their mean probability rounded: (B, C, S, S) -> (B, M, S, S), 0 or 1."""
    votes = [((sample(config, generator, image, rng) + 1) / 2).clamp(0, 1) for _ in range(config.evaluation.votes)]
    return torch.stack(votes).mean(dim=0).round()


def predict_image(config: Config, generator: nn.Module, image: Tensor, rng: torch.Generator) -> Tensor:
    """A normalised image whose sides are multiples of S, as one batch of tiles side by side: (C, H, W) -> (M, H, W), 0 or 1."""
    side, masks = config.model.image_size, config.model.mask_channels
    channels, height, width = image.shape
    if height % side or width % side:
        raise ValueError(f"an image of {height} x {width} pixels does not fall into tiles of {side}")
    tiles = image.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).reshape(-1, channels, side, side)
    decided = decide(config, generator, tiles, rng).reshape(height // side, width // side, masks, side, side)
    return decided.permute(2, 0, 3, 1, 4).reshape(masks, height, width)


def predict_volume(config: Config, generator: nn.Module, volume: Tensor, rng: torch.Generator) -> Tensor:
    """A normalised volume of at least S voxels a side, in cubes: (C, D, H, W) -> classes (D, H, W).

    A cube is one batch of S slices. Cubes overlap along D too, so the same slices go through the networks again and again, as
    released.
    """
    from monai.inferers.utils import sliding_window_inference  # here: it takes seconds to import

    def predict(cube: Tensor) -> Tensor:  # (1, C, S, S, S) -> (1, M, S, S, S)
        return decide(config, generator, cube[0].transpose(0, 1), rng).transpose(0, 1)[None]

    side = (config.model.image_size,) * 3
    blended = sliding_window_inference(volume[None], side, 1, predict, overlap=config.evaluation.overlap)
    assert isinstance(blended, Tensor)
    return blended[0].argmax(dim=0)


# --- Training ---


class PlainTrainer:
    """Both networks, their optimisers, the average of the generator, and the released step.

    `mark(part)` is called at the end of every part of a step: "discriminator real", "R1" where it is due, "discriminator fake",
    "optimiser", "attention", "generator", "optimiser".
    """

    def __init__(self, config: Config, device: torch.device, mark: Callable[[str], None] = lambda part: None) -> None:
        released = LossConfig(r1_gamma=config.loss.r1_gamma, r1_interval=config.loss.r1_interval)
        if config.loss != released or config.model.architecture != "cdal":
            raise ValueError("the release trains the cDAL networks with its own losses alone; only R1 can be set")
        self.config, self.mark, self.steps = config, mark, 0
        self.process = Process(config.diffusion, device)
        self.generator = PlainGenerator(config.model).to(device)
        self.discriminator = PlainDiscriminator(config.model).to(device)
        adam = config.optimiser
        betas = (adam.beta1, adam.beta2)
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), lr=adam.lr_generator, betas=betas)
        self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters(), lr=adam.lr_discriminator, betas=betas)
        self.average: dict[str, Tensor] = {}

    def load(self, trainer: Trainer) -> None:
        """Copy the weights of a trainer that has made no step yet; the networks here begin with PyTorch's own."""
        if trainer.steps or trainer.discriminator is None:
            raise ValueError("only the weights are copied, so the trainer must be fresh and have a discriminator")
        self.generator.load_state_dict(released_state(trainer.generator))
        self.discriminator.load_state_dict(released_state(trainer.discriminator))

    def step(self, image: Tensor, mask: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Train on one batch: image (B, C, S, S) and mask (B, M, S, S), both in [-1, 1]. Returns detached scalar losses."""
        losses = self._step_discriminator(image, mask, draws) | self._step_generator(image, mask, draws)
        self.steps += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def _step_discriminator(self, image: Tensor, mask: Tensor, draws: Draws) -> dict[str, Tensor]:
        t, losses = draws.t_discriminator, {}
        self.discriminator.zero_grad()
        x_t, x_next = self.process.pair(mask, t, draws.noise_t_discriminator, draws.noise_next_discriminator)
        penalised = self.steps % self.config.loss.r1_interval == 0
        x_t.requires_grad_(penalised)
        logits = self.discriminator(x_t, t, x_next)
        losses["loss_real"] = F.softplus(-logits).mean()
        torch.autograd.backward(losses["loss_real"], retain_graph=True)  # kept where no penalty follows, too
        self.mark("discriminator real")

        if penalised:  # passes of its own, instead of one backward pass of the sum
            (gradient,) = torch.autograd.grad(logits.sum(), x_t, create_graph=True)
            losses["r1_penalty"] = self.config.loss.r1_gamma / 2 * (gradient.flatten(1).norm(2, dim=1) ** 2).mean()
            torch.autograd.backward(losses["r1_penalty"])
            self.mark("R1")

        x0 = self.generator(x_next, t, image, draws.latent_discriminator)  # not detached: its gradients are computed, then erased
        x_fake = self.process.posterior(x0, x_next, t, draws.noise_posterior)
        losses["loss_fake"] = F.softplus(self.discriminator(x_fake, t, x_next)).mean()
        torch.autograd.backward(losses["loss_fake"])
        self.mark("discriminator fake")
        self.discriminator_adam.step()
        self.mark("optimiser")
        return losses

    def _step_generator(self, image: Tensor, mask: Tensor, draws: Draws) -> dict[str, Tensor]:
        self.generator.zero_grad()
        t = draws.t_generator
        with torch.no_grad():
            x_t, x_next = self.process.pair(mask, t, draws.noise_t_attention, draws.noise_next_attention)
            features = self.discriminator.features(x_t, t, x_next)  # all of them, for one
            attention = features[self.config.model.attention_tap].mean(dim=1, keepdim=True)
            attention = F.interpolate(attention, mask.shape[2:], mode="bilinear", align_corners=False)
        self.mark("attention")

        _, x_next = self.process.pair(attention * mask, t, draws.noise_t_generator, draws.noise_next_generator)
        x0 = self.generator(x_next, t, image, draws.latent_generator)
        loss = ((mask - x0) ** 2).mean()
        torch.autograd.backward(loss)
        self.mark("generator")
        self.generator_adam.step()
        if self.config.optimiser.ema_decay > 0:
            self._update_average()
        self.mark("optimiser")
        return {"attention_mean": attention.mean(), "loss_reconstruction": loss}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Moving average of the generator, parameters of one shape stacked anew every time; it starts as the updated weights."""
        decay, parameters = self.config.optimiser.ema_decay, dict(self.generator.named_parameters())
        if not self.average:
            self.average = {name: parameter.clone() for name, parameter in parameters.items()}
        same_shape = defaultdict(list)
        for name, parameter in parameters.items():
            same_shape[parameter.shape].append(name)
        for names in same_shape.values():
            means = torch.stack([self.average[name] for name in names])
            means.mul_(decay).add_(torch.stack([parameters[name] for name in names]), alpha=1 - decay)
            self.average |= zip(names, means.unbind(), strict=True)


def released_state(network: Generator | Discriminator) -> dict[str, Tensor]:
    """The weights of one of our networks under their released names and shapes."""
    ours = network.state_dict()
    return {name: ours[mine].T if name.endswith(".W") else ours[mine] for name, mine in published_names(network).items()}
