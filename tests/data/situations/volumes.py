"""Volumes in combinations: channels of several modalities, CT of several scanners, headers that contradict themselves, DICOM."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from own_folders import LPI, picture, save, volume

from .drawings import box as corners
from .drawings import labelme
from .geometry import nifti
from .situation import Kind, Steps, is_class, is_foreground, is_ignored, opened, refusal, said, truth

volumes = Kind("volumes")
COMBINED = "the issue, combined"
"""Several of the situations that the issue names, at once."""
Array = npt.NDArray[Any]

SHAPE = (20, 24, 8)


def box(shape: Sequence[int] = SHAPE) -> Array:
    """One box of 1 on 0."""
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(side // 4, side // 2 + 1) for side in shape)] = 1
    return label


def ct(seed: int, shape: Sequence[int] = SHAPE) -> Array:
    """Air round tissue of 40 HU, an organ of 110 HU where `box` is, and some bone."""
    rng = np.random.default_rng(seed)
    values = np.full(shape, -1000, np.int16)
    inner = tuple(slice(side // 6, side - side // 6) for side in shape)
    values[inner] = rng.normal(40, 15, values[inner].shape)
    organ = box(shape) > 0
    values[organ] = rng.normal(110, 20, np.count_nonzero(organ))
    values[-1, -1, -1] = 700
    return values


def mr(seed: int, shape: Sequence[int] = SHAPE) -> Array:
    """Whole numbers from 0 to about 1500."""
    return np.abs(volume(seed, *shape) * 8).astype(np.int16)


def pairs(
    folder: Path, image: Callable[[int], Array], label: Callable[[int], Array] = lambda _: box(), affine: Array = LPI
) -> None:
    """images/case_0.nii.gz and labels/case_0.nii.gz, ..., five of them."""
    for number in range(5):
        nifti(folder / "images" / f"case_{number}.nii.gz", image(number), affine)
        nifti(folder / "labels" / f"case_{number}.nii.gz", label(number), affine)


def patch(path: Path, *edits: tuple[int, bytes]) -> None:
    """Overwrite bytes of a header."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    for start, content in edits:
        data[start : start + len(content)] = content
    path.write_bytes(gzip.compress(bytes(data)))


@volumes.holds("CT and MR as channels of one file", COMBINED, "the channel of CT is windowed, that of MR is not; the axis is told")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: np.stack([ct(number), mr(number)], axis=-1))
    yield
    dataset = opened(folder)
    window, none = dataset.spec.preparation.windows
    assert window is not None
    assert 40 < window[0] < 80
    assert none is None
    said(dataset, "channel 0 is CT")
    said(dataset, "four axes", "channels")


@volumes.holds("CT with pixels that nobody judged", COMBINED, "ignored air is no foreground: the window is that of the organs")
def _(folder: Path) -> Steps:
    def label(_: int) -> Array:
        values = box()
        values[:, :3], values[4:6, 4:6, 2] = 255, 2
        return values

    pairs(folder, ct, label)
    yield
    dataset = opened(folder)
    (window,) = dataset.spec.preparation.windows
    assert window is not None
    assert window[0] > 0
    is_ignored(dataset, truth(dataset, "case_1"), label(1).transpose(2, 0, 1) == 255)


@volumes.holds(
    "CT with an offset of 1024 in one case",
    COMBINED,
    "the case that disagrees is named, declared or not",
)
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: ct(number) + 1024 * (number == 3))
    declared = folder.parent / "declared"
    for number in range(5):
        nifti(declared / "imagesTr" / f"case_{number}_0000.nii.gz", ct(number) + 1024 * (number == 3))
        nifti(declared / "labelsTr" / f"case_{number}.nii.gz", box())
    listing = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 5, "file_ending": ".nii.gz"}
    (declared / "dataset.json").write_text(json.dumps(listing))
    yield
    said(opened(folder), "case_3", "Hounsfield", "CT")
    said(opened(declared), "case_3", "offset")


