"""Data as strangers bring them: read rightly, or refused in a sentence with file and remedy; never wrong in silence."""

from pathlib import Path

import pytest

from cdal.data import Dataset, open_dataset
from cdal.data.layouts import recognise
from cdal.errors import InputError

from .situations.drawings import drawings
from .situations.files import files
from .situations.geometry import geometry
from .situations.inspection import inspection
from .situations.labels import labels
from .situations.layouts import layouts
from .situations.published import published
from .situations.situation import Situation, inspected
from .situations.splits import splits
from .situations.tables import tables
from .situations.values import values
from .situations.volumes import volumes

KINDS = (splits, values, tables, volumes, labels, drawings, geometry, layouts, published, files, inspection)
ALL = [pytest.param(situation, id=f"{kind.name}: {situation.name}") for kind in KINDS for situation in kind.situations]


@pytest.mark.long
@pytest.mark.parametrize("situation", ALL)
def test_what_must_come_of_it(situation: Situation, tmp_path: Path) -> None:
    steps = situation.build(tmp_path / "data")
    situation.check(steps)


def usable(dataset: Dataset) -> None:
    """Raise the refusal of the first fold where all are refused."""
    refusals = []
    for fold in range(len(dataset.spec.folds)):
        try:
            dataset.split(fold)
        except InputError as error:
            refusals.append(error)
    if len(refusals) == len(dataset.spec.folds):
        raise refusals[0]


@pytest.mark.long
@pytest.mark.parametrize("situation", ALL)
def test_inspect_says_of_it_what_training_would(situation: Situation, tmp_path: Path) -> None:
    """Exit status 2 and one line where it would be refused, and 0 where not."""
    folder = tmp_path / "data"
    situation.build(folder)
    found = inspected(folder)
    refused = ""
    try:
        dataset = open_dataset(recognise(folder), folder)
        usable(dataset)
    except InputError as error:
        refused = str(error)
    assert (found.status == 2) == bool(refused), refused or found.error
    assert bool(found.error) == bool(refused)
    assert not refused or (found.error.startswith("error: ") and found.error.count("\n") == 1)


def test_there_are_as_many_as_were_promised() -> None:
    """35 of the issue and at least 25 more, each with a name of its own and the address of its source."""
    names = [param.id for param in ALL]
    assert len(names) == len(set(names)) >= 60
    sources = [situation.source for kind in KINDS for situation in kind.situations]
    assert sum(source.startswith("https://") for source in sources) >= 25
