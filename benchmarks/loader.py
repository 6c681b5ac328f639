"""Does the GPU ever wait for the loader? Images per second of it, and its share of a training step with published settings.

    python benchmarks/loader.py                                     # generated files of the published shapes; a minute on two cores
    python benchmarks/loader.py --device cuda                       # the published networks at full width
    python benchmarks/loader.py --data hippocampus=Task04_Hippocampus --data monuseg=MoNuSeg

Milliseconds per batch of the published size: crops cut on the CPU, their way to the device, and augmentation, normalisation and
encoding there, each waited for before the next begins. "Waiting" compares their sum with a training step that has its batch at
hand: it is the most that the device can wait. A GPU computes a step while the crops of the next are cut; "measured" is the waiting
that remains, from steps that load less steps that do not. Without --data, files are generated in a temporary folder; they are
decoded, cached and mapped as real ones are.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from PIL import Image

from cdal.config import Config, preset
from cdal.data import Batch, Dataset, open_dataset, training_batch
from cdal.errors import InputError
from cdal.trainer import Draws, Trainer

NAMES = ("monuseg", "chest_xray", "hippocampus")
NARROW = 8  # channels at full resolution, so that a CPU ends in a minute
WARM_UP = 2


class Figures(NamedTuple):
    """Milliseconds per step."""

    crops: float
    transfer: float
    changes: float
    step: float
    measured: float

    @property
    def loader(self) -> float:
        """All that happens before a step."""
        return self.crops + self.transfer + self.changes


def measure(dataset: Dataset, config: Config, device: torch.device, batches: int, steps: int) -> Figures:
    """Time the loader alone, then training steps with and without it."""
    settings, cases = config.training, dataset.split(0).train

    def load(step: int, where: torch.device = device) -> Batch:
        return training_batch(
            dataset, cases, step=step, batch_size=settings.batch_size, samples_per_case=settings.samples_per_case,
            mask_channels=config.model.mask_channels, seed=settings.seed, device=where,
        )  # fmt: skip

    def crop(step: int) -> list[torch.Tensor]:
        groups = settings.batch_size // settings.samples_per_case
        rng = np.random.default_rng((settings.seed, step))
        drawn = [
            dataset.draw(cases[(step * groups + group) % len(cases)], settings.samples_per_case, rng) for group in range(groups)
        ]
        return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*drawn, strict=True)]

    def send(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True, copy=True)

    crops = _milliseconds(crop, batches, device)
    ready = crop(0)
    transfer = _milliseconds(lambda _: send(ready), batches, device)
    whole = _milliseconds(load, batches, device)

    trainer = Trainer(config, device)
    shape = (settings.batch_size, config.model.mask_channels, config.model.image_size, config.model.image_size)
    batch = load(0)

    def train(step: int, loading: bool) -> None:
        rng = torch.Generator(device).manual_seed(step)
        draws = Draws.random(shape, config.diffusion.timesteps, config.model.latent_size, rng)
        image, mask, known = load(step) if loading else batch
        trainer.step(image, mask, draws, known)

    without = _milliseconds(lambda step: train(step, False), steps, device)
    measured = _milliseconds(lambda step: train(step, True), steps, device) - without if device.type == "cuda" else float("nan")
    return Figures(crops, transfer, max(0.0, whole - crops - transfer), without, measured)


def _milliseconds(action: Callable[[int], object], times: int, device: torch.device) -> float:
    """Mean over some calls, numbered, after some that do not count."""
    for number in range(WARM_UP + times):
        if number == WARM_UP:
            _wait(device)
            started = time.perf_counter()
        action(number)
    _wait(device)
    return 1000 * (time.perf_counter() - started) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def generate(name: str, folder: Path) -> None:
    """Files of the published shapes and types, in the layout of the download; their content does not matter."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(256, size=shape, dtype=np.uint8)

    def save(pixels: np.ndarray, *path: str) -> None:
        folder.joinpath(*path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder.joinpath(*path), compress_level=1)

    if name == "monuseg":
        for number in range(8):
            part = "Test" if number == 0 else "Training"
            save(noise(1000, 1000, 3), part, f"tissue_{number}.tif")
            save((noise(100, 100) > 200).repeat(10, 0).repeat(10, 1) * np.uint8(255), part, f"tissue_{number}_mask.png")
    elif name == "chest_xray":
        for number in range(24):
            image = f"{'CHNCXR' if number < 18 else 'MCUCXR'}_{number:04}_0"
            save(noise(1024, 1024), "CXR_png", f"{image}.png")
            save((noise(64, 64) > 180).repeat(16, 0).repeat(16, 1) * np.uint8(255), "masks", f"{image}.png")
    else:
        pairs = [{part: f"./{part}sTr/case_{number}.nii.gz" for part in ("image", "label")} for number in range(24)]
        for pair in pairs:
            for part, values in (("image", noise(35, 50, 36)), ("label", noise(35, 50, 36) % 3)):
                (folder / pair[part]).parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / pair[part])
        listing = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}, "training": pairs}
        (folder / "dataset.json").write_text(json.dumps(listing))


def main() -> int:
    """Print the table; 2 where the data cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help=f"real data; NAME is {', '.join(NAMES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--base-width", type=int, help=f"channels at full resolution (default: as published; {NARROW} on a CPU)")
    parser.add_argument("--batches", type=int, default=50, help="batches loaded for each figure (default: 50)")
    parser.add_argument("--steps", type=int, help="training steps (default: 50; 2 on a CPU)")
    options = parser.parse_args()
    device = torch.device(options.device)
    on_cpu = device.type == "cpu"
    width = options.base_width or (NARROW if on_cpu else None)
    folders = dict(item.partition("=")[::2] for item in options.data)
    if not set(folders) <= set(NAMES):
        parser.error(f"--data takes NAME=FOLDER, and NAME is {', '.join(NAMES)}")

    print(f"{device}; ms per step; networks as published" + (f", but base width {width}, and so quicker" if width else ""))
    print(f"{'':14}{'batch':>7}{'crops':>8}{'transfer':>10}{'augment':>9}{'images/s':>10}{'step':>9}{'waiting':>9}{'measured':>10}")
    with tempfile.TemporaryDirectory() as root:
        os.environ["CDAL_CACHE"] = str(Path(root, "cache"))
        for name in [name for name in NAMES if name in folders] or NAMES:
            if name not in folders:
                generate(name, Path(root, name))
            try:
                dataset = open_dataset(name, folders.get(name, Path(root, name)))
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            config = preset(name)
            if width:
                config = config.replace({"model.base_width": width, "model.discriminator_width": width})
            found = measure(dataset, config, device, options.batches, options.steps or (2 if on_cpu else 50))
            print(
                f"{name:14}{config.training.batch_size:7d}{found.crops:8.2f}{found.transfer:10.2f}{found.changes:9.2f}"
                f"{1000 * config.training.batch_size / found.loader:10.0f}{found.step:9.0f}"
                f"{found.loader / (found.loader + found.step):9.1%}"
                + ("         -" if on_cpu else f"{max(0.0, found.measured / (found.measured + found.step)):10.1%}"),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
