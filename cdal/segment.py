"""Segment new files with a trained model: `python -m cdal.segment`.

    python -m cdal.segment --model results/NAME/tune/00005/best.safetensors --out masks images/*.png
    python -m cdal.segment --model runs/hippocampus/best.safetensors --out masks --uncertainty scan.nii.gz

A volume, a NIfTI file or a folder of DICOM slices, gives a NIfTI file on its own grid, with its own affine, whatever slices and
spacing the model computes on; a 2D image gives a palette PNG of its own size, upright as its EXIF data say. The values are class
numbers, 0 is background. With --uncertainty, a second file holds the entropy of the votes from 0 (all agree) to 1.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cdal.checkpoint import load_model, read_info
from cdal.command import DONE, command_line, run
from cdal.config import Config
from cdal.data.dataset import DatasetSpec, Plane
from cdal.data.geometry import from_slices, to_slices
from cdal.data.images import read_image
from cdal.data.preparation import prepare_image, prepare_volume
from cdal.devices.transfer import named_device
from cdal.errors import InputError, short
from cdal.evaluation import draw_votes
from cdal.generator import Generator
from cdal.predict import protocol, sampler

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST = 2**14
"""Pixels of the longer side of an image, after it was prepared."""
_COLOURS = bytes([0, 0, 0, 230, 159, 0, 86, 180, 233, 0, 158, 115, 240, 228, 66, 0, 114, 178, 213, 94, 0, 204, 121, 167])
"""Black, then the palette of Okabe and Ito (2008), which colour-blind people can tell apart."""


class Segmentation(NamedTuple):
    """What a model says of one file, on the file's own grid: (H, W), or (X, Y, Z) as a volume is stored."""

    labels: npt.NDArray[np.uint8]
    uncertainty: npt.NDArray[np.float32]


