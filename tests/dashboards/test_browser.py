"""The pages in a real browser: everything draws, nothing complains, nothing leaves the machine, nobody is shut out."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards import summaries
from dashboards.leaderboard import build
from dashboards.panels import PANELS, TRIAL_PANELS
from tune.results import Writer, create_experiment, load

pytestmark = pytest.mark.browser

MakeLake = Callable[..., Path]
Open = Callable[..., Any]

DRAWN = """() => [...document.querySelectorAll('[data-figure]')].every(
    box => box.classList.contains('js-plotly-plot') && box._fullLayout && box.querySelector('.main-svg'))"""
HOSTILE = "<img src=x onerror=alert(1)><b>&\"' %{x} {{7*7}} 😀 שלום"


@pytest.fixture
def open_page(visit: Open) -> Open:
    """Open a page of a site and wait until it is drawn."""

    def open_(path: Path, *, width: int = 1280, scheme: str = "light") -> Any:
        page = visit(path.as_uri(), width=width, scheme=scheme)
        page.wait_for_function(DRAWN)
        return page

    return open_


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lake_maker: Callable[[Path], MakeLake]) -> Path:
    """A site of two datasets with everything on it."""
    make = lake_maker(tmp_path_factory.mktemp("lakes"))
    make("one", dataset="hippocampus", trials=24)
    return build(make("two", dataset="phantom", trials=8)).parent


def column(page: Any, heading: str) -> list[str]:
    """The values to sort by in one column of the first ranking, from top to bottom, literature left out."""
    found: list[str] = page.evaluate(
        """heading => {
            const table = document.querySelector('table.ranking');
            const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === heading);
            const value = cell => cell.dataset.value ?? (cell.textContent === '–' ? '' : cell.textContent);
            const rows = [...table.tBodies[0].rows].filter(row => !row.classList.contains('published') && !row.hidden);
            return rows.map(row => value(row.cells[place]));
        }""",
        heading,
    )
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_every_chart_draws_nothing_overflows_and_nobody_is_shut_out(site: Path, open_page: Open, width: int, scheme: str) -> None:
    """Nobody: by the rules of axe-core, but for the insides of Plotly's charts, whose data stand in tables beside them."""
    from axe_playwright_python.sync_playwright import Axe

    pages = {"index.html": 4, "pages/experiments/one.html": len(PANELS), "pages/trials/one/t0001.html": len(TRIAL_PANELS)}
    for path, charts in pages.items():
        page = open_page(site / path, width=width, scheme=scheme)
        assert page.locator(".js-plotly-plot .main-svg:first-child").count() == charts
        assert page.locator(".empty").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert "WebGL is not supported" not in page.inner_text("body")
        sizes = "[...document.querySelectorAll('svg text')].map(text => parseFloat(getComputedStyle(text).fontSize))"
        assert min((size for size in page.evaluate(sizes) if size > 0), default=14) >= 14
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(244, 246, 248)", "dark": "rgb(16, 20, 24)"}[scheme]
        paper = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor")
        assert paper == {"light": "#ffffff", "dark": "#181d23"}[scheme]
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        for shown in "light", "dark":
            page.emulate_media(color_scheme=shown)
            found = Axe().run(page, {"exclude": [[".js-plotly-plot"]]}, {"preload": False}).response["violations"]
            serious = [item for item in found if item["impact"] in ("serious", "critical")]
            assert [(path, shown, item["id"], item["nodes"][0]["html"]) for item in serious] == []


def test_one_file_holds_every_panel_of_every_dataset(site: Path, tmp_path: Path, open_page: Open) -> None:
    page = open_page(build(site.parent, tmp_path / "all.html"), width=360)
    assert page.locator(".js-plotly-plot").count() >= len(PANELS) + 6
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor === '#181d23'")


