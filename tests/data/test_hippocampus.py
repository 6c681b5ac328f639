"""Decathlon folders: sound ones, damaged ones, and the real one."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch

from cdal.data import open_dataset
from cdal.data.folds import PARTITION_NAMES
from cdal.errors import InputError

LPI = np.diag([-1.0, -1.0, -1.0, 1.0])  # voxel axes run to the left, to the back and down


class Decathlon:
    """Writes volumes and keeps dataset.json in step with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listing = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}, "licence": "CC0", "training": []}
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        self.write_listing()

    def add(
        self, name: str, image: npt.NDArray, label: npt.NDArray, affine: npt.NDArray = LPI, label_affine: npt.NDArray | None = None
    ) -> None:
        nibabel.save(nibabel.Nifti1Image(image, affine), self.image(name))
        nibabel.save(nibabel.Nifti1Image(label, affine if label_affine is None else label_affine), self.label(name))
        self.listing["training"].append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
        self.write_listing()

    def add_random(self, name: str, shape: tuple[int, int, int] = (34, 40, 30)) -> None:
        image, label = volume(shape, seed=len(self.listing["training"]))
        self.add(name, image, label)

    def image(self, name: str) -> Path:
        return self.folder / "imagesTr" / f"{name}.nii.gz"

    def label(self, name: str) -> Path:
        return self.folder / "labelsTr" / f"{name}.nii.gz"

    def write_listing(self) -> None:
        (self.folder / "dataset.json").write_text(json.dumps(self.listing))


def volume(shape: tuple[int, int, int], seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Noise with a box of two classes in the middle, both distinguishable from any turned copy of themselves."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    a, b, c = (side // 3 for side in shape)
    label[a : a + 9, b : b + 7, c : c + 8] = 1
    label[a : a + 4, b : b + 5, c : c + 3] = 2
    return (rng.normal(100, 20, shape) + 50 * label).astype(np.float32), label


@pytest.fixture
def decathlon(tmp_path: Path) -> Decathlon:
    """Eight sound cases, case_0 to case_7."""
    folder = Decathlon(tmp_path / "Task99")
    for number in range(8):
        folder.add_random(f"case_{number}", (30 + number, 40, 26))
    return folder


def turned(codes: str, image: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """The same volume, its array stored in another orientation."""
    stored = nibabel.Nifti1Image(image, affine)
    target = nibabel.orientations.axcodes2ornt(codes)
    return stored.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), target))


def test_a_sound_folder(decathlon: Decathlon) -> None:
    dataset = open_dataset("hippocampus", decathlon.folder)
    assert dataset.ids == tuple(f"case_{number}" for number in range(8))
    assert dataset.spec.classes == ("anterior", "posterior")
    assert (dataset.spec.image_size, dataset.spec.mask_channels, dataset.spec.folds) == (32, 3, PARTITION_NAMES)
    assert dataset.spec.licence == "CC0"
    image, label = volume((33, 40, 26), seed=3)
    case = dataset.case("case_3")
    assert case.image.shape == (1, 26, 33, 40)
    assert np.array_equal(case.label.numpy(), label.transpose(2, 0, 1))
    scaled = (image - image.min()) / (image.max() - image.min()) * 2 - 1
    np.testing.assert_allclose(case.image[0].numpy(), scaled.transpose(2, 0, 1), atol=1e-6)
    assert open_dataset("hippocampus", str(decathlon.folder)) is dataset


@pytest.mark.parametrize("codes", ["RAS", "LPI", "ASR", "IPL", "PIR", "SLA"])
def test_the_stored_orientation_does_not_matter(tmp_path: Path, codes: str) -> None:
    image, label = volume((33, 41, 26))
    affine = np.diag([-1.0, -1.5, -2.0, 1.0])
    folder = Decathlon(tmp_path / "folder")
    for number in range(4):
        folder.add(f"case_{number}", image, label, affine)
    nibabel.save(turned(codes, image, affine), folder.image("case_1"))
    nibabel.save(turned(codes, label, affine), folder.label("case_1"))
    assert nibabel.aff2axcodes(nibabel.load(folder.image("case_1")).affine) == tuple(codes)
    dataset = open_dataset("hippocampus", folder.folder)
    plain, other = dataset.case("case_0"), dataset.case("case_1")
    assert torch.equal(plain.image, other.image)
    assert torch.equal(plain.label, other.label)
    assert plain.spacing == pytest.approx((2.0, 1.0, 1.5))
    assert other.spacing == pytest.approx((2.0, 1.0, 1.5))


