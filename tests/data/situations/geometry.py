"""Where pixels lie: turned photographs, planes and spacings of volumes, affines that disagree, files of odd shapes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
from own_folders import LPI, decathlon, mask, nnunet, picture, save, volume, volume_label
from PIL import Image

from .situation import (
    ISSUE,
    Kind,
    Steps,
    is_class,
    is_foreground,
    leaks,
    opened,
    opened_or_refused,
    refusal,
    said,
    truth,
    warned,
)

geometry = Kind("geometry")
Array = npt.NDArray[Any]


def nifti(path: Path, voxels: Array, affine: Array = LPI, change: Callable[[Any], None] = lambda image: None) -> None:
    """A NIfTI file; `change` alters its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine)
    change(image)
    nibabel.save(image, path)


def series(folder: Path, shape: Sequence[int], affine: Array = LPI, count: int = 5) -> Array:
    """images/ and labels/ of volumes with one box; returns the label as it is stored, (X, Y, Z)."""
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(side // 4, side // 2 + 1) for side in shape)] = 1
    for number in range(count):
        nifti(folder / "images" / f"case_{number}.nii.gz", volume(number, *shape), affine)
        nifti(folder / "labels" / f"case_{number}.nii.gz", label, affine)
    return label


def turned(degrees: float) -> Array:
    """An LPI affine turned about the third axis."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ LPI


def photograph(path: Path, pixels: Array, orientation: int) -> None:
    """A JPEG whose EXIF says how it is to be turned before it is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=95, exif=exif)


def gradient(height: int, width: int, seed: int) -> Array:
    """Dark at the top left, bright at the bottom right, so that every turn shows."""
    rows, columns = np.mgrid[:height, :width]
    grey = (60 * rows / height + 150 * columns / width + seed).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@geometry.holds(
    "EXIF says that a photograph is turned",
    "https://github.com/wkentaro/labelme/issues/1529",
    "turned as it is shown, and so it fits its mask",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        shown = gradient(48, 40, number)
        photograph(folder / "images" / f"case_{number}.jpg", np.rot90(shown), 6)  # to be shown, turn it clockwise
        save(folder / "masks" / f"case_{number}.png", mask(number, 48, 40))
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_2"), mask(2, 48, 40) > 0)
    image = dataset.case("case_2").image[0, 0].float().numpy()
    assert image.shape == (48, 40)
    assert np.abs(image - gradient(48, 40, 2)[..., 0]).max() < 8


@geometry.holds(
    "EXIF turned by half, mask drawn on what is shown",
    "https://github.com/wkentaro/labelme/pull/305",
    "turned as it is shown; the shape alone cannot tell",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        photograph(folder / "images" / f"case_{number}.jpg", np.rot90(gradient(40, 48, number), 2), 3)
        save(folder / "masks" / f"case_{number}.png", mask(number))
    yield
    dataset = opened(folder)
    image = dataset.case("case_2").image[0, 0].float().numpy()
    assert np.abs(image - gradient(40, 48, 2)[..., 0]).max() < 8


@geometry.holds(
    "a mask drawn on the pixels as they are stored",
    "https://github.com/wkentaro/labelme/issues/232",
    "read as stored and told, or refused",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        photograph(folder / "images" / f"case_{number}.jpg", gradient(40, 48, number), 6)
        save(folder / "masks" / f"case_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "case_0", "EXIF")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_2"), mask(2) > 0)
        image = dataset.case("case_2").image[0, 0].float().numpy()
        assert np.abs(image - gradient(40, 48, 2)[..., 0]).max() < 8
        said(dataset, "EXIF")


@geometry.holds("a sagittal series", ISSUE, "slices are cut across the coarsest axis")
def _(folder: Path) -> Steps:
    series(folder, (8, 40, 36), np.diag([-5.0, -1.0, -1.0, 1.0]))
    yield
    dataset = opened(folder)
    assert dataset.spec.preparation.plane == "sagittal"
    case = dataset.case("case_0")
    assert case.image.shape[1] == 8
    assert sorted(case.image.shape[2:]) == [36, 40]
    assert case.spacing == (5, 1, 1)
    label = case.truth.numpy() == 1
    assert label.sum() == 3 * 11 * 10
    assert sorted(np.flatnonzero(label.any(axis=(1, 2)))) in ([2, 3, 4], [3, 4, 5])


@geometry.holds("a coronal series", "https://github.com/MIC-DKFZ/nnUNet/issues/455", "slices are cut across the coarsest axis")
def _(folder: Path) -> Steps:
    series(folder, (40, 8, 36), np.diag([-1.0, -4.0, -1.0, 1.0]))
    yield
    dataset = opened(folder)
    assert dataset.spec.preparation.plane == "coronal"
    assert dataset.case("case_0").image.shape[1] == 8
    assert dataset.case("case_0").spacing == (4, 1, 1)


@geometry.holds(
    "sagittal series among axial ones",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2400",
    "inspect tells which, or they are refused",
)
def _(folder: Path) -> Steps:
    series(folder, (40, 36, 8), np.diag([-1.0, -1.0, -5.0, 1.0]), 7)
    label = np.zeros((8, 40, 36), np.uint8)
    label[2:5, 10:21, 9:19] = 1
    sagittal = np.diag([-5.0, -1.0, -1.0, 1.0])
    nifti(folder / "images" / "case_3.nii.gz", volume(3, 8, 40, 36), sagittal)
    nifti(folder / "labels" / "case_3.nii.gz", label, sagittal)
    yield
    warned(folder, "case_3", "spacing|sagittal|plane")


@geometry.holds("isotropic volumes", ISSUE, "axial, on their own grid, as ever")
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))
    yield
    dataset = opened(folder)
    preparation = dataset.spec.preparation
    assert (preparation.plane, preparation.spacing) == ("axial", None)
    assert dataset.case("case_0").native is None
    is_foreground(dataset, truth(dataset, "case_0"), label.transpose(2, 0, 1) > 0)


