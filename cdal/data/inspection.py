"""What a folder of data holds, found by looking at every file, and all that is wrong or odd about it.

    found = inspect_folder(Path("MyData"))
    found.problems, found.warnings, overview(found), class_rows(found), fold_rows(found)

Opening a dataset stops at the first file that cannot be used; an inspection goes on and tells them all.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdal.data import open_dataset
from cdal.data.dataset import Case, Dataset, Preparation, Source
from cdal.data.layouts import find_layout, recognise
from cdal.data.own import Form, disagreements, found_classes
from cdal.errors import InputError

MOST_THUMBNAILS = 200
_THUMBNAIL = 320  # longer side, pixels
_THREADS = 4
_NAMED = 5  # cases that a warning names
_SPACINGS_DIFFER = 2.0  # times

Watch = Callable[[Iterable["CaseFacts | str"], int], Iterable["CaseFacts | str"]]


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small image and its mask: of a volume, the axial slice with most foreground, seen from below with the front at the top."""

    pixels: npt.NDArray[np.uint8]
    """(h, w) or (h, w, 3)."""
    label: npt.NDArray[np.uint8]
    """(h, w)."""
    slice: int | None


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What the files of one case hold."""

    id: str
    form: Form
    size: tuple[int, ...]
    """(width, height) of an image, (left-right, front-back, up-down) of a volume."""
    spacing: tuple[float, ...] | None
    """mm, in the order of `size`; None of images."""
    dtype: str
    low: float
    high: float
    counts: npt.NDArray[np.int64]
    """(256,): how many pixels or voxels have each label."""
    digest: str
    """Of the image's pixels."""
    thumbnail: Thumbnail | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that was found in a folder."""

    folder: Path
    dataset: str
    """The dataset that reads it, one of `cdal.data.DATASETS`."""
    cases: list[CaseFacts]
    """Those that can be used."""
    classes: tuple[str, ...]
    """Of the labels 1, 2, ..."""
    opened: Dataset | None
    """The dataset, if nothing is wrong with it."""
    problems: list[str]
    """A sentence for everything that must be put right before training."""
    warnings: list[str]
    """A sentence for everything that is allowed but looks like a mistake."""


def inspect_folder(folder: Path, dataset: str | None = None, watch: Watch = lambda cases, _: cases) -> Inspection:
    """Decode every case of a folder.

    Args:
        folder: where the files are, on this machine.
        dataset: which dataset reads them, one of `cdal.data.DATASETS`; None recognises it.
        watch: called once with the cases to come and their number; returns them, perhaps showing how far it is.

    Raises:
        InputError: a folder in which no cases can be told at all.
    """
    dataset = dataset or recognise(folder)
    plan = _PLANS[dataset](folder)
    problems = list(plan.problems)
    opened = None
    try:
        opened = open_dataset(dataset, folder)
    except InputError as error:
        refusal = str(error)
    look = partial(_look, plan=plan, opened=opened)
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = list(watch(pool.map(look, plan.sources, range(len(plan.sources))), len(plan.sources)))
    cases = [found for found in seen if isinstance(found, CaseFacts)]
    problems += [found for found in seen if isinstance(found, str)]
    classes = plan.classes if opened is None else opened.spec.classes
    if opened is None:
        usable = [source for source, found in zip(plan.sources, seen, strict=True) if isinstance(found, CaseFacts)]
        if cases and dataset == "own":
            problems += disagreements(usable, [case.form for case in cases])
        if cases and classes is None:
            try:
                classes, numbers = found_classes(folder, [np.flatnonzero(case.counts).tolist() for case in cases])
                cases = [_relabelled(case, numbers) for case in cases]
            except InputError as error:
                problems.append(str(error))
        if refusal not in problems:
            problems.append(refusal)
    warnings = _warnings(cases, classes or ())
    if opened is not None:
        refusals = _fold_refusals(opened)
        (problems if len(refusals) == len(opened.spec.folds) else warnings).extend(refusals)
    return Inspection(
        folder=folder, dataset=dataset, cases=cases, classes=classes or (), opened=opened, problems=problems, warnings=warnings
    )


def overview(found: Inspection) -> list[tuple[str, str]]:
    """Names and values of a table on the whole folder."""
    rows = [("Folder", str(found.folder)), ("Read as", found.dataset), ("Cases", f"{len(found.cases):,}")]
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
    if found.opened is not None:
        spec = found.opened.spec
        rows.append(("Training samples", f"{spec.image_size} × {spec.image_size} px"))
        rows += [("Licence", spec.licence), ("Protocol", spec.protocol)]
    return rows


def class_rows(found: Inspection) -> list[tuple[str, str, str, str]]:
    """Label, class, share of all pixels or voxels, and cases that have it."""
    total = sum((case.counts for case in found.cases), np.zeros(256, np.int64))
    rows = []
    for value, name in enumerate(("background", *found.classes)):
        having = sum(bool(case.counts[value]) for case in found.cases)
        share = total[value] / max(int(total.sum()), 1)
        rows.append((str(value), name, f"{share:.2%}" if share >= 0.001 or not share else f"{share:.4%}", f"{having:,}"))
    return rows


def fold_rows(found: Inspection) -> list[tuple[str, str, str, str, str]]:
    """Fold, its name, and the cases that train, validate and test in it."""
    if found.opened is None:
        return []
    rows = []
    for fold, name in enumerate(found.opened.spec.folds):
        try:
            split = found.opened.split(fold)
        except InputError:
            rows.append((str(fold), name, "–", "–", "–"))
        else:
            train, validation, test = (f"{len(part):,}" for part in (split.train, split.validation, split.test))
            rows.append((str(fold), name, train, validation, test))
    return rows


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How the cases of a folder are read one by one."""

    sources: list[Source]
    read: Callable[[Source], Case]
    classes: tuple[str, ...] | None
    problems: list[str]
    volumetric: bool = False


