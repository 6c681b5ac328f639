"""How commands end: with a status, a sentence, and what to type to go on; and that they print to whatever there is."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from rich.console import Console

from cdal.command import run
from cdal.errors import InputError
from tune.command import Interrupted, Paused, ends_well
from tune.results import create_experiment
from tune.running.progress import spark

ROOT = Path(__file__).resolve().parents[2]
SHOW = "-m tune.results show"
ENDS: dict[str, tuple[BaseException, int, str]] = {
    "paused": (Paused("8 of the last 10 trials failed: CUDA error"), 1, "paused: 8 of the last 10 trials failed: CUDA error\n"),
    "interrupted": (Interrupted(), 130, "interrupted"),
    "failed": (RuntimeError("no more"), 1, "the search failed: no more"),
    "disk full": (OSError(errno.ENOSPC, "No room"), 1, "failed: a disk of this machine is full ([Errno 28] No room)"),
    "wrong input": (InputError("the mask of case a has three classes"), 2, "all results are saved"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_ends(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As while trials run: the process ends at once, whatever threads there are."""
    error, status, expected = ENDS[kind]
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with (
        pytest.raises(SystemExit, match=f"^{status}$"),
        ends_well("the search", "go on so", Console(soft_wrap=True), after_pause="go on so --retry-failed"),
    ):
        raise error
    said = capsys.readouterr()
    assert expected in said.out
    assert said.out.rstrip().endswith("go on so --retry-failed" if kind == "paused" else "go on so")
    if kind == "failed":
        assert said.err.startswith("Traceback")
    else:
        assert said.err == ("error: the mask of case a has three classes\n" if kind == "wrong input" else "")


def test_wrong_input_before_anything_runs_is_told_by_the_command() -> None:
    with pytest.raises(InputError, match="another search"), ends_well("the search", "go on so", Console()):
        raise InputError("another search is running")


def test_a_full_disk_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work(*_: object) -> int:
        return Path("/dev/full").write_text("a page")

    assert run(work, argparse.Namespace()) == 1
    said = capsys.readouterr()
    assert said.err == "error: a disk of this machine is full ([Errno 28] No space left on device); make room there\n"
    assert not said.out


def test_other_errors_of_files_keep_their_traceback() -> None:
    def work(*_: object) -> int:
        return Path("/dev/full/a").write_text("a page")

    with pytest.raises(NotADirectoryError):
        run(work, argparse.Namespace())


PRINTED = [(SHOW, "ascii"), (SHOW, "latin-1"), (SHOW, "utf-8"), ("dashboards/leaderboard.py", "ascii")]


@pytest.mark.parametrize(("command", "encoding"), PRINTED)
def test_whatever_a_pipe_cannot_show_is_replaced(command: str, encoding: str, tmp_path: Path) -> None:
    lake = tmp_path / "läke ☃"
    create_experiment(lake, "gr☃ss", {"dataset": "phantom", "fold": 0})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    shown = [sys.executable, *command.split(), "--storage", str(lake)]
    done = subprocess.run(shown, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    assert ("☃" in said) == (encoding == "utf-8")
    assert ("?" in said) == (encoding != "utf-8")


def test_curves_are_drawn_in_ascii_where_there_is_nothing_else() -> None:
    assert spark([0, 0.5, 1], plain=True).isascii()
    assert len(set(spark([0, 0.5, 1], plain=True))) == len(set(spark([0, 0.5, 1]))) == 3
