"""New files through a trained model: on their own grid, with their own affine."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from patience import run
from PIL import Image

from cdal.checkpoint import load, prefixed, save
from cdal.config import Config
from cdal.data import open_dataset
from cdal.errors import InputError
from cdal.generator import Generator
from cdal.segment import Segmenter, main
from cdal.training import train

SMALL = {
    "model.width_multipliers": [1, 2],
    "model.base_width": 8,
    "model.encoder_blocks": 1,
    "model.attention_resolutions": [8],
    "model.discriminator_width": 8,
    "model.image_size": 32,
    "diffusion.timesteps": 2,
    "training.epochs": 1,
    "training.steps_per_epoch": 40,
    "training.batch_size": 8,
    "loss.soft_dice": 1.0,
    "loss.adversarial": 0.0,  # without these two, no discriminator is trained
    "loss.attention": 0.0,
    "optimiser.lr_generator": 2e-3,
    "optimiser.beta1": 0.9,
    "evaluation.votes": 3,
    "evaluation.window": "whole",
}


def replaced(values: Any, path: tuple[str, ...], value: Any) -> Any:
    """Nested dictionaries with another value at a place."""
    return {**values, path[0]: replaced(values.get(path[0], {}), path[1:], value)} if path else value


HOSTILE: dict[tuple[str, ...], Any] = {
    (): ["no dictionary"],
    ("image_size",): 10**9,
    ("classes",): [str(number) for number in range(10_000)],
    ("preparation", "size"): [10**6, 10**6],
    ("preparation", "longest_side"): 10**12,
    ("preparation", "mean"): ["a"],
    ("preparation", "std"): [1.0] * 1000,
    ("preparation", "plane"): "diagonal",
    ("preparation", "spacing"): [0.0, 1.0],
    ("preparation", "windows"): [[3.0, 3.0]],
    ("surprise",): 1,
}


@pytest.mark.parametrize("path", HOSTILE, ids=".".join)
def test_a_model_that_describes_other_data_is_refused(path: tuple[str, ...], tmp_path: Path) -> None:
    config = Config().replace(SMALL)
    about = asdict(open_dataset("phantom", size=32, cases=8, classes=1).spec)
    config = config.replace({"model.image_channels": about["image_channels"]})
    tensors = prefixed(Generator.from_config(config.model).state_dict(), "generator.")
    save(tmp_path / "good.safetensors", tensors, {"config": config.to_dict(), "dataset": about})
    save(tmp_path / "bad.safetensors", tensors, {"config": config.to_dict(), "dataset": replaced(about, path, HOSTILE[path])})
    Segmenter(tmp_path / "good.safetensors")
    with pytest.raises(InputError, match=r"bad\.safetensors describes the data that it was trained on in a way that cannot be"):
        Segmenter(tmp_path / "bad.safetensors")


def disc(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return np.linalg.norm(grid - np.reshape(centre, (-1, *[1] * len(shape))), axis=0) < radius


def trained(folder: Path, out: Path) -> Path:
    """A model that has seen bright discs for a few seconds."""
    dataset = open_dataset("own", folder, sample_size=32)
    for _ in train(Config().replace(SMALL), dataset, out):
        pass
    return out / "best.safetensors"


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(8):
        inside = disc((32, 32), rng.uniform(10, 22, 2), rng.uniform(5, 9))
        Image.fromarray((200 * inside + rng.integers(0, 40, (32, 32))).astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray((255 * inside).astype(np.uint8)).save(folder / f"masks/{number}.png")
    return trained(folder, tmp_path_factory.mktemp("image_model"))


@pytest.fixture(scope="module")
def volume_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(4):
        image, label = volume(number)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"images/{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / f"masks/{number}.nii.gz")
    return trained(folder, tmp_path_factory.mktemp("volume_model"))


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = disc((30, 26, 8), (*rng.uniform(10, 16, 2), 4), rng.uniform(5, 7)).astype(np.uint8)
    return (label * 100 + rng.normal(0, 5, label.shape)).astype(np.float32), label


@pytest.mark.long
def test_an_image_gets_a_mask_of_its_own_size(image_model: Path, tmp_path: Path) -> None:
    inside = disc((70, 90), (30, 50), 18)
    Image.fromarray(np.where(inside, 220, 20).astype(np.uint8)).save(tmp_path / "new.png")
    assert main([str(tmp_path / "new.png"), "--model", str(image_model), "--out", str(tmp_path / "o"), "--uncertainty"]) == 0
    mask, doubt = Image.open(tmp_path / "o/new.png"), np.asarray(Image.open(tmp_path / "o/new_uncertainty.png"))
    assert mask.mode == "P"
    found = np.asarray(mask)
    assert found.shape == doubt.shape == (70, 90)
    assert set(np.unique(found)) <= {0, 1}
    assert 2 * (found * inside).sum() / (found.sum() + inside.sum()) > 0.8
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["new.png", "new_uncertainty.png"]


def test_drawing_ends_early_where_the_models_configuration_says_so(image_model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.where(disc((32, 32), (16, 16), 8), 220, 20).astype(np.uint8)).save(tmp_path / "new.png")
    tensors, info = load(image_model)
    masks = {}
    for name, settings in (
        ("four", {"votes": 4}), ("all", {"votes": 40}), ("early", {"votes": 40, "vote_confidence": 1e-6}),
    ):  # fmt: skip
        config = info["config"] | {"evaluation": info["config"]["evaluation"] | settings}
        save(tmp_path / f"{name}.safetensors", tensors, info | {"config": config})
        model = ["--model", str(tmp_path / f"{name}.safetensors"), "--out", str(tmp_path / name), "--uncertainty"]
        assert main([str(tmp_path / "new.png"), *model]) == 0
        masks[name] = [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).iterdir())]
    for early, four in zip(masks["early"], masks["four"], strict=True):
        np.testing.assert_array_equal(early, four)
    assert (masks["early"][1] != masks["all"][1]).any()


@pytest.mark.long
@pytest.mark.parametrize("axes", ["RAS", "LPI", "ASR", "IRP"])
def test_a_volume_gets_a_mask_on_its_own_grid(volume_model: Path, tmp_path: Path, axes: str) -> None:
    """The same scan, stored along other axes, gets the same mask at the same place in the patient."""
    image, label = volume(9)
    affine = np.array([[0.9, 0.1, 0, -12], [-0.1, 0.9, 0, 5], [0, 0, 2.0, 30], [0, 0, 0, 1]])
    plain = nibabel.Nifti1Image(image, affine)
    turned = plain.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axes)))
    (tmp_path / axes).mkdir()
    nibabel.save(turned, tmp_path / axes / "scan.nii.gz")
    command = ["--model", str(volume_model), "--out", str(tmp_path / "o"), "--uncertainty"]
    assert main([str(tmp_path / axes / "scan.nii.gz"), *command]) == 0
    found = nibabel.load(tmp_path / "o/scan.nii.gz")
    doubt = nibabel.load(tmp_path / "o/scan_uncertainty.nii.gz")
    assert found.shape == doubt.shape == turned.shape
    np.testing.assert_allclose(found.affine, turned.affine)
    back = found.as_reoriented(ornt_transform(io_orientation(found.affine), io_orientation(affine)))
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    mask = np.asarray(back.dataobj)
    assert mask.dtype == np.uint8
    assert 2 * (mask * label).sum() / (mask.sum() + label.sum()) > 0.8


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_volume_is_brought_to_what_the_model_knows_and_its_mask_back(
    plane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that takes the image for the mask is shown slices of 1 x 1.5 mm in its window; the mask is on the file's grid."""
    seen: list[torch.Tensor] = []

    def copying(*_: object) -> Callable[[torch.Tensor, list[torch.Generator]], torch.Tensor]:
        def sample(images: torch.Tensor, rngs: list[torch.Generator]) -> torch.Tensor:
            seen.append(images)
            return images.expand(len(rngs), *images.shape)

        return sample

    monkeypatch.setattr("cdal.segment.sampler", copying)
    spec = asdict(open_dataset("phantom", size=32, cases=8, classes=1).spec) | {"image_channels": 1, "volumetric": True}
    spec["preparation"] = {"scaling": "range", "windows": [[-100.0, 300.0]], "plane": plane, "spacing": [1.0, 1.5]}
    config = Config().replace(SMALL | {"model.image_channels": 1})
    tensors = prefixed(Generator.from_config(config.model).state_dict(), "generator.")
    save(tmp_path / "model.safetensors", tensors, {"config": config.to_dict(), "dataset": spec})

    shape, spacing = (24, 20, 16), (0.8, 2.0, 1.25)  # left, posterior, inferior
    affine = np.diag([-spacing[0], -spacing[1], -spacing[2], 1]) + np.array([[0, 0, 0, 7]] * 3 + [[0] * 4])
    label = disc(shape, (12, 9, 8), 6).astype(np.uint8)
    plain = nibabel.Nifti1Image(np.where(label, 1000, -1000).astype(np.int16), affine)
    scan = plain.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt("SAR")))
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    command = ["--model", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "o"), "--uncertainty"]
    assert main([str(tmp_path / "scan.nii.gz"), *command]) == 0

    left, posterior, inferior = (round(side * step) for side, step in zip(shape, spacing, strict=True))  # mm
    expected = {
        "axial": (16, left, posterior / 1.5), "coronal": (20, inferior, left / 1.5), "sagittal": (24, inferior, posterior / 1.5),
    }[plane]  # fmt: skip
    depth, _, *size = torch.cat(seen).shape
    assert depth == expected[0]
    assert all(0 <= side - round(least) < 8 for side, least in zip(size, expected[1:], strict=True))  # padded for the network
    assert torch.cat(seen).min() == -1
    assert torch.cat(seen).max() == 1
    found, doubt = (nibabel.load(tmp_path / f"o/scan{kind}.nii.gz") for kind in ("", "_uncertainty"))
    np.testing.assert_allclose(found.affine, scan.affine)
    assert found.shape == doubt.shape == scan.shape
    back = found.as_reoriented(ornt_transform(io_orientation(found.affine), io_orientation(affine)))
    mask = np.asarray(back.dataobj)
    assert 2 * (mask * label).sum() / (mask.sum() + label.sum()) > 0.93

    far = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.diag([0.001, 0.001, 0.001, 1]))
    nibabel.save(far, tmp_path / "far.nii.gz")
    assert main([str(tmp_path / "far.nii.gz"), *command]) == 2
    nibabel.save(scan, tmp_path / "lost.nii")
    header = bytearray((tmp_path / "lost.nii").read_bytes())
    header[252:256] = bytes(4)  # neither sform nor qform
    (tmp_path / "lost.nii").write_bytes(header)
    with pytest.warns(UserWarning, match=r"lost\.nii: neither sform nor qform is set"):
        assert main([str(tmp_path / "lost.nii"), *command]) == 0


