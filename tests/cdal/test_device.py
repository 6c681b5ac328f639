"""Whole steps on CUDA tensors that hold no values: nothing on the wrong device, no wait, no copy, no more kernels than agreed.

`tests/support/fake_cuda.py` follows them, and says how kernels are counted. What cannot be followed without a value (a number that
the CPU asks a GPU for, a branch on one) is an error there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import run

from cdal.config import PRESETS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(torch.version.cuda is not None, reason="the CUDA device that is not there needs PyTorch for CPUs")

BUDGET = {
    "monuseg": {"penalised": 2500, "update": 2290, "sampling": 2090},
    "chest_xray": {"penalised": 1910, "sampling": 730},
    "hippocampus": {"penalised": 1330, "update": 1160, "sampling": 900},
    "hippocampus_sampling": {"penalised": 1520, "update": 1360, "sampling": 580},
    "monuseg_fast": {"penalised": 1520, "update": 1380, "rest": 820, "sampling": 1190},
    "chest_xray_fast": {"penalised": 1570, "update": 1460, "rest": 910, "sampling": 680},
    "hippocampus_fast": {"penalised": 1050, "update": 930, "rest": 540, "sampling": 740},
}
"""Kernels in bf16, rounded up to tens: a step with R1, with an update of the discriminator, without; two votes for a batch."""
TRAFFIC = {"penalised": 0.75, "update": 0.6, "rest": 0.6, "sampling": 0.6}
"""Bytes in bf16 against those in fp32; R1 stays in float32."""


def counted(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", ROOT / "tests" / "support" / "fake_cuda.py", *arguments]
    done = run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def half_precision() -> dict[str, Any]:
    """Counts by preset."""
    return {name.removesuffix(" bf16"): counts for name, counts in counted(",".join(PRESETS), "bf16").items()}


@pytest.mark.long
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_in_half_precision(half_precision: dict[str, Any], name: str) -> None:
    for kind, most in BUDGET[name].items():
        assert most / 2 < half_precision[name][kind]["kernels"] <= most, kind
    for kind, taken in half_precision[name].items():
        assert taken["layout_copies"] == {}, kind
        assert sum(taken["waits"].values()) == (2 if kind == "evaluation" else 0), (kind, taken["waits"])  # its result


@pytest.mark.long
def test_half_precision_moves_about_half_of_the_bytes(half_precision: dict[str, Any]) -> None:
    full, half = counted("hippocampus_fast", "fp32")["hippocampus_fast fp32"], half_precision["hippocampus_fast"]
    for kind, most in TRAFFIC.items():
        assert half[kind]["bytes"] <= most * full[kind]["bytes"], kind
        assert full[kind]["layout_copies"] == full[kind]["waits"] == {}, kind


@pytest.mark.long
def test_a_trace_sees_what_must_not_be() -> None:
    found = counted("spoiled")
    assert sum(found["layout copy"]["layout_copies"].values()) == 1
    assert sum(found["waiting copy"]["waits"].values()) == 1
    assert found["number"] == "DataDependentOutputException"
    assert found["wrong device"] != ""
