"""Which files make a case: listings, folders by name, pairs by name, what must not be taken for something else."""

import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
from own_folders import decathlon, mask, nnunet, picture, save, two_folders, volume, volume_label
from PIL import Image

from cdal.data.layouts import recognise

from .folders import named, some
from .situation import (
    ISSUE,
    Kind,
    Steps,
    as_drawn,
    find,
    is_class,
    is_foreground,
    opened,
    opened_or_refused,
    refusal,
    said,
    truth,
)

layouts = Kind("layouts")

Array = npt.NDArray[Any]


@layouts.holds(
    "nnU-Net v1: X.nii.gz is listed, X_0000.nii.gz is there",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1644",
    "read, with its modalities as channels",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 2)
    listing = {
        "name": "MS",
        "modality": {"0": "FLAIR", "1": "T1"},
        "labels": {"0": "background", "1": "core", "2": "edema"},
        "numTraining": 5,
        "training": [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in range(5)],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(listing))
    yield
    dataset = opened(folder)
    assert dataset.spec.classes == ("core", "edema")
    assert dataset.spec.image_channels == 2
    assert len(dataset.ids) == 5
    is_class(dataset, "edema", truth(dataset, "case_1"), volume_label((12, 14, 6), (1, 2)).transpose(2, 0, 1) == 2)


@layouts.holds(
    "nnU-Net v2: one RGB file, one channel named",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2177",
    "refused, or read as three channels and told",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, ".png", channel_names={"0": "XAG"})
    for number in range(5):
        save(folder / "imagesTr" / f"case_{number}_0000.png", picture(number, colours=3))
    yield
    dataset = opened_or_refused(folder, "case_0_0000.png", "channel")
    if dataset is not None:
        assert dataset.spec.image_channels == 3
        said(dataset, "channel|colour|RGB")


@layouts.holds(
    "nnU-Net v2 with a reader of its own named",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1602",
    "overwrite_image_reader_writer changes nothing",
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, overwrite_image_reader_writer="SimpleITKIO", labels={"background": 0, "core": "1", "edema": 2})
    yield
    assert opened(folder).spec.classes == ("core", "edema")


@layouts.holds("a wrong numTraining", "https://github.com/MIC-DKFZ/nnUNet/issues/1787", "read and told, or refused: both numbers")
def _(folder: Path) -> Steps:
    nnunet(folder, 6, 1, numTraining=40)
    yield
    dataset = opened_or_refused(folder, "dataset.json", "numTraining")
    if dataset is not None:
        assert len(dataset.ids) == 6
        said(dataset, "40", "6")


@layouts.holds(
    "file_ending of other files", "https://github.com/MIC-DKFZ/nnUNet/issues/1787", "refused: names the file and the ending"
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, file_ending=".nii")
    yield
    refusal(folder, "case_0_0000.nii.gz", ".nii", "file_ending")


@layouts.holds(
    "labels declared the v1 way in a v2 file",
    "https://github.com/MIC-DKFZ/nnUNet/issues/1602",
    'read, or refused: shows {"background": 0, ...}',
)
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 1, labels={"0": "background", "1": "core", "2": "edema"})
    yield
    dataset = opened_or_refused(folder, "dataset.json", "background")
    if dataset is not None:
        assert dataset.spec.classes == ("core", "edema")


@layouts.holds(
    "Decathlon with four modalities in one file",
    "https://github.com/MIC-DKFZ/nnUNet/issues/2812",
    "read: the fourth axis is the channel",
)
def _(folder: Path) -> Steps:
    decathlon(folder, modalities=4)
    yield
    assert opened(folder).spec.image_channels == 4


@layouts.holds(
    "a datalist of a file per modality",
    "https://github.com/Project-MONAI/MONAI/issues/3288",
    "the files of the list are the channels",
)
def _(folder: Path) -> Steps:
    entries = []
    for number in range(5):
        images = [f"brain_{number}/{kind}.nii.gz" for kind in ("t1", "t2", "flair")]
        for place, image in enumerate(images):
            save(folder / image, volume(10 * number + place, 12, 14, 6))
        save(folder / f"brain_{number}" / "seg.nii.gz", volume_label((12, 14, 6)))
        entries.append({"image": images, "label": f"brain_{number}/seg.nii.gz"})
    (folder / "data.json").write_text(json.dumps({"training": entries}))
    yield
    dataset = opened(folder)
    assert len(dataset.ids) == 5
    assert (dataset.spec.image_channels, dataset.spec.classes) == (3, ("foreground",))


