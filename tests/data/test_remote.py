"""Data on S3: the copy is equal to the bucket, made once, and its failures are told in a sentence."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
import pytest
from patience import finish, run, wait_for
from s3 import Answer, Bucket, Request

from cdal.data import open_dataset
from cdal.data.remote import local_folder
from cdal.errors import InputError

MIB = 2**20
SLOW = b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def noise(size: int, seed: int = 0) -> bytes:
    return bytes(bytearray((seed + 7 * place + place // 251) % 251 for place in range(4096))) * (size // 4096)


def fetched(bucket: Bucket) -> list[str]:
    """Keys of the objects whose content was asked for since the last call."""
    keys = [request.key for request in bucket.fetched]
    bucket.service.requests.clear()
    return keys


def test_a_folder_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert local_folder("~/data") == local_folder("data") == local_folder(tmp_path / "data") == tmp_path / "data"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("s3://", "names no bucket"),
        ("s3:///data", "does not exist"),
        ("gs://bucket/data", "must lie in a folder"),
        ("https://a/b", "must lie"),
    ],
)
def test_addresses_that_are_none(s3: Bucket, data: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        local_folder(data)


def test_the_copy_is_equal_to_the_bucket(s3: Bucket, cache: Path) -> None:
    objects = {"a.png": b"1", "deep/er/b.txt": b"22", "empty": b"", "odd ü&?=+%20 name*.tif": b"333"}
    for name, data in objects.items():
        s3.put(f"set/{name}", data)
    s3.put("set/")
    s3.put("set/deep/")
    s3.put("settled/other.png", b"not below the folder")
    folder = local_folder(f"{s3.address}/set")
    assert content(folder) == objects
    assert folder.is_relative_to(cache)
    assert sorted(fetched(s3)) == sorted(f"set/{name}" for name, data in objects.items() if data)
    assert local_folder(Path(f"{s3.address}/set/")) == folder
    assert fetched(s3) == []
    whole = local_folder(s3.address)
    assert whole != folder
    assert content(whole)["settled/other.png"] == b"not below the folder"


def test_changes_in_the_bucket(s3: Bucket) -> None:
    for name in ("kept", "changed", "gone/file", "turns", "folds/in"):
        s3.put(name, name.encode())
    folder = local_folder(s3.address)
    (folder.parent.parent / "beside").write_text("not of this copy")
    fetched(s3)
    s3.put("changed", b"CHANGED")
    s3.put("new", b"new")
    for name in ("gone/file", "turns", "folds/in"):
        s3.delete(name)
    s3.put("turns/into/folder", b"1")
    s3.put("folds", b"2")
    assert local_folder(s3.address) == folder
    assert sorted(fetched(s3)) == ["changed", "folds", "new", "turns/into/folder"]
    assert content(folder) == {"kept": b"kept", "changed": b"CHANGED", "new": b"new", "turns/into/folder": b"1", "folds": b"2"}
    assert not (folder / "gone").exists()
    assert (folder.parent.parent / "beside").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_copy_is_fetched_again(s3: Bucket, damage: str) -> None:
    s3.put("a", b"sound")
    s3.put("b", b"sound")
    folder = local_folder(s3.address)
    fetched(s3)
    if damage == "gone":
        (folder / "a").unlink()
    else:
        (folder / "a").write_bytes({"cut": b"soun", "changed": b"SOUND"}[damage])
    assert content(local_folder(s3.address)) == {"a": b"sound", "b": b"sound"}
    assert fetched(s3) == ["a"]


def test_a_damaged_journal_is_no_harm(s3: Bucket) -> None:
    s3.put("a", b"sound")
    folder = local_folder(s3.address)
    for text in (b"\xff\xfe", b'["a"', b'{"a": 1}\n[]\n3\n'):
        (folder.parents[1] / "journal").write_bytes(text)
        fetched(s3)
        assert content(local_folder(s3.address)) == {"a": b"sound"}
        assert fetched(s3) == ["a"]
    assert local_folder(s3.address) == folder
    assert fetched(s3) == []


def open_elsewhere(address: str) -> subprocess.Popen[str]:
    """Copy in another process."""
    command = [sys.executable, "-c", "import sys; from cdal.data.remote import local_folder; local_folder(sys.argv[1])", address]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_an_interrupted_copy_goes_on_where_it_stopped(s3: Bucket) -> None:
    data = {"big": noise(20 * MIB), "small": b"small"}
    for name, value in data.items():
        s3.put(name, value)
    s3.service.misbehave = lambda request: Answer(after=60) if request.range.startswith(f"bytes={16 * MIB}") else None
    killed = open_elsewhere(s3.address)
    wait_for(lambda: any(request.bytes.start == 16 * MIB for request in s3.fetched) and "small" in [r.key for r in s3.fetched])
    time.sleep(0.2)  # for the small one to be written
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    s3.service.misbehave = lambda _: None
    fetched(s3)
    folder = local_folder(s3.address)
    assert content(folder) == data
    assert [(request.key, request.bytes) for request in s3.fetched] == [("big", range(16 * MIB, 20 * MIB))]
    assert not (folder.parent / "unfinished").exists()


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are asked for in pieces of 2 MiB."""
    monkeypatch.setattr("cdal.data.remote._PIECE", 2 * MIB)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_part_is_not_continued_as_another_object(s3: Bucket, in_parts: bool) -> None:
    """Stopped in the middle, then the object is replaced by one of the same size."""
    old, new = noise(6 * MIB, 1), noise(6 * MIB, 2)
    s3.put("big", old)
    s3.service.misbehave = lambda request: Answer(403, DENIED) if request.range.startswith(f"bytes={2 * MIB}") else None
    with pytest.raises(InputError, match="may not be read"):
        local_folder(s3.address)
    s3.service.misbehave = lambda _: None
    if in_parts:
        s3.put_in_parts("big", new[: 5 * MIB], new[5 * MIB :])
    else:
        s3.put("big", new)
    assert content(local_folder(s3.address)) == {"big": new}


