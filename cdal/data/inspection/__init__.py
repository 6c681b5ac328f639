"""What a folder of data holds, found by looking at every file, and all that is wrong or odd about it.

    found = inspect_folder(Path("MyData"))
    found.problems, found.findings, overview(found), class_rows(found), fold_rows(found)

Opening a dataset stops at the first file that cannot be used; an inspection goes on and tells them all.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from cdal.data import check_options, open_dataset
from cdal.data.dataset import Case, Dataset, DatasetSpec, Preparation, Source, Split
from cdal.data.folds import counted
from cdal.data.inspection.checks import Finding, findings
from cdal.data.inspection.thumbnails import MOST_THUMBNAILS, Thumbnail, thumbnail
from cdal.data.layouts import find_layout, recognise
from cdal.data.own import (
    Decisions,
    Options,
    decide_all,
    disagreements,
    outline_classes,
    read_labels,
    refusals,
    sorted_sources,
    survey_of,
)
from cdal.data.own.pairs import Pair, read_pair
from cdal.data.own.reading import Reading
from cdal.data.own.survey import CaseFacts, case_facts
from cdal.errors import InputError

__all__ = [
    "MOST_THUMBNAILS",
    "CaseFacts",
    "Finding",
    "Inspection",
    "Thumbnail",
    "class_rows",
    "fold_rows",
    "inspect_folder",
    "overview",
]

_THREADS = 4
_SOME = 24  # cases with findings that get a picture, besides the first ones

Watch = Callable[[Iterable["CaseFacts | InputError"], int], Iterable["CaseFacts | InputError"]]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that was found in a folder."""

    folder: Path
    dataset: str
    """The dataset that reads it, one of `cdal.data.DATASETS`."""
    sources: list[Source]
    """The files of the cases that can be used."""
    cases: list[CaseFacts]
    """Those that can be used."""
    counts: list[npt.NDArray[np.int64]]
    """For each of them, how many pixels or voxels have each label (256,)."""
    classes: tuple[str, ...]
    """Of the labels 1, 2, ..."""
    spec: DatasetSpec | None
    """The dataset's description, if nothing is wrong with it."""
    splits: Mapping[int, Split]
    """The folds that can be used."""
    groups: Mapping[str, str]
    thumbnails: Mapping[str, Thumbnail]
    problems: list[str]
    """A sentence for everything that must be put right before training."""
    findings: list[Finding]
    """Everything that is allowed but looks like a mistake."""

    @property
    def warnings(self) -> list[str]:
        """The findings as sentences."""
        return [finding.text for finding in self.findings]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided on the user's behalf."""
        return self.spec.notes if self.spec else ()


def inspect_folder(folder: Path, dataset: str | None = None, watch: Watch = lambda cases, _: cases, **options: Any) -> Inspection:
    """Decode every case of a folder.

    Args:
        folder: where the files are, on this machine.
        dataset: which dataset reads them, one of `cdal.data.DATASETS`; None recognises it.
        watch: called once with the cases to come and their number; returns them, perhaps showing how far it is.
        options: of the dataset.

    Raises:
        InputError: unknown options, or a folder in which no cases can be told at all.
    """
    dataset = dataset or recognise(folder)
    check_options(dataset, options)
    return _own(folder, watch, Options(**options)) if dataset == "own" else _published(folder, dataset, watch, options)


def overview(found: Inspection) -> list[tuple[str, str]]:
    """Names and values of a table on the whole folder."""
    rows = [("Folder", str(found.folder)), ("Read as", found.dataset), ("Cases", f"{len(found.cases):,}")]
    if found.groups:
        rows.append(("Groups", f"{len(set(found.groups.values())):,}"))
    if found.cases:
        volumes = found.cases[0].spacing is not None
        axes = "voxels left-right × front-back × up-down" if volumes else "px, width × height"
        rows.append(("Size", f"{_spread([case.size for case in found.cases])} ({axes})"))
        spacings = [case.spacing for case in found.cases if case.spacing is not None]
        if spacings:
            rows.append(("Spacing", f"{_spread(spacings)} (mm, likewise)"))
        rows.append(("Image channels", _counted(case.form.channels for case in found.cases)))
        rows.append(("Stored as", _counted(case.dtype for case in found.cases)))
        lows, highs = [case.low for case in found.cases], [case.high for case in found.cases]
        rows.append(("Values", f"lowest of a case {_range(lows)}, highest {_range(highs)}"))
    if found.spec is not None:
        spec = found.spec
        rows.append(("Training samples", f"{spec.image_size} × {spec.image_size} px"))
        rows += [("Licence", spec.licence), ("Protocol", spec.protocol)]
    return rows


