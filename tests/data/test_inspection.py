"""`python -m cdal.data inspect`: what it finds, what it tells, and the page it writes."""

import base64
import re
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from own_folders import decathlon, mask, picture, save, two_folders, volume, volume_label
from patience import run
from PIL import Image

from cdal.data.__main__ import main
from cdal.data.inspection import class_rows, fold_rows, inspect_folder, overview
from cdal.data.inspection.contact_sheet import contact_sheet
from cdal.errors import InputError


class Page(HTMLParser):
    """The pieces of a page that tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data

    def image(self, number: int) -> np.ndarray:
        data = self.addresses[number].partition("base64,")[2]
        return np.array(Image.open(BytesIO(base64.b64decode(data))))


def test_what_a_sound_folder_holds(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "mine", 8, colours=3, values=(1, 2))
    save(folder / "masks" / "case_0.png", mask(0, values=(1,)))
    save(folder / "images" / "case_1.png", picture(1, 30, 60, 3))
    save(folder / "masks" / "case_1.png", mask(1, 30, 60, values=(1, 2)))
    found = inspect_folder(folder)
    assert (found.dataset, found.classes, found.problems, found.warnings) == ("own", ("value 1", "value 2"), [], [])
    rows = dict(overview(found))
    assert rows["Cases"] == "8"
    assert rows["Size"] == "smallest 48 × 30, median 48 × 40, largest 60 × 40 (px, width × height)"
    assert (rows["Image channels"], rows["Stored as"]) == ("3", "uint8")
    assert rows["Values"] == "lowest of a case 0, highest 255"
    pixels = 7 * 40 * 48 + 30 * 60
    assert class_rows(found) == [
        ("0", "background", f"{1 - (88 * 15) / pixels:.2%}", "8"),
        ("1", "value 1", f"{88 * 8 / pixels:.2%}", "8"),
        ("2", "value 2", f"{88 * 7 / pixels:.2%}", "7"),
    ]
    assert fold_rows(found)[1] == ("1", "partition 2 of 4", "4", "2", "2")


def test_what_a_folder_of_volumes_holds(tmp_path: Path) -> None:
    folder = decathlon(tmp_path, modalities=2)
    save(folder / "imagesTr" / "case_1.nii.gz", volume(1, 12, 14, 6, 2), np.diag([-1.0, -1.0, -4.0, 1.0]))
    save(folder / "labelsTr" / "case_1.nii.gz", volume_label((12, 14, 6), (1, 2)), np.diag([-1.0, -1.0, -4.0, 1.0]))
    found = inspect_folder(folder)
    rows = dict(overview(found))
    assert rows["Size"] == "12 × 14 × 6 (voxels left-right × front-back × up-down)"
    assert rows["Spacing"] == "smallest 1 × 1 × 1, median 1 × 1 × 1, largest 1 × 1 × 4 (mm, likewise)"
    assert rows["Licence"] == "CC0"
    assert found.warnings == ["spacings up-down go from 1 to 4 mm: case_1"]


def test_all_problems_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each file's sentence, and what two files together have wrong; the sound cases are shown all the same."""
    folder = two_folders(tmp_path / "mine", 9)
    (folder / "images" / "case_0.png").write_bytes(b"")
    (folder / "masks" / "case_1.png").unlink()
    (folder / "masks" / "case_2.png").write_text("hello")
    save(folder / "masks" / "case_3.png", mask(3, 20, 20))
    save(folder / "images" / "case_5.png", picture(5).astype(np.uint16) * 200)
    assert main(["inspect", str(folder), "--out", str(tmp_path / "sheet.html")]) == 2
    printed = capsys.readouterr()
    page = Page((tmp_path / "sheet.html").read_text())
    for told in (printed.out, page.text):
        for words in (
            "images/case_0.png is empty (0 bytes)",
            "images/case_1.png has no mask",
            "masks/case_2.png is no PNG, TIFF, JPEG or BMP image",
            "masks/case_3.png is 20 x 20 px, but its image case_3.png is 48 x 40 px",
            "images/case_5.png has values of more bits, but case_4.png has 8-bit values",
        ):
            assert told.count(words) == 1
    assert printed.err == f"error: {folder} has 5 problems, listed above; put them right before training on it\n"
    assert page.tags.count("figure") == 5


def test_odd_things_are_warned_of(tmp_path: Path) -> None:
    folder = two_folders(tmp_path, 12, values=(1,))
    for number in range(7):
        save(folder / "masks" / f"case_{number}.png", mask(number, values=()))
    save(folder / "masks" / "case_8.png", mask(8, values=(1, 2)))
    save(folder / "images" / "case_9.png", picture(3))
    save(folder / "images" / "case_5.png", np.full((40, 48), 7, np.uint8))
    found = inspect_folder(folder)
    assert found.problems == []
    assert found.warnings == [
        "7 masks are empty: case_0, case_1, case_2, case_3, case_4 and 2 more",
        "the class value 1 is in 5 of 12 cases: case_10, case_11, case_7, case_8, case_9",
        "the class value 2 is in 1 of 12 cases: case_8 (of 1 group)",
        "1 image has one value everywhere: case_5",
        "2 images are the same pixel by pixel, which flatters scores if one trains and one tests: case_3, case_9",
    ]


