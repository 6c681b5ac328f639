"""What a GPU is told of precision is a training's own, and what others have set is theirs again afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys, torch
from cdal.config import Config
from cdal.devices.precision import numerics

def told():
    cudnn = torch.backends.cudnn
    names = {"convolutions": cudnn.conv.fp32_precision, "products": torch.backends.cuda.matmul.fp32_precision}
    names |= {"search": cudnn.benchmark, "repeatable": cudnn.deterministic and torch.are_deterministic_algorithms_enabled()}
    return names

exec(sys.argv[1])
before = told()
changes = {f"training.{key}": value for key, value in json.loads(sys.argv[2]).items()}
with numerics(Config().replace(changes).training, torch.device("cuda", 0)):
    inside = told()
    torch.get_float32_matmul_precision(), torch.backends.cudnn.rnn.fp32_precision  # PyTorch itself asks in old words
print(json.dumps([before, inside, told()]))
"""


def told(others: str = "", **settings: Any) -> list[dict[str, Any]]:
    """Before, inside and after; in a process of its own, for these are switches of a process."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, others, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("others", "settings", "expected"),
    [
        ("", {"precision": "fp32"}, {"convolutions": "ieee", "products": "ieee", "search": True, "repeatable": False}),
        (
            "torch.backends.cuda.matmul.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'ieee'",
            {"precision": "tf32", "deterministic": True},
            {"convolutions": "tf32", "products": "tf32", "search": False, "repeatable": True},
        ),
        (
            "torch.set_float32_matmul_precision('high'); torch.backends.cudnn.benchmark = True",
            {"precision": "bf16"},
            {"convolutions": "tf32", "products": "tf32", "search": True, "repeatable": False},
        ),
    ],
)
def test_a_training_decides_while_it_computes(others: str, settings: dict[str, Any], expected: dict[str, Any]) -> None:
    before, inside, after = told(others, **settings)
    assert inside == expected
    same = {"none": "ieee"}  # nobody's decision: float32
    assert {key: same.get(value, value) for key, value in after.items()} == {
        key: same.get(value, value) for key, value in before.items()
    }
