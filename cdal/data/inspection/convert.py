"""A clean copy of a folder in nnU-Net's raw layout, with everything decided that `own` decides.

    convert(Path("MyData"), Path("Dataset101_Mine"))

Images keep their values and grids; masks hold 0 to the number of classes, and one number more for pixels that nobody judged. The
folds become splits_final.json (nnU-Net's "val" is our test part; "validation" is cut from its "train"), groups become groups.csv,
and what was decided stands in decisions.json. Opened again, it gives the same labels, splits and groups.
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from cdal.data import check_options
from cdal.data.dataset import IGNORED, DatasetSpec, Source
from cdal.data.layouts import Layout
from cdal.data.own import Decisions, Options, decided
from cdal.data.own.groups import find_groups
from cdal.data.own.pairs import Pair
from cdal.data.own.survey import CaseFacts
from cdal.errors import InputError


def convert(folder: Path, out: Path, **options: Any) -> list[str]:
    """Write the copy; returns what was decided, in words.

    Args:
        folder: the data, in any layout that is read as own data.
        out: the folder to make; its parent must exist.
        options: of the dataset `own`.

    Raises:
        InputError: anything wrong in the data, or a folder that is there already or cannot be made.
    """
    if out.exists():
        raise InputError(f"--to is {out}, which is there already; name a folder that is not")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--to is {out}; {out.absolute().parent} is no folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"--to is {out}, within the data {folder}; name a folder outside of them")
    check_options("own", options)
    layout, facts, decisions = decided(folder, Options(**options))
    names = _names([source.id for source in decisions.sources])
    try:
        with TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}-") as unfinished:
            whole = Path(unfinished, out.name)
            for part in ("imagesTr", "labelsTr"):
                (whole / part).mkdir(parents=True)
            ending = _ending(facts)
            for source in decisions.sources:
                _write_case(whole, names[source.id], ending, source, decisions)
            _write_listing(whole, ending, decisions, layout, len(facts))
            _write_decisions(whole, decisions, names)
            whole.rename(out)
    except OSError as error:
        raise InputError(f"--to {out} cannot be written: {error.strerror or error}") from error
    return list(decisions.spec.notes)


def _write_case(out: Path, name: str, ending: str, source: Source, decisions: Decisions) -> None:
    reading, pair = decisions.reading, decisions.read(source)
    label, _ = reading(pair.values, source.labels[0])
    numbers = np.where(label == IGNORED, len(reading.classes) + 1, label).astype(np.uint8) if reading.has_ignored else label
    if ending == ".nii.gz":
        _write_volumes(out, name, source, pair, numbers)
        return
    planes = pair.image[:, 0]
    if ending == ".png" and len(planes) == 3:
        _save_picture(out / "imagesTr" / f"{name}_0000.png", np.ascontiguousarray(planes.transpose(1, 2, 0)))
    elif ending == ".png" and decisions.spec.image_channels == 3:  # grey among coloured ones
        _save_picture(out / "imagesTr" / f"{name}_0000.png", np.ascontiguousarray(np.stack([planes[0]] * 3, axis=2)))
    else:
        for number, plane in enumerate(planes):
            _save_picture(out / "imagesTr" / f"{name}_{number:04}{ending}", plane)
    _save_picture(out / "labelsTr" / f"{name}{ending}", numbers[0])


def _write_volumes(out: Path, name: str, source: Source, pair: Pair, numbers: npt.NDArray[np.uint8]) -> None:
    import nibabel

    from cdal.data.volumes import from_dhw, read_volume

    grid = read_volume(source.images[0])

    def save(path: Path, array: npt.NDArray[Any]) -> None:
        stored = from_dhw(array, grid)
        nibabel.save(nibabel.Nifti1Image(stored, grid.affine), path)  # type: ignore[no-untyped-call]

    for number, channel in enumerate(pair.image):
        save(out / "imagesTr" / f"{name}_{number:04}.nii.gz", channel)
    save(out / "labelsTr" / f"{name}.nii.gz", numbers)


def _write_listing(out: Path, ending: str, decisions: Decisions, layout: Layout, count: int) -> None:
    spec: DatasetSpec = decisions.spec
    meant = [f"{name} (class)" if name.lower() in ("background", "ignore") else name for name in spec.classes]
    labels = {"background": 0} | {name: number for number, name in enumerate(meant, start=1)}
    if decisions.reading.has_ignored:
        labels["ignore"] = len(spec.classes) + 1
    names = layout.channels or _channel_names(spec)
    listing = {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": labels,
        "numTraining": count,
        "file_ending": ending,
        "licence": spec.licence,
    }
    (out / "dataset.json").write_text(json.dumps(listing, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_decisions(out: Path, decisions: Decisions, names: dict[str, str]) -> None:
    splits = [
        {
            part: [names[case] for case in cases]
            for part, cases in (("train", split.train + split.validation), ("val", split.test), ("validation", split.validation))
        }
        for split in decisions.folds.splits
    ]
    (out / "splits_final.json").write_text(json.dumps(splits, indent=2), encoding="utf-8")
    if decisions.groups or find_groups(list(names.values())):  # of the names here, which may tell other groups
        with (out / "groups.csv").open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows(
                [("case", "group"), *((names[case], decisions.groups.get(case, names[case])) for case in names)]
            )
    told = {
        "notes": decisions.spec.notes,
        "protocol": decisions.spec.protocol,
        "groups": {names[case]: group for case, group in decisions.groups.items()},
        "cases": {names[source.id]: list(map(str, source.images + source.labels)) for source in decisions.sources},
    }
    (out / "decisions.json").write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")


def _names(ids: Sequence[str]) -> dict[str, str]:
    """File names of cases, which hold no folders, spaces or foreign letters, and differ on every file system."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case_id in ids:
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", case_id).strip("_.-") or "case"
        tries = (f"{plain}_{number}" if number else plain for number in range(len(ids) + 1))
        name = next(name for name in tries if name.lower() not in taken)
        taken.add(name.lower())
        names[case_id] = name
    return names


def _ending(facts: Sequence[CaseFacts]) -> str:
    if facts[0].spacing is not None:
        return ".nii.gz"
    eight = all(case.form.is_bytes for case in facts) and all(case.form.channels in (1, 3) for case in facts)
    return ".png" if eight else ".tif"


def _channel_names(spec: DatasetSpec) -> list[str]:
    if spec.preparation.windows:
        return ["CT" if window else f"channel {number}" for number, window in enumerate(spec.preparation.windows)]
    if spec.image_channels == 3 and not spec.volumetric:
        return ["R", "G", "B"]
    return ["image"] if spec.image_channels == 1 else [f"channel {number}" for number in range(spec.image_channels)]


def _save_picture(path: Path, pixels: npt.NDArray[Any]) -> None:
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, compression="zlib")
