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
from PIL import Image, ImageOps

from cdal.data.images import ColoursError, find_files, orientation, read_image, read_mask
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


def pyramid(compression: str | None = None) -> bytes:
    """A full page between a thumbnail and two levels of a pyramid."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(COLOUR[::4, ::4], subfiletype=1, photometric="rgb")
        writer.write(COLOUR, photometric="rgb", subifds=1, compression=compression)
        writer.write(COLOUR[::2, ::2], subfiletype=1, photometric="rgb")
        writer.write(BITS, subfiletype=4, photometric=4)
    return file.getvalue()


def camera() -> bytes:
    """A JPEG as phones write it: a preview follows the picture (MPO)."""
    return pillow(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH[::2, ::2])], quality=98)


SLOPE = np.add.outer(np.arange(37), np.arange(50)).astype(np.uint8)
SMOOTH = np.dstack([SLOPE, 255 - SLOPE, SLOPE // 2])
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
    "grey GIF": (pillow(GREY, "GIF"), np.dstack([GREY] * 3)),
    "palette GIF": (pillow(palette_image(FEW), "GIF"), FEW_COLOURS),
    "PGM": (pillow(GREY, "PPM"), GREY),
    "16-bit PGM": (b"P5\n50 37\n65535\n" + DEEP.astype(">u2").tobytes(), DEEP),
    "PPM": (pillow(COLOUR, "PPM"), COLOUR),
    "PGM in digits": (b"P2 # by hand\n2 3\n255\n1 2\n3 4\n5 255\n", np.array([[1, 2], [3, 4], [5, 255]], np.uint8)),
    "PBM": (b"P4\n2 1\n\x80", np.array([[0, 1]], np.uint8)),
    "TIFF with thumbnails": (pyramid(), COLOUR),
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


LOSSY = {
    "JPEG": pillow(SMOOTH, "JPEG", quality=98),
    "JPEG of a phone": camera(),
    "JPEG of one channel": pillow(SLOPE, "JPEG", quality=95),
    "Pillow's JPEG in TIFF": pillow(SMOOTH, "TIFF", compression="jpeg", quality=98),
    "JPEG in tiles": tiff(SMOOTH, compression="jpeg", compressionargs={"level": 98}, tile=(16, 64)),
    "JPEG in strips": tiff(SMOOTH, compression="jpeg", compressionargs={"level": 98}, rowsperstrip=16),
    "JPEG in planes": tiff(SMOOTH.transpose(2, 0, 1).copy(), planarconfig="separate", compression="jpeg", rowsperstrip=16),
    "JPEG of one channel in TIFF": tiff(SLOPE, compression="jpeg", tile=(16, 16)),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_images_are_close(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(LOSSY[kind])
    expected = SLOPE if "one channel" in kind else SMOOTH
    found = read_image(tmp_path / "a.jpg")
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


def turned(kind: str, how: int) -> tuple[bytes, np.ndarray]:
    """A file whose EXIF says how to turn it, and what Pillow makes of that."""
    exif = Image.Exif()
    exif[274] = how
    data = pillow(SMOOTH, kind, **({"tiffinfo": {274: how}} if kind == "TIFF" else {"exif": exif}))
    with Image.open(BytesIO(data)) as image:
        image.load()  # which turns a TIFF
        return data, np.array(image if kind == "TIFF" else ImageOps.exif_transpose(image))


@pytest.mark.parametrize("how", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_images_are_turned_as_exif_says(tmp_path: Path, kind: str, how: int) -> None:
    path = tmp_path / "photo"
    data, upright = turned(kind, how)
    path.write_bytes(data)
    assert orientation(path) == how
    assert np.array_equal(read_image(path), upright)
    assert read_image(path, upright=False).shape == SMOOTH.shape
    assert read_mask(path, colours=True).shape == upright.shape[:2]
    assert read_mask(path, colours=True, upright=False).shape == SMOOTH.shape[:2]
    if kind != "JPEG":
        assert np.array_equal(read_image(path, upright=False), SMOOTH)


@pytest.mark.parametrize("how", [0, 9, 300])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path, how: int) -> None:
    (tmp_path / "photo").write_bytes(turned("PNG", how)[0])
    assert orientation(tmp_path / "photo") == 1
    assert np.array_equal(read_image(tmp_path / "photo"), SMOOTH)


def test_damaged_exif_turns_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data = turned("JPEG", 6)[0]
    at = data.index(b"Exif\0\0") + 6
    for damaged in (b"\xff" * 8, b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08"):
        (tmp_path / "photo").write_bytes(data[:at] + damaged + data[at + 8 :])
        assert read_image(tmp_path / "photo").shape in (SMOOTH.shape, SMOOTH.swapaxes(0, 1).shape)


def indexed(values: np.ndarray, *colours: int) -> Image.Image:
    """Values as indices of greys or, where three numbers make each, of colours."""
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([part for colour in colours for part in colour.to_bytes(3, "big")])
    return image


TWO = FEW % 2
WHITE, RED = 0xFFFFFF, 0xFF0000
MASKS: dict[str, tuple[bytes, np.ndarray]] = {
    "grey": (pillow(FEW), FEW),
    "16 bits": (pillow(DEEP), DEEP),
    "one bit": (pillow(BITS), BITS),
    "palette": (pillow(palette_image(FEW)), FEW),
    "palette with a clear background": (pillow(palette_image(FEW), transparency=0), FEW),
    "palette TIFF": (pillow(palette_image(FEW), "TIFF"), FEW),
    "grey as colours": (pillow(np.dstack([FEW] * 3)), FEW),
    "grey as opaque RGBA": (pillow(np.dstack([FEW] * 3 + [np.full_like(FEW, 255)])), FEW),
    "black and white palette": (pillow(indexed(TWO, 0, WHITE)), TWO),
    "white and black palette": (pillow(indexed(1 - TWO, WHITE, 0)), TWO * 255),
    "white of a white and black palette": (pillow(indexed(TWO * 0, WHITE, 0)), np.full_like(TWO, 255)),
    "white and black palette TIFF": (pillow(indexed(1 - TWO, WHITE, 0), "TIFF"), TWO * 255),
    "white and black palette BMP": (pillow(indexed(1 - TWO, WHITE, 0), "BMP"), TWO * 255),
    "classes under a palette that is too short": (pillow(indexed(FEW, WHITE, 0, 0, 0)), FEW),
    "GIF": (pillow(indexed(1 - TWO, WHITE, 0), "GIF"), TWO * 255),
    "grey GIF": (pillow(TWO * 255, "GIF"), TWO * 255),
    "PGM": (pillow(FEW, "PPM"), FEW),
    "ImageJ's inverted TIFF": (tiff(TWO * 255, photometric="miniswhite", description="ImageJ=1.54f\n"), TWO * 255),
    "inverted TIFF of others": (tiff(255 - TWO * 255, photometric="miniswhite"), TWO * 255),
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


COLOURS: dict[str, tuple[bytes, np.ndarray]] = {
    "RGB": (pillow(COLOUR), COLOUR @ np.array([65536, 256, 1])),
    "RGB GIF": (pillow(indexed(TWO, 0, RED), "GIF"), TWO * np.int32(RED)),
    "grey": (pillow(TWO * 255), TWO * np.int32(WHITE)),
    "grey of 16 bits": (pillow(TWO.astype(np.uint16)), TWO * np.int32(0x010101)),
    "one bit": (pillow(TWO > 0), TWO * np.int32(WHITE)),
    "one bit TIFF": (tiff(TWO > 0), TWO * np.int32(WHITE)),
    "one bit PGM": (pillow(TWO > 0, "PPM"), TWO * np.int32(WHITE)),
    "palette": (pillow(indexed(TWO, 0, RED)), TWO * np.int32(RED)),
    "palette in another order": (pillow(indexed(1 - TWO, RED, 0)), TWO * np.int32(RED)),
    "palette TIFF": (pillow(indexed(TWO, 0, RED), "TIFF"), TWO * np.int32(RED)),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_of_masks_are_numbers(tmp_path: Path, kind: str) -> None:
    data, values = COLOURS[kind]
    (tmp_path / "mask.png").write_bytes(data)
    found = read_mask(tmp_path / "mask.png", colours=True)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("colours", [(RED, 0), (WHITE, RED, 0)])
def test_a_palette_that_a_paint_program_numbered_has_colours(tmp_path: Path, colours: tuple[int, ...]) -> None:
    (tmp_path / "mask.png").write_bytes(pillow(indexed(FEW % len(colours), *colours)))
    with pytest.raises(ColoursError, match=r"mask\.png has colours"):
        read_mask(tmp_path / "mask.png")


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


def slide() -> bytes:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for step in (1, 2):
            writer.write(COLOUR[::step, ::step], photometric="rgb", tile=(16, 16), description="Aperio Image Library v1\r\n37x50")
    return file.getvalue()


def with_large_parts(data: bytes) -> bytes:
    """A TIFF whose JPEG parts say that they are 9,000 pixels wide and high."""
    while (at := data.find(b"\xff\xc0\0\x11\x08\0")) >= 0:
        data = data[: at + 5] + struct.pack(">HH", 9_000, 9_000) + data[at + 9 :]
    return data


BOMB = with_large_parts(tiff(COLOUR, compression="jpeg", tile=(16, 16)))
HALF_CLEAR = np.dstack([COLOUR, GREY])
LZW, TILES = tiff(COLOUR, compression="lzw", rowsperstrip=5), tiff(COLOUR, compression="zlib", tile=(16, 16))
DAMAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty (0 bytes)"),
    "text": (b"hello, I am an image", "is no PNG, TIFF, JPEG or BMP image"),
    "GIF of two images": (
        pillow(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(DEEP // 256)]),
        "several images",
    ),
    "half a GIF": (pillow(GREY, "GIF")[:1800], "is not a readable GIF image"),
    "GIF with a clear colour": (pillow(palette_image(FEW), "GIF", transparency=1), "has an alpha channel that is not opaque"),
    "half a PGM": (pillow(GREY, "PPM")[:900], "is not a readable PPM image"),
    "PGM of few colours": (b"P5\n2 1\n3\n\1\2", "counts colours up to 3; save it as PNG"),
    "16-bit PPM": (b"P6\n1 1\n65535\n\1\2\3\4\5\6", "counts colours up to 65535; save it as PNG"),
    "zip": (b"PK\3\4\x14\0\0\0\0\0case_1.png", "is a zip archive; unpack it"),
    "npz": (b"PK\3\4\x14\0\0\0\0\0arr_0.npy", "is a NumPy archive (.npz); save its arrays as PNG or TIFF"),
    "RoiSet": (b"PK\3\4\x14\0\0\0\0\0001-2.roi", "is a set of outlines of ImageJ (RoiSet.zip); in Fiji"),
    "roi": (b"Iout\0\xe4\0\0", "is an outline of ImageJ (.roi); in Fiji open it on its image"),
    "npy": (b"\x93NUMPY\1\0", "is a NumPy array (.npy); save it as PNG or TIFF"),
    "web page": (
        b"\xef\xbb\xbf\n <!DOCTYPE html><html>",
        "is a web page, most likely of a download that failed; download it again",
    ),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS instead of the file itself"),
    "gzip": (b"\x1f\x8b\x08\0", "is packed with gzip; unpack it"),
    "WebP": (pillow(GREY, "WEBP"), "is a WebP image; save it as PNG"),
    "HEIC": (b"\0\0\0\x18ftypheic", "is a HEIC or AVIF photograph or a film; save it as PNG or JPEG"),
    "DICOM": (b"\0" * 128 + b"DICM", "is a DICOM file"),
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
    "WebP in TIFF": (tiff(COLOUR, compression="webp"), "is compressed with WEBP; save it uncompressed or with LZW or Deflate"),
    "JPEG 2000 in TIFF": (tiff(COLOUR, compression="jpeg2000"), "is compressed with JPEG2000; save it uncompressed or with LZW"),
    "JPEG bomb in TIFF": (BOMB, "is not a readable TIFF image: a part of the image has another size"),
    "stack of ImageJ": (
        tiff(np.stack([GREY] * 4), imagej=True, photometric=None),
        "holds several pages (a stack of ImageJ); in Fiji choose Image > Stacks > Stack to Images",
    ),
    "long stack of ImageJ": (tiff(GREY, description="ImageJ=1.54f\nimages=9\nslices=9\n"), "(a stack of ImageJ)"),
    "stack of OME": (tiff(np.stack([GREY] * 4), ome=True, photometric="minisblack"), "holds several pages; give one file each"),
    "whole slide": (slide(), "is a whole slide (Aperio SVS); export the regions"),
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
    "JPEG in TIFF": lambda: tiff(SMOOTH, compression="jpeg", tile=(16, 16)),
    "pyramid": pyramid,
    "GIF": lambda: pillow(palette_image(FEW), "GIF"),
    "PPM": lambda: pillow(COLOUR, "PPM"),
    "turned JPEG": lambda: turned("JPEG", 6)[0],
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # likewise
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
    photo = turned("JPEG", 6)[0]
    at = photo.index(b"Exif\0\0") + 6
    (tmp_path / "photo.jpg").write_bytes(photo[: at + 12] + b"\xff" * 6 + photo[at + 18 :])  # its EXIF is longer than the file
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


def test_links_are_followed_but_not_to_nothing_or_in_circles(tmp_path: Path) -> None:
    """Data sets are too large to copy, so people link them together."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "far.png").write_bytes(pillow(GREY))
    (folder / "link.png").symlink_to(tmp_path / "other" / "far.png")
    (folder / "masks").symlink_to(tmp_path / "other")
    assert find_files(folder) == [folder / "link.png", folder / "masks" / "far.png"]
    (folder / "link.png").unlink()
    for target in (tmp_path / "other" / "nothing.png", folder / "link.png", folder):
        (folder / "link.png").symlink_to(target)
        with pytest.raises(InputError, match=r"link\.png is a link that leads nowhere or in a circle"):
            find_files(folder)
        (folder / "link.png").unlink()
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
