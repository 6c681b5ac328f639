"""Notices through a real server here that is slow, refuses, hangs or sends elsewhere; and what speaks after a SIGKILL."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import end, limit, wait_for

from cdal.errors import InputError
from tune.command import Interrupted, Paused
from tune.steering import FINISHED, Notices

SECRET = "T0P-S3CRET"


class Hook(ThreadingHTTPServer):
    """Remembers what it was sent, and answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status, self.location = 200, ""
        self.before: Callable[[], None] = lambda: None
        super().__init__(("127.0.0.1", 0), _Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/{SECRET}?sig={SECRET}"

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]


class _Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.before()
        self.server.bodies.append(json.loads(body))
        self.server.headers.append(dict(self.headers))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.shutdown()
    server.server_close()


def notices(url: str | None, said: list[str], command: str | None = None) -> Notices:
    return Notices(url, command, "first", say=said.append, go_on="python tune/search.py --resume first")


def test_an_end_is_told_as_json(hook: Hook) -> None:
    said: list[str] = []
    with notices(hook.url, said) as told:
        told.send(FINISHED, "8 trials, best Dice 0.8123 <!channel>\nin trial 5\x1b[31m")
    assert hook.texts == ["first: the search finished: 8 trials, best Dice 0.8123 ‹!channel› in trial 5\ufffd[31m"]
    assert hook.headers[0]["Content-Type"] == "application/json"
    assert said == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Paused("the last 5 attempts failed alike"), "paused: the last 5 attempts failed alike; go on with: python"),
        (Interrupted(), "interrupted: all results are saved; go on with: python"),
        (RuntimeError("first line\nsecond"), "failed: first line; go on with: python"),
        (InputError("the data are gone"), "failed: the data are gone"),
    ],
)
def test_an_end_by_an_exception_is_told_too(hook: Hook, error: Exception, words: str) -> None:
    with pytest.raises(type(error)), notices(hook.url, []):
        raise error
    assert len(hook.texts) == 1
    assert hook.texts[0].startswith(f"first: the search {words}")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "/elsewhere", "http://127.0.0.1:1/"])
def test_a_message_goes_nowhere_but_where_it_was_sent(hook: Hook, location: str) -> None:
    hook.status, hook.location = 307, location
    said: list[str] = []
    with notices(hook.url, said) as told:
        told.send(FINISHED, "done")
    assert len(hook.bodies) == 1
    assert said == [
        "note        a notice was not sent: 127.0.0.1 answered with status 307; it names another address, which is not followed"
    ]


@pytest.mark.parametrize("trouble", ["refusing", "absent", "cut", "garbage", "hanging", "dripping"])
def test_what_fails_is_said_once_without_the_address_and_holds_nobody_up(hook: Hook, trouble: str) -> None:
    said: list[str] = []
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as raw:
        url = hook.url

        def serve() -> None:
            connection, _ = raw.accept()
            with connection:
                if trouble == "garbage":
                    connection.sendall(f"{SECRET}\r\n\r\n".encode())
                while trouble == "dripping" and not over.wait(0.2):
                    connection.sendall(b"H")
                if trouble == "hanging":
                    over.wait()

        if trouble == "refusing":
            hook.status = 500
        else:
            url = url.replace(str(hook.server_port), str(raw.getsockname()[1]))
        if trouble == "absent":
            raw.close()
        elif trouble != "refusing":
            threading.Thread(target=serve, daemon=True).start()
        told = notices(url, said)
        told.__enter__()
        with limit(5):
            told.send(FINISHED, "done")
        with limit(20):
            told.close(2)
        wait_for(lambda: said)
        over.set()
    assert len(said) == 1
    assert SECRET not in said[0]
    assert "\n" not in said[0]


def test_a_command_gets_the_message_and_no_shell_reads_it(tmp_path: Path) -> None:
    script = tmp_path / "my hook.py"
    script.write_text(
        "import os, sys, json, pathlib\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps([sys.stdin.read(), *sys.argv[2:], os.environ['CDAL_EVENT'], "
        "os.environ['CDAL_EXPERIMENT'], os.environ['CDAL_MESSAGE']]))"
    )
    said: list[str] = []
    with notices(None, said, f"{sys.executable} '{script}' {tmp_path}/out '$(touch {tmp_path}/evil)' ';'") as told:
        told.send(FINISHED, "done")
    message = "first: the search finished: done"
    expected = [f"{message}\n", f"$(touch {tmp_path}/evil)", ";", "finished", "first", message]
    assert json.loads((tmp_path / "out").read_text()) == expected
    assert not (tmp_path / "evil").exists()
    assert said == []