def class_rows(found: Inspection) -> list[tuple[str, str, str, str]]:
    """Label, class, share of all pixels or voxels, and cases that have it."""
    total = sum(found.counts, np.zeros(256, np.int64))
    rows = []
    for value, name in enumerate(("background", *found.classes)):
        having = sum(bool(counts[value]) for counts in found.counts)
        share = total[value] / max(int(total.sum()), 1)
        rows.append((str(value), name, f"{share:.2%}" if share >= 0.001 or not share else f"{share:.4%}", f"{having:,}"))
    return rows


def fold_rows(found: Inspection) -> list[tuple[str, str, str, str, str]]:
    """Fold, its name, and the cases that train, validate and test in it."""
    if found.spec is None:
        return []
    rows = []
    for fold, name in enumerate(found.spec.folds):
        train = validation = test = "–"
        if split := found.splits.get(fold):
            train, validation, test = (counted(part, found.groups) for part in (split.train, split.validation, split.test))
        rows.append((str(fold), name, train, validation, test))
    return rows


def _own(folder: Path, watch: Watch, options: Options) -> Inspection:
    layout = find_layout(folder)
    problems = list(layout.problems)
    sources = sorted_sources(layout)
    seen = list(watch(survey_of(layout), len(sources)))
    problems += [str(found) for found in seen if isinstance(found, InputError)]
    cases = [found for found in seen if isinstance(found, CaseFacts)]
    known = {case.id for case in cases}
    sources = [source for source in sources if source.id in known]
    decisions: Decisions | None = None
    reading = Reading(classes=layout.classes or ("foreground",), at_least=1)
    apart = disagreements(sources, cases) if cases else []
    problems += apart
    if cases:
        try:
            reading = read_labels(folder, layout, sources, cases, options)
            problems += (wrong := refusals(reading, sources, cases))
            decisions = None if apart or wrong else decide_all(folder, layout, cases, options)
        except InputError as error:
            problems.append(str(error))
    spec = decisions.spec if decisions and not problems else None
    counts = [reading.counts(case.mask) for case in cases]
    groups = decisions.groups if decisions else {}
    splits = dict(enumerate(decisions.folds.splits)) if spec and decisions else {}
    odd = findings(cases, counts, reading.classes, sources, groups, list(splits.values()))

    outlined = outline_classes(layout)

    def look(source: Source) -> tuple[str, Thumbnail]:
        pair = read_pair(source, coloured=reading.coloured or None, names=outlined)
        return source.id, thumbnail(pair.image, reading.lenient(pair.values), pair.spacing, reading.has_ignored)

    with ThreadPoolExecutor(_THREADS) as pool:
        pictures = dict(pool.map(look, _pictured(sources, odd)))
    return Inspection(
        folder=folder, dataset="own", sources=sources, cases=cases, counts=counts, classes=reading.classes if cases else (),
        spec=spec, splits=splits, groups=groups, thumbnails=pictures, problems=problems, findings=odd,
    )  # fmt: skip