@geometry.holds("2D images as volumes of (1, X, Y)", "https://github.com/MIC-DKFZ/nnUNet/issues/206", "one slice of X times Y each")
def _(folder: Path) -> Steps:
    label = series(folder, (1, 40, 48), np.diag([-999.0, -1.0, -1.0, 1.0]))
    yield
    dataset = opened(folder)
    case = dataset.case("case_0")
    assert case.image.shape[1] == 1
    assert sorted(case.image.shape[2:]) == [40, 48]
    assert np.count_nonzero(case.truth == 1) == np.count_nonzero(label)


@geometry.holds("2D images as volumes of (X, Y, 1)", "https://github.com/MIC-DKFZ/nnUNet/issues/1247", "one slice each")
def _(folder: Path) -> Steps:
    label = series(folder, (40, 48, 1), np.diag([-1.0, -1.0, -1.0, 1.0]))
    yield
    dataset = opened(folder)
    assert dataset.case("case_0").image.shape == (1, 1, 40, 48)
    is_foreground(dataset, truth(dataset, "case_0"), label.transpose(2, 0, 1) > 0)


@geometry.holds("spacings from 0.4 to 1.2 mm", ISSUE, "slices resampled to the median for training; truth stays on the file's grid")
def _(folder: Path) -> Steps:
    for number, step in enumerate((0.4, 0.6, 0.8, 1.0, 1.2)):
        side = round(24 / step)
        label = np.zeros((side, side, 6), np.uint8)
        label[side // 4 : side // 2, side // 4 : side // 2, 2:5] = 1
        affine = np.diag([-step, -step, -3.0, 1.0])
        nifti(folder / "images" / f"case_{number}.nii.gz", volume(number, side, side, 6), affine)
        nifti(folder / "labels" / f"case_{number}.nii.gz", label, affine)
    yield
    dataset = opened(folder)
    assert dataset.spec.preparation.spacing is not None
    np.testing.assert_allclose(dataset.spec.preparation.spacing, (0.8, 0.8), rtol=1e-5)
    fine, middle = dataset.case("case_0"), dataset.case("case_2")
    assert fine.image.shape == (1, 6, 30, 30)
    assert fine.label.shape == (6, 30, 30)
    assert fine.truth.shape == (6, 60, 60)
    np.testing.assert_allclose(fine.spacing, (3, 0.4, 0.4), rtol=1e-5)
    assert np.count_nonzero(fine.truth) == 15 * 15 * 3
    assert abs(np.count_nonzero(fine.label == 1) - 15 * 15 * 3 / 4) < 50
    assert middle.truth.shape == (6, 30, 30)
    said(dataset, "0.8", "mm|spacing")


def ct(seed: int, metal: bool) -> Array:
    """Air, tissue and an organ of 60 HU, in whole numbers; perhaps with a tooth filling."""
    values = np.full((24, 24, 8), -1000, np.int16)
    values[4:20, 4:20] = np.random.default_rng(seed).normal(40, 15, (16, 16, 8))
    values[8:14, 8:14, 2:6] = np.random.default_rng(seed).normal(110, 20, (6, 6, 4))
    values[18:20, 18:20] = 700  # bone
    if metal:
        values[4:6, 4:6] = 3071
    return values


@geometry.holds(
    "CT in Hounsfield units",
    "https://github.com/MIC-DKFZ/nnUNet/issues/303",
    "one window for all cases, from the foreground of the whole dataset",
)
def _(folder: Path) -> Steps:
    label = np.zeros((24, 24, 8), np.uint8)
    label[8:14, 8:14, 2:6] = 1
    for number in range(5):
        nifti(folder / "images" / f"case_{number}.nii.gz", ct(number, number == 3))
        nifti(folder / "labels" / f"case_{number}.nii.gz", label)
    yield
    dataset = opened(folder)
    (window,) = dataset.spec.preparation.windows
    assert window is not None
    assert 40 < window[0] < 80
    assert 140 < window[1] < 190
    organs = [float(dataset.case(f"case_{number}").image[0][dataset.case(f"case_{number}").label == 1].mean()) for number in (2, 3)]
    assert abs(organs[0] - organs[1]) < 0.05  # metal in one case does not darken its organ
    said(dataset, "CT|Hounsfield|window")


@geometry.holds(
    "CT that is declared",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1602",
    "channel CT of nnU-Net is windowed, MR beside it is not",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 2, channel_names={"0": "CT", "1": "T1"})
    for number in range(5):
        nifti(folder / "imagesTr" / f"case_{number}_0000.nii.gz", (volume(number, 12, 14, 6) * 3 - 300).astype(np.int16))
    yield
    windows = opened(folder).spec.preparation.windows
    assert len(windows) == 2
    assert windows[0] is not None
    assert windows[1] is None


@geometry.holds("MR of whole numbers", ISSUE, "is no CT: scaled by case, as ever")
def _(folder: Path) -> Steps:
    for number in range(5):
        nifti(folder / "images" / f"case_{number}.nii.gz", np.abs(volume(number, 12, 14, 6) * 8).astype(np.int16))
        nifti(folder / "labels" / f"case_{number}.nii.gz", volume_label((12, 14, 6)))
    yield
    assert not any(opened(folder).spec.preparation.windows)


@geometry.holds(
    "a label turned against its image",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2526",
    "refused: oblique, with the degrees or millimetres",
)
def _(folder: Path) -> Steps:
    series(folder, (20, 24, 18))
    nifti(folder / "labels" / "case_2.nii.gz", np.ones((20, 24, 18), np.uint8), turned(10))
    yield
    message = refusal(folder, "labels/case_2.nii.gz", "degrees", "oblique")
    assert "case_2" in message


@geometry.holds(
    "oblique, but both alike", "https://github.com/MIC-DKFZ/nnUNet/issues/1287", "read: rounding in the last digits is no mismatch"
)
def _(folder: Path) -> Steps:
    series(folder, (20, 24, 18), turned(12))
    label = np.zeros((20, 24, 18), np.uint8)
    label[3:9, 4:8, 5:11] = 1
    nifti(folder / "labels" / "case_2.nii.gz", label, turned(12) + 1e-6)
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_2"), label.transpose(2, 0, 1) > 0)


@geometry.holds(
    "a label that lost its affine",
    "https://github.com/TorchIO-project/torchio/issues/860",
    "refused: names the header, and how to copy that of the image",
)
def _(folder: Path) -> Steps:
    affine = np.diag([-0.8, -0.8, 3.0, 1.0])
    affine[:3, 3] = (90, 126, -72)
    series(folder, (20, 24, 18), affine)
    nifti(folder / "labels" / "case_2.nii.gz", np.ones((20, 24, 18), np.uint8), np.eye(4))
    yield
    refusal(folder, "labels/case_2.nii.gz", "copy", "affine", "header")


@geometry.holds(
    "a label stored in another orientation",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1669",
    "turned to its image by the affines, or refused; never voxel on voxel",
)
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))
    flipped = LPI.copy()
    flipped[0] = (1, 0, 0, -19)
    nifti(folder / "labels" / "case_2.nii.gz", label[::-1].copy(), flipped)
    yield
    dataset = opened_or_refused(folder, "labels/case_2.nii.gz", "orientation")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_2"), label.transpose(2, 0, 1) > 0)