def _own(folder: Path) -> _Plan:
    from cdal.data.own import reader

    layout = find_layout(folder)
    return _Plan(
        sources=sorted(layout.sources, key=lambda source: source.id),
        read=reader(layout, longest_side=8192),
        classes=layout.classes,
        problems=layout.problems,
        volumetric=layout.volumetric,
    )


def _hippocampus(folder: Path) -> _Plan:
    from cdal.data.hippocampus import hippocampus_layout, hippocampus_reader

    layout = hippocampus_layout(folder)
    read = hippocampus_reader(layout)
    return _Plan(sources=layout.sources, read=read, classes=layout.classes, problems=layout.problems, volumetric=True)


def _monuseg(folder: Path) -> _Plan:
    from cdal.data.monuseg import find_sources, read_case

    read = partial(read_case, preparation=Preparation(scaling="bytes"))
    return _Plan(sources=find_sources(folder.resolve()), read=read, classes=("nucleus",), problems=[])


def _chest_xray(folder: Path) -> _Plan:
    from cdal.data.chest_xray import find_sources, read_case

    read = partial(read_case, preparation=Preparation(scaling="bytes", size=(256, 256)))
    return _Plan(sources=find_sources(folder.resolve())[0], read=read, classes=("lung",), problems=[])


_PLANS: dict[str, Callable[[Path], _Plan]] = {
    "own": _own,
    "hippocampus": _hippocampus,
    "monuseg": _monuseg,
    "chest_xray": _chest_xray,
}
INSPECTED = tuple(_PLANS)


def _look(source: Source, number: int, plan: _Plan, opened: Dataset | None) -> CaseFacts | str:
    """The facts of a case, or what is wrong with it."""
    try:
        case = plan.read(source) if opened is None else opened.case(source.id)
        image, spacing = _raw(source, plan.volumetric)
    except InputError as error:
        return str(error)
    label = case.label.numpy()
    _, depth, height, width = image.shape
    return CaseFacts(
        id=source.id,
        form=Form(len(image), case.image.element_size() == 1),
        size=(height, width, depth) if plan.volumetric else (width, height),
        spacing=spacing and (spacing[1], spacing[2], spacing[0]),
        dtype=str(image.dtype.newbyteorder("=")),
        low=float(image.min()),
        high=float(image.max()),
        counts=sum((np.bincount(part.ravel(), minlength=256) for part in label), np.zeros(256, np.int64)),
        digest=hashlib.blake2b(image.tobytes() + repr(image.shape).encode(), digest_size=16).hexdigest(),
        thumbnail=_thumbnail(image, label, spacing) if number < MOST_THUMBNAILS else None,
    )


