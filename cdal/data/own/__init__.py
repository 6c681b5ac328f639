"""Your own data, without code, in any layout that `cdal.data.layouts` knows.

    dataset = open_dataset("own", "MyData")
    dataset.spec.classes, dataset.spec.notes, dataset.groups

All files are looked at first (`survey`), and then everything that concerns them together is decided: which values are classes,
which slices are cut of volumes and at which spacing, which window suits a CT, which cases belong to one patient. What was decided
stands in the notes. Images keep their channels; 8-bit ones stay bytes, CT gets one window for all, others are scaled by their
percentiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdal.data.cache import load_cases
from cdal.data.cases import CaseDataset
from cdal.data.dataset import IGNORED, Augmentation, Case, DatasetSpec, LabelArray, Preparation, Source, check_whole
from cdal.data.folds import LEAST_GROUPS, Folds, own_folds
from cdal.data.geometry import Grid, choose_plane, choose_spacing, resampled_size, sliced, to_slices
from cdal.data.layouts import Layout, find_layout, plain
from cdal.data.own.beside import groups_beside, split_beside
from cdal.data.own.groups import Groups, find_groups, given_groups, groups_of_split, read_groups, read_split, splits_of
from cdal.data.own.labels import decide
from cdal.data.own.pairs import OUTLINES, Pair, read_pair
from cdal.data.own.reading import Instances, Reading
from cdal.data.own.survey import CaseFacts, survey
from cdal.data.own.windows import choose_windows
from cdal.data.own.words import count, notes_on, protocol
from cdal.data.preparation import (
    prepare_image,
    prepare_label,
    prepare_volume,
    prepare_volume_label,
    prepared_size,
)
from cdal.errors import InputError

_STEP, _LARGEST_SAMPLE = 32, 256  # pixels
_AUGMENTATION = Augmentation(rotation=15, scale=(0.85, 1.15), brightness=0.2, contrast=0.2)  # no flips: left and right may matter
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may say of own data, see `OwnDataset`."""

    longest_side: int = 512
    sample_size: int = 0
    groups: Mapping[str, str] | str | None = None
    split: Sequence[Mapping[str, Any]] | str | None = None
    instances: bool | None = None
    ignore_label: int | None = None
    resample: bool = True

    def __post_init__(self) -> None:
        check_whole("own", "longest_side", self.longest_side, 16, 8192)
        if self.sample_size != 0:
            check_whole("own", "sample_size", self.sample_size, 16, 1024)
        if self.ignore_label is not None:
            check_whole("own", "ignore_label", self.ignore_label, 0, 65535)
        for name in ("instances", "resample"):
            if getattr(self, name) not in (None, True, False):
                raise InputError(f"option {name} of own is {getattr(self, name)!r}; it must be true or false")


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """All that is decided of a folder before its cases are prepared."""

    sources: list[Source]
    """In the order of their ids."""
    spec: DatasetSpec
    reading: Reading
    declared_channels: int | None
    folds: Folds
    groups: Mapping[str, str]

    def read(self, source: Source) -> Pair:
        """Decode a case, its mask as it was decided. Raises what `read_pair` does."""
        classes = self.spec.classes if self.reading.declared else ()
        return read_pair(source, channels=self.declared_channels, coloured=self.reading.coloured, names=classes)


class OwnDataset(CaseDataset):
    """The cases of a folder in a known layout."""

    def __init__(
        self,
        folder: Path,
        *,
        longest_side: int = 512,
        sample_size: int = 0,
        groups: Mapping[str, str] | str | None = None,
        split: Sequence[Mapping[str, Any]] | str | None = None,
        instances: bool | None = None,
        ignore_label: int | None = None,
        resample: bool = True,
    ) -> None:
        """Decode and check every case.

        Args:
            folder: where the files are.
            longest_side: larger 2D images are reduced until their longer side has this many pixels.
            sample_size: side of the training samples, pixels; 0 takes the smallest multiple of 32 that holds every image or slice,
                256 at most.
            groups: the group of every case, such as its patient, or a CSV file with them; "none": every case stands alone. None
                takes those that the folder or the names of the cases tell.
            split: the folds to use, or a file with them, see `cdal.data.own.groups.read_split`; None takes those that the
                folder gives, or cuts new ones.
            instances: whether objects are told apart and scored; false reads numbered objects as classes. None: numbered objects
                are recognised, and read as one class.
            ignore_label: the value of pixels that nobody judged; 0: there is none. None recognises it.
            resample: whether volumes are resampled to their median spacing within a slice, where they differ.

        Raises:
            InputError: an option out of its range, or anything wrong with the folder or a file; the message names it.
        """
        options = Options(
            longest_side=longest_side, sample_size=sample_size, groups=groups, split=split, instances=instances,
            ignore_label=ignore_label, resample=resample,
        )  # fmt: skip
        _, _, decisions = decided(folder, options)
        read = partial(read_case, decisions=decisions)
        cases = load_cases(decisions.sources, read, recipe(decisions))
        super().__init__(decisions.spec, cases, decisions.folds.split, groups=decisions.groups)


