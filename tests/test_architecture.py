"""The house rules: who may import whom, and names that collide with nothing."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cdal", "tune", "dashboards", "cluster")
FORBIDDEN = {
    "cdal": {"ray", "optuna", "pyarrow", "plotly", "tune", "dashboards", "cluster"},
    "tune": {"plotly", "cluster"},
    "dashboards": {"cdal", "ray", "torch", "cluster"},
}


def imported(file: Path) -> set[str]:
    """Full names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    assert files(package)
    for file in files(package):
        roots = {name.split(".")[0] for name in imported(file)}
        assert not roots & FORBIDDEN[package], file


def test_dashboards_read_the_lake_and_nothing_else() -> None:
    """And what the lake computes of its own tables, which needs neither Ray nor PyTorch."""
    allowed = ("tune.results", "tune.lake.significance", "tune.lake.tradeoffs")
    for file in files("dashboards"):
        ours = {name for name in imported(file) if name.split(".")[0] == "tune"}
        assert all(name == "tune" or name.startswith(allowed) for name in ours), file


def test_only_the_commands_draw_the_leaderboard() -> None:
    users = [file.name for file in files("tune") if any(name.startswith("dashboards") for name in imported(file))]
    assert users == ["finalists.py", "search.py"]


@pytest.mark.parametrize("package", ["tune", "dashboards", "cluster"])
def test_module_names_shadow_nothing(package: str) -> None:
    """`python tune/search.py` puts tune/ itself first on the path, before the standard library."""
    taken = set(sys.stdlib_module_names) | (set(packages_distributions()) - set(PACKAGES))
    names = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & taken