@pytest.mark.usefixtures("pieces")
def test_a_part_that_came_to_harm_is_noticed(s3: Bucket) -> None:
    data = noise(6 * MIB)
    s3.put("big", data)
    s3.service.misbehave = lambda request: Answer(403, DENIED) if request.range.startswith(f"bytes={2 * MIB}") else None
    with pytest.raises(InputError):
        local_folder(s3.address)
    s3.service.misbehave = lambda _: None
    (part,) = next(Path(os.environ["CDAL_CACHE"]).glob("s3/*/unfinished")).iterdir()
    assert part.stat().st_size == 2 * MIB
    part.write_bytes(bytes(2 * MIB))
    assert content(local_folder(s3.address)) == {"big": data}


def test_objects_whose_etag_is_no_md5(s3: Bucket) -> None:
    parts = noise(5 * MIB), b"the rest"
    s3.put_in_parts("parts", *parts)
    s3.put("secret", b"encrypted", ServerSideEncryption="aws:kms")
    folder = local_folder(s3.address)
    assert content(folder) == {"parts": b"".join(parts), "secret": b"encrypted"}
    fetched(s3)
    local_folder(s3.address)
    assert fetched(s3) == []


def test_content_that_is_not_what_the_etag_tells(s3: Bucket) -> None:
    s3.put("data/a.png", b"true")
    s3.service.misbehave = lambda request: Answer(206, b"lies") if request.key and request.method == "GET" else None
    with pytest.raises(InputError, match=rf"{s3.address}/data/a.png arrives with another content than its ETag tells"):
        local_folder(s3.address)
    s3.service.misbehave = lambda request: Answer(206, b"longer lies") if request.key and request.method == "GET" else None
    with pytest.raises(InputError, match=rf"{s3.address}/data/a.png changed while it was copied"):
        local_folder(s3.address)
    s3.service.misbehave = lambda _: None
    assert content(local_folder(s3.address)) == {"data/a.png": b"true"}


def test_answers_that_break_off_are_asked_for_again(s3: Bucket) -> None:
    s3.put("a", b"whole answer")
    s3.put("b", b"another")
    troubles = {"a": [Answer(206, b"whole", announced=12), Answer(503, SLOW)], "b": [Answer(500)]}
    s3.service.misbehave = lambda request: troubles[request.key].pop() if troubles.get(request.key) else None
    assert content(local_folder(s3.address)) == {"a": b"whole answer", "b": b"another"}
    assert Counter(fetched(s3)) == {"a": 3, "b": 2}


