"""A folder of DICOM slices is a volume: sorted by place, in its units, at its place in the patient; or told why it is none."""

import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from cdal.data import Source
from cdal.data.dicom import is_dicom
from cdal.data.volumes import read_grid, read_labelled, read_volume, spacing_dhw, to_dhw
from cdal.errors import InputError

pydicom = pytest.importorskip("pydicom")

AXIAL = (1, 0, 0, 0, 1, 0)  # columns to the left, rows to the back
SAGITTAL = (0, 1, 0, 0, 0, -1)  # columns to the back, rows down
HEIGHT, WIDTH, DEPTH = 7, 6, 5


def stored() -> npt.NDArray[np.int16]:
    """Pixels (slices, rows, columns)."""
    return np.random.default_rng(0).integers(0, 4000, (DEPTH, HEIGHT, WIDTH)).astype(np.int16)


def dataset(pixels: npt.NDArray, place: tuple[float, ...], directions: tuple[float, ...] = AXIAL) -> "pydicom.Dataset":
    """One slice, as a CT scanner writes it."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = pydicom.uid.generate_uid()
    made.SeriesInstanceUID = "1.2.3"
    made.Modality = "CT"
    made.Rows, made.Columns = pixels.shape
    made.PixelSpacing = [0.5, 0.75]  # of rows, of columns
    made.SliceThickness = 2.0
    made.ImageOrientationPatient, made.ImagePositionPatient = list(directions), list(place)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.PixelData = pixels.tobytes()
    return made


def write(
    folder: Path, directions: tuple[float, ...] = AXIAL, change: Callable[[int, "pydicom.Dataset"], object] | None = None
) -> Path:
    """A series whose names and numbers are in another order than its slices."""
    folder.mkdir(exist_ok=True)
    across = np.cross(directions[:3], directions[3:])
    for number, pixels in enumerate(stored()):
        made = dataset(pixels, tuple(np.array([-20.0, -30.0, 40.0]) + 2.5 * number * across), directions)
        made.InstanceNumber = (3 * number) % DEPTH
        if change is not None:
            change(number, made)
        made.save_as(folder / f"IM{(2 * number) % DEPTH}.dcm", enforce_file_format=True)
    return folder


def test_a_series_is_a_volume(tmp_path: Path) -> None:
    folder = write(tmp_path / "series")
    (folder / "notes.txt").write_text("beside the slices")
    (folder / ".DS_Store").write_bytes(b"x")
    volume = read_volume(folder)
    assert volume.voxels.dtype == np.int32
    assert np.array_equal(volume.voxels, stored().transpose(2, 1, 0) - 1024)
    assert spacing_dhw(volume) == (2.5, 0.75, 0.5)
    assert read_grid(folder) == ((DEPTH, WIDTH, HEIGHT), (2.5, 0.75, 0.5), "")
    # DICOM counts mm to the left and to the back, NIfTI to the right and to the front.
    assert np.allclose(volume.affine @ (1, 2, 3, 1), (20 - 0.75, 30 - 1, 40 + 7.5, 1))
    # Slices are axial from the top down, rows run to the left.
    assert np.array_equal(to_dhw(volume), stored()[::-1].transpose(0, 2, 1) - 1024)
    assert is_dicom(folder / "IM0.dcm")
    assert not is_dicom(folder / "notes.txt")


@pytest.mark.parametrize("directions", [AXIAL, SAGITTAL])
def test_a_label_in_nifti_fits_its_series(tmp_path: Path, directions: tuple[float, ...]) -> None:
    """Converted by a tool that turns rows round, as dcm2niix does; and as it is without a copy of the true affine, refused."""
    folder = write(tmp_path / "series", directions)
    volume = read_volume(folder)
    label = (volume.voxels > 1000).astype(np.uint8)
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = HEIGHT - 1
    nibabel.save(nibabel.Nifti1Image(label[:, ::-1], volume.affine @ flip), tmp_path / "label.nii.gz")
    source = Source(id="a", images=(folder,), labels=(tmp_path / "label.nii.gz",))
    image, values, spacing = read_labelled(source)
    assert np.array_equal(values, image[0] > 1000)
    assert spacing == spacing_dhw(volume)
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii.gz")
    with pytest.raises(InputError, match="no affine but the identity"):
        read_labelled(source)


def test_slopes_that_are_not_whole_and_a_single_slice(tmp_path: Path) -> None:
    def scaled(number: int, made: "pydicom.Dataset") -> None:
        made.RescaleSlope = 0.5 + number

    voxels = read_volume(write(tmp_path / "pet", change=scaled)).voxels
    assert voxels.dtype == np.float32
    assert np.array_equal(voxels[..., 2], stored()[2].T * 2.5 - 1024)

    (tmp_path / "one").mkdir()
    dataset(stored()[0], (0, 0, 0)).save_as(tmp_path / "one/slice", enforce_file_format=True)
    assert read_grid(tmp_path / "one").spacing == (2.0, 0.75, 0.5)
    assert read_volume(tmp_path / "one").voxels.shape == (WIDTH, HEIGHT, 1)


def setting(number: int, **values: object) -> Callable[[int, "pydicom.Dataset"], object]:
    """A change of some elements of one slice."""
    return lambda at, made: [setattr(made, key, value) for key, value in values.items()] if at == number else None


def without(*keys: str) -> Callable[[int, "pydicom.Dataset"], object]:
    return lambda at, made: [delattr(made, key) for key in keys] if at == 2 else None


def tilted(number: int, made: "pydicom.Dataset") -> None:
    made.ImagePositionPatient[1] = -30 + 0.5 * number


REFUSED: dict[str, tuple[Callable[[int, "pydicom.Dataset"], object], str]] = {
    "two series": (setting(2, SeriesInstanceUID="1.2.4"), r"holds several series \(IM0\.dcm and IM4\.dcm\)"),
    "a scout": (setting(2, ImageOrientationPatient=list(SAGITTAL)), r"IM4\.dcm has another orientation than IM0\.dcm"),
    "another spacing": (setting(2, PixelSpacing=[1, 1]), r"IM4\.dcm has another pixel spacing"),
    "another size": (setting(2, Rows=5), r"IM4\.dcm has another size"),
    "a missing slice": (setting(4, ImagePositionPatient=[-20, -30, 60]), r"misses slices: IM1\.dcm and IM3\.dcm lie 12.5 mm apart"),
    "two echoes": (setting(4, ImagePositionPatient=[-20, -30, 40]), r"two slices of one place \(IM0\.dcm and IM3\.dcm\)"),
    "a tilted gantry": (tilted, r"tilted against their stack by 11\.3 degrees"),
    "several frames": (setting(2, NumberOfFrames=2), r"IM4\.dcm .*it holds 2 frames.*dcm2niix"),
    "colours": (setting(2, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "its pixels are RGB, not MONOCHROME2"),
    "no place": (without("ImagePositionPatient"), "no slice with a place in the patient, but of the kind CT"),
    "no spacing": (without("PixelSpacing"), "its PixelSpacing is None"),
    "a spacing of nothing": (setting(2, PixelSpacing=[0, 0]), "its pixel spacing or its orientation is none"),
    "no direction": (setting(2, ImageOrientationPatient=[0] * 6), "its pixel spacing or its orientation is none"),
    "a place of two numbers": (setting(2, ImagePositionPatient=[1, 2]), r"its ImagePositionPatient is \[1\.0, 2\.0\]"),
    "fewer pixels": (setting(2, PixelData=bytes(20)), r"IM4\.dcm cannot be read as a slice"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_series(tmp_path: Path, kind: str) -> None:
    change, words = REFUSED[kind]
    folder = write(tmp_path / "series", change=change)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_damaged(tmp_path: Path) -> None:
    folder = write(tmp_path / "series")
    whole = (folder / "IM3.dcm").read_bytes()
    for length in (0, 100):  # it no longer says that it is DICOM, and may be the last slice, whose loss leaves no gap
        (folder / "IM3.dcm").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"IM3\.dcm is not a DICOM file, though it lies among slices"):
            read_volume(folder)
    for length in (140, 300, 500, len(whole) - 20):
        (folder / "IM3.dcm").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"IM3\.dcm cannot be read as a slice \(.*\); convert the series with dcm2niix"):
            read_volume(folder)


def test_what_unfolds_before_it_can_be_checked(tmp_path: Path) -> None:
    folder = write(tmp_path / "series")
    made = dataset(stored()[0], (0, 0, 99))
    made.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    made.save_as(folder / "deflated.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match=r"deflated\.dcm cannot be read as a slice \(it is deflated\)"):
        read_volume(folder)


def test_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "series")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        InputError, match=r"series holds DICOM files, which take pydicom: `pip install pydicom`, or convert .* dcm2niix"
    ):
        read_volume(folder)
