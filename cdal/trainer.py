"""One training step (cDAL section 3.2, algorithm 1).

All randomness of a step is drawn before it (`Draws`). Under torch.distributed every worker calls `Trainer.step` with its share of
the same global batch and of the same draws; gradients are averaged.

Shapes: B samples of this worker's share of a batch, M mask channels, H and W pixels, Z latent size.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from cdal import checkpoint
from cdal.config import Config
from cdal.diffusion import Diffusion
from cdal.discriminator import Discriminator
from cdal.generator import Generator
from cdal.layers import recompute_activations
from cdal.losses import (
    adversarial_loss,
    attend,
    fake_loss,
    r1_penalty,
    real_loss,
    reconstruction_loss,
    soft_dice_loss,
    soft_dice_sums,
    spatial_attention,
    sum_over_workers,
)
from cdal.predict import plain_prediction


class Draws(NamedTuple):
    """All randomness of one step, in the order in which it is drawn (step indices (B,), normals (B, M, H, W) and (B, Z))."""

    t_discriminator: Tensor
    noise_next_discriminator: Tensor
    noise_t_discriminator: Tensor
    latent_discriminator: Tensor
    noise_posterior: Tensor
    t_generator: Tensor
    noise_next_attention: Tensor
    noise_t_attention: Tensor
    latent_generator: Tensor
    noise_next_generator: Tensor
    noise_t_generator: Tensor
    noise_adversarial: Tensor

    @classmethod
    def random(cls, shape: tuple[int, ...], timesteps: int, latent_size: int, rng: torch.Generator) -> Draws:
        """Draw for masks of a shape (B, M, H, W) on the device of the random generator."""
        batch = shape[0]

        def steps() -> Tensor:
            return torch.randint(timesteps, (batch,), generator=rng, device=rng.device)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=rng, device=rng.device)

        return cls(
            steps(), normal(*shape), normal(*shape), normal(batch, latent_size), normal(*shape),
            steps(), normal(*shape), normal(*shape), normal(batch, latent_size), normal(*shape), normal(*shape),
            normal(*shape),
        )  # fmt: skip

    def share(self, rank: int, world: int) -> Draws:
        """Every world-th sample, from number rank on."""
        return Draws(*(draw[rank::world] for draw in self))


class Part(NamedTuple):
    """What is computed at once of a worker's share of a batch: image (B, C, H, W) and mask (B, M, H, W) in [-1, 1]."""

    image: Tensor
    mask: Tensor
    draws: Draws


