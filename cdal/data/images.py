"""2D image files: found in a folder, and decoded to the last byte.

    pixels = read_image(Path("images/case_1.png"))   # (H, W) or (H, W, 3)
    values = read_mask(Path("masks/case_1.png"))     # (H, W) whole numbers

PNG, TIFF (plain, LZW, PackBits, Deflate, Zstandard or JPEG, in strips or tiles), JPEG, BMP, GIF, PPM and PGM are told apart by
their content, not by their names. Bytes are not trusted: whatever a decoder makes of damaged ones ends as an `InputError`.

Cameras store pixels as the sensor lay and write beside them how to turn the picture (EXIF orientation). Pictures are read as
viewers show them; a mask that was drawn on the stored pixels is told by its shape, and `upright=False` gives the image as stored.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from cdal.errors import InputError, one_line

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm")

_MAX_FILE = 2**30  # bytes
_MAX_DECODED = 2**29  # bytes; what a small file may claim to hold must not fill the memory
_FORMATS = {  # first bytes: name
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
} | {b"P%d%c" % (kind, space): "PPM" for kind in range(1, 7) for space in b" \t\r\n"}
_OTHERS = {  # first bytes: what that is, and what to do
    b"version https://git-lfs": "is a pointer of Git LFS instead of the file itself; run `git lfs pull` in its repository",
    b"<!doctype html": "is a web page, most likely of a download that failed; download it again",
    b"<html": "is a web page, most likely of a download that failed; download it again",
    b"\x93numpy": "is a NumPy array (.npy); save it as PNG or TIFF, for example by tifffile.imwrite",
    b"iout": "is an outline of ImageJ (.roi); in Fiji open it on its image, choose Edit > Selection > Create Mask, save it as TIFF",
    b"\x1f\x8b": "is packed with gzip; unpack it (gunzip)",
    b"rar!": "is an archive; unpack it",
    b"7z\xbc\xaf": "is an archive; unpack it",
    b"\0\0\0\x0cjp  ": "is a JPEG 2000 image; save it as PNG or TIFF",
    b"\x89hdf": "is an HDF5 file; save its images as PNG or TIFF",
    b"%pdf": "is a PDF document; export its images as PNG",
}
_TIFF_JPEG = 7
_TIFF_COMPRESSIONS = {1, 5, 8, 32773, 32946, 50000, _TIFF_JPEG}  # none, LZW, Deflate, PackBits, old Deflate, Zstandard
_MIN_IS_WHITE, _PALETTE, _YCBCR = 0, 3, 6  # PhotometricInterpretation
_TIFF_COLOURS = {_MIN_IS_WHITE, 1, 2, _PALETTE}  # and grey, RGB
_ORIENTATION = 274  # tag, of EXIF and of TIFF
_PNG_ORIENTATIONS = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")  # one of them is in a PNG that has an orientation

_Kind = Literal["image", "numbers", "colours"]  # what a file is read as: the pixels, or a mask's numbers, or a mask's colours

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_check_size` decides, and tells in a sentence
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # of damaged EXIF


class ColoursError(InputError):
    """A mask is coloured where numbers were asked for."""


def read_image(path: Path, *, upright: bool = True) -> npt.NDArray[Any]:
    """The pixels of an image: (H, W) grey or (H, W, 3) colour, in the stored type.

    8 and 16 bits stay uint8 and uint16, one bit becomes 0 and 1, a palette becomes its colours. An alpha channel that is opaque
    everywhere is dropped. Of a TIFF with thumbnails, of a JPEG with previews the full picture is read.

    Args:
        path: the file.
        upright: turned as EXIF says; otherwise as stored.

    Raises:
        InputError: a file that is missing, damaged, of another format or too large; several pages, transparency, other channels
            than grey or RGB, values that are NaN or infinite.
    """
    return _decode(path, _bytes(path), "image", upright)


def read_mask(path: Path, *, colours: bool = False, upright: bool = True) -> npt.NDArray[Any]:
    """The whole numbers (H, W) of a mask, in the stored integer type, or int64 where they are stored as floats.

    A palette gives its indices, three equal colour channels give one. Where a palette has its black elsewhere than at index 0, as
    paint programs number colours, its indices mean nothing, and its colours count; so they do in a GIF.

    Args:
        path: the file.
        colours: int32 numbers 65536 red + 256 green + blue of any mask, grey ones and palettes too: white is 0xffffff.
        upright: turned as EXIF says; otherwise as stored.

    Raises:
        ColoursError: colours where `colours` is False.
        InputError: what `read_image` raises, numbers that are not whole, and colours of more than 8 bits.
    """
    return decode_mask(path, _bytes(path), colours=colours, upright=upright)


def decode_mask(path: Path, data: bytes, *, colours: bool = False, upright: bool = True) -> npt.NDArray[Any]:
    """`read_mask` of bytes that are known already; `path` is the name of the mask in messages."""
    values = _decode(path, data, "colours" if colours else "numbers", upright)
    if colours:
        return _colour_numbers(path, values)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ColoursError(f"{path} has colours; a mask holds one whole number per pixel (grey or palette)")
        values = np.ascontiguousarray(values[..., 0])
    if values.dtype.kind == "f":
        if (values != np.rint(values)).any() or (np.abs(values) > 2**31).any():
            raise InputError(f"{path} holds numbers that are not whole; a mask holds one whole number per pixel")
        values = values.astype(np.int64)
    return values


def orientation(path: Path) -> int:
    """How a viewer turns the stored pixels, as EXIF numbers it: 1 not at all, 2 to 4 keep the shape, 5 to 8 swap its sides.

    Raises:
        InputError: a file that is missing, of another format or too large.
    """
    data = _bytes(path)
    return _orientation(data, _format(path, data))


def what_else(data: bytes) -> str | None:
    """What a file that begins so is, and what to do about it, where it is something that is often taken for an image; else None."""
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip(b"\n\r\t ").lower()
    if data.startswith(b"PK\3\4"):
        if b".npy" in start:
            return "is a NumPy archive (.npz); save its arrays as PNG or TIFF, for example by tifffile.imwrite"
        if b".roi" in start:
            return (
                "is a set of outlines of ImageJ (RoiSet.zip); in Fiji open it on its image, choose OR (Combine) in the ROI "
                "Manager, then Edit > Selection > Create Mask, and save it as TIFF"
            )
        return "is a zip archive; unpack it"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "is a WebP image; save it as PNG"
    if data[4:8] == b"ftyp":
        return "is a HEIC or AVIF photograph or a film; save it as PNG or JPEG"
    if data[128:132] == b"DICM":
        return "is a DICOM file; name it with the ending .dcm, or save it as PNG, TIFF or NIfTI"
    return next((what for beginning, what in _OTHERS.items() if start.startswith(beginning)), None)


def find_files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Files below a folder whose names end so (in small or capital letters), in name order, as absolute paths.

    What macOS leaves in archives (`._*`, `__MACOSX`) and other hidden files are passed over. Links are followed wherever they lead:
    data sets are too large to copy.

    Raises:
        InputError: no such folder, one that cannot be read, a link that leads nowhere or in a circle, a name with control
            characters.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --data must be the folder that holds the images")
    found = []
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        wanted = [name for name in files if not name.startswith(".") and name.lower().endswith(tuple(endings))]
        for path in (Path(root, name) for name in folders + wanted):
            if not path.name.isprintable():
                raise InputError(f"{root} has a file or folder named {path.name!a}; rename it without control characters")
            if path.is_symlink() and not _leads_on(path):
                raise InputError(f"{path} is a link that leads nowhere or in a circle; put the files in its place or remove it")
        found += [Path(root, name) for name in wanted]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}")


def _leads_on(link: Path) -> bool:
    """Whether a link leads to something that it does not lie in itself."""
    try:
        return link.resolve(strict=True) not in [parent.resolve() for parent in link.parents]
    except (OSError, RuntimeError):  # to nothing, or to itself
        return False


def _decode(path: Path, data: bytes, kind: _Kind, upright: bool) -> npt.NDArray[Any]:
    name = _format(path, data)
    try:
        if name == "PNG":
            pixels = _decode_png(path, data, kind)
        elif name == "TIFF":
            pixels = _decode_tiff(path, data, kind)
        else:
            pixels = _decode_other(path, data, name, kind)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a readable {name} image: its header is damaged") from error
    except Exception as error:  # decoders let through whatever their parsing of damaged bytes happens to raise
        raise InputError(f"{path} is not a readable {name} image: {_one_line(error)}") from error
    pixels = _without_alpha(path, pixels)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{path} has pixels that are NaN or infinite")
    return _turned(pixels, _orientation(data, name)) if upright else pixels


def _format(path: Path, data: bytes) -> str:
    name = next((name for start, name in _FORMATS.items() if data.startswith(start)), None)
    if name is None:
        raise InputError(f"{path} {what_else(data) or 'is no PNG, TIFF, JPEG or BMP image, and no GIF, PPM or PGM'}")
    return name


def _orientation(data: bytes, name: str) -> int:
    """1 to 8; 1 where a file tells none, or tells it in bytes that are damaged, as viewers have it."""
    if name in ("BMP", "GIF", "PPM") or (name == "PNG" and not any(mark in data for mark in _PNG_ORIENTATIONS)):
        return 1
    try:
        if name == "TIFF":
            from tifffile import TiffFile

            with TiffFile(BytesIO(data)) as file:
                value = _full_pages(file)[0].tags.valueof(_ORIENTATION, 1)
        else:
            with Image.open(BytesIO(data), formats=[name]) as image:
                value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # as in `_decode`
        return 1


def _turned(pixels: npt.NDArray[Any], how: int) -> npt.NDArray[Any]:
    """Pixels (H, W, ...) as EXIF has them turned: from 5 on with rows for columns, then mirrored."""
    if how == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if how >= 5 else pixels
    down, right = how in (3, 4, 7, 8), how in (2, 3, 6, 7)
    return np.ascontiguousarray(turned[:: -1 if down else 1, :: -1 if right else 1])


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"{path} is {'no file' if path.exists() else 'missing'}")
        size = path.stat().st_size
        if size > _MAX_FILE:
            raise InputError(f"{path} has {size / 2**20:.0f} MiB; images of at most {_MAX_FILE // 2**20} MiB are read")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_one_line(error)}") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes)")
    return data


def _decode_png(path: Path, data: bytes, kind: _Kind) -> npt.NDArray[Any]:
    """(H, W) or (H, W, channels)."""
    from imagecodecs import png_decode  # unlike Pillow, it keeps 16 bits of colours and refuses an image that lacks rows

    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        image.verify()  # checksums and the end of the file
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        _check_pillow(path, image, bits=data[24])  # IHDR is the first chunk
        pixels: npt.NDArray[Any] = png_decode(data)
        if image.mode == "P" and kind == "numbers":
            return _palette_numbers(np.array(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
    return pixels // 255 if image.mode == "1" and pixels.ndim == 2 and kind != "colours" else pixels


def _decode_other(path: Path, data: bytes, name: str, kind: _Kind) -> npt.NDArray[Any]:
    """JPEG, BMP, GIF, PPM and PGM: (H, W) or (H, W, channels)."""
    with Image.open(BytesIO(data), formats=[name]) as image:
        _check_pillow(path, image)
        if name == "PPM":
            _check_ppm(path, image)
        if name == "GIF":  # whose writers number colours as they come
            pixels = np.array(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        elif image.mode == "P" and kind == "numbers":
            pixels = _palette_numbers(np.array(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
        else:
            pixels = np.array(image.convert("RGB") if image.mode == "P" else image)
    if name == "PPM" and image.mode == "I":
        return pixels.astype(np.uint16)
    return pixels * np.uint8(255 if kind == "colours" else 1) if pixels.dtype == bool else pixels


def _palette_numbers(indices: npt.NDArray[Any], colours: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Indices (H, W) of a mask's palette (n, 3), or its colours (H, W, 3) where the numbering is a paint program's.

    Palettes that number classes begin with black, the background, or have no black. One that has it elsewhere was sorted by how
    often or in which order a colour came, and its indices would swap background and foreground from file to file.
    """
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=len(colours)))
    if used[-1] >= len(colours) or not colours[0].any():
        return indices
    shown = colours[used]
    is_grey = (colours == colours[:, :1]).all()
    tells_apart = len(np.unique(shown, axis=0)) == len(used)
    return colours[indices] if tells_apart and (is_grey or not shown.any(axis=1).all()) else indices


