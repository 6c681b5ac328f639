"""The lake on an object store that is slow, fails, refuses connections or is misused: nothing is lost, doubled or waited for."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patience import run, wait_for
from s3 import Answer, Bucket, Request

from tune.results import (
    InputError,
    LakeWarning,
    RemoteError,
    Store,
    Writer,
    check_writable,
    compact,
    create_experiment,
    load,
    read_experiment,
    send,
)

pytestmark = pytest.mark.long

NAME = "first"
BUSY = Answer(503, b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>")


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spool of this test, empty."""
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spool"


@pytest.fixture
def root(s3: Bucket) -> str:
    create_experiment(f"{s3.address}/lake", NAME, {"dataset": "phantom", "fold": 0})
    return f"{s3.address}/lake"


def patient(root: str, **more: Any) -> Writer:
    """A writer that loses no time between two tries."""
    return Writer(root, NAME, **{"flush_seconds": 0.05, "retry_seconds": 0.05, **more})


def waiting(spool: Path) -> list[Path]:
    return sorted(spool.rglob("*.parquet"))


def epochs(root: str) -> list[int]:
    return sorted(load(root).metrics(["dice"])["epoch"].to_pylist())


# ------------------------------------------------------------------------------------------------------------------ whole files


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_store_keeps_whole_files(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = str(tmp_path / "lake") if place == "local" else f"{request.getfixturevalue('s3').address}/lake"
    store = Store(root)
    assert store.folders() is None
    store.write("a/tune/model.bin", b"1" * 100_000)
    assert store.create("a/notes é.txt", b"first")
    assert not store.create("a/notes é.txt", b"second")
    assert store.read("a/notes é.txt").to_pybytes() == b"first"
    assert (store.exists("a/tune/model.bin"), store.exists("a/tune"), store.exists("b")) == (True, False, False)
    assert (store.folders(), store.files("a", ""), store.files("a/tune", ".bin")) == (
        ["a"],
        ["a/notes é.txt"],
        ["a/tune/model.bin"],
    )
    local = store.local_path("a/tune/model.bin")
    assert (local.read_bytes() == b"1" * 100_000) if local else store.is_remote
    assert store.name("a/b") == f"{root}/a/b"
    store.delete(["a/tune/model.bin", "never/there"])
    assert not store.exists("a/tune/model.bin")
    with pytest.raises(FileNotFoundError):
        store.read("a/tune/model.bin")


def test_of_many_that_create_an_experiment_one_does(s3: Bucket) -> None:
    def create(number: int) -> bool:
        try:
            create_experiment(s3.address, NAME, {"number": number})
        except InputError:
            return False
        return read_experiment(s3.address, NAME).description["number"] == number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [False] * 7 + [True]


def test_a_service_without_conditional_writes_will_do(s3: Bucket) -> None:
    refuse = Answer(501, b"<Error><Code>NotImplemented</Code><Message>A header is not implemented.</Message></Error>")
    once = itertools.chain([refuse], itertools.repeat(None))
    s3.service.misbehave = lambda request: next(once) if request.method == "PUT" else None
    create_experiment(s3.address, NAME, {"dataset": "phantom"})
    with pytest.raises(InputError, match="already exists"):
        create_experiment(s3.address, NAME, {})
    assert read_experiment(s3.address, NAME).dataset == "phantom"


def test_long_listings_come_whole(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # where true services have 1000 in an answer
    for number in range(21):
        s3.put(f"lake/a/gallery/{number:04d}.parquet")
    s3.service.requests.clear()
    assert len(Store(f"{s3.address}/lake").files("a/gallery")) == 21
    assert len(s3.service.requests) >= 3


# --------------------------------------------------------------------------------------------------------------- reading, writing


def test_rows_come_back_and_every_file_is_asked_for_once(root: str, s3: Bucket, spool: Path) -> None:
    for epoch in range(3):
        with Writer(root, NAME) as writer:
            writer.append("trials", {"trial_id": "a", "number": 0, "config.x": epoch})
            writer.append("metrics", {"trial_id": "a", "epoch": epoch, "dice": 0.5})
    s3.service.requests.clear()
    assert load(root).trials()["config.x"].to_pylist() == [2]
    assert sum("/trials/" in request.key for request in s3.fetched) == 3
    assert epochs(root) == [0, 1, 2]
    assert list(spool.glob("*")) == []
    assert compact(root) == 4
    assert load(root).trials()["config.x"].to_pylist() == [2]


def test_a_few_columns_of_large_files_do_not_take_the_whole_of_them(root: str, s3: Bucket) -> None:
    rows = [{"trial_id": "a", "split": "test", "case": str(case), "dice": 0.5, "image": os.urandom(2**20)} for case in range(4)]
    with Writer(root, NAME) as writer:
        writer.append("gallery", rows)
    s3.service.requests.clear()
    assert load(root).gallery(["dice"])["dice"].to_pylist() == [0.5] * 4
    parts = [request for request in s3.fetched if "/gallery/" in request.key]
    assert 1 < len(parts) <= 4
    assert all(request.range for request in parts)
    assert load(root).gallery()["image"].to_pylist() == [row["image"] for row in rows]


def test_an_answer_that_breaks_off_is_asked_for_again(root: str, s3: Bucket) -> None:
    with Writer(root, NAME) as writer:
        writer.append("trials", {"trial_id": "a"})
    cut = itertools.chain([Answer(200, b"PAR1", announced=1000)], itertools.repeat(None))
    s3.service.misbehave = lambda request: next(cut) if request.key.endswith(".parquet") else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", LakeWarning)
        assert load(root).trials()["trial_id"].to_pylist() == ["a"]


def test_torn_files_are_skipped_with_their_names(root: str, s3: Bucket) -> None:
    with Writer(root, NAME) as writer:
        writer.append("metrics", {"trial_id": "a", "epoch": 1})
    for number, content in enumerate((b"", b"PAR1", b"PAR1" + b"x" * 2**21)):
        s3.put(f"lake/{NAME}/metrics/torn{number}.parquet", content)
    with pytest.warns(LakeWarning, match=f"skipped {root}/{NAME}/metrics/torn") as caught:
        assert epochs(root) == [1]
    assert len(caught) == 3


def test_rows_of_an_experiment_that_is_gone_stay_where_they_are(root: str, s3: Bucket, spool: Path) -> None:
    killed_while_away(root, s3)
    s3.delete(f"lake/{NAME}/experiment.json")
    with pytest.warns(LakeWarning, match="no experiment named 'first'; its rows stay in"):
        assert send(root) == 0
    assert waiting(spool)


def test_a_store_that_goes_away_between_two_parts_of_a_file_is_told(root: str, s3: Bucket) -> None:
    with Writer(root, NAME) as writer:
        writer.append("gallery", {"trial_id": "a", "split": "test", "case": "c", "dice": 0.5, "image": os.urandom(2**21)})
    gone = Answer(403, b"<Error><Code>AccessDenied</Code><Message>No more.</Message></Error>")
    s3.service.misbehave = lambda request: gone if request.range.startswith("bytes=") and "=-" not in request.range else None
    with pytest.raises(RemoteError, match="denies access"):
        load(root).gallery(["dice"])


def test_many_flushes_make_few_files(root: str) -> None:
    with Writer(root, NAME, flush_seconds=0) as writer:
        for epoch in range(150):
            writer.append("metrics", {"trial_id": "a", "epoch": epoch})
    assert len(Store(root).files(f"{NAME}/metrics")) < 25
    assert epochs(root) == list(range(150))


def test_nobody_waits_for_a_slow_store(root: str, s3: Bucket, spool: Path) -> None:
    answered = threading.Event()

    def slow(request: Request) -> None:
        if request.method == "PUT":
            answered.wait(60)

    s3.service.misbehave = slow
    writer = patient(root)
    for epoch in range(5):
        writer.append("metrics", {"trial_id": "a", "epoch": epoch})
        writer.flush()
    assert (waiting(spool) != [], epochs(root)) == (True, [])
    answered.set()
    writer.close()
    assert (waiting(spool), epochs(root)) == ([], [0, 1, 2, 3, 4])


def test_a_store_that_fails_every_third_request_loses_and_doubles_nothing(root: str, s3: Bucket) -> None:
    count = itertools.count()
    s3.service.misbehave = lambda _: BUSY if next(count) % 3 == 2 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LakeWarning)
        with patient(root, flush_seconds=0) as writer:
            for epoch in range(10):
                writer.append("metrics", {"trial_id": "a", "epoch": epoch})
    assert epochs(root) == list(range(10))


def test_two_outages_in_a_row_are_sat_out(root: str, s3: Bucket, spool: Path) -> None:
    numbers = itertools.count()
    with patient(root) as writer:
        for expected in (10, 20):
            with pytest.warns(LakeWarning, match="cannot be reached.*meanwhile results wait in") as told, s3.service.away():  # noqa: PT031
                for _ in range(10):
                    writer.append("metrics", {"trial_id": "a", "epoch": next(numbers)})
                    writer.flush()
                wait_for(lambda told=told: len(told) == 1)  # type: ignore[misc]
                assert waiting(spool)
            wait_for(lambda expected=expected: len(epochs(root)) == expected)  # type: ignore[misc]
    assert epochs(root) == list(range(20))
    assert list(spool.glob("*")) == []


def test_a_trial_that_has_ended_in_the_lake_is_complete_there(root: str, s3: Bucket) -> None:
    s3.service.misbehave = lambda request: BUSY if request.method == "PUT" and "/metrics/" in request.key else None
    with warnings.catch_warnings(), patient(root, flush_seconds=60) as writer:
        warnings.simplefilter("ignore", LakeWarning)
        writer.append("trials", {"trial_id": "a", "status": "running"})
        writer.append("metrics", {"trial_id": "a", "epoch": 1})
        writer.flush()
        writer.append("trials", {"trial_id": "a", "status": "finished"})
        writer.flush()
        wait_for(lambda: sum(request.method == "PUT" for request in s3.service.requests) > 3)
        assert "finished" not in load(root).trials()["status"].to_pylist()
        s3.service.misbehave = lambda _: None
    assert load(root).trials()["status"].to_pylist() == ["finished"]
    assert epochs(root) == [1]


# ---------------------------------------------------------------------------------------------------------------------- the spool


DRIVER = """
import sys
from tune.results import Writer
writer = Writer(sys.argv[1], "first", flush_seconds=0, retry_seconds=0.05)
print("open", flush=True)
sys.stdin.readline()
for epoch in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    writer.append("trials", {"trial_id": "a", "status": f"at {epoch}"})
    writer.append("metrics", {"trial_id": "a", "epoch": epoch})
print("written", flush=True)
sys.stdin.readline()
"""


def killed_while_away(root: str, s3: Bucket, start: int = 0) -> None:
    """A driver that appends 20 epochs while the store is away, and is killed then."""
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, root, str(start)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        assert driver.stdout.readline() == "open\n"
        with s3.service.away():
            driver.stdin.write("\n")
            driver.stdin.flush()
            assert driver.stdout.readline() == "written\n"
            driver.kill()
    assert driver.returncode == -signal.SIGKILL


def test_the_next_writer_sends_what_killed_ones_left(root: str, s3: Bucket, spool: Path) -> None:
    killed_while_away(root, s3)
    assert epochs(root) == []
    killed_while_away(root, s3, 20)  # sends the first one's rows before it writes its own
    assert epochs(root) == list(range(20))
    with patient(root) as writer:
        assert epochs(root) == list(range(40))  # there as soon as the writer is
        assert load(root).trials()["status"].to_pylist() == ["at 39"]
        writer.append("trials", {"trial_id": "a", "status": "resumed"})
    assert load(root).trials()["status"].to_pylist() == ["resumed"]
    assert list(spool.glob("*")) == []


def test_a_writer_whose_clock_is_behind_the_spool_still_wins(
    root: str, s3: Bucket, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_while_away(root, s3)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)  # 2001
    with patient(root) as writer:
        writer.append("trials", {"trial_id": "a", "status": "resumed"})
    assert load(root).trials()["status"].to_pylist() == ["resumed"]


def test_a_row_that_waited_does_not_replace_a_newer_one(root: str, s3: Bucket, tmp_path: Path) -> None:
    killed_while_away(root, s3)
    with Writer(root, NAME, spool=tmp_path / "of another machine") as writer:
        writer.append("trials", {"trial_id": "a", "status": "resumed elsewhere"})
    assert send(root) > 0
    assert send(root) == 0
    assert load(root).trials()["status"].to_pylist() == ["resumed elsewhere"]
    assert epochs(root) == list(range(20))


def test_what_a_living_writer_has_waiting_is_left_to_it(root: str, s3: Bucket, spool: Path) -> None:
    answered = threading.Event()

    def slow(request: Request) -> None:
        if request.method == "PUT" and "/trials/" in request.key:
            answered.wait(60)

    s3.service.misbehave = slow
    writer = patient(root)
    writer.append("trials", {"trial_id": "a"})
    wait_for(lambda: any(request.method == "PUT" for request in s3.service.requests))
    other = run([sys.executable, "-m", "tune.results", "send", "--storage", root])
    assert (other.returncode, other.stdout.strip()) == (0, f"nothing waits for {root}")
    with patient(root):
        pass
    answered.set()
    writer.close()
    sent = Counter(request.key for request in s3.service.requests if request.method == "PUT" and "/trials/" in request.key)
    assert list(sent.values()) == [1]


def test_an_experiment_of_the_same_name_does_not_get_the_rows_of_the_old_one(root: str, s3: Bucket, spool: Path) -> None:
    killed_while_away(root, s3)
    s3.delete(f"lake/{NAME}/experiment.json")
    create_experiment(root, NAME, {"dataset": "other"})
    with patient(root):
        pass
    with pytest.warns(LakeWarning, match="an earlier experiment named 'first'"):
        assert send(root) == 0
    assert epochs(root) == []
    assert waiting(spool)


@pytest.mark.filterwarnings("ignore:.*meanwhile results wait:tune.results.LakeWarning")
def test_close_leaves_rows_in_the_spool_and_says_how_to_send_them(root: str, s3: Bucket, spool: Path) -> None:
    writer = patient(root, close_seconds=0.1)
    with (  # noqa: PT031
        pytest.warns(LakeWarning, match=f"files of results wait in .* python -m tune.results send --storage {root}$"),
        s3.service.away(),
    ):
        writer.append("metrics", {"trial_id": "a", "epoch": 1})
        writer.close()
        writer.close()
    assert epochs(root) == []
    done = run([sys.executable, "-m", "tune.results", "send", "--storage", root])
    assert (done.returncode, done.stdout.strip()) == (0, f"1 files sent to {root}"), done.stderr
    assert epochs(root) == [1]
    assert waiting(spool) == []


def test_a_process_that_forgets_to_close_sends_its_rows(root: str) -> None:
    code = "import sys; from tune.results import Writer; Writer(sys.argv[1], 'first').append('trials', {'trial_id': 'a'})"
    done = run([sys.executable, "-c", code, root])
    assert (done.returncode, done.stderr) == (0, "")
    assert load(root).trials().num_rows == 1


def test_the_spool_is_bounded_and_keeps_the_last_row_of_every_key(root: str, s3: Bucket, spool: Path) -> None:
    writer = patient(root, flush_seconds=60, spool_bytes=300_000)
    with s3.service.away(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for version in range(10):  # each of 100 kB that do not compress
            writer.append("trials", {"trial_id": "a", "error": os.urandom(50_000).hex(), "status": f"at {version}"})
            writer.flush()
        assert any("rows that newer ones replaced were dropped" in str(warning.message) for warning in caught)
        assert sum(path.stat().st_size for path in waiting(spool)) < 500_000
        with pytest.raises(OSError, match=r"at its bound|cannot be reached"):  # noqa: PT012
            for epoch in range(10):
                writer.append("metrics", {"trial_id": "a", "epoch": epoch, "junk": os.urandom(50_000).hex()})
                writer.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LakeWarning)
        writer.close()
    found = epochs(root)
    assert found == list(range(len(found)))
    assert len(found) > 1
    assert load(root).trials()["status"].to_pylist() == ["at 9"]


def test_without_a_spool_rows_go_straight_to_the_store(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(LakeWarning, match="cannot be written"):
        writer = Writer(root, NAME, spool=tmp_path / "file")
    writer.append("trials", {"trial_id": "a"})
    writer.flush()
    assert load(root).trials().num_rows == 1
    writer.close()


# ------------------------------------------------------------------------------------------------------------- misuse, told soon


def test_a_good_place_passes_and_nothing_is_left_there(s3: Bucket, tmp_path: Path) -> None:
    check_writable(f"{s3.address}/new/lake")
    check_writable(tmp_path / "new" / "lake")
    assert "Contents" not in s3.service.client.list_objects_v2(Bucket=s3.name)
    assert list((tmp_path / "new" / "lake").iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "wrong"}, r"refuses the AWS credentials \(InvalidAccessKeyId\); check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": ""}, "without AWS credentials .* set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        ({"AWS_PROFILE": "nobody"}, r"nobody.* set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "cannot be reached at http://127.0.0.1:9 .* check the network and AWS_ENDPOINT_URL",
        ),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(
    root: str, environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words) as caught:
        check_writable(root)
    assert str(caught.value).startswith(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://nowhere/lake", "has no bucket named 'nowhere'; check the name, or create the bucket"),
        ("s3://", "names no bucket; write s3://BUCKET/FOLDER"),
        ("s3://No_Bucket!/lake", "Invalid bucket name"),
    ],
)
def test_wrong_buckets_are_told_in_a_sentence(s3: Bucket, address: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_writable(address)


def test_a_bucket_that_may_be_read_only_is_refused(s3: Bucket) -> None:
    denied = Answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    s3.service.misbehave = lambda request: denied if request.method == "PUT" else None
    with pytest.raises(InputError, match="denies access; the credentials need s3:ListBucket, s3:GetObject, s3:PutObject"):
        check_writable(s3.address)


def test_a_server_that_is_no_store_is_told(s3: Bucket) -> None:
    s3.service.misbehave = lambda _: Answer(404, b"<html>not here</html>")
    with pytest.raises(InputError, match="is no S3 service; check AWS_ENDPOINT_URL"):
        check_writable(s3.address)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file cannot be written: .*; choose another --storage"):
        check_writable(tmp_path / "file")


def test_readers_tell_wrong_places_in_a_sentence(root: str, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load(f"{s3.address}/elsewhere")
    with pytest.raises(RemoteError, match="has no bucket named 'nowhere'"):
        load("s3://nowhere/lake")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(RemoteError, match="refuses the AWS credentials"):
        read_experiment(root, NAME)
