"""One situation: a folder as it is reported, and what must come of it.

    splits = Kind("splits")

    @splits.holds("slices of a patient", ISSUE, "no patient in two parts of a fold")
    def _(folder: Path) -> Steps:
        two_folders(folder)                 # builds what the stranger brings ...
        yield
        assert opened(folder).groups        # ... and checks what the project makes of it

A check goes through public doors. Where reading rightly and refusing are equally right, it takes both; what is read must be right.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from own_folders import mask

from cdal.data import Dataset, open_dataset
from cdal.data.__main__ import main
from cdal.data.dataset import IGNORED
from cdal.errors import InputError

ISSUE = "the issue"
"""Source of the situations that were tried when the issue was written."""

Steps = Iterator[None]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A folder as somebody reported it, and what must come of it."""

    name: str
    source: str
    """Address of the report or of the data set's page."""
    expected: str
    steps: Callable[[Path], Steps]
    """Builds the folder up to its first `yield`, and checks what comes of it after that."""

    def build(self, folder: Path) -> Steps:
        """The folder as the stranger brings it; returns the steps that are left: the check."""
        folder.mkdir()
        steps = self.steps(folder)
        next(steps)
        return steps

    def check(self, steps: Steps) -> None:
        """What must come of a folder that was built."""
        with pytest.raises(StopIteration):
            next(steps)


@dataclass(frozen=True)
class Kind:
    """Situations of one kind."""

    name: str
    situations: list[Situation] = field(default_factory=list)

    def holds(self, name: str, source: str, expected: str) -> Callable[[Callable[[Path], Steps]], Callable[[Path], Steps]]:
        """Registers the steps that follow."""

        def register(steps: Callable[[Path], Steps]) -> Callable[[Path], Steps]:
            self.situations.append(Situation(name=name, source=source, expected=expected, steps=steps))
            return steps

        return register


def opened(folder: Path, **options: Any) -> Dataset:
    """The folder as own data."""
    return open_dataset("own", folder, **options)


def refusal(folder: Path, file: str, *remedies: str, dataset: str = "own", **options: Any) -> str:
    """The sentence that refuses a folder: on one line, with the file's name and one of the words of a remedy."""
    with pytest.raises(InputError) as caught:
        open_dataset(dataset, folder, **options)
    return sentence(str(caught.value), file, *remedies)


def opened_or_refused(folder: Path, file: str, *remedies: str, **options: Any) -> Dataset | None:
    """The folder as own data; None where it is refused, rightly."""
    try:
        return opened(folder, **options)
    except InputError as error:
        sentence(str(error), file, *remedies)
        return None


def sentence(message: str, file: str, *remedies: str) -> str:
    """Holds a message to what the house asks of every one."""
    assert "\n" not in message
    assert len(message) < 700
    assert file in message, message
    assert not remedies or any(remedy.lower() in message.lower() for remedy in remedies), (
        f"no {' or '.join(remedies)} in: {message}"
    )
    return message


def said(dataset: Dataset, *words: str) -> None:
    """Some note on what was decided has all these words; a word `a|b` stands for one of both."""
    notes = dataset.spec.notes
    assert any(all(re.search(word, note, re.IGNORECASE) for word in words) for note in notes), f"no note says {words}: {notes}"


def find(dataset: Dataset, *parts: str) -> str:
    """The only case whose id has these parts, each not within a longer number; or the one with just this id."""
    if len(parts) == 1 and parts[0] in dataset.ids:
        return parts[0]
    before, after = r"(?<![0-9])(?=[0-9])|(?=[^0-9])", r"(?<=[0-9])(?![0-9])|(?<=[^0-9])"
    patterns = [rf"(?:{before}){re.escape(part)}(?:{after})" for part in parts]
    found = [case_id for case_id in dataset.ids if all(re.search(pattern, case_id) for pattern in patterns)]
    assert len(found) == 1, f"{parts} are in the ids {found}, of {dataset.ids}"
    return found[0]


