"""One driver per experiment, on whatever machine it runs: a lease, kept in the experiment's own folder.

    with hold("results/first/tune", print) as lease:
        lease.check()                    # raises LostError once another driver has taken over

    tune/driver/000007.json              the lease of the seventh driver: who it is, and its last sign of life

Whoever creates the file of the next number is the driver; of many that try, one succeeds. A driver rewrites its own file as a sign
of life, and nobody else's. Where there is a file with a higher number the lease is lost, which a driver that stood still finds out
before it writes anything (`lease_of`).
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cdal.errors import InputError
from tune.lake.storage import REPEATED, Store
from tune.lake.tables import LakeWarning

_SIGN_SECONDS = 10.0
_SILENCE_SECONDS = 30.0
"""A driver that gave no sign for so long is dead, unless it is known to live."""
_DYING_SECONDS = 1.0  # for the threads of a driver that was just killed
_SETTLE_SECONDS = 4.0
"""Where a store does not refuse to create what is there: the last one to write has won after so long."""
_LEASES = "driver"
_OLD_SIGN = "driver.json"
"""What earlier releases gave signs of life by."""

_held: dict[str, "Lease"] = {}


class TakenError(InputError):
    """Another driver is at work."""


class LostError(InputError):
    """Another driver has taken over; nothing more is written."""


class Lease:
    """The right to write into an experiment, until another driver takes over."""

    def __init__(self, store: Store, place: str, number: int, sign: Mapping[str, Any], *, exclusive: bool) -> None:
        """Describe a lease that was got.

        Args:
            store: at the place.
            place: the folder, as the user knows it.
            number: of the lease, one more than that of the driver before.
            sign: what its file says.
            exclusive: whether the store lets only one driver create the file.
        """
        self._store, self._place, self._number, self._sign, self._exclusive = store, place, number, dict(sign), exclusive
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, name="signs-of-life", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another driver is known to have taken over; nobody is asked."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise LostError where the lease is known to be lost; nobody is asked."""
        if self.lost:
            by = "this one gave no sign of life for too long, and another one has taken over"
            raise LostError(f"only one search at a time may run in {_experiment(self._place)}: {by}; this one ends")

    def confirm(self) -> None:
        """Ask whether the lease still holds; what writes does so first.

        Raises:
            LostError: it does not.
            OSError: the store does not say.
        """
        if not self.lost and self._is_taken():
            self._lost.set()
        self.check()

    def end(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError, LostError):
            self.confirm()
            self._write(ended=True)

    def _is_taken(self) -> bool:
        _look_anew(self._store)
        if self._store.exists(_file(self._number + 1)):
            return True
        return not self._exclusive and _read(self._store, _file(self._number)).get("id") != self._sign["id"]

    def _write(self, **news: Any) -> None:
        self._sign |= news
        self._store.write(_file(self._number), json.dumps(self._sign).encode())

    def _give_signs(self) -> None:
        told, count = False, 0
        while not self._ended.wait(_SIGN_SECONDS):
            count += 1
            try:
                self.confirm()
                self._write(sign=count)
                told = False
            except LostError as error:
                warnings.warn(str(error), LakeWarning, stacklevel=2)
                return
            except OSError as error:
                if not told:
                    warnings.warn(f"no sign of life could be given, trying again: {error}", LakeWarning, stacklevel=2)
                told = True


@contextmanager
def hold(place: str, say: Callable[[str], None]) -> Iterator[Lease]:
    """Keep other drivers out of an experiment's folder.

    Where the last driver did not end in good order and is not known to be dead, the next one waits until signs of life have failed
    to come. On file systems that have locks, a lock refuses a second driver at once.

    Args:
        place: the folder, a path or an address.
        say: tells the user why it takes a while.

    Raises:
        TakenError: another driver is in it, or came at the same moment.
        LostError: in the end, where another one has taken over meanwhile.
    """
    with _locked(place):
        lease = _acquire(place, say)
        _held[_key(place)] = lease
        try:
            yield lease
        finally:
            del _held[_key(place)]
            lease.end()
    lease.check()


def lease_of(place: str) -> Lease | None:
    """The lease by which this process holds a folder, or one above it; None where it holds none."""
    key = _key(place)
    return next((lease for held, lease in list(_held.items()) if key == held or key.startswith(f"{held}/")), None)


def identity() -> dict[str, Any]:
    """What `is_dead` knows this process by: the machine, since its last start, and when the process began."""
    pid = os.getpid()
    found = {"host": socket.gethostname(), "pid": pid, "began": _began(pid)}
    with suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["processes"] = os.readlink("/proc/self/ns/pid")
    return found


