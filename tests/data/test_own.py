"""Your own data: every layout, and what is found from the files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from own_folders import LPI, decathlon, mask, nnunet, picture, save, two_folders, volume, volume_label

from cdal.data import open_dataset, training_batch
from cdal.data.folds import PARTITION_NAMES
from cdal.data.layouts import find_layout, recognise
from cdal.errors import InputError


def test_images_and_masks(tmp_path: Path) -> None:
    dataset = open_dataset("own", two_folders(tmp_path / "My data, 2024"))
    spec = dataset.spec
    assert dataset.ids == tuple(f"case_{number}" for number in range(6))
    assert (spec.name, spec.image_channels, spec.classes, spec.volumetric) == ("My_data_2024", 1, ("foreground",), False)
    assert (spec.image_size, spec.sample_depth, spec.mask_channels, spec.folds) == (64, 1, 1, PARTITION_NAMES)
    assert spec.licence == "not stated"
    assert spec.protocol.startswith("own data (images/ and masks/): 6 images, reduced to at most 512 px")
    case = dataset.case("case_3")
    assert case.image.dtype == torch.uint8
    assert np.array_equal(case.image[0, 0].numpy(), picture(3))
    assert np.array_equal(case.label[0].numpy(), mask(3) // 255)
    read = spec.normalise(case.image.transpose(0, 1))
    assert (read.min(), read.max()) == (-1, 1)
    assert dataset.split(1).test == ("case_1", "case_5")
    batch = training_batch(
        dataset, dataset.split(0).train, step=0, batch_size=4, samples_per_case=1, mask_channels=spec.mask_channels, seed=0
    )
    assert batch.image.shape == (4, 1, 64, 64)


@pytest.mark.parametrize("name", ["{}_mask.png", "{}_label.tif", "{}_seg.bmp", "{}_segmentation.png", "{}_Mask.png", "{}.tiff"])
def test_names_of_masks(tmp_path: Path, name: str) -> None:
    dataset = open_dataset("own", two_folders(tmp_path, mask_name=name))
    assert dataset.ids == tuple(f"case_{number}" for number in range(6))
    assert np.array_equal(dataset.case("case_2").label[0].numpy(), mask(2) // 255)


def test_masks_of_an_image_that_is_called_a_mask(tmp_path: Path) -> None:
    """An image's own name comes first; only then is `_mask` taken off."""
    folder = two_folders(tmp_path, 4)
    save(folder / "images" / "case_0_mask.png", picture(9))
    save(folder / "masks" / "case_0_mask.png", mask(9))
    dataset = open_dataset("own", folder)
    assert np.array_equal(dataset.case("case_0").label[0].numpy(), mask(0) // 255)
    assert np.array_equal(dataset.case("case_0_mask").label[0].numpy(), mask(9) // 255)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((255,), ("foreground",)),
        ((1,), ("foreground",)),
        ((170, 85), ("value 85", "value 170")),
        ((3, 1, 2), ("value 1", "value 2", "value 3")),
    ],
)
def test_classes_are_the_values_of_all_masks(tmp_path: Path, values: tuple[int, ...], classes: tuple[str, ...]) -> None:
    folder = two_folders(tmp_path, values=values)
    save(folder / "masks" / "case_0.png", mask(0, values=values[:1]))  # no mask need have all classes
    dataset = open_dataset("own", folder)
    assert dataset.spec.classes == classes
    assert dataset.spec.mask_channels == (1 if len(classes) == 1 else len(classes) + 1)
    stored, label = mask(4, values=values), dataset.case("case_4").label[0].numpy()
    assert np.array_equal(label, np.searchsorted([0, *sorted(values)], stored))


def test_colours_and_options(tmp_path: Path) -> None:
    folder = two_folders(tmp_path, colours=3)
    spec = open_dataset("own", folder).spec
    assert (spec.image_channels, spec.preparation.scaling) == (3, "bytes")
    small = open_dataset("own", folder, longest_side=24, sample_size=16)
    assert small.spec.image_size == 16
    assert small.case("case_0").image.shape == (3, 1, 20, 24)
    assert small.case("case_0").label.shape == (1, 20, 24)
    for number in range(6):
        save(folder / "images" / f"case_{number}.png", picture(number, 300, 600, 3))
        save(folder / "masks" / f"case_{number}.png", mask(number, 300, 600))
    large = open_dataset("own", folder)
    assert large.case("case_0").image.shape == (3, 1, 256, 512)
    assert large.spec.image_size == 256
    for option, value in [("longest_side", 0), ("longest_side", True), ("sample_size", 8), ("sample_size", 2000)]:
        with pytest.raises(InputError, match=f"option {option} of own is {value}; it must be a whole number from 16"):
            open_dataset("own", folder, **{option: value})


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_of_more_than_bytes_are_scaled_by_percentiles(tmp_path: Path, dtype: type) -> None:
    folder = two_folders(tmp_path)
    for number in range(6):
        (folder / "images" / f"case_{number}.png").unlink()
        tifffile.imwrite(folder / "images" / f"case_{number}.tif", picture(number).astype(dtype) * 200)
    dataset = open_dataset("own", folder)
    assert dataset.spec.preparation.scaling == "percentiles"
    image = dataset.case("case_0").image
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (-1, 1)
    assert torch.equal(dataset.spec.normalise(image), image)


