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
    allowed = ("tune.results", "tune.significance", "tune.tradeoffs")
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


# ----------------------------------------------------------------------------------------------------- the rooms of dashboards

DOORS = {"leaderboard", "serve"}
ROOMS = {  # each, and which others it may enter
    "summaries": set(),
    "ranking": {"summaries"},
    "figures": {"summaries"},
    "panels": {"summaries", "figures"},
    "pages": {"summaries", "ranking", "figures", "panels"},
    "live": {"summaries", "ranking", "figures", "panels"},
}
WITHOUT_PAGES = {"plotly", "jinja2", "markupsafe", "dash", "flask", "html"}


def rooms(file: Path) -> set[str]:
    """The rooms and doors of dashboards that a file imports from."""
    return {name.split(".")[1] for name in imported(file) if name.startswith("dashboards.")}


def test_every_file_of_dashboards_is_a_door_or_in_a_room() -> None:
    folder = ROOT / "dashboards"
    assert {path.stem for path in folder.glob("*.py")} == DOORS | {"__init__"}
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_dashboards_are_entered_one_way(room: str) -> None:
    for file in files(f"dashboards/{room}"):
        assert rooms(file) <= ROOMS[room] | {room}, file


@pytest.mark.parametrize("room", ["summaries", "ranking"])
def test_what_is_computed_knows_nothing_of_charts_and_pages(room: str) -> None:
    for file in files(f"dashboards/{room}"):
        assert not {name.split(".")[0] for name in imported(file)} & WITHOUT_PAGES, file


def test_markup_is_in_templates_and_not_in_strings() -> None:
    for file in files("dashboards"):
        texts = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
        without_plotly = [str(text).replace("</extra>", "") for text in texts]  # a tag of Plotly's own, in what a chart says
        assert not [text for text in without_plotly if "</" in text], file