def test_a_command_that_fails_or_stays_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.steering.posting.SECONDS", 0.5)
    said: list[str] = []
    with notices(None, said, "false") as told:
        told.send(FINISHED, "done")
    with notices(None, said, "sleep 300") as told, limit(30):
        told.send(FINISHED, "done")
    assert said == [
        "note        a notice was not sent: the command false ended with status 1",
        "note        a notice was not sent: the command sleep took longer than 1 s and was killed",
    ]


@pytest.mark.parametrize(
    ("url", "command", "problem"),
    [
        ("hooks.slack.com/T/B", None, "--notify is no address"),
        ("file:///etc/passwd", None, "--notify is no address"),
        ("http://", None, "--notify is no address"),
        (f"http://host:port/{SECRET}", None, "--notify is no address"),
        (f"http://[::1/{SECRET}", None, "--notify is no address"),
        (f"http://host/{SECRET} x", None, "--notify is no address"),
        (f"http://host/{SECRET}\r\nX: y", None, "--notify is no address"),
        (None, "no-such-program --now", "no program 'no-such-program'"),
        (None, "'mail", "cannot be read"),
        (None, "  ", "no program ''"),
    ],
)
def test_wrong_addresses_and_commands_are_refused_at_once(url: str | None, command: str | None, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        notices(url, [], command)
    assert SECRET not in str(raised.value)


def test_a_name_and_a_password_in_the_address_are_sent_as_such(hook: Hook) -> None:
    with notices(hook.url.replace("//", "//ann:pass%20word@"), []) as told:
        told.send(FINISHED, "done")
    assert hook.headers[0]["Authorization"] == "Basic YW5uOnBhc3Mgd29yZA=="
    assert "ann" not in hook.headers[0]["Host"]


@pytest.mark.parametrize("host", ["prod-1.westeurope.logic.azure.com", "a.b.environment.api.powerplatform.com"])
def test_teams_gets_a_card(host: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of a proxy, which sees what such a host would see."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{hook.server_port}")
    with notices(f"http://{host}/workflows/{SECRET}", []) as told:
        told.send(FINISHED, "done")
    (card,) = hook.bodies[0]["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert card["content"]["body"][0]["text"] == "first: the search finished: done"


DRIVER = """
import sys, time
from tune.steering import FINISHED, Notices
with Notices(sys.argv[1], None, "first", say=print, go_on="go on") as told:
    print("at work", flush=True)
    sys.stdin.readline()
    told.send(FINISHED, "done")
"""


@pytest.fixture
def driver(hook: Hook) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DRIVER, hook.url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    yield process
    end(process)


def watchers(pid: int) -> list[int]:
    """Processes that speak for one that dies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"posting.py" in (entry / "cmdline").read_bytes():
                found.append((int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [number for number, parent in found if parent == pid]


def watcher_of(driver: subprocess.Popen[str]) -> int:
    wait_for(lambda: watchers(driver.pid))  # it has no name in the moment in which it begins
    (found,) = watchers(driver.pid)
    return found


@pytest.mark.long
def test_who_is_killed_is_spoken_for(hook: Hook, driver: subprocess.Popen[str]) -> None:
    watcher = watcher_of(driver)
    assert SECRET not in Path(f"/proc/{watcher}/cmdline").read_text()
    assert SECRET.encode() not in Path(f"/proc/{watcher}/environ").read_bytes()
    loaded = Path(f"/proc/{watcher}/maps").read_text()
    assert not [name for name in ("torch", "pyarrow", "_raylet", "numpy") if name in loaded]
    for number in (signal.SIGINT, signal.SIGTERM):  # a job manager tells all
        os.kill(watcher, number)
    os.killpg(driver.pid, signal.SIGKILL)
    wait_for(lambda: hook.texts)
    assert hook.texts[0].startswith(f"first: the search on {socket.gethostname()} is gone: its process ended without a word")
    assert hook.texts[0].endswith("go on with: go on")
    wait_for(lambda: not Path(f"/proc/{watcher}").exists() or "(zombie)" in Path(f"/proc/{watcher}/status").read_text())
    assert len(hook.texts) == 1


@pytest.mark.long
def test_who_ends_well_is_not_spoken_for(hook: Hook, driver: subprocess.Popen[str]) -> None:
    watcher = watcher_of(driver)
    driver.communicate("\n")
    assert hook.texts == ["first: the search finished: done"]
    wait_for(lambda: not Path(f"/proc/{watcher}").exists())
    time.sleep(0.2)
    assert len(hook.texts) == 1