def test_files_that_are_allowed(decathlon: Decathlon) -> None:
    """Resource forks listed by macOS, uncompressed volumes, NIfTI-2, a fourth axis of one, whole float labels, big endian."""
    decathlon.listing["training"].insert(0, {"image": "./imagesTr/._case_0.nii.gz", "label": "./labelsTr/._case_0.nii.gz"})
    (decathlon.folder / "imagesTr" / "._case_1.nii.gz").write_bytes(b"\0\5\x16\7")
    image, label = volume((34, 40, 30))
    nibabel.save(nibabel.Nifti1Image(image, LPI), decathlon.folder / "imagesTr" / "plain.nii")
    nibabel.save(nibabel.Nifti1Image(label.astype(np.float32), LPI), decathlon.folder / "labelsTr" / "plain.nii")
    decathlon.listing["training"].append({"image": "imagesTr/plain.nii", "label": "labelsTr/plain.nii"})
    nibabel.save(nibabel.Nifti2Image(image[..., None], LPI), decathlon.image("case_2"))
    nibabel.save(nibabel.Nifti1Image(label, LPI, nibabel.Nifti1Header(endianness=">")), decathlon.label("case_2"))
    decathlon.write_listing()
    dataset = open_dataset("hippocampus", decathlon.folder)
    assert len(dataset.ids) == 9
    assert torch.equal(dataset.case("plain").image, dataset.case("case_2").image)
    assert torch.equal(dataset.case("plain").label, dataset.case("case_2").label)


def test_a_volume_of_one_value_is_all_low(decathlon: Decathlon) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((30, 40, 26), 7.0, np.float32), LPI), decathlon.image("case_0"))
    assert (open_dataset("hippocampus", decathlon.folder).case("case_0").image == -1).all()


def test_a_rewritten_listing_is_read_again(decathlon: Decathlon) -> None:
    assert len(open_dataset("hippocampus", decathlon.folder).ids) == 8
    decathlon.add_random("late")
    assert len(open_dataset("hippocampus", decathlon.folder).ids) == 9


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def save(path: Path, array: np.ndarray, affine: np.ndarray = LPI) -> None:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def label_with(value: float, dtype: type = np.float32) -> np.ndarray:
    label = volume((30, 40, 26))[1].astype(dtype)
    label[0, 0, 0] = value
    return label


def set_listing(folder: Decathlon, **entries: object) -> None:
    folder.listing |= entries
    folder.write_listing()


def set_case(folder: Decathlon, case: object) -> None:
    folder.listing["training"][0] = case
    folder.write_listing()


def set_file(folder: Decathlon, kind: str, name: str) -> None:
    folder.listing["training"][0][kind] = name
    folder.write_listing()


def link_to_nothing(folder: Decathlon) -> None:
    folder.image("case_0").unlink()
    folder.image("case_0").symlink_to(folder.folder.parent / "elsewhere.nii.gz")


def loop(folder: Decathlon) -> None:
    folder.image("case_0").unlink()
    folder.image("case_0").symlink_to(folder.image("case_0"))


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def huge_header(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))


