"""Datasets by name, their splits, and the batches a training draws from them.

    dataset = open_dataset("phantom", size=64)
    dataset = open_dataset("hippocampus", "Task04_Hippocampus")
    split = dataset.split(fold=0)
    image, mask, known = training_batch(dataset, split.train, step=0, batch_size=16, samples_per_case=4, mask_channels=3, seed=0)
    case = dataset.case(split.validation[0])

To add a dataset: a class with the interface `Dataset` in a file of its own, and a line in `_KINDS`.
"""

import inspect
import os
from collections.abc import Callable, Hashable, Mapping
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from cdal.data.batches import Batch, encode_mask, steps_per_pass, training_batch
from cdal.data.dataset import Augmentation, Case, Dataset, DatasetSpec, Preparation, Source, Split, SplitName
from cdal.data.remote import local_folder
from cdal.errors import InputError

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batch",
    "Case",
    "Dataset",
    "DatasetSpec",
    "Preparation",
    "Source",
    "Split",
    "SplitName",
    "encode_mask",
    "open_dataset",
    "steps_per_pass",
    "training_batch",
]


class _Kind(NamedTuple):
    create: str
    """Module and class, imported when the dataset is opened."""
    reads_files: bool


_KINDS = {
    "phantom": _Kind("cdal.data.phantom:PhantomDataset", False),
    "hippocampus": _Kind("cdal.data.hippocampus:HippocampusDataset", True),
    "monuseg": _Kind("cdal.data.monuseg:MonusegDataset", True),
    "chest_xray": _Kind("cdal.data.chest_xray:ChestXrayDataset", True),
    "own": _Kind("cdal.data.own:OwnDataset", True),
}
DATASETS = tuple(_KINDS)

_CACHE_SIZE = 4
_opened: dict[Hashable, Dataset] = {}
_lock = Lock()


def open_dataset(name: str, data: str | Path | None = None, **options: Any) -> Dataset:
    """A dataset with all its cases decoded and checked; a second call with the same arguments returns the same object.

    Args:
        name: one of `DATASETS`.
        data: for datasets that are read from files, their folder or an s3:// address, which is copied to the cache first.
        options: parameters of the dataset, by name: those of its class.

    Raises:
        InputError: an unknown name or option, a folder that is missing or not needed, or anything wrong in the files.
    """
    if name not in _KINDS:
        raise InputError(f"unknown dataset {name!r}; datasets are {', '.join(DATASETS)}")
    module, _, attribute = _KINDS[name].create.partition(":")
    create: Callable[..., Dataset] = getattr(import_module(module), attribute)
    check_options(name, options)
    if not _KINDS[name].reads_files and data is not None:
        raise InputError(f"the dataset {name} is generated; leave out --data {data}")
    if _KINDS[name].reads_files and data is None:
        raise InputError(f"the dataset {name} is read from files; give its folder with --data")
    folder = None if data is None else local_folder(data)
    key = (name, folder, _fingerprint(folder), tuple(sorted((option, repr(value)) for option, value in options.items())))
    with _lock:
        if key not in _opened:
            dataset = create(**options) if folder is None else create(folder, **options)
            while len(_opened) >= _CACHE_SIZE:
                del _opened[next(iter(_opened))]
            _opened[key] = dataset
        return _opened[key]


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a dataset does not have, with an InputError."""
    module, _, attribute = _KINDS[name].create.partition(":")
    create: Callable[..., Dataset] = getattr(import_module(module), attribute)
    known = [item.name for item in inspect.signature(create).parameters.values() if item.kind is item.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise InputError(f"unknown option {option!r} of the dataset {name}; its options are {', '.join(known) or 'none'}")


def _fingerprint(folder: Path | None) -> int | None:
    """Changes when a file in the folder or below is added, removed, replaced or written to."""
    if folder is None:
        return None
    entries = (entry for root, _, _ in os.walk(folder) for entry in os.scandir(root))
    return hash(tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in map(_status, entries)))


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """Of a link, that of what it leads to, if it leads anywhere."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)
