"""Telling people how a search ends: a webhook, a command of theirs, or both.

    with Notices(url, command, "first", say=print, go_on="python tune/search.py --resume first") as notices:
        ...                                              # an exception in here is told of as well
        notices.send(FINISHED, "8 trials, best Dice 0.8123")

It never hurts a search: `send` returns at once, threads do the work, and the end waits for at most ten seconds. What does not go
out is said once. Should the process die without a word, a small one that outlives it speaks (`posting.py`).
"""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from cdal.errors import InputError
from tune.command import Interrupted, Paused
from tune.steering import posting

FINISHED, BUDGET_USED, PAUSED, FAILED, INTERRUPTED = "finished", "budget", "paused", "failed", "interrupted"
"""What people are told of, and that a driver is gone (`posting.GONE`)."""

_PATIENCE = 10.0  # seconds that an end waits
_WORDS = {
    FINISHED: "finished",
    BUDGET_USED: "stopped by its budget",
    PAUSED: "paused",
    FAILED: "failed",
    INTERRUPTED: "interrupted",
}


def check_url(url: str) -> str:
    """The address of a webhook as it was given.

    Raises:
        InputError: it is none; the sentence does not show it, for it may hold a secret.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError("--notify is no address of a webhook; it looks like https://HOST/PATH")
    return url


def check_command(command: str) -> list[str]:
    """The words of a command.

    Raises:
        InputError: there is no such program, or a quotation mark is missing.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--notify-command cannot be read: {str(error).lower()}") from None
    if not words or shutil.which(words[0]) is None:
        raise InputError(f"--notify-command: there is no program {words[0] if words else ''!r}; name one that can be run")
    return words


def check(url: str | None, command: str | None) -> None:
    """Say early what `Notices` would. Raises InputError as `check_url` and `check_command` do."""
    if url:
        check_url(url)
    if command is not None:
        check_command(command)


class Notices:
    """Tells of one search's ends; see the module."""

    def __init__(
        self, url: str | None, command: str | None, experiment: str, *, say: Callable[[str], None], go_on: str = ""
    ) -> None:
        """Check what was given; nothing is sent yet.

        Args:
            url: of a webhook, http or https.
            command: as it is typed; no shell reads it.
            experiment: its name.
            say: tells who is at the console what did not go out.
            go_on: how the search goes on, where it can.

        Raises:
            InputError: the address or the command cannot be used.
        """
        self._url, self._command = url and check_url(url), check_command(command) if command is not None else []
        self._experiment, self._say, self._go_on = experiment, say, go_on
        self._channels: list[_Channel] = []
        self._watcher: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """From now on a death without a word is told of."""
        if (url := self._url) is not None:
            self._channels.append(_Channel(lambda event, text: posting.post(url, text), self._say))
        if command := self._command:
            self._channels.append(_Channel(lambda event, text: posting.call(command, event, self._experiment, text), self._say))
        if self._channels:
            self._watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tell of an exception, and wait a little for what is on its way."""
        if error is not None:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            event = {Paused: PAUSED, Interrupted: INTERRUPTED, KeyboardInterrupt: INTERRUPTED}.get(type(error), FAILED)
            told = "all results are saved" if event == INTERRUPTED else first
            self.send(event, f"{told}; go on with: {self._go_on}" if self._go_on else told)
        self.close()

    def send(self, event: str, text: str) -> None:
        """Tell of an event, in the background."""
        message = posting.shown(f"{self._experiment}: the search {_WORDS[event]}: {text}")
        for channel in self._channels:
            channel.send(event, message)

    def close(self, patience: float = _PATIENCE) -> None:
        """Wait for at most so many seconds until all is sent. Nothing is sent any more after this."""
        if self._watcher is not None and self._watcher.stdin is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._watcher.stdin.write("done\n")
                self._watcher.stdin.close()
                self._watcher.wait(1.0)
        end = time.monotonic() + patience
        for channel in self._channels:
            channel.close(max(0.0, end - time.monotonic()))
        self._channels, self._watcher = [], None

    def _watch(self) -> None:
        """Start the process that speaks where this one cannot. It hears the address by a pipe, which no list of processes shows."""
        nothing, quiet = subprocess.DEVNULL, [sys.executable, "-IS", posting.__file__]
        about = {"url": self._url, "command": self._command, "experiment": self._experiment}
        go_on = f"; go on with: {self._go_on}" if self._go_on else ""
        words = f"is gone: its process ended without a word, killed or for want of memory{go_on}"
        try:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, posting.TO_THE_DRIVER)  # until it can take them
            try:
                self._watcher = subprocess.Popen(
                    quiet, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, text=True, start_new_session=True, cwd="/"
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            assert self._watcher.stdin is not None
            self._watcher.stdin.write(json.dumps(about | {"text": words}) + "\n")
            self._watcher.stdin.flush()
        except OSError as error:
            self._say(f"note        nobody will tell if this process is killed: {error.strerror}")


class _Channel:
    """One way to people: messages go out in order, in a thread."""

    def __init__(self, deliver: Callable[[str, str], None], say: Callable[[str], None]) -> None:
        self._deliver, self._say, self._abandoned = deliver, say, False
        self._messages: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
        self._thread.start()

    def send(self, event: str, text: str) -> None:
        self._messages.put((event, text))

    def close(self, patience: float) -> None:
        self._messages.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._tell(" in time")
            self._abandoned = True

    def _work(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                self._deliver(*message)
            except posting.NotSentError as error:
                self._tell(f": {error}")
            except Exception as error:  # whatever happens, the search does not hear of it; nor does anybody of the address
                self._tell(f": {type(error).__name__}")

    def _tell(self, why: str) -> None:
        with suppress(Exception):  # of whoever listens
            if not self._abandoned:
                self._say(f"note        a notice was not sent{why}")
