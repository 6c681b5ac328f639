"""The live page: the real server as a process of its own, in a real browser where it matters."""

import http.client
import json
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from patience import run, wait_for
from s3 import Answer, Bucket

from dashboards.live import Watch
from dashboards.panels import PANELS
from dashboards.serve import main
from tune.results import Writer, create_experiment

MakeLake = Callable[..., Path]
Serve = Callable[..., str]
Open = Callable[..., Any]

SCRIPT = Path(__file__).parents[2] / "dashboards" / "serve.py"
PATIENCE = 600.0  # seconds, for a machine that does much else
HOSTILE = '<img src=x onerror=alert(1)><b>&" {{7*7}} %{x}'
SEEN = """() => {
    const chart = document.querySelector('#history-chart .js-plotly-plot');
    const hidden = chart._fullData.filter(one => one.visible === 'legendonly').map(one => one.name);
    return [chart._fullLayout.xaxis.range, chart._fullLayout.yaxis.range, hidden];
}"""
"""The ranges of the first chart's axes, and the traces that are switched off."""


def wait_for_charts(page: Any, count: int = len(PANELS)) -> None:
    page.wait_for_function(
        "count => [...document.querySelectorAll('.js-plotly-plot')].filter(one => one.querySelector('.main-svg')).length === count",
        arg=count,
    )