def _check_pillow(path: Path, image: Image.Image, bits: int = 8) -> None:
    _check_size(path, image.width * image.height * len(image.getbands()) * max(bits // 8, 1))
    if (
        image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    ):  # what follows the picture in a camera's JPEG are previews of it
        raise InputError(f"{path} holds several images; give one file each")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        raise InputError(f"{path} has the colours {image.mode}; save it as grey or RGB")


def _check_ppm(path: Path, image: ImageFile.ImageFile) -> None:
    """Refuse what Pillow would scale to 8 or 16 bits."""
    arguments: Any = image.tile[0].args
    highest = arguments[1] if isinstance(arguments, tuple) else 255
    if highest not in (255, 65535 if image.mode == "I" else 255):
        raise InputError(f"{path} counts colours up to {highest}; save it as PNG")


def _decode_tiff(path: Path, data: bytes, kind: _Kind) -> npt.NDArray[Any]:
    """(H, W) or (H, W, channels)."""
    from tifffile import TiffFile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # oddities that matter are raised, and told in our own words
    with TiffFile(BytesIO(data)) as file:
        page, *others = _full_pages(file)
        if others or (file.imagej_metadata or {}).get("images", 1) > 1:
            raise InputError(f"{path} {_several(file)}")
        colours = page.tags.valueof(262, 1)
        _check_tiff(path, page, colours, data)
        pixels = page.asarray(maxworkers=1)
        highest = 2 ** int(page.bitspersample) - 1
        palette = None if colours != _PALETTE else (np.asarray(page.colormap) >> 8).astype(np.uint8).T  # (indices, 3)
        planes_first = page.axes == "SYX"
        as_numbered = file.is_imagej or (page.software.startswith("tifffile") and highest == 1)
    pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2) if planes_first else pixels)
    if palette is not None:
        pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
        return _palette_numbers(pixels, palette) if kind == "numbers" else np.ascontiguousarray(palette[pixels])
    if pixels.dtype == bool:
        highest = 255 if kind == "colours" else 1
        pixels = pixels * np.uint8(highest)
    if colours == _MIN_IS_WHITE and pixels.dtype.kind == "u" and not (as_numbered and kind != "image"):
        pixels = (highest - pixels).astype(pixels.dtype)  # but ImageJ's masks, and bool arrays of tifffile, are stored so
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _full_pages(file: TiffFile) -> list[TiffPage]:
    """At most two pages that are no thumbnail, level of a pyramid or transparency of another; the first where there is none."""
    pages: Iterable[Any] = file.pages
    full = list(islice((page for page in pages if not (page.is_reduced or page.is_mask)), 2))
    return full or [file.pages.first]