def is_dead(process: Mapping[str, Any]) -> bool | None:
    """Whether a process has ended, by what `identity` said of it; None where that cannot be known here.

    Machines and containers may share a name. Only one that sees the same processes can say for certain.
    """
    here, pid = identity(), process.get("pid")
    if not isinstance(pid, int) or not all(here.get(name) and here[name] == process.get(name) for name in ("boot", "processes")):
        return None
    began = _began(pid)
    if began is not None:
        return bool(began != process.get("began"))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, of which the system tells no more
        return None
    return True  # it has ended, and nobody has asked for its status yet


def _began(pid: int) -> int | None:
    """When a living process began, in ticks since the start of the machine."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] not in "ZX" else None


@contextmanager
def _locked(place: str) -> Iterator[None]:
    """Hold a lock that ends with its holder, on file systems that have such; the lease is what counts."""
    if "://" in place:
        yield
        return
    Path(place).mkdir(parents=True, exist_ok=True)
    with open(Path(place) / "driver.lock", "a") as file:
        end = time.monotonic() + _DYING_SECONDS
        while not _lock(file):
            if time.monotonic() > end:
                raise TakenError(_taken(place))
            time.sleep(0.1)
        yield


def _lock(file: IO[str]) -> bool:
    """Whether nobody else holds the lock; so it seems on Lustre and some NFS, which have none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _acquire(place: str, say: Callable[[str], None]) -> Lease:
    store = Store(place, patience=REPEATED)
    number = _wait_for_silence(store, place, say) + 1
    sign = identity() | {"id": uuid.uuid4().hex, "number": number, "sign": 0, "ended": False}
    content, began = json.dumps(sign).encode(), time.monotonic()
    if not store.create(_file(number), content):
        raise TakenError(_taken(place))
    exclusive = store.refuses(_file(number), content)
    if not exclusive:
        if time.monotonic() - began > _SETTLE_SECONDS / 2:  # another one may not have waited for so long
            raise InputError(f"{place} answers too slowly to tell whether another search is running there; try again")
        time.sleep(_SETTLE_SECONDS)
        if _read(store, _file(number)).get("id") != sign["id"] or store.exists(_file(number + 1)):
            raise TakenError(_taken(place))
    return Lease(store, place, number, sign, exclusive=exclusive)


def _wait_for_silence(store: Store, place: str, say: Callable[[str], None]) -> int:
    """See that no driver is at work; returns the number of the last one. Raises InputError where one is."""
    number, before = _at_work(store, place)
    if not before:
        return number
    say(f"the last search in {place} did not end in good order; waiting {_SILENCE_SECONDS:.0f} s to see whether it is at work")
    end = time.monotonic() + _SILENCE_SECONDS
    while time.monotonic() < end:
        time.sleep(1)
        number, now = _at_work(store, place)
        if not now:  # it has just ended
            return number
        if now != before:
            raise TakenError(f"{_taken(place)} (it runs on {list(now.values())[-1].get('host')})")
    store.delete([_OLD_SIGN])
    return number


def _at_work(store: Store, place: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The number of the last driver, and the signs of those that may be at work, by file. Raises InputError where one surely is."""
    _look_anew(store)
    numbers = [int(name) for path in store.files(_LEASES, ".json") if (name := Path(path).stem).isdecimal()]
    number = max(numbers, default=0)
    signs = {path: _read(store, path) for path in (_file(number), _OLD_SIGN) if store.exists(path)}
    open_ones = {path: sign for path, sign in signs.items() if not sign.get("ended")}
    dead = {path: is_dead(sign) for path, sign in open_ones.items()}
    for path, known in dead.items():
        if known is False:
            raise TakenError(f"{_taken(place)} (it is process {open_ones[path]['pid']} of this machine)")
    return number, {path: sign for path, sign in open_ones.items() if dead[path] is None}


def _look_anew(store: Store) -> None:
    """A network file system keeps what it knows of a folder for a minute, unless the folder is changed."""
    folder = store.local_path(_LEASES)
    if folder is not None:
        with suppress(OSError):
            os.utime(folder)


def _read(store: Store, path: str) -> dict[str, Any]:
    try:
        found = json.loads(store.read(path).to_pybytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(number: int) -> str:
    return f"{_LEASES}/{number:06d}.json"


def _key(place: str) -> str:
    return place.rstrip("/") if "://" in place else os.path.abspath(os.path.expanduser(place))


def _taken(place: str) -> str:
    return f"another search is running in {_experiment(place)}; wait for it or stop it first"


def _experiment(place: str) -> str:
    return place.rpartition("/")[0]
