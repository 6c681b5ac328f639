"""The buttons of the live page, in a real browser: only its owner has them, and no other page can press them."""

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steered import at_work

from tune.results import Writer, create_experiment, read_experiment

MakeLake = Callable[..., Path]
Serve = Callable[..., str]
Open = Callable[..., Any]


@pytest.mark.browser
def test_the_owner_steers_and_reads_answers_and_logs(make_lake: MakeLake, serve: Serve, visit: Open) -> None:
    root = make_lake("first", trials=3)
    with Writer(root, "first") as writer:
        writer.append("trials", {"trial_id": "t0009", "number": 9, "status": "running", "log": "first/tune/t0009/log.txt"})
    (root / "first/tune/t0009").mkdir(parents=True)
    (root / "first/tune/t0009/log.txt").write_text("\x1b[31mloss is <b>high</b>\x1b[0m\n10 %\r20 %\n")
    page = visit(serve(root), width=360)
    page.get_by_role("heading", name="Steer this search").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    answer = "document.querySelector('#steer-answer')?.textContent"
    with at_work(root, "first") as driver:
        page.get_by_role("button", name="Pause").click()
        page.wait_for_function(f"{answer} === 'pause: done'")
        page.locator("#steer-stop").fill("1")
        page.get_by_role("button", name="Stop this trial").click()
        page.wait_for_function(f"{answer} === 'stop 1: done'")
        page.get_by_label("Settings to try next").fill("loss.adversarial: 0.1")
        page.get_by_role("button", name="Try these settings").click()
        page.wait_for_function(f"{answer}.startsWith('enqueue')")
        page.get_by_label("Budget").fill("+2gpuh")
        page.get_by_role("button", name="Add to the budget").click()
        page.wait_for_function(f"{answer} === 'refused: the search has no GPU-hours to add to'")
        assert driver.told == ["pause", "stop 1", "enqueue {'loss.adversarial': 0.1}"]
    page.get_by_label("Trials", exact=True).fill("many")
    page.get_by_role("button", name="More trials").click()
    page.wait_for_function(f"{answer}.startsWith('trials many: say how many more')")
    assert not list((root / "first/tune/requests").iterdir())
    assert all("live page" in one["by"] for one in read_experiment(root, "first").description["requests"])

    page.get_by_text("Log of a trial").click()
    page.locator("#log-trial").fill("9")
    page.wait_for_function("document.querySelector('#log')?.textContent === 'loss is <b>high</b>\\n20 %'")
    page.locator("#log-trial").fill("1")
    page.wait_for_function("document.querySelector('#log-note')?.textContent?.startsWith('Nothing is kept')")


@pytest.mark.browser
def test_who_has_not_the_token_has_no_buttons_and_sends_nothing(make_lake: MakeLake, serve: Serve, visit: Open) -> None:
    """On a loopback address others may look, but neither they nor a page of theirs in the owner's browser may steer."""
    root = make_lake("first", trials=2)
    address = serve(root)
    page = visit(address.split("?")[0])
    page.wait_for_function("document.querySelector('#status')?.textContent?.startsWith('0 of 2 trials')")
    assert page.get_by_role("button", name="Pause").count() == 0

    page, bodies = visit(address), []
    page.on("request", lambda one: bodies.append(one.post_data or ""))
    page.get_by_role("button", name="Pause").click()
    folder = root / "first/tune/requests"
    page.wait_for_function("document.querySelector('#steer-answer')?.textContent?.startsWith('Asked')")
    assert len(list(folder.iterdir())) == 1
    body = next(body for body in bodies if '"changedPropIds":["{\\"steer\\":\\"pause\\"}.n_clicks"]' in body)
    port, cookie = address.split(":")[2].split("/")[0], page.context.cookies()[-1]
    own = {
        "Content-Type": "application/json",
        "Cookie": f"{cookie['name']}={cookie['value']}",
        "Origin": f"http://127.0.0.1:{port}",
    }

    def send(**changed: str | None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        headers = {name: value for name, value in (own | changed).items() if value is not None}
        connection.request("POST", "/_dash-update-component", body, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    for changed in (
        {"Origin": "http://evil.example"},
        {"Origin": f"http://127.0.0.1:{int(port) + 1}"},  # another server on this machine
        {"Origin": "null"},
        {"Cookie": None},
        {"Cookie": f"cdal-{port}=wrong"},
    ):
        assert send(**changed) == 204, changed  # nothing happened
    assert send(**{"Content-Type": "text/plain"}) != 200
    assert len(list(folder.iterdir())) == 1
    assert send() == 200
    assert len(list(folder.iterdir())) == 2


@pytest.mark.long
def test_a_log_is_shown_as_text_and_no_row_leads_elsewhere(tmp_path: Path) -> None:
    from dashboards.leaderboard import build

    create_experiment(tmp_path, "first", {"dataset": "phantom"})
    (tmp_path / "secret.txt").write_text("a secret")
    with Writer(tmp_path, "first") as writer:
        for name, log in {
            "good": "first/tune/good/log.txt",
            "up": "first/tune/up/../../../secret.txt",
            "link": "first/tune/link/log.txt",
            "absent": "first/tune/absent/log.txt",
            "absolute": str(tmp_path / "secret.txt"),
        }.items():
            writer.append("trials", {"trial_id": name, "number": 0, "status": "failed", "kind": "published", "log": log})
            (tmp_path / "first/tune" / name).mkdir(parents=True)
    (tmp_path / "first/tune/link/log.txt").symlink_to(tmp_path / "secret.txt")
    lines = [f"line {number}" for number in range(1000)]
    (tmp_path / "first/tune/good/log.txt").write_text("\n".join([*lines, "<script>alert(1)</script>\x07"]))
    pages = build(tmp_path).parent
    texts = {path.stem: path.read_text() for path in (pages / "pages/trials/first").iterdir()}
    assert "What it printed last" in texts["good"]
    assert "line 801\n" in texts["good"]
    assert "line 800\n" not in texts["good"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd</pre>" in texts["good"]
    assert not [name for name, text in texts.items() if "a secret" in text]
    assert not [name for name, text in texts.items() if name != "good" and "What it printed last" in text]
    assert sorted(texts) == ["absent", "absolute", "good", "link", "up"]
