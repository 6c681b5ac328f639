"""Machines as they are. Promised in docs/survival.md."""

from pathlib import Path

import pytest
from accidents import at
from books import faults_in
from patience import finish, wait_for
from runs import ALWAYS, ONE_PROCESS, Arrange, Row, search
from searches import start, tiny

pytestmark = pytest.mark.long
ray = pytest.mark.ray


LONG = "a-folder-of-a-job" * 8


@pytest.mark.parametrize(
    ("fault", "variable", "value"),
    [
        ("TMPDIR too long for a socket's name", "TMPDIR", LONG),
        ("HOME that cannot be written", "HOME", "/proc"),
        ("Ray's folder that cannot be written", "RAY_TMPDIR", "/proc/ray"),
    ],
)
def test_a_machine_set_up_oddly(
    fault: str, variable: str, value: str, tmp_path: Path, lake: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value == LONG:
        value = str(tmp_path / LONG)
        Path(value).mkdir()
    monkeypatch.setenv(variable, value)
    if variable == "HOME":
        for name in ("CDAL_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
    status, output = search("--space", tiny(tmp_path), "--storage", lake, "--name", "a", "--trials", 2)
    assert status == 2, output
    assert output.count("\n") == 1, output
    assert not (lake / "a").exists()
    row(
        fault,
        "one sentence, status 2, before an experiment exists",
        output.strip().partition("; ")[0].removeprefix("error: ")[:100],
    )


def test_a_file_system_without_locks_and_a_disk_that_is_full_for_a_while(
    tmp_path: Path, lake: Path, arrange: Arrange, row: Row
) -> None:
    """And a second driver, which is kept out there as well."""
    slowly = at("step", "slow", trials=[1], times=ALWAYS, seconds=1)
    accidents = arrange(at("flock", "refused"), at("lake", "full", trials=[], file="metrics/", times=3), slowly)
    arguments = ("--space", tiny(tmp_path, epochs=25), "--storage", lake, "--name", "a", "--scheduler", "none", "--trials", 2)
    with start(*arguments, script=ONE_PROCESS) as first:
        wait_for(lambda: accidents.happened or first.poll() is not None)
        assert first.poll() is None, first.communicate()[0]
        status, output = search("--resume", "a", "--storage", lake, script=ONE_PROCESS)
        assert status == 2, output
        assert "another search is running" in output
        first_output = finish(first)
    assert first.returncode == 0, first_output
    assert len([one for one in accidents.happened if one.number == 1]) == 3
    assert faults_in(lake, "a", 2) == []
    row("a file system without flock", "the lake works, by a lease; a second driver is kept out", "so it was")
    row("a disk that is full for a while", "rows wait in memory", "3 writes failed; no row lost")