def test_volumes_in_two_folders(tmp_path: Path) -> None:
    """Masks may have an ending of their own; two channels come as a fourth axis; values become classes as in images."""
    for number in range(5):
        save(tmp_path / "images" / f"case_{number}.nii.gz", volume(number, 12, 34, 6, 2), np.diag([-2.0, -1.0, -3.0, 1.0]))
        label = volume_label((12, 34, 6), (7, 9)).astype(np.float32)
        save(tmp_path / "labels" / f"case_{number}_seg.nii", label, np.diag([-2.0, -1.0, -3.0, 1.0]))
    dataset = open_dataset("own", tmp_path)
    spec = dataset.spec
    assert (spec.volumetric, spec.sample_depth, spec.image_size, spec.image_channels) == (True, 1, 64, 2)
    assert spec.classes == ("value 7", "value 9")
    case = dataset.case("case_1")
    assert case.image.shape == (2, 6, 12, 34)
    assert case.spacing == (3, 2, 1)
    assert case.label.unique().tolist() == [0, 1, 2]
    images, labels = dataset.draw("case_1", 3, np.random.default_rng(0))
    assert (images.shape, labels.shape) == ((3, 2, 64, 64), (3, 64, 64))


@pytest.mark.parametrize("modalities", [1, 3])
def test_decathlon(tmp_path: Path, modalities: int) -> None:
    dataset = open_dataset("own", decathlon(tmp_path, modalities=modalities))
    spec = dataset.spec
    assert (spec.classes, spec.image_channels, spec.licence) == (("Front", "Back"), modalities, "CC0")
    case = dataset.case("case_2")
    assert case.image.shape == (modalities, 6, 12, 14)
    stored = volume(2, 12, 14, 6, modalities) if modalities > 1 else volume(2, 12, 14, 6)[..., None]
    for channel in range(modalities):  # each scaled by itself, monotonically
        values, scaled = stored[..., channel].transpose(2, 0, 1).ravel(), case.image[channel].numpy().ravel()
        low, high = np.percentile(values, [0.5, 99.5])
        np.testing.assert_allclose(scaled, np.clip(2 * (values - low) / (high - low) - 1, -1, 1), atol=1e-5)


def test_nnunet_volumes(tmp_path: Path) -> None:
    dataset = open_dataset("own", nnunet(tmp_path))
    assert dataset.spec.classes == ("core", "edema")  # in the order of their values
    assert dataset.spec.image_channels == 2
    assert dataset.ids == tuple(f"case_{number}" for number in range(5))
    assert dataset.case("case_4").image.shape == (2, 6, 12, 14)


def test_nnunet_images(tmp_path: Path) -> None:
    """A file per channel, as many as there are; or one file of three colours."""
    dataset = open_dataset("own", nnunet(tmp_path / "a", ending=".png", channels=4))
    assert (dataset.spec.image_channels, dataset.spec.volumetric) == (4, False)
    assert np.array_equal(dataset.case("case_1").image[2, 0].numpy(), picture(12))
    folder = nnunet(tmp_path / "b", ending=".png", channels=1, channel_names={"0": "R", "1": "G", "2": "B"})
    for number in range(5):
        save(folder / "imagesTr" / f"case_{number}_0000.png", picture(number, colours=3))
    assert open_dataset("own", folder).spec.image_channels == 3


def test_files_of_the_operating_system_are_passed_over(tmp_path: Path) -> None:
    folder = two_folders(tmp_path)
    for name in ("._case_0.png", ".DS_Store", "Thumbs.db"):
        (folder / "images" / name).write_bytes(b"\0")
        (folder / "masks" / name).write_bytes(b"\0")
    assert len(open_dataset("own", folder).ids) == 6


def test_names_in_any_script(tmp_path: Path) -> None:
    """Also where the image's name spells é as one character and the mask's as two."""
    names = ["Müller", "患者 01", "кейс", "cafe\u0301"]
    for number, name in enumerate(names):
        save(tmp_path / "Ümläut" / "images" / f"{name}.png", picture(number))
        save(tmp_path / "Ümläut" / "masks" / (name.replace("e\u0301", "é") + "_mask.png"), mask(number))
    dataset = open_dataset("own", tmp_path / "Ümläut")
    assert dataset.ids == tuple(sorted(["Müller", "患者 01", "кейс", "café"]))
    assert dataset.spec.name == "Ümläut"