@geometry.holds(
    "sform and qform that disagree",
    "https://github.com/wasserth/TotalSegmentator/issues/461",
    "named by their names: refused, or one taken and told",
)
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))

    def conflict(image: Any) -> None:
        image.set_sform(LPI, 1)
        image.set_qform(np.diag([-1.0, 1.0, -1.0, 1.0]), 1)

    nifti(folder / "images" / "case_2.nii.gz", volume(2, 20, 24, 18), LPI, conflict)
    yield
    dataset = opened_or_refused(folder, "case_2.nii.gz", "qform")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "case_2"), label.transpose(2, 0, 1) > 0)
        said(dataset, "sform", "qform")


@geometry.holds("a label of four axes (X, Y, Z, 1)", "https://github.com/nipy/nibabel/issues/299", "read as a volume")
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))
    nifti(folder / "labels" / "case_2.nii.gz", label[..., None])
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_2"), label.transpose(2, 0, 1) > 0)


@geometry.holds(
    "a channel per class (X, Y, Z, C)", "https://github.com/MIC-DKFZ/VoxTell/issues/13", "refused: a label has three axes"
)
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))
    nifti(folder / "labels" / "case_2.nii.gz", np.stack([label, 1 - label], axis=3))
    yield
    refusal(folder, "labels/case_2.nii.gz", "axes", "channel", "argmax")


