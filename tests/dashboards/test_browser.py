"""The page in a real browser: everything draws, nothing complains, nothing leaves the machine."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.leaderboard import build
from tune.results import Writer, create_experiment, load

MakeLake = Callable[..., Path]
Open = Callable[..., Any]

# Without the GL flags, charts that need WebGL fail in a browser without a display.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DRAWN = """() => window.Plotly && [...document.querySelectorAll('[data-figure]')].every(
    box => box.classList.contains('js-plotly-plot') && box._fullLayout && box.querySelector('.main-svg'))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        executable = None
    if executable is None:
        reason = "browser tests need Playwright and Chromium: pip install playwright, apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a lake's page and wait until it is drawn; afterwards, check that nothing went wrong on any page opened."""
    troubles: list[str] = []
    requested: list[str] = []
    pages = []

    def open_(root: Path, *, width: int = 1280, scheme: str = "light", charts: bool = True) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(build(root).as_uri())
        if charts:
            page.wait_for_function(DRAWN, timeout=60_000)
        return page

    yield open_
    for page in pages:
        page.close()
    assert [trouble for trouble in troubles if "GPU stall" not in trouble] == []
    assert [url for url in requested if not url.startswith(("file:", "data:", "blob:"))] == []


def column(page: Any, heading: str) -> list[str]:
    """The values to sort by in one column, from top to bottom, literature left out."""
    return page.evaluate(
        """heading => {
            const table = document.querySelector('table.ranking');
            const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === heading);
            return [...table.tBodies[0].rows].filter(row => !row.className).map(row => row.cells[place].dataset.value);
        }""",
        heading,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_chart_draws_and_nothing_overflows(make_lake: MakeLake, open_page: Open, width: int, scheme: str) -> None:
    make_lake("one", dataset="hippocampus", trials=20)
    page = open_page(make_lake("two", dataset="phantom", trials=8), width=width, scheme=scheme)
    assert page.locator(".js-plotly-plot").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "WebGL is not supported" not in page.inner_text("body")
    sizes = page.evaluate("[...document.querySelectorAll('svg text')].map(text => parseFloat(getComputedStyle(text).fontSize))")
    assert min(size for size in sizes if size > 0) >= 14
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 246, 248)", "dark": "rgb(16, 20, 24)"}[scheme]
    paper = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor")
    assert paper == {"light": "#ffffff", "dark": "#181d23"}[scheme]


def test_charts_follow_a_change_of_scheme(make_lake: MakeLake, open_page: Open) -> None:
    page = open_page(make_lake(trials=4))
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor === '#181d23'")


def test_sorting_agrees_with_the_lake(make_lake: MakeLake, open_page: Open) -> None:
    root = make_lake(dataset="hippocampus", trials=20)
    page = open_page(root)
    trials = load(root).trials().to_pydict()
    heading = page.locator("th", has=page.get_by_role("button", name="Validation Dice"))
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert list(map(float, column(page, "Validation Dice"))) == sorted(trials["validation_dice"], reverse=True)
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert list(map(float, column(page, "Validation Dice"))) == sorted(trials["validation_dice"])
    page.get_by_role("button", name="Final Dice").click()
    assert heading.get_attribute("aria-sort") == "none"
    values = column(page, "Final Dice")
    scored = [value for value in trials["final_dice"] if value is not None]
    assert list(map(float, values[: len(scored)])) == sorted(scored, reverse=True)
    assert set(values[len(scored) :]) == {""}
    page.get_by_role("button", name="Rank").focus()
    page.keyboard.press("Enter")
    assert column(page, "Rank") == sorted(column(page, "Rank"), key=float)


def test_the_toolbar_cannot_share(make_lake: MakeLake, open_page: Open) -> None:
    page = open_page(make_lake(trials=4))
    page.hover(".js-plotly-plot")
    labels = page.locator(".modebar-btn").evaluate_all(
        "buttons => buttons.map(b => b.dataset.title || b.getAttribute('aria-label'))"
    )
    assert labels
    assert not [label for label in labels if label and ("share" in label.lower() or "plotly" in label.lower())]


def test_outlines_can_be_hidden(make_lake: MakeLake, open_page: Open) -> None:
    page = open_page(make_lake(trials=4))
    truth = page.locator("g.truth path:not(.halo)").first
    assert truth.is_visible()
    page.get_by_label("truth, solid").uncheck()
    assert not truth.is_visible()
    assert page.locator("g.prediction path:not(.halo)").first.is_visible()


def test_the_keyboard_reaches_the_results(make_lake: MakeLake, open_page: Open) -> None:
    page = open_page(make_lake(trials=4))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert '- heading "cDAL Search leaderboard" [level=1]' in page.locator("body").aria_snapshot()


def test_hostile_names_are_shown_as_text(tmp_path: Path, open_page: Open) -> None:
    evil = '<img src=x onerror=alert(1)><b>&"'
    create_experiment(tmp_path, evil, {"dataset": evil})
    create_experiment(tmp_path, "plain", {"dataset": evil})
    for name in (evil, "plain"):
        with Writer(tmp_path, name) as writer:
            for number in range(3):
                trial = {"trial_id": f"t{number}", "number": number, "status": evil, "validation_dice": number / 4, "error": evil}
                writer.append("trials", trial | {f"config.x.{evil}": number, "config.x.word": f"{evil}{number}"})
                writer.append("metrics", {"trial_id": f"t{number}", "epoch": 1, "dice": 0.5})
    page = open_page(tmp_path)
    assert page.locator("h2").inner_text() == evil
    assert page.locator("img, .js-plotly-plot b").count() == 0
    assert evil in page.locator(".js-plotly-plot .legend").last.text_content()


@pytest.mark.parametrize("dice", [[], [None], [math.nan], [0.5]], ids=["empty", "no Dice", "NaN", "one trial"])
def test_awkward_lakes_open_without_complaint(tmp_path: Path, open_page: Open, dice: list[float | None]) -> None:
    create_experiment(tmp_path, "e", {"dataset": "chest_xray"})
    with Writer(tmp_path, "e") as writer:
        writer.append("trials", [{"trial_id": "a", "status": "failed", "validation_dice": value} for value in dice])
    page = open_page(tmp_path, width=360, charts=dice == [0.5])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator(".empty").count() >= 2


def test_a_thousand_trials_draw_in_time(tmp_path: Path, make_lake: MakeLake, open_page: Open) -> None:
    root = make_lake(trials=1000)
    page = open_page(root)
    assert (root / "leaderboard.html").stat().st_size < 7_000_000
    assert page.locator("table.ranking tbody tr").count() == 1000
