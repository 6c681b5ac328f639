"""Decoded cases: kept once, mapped, and never worse than decoding anew."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from decoding import Decoder, make_sources
from patience import finish
from patience import run as run_to_its_end

from cdal.caching import cache_folder
from cdal.data import Case, Source
from cdal.data.cache import load_cases
from cdal.errors import InputError

RECIPE = {"reader": "noise", "version": 1}
SCRIPT = Path(__file__).parents[1] / "support" / "decoding.py"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own: the folder that holds the cases."""
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cases"


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Six cases, their files as old as files usually are."""
    return make_sources(tmp_path / "data", 6)


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return Decoder(tmp_path / "decoded.log")


def names(sources: Sequence[Source]) -> list[str]:
    return [source.id for source in sources]


def assert_same(ours: Sequence[Case], theirs: Sequence[Case]) -> None:
    assert [case.id for case in ours] == [case.id for case in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.spacing == other.spacing
        for name in ("image", "label", "instances"):
            mine, yours = getattr(one, name), getattr(other, name)
            assert (mine is None) == (yours is None)
            assert mine is None or (mine.dtype == yours.dtype and torch.equal(mine, yours))


def run(cache: Path, accident: str) -> subprocess.CompletedProcess[str]:
    """Open the cases in a process that meets with an accident."""
    return run_to_its_end([sys.executable, SCRIPT, cache.parents[1], accident], stdin=subprocess.DEVNULL)


def test_cases_are_decoded_once(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    first = load_cases(sources, decoder, RECIPE)
    assert sorted(decoder.log) == names(sources)
    second = load_cases(sources, decoder, RECIPE)
    assert len(decoder.log) == 6
    expected = [Decoder().decode(source) for source in sources]
    assert_same(first, expected)
    assert_same(second, expected)
    assert {case.image.dtype for case in second} == {torch.uint8, torch.float32}
    assert {case.instances is None for case in second} == {True, False}


def test_what_decides_a_case_is_decoded_anew(cache: Path, sources: list[Source], decoder: Decoder, tmp_path: Path) -> None:
    load_cases(sources, decoder, RECIPE)
    sources[2].labels[0].write_bytes(b"another mask")
    assert_same(load_cases(sources, decoder, RECIPE), [Decoder().decode(source) for source in sources])
    assert decoder.log[6:] == [sources[2].id]
    load_cases(sources, decoder, RECIPE | {"version": 2})
    assert len(decoder.log) == 7 + 6
    load_cases([*make_sources(tmp_path / "new", 1, first=6), *sources], decoder, RECIPE)
    assert decoder.log[13:] == ["case_6"]
    load_cases(sources[::-1], decoder, RECIPE)
    assert len(decoder.log) == 14


def test_an_image_is_not_taken_for_a_label(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    one = Source(id="one", images=sources[0].images, labels=sources[0].labels)
    other = Source(id="other", images=sources[0].labels, labels=sources[0].images)
    third = Source(id="third", images=sources[0].images + sources[0].labels, labels=())
    load_cases([one, other, third], decoder, RECIPE)
    assert len(decoder.log) == 3


def test_the_same_content_under_two_names(cache: Path, sources: list[Source], decoder: Decoder, tmp_path: Path) -> None:
    twin = make_sources(tmp_path / "twin", 1)[0]
    twin = Source(id="twin", images=twin.images, labels=twin.labels)
    cases = load_cases([sources[0], twin], decoder, RECIPE)
    assert [case.id for case in cases] == ["case_0", "twin"]
    assert [case.id for case in load_cases([twin, sources[0]], decoder, RECIPE)] == ["twin", "case_0"]
    assert torch.equal(cases[0].image, cases[1].image)


def test_cases_are_mapped_privately(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    for _ in range(2):
        cases = load_cases(sources, decoder, RECIPE)
        mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(cache) in line]
        assert len({line.split()[-1] for line in mapped}) == 6
        assert all(line.split()[1].endswith("p") for line in mapped)  # private
        before = cases[0].image.clone()
        cases[0].image.zero_()
        assert not torch.equal(cases[0].image, before)
        assert torch.equal(load_cases(sources[:1], decoder, RECIPE)[0].image, before)
    assert len(decoder.log) == 6


def test_the_folder_may_be_deleted_at_any_time(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    cases = load_cases(sources, decoder, RECIPE)
    for file in sorted(cache.rglob("*")):
        file.unlink()
    cache.rmdir()
    assert_same(cases, [Decoder().decode(source) for source in sources])
    load_cases(sources, decoder, RECIPE)
    assert len(decoder.log) == 12


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def garbage(file: Path) -> None:
    file.write_bytes(b"\xff" * 300)


@pytest.mark.parametrize("damage", [cut, empty, flip, zeros, garbage])
def test_a_damaged_file_is_decoded_again(cache: Path, sources: list[Source], decoder: Decoder, damage: Callable) -> None:
    load_cases(sources, decoder, RECIPE)
    for file in cache.glob("*.safetensors"):
        damage(file)
    expected = [Decoder().decode(source) for source in sources]
    assert_same(load_cases(sources, decoder, RECIPE), expected)
    assert len(decoder.log) == 12
    assert_same(load_cases(sources, decoder, RECIPE), expected)
    assert len(decoder.log) == 12


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"[" * 100_000, b"\xff\xfe"])
def test_a_damaged_index_is_made_again(cache: Path, sources: list[Source], decoder: Decoder, content: bytes) -> None:
    load_cases(sources, decoder, RECIPE)
    (cache / "hashes.json").write_bytes(content)
    load_cases(sources, decoder, RECIPE)
    assert len(decoder.log) == 6
    assert str(sources[0].images[0]) in (cache / "hashes.json").read_text()


def test_files_are_hashed_once(cache: Path, sources: list[Source], decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    load_cases(sources, decoder, RECIPE)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file was read again"))
    load_cases(sources, decoder, RECIPE)


def test_a_file_written_to_twice_within_a_moment(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    """The second change has the size, the inode and, by the clock of the file system, the time of the first."""
    image = sources[0].images[0]
    for content in (b"first.", b"second"):
        image.write_bytes(content)
        os.utime(image, ns=(now := time.time_ns(), now)) if content == b"first." else os.utime(image, ns=(now, now))
        assert_same(load_cases(sources, decoder, RECIPE), [Decoder().decode(source) for source in sources])


@pytest.mark.long
def test_processes_that_start_at_once_decode_once(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    command = [sys.executable, SCRIPT, cache.parents[1]]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert {finish(worker) for worker in workers} == {"6 cases\n"}
    assert sorted(decoder.log) == names(sources)


@pytest.mark.long
@pytest.mark.parametrize("moment", ["decoding", "writing"])
def test_a_killed_process_leaves_nothing_bad(cache: Path, sources: list[Source], decoder: Decoder, moment: str) -> None:
    killed = run(cache, moment)
    assert killed.returncode == -signal.SIGKILL
    left = list(cache.glob("unfinished-*"))
    assert left or moment == "decoding"  # then too where another thread was just writing
    whole = len(list(cache.glob("*.safetensors")))
    assert whole < 6
    before = len(decoder.log)
    assert_same(load_cases(sources, decoder, RECIPE), [Decoder().decode(source) for source in sources])
    assert len(decoder.log) == before + 6 - whole
    for left in cache.glob("unfinished-*"):
        os.utime(left, (0, 0))
    load_cases(sources, decoder, RECIPE | {"version": 2})
    assert not list(cache.glob("unfinished-*"))


def test_a_folder_that_cannot_be_made(sources: list[Source], decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDAL_CACHE", str(sources[0].images[0] / "cache"))
    with pytest.warns(UserWarning, match=r"image_0.bin/cache/cases cannot be written .* set CDAL_CACHE") as warned:
        cases = load_cases(sources, decoder, RECIPE)
    assert len(warned) == 1
    assert_same(cases, [Decoder().decode(source) for source in sources])


@pytest.mark.long
def test_a_full_disk(cache: Path, sources: list[Source]) -> None:
    """Files may not grow past a hundred bytes, which a process can impose on itself."""
    full = run(cache, "full")
    assert full.stdout.endswith("6 cases\n")
    assert full.stderr.count("cannot be written") == 1
    assert os.strerror(errno.EFBIG) in full.stderr
    assert not list(cache.glob("*.safetensors"))


def test_the_first_bad_source_is_told(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    sources[4].images[0].write_bytes(b"bad")
    sources[2].images[0].write_bytes(b"bad")
    with pytest.raises(InputError, match=r"image_2.bin is bad"):
        load_cases(sources, decoder, RECIPE)
    first_good = decoder.log.copy()
    assert {"case_0", "case_1"} <= set(first_good)
    good = [source for source in sources if source.id in ("case_0", "case_1")]
    load_cases(good, decoder, RECIPE)
    assert decoder.log == first_good


def test_sources_that_cannot_be_read_are_for_the_reader_to_tell(cache: Path, sources: list[Source], decoder: Decoder) -> None:
    image = sources[3].images[0]
    image.unlink()
    with pytest.raises(InputError, match=r"image_3.bin is missing"):
        load_cases(sources, decoder, RECIPE)
    os.mkfifo(image)
    with pytest.raises(InputError, match=r"image_3.bin is missing"):
        load_cases(sources, decoder, RECIPE)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    monkeypatch.setenv("CDAL_CACHE", "~/here")
    assert cache_folder() == Path("/home/someone/here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDAL_CACHE", "relative")
    assert cache_folder() == tmp_path / "relative"
    monkeypatch.delenv("CDAL_CACHE")
    assert cache_folder() == Path("/scratch/cdal-search")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/someone/.cache/cdal-search")