for images, masks in (("Images", "Masks"), ("imgs", "labels"), ("Original", "Ground Truth"), ("img", "ann")):

    def _pair(folder: Path, images: str = images, masks: str = masks) -> Steps:
        named(folder, lambda n: f"{images}/{n + 1}.png", lambda n: f"{masks}/{n + 1}.png")
        yield
        as_drawn(folder, lambda n: f"{n + 1}")

    where = "https://polyp.grand-challenge.org/CVCClinicDB/" if images == "Original" else ISSUE
    layouts.holds(f"folders {images} and {masks}", where, "paired by name")(_pair)


@layouts.holds("img_001 and mask_001", ISSUE, "paired by what is left without the words for image and mask")
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"images/img_{n:03}.png", lambda n: f"masks/mask_{n:03}.png")
    yield
    as_drawn(folder, lambda n: f"{n:03}")


@layouts.holds(
    "names that begin alike: 1, 10, 11",
    "https://github.com/milesial/Pytorch-UNet/issues/122",
    "each image has its own mask, not that of a longer number",
)
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"imgs/train{n}.png", lambda n: f"masks/train{n}_mask.png", (1, 10, 11, 12, 100, 2))
    yield
    dataset = opened(folder)
    for number in (1, 10, 100, 2):
        is_foreground(dataset, truth(dataset, f"train{number}"), mask(number) > 0)


@layouts.holds("names that fit two images", ISSUE, "refused: names both, nothing is guessed")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    save(folder / "images" / "img_case_2.png", picture(20))
    save(folder / "masks" / "mask_case_2.png", mask(4))
    (folder / "masks" / "case_2.png").unlink()
    yield
    refusal(folder, "case_2.png")


@layouts.holds(
    "case_1.jpg and case_1.png", "https://github.com/milesial/Pytorch-UNet/issues/267", "refused: both would be one case"
)
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    Image.fromarray(picture(9)).save(folder / "images" / "case_1.jpg")
    yield
    refusal(folder, "case_1.jpg", "case_1.png")


@layouts.holds("names of capital and small letters", ISSUE, ".PNG and .Tif are read; Case_1 is the mask of case_1, or refused")
def _(folder: Path) -> Steps:
    for number in range(6):
        image = save(folder / "images" / f"case_{number}.png", picture(number))
        image.rename(image.with_suffix(".PNG"))
        save(folder / "masks" / f"Case_{number}.png", mask(number))
    yield
    dataset = opened_or_refused(folder, "case_0", "name")
    if dataset is not None:
        assert len(dataset.ids) == 6
        is_foreground(dataset, truth(dataset, find(dataset, "ase_3")), mask(3) > 0)


@layouts.holds("a folder within a folder of the same name", ISSUE, "stepped into and told, or refused: names the inner one")
def _(folder: Path) -> Steps:
    two_folders(folder / "MyData", 6)
    (folder / "__MACOSX").mkdir()
    (folder / "README.md").write_text("read me")
    yield
    dataset = opened_or_refused(folder, "MyData", "mean")
    if dataset is not None:
        assert len(dataset.ids) == 6
        said(dataset, "MyData")


@layouts.holds(
    "bounding boxes of VOC beside TIFF files", "https://github.com/MouseLand/cellpose/issues/446", "is own data, not MoNuSeg"
)
def _(folder: Path) -> Steps:
    named(folder, lambda n: f"images/cell{n}.tif", lambda n: f"masks/cell{n}.png")
    xml = b"<annotation><filename>cell.tif</filename><object><name>cell</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"
    some(folder, [f"images/cell{number}.xml" for number in range(6)], xml)
    yield
    assert recognise(folder) == "own"
    dataset = opened_or_refused(folder, ".xml", "masks", "VOC", "remove", "kind that is read")
    if dataset is not None:
        is_foreground(dataset, truth(dataset, "cell3"), mask(3) > 0)


@layouts.holds("a hippocampus of one's own", ISSUE, "two modalities and other classes are own data, not the Decathlon's task")
def _(folder: Path) -> Steps:
    decathlon(folder, 5, 2, ("CA1", "Subiculum", "CA3"))
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "7T hippocampus subfields"}))
    yield
    assert recognise(folder) == "own"
    dataset = opened(folder)
    assert dataset.spec.classes == ("CA1", "Subiculum", "CA3")
