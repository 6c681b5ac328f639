"""Cases decoded once per machine: every later opening, in any process, maps the decoded arrays from local disk.

    cases = load_cases(sources, read, {"reader": "volumes", "version": 1})

A case is one safetensors file, named by the hash of all that decides it: the bytes of its source files and the recipe. So a changed
source or option gives another file, and none is ever out of date. The folder is `$CDAL_CACHE`, else `cdal-search` in
`$XDG_CACHE_HOME` or in `~/.cache`. It may be deleted at any time: what is open stays readable, what is missing is decoded again.
"""

import hashlib
import json
import os
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cdal.caching import alone, cache_folder
from cdal.data.dataset import Case, Source
from cdal.errors import InputError
from cdal.pulse import beat

_FORMAT = 1  # raised when the files of an older release could not be read, or would be read wrongly
_MOST_THREADS = 8  # decoding a large volume takes memory, so not one for each CPU of a large machine
_SETTLED = 2 * 10**9  # ns; the clocks of file systems are no coarser than this
_ABANDONED = 24 * 3600  # seconds
_UNFINISHED = "unfinished-"


def load_cases(sources: Sequence[Source], read: Callable[[Source], Case], recipe: Mapping[str, Any]) -> list[Case]:
    """The cases of some files, in order, decoded by `read` where no process on this machine has done so before.

    Processes that start at once wait for the first and take over what it decoded. Where the cache folder cannot be written, cases
    are kept in memory and a warning says so.

    Args:
        sources: the files of every case.
        read: decodes one case; called from several threads.
        recipe: all that decides the result besides the bytes of the files, in plain JSON values.

    Raises:
        InputError: whatever `read` raises, for the first source that it cannot decode; cases decoded by then stay in the cache.
    """
    folder = cache_folder() / "cases"
    failures: list[Exception] = []

    def obtain(source: Source, path: Path | None) -> Case:
        case = _load(source, path)  # another process may have decoded it by now
        if case is not None:
            return case
        case = read(source)
        try:
            if path is not None:
                _store(case, path)
        except (OSError, SafetensorError) as error:
            failures.append(error)
        return _load(source, path) or case

    with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
        paths = _paths(sources, recipe, folder, pool)
        cases = list(map(_load, sources, paths))
        if None in cases:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
            with alone(folder / f"{_digest(repr(paths))}.lock"):
                _remove_abandoned(folder)
                wanted = pool.map(lambda case, source, path: case or obtain(source, path), cases, sources, paths)
                cases = list(_alive(wanted))
    if failures:
        warnings.warn(
            f"the cache folder {folder} cannot be written ({failures[0]}); cases are kept in memory, and decoded anew by every "
            "process; set CDAL_CACHE to a folder with space",
            stacklevel=2,
        )
    return [case for case in cases if case is not None]


def load_facts(
    sources: Sequence[Source], look: Callable[[Source], dict[str, Any]], recipe: Mapping[str, Any]
) -> Iterator[dict[str, Any] | InputError]:
    """What `look` says of the files of every source, in order, as plain JSON values; or what it raised. Kept like cases are."""
    folder = cache_folder() / "facts"

    def obtain(source: Source, path: Path | None) -> dict[str, Any] | InputError:
        if path is not None:
            with suppress(OSError, ValueError):
                known: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
                return known
        try:
            facts = look(source)
        except InputError as error:
            return error
        if path is not None:
            with suppress(OSError), TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as unfinished:
                whole = Path(unfinished, path.with_suffix(".json").name)
                whole.write_text(json.dumps(facts))
                whole.replace(path.with_suffix(".json"))
        return facts

    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
    with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
        for facts in pool.map(obtain, sources, _paths(sources, recipe, folder, pool)):
            beat()
            yield facts


def _paths(sources: Sequence[Source], recipe: Mapping[str, Any], folder: Path, pool: Executor) -> list[Path | None]:
    """The file of every case in the cache; None where a source cannot be read, which `read` will tell in better words."""
    hashes = _hashes(
        list({file for source in sources for file in _files(source.images + source.labels)}), folder / "hashes.json", pool
    )
    paths: list[Path | None] = []
    for source in sources:
        images, labels = ([hashes.get(file) for file in _files(paths)] for paths in (source.images, source.labels))
        together: list[Any] = [images, labels]
        if source.values:
            together.append(source.values)
        if any(path.suffix.lower() == ".json" for path in source.labels):  # which tells of many images by their names
            together.append([path.name for path in source.images])
        name = _digest(json.dumps([_FORMAT, recipe, *together], sort_keys=True))
        paths.append(None if None in images + labels else folder / f"{name}.safetensors")
    return paths


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in folders (of DICOM slices)."""
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def _hashes(paths: Sequence[Path], index: Path, pool: Executor) -> dict[Path, str]:
    """Hashes of the content of all files that can be read; the index remembers them while a file stays as it is.

    Processes that write the index at the same moment may lose each other's entries, which are then made again.
    """
    known = _read_index(index)
    now = time.time_ns()
    found = {path: entry for path, entry in zip(paths, pool.map(lambda path: _hash(path, known), paths), strict=True) if entry}
    # A file that was just written to could be so again without its time changing: it is not remembered yet.
    settled = {str(path): entry for path, entry in found.items() if entry[2] < now - _SETTLED}
    if any(known.get(path) != entry for path, entry in settled.items()):
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=index.parent, prefix=_UNFINISHED) as folder:
                Path(folder, index.name).write_text(json.dumps(known | settled))
                Path(folder, index.name).replace(index)
        except OSError:
            pass  # then they are made again the next time
    return {path: entry[3] for path, entry in found.items()}


def _hash(path: Path, known: Mapping[str, list[Any]]) -> list[Any] | None:
    """[inode, size, modification time in ns, hash of the content] of a file; None where it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # the content of a pipe may never end
            return None
        stamp = [status.st_ino, status.st_size, status.st_mtime_ns]
        entry = known.get(str(path))
        if entry and entry[:-1] == stamp:
            return entry
        with path.open("rb") as file:
            return [*stamp, hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()]
    except OSError:
        return None


def _read_index(index: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(index.read_bytes())
        return {path: entry for path, entry in content.items() if isinstance(entry, list)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _store(case: Case, path: Path) -> None:
    """Write a case as one file that is either whole or not there."""
    optional = {"instances": case.instances, "native": case.native}
    tensors = {"image": case.image, "label": case.label} | {name: tensor for name, tensor in optional.items() if tensor is not None}
    written = int(time.time())
    about = {"spacing": case.spacing, "written": written}
    with TemporaryDirectory(dir=path.parent, prefix=_UNFINISHED) as folder:
        whole = Path(folder, path.name)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, whole, {"case": json.dumps(about)})
        os.utime(whole, (written, written))
        whole.replace(path)


def _load(source: Source, path: Path | None) -> Case | None:
    """Map a case privately, so that nothing written to its tensors reaches the file; None where there is no sound file.

    A file that is not of the time that it gives itself was written to since, and is not trusted.
    """
    if path is None:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["case"])
            if path.stat().st_mtime_ns != about["written"] * 10**9:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        return Case(id=source.id, spacing=tuple(about["spacing"]), **tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None


def _alive(cases: Iterable[Case | None]) -> Iterator[Case | None]:
    """The same, with a sign of life after each."""
    for case in cases:
        beat()
        yield case


def _remove_abandoned(folder: Path) -> None:
    """Delete what processes left that were killed while writing."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left)
        except OSError:
            pass  # another process was faster


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=20).hexdigest()