class Segmenter:
    """A trained model with all that its training knew of the data."""

    def __init__(self, path: Path, *, votes: int | None = None, device: torch.device | str = "cpu") -> None:
        """Load a `best.safetensors`.

        Args:
            path: the checkpoint.
            votes: draws that are averaged; None takes those that the configuration says.
            device: where the model computes.

        Raises:
            InputError: no checkpoint, or one that does not say what data it was trained on.
        """
        config, generator = load_model(path)
        info = read_info(path)
        if "dataset" not in info:
            raise InputError(f"{path} does not say what data it was trained on; take the best.safetensors of a training")
        try:
            self.spec = _sound_spec(info["dataset"], config)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # whatever a stranger wrote there
            raise InputError(f"{path} describes the data that it was trained on in a way that cannot be ({error})") from None
        self._draw = partial(_draw, config, generator.to(device), self.spec, votes)

    def image(self, path: Path) -> Segmentation:
        """Segment a 2D image. Raises InputError where the file is damaged."""
        pixels = read_image(path)
        if self.spec.preparation.scaling == "bytes" and pixels.dtype != np.uint8:
            raise InputError(f"{path} has {pixels.dtype} values; the model was trained on 8-bit images")
        labels, uncertainty = self._draw(prepare_image(pixels, self.spec.preparation, self.spec.image_channels), path.name)
        classes = F.one_hot(labels[0].long(), len(self.spec.classes) + 1).permute(2, 0, 1).float()
        size = pixels.shape[:2]
        return Segmentation(_resized(classes, size).argmax(dim=0).byte().numpy(), _resized(uncertainty, size)[0].numpy())

    def volume(self, path: Path) -> tuple[Segmentation, npt.NDArray[np.float64]]:
        """Segment a volume; the second part is its affine. Raises InputError where a file is damaged."""
        from cdal.data.volumes import from_dhw, read_volume, spacing_dhw, to_dhw

        volume, preparation = read_volume(path), self.spec.preparation
        array = to_dhw(volume)
        channels = array if array.ndim == 4 else array[None]
        if len(channels) != self.spec.image_channels:
            raise InputError(
                f"{path} has {len(channels)} channel(s); the model was trained on {self.spec.image_channels}, which belong in one "
                "file, along a fourth axis (fslmerge -t)"
            )
        if volume.note:
            warnings.warn(f"{path}: {volume.note}", stacklevel=2)
        try:
            image = prepare_volume(channels, preparation, spacing_dhw(volume))
        except InputError as error:
            raise InputError(f"{path} {error}") from None
        height, width = to_slices(channels, preparation.plane).shape[-2:]
        maps = (
            from_slices(found.numpy(), preparation.plane, channels.shape) for found in self._draw(image, path.name, (height, width))
        )
        return Segmentation(*(from_dhw(found, volume) for found in maps)), volume.affine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 2 the input is wrong, 130 interrupted."""
    parser = command_line(__doc__, "python -m cdal.segment")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="images, or NIfTI volumes and folders of DICOM slices")
    parser.add_argument("--model", type=Path, required=True, help="best.safetensors of a training or of a trial")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the masks go; theirs are the names of the files"
    )
    parser.add_argument("--votes", type=int, help="draws that are averaged (default: those of the model's configuration)")
    parser.add_argument("--uncertainty", action="store_true", help="write the entropy of the votes as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return run(_segment, parser.parse_args(arguments))


def _segment(args: argparse.Namespace, console: Console) -> int:
    if args.votes is not None and args.votes < 1:
        raise InputError(f"--votes is {args.votes}; it must be at least 1")
    names = [_stem(path) for path in args.files]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two of the files are called {name}, and their masks would be one; segment them into two folders")
    model = Segmenter(args.model, votes=args.votes, device=named_device(args.device))
    for path in args.files:
        if _is_volume(path) != model.spec.volumetric:
            kind = "NIfTI volumes" if model.spec.volumetric else "2D images"
            raise InputError(f"{path}: the model was trained on {kind} ({model.spec.name})")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for path, name in zip(args.files, names, strict=True):
            for target in _write(model, path, args.out / name, args.uncertainty):
                print(target)  # noqa: T201
    except OSError as error:
        raise InputError(f"cannot write to {args.out}: {error.strerror or error}") from error
    return DONE


def _write(model: Segmenter, path: Path, target: Path, uncertainty: bool) -> list[Path]:
    """Segment one file and write its maps; returns their paths."""
    if model.spec.volumetric:
        found, affine = model.volume(path)
        maps = {"": found.labels} | ({"_uncertainty": found.uncertainty} if uncertainty else {})
        targets = [_save_volume(target.with_name(f"{target.name}{name}.nii.gz"), array, affine) for name, array in maps.items()]
    else:
        found = model.image(path)
        targets = [_save_image(target.with_name(f"{target.name}.png"), found.labels, palette=_COLOURS)]
        if uncertainty:
            grey = np.rint(255 * found.uncertainty).astype(np.uint8)
            targets.append(_save_image(target.with_name(f"{target.name}_uncertainty.png"), grey))
    return targets


def _save_volume(target: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> Path:
    import nibabel

    temporary = target.with_name(f".{target.name}.tmp.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array, affine), temporary)  # type: ignore[no-untyped-call]
    return temporary.replace(target)


def _save_image(target: Path, array: npt.NDArray[np.uint8], palette: bytes | None = None) -> Path:
    from PIL import Image

    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    temporary = target.with_name(f".{target.name}.tmp")
    image.save(temporary, "PNG")
    return temporary.replace(target)


def _sound_spec(values: Any, config: Config) -> DatasetSpec:
    """What a model's file says of its data. Raises whatever comes of values that no training wrote."""
    spec = DatasetSpec.from_dict(values)
    model, preparation = config.model, spec.preparation
    ours = (spec.image_channels, spec.mask_channels, spec.image_size)
    if ours != (model.image_channels, model.mask_channels, model.image_size):
        raise ValueError(f"channels and size {ours} are not the model's")
    sides = [side for side in (*(preparation.size or ()), preparation.longest_side) if side is not None]
    if not all(isinstance(side, int) and 0 < side <= _LONGEST for side in sides):
        raise ValueError(f"no image is {short(sides)} pixels large")
    spacing = () if preparation.spacing is None else preparation.spacing
    windows = [window for window in preparation.windows if window is not None]
    if preparation.plane not in get_args(Plane) or len(spacing) not in (0, 2) or not all(0 < side < math.inf for side in spacing):
        raise ValueError(f"no slices are {short(preparation.plane)} with pixels of {short(spacing)} mm")
    if len(preparation.windows) not in (0, spec.image_channels) or not all(
        -math.inf < low < high < math.inf for low, high in windows
    ):
        raise ValueError(f"no window is {short(preparation.windows)}")
    if spec.normalise(torch.zeros(1, spec.image_channels, 1, 1)).shape[1] != spec.image_channels:
        raise ValueError("mean and std have other channels than its images")
    return spec


def _draw(
    config: Config,
    generator: Generator,
    spec: DatasetSpec,
    votes: int | None,
    image: Tensor,
    name: str,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels and entropy (D, H, W) of a prepared image (C, D, H, W), by the protocol that the model is scored with.

    They have the size (H, W) that is given, or else that of the image.
    """
    settings = protocol(config, generator)
    if votes is not None and config.model.architecture != "unet":
        settings["votes"] = votes
    found = draw_votes(image, name, spec, sampler(config, generator), size=size, **settings)
    return found.labels[-1], found.entropy


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (C, H, W) at another size."""
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz")) or path.is_dir()


def _stem(path: Path) -> str:
    if path.is_dir():
        return path.resolve().name
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem


if __name__ == "__main__":
    sys.exit(main())