def _several(file: TiffFile) -> str:
    if file.is_svs:
        return "is a whole slide (Aperio SVS); export the regions to be read, for example in QuPath: File > Export images, as PNG"
    if file.is_imagej:
        return "holds several pages (a stack of ImageJ); in Fiji choose Image > Stacks > Stack to Images, and give one file each"
    return "holds several pages; give one file each, or save a volume as NIfTI"


def _check_tiff(path: Path, page: TiffPage, colours: int, data: bytes) -> None:
    """Refuse what is not read, what would fill the memory, and parts that the decoder would silently fill with zeros."""
    sizes = (page.imagewidth, page.imagelength, page.imagedepth, page.samplesperpixel, page.bitspersample)
    if not all(isinstance(value, int) for value in (*sizes, page.compression, colours)):
        raise ValueError("its header is damaged")
    if page.compression not in _TIFF_COMPRESSIONS:
        how = getattr(page.compression, "name", f"method {page.compression}")
        raise InputError(f"{path} is compressed with {how}; save it uncompressed or with LZW or Deflate")
    is_jpeg = page.compression == _TIFF_JPEG
    if colours not in _TIFF_COLOURS and not (is_jpeg and colours == _YCBCR):
        raise InputError(f"{path} has the colours {getattr(page.photometric, 'name', colours)}; save it as grey or RGB")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise InputError(f"{path} has pixels of {page.bitspersample} bits that are no plain numbers; save it as grey or RGB")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise InputError(f"{path} holds a volume of {page.imagedepth} slices; save it as NIfTI or as one file per slice")
    _check_size(path, max(prod(page.shape), prod(page.chunks)) * page.dtype.itemsize)
    if not len(page.dataoffsets) == len(page.databytecounts) == prod(page.chunked):
        raise ValueError("parts of the image are missing")
    rows, columns = page.chunks[-2:] if page.axes == "SYX" else page.chunks[:2]
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start <= 0 or size <= 0 or start + size > len(data):
            raise ValueError("a part of the image lies outside the file")
        if is_jpeg:
            with Image.open(BytesIO(data[start : start + size]), formats=["JPEG"]) as part:
                if part.width != columns or part.height not in (rows, page.imagelength % rows):  # the decoder believes it
                    raise ValueError("a part of the image has another size")


