"""Image files: every kind that is read, and every way they can be wrong."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cdal.data.images import find_files, read_image, read_mask
from cdal.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (37, 50), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (37, 50), dtype=np.uint16)
DEEP_COLOUR = RNG.integers(0, 2**16, (37, 50, 3), dtype=np.uint16)
BITS = RNG.random((37, 50)) < 0.4
FLOATS = RNG.normal(size=(37, 50)).astype(np.float32)


def pillow(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = BytesIO()
    options.setdefault("photometric", "rgb" if 3 in (pixels.shape[0], pixels.shape[-1]) else "minisblack")
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def png(rows: np.ndarray, depth: int, colour_type: int, width: int = 50, height: int = 37) -> bytes:
    """A PNG of any kind, with any size in its header; `rows` hold the bytes of each."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def palette_image(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([component for value in range(256) for component in (value, 255 - value, 7)])
    return image


FEW = GREY % 4
FEW_COLOURS = np.stack([FEW, 255 - FEW, np.full_like(FEW, 7)], axis=2)
SOUND: dict[str, tuple[bytes, np.ndarray]] = {
    "grey PNG": (pillow(GREY), GREY),
    "colour PNG": (pillow(COLOUR), COLOUR),
    "16-bit PNG": (pillow(DEEP), DEEP),
    "16-bit colour PNG": (png(DEEP_COLOUR.astype(">u2"), 16, 2), DEEP_COLOUR),
    "1-bit PNG": (pillow(BITS), BITS.astype(np.uint8)),
    "palette PNG": (pillow(palette_image(FEW)), FEW_COLOURS),
    "opaque RGBA PNG": (pillow(np.dstack([COLOUR, np.full_like(GREY, 255)])), COLOUR),
    "opaque grey and alpha PNG": (pillow(Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (50, 37), 255)])), GREY),
    "opaque 16-bit RGBA PNG": (png(np.dstack([DEEP_COLOUR, np.full_like(DEEP, 65535)]).astype(">u2"), 16, 6), DEEP_COLOUR),
    "palette PNG with an unused clear colour": (pillow(palette_image(FEW), transparency=200), FEW_COLOURS),
    "grey BMP": (pillow(GREY, "BMP"), GREY),
    "colour BMP": (pillow(COLOUR, "BMP"), COLOUR),
    "grey TIFF": (tiff(GREY), GREY),
    "planes TIFF": (tiff(COLOUR.transpose(2, 0, 1).copy(), planarconfig="separate"), COLOUR),
    "big endian TIFF": (tiff(DEEP, byteorder=">"), DEEP),
    "big endian LZW TIFF": (tiff(DEEP, byteorder=">", compression="lzw", predictor=True), DEEP),
    "BigTIFF": (tiff(COLOUR, bigtiff=True), COLOUR),
    "float TIFF": (tiff(FLOATS, compression="zlib"), FLOATS),
    "32-bit TIFF": (tiff(DEEP.astype(np.int32) - 9), DEEP.astype(np.int32) - 9),
    "RGBA TIFF": (tiff(np.dstack([COLOUR, np.full_like(GREY, 255)]), photometric="rgb", extrasamples=["unassalpha"]), COLOUR),
    "1-bit TIFF": (tiff(BITS, compression="packbits"), BITS.astype(np.uint8)),
    "TIFF with 0 as white": (tiff(255 - GREY, photometric="miniswhite"), GREY),
    "1-bit TIFF with 0 as white": (tiff(~BITS, photometric="miniswhite"), BITS.astype(np.uint8)),
    "palette TIFF": (pillow(palette_image(FEW), "TIFF"), FEW_COLOURS),
    "ImageJ TIFF": (tiff(GREY, imagej=True, photometric=None), GREY),
    "Pillow's LZW TIFF": (pillow(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "Pillow's PackBits TIFF": (pillow(COLOUR, "TIFF", compression="packbits"), COLOUR),
}
for compression in (None, "lzw", "packbits", "zlib", "zstd"):
    for name, pixels in (("grey", GREY), ("colour", COLOUR), ("16-bit", DEEP), ("16-bit colour", DEEP_COLOUR)):
        SOUND[f"{compression} {name} TIFF in strips"] = (tiff(pixels, compression=compression, rowsperstrip=7), pixels)
        SOUND[f"{compression} {name} TIFF in tiles"] = (tiff(pixels, compression=compression, tile=(16, 32)), pixels)


@pytest.mark.parametrize("kind", SOUND)
def test_pixels_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    data, pixels = SOUND[kind]
    path = tmp_path / "naïve name, wrong ending.jpg"
    path.write_bytes(data)
    found = read_image(path)
    assert found.dtype == pixels.dtype
    assert found.dtype.isnative
    assert found.flags.writeable
    np.testing.assert_array_equal(found, pixels)


def test_jpeg_is_close(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    (tmp_path / "a.jpg").write_bytes(pillow(smooth, "JPEG", quality=95))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() < 6


MASKS: dict[str, tuple[bytes, np.ndarray]] = {
    "grey": (pillow(FEW), FEW),
    "16 bits": (pillow(DEEP), DEEP),
    "one bit": (pillow(BITS), BITS),
    "palette": (pillow(palette_image(FEW)), FEW),
    "palette with a clear background": (pillow(palette_image(FEW), transparency=0), FEW),
    "palette TIFF": (pillow(palette_image(FEW), "TIFF"), FEW),
    "grey as colours": (pillow(np.dstack([FEW] * 3)), FEW),
    "grey as opaque RGBA": (pillow(np.dstack([FEW] * 3 + [np.full_like(FEW, 255)])), FEW),
    "whole floats": (tiff(FEW.astype(np.float32)), FEW),
    "negative numbers": (tiff(FEW.astype(np.int16) - 2), FEW.astype(np.int16) - 2),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_whole_numbers(tmp_path: Path, kind: str) -> None:
    data, values = MASKS[kind]
    (tmp_path / "mask.png").write_bytes(data)
    found = read_mask(tmp_path / "mask.png")
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, values)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def with_pixel(value: float) -> np.ndarray:
    pixels = FLOATS.copy()
    pixels[5, 7] = value
    return pixels


def with_size(data: bytes, size: int) -> bytes:
    """A little-endian TIFF whose ImageWidth and ImageLength say `size`."""
    for tag in (b"\x00\x01\4\0\1\0\0\0", b"\x01\x01\4\0\1\0\0\0"):
        at = data.index(tag) + len(tag)
        data = data[:at] + struct.pack("<I", size) + data[at + 4 :]
    return data


HALF_CLEAR = np.dstack([COLOUR, GREY])
LZW, TILES = tiff(COLOUR, compression="lzw", rowsperstrip=5), tiff(COLOUR, compression="zlib", tile=(16, 16))
DAMAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty (0 bytes)"),
    "text": (b"hello, I am an image", "is no PNG, TIFF, JPEG or BMP image"),
    "GIF": (pillow(GREY, "GIF"), "is no PNG, TIFF, JPEG or BMP image"),
    "PNG signature": (b"\x89PNG\r\n\x1a\n", "is not a readable PNG image"),
    "half a PNG": (pillow(GREY)[:900], "is not a readable PNG image"),
    "PNG without its end": (pillow(GREY)[:-12], "is not a readable PNG image"),
    "PNG with a wrong bit": (flipped(pillow(GREY), 700), "is not a readable PNG image"),
    "PNG with a wrong checksum": (flipped(pillow(GREY), -14), "is not a readable PNG image"),
    "PNG of few rows": (png(GREY[:10], 8, 0), "is not a readable PNG image"),
    "PNG bomb": (png(GREY, 8, 0, 60_000, 60_000), "exceeds limit"),
    "16-bit PNG bomb": (png(DEEP_COLOUR, 16, 2, 12_000, 12_000), "would decode to 824 MiB"),
    "16-bit RGBA PNG": (png(np.dstack([DEEP_COLOUR, DEEP]).astype(">u2"), 16, 6), "has an alpha channel that is not opaque"),
    "RGBA PNG": (pillow(HALF_CLEAR), "has an alpha channel that is not opaque everywhere"),
    "PNG with a clear colour": (pillow(palette_image(FEW), transparency=1), "has an alpha channel that is not opaque"),
    "animated PNG": (pillow(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(DEEP // 256)]), "several images"),
    "half a JPEG": (pillow(COLOUR, "JPEG")[:1500], "is not a readable JPEG image"),
    "CMYK JPEG": (pillow(Image.new("CMYK", (8, 8)), "JPEG"), "has the colours CMYK; save it as grey or RGB"),
    "half a BMP": (pillow(COLOUR, "BMP")[:3000], "is not a readable BMP image"),
    "TIFF signature": (b"II*\0", "is not a readable TIFF image"),
    "TIFF header": (tiff(GREY)[:8], "is not a readable TIFF image"),
    "half a TIFF": (tiff(GREY)[:1000], "is not a readable TIFF image"),
    "half an LZW TIFF": (LZW[: len(LZW) // 2], "is not a readable TIFF image"),
    "LZW TIFF without its last byte": (LZW[:-1], "is not a readable TIFF image"),
    "tiled TIFF without its last byte": (TILES[:-1], "is not a readable TIFF image"),
    "TIFF bomb": (with_size(tiff(GREY), 60_000), "would decode to 3433 MiB"),
    "TIFF with an infinite pixel": (tiff(with_pixel(np.inf)), "has pixels that are NaN or infinite"),
    "TIFF with a NaN": (tiff(with_pixel(np.nan)), "has pixels that are NaN or infinite"),
    "TIFF of two pages": (tiff(np.stack([GREY] * 2), photometric="minisblack"), "holds several pages"),
    "volume TIFF": (tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16)), "holds a volume of 16 slices"),
    "TIFF of five channels": (
        tiff(np.zeros((8, 9, 5), np.uint8), planarconfig="contig"),
        "has 5 channels",
    ),
    "RGBA TIFF": (tiff(HALF_CLEAR, photometric="rgb", extrasamples=["unassalpha"]), "has an alpha channel that is not opaque"),
    "CMYK TIFF": (pillow(Image.new("CMYK", (8, 8)), "TIFF"), "has the colours SEPARATED; save it as grey or RGB"),
    "JPEG in TIFF": (pillow(COLOUR, "TIFF", compression="jpeg"), "is compressed with JPEG; save it uncompressed or with LZW"),
    "complex TIFF": (tiff(FLOATS.astype(np.complex64)), "that are no plain numbers"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes our own filter
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_sentence_that_names_the_file(tmp_path: Path, kind: str) -> None:
    data, words = DAMAGE[kind]
    path = tmp_path / "bild.png"
    path.write_bytes(data)
    for read in (read_image, read_mask):
        if read is read_mask and kind == "PNG with a clear colour":
            continue  # a mask is what its indices say
        with pytest.raises(InputError) as caught:
            read(path)
        message = str(caught.value)
        assert str(path) in message
        assert words in message
        assert "\n" not in message
        assert len(message) - len(str(path)) < 300


MASK_DAMAGE: dict[str, tuple[bytes, str]] = {
    "colours": (pillow(COLOUR), "has colours; a mask holds one whole number per pixel"),
    "fractions": (tiff(FLOATS), "holds numbers that are not whole"),
    "floats beyond whole numbers": (tiff(np.full((4, 4), 1e30, np.float32)), "holds numbers that are not whole"),
}


@pytest.mark.parametrize("kind", MASK_DAMAGE)
def test_what_no_mask_may_hold(tmp_path: Path, kind: str) -> None:
    data, words = MASK_DAMAGE[kind]
    (tmp_path / "mask.png").write_bytes(data)
    with pytest.raises(InputError, match=rf"mask\.png {words}"):
        read_mask(tmp_path / "mask.png")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png is missing"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(InputError, match=r"b\.png is no file"):
        read_image(tmp_path / "b.png")
    with (tmp_path / "c.png").open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(InputError, match=r"c\.png has 1024 MiB; images of at most 1024 MiB are read"):
        read_image(tmp_path / "c.png")


SAMPLES: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: pillow(COLOUR),
    "16-bit PNG": lambda: png(DEEP_COLOUR.astype(">u2"), 16, 2),
    "JPEG": lambda: pillow(COLOUR, "JPEG"),
    "BMP": lambda: pillow(palette_image(FEW), "BMP"),
    "LZW TIFF": lambda: LZW,
    "tiled TIFF": lambda: TILES,
    "PackBits TIFF": lambda: tiff(DEEP, compression="packbits", rowsperstrip=3),
    "palette TIFF": lambda: pillow(palette_image(FEW), "TIFF"),
    "float TIFF": lambda: tiff(FLOATS),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_random_damage_is_never_anything_but_an_input_error(tmp_path: Path, kind: str) -> None:
    """A hundred cut and overwritten files each: read as an image, or refused with the file's name."""
    rng = np.random.default_rng(0)
    raw = SAMPLES[kind]()
    path = tmp_path / "damaged.file"
    refused: list[str] = []
    for trial in range(120):
        data = bytearray(raw[: int(rng.integers(len(raw)))] if trial % 3 == 0 else raw)
        span = len(data) if trial % 2 else min(len(data), 200)
        start = len(data) - span if trial % 4 == 0 else 0  # TIFF keeps its directory at the start or at the end
        for at in start + rng.integers(0, max(span, 1), 4):
            if at < len(data):
                data[at] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            pixels = (read_image, read_mask)[trial // 2 % 2](path)
        except InputError as error:
            refused.append(str(error))
        else:
            assert pixels.dtype.kind in "iuf"
            assert pixels.shape[2:] in ((), (3,))
    assert len(refused) > 20
    assert all("damaged.file" in message and "\n" not in message for message in refused)


@pytest.mark.long
def test_decoders_stay_silent(tmp_path: Path) -> None:
    """Neither a large image nor oddities in a header put warnings on the screen."""
    image = Image.new("1", (9600, 9600))  # enough for Pillow to suspect a bomb
    image.save(tmp_path / "large.png")
    odd = tiff(GREY, extratags=[(65000, 2, 4, b"abc", True)], description="odd")
    at = odd.index(b"\x0e\x01\2\0")  # the description's tag gets an unknown type
    (tmp_path / "odd.tif").write_bytes(odd[: at + 2] + b"\x63\0" + odd[at + 4 :])
    (tmp_path / "cut.tif").write_bytes(odd[:-30])
    code = (
        "import sys\nfrom pathlib import Path\nfrom cdal.data.images import *\nfrom cdal.errors import InputError\n"
        "for name in sys.argv[1:]:\n    try:\n        read_image(Path(name))\n    except InputError:\n        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_files_are_found_in_name_order_without_those_of_the_system(tmp_path: Path) -> None:
    names = ["b/2.TIF", "b/deep/er/1.png", "a/Z.tiff", "ä ö.jpg"]
    others = ["b/._2.TIF", "__MACOSX/b/2.TIF", ".git/x.png", "notes.txt", "b/Thumbs.db", "c.svs"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_files(tmp_path) == sorted(tmp_path.resolve() / name for name in names)
    assert find_files(tmp_path, [".txt"]) == [tmp_path.resolve() / "notes.txt"]
    (tmp_path / "inside.png").symlink_to(tmp_path / "b" / "2.TIF")
    assert len(find_files(tmp_path)) == 5


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.png").write_bytes(pillow(GREY))
    for target in (tmp_path / "other" / "secret.png", tmp_path / "other" / "nothing.png", folder / "link.png"):
        (folder / "link.png").symlink_to(target)
        with pytest.raises(InputError, match=r"link\.png is a link that leads nowhere or out of the folder"):
            find_files(folder)
        (folder / "link.png").unlink()
    (folder / "masks").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=r"masks is a link that leads"):
        find_files(folder)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_files(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a\nb.png", "a\udcffb.png"])
def test_a_name_that_cannot_be_printed_is_refused(tmp_path: Path, name: str) -> None:
    try:
        (tmp_path / name).write_bytes(b"")
    except (OSError, UnicodeError):
        pytest.skip("the file system has no such names")
    with pytest.raises(InputError, match=r"has a file or folder named 'a\\"):
        find_files(tmp_path)
