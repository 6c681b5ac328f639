"""The hippocampus volumes of the Medical Segmentation Decathlon (Task04), or any folder of that layout with one modality.

    FOLDER/dataset.json               labels, and the list of training pairs in the order that the folds are cut from
    FOLDER/imagesTr/*.nii.gz
    FOLDER/labelsTr/*.nii.gz

All volumes are decoded and checked before any training. Arrays are turned to LPI and then laid out as (D, H, W) = (inferior, left,
posterior), so that a slice [d] is an axial one.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from cdal.data.cache import load_cases
from cdal.data.cases import CaseDataset
from cdal.data.dataset import Case, DatasetSpec, Preparation, Source
from cdal.data.folds import PARTITION_NAMES, PARTITIONS, partitioned_split
from cdal.data.layouts import Layout, decathlon_layout
from cdal.data.own import read_volume_case
from cdal.data.own.reading import Reading
from cdal.errors import InputError

_CROP = 32  # voxels, as published
_PREPARATION = Preparation(scaling="range")


class HippocampusDataset(CaseDataset):
    """All labelled volumes of a Decathlon folder."""

    def __init__(self, folder: Path) -> None:
        """Decode and check every volume.

        Raises:
            InputError: anything wrong with the folder, its dataset.json or a volume; the message names the file.
        """
        layout = hippocampus_layout(folder)
        if layout.problems:
            raise InputError(layout.problems[0])
        assert layout.classes is not None
        recipe = {"reader": "hippocampus", "version": 1, "classes": len(layout.classes)}
        cases = load_cases(layout.sources, hippocampus_reader(layout), recipe)
        spec = DatasetSpec(
            name="hippocampus",
            image_channels=1,
            classes=layout.classes,
            image_size=_CROP,
            volumetric=True,
            sample_depth=_CROP,
            folds=PARTITION_NAMES,
            protocol=(
                f"{len(cases)} volumes, LPI, intensity of each volume to [-1, 1]; axial slices of balanced {_CROP}-voxel crops; "
                f"case i tests in fold i mod {PARTITIONS} (published partitions), the first of every five others validates"
            ),
            licence=layout.licence,
            preparation=_PREPARATION,
        )
        super().__init__(spec, cases, partial(partitioned_split, [case.id for case in cases]))


def hippocampus_layout(folder: Path) -> Layout:
    """The training cases of a Decathlon folder, its classes in small letters.

    Raises:
        InputError: what `decathlon_layout` raises, several modalities, or images that are no volumes.
    """
    layout = decathlon_layout(folder)
    assert layout.labels is not None
    assert layout.channels is not None
    if len(layout.channels) > 1 or (layout.sources and not layout.volumetric):
        raise InputError(f"{folder / 'dataset.json'} does not list volumes of one modality; open the folder as the dataset own")
    return replace(layout, labels={value: name.lower() for value, name in layout.labels.items()})


def hippocampus_reader(layout: Layout) -> Callable[[Source], Case]:
    """The function that decodes and checks one case."""
    classes = layout.classes or ()
    labels = {number: number for number in range(1, len(classes) + 1)}
    reading = Reading(classes=classes, labels=labels, declared="dataset.json")
    return partial(read_volume_case, channels=1, reading=reading, preparation=_PREPARATION)
