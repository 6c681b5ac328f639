"""Bad input of many kinds: refused before any training, in one sentence that names the file.

What S3 answers to a wrong address is tested in test_remote.py.
"""

import gzip
import json
import os
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from own_folders import LPI, decathlon, mask, nnunet, picture, save, two_folders, volume, volume_label
from patience import limit, run
from PIL import Image

from cdal import train
from cdal.data import __main__ as data
from cdal.data import open_dataset
from cdal.errors import InputError
from tune import search

ROOT = Path(__file__).resolve().parents[2]
XML = "<Annotations><Annotation><Regions><Region><Vertices>{}</Vertices></Region></Regions></Annotation></Annotations>"
SQUARE = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((5, 5), (25, 5), (25, 25), (5, 25)))


def monuseg(folder: Path) -> Path:
    for number in range(3):
        for part in ("Training", "Test"):
            save(folder / part / f"TCGA-{part}-{number}.tif", picture(number, 64, 64, 3))
            (folder / part / f"TCGA-{part}-{number}.xml").write_text(XML.format(SQUARE))
    return folder


def chest_xray(folder: Path) -> Path:
    for number in range(4):
        for name, mask_name in ((f"CHNCXR_000{number}_0", f"CHNCXR_000{number}_0_mask"), (f"MCUCXR_000{number}_0",) * 2):
            save(folder / "CXR_png" / f"{name}.png", picture(number, 64, 64))
            save(folder / "masks" / f"{mask_name}.png", mask(number, 64, 64))
    return folder


def volumes(folder: Path) -> Path:
    """images/ and masks/ of NIfTI files."""
    for number in range(5):
        save(folder / "images" / f"case_{number}.nii.gz", volume(number, 12, 14, 6))
        save(folder / "masks" / f"case_{number}.nii.gz", volume_label((12, 14, 6)))
    return folder


BUILD: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "images": ("own", two_folders),
    "volumes": ("own", volumes),
    "nnunet": ("own", nnunet),
    "decathlon": ("own", decathlon),
    "hippocampus": ("hippocampus", decathlon),
    "monuseg": ("monuseg", monuseg),
    "chest_xray": ("chest_xray", chest_xray),
}


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def swap(path: Path, start: bytes, value: bytes) -> None:
    """Write over some bytes of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(start)] + value + data[len(start) + len(value) :])


def other_ending(path: Path, ending: str) -> Path:
    """The same picture in another format, in the place of the file."""
    Image.open(path).convert("RGB").save(path.with_suffix(ending))
    path.unlink()
    return path.with_suffix(ending)


def png_of(width: int, height: int) -> bytes:
    """Black pixels of one bit, packed a thousand times smaller."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(width // 8 + 1)) for _ in range(height)) + rows.flush()
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
    chunks = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def link_to_nothing(path: Path) -> None:
    """Replace a file by a link to one that is not there."""
    path.unlink()
    path.symlink_to(path.parents[1] / "elsewhere" / path.name)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path) -> None:
    """Whoever opens it for reading waits for ever."""
    path.unlink()
    os.mkfifo(path)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def xml_bomb(path: Path) -> None:
    """A billion laughs."""
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "ha"}">' for n in range(10))
    path.write_text(f"<!DOCTYPE x [{entities}]><Annotations>&a9;</Annotations>")


def set_listing(folder: Path, **entries: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def list_image(folder: Path, name: str) -> None:
    listing = json.loads((folder / "dataset.json").read_text())
    listing["training"][1]["image"] = name
    set_listing(folder, training=listing["training"])


def huge_header(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))


def append_zeros(path: Path) -> None:
    """A quarter of a gigabyte in a quarter of a megabyte."""
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(2**28), 9))


def keep(folder: Path, count: int) -> None:
    for part in ("images", "masks"):
        for path in sorted((folder / part).iterdir())[count:]:
            path.unlink()


def rgba(opacity: int) -> np.ndarray:
    return np.dstack([picture(2, colours=3), np.full((40, 48), opacity, np.uint8)])


def label_with(value: float) -> np.ndarray:
    label = volume_label((12, 14, 6)).astype(np.float32)
    label[0, 0, 0] = value
    return label


def moved(mm: float) -> np.ndarray:
    affine = LPI.copy()
    affine[0, 3] = mm
    return affine