@geometry.holds(
    "NaN outside of the brain", "https://github.com/Project-MONAI/MONAI/issues/1846", "refused with a remedy, or read without a NaN"
)
def _(folder: Path) -> Steps:
    series(folder, (20, 24, 18))
    voxels = volume(2, 20, 24, 18)
    voxels[:3] = np.nan
    nifti(folder / "images" / "case_2.nii.gz", voxels)
    yield
    dataset = opened_or_refused(folder, "images/case_2.nii.gz", "replace", "nan_to_num", "set ", "0")
    if dataset is not None:
        assert np.isfinite(dataset.case("case_2").image.numpy()).all()


@geometry.holds("a .nii.gz that is not compressed", "https://github.com/MIC-DKFZ/nnUNet/issues/2043", "read by its content")
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))
    plain = folder / "labels" / "plain.nii"
    nifti(plain, label)
    plain.replace(folder / "labels" / "case_2.nii.gz")
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_2"), label.transpose(2, 0, 1) > 0)


@geometry.holds(
    "big-endian files of old scanners' tools", "https://github.com/Project-MONAI/MONAI/pull/2326", "read with the same numbers"
)
def _(folder: Path) -> Steps:
    label = series(folder, (20, 24, 18))
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(label.astype(">i2"), LPI, header)
    nibabel.save(image, folder / "labels" / "case_2.nii.gz")
    yield
    dataset = opened(folder)
    is_foreground(dataset, truth(dataset, "case_2"), label.transpose(2, 0, 1) > 0)


@geometry.holds("voxels of colours (RGB24)", "https://github.com/nipy/nibabel/issues/979", "refused, or read as three channels")
def _(folder: Path) -> Steps:
    colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    for number in range(5):
        nifti(folder / "images" / f"case_{number}.nii.gz", np.zeros((12, 14, 6), colours))
        nifti(folder / "labels" / f"case_{number}.nii.gz", volume_label((12, 14, 6)))
    yield
    dataset = opened_or_refused(folder, "images/case_0.nii.gz", "plain numbers", "channel", "RGB")
    if dataset is not None:
        assert dataset.spec.image_channels == 3


@geometry.holds(
    "modalities of one patient on two grids",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1267",
    "refused: names both files and what differs",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 2)
    nifti(folder / "imagesTr" / "case_3_0001.nii.gz", volume(3, 6, 7, 6), np.diag([-2.0, -2.0, -1.0, 1.0]))
    yield
    refusal(folder, "case_3_0001.nii.gz", "case_3_0000.nii.gz")


@geometry.holds("a label of fewer slices than its image", "https://github.com/MIC-DKFZ/nnUNet/issues/1381", "refused: both shapes")
def _(folder: Path) -> Steps:
    decathlon(folder)
    nifti(folder / "labelsTr" / "case_3.nii.gz", volume_label((12, 14, 5), (1, 2)))
    yield
    assert "(12, 14, 5)" in refusal(folder, "labelsTr/case_3.nii.gz", "(12, 14, 6)")