def test_links_within_the_folder(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "data", 4)
    (folder / "images" / "case_1.png").rename(folder / "kept.png")
    (folder / "images" / "case_1.png").symlink_to(folder / "kept.png")
    (tmp_path / "link").symlink_to(folder)
    assert open_dataset("own", tmp_path / "link").ids == tuple(f"case_{number}" for number in range(4))


def all_problems(folder: Path) -> list[str]:
    return find_layout(folder).problems


def test_every_problem_of_a_folder_is_found(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "data")
    (folder / "images" / "case_0.png").unlink()
    (folder / "masks" / "case_1.png").unlink()
    (folder / "images" / "notes.txt").write_text("hello")
    save(folder / "masks" / "case_2_mask.png", mask(2))
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "line\nbreak.png").write_bytes(b"")
    found = "\n".join(all_problems(folder))
    assert len(all_problems(folder)) == 6
    for words in (
        "masks/case_0.png has no image in images/; they are paired by name",
        "images/case_1.png has no mask; masks/ should hold case_1.png or case_1_mask.png",
        "images/notes.txt is of no kind that is read (.png",
        "masks/case_2_mask.png and case_2.png are both masks of case_2.png",
        "images/sub is not a file",
        r"has a file named 'line\nbreak.png'; rename it without odd characters",
    ):
        assert words in found
    with pytest.raises(InputError, match=r"line\\nbreak\.png"):  # loading refuses by the first
        open_dataset("own", folder)


