"""Searches as the tests of survival run them, and what is left of them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from accidents import Accidents
from patience import finish
from searches import start, tiny, trials

ONE_PROCESS = "tests/support/one_process.py"
ALWAYS = None  # times
Arrange = Callable[..., Accidents]
Row = Callable[[str, str, str], None]


def search(*arguments: object, script: str = "tune/search.py", seconds: float = 180) -> tuple[int, str]:
    """A search from its start to its end: exit status and output."""
    with start(*arguments, script=script) as process:
        output = finish(process, seconds)
        sys.stdout.write(output)  # shown where the test fails
        return int(process.returncode), output


def own(folder: Path, epochs: int) -> Path:
    """A search space for a folder of images and masks."""
    path = folder / f"own-{epochs}.yaml"
    generated = "{name: phantom, size: 16, cases: 8, classes: 1}"
    path.write_text(tiny(folder, epochs=epochs).read_text().replace(generated, "{name: own, sample_size: 16}"))
    return path


def ended(storage: Path | str, experiment: str = "a") -> pd.DataFrame:
    """The trials by number."""
    return trials(storage, experiment).set_index("number")


def log_of(storage: Path, number: int, experiment: str = "a") -> str:
    return (storage / str(ended(storage, experiment)["log"][number])).read_text()