@geometry.holds("a mask one pixel larger", "https://github.com/Neural-Systems-at-UIO/pynutil/issues/60", "refused: both sizes")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"case_{number}.png", picture(number))
        save(folder / "masks" / f"case_{number}.png", mask(number, 41 if number == 4 else 40, 48))
    yield
    assert "48 x 41" in refusal(folder, "masks/case_4.png", "48 x 40")


@geometry.holds("masks of rows and columns swapped", "https://github.com/MIC-DKFZ/nnUNet/issues/2925", "refused: both sizes")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"case_{number}.png", picture(number))
        save(folder / "masks" / f"case_{number}.png", mask(number).T.copy())
    yield
    refusal(folder, "masks/case_0.png", "40 x 48")


@geometry.holds("a stack of pages as a volume", "https://github.com/MouseLand/cellpose/issues/559", "refused: names the conversion")
def _(folder: Path) -> Steps:
    for number in range(5):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        stack = picture(number, 5, 40 * 48).reshape(5, 40, 48)
        tifffile.imwrite(folder / "images" / f"case_{number}.tif", stack, photometric="minisblack", imagej=True)
        tifffile.imwrite(
            folder / "masks" / f"case_{number}.tif", (stack > 200).astype(np.uint8), photometric="minisblack", imagej=True
        )
    yield
    refusal(folder, "images/case_0.tif", "NIfTI", "one file")


@geometry.holds(
    "grey among colour photographs",
    "https://github.com/bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets/issues/56",
    "refused, or all read as three channels and told",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "images" / f"case_{number}.png", picture(number, colours=0 if number == 4 else 3))
        save(folder / "masks" / f"case_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "images/case_4.png", "channel", "RGB")
    if dataset is not None:
        assert dataset.spec.image_channels == 3
        said(dataset, "case_4|grey")


@geometry.holds("print colours (CMYK)", "https://github.com/open-mmlab/mmsegmentation/issues/3567", "refused: save as RGB")
def _(folder: Path) -> Steps:
    for number in range(6):
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(picture(number, colours=3)).convert("CMYK").save(folder / "images" / f"case_{number}.jpg")
        save(folder / "masks" / f"case_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "images/case_0.jpg", "RGB")
    if dataset is not None:
        assert dataset.spec.image_channels == 3


@geometry.holds(
    "a screenshot with transparent corners",
    "https://github.com/pymatting/pymatting/issues/69",
    "refused: save it without the alpha channel",
)
def _(folder: Path) -> Steps:
    for number in range(6):
        rgba = np.dstack([picture(number, colours=3), np.full((40, 48), 255, np.uint8)])
        rgba[:2, :2, 3] = 0
        save(folder / "images" / f"case_{number}.png", rgba)
        save(folder / "masks" / f"case_{number}.png", mask(number))
    yield
    refusal(folder, "images/case_0.png", "alpha")


@geometry.holds("attention of images of 96 and 224 px", ISSUE, "as many attention blocks as at 32 and 64 px")
def _(folder: Path) -> Steps:
    from cdal.generator import Generator
    from cdal.layers import SelfAttention
    from cdal.sections import ModelConfig

    yield
    counts = {}
    for size in (32, 64, 96, 160, 224, 256):
        generator = Generator.from_config(ModelConfig(image_size=size, base_width=8))
        counts[size] = sum(isinstance(module, SelfAttention) for module in generator.modules())
    assert min(counts.values()) >= 3, counts


@geometry.holds(
    "slices of a volume as images of their own",
    "https://github.com/Plamen-Eduardo/xDNN-SARS-CoV-2-CT-Scan/issues/5",
    "grouped by the volume; the 8-bit values stay",
)
def _(folder: Path) -> Steps:
    for number in range(12):
        name = f"patient{number // 3:02}_slice{number % 3:03}"
        save(folder / "images" / f"{name}.png", picture(number))
        save(folder / "masks" / f"{name}.png", mask(number))
    yield
    dataset = opened(folder)
    assert leaks(dataset, lambda case_id: case_id[:9]) == []
    is_class(dataset, "foreground", truth(dataset, "patient01_slice002"), mask(5) > 0)
