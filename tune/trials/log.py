"""A trial's own log: what its process prints and warns of, and where it stood when it hung. It lies beside the checkpoints.

log = TrialLog("results/first/tune/00003", whole_process=True)     # from here on, what is printed goes there
log.keep()                                                         # send it, where the lake is elsewhere
log.close()
"""

import faulthandler
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import IO

from tune.lake import Mirror

LOG = "log.txt"
_MOST, _HEAD, _TAIL = 2**20, 2**18, 2**19
"""Bytes: beyond the first, so many of its beginning and so many of its end are kept."""
_CLOSE_SECONDS = 20.0  # a log is not worth more


class TrialLog:
    """Takes what this process writes to its output and its errors, until it is closed."""

    def __init__(self, folder: str, *, whole_process: bool) -> None:
        """Open the log, which may have been begun by an earlier process.

        Args:
            folder: the trial's, in the lake.
            whole_process: whether all that this process prints is the trial's; False where others print there too.
        """
        self._mirror = Mirror(folder, (LOG,))
        with suppress(OSError):  # of a store that is away the training will tell
            self._mirror.fetch()
        self._mirror.path.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = (self._mirror.path / LOG).open("ab+", buffering=0)
        self._outputs: list[tuple[int, int]] = []
        self._shorten()
        self.say(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, process {os.getpid()}")
        if whole_process:
            self._take_outputs()

    def say(self, text: str) -> None:
        """Write some lines."""
        with suppress(OSError):  # on a full disk
            self._file.write(f"{text.rstrip()}\n".encode("utf-8", "replace"))

    def say_stacks(self) -> None:
        """Write where every thread of this process stands."""
        faulthandler.dump_traceback(self._file, all_threads=True)

    @contextmanager
    def stacks_after(self, seconds: float) -> Iterator[None]:
        """Inside, the same is written if it takes longer than that, even where Python itself stands still."""
        faulthandler.dump_traceback_later(seconds, file=self._file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def keep(self) -> None:
        """It has grown: send it soon."""
        self._shorten()
        self._mirror.keep()

    def close(self) -> None:
        """Give the outputs back, and send what is left."""
        if self._file.closed:
            return
        _flush()
        for output, before in self._outputs:
            os.dup2(before, output)
            os.close(before)
        self.keep()
        self._file.close()
        self._mirror.close(_CLOSE_SECONDS)

    def _take_outputs(self) -> None:
        _flush()
        for output in (1, 2):
            self._outputs.append((output, os.dup(output)))
            os.dup2(self._file.fileno(), output)
        warnings.simplefilter("default")  # they would hide the driver's own words on a terminal, but not here
        warnings.filterwarnings("ignore", module=r"ray\.")

    def _shorten(self) -> None:
        with suppress(OSError):
            size = os.fstat(self._file.fileno()).st_size
            if size <= _MOST:
                return
            self._file.seek(0)
            content = self._file.read()
            os.ftruncate(self._file.fileno(), 0)
            self._file.write(content[:_HEAD] + f"\n... {size - _HEAD - _TAIL} bytes left out ...\n".encode() + content[-_TAIL:])


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
