"""Machines that are set up oddly: one sentence and status 2 before an experiment exists, and no false alarm where Ray does well.

Where it takes a mount to make such a machine, it is made in a namespace of this process's children, which needs root.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdal.errors import InputError
from tune import search
from tune.running import check_machine, preflight

NOBODY = 65534
_NEW_MOUNTS = 0x00020000


def can_mount() -> bool:
    return (
        sys.platform == "linux" and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    )


needs_mounts = pytest.mark.skipif(not can_mount(), reason="namespaces of mounts need root on Linux")


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine as it should be."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def seen_by_a_child(mounts: str, change: Callable[[], object]) -> str:
    """What is told of a machine that commands, then a function, have changed for a child of this process only; empty: nothing."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        said = "the machine could not be changed"
        try:
            assert ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0
            ready = "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && mkdir -m 777 /mnt/ray /mnt/lake"
            subprocess.run(["bash", "-ec", f"{ready}; {mounts}"], check=True)
            os.environ["RAY_TMPDIR"] = "/mnt"
            change()
            check_machine("/mnt/lake", starts_ray=True)
            said = ""
        except InputError as error:
            said = str(error)
        finally:
            os.write(writes, said.encode())
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def test_a_usual_machine_passes_at_once(tmp_path: Path) -> None:
    check_machine(str(tmp_path / "lake"), starts_ray=True)
    times = []
    for _ in range(3):
        began = time.process_time()
        check_machine(str(tmp_path / "lake"), starts_ray=True)
        times.append(time.process_time() - began)
    assert min(times) < 0.05  # of this process's own time, on however busy a machine


def test_names_of_sockets_may_be_as_long_as_the_system_allows(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    fixed = len(f"{short}//ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    folder = short / ("x" * (preflight._SOCKET - fixed))
    monkeypatch.setenv("TMPDIR", str(folder))
    check_machine(str(short), starts_ray=True)
    monkeypatch.setenv("TMPDIR", f"{folder}y")
    with pytest.raises(InputError, match=r"TMPDIR is .* sockets 108 bytes long.*set RAY_TMPDIR to a short path"):
        check_machine(str(short), starts_ray=True)
    check_machine(str(short), starts_ray=False)  # the cluster's Ray has a folder of its own
    monkeypatch.setenv("RAY_TMPDIR", str(short))  # which comes first
    check_machine(str(short), starts_ray=True)


@pytest.mark.parametrize("folder", ["", "here"])
def test_the_temporary_folder_has_a_whole_path(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", folder)
    with pytest.raises(InputError, match=f"TMPDIR is '{folder}'.*begins with /"):
        check_machine(str(tmp_path), starts_ray=True)


def test_rays_folder_is_a_folder(monkeypatch: pytest.MonkeyPatch, short: Path, tmp_path: Path) -> None:
    (short / "ray").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    with pytest.raises(InputError, match=r"Ray's folder .*ray cannot be written \(Not a directory"):
        check_machine(str(tmp_path), starts_ray=True)


def test_a_home_is_needed_where_ray_has_no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(InputError, match=r"HOME /proc/.ray cannot be written.*set HOME to a folder of yours"):
        check_machine(str(tmp_path), starts_ray=True)
    check_machine(str(tmp_path), starts_ray=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    check_machine(str(tmp_path), starts_ray=True)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check_machine(str(tmp_path), starts_ray=True)


def test_what_comes_from_elsewhere_needs_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDAL_CACHE", "/proc/cache")
    check_machine(str(tmp_path), starts_ray=True)
    for places in (("s3://bucket/lake", None), (str(tmp_path), "s3://bucket/data")):
        with pytest.raises(
            InputError, match=r"the cache folder /proc/cache cannot be written.*set CDAL_CACHE to a folder with room.*s3:"
        ):
            check_machine(*places, starts_ray=False)


def test_a_clock_of_long_ago_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight.time, "time", lambda: 86400.0 * 3)
    with pytest.raises(InputError, match="the clock of this machine says 1970-01-0"):
        check_machine(str(tmp_path), starts_ray=True)


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.environ["RAY_AUTH_MODE"] = "disabled"


def nothing() -> None:
    pass


ODD: dict[str, tuple[str, Callable[[], object], str]] = {
    "somebody else's folder": ("chmod 755 /mnt/ray", become_nobody, "/mnt/ray cannot be written (Permission denied; it belongs"),
    "a read-only one": ("mount -t tmpfs -o ro tmpfs /mnt/ray", nothing, "/mnt/ray cannot be written (Read-only file system)"),
    "a full one": ("mount -t tmpfs -o size=1m tmpfs /mnt/ray", nothing, "/mnt/ray has 1 MiB of disk left; set RAY_TMPDIR"),
    "no more files": ("mount -t tmpfs -o nr_inodes=9 tmpfs /mnt/ray", nothing, "has room for 8 more files; set RAY_TMPDIR"),
    "shared memory full": ("mount -t tmpfs -o size=1m tmpfs /dev/shm", nothing, "/dev/shm has 1 MiB left; delete"),
    "shared memory read-only": ("mount -t tmpfs -o ro tmpfs /dev/shm", nothing, "/dev/shm cannot be written (Read-only"),
    "storage full": ("mount -t tmpfs -o size=1m tmpfs /mnt/lake", nothing, "--storage /mnt/lake has 1 MiB of disk left"),
    "few open files": ("", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)), "may have 40 open files"),
    "few processes": ("", lambda: (resource.setrlimit(resource.RLIMIT_NPROC, (90, 90)), become_nobody()), "may have 90 processes"),
}  # fmt: skip
FINE: dict[str, tuple[str, Callable[[], object]]] = {
    "a container's shared memory": ("mount -t tmpfs -o size=64m tmpfs /dev/shm", nothing),
    "somebody else's folder for all": ("chmod 1777 /mnt/ray", become_nobody),
    "a folder that is not there yet": ("rmdir /mnt/ray", nothing),
    "few processes of root": ("", lambda: resource.setrlimit(resource.RLIMIT_NPROC, (90, 90))),
}


@needs_mounts
@pytest.mark.parametrize("kind", ODD)
def test_what_is_missing_is_told_in_a_sentence(kind: str) -> None:
    mounts, change, expected = ODD[kind]
    said = seen_by_a_child(mounts, change)
    assert expected in said
    assert "\n" not in said


@needs_mounts
@pytest.mark.parametrize("kind", FINE)
def test_what_ray_does_well_with_is_no_false_alarm(kind: str) -> None:
    assert seen_by_a_child(*FINE[kind]) == ""


def test_a_search_says_so_before_an_experiment_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", f"/tmp/{'x' * 60}")
    assert search.main(["--trials", "1", "--storage", str(tmp_path / "lake")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: TMPDIR is /tmp/xxx")
    assert said.err.count("\n") == 1
    assert not said.out
    assert not (tmp_path / "lake").exists()
