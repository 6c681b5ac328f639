"""Seconds to decode a MoNuSeg image, parse its outlines and rasterise them; and how well the pixels agree with the outlines.

    python benchmarks/annotations.py                          # a generated image with 400 nuclei
    python benchmarks/annotations.py --data MoNuSegTestData   # every image of a folder that has an XML of its name

The agreement is the intersection over union with what Pillow fills on a grid 8 times as fine, by majority per pixel: of all nuclei
together, and the median over nuclei. One core, files in the memory of the operating system; the first repeat is left out.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw

from cdal.data.aperio import Vertices, rasterise, read_regions
from cdal.data.images import find_files, read_image

BAR_SECONDS, BAR_IOU = 0.4, 0.98
FINENESS = 8
SIZE, NUCLEI, VERTICES = 1000, 400, 80  # of the generated image


def generate(folder: Path) -> None:
    """A TIFF of noise, LZW like the training images, and wobbly ellipses as outlines."""
    rng = np.random.default_rng(0)
    image = rng.integers(100, 250, (SIZE, SIZE, 3), dtype=np.uint8)
    tifffile.imwrite(folder / "generated.tif", image, compression="lzw", photometric="rgb", rowsperstrip=2)
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    regions = []
    for _ in range(NUCLEI):
        radius = rng.uniform(6, 16, 2) * (1 + 0.1 * np.sin(3 * angle + rng.uniform(0, 6)))[:, None]
        outline = rng.uniform(0, SIZE, 2) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        vertices = "".join(f'<Vertex X="{x:.6f}" Y="{y:.6f}"/>' for x, y in outline)
        regions.append(f'<Region NegativeROA="0"><Vertices>{vertices}</Vertices></Region>')
    text = f"<Annotations><Annotation><Regions>{''.join(regions)}</Regions></Annotation></Annotations>"
    (folder / "generated.xml").write_text(text)


def measure(image: Path, outlines: Path, repeats: int) -> list[tuple[float, float, float]]:
    """Seconds of decoding, parsing and rasterising, for every repeat but the first."""
    seconds = []
    for _ in range(repeats + 1):
        times = [time.perf_counter()]
        pixels = read_image(image)
        times.append(time.perf_counter())
        regions = read_regions(outlines)
        times.append(time.perf_counter())
        rasterise(regions, pixels.shape[:2])
        times.append(time.perf_counter())
        seconds.append((times[1] - times[0], times[2] - times[1], times[3] - times[2]))
    return seconds[1:]


def agreement(regions: Sequence[Vertices], shape: tuple[int, int]) -> tuple[float, float]:
    """IoU with the finer fill: of all nuclei together, and the median over nuclei, each rasterised alone."""
    alone = []
    for vertices in regions:
        low = np.floor(vertices.min(axis=0)) - 1
        width, height = (np.ceil(vertices.max(axis=0)) + 1 - low).astype(int)
        alone.append(iou(rasterise([vertices - low], (height, width)) > 0, finer([vertices - low], (height, width))))
    return iou(rasterise(regions, shape) > 0, finer(regions, shape)), statistics.median(alone)


def finer(regions: Sequence[Vertices], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels of which at least half is filled."""
    canvas = Image.new("1", (shape[1] * FINENESS, shape[0] * FINENESS))
    draw = ImageDraw.Draw(canvas)
    for vertices in regions:
        draw.polygon([tuple(point) for point in vertices * FINENESS - 0.5], fill=1)  # Pillow's pixels are centred on whole numbers
    blocks = np.asarray(canvas).reshape(shape[0], FINENESS, shape[1], FINENESS)
    return blocks.mean(axis=(1, 3)) >= 0.5


def iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((first & second).sum() / (first | second).sum())


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images and XML files of the same names (default: generated)")
    parser.add_argument("--repeats", type=int, default=20, help="timed repeats per image (default: 20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        if options.data is None:
            generate(folder)
        images = {path.stem: path for path in find_files(folder)}
        pairs = [(images[path.stem], path) for path in find_files(folder, (".xml",)) if path.stem in images]
        print(f"{'':26}{'seconds, median (least)':>44}{'IoU with the finer fill':>34}")
        print(f"{'image':26}{'nuclei':>8}{'decode':>9}{'parse':>9}{'rasterise':>11}{'all':>16}{'together':>14}{'per nucleus':>13}")
        met = bool(pairs)
        for image, outlines in pairs:
            seconds = measure(image, outlines, options.repeats)
            regions = read_regions(outlines)
            together, alone = agreement(regions, read_image(image).shape[:2])
            parts = [statistics.median(part) for part in zip(*seconds, strict=True)]
            whole = [sum(repeat) for repeat in seconds]
            met = met and statistics.median(whole) < BAR_SECONDS and min(together, alone) > BAR_IOU
            print(
                f"{image.stem[:25]:26}{len(regions):8d}{parts[0]:9.3f}{parts[1]:9.3f}{parts[2]:11.3f}"
                f"{statistics.median(whole):8.3f} ({min(whole):.3f}){together:13.4f}{alone:13.4f}"
            )
    print(f"bar: all below {BAR_SECONDS:g} s, both IoU above {BAR_IOU:g}: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