def _check_size(path: Path, size: int) -> None:
    if size > _MAX_DECODED:
        raise InputError(f"{path} would decode to {size / 2**20:.0f} MiB; images of at most {_MAX_DECODED // 2**20} MiB are read")


def _without_alpha(path: Path, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) or (H, W, 3) of pixels with 1 to 4 channels."""
    if not pixels.size:
        raise InputError(f"{path} has no pixels")
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    if pixels.shape[2] not in (1, 2, 4):
        raise InputError(f"{path} has {pixels.shape[2]} channels; grey and RGB images are read")
    if pixels.shape[2] > 1:
        opaque = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        if (pixels[..., -1] != opaque).any():
            raise InputError(f"{path} has an alpha channel that is not opaque everywhere; save it without one (a mask on black)")
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., 0])


def _colour_numbers(path: Path, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """65536 red + 256 green + blue (H, W) of grey or colours of 8 bits."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 255:
        raise InputError(f"{path} has no colours of 8 bits, as other masks have; save it as RGB of 8 bits")
    red, green, blue = np.moveaxis(values.astype(np.int32), 2, 0) if values.ndim == 3 else [values.astype(np.int32)] * 3
    return red << 16 | green << 8 | blue


def _one_line(error: BaseException) -> str:
    if isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):
        return "its structure is damaged"
    return one_line(error)
