"""NIfTI volumes: turned to LPI and back, and read within bounds."""

import gzip
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from cdal.data import Source
from cdal.data.volumes import from_dhw, read_grid, read_labelled, read_volume, spacing_dhw, to_dhw, whole_numbers
from cdal.errors import InputError

LPI = np.diag([-1.0, -1.0, -1.0, 1.0])
ORIENTATIONS = [
    "".join(codes[axis] for axis in order)
    for order in itertools.permutations(range(3))
    for codes in itertools.product("RL", "AP", "SI")
]


def affine_of(codes: str, steps: tuple[float, float, float] = (0.5, 1.0, 2.5)) -> npt.NDArray[np.float64]:
    """Of an array whose axes run as the codes say; steps along left-right, back-front and up-down, mm."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        world = next(number for number, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[world, axis] = steps[world] * (1 if code in "RAS" else -1)
    affine[:3, 3] = (-7, 11, 3)
    return affine


def save(path: Path, array: npt.NDArray, affine: npt.NDArray = LPI) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def noise(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("channels", [(), (2,)])
def test_every_orientation_is_turned_and_turned_back(tmp_path: Path, codes: str, channels: tuple[int, ...]) -> None:
    """48 orientations: [d, h, w] runs down, to the left and to the back, and an output overlays its input voxel for voxel."""
    stored = noise(4, 5, 6, *channels)
    path = save(tmp_path / "image.nii.gz", stored, affine_of(codes))
    volume = read_volume(path)
    array = to_dhw(volume)
    assert spacing_dhw(volume) == pytest.approx((2.5, 0.5, 1.0))
    assert read_grid(path) == (array.shape[-3:], spacing_dhw(volume), volume.note)

    for index in [(0, 0, 0), (1, 2, 3), tuple(side - 1 for side in stored.shape[:3])]:
        place = volume.affine[:3, :3] @ index + volume.affine[:3, 3]  # mm to the right, to the front and up
        ends = volume.affine[:3, :3] @ (np.array(stored.shape[:3]) - 1) + volume.affine[:3, 3]
        right, front, top = np.maximum(volume.affine[:3, 3], ends)
        h, w, d = (round(gap / step) for gap, step in zip((right, front, top) - place, (0.5, 1.0, 2.5), strict=True))
        assert np.array_equal(array[..., d, h, w], stored[index])

    restored = from_dhw(array, volume)
    assert np.array_equal(restored, stored)
    output = read_volume(save(tmp_path / "mask.nii.gz", from_dhw((array > 110).astype(np.uint8), volume), volume.affine))
    assert np.array_equal(output.voxels, stored > 110)
    assert np.array_equal(output.affine, volume.affine)


def test_an_oblique_volume_keeps_its_affine(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    affine = turn @ affine_of("PSL")
    volume = read_volume(save(tmp_path / "image.nii", noise(4, 5, 6), affine))
    assert spacing_dhw(volume) == pytest.approx((2.5, 0.5, 1.0))
    saved = nibabel.load(save(tmp_path / "out.nii.gz", from_dhw(to_dhw(volume), volume), volume.affine))
    assert np.allclose(saved.affine, affine, atol=1e-5)
    assert np.array_equal(saved.get_fdata(), volume.voxels)


def test_scaled_integers_and_unusual_files(tmp_path: Path) -> None:
    """A slope and an intercept, NIfTI-2 in big endian, several gzip members, zeros after the end."""
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), LPI)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    scaled = read_volume(tmp_path / "scaled.nii.gz").voxels
    assert np.array_equal(scaled, nibabel.load(tmp_path / "scaled.nii.gz").get_fdata())

    stored = noise(4, 5, 6)
    nibabel.save(nibabel.Nifti2Image(stored, LPI, nibabel.Nifti2Header(endianness=">")), tmp_path / "big.nii")
    assert np.array_equal(read_volume(tmp_path / "big.nii").voxels, stored)

    data = save(tmp_path / "plain.nii", stored).read_bytes()
    (tmp_path / "parts.nii.gz").write_bytes(
        b"".join(gzip.compress(data[at : at + 100]) for at in range(0, len(data), 100)) + bytes(9)
    )
    assert np.array_equal(read_volume(tmp_path / "parts.nii.gz").voxels, stored)
    assert read_volume(save(tmp_path / "one.nii.gz", stored[..., None])).voxels.shape == (4, 5, 6)


def peak_while_refused(path: Path, words: str) -> int:
    """Most bytes held while a file is refused in these words."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=words) as caught:
            read_volume(path)
        assert str(path) in str(caught.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def with_shape(data: bytes, *shape: int) -> bytes:
    return data[:40] + np.array([len(shape), *shape, *[1] * (7 - len(shape))], "<i2").tobytes() + data[56:]


@pytest.mark.long
def test_a_bomb_is_never_unfolded(tmp_path: Path) -> None:
    """Half a gigabyte of zeros in half a megabyte, behind a header of a small volume; then a header that lies itself."""
    data = save(tmp_path / "plain.nii", noise(4, 5, 6)).read_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(data) + gzip.compress(bytes(2**29), 9))
    assert peak_while_refused(path, r"more than its header declares \(832 bytes\)") < 20e6
    path.write_bytes(gzip.compress(with_shape(data, 1000, 1000, 1000)))
    assert peak_while_refused(path, "less than its header declares") < 20e6
    path.write_bytes(gzip.compress(with_shape(data, 2000, 2000, 2000)))
    assert peak_while_refused(path, "declares 30 GiB of voxels; at most 8 GiB are read") < 20e6


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda d: b"", "it is empty"),
    "text": (lambda d: b"hello", "no NIfTI header"),
    "a cut header": (lambda d: d[:200], "header is cut"),
    "cut voxels": (lambda d: d[:-1], "less than its header declares"),
    "junk behind the voxels": (lambda d: d + b"!", "more than its header declares"),
    "a cut archive": (lambda d: gzip.compress(d)[:300], "its end is missing"),
    "an archive without its length": (lambda d: gzip.compress(d)[:-4], "its end is missing"),
    "a wrong checksum": (lambda d: gzip.compress(d)[:-8] + bytes(4) + gzip.compress(d)[-4:], "incorrect data check"),
    "junk behind the archive": (lambda d: gzip.compress(d) + b"junk", "incorrect header check"),
    "an empty archive": (lambda d: gzip.compress(b""), "it is empty"),
    "a negative side": (lambda d: with_shape(d, -4, 5, 6), "has the shape"),
    "an unknown type": (lambda d: d[:70] + b"\x77\x77" + d[72:], "not a readable NIfTI"),
    "voxels that start at NaN": (lambda d: d[:108] + np.float32(np.nan).tobytes() + d[112:], "not a readable NIfTI"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_sentence(tmp_path: Path, kind: str) -> None:
    harm, words = DAMAGE[kind]
    path = tmp_path / "case.nii.gz"
    path.write_bytes(harm(save(tmp_path / "plain.nii", noise(4, 5, 6)).read_bytes()))
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise(4), r"the shape \(4,\)"),
        (noise(4, 5, 6, 2, 2), r"the shape \(4, 5, 6, 2, 2\)"),
        (np.zeros((4, 0, 6), np.float32), r"the shape \(4, 0, 6\)"),
        (noise(4, 5, 6).astype(np.complex64), "type complex64"),
        (
            np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
            "R/G/B colours; plain numbers are needed, along a fourth axis",
        ),
        (np.where(noise(4, 5, 6) > 120, np.nan, noise(4, 5, 6)), r"\d+ voxels that are NaN or infinite .* give them a value"),
        (np.where(noise(4, 5, 6) > 120, -np.inf, noise(4, 5, 6)), "NaN or infinite"),
        (np.full((4, 5, 6), 1e200), "NaN or infinite"),
    ],
)
def test_what_is_no_volume_of_plain_numbers(tmp_path: Path, array: npt.NDArray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_volume(save(tmp_path / "case.nii.gz", array))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.nii\.gz cannot be read: No such file"):
        read_volume(tmp_path / "nowhere.nii.gz")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_volume(tmp_path)


def test_the_files_of_a_case_share_a_grid(tmp_path: Path) -> None:
    source = Source(id="a", images=(tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"), labels=(tmp_path / "label.nii.gz",))
    first, second, label = noise(4, 5, 6), 2 * noise(4, 5, 6), (noise(4, 5, 6) > 100).astype(np.uint8)
    save(source.images[0], first)
    save(source.images[1], second)
    save(source.labels[0], label)
    image, values, spacing = read_labelled(source, channels=2)
    assert image.shape == (2, 6, 4, 5)
    assert np.array_equal(image[1], 2 * image[0])
    assert np.array_equal(values, image[0] > 100)
    assert spacing == (1, 1, 1)

    near, far = np.array(LPI), np.array(LPI)
    near[0, 3], far[0, 3] = 0.3, 0.8
    save(source.labels[0], label, near)
    read_labelled(source, channels=2)
    save(source.labels[0], label, far)
    with pytest.raises(InputError, match=r"label\.nii\.gz lies elsewhere than its image t1\.nii\.gz: .* corners 0\.8 mm apart"):
        read_labelled(source, channels=2)
    save(source.labels[0], label)
    save(source.images[1], second[:3])
    with pytest.raises(InputError, match=r"t2\.nii\.gz has the shape \(3, 5, 6\), but its image t1\.nii\.gz has \(4, 5, 6\)"):
        read_labelled(source, channels=2)
    save(source.images[1], second, affine_of("RAS"))
    with pytest.raises(InputError, match=r"t2\.nii\.gz has another orientation than its image t1\.nii\.gz: RAS against LPI"):
        read_labelled(source, channels=2)
    save(source.images[1], second)
    save(source.labels[0], np.stack([label, label], axis=3))
    with pytest.raises(InputError, match=r"label\.nii\.gz has the shape \(4, 5, 6, 2\)"):
        read_labelled(source)
    with pytest.raises(InputError, match=r"t1\.nii\.gz has the shape .*, but dataset.json names 3 channels"):
        read_labelled(source, channels=3)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "ASR", "IRP"])
def test_a_label_may_be_stored_along_other_axes_of_the_same_grid(tmp_path: Path, codes: str) -> None:
    """Another tool wrote it: its array looks different, its voxels are the same places."""
    source = Source(id="a", images=(tmp_path / "image.nii.gz",), labels=(tmp_path / "label.nii.gz",))
    image = nibabel.Nifti1Image(noise(4, 5, 6), affine_of("LPI"))
    label = nibabel.Nifti1Image((noise(4, 5, 6) > 100).astype(np.uint8), affine_of("LPI"))
    nibabel.save(image, source.images[0])
    nibabel.save(label.as_reoriented(ornt_transform(io_orientation(label.affine), axcodes2ornt(codes))), source.labels[0])
    voxels, values, _ = read_labelled(source)
    assert np.array_equal(values, voxels[0] > 100)


def test_a_label_that_lost_its_affine_or_is_turned_is_told_so(tmp_path: Path) -> None:
    source = Source(id="a", images=(tmp_path / "image.nii.gz",), labels=(tmp_path / "label.nii.gz",))
    save(source.images[0], noise(4, 5, 6), affine_of("LPS"))
    label = (noise(4, 5, 6) > 100).astype(np.uint8)
    for lost in (np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])):
        save(source.labels[0], label, lost)
        with pytest.raises(InputError, match=r"label\.nii\.gz has no affine but the identity.*; give it the affine of the image"):
            read_labelled(source)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    save(source.labels[0], label, turn @ affine_of("LPS"))
    with pytest.raises(InputError, match=r"lies elsewhere than its image image\.nii\.gz: .* mm apart, turned by 11\.5 degrees"):
        read_labelled(source)


