"""What is wrong with a lake: every file is read to its end, and nothing is changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cdal.errors import InputError
from tune.lake.experiments import DESCRIPTION, describe
from tune.lake.s3 import RemoteError
from tune.lake.spool import outboxes, spool_folder
from tune.lake.storage import Store
from tune.lake.tables import KEYS, SCHEMA_VERSION, UnusableError, newest, read_file, version_of

_NAMED = 3  # trials that a sentence names


class Finding(NamedTuple):
    """One thing that somebody should know."""

    sentence: str
    """What, which file, what to do."""
    wrong: bool
    """Whether something is lost or in the way; else it is harmless."""


def verify(root: str | Path, experiment: str | None = None, *, spool: str | Path | None = None) -> list[Finding]:
    """Check all files of a lake, or of one of its experiments. A search may go on writing meanwhile.

    Raises:
        InputError: there is no such lake or experiment, or the store cannot be used.
    """
    store = Store(root)
    folders = store.folders()
    if folders is None:
        raise InputError(f"no results at {root}: there is no such folder")
    if experiment is not None and experiment not in folders:
        raise InputError(f"{root} holds no experiment named {experiment!r}")
    known = [name for name in folders if experiment in (None, name) and _is_experiment(store, name)]
    if not known:
        raise InputError(f"{root} holds no experiments")
    found = [finding for name in known for finding in (*_description(store, name), *_tables(store, name))]
    for path, about in outboxes(Path(spool_folder() if spool is None else spool), store.root).items():
        if experiment in (None, about["experiment"]):
            command = f"python -m tune.results send --storage {store.root}"
            sentence = f"{path} holds results that wait to be sent; unless a running search does so, send them: {command}"
            found.append(Finding(sentence, wrong=False))
    return found


def _is_experiment(store: Store, name: str) -> bool:
    return store.exists(f"{name}/{DESCRIPTION}") or any(store.files(f"{name}/{table}") for table in KEYS)


def _description(store: Store, name: str) -> Iterator[Finding]:
    path = store.name(f"{name}/{DESCRIPTION}")
    remedy = "restore it from a copy; the tables beside it can be read without it, but the search cannot be resumed"
    try:
        experiment = describe(store, name)
    except RemoteError:
        raise
    except InputError as error:
        yield Finding(f"{error}; {remedy}", wrong=True)
        return
    if experiment is None:
        yield Finding(f"{path} is missing; {remedy}", wrong=True)
    elif experiment.description.get("experiment", name) != name:
        other = str(experiment.description["experiment"])
        yield Finding(f"{path} describes experiment {other!r:.80}; rename its folder to that, or restore the right one", wrong=True)


def _tables(store: Store, name: str) -> Iterator[Finding]:
    trials: set[str] = set()
    rows: dict[str, dict[str, pa.Table]] = {}
    for table in sorted(KEYS, key=lambda table: table == "trials"):  # last: rows of other tables are never older than their trial
        rows[table] = {}
        yield from _files(store, f"{name}/{table}", table, rows[table])
        for path, keys in rows[table].items():
            yield from _rows(store, path, name, table, keys)
        yield from _replaced(store, f"{name}/{table}", table, list(rows[table].values()))
    for keys in rows.pop("trials").values():
        trials.update(keys["trial_id"].to_pylist())
    del rows["splits"]  # they are of no trial
    for parts in rows.values():
        for path, keys in parts.items():
            yield from _strangers(store, path, keys, trials)


def _files(store: Store, folder: str, table: str, into: dict[str, pa.Table]) -> Iterator[Finding]:
    """Read every file of a folder; keep the keys."""
    stale = store.stale(folder)
    for path in stale:
        remedy = "it is not needed, and `python -m tune.results compact` deletes it"
        yield Finding(f"{store.name(path)} is a temporary file that a killed writer left; {remedy}", wrong=True)
    seen: set[str] = set()
    while new := sorted(store.sizes(folder, "").keys() - seen):  # again, for a writer may merge its files meanwhile
        seen.update(new)
        for path in new:
            if not path.endswith(".parquet"):
                if not path.endswith(".tmp"):
                    yield Finding(f"{store.name(path)} is no file of a lake; move it to another folder", wrong=True)
                continue
            try:
                whole = read_file(store, path, table)
            except FileNotFoundError:
                continue
            except UnusableError as error:
                remedy = "readers skip it; restore it from a copy, or move it to another folder"
                yield Finding(f"{store.name(path)} cannot be used, for {error}; {remedy}", wrong=True)
                continue
            if (version := version_of(whole)) > SCHEMA_VERSION:
                sentence = (
                    f"{store.name(path)} has schema version {version} and this release knows {SCHEMA_VERSION}; update the project"
                )
                yield Finding(sentence, wrong=False)
            into[path] = whole.select([*KEYS[table], "recorded_at"])


def _rows(store: Store, path: str, experiment: str, table: str, rows: pa.Table) -> Iterator[Finding]:
    """Rows that cannot be what a search wrote."""
    others = pc.unique(rows["experiment"]).drop_null().to_pylist()
    if foreign := [name for name in others if name != experiment]:
        remedy = f"move it to the folder {foreign[0]!r:.80}"
        yield Finding(f"{store.name(path)} has rows of experiment {foreign[0]!r:.80}; {remedy}", wrong=True)
    if lacking := [name for name in (*KEYS[table], "recorded_at") if rows[name].null_count]:
        remedy = "another program wrote it; move it to another folder"
        yield Finding(f"{store.name(path)} has rows without {', '.join(lacking)}; {remedy}", wrong=True)


def _replaced(store: Store, folder: str, table: str, parts: Sequence[pa.Table]) -> Iterator[Finding]:
    if not parts:
        return
    rows = pa.concat_tables([part.replace_schema_metadata() for part in parts])
    if extra := rows.num_rows - newest(rows, KEYS[table]).num_rows:
        remedy = "this is harmless, and `python -m tune.results compact` drops them"
        sentence = f"{store.name(folder)} has {extra} of {rows.num_rows} rows for whose key there is a newer or equal row; {remedy}"
        yield Finding(sentence, wrong=False)


def _strangers(store: Store, path: str, rows: pa.Table, trials: set[str]) -> Iterator[Finding]:
    unknown = sorted(set(pc.unique(rows["trial_id"]).drop_null().to_pylist()) - trials)
    if unknown:
        named = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")
        remedy = "look for a lost or damaged file of trials, or for one that waits in the spool of another machine"
        yield Finding(f"{store.name(path)} has rows of trials that the trials table lacks ({named}); {remedy}", wrong=True)
