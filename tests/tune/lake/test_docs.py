"""docs/lake.md: its queries run as they stand and find the newest rows, and it describes every column."""

import re
from pathlib import Path
from typing import Any

import pytest
from s3 import Bucket

from tune.results import SCHEMAS, Writer, create_experiment

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "lake.md").read_text()
QUERIES = re.findall(r"^```python\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)


def fill(root: str) -> None:
    """Two searches with different settings; the first trial's row is replaced twice, and its best Dice was in an old row."""
    for name, setting in (("first", {"config.x": 1}), ("second", {"config.x": "one", "config.y": [0.5]})):
        create_experiment(root, name, {"dataset": "phantom"})
        for dice, status in ((0.9, "running"), (0.3, "running"), (0.5, "finished")):
            with Writer(root, name) as writer:
                writer.append("trials", {"trial_id": f"{name} a", "validation_dice": dice, "status": status} | setting)
        with Writer(root, name) as writer:
            writer.append(
                "trials", {"trial_id": f"{name} b", "validation_dice": 0.7 if name == "first" else None, "status": "stopped"}
            )


def rows(best: Any) -> list[tuple[Any, ...]]:
    if hasattr(best, "fetchall"):
        return list(best.fetchall())
    return list(best.rows()) if hasattr(best, "rows") else list(best.itertuples(index=False, name=None))


@pytest.mark.long
@pytest.mark.parametrize(
    "query", QUERIES, ids=lambda query: " ".join(re.findall(r"^(?:import|from) ([\w.]+)", query, re.MULTILINE))
)
def test_queries_find_the_newest_rows(query: str, s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(f"{s3.address}/results" if "s3fs" in query else "results")
    names: dict[str, Any] = {}
    exec(query.replace("bucket/results", f"{s3.name}/results"), names)
    found = rows(names["best"])
    assert found[0] == ("first b", "stopped", 0.7)
    assert sorted(found[1:3]) == [("first a", "finished", 0.5), ("second a", "finished", 0.5)]
    assert found[3][:2] == ("second b", "stopped")
    assert len(found) == 4


def test_there_is_a_query_for_every_library() -> None:
    assert [next(name for name in ("s3fs", "duckdb", "polars", "tune", "pandas") if name in query) for query in QUERIES] == [
        *("duckdb", "polars", "pandas", "tune", "s3fs", "s3fs")
    ]


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_is_described(table: str) -> None:
    general = DOCS.partition("**All tables**")[2].partition("**trials**")[0]
    section = DOCS.partition(f"**{table}**\n")[2].partition("\n**")[0] + general
    assert [name for name in SCHEMAS[table].names if f"`{name}`" not in section] == []
