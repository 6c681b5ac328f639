"""Tables and lists as people keep them, of what cases belong to and in which part they are; and which cases their names mean.

rows = read_rows("patients.csv")              # CSV of any program, or Parquet; all values as text
case = column(rows, CASES, "patients.csv")    # the column with names of cases
named(["7", "images/008.png"], ids)           # {"7": "007", "images/008.png": "008"}
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdal.errors import InputError, short

CASES = (
    "case", "caseid", "casename", "image", "imageid", "imagename", "imagefile", "imagepath", "filename", "filepath", "file", "path",
    "name", "id",
)  # fmt: skip
PATIENTS = ("patient", "patientid", "subject", "subjectid", "participant", "participantid")
GROUPS = ("group", "groupid", *PATIENTS)
IN_PART = ("part", "split", "subset")
FOLD = "fold"

_SAVED_BY_EXCEL = re.compile(r'="(.*)"')
_ENDING = re.compile(r"(\.nii)?\.[A-Za-z][A-Za-z0-9]{0,5}$")
_CHANNEL = re.compile(r"_\d{4}$")


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table, all values as text, columns in small letters without spaces, hyphens and underscores.

    Raises:
        InputError: a file that is no table, or has no rows.
    """
    path = Path(path)
    rows: list[dict[Any, Any]]
    try:
        if path.is_dir() or path.suffix.lower() == ".parquet":
            import pandas as pd

            rows = pd.read_parquet(path).to_dict("records")
        else:
            lines = _text_of(path).splitlines()
            lines = lines[1:] if lines and lines[0].lower().startswith("sep=") else lines  # as Excel writes it
            head = lines[0] if lines else ""
            rows = list(csv.DictReader(lines, delimiter=max(",;\t", key=head.count)))
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise InputError(f"{path} has no rows; it needs a header such as case,group and a line for every case")
    plain = [{_squeezed(str(name)): _value(value) for name, value in row.items() if name is not None} for row in rows]
    return [row for row in plain if any(row.values())] or plain[:1]


def column(rows: Sequence[Mapping[str, str]], names: Sequence[str], path: str | Path) -> str:
    """The first of these columns that there is.

    Raises:
        InputError: there is none.
    """
    found = next((name for name in names if name in rows[0]), None)
    if found is None:
        raise InputError(f"{path} has the columns {short(', '.join(rows[0]))}; it needs a header with one of {', '.join(names)}")
    return found


def read_list(path: Path) -> Any:
    """What a JSON file holds. Raises InputError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def named(names: Iterable[str], ids: Sequence[str]) -> dict[str, str]:
    """The cases that names mean: ids; or names of files that are ids without folders, ending or channel number; or numbers that
    have lost their leading zeros, as spreadsheets store them, where only one case can be meant.
    """
    there = set(ids)
    by_number, by_last = defaultdict(set), defaultdict(set)
    for case_id in ids:
        by_last[case_id.rsplit("/", 1)[-1]].add(case_id)
        if number := _number(case_id):
            by_number[number].add(case_id)
    found = {}
    for name in names:
        path = _ENDING.sub("", name.replace("\\", "/").strip())
        steps = path.split("/")
        stems = ["/".join(steps[start:]) for start in range(len(steps))]
        forms = [name, *stems, *(_CHANNEL.sub("", stem) for stem in stems)]
        meant = (
            next(({form} for form in forms if form in there), None)
            or by_last.get(path)
            or by_number.get(_number(path) or "", set())
        )
        if len(meant) == 1:
            found[name] = next(iter(meant))
    return found


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that may well be the same one, written as a number or as text, in small or in large letters."""
    first: dict[str, str] = {}
    for name in names:
        known = first.setdefault(_number(name) or name.casefold(), name)
        if known != name:
            return known, name
    return None


def _text_of(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is an Excel workbook; save it as CSV UTF-8")
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path} is no text in UTF-8; save it as CSV UTF-8")
    return text


def _squeezed(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.strip().lower())


def _value(value: Any) -> str:
    text = "" if value is None or value != value else str(value).strip()
    quoted = _SAVED_BY_EXCEL.fullmatch(text)
    return quoted[1] if quoted else text


def _number(name: str) -> str | None:
    """A whole number, also as 7.0, without leading zeros."""
    found = re.fullmatch(r"0*(\d+)(\.0+)?", name)
    return found[1] if found else None
