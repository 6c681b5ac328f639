"""Checkpoints: one safetensors file each, written atomically, its JSON in the header; and the authors' published weights.

Nothing here unpickles: a file from storage can hold tensors and text, never code.

    save(folder / "last.safetensors", tensors, {"epoch": 3})
    config, generator = load_model(folder / "best.safetensors")
    config, generator = load_published("cDAL_monuseg.pth", "monuseg")
"""

import json
import os
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cdal.config import PUBLISHED, Config, preset
from cdal.discriminator import Discriminator
from cdal.errors import InputError, short
from cdal.generator import Generator
from cdal.layers import EncoderBlock, PyramidDown, ResidualBlock, SelfAttention

T = TypeVar("T")

_MOST_HEADER = 2**22  # bytes; a model has some hundred tensors


class TornError(InputError):
    """A file that is no whole checkpoint of this project. The message names it."""


def save(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any], *, before: Path | None = None) -> None:
    """Write tensors and JSON-ready information as one file that is either whole or not there.

    Args:
        path: of the file.
        tensors: by name.
        info: for `read_info`.
        before: where the file stays that was there until now.

    Raises:
        OSError: it could not be written; what was there still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        safetensors.torch.save_file(whole, temporary, {"cdal": json.dumps(info), "crc32": str(_crc32(whole))})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if before is not None and path.is_file():
            _keep(path, before)
        temporary.replace(path)
    except SafetensorError as error:  # its own name for what the disk refuses
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep(path: Path, before: Path) -> None:
    """Let a file have a second name, so that somebody who reads it meanwhile finds it. Where there are no links it is renamed."""
    link = before.with_name(f".{before.name}.{os.getpid()}")
    try:
        link.hardlink_to(path)
        link.replace(before)
    except OSError:
        path.replace(before)
    finally:
        link.unlink(missing_ok=True)  # a link is not renamed to another one of the same file


def read_info(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint, without reading its tensors.

    Raises:
        TornError: the file is torn, or not a checkpoint of this project.
        InputError: it is missing, or cannot be read.
    """
    return _read_header(path)[0]


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the JSON of a checkpoint. Raises what `read_info` does."""
    info, crc32 = _read_header(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:  # replaced or cut since its header was read
        raise TornError(f"{path} is not a readable checkpoint of this project ({error})") from None
    if crc32 is not None and crc32 != str(_crc32(tensors)):
        raise TornError(f"{path} is not as it was written (its checksum differs)")
    return tensors, info


def _read_header(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON of a checkpoint, and the checksum of its tensors, which older files lack."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        info = json.loads(metadata["cdal"])
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise TornError(f"{path} is not a readable checkpoint of this project ({error})") from None
    if not isinstance(info, dict):
        raise TornError(f"{path} is not a readable checkpoint of this project (its description is no JSON object)")
    return info, metadata.get("crc32")


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    """Of all bytes, in the order of the names."""
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def load_model(path: Path) -> tuple[Config, Generator]:
    """The configuration and the trained generator of a `best.safetensors`, on the CPU, in evaluation mode.

    Raises:
        InputError: the file is missing, torn, or of another kind.
    """
    config = _fitting_config(path)
    tensors, _ = load(path)
    generator = Generator.from_config(config.model)
    try:
        generator.load_state_dict(unprefixed(tensors, "generator."))
    except RuntimeError as error:  # replaced since its header was read
        raise InputError(f"{path} does not fit its own configuration ({str(error).splitlines()[-1].strip()})") from None
    return config, generator.eval()


def _fitting_config(path: Path) -> Config:
    """The configuration of a file whose tensors are those that it describes: who wrote it may be a stranger.

    Only the header is read, and nothing is allocated.
    """
    with suppress(OSError), path.open("rb") as file:  # which `read_info` tells of
        size = int.from_bytes(file.read(8), "little")
        if _MOST_HEADER < size <= path.stat().st_size:
            raise InputError(f"{path} has a header of {size:,} bytes; that of a model has at most {_MOST_HEADER:,}")
    info = read_info(path)
    with safe_open(path, framework="pt") as file:
        shapes = unprefixed({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, "generator.")  # noqa: SIM118
    if not isinstance(info.get("config"), dict) or not shapes:
        raise InputError(f"{path} holds no trained generator")
    try:
        config = Config.from_dict(info["config"])
    except InputError as error:
        raise InputError(f"{path} has a configuration that no model can have: {error}") from None
    config = attending(config, shapes)
    model = config.model
    blocks = len(model.width_multipliers) * (2 * model.residual_blocks + 1) + model.encoder_blocks + model.latent_layers
    if blocks > len(shapes):  # each has a tensor of its own
        raise InputError(f"{path} does not fit its own configuration ({blocks} blocks, {len(shapes)} tensors)")
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in Generator.from_config(model).state_dict().items()}
    if wrong := [name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)]:
        name = min(wrong)
        raise InputError(f"{path} does not fit its own configuration ({short(name)}: {shapes.get(name)}, not {wanted.get(name)})")
    return config


def attending(config: Config, generator: Collection[str]) -> Config:
    """The configuration with self-attention at the levels where a generator, told by the names of its tensors, has it.

    In older files, a side in `model.attention_resolutions` that no level has exactly means none.
    """
    model = config.model
    found = [level for level in range(len(model.width_multipliers)) if f"down.{level}.attentions.0.query.weight" in generator]
    if found == list(model.attention_levels):
        return config
    return config.replace({"model.attention_resolutions": [model.image_size >> level for level in found]})


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors with a prefix before every name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def unprefixed(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


# --- The authors' published checkpoints: state dicts under other names, some tensors transposed. ---

_PARTS: dict[type[nn.Module], dict[str, str]] = {  # theirs -> ours, within one module of their flat list
    nn.Linear: {"weight": "weight", "bias": "bias"},
    nn.Conv2d: {"weight": "weight", "bias": "bias"},
    nn.GroupNorm: {"weight": "weight", "bias": "bias"},
    PyramidDown: {"Conv2d_0.weight": "conv.weight", "Conv2d_0.bias": "conv.bias"},
    EncoderBlock: {
        f"0.{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {
            "in_layers.0": "norm1",
            "in_layers.2": "conv1",
            "out_layers.0": "norm2",
            "out_layers.3": "conv2",
        }.items()
        for kind in ("weight", "bias")
    },
    SelfAttention: {"GroupNorm_0.weight": "norm.weight", "GroupNorm_0.bias": "norm.bias"}
    | {f"NIN_{i}.W": f"{ours}.weight" for i, ours in enumerate(("query", "key", "value", "output"))}
    | {f"NIN_{i}.b": f"{ours}.bias" for i, ours in enumerate(("query", "key", "value", "output"))},
    ResidualBlock: {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {
            "Conv_0": "conv1",
            "Conv_1": "conv2",
            "Conv_2": "skip",
            "Dense_0": "time",
            "GroupNorm_0.style": "norm1.style",
            "GroupNorm_1.style": "norm2.style",
        }.items()
        for kind in ("weight", "bias")
    },
}


def published_names(network: Generator | Discriminator) -> dict[str, str]:
    """Parameter names of the authors' release -> ours, for every parameter of a network."""
    if isinstance(network, Discriminator):
        ours = {
            "t_embed.main.0": "time1",
            "t_embed.main.2": "time2",
            "start_conv": "stem",
            "final_conv": "final_conv",
            "end_linear": "final_linear",
        }
        for i in range(len(network.blocks)):
            parts = {"conv1.0": "conv1", "conv2.0": "conv2", "skip.0": "skip", "dense_t1": "time"}
            ours |= {f"conv{i + 1}.{theirs}": f"blocks.{i}.{mine}" for theirs, mine in parts.items()}
        names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in ours.items() for kind in ("weight", "bias")}
    else:
        names = {
            f"z_transform.{2 * i + 1}.{kind}": f"latent.layers.{i}.{kind}"
            for i in range(len(network.latent.layers))
            for kind in ("weight", "bias")
        }
        path_of = {id(module): name for name, module in network.named_modules()}
        for index, module in enumerate(_flat_modules(network)):
            for theirs, mine in _PARTS[type(module)].items():
                names[f"all_modules.{index}.{theirs}"] = f"{path_of[id(module)]}.{mine}"
    parameters = dict(network.named_parameters())
    return {theirs: mine for theirs, mine in names.items() if mine in parameters}