def _published(folder: Path, dataset: str, watch: Watch, options: Mapping[str, Any]) -> Inspection:
    """The datasets with published folds, each read by its own reader."""
    plan = _PLANS[dataset](folder)
    problems = list(plan.problems)
    opened: Dataset | None = None
    refusal = ""
    try:
        opened = open_dataset(dataset, folder, **options)
    except InputError as error:
        refusal = str(error)
    look = partial(_look, plan=plan, opened=opened)
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = list(watch(pool.map(look, plan.sources), len(plan.sources)))
    usable = [(source, found) for source, found in zip(plan.sources, seen, strict=True) if isinstance(found, CaseFacts)]
    sources, cases = [source for source, _ in usable], [found for _, found in usable]
    problems += [str(found) for found in seen if isinstance(found, InputError)]
    if refusal and refusal not in problems:
        problems.append(refusal)
    reading = Reading(classes=plan.classes, labels={number: number for number in range(1, len(plan.classes) + 1)})
    counts = [reading.counts(case.mask) for case in cases]
    splits, refusals = _usable_folds(opened) if opened else ({}, [])
    odd = findings(cases, counts, plan.classes, sources, {}, list(splits.values()))
    if opened is not None and not splits:
        problems += refusals
    elif refusals:
        odd += [Finding(kind="fold", text=text, action="the other folds can be searched") for text in refusals]
    with ThreadPoolExecutor(_THREADS) as pool:
        drawn = pool.map(lambda source: (source.id, _picture(source, plan, opened)), _pictured(sources, odd))
    return Inspection(
        folder=folder, dataset=dataset, sources=sources, cases=cases, counts=counts, classes=plan.classes,
        spec=opened.spec if opened else None, splits=splits, groups={}, thumbnails=dict(drawn), problems=problems, findings=odd,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How the cases of a folder are read one by one."""

    sources: list[Source]
    read: Callable[[Source], Case]
    classes: tuple[str, ...]
    problems: list[str]
    volumetric: bool = False


def _hippocampus(folder: Path) -> _Plan:
    from cdal.data.hippocampus import hippocampus_layout, hippocampus_reader

    layout = hippocampus_layout(folder)
    read = hippocampus_reader(layout)
    return _Plan(sources=layout.sources, read=read, classes=layout.classes or (), problems=layout.problems, volumetric=True)


def _monuseg(folder: Path) -> _Plan:
    from cdal.data.monuseg import find_sources, read_case

    read = partial(read_case, preparation=Preparation(scaling="bytes"))
    return _Plan(sources=find_sources(folder.resolve()), read=read, classes=("nucleus",), problems=[])


def _chest_xray(folder: Path) -> _Plan:
    from cdal.data.chest_xray import find_sources, read_case

    read = partial(read_case, preparation=Preparation(scaling="bytes", size=(256, 256)))
    return _Plan(sources=find_sources(folder.resolve())[0], read=read, classes=("lung",), problems=[])


_PLANS: dict[str, Callable[[Path], _Plan]] = {"hippocampus": _hippocampus, "monuseg": _monuseg, "chest_xray": _chest_xray}


def _look(source: Source, plan: _Plan, opened: Dataset | None) -> CaseFacts | InputError:
    """The facts of a case, or what is wrong with it."""
    try:
        return case_facts(source.id, _pair(source, plan, opened))
    except InputError as error:
        return error


def _picture(source: Source, plan: _Plan, opened: Dataset | None) -> Thumbnail:
    pair = _pair(source, plan, opened)
    return thumbnail(pair.image, pair.values.astype(np.uint8), pair.spacing)


def _pair(source: Source, plan: _Plan, opened: Dataset | None) -> Pair:
    """The image with its values as stored, and the label that the dataset's reader makes of the mask."""
    case = plan.read(source) if opened is None else opened.case(source.id)
    label = case.label.numpy()
    if plan.volumetric:
        from cdal.data.volumes import read_volume, spacing_dhw, to_dhw

        volumes = [read_volume(path) for path in source.images]
        arrays = [to_dhw(volume) for volume in volumes]
        return Pair(np.concatenate([array.reshape(-1, *array.shape[-3:]) for array in arrays]), label, spacing_dhw(volumes[0]))
    from cdal.data.images import read_image

    parts = [np.atleast_3d(read_image(path)) for path in source.images]
    return Pair(np.ascontiguousarray(np.concatenate(parts, axis=2).transpose(2, 0, 1)[:, None]), label, None)


def _pictured(sources: Sequence[Source], odd: Sequence[Finding]) -> list[Source]:
    """The first cases, and some with a finding each."""
    named = list(dict.fromkeys(case for finding in odd for case in finding.cases[:_SOME]))[: 2 * _SOME]
    return list(sources[:MOST_THUMBNAILS]) + [source for source in sources[MOST_THUMBNAILS:] if source.id in named]


def _usable_folds(dataset: Dataset) -> tuple[dict[int, Split], list[str]]:
    """Folds, and why others cannot be used, such as that of a hospital whose images are not there."""
    usable, told = {}, []
    for fold in range(len(dataset.spec.folds)):
        try:
            usable[fold] = dataset.split(fold)
        except InputError as error:
            told.append(f"fold {fold} cannot be used: {error}")
    return usable, told


def _spread(values: Sequence[Sequence[float]]) -> str:
    """The smallest, median and largest along each axis."""
    columns = list(zip(*values, strict=True))
    if all(len(set(column)) == 1 for column in columns):
        return " × ".join(_number(column[0]) for column in columns)
    kinds = (("smallest", min), ("median", median), ("largest", max))
    return ", ".join(f"{kind} " + " × ".join(_number(pick(column)) for column in columns) for kind, pick in kinds)


def _range(values: Sequence[float]) -> str:
    low, high = _number(min(values)), _number(max(values))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _counted(values: Iterable[object]) -> str:
    counts = Counter(map(str, values)).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count:,})" for value, count in counts)
