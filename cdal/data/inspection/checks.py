"""What a careful colleague would point out about data that can be trained on.

findings(cases, counts, classes, sources, groups, splits)
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from cdal.data.dataset import IGNORED, PARTS, Source, Split
from cdal.data.layouts.layout import some
from cdal.data.own.survey import CaseFacts

Counts = npt.NDArray[np.int64]

_NAMED = 5  # cases that a sentence names
_SPACINGS_DIFFER = 2.0  # times
_SIZES_DIFFER = 4.0  # times the median area or volume
_NEARLY_THE_SAME = 0.999  # correlation of two sketches
_ALL_FOREGROUND = 0.8  # share of the pixels
_USUAL_FOREGROUND = 0.4  # or less, of other masks, where a full one is inverted
_FEWEST_GROUPS = 3  # one each to train, validate and test
_FAR = 8.0  # median absolute deviations
_FEW = 0.05  # of the cases: more are no exceptions
_SHIFTED = 0.02  # fraction of the image
_BETTER, _MUCH_BETTER = 0.1, 0.25  # correlation gained where masks are moved, most of them alike, or one


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is allowed but looks like a mistake."""

    kind: str
    """One word, for programs."""
    text: str
    """A sentence that names cases."""
    action: str
    """What a search will do about it."""
    cases: tuple[str, ...] = ()
    """Ids of all cases that it is about."""
    files: tuple[str, ...] = ()
    """Their files."""


def findings(
    cases: Sequence[CaseFacts],
    counts: Sequence[Counts],
    classes: Sequence[str],
    sources: Sequence[Source],
    groups: Mapping[str, str],
    splits: Sequence[Split],
) -> list[Finding]:
    """All that is odd about cases that can be used.

    Args:
        cases: facts.
        counts: pixels of every label in each of them (256,).
        classes: of the labels 1, 2, ...
        sources: the files of each.
        groups: what cases belong to; empty where they stand alone.
        splits: the folds.
    """
    files = {source.id: tuple(map(str, source.images + source.labels)) for source in sources}
    found = []
    for check in (
        _empty,
        _full,
        _rare_classes,
        _constant,
        _same,
        _near_copies,
        _shifted,
        _flipped,
        _sizes,
        _spacings,
        _intensities,
    ):
        for finding in check(cases, counts, classes, groups, splits):
            named = tuple(file for case_id in finding.cases for file in files.get(case_id, ()))
            found.append(Finding(kind=finding.kind, text=finding.text, action=finding.action, cases=finding.cases, files=named))
    return found


def _empty(cases: Sequence[CaseFacts], counts: Sequence[Counts], *_: object) -> Iterator[Finding]:
    empty = [case.id for case, own in zip(cases, counts, strict=True) if not own[1:IGNORED].any()]
    if empty:
        yield Finding(
            kind="empty",
            text=f"{_count(len(empty), 'mask is', 'masks are')} empty: {_names(empty)}",
            action="they train as images without foreground, and score 1 where nothing is predicted, else 0",
            cases=tuple(empty),
        )


def _full(cases: Sequence[CaseFacts], counts: Sequence[Counts], *_: object) -> Iterator[Finding]:
    full = [case.id for case, own in zip(cases, counts, strict=True) if _filled(own) > _ALL_FOREGROUND]
    if full and len(full) > len(cases) / 2:
        yield Finding(
            kind="inverted",
            text=f"more than {_ALL_FOREGROUND:.0%} of {len(full)} of {len(cases)} masks are foreground: {_names(full)}; "
            "perhaps 0 stands for the object",
            action="it learns what is not 0; invert the masks if 0 is the object",
            cases=tuple(full),
        )
    elif full and (usual := float(np.median([_filled(own) for own in counts]))) < _USUAL_FOREGROUND:
        yield Finding(
            kind="inverted",
            text=f"more than {_ALL_FOREGROUND:.0%} of {_count(len(full), 'mask is', 'masks are')} foreground, where {usual:.0%} is "
            f"usual: {_names(full)}; perhaps they are inverted",
            action="it learns what is not 0; invert them if 0 is the object there",
            cases=tuple(full),
        )


def _filled(counts: Counts) -> float:
    """The foreground's share of what was judged."""
    judged = counts.sum() - counts[IGNORED]
    return float(counts[1:IGNORED].sum() / max(judged, 1))


