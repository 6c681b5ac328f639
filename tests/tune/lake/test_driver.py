"""One driver per experiment: of many that start one is let in, a dead one is replaced, and one that stood still finds out."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import end, wait_for
from s3 import Answer, Bucket

from cdal.errors import InputError
from tune.lake import LostError, Mirror, Store, amend_experiment, hold, lease_of
from tune.lake import driver as drivers
from tune.results import LakeWarning, Writer, create_experiment, load, read_experiment

pytestmark = pytest.mark.long

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lake with an experiment named `first`."""
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    root = str(tmp_path / "lake") if request.param == "disk" else f"{request.getfixturevalue('s3').address}/lake"
    create_experiment(root, "first", {"dataset": "phantom"})
    return root


@pytest.fixture
def place(root: str) -> str:
    """What a driver holds."""
    return f"{root}/first/tune"


def said(line: str) -> None:
    raise AssertionError(f"it waits: {line}")


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process, which says `ready` when it is."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", process.communicate()
        yield process
    finally:
        end(process)


ELSEWHERE = """
import fcntl, sys, time
from tune.lake import driver
here = driver.identity
driver.identity = lambda: here() | {"boot": "that of another machine"}   # of the same name
driver.fcntl = type("none", (), vars(fcntl) | {"flock": staticmethod(lambda *_: None)})
driver._SIGN_SECONDS = 0.2
"""
HOLDS = """
import sys, time
from tune.lake import hold
with hold(sys.argv[1], print):
    print("ready", flush=True)
    time.sleep(600)
"""

# ------------------------------------------------------------------------------------------------------------- at the same moment

RACES = """
import sys, threading
from cdal.errors import InputError
from tune.lake import Store, hold
Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
found, done = {}, threading.Event()

def start(number):
    try:
        with hold(f"{sys.argv[1]}/{number}/tune", print):
            found[number] = "in"
            done.wait(60)
    except InputError as error:
        found[number] = str(error)

threads = [threading.Thread(target=start, args=(number,)) for number in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
while len(found) < len(threads):
    done.wait(0.05)
print(*(found[number] for number in range(len(threads))), sep="\\n", flush=True)
sys.stdin.readline()
done.set()
"""


def race(place: str, pairs: int) -> list[list[str]]:
    """What both of two drivers were told that start at once, for so many experiments."""
    with python(RACES, place, pairs) as one, python(RACES, place, pairs) as other:
        told = []
        for process in one, other:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in one, other:
            assert process.stdout is not None
            told.append([process.stdout.readline().strip() for _ in range(pairs)])
    return [list(pair) for pair in zip(*told, strict=True)]


