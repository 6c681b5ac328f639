"""Files that are not read: what they are and what their owner can do, in words."""

from collections.abc import Sequence
from pathlib import Path

_KINDS: tuple[tuple[tuple[str, ...], str, str], ...] = (  # endings, what it is, remedy
    (
        (".dcm", ".dicom", ".ima"),
        "DICOM",
        "convert each series with dcm2niix, and RTSTRUCT or SEG objects with plastimatch or dcmqi",
    ),
    (
        (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".zst"),
        "archives, which are left unopened",
        "unpack them and give the folder that comes out",
    ),
    (
        (".npy", ".npz", ".h5", ".hdf5", ".mat", ".pkl", ".pt", ".zarr"),
        "arrays",
        "save each image and each mask as PNG or TIFF (imageio.imwrite), volumes as NIfTI (nibabel.save)",
    ),
    (
        (".tfrecord", ".tfrecords", ".parquet", ".lmdb", ".mdb"),
        "tables",
        "write each image and each mask to a file, as PNG or NIfTI",
    ),
    (
        (".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".lif", ".vsi", ".nd2", ".qptiff", ".bif", ".dcx"),
        "whole slides or microscope files",
        "export the annotated regions as TIFF or PNG (QuPath: Extensions, Script, or bfconvert)",
    ),
    (
        (".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".hdr", ".img", ".gipl", ".par", ".rec"),
        "volumes of another format",
        "convert them with SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'NAME.nii.gz'), or with mri_convert",
    ),
    ((".roi",), "outlines of ImageJ", "in Fiji, open RoiSet and image, make a label image (LOCI, ROI Map) and save it as TIFF"),
    ((".stl", ".obj", ".ply", ".vtk", ".vtp"), "surfaces", "fill them into a label volume (3D Slicer: Segmentations, Export)"),
    ((".xml",), "XML", "convert outlines or boxes to mask images, or to COCO JSON"),
    ((".svg", ".ai", ".psd", ".xcf"), "drawings", "export the mask as PNG of the image's size"),
    (
        (".webp", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".exr", ".dng", ".cr2"),
        "images of another format",
        "save as PNG",
    ),
    ((".mp4", ".avi", ".mov", ".mkv"), "films", "save their frames as PNG (ffmpeg -i FILM frame_%05d.png)"),
)
_YOLO = ("text, as YOLO writes outlines and boxes", "convert outlines to mask images, or to COCO JSON")


def remedy(path: Path) -> str:
    """What to do with a file of no kind that is read, as the end of a sentence; "" where nothing is known of it."""
    found = _kind(path)
    return f"; {found[1]}" if found else ""


def described(files: Sequence[Path]) -> str | None:
    """What files and folders of slices are that cannot be used, and what to do; None where nothing is known of them."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in files:
        kind = _kind(path) or (_KINDS[0][1:] if path.is_dir() or (not path.suffix and _is_dicom(path)) else None)
        if kind:
            kinds.setdefault(kind, []).append(path)
    if not kinds:
        return None
    (what, do), paths = max(kinds.items(), key=lambda item: len(item[1]))
    name = f"{paths[0]}" if len(paths) == 1 else f"{len(paths):,} files such as {paths[0]}"
    return f"{name} ({what}); {do}"


def _kind(path: Path) -> tuple[str, str] | None:
    name = path.name.lower()
    if name.endswith(".txt") and any("label" in part.lower() for part in path.parts[-4:-1]):
        return _YOLO
    return next((kind[1:] for kind in _KINDS if name.endswith(kind[0])), None)


def _is_dicom(path: Path) -> bool:
    """DICOM often comes without an ending."""
    try:
        if not path.is_file():  # a pipe may never end
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
