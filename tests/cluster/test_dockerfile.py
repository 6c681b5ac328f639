"""The image's recipe, read as text: no builder is at hand where the tests run."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instructions and what follows them, lines joined, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "cluster" / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def of(steps: list[tuple[str, str]], kind: str) -> list[str]:
    return [rest for instruction, rest in steps if instruction == kind]


def test_the_base_is_one_exact_version_of_a_python_that_the_project_supports(steps: list[tuple[str, str]]) -> None:
    (base,) = of(steps, "FROM")
    version = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+", base)
    assert version
    assert PROJECT["project"]["requires-python"] == f">={version[1]}"


def test_every_installation_obeys_the_constraints_and_pytorch_comes_first(steps: list[tuple[str, str]]) -> None:
    installs = [command for run in of(steps, "RUN") for command in run.split("&&") if "pip install" in command]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in command for command in installs)
    assert installs[0].split()[-1] == "torch"
    assert "apt" not in " ".join(of(steps, "RUN"))  # whatever a mirror has on that day


def test_the_list_of_requirements_is_what_the_project_needs(steps: list[tuple[str, str]]) -> None:
    (make,) = [run for run in of(steps, "RUN") if "tomllib" in run]
    command = shlex.split(make.split(">")[0])
    printed = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["cluster"]
    assert printed.splitlines() == wanted
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {re.split(r"[\[>=]", requirement)[0].lower() for requirement in wanted} <= pinned


def test_everything_that_is_copied_is_there_and_is_sent_to_the_builder(steps: list[tuple[str, str]]) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for copy in of(steps, "COPY") for source in copy.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / source).exists() for source in copied)
    packages = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages <= set(copied)
    needed = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert needed <= set(copied)  # or the project cannot be built


def test_what_changes_often_comes_after_what_is_large(steps: list[tuple[str, str]]) -> None:
    lines = [" ".join(step) for step in steps]
    code = next(number for number, line in enumerate(lines) if line.startswith("COPY cdal"))
    large = [number for number, line in enumerate(lines) if "pip install" in line and "--editable" not in line]
    assert max(large) < code < next(number for number, line in enumerate(lines) if line.startswith("ARG COMMIT"))


def test_it_runs_as_the_user_that_kubernetes_is_told(steps: list[tuple[str, str]]) -> None:
    assert of(steps, "USER") == ["1000:1000"]
    _, job = yaml.safe_load_all((ROOT / "cluster" / "kuberay.yaml").read_text())
    person = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert f"{person['runAsUser']}:{person['runAsGroup']}" == "1000:1000"
    assert steps.index(("USER", "1000:1000")) > max(number for number, step in enumerate(steps) if step[0] == "RUN")


def test_it_says_whose_it_is_and_starts_with_the_check(steps: list[tuple[str, str]]) -> None:
    (label,) = of(steps, "LABEL")
    labels = dict(part.split("=", 1) for part in shlex.split(label))
    assert labels["org.opencontainers.image.licenses"] == PROJECT["project"]["license"]
    assert labels["org.opencontainers.image.revision"] == "$COMMIT"
    (command,) = of(steps, "CMD")
    assert json.loads(command) == ["python", "-m", "cluster.check"]


def test_nothing_secret_gets_in(steps: list[tuple[str, str]]) -> None:
    given = " ".join(of(steps, "ENV") + of(steps, "ARG") + of(steps, "COPY"))
    assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD|\.env|\.aws|\.ssh|\.git\b", given, re.IGNORECASE)
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    first = next(rule for rule in rules if not rule.startswith("#"))
    assert first == "*"  # what is not named stays here
    assert not any(fnmatch(name, rule[1:]) for name in (".git", ".env", "results", ".venv") for rule in rules if rule[0] == "!")
