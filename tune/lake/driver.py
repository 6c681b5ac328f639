"""One driver per experiment, on whatever machine it runs."""

import fcntl
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cdal.errors import InputError
from tune.lake.mirror import working_folder
from tune.lake.storage import REPEATED, Store
from tune.lake.tables import LakeWarning

_SIGN = "driver.json"  # in an object store: who is at work, written again and again
_SIGN_SECONDS = 10.0
_SILENCE_SECONDS = 30.0  # a driver that gave no sign for so long is dead


@contextmanager
def hold(place: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other drivers out of an experiment's folder.

    On file systems a lock does that, which ends with its holder. Object stores have none: the holder gives signs of life there, and
    where the last holder did not end in good order, the next one waits until the signs have failed to come.

    Args:
        place: the folder, a path or an address.
        say: tells the user why it takes a while.

    Raises:
        InputError: another driver is in it.
    """
    folder = working_folder(place)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "driver.lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(_taken(place)) from None
        if "://" not in place:
            yield
            return
        store = Store(place, patience=REPEATED)
        _wait_for_silence(store, place, say)
        if not store.create(_SIGN, _new_sign(0)):
            raise InputError(_taken(place))
        ended = threading.Event()
        signs = threading.Thread(target=_give_signs, args=(store, ended), name="signs-of-life", daemon=True)
        signs.start()
        try:
            yield
        finally:
            ended.set()
            signs.join()
            with suppress(OSError):
                store.delete([_SIGN])


def _wait_for_silence(store: Store, place: str, say: Callable[[str], None]) -> None:
    """Remove the sign of a dead driver."""
    sign = _sign(store)
    if sign is not None and sign.get("host") != socket.gethostname():  # on this machine, whose lock was free, it is dead
        say(f"the last search in {place} did not end in good order; waiting {_SILENCE_SECONDS:.0f} s to see whether it is at work")
        end = time.monotonic() + _SILENCE_SECONDS
        while time.monotonic() < end:
            time.sleep(1)
            now = _sign(store)
            if now is not None and now != sign:
                raise InputError(f"{_taken(place)} (it runs on {now.get('host')})")
    store.delete([_SIGN])


def _taken(place: str) -> str:
    return f"another search is running in {place.rpartition('/')[0]}; wait for it or stop it first"


def _sign(store: Store) -> dict[str, object] | None:
    try:
        found: dict[str, object] = json.loads(store.read(_SIGN).to_pybytes())
    except FileNotFoundError:
        return None
    return found


def _new_sign(count: int) -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "sign": count}).encode()


def _give_signs(store: Store, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(_SIGN_SECONDS):
        count += 1
        try:
            store.write(_SIGN, _new_sign(count))
        except OSError as error:
            warnings.warn(f"no sign of life could be given: {error}", LakeWarning, stacklevel=2)
