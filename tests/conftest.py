"""Fixtures shared by all tests, the order in which tests run, and what a run says of those that it left out."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader
from s3 import Bucket, S3Service

SHARED = Path(__file__).resolve().parents[2] / "shared"
signal.signal(signal.SIGINT, signal.default_int_handler)  # or what a shell runs in the background ignores it, children too
SLOWEST_FIRST = ("hosts", "ray", "browser", "long")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin, so that no process is alone with one at the end."""
    ranks: dict[Path, int] = {}
    for item in items:
        marked = [rank for rank, name in enumerate(SLOWEST_FIRST) if item.get_closest_marker(name)]
        ranks[item.path] = min([ranks.get(item.path, len(SLOWEST_FIRST)), *marked])
    items.sort(key=lambda item: ranks[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests did not run, and what they need."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ()))
    if reasons:
        told = "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"skipped: {reasons.total()} tests, {told}", yellow=True)


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the golden vectors made with the authors' code."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"the golden vectors are not in {folder} (tests/cdal/test_golden.py covers a clone without them)")
    return folder


@pytest.fixture(scope="session")
def hippocampus_folder() -> Path:
    """The Medical Segmentation Decathlon's hippocampus task, 260 volumes."""
    folder = SHARED / "data" / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"the hippocampus data are not in {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded cases go to a folder of the session, and not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def _s3_service() -> Iterator[S3Service]:
    """One service; what botocore knows of S3 is read from its files once, and not for every client."""
    read, known = JSONFileLoader.load_file, dict[str, Any]()

    def read_once(loader: JSONFileLoader, path: str) -> Any:
        if path not in known:
            known[path] = read(loader, path)
        return known[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", read_once)
        service = S3Service()
        yield service
        service.stop()


@pytest.fixture
def s3(_s3_service: S3Service, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket of a service on this machine, whose address and credentials are in the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in _s3_service.environment.items():
        monkeypatch.setenv(name, value)
    return _s3_service.new_bucket()


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test sets for Ray's processes, as a search does, shall not silence the next one's warnings."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
