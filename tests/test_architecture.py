"""The house rules: who may import whom, and names that collide with nothing."""

import ast
import sys
from collections import Counter
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cdal", "tune", "dashboards", "cluster")
PAGE = 450  # lines
FOLDER = {"cdal": 22}  # modules, elsewhere 15; the names in cdal/ are other people's imports
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


def entered(file: Path) -> set[str]:
    """Modules that a file imports or takes names from; of `from package import module` the module."""
    names = imported(file)
    return {name for name in names if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()} | {
        name for name in names if (ROOT / name.replace(".", "/") / "__init__.py").is_file() and not _only_on_the_way(name, file)
    }


def _only_on_the_way(package: str, file: Path) -> bool:
    """Whether nothing but modules of the package is taken from it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            folder = ROOT / package.replace(".", "/")
            return all((folder / f"{alias.name}.py").is_file() for alias in node.names)
    return True


def module(file: Path) -> str:
    """A file's name as a module."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
    allowed = ("tune.results", "tune.lake.statistics")
    for file in files("dashboards"):
        assert all(name.startswith(allowed) for name in entered(file) if name.split(".")[0] == "tune"), file


def test_only_the_commands_draw_the_leaderboard() -> None:
    users = [file.name for file in files("tune") if any(name.startswith("dashboards") for name in imported(file))]
    assert users == ["finalists.py", "search.py"]


WINGS = {
    "lake": set(),
    "proposing": {"lake"},
    "stopping": {"lake", "proposing"},
    "trials": {"lake"},
    "steering": {"lake"},
    "running": {"lake", "proposing", "stopping", "trials", "steering"},
    "rehearsal": {"lake", "proposing", "stopping"},
    "finals": {"lake", "proposing", "stopping", "running"},
}
"""Every wing of tune/, and those that it may enter."""
FACES = {
    "tune.lake.status",
    "tune.lake.statistics",
    "tune.lake.commands",
    "tune.proposing.space",
    "tune.running.tuning",
}
"""What is entered by its own name; all else by the wing's `__init__`."""


def wing(name: str) -> str | None:
    """The wing of tune/ that a module's name leads into."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "tune" and parts[1] in WINGS else None


def test_every_wing_is_listed() -> None:
    assert {path.parent.name for path in (ROOT / "tune").glob("*/__init__.py")} == set(WINGS)


@pytest.mark.parametrize("name", WINGS)
def test_wings_enter_the_wings_below_them(name: str) -> None:
    for file in (ROOT / "tune" / name).glob("*.py"):
        others = {found for found in map(wing, entered(file)) if found not in (None, name)}
        assert others <= WINGS[name], file
        doors = {f"tune.{name}" for name in ("search", "control", "finalists", "rehearse", "results")}
        assert not doors & entered(file), f"{file} goes out by a door"


def test_a_wing_is_entered_by_its_face() -> None:
    for package in (*PACKAGES, "benchmarks"):
        for file in files(package):
            for name in entered(file):
                inside = wing(name) is not None and file.parent == ROOT / "tune" / str(wing(name))
                assert inside or wing(name) is None or name.count(".") == 1 or name in FACES, f"{file} enters {name}"


def test_nothing_is_imported_in_a_circle() -> None:
    """Imports inside functions count too."""
    arrows = {module(file): entered(file) - {module(file)} for package in PACKAGES for file in files(package)}
    TopologicalSorter({name: found & set(arrows) for name, found in arrows.items()}).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_is_a_page_and_a_folder_what_an_eye_takes_in(package: str) -> None:
    pages = [path for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".js", ".css", ".html")]
    assert {path.relative_to(ROOT): length for path in pages if (length := len(path.read_text().splitlines())) > PAGE} == {}
    folders = Counter(path.parent for path in files(package))
    assert {folder: count for folder, count in folders.items() if count > FOLDER.get(package, 15)} == {}


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
