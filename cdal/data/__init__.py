"""Datasets by name, their splits, and the batches a training draws from them.

    dataset = open_dataset("phantom", size=64)
    dataset = open_dataset("hippocampus", "Task04_Hippocampus")
    split = dataset.split(fold=0)
    image, mask = training_batch(dataset, split.train, step=0, batch_size=16, samples_per_case=4, mask_channels=3, seed=0)
    case = dataset.case(split.validation[0])

To add a dataset: a class with the interface `Dataset` in a file of its own, and a line in `_KINDS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from cdal.data.batches import Batch, encode_mask, steps_per_pass, training_batch
from cdal.data.dataset import Case, Dataset, DatasetSpec, Split, SplitName
from cdal.data.hippocampus import HippocampusDataset
from cdal.data.phantom import PhantomDataset
from cdal.errors import InputError

__all__ = [
    "DATASETS",
    "Batch",
    "Case",
    "Dataset",
    "DatasetSpec",
    "HippocampusDataset",
    "PhantomDataset",
    "Split",
    "SplitName",
    "encode_mask",
    "open_dataset",
    "steps_per_pass",
    "training_batch",
]


class _Kind(NamedTuple):
    create: Callable[..., Dataset]
    reads_files: bool


_KINDS = {"phantom": _Kind(PhantomDataset, False), "hippocampus": _Kind(HippocampusDataset, True)}
DATASETS = tuple(_KINDS)

_CACHE_SIZE = 4
_opened: dict[Hashable, Dataset] = {}
_lock = Lock()


def open_dataset(name: str, data: str | Path | None = None, **options: Any) -> Dataset:
    """A dataset with all its cases decoded, checked and in memory; a second call with the same arguments returns the same object.

    Args:
        name: one of `DATASETS`.
        data: its folder, for datasets that are read from files.
        options: parameters of the dataset, by name; for `phantom` those of `PhantomDataset`.

    Raises:
        InputError: an unknown name or option, a folder that is missing or not needed, or anything wrong in the files.
    """
    if name not in _KINDS:
        raise InputError(f"unknown dataset {name!r}; datasets are {', '.join(DATASETS)}")
    create, reads_files = _KINDS[name]
    _check_options(name, create, options)
    if not reads_files and data is not None:
        raise InputError(f"the dataset {name} is generated; leave out --data {data}")
    if reads_files and data is None:
        raise InputError(f"the dataset {name} is read from files; give its folder with --data")
    folder = None if data is None else Path(data).expanduser().absolute()
    key = (name, folder, _fingerprint(folder), tuple(sorted((option, repr(value)) for option, value in options.items())))
    with _lock:
        if key not in _opened:
            dataset = create(**options) if folder is None else create(folder, **options)
            while len(_opened) >= _CACHE_SIZE:
                del _opened[next(iter(_opened))]
            _opened[key] = dataset
        return _opened[key]


def _check_options(name: str, create: Callable[..., Dataset], options: Mapping[str, Any]) -> None:
    known = [item.name for item in inspect.signature(create).parameters.values() if item.kind is item.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise InputError(f"unknown option {option!r} of the dataset {name}; its options are {', '.join(known) or 'none'}")


def _fingerprint(folder: Path | None) -> tuple[int, int] | None:
    """Changes when the folder's list of cases is rewritten."""
    try:
        status = folder and (folder / "dataset.json").stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None