def test_the_ranking_sorts_filters_and_pins(site: Path, open_page: Open) -> None:
    page = open_page(site / "pages" / "experiments" / "one.html")
    trials = [row for row in load(site.parent).trials().to_pylist() if row["experiment"] == "one"]
    heading = page.locator("th", has=page.get_by_role("button", name="Validation Dice"))
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    dice = sorted((round(row["validation_dice"], 8) for row in trials), reverse=True)
    assert list(map(float, column(page, "Validation Dice"))) == dice
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert list(map(float, column(page, "Validation Dice"))) == dice[::-1]
    page.get_by_role("button", name="Final Dice").click()
    assert heading.get_attribute("aria-sort") == "none"
    values = column(page, "Final Dice")
    scored = sorted((round(row["final_dice"], 8) for row in trials if row["final_dice"] is not None), reverse=True)
    assert list(map(float, values[: len(scored)])) == scored
    assert set(values[len(scored) :]) == {""}
    page.get_by_role("button", name="Rank").focus()
    page.keyboard.press("Enter")
    assert column(page, "Rank") == sorted(column(page, "Rank"), key=float)

    page.get_by_label("Status").select_option("stopped")
    stopped = sum(row["status"] == "stopped" for row in trials)
    assert len(column(page, "Rank")) == stopped
    last = page.locator("table.ranking tbody tr:visible").last
    name = last.locator("th").inner_text()
    last.get_by_role("button").press("Enter")
    assert page.get_by_role("button", name=f"Pin {name}", exact=True).get_attribute("aria-pressed") == "true"
    page.get_by_label("Status").select_option("")
    page.get_by_role("button", name="Validation Dice").click()
    first = page.locator("table.ranking tbody tr").first
    assert first.locator("th").inner_text() == name
    page.get_by_label("Find").fill("u-net")
    assert {"pinned"} <= set(re.findall(r"pinned", first.get_attribute("class")))
    assert page.locator("table.ranking tbody tr:visible").count() == 2 + page.locator("tr.published:visible").count()
    first.get_by_role("button").click()
    assert page.get_by_role("button", name=f"Pin {name}", exact=True).get_attribute("aria-pressed") == "false"


def test_two_trials_are_compared_as_the_statistics_say(site: Path, open_page: Open) -> None:
    page = open_page(site / "pages" / "experiments" / "one.html")
    board = summaries.board_of(summaries.read(load(site.parent)), "one")
    found = summaries.pairs(board.cases)
    places = list(board.cases["place"].drop_duplicates())
    first, last = page.locator("[data-side]").all()
    first.select_option(str(len(places) - 1))
    last.select_option("0")
    (row,) = found[(found["first"] == places[0]) & (found["second"] == places[-1])].to_dict("records")
    said = page.locator(".finding").inner_text()
    assert f"Mean difference −{row['difference']:.4f}" in said
    assert f"{row['low']:.4f}" in said
    assert f"{row['p']:.3f}" in said or "p < 0.001" in said
    label = board.cases["label"].iloc[-1]
    title = "document.getElementById('chart-pairs')._fullLayout.xaxis.title.text"
    assert page.evaluate(title) == f"Dice of trial {label}"
    last.select_option(str(len(places) - 1))
    assert page.locator(".finding").inner_text() == "Choose two different trials."