@volumes.holds("declared CT in bytes", COMBINED, "one window for all cases")
def _(folder: Path) -> Steps:
    for number in range(5):
        nifti(folder / "imagesTr" / f"case_{number}_0000.nii.gz", np.clip((ct(number) + 1000) / 8, 0, 255).astype(np.uint8))
        nifti(folder / "labelsTr" / f"case_{number}.nii.gz", box())
    listing = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(listing))
    yield
    (window,) = opened(folder).spec.preparation.windows
    assert window is not None
    assert 128 < window[0] < window[1] < 150


@volumes.holds(
    "sagittal CT and MR of several spacings with ignored pixels", COMBINED, "all of it at once; truth on the grid of every file"
)
def _(folder: Path) -> Steps:
    stored = {}
    for number, step in enumerate((0.5, 0.6, 0.8, 1.0, 1.0)):
        shape = (8, round(24 / step), round(20 / step))
        stored[number] = box(shape)
        stored[number][:, :3] = 255
        stored[number][2, 8:10, 8:10] = 2
        affine = np.diag([-4.0, -step, -step, 1.0])
        nifti(folder / "images" / f"case_{number}.nii.gz", np.stack([ct(number, shape), mr(number, shape)], axis=-1), affine)
        nifti(folder / "labels" / f"case_{number}.nii.gz", stored[number], affine)
    yield
    dataset = opened(folder)
    preparation = dataset.spec.preparation
    assert preparation.plane == "sagittal"
    np.testing.assert_allclose(preparation.spacing, (0.8, 0.8), rtol=1e-6)
    assert preparation.windows[0] is not None
    assert preparation.windows[1] is None
    for number in (0, 3):
        expected = stored[number].transpose(0, 2, 1)
        is_class(dataset, "value 2", truth(dataset, f"case_{number}"), expected == 2)
        is_ignored(dataset, truth(dataset, f"case_{number}"), expected == 255)
        assert dataset.case(f"case_{number}").image.shape == (2, 8, 25, 30)


@volumes.holds("a series of 20 times as channels", COMBINED, "read as channels, and told")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: volume(number, *SHAPE, 20))
    yield
    dataset = opened(folder)
    assert dataset.spec.image_channels == 20
    said(dataset, "four axes", "20")


@volumes.holds("labels of -1", COMBINED, "refused: names that file, and what to write instead")
def _(folder: Path) -> Steps:
    def label(number: int) -> Array:
        values = box().astype(np.int16)
        values[12:14, 2:4, 3] = 2
        if number == 3:
            values[:, :2] = -1
        return values

    pairs(folder, lambda number: volume(number, *SHAPE), label)
    yield
    refusal(folder, "labels/case_3.nii.gz", "write 0")


@volumes.holds("pixels in metres in one header", COMBINED, "refused: names the file")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: volume(number, *SHAPE))
    for kind, values in (("images", volume(2, *SHAPE)), ("labels", box())):
        nifti(folder / kind / "case_2.nii.gz", values, np.diag([-0.001, -0.001, -0.001, 1.0]))
    yield
    refusal(folder, "images/case_2.nii.gz", "header")


@volumes.holds("pixdim against sform", COMBINED, "the sform counts, and both sizes are told")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: volume(number, *SHAPE))
    for kind in ("images", "labels"):
        patch(folder / kind / "case_2.nii.gz", (80, np.array([0.5, 0.5, 3], np.float32).tobytes()), (252, bytes(2)))
    yield
    dataset = opened(folder)
    assert dataset.case("case_2").spacing == (1, 1, 1)
    said(dataset, "case_2", "pixdim", "0.5 x 0.5 x 3")


@volumes.holds("neither sform nor qform", COMBINED, "read by pixdim, and told")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: volume(number, *SHAPE), affine=np.diag([-1.0, -1.0, 3.0, 1.0]))
    for path in folder.rglob("*.nii.gz"):
        patch(path, (252, bytes(4)))
    yield
    dataset = opened(folder)
    assert dataset.case("case_2").spacing == (3, 1, 1)
    said(dataset, "sform", "qform")


