"""How the suite itself runs: what comes first, and what is said of tests that were left out."""

import os
import re
import sys
from pathlib import Path

import pytest
from patience import run

TESTS = Path(__file__).parent
LACKING = """
import pytest

@pytest.fixture
def machine():
    pytest.skip("there is no machine: apt-get install machine")

@pytest.mark.parametrize("number", range(3))
def test_on(machine, number):
    pass

@pytest.mark.skipif(True, reason="it is Monday")
def test_off():
    pass
"""
SLOW = """
import pytest

def test_plain():
    pass

@pytest.mark.{}
def test_slow():
    pass
"""


@pytest.mark.long
def test_a_run_begins_with_what_takes_long_and_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").symlink_to(TESTS / "conftest.py")
    (tmp_path / "test_a.py").write_text(LACKING)
    for number, marker in enumerate(("long", "browser", "ray", "hosts")):
        (tmp_path / f"test_{number}.py").write_text(SLOW.format(marker))
    command = [sys.executable, "-m", "pytest", "--verbose", "-p", "no:dash", "--numprocesses", 1, "--dist", "loadfile"]
    done = run([*command, "--no-loadscope-reorder"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(TESTS / "support")})
    files = re.findall("(?:PASSED|SKIPPED) test_(.).py", done.stdout)
    assert "".join(files) == "33221100aaaa", done.stdout + done.stderr
    told = re.findall("^skipped: .*", done.stdout, re.MULTILINE)
    assert told == ["skipped: 4 tests, 3 because there is no machine: apt-get install machine; 1 because it is Monday"]