def set_affine(path: Path, value: float) -> None:
    """Fill the second row of the header's affine, which nibabel would refuse to write."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[296:312] = np.full(4, value, "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))


nan_image = np.where(np.arange(30 * 40 * 26).reshape(30, 40, 26) == 99, np.nan, 1.0).astype(np.float32)
rgb = np.zeros((30, 40, 26), [("R", "u1"), ("G", "u1"), ("B", "u1")])

# What was done to a sound folder, the file that the message must name, and what it must say of it.
DAMAGE: dict[str, tuple[Callable[[Decathlon], object], str, str]] = {
    "no dataset.json": (lambda f: (f.folder / "dataset.json").unlink(), "Task99", "has no dataset.json"),
    "empty dataset.json": (lambda f: (f.folder / "dataset.json").write_text(""), "dataset.json", "cannot be read as JSON"),
    "cut dataset.json": (lambda f: rewrite(f.folder / "dataset.json", lambda d: d[:-9]), "dataset.json", "cannot be read as JSON"),
    "binary dataset.json": (
        lambda f: (f.folder / "dataset.json").write_bytes(b"\xff\xfe\0"),
        "dataset.json",
        "cannot be read as JSON",
    ),
    "deep dataset.json": (lambda f: (f.folder / "dataset.json").write_text("[" * 10**5), "dataset.json", "cannot be read as JSON"),
    "a list as dataset.json": (lambda f: (f.folder / "dataset.json").write_text("[]"), "dataset.json", 'no list "training"'),
    "no training list": (lambda f: set_listing(f, training={"a": 1}), "dataset.json", 'no list "training"'),
    "no labels": (lambda f: set_listing(f, labels=None), "dataset.json", 'must give "labels"'),
    "labels with a gap": (lambda f: set_listing(f, labels={"0": "background", "2": "b"}), "dataset.json", 'must give "labels"'),
    "names for labels": (lambda f: set_listing(f, labels={"background": 0, "a": 1}), "dataset.json", 'must give "labels"'),
    "same class name twice": (lambda f: set_listing(f, labels={"0": "x", "1": "A", "2": "a"}), "dataset.json", "the same name"),
    "too few cases": (lambda f: set_listing(f, training=f.listing["training"][:3]), "dataset.json", "lists 3 training cases"),
    "no cases": (lambda f: set_listing(f, training=[]), "dataset.json", "lists 0 training cases"),
    "a case without label": (
        lambda f: set_case(f, {"image": "imagesTr/case_0.nii.gz"}),
        "dataset.json",
        "every training case must be",
    ),
    "a case that is a name": (lambda f: set_case(f, "case_0"), "dataset.json", "every training case must be"),
    "a case twice": (lambda f: set_case(f, f.listing["training"][1]), "dataset.json", "lists the case 'case_1' twice"),
    "missing image": (lambda f: f.image("case_5").unlink(), "imagesTr/case_5.nii.gz", "is missing"),
    "missing label": (lambda f: f.label("case_5").unlink(), "labelsTr/case_5.nii.gz", "is missing"),
    "a folder as image": (lambda f: (f.image("case_5").unlink(), f.image("case_5").mkdir()), "case_5.nii.gz", "is missing"),
    "a path upwards": (lambda f: set_file(f, "image", "../other/case_0.nii.gz"), "dataset.json", "leads out of the folder"),
    "an absolute path": (lambda f: set_file(f, "label", "/etc/passwd"), "dataset.json", "leads out of the folder"),
    "a link to nothing": (link_to_nothing, "elsewhere.nii.gz", "is missing"),
    "a link to itself": (loop, "case_0.nii.gz", ""),
    "a path with a null": (lambda f: set_file(f, "image", "a\0b"), "dataset.json", "no usable path"),
    "a path too long": (lambda f: set_file(f, "image", "a" * 5000), "dataset.json", "no usable path"),
    "empty image": (lambda f: f.image("case_2").write_bytes(b""), "imagesTr/case_2.nii.gz", "not a readable NIfTI"),
    "text as image": (lambda f: f.image("case_2").write_text("hello"), "imagesTr/case_2.nii.gz", "not a readable NIfTI"),
    "cut gzip": (
        lambda f: rewrite(f.image("case_2"), lambda d: d[: len(d) // 2]),
        "imagesTr/case_2.nii.gz",
        "not a readable NIfTI",
    ),
    "gzip without its end": (
        lambda f: rewrite(f.image("case_2"), lambda d: d[:-4]),
        "imagesTr/case_2.nii.gz",
        "not a readable NIfTI",
    ),
    "gzip with a wrong bit": (lambda f: rewrite(f.image("case_2"), flip_a_bit), "imagesTr/case_2.nii.gz", "not a readable NIfTI"),
    "gzip header only": (lambda f: rewrite(f.label("case_2"), lambda d: d[:5]), "labelsTr/case_2.nii.gz", "not a readable NIfTI"),
    "gzip with a wrong checksum": (
        lambda f: rewrite(f.label("case_2"), lambda d: d[:-8] + bytes(4) + d[-4:]),
        "labelsTr/case_2.nii.gz",
        "not a readable NIfTI",
    ),
    "cut NIfTI": (
        lambda f: rewrite(f.label("case_2"), lambda d: gzip.compress(gzip.decompress(d)[:-100])),
        "labelsTr/case_2.nii.gz",
        "not a readable NIfTI",
    ),
    "cut NIfTI header": (
        lambda f: rewrite(f.label("case_2"), lambda d: gzip.decompress(d)[:200]),
        "labelsTr/case_2.nii.gz",
        "not a readable NIfTI",
    ),
    "a header of 32767 cubed voxels": (
        lambda f: huge_header(f.image("case_2")),
        "imagesTr/case_2.nii.gz",
        "at most 8 GiB are read",
    ),
    "two axes": (lambda f: save(f.image("case_4"), np.zeros((30, 40), np.float32)), "case_4.nii.gz", "has (30, 40, 1)"),
    "several channels": (
        lambda f: save(f.image("case_4"), np.zeros((30, 40, 26, 2), "f4")),
        "imagesTr/case_4.nii.gz",
        "names 1 channel",
    ),
    "no voxels": (lambda f: save(f.image("case_4"), np.zeros((30, 0, 26), np.float32)), "imagesTr/case_4.nii.gz", "three axes"),
    "colours": (lambda f: save(f.image("case_4"), rgb), "imagesTr/case_4.nii.gz", "plain numbers"),
    "complex numbers": (lambda f: save(f.image("case_4"), np.zeros((30, 40, 26), "c8")), "imagesTr/case_4.nii.gz", "plain numbers"),
    "shape mismatch": (
        lambda f: save(f.label("case_3"), volume((33, 40, 25))[1]),
        "labelsTr/case_3.nii.gz",
        "has the shape (33, 40, 25)",
    ),
    "swapped axes": (
        lambda f: save(f.label("case_3"), volume((40, 33, 26))[1]),
        "labelsTr/case_3.nii.gz",
        "has the shape (40, 33, 26)",
    ),
    "label in another orientation": (
        lambda f: save(f.label("case_0"), volume((30, 40, 26))[1], np.diag([1.0, 1.0, 1.0, 1.0])),
        "labelsTr/case_0.nii.gz",
        "another orientation than its image",
    ),
    "label elsewhere in space": (
        lambda f: save(f.label("case_0"), volume((30, 40, 26))[1], LPI + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3)),
        "labelsTr/case_0.nii.gz",
        "lies elsewhere than its image",
    ),
    "several modalities": (lambda f: set_listing(f, modality={"0": "T1", "1": "T2"}), "dataset.json", "one modality"),
    "more bytes than declared": (
        lambda f: rewrite(f.image("case_2"), lambda d: gzip.compress(gzip.decompress(d) + b"more")),
        "imagesTr/case_2.nii.gz",
        "more than its header declares",
    ),
    "label outside the classes": (lambda f: save(f.label("case_0"), label_with(3)), "labelsTr/case_0.nii.gz", "the label 3;"),
    "label 255": (lambda f: save(f.label("case_0"), label_with(255, np.uint8)), "labelsTr/case_0.nii.gz", "the label 255;"),
    "negative label": (lambda f: save(f.label("case_0"), label_with(-1)), "labelsTr/case_0.nii.gz", "the label -1;"),
    "broken label": (lambda f: save(f.label("case_0"), label_with(0.5)), "labelsTr/case_0.nii.gz", "the value 0.5;"),
    "NaN label": (lambda f: save(f.label("case_0"), label_with(np.nan)), "labelsTr/case_0.nii.gz", "NaN or infinite"),
    "NaN voxel": (lambda f: save(f.image("case_0"), nan_image), "imagesTr/case_0.nii.gz", "NaN or infinite"),
    "infinite voxel": (lambda f: save(f.image("case_0"), nan_image * np.inf), "imagesTr/case_0.nii.gz", "NaN or infinite"),
    "flat affine": (lambda f: set_affine(f.image("case_0"), 0.0), "imagesTr/case_0.nii.gz", "tells no orientation"),
    "NaN affine": (lambda f: set_affine(f.image("case_0"), np.nan), "imagesTr/case_0.nii.gz", "tells no orientation"),
}


@pytest.mark.long
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence_that_names_the_file(decathlon: Decathlon, kind: str) -> None:
    harm, file, words = DAMAGE[kind]
    harm(decathlon)
    with pytest.raises(InputError) as caught:
        open_dataset("hippocampus", decathlon.folder)
    message = str(caught.value)
    assert file in message
    assert words in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.long
@pytest.mark.filterwarnings("error")
def test_random_damage_is_never_anything_but_an_input_error(decathlon: Decathlon) -> None:
    """A few hundred cut and overwritten files: opened as if sound, or refused with the file's name."""
    rng = np.random.default_rng(0)
    path = decathlon.image("case_6")
    raw = gzip.decompress(path.read_bytes())
    refused: list[str] = []
    for trial in range(150):
        data = bytearray(raw[: int(rng.integers(len(raw)))] if trial % 3 == 0 else raw)
        for at in rng.integers(0, min(352, max(1, len(data))), 4):  # the header
            if at < len(data):
                data[at] = rng.integers(256)
        path.write_bytes(bytes(data) if trial % 2 else gzip.compress(bytes(data), 1))
        (decathlon.folder / "dataset.json").write_text(json.dumps(decathlon.listing) + " " * trial)  # not the cached dataset
        try:
            open_dataset("hippocampus", decathlon.folder)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("case_6.nii.gz" in message for message in refused)