@pytest.mark.long
def test_one_process_copies_for_all(s3: Bucket) -> None:
    for number in range(20):
        s3.put(f"file_{number}", noise(8192, number))

    def slowly(request: Request) -> None:
        time.sleep(0.1 if request.key else 0)

    s3.service.misbehave = slowly
    others = [open_elsewhere(s3.address) for _ in range(2)]
    folder = local_folder(s3.address)
    for other in others:
        finish(other)
    assert [other.returncode for other in others] == [0, 0]
    assert Counter(fetched(s3)) == {f"file_{number}": 1 for number in range(20)}
    assert len(content(folder)) == 20


@pytest.mark.long
@pytest.mark.parametrize(
    "key", ["../out", "a/../../out", "/root", "a//b", "./a", "a/.", "x" * 256, "ü" * 128, "/".join(["x" * 200] * 5), "nul\0byte"]
)
def test_dangerous_keys_are_refused(s3: Bucket, cache: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(key) > 1000:  # S3 itself takes no longer key
        monkeypatch.setattr("cdal.data.remote._LONGEST_PATH", 1000)
    s3.put("fine", b"1")
    s3.put("set/fine", b"1")
    if "\0" in key:  # nor this
        s3.service.misbehave = lambda request: None if request.key else Answer(200, listing_of(f"set/{key}", 1))
    else:
        s3.put(f"set/{key}", b"evil")
    with pytest.raises(InputError, match="is no usable file name; rename the object") as raised:
        local_folder(f"{s3.address}/set")
    assert f"{s3.address}/set/{key}" in str(raised.value)
    assert [path for path in cache.rglob("*") if path.is_file() and path.name != "lock"] == []
    assert fetched(s3) == []


def test_an_object_that_is_also_a_folder(s3: Bucket) -> None:
    s3.put("set/a", b"1")
    s3.put("set/a/b", b"2")
    with pytest.raises(InputError, match=rf"{s3.address}/set/a is both an object and a folder"):
        local_folder(f"{s3.address}/set")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "s3://no-such-bucket/data",
            r"/data does not exist: http://127.0.0.1:\d+ answers .*bucket does not exist",
        ),
        ("{}/nothing", "/nothing holds no objects"),
        ("{}/set/a", "/set/a holds no objects"),
        ("{}/se", "/se holds no objects"),
        ("s3://Not_A Bucket!/data", "cannot be read from .*Invalid bucket name"),
    ],
)
def test_places_that_are_not_there(s3: Bucket, address: str, words: str) -> None:
    s3.put("set/a", b"1")
    with pytest.raises(InputError, match=words) as raised:
        local_folder(address.format(s3.address))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("what", ["listing", "object"])
def test_a_refusal(s3: Bucket, what: str) -> None:
    s3.put("set/a", b"1")
    s3.service.misbehave = lambda request: Answer(403, DENIED) if bool(request.key) == (what == "object") else None
    where = f"{s3.address}/set/a" if what == "object" else f"{s3.address}/set"
    with pytest.raises(InputError, match=rf"^{where} may not be read: .*Access Denied.*check that the AWS credentials"):
        local_folder(f"{s3.address}/set")


def test_an_object_that_vanishes(s3: Bucket) -> None:
    s3.put("set/a", b"1")

    def vanish(request: Request) -> None:
        if request.method == "GET" and request.key:
            s3.delete(request.key)

    s3.service.misbehave = vanish
    with pytest.raises(InputError, match=rf"{s3.address}/set/a does not exist"):
        local_folder(f"{s3.address}/set")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", None, "cannot be read without AWS credentials .*set AWS_ACCESS_KEY_ID and"),
        ("AWS_PROFILE", "nobody", r"without AWS credentials \(The config profile \(nobody\)"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "cannot be reached at http://127.0.0.1:1 .*check the network"),
        ("AWS_ENDPOINT_URL", "nonsense", "cannot be read from .*Invalid endpoint: nonsense"),
    ],
)
def test_settings_that_lead_nowhere(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, words: str
) -> None:
    s3.put("a", b"1")
    if value is None:
        monkeypatch.delenv(variable)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=words) as raised:
        local_folder(s3.address)
    assert "\n" not in str(raised.value)


