"""What was decided of own data, in words: notes for its user, and the protocol for the leaderboard."""

from collections.abc import Sequence

from cdal.data.dataset import Augmentation, Preparation
from cdal.data.folds import Folds
from cdal.data.geometry import is_cut_through, plane_of
from cdal.data.layouts import Layout
from cdal.data.layouts.layout import some
from cdal.data.own.survey import CaseFacts


def notes_on(facts: Sequence[CaseFacts], preparation: Preparation) -> list[str]:
    """What was decided of images and grids."""
    told = []
    channels = {case.form.channels for case in facts}
    if len(channels) > 1:
        grey = [case.id for case in facts if case.form.channels == 1]
        told.append(f"{len(grey)} of {len(facts)} images are grey, the others RGB: all are read as RGB ({some(grey)})")
    turned = [case.id for case in facts if case.turned]
    if turned:
        told.append(
            f"{count(len(turned), 'image')} would have been turned as EXIF tells, but the masks fit the pixels as stored, which "
            f"are used ({some(turned)})"
        )
    noted: dict[str, list[str]] = {}
    for case in facts:
        if case.note:
            noted.setdefault(case.note, []).append(case.id)
    told += [f"{count(len(ids), 'case')} ({some(ids)}): {note}" for note, ids in noted.items()]
    if preparation.plane != "axial":
        told.append(f"slices are {preparation.plane} ones: voxels are coarsest, or fewest, across them")
    others = [
        case.id for case in facts if case.spacing is not None and plane_of(case.grid.shape, preparation.plane) != preparation.plane
    ]
    if others:
        told.append(
            f"{some(others)} {'is' if len(others) == 1 else 'are'} of a single slice, which is no {preparation.plane} one; it is "
            "kept as it is"
        )
    through = [case.id for case in facts if case.spacing is not None and is_cut_through(case.grid, preparation.plane)]
    if through:
        told.append(
            f"the scanner's slices of {some(through)} lie in another plane: {preparation.plane} ones go through them, with pixels "
            "that are coarse along one side; leave them out, or search on them alone"
        )
    if preparation.spacing is not None:
        told.append(
            f"spacings differ: slices are resampled to {' x '.join(f'{side:.3g}' for side in preparation.spacing)} mm, their "
            "median; results are on the grids of the files; --set dataset.resample=false keeps those"
        )
    return told


def protocol(
    layout: Layout, facts: Sequence[CaseFacts], preparation: Preparation, augmentation: Augmentation, size: int, folds: Folds
) -> str:
    """How cases become training samples and splits."""
    if layout.volumetric:
        grid = "on their own grid" if preparation.spacing is None else "resampled in the slice to their median spacing"
        what = f"{len(facts)} volumes, LPI, {grid}; {preparation.plane} slices"
    else:
        what = f"{len(facts)} images, reduced to at most {preparation.longest_side} px where larger; crops"
    if preparation.windows:
        values = "CT in one window for all cases"
    elif preparation.scaling == "bytes":
        values = "8-bit values"
    else:
        values = "values from the 0.5th to the 99.5th percentile of each case"
    change = augmentation
    return (
        f"own data ({layout.kind}): {what} of {size} px, centred on foreground and background alike; {values} to [-1, 1]; "
        f"turned by up to {change.rotation:g} degrees, scaled by {change.scale[0]} to {change.scale[1]}, brightness and contrast "
        f"changed by up to {change.brightness:.0%}, no flips; {folds.rule}"
    )


def count(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
