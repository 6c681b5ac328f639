"""How one message goes out; and, run as a script, the small process that speaks where a driver died without a word.

It knows nothing of the rest of the project and imports next to nothing, for it waits as long as a search runs.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

SECONDS = 5.0  # for a webhook to answer; a command may take twice as long
GONE = "gone"
"""The event that this process tells of."""

TO_THE_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that do not mean this process, though a job manager sends them to all: the driver will say what it has to."""

_ATTEMPTS, _PAUSE_SECONDS = 6, 20.0  # of a process that has all the time in the world
_TEAMS = (".logic.azure.com", ".api.powerplatform.com", ".webhook.office.com")
_LONGEST = 2000  # letters of a message


class NotSentError(Exception):
    """A message did not go out; the sentence says why, and nothing of the address but its host."""


def shown(text: str) -> str:
    """A message as it is sent: bounded, on one line, and without what a chat takes for markup or for a call to everybody."""
    line = " ".join(text.split())[:_LONGEST].translate({ord("<"): "‹", ord(">"): "›"})
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def post(url: str, text: str) -> None:
    """Send a message to a webhook as JSON: Slack, Mattermost and others read `text`, Teams a card.

    ntfy takes any body for the message, so a template in the headers, which others ignore, has it show the text alone.

    Raises:
        NotSentError: it was not taken.
    """
    import base64
    import urllib.error
    import urllib.request
    from urllib.parse import unquote, urlsplit

    class Straight(urllib.request.HTTPRedirectHandler):
        """A message goes where it was sent to, or nowhere."""

        def redirect_request(self, *_: object) -> None:
            return None

    parts = urlsplit(url)
    host = parts.hostname or ""
    headers = {"Content-Type": "application/json", "User-Agent": "cdal-search"}
    headers |= {"X-Template": "yes", "X-Message": "{{.text}}", "X-Title": "cDAL Search"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    body: dict[str, object] = {"text": text}
    if f".{host}".endswith(_TEAMS):
        card = {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": text, "wrap": True}]}
        body = {"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}]}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        urllib.request.build_opener(Straight).open(request, timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        with error:
            moved = "; it names another address, which is not followed" if error.code in (301, 302, 303, 307, 308) else ""
            raise NotSentError(f"{host} answered with status {error.code}{moved}") from None
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise NotSentError(f"{host} cannot be reached: {getattr(reason, 'strerror', None) or reason}") from None
    except Exception as error:  # of http.client, whose words may hold the address
        raise NotSentError(f"{host} cannot be reached ({type(error).__name__})") from None


def call(command: Sequence[str], event: str, experiment: str, text: str) -> None:
    """Run a command with the message on its standard input and in its environment.

    Raises:
        NotSentError: it could not be run, ended badly, or took too long, upon which it is killed.
    """
    environment = os.environ | {"CDAL_EVENT": event, "CDAL_EXPERIMENT": experiment, "CDAL_MESSAGE": text}
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, env=environment, start_new_session=True
        )
    except OSError as error:
        raise NotSentError(f"the command {command[0]} cannot be run: {error.strerror}") from None
    try:
        process.communicate(f"{text}\n".encode(), timeout=2 * SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NotSentError(f"the command {command[0]} took longer than {2 * SECONDS:.0f} s and was killed") from None
    if process.returncode:
        raise NotSentError(f"the command {command[0]} ended with status {process.returncode}")


def main() -> None:
    """Read what to say and to whom; say it where standard input ends before it says that nothing need be said."""
    for number in TO_THE_DRIVER:
        signal.signal(number, lambda *_: None)  # unlike what is ignored, this is not passed on to a command
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_THE_DRIVER)
    about = json.loads(sys.stdin.readline())
    if sys.stdin.readline():
        return
    text = shown(f"{about['experiment']}: the search on {socket.gethostname()} {about['text']}")
    waiting: list[Callable[[], None]] = []
    if about["url"]:
        waiting.append(lambda: post(about["url"], text))
    if about["command"]:
        waiting.append(lambda: call(about["command"], GONE, about["experiment"], text))
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_SECONDS if attempt else 0)
        for send in list(waiting):
            with suppress(NotSentError):
                send()
                waiting.remove(send)
        if not waiting:
            return


if __name__ == "__main__":
    main()
