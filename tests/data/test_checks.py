"""What inspect points out, and what it does not."""

import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from own_folders import mask, save, two_folders
from PIL import Image
from scipy import ndimage

from cdal.data.__main__ import main
from cdal.data.inspection import Inspection, inspect_folder
from cdal.data.inspection.contact_sheet import contact_sheet


def scene(seed: int, side: int = 96) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A smooth image with bright blobs, and their mask."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 16)
    where = noise > np.quantile(noise, 0.8)
    image = 90 + 80 * ndimage.gaussian_filter(where.astype(float), side / 90) + rng.normal(0, 6, (side, side))
    return image.clip(0, 255).astype(np.uint8), where * np.uint8(255)


def scenes(folder: Path, change: Callable[[int, npt.NDArray[Any]], npt.NDArray[Any]] = lambda _, label: label) -> Path:
    for number in range(12):
        image, label = scene(number)
        save(folder / "images" / f"case_{number:02}.png", image)
        save(folder / "masks" / f"case_{number:02}.png", np.ascontiguousarray(change(number, label)))
    return folder


def found(folder: Path) -> Inspection:
    inspection = inspect_folder(folder)
    assert not inspection.problems
    return inspection


def named(inspection: Inspection, kind: str) -> set[str]:
    """The cases of the findings of a kind; the contact sheet marks them."""
    cases = {case for finding in inspection.findings if finding.kind == kind for case in finding.cases}
    assert not cases or f"{kind}" in contact_sheet(inspection)
    return cases


def test_sound_data(tmp_path: Path) -> None:
    assert found(scenes(tmp_path / "data")).findings == []


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_shifted_masks(tmp_path: Path, share: float) -> None:
    pixels = round(96 * share)
    one = found(scenes(tmp_path / "one", lambda number, label: np.roll(label, pixels * (number == 5), axis=(0, 1))))
    assert named(one, "shifted") == {"case_05"}
    every = found(scenes(tmp_path / "every", lambda _, label: np.roll(label, pixels, axis=1)))
    assert len(named(every, "shifted")) == 12
    assert "to the left" in every.findings[0].text


def test_flipped_masks(tmp_path: Path) -> None:
    """As by a reader that begins at the other end of a row."""
    every = found(scenes(tmp_path / "every", lambda _, label: label[:, ::-1]))
    assert named(every, "flipped") == {f"case_{number:02}" for number in range(12)}
    assert "flipped left-right" in next(one.text for one in every.findings if one.kind == "flipped")
    one = found(scenes(tmp_path / "one", lambda number, label: label[::-1] if number == 3 else label))
    assert named(one, "flipped") == {"case_03"}


COPIES: dict[str, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    "saved as JPEG": lambda image: image,
    "brighter": lambda image: (image * 0.8 + 30).astype(np.uint8),
    "smaller": lambda image: np.array(Image.fromarray(image).resize((72, 72), Image.Resampling.BILINEAR)),
    "larger": lambda image: np.array(Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC)),
    "in colours": lambda image: np.repeat(image[..., None], 3, axis=2),
}


@pytest.mark.parametrize("kind", COPIES)
def test_near_copies(tmp_path: Path, kind: str) -> None:
    folder = scenes(tmp_path / "data")
    image, label = scene(2)
    copied = Image.fromarray(COPIES[kind](image))
    (folder / "images" / "case_09.png").unlink()
    copied.save(folder / "images" / f"case_09.{'jpg' if 'JPEG' in kind else 'png'}", quality=70)
    Image.fromarray(label).resize(copied.size, Image.Resampling.NEAREST).save(folder / "masks" / "case_09.png")
    assert named(found(folder), "near copies") == {"case_02", "case_09"}


def test_inverted_masks(tmp_path: Path) -> None:
    small = [np.where(np.add.outer(*[np.arange(96)] * 2) < 60, label, 0) for label in (scene(number)[1] for number in range(12))]
    one = found(scenes(tmp_path / "small", lambda number, _: 255 - small[number] if number == 7 else small[number]))
    assert named(one, "inverted") == {"case_07"}
    every = found(scenes(tmp_path / "every", lambda number, _: 255 - small[number]))
    assert len(named(every, "inverted")) == 12


def as_json(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """What `inspect --json` prints, which must be JSON as every parser takes it."""
    out, error = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        status = main(["inspect", *arguments, "--json"])
    assert out.getvalue().isascii()
    return status, json.loads(out.getvalue(), parse_constant=pytest.fail), error.getvalue()


def test_json_whatever_happens(tmp_path: Path) -> None:
    """The same keys where nothing can be read; problems say what the error says."""
    folder, sheet = scenes(tmp_path / "Daten für Özge"), ["--out", str(tmp_path / "sheet.html")]
    status, sound, error = as_json(str(folder), *sheet)
    assert (status, error, sound["ready"], sound["problems"]) == (0, "", True, [])
    (tmp_path / "empty").mkdir()
    masks = two_folders(tmp_path / "photographs")
    for number in range(6):
        save(masks / "masks" / f"case_{number}.png", np.random.default_rng(number).integers(0, 256, (40, 48, 3)).astype(np.uint8))
    for arguments in (
        [str(tmp_path / "nowhere"), *sheet],
        [str(tmp_path / "empty"), *sheet],
        [str(masks), *sheet],
        [str(folder), *sheet, "--set", "dataset.colour=1"],
        [str(folder), *sheet, "--set", "dataset.ignore_label=x"],
        [str(folder), *sheet, "--groups", str(tmp_path / "none.csv")],
        [str(folder), "--out", str(tmp_path / "no" / "sheet.html")],
        [str(folder), *sheet, "--dataset", "hippocampus"],
    ):
        status, told, error = as_json(*arguments)
        assert status == 2, arguments
        assert told.keys() == sound.keys()
        assert not told["ready"]
        assert told["problems"]
        assert told["command"] is None
        assert error.count("\n") == 1


def test_every_pixel_of_a_case_is_ignored(tmp_path: Path) -> None:
    """Named, beside all else that is wrong."""
    folder = two_folders(tmp_path / "data", values=(1, 2, 255))
    for number in (2, 4):
        save(folder / "masks" / f"case_{number}.png", np.full((40, 48), 255, np.uint8))
    problems = inspect_folder(folder).problems
    assert len(problems) == 2
    assert all(f"case_{number}.png is ignored" in told for number, told in zip((2, 4), problems, strict=True))


def test_options_reach_published_data(tmp_path: Path) -> None:
    """An option that a dataset does not have is refused, as it is where a search opens it."""
    folder = two_folders(tmp_path / "data")
    status, told, _ = as_json(
        str(folder), "--out", str(tmp_path / "s.html"), "--dataset", "chest_xray", "--set", "dataset.resample=false"
    )
    assert status == 2
    assert "unknown option 'resample'" in told["problems"][0]


def test_masks_of_no_group_are_told_with_their_folds(tmp_path: Path) -> None:
    """A class that hardly a case has."""
    folder = two_folders(tmp_path / "data", 12, values=(1,))
    save(folder / "masks" / "case_3.png", mask(3, values=(1, 2)))
    assert named(found(folder), "rare class") == {"case_3"}