def _rare_classes(
    cases: Sequence[CaseFacts], counts: Sequence[Counts], classes: Sequence[str], groups: Mapping[str, str], splits: Sequence[Split]
) -> Iterator[Finding]:
    if not cases:
        return
    for value, name in enumerate(classes, start=1):
        having = [case.id for case, own in zip(cases, counts, strict=True) if own[value]]
        which = f": {_names(having)}" if having else ""
        of = len({groups.get(case_id, case_id) for case_id in having})
        without = [
            f"{part} of fold {number}"
            for number, split in enumerate(splits)
            for part in PARTS
            if not set(having) & set(split[part])
        ]
        if of < _FEWEST_GROUPS:
            yield Finding(
                kind="rare class",
                text=f"the class {name} is in {len(having)} of {len(cases)} cases{which}"
                + (f" (of {_count(of, 'group', 'groups')})" if groups else ""),
                action=f"no fold can have it in training, validation and test; it is missing in {_names(without)}"
                if without
                else "its scores come from very few cases",
                cases=tuple(having),
            )
        elif len(having) < len(cases) / 2:
            yield Finding(
                kind="rare class",
                text=f"the class {name} is in {len(having)} of {len(cases)} cases{which}",
                action=f"it is missing in {_names(without)}" if without else "the folds share out the cases that have it",
                cases=tuple(having),
            )


def _constant(cases: Sequence[CaseFacts], *_: object) -> Iterator[Finding]:
    constant = [case.id for case in cases if case.low == case.high]
    if constant:
        yield Finding(
            kind="constant",
            text=f"{_count(len(constant), 'image has', 'images have')} one value everywhere: {_names(constant)}",
            action="they take part like all others",
            cases=tuple(constant),
        )


def _same(
    cases: Sequence[CaseFacts], counts: Sequence[Counts], classes: Sequence[str], groups: Mapping[str, str], splits: Sequence[Split]
) -> Iterator[Finding]:
    same = defaultdict(list)
    for case in cases:
        same[case.digest].append(case.id)
    for ids in same.values():
        if len(ids) > 1:
            apart = _in_two_parts(ids, splits)
            together = "they stay together in one part of every fold"
            yield Finding(
                kind="duplicate",
                text=f"{len(ids)} images are the same pixel by pixel, which flatters scores if one trains and one tests: "
                f"{_names(ids)}",
                action=f"fold {apart} has them in two parts; remove all but one" if apart else together,
                cases=tuple(ids),
            )


def _near_copies(
    cases: Sequence[CaseFacts], counts: Sequence[Counts], classes: Sequence[str], groups: Mapping[str, str], splits: Sequence[Split]
) -> Iterator[Finding]:
    sketches = np.array([case.sketch for case in cases], np.float32)
    if len(cases) < 2:
        return
    sketches = sketches - sketches.mean(axis=1, keepdims=True)
    sketches /= np.maximum(np.linalg.norm(sketches, axis=1, keepdims=True), 1e-6)
    pairs = []
    for start in range(0, len(sketches), 1024):
        alike = sketches[start : start + 1024] @ sketches.T > _NEARLY_THE_SAME
        rows, columns = np.nonzero(alike)
        pairs += [(int(row) + start, int(column)) for row, column in zip(rows, columns, strict=True) if row + start < column]
    told = []
    for one, other in pairs:
        first, second = cases[one], cases[other]
        group = groups.get(first.id, first.id) == groups.get(second.id, second.id)
        if not group and first.digest != second.digest and first.low != first.high:
            told.append((first.id, second.id))
    if told:
        shown = ", ".join(f"{one} and {other}" for one, other in told[:_NAMED])
        more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        apart = next((place for pair in told if (place := _in_two_parts(pair, splits))), "")
        yield Finding(
            kind="near copies",
            text=f"{_count(len(told), 'pair of images looks', 'pairs of images look')} nearly the same: {shown}{more}",
            action=(f"fold {apart} has one in each of two parts; " if apart else "")
            + "if they are of one patient, say so with --groups FILE.csv",
            cases=tuple(dict.fromkeys(case_id for pair in told for case_id in pair)),
        )