def decided(folder: Path, options: Options) -> tuple[Layout, list[CaseFacts], Decisions]:
    """The layout of a folder, the facts of its cases, and what is decided of them.

    Raises:
        InputError: the first thing that is wrong with the folder, a file, or all of them together.
    """
    layout = find_layout(folder)
    if layout.problems:
        raise InputError(layout.problems[0])
    facts = []
    for found in survey_of(layout):
        if isinstance(found, InputError):
            raise found
        facts.append(found)
    return layout, facts, decide_all(folder, layout, facts, options)


def survey_of(layout: Layout) -> Iterator[CaseFacts | InputError]:
    """The facts of the cases of a layout, or what is wrong with each, in the order of their ids."""
    return survey(
        sorted_sources(layout), channels=_declared(layout.channels), names=outline_classes(layout), coloured=layout.coloured
    )


def outline_classes(layout: Layout) -> tuple[str, ...]:
    """The classes of outlines in JSON; () where masks are no outlines."""
    outlines = _outlines(layout)
    if not outlines:
        return ()
    from cdal.data.polygons import class_names

    return class_names(outlines)


def _outlines(layout: Layout) -> list[Path]:
    return list(dict.fromkeys(path for source in layout.sources for path in source.labels if path.suffix.lower() == OUTLINES))


def sorted_sources(layout: Layout) -> list[Source]:
    """The cases of a layout in the order of their ids."""
    return sorted(layout.sources, key=lambda source: source.id)


