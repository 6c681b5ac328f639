"""The wheel, in a fresh environment outside of the source folder: all commands are there, and a search runs."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import lean
import pytest
from patience import run
from searches import ROOT, assert_whole, here, tiny

from tune.results import load

pytestmark = pytest.mark.long

COMMANDS = {"search", "control", "finalists", "rehearse", "results", "leaderboard", "serve", "train", "segment", "inspect", "check"}
LOAD_ALL = """
from importlib.metadata import distribution
for command in distribution("cdal-search").entry_points:
    print(command.name, command.load().__code__.co_filename)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has the wheel of its own; the dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] in {"cdal", "tune", "dashboards", "cluster", "pyproject.toml", "README.md", "LICENSE"}:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    assert run([*pip, *build], cwd=folder).returncode == 0
    shutil.rmtree(folder / "source")
    fresh = folder / "environment"
    assert run([sys.executable, "-m", "venv", "--without-pip", fresh]).returncode == 0
    (packages,) = fresh.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = folder.glob("cdal_search-*.whl")
    install = ["--python", fresh / "bin" / "python", "install", "--no-deps", "--no-index", "--ignore-installed", wheel]
    assert run([*pip, *install]).returncode == 0
    return fresh


def test_every_command_is_there(environment: Path) -> None:
    loaded = run([environment / "bin" / "python", "-c", LOAD_ALL], cwd=environment)
    found = dict(line.split(" ", 1) for line in loaded.stdout.splitlines())
    assert set(found) == {f"cdal-{name}" for name in COMMANDS}, loaded.stderr
    assert all(Path(path).is_relative_to(environment) for path in found.values())


@pytest.mark.ray
def test_a_search_runs_whose_two_workers_learn_what_one_learns(environment: Path, tmp_path: Path) -> None:
    options = ["--space", tiny(tmp_path, epochs=2), "--trials", 1, "--seed", 7]
    command = [environment / "bin" / "cdal-search", *options, "--workers-per-trial", 2, "--name", "two"]
    done = run(command, cwd=tmp_path, env=os.environ | lean.ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    lake = tmp_path / "results"
    assert (tmp_path / done.stdout.splitlines()[-1]).is_file()
    assert_whole(lake, "two", 1, 2)
    here(*options, "--storage", lake, "--name", "one")
    both = load(lake).metrics().to_pandas().pivot_table(index="epoch", columns="experiment", values="loss_reconstruction")
    assert both["one"].to_numpy() == pytest.approx(both["two"].to_numpy(), rel=1e-3)


def test_wrong_input_is_one_sentence_there_too(environment: Path, tmp_path: Path) -> None:
    wrong = run([environment / "bin" / "cdal-finalists", "--experiment", "none"], cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
