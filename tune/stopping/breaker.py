"""When so much fails that going on helps nobody: a search pauses, and a person looks."""

from collections import Counter, deque

IN_A_ROW = 5
_WINDOW, _MOST = 20, 15  # of so many attempts that ended, so many failed


class Breaker:
    """Hears how attempts at trials end."""

    def __init__(self) -> None:
        self._row: list[str] = []
        self._recent: deque[str] = deque(maxlen=_WINDOW)  # empty for what went well
        self.tripped: str | None = None
        """Why the search shall pause, in a sentence."""

    def went_well(self, ended: bool) -> None:
        """A trial got on by an epoch, or ended as trials do."""
        self._row.clear()
        if ended:
            self._recent.append("")

    def failed(self, sentence: str) -> None:
        """An attempt failed, and the settings were not to blame."""
        self._row.append(sentence)
        self._recent.append(sentence)
        failures = [sentence for sentence in self._recent if sentence]
        if len(self._row) >= IN_A_ROW:
            self.tripped = f"the last {len(self._row)} attempts failed{_alike(self._row)}"
        elif len(failures) >= _MOST:
            self.tripped = f"{len(failures)} of the last {len(self._recent)} attempts failed{_alike(failures)}"


def _alike(sentences: list[str]) -> str:
    sentence, times = Counter(sentences).most_common(1)[0]
    return f" alike: {sentence}" if times == len(sentences) else f", {times} of them alike: {sentence}"
