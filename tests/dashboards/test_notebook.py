"""The notebook of the documentation runs, in a real kernel, and shows what it says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_notebook_runs_and_is_kept_without_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in cells for output in cell.outputs]
    plotly = "application/vnd.plotly.v1+json"
    charts = [output.data[plotly] for output in shown if plotly in output.get("data", {})]
    assert len(charts) == 5
    assert all(chart["data"] and not chart["config"]["displaylogo"] for chart in charts)
    tables = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert len(tables) == 6
    assert "<td>trial-" in tables[2]
    assert [output for output in shown if output.get("name") == "stderr"] == []
