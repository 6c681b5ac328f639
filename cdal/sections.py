"""The sections of a configuration: what every field means, its unit and its range. Values out of range are an InputError.

Upper bounds lie far above what anybody trains. They keep a mistyped or a hostile number from filling the memory.
"""

from dataclasses import dataclass
from typing import Literal

from cdal.errors import InputError, short


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes of the generator and the discriminator (cDAL sections 3.1 and 3.2)."""

    architecture: Literal["cdal", "unet"] = "cdal"
    """`cdal`, or `unet`: the same generator as a plain segmentation network, without diffusion, latent or discriminator."""
    image_size: int = 32
    """Side of the square training samples, pixels. Must be divisible by 2 ** (levels - 1)."""
    image_channels: int = 1
    mask_channels: int = 1
    """1 for one foreground class; otherwise one channel per class and one for the background."""
    base_width: int = 32
    """Channels at full resolution, a multiple of 8; published: 32 or 64."""
    width_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each resolution level, as multiples of `base_width`; each level halves the resolution."""
    residual_blocks: int = 1
    """Residual blocks per level on the way down (one more on the way up)."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Self-attention, for each of these, at the level whose side at `image_size` is nearest to it by ratio, pixels. So 16 means a
    side of 14 at 224 px, and of 12 at 96 px. In the middle, below all levels, there always is some; () adds none."""
    encoder_blocks: int = 6
    """Residual blocks of the image encoder."""
    latent_size: int = 50
    """Length of the random latent z."""
    latent_embedding: int = 128
    """Width of the latent after its mapping network."""
    latent_layers: int = 3
    """Hidden layers of the mapping network."""
    discriminator: Literal["small", "large"] = "small"
    """`large` halves the resolution six times (at least 64 px), `small` three times."""
    discriminator_width: int = 64
    """Published: 64. The discriminator's arithmetic grows with its square."""
    discriminator_blocks: int = 0
    """How many of its blocks the discriminator has, at least `attention_tap`; 0 = all: 4 in the small one, 6 in the large."""
    discriminator_time_embedding: int = 128
    attention_tap: int = 2
    """Which discriminator feature gives the spatial attention map: 0 is the stem, i the i-th block."""

    def __post_init__(self) -> None:
        _positive(self, "image_size", "image_channels", "mask_channels", "residual_blocks", "latent_size", "latent_embedding")
        _positive(self, "discriminator_width", "discriminator_time_embedding")
        _at_least(self, 0, "encoder_blocks", "latent_layers", "attention_tap", "discriminator_blocks")
        _at_most(self, 8192, "image_size", "latent_size", "latent_embedding", "discriminator_time_embedding")
        _at_most(self, 2048, "base_width", "discriminator_width")
        _at_most(self, 256, "image_channels", "mask_channels")
        _at_most(self, 64, "residual_blocks", "encoder_blocks", "latent_layers")
        _few_items(self, 12, 8192, "attention_resolutions")
        _few_items(self, 12, 64, "width_multipliers")
        if not self.width_multipliers:
            raise InputError("model.width_multipliers is empty; give one number per resolution level, for example [1, 2, 2]")
        if self.base_width < 8 or self.base_width % 8:
            raise InputError(f"model.base_width is {self.base_width}; it must be a multiple of 8")
        if self.image_size % self.size_multiple:
            raise InputError(
                f"model.image_size is {self.image_size}, which {len(self.width_multipliers)} levels cannot halve evenly; "
                f"use a multiple of {self.size_multiple}"
            )
        most = 6 if self.discriminator == "large" else 4
        if self.discriminator_blocks > most:
            raise InputError(
                f"model.discriminator_blocks is {self.discriminator_blocks}; the {self.discriminator} discriminator has {most}"
            )
        blocks = self.discriminator_blocks or most
        if self.attention_tap > blocks:
            raise InputError(
                f"model.attention_tap is {self.attention_tap}; the {self.discriminator} discriminator has taps 0 to {blocks}"
            )
        if self.architecture == "cdal" and self.image_size < self.discriminator_reduction:
            raise InputError(
                f"model.image_size is {self.image_size}; the {self.discriminator} discriminator needs at least "
                f"{self.discriminator_reduction} pixels"
            )

    @property
    def size_multiple(self) -> int:
        """Heights and widths that the generator takes are multiples of this."""
        return int(2 ** (len(self.width_multipliers) - 1))

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels with self-attention, in order; 0 is the one of full resolution."""
        sides = [self.image_size >> level for level in range(len(self.width_multipliers))]
        nearest = {min(sides, key=lambda side: max(side / wanted, wanted / side)) for wanted in self.attention_resolutions}
        return tuple(level for level, side in enumerate(sides) if side in nearest)

    @property
    def discriminator_reduction(self) -> int:
        """Factor by which the discriminator shrinks its input."""
        if self.discriminator == "large":
            return int(2 ** (self.discriminator_blocks or 6))
        return int(2 ** ((self.discriminator_blocks or 4) - 1))


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The forward process (Song et al. 2021, equation 33; cDAL section 3.1)."""

    timesteps: int = 4
    """Denoising steps T, in training and in sampling."""
    schedule: Literal["variance_preserving", "geometric"] = "variance_preserving"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _positive(self, "timesteps", "beta_min")
        _at_most(self, 10_000, "timesteps")
        if self.beta_max <= self.beta_min:
            raise InputError(f"diffusion.beta_max is {self.beta_max}; it must be larger than beta_min ({self.beta_min})")
        if self.schedule == "geometric" and self.beta_max >= 1:
            raise InputError(f"diffusion.beta_max is {self.beta_max}; the geometric schedule needs a value below 1")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses. The defaults are the authors' released recipe."""

    reconstruction: float = 1.0
    """Weight of the mean squared error between the predicted and the true mask."""
    adversarial: float = 0.0
    """Weight of the generator's adversarial loss. 0: as released; > 0: the denoising-GAN objective (Xiao et al. 2022)."""
    soft_dice: float = 0.0
    """Weight of the soft Dice loss on the predicted mask (Milletari et al. 2016)."""
    attention: float = 1.0
    """Strength of the spatial attention, 0 to 1: the generator's input mask is multiplied by 1 - attention + attention * map."""
    attention_normalised: bool = False
    """Scale every attention map to [0, 1] first; as released, the raw channel mean is used."""
    r1_gamma: float = 1.0
    """Weight of the R1 gradient penalty on real masks (Mescheder et al. 2018)."""
    r1_interval: int = 10
    """Updates of the discriminator between two R1 penalties, 1 = every update."""
    r1_rescaled: bool = False
    """Multiply the penalty by its interval, so that gamma means the same at any interval (Karras et al. 2020, section 3.1)."""

    def __post_init__(self) -> None:
        _at_least(self, 0.0, "reconstruction", "adversarial", "soft_dice", "attention", "r1_gamma")
        _positive(self, "r1_interval")
        if self.attention > 1:
            raise InputError(f"loss.attention is {self.attention}; it must lie between 0 and 1")
        if self.reconstruction + self.adversarial + self.soft_dice == 0:
            raise InputError(
                "loss.reconstruction, loss.adversarial and loss.soft_dice are all 0; the generator would learn nothing"
            )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Adam for both networks."""

    lr_generator: float = 1.6e-4
    lr_discriminator: float = 1.25e-4
    beta1: float = 0.5
    beta2: float = 0.9
    cosine_epochs: int = 0
    """Half period of the cosine learning-rate schedule, epochs; 0 keeps the rates constant."""
    lr_floor: float = 1e-5
    """Lowest learning rate of the cosine schedule."""
    discriminator_interval: int = 1
    """Steps between two updates of the discriminator, 1 = every step, as released."""
    ema_decay: float = 0.0
    """Decay per step of the averaged generator weights, which are then what is evaluated and saved as best; 0 = no averaging."""

    def __post_init__(self) -> None:
        _positive(self, "lr_generator", "lr_discriminator", "discriminator_interval")
        _at_least(self, 0, "beta1", "beta2", "cosine_epochs", "lr_floor", "ema_decay")
        for name in ("beta1", "beta2", "ema_decay"):
            if getattr(self, name) >= 1:
                raise InputError(f"optimiser.{name} is {getattr(self, name)}; it must be below 1")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, batches and seed of a training."""

    epochs: int = 100
    steps_per_epoch: int = 0
    """Optimiser steps between two reports; 0 = one pass over the training cases."""
    batch_size: int = 4
    """Samples (2D images or slices) of one step, over all workers together."""
    samples_per_case: int = 1
    """Samples of a batch that come from one case. Published hippocampus: 128, which is 4 crops of 32 slices of one volume."""
    accumulation: int = 1
    """Equal parts in which a worker computes its share of a batch, one after another: less memory, the same numbers."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """`fp32`: float32 throughout. `tf32`: a GPU multiplies float32 with the 10 bits of TF32, several times as fast; a CPU does not.
    `bf16`: the networks in bfloat16, in training and sampling; weights, losses and R1 stay in float32 (on a GPU, with TF32)."""
    deterministic: bool = False
    """On a GPU, the same numbers in every run on the same kind of GPU, for some of the speed; a CPU always gives the same."""
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch_size", "samples_per_case", "accumulation")
        _at_least(self, 0, "steps_per_epoch", "seed")
        _at_most(self, 10_000_000, "epochs", "steps_per_epoch")
        _at_most(self, 65_536, "batch_size")
        if self.batch_size % self.samples_per_case:
            raise InputError(
                f"training.batch_size is {self.batch_size}; it must be a multiple of samples_per_case ({self.samples_per_case})"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How masks are predicted: cheaply after every epoch, by the full protocol for the best checkpoint."""

    votes: int = 5
    """Samples drawn for the full protocol; every prefix 1..votes is scored."""
    vote_confidence: float = 0.0
    """0 draws all votes. Otherwise below 1, for example 0.99: drawing ends early once all votes are expected to change fewer than
    1 - vote_confidence pixels per pixel of foreground."""
    window: Literal["sliding", "whole"] = "sliding"
    """Full protocol on inputs larger than `model.image_size`: overlapping windows of that size, or whole images and slices."""
    overlap: float = 0.75
    """Overlap of neighbouring windows, as a fraction of their side."""
    blend: Literal["soft", "rounded"] = "soft"
    """Where windows overlap, average the probabilities, or (as published for hippocampus) each window's rounded votes."""
    cases: int = 0
    """Cases of the split that the full protocol scores, the first ones in order; 0 = all."""
    validation_votes: int = 1
    """Samples drawn for the validation after an epoch."""
    validation_cases: int = 8
    """Cases used for the validation after an epoch, always the same ones; 0 = all."""

    def __post_init__(self) -> None:
        _positive(self, "votes", "validation_votes")
        _at_most(self, 10_000, "votes", "validation_votes")
        _at_least(self, 0, "overlap", "cases", "validation_cases")
        if self.overlap >= 1:
            raise InputError(f"evaluation.overlap is {self.overlap}; it must be below 1")
        if not 0 <= self.vote_confidence < 1:
            raise InputError(f"evaluation.vote_confidence is {self.vote_confidence}; it must be 0 (all votes) or between 0 and 1")


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "diffusion": DiffusionConfig,
    "loss": LossConfig,
    "optimiser": OptimiserConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}
"""By the first part of a field's dotted path."""


def _section_of(config: object) -> str:
    return next(name for name, section in SECTIONS.items() if isinstance(config, section))


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{_section_of(config)}.{name} is {getattr(config, name)}; it must be above 0")


def _at_least(config: object, least: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= least:
            raise InputError(f"{_section_of(config)}.{name} is {getattr(config, name)}; it must be at least {least:g}")


def _at_most(config: object, most: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) <= most:
            raise InputError(f"{_section_of(config)}.{name} is {short(getattr(config, name))}; it must be at most {most:,}")


def _few_items(config: object, count: int, most: int, *names: str) -> None:
    for name in names:
        items, path = getattr(config, name), f"{_section_of(config)}.{name}"
        if len(items) > count:
            raise InputError(f"{path} has {len(items):,} numbers; it must have at most {count}")
        if any(not 0 < item <= most for item in items):
            raise InputError(f"{path} is {short(list(items))}; every number must be above 0 and at most {most:,}")
