"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the golden vectors made with the authors' code."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"the golden vectors are not here ({folder}); tests/cdal/test_golden.py covers a clone without them")
    return folder


@pytest.fixture(scope="session")
def hippocampus_folder() -> Path:
    """The Medical Segmentation Decathlon's hippocampus task, 260 volumes."""
    folder = SHARED / "data" / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"the hippocampus data are not here ({folder})")
    return folder