def hole(value: float) -> np.ndarray:
    image = volume(0, 12, 14, 6)
    image[5, 5, 3] = value
    return image


# What was done to which sound folder, the file or folder that the sentence must name, and what it must say.
BAD: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    # images and masks
    "truncated PNG": ("images", lambda f: cut(f / "images" / "case_2.png"), "images/case_2.png", "not a readable PNG"),
    "truncated mask": ("images", lambda f: cut(f / "masks" / "case_2.png", 0.9), "masks/case_2.png", "not a readable PNG"),
    "truncated TIFF": (
        "images",
        lambda f: cut(other_ending(f / "images" / "case_2.png", ".tif")),
        "images/case_2.tif",
        "not a readable",
    ),
    "truncated JPEG": (
        "images",
        lambda f: cut(other_ending(f / "images" / "case_2.png", ".jpg")),
        "images/case_2.jpg",
        "not a readable",
    ),
    "truncated BMP": (
        "images",
        lambda f: cut(other_ending(f / "images" / "case_2.png", ".bmp")),
        "images/case_2.bmp",
        "not a readable",
    ),
    "zero-byte image": ("images", lambda f: (f / "images" / "case_2.png").write_bytes(b""), "images/case_2.png", "is empty"),
    "zero-byte mask": ("images", lambda f: (f / "masks" / "case_2.png").write_bytes(b""), "masks/case_2.png", "is empty"),
    "text as PNG": ("images", lambda f: (f / "images" / "case_2.png").write_text("hello"), "images/case_2.png", "is no PNG"),
    "PNG bomb": (
        "images",
        lambda f: (f / "images" / "case_2.png").write_bytes(png_of(40_000, 40_000)),
        "case_2.png",
        "1600000000 pixels",
    ),
    "transparency": ("images", lambda f: save(f / "images" / "case_2.png", rgba(99)), "images/case_2.png", "alpha channel"),
    "CMYK": (
        "images",
        lambda f: Image.fromarray(picture(2, colours=3)).convert("CMYK").save(f / "images" / "case_2.png", "JPEG"),
        "images/case_2.png",
        "CMYK",
    ),
    "several pages": (
        "images",
        lambda f: tifffile.imwrite(f / "images" / "case_2.png", np.zeros((3, 40, 48), np.uint8), photometric="minisblack"),
        "images/case_2.png",
        "several pages",
    ),
    "NaN pixels": (
        "images",
        lambda f: tifffile.imwrite(f / "images" / "case_2.png", np.full((40, 48), np.nan, np.float32)),
        "images/case_2.png",
        "NaN or infinite",
    ),
    "mask of other shape": (
        "images",
        lambda f: save(f / "masks" / "case_2.png", mask(2, 41, 48)),
        "masks/case_2.png",
        "48 x 41 px",
    ),
    "mask turned": ("images", lambda f: save(f / "masks" / "case_2.png", mask(2).T.copy()), "masks/case_2.png", "40 x 48 px"),
    "mask of colours": (
        "images",
        lambda f: save(f / "masks" / "case_2.png", picture(2, colours=3)),
        "masks/case_2.png",
        "colours",
    ),
    "continuous mask": ("images", lambda f: save(f / "masks" / "case_2.png", picture(2)), "masks/case_2.png", "look antialiased"),
    "mask of fractions": (
        "images",
        lambda f: tifffile.imwrite(f / "masks" / "case_2.png", mask(2).astype(np.float32) / 510),
        "masks/case_2.png",
        "not whole",
    ),
    "missing mask": ("images", lambda f: (f / "masks" / "case_2.png").unlink(), "images/case_2.png", "has no mask"),
    "missing image": ("images", lambda f: (f / "images" / "case_2.png").unlink(), "masks/case_2.png", "has no image"),
    "two images of a name": (
        "images",
        lambda f: save(f / "images" / "case_2.tif", picture(2)),
        "images/case_2.tif",
        "the same case",
    ),
    "two masks of an image": (
        "images",
        lambda f: save(f / "masks" / "case_2_seg.png", mask(2)),
        "masks/case_2_seg.png",
        "both masks",
    ),
    "8 and 16 bits": (
        "images",
        lambda f: save(f / "images" / "case_2.png", picture(2).astype(np.uint16)),
        "images/case_2.png",
        "values of more bits",
    ),
    "folder as file": ("images", lambda f: become_folder(f / "images" / "case_2.png"), "images/case_2.png", "not a file"),
    "pipe as file": ("images", lambda f: pipe(f / "images" / "case_2.png"), "images/case_2.png", "not a file"),
    "unknown kind": (
        "images",
        lambda f: (f / "images" / "case_2.dcm").write_text("DICM"),
        "images/case_2.dcm",
        "no kind that is read",
    ),
    "link to nothing": (
        "images",
        lambda f: link_to_nothing(f / "images" / "case_2.png"),
        "images/case_2.png",
        "leads nowhere",
    ),
    "link to itself": ("images", lambda f: loop(f / "images" / "case_2.png"), "images/case_2.png", "leads nowhere"),
    "too few cases": ("images", lambda f: keep(f, 3), "folder", "has 3 cases; the 4 folds need at least 4"),
    "no cases": ("images", lambda f: keep(f, 0), "folder", "has 0 cases"),
    "no folders": (
        "images",
        lambda f: [(f / part).rename(f / f"x{part}") for part in ("images", "masks")],
        "folder",
        "no known layout",
    ),
    # volumes
    "truncated NIfTI": (
        "volumes",
        lambda f: (f / "images" / "case_2.nii.gz").write_bytes(
            gzip.compress(gzip.decompress((f / "images" / "case_2.nii.gz").read_bytes())[:-50])
        ),
        "images/case_2.nii.gz",
        "less than its header declares",
    ),
    "truncated gzip": ("volumes", lambda f: cut(f / "images" / "case_2.nii.gz"), "images/case_2.nii.gz", "its end is missing"),
    "gzip bomb": ("volumes", lambda f: append_zeros(f / "masks" / "case_2.nii.gz"), "masks/case_2.nii.gz", "more than its header"),
    "petabytes declared": ("volumes", lambda f: huge_header(f / "images" / "case_2.nii.gz"), "case_2.nii.gz", "at most 8 GiB"),
    "zero-byte NIfTI": ("volumes", lambda f: (f / "masks" / "case_2.nii.gz").write_bytes(b""), "masks/case_2.nii.gz", "is empty"),
    "NaN voxel": ("volumes", lambda f: save(f / "images" / "case_2.nii.gz", hole(np.nan)), "images/case_2.nii.gz", "NaN"),
    "infinite voxel": ("volumes", lambda f: save(f / "images" / "case_2.nii.gz", hole(np.inf)), "images/case_2.nii.gz", "infinite"),
    "complex voxels": (
        "volumes",
        lambda f: save(f / "images" / "case_2.nii.gz", np.zeros((12, 14, 6), np.complex64)),
        "images/case_2.nii.gz",
        "plain numbers",
    ),
    "label of other shape": (
        "volumes",
        lambda f: save(f / "masks" / "case_2.nii.gz", volume_label((14, 12, 6))),
        "masks/case_2.nii.gz",
        "has the shape (14, 12, 6)",
    ),
    "label of other orientation": (
        "volumes",
        lambda f: save(f / "masks" / "case_2.nii.gz", volume_label((12, 14, 6)), np.eye(4)),
        "masks/case_2.nii.gz",
        "another orientation",
    ),
    "label elsewhere": (
        "volumes",
        lambda f: save(f / "masks" / "case_2.nii.gz", volume_label((12, 14, 6)), moved(5)),
        "masks/case_2.nii.gz",
        "lies elsewhere",
    ),
    "negative label": ("volumes", lambda f: save(f / "masks" / "case_2.nii.gz", label_with(-1)), "case_2.nii.gz", "the value -1"),
    "image among volumes": (
        "volumes",
        lambda f: (save(f / "images" / "case_9.png", picture(9)), save(f / "masks" / "case_9.png", mask(9))),
        "case_9.png",
        "is an image, but case_0.nii.gz is a volume",
    ),
    "volumes of other channels": (
        "volumes",
        lambda f: save(f / "images" / "case_2.nii.gz", volume(2, 12, 14, 6, 3)),
        "images/case_2.nii.gz",
        "has 3 channels, but case_0.nii.gz has 1",
    ),
    # dataset.json
    "JSON that is none": ("decathlon", lambda f: (f / "dataset.json").write_text("{"), "dataset.json", "cannot be read as JSON"),
    "JSON without cases": ("decathlon", lambda f: (f / "dataset.json").write_text("{}"), "dataset.json", "neither"),
    "path upwards": ("decathlon", lambda f: list_image(f, "../../etc/passwd"), "dataset.json", "leads out of the folder"),
    "absolute path": ("decathlon", lambda f: list_image(f, "/etc/passwd"), "dataset.json", "leads out of the folder"),
    "listed file missing": ("decathlon", lambda f: list_image(f, "imagesTr/no.nii.gz"), "imagesTr/no.nii.gz", "is missing"),
    "listed twice": ("decathlon", lambda f: list_image(f, "imagesTr/case_0.nii.gz"), "dataset.json", "'case_0' twice"),
    "label not declared": (
        "decathlon",
        lambda f: save(f / "labelsTr" / "case_2.nii.gz", label_with(7)),
        "case_2.nii.gz",
        "the label 7",
    ),
    "label of a fraction": (
        "decathlon",
        lambda f: save(f / "labelsTr" / "case_2.nii.gz", label_with(0.5)),
        "case_2.nii.gz",
        "has the value 0.5",
    ),
    "missing channel": ("nnunet", lambda f: (f / "imagesTr" / "case_2_0001.nii.gz").unlink(), "case_2_0001.nii.gz", "is missing"),
    "channels that differ": (
        "nnunet",
        lambda f: save(f / "imagesTr" / "case_2_0001.nii.gz", volume(2, 12, 14, 7)),
        "imagesTr/case_2_0001.nii.gz",
        "has the shape (12, 14, 7)",
    ),
    "region labels": ("nnunet", lambda f: set_listing(f, labels={"background": 0, "all": [1, 2]}), "dataset.json", "not supported"),
    "hippocampus without a file": (
        "hippocampus",
        lambda f: (f / "imagesTr" / "case_2.nii.gz").unlink(),
        "case_2.nii.gz",
        "is missing",
    ),
    "hippocampus label": (
        "hippocampus",
        lambda f: save(f / "labelsTr" / "case_2.nii.gz", label_with(7)),
        "case_2.nii.gz",
        "label 7",
    ),
    # MoNuSeg
    "XML bomb": ("monuseg", lambda f: xml_bomb(f / "Training" / "TCGA-Training-1.xml"), "TCGA-Training-1.xml", "document type"),
    "truncated XML": ("monuseg", lambda f: cut(f / "Training" / "TCGA-Training-1.xml"), "TCGA-Training-1.xml", "not sound XML"),
    "zero-byte XML": (
        "monuseg",
        lambda f: (f / "Training" / "TCGA-Training-1.xml").write_bytes(b""),
        "TCGA-Training-1.xml",
        "is empty",
    ),
    "XML of NaN": (
        "monuseg",
        lambda f: (f / "Training" / "TCGA-Training-1.xml").write_text(XML.format('<Vertex X="nan" Y="1"/>')),
        "TCGA-Training-1.xml",
        "'nan' as X or Y",
    ),
    "missing XML": ("monuseg", lambda f: (f / "Test" / "TCGA-Test-1.xml").unlink(), "TCGA-Test-1.tif", "has no annotation"),
    "missing slide": ("monuseg", lambda f: (f / "Test" / "TCGA-Test-1.tif").unlink(), "TCGA-Test-1.xml", "has no image"),
    "16 bits where 8 are needed": (
        "monuseg",
        lambda f: tifffile.imwrite(f / "Test" / "TCGA-Test-1.tif", picture(1, 64, 64, 3).astype(np.uint16), photometric="rgb"),
        "TCGA-Test-1.tif",
        "8 bits are needed",
    ),
    "truncated slide": ("monuseg", lambda f: cut(f / "Test" / "TCGA-Test-1.tif"), "TCGA-Test-1.tif", "not a readable TIFF"),
    # chest X-rays
    "X-ray without hospital": (
        "chest_xray",
        lambda f: (save(f / "CXR_png" / "x.png", picture(0, 64, 64)), save(f / "masks" / "x.png", mask(0, 64, 64))),
        "masks/x.png",
        "neither hospital",
    ),
    "X-ray mask alone": (
        "chest_xray",
        lambda f: (f / "CXR_png" / "MCUCXR_0001_0.png").unlink(),
        "masks/MCUCXR_0001_0.png",
        "no image",
    ),
    "X-ray mask of other shape": (
        "chest_xray",
        lambda f: save(f / "masks" / "MCUCXR_0001_0.png", mask(1, 64, 32)),
        "masks/MCUCXR_0001_0.png",
        "shape (64, 32)",
    ),
    "one lung": (
        "chest_xray",
        lambda f: save(f / "leftMask" / "MCUCXR_0001_0.png", mask(1, 64, 64)),
        "leftMask/MCUCXR_0001_0.png",
        "rightMask",
    ),
}


