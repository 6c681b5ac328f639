"""How long the dashboards take on a large lake, and how large their pages are.

    python benchmarks/pages.py                               # 10,000 trials of 100 epochs
    python benchmarks/pages.py --trials 1000 --keep lake     # and keep the lake there

The learning in the lake is made up. With Chromium, the time is told until the first page answers and until all is drawn.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from lake import make_lake

from dashboards.leaderboard import build

_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def measure_browser(path: Path) -> Mapping[str, float]:
    """Seconds until the page answers a click on a heading, and until all charts are drawn; of both, those that the page worked."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        inside = page.context.new_cdp_session(page)
        inside.send("Performance.enable", {"timeDomain": "threadTicks"})

        def worked() -> float:
            found = inside.send("Performance.getMetrics")["metrics"]
            return float(next(item["value"] for item in found if item["name"] == "TaskDuration"))

        started = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.locator("th[aria-sort] button").first.click()
        page.wait_for_selector("th[aria-sort=ascending], th[aria-sort=descending]")
        answers, until_then = time.perf_counter() - started, worked()
        drawn = "[...document.querySelectorAll('[data-figure]')].every(box => box.querySelector('.main-svg'))"
        page.wait_for_function(drawn, timeout=120_000)
        all_drawn, until_drawn = time.perf_counter() - started, worked()
        browser.close()
    return {"answers": answers, "until then": until_then, "drawn": all_drawn, "until drawn": until_drawn}


def main() -> None:
    """Make a lake, build the site, print figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--keep", metavar="FOLDER", help="make the lake here, and use it again where it is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.keep or temporary) / f"{options.trials}x{options.epochs}"
        if not root.exists():
            started = time.perf_counter()
            make_lake(root, options.trials, options.epochs)
            print(f"lake of {options.trials} trials, {options.epochs} epochs: made in {time.perf_counter() - started:.1f} s")
        for out in (root / "site", root / "single.html"):
            started, worked = time.perf_counter(), time.process_time()
            first = build(root, out)
            took, worked = time.perf_counter() - started, time.process_time() - worked
            print(
                f"{out.name}: built in {took:.1f} s, {worked:.1f} s of them at work, first page {first.stat().st_size / 1e6:.2f} MB"
            )
        site = root / "site"
        pages = sorted(site.rglob("*.html"), key=lambda path: path.stat().st_size)
        print(f"{len(pages)} pages, the largest {pages[-1].stat().st_size / 1e6:.2f} MB")
        experiment = next((site / "pages" / "experiments").glob("*.html"))
        for name, path in (("index", site / "index.html"), ("experiment", experiment)):
            found = measure_browser(path)
            answers = f"answers after {found['answers']:.1f} s ({found['until then']:.1f} at work)"
            print(f"{name} in Chromium: {answers}, all drawn after {found['drawn']:.1f} s ({found['until drawn']:.1f})")


if __name__ == "__main__":
    main()
