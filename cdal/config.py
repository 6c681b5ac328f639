"""Configuration of one training: frozen dataclasses, checked on construction, and the published presets.

Every field can be named by its dotted path (`diffusion.timesteps`, `model.latent_size`, `loss.adversarial`); search spaces, the
results lake and the command line use these paths.

    config = preset("hippocampus").replace({"diffusion.timesteps": 2, "loss.adversarial": 0.1})
    config == Config.from_dict(config.to_dict())
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cdal.errors import InputError, short
from cdal.plain_yaml import read_yaml


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
    """Self-attention at the levels whose side is one of these, pixels, at `image_size`."""
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
        _positive_items(self, "width_multipliers", "attention_resolutions")
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
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: convolutions and matrix products of training and sampling in bfloat16; weights, losses and R1 stay in float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch_size", "samples_per_case", "accumulation")
        _at_least(self, 0, "steps_per_epoch", "seed")
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
        _at_least(self, 0, "overlap", "cases", "validation_cases")
        if self.overlap >= 1:
            raise InputError(f"evaluation.overlap is {self.overlap}; it must be below 1")
        if not 0 <= self.vote_confidence < 1:
            raise InputError(f"evaluation.vote_confidence is {self.vote_confidence}; it must be 0 (all votes) or between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides the outcome of one training on one dataset."""

    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, ready for JSON."""
        return {
            section.name: {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(getattr(self, section.name)).items()
            }
            for section in dataclasses.fields(self)
        }

    def flatten(self) -> dict[str, Any]:
        """{"model.image_size": 32, ...}: one entry per field, by dotted path."""
        return {f"{section}.{key}": value for section, values in self.to_dict().items() for key, value in values.items()}

    def replace(self, changes: Mapping[str, Any]) -> Config:
        """A copy with some fields changed, named by dotted path.

        Raises:
            InputError: an unknown path, or a value of the wrong type or range.
        """
        sections: dict[str, dict[str, Any]] = {}
        for path, value in changes.items():
            section, key = _split_path(path)
            sections.setdefault(section, {})[key] = coerce(path, value)
        return dataclasses.replace(
            self, **{name: dataclasses.replace(getattr(self, name), **values) for name, values in sections.items()}
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> Config:
        """Inverse of `to_dict`; missing fields keep their defaults.

        Raises:
            InputError: an unknown section or field, or a value of the wrong type or range.
        """
        for name, section in values.items():
            if name not in _SECTIONS or not isinstance(section, Mapping):
                raise InputError(f"unknown configuration section {name!r}; sections are {', '.join(_SECTIONS)}")
        return cls().replace({f"{name}.{key}": value for name, section in values.items() for key, value in section.items()})


_SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "diffusion": DiffusionConfig,
    "loss": LossConfig,
    "optimiser": OptimiserConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}


@functools.cache
def field_types() -> Mapping[str, Any]:
    """The type of every field by dotted path; `Literal` and `tuple[int, ...]` are left as they are."""
    return {f"{name}.{key}": hint for name, section in _SECTIONS.items() for key, hint in typing.get_type_hints(section).items()}


# Published settings (Hejrati et al., MICCAI 2024, and their release). `hippocampus_sampling` is the second generator that the
# release describes for hippocampus; which of the two a checkpoint needs is told by its parameter shapes.
#
#                     size img msk width multipliers            blocks attn  enc  nz  z_emb  disc   ngf t_emb tap T  r1 every batch
_PUBLISHED: dict[str, tuple[Any, ...]] = {
    "monuseg":              (256, 3, 1, 64, (1, 1, 1, 2, 2, 4, 4), 2, (16, 8), 5, 100, 256, "large", 64, 256, 3, 4, 10, 4),
    "chest_xray":           (256, 1, 1, 32, (1, 1, 2, 2, 4, 4),    1, (16,),   6, 100, 256, "large", 64, 256, 2, 2, 1,  3),
    "hippocampus":          (32,  1, 3, 32, (1, 2, 2, 2),          1, (16,),   6, 50,  128, "small", 64, 128, 2, 4, 10, 128),
    "hippocampus_sampling": (32,  1, 3, 32, (1, 2, 2, 2),          2, (16,),   6, 50,  128, "small", 32, 128, 2, 2, 10, 128),
}  # fmt: skip

#                    lr generator, lr discriminator, cosine epochs, EMA decay, samples per case, votes, overlap, blend, seed
_PUBLISHED_TRAINING: dict[str, tuple[Any, ...]] = {
    "monuseg":              (2e-4,   1e-4,    500, 0.0,   1,   5,  0.0,  "soft",    1024),
    "chest_xray":           (2e-4,   1e-5,    500, 0.0,   1,   30, 0.0,  "soft",    47),
    "hippocampus":          (1.6e-4, 1.25e-4, 0,   0.999, 128, 5,  0.75, "rounded", 10),
    "hippocampus_sampling": (1.6e-4, 1.25e-4, 0,   0.999, 128, 5,  0.75, "rounded", 10),
}  # fmt: skip

# Cheaper recipes with the same parts: a discriminator no deeper than its attention tap, narrower and updated every second step, a
# narrower generator, attention maps from 0 to 1, and a soft Dice loss, which finds small classes in far fewer steps.
_CHEAPER: dict[str, Any] = {
    "model.base_width": 16,
    "model.residual_blocks": 1,
    "model.encoder_blocks": 2,
    "model.latent_embedding": 64,
    "model.discriminator_width": 8,
    "model.discriminator_time_embedding": 32,
    "loss.soft_dice": 1.0,
    "loss.attention": 0.5,
    "loss.attention_normalised": True,
    "optimiser.lr_generator": 1e-3,
    "optimiser.beta1": 0.9,
    "optimiser.beta2": 0.999,
    "optimiser.discriminator_interval": 2,
    "optimiser.cosine_epochs": 0,
    "optimiser.ema_decay": 0.98,
}
_FAST: dict[str, dict[str, Any]] = {
    "monuseg_fast": {
        "model.width_multipliers": (1, 1, 2, 2, 4),
        "model.attention_resolutions": (16,),
        "model.discriminator_blocks": 3,
    },
    "chest_xray_fast": {
        "model.discriminator_blocks": 2,
        "loss.r1_interval": 10,
        "loss.r1_rescaled": True,
        "training.batch_size": 4,
    },
    "hippocampus_fast": {
        "model.width_multipliers": (1, 2, 2),
        "model.attention_resolutions": (8,),
        "model.discriminator_blocks": 2,
        "training.batch_size": 16,
        "training.samples_per_case": 4,
    },
}

PUBLISHED = tuple(_PUBLISHED)
PRESETS = (*PUBLISHED, *_FAST)


def preset(name: str) -> Config:
    """The published configuration of a dataset (`monuseg`, `chest_xray`, `hippocampus`, `hippocampus_sampling`), or a cheaper one.

    Raises:
        InputError: an unknown name.
    """
    if name in _FAST:
        return preset(name.removesuffix("_fast")).replace(_CHEAPER | _FAST[name])
    if name not in _PUBLISHED:
        raise InputError(f"unknown preset {name!r}; presets are {', '.join(PRESETS)}")
    size, image, mask, width, multipliers, blocks, attention, encoder, nz, z_emb, kind, ngf, t_emb, tap, timesteps, every, batch = (
        _PUBLISHED[name]
    )
    lr_generator, lr_discriminator, cosine, ema, per_case, votes, overlap, blend, seed = _PUBLISHED_TRAINING[name]
    return Config(
        model=ModelConfig(
            image_size=size,
            image_channels=image,
            mask_channels=mask,
            base_width=width,
            width_multipliers=multipliers,
            residual_blocks=blocks,
            attention_resolutions=attention,
            encoder_blocks=encoder,
            latent_size=nz,
            latent_embedding=z_emb,
            discriminator=kind,
            discriminator_width=ngf,
            discriminator_time_embedding=t_emb,
            attention_tap=tap,
        ),
        diffusion=DiffusionConfig(timesteps=timesteps),
        loss=LossConfig(r1_interval=every),
        optimiser=OptimiserConfig(
            lr_generator=lr_generator, lr_discriminator=lr_discriminator, cosine_epochs=cosine, ema_decay=ema
        ),
        training=TrainingConfig(epochs=12_000, batch_size=batch, samples_per_case=per_case, seed=seed),
        evaluation=EvaluationConfig(votes=votes, overlap=overlap, blend=blend, validation_votes=votes, validation_cases=0),
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """A setting from the command line: "loss.adversarial=0.1" -> ("loss.adversarial", 0.1).

    Raises:
        InputError: no path, no equals sign, or a value that is not plain YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise InputError(f"{text!r} is not a setting: it is not of the form path=value, for example loss.adversarial=0.1")
    try:
        return path.strip(), read_yaml(value, "its value")
    except InputError as error:
        raise InputError(f"{text!r} is not a setting: {error}") from None


