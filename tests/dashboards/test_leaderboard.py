"""The single page as text: every kind of lake gives one, and nothing in a lake can become markup."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dashboards.leaderboard import build, main
from dashboards.panels import PANELS
from tune.results import Writer, create_experiment

MakeLake = Callable[..., Path]
HOSTILE = "<script>alert(1)<\\script> \"'&<img src=x onerror=alert(2)> \u202eltr 😀 {{7*7}} %{x}"


class Page(HTMLParser):
    """The text that a reader sees, and every tag with its attributes."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(root: Path) -> Page:
    return Page(single(root))


def single(root: Path) -> str:
    """All on one page."""
    return build(root, root / "page.html").read_text(encoding="utf-8")


def lake(tmp_path: Path, *trials: dict[str, Any], metrics: tuple[dict[str, Any], ...] = (), name: str = "e", **about: Any) -> Path:
    create_experiment(tmp_path, name, {"dataset": "phantom"} | about)
    with Writer(tmp_path, name, flush_seconds=60) as writer:
        writer.append("trials", [{"trial_id": f"t{number}", "number": number, **trial} for number, trial in enumerate(trials)])
        writer.append("metrics", metrics)
    return tmp_path


def test_a_full_lake_has_every_panel(make_lake: MakeLake) -> None:
    page = page_of(make_lake(dataset="hippocampus"))
    for heading in ("Ranking", "Best, median and worst cases", *(panel.title for panel in PANELS)):
        assert heading in page.text
    assert "Hippo-Net" in page.text
    assert page.count("h1") == page.count("main") == 1
    assert sum("data-figure" in attributes for _, attributes in page.tags) == len(PANELS)
    assert not [attributes for _, attributes in page.tags if attributes.get("class") == "empty"]


def test_the_ranking_says_how_sure_it_is(tmp_path: Path) -> None:
    """Ten cases that agree tell two trials apart, and the board shows the best one's interval and the other's p."""
    root = lake(tmp_path, {"validation_dice": 0.9}, {"validation_dice": 0.8}, {"validation_dice": 0.7})
    with Writer(root, "e", flush_seconds=60) as writer:
        for number, shift in enumerate((0.0, -0.05)):
            for case in range(10):
                row = {"trial_id": f"t{number}", "split": "validation", "case": f"c{case}", "class": "x", "votes": 5}
                writer.append("cases", row | {"dice": 0.8 + 0.01 * case + shift, "iou": 0.7})
    content = single(root)
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr data-status.*?</tr>", content, re.DOTALL)]
    first, second, third = (next(row for row in rows if f"#{number}" in row) for number in range(3))
    assert re.search(r"0\.82\d–0\.86\d", first)
    assert "best" in first
    assert "0.002" in second  # 2 / 2 ** 10: all ten differ in the same direction
    assert not re.search(r"–0\.\d", third)