def test_a_wrong_folder_is_told_with_a_hint(decathlon: Decathlon, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is not a folder; --data must be the folder that holds dataset.json"):
        open_dataset("hippocampus", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no dataset.json; did you mean .*Task99\?"):
        open_dataset("hippocampus", tmp_path)


def test_the_real_folder(hippocampus_folder: Path) -> None:
    dataset = open_dataset("hippocampus", hippocampus_folder)
    listing = json.loads((hippocampus_folder / "dataset.json").read_text())["training"]
    assert dataset.ids == tuple(Path(entry["image"]).name[: -len(".nii.gz")] for entry in listing)
    assert len(dataset.ids) == 260
    for fold in range(4):
        split = dataset.split(fold)
        assert split.test == dataset.ids[fold::4]
        assert (len(split.train), len(split.validation), len(split.test)) == (156, 39, 65)
    for case in map(dataset.case, dataset.ids):
        assert (case.image.min(), case.image.max()) == (-1, 1)
        assert case.label.unique().tolist() == [0, 1, 2]
        assert case.image.shape[1:] == case.label.shape
        assert case.spacing == pytest.approx((1, 1, 1))


def test_the_real_volumes_as_monai_prepares_them(hippocampus_folder: Path) -> None:
    """LPI, [0, 1], padding: the same voxels as the transforms that the published protocol names."""
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, ScaleIntensity, SpatialPad

    dataset = open_dataset("hippocampus", hippocampus_folder)
    prepare = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Orientation("LPI"), ScaleIntensity(0, 1)])
    for case_id in dataset.ids[:3]:
        theirs = prepare(hippocampus_folder / "imagesTr" / f"{case_id}.nii.gz")
        case = dataset.case(case_id)
        np.testing.assert_allclose(case.image[0].numpy(), 2 * theirs[0].numpy().transpose(2, 0, 1) - 1, atol=1e-5)
        padded = SpatialPad((32, 32, 32), mode="edge")(theirs)[0].numpy().transpose(2, 0, 1)
        np.testing.assert_allclose(dataset._croppable[case_id].image[0], 2 * padded - 1, atol=1e-5)
