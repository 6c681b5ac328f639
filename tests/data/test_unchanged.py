"""Sets that were read before strangers' data were: the same cases, labels and folds, by digests of the release before."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_folders import decathlon, nnunet, save, two_folders, volume, volume_label

from cdal.data import Dataset, open_dataset
from cdal.errors import InputError

LPI = np.diag([-2.0, -1.0, -3.0, 1.0])


def scans(folder: Path) -> Path:
    for number in range(6):
        save(folder / "images" / f"scan_{number}.nii.gz", volume(number, 12, 34, 6), LPI)
        save(folder / "masks" / f"scan_{number}.nii.gz", volume_label((12, 34, 6), (7, 9)), LPI)
    return folder


OWN: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], str, str]] = {
    "two folders": (lambda f: two_folders(f, 9), ("foreground",), "31249166ff727777", "eff3442ba6ef556a"),
    "colours": (
        lambda f: two_folders(f, 8, colours=3, values=(3, 1, 2)),
        ("value 1", "value 2", "value 3"),
        "e649e11d3c703ab4",
        "98f691c127f8c232",
    ),
    "values far apart": (
        lambda f: two_folders(f, 8, values=(85, 170)),
        ("value 85", "value 170"),
        "3e8b409ef1796910",
        "98f691c127f8c232",
    ),
    "decathlon": (lambda f: decathlon(f, 6, modalities=2), ("Front", "Back"), "17d1cf30912bc809", "06d530bc7e5a1440"),
    "nnunet volumes": (lambda f: nnunet(f, 6), ("core", "edema"), "f3938f11c3e8ac86", "06d530bc7e5a1440"),
    "nnunet images": (lambda f: nnunet(f, 7, channels=1, ending=".png"), ("core", "edema"), "47d2a09b0278550d", "9334a5b93370a785"),
    "volumes": (scans, ("value 7", "value 9"), "1ff40d87d4958b43", "0b4f487379c04fa2"),
}


def digests(dataset: Dataset) -> tuple[str, str]:
    """Of all cases (floating-point images by their means, which differ in the last digits between machines), and of all folds."""
    cases, folds = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
    for case_id in dataset.ids:
        case = dataset.case(case_id)
        exact = case.image.element_size() == 1
        image = case.image.numpy().tobytes() if exact else f"{float(case.image.double().mean()):.5f}".encode()
        cases.update(repr((case_id, tuple(case.image.shape), tuple(map(float, case.spacing)))).encode() + image)
        cases.update(case.label.numpy().tobytes())
        if case.instances is not None:
            cases.update(case.instances.numpy().tobytes())
    for fold in range(len(dataset.spec.folds)):
        try:
            split = dataset.split(fold)
        except InputError:
            continue
        folds.update(repr((split.train, split.validation, split.test)).encode())
    return cases.hexdigest(), folds.hexdigest()


@pytest.mark.parametrize("name", OWN)
def test_own_sets(tmp_path: Path, name: str) -> None:
    build, classes, cases, folds = OWN[name]
    dataset = open_dataset("own", build(tmp_path / "set"))
    assert (dataset.spec.classes, dataset.groups) == (classes, {})
    assert digests(dataset) == (cases, folds)


@pytest.mark.long
def test_the_real_sets(hippocampus_folder: Path) -> None:
    data = hippocampus_folder.parent
    expected = {
        "hippocampus": ("Task04_Hippocampus", "618865bfdfeddbbe", "5283a93bc1baf271"),
        "chest_xray": ("Lung", "4e372b7ebe59994e", "4bde9dc5e16006fe"),
        "monuseg": ("MoNuSeg", "e717e2d84351cc02", "e4a6a0577479b2b4"),
    }
    for name, (folder, cases, folds) in expected.items():
        assert digests(open_dataset(name, data / folder)) == (cases, folds), name