def with_forms(sform: npt.NDArray, qform: npt.NDArray, codes: tuple[int, int] = (1, 1)) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(noise(4, 5, 6), None)
    image.header.set_sform(sform, codes[0])
    image.header.set_qform(qform, codes[1])
    return image


def test_sform_and_qform_that_disagree(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    moved = affine_of("RAS")
    moved[0, 3] += 0.4
    for qform, codes, note in (
        (affine_of("RAS"), (1, 1), ""),
        (moved, (1, 1), ""),  # less than a voxel
        (affine_of("LPI"), (1, 0), ""),  # a qform that does not count
        (affine_of("LPI"), (0, 1), ""),  # a qform alone
        (affine_of("RAS", (0.5, 2.0, 2.5)), (2, 1), "sform and qform put it in two places; the sform is used"),
        (affine_of("RAS"), (0, 0), "neither sform nor qform is set; its axes are taken to run left, to the front and up"),
    ):
        nibabel.save(with_forms(affine_of("RAS"), qform, codes), path)
        assert read_volume(path).note == read_grid(path).note == note
    nibabel.save(with_forms(affine_of("RAS"), affine_of("LAS")), path)
    for read in (read_volume, read_grid):
        with pytest.raises(InputError, match=r"image\.nii\.gz is stored RAS by its sform, but LAS by its qform; keep the true one"):
            read(path)

    # A label that a tool wrote on the grid of its image's qform.
    source = Source(id="a", images=(path,), labels=(tmp_path / "label.nii.gz",))
    aside = affine_of("RAS")
    aside[0, 3] += 30
    nibabel.save(with_forms(affine_of("RAS"), aside), path)
    save(source.labels[0], (noise(4, 5, 6) > 100).astype(np.uint8), aside)
    with pytest.raises(InputError, match=r"30 mm apart; of image\.nii\.gz, sform and qform put it in two places"):
        read_labelled(source)


def test_headers_that_should_be_known_of(tmp_path: Path) -> None:
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    path = save(tmp_path / "image.nii", noise(4, 5, 6), oblique @ affine_of("PSL"))
    assert "oblique" in read_grid(path).note
    image = nibabel.Nifti1Image(noise(4, 5, 6), LPI)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)
    assert "other units than mm" in read_grid(path).note


