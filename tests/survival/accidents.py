"""Accidents for real searches: arranged for the processes that are started next, and looked up afterwards.

accidents = Accidents(folder, [at("step", "poison", trials=[1], step=2), at("save", "full", trials=[2])])
os.environ |= accidents.environment
...                                     # a search
accidents.happened                      # [Happened(number=0, process=4711, trial=1, time=...), ...]
accidents.again(1)                      # the second one once more
"""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

INJECT = Path(__file__).resolve().parent / "inject"


def at(point: str, fault: str, *, times: int | None = 1, **where: Any) -> dict[str, Any]:
    """An accident; `inject/sitecustomize.py` explains the words."""
    return {"point": point, "fault": fault, "times": times} | where


class Happened(NamedTuple):
    number: int
    """Of the accident in the plan."""
    process: int
    trial: int | None
    time: float


class Accidents:
    """A plan, and what became of it."""

    def __init__(self, folder: Path, plan: Sequence[dict[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(list(plan)))
        self._folder = folder
        for number, accident in enumerate(plan):
            for _ in range(accident["times"] or 0):
                self.again(number)
        paths = [str(INJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "CDAL_ACCIDENTS": str(folder)}

    def again(self, number: int) -> None:
        """Let an accident happen once more, as soon as somebody comes to its place."""
        (self._folder / f"{number}.{uuid.uuid4().hex}.ticket").touch()

    @property
    def happened(self) -> list[Happened]:
        """In the order in which they happened."""
        found = []
        for path in self._folder.glob("*.happened"):
            if text := path.read_text():  # else it is being written
                process, trial, time = text.split()
                found.append(
                    Happened(int(path.name.partition(".")[0]), int(process), None if trial == "None" else int(trial), float(time))
                )
        return sorted(found, key=lambda accident: accident.time)
