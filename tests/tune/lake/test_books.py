"""Books that balance: a value that no file can hold costs that value alone, and a full disk costs nothing."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from patience import run

from tune.results import LakeWarning, Writer, create_experiment, load

NAME = "first"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_experiment(tmp_path / "lake", NAME, {"dataset": "phantom"})
    return tmp_path / "lake"


class Strange:
    """Neither shown nor stored."""

    def __str__(self) -> str:
        raise RuntimeError("no words for it")

    __repr__ = __str__


class Tensor:
    """Like one on a GPU that is gone."""

    def tolist(self) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


# ------------------------------------------------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("table", "bad"),
    [
        ("trials", {"status": 7}),
        ("trials", {"memory_bytes": 2**70}),
        ("trials", {"memory_bytes": 1.5}),
        ("trials", {"seconds": "long"}),
        ("trials", {"seconds": 10**400}),
        ("trials", {"started_at": "yesterday"}),
        ("trials", {"started_at": float("nan")}),
        ("trials", {"config.x": endless()}),
        ("trials", {"config.x": Tensor()}),
        ("trials", {"error": Strange()}),
        ("metrics", {"class_dice": [0.5, "x"]}),
        ("metrics", {"class_dice": [10**400]}),
        ("metrics", {"class_dice": [True]}),
        ("metrics", {"dice": [0.5]}),
        ("gallery", {"image": "text"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_value_that_does_not_fit_costs_that_value_alone(table: str, bad: dict[str, Any], root: Path) -> None:
    key = {"epoch": 1, "split": "test", "case": "c"}
    with Writer(root, NAME) as writer:
        rows = [{"trial_id": name, **key} | (bad if name == "b" else {}) for name in "abc"]
        with pytest.raises(ValueError, match=next(iter(bad))):
            writer.append(table, rows)
    found = getattr(load(root), table)().to_pylist()
    assert [row["trial_id"] for row in found] == ["a", "b", "c"]
    assert found[1].get(next(iter(bad))) is None


@pytest.mark.parametrize(
    "key", [{"epoch": float("nan")}, {"epoch": 1.5}, {"epoch": 2**64}, {"epoch": None}, {}, {"trial_id": 7}], ids=str
)
def test_a_row_without_a_sound_key_costs_that_row_alone(key: dict[str, Any], root: Path) -> None:
    good = [{"trial_id": "a", "epoch": epoch} for epoch in (1, 3)]
    with Writer(root, NAME) as writer, pytest.raises(ValueError, match="lacks"):
        writer.append("metrics", [good[0], {"trial_id": "a"} | key, good[1]])
    assert load(root).metrics()["epoch"].to_pylist() == [1, 3]


def test_what_only_a_file_refuses_is_left_out_and_told(root: Path) -> None:
    """Found out when the rows are written: the whole batch must not suffer, nor be tried for ever."""
    with Writer(root, NAME, flush_seconds=60) as writer:
        writer.append("trials", {"trial_id": "a", "config.x": {1, 2}})
        writer.append("trials", {"trial_id": "b", "config.x": Strange(), "config.y": 1, "number": 4})
        writer.append("trials", {"trial_id": "c", "config.x": 0.5, "number": 5})
        with pytest.warns(LakeWarning, match=r"the row of trials with trial_id 'b' is stored without config\.x: no words for it"):
            writer.flush()
    found = load(root).trials().sort_by("trial_id").to_pylist()
    assert [(row["trial_id"], row["config.y"], row["number"]) for row in found] == [("a", None, None), ("b", 1, 4), ("c", None, 5)]


def test_values_of_any_kinds_in_one_column_go_together(root: Path) -> None:
    values = [
        1,
        2**70,
        "x \ud800",
        0.5,
        [1, "a"],
        {"k": [1]},
        None,
        b"\xff",
        True,
        datetime(2026, 1, 1, tzinfo=UTC),
        [[1], {}],
        [b"x"],
    ]
    values += [datetime(2026, 1, 1), {1, 2}, 1 + 2j, range(3), [2**70], [None], float("nan"), object]
    with Writer(root, NAME) as writer:
        writer.append("trials", [{"trial_id": f"{number:02d}", "config.x": value} for number, value in enumerate(values)])
    assert load(root).trials().num_rows == len(values)


def test_rows_keep_coming_after_a_bad_one(root: Path) -> None:
    """The thread that writes them lives."""
    with Writer(root, NAME, flush_seconds=0.02) as writer:
        for epoch in range(20):
            writer.append("metrics", {"trial_id": "a", "epoch": epoch} | ({"loss_x": Strange()} if epoch % 5 == 0 else {}))
        with pytest.warns(LakeWarning, match="is stored without loss_x"):
            writer.flush()
    assert sorted(load(root).metrics()["epoch"].to_pylist()) == list(range(20))


# ------------------------------------------------------------------------------------------------------------- full disks

FULL = """
import os, resource, sys, threading, time, warnings
from pathlib import Path
from tune.lake import amend_experiment
from tune.results import InputError, LakeWarning, Writer, create_experiment, load, read_experiment

root, small = Path(sys.argv[1]), sys.argv[2] == "small"
ballast = root / "ballast"

def fill():
    if not small:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        return
    with open(ballast, "ab", buffering=0) as file:
        size = 2**16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2

def make_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ballast.unlink(missing_ok=True)

def refused(work):
    try:
        work()
    except (OSError, InputError) as error:
        return str(error)
    raise AssertionError("it was not refused")

create_experiment(root, "first", {"dataset": "phantom"})
before = (root / "first" / "experiment.json").read_bytes()
warnings.simplefilter("ignore", LakeWarning)
writer = Writer(root, "first", flush_seconds=0.05)
writer.append("metrics", {"trial_id": "a", "epoch": 0})
writer.flush()
fill()
for epoch in range(1, 50):
    writer.append("metrics", {"trial_id": "a", "epoch": epoch})
    writer.append("trials", {"trial_id": "a", "number": 0, "status": f"at {epoch}"})
refused(writer.flush)
time.sleep(0.3)
assert load(root).metrics().num_rows == 1
refused(lambda: amend_experiment(root, "first", {"more": "x" * 5000}))
refused(lambda: create_experiment(root, "second", {"more": "x" * 5000}))
assert (root / "first" / "experiment.json").read_bytes() == before
told = refused(writer.close)
assert "49 of metrics, 1 of trials" in told or "49 of trials" in told, told
make_room()
assert not [path for path in root.rglob("*.tmp")]
writer.close()
assert sorted(load(root).metrics()["epoch"].to_pylist()) == list(range(50))
assert load(root).trials()["status"].to_pylist() == ["at 49"]
create_experiment(root, "second", {})
print("balanced")
"""


@pytest.fixture(params=["small", "limited"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A lake on a disk of 1 MiB, where this user may mount one; and one whose files may not grow, which everybody can have."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "small" and run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]).returncode != 0:
        pytest.skip("this user may not mount a small disk (the other case covers what it shows)")
    yield folder, request.param
    if request.param == "small":
        run(["umount", folder])


def test_a_full_disk_costs_no_row(full: tuple[Path, str]) -> None:
    done = run([sys.executable, "-c", FULL, *full])
    assert done.stdout == "balanced\n", done.stderr
    assert done.returncode == 0