def test_a_grid_takes_the_header_alone(tmp_path: Path) -> None:
    """The voxels of a file may be cut; what is wrong with a header is told as it is of a whole file."""
    data = save(tmp_path / "plain.nii", noise(4, 5, 6, 2), affine_of("PSL")).read_bytes()
    path = tmp_path / "case.nii.gz"
    path.write_bytes(gzip.compress(data)[:800])
    assert read_grid(path) == ((5, 6, 4), (2.5, 0.5, 1.0), "")
    for damaged, words in (
        (b"", "it is empty"),
        (data[:200], "header is cut"),
        (with_shape(data, 4, 0, 6), r"the shape \(4, 0, 6\)"),
        (with_shape(data, 4, -5, 6), "shape"),
        (with_shape(data, 4, 5, 6, 2, 2), r"the shape \(4, 5, 6, 2, 2\)"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=words) as caught:
            read_grid(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_grid(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ((4, 5), (4, 5, 1)),
        ((4, 5, 1), (4, 5, 1)),
        ((4, 5, 6, 1), (4, 5, 6)),
        ((4, 5, 1, 1), (4, 5, 1)),
        ((4, 5, 6, 1, 3), (4, 5, 6, 3)),
        ((4, 5, 1, 1, 3), (4, 5, 1, 3)),
        ((1, 5, 6, 3), (1, 5, 6, 3)),
    ],
)
def test_axes_of_length_one(tmp_path: Path, stored: tuple[int, ...], read: tuple[int, ...]) -> None:
    array = noise(*stored)
    volume = read_volume(save(tmp_path / "image.nii.gz", array))
    assert np.array_equal(volume.voxels, array.reshape(read))
    assert np.array_equal(from_dhw(to_dhw(volume), volume), volume.voxels)


def test_labels_through_a_slope_are_whole(tmp_path: Path) -> None:
    """A slope of 1.0000153 is what some writers store; more than that is no rounding."""
    source = Source(id="a", images=(tmp_path / "image.nii.gz",), labels=(tmp_path / "label.nii.gz",))
    save(source.images[0], noise(4, 5, 6))
    numbers = np.arange(120).reshape(4, 5, 6).astype(np.int16) % 4
    image = nibabel.Nifti1Image(numbers, LPI)
    image.header.set_slope_inter(1.0000153, 0)
    nibabel.save(image, source.labels[0])
    assert read_volume(source.labels[0]).voxels.max() > 3
    _, values, _ = read_labelled(source)
    assert values.dtype.kind in "iu"
    assert np.array_equal(values, to_dhw(read_volume(save(tmp_path / "plain.nii", numbers))))

    path = Path("label.nii.gz")
    assert whole_numbers(np.array([True, False]), path).tolist() == [1, 0]
    assert whole_numbers(np.array([-1.0, 2.0]), path).tolist() == [-1, 2]
    for wrong, told in ((2.002, "2.002"), (0.5, "0.5"), (1e30, "1e\\+30"), (np.nan, "nan")):
        with pytest.raises(InputError, match=rf"label\.nii\.gz has the value {told}; a mask must hold whole class numbers"):
            whole_numbers(np.array([0, 1, wrong]), path)