@pytest.mark.long
def test_a_service_that_never_answers(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is shortened here; that there is one, and that it holds, is what counts."""
    from cdal.data import remote

    assert remote._NETWORK["read_timeout"] * remote._NETWORK["retries"]["total_max_attempts"] < 30
    monkeypatch.setitem(remote._NETWORK, "read_timeout", 0.5)
    s3.put("set/a", b"1")
    for key in ("", "set/a"):
        s3.service.misbehave = lambda request, key=key: Answer(after=30) if request.key == key else None
        with pytest.raises(InputError, match=r"cannot be reached at .*timeout.*goes on where it stopped"):
            local_folder(f"{s3.address}/set")
    with socket.socket() as silent, monkeypatch.context() as patch:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match="cannot be reached at"):
            local_folder(f"{s3.address}/set")


@pytest.mark.long
def test_one_failure_stops_the_others(s3: Bucket) -> None:
    for number in range(40):
        s3.put(f"file_{number:02}", b"1")
    s3.service.misbehave = lambda request: Answer(403, DENIED) if request.key == "file_03" else None
    with pytest.raises(InputError, match="file_03 may not be read"):
        local_folder(s3.address)
    assert len(fetched(s3)) < 30


def listing_of(key: str, size: int) -> bytes:
    """What a service answers that has one object."""
    return f"""<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType><Contents><Key>{quote(key)}</Key>
        <Size>{size}</Size><ETag>"{"0" * 32}"</ETag></Contents></ListBucketResult>""".encode()


@pytest.mark.long
def test_no_room(s3: Bucket, cache: Path) -> None:
    """Files may not grow past a thousand bytes, which a process can impose on itself."""
    s3.put("a", noise(MIB))
    limited = """
import resource, signal, sys
from cdal.data.remote import local_folder
from cdal.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    local_folder(sys.argv[1])
except InputError as error:
    print(error)
"""
    full = run([sys.executable, "-c", limited, s3.address])
    assert f"{s3.address} cannot be copied to {cache}" in full.stdout
    assert "File too large; make room there, or set CDAL_CACHE" in full.stdout


def test_more_than_there_is_room_for(s3: Bucket) -> None:
    s3.service.misbehave = lambda _: Answer(200, listing_of("a", 10**18))
    with pytest.raises(InputError, match=r"has 1000000000.0 GB to copy, but .* has room for .* GB; set CDAL_CACHE"):
        local_folder(s3.address)


def test_a_cache_that_cannot_be_made(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDAL_CACHE", str(Path(__file__) / "cache"))
    s3.put("a", b"1")
    with pytest.raises(InputError, match=r"cannot be copied to .*/cache/s3/.*: Not a directory; make room there"):
        local_folder(s3.address)


def test_long_copies_tell_how_far_they_are(s3: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        s3.put(name, noise(MIB))
    local_folder(s3.address)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("cdal.data.remote._PATIENCE", 0.0)
    for name in "abc":
        s3.put(name, noise(2 * MIB))
    local_folder(s3.address)
    told = capsys.readouterr()
    assert told.out == ""
    assert f"copying {s3.address}: 6 of 6 MB" in told.err.splitlines()


def test_a_dataset_is_opened_by_its_address(s3: Bucket, tmp_path: Path) -> None:
    names = [f"case_{number}" for number in range(4)]
    listing = {"labels": {"0": "background", "1": "a"}, "training": []}
    for name in names:
        listing["training"].append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
        for folder, dtype in (("imagesTr", np.float32), ("labelsTr", np.uint8)):
            voxels = np.zeros((34, 33, 32), dtype)
            voxels[10:20, 10:20, 10:20] = 1
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "file.nii.gz")
            s3.put(f"Task/{folder}/{name}.nii.gz", (tmp_path / "file.nii.gz").read_bytes())
    s3.put("Task/dataset.json", json.dumps(listing).encode())
    dataset = open_dataset("hippocampus", f"{s3.address}/Task")
    assert dataset.ids == tuple(names)
    assert int(dataset.case("case_2").label.sum()) == 1000
    assert open_dataset("hippocampus", f"{s3.address}/Task") is dataset
    s3.put("Task/labelsTr/case_2.nii.gz", b"damaged")
    with pytest.raises(InputError, match=r"/files/Task/labelsTr/case_2.nii.gz is not a readable NIfTI file"):
        open_dataset("hippocampus", f"{s3.address}/Task")