def _flat_modules(generator: Generator) -> Iterable[nn.Module]:
    """The generator's modules in the order of the released flat list."""
    yield from (generator.time1, generator.time2, generator.image_stem, *generator.image_blocks, generator.mask_stem)
    for level in generator.down:
        for block, attention in zip(level.blocks, level.attentions, strict=True):  # type: ignore[arg-type]
            yield block
            if isinstance(attention, SelfAttention):
                yield attention
        yield from (module for module in (level.shrink, level.pyramid) if module is not None)  # type: ignore[misc]
    yield from (generator.middle1, generator.middle_attention, generator.middle2)
    for level in generator.up:
        yield from level.blocks  # type: ignore[misc]
        if isinstance(level.attention, SelfAttention):
            yield level.attention
        if level.grow is not None:
            yield level.grow  # type: ignore[misc]
    yield from (generator.out_norm, generator.out_conv)


def from_published(network: Generator | Discriminator, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate released parameters, with or without the `module.` prefix, into a state dict of ours.

    Raises:
        InputError: a parameter is missing, left over, or of another shape; the sentence names the first one.
    """
    theirs = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    names = published_names(network)
    missing, surplus = names.keys() - theirs.keys(), theirs.keys() - names.keys()
    if missing or surplus:
        counts = f"{len(missing)} missing, {len(surplus)} surplus"
        raise InputError(f"parameters do not match: {counts}, for example {min(missing or surplus)}")
    wanted = network.state_dict()
    state = {}
    for name, mine in names.items():
        tensor = theirs[name].T if name.endswith(".W") else theirs[name]  # their per-pixel projections are stored [in, out]
        if tensor.shape != wanted[mine].shape:
            shapes = f"{tuple(theirs[name].shape)} instead of {tuple(wanted[mine].shape)}"
            raise InputError(f"parameter {name} has shape {shapes}")
        state[mine] = tensor.to(wanted[mine].dtype).contiguous()
    return state


def load_published(path: str | Path, preset_name: str) -> tuple[Config, Generator]:
    """The authors' released generator of a preset, on the CPU, in evaluation mode.

    For `hippocampus` the release describes two generators; the one whose parameter shapes fit is built.

    Raises:
        InputError: an unknown preset, an unreadable or empty file, or parameters that do not fit the preset.
    """
    variants = [name for name in PUBLISHED if name == preset_name or name.startswith(preset_name + "_")] or [preset_name]
    configs = [preset(name) for name in variants]
    tensors = _read_state_dict(Path(path))
    problem = ""
    for config in configs:
        generator = Generator.from_config(config.model)
        try:
            generator.load_state_dict(from_published(generator, tensors))
        except InputError as error:
            problem = problem or str(error)
        else:
            return config, generator.eval()
    raise InputError(f"{path} is not the generator of preset {preset_name!r}: {problem}; check the preset's name") from None


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); download the checkpoint again")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if sum(part.file_size for part in parts.infolist()) > path.stat().st_size:
                    raise InputError(f"{path} would unfold to more than it holds, as no file of PyTorch's does; download it again")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception:  # nothing is known of what a damaged file, or a hostile one, makes of the reader
        raise InputError(f"{path} cannot be read as a PyTorch or safetensors file of weights alone; download it again") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict of tensors")
    return state