def _shifted(cases: Sequence[CaseFacts], *_: object) -> Iterator[Finding]:
    moved = [case for case in cases if case.shift[2] > _BETTER and max(map(abs, case.shift[:2])) > _SHIFTED]
    down, right = np.median([case.shift[:2] for case in moved], axis=0) if moved else (0.0, 0.0)
    alike = [case for case in moved if max(abs(case.shift[0] - down), abs(case.shift[1] - right)) <= _SHIFTED]
    if len(alike) > len(cases) / 2:
        ids = [case.id for case in alike]
        where = (
            f"{abs(down):.1%} {'lower' if down > 0 else 'higher'} and {abs(right):.1%} to the {'right' if right > 0 else 'left'}"
        )
        text = f"{len(ids)} of {len(cases)} masks fit their images better {where}: {_names(ids)}"
    else:
        ids = [case.id for case in moved if case.shift[2] > _MUCH_BETTER]
        text = f"{_count(len(ids), 'mask fits its image', 'masks fit their images')} better in another place: {_names(ids)}"
    if ids:
        yield Finding(kind="shifted", text=text, action="it learns them where they are; look at the pictures", cases=tuple(ids))


def _flipped(cases: Sequence[CaseFacts], *_: object) -> Iterator[Finding]:
    for number, how in enumerate(("left-right", "up-down", "in both directions")):
        better = [case for case in cases if case.flips and case.flips[number] > _BETTER and case.flips[number] == max(case.flips)]
        most = len(better) > len(cases) / 2
        ids = [case.id for case in better if most or case.flips[number] > _MUCH_BETTER]
        if ids:
            yield Finding(
                kind="flipped",
                text=f"{_count(len(ids), 'mask fits its image', 'masks fit their images')} better flipped {how}: {_names(ids)}",
                action="it learns them as they are; look at the pictures",
                cases=tuple(ids),
            )


def _sizes(cases: Sequence[CaseFacts], *_: object) -> Iterator[Finding]:
    areas = np.array([float(np.prod(case.size)) for case in cases])
    if not len(areas):
        return
    usual = np.median(areas)
    odd = [case.id for case, area in zip(cases, areas, strict=True) if not 1 / _SIZES_DIFFER <= area / usual <= _SIZES_DIFFER]
    if odd and len(odd) < len(cases) / 4:
        yield Finding(
            kind="size",
            text=f"{_count(len(odd), 'image is', 'images are')} more than {_SIZES_DIFFER:g} times larger or smaller than the rest: "
            f"{_names(odd)}",
            action="they take part like all others: check that they are not thumbnails, crops or whole slides",
            cases=tuple(odd),
        )


def _spacings(cases: Sequence[CaseFacts], *_: object) -> Iterator[Finding]:
    with_spacing = [case for case in cases if case.spacing is not None]
    spacings = np.array([case.spacing for case in with_spacing])
    if not len(spacings):
        return
    for axis, steps in zip(("left-right", "front-back", "up-down"), spacings.T, strict=True):
        if steps.max() >= _SPACINGS_DIFFER * steps.min():
            usual = np.median(steps)
            odd = [
                case.id
                for case, step in zip(with_spacing, steps, strict=True)
                if not 1 / _SPACINGS_DIFFER < step / usual < _SPACINGS_DIFFER
            ]
            yield Finding(
                kind="spacing",
                text=f"spacings {axis} go from {steps.min():.3g} to {steps.max():.3g} mm" + (f": {_names(odd)}" if odd else ""),
                action="slices are resampled to the median spacing within them; the distance of slices stays",
                cases=tuple(odd),
            )


def _intensities(cases: Sequence[CaseFacts], *_: object) -> Iterator[Finding]:
    """A few images that are far brighter or darker than the rest, or in another unit."""
    told = [case for case in cases if case.low < case.high]
    means, spans = np.array([case.mean for case in told]), np.array([case.high - case.low for case in told])
    odd = [case.id for case, far in zip(told, _outlying(means) & _outlying(spans), strict=True) if far] if told else []
    if odd and len(odd) <= max(1, _FEW * len(cases)):
        yield Finding(
            kind="intensity",
            text=f"{_count(len(odd), 'image has', 'images have')} values far from those of the rest: {_names(odd)}; "
            "another modality, unit or scanner?",
            action="they take part like all others",
            cases=tuple(odd),
        )


def _outlying(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    centre = np.median(values)
    spread = max(float(np.median(np.abs(values - centre))), 0.02 * abs(float(centre)), 1e-12)
    far: npt.NDArray[np.bool_] = np.abs(values - centre) > _FAR * spread
    return far


def _in_two_parts(ids: Sequence[str], splits: Sequence[Split]) -> str:
    """The first fold that has two of the cases in different parts; "" where none has."""
    for number, split in enumerate(splits):
        for one, other in combinations((split.train, split.validation, split.test), 2):
            if set(one) & set(ids) and set(other) & set(ids):
                return str(number)
    return ""


def _names(ids: Sequence[str]) -> str:
    return some(ids, _NAMED)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