@pytest.mark.parametrize("kind", ["s3", "disk"])
def test_of_two_that_start_at_once_one_is_let_in(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    told = race(str(tmp_path) if kind == "disk" else request.getfixturevalue("s3").address, 20)
    assert [pair.count("in") for pair in told] == [1] * 20
    assert all("another search is running in" in min(pair, key=lambda word: word == "in") for pair in told)


def test_a_service_that_ignores_conditions_lets_no_two_in(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3.service, "conditional", "ignores")
    told = race(s3.address, 6)
    assert [pair.count("in") for pair in told] == [1] * 6, told


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
def test_a_service_without_conditional_writes_will_do(kind: str, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{s3.address}/first/tune"
    monkeypatch.setattr(s3.service, "conditional", kind)
    monkeypatch.setattr(drivers, "_SETTLE_SECONDS", 1)
    with hold(place, said) as lease:
        with pytest.raises(InputError, match="another search is running in"), hold(place, said):
            pass
        lease.confirm()
    with pytest.raises(LostError), hold(place, said) as lease:  # noqa: PT012
        Store(place).write("driver/000002.json", b'{"id": "of one that was as fast"}')
        lease.confirm()


# ----------------------------------------------------------------------------------------------------- those that were there before


def test_one_that_lives_is_told_at_once(place: str) -> None:
    with python(HOLDS, place), pytest.raises(InputError, match="another search is running in"), hold(place, said):
        pass
    with hold(place, said), pytest.raises(InputError, match="another search is running in"), hold(place, said):
        pass


def test_one_that_was_killed_here_is_replaced_at_once(place: str) -> None:
    with python(HOLDS, place) as killed:
        killed.kill()  # nobody has asked for its status yet
        wait_for(lambda: Path(f"/proc/{killed.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        with hold(place, said):
            pass
    with hold(place, said):
        pass


def test_a_process_that_has_got_the_number_of_a_dead_one_is_not_taken_for_it(place: str) -> None:
    sign = drivers.identity() | {"began": 1, "id": "of the dead one"}
    Store(place).create("driver/000001.json", json.dumps(sign).encode())
    with hold(place, said):
        pass


@pytest.mark.parametrize(
    "differs",
    [{"boot": "of another machine"}, {"processes": "of another container"}, {"boot": None, "processes": None}],
    ids=["machine", "container", "unknown"],
)
def test_a_machine_of_the_same_name_is_another_one(place: str, differs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells of its process; only its signs of life do, or that they fail to come."""
    monkeypatch.setattr(drivers, "_SILENCE_SECONDS", 1)
    sign = drivers.identity() | differs | {"id": "another's", "sign": 1}
    Store(place).create("driver/000004.json", json.dumps(sign).encode())

    def goes_on(line: str) -> None:
        assert "waiting 1 s" in line
        Store(place).write("driver/000004.json", json.dumps(sign | {"sign": 2}).encode())

    with pytest.raises(InputError, match=f"it runs on {sign['host']}"), hold(place, goes_on):
        pass
    lines: list[str] = []
    with hold(place, lines.append):
        assert Store(place).exists("driver/000005.json")
    assert len(lines) == 1


def test_one_that_ends_while_another_waits_for_it_is_replaced_at_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = {"host": "elsewhere", "id": "another's", "ended": False}
    Store(place).create("driver/000001.json", json.dumps(sign).encode())
    monkeypatch.setattr(drivers, "_SILENCE_SECONDS", 600)
    with hold(place, lambda _: Store(place).write("driver/000001.json", json.dumps(sign | {"ended": True}).encode())):
        pass


@pytest.mark.parametrize("content", [b"{", b'{"host": 7, "pid": "x"}'], ids=["torn", "wrong"])
def test_a_damaged_sign_is_waited_for(place: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_SILENCE_SECONDS", 1)
    Store(place).write("driver/000001.json", content)
    lines: list[str] = []
    with hold(place, lines.append):
        pass
    assert len(lines) == 1


# ------------------------------------------------------------------------------------------------------------- one that stood still

STANDS_STILL = (
    ELSEWHERE
    + """
from tune.lake import Mirror, Writer, amend_experiment, hold
from cdal.errors import InputError
root = sys.argv[1]
place = f"{root}/first/tune"
try:
    with hold(place, print) as lease:
        clock = Mirror(place, ("seconds_used",))
        clock.fetch()
        clock.path.mkdir(parents=True, exist_ok=True)
        with Writer(root, "first", flush_seconds=0.05, retry_seconds=0.05) as writer:
            number = 0
            while not lease.lost:
                number += 1
                writer.append("metrics", {"trial_id": "a", "epoch": number, "dice": 0.1})
                writer.append("trials", {"trial_id": "a", "number": 0, "status": f"at {number}"})
                if not lease.lost:
                    (clock.path / "seconds_used").write_text(str(number))
                clock.keep()
                time.sleep(0.02)
                if number == 5:
                    writer.flush()
                    print("ready", flush=True)
        clock.close()
except InputError as error:
    print(f"error: {error}")
    sys.exit(2)
"""
)


def test_one_that_stood_still_for_too_long_writes_nothing_more(root: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine that is suspended, or was cut off: another one takes over, and is not disturbed when it comes back."""
    monkeypatch.setattr(drivers, "_SILENCE_SECONDS", 2)
    with python(STANDS_STILL, root) as still:
        with pytest.raises(InputError, match="it runs on"), hold(place, print):
            pass
        os.kill(still.pid, signal.SIGSTOP)
        with hold(place, lambda _: None) as lease:
            with Writer(root, "first") as writer:
                writer.append("trials", {"trial_id": "a", "number": 0, "status": "the other's"})
            os.kill(still.pid, signal.SIGCONT)
            output, errors = still.communicate(timeout=60)
            lease.confirm()
    assert still.returncode == 2, errors
    assert output.startswith("error: only one search at a time may run in")
    assert output.count("\n") == 1
    (trial,) = load(root).trials().to_pylist()
    assert trial["status"] == "the other's"
    assert all(moment < trial["recorded_at"] for moment in load(root).metrics()["recorded_at"].to_pylist())
    with Writer(root, "first"):  # sends what is left on this machine
        pass
    assert load(root).trials()["status"].to_pylist() == ["the other's"]


def test_what_writes_knows_that_the_lease_is_lost(root: str, place: str) -> None:
    with pytest.raises(LostError, match="another one has taken over"), hold(place, said) as lease:  # noqa: PT012
        assert lease_of(place) is lease_of(f"{place}/00001") is lease
        assert lease_of(f"{place}-of-another") is None
        assert amend_experiment(root, "first", {"paused": True}).description["paused"] is True
        Store(place).create("driver/000002.json", b"{}")
        with pytest.raises(LostError):
            amend_experiment(root, "first", {"paused": False})
        assert lease.lost
        with pytest.warns(LakeWarning, match="are dropped"), Writer(root, "first") as writer:
            writer.append("trials", {"trial_id": "a"})
        clock = Mirror(place, ("seconds_used",))
        clock.path.mkdir(parents=True, exist_ok=True)
        (clock.path / "seconds_used").write_text("1")
        clock.keep()
        assert clock.close() == ("://" not in place)
    assert lease_of(place) is None
    assert read_experiment(root, "first").description["paused"] is True
    assert load(root).trials().num_rows == 0
    assert "://" not in place or not Store(place).exists("seconds_used")


def test_a_store_that_is_away_costs_no_lease(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_SIGN_SECONDS", 0.05)
    with hold(f"{s3.address}/first/tune", said) as lease:
        seen: list[int] = []
        s3.service.misbehave = lambda _: seen.append(1) or Answer(503, b"<Error><Code>SlowDown</Code></Error>")  # type: ignore[func-returns-value]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LakeWarning)
            wait_for(lambda: len(seen) > 3)
        assert not lease.lost
        s3.service.misbehave = lambda _: None
        lease.confirm()


# ------------------------------------------------------------------------------------------------------- file systems without locks


def without_locks(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_a_file_system_without_locks_will_do(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "tune")
    monkeypatch.setattr(fcntl, "flock", without_locks(number))
    with hold(place, said), pytest.raises(InputError, match="another search is running in"), hold(place, said):
        pass
    with python(HOLDS, place) as killed:
        with pytest.raises(InputError, match="another search is running in"), hold(place, said):
            pass
        killed.kill()
        killed.wait()
        with hold(place, said):
            pass


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    create_experiment(tmp_path, "first", {})
    with pytest.raises(InputError, match="already exists"):
        create_experiment(tmp_path, "first", {})
    with hold(f"{tmp_path}/first/tune", said), pytest.raises(InputError), hold(f"{tmp_path}/first/tune", said):
        pass


def test_a_spool_without_locks_is_sent_by_the_next_writer(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.ENOLCK))
    root = f"{s3.address}/lake"
    create_experiment(root, "first", {})
    code = """
import errno, fcntl, sys, time
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
from tune.results import Writer
writer = Writer(sys.argv[1], "first", flush_seconds=0, retry_seconds=0.05)
print("ready", flush=True)
sys.stdin.readline()
writer.append("metrics", {"trial_id": "a", "epoch": 1})
print("written", flush=True)
time.sleep(600)
"""
    with python(code, root) as killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        with s3.service.away():
            killed.stdin.write("\n")
            killed.stdin.flush()
            assert killed.stdout.readline() == "written\n"
            os.kill(killed.pid, signal.SIGSTOP)
        with Writer(root, "first"):
            assert load(root).metrics().num_rows == 0  # a living writer's rows are left to it
        killed.kill()
        killed.wait()
        with Writer(root, "first"):
            assert load(root).metrics()["epoch"].to_pylist() == [1]
    assert list((tmp_path / "spool").glob("*")) == []