def test_a_page_shows_every_mask_over_its_image(tmp_path: Path) -> None:
    folder = two_folders(tmp_path / "mine", 4, values=(85, 170))
    page = Page(contact_sheet(inspect_folder(folder)))
    assert page.tags.count("figure") == 4
    image, overlay = page.image(0), page.image(1)
    assert image.shape[:2] == overlay.shape[:2] == (267, 320)
    stored = np.array(Image.fromarray(mask(0, values=(85, 170))).resize((320, 267), Image.Resampling.NEAREST))
    assert np.array_equal(overlay[..., 3] > 0, stored > 0)
    first, second = (np.unique(overlay[stored == value][:, :3], axis=0) for value in (85, 170))
    assert len(first) == len(second) == 1
    assert not np.array_equal(first, second)
    edge, inside = overlay[..., 3].max(), np.median(overlay[..., 3][stored == 85])
    assert edge == 255 > inside > 0


def test_a_volume_shows_the_slice_with_most_foreground(tmp_path: Path) -> None:
    """Front at the top, the patient's right on the left."""
    folder = decathlon(tmp_path, count=4, classes=("a",))
    for number in range(4):
        label = np.zeros((12, 14, 6), np.uint8)
        label[9:, 1:4, 4] = 1  # LPI: far left, in front
        label[0, 0, 1] = 1
        save(folder / "labelsTr" / f"case_{number}.nii.gz", label)
    found = inspect_folder(folder)
    small = found.thumbnails[found.cases[0].id]
    assert small.slice == 4
    rows, columns = np.nonzero(small.label)
    assert rows.mean() < small.label.shape[0] / 3
    assert columns.mean() > 2 * small.label.shape[1] / 3
    assert small.label.shape == (320, 274)
    assert "12 × 14 × 6, slice 5 of 6" in Page(contact_sheet(found)).text


def test_a_page_needs_nothing_else_and_escapes_everything(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "<b>bold & co", classes=("<script>alert(1)</script>", '"quoted" & more'))
    (folder / "imagesTr" / "case_0.nii.gz").rename(folder / "imagesTr" / "<img src=x onerror=alert(1)>.nii.gz")
    listing = folder / "dataset.json"
    listing.write_text(listing.read_text().replace("imagesTr/case_0.nii.gz", "imagesTr/<img src=x onerror=alert(1)>.nii.gz"))
    (folder / "labelsTr" / "case_1.nii.gz").write_text("<u>hello</u>")
    text = contact_sheet(inspect_folder(folder))
    page = Page(text)
    assert not {"script", "b>bold", "u", "link", "iframe"} & set(page.tags)
    assert page.tags.count("img") == 2 * 4
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "http" not in text
    assert "<script>alert(1)</script>" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.long
def test_many_cases_are_capped(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for number in range(203):
        save(folder / "images" / f"case_{number:03}.bmp", picture(number, 4, 4))
        save(folder / "masks" / f"case_{number:03}.bmp", np.eye(4, dtype=np.uint8))
    page = Page(contact_sheet(inspect_folder(folder)))
    assert page.tags.count("figure") == 200
    assert "The first 200 of 203 cases." in page.text


def test_a_name_that_was_not_recognised(tmp_path: Path) -> None:
    """--dataset decides: the same folder as own data and as hippocampus."""
    folder = decathlon(tmp_path)
    assert inspect_folder(folder).classes == ("Front", "Back")
    found = inspect_folder(folder, "hippocampus")
    assert (found.dataset, found.classes) == ("hippocampus", ("front", "back"))


def test_a_folder_that_tells_no_cases(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no known layout; --data must be a folder with images/ and masks/"):
        inspect_folder(tmp_path)
    two_folders(tmp_path / "inner")  # as an archive unpacks
    assert len(inspect_folder(tmp_path).cases) == 6


def test_where_the_page_goes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = two_folders(tmp_path / "mine")
    assert main(["inspect", str(folder), "--out", str(tmp_path / "nowhere" / "sheet.html")]) == 2
    assert "must be a file in a folder that exists" in capsys.readouterr().err
    assert main(["inspect", str(folder), "--out", str(tmp_path)]) == 2
    capsys.readouterr()
    assert main(["inspect", str(folder), "--out", str(tmp_path / "sheet.html")]) == 0
    printed = capsys.readouterr()
    assert "No problems found." in printed.out
    assert f"contact sheet: {tmp_path / 'sheet.html'}" in printed.out.replace("\n", "")
    assert printed.err == ""


@pytest.mark.long
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As users start it: the default page lies in the current folder, and help explains."""
    folder = two_folders(tmp_path / "mine")
    done = run([sys.executable, "-m", "cdal.data", "inspect", folder], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "inspection.html").is_file()
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m cdal.data inspect MyData" in capsys.readouterr().out


@pytest.mark.long
def test_the_real_volumes(hippocampus_folder: Path) -> None:
    found = inspect_folder(hippocampus_folder)
    assert (found.dataset, found.problems, found.warnings) == ("hippocampus", [], [])
    rows = dict(overview(found))
    assert rows["Stored as"] == "float32 (205), uint8 (55)"
    assert rows["Size"].startswith("smallest 31 × 40 × 24, median ")
    assert [row[1] for row in class_rows(found)] == ["background", "anterior", "posterior"]
    assert re.fullmatch(r"2\.\d\d%", class_rows(found)[1][2])
    assert [row[2:] for row in fold_rows(found)] == [("156", "39", "65")] * 4