def truth(dataset: Dataset, *parts: str) -> npt.NDArray[np.uint8]:
    """The label of a case on the grid of its file, (H, W) or (D, H, W)."""
    label: npt.NDArray[np.uint8] = dataset.case(find(dataset, *parts)).truth.numpy()
    return label if dataset.spec.volumetric else label[0]


def is_class(dataset: Dataset, name: str, label: npt.NDArray[np.uint8], expected: npt.NDArray[np.bool_]) -> None:
    """The pixels of a class are those expected, and no others."""
    number = dataset.spec.classes.index(name) + 1
    assert label.shape == expected.shape
    wrong = np.count_nonzero((label == number) != expected)
    assert not wrong, f"{wrong} pixels of {name} are wrong"


def is_foreground(dataset: Dataset, label: npt.NDArray[np.uint8], expected: npt.NDArray[np.bool_]) -> None:
    """There is one class, and it is where it is expected."""
    assert dataset.spec.classes == ("foreground",)
    is_class(dataset, "foreground", label, expected)


def is_ignored(dataset: Dataset, label: npt.NDArray[np.uint8], expected: npt.NDArray[np.bool_]) -> None:
    """These pixels take no part, and no others."""
    assert dataset.spec.has_ignored
    assert np.array_equal(label == IGNORED, expected)


def leaks(dataset: Dataset, owner: Callable[[str], Hashable]) -> list[str]:
    """Owners of cases in two parts of a fold; every fold must have all its parts, and every case in one of them."""
    assert dataset.spec.folds
    found = []
    for fold in range(len(dataset.spec.folds)):
        split = dataset.split(fold)
        assert split.train, fold
        assert split.validation, fold
        assert split.test, fold
        parts = [{owner(case_id) for case_id in part} for part in (split.train, split.validation, split.test)]
        found += [f"fold {fold}: {one}" for one in set.union(*parts) if sum(one in part for part in parts) > 1]
    return found


def is_grouped(dataset: Dataset, owner: Callable[[str], Hashable]) -> None:
    """Cases are in a group with those of their owner and with no others, and no group leaks."""
    assert set(dataset.groups) == set(dataset.ids)
    pairs = {(dataset.groups[case_id], owner(case_id)) for case_id in dataset.ids}
    assert len(pairs) == len({group for group, _ in pairs}) == len({one for _, one in pairs}), dataset.groups
    assert leaks(dataset, owner) == []


def as_partitioned_by_name(dataset: Dataset) -> None:
    """No groups were found, and the folds are the four that own data have always had."""
    assert not dataset.groups
    assert len(dataset.spec.folds) == 4
    assert [dataset.split(fold).test for fold in range(4)] == [dataset.ids[fold::4] for fold in range(4)]


def as_drawn(folder: Path, case: Callable[[int], str], count: int = 6, number: int = 3) -> None:
    """All cases are there, with one class, and a case has the mask that was drawn for it."""
    dataset = opened(folder)
    assert len(dataset.ids) == count
    is_foreground(dataset, truth(dataset, case(number)), mask(number) > 0)
    assert leaks(dataset, str) == []


class Inspected(NamedTuple):
    """What `python -m cdal.data inspect` answered."""

    status: int
    told: str
    """Standard output, with every run of white space as one space."""
    error: str


def inspected(folder: Path, *arguments: str) -> Inspected:
    """The command on a folder; its contact sheet goes beside it."""
    return command("inspect", str(folder), "--out", str(folder.parent / "sheet.html"), *arguments)


def command(*arguments: str) -> Inspected:
    """`python -m cdal.data ...` within this process."""
    out, error = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        status = main(arguments)
    return Inspected(status, " ".join(out.getvalue().split()), error.getvalue())


def warned(folder: Path, *words: str) -> str:
    """`inspect` says these words, a word `a|b` one of both; returns all that it says."""
    found = inspected(folder)
    text = found.told + " " + found.error
    for word in words:
        assert re.search(word, text, re.IGNORECASE), f"no {word} in: {text}"
    return text


def apart(groups: Mapping[str, str]) -> Callable[[str], str]:
    """The owner of a case that a table gives."""
    return lambda case_id: groups[case_id]
