"""What is decided of strangers' data is worth: groups, resampling, and the time an inspection takes.

    python benchmarks/own_data.py groups          # Dice on the test cases of a naive split, of a grouped one, and on new patients
    python benchmarks/own_data.py spacings        # Dice with volumes resampled to their median spacing, and as they are
    python benchmarks/own_data.py inspect         # time and memory of `inspect` on 1,000 images of 1 megapixel

All data are generated. The first two train a small plain U-Net on the CPU, several seeds; they show what an estimate of Dice is off
by, not how well cDAL segments.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from cdal.checkpoint import load_model
from cdal.config import Config
from cdal.data import Dataset, open_dataset
from cdal.predict import full_protocol
from cdal.training import BEST, train

SIDE = 64
CONFIG: Mapping[str, Any] = {
    "model.architecture": "unet",
    "model.base_width": 16,
    "model.width_multipliers": (1, 2, 2),
    "model.encoder_blocks": 1,
    "model.latent_embedding": 16,
    "loss.soft_dice": 1.0,
    "optimiser.lr_generator": 2e-3,
    "training.batch_size": 8,
    "training.steps_per_epoch": 100,
    "evaluation.votes": 1,
    "evaluation.validation_votes": 1,
    "evaluation.overlap": 0.25,
}


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("groups", "spacings", "inspect"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of 100 steps (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"groups": groups, "spacings": spacings, "inspect": inspect}[options.what](Path(folder), options)


def groups(folder: Path, options: argparse.Namespace) -> None:
    """A set with 10 slices a patient, split by slices and by patients; the truth is the Dice on patients of another set."""
    patients(folder / "own", range(16))
    patients(folder / "new", range(100, 124))
    new = open_dataset("own", folder / "new")
    rows = []
    for name, chosen in (("by slices (naive)", {"groups": "none"}), ("by patients (default)", {})):
        dataset = open_dataset("own", folder / "own", **chosen)
        for seed in range(options.seeds):
            split = dataset.split(0)
            model = trained(dataset, seed, options.epochs)
            claimed, real = dice(*model, dataset, split.test), dice(*model, new, new.ids)
            shared = len({case[:4] for case in split.test} & {case[:4] for case in split.train})
            rows.append((name, seed, shared, claimed, real))
    show(("split", "seed", "test patients also trained on", "Dice on the test part", "on 24 new patients"), rows)


def patients(folder: Path, numbers: Sequence[int] | range) -> None:
    """Each patient has two kinds of blobs on a texture of its own; which kind is the organ only its texture tells."""
    for number in numbers:
        rng = np.random.default_rng(number)
        texture = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), rng.uniform(1, 4))
        texture = 25 * texture / texture.std()
        bright = bool(rng.integers(2))
        places = rng.uniform(12, SIDE - 12, (4, 2))
        for piece in range(10):
            moved = places + rng.normal(scale=1.0, size=places.shape)
            rows, columns = np.mgrid[:SIDE, :SIDE]
            image, mask = 110 + texture, np.zeros((SIDE, SIDE), bool)
            for index, (row, column) in enumerate(moved):
                blob = np.hypot(rows - row, columns - column) < 6
                light = index % 2 == 0
                image = np.where(blob, image + (45 if light else -45), image)
                mask |= blob & (light == bright)
            image = np.clip(image + rng.normal(scale=8, size=image.shape), 0, 255)
            save(folder / "images" / f"p{number:03}_s{piece:02}.png", image.astype(np.uint8))
            save(folder / "masks" / f"p{number:03}_s{piece:02}.png", mask.astype(np.uint8) * 255)


def spacings(folder: Path, options: argparse.Namespace) -> None:
    """Volumes with pixels of 0.4 to 1.2 mm, in which only discs wider than 12 mm are the organ."""
    for number in range(32):
        discs(folder / "own", number, 0.4 + 0.8 * number / 31)
    rows = []
    for name, resample in (("as they are", False), ("resampled to the median (default)", True)):
        dataset = open_dataset("own", folder / "own", resample=resample, sample_size=SIDE)
        for seed in range(options.seeds):
            model = trained(dataset, seed, options.epochs)
            rows.append((name, seed, dice(*model, dataset, dataset.split(0).test)))
    show(("slices", "seed", "Dice on the test part, on the files' grids"), rows)


def discs(folder: Path, number: int, spacing: float) -> None:
    """One volume of 4 slices, 48 mm wide."""
    rng = np.random.default_rng(number)
    side = round(48 / spacing)
    rows, columns = (np.mgrid[:side, :side] + 0.5) * spacing
    voxels, label = np.zeros((side, side, 4), np.float32), np.zeros((side, side, 4), np.uint8)
    for piece in range(4):
        image, mask = np.full((side, side), 100.0), np.zeros((side, side), bool)
        for index, (row, column) in enumerate(((12, 12), (12, 36), (36, 12), (36, 36))):
            wide = index in (piece, (piece + 1) % 4)
            radius = rng.uniform(7.0, 9.0) if wide else rng.uniform(3.0, 4.5)
            disc = np.hypot(rows - row - rng.uniform(-2, 2), columns - column - rng.uniform(-2, 2)) < radius
            image = np.where(disc, 160.0, image)
            mask |= disc & wide
        voxels[..., piece] = image + rng.normal(scale=12, size=image.shape)
        label[..., piece] = mask
    affine = np.diag([-spacing, -spacing, -3.0, 1.0])
    for kind, array in (("images", voxels), ("masks", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / kind / f"case_{number:02}.nii.gz")


def inspect(folder: Path, options: argparse.Namespace) -> None:
    """`inspect` as a process of its own, with an empty cache."""
    rng = np.random.default_rng(0)
    base = ndimage.gaussian_filter(rng.normal(size=(1200, 1200, 3)), (3, 3, 0))
    base = np.clip(128 + 200 * base / base.std() / 4, 0, 255).astype(np.uint8)
    for number in range(options.images):
        row, column = rng.integers(0, 200, 2)
        save(
            folder / "own" / "images" / f"case_{number:04}.png",
            np.ascontiguousarray(base[row : row + 1000, column : column + 1000]),
        )
        mask = np.zeros((1000, 1000), np.uint8)
        top, left = rng.integers(50, 700, 2)
        mask[top : top + 200, left : left + 200] = 255
        save(folder / "own" / "masks" / f"case_{number:04}.png", mask)
    command = [sys.executable, "-m", "cdal.data", "inspect", str(folder / "own"), "--out", str(folder / "sheet.html"), "--json"]
    rows = []
    for name in ("first time", "again"):
        started = time.perf_counter()
        done = subprocess.run(command, env={"CDAL_CACHE": str(folder / "cache"), "PATH": ""}, capture_output=True, check=False)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        rows.append((name, done.returncode, f"{seconds:.1f} s", f"{peak:.2f} GiB"))
    show((f"inspect of {options.images} images of 1 megapixel", "exit status", "time", "largest memory so far"), rows)


def trained(dataset: Dataset, seed: int, epochs: int) -> tuple[Config, Any]:
    """The best weights of a small U-Net."""
    spec = dataset.spec
    shapes = {f"model.{name}": getattr(spec, name) for name in ("image_channels", "mask_channels", "image_size")}
    config = Config().replace(dict(CONFIG) | shapes | {"training.seed": seed, "training.epochs": epochs})
    with tempfile.TemporaryDirectory() as folder:
        for _ in train(config, dataset, Path(folder)):
            pass
        return load_model(Path(folder) / BEST)


def dice(config: Config, generator: Any, dataset: Dataset, cases: Sequence[str]) -> float:
    """Mean over cases."""
    return float(np.mean([result.dice for result in full_protocol(config, generator, dataset, cases)]))


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """As PNG, quickly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def show(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table()
    for head in heads:
        table.add_column(head)
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    Console().print(table)


if __name__ == "__main__":
    main()
