"""What a careful colleague would tell: `python -m cdal.data inspect` and `convert`."""

import json
from pathlib import Path

import numpy as np
from own_folders import mask, nnunet, picture, save, two_folders, volume, volume_label
from scipy import ndimage

from .situation import ISSUE, Kind, Steps, command, inspected, is_class, is_foreground, opened, truth, warned

inspection = Kind("inspection")


def scene(seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with bright blobs, and where they are."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), 4)
    where = noise > np.quantile(noise, 0.8)
    image = 90 + 80 * ndimage.gaussian_filter(where.astype(float), 0.7) + rng.normal(0, 6, (side, side))
    return image.clip(0, 255).astype(np.uint8), where


def scenes(folder: Path, count: int = 12) -> None:
    for number in range(count):
        image, where = scene(number)
        save(folder / "images" / f"case_{number:02}.png", image)
        save(folder / "masks" / f"case_{number:02}.png", where * np.uint8(255))


@inspection.holds("sound data", ISSUE, "status 0, nothing to look at, and the command that starts the search")
def _(folder: Path) -> Steps:
    scenes(folder)
    yield
    found = inspected(folder)
    assert (found.status, found.error) == (0, "")
    assert "Worth a look" not in found.told
    assert f"tune/search.py --data {folder}" in found.told.replace("'", "")


@inspection.holds("a folder name with spaces", ISSUE, "the command that starts the search can be pasted")
def _(folder: Path) -> Steps:
    two_folders(folder / "My data (2024)", 6)
    yield
    found = inspected(folder / "My data (2024)")
    assert found.status == 0
    assert f"--data '{folder}/My data (2024)'" in found.told


@inspection.holds("a mask shifted against its image", ISSUE, "told: its name")
def _(folder: Path) -> Steps:
    scenes(folder)
    _, where = scene(5)
    save(folder / "masks" / "case_05.png", np.roll(where, (9, 11), (0, 1)) * np.uint8(255))
    yield
    warned(folder, "case_05", "shift|moved|another place|align")


@inspection.holds("all but a few masks are empty", "https://github.com/GriffinLiang/AISD/issues/17", "told: how many, and names")
def _(folder: Path) -> Steps:
    scenes(folder)
    for number in range(3, 12):
        save(folder / "masks" / f"case_{number:02}.png", np.zeros((64, 64), np.uint8))
    yield
    warned(folder, "9 (masks|cases|of)", "empty", "case_03")


@inspection.holds("one image of another size", ISSUE, "told: its name and its size")
def _(folder: Path) -> Steps:
    scenes(folder)
    save(folder / "images" / "case_06.png", picture(6, 700, 20))
    save(folder / "masks" / "case_06.png", mask(6, 700, 20))
    yield
    warned(folder, "case_06", "size|larger|smaller|px")


@inspection.holds("one volume of another spacing", ISSUE, "told: its name and its spacing")
def _(folder: Path) -> Steps:
    for number in range(8):
        affine = np.diag([-1.0, -1.0, -5.0 if number == 6 else -1.0, 1.0])
        save(folder / "images" / f"case_{number}.nii.gz", volume(number, 16, 18, 10), affine)
        save(folder / "labels" / f"case_{number}.nii.gz", volume_label((16, 18, 10)), affine)
    yield
    warned(folder, "case_6", r"spacing.*\b5\b|\b5\b.*spacing")


@inspection.holds("one image of another modality", ISSUE, "told: its values are not those of the others")
def _(folder: Path) -> Steps:
    scenes(folder)
    save(folder / "images" / "case_08.png", (255 - scene(8)[0] // 8).astype(np.uint8))
    yield
    warned(folder, "case_08", "bright|intensit|values|modalit")


@inspection.holds("near-copies", "https://arxiv.org/abs/2312.07273", "told: both names")
def _(folder: Path) -> Steps:
    scenes(folder)
    image = scene(2)[0].astype(int) + np.random.default_rng(0).integers(-1, 2, (64, 64))
    save(folder / "images" / "case_09.png", image.clip(0, 255).astype(np.uint8))
    save(folder / "masks" / "case_09.png", scene(2)[1] * np.uint8(255))
    yield
    warned(folder, "case_02", "case_09", "alike|same|copy|copies|similar|duplicate")


@inspection.holds(
    "a copy in another patient",
    "https://ucsc-ospo.github.io/report/osre24/nyu/data-leakage/20240823-kyrillosishak",
    "told as a leak, with both names",
)
def _(folder: Path) -> Steps:
    for number in range(20):
        name = f"patient{number // 4:02}_slice{number % 4:02}"
        image, where = scene(number)
        save(folder / "images" / f"{name}.png", scene(1)[0] if number == 18 else image)
        save(folder / "masks" / f"{name}.png", where * np.uint8(255))
    yield
    warned(folder, "patient00_slice01", "patient04_slice02", "same|duplicate|twice|leak")


@inspection.holds("findings for a machine", ISSUE, "--json gives the same as data")
def _(folder: Path) -> Steps:
    scenes(folder)
    save(folder / "images" / "case_09.png", scene(2)[0])
    yield
    found = inspected(folder, "--json")
    assert found.status == 0
    told = json.loads(found.told)
    assert told["ready"]
    assert told["problems"] == []
    assert any({"case_02", "case_09"} <= set(finding["cases"]) for finding in told["findings"])


@inspection.holds("problems for a machine", ISSUE, "--json is printed where data are refused too")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    (folder / "masks" / "case_1.png").unlink()
    yield
    found = inspected(folder, "--json")
    assert found.status == 2
    assert "case_1" in json.dumps(json.loads(found.told)["problems"])


@inspection.holds("a clean copy of images", ISSUE, "convert writes nnU-Net v2 with what was decided, read again as the same")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    for number in (1, 4):
        save(folder / "masks" / f"case_{number}.png", mask(number, values=(1,)))
    yield
    out = folder.parent / "clean"
    done = command("convert", str(folder), "--to", str(out))
    assert done.status == 0, done.error
    listing = json.loads((out / "dataset.json").read_text())
    assert listing["labels"] == {"background": 0, "foreground": 1}
    assert listing["numTraining"] == 6
    dataset = opened(out)
    for number in (1, 2):
        is_foreground(dataset, truth(dataset, f"case_{number}"), mask(number) > 0)


@inspection.holds("a clean copy of volumes", ISSUE, "convert keeps grid, affine and channels")
def _(folder: Path) -> Steps:
    nnunet(folder, 5, 2)
    yield
    out = folder.parent / "clean"
    done = command("convert", str(folder), "--to", str(out))
    assert done.status == 0, done.error
    dataset = opened(out)
    assert dataset.spec.image_channels == 2
    assert dataset.case("case_1").spacing == (1, 1, 1)
    is_class(dataset, "edema", truth(dataset, "case_1"), volume_label((12, 14, 6), (1, 2)).transpose(2, 0, 1) == 2)


@inspection.holds("a copy onto what is there", ISSUE, "refused: nothing is overwritten")
def _(folder: Path) -> Steps:
    two_folders(folder, 6)
    out = two_folders(folder.parent / "clean", 2)
    yield
    done = command("convert", str(folder), "--to", str(out))
    assert done.status == 2
    assert "clean" in done.error
    assert len(list((out / "images").iterdir())) == 2