@pytest.mark.long
def test_a_folder_of_dicom_slices_gets_a_mask_in_nifti(volume_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    image, label = volume(9)
    (tmp_path / "patient.1").mkdir()
    write_series(tmp_path / "patient.1", image)
    assert main([str(tmp_path / "patient.1"), "--model", str(volume_model), "--out", str(tmp_path / "o")]) == 0
    found = nibabel.load(tmp_path / "o/patient.1.nii.gz")
    np.testing.assert_allclose(found.affine, np.diag([-1, -1, 2, 1]))
    mask = np.asarray(found.dataobj)
    assert 2 * (mask * label).sum() / (mask.sum() + label.sum()) > 0.8


def write_series(folder: Path, image: np.ndarray) -> None:
    """An image (X, Y, Z) as slices of 1 x 1 mm, 2 mm apart."""
    import pydicom

    for z in range(image.shape[2]):
        made = pydicom.Dataset()
        made.file_meta = pydicom.dataset.FileMetaDataset()
        made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.MRImageStorage
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = pydicom.uid.generate_uid()
        made.SeriesInstanceUID, made.Modality = "1.2.3", "MR"
        made.Columns, made.Rows = image.shape[:2]
        made.PixelSpacing, made.ImageOrientationPatient, made.ImagePositionPatient = [1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 2 * z]
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        made.PixelData = np.rint(image[:, :, z].T).astype(np.int16).tobytes()
        made.save_as(folder / f"{z}.dcm", enforce_file_format=True)


@pytest.mark.long
def test_mistakes_are_told_in_one_sentence(
    image_model: Path, volume_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "b").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "b/a.png")
    (tmp_path / "file").touch()
    image, volumes = str(image_model), str(volume_model)
    for files, model, more, words in (
        (["missing.png"], image, [], "missing.png"),
        (["cut.png"], image, [], "cut.png"),
        (["deep.png"], image, [], "8-bit"),
        (["a.png"], volumes, [], "NIfTI volumes"),
        (["a.png", "b/a.png"], image, [], "two of the files are called a"),
        (["a.png"], str(tmp_path / "no.safetensors"), [], "no checkpoint"),
        (["a.png"], str(image_model.with_name("nothing")), [], "no checkpoint"),
        (["a.png"], image, ["--votes", "0"], "--votes is 0"),
        (["a.png"], image, ["--device", "nowhere"], "--device is nowhere, which PyTorch cannot use here"),
        (["a.png"], image, ["--out", str(tmp_path / "file")], "cannot write to"),
    ):
        command = [*(str(tmp_path / name) for name in files), "--model", model, "--out", str(tmp_path / "o"), *more]
        assert main(command) == 2
        told = capsys.readouterr().err
        assert words in told
        assert len(told.strip().splitlines()) == 1
    assert not list((tmp_path / "o").glob("*"))
    ended = run([sys.executable, "-m", "cdal.segment", *command])
    assert (ended.returncode, ended.stderr) == (2, told)
