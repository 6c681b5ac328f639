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
from cdal.sections import SECTIONS, DiffusionConfig, EvaluationConfig, LossConfig, ModelConfig, OptimiserConfig, TrainingConfig


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
            if name not in SECTIONS or not isinstance(section, Mapping):
                raise InputError(f"unknown configuration section {name!r}; sections are {', '.join(SECTIONS)}")
        return cls().replace({f"{name}.{key}": value for name, section in values.items() for key, value in section.items()})


@functools.cache
def field_types() -> Mapping[str, Any]:
    """The type of every field by dotted path; `Literal` and `tuple[int, ...]` are left as they are."""
    return {f"{name}.{key}": hint for name, section in SECTIONS.items() for key, hint in typing.get_type_hints(section).items()}


# Published settings (Hejrati et al., MICCAI 2024, and their release). `hippocampus_sampling` is the second generator that the
# release describes for hippocampus; which of the two a checkpoint needs is told by its parameter shapes.
#
_FIELDS = (
    "model.image_size", "model.image_channels", "model.mask_channels", "model.base_width", "model.width_multipliers",
    "model.residual_blocks", "model.attention_resolutions", "model.encoder_blocks", "model.latent_size", "model.latent_embedding",
    "model.discriminator", "model.discriminator_width", "model.discriminator_time_embedding", "model.attention_tap",
    "diffusion.timesteps", "loss.r1_interval", "training.batch_size", "optimiser.lr_generator", "optimiser.lr_discriminator",
    "optimiser.cosine_epochs", "optimiser.ema_decay", "training.samples_per_case", "evaluation.votes", "evaluation.overlap",
    "evaluation.blend", "training.seed",
)  # fmt: skip
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
    values = dict(zip(_FIELDS, _PUBLISHED[name] + _PUBLISHED_TRAINING[name], strict=True))
    whole = {"training.epochs": 12_000, "evaluation.validation_votes": values["evaluation.votes"], "evaluation.validation_cases": 0}
    return Config().replace(values | whole)


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
        hint = f"did you mean {near!r}?" if near else f"fields start with {', '.join(SECTIONS)}"
        raise InputError(f"unknown configuration field {path!r}; {hint}")
    section, key = path.split(".", 1)
    return section, key


def coerce(path: str, value: Any) -> Any:
    """A plain value as the field's type: whole floats become int, ints float, lists tuples.

    Raises:
        InputError: a value of another type.
    """
    hint = field_types()[path]
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{path} is too large a number; it must be below 2**63")
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
