"""2D image files: found in a folder, and decoded to the last byte.

    pixels = read_image(Path("images/case_1.png"))   # (H, W) or (H, W, 3)
    values = read_mask(Path("masks/case_1.png"))     # (H, W) whole numbers

PNG, TIFF (plain, LZW, PackBits, Deflate or Zstandard, in strips or tiles), JPEG and BMP are told apart by their content, not by
their names. Bytes are not trusted: whatever a decoder makes of damaged ones ends as an `InputError`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cdal.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffPage

ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")

_MAX_FILE = 2**30  # bytes
_MAX_DECODED = 2**29  # bytes; what a small file may claim to hold must not fill the memory
_FORMATS = {  # first bytes: name
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}
_TIFF_COMPRESSIONS = {1, 5, 8, 32773, 32946, 50000}  # none, LZW, Deflate, PackBits, old Deflate, Zstandard
_MIN_IS_WHITE, _PALETTE = 0, 3  # PhotometricInterpretation
_TIFF_COLOURS = {_MIN_IS_WHITE, 1, 2, _PALETTE}  # and grey, RGB

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_check_size` decides, and tells in a sentence


def read_image(path: Path) -> npt.NDArray[Any]:
    """The pixels of an image: (H, W) grey or (H, W, 3) colour, in the stored type.

    8 and 16 bits stay uint8 and uint16, one bit becomes 0 and 1, a palette becomes its colours. An alpha channel that is opaque
    everywhere is dropped.

    Raises:
        InputError: a file that is missing, damaged, of another format or too large; several pages, transparency, other channels
            than grey or RGB, values that are NaN or infinite.
    """
    return _read(path, as_mask=False)


def read_mask(path: Path) -> npt.NDArray[Any]:
    """The whole numbers (H, W) of a mask, in the stored integer type, or int64 where they are stored as floats.

    A palette gives its indices, three equal colour channels give one.

    Raises:
        InputError: what `read_image` raises, colours, and numbers that are not whole.
    """
    values = _read(path, as_mask=True)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise InputError(f"{path} has colours; a mask holds one whole number per pixel (grey or palette)")
        values = np.ascontiguousarray(values[..., 0])
    if values.dtype.kind == "f":
        if (values != np.rint(values)).any() or (np.abs(values) > 2**31).any():
            raise InputError(f"{path} holds numbers that are not whole; a mask holds one whole number per pixel")
        values = values.astype(np.int64)
    return values


def find_files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Files below a folder whose names end so (in small or capital letters), in name order, as absolute paths.

    What macOS leaves in archives (`._*`, `__MACOSX`) and other hidden files are passed over.

    Raises:
        InputError: no such folder, one that cannot be read, a link that leads out of it or nowhere, a name with control characters.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --data must be the folder that holds the images")
    found = []
    for root, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        wanted = [name for name in files if not name.startswith(".") and name.lower().endswith(tuple(endings))]
        for path in (Path(root, name) for name in folders + wanted):
            if not path.name.isprintable():
                raise InputError(f"{root} has a file or folder named {path.name!a}; rename it without control characters")
            if path.is_symlink() and not _stays_inside(path, folder):
                raise InputError(f"{path} is a link that leads nowhere or out of the folder {folder}; copy the files into it")
        found += [Path(root, name) for name in wanted]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}")


def _stays_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(folder)
    except (OSError, RuntimeError):  # to nothing, or to itself
        return False


def _read(path: Path, *, as_mask: bool) -> npt.NDArray[Any]:
    data = _bytes(path)
    name = next((name for start, name in _FORMATS.items() if data.startswith(start)), None)
    if name is None:
        raise InputError(f"{path} is no PNG, TIFF, JPEG or BMP image")
    try:
        if name == "PNG":
            pixels = _decode_png(path, data, as_mask)
        elif name == "TIFF":
            pixels = _decode_tiff(path, data, as_mask)
        else:
            pixels = _decode_other(path, data, name, as_mask)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a readable {name} image: its header is damaged") from error
    except Exception as error:  # decoders let through whatever their parsing of damaged bytes happens to raise
        raise InputError(f"{path} is not a readable {name} image: {_one_line(error)}") from error
    pixels = _without_alpha(path, pixels)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{path} has pixels that are NaN or infinite")
    return pixels


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


def _decode_png(path: Path, data: bytes, as_mask: bool) -> npt.NDArray[Any]:
    """(H, W) or (H, W, channels)."""
    from imagecodecs import png_decode  # unlike Pillow, it keeps 16 bits of colours and refuses an image that lacks rows

    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        image.verify()  # checksums and the end of the file
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        _check_pillow(path, image, bits=data[24])  # IHDR is the first chunk
        pixels: npt.NDArray[Any] = png_decode(data)
        if image.mode == "P" and as_mask:
            return np.array(image)
    return pixels // 255 if image.mode == "1" and pixels.ndim == 2 else pixels


def _decode_other(path: Path, data: bytes, name: str, as_mask: bool) -> npt.NDArray[Any]:
    """JPEG, BMP: (H, W) or (H, W, channels)."""
    with Image.open(BytesIO(data), formats=[name]) as image:
        _check_pillow(path, image)
        pixels = np.array(image.convert("RGB") if image.mode == "P" and not as_mask else image)
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _check_pillow(path: Path, image: Image.Image, bits: int = 8) -> None:
    _check_size(path, image.width * image.height * len(image.getbands()) * max(bits // 8, 1))
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{path} holds several images; give one file each")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        raise InputError(f"{path} has the colours {image.mode}; save it as grey or RGB")


def _decode_tiff(path: Path, data: bytes, as_mask: bool) -> npt.NDArray[Any]:
    """(H, W) or (H, W, channels)."""
    from tifffile import TiffFile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # oddities that matter are raised, and told in our own words
    with TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        colours = page.tags.valueof(262, 1)
        if file.pages.is_multipage:
            raise InputError(f"{path} holds several pages; give one file each")
        _check_tiff(path, page, colours, len(data))
        pixels = page.asarray(maxworkers=1)
        highest = 2 ** int(page.bitspersample) - 1
        palette = None if as_mask or colours != _PALETTE else np.asarray(page.colormap)
        planes_first = page.axes == "SYX"
    pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2) if planes_first else pixels)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if palette is not None:  # (3, indices), 16 bits
        return np.ascontiguousarray((palette >> 8).astype(np.uint8).T[pixels])
    if colours == _MIN_IS_WHITE and pixels.dtype.kind == "u":
        pixels = (highest - pixels).astype(pixels.dtype)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _check_tiff(path: Path, page: TiffPage, colours: int, length: int) -> None:
    """Refuse what is not read, what would fill the memory, and parts that the decoder would silently fill with zeros."""
    sizes = (page.imagewidth, page.imagelength, page.imagedepth, page.samplesperpixel, page.bitspersample)
    if not all(isinstance(value, int) for value in (*sizes, page.compression, colours)):
        raise ValueError("its header is damaged")
    if page.compression not in _TIFF_COMPRESSIONS:
        how = getattr(page.compression, "name", f"method {page.compression}")
        raise InputError(f"{path} is compressed with {how}; save it uncompressed or with LZW or Deflate")
    if colours not in _TIFF_COLOURS:
        raise InputError(f"{path} has the colours {getattr(page.photometric, 'name', colours)}; save it as grey or RGB")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise InputError(f"{path} has pixels of {page.bitspersample} bits that are no plain numbers; save it as grey or RGB")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise InputError(f"{path} holds a volume of {page.imagedepth} slices; save it as NIfTI or as one file per slice")
    _check_size(path, max(prod(page.shape), prod(page.chunks)) * page.dtype.itemsize)
    if not len(page.dataoffsets) == len(page.databytecounts) == prod(page.chunked):
        raise ValueError("parts of the image are missing")
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start <= 0 or size <= 0 or start + size > length:
            raise ValueError("a part of the image lies outside the file")


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
            raise InputError(f"{path} has an alpha channel that is not opaque everywhere; save it without one")
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., 0])


def _one_line(error: BaseException) -> str:
    if isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):
        return "its structure is damaged"
    return " ".join(str(error).split())[:200] or type(error).__name__
