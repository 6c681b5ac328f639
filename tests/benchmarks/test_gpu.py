"""The script that is run on a GPU, tried without one, and without what a rented machine may lack."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import run

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
LACKING = ["botocore", "cmaes", "imagecodecs", "jinja2", "monai", "nibabel", "optuna", "pandas", "plotly", "pytest", "ray", "s3fs"]
LACKING += ["scipy", "sklearn", "threadpoolctl", "tifffile"]
SETTINGS = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({LACKING}))\n"


def measured(folder: Path, *options: str, more: str = "") -> tuple[int, str, dict[str, Any]]:
    """Exit status, output, and what was written, by processes that lack those modules."""
    (folder / "sitecustomize.py").write_text(WITHOUT + more)
    command = [sys.executable, SCRIPT, "--out", folder / "gpu.json", *options]
    done = run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)} | SETTINGS)
    out = folder / "gpu.json"
    return done.returncode, done.stdout + done.stderr, json.loads(out.read_text()) if out.exists() else {}


@pytest.mark.long
def test_on_a_cpu(tmp_path: Path) -> None:
    status, output, found = measured(tmp_path, "--device", "cpu", "--quick", "--part", "device", "--part", "parity")
    assert status == 0, output
    parts = found["parts"]
    assert {name: part["ended"] for name, part in parts.items()} == {"device": "in time", "parity": "in time"}
    assert parts["device"]["machine"]["torch"] == torch.__version__
    peaks = {row["peak"]: row["most"] for row in parts["device"]["rows"]}
    assert peaks.keys() == {"copy", "bf16", "tf32", "fp32"}
    assert all(0 < peak < 1000 for peak in peaks.values())
    checks = {(row["check"], row["precision"]): row for row in parts["parity"]["rows"]}
    assert all(row["within"] for row in checks.values()), output
    assert 0 < checks["golden three_classes_small", "fp32"]["difference"] < 2e-4
    assert 1e-3 < checks["golden three_classes_small", "bf16"]["difference"] < 5e-2
    assert checks["two deterministic runs", "bf16"]["difference"] == 0
    assert checks["two deterministic runs", "bf16"]["compared"] > 100
    assert checks["kernels of hippocampus_fast", "bf16"]["compared"] > 20
    assert {bar["bar"].partition(":")[0]: bar["met"] for bar in found["bars"]}["numbers"] is True
    assert found["bars"][0] == {"bar": "step of monuseg: plain float32 / ours bf16", "found": None, "wanted": 4.0, "met": None}


@pytest.mark.long
def test_without_a_gpu(tmp_path: Path) -> None:
    status, output, found = measured(tmp_path, "--part", "device")
    assert status == 2
    assert len(output.splitlines()) == 1
    assert "no GPU" in output
    assert found == {}


@pytest.mark.parametrize(
    ("option", "words"), [(("--minutes", "-1"), "it must be above 0"), (("--parity", "nowhere"), "which is no folder")]
)
def test_wrong_input_is_a_sentence(tmp_path: Path, option: tuple[str, str], words: str) -> None:
    status, output, found = measured(tmp_path, "--device", "cpu", "--quick", *option)
    assert status == 2
    assert words in output.splitlines()[-1]
    assert found == {}


HARMFUL = """
import os, sys, time, types

def measure(numbers, *rest):
    os.abort() if numbers == [1] else time.sleep(1000)

sys.modules["packing"] = types.SimpleNamespace(measure=measure, mps_serves=lambda: False)
"""


@pytest.mark.long
def test_what_ends_badly_costs_no_more_than_itself(tmp_path: Path) -> None:
    """A crash costs a row, and what never ends is stopped."""
    options = ["--device", "cpu", "--quick", "--part", "packing", "--part", "device", "--minutes", "0.4"]
    status, output, found = measured(tmp_path, *options, more=HARMFUL)
    assert status == 1, output
    crashed, endless = found["parts"]["packing"]["rows"]
    assert crashed["trainings"] == 1
    assert "with status -6" in crashed["failed"]
    assert endless["trainings"] == 2
    assert "stopped" in endless["skipped"]
    assert len([row for row in found["parts"]["device"]["rows"] if "most" in row]) == 4
    assert found["seconds taken"] < 25