def ask(address: str, path: str = "/", *, method: str = "GET", body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of an answer of the server at this port."""
    connection = http.client.HTTPConnection("127.0.0.1", int(address.split(":")[2].split("/")[0]), timeout=PATIENCE)
    connection.request(method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return found


# -------------------------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_every_panel_is_drawn_readable_and_accessible(make_lake: MakeLake, serve: Serve, visit: Open) -> None:
    make_lake("one", dataset="hippocampus", trials=3)
    make_lake("two", dataset="phantom", trials=3)
    page = visit(serve(make_lake("three", dataset="phantom", trials=24)), width=360, scheme="dark")
    page.get_by_role("button", name="phantom: three").click()
    wait_for_charts(page)
    titles = ["Ranking", "Steer this search", *(panel.title for panel in PANELS)]
    assert page.locator("section.panel h3").all_inner_texts() == titles
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator(".js-plotly-plot").first.evaluate("chart => chart._fullLayout.paper_bgcolor") == "#181d23"
    page.emulate_media(color_scheme="light")
    page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor === '#ffffff'")
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    page.hover(".js-plotly-plot")
    labels = page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title || b.getAttribute('aria-label'))")
    assert labels
    assert not [label for label in labels if "share" in label.lower()]

    page.get_by_role("group", name="Second").get_by_role("button", name="#0").click()  # the published settings
    page.wait_for_function("document.querySelector('#pairs-chart .js-plotly-plot').layout.yaxis.title.text === 'Dice of trial #0'")
    assert "less that of #0" in page.inner_text("#pairs-caption")
    page.get_by_role("button", name="hippocampus").press("Enter")
    page.wait_for_function("document.querySelector('#rows').textContent.includes('nnU-Net')")  # a published row
    assert page.evaluate("document.activeElement.textContent") == "hippocampus"
    assert "of 3 trials running" in page.inner_text("#status")


@pytest.mark.browser
def test_the_page_follows_a_search_and_keeps_what_the_user_did(make_lake: MakeLake, serve: Serve, visit: Open) -> None:
    root = make_lake("first", trials=24)
    page = visit(serve(root))
    wait_for_charts(page)
    assert page.inner_text("#status").startswith("0 of 24 trials running")
    page.locator("#history-chart").scroll_into_view_if_needed()
    area = page.locator("#history-chart .nsewdrag").first.bounding_box()
    page.mouse.move(area["x"] + 0.3 * area["width"], area["y"] + 0.3 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.6 * area["width"], area["y"] + 0.8 * area["height"], steps=5)
    page.mouse.up()
    page.locator("#history-chart .legendtoggle").nth(1).click()
    page.wait_for_function(f"({SEEN})()[2].length === 1")
    before = page.evaluate(SEEN)
    assert 4 < before[0][0] < before[0][1] < 20
    page.get_by_label("Show rows with").fill("finished searched")
    page.get_by_role("button", name="Validation Dice").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('th[aria-sort=descending]')")
    page.keyboard.press("Enter")
    heading = page.locator("th", has=page.get_by_role("button", name="Validation Dice"))
    page.wait_for_function("document.querySelector('th[aria-sort=ascending]')")
    page.wait_for_function("![...document.querySelector('#rows').rows].some(row => row.textContent.includes('stopped'))")
    with Writer(root, "first", flush_seconds=0) as writer:
        row = {"dataset": "phantom", "kind": "searched", "status": "running"}
        writer.append("trials", row | {"trial_id": "new", "number": 24, "started_at": 1_790_001_000.0})
        page.wait_for_function("document.querySelector('#status').textContent.startsWith('1 of 25 trials running')")
        done = {"trial_id": "new", "number": 24, "status": "finished", "validation_dice": 0.9876, "started_at": 1_790_001_000.0}
        writer.append("trials", row | done)
        page.wait_for_function("document.querySelector('#tiles').textContent.includes('0.9876')")
    page.wait_for_function("document.querySelector('#rows').lastElementChild.textContent.includes('0.9876')")
    page.wait_for_function(
        "document.querySelector('#history-chart .js-plotly-plot')._fullData.some(one => [...one.y].includes(0.9876))"
    )
    assert page.evaluate(SEEN) == before
    assert page.get_by_label("Show rows with").input_value() == "finished searched"
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.evaluate("document.activeElement.textContent") == "Validation Dice"
    assert "best validation Dice 0.9876" in page.get_by_role("status").inner_text()

    shutil.move(root, root.with_name("away"))
    page.wait_for_function("document.querySelector('#status').textContent.includes('cannot be read at the moment')")
    assert "0.9876" in page.inner_text("#tiles")
    shutil.move(root.with_name("away"), root)
    page.wait_for_function("document.querySelector('#status').textContent.includes('best validation Dice')")


@pytest.mark.browser
def test_an_empty_lake_waits_and_hostile_names_are_text(tmp_path: Path, serve: Serve, visit: Open) -> None:
    page = visit(serve(tmp_path))
    page.get_by_role("heading", name="No search has written here yet").wait_for()
    assert f"python tune/search.py --storage {tmp_path}" in page.inner_text("main")
    create_experiment(tmp_path, HOSTILE, {"dataset": HOSTILE})
    create_experiment(tmp_path, "plain", {"dataset": HOSTILE})
    for name in (HOSTILE, "plain"):
        with Writer(tmp_path, name) as writer:
            for number in range(3):
                evil = {"status": HOSTILE, "kind": HOSTILE, f"config.x.{HOSTILE}": number, "config.x.word": f"{HOSTILE}{number}"}
                writer.append("trials", evil | {"trial_id": f"t{number}", "number": number, "validation_dice": number / 4})
                writer.append("metrics", {"trial_id": f"t{number}", "epoch": 1, "dice": 0.5})
                for case in (HOSTILE, "other"):
                    scored = {"trial_id": f"t{number}", "split": "validation", "case": case, "class": HOSTILE, "votes": 1}
                    writer.append("cases", scored | {"dice": 0.5, "iou": 0.4, "seconds": 0.1})
    page.get_by_role("button", name=HOSTILE, exact=False).first.wait_for()
    page.wait_for_function("document.querySelectorAll('#rows tr').length >= 6")
    page.wait_for_function("document.querySelector('#pairs-chart .main-svg')")
    assert HOSTILE in page.inner_text("#rows")
    assert page.locator("main img, .js-plotly-plot b").count() == 0


# ------------------------------------------------------------------------------------------------------------ who may look, and how


@pytest.mark.browser
def test_bound_elsewhere_it_asks_for_its_token(make_lake: MakeLake, serve: Serve, visit: Open) -> None:
    printed = serve(make_lake(trials=2), "--host", "0.0.0.0")
    path, token = "/" + printed.rpartition("/")[2], printed.partition("?token=")[2]
    assert len(token) >= 32
    update = {"method": "POST", "body": "{}", "Content_Type": "application/json"}
    served = ["/style.css", "/live.js", "/_dash-layout", "/_dash-dependencies"]
    for place in ["/", "/?token=", f"/?token={token[:-1]}", *served, "/nothing"]:
        assert ask(printed, place)[:2] == (401, "open the address that serve.py printed, with its token\n"), place
    script = "/_dash-component-suites/dash/dcc/dash_core_components.js"
    for more in ({}, {"Cookie": f"cdal-{printed.split(':')[2].split('/')[0]}=wrong"}):
        assert ask(printed, "/_dash-update-component", **update, **more)[0] == 401
        assert ask(printed, script, **more)[0] == 401
        assert ask(printed, f"/_dash-update-component?token={token}", **update, **more)[0] == 401
    status, _, headers = ask(printed, path)
    assert (status, headers["location"]) == (302, "/")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(headers["set-cookie"].split("; "))
    assert ask(printed, "/_dash-layout", Cookie=headers["set-cookie"].split(";")[0])[0] == 200

    page = visit(f"http://127.0.0.1:{printed.split(':')[2]}")
    page.wait_for_function("document.querySelector('#status')?.textContent.startsWith('0 of 2 trials')")
    assert "token" not in page.url


@pytest.mark.long
def test_on_loopback_only_this_machine_s_names_are_served(tmp_path: Path, serve: Serve) -> None:
    """Else a foreign page could point a name of its own here and read the results."""
    address = serve(tmp_path)
    port = address.split(":")[2].split("/")[0]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost", "LOCALHOST:9000", f"[::1]:{port}"):
        assert ask(address, Host=host)[0] == 200, host
    for host in (f"evil.example:{port}", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        assert ask(address, "/_dash-layout", Host=host)[0] in (400, 403), host


def test_answers_forbid_frames_foreign_scripts_and_copies(tmp_path: Path, serve: Serve) -> None:
    _, text, headers = ask(serve(tmp_path))
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "'unsafe-inline'" not in policy["script-src"]
    assert "http" not in headers["content-security-policy"]
    assert 'src="http' not in text
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


# --------------------------------------------------------------------------------------------------------------------- the command


def refusal(*arguments: str, code: str = "") -> str:
    """What the command says when it ends with status 2: one line."""
    command = [sys.executable, "-c", code] if code else [sys.executable, str(SCRIPT)]
    done = run([*command, *arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.long
def test_wrong_input_is_one_sentence(make_lake: MakeLake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such folder" in refusal("--storage", str(tmp_path / "nowhere"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        root = str(make_lake("first", trials=1))
        for arguments, problem in {
            ("--experiment", "second"): "no experiment named 'second'",
            ("--host", "192.0.2.1"): "cannot listen on 192.0.2.1",
            ("--port", port): f"port {port}: Address already in use",
        }.items():
            assert main(["--storage", root, *arguments]) == 2
            captured = capsys.readouterr()
            assert (captured.out, captured.err.count("\n")) == ("", 1)
            assert problem in captured.err


def test_without_dash_it_says_what_to_install() -> None:
    code = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, *rest):
        if name == "dash":
            raise ModuleNotFoundError("No module named 'dash'", name=name)
sys.meta_path.insert(0, Absent())
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    assert "pip install -e '.[live]'" in refusal(code=code)


# ---------------------------------------------------------------------------------------------------------------- following a lake


def test_an_object_store_that_fails_keeps_the_last_state(s3: Bucket) -> None:
    create_experiment(s3.address, "e", {"dataset": "phantom"})
    with Writer(s3.address, "e", flush_seconds=0) as writer:
        writer.append("trials", {"trial_id": "a", "number": 0, "status": "running"})
        watch = Watch(s3.address, [], 0.05)
        wait_for(watch.choices)
        (choice,) = watch.choices()
        s3.service.misbehave = lambda _: Answer(403)
        wait_for(lambda: watch.choices() and watch.trouble)
        board = watch.board(choice)
        assert board is not None
        assert list(board.trials["trial_id"]) == ["a"]
        s3.service.misbehave = lambda _: None
        writer.append("trials", {"trial_id": "b", "number": 1, "status": "running"})
        wait_for(lambda: watch.choices() and len(watch.board(choice).trials) == 2)  # type: ignore[union-attr]
        assert watch.trouble == ""


@pytest.mark.long
def test_what_has_not_changed_is_not_read_again_and_nothing_is_read_for_nobody(s3: Bucket) -> None:
    for name in ("e", "other"):
        create_experiment(s3.address, name, {"dataset": "phantom"})
        with Writer(s3.address, name) as writer:
            writer.append("trials", {"trial_id": name, "number": 0, "status": "running"})
    watch = Watch(s3.address, ["e"], 0.05)
    wait_for(watch.choices)
    assert list(watch.choices()) == [json.dumps(["dataset", "phantom"])]

    def look() -> None:
        before = watch.checked_at
        watch.choices()
        wait_for(lambda: watch.checked_at != before)

    look()
    s3.service.requests.clear()
    look()
    assert s3.service.requests
    assert not [request for request in s3.fetched if request.key.endswith(".parquet")]

    def quiet() -> bool:
        s3.service.requests.clear()
        time.sleep(2)
        return not s3.service.requests

    wait_for(quiet)  # the last look that was asked for may still be on its way