def decide_all(folder: Path, layout: Layout, facts: Sequence[CaseFacts], options: Options) -> Decisions:
    """What the facts of all cases say together.

    Raises:
        InputError: cases that do not go together, masks whose values mean nothing, or splits that cannot be.
    """
    known = {case.id for case in facts}
    sources = [source for source in sorted_sources(layout) if source.id in known]
    if wrong := disagreements(sources, facts):
        raise InputError(wrong[0])
    reading = read_labels(folder, layout, sources, facts, options)
    if wrong := refusals(reading, sources, facts):
        raise InputError(wrong[0])
    channels = max(case.form.channels for case in facts)
    preparation, told = _volumes(layout, facts, reading, options) if layout.volumetric else (_images(facts, options), [])
    groups, by = _groups(folder, layout, facts, options)
    ids = [case.id for case in facts]
    asked = read_split(options.split) if isinstance(options.split, str) else options.split
    splits, by_split = splits_of(asked, ids) if asked else (layout.splits, [])
    if not splits:
        splits, by_split = split_beside(folder, ids)
    elif asked and layout.splits:
        by_split = [*by_split, "the split of the folder itself is not used, as another one is given"]
    folds = own_folds(ids, groups, {case.id: reading.present(case.mask) for case in facts}, splits, asked=bool(asked))
    longest = max(max(_size(case, source, preparation)) for case, source in zip(facts, sources, strict=True))
    size = options.sample_size or min(-(-longest // _STEP) * _STEP, _LARGEST_SAMPLE)
    notes = (*layout.notes, *_left_out(layout), *notes_on(facts, preparation), *told, *reading.notes, *by, *by_split, *folds.notes)
    spec = DatasetSpec(
        name=re.sub(r"[^\w.-]+", "_", plain(folder.resolve().name)) or "own",
        image_channels=channels,
        classes=reading.classes,
        image_size=size,
        volumetric=layout.volumetric,
        folds=folds.names,
        protocol=protocol(layout, facts, preparation, _AUGMENTATION, size, folds),
        licence=layout.licence,
        preparation=preparation,
        augmentation=_AUGMENTATION,
        has_ignored=reading.has_ignored,
        notes=tuple(map(plain, notes)),
    )
    return Decisions(
        sources=sources, spec=spec, reading=reading, declared_channels=_declared(layout.channels), folds=folds, groups=groups
    )


def read_case(source: Source, decisions: Decisions) -> Case:
    """Decode a case and prepare it as was decided.

    Raises:
        InputError: files that are damaged, do not fit each other, or hold values that nothing explains.
    """
    spec = decisions.spec
    pair = decisions.read(source)
    label, instances = decisions.reading(pair.values, source.labels[0])
    if instances is not None and pair.instances is not None:
        instances = pair.instances
    if spec.volumetric:
        return _volume_case(source, pair, label, instances, spec.preparation)
    pixels = pair.image[0, 0] if len(pair.image) == 1 else np.moveaxis(pair.image[:, 0], 0, 2)
    return Case(
        id=source.id,
        image=prepare_image(pixels, spec.preparation, spec.image_channels),
        label=prepare_label(label[0], spec.preparation),
        instances=None if instances is None else prepare_label(instances[0], spec.preparation),
    )


def _volume_case(source: Source, pair: Pair, label: LabelArray, instances: Instances | None, preparation: Preparation) -> Case:
    assert pair.spacing is not None
    try:
        prepared, native = prepare_volume_label(label, preparation, pair.spacing)
        image = prepare_volume(pair.image, preparation, pair.spacing)
    except InputError as error:
        raise InputError(f"{source.images[0]} {error}") from None
    return Case(
        id=source.id,
        image=image,
        label=prepared,
        spacing=sliced(Grid(label.shape, pair.spacing), preparation.plane).spacing,
        instances=None if instances is None else torch.from_numpy(np.ascontiguousarray(to_slices(instances, preparation.plane))),
        native=native,
    )


def read_volume_case(source: Source, *, channels: int | None, reading: Reading, preparation: Preparation) -> Case:
    """A case from NIfTI files, on its own grid.

    Raises:
        InputError: files that are damaged, do not fit each other, or do not hold what is declared.
    """
    pair = read_pair(source, channels=channels)
    return _volume_case(source, pair, reading(pair.values, source.labels[0])[0], None, preparation)


def recipe(decisions: Decisions) -> dict[str, Any]:
    """All that decides the prepared cases besides the bytes of their files, for the cache."""
    preparation = decisions.spec.preparation
    return {
        "reader": "own",
        "version": 3,
        "channels": [decisions.declared_channels, decisions.spec.image_channels],
        "labels": decisions.reading.recipe(),
        "classes": decisions.spec.classes if decisions.reading.declared else (),
        "preparation": [preparation.longest_side, preparation.windows, preparation.plane, preparation.spacing],
    }


def read_labels(folder: Path, layout: Layout, sources: Sequence[Source], facts: Sequence[CaseFacts], options: Options) -> Reading:
    """What the values of all masks mean. Raises InputError where they mean nothing."""
    outlined = outline_classes(layout)
    return decide(
        [case.mask for case in facts],
        dict(enumerate(outlined, start=1)) if outlined else layout.labels,
        IGNORED if outlined and any(IGNORED in case.mask.values for case in facts) else layout.ignored,
        where=f"the masks in {folder}",
        files=[source.labels[0] for source in sources],
        declared_by="the outlines" if outlined else layout.declared_by,
        volumetric=layout.volumetric,
        instances=options.instances,
        ignore_label=options.ignore_label,
    )


def refusals(reading: Reading, sources: Sequence[Source], facts: Sequence[CaseFacts]) -> list[str]:
    """A sentence for every mask with a value that nothing declares."""
    found = (reading.refusal(case.mask, source.labels[0]) for source, case in zip(sources, facts, strict=True))
    return [sentence for sentence in found if sentence]


def disagreements(sources: Sequence[Source], facts: Sequence[CaseFacts]) -> list[str]:
    """A sentence for every case whose image has another form than the first one; grey and RGB images go together."""
    first, first_name = facts[0].form, sources[0].images[0].name
    colours = {case.form.channels for case in facts} <= {1, 3} and not any(case.spacing for case in facts)
    found = []
    for source, case in zip(sources, facts, strict=True):
        if case.form.channels != first.channels and not colours:
            mine, theirs = count(case.form.channels, "channel"), str(first.channels)
        elif case.form.is_bytes != first.is_bytes and case.spacing is None:
            mine, theirs = ("8-bit values" if one.is_bytes else "values of more bits" for one in (case.form, first))
        else:
            continue
        found.append(f"{source.images[0]} has {mine}, but {first_name} has {theirs}; all images of a dataset need the same")
    return found


def _images(facts: Sequence[CaseFacts], options: Options) -> Preparation:
    if facts[0].form.is_bytes:
        return Preparation(longest_side=options.longest_side, scaling="bytes", mean=(127.5,), std=(127.5,))
    return Preparation(longest_side=options.longest_side, scaling="percentiles")


def _volumes(layout: Layout, facts: Sequence[CaseFacts], reading: Reading, options: Options) -> tuple[Preparation, list[str]]:
    """How volumes are prepared, and what is to be told of their channels."""
    grids = [case.grid for case in facts]
    plane = choose_plane(grids)
    windows, told = choose_windows(facts, layout.channels, reading)
    channels = facts[0].form.channels
    if channels > 1 and layout.channels is None and any(len(source.images) == 1 for source in layout.sources):
        told.append(f"files have four axes: the {channels} volumes along the last one are read as channels of one image")
    spacing = choose_spacing(grids, plane) if options.resample else None
    return Preparation(scaling="percentiles", windows=windows, plane=plane, spacing=spacing), told


def _groups(folder: Path, layout: Layout, facts: Sequence[CaseFacts], options: Options) -> tuple[dict[str, str], list[str]]:
    """What cases belong to, and how it is known, in words."""
    ids = [case.id for case in facts]
    told: list[str] = []
    found: Groups | None = None
    if options.groups == NONE:
        pass
    elif options.groups is not None:
        given = read_groups(options.groups) if isinstance(options.groups, str) else options.groups
        found, told = given_groups(ids, given)
    elif isinstance(options.split, str) and (given := groups_of_split(options.split)):
        found, told = given_groups(ids, given)
    else:
        found, told = groups_beside(folder, ids)
        if not found and layout.groups:
            found = Groups({case_id: layout.groups.get(case_id, case_id) for case_id in ids}, "by their folders")
        found = found or find_groups(ids)
    groups = found.of if found else {}
    if found:
        kept = "" if options.split else "no group is in two parts of a fold; "
        told = [f"{found}; {kept}--groups FILE.csv says otherwise", *told]
    return _with_copies(groups, facts, told), told


def _with_copies(groups: dict[str, str], facts: Sequence[CaseFacts], told: list[str]) -> dict[str, str]:
    """Groups where cases with the same image belong together as well."""
    same: dict[str, list[str]] = {}
    for case in facts:
        if case.low < case.high:
            same.setdefault(case.digest, []).append(case.id)
    copies = [ids for ids in same.values() if len({groups.get(case_id, case_id) for case_id in ids}) > 1]
    if not copies:
        return groups
    joined = {case.id: groups.get(case.id, case.id) for case in facts}
    for ids in copies:
        names = {joined[case_id] for case_id in ids}
        joined = {case_id: min(names) if group in names else group for case_id, group in joined.items()}
    if len(set(joined.values())) < LEAST_GROUPS:
        return groups
    told.append(
        f"{count(len(copies), 'image')} came under several names, {' and '.join(copies[0][:3])} the first: they count as one group"
    )
    return joined


def _left_out(layout: Layout) -> tuple[str, ...]:
    """What outlines hold that is not read."""
    outlines = _outlines(layout)
    if not outlines:
        return ()
    from cdal.data.polygons import describe

    return describe(outlines)


def _size(case: CaseFacts, source: Source, preparation: Preparation) -> tuple[int, int]:
    """(H, W) of the slices of a case, once it is prepared."""
    if case.spacing is None:
        width, height = case.size
        return prepared_size((height, width), preparation)
    grid = sliced(case.grid, preparation.plane)
    try:
        return resampled_size(grid.shape[1:], grid.spacing[1:], preparation.spacing)
    except InputError as error:
        raise InputError(f"{source.images[0]} {error}") from None


def _declared(names: Sequence[str] | None) -> int | None:
    return None if names is None else len(names)
