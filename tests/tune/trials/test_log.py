"""A trial's own log."""

import os
import subprocess
import sys
from pathlib import Path

from tune.trials import LOG
from tune.trials.log import TrialLog

PRINTING = """
import os, subprocess, sys, warnings
from tune.trials.log import TrialLog
log = TrialLog(sys.argv[1], whole_process=True)
print("printed")
warnings.warn("careful")
subprocess.run(["sh", "-c", "echo from C >&2"], check=True)
log.close()
print("not the trial's")
"""


def test_whatever_a_process_prints_is_in_it(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}  # as Ray's workers are started
    for _ in range(2):
        command = [sys.executable, "-c", PRINTING, str(tmp_path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        assert done.stdout == "not the trial's\n"
    log = (tmp_path / LOG).read_text()
    for words in ("printed\n", "UserWarning: careful", "from C\n"):
        assert log.count(words) == 2, log
    assert "not the trial's" not in log


def test_it_is_bounded_and_keeps_both_ends(tmp_path: Path) -> None:
    log = TrialLog(str(tmp_path), whole_process=False)
    for number in range(40_000):
        log.say(f"line {number} " + 30 * "x")
    log.keep()
    content = (tmp_path / LOG).read_text()
    assert len(content) < 2**20
    assert "line 0 " in content
    assert "line 39999 " in content
    assert "bytes left out" in content
    log.say("more")
    log.close()
    assert (tmp_path / LOG).read_text().endswith("more\n")


def test_it_says_where_python_stands_even_if_python_itself_stands_still(tmp_path: Path) -> None:
    log = TrialLog(str(tmp_path), whole_process=False)
    log.say_stacks()
    with log.stacks_after(0.05):
        (lambda: sum(range(60_000_000)))()  # one call in C, which gives no other thread a turn
    log.close()
    content = (tmp_path / LOG).read_text()
    assert "in say_stacks" in content
    assert "Timeout (" in content
    assert "in test_it_says_where_python_stands" in content