@volumes.holds("slices shifted by a tilted gantry", COMBINED, "read, and told")
def _(folder: Path) -> Steps:
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    affine[1, 2] = 1
    pairs(folder, lambda number: volume(number, *SHAPE), affine=affine)
    for path in folder.rglob("*.nii.gz"):
        patch(path, (252, bytes(2)))
    yield
    said(opened(folder), "gantry")


@volumes.holds("one axial slice among sagittal series", COMBINED, "kept whole, and told")
def _(folder: Path) -> Steps:
    def at(number: int) -> tuple[tuple[int, int, int], Array]:
        if number:
            return (8, 40, 36), np.diag([-5.0, -1.0, -1.0, 1.0])
        return (40, 36, 1), np.diag([-1.0, -1.0, -5.0, 1.0])

    for number in range(5):
        shape, affine = at(number)
        nifti(folder / "images" / f"case_{number}.nii.gz", volume(number, *shape), affine)
        nifti(folder / "labels" / f"case_{number}.nii.gz", box(shape), affine)
    yield
    dataset = opened(folder)
    assert dataset.case("case_0").image.shape == (1, 1, 40, 36)
    assert dataset.case("case_1").image.shape == (1, 8, 36, 40)
    is_foreground(dataset, truth(dataset, "case_0"), box((40, 36, 1)).transpose(2, 0, 1) > 0)
    said(dataset, "case_0", "single slice")


@volumes.holds(
    "half of the series axial, half sagittal", COMBINED, "one plane, at the spacing of its own slices; the others are named"
)
def _(folder: Path) -> Steps:
    for number in range(6):
        shape, steps = ((8, 40, 36), (5, 1, 1)) if number % 2 else ((40, 36, 8), (1, 1, 5))
        affine = np.diag([*np.negative(steps), 1.0])
        nifti(folder / "images" / f"case_{number}.nii.gz", volume(number, *shape), affine)
        nifti(folder / "labels" / f"case_{number}.nii.gz", box(shape), affine)
    yield
    dataset = opened(folder)
    assert (dataset.spec.preparation.plane, dataset.spec.preparation.spacing) == ("axial", (1, 1))
    said(dataset, "case_1, case_3, case_5", "another plane")


@volumes.holds("CT that was clipped", COMBINED, "scaled by case, and told how to have one window")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: np.clip(ct(number), -200, 300))
    yield
    dataset = opened(folder)
    assert dataset.spec.preparation.windows == ()
    said(dataset, "declare the channel CT")


@volumes.holds("2D images in NIfTI of two axes", COMBINED, "one slice each")
def _(folder: Path) -> Steps:
    pairs(folder, lambda number: volume(number, 40, 48), lambda _: box((40, 48)), np.diag([-0.5, -0.5, 1.0, 1.0]))
    yield
    dataset = opened(folder)
    assert dataset.case("case_1").image.shape == (1, 1, 40, 48)
    assert dataset.case("case_1").spacing[1:] == (0.5, 0.5)
    is_foreground(dataset, truth(dataset, "case_1"), box((40, 48))[None] > 0)


@volumes.holds(
    "the same outlines among those of other classes", COMBINED, "what was decoded for one set is not taken for another's"
)
def _(folder: Path) -> Steps:
    def drawn(where: Path, other: str) -> None:
        for number in range(8):
            save(where / f"photo{number}.png", picture(number, colours=3))
            shapes = [("lesion", "polygon", corners(5, 6, 25, 26)), *[(other, "polygon", corners(30, 6, 40, 20))] * (number > 3)]
            labelme(where, f"photo{number}", shapes, (48, 40))

    drawn(folder, "artefact")
    drawn(folder.parent / "later", "zebra")
    yield
    for dataset in (opened(folder), opened(folder.parent / "later")):
        lesion = np.zeros((40, 48), bool)
        lesion[6:26, 5:25] = True
        is_class(dataset, "lesion", truth(dataset, "photo0"), lesion)