class Trainer:
    """Both networks with their optimisers, and one step of training them (cDAL section 3.2, algorithm 1).

    Args:
        config: what to train.
        device: where.
        recompute: keep only the inputs of the networks' blocks for the way back; less memory, more time, equal numbers.
        mark: called with its name after every part of a step, for whoever measures them.
    """

    def __init__(
        self, config: Config, device: torch.device, *, recompute: bool = False, mark: Callable[[str], None] = lambda part: None
    ) -> None:
        self.config, self.device, self.recompute, self.mark = config, device, recompute, mark
        self.steps = 0
        with torch.random.fork_rng(devices=[]):  # the same initial weights everywhere, and the caller's random state untouched
            torch.manual_seed(config.training.seed)
            self.generator = Generator.from_config(config.model)
            self.discriminator = Discriminator.from_config(config.model) if needs_discriminator(config) else None
        for network in (self.generator, self.discriminator):
            if network is not None:  # channels last: convolutions without a change of layout before and after each
                network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        process, adam = config.diffusion, config.optimiser
        self.diffusion = Diffusion(process.timesteps, process.schedule, process.beta_min, process.beta_max).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False) if adam.ema_decay > 0 else None
        if recompute:
            for network in (self.generator, self.discriminator):
                if network is not None:
                    recompute_activations(network)
        self.generator_adam = _adam(self.generator, adam.lr_generator, config)
        self.discriminator_adam = _adam(self.discriminator, adam.lr_discriminator, config) if self.discriminator else None

    @property
    def evaluated(self) -> Generator:
        """The generator that is evaluated and saved as best: the averaged one where there is an average."""
        return self.average or self.generator

    def step(self, image: Tensor, mask: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Train on one batch: image (B, C, H, W) and mask (B, M, H, W), both in [-1, 1]. Returns detached scalar losses."""
        number = self.config.training.accumulation
        parts = [Part(image[k::number], mask[k::number], draws.share(k, number)) for k in range(number)]
        # One pass of the image encoder serves both phases, unless its features would have to be kept for several parts.
        features = [self._encode(image)] if number == 1 else None
        self.mark("generator")
        losses: dict[str, Tensor] = {}
        if self.discriminator is not None and self.steps % self.config.optimiser.discriminator_interval == 0:
            losses |= self._step_discriminator(self.discriminator, parts, features)
        losses |= self._step_generator(parts, features)
        self._update_average()
        self.mark("optimiser")
        self.steps += 1
        return losses

    def _encode(self, image: Tensor) -> Tensor:
        with self._autocast():
            return self.generator.encode(image)

    def _denoise(self, noisy: Tensor, t: Tensor, features: Tensor, z: Tensor) -> Tensor:
        with self._autocast():
            x0: Tensor = self.generator(noisy, t, features, z)
        return x0.float()

    def _judge(self, discriminator: Discriminator, x_t: Tensor, t: Tensor, x_next: Tensor, *, precise: bool = False) -> Tensor:
        with self._autocast(not precise):
            logits: Tensor = discriminator(x_t, t, x_next)
        return logits.float()

    def _autocast(self, wanted: bool = True) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted and self.config.training.precision == "bf16")

    def _step_discriminator(
        self, discriminator: Discriminator, parts: list[Part], features: list[Tensor] | None
    ) -> dict[str, Tensor]:
        weights = self.config.loss
        assert self.discriminator_adam is not None
        updates = self.steps // self.config.optimiser.discriminator_interval
        penalised = weights.r1_gamma > 0 and updates % weights.r1_interval == 0
        gamma = weights.r1_gamma * (weights.r1_interval if weights.r1_rescaled else 1)
        self.discriminator_adam.zero_grad()
        per_part = []
        for number, (image, mask, draws) in enumerate(parts):
            t = draws.t_discriminator
            x_t, x_next = self.diffusion.pair(mask, t, draws.noise_t_discriminator, draws.noise_next_discriminator)
            x_t.requires_grad_(penalised)
            logits = self._judge(discriminator, x_t, t, x_next, precise=penalised)
            losses = {"loss_real": real_loss(logits)}
            if penalised:
                losses["r1_penalty"] = r1_penalty(logits, x_t, gamma)
            torch.autograd.backward(torch.stack(list(losses.values())).sum() / len(parts))
            self.mark("discriminator real and R1" if penalised else "discriminator real")

            with torch.no_grad():
                encoded = features[number].detach() if features else self._encode(image)
                x0 = self._denoise(x_next, t, encoded, draws.latent_discriminator)
                x_fake = self.diffusion.posterior(x0, x_next, t, draws.noise_posterior)
            losses["loss_fake"] = fake_loss(self._judge(discriminator, x_fake, t, x_next))
            torch.autograd.backward(losses["loss_fake"] / len(parts))
            self.mark("discriminator fake")
            per_part.append(losses | {"loss_discriminator": torch.stack(list(losses.values())).sum()})
        average_gradients(discriminator)
        self.discriminator_adam.step()
        self.mark("optimiser")
        return _mean_over_parts(per_part)

    @torch.no_grad()
    def _attention(self, discriminator: Discriminator, mask: Tensor, draws: Draws) -> Tensor:
        """Attention of the updated discriminator on a fresh true pair: mask (B, M, H, W) -> (B, 1, H, W)."""
        t = draws.t_generator
        x_t, x_next = self.diffusion.pair(mask, t, draws.noise_t_attention, draws.noise_next_attention)
        with self._autocast():
            feature = discriminator.features(x_t, t, x_next, self.config.model.attention_tap)
        height, width = mask.shape[2:]
        return spatial_attention(feature.float(), (height, width), normalised=self.config.loss.attention_normalised)

    def _step_generator(self, parts: list[Part], features: list[Tensor] | None) -> dict[str, Tensor]:
        weights = self.config.loss
        inputs = [self._generator_input(mask, draws) for _, mask, draws in parts]
        self.mark("attention")
        dice_sums = None
        if features is None and weights.soft_dice > 0:  # it counts over the whole batch, so that the parts must know each other
            with torch.no_grad():
                predicted = [self._predict(part, x_next, None) for part, (x_next, _) in zip(parts, inputs, strict=True)]
            own = [soft_dice_sums(x0, part.mask) for x0, part in zip(predicted, parts, strict=True)]
            dice_sums = sum_over_workers(torch.stack(own).sum(dim=0))
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)  # it only judges here
        self.generator_adam.zero_grad()
        per_part = []
        for number, (part, (x_next, attention)) in enumerate(zip(parts, inputs, strict=True)):
            x0 = self._predict(part, x_next, features[number] if features else None)
            losses = {
                "loss_reconstruction": reconstruction_loss(x0, part.mask),
                "loss_soft_dice": soft_dice_loss(x0, part.mask, dice_sums, len(parts)),
            }
            total = weights.reconstruction * losses["loss_reconstruction"] + weights.soft_dice * losses["loss_soft_dice"]
            if weights.adversarial > 0 and self.discriminator is not None:
                t = part.draws.t_generator
                x_fake = self.diffusion.posterior(x0, x_next, t, part.draws.noise_adversarial)
                losses["loss_adversarial"] = adversarial_loss(self._judge(self.discriminator, x_fake, t, x_next))
                total = total + weights.adversarial * losses["loss_adversarial"]
            torch.autograd.backward(total / len(parts))
            shown = {} if attention is None else {"attention_mean": attention.mean()}
            per_part.append(shown | losses | {"loss_generator": total})
        if self.discriminator is not None:
            self.discriminator.requires_grad_(True)
        self.mark("generator")
        average_gradients(self.generator)
        self.generator_adam.step()
        return _mean_over_parts(per_part)

    def _generator_input(self, mask: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """The noisy mask (B, M, H, W) that the generator sees, and the attention (B, 1, H, W) in it, where there is one."""
        if self.config.model.architecture == "unet":
            return mask, None
        attention = None if self.discriminator is None else self._attention(self.discriminator, mask, draws)
        clean = mask if attention is None else attend(mask, attention, self.config.loss.attention)
        _, x_next = self.diffusion.pair(clean, draws.t_generator, draws.noise_t_generator, draws.noise_next_generator)
        return x_next, attention

    def _predict(self, part: Part, x_next: Tensor, features: Tensor | None) -> Tensor:
        features = self._encode(part.image) if features is None else features
        if self.config.model.architecture == "unet":
            with self._autocast():
                return plain_prediction(self.generator, features, tuple(part.mask.shape)).float()
        return self._denoise(x_next, part.draws.t_generator, features, part.draws.latent_generator)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average of the generator; it starts as the weights after the first step."""
        if self.average is None:
            return
        decay = self.config.optimiser.ema_decay if self.steps > 0 else 0.0
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)

    def set_learning_rates(self, epoch: int) -> dict[str, float]:
        """Set the rates of an epoch, counted from 1 (Loshchilov and Hutter 2017, equation 5, without restarts), and return them."""
        adam = self.config.optimiser
        rates = {"lr_generator": adam.lr_generator, "lr_discriminator": adam.lr_discriminator}
        if adam.cosine_epochs > 0:
            share = (1 + math.cos(math.pi * (epoch - 1) / adam.cosine_epochs)) / 2
            rates = {name: adam.lr_floor + (rate - adam.lr_floor) * share for name, rate in rates.items()}
        self.generator_adam.param_groups[0]["lr"] = rates["lr_generator"]
        if self.discriminator_adam is not None:
            self.discriminator_adam.param_groups[0]["lr"] = rates["lr_discriminator"]
        return rates

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        tensors = checkpoint.prefixed(self.generator.state_dict(), "generator.")
        tensors |= checkpoint.prefixed(_adam_state(self.generator, self.generator_adam), "generator_adam.")
        if self.average is not None:
            tensors |= checkpoint.prefixed(self.average.state_dict(), "average.")
        if self.discriminator is not None and self.discriminator_adam is not None:
            tensors |= checkpoint.prefixed(self.discriminator.state_dict(), "discriminator.")
            tensors |= checkpoint.prefixed(_adam_state(self.discriminator, self.discriminator_adam), "discriminator_adam.")
        return tensors

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take up the state of an earlier run after a number of steps."""
        self.steps = steps
        self.generator.load_state_dict(checkpoint.unprefixed(tensors, "generator."))
        _load_adam_state(self.generator, self.generator_adam, checkpoint.unprefixed(tensors, "generator_adam."))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.unprefixed(tensors, "average."))
        if self.discriminator is not None and self.discriminator_adam is not None:
            self.discriminator.load_state_dict(checkpoint.unprefixed(tensors, "discriminator."))
            _load_adam_state(self.discriminator, self.discriminator_adam, checkpoint.unprefixed(tensors, "discriminator_adam."))


def needs_discriminator(config: Config) -> bool:
    """Whether anything reads the discriminator: without attention and adversarial loss it would be trained for nothing."""
    return config.model.architecture == "cdal" and (config.loss.attention > 0 or config.loss.adversarial > 0)


def average_gradients(network: nn.Module) -> None:
    """Replace every gradient by its mean over all workers."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _mean_over_parts(per_part: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([losses[name] for losses in per_part]).mean(dim=0).detach() for name in per_part[0]}


class _Adam(torch.optim.Adam):
    """Adam without its hooks for `torch.compile`, which nothing here calls, and which takes as long to import as all of torch."""

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def _adam(network: nn.Module, rate: float, config: Config) -> torch.optim.Adam:
    adam = config.optimiser
    return _Adam(network.parameters(), rate, (adam.beta1, adam.beta2), fused=True)


def _adam_state(network: nn.Module, adam: torch.optim.Adam) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in adam.state.get(parameter, {}).items()
    }


def _load_adam_state(network: nn.Module, adam: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    def laid_out(value: Tensor, parameter: Tensor) -> Tensor:  # the fused optimiser walks through memory, not through indices
        return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value

    states = {
        number: {key: laid_out(value, parameter) for key, value in checkpoint.unprefixed(tensors, f"{name}.").items()}
        for number, (name, parameter) in enumerate(network.named_parameters())
        if f"{name}.step" in tensors
    }
    adam.load_state_dict({"state": states, "param_groups": adam.state_dict()["param_groups"]})