def _raw(source: Source, volumetric: bool) -> tuple[npt.NDArray[Any], tuple[float, float, float] | None]:
    """The image (C, D, H, W) with its values as stored, and the spacing of a volume."""
    if volumetric:
        from cdal.data.volumes import read_volume, spacing_dhw, to_dhw

        volumes = [read_volume(path) for path in source.images]
        arrays = [to_dhw(volume) for volume in volumes]
        return np.concatenate([array.reshape(-1, *array.shape[-3:]) for array in arrays]), spacing_dhw(volumes[0])
    from cdal.data.images import read_image

    parts = [np.atleast_3d(read_image(path)) for path in source.images]
    return np.ascontiguousarray(np.concatenate(parts, axis=2).transpose(2, 0, 1)[:, None]), None


def _thumbnail(image: npt.NDArray[Any], label: npt.NDArray[np.uint8], spacing: tuple[float, float, float] | None) -> Thumbnail:
    covered = [np.count_nonzero(part) for part in label]
    shown = int(np.argmax(covered)) if any(covered) else len(covered) // 2
    channels = image[:, shown] if len(image) == 3 and spacing is None else image[:1, shown]
    as_stored = spacing is None and channels.dtype == np.uint8
    low, high = (0, 255) if as_stored else np.percentile(channels, (0.5, 99.5))
    scaled = np.clip((channels - low) * (255 / max(float(high - low), 1e-12)), 0, 255).astype(np.uint8)
    values = label[shown]
    step_h, step_w = (1.0, 1.0) if spacing is None else spacing[1:]
    if spacing is not None:  # rows to the back, columns to the left of the patient, as radiologists look at it
        scaled, values, step_h, step_w = scaled.swapaxes(1, 2), values.T, step_w, step_h
    height, width = scaled.shape[1] * step_h, scaled.shape[2] * step_w
    factor = _THUMBNAIL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled[0]
    return Thumbnail(
        pixels=np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS)),
        label=np.array(Image.fromarray(np.ascontiguousarray(values)).resize(size, Image.Resampling.NEAREST)),
        slice=None if spacing is None else shown,
    )


def _relabelled(case: CaseFacts, numbers: npt.NDArray[np.uint8]) -> CaseFacts:
    counts = np.bincount(numbers, weights=case.counts, minlength=256).astype(np.int64)
    small = case.thumbnail
    return replace(case, counts=counts, thumbnail=small and replace(small, label=numbers[small.label]))


def _fold_refusals(dataset: Dataset) -> list[str]:
    """Why folds cannot be used, such as that of a hospital whose images are not there."""
    told = []
    for fold in range(len(dataset.spec.folds)):
        try:
            dataset.split(fold)
        except InputError as error:
            told.append(f"fold {fold} cannot be used: {error}")
    return told


def _warnings(cases: Sequence[CaseFacts], classes: Sequence[str]) -> list[str]:
    told = []
    empty = [case.id for case in cases if not case.counts[1:].any()]
    if empty:
        told.append(f"{_count(len(empty), 'mask is', 'masks are')} empty: {_names(empty)}")
    for value, name in enumerate(classes, start=1):
        having = [case.id for case in cases if case.counts[value]]
        if len(having) < len(cases) / 2:
            which = f": {_names(having)}" if having else ""
            told.append(f"the class {name} is in {len(having)} of {len(cases)} cases{which}")
    constant = [case.id for case in cases if case.low == case.high]
    if constant:
        told.append(f"{_count(len(constant), 'image has', 'images have')} one value everywhere: {_names(constant)}")
    same = defaultdict(list)
    for case in cases:
        same[case.digest].append(case.id)
    for ids in same.values():
        if len(ids) > 1:
            told.append(
                f"{len(ids)} images are the same pixel by pixel, which flatters scores if one trains and one tests: {_names(ids)}"
            )
    spacings = np.array([case.spacing for case in cases if case.spacing is not None])
    if len(spacings):
        for axis, steps in zip(("left-right", "front-back", "up-down"), spacings.T, strict=True):
            if steps.max() >= _SPACINGS_DIFFER * steps.min():
                told.append(
                    f"spacings {axis} go from {steps.min():.3g} to {steps.max():.3g} mm; slices are not resampled, "
                    "so objects differ in size"
                )
    return told


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


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