def closest_field(path: str) -> str | None:
    """The field whose dotted path looks most like a mistyped one."""
    return next(iter(difflib.get_close_matches(path, field_types(), n=1)), None)


def _split_path(path: str) -> tuple[str, str]:
    if path not in field_types():
        near = closest_field(path)
        hint = f"did you mean {near!r}?" if near else f"fields start with {', '.join(_SECTIONS)}"
        raise InputError(f"unknown configuration field {path!r}; {hint}")
    section, key = path.split(".", 1)
    return section, key


def coerce(path: str, value: Any) -> Any:
    """A plain value as the field's type: whole floats become int, ints float, lists tuples.

    Raises:
        InputError: a value of another type.
    """
    hint = field_types()[path]
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        expected = "one of " + ", ".join(map(str, typing.get_args(hint)))
    elif origin is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return tuple(value)
        expected = "a list of whole numbers"
    elif hint is bool:
        if isinstance(value, bool):
            return value
        expected = "true or false"
    elif hint is int:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value == int(value):
            return int(value)
        expected = "a whole number"
    else:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        expected = "a number"
    raise InputError(f"{path} is {short(value)}; it must be {expected}")


def _section_of(config: object) -> str:
    return next(name for name, section in _SECTIONS.items() if isinstance(config, section))


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{_section_of(config)}.{name} is {getattr(config, name)}; it must be above 0")


def _at_least(config: object, least: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= least:
            raise InputError(f"{_section_of(config)}.{name} is {getattr(config, name)}; it must be at least {least:g}")


def _positive_items(config: object, *names: str) -> None:
    for name in names:
        if any(item <= 0 for item in getattr(config, name)):
            raise InputError(f"{_section_of(config)}.{name} is {list(getattr(config, name))}; every number must be above 0")
