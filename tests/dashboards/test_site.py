"""The leaderboard as a folder of pages: what is written, how pages refer to each other, and what is never touched."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from dashboards.leaderboard import build, main
from dashboards.pages.website import MAX_TRIAL_PAGES, file_name
from tune.results import Writer, create_experiment

MakeLake = Callable[..., Path]
HOSTILE = "<img src=x onerror=alert(1)> \"'& 😀 {{7*7}} ../.. עברית"


def words(path: Path) -> str:
    """What a reader sees, roughly."""
    return " ".join(unescape(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", path.read_text(), flags=re.DOTALL)).split())


def trial_pages(site: Path, experiment: str = "first") -> list[str]:
    return sorted(path.name for path in (site / "pages" / "trials" / experiment).iterdir())


@pytest.mark.long
def test_pages_of_the_lake_its_experiments_and_trials(make_lake: MakeLake) -> None:
    make_lake("first", trials=6)
    root = make_lake("second", dataset="hippocampus", trials=4)
    index = build(root)
    assert index == root / "leaderboard" / "index.html"
    site = index.parent
    assert sorted(path.name for path in site.iterdir()) == ["index.html", "pages"]
    assert sorted(path.name for path in (site / "pages" / "experiments").iterdir()) == ["first.html", "second.html"]
    assert trial_pages(site) == [f"t{number:04d}.html" for number in range(6)]
    assert len(list(site.rglob("plotly*.js"))) == 1
    assert index.stat().st_size < 500_000
    assert not list(site.rglob("*.tmp"))
    for page in site.rglob("*.html"):
        content = page.read_text()
        for link in re.findall(r'(?:href|src)="([^"#]+)"', content):
            assert link.startswith("data:") or (page.parent / link).is_file(), (page, link)
        assert "default-src 'none'" in content
        assert "http://" not in content.replace("http://www.w3.org", "")


@pytest.mark.long
def test_a_trial_page_tells_everything_about_it(make_lake: MakeLake) -> None:
    site = build(make_lake(trials=12)).parent
    (page,) = [path for path in (site / "pages" / "trials" / "first").glob("t0001.html")]
    text = words(page)
    for part in ("plain U-Net", "case_006", "node-1", "seed 3", "0123abc", "first/tune/t0001/best.safetensors", "discriminator"):
        assert part in text
    assert "of 7 differ from the experiment's published settings" in text
    rows = re.findall(r'<tr class="worst">.*?data-value="([0-9.]+)"', page.read_text())
    assert len(rows) == 5
    assert rows == sorted(rows, key=float)
    assert "loss.adversarial 0" in words(site / "pages" / "trials" / "first" / "t0000.html")


def test_a_failed_trial_tells_why(tmp_path: Path) -> None:
    create_experiment(tmp_path, "e", {"dataset": "phantom"})
    with Writer(tmp_path, "e") as writer:
        error = HOSTILE + "x" * 20_000
        writer.append("trials", {"trial_id": "a", "number": 0, "status": "failed", "reason": "CUDA broke", "error": error})
    page = build(tmp_path).parent / "pages" / "trials" / "e" / "a.html"
    assert "CUDA broke" in words(page)
    assert "<img src=x onerror=alert(1)>" in words(page)
    assert "<img" not in page.read_text()
    assert page.stat().st_size < 100_000


def test_a_finalist_is_one_row_however_often_it_was_trained(make_lake: MakeLake) -> None:
    root = make_lake(trials=4)
    create_experiment(root, "first-finalists", {"dataset": "phantom", "source": "first", "finalists": []})
    with Writer(root, "first-finalists") as writer:
        for number in range(6):
            about = {"finalist": "t0001" if number % 2 else "t0000", "seed": number, "kind": "unet" if number % 2 else "published"}
            dice = 0.8 + 0.01 * number
            row = {"trial_id": f"f{number}", "number": number, "status": "finished", "validation_dice": dice, "test_dice": dice}
            writer.append("trials", row | about | {"dataset": "phantom", "test_evaluations": 1 + number % 2, "search_dice": 0.7})
            for case in range(5):
                score = {"trial_id": f"f{number}", "split": "test", "case": f"c{case}", "class": "x", "votes": 5, "dice": dice}
                writer.append("cases", score | {"iou": 0.7})
    site = build(root).parent
    rows = re.findall(r'<tr class="finalist".*?</tr>', (site / "index.html").read_text())
    assert len(rows) == 2
    assert "finalist t0001" in rows[0]
    assert "0.8300" in rows[0]
    assert "tested 2 times" in rows[0]
    assert "tested" not in rows[1]
    assert "f3" not in words(site / "index.html")  # trainings are not trials of their own
    assert len(trial_pages(site, "first-finalists")) == 6


def test_inactive_parameters_are_dashes(tmp_path: Path) -> None:
    rule = {"loss.attention": {"min": 0.0, "max": 1.0}}
    rule["loss.normalised"] = {"values": [False, True], "condition": {"loss.attention": {"min": 0.5}}}  # type: ignore[dict-item]
    create_experiment(tmp_path, "e", {"dataset": "phantom", "space": {"parameters": rule}})
    with Writer(tmp_path, "e") as writer:
        for number, attention in enumerate((0.2, 0.9)):
            row = {"trial_id": f"t{number}", "number": number, "validation_dice": 0.5 + number / 10, "status": "finished"}
            writer.append("trials", row | {"config.loss.attention": attention, "config.loss.normalised": True})
    content = (build(tmp_path).parent / "index.html").read_text()
    first, second = (
        re.findall(rf"<tr data-status.*?#{number}<.*?</tr>", content.replace("</tr>", "</tr>\n"))[0] for number in (0, 1)
    )
    assert "True" in second
    assert "True" not in first


@pytest.mark.parametrize("name", ["A b", "a b", "a-b", "é", "CON", HOSTILE.replace("/", "_"), "x" * 190, "a.b", "-"])
def test_names_of_files_are_safe_and_their_own(name: str) -> None:
    names = ["A b", "a b", "a-b", "é", "e", "CON", "con", HOSTILE, "x" * 190, "x" * 189, "a.b", "a_b", "-", "_", "a-b~0123"]
    found = file_name(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9~-]{0,70}", found)
    assert [other for other in names if other != name and file_name(other) == found] == []
    assert file_name("phantom-20261125-131429") == "phantom-20261125-131429"


@pytest.mark.long
def test_outdated_pages_go_and_nothing_else(make_lake: MakeLake, tmp_path: Path) -> None:
    root, out = make_lake(trials=3), tmp_path / "site"
    build(root, out)
    stamp = (out / "pages" / "assets" / "plotly.min.js").stat().st_mtime_ns
    (out / "notes.txt").write_text("mine")
    (out / "pages" / "trials" / "first" / "t9999.html").write_text("of a trial that is no longer there")
    (out / "pages" / "trials" / "gone").mkdir()
    (out / "pages" / "trials" / "gone" / "t0000.html").write_text("likewise")
    build(root, out)
    assert (out / "notes.txt").read_text() == "mine"
    assert trial_pages(out) == ["t0000.html", "t0001.html", "t0002.html"]
    assert not (out / "pages" / "trials" / "gone").exists()
    assert (out / "pages" / "assets" / "plotly.min.js").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("taken", ["index.html", "pages/mine.txt"])
def test_a_folder_of_somebody_else_is_not_touched(
    make_lake: MakeLake, tmp_path: Path, capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    out = tmp_path / "site"
    (out / taken).parent.mkdir(parents=True)
    (out / taken).write_text("mine")
    assert main(["--storage", str(make_lake(trials=1)), "--out", str(out)]) == 2
    assert "give another place with --out" in capsys.readouterr().err
    assert (out / taken).read_text() == "mine"


@pytest.mark.long
def test_only_the_best_and_the_controls_have_pages(tmp_path: Path) -> None:
    create_experiment(tmp_path, "e", {"dataset": "phantom"})
    kinds = {0: "published", 1: "unet"}
    with Writer(tmp_path, "e", flush_seconds=60) as writer:
        for number in range(MAX_TRIAL_PAGES + 20):
            row = {"trial_id": f"t{number:04d}", "number": number, "kind": kinds.get(number, "searched"), "status": "finished"}
            writer.append("trials", row | {"validation_dice": number / 1000})
    site = build(tmp_path).parent
    pages = trial_pages(site, "e")
    assert pages[:3] == ["t0000.html", "t0001.html", "t0020.html"]
    assert len(pages) == MAX_TRIAL_PAGES + 2
    assert "18 trials have no page of their own" in words(site / "index.html")