def test_links_keyboard_toolbar_and_outlines(site: Path, open_page: Open) -> None:
    page = open_page(site / "index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert '- heading "cDAL Search leaderboard" [level=1]' in page.locator("body").aria_snapshot()
    page.hover(".js-plotly-plot")
    names = "buttons => buttons.map(b => b.dataset.title || b.getAttribute('aria-label'))"
    labels = page.locator(".modebar-btn").evaluate_all(names)
    assert labels
    assert not [label for label in labels if label and ("share" in label.lower() or "plotly" in label.lower())]
    truth = page.locator("g.truth path:not(.halo)").first
    assert truth.is_visible()
    page.get_by_label("truth, solid").first.uncheck()
    assert not truth.is_visible()
    assert page.locator("g.prediction path:not(.halo)").first.is_visible()
    page.get_by_role("link", name="one", exact=True).click()
    page.wait_for_function(DRAWN)
    assert page.get_by_role("heading", level=1).inner_text() == "one experiment"
    page.locator("table.ranking th a").first.click()
    page.wait_for_function(DRAWN)
    assert page.get_by_role("heading", level=1).inner_text().startswith("Trial #")
    page.get_by_role("link", name="All experiments").click()
    assert page.get_by_role("heading", level=1).inner_text() == "cDAL Search leaderboard"


def test_hostile_names_are_shown_as_text(tmp_path: Path, open_page: Open) -> None:
    evil = HOSTILE.replace("/", "_")
    for name in (evil, "plain"):
        create_experiment(tmp_path, name, {"dataset": evil, "protocol": evil, "arguments": {"sampler": evil}})
        with Writer(tmp_path, name) as writer:
            for number in range(3):
                trial = {
                    "trial_id": f"{evil}{number}",
                    "number": None,
                    "status": evil,
                    "validation_dice": number / 4,
                    "error": evil,
                }
                trial |= {"host": evil, "device": evil, "started_at": 1e9, "ended_at": 1e9 + 60, "cpu_seconds": 9.0, "kind": evil}
                writer.append("trials", trial | {f"config.x.{evil}": number, "config.x.word": f"{evil}{number}"})
                writer.append("metrics", {"trial_id": f"{evil}{number}", "epoch": 1, "dice": 0.5, f"loss_{evil}": 1.0})
                score = {
                    "trial_id": f"{evil}{number}",
                    "split": "validation",
                    "class": evil,
                    "votes": 1,
                    "dice": 0.5,
                    "seconds": 1.0,
                }
                writer.append("cases", [score | {"case": f"{evil}{case}"} for case in range(3)])
    site = build(tmp_path).parent
    paths = [site / "index.html", *sorted((site / "pages" / "experiments").iterdir()), *sorted(site.glob("pages/trials/*/*"))[:1]]
    for path in paths:
        page = open_page(path)
        assert page.locator("img, .js-plotly-plot b").count() == 0
        assert "<img src=x" in page.locator("main").inner_text()


def awkward() -> dict[str, list[dict[str, Any]]]:
    """Trials of lakes that lack something."""
    scored = {"status": "finished", "validation_dice": 0.5, "config.a.b": 1}
    return {
        "no trial": [],
        "one trial": [scored],
        "none finished": [{"status": "running"}, {"status": "pending"}],
        "all failed": [{"status": "failed", "error": "CUDA error", "validation_dice": None}] * 3,
        "NaN": [{"status": "finished", "validation_dice": math.nan, "final_dice": math.nan, "config.a.b": math.nan}] * 2,
        "a constant parameter": [scored, scored | {"validation_dice": 0.6}],
        "one category": [{"status": "finished", "validation_dice": 0.5, "config.a.word": "only"}] * 12,
        "Ünïcödé 中文": [scored | {"validation_dice": number / 20, "config.a.b": number} for number in range(12)],
    }


def test_awkward_lakes_open_and_say_what_is_missing(tmp_path: Path, open_page: Open) -> None:
    for name, trials in awkward().items():
        create_experiment(tmp_path, name, {"dataset": "phantom" if "a" in name else "chest_xray", "searched": ["a.b", "a.word"]})
        with Writer(tmp_path, name) as writer:
            writer.append("trials", [{"trial_id": f"t{number}", "number": number, **trial} for number, trial in enumerate(trials)])
    site = build(tmp_path).parent
    for path in [site / "index.html", *sorted((site / "pages" / "experiments").iterdir())]:
        page = open_page(path, width=360)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator(".empty").count() >= 2
        assert not re.search(r"\bnan\b|undefined|\[object", page.inner_text("main").replace("NaN", ""), re.IGNORECASE)


def test_an_older_lake_without_our_columns_opens(tmp_path: Path, open_page: Open) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    create_experiment(tmp_path, "e", {"dataset": "phantom"})
    recorded = pa.array([0], pa.timestamp("us", tz="UTC"))
    key = {"experiment": ["e"], "trial_id": ["old"], "recorded_at": recorded}
    for table, columns in (("trials", {"validation_dice": [0.5]}), ("metrics", {"epoch": pa.array([1]), "iou": [0.4]})):
        (tmp_path / "e" / table).mkdir(exist_ok=True)
        rows = pa.table(key | columns).replace_schema_metadata({"schema_version": "1"})
        pq.write_table(rows, tmp_path / "e" / table / "old.parquet")
    site = build(tmp_path).parent
    for path in (site / "pages" / "experiments" / "e.html", site / "pages" / "trials" / "e" / "old.html"):
        assert open_page(path).locator(".empty").count() >= 2


def test_a_thousand_trials_draw(make_lake: MakeLake, open_page: Open) -> None:
    site = build(make_lake(trials=1000)).parent
    path = site / "pages" / "experiments" / "first.html"
    assert path.stat().st_size < 2_000_000
    assert (site / "index.html").stat().st_size < 1_500_000
    page = open_page(path)
    assert page.locator("table.ranking tbody tr").count() == 500
    assert "500 lower-ranked trials are left out" in page.inner_text("main")