def set_listing(folder: Path, **entries: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions of several values, which is not supported"),
        ({"labels": {"background": 0, "core": 2}}, r"has the label 1; dataset.json declares 0 and 2"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, r'must give "labels" as .* a value for each name'),
        ({"labels": {"background": 0}}, r'must give "labels"'),
        ({"labels": None}, r'must give "labels"'),
        ({"labels": {"background": 0, "A": 1, "a": 2}}, "gives two classes the same name"),
        ({"labels": {"background": 0, "a": True}}, r'must give "labels"'),
        ({"channel_names": {}}, r'must give "channel_names" as'),
        ({"channel_names": {"1": "a"}}, r'must give "channel_names" as'),
        ({"file_ending": ".mha"}, r'gives "file_ending" as \'.mha\'; those that are read are .png'),
        ({"file_ending": 3}, r'gives "file_ending" as 3'),
        ({"dataset": {"case_0": {}}}, r'lists its files under "dataset", which is not supported'),
    ],
)
def test_a_dataset_json_of_nnunet_that_cannot_be_used(tmp_path: Path, entries: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        open_dataset("own", set_listing(nnunet(tmp_path), **entries))
    assert "dataset.json" in str(caught.value)


@pytest.mark.parametrize("build", [decathlon, nnunet])
def test_a_dataset_json_of_odd_values_is_never_anything_but_an_input_error(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    """Every entry replaced by something else: opened as if sound, or refused with the file's name."""
    folder = build(tmp_path / "data")
    listing = folder / "dataset.json"
    sound = json.loads(listing.read_text())
    odd = [None, True, -1, 1e400, "", "\ud800", "a\nb", [], [1], [[]], [{}], {}, {"0": []}, {"0": {}, "1": None}, {"a": {"b": 1}}]
    refused: list[str] = []
    for key in sound:
        for value in odd:
            listing.write_text(json.dumps(sound | {key: value}))
            try:
                assert open_dataset("own", folder).ids
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 2 * len(odd)
    assert all(str(folder) in message and "\n" not in message for message in refused)


def test_files_that_do_not_fit_nnunet(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    (folder / "imagesTr" / "case_0_0001.nii.gz").unlink()
    (folder / "labelsTr" / "case_1.nii.gz").unlink()
    (folder / "imagesTr" / "case_2_0000.nii.gz").rename(folder / "imagesTr" / "case_2.nii.gz")
    save(folder / "imagesTr" / "case_3_0002.nii.gz", volume(0, 12, 14, 6))
    save(folder / "labelsTr" / "case_7.nii.gz", volume_label((12, 14, 6)))
    save(folder / "labelsTr" / "case_8.png", mask(0))
    found = "\n".join(all_problems(folder))
    for words in (
        "imagesTr/case_0_0001.nii.gz is missing; dataset.json names 2 channels",
        "labelsTr/case_1.nii.gz is missing; it is the label of a case",
        "imagesTr/case_2.nii.gz is not named CASE_0000.nii.gz",
        "imagesTr/case_2_0000.nii.gz is missing",
        "imagesTr/case_3_0002.nii.gz is channel 2, but dataset.json names 2 from 0 on",
        "labelsTr/case_7.nii.gz has no image in imagesTr",
        "labelsTr/case_8.png is not named CASE.nii.gz",
    ):
        assert words in found
    with pytest.raises(InputError, match=r'"numTraining" as 9, but imagesTr has 5 cases'):
        open_dataset("own", set_listing(nnunet(tmp_path / "b"), numTraining=9))


def test_masks_without_a_class(tmp_path: Path) -> None:
    folder = two_folders(tmp_path)
    for number in range(6):
        save(folder / "masks" / f"case_{number}.png", np.zeros((40, 48), np.uint8))
    with pytest.raises(InputError, match=r"all masks \(such as .*case_0\.png\) are empty"):
        open_dataset("own", folder)


def ramp(values: int) -> npt.NDArray[np.uint8]:
    return (np.arange(40 * 48).reshape(40, 48) % values).astype(np.uint8)


def test_masks_of_too_many_values(tmp_path: Path) -> None:
    """In one mask, in all together, or, in a format that loses detail, more than two."""
    folder = two_folders(tmp_path / "a")
    save(folder / "masks" / "case_2.png", ramp(33))
    with pytest.raises(InputError, match=r"case_2\.png\) hold 34 different values together; they look antialiased or continuous"):
        open_dataset("own", folder)
    save(folder / "masks" / "case_2.png", ramp(32))
    with pytest.raises(InputError, match=r"case_2.png\) hold 33 different values together; they look"):  # 0..31 and 255
        open_dataset("own", folder)
    folder = two_folders(tmp_path / "b", values=(90, 170, 255), mask_name="{}.jpg")
    with pytest.raises(InputError, match=r"\.jpg\) hold \d+ different values together; they look antialiased, saved with loss or"):
        open_dataset("own", folder)


def test_recognition(tmp_path: Path) -> None:
    assert recognise(two_folders(tmp_path / "two")) == "own"
    assert recognise(nnunet(tmp_path / "nnunet")) == "own"
    assert recognise(decathlon(tmp_path / "decathlon")) == "own"
    assert recognise(set_listing(decathlon(tmp_path / "hippo"), name="Hippocampus")) == "hippocampus"
    assert recognise(set_listing(nnunet(tmp_path / "v2"), name="Dataset004_Hippocampus")) == "own"
    save(tmp_path / "kaggle" / "data" / "CXR_png" / "CHNCXR_0001_0.png", picture(0))
    assert recognise(tmp_path / "kaggle") == "chest_xray"
    save(tmp_path / "nlm" / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png", mask(0))
    assert recognise(tmp_path / "nlm") == "chest_xray"
    save(tmp_path / "slides" / "Tissue Images" / "TCGA-1.tif", picture(0))
    assert recognise(tmp_path / "slides") == "own"
    (tmp_path / "slides" / "Annotations").mkdir()
    (tmp_path / "slides" / "Annotations" / "TCGA-1.xml").write_text("<Annotations/>")
    assert recognise(tmp_path / "slides") == "monuseg"
    with pytest.raises(InputError, match="nowhere is not a folder"):
        recognise(tmp_path / "nowhere")


def test_the_real_samples_are_recognised(samples: Path) -> None:
    found = {folder.name: recognise(folder) for folder in samples.iterdir() if folder.is_dir()}
    assert found == {"Lung": "chest_xray", "MoNuSeg": "monuseg", "Task04_Hippocampus": "hippocampus"}


@pytest.fixture
def samples(hippocampus_folder: Path) -> Path:
    return hippocampus_folder.parent


def test_hippocampus_as_anybodys_data(hippocampus_folder: Path) -> None:
    """The same volumes under the plain rules: no crops along the depth, percentiles, names as written."""
    dataset = open_dataset("own", hippocampus_folder)
    assert dataset.spec.classes == ("Anterior", "Posterior")
    assert (dataset.spec.image_size, dataset.spec.sample_depth) == (64, 1)
    assert dataset.ids == tuple(sorted(dataset.ids))
    assert len(dataset.ids) == 260


def test_an_affine_that_differs(tmp_path: Path) -> None:
    folder = decathlon(tmp_path)
    moved = LPI.copy()
    moved[1, 3] = 20
    save(folder / "labelsTr" / "case_3.nii.gz", volume_label((12, 14, 6)), moved)
    with pytest.raises(InputError, match=r"labelsTr/case_3\.nii\.gz lies elsewhere than its image"):
        open_dataset("own", folder)
