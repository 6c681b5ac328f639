"""nnU-Net's raw data: a file per channel, CASE_0000.EXT, and CASE.EXT with the label.

    dataset.json      "channel_names" (or "modality"), "labels", "file_ending"; "dataset" where files lie elsewhere in the folder
    imagesTr/         CASE_0000.EXT, CASE_0001.EXT, ...
    labelsTr/         CASE.EXT

What labels mean, and splits_final.json, is read by `declared`.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from cdal.data.images import ENDINGS as IMAGE_ENDINGS
from cdal.data.layouts.declared import declared_channels, declared_labels, declared_licence
from cdal.data.layouts.layout import READ, VOLUME_ENDINGS, Found, Layout, ending, normal
from cdal.errors import InputError, short

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_FORM = '{"images": [FILE, ...], "label": FILE}'


def nnunet_layout(path: Path, content: dict[str, Any], follow_links: bool = True) -> Layout:
    """The training cases of a folder with this dataset.json.

    Raises:
        InputError: a dataset.json that does not say what it must, or a missing folder.
    """
    key = "channel_names" if "channel_names" in content or "modality" not in content else "modality"
    channels = declared_channels(path, content.get(key), key)
    labels = declared_labels(path, content)
    found = Found(path.parent, follow_links)
    if labels.note:
        found.notes.append(labels.note)
    if "dataset" in content:
        _listed(found, path, content["dataset"], len(channels))
    else:
        _by_name(found, path, content, len(channels))
    found.enough()
    return Layout(
        kind="nnU-Net layout",
        sources=list(found.sources.values()),
        labels=labels.names,
        ignored=labels.ignored,
        channels=channels,
        volumetric=found.volumetric(),
        licence=declared_licence(content),
        notes=found.notes,
        problems=found.problems,
    )


def _by_name(found: Found, path: Path, content: dict[str, Any], channels: int) -> None:
    """Cases from the names in imagesTr and labelsTr."""
    image_files = found.files("imagesTr")
    label_files = found.files("labelsTr")
    end = content.get("file_ending", _usual(label_files)) if label_files else content.get("file_ending", ".nii.gz")
    if end not in IMAGE_ENDINGS + VOLUME_ENDINGS:
        raise InputError(f'{path} gives "file_ending" as {short(end)}; those that are read are {READ}')
    images: dict[str, dict[int, Path]] = {}
    for file in image_files:
        match = _CHANNEL.fullmatch(normal(file.name.removesuffix(end))) if file.name.endswith(end) else None
        if match is None:
            found.problems.append(f"{file} is not named CASE_0000{end}, as the layout of nnU-Net and its dataset.json ask")
        elif int(match[2]) >= channels:
            found.problems.append(f"{file} is channel {int(match[2])}, but {path.name} names {channels} from 0 on")
        else:
            images.setdefault(match[1], {})[int(match[2])] = file
    labels: dict[str, Path] = {}
    for file in label_files:
        if file.name.endswith(end):
            labels[normal(file.name.removesuffix(end))] = file
        else:
            found.problems.append(f"{file} is not named CASE{end}, as dataset.json asks")
    for case_id, files in images.items():
        one_file = end in IMAGE_ENDINGS and channels == 3 and set(files) == {0}  # of three colours
        missing = [] if one_file else [number for number in range(channels) if number not in files]
        if missing:
            name = f"{case_id}_{missing[0]:04}{end}"
            found.problems.append(f"{path.parent / 'imagesTr' / name} is missing; {path.name} names {channels} channels")
        elif case_id not in labels:
            found.problems.append(f"{path.parent / 'labelsTr' / f'{case_id}{end}'} is missing; it is the label of a case")
        else:
            found.add(case_id, [files[key] for key in sorted(files)], [labels[case_id]], f"{path.parent} holds")
    found.problems += [f"{file} has no image in imagesTr" for case_id, file in labels.items() if case_id not in images]
    _counted(found, path, content.get("numTraining"), len(images))


def _counted(found: Found, path: Path, expected: object, count: int) -> None:
    """Fewer cases than announced are a copy that was cut; more are an old number."""
    if isinstance(expected, int) and expected != count and not found.problems:
        told = f'{path} gives "numTraining" as {expected}, but imagesTr has {count} cases'
        if expected > count:
            found.problems.append(f"{told}; copy those that are missing, or put the number right")
        else:
            found.notes.append(f"{told}; all are taken")


def _listed(found: Found, path: Path, cases: object, channels: int) -> None:
    """Cases that dataset.json lists by file."""
    told = f'{path} lists its files under "dataset", which is not supported'
    if not isinstance(cases, dict):
        raise InputError(f"{told} other than as {{CASE: {_FORM}, ...}}")
    for case_id, entry in cases.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(name, str) for name in images) or not isinstance(label, str):
            raise InputError(f"{told} where a case is not {_FORM}, as {short(case_id)}")
        files = [found.listed(path, name) for name in [*images, label]]
        if len(images) not in (1, channels):
            found.problems.append(f"{path} lists {len(images)} images of {short(case_id)}, but names {channels} channels")
        elif all(files):
            *whole, mask = (file for file in files if file)
            found.add(normal(case_id), whole, [mask], f"{path} lists")


def _usual(files: list[Path]) -> str | None:
    counts = Counter(ending(file.name) for file in files)
    return counts.most_common(1)[0][0]