def test_the_page_loads_nothing(make_lake: MakeLake) -> None:
    page = page_of(make_lake())
    links = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "action", "data")
    ]
    assert all(value is not None and value.startswith(("#", "data:")) for value in links)
    (policy,) = [attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_literature_chosen_on_test_is_marked(make_lake: MakeLake) -> None:
    content = single(make_lake(dataset="monuseg", trials=3))
    rows = re.findall(r'<tr class="published".*?</tr>', content)
    assert [("selected on test" in row) for row in rows] == [False, True, False]
    assert "best epoch picked on test" in rows[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("trials", "sentence"),
    [
        ((), "no trials yet"),
        (({"status": "running"}, {"status": "pending"}), "No trial has a validation Dice yet"),
        (
            ({"status": "failed", "error": "CUDA out of memory: 7 GiB"}, {"status": "diverged", "reason": "loss is NaN"}),
            "out of memory",
        ),
        (({"status": "finished", "validation_dice": math.nan, "config.a.b": math.nan},), "No trial has a validation Dice yet"),
        (({"status": "finished", "validation_dice": 0.5, "config.a.b": 1},), "needs at least two"),
        (({"validation_dice": 0.5, "config.a.b": 1}, {"validation_dice": 0.6, "config.a.b": 1}), "needs at least two"),
        (({"validation_dice": 0.5, "config.a.b": "one"}, {"validation_dice": 0.6, "config.a.b": "two"}), "Each line is one trial"),
        (({"validation_dice": 0.5, "config.a.b": 2}, {"validation_dice": 0.6}), "needs at least two"),
        (({"number": None, "status": None, "validation_dice": 0.4},), "unknown"),
    ],
    ids=["no trials", "none finished", "all failed", "NaN", "one trial", "constant", "words", "missing value", "nulls"],
)
def test_awkward_lakes_give_a_page_that_says_so(tmp_path: Path, trials: tuple[dict[str, Any], ...], sentence: str) -> None:
    page = page_of(lake(tmp_path, *trials))
    assert sentence in page.text
    assert "nan" not in page.text.lower().replace("is nan", "")


def test_a_constant_searched_parameter_is_named_not_drawn(tmp_path: Path) -> None:
    trials = (
        {"validation_dice": 0.5, "config.a.b": 1, "config.a.c": 1},
        {"validation_dice": 0.6, "config.a.b": 1, "config.a.c": 2},
    )
    assert "The same in all trials, so not drawn: b." in page_of(lake(tmp_path, *trials, searched=["a.b", "a.c"])).text


@pytest.mark.long
def test_datasets_have_their_own_sections(make_lake: MakeLake) -> None:
    make_lake("one", dataset="phantom", trials=3)
    make_lake("two", dataset="hippocampus", trials=3)
    page = page_of(make_lake("three", dataset="hippocampus", trials=3, seed=1))
    assert page.count("h2") == 2
    assert "Experiments: three, two" in page.text
    assert "three #0" in page.text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = {
        "status": HOSTILE,
        "kind": HOSTILE,
        "dataset": HOSTILE,
        "validation_dice": 0.5,
        "config.x.y": HOSTILE,
        f"config.{HOSTILE}": 1,
    }
    failed = {"status": "failed", "error": HOSTILE + "x" * 10_000, "dataset": HOSTILE, f"config.{HOSTILE}": 2, "config.x.y": "z"}
    name = HOSTILE.replace("\u202e", "")
    metrics = ({"trial_id": "t0", "epoch": 1, "dice": 0.5},)
    root = lake(tmp_path, evil, failed | {"validation_dice": 0.1}, metrics=metrics, name=name, dataset=HOSTILE, protocol=HOSTILE)
    with Writer(root, name) as writer:
        writer.append("gallery", {"trial_id": "t0", "split": HOSTILE, "case": HOSTILE, "image": b"<svg onload=alert(3)>"})
    page = page_of(root)
    assert "<script>alert(1)" in page.text
    assert page.count("script") == 3
    assert page.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\u202e" not in page.text


def test_long_rankings_are_cut_and_say_so(tmp_path: Path) -> None:
    page = page_of(lake(tmp_path, *({"validation_dice": number / 2000} for number in range(1200))))
    assert "700 lower-ranked trials are left out" in page.text
    assert page.count("tr") < 1300


def test_an_older_lake_without_our_columns_has_a_page(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = lake(tmp_path)
    recorded = pa.array([0], pa.timestamp("us", tz="UTC"))
    rows = pa.table({"experiment": ["e"], "trial_id": ["old"], "validation_dice": [0.5], "recorded_at": recorded})
    (root / "e" / "trials").mkdir(exist_ok=True)
    pq.write_table(rows.replace_schema_metadata({"schema_version": "1"}), root / "e" / "trials" / "old.parquet")
    assert "old" in page_of(root).text


# ------------------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_the_page_and_prints_its_path(
    make_lake: MakeLake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_lake(trials=2)
    assert main(["--storage", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(root / "leaderboard" / "index.html")
    out = tmp_path / "new" / "page.html"
    assert main(["--storage", str(root), "--out", str(out)]) == 0
    assert out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_a_bad_storage_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "dashboards" / "leaderboard.py"
    command = [sys.executable, str(script), "--storage", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "no such folder" in done.stderr


def test_an_output_that_cannot_be_written_is_status_2(
    make_lake: MakeLake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--storage", str(make_lake(trials=1)), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "give another place with --out" in capsys.readouterr().err


def test_without_the_project_installed_it_says_what_to_do(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "dashboards" / "leaderboard.py"
    code = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "tune":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=script.parents[1])
    assert done.returncode != 0
    assert done.stderr.strip().endswith("run `pip install -e .` in its folder first")
    assert done.stderr.count("\n") == 1


def test_the_dashboard_imports_neither_model_nor_ray() -> None:
    code = (
        "import sys, dashboards.leaderboard; print(*sorted({'ray', 'torch', 'cdal.config', 'optuna', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