def check_sentence(message: str, file: str, words: str) -> None:
    assert file in message
    assert words in message
    assert "\n" not in message
    assert len(message) < 600
    assert "Traceback" not in message


@pytest.mark.long
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_that_names_the_file(tmp_path: Path, kind: str) -> None:
    base, harm, file, words = BAD[kind]
    name, build = BUILD[base]
    folder = build(tmp_path / "folder")
    assert open_dataset(name, folder).ids  # sound before
    harm(folder)
    with limit(60), pytest.raises(InputError) as caught:
        open_dataset(name, folder)
    check_sentence(str(caught.value), file, words)


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for name in ("own", "hippocampus", "monuseg", "chest_xray"):
        for folder in ("nowhere", "file.zip", "empty"):
            with pytest.raises(InputError) as caught:
                open_dataset(name, tmp_path / folder)
            check_sentence(str(caught.value), folder, "")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything; for a while be nobody."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("part", ["images/case_1.png", "masks/case_1.png", "images", "."])
def test_files_that_may_not_be_read(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        monkeypatch.setenv("CDAL_CACHE", f"{outer}/cache")
        folder = two_folders(Path(outer) / "data")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        (folder / part).chmod(0)
        with ordinary_user(), pytest.raises(InputError) as caught:
            open_dataset("own", folder)
        (folder / part).chmod(0o755)
        check_sentence(str(caught.value), "data" if part == "." else part, "ermission denied")


def test_an_opaque_alpha_channel_is_allowed(tmp_path: Path) -> None:
    folder = two_folders(tmp_path, colours=3)
    save(folder / "images" / "case_2.png", rgba(255))
    assert np.array_equal(open_dataset("own", folder).case("case_2").image[:, 0].numpy(), picture(2, colours=3).transpose(2, 0, 1))


Command = Callable[[list[str]], int]
SEARCH = ["--dry-run", "--dataset", "hippocampus", "--data", "folder", "--storage", "out"]
COMMANDS: dict[str, tuple[str, Command, list[str]]] = {
    "train own": ("images", train.main, ["--dataset", "own", "--data", "folder", "--out", "out"]),
    "train hippocampus": ("hippocampus", train.main, ["--dataset", "hippocampus", "--data", "folder", "--out", "out"]),
    "search": ("hippocampus", search.main, SEARCH),
    "inspect": ("decathlon", data.main, ["inspect", "folder", "--out", "out"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_tell_it_and_exit_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    base, main, arguments = COMMANDS[command]
    folder = BUILD[base][1](tmp_path / "folder")
    if base == "images":
        cut(folder / "masks" / "case_2.png")
    else:
        (folder / "dataset.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    check_sentence(told.strip(), "masks/case_2.png" if base == "images" else "dataset.json", "read")
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written


@pytest.mark.long
@pytest.mark.parametrize("command", [[ROOT / "tune" / "search.py", *SEARCH], ["-m", "cdal.train", "--fold", "9", "--out", "out"]])
def test_so_do_processes_of_their_own(tmp_path: Path, command: list[str | Path]) -> None:
    done = run([sys.executable, *command], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("error: .*(folder|fold).*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_damaged_volumes_are_all_told_by_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = decathlon(tmp_path / "folder", count=8)
    for number, harm in enumerate((cut, append_zeros, huge_header, loop, become_folder)):
        harm(folder / "imagesTr" / f"case_{number}.nii.gz")
    save(folder / "labelsTr" / "case_5.nii.gz", label_with(7))
    nibabel.save(nibabel.Nifti1Image(hole(np.nan), LPI), folder / "imagesTr" / "case_6.nii.gz")
    assert data.main(["inspect", str(folder), "--out", str(tmp_path / "sheet.html")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    for number in range(7):
        assert f"case_{number}.nii.gz" in printed.out
    assert "case_7.nii.gz" not in printed.out
    assert "Traceback" not in printed.out + printed.err
