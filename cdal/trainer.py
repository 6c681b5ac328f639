"""One training step (cDAL section 3.2, algorithm 1).

All randomness of a step is drawn before it (`Draws`). Under torch.distributed every worker calls `Trainer.step` with its share of
the same global batch and of the same draws; gradients are averaged.

Shapes: B samples of this worker's share of a batch, M mask channels, H and W pixels, Z latent size.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor

from cdal import checkpoint
from cdal.config import Config
from cdal.devices.adam import Adam
from cdal.devices.graphs import Graphs
from cdal.devices.precision import Rounded, numerics
from cdal.devices.workers import GradientAverage, rank_and_world
from cdal.diffusion import Diffusion
from cdal.discriminator import Discriminator
from cdal.evaluation import Sample
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
from cdal.predict import plain_prediction, sampler
from cdal.sections import LossConfig


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
    known: Tensor | None = None
    """(B, 1, H, W) bool, where pixels were judged; None: everywhere."""

    def judged(self, predicted: Tensor) -> Tensor:
        """A predicted mask (B, M, H, W) with the true one where nobody judged: no loss and no network can tell them apart there."""
        return predicted if self.known is None else torch.where(self.known, predicted, self.mask)


class Trainer:
    """Both networks with their optimisers, and one step of training them (cDAL section 3.2, algorithm 1).

    Args:
        config: what to train.
        device: where.
        recompute: keep only the inputs of the networks' blocks for the way back; less memory, more time, equal numbers.
        graphs: on a GPU, launch a whole step at once; steps of several workers are not.
        mark: called with its name after every part of a step, for whoever measures them; there are no graphs then.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        *,
        recompute: bool = False,
        graphs: bool = True,
        mark: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.device, self.recompute = config, device, recompute
        self.mark = mark or (lambda part: None)
        self.steps = 0
        self._graphs = Graphs(device, wanted=graphs and mark is None and rank_and_world()[1] == 1)
        self._loss_names: dict[Hashable, list[str]] = {}
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
        self.generator_adam = Adam(self.generator, adam.lr_generator, (adam.beta1, adam.beta2))
        self.discriminator_adam = None
        if self.discriminator is not None:
            self.discriminator_adam = Adam(self.discriminator, adam.lr_discriminator, (adam.beta1, adam.beta2))
        self._generator_average = GradientAverage(self.generator)
        self._discriminator_average = GradientAverage(self.discriminator) if self.discriminator is not None else None
        half = config.training.precision == "bf16"
        self._half_generator = Rounded(self.generator) if half else None
        self._half_discriminator = Rounded(self.discriminator) if half and self.discriminator is not None else None

    @property
    def evaluated(self) -> Generator:
        """The generator that is evaluated and saved as best: the averaged one where there is an average."""
        return self.average or self.generator

    @functools.cached_property
    def sample(self) -> Sample:
        """Draws masks of images with the weights that are evaluated, as they are when it is called."""
        return sampler(self.config, self.evaluated)

    def step(self, image: Tensor, mask: Tensor, draws: Draws, known: Tensor | None = None) -> dict[str, Tensor]:
        """Train on one batch: image (B, C, H, W) and mask (B, M, H, W), both in [-1, 1]. Returns detached scalar losses.

        Pixels that are not known (B, 1, H, W) have no say, whatever is predicted of them; None: all are.
        """
        update = self.discriminator is not None and self.steps % self.config.optimiser.discriminator_interval == 0
        penalised = update and self._penalised()
        kind = (update, penalised, self.steps == 0)

        def compute(image: Tensor, mask: Tensor, *tensors: Tensor) -> Tensor:
            draws, seen = tensors[: len(Draws._fields)], tensors[len(Draws._fields) :]
            losses = self._step(image, mask, Draws(*draws), *seen, update=update, penalised=penalised)
            self._loss_names[kind] = list(losses)
            return torch.stack(list(losses.values()))

        with numerics(self.config.training, self.device):
            values = self._graphs.run(kind, compute, image, mask, *draws, *([] if known is None else [known]))
        self.steps += 1
        return dict(zip(self._loss_names[kind], values.unbind(), strict=True))

    def _penalised(self) -> bool:
        """Whether R1 is due at the update of the discriminator that comes next."""
        updates = self.steps // self.config.optimiser.discriminator_interval
        return self.config.loss.r1_gamma > 0 and updates % self.config.loss.r1_interval == 0

    def _step(
        self, image: Tensor, mask: Tensor, draws: Draws, known: Tensor | None = None, *, update: bool, penalised: bool
    ) -> dict[str, Tensor]:
        number = self.config.training.accumulation
        parts = [
            Part(image[k::number], mask[k::number], draws.share(k, number), None if known is None else known[k::number])
            for k in range(number)
        ]
        # It does not change before its own update, so one copy of its weights does.
        generator = self._half_generator.now() if self._half_generator else self.generator
        # One pass of the image encoder serves both phases, unless its features would have to be kept for several parts.
        features = [generator.encode(image)] if number == 1 else None
        self.mark("generator")
        losses: dict[str, Tensor] = {}
        if update and self.discriminator is not None:
            losses |= self._step_discriminator(self.discriminator, generator, parts, features, penalised)
        losses |= self._step_generator(generator, parts, features)
        self._update_average()
        self.mark("optimiser")
        return losses

    def _step_discriminator(
        self, discriminator: Discriminator, generator: Generator, parts: list[Part], features: list[Tensor] | None, penalised: bool
    ) -> dict[str, Tensor]:
        weights = self.config.loss
        assert self.discriminator_adam is not None
        assert self._discriminator_average is not None
        gamma = weights.r1_gamma * (weights.r1_interval if weights.r1_rescaled else 1)
        self.discriminator_adam.zero_grad()
        quick = self._half_discriminator.now() if self._half_discriminator else discriminator
        per_part = []
        for number, part in enumerate(parts):
            draws = part.draws
            t = draws.t_discriminator
            x_t, x_next = self.diffusion.pair(part.mask, t, draws.noise_t_discriminator, draws.noise_next_discriminator)
            x_t.requires_grad_(penalised)
            logits = (discriminator if penalised else quick)(x_t, t, x_next).float()
            losses = {"loss_real": real_loss(logits)}
            if penalised:
                losses["r1_penalty"] = r1_penalty(logits, x_t, gamma)
            _backward(_sum(losses), len(parts))
            self.mark("discriminator real and R1" if penalised else "discriminator real")

            with torch.no_grad():
                encoded = features[number] if features else generator.encode(part.image)
                x0 = part.judged(generator(x_next, t, encoded, draws.latent_discriminator).float())
                x_fake = self.diffusion.posterior(x0, x_next, t, draws.noise_posterior)
            losses["loss_fake"] = fake_loss(quick(x_fake, t, x_next).float())
            with self._discriminator_average.overlapped(last=number == len(parts) - 1):
                _backward(losses["loss_fake"], len(parts))
            self.mark("discriminator fake")
            per_part.append(losses | {"loss_discriminator": _sum(losses)})
        self.discriminator_adam.step()
        self.mark("optimiser")
        return _mean_over_parts(per_part)

    @torch.no_grad()
    def _attention(self, discriminator: Discriminator, mask: Tensor, draws: Draws) -> Tensor:
        """Attention of the updated discriminator on a fresh true pair: mask (B, M, H, W) -> (B, 1, H, W)."""
        t = draws.t_generator
        x_t, x_next = self.diffusion.pair(mask, t, draws.noise_t_attention, draws.noise_next_attention)
        feature = discriminator.features(x_t, t, x_next, self.config.model.attention_tap)
        height, width = mask.shape[2:]
        return spatial_attention(feature, (height, width), normalised=self.config.loss.attention_normalised)

    def _step_generator(self, generator: Generator, parts: list[Part], features: list[Tensor] | None) -> dict[str, Tensor]:
        weights = self.config.loss
        with _only_judging(self.discriminator):
            judge = self._half_discriminator.now() if self._half_discriminator else self.discriminator
            inputs = [self._generator_input(judge, part.mask, part.draws) for part in parts]
            self.mark("attention")
            dice_sums = None
            if features is None and weights.soft_dice > 0:  # it counts over the whole batch, so that the parts must know each other
                with torch.no_grad():
                    predicted = [
                        self._predict(generator, part, x_next, None) for part, (x_next, _) in zip(parts, inputs, strict=True)
                    ]
                own = [soft_dice_sums(x0, part.mask) for x0, part in zip(predicted, parts, strict=True)]
                dice_sums = sum_over_workers(torch.stack(own).sum(dim=0))
            self.generator_adam.zero_grad()
            per_part = []
            for number, (part, (x_next, attention)) in enumerate(zip(parts, inputs, strict=True)):
                x0 = self._predict(generator, part, x_next, features[number] if features else None)
                losses = {
                    "loss_reconstruction": reconstruction_loss(x0, part.mask),
                    "loss_soft_dice": soft_dice_loss(x0, part.mask, dice_sums, len(parts)),
                }
                if weights.adversarial > 0 and judge is not None:
                    t = part.draws.t_generator
                    x_fake = self.diffusion.posterior(x0, x_next, t, part.draws.noise_adversarial)
                    losses["loss_adversarial"] = adversarial_loss(judge(x_fake, t, x_next).float())
                total = _weighted_sum(losses, weights)
                with self._generator_average.overlapped(last=number == len(parts) - 1):
                    _backward(total, len(parts))
                shown = {} if attention is None else {"attention_mean": attention.mean()}
                per_part.append(shown | losses | {"loss_generator": total})
        self.mark("generator")
        self.generator_adam.step()
        return _mean_over_parts(per_part)

    def _generator_input(self, judge: Discriminator | None, mask: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """The noisy mask (B, M, H, W) that the generator sees, and the attention (B, 1, H, W) in it, where there is one."""
        if self.config.model.architecture == "unet":
            return mask, None
        attention = None if judge is None else self._attention(judge, mask, draws)
        clean = mask if attention is None else attend(mask, attention, self.config.loss.attention)
        _, x_next = self.diffusion.pair(clean, draws.t_generator, draws.noise_t_generator, draws.noise_next_generator)
        return x_next, attention

    def _predict(self, generator: Generator, part: Part, x_next: Tensor, features: Tensor | None) -> Tensor:
        """The mask (B, M, H, W) that losses see."""
        features = generator.encode(part.image) if features is None else features
        if self.config.model.architecture == "unet":
            return part.judged(plain_prediction(generator, features, tuple(part.mask.shape)).float())
        x0: Tensor = generator(x_next, part.draws.t_generator, features, part.draws.latent_generator)
        return part.judged(x0.float())

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
        self.generator_adam.set_rate(rates["lr_generator"])
        if self.discriminator_adam is not None:
            self.discriminator_adam.set_rate(rates["lr_discriminator"])
        return rates

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        tensors = checkpoint.prefixed(self.generator.state_dict(), "generator.")
        tensors |= checkpoint.prefixed(self.generator_adam.tensors(), "generator_adam.")
        if self.average is not None:
            tensors |= checkpoint.prefixed(self.average.state_dict(), "average.")
        if self.discriminator is not None and self.discriminator_adam is not None:
            tensors |= checkpoint.prefixed(self.discriminator.state_dict(), "discriminator.")
            tensors |= checkpoint.prefixed(self.discriminator_adam.tensors(), "discriminator_adam.")
        return tensors

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take up the state of an earlier run after a number of steps."""
        self.steps = steps
        self._graphs.forget()
        self.generator.load_state_dict(checkpoint.unprefixed(tensors, "generator."))
        self.generator_adam.restore(checkpoint.unprefixed(tensors, "generator_adam."))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.unprefixed(tensors, "average."))
        if self.discriminator is not None and self.discriminator_adam is not None:
            self.discriminator.load_state_dict(checkpoint.unprefixed(tensors, "discriminator."))
            self.discriminator_adam.restore(checkpoint.unprefixed(tensors, "discriminator_adam."))


def needs_discriminator(config: Config) -> bool:
    """Whether anything reads the discriminator: without attention and adversarial loss it would be trained for nothing."""
    return config.model.architecture == "cdal" and (config.loss.attention > 0 or config.loss.adversarial > 0)


def _sum(losses: dict[str, Tensor]) -> Tensor:
    return functools.reduce(torch.add, losses.values())


def _weighted_sum(losses: dict[str, Tensor], weights: LossConfig) -> Tensor:
    """Of the generator's losses; what weighs nothing has no gradient to compute."""
    weight_of = {name: getattr(weights, name.removeprefix("loss_")) for name in losses}
    counted = {name: weight for name, weight in weight_of.items() if weight > 0 or name == "loss_reconstruction"}
    return _sum({name: losses[name] if weight == 1 else weight * losses[name] for name, weight in counted.items()})


def _backward(loss: Tensor, parts: int) -> None:
    torch.autograd.backward(loss if parts == 1 else loss / parts)


@contextmanager
def _only_judging(discriminator: Discriminator | None) -> Iterator[None]:
    """Gradients pass through the discriminator and leave none in it."""
    if discriminator is None:
        yield
        return
    try:
        discriminator.requires_grad_(False)
        yield
    finally:
        discriminator.requires_grad_(True)


def _mean_over_parts(per_part: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(per_part) == 1:
        return {name: value.detach() for name, value in per_part[0].items()}
    return {name: torch.stack([losses[name] for losses in per_part]).mean(dim=0).detach() for name in per_part[0]}
