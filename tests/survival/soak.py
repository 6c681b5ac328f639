"""A long search under fire: every few seconds an accident of a random kind, then a look into the books.

    python tests/survival/soak.py --trials 200 --minutes 20 --seed 0

The lake is on an object store of this machine, which is away at times. Nothing is written but to a temporary folder. The status
is 0 where the books balance, and 1 where not.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

import lean  # noqa: E402
from accidents import Accidents, at  # noqa: E402
from books import faults_in  # noqa: E402
from patience import end  # noqa: E402
from s3 import Bucket, S3Service  # noqa: E402
from searches import rows_of, tiny, trials, worker_processes  # noqa: E402

from cdal.training import LAST  # noqa: E402
from tune.lake.status import INTERRUPTED  # noqa: E402
from tune.results import load  # noqa: E402

NAME = "soak"
EPOCHS = 3
INSIDE = {  # accidents that wait inside of the processes of trials, for one that comes along
    "hang": [at("step", "hang", times=0), at("validation", "stop", times=0), at("scoring", "lock", times=0)],
    "poison": [at("step", "poison", times=0)],
    "out of memory": [at("validation", "oom", times=0), at("step", "memory", times=0)],
    "torn checkpoint": [at("save", "torn", file=LAST, times=0), at("save", "torn", file=LAST, files=2, times=0)],
    "full disk": [at("save", "full", times=0), at("lake", "full", trials=[], times=0)],
}
KINDS = [(kind, accident) for kind, accidents in INSIDE.items() for accident in accidents]
OUTSIDE = ("worker killed", "driver killed", "store away", "two drivers")
PAUSE = (3.0, 9.0)  # seconds between two accidents
AWAY = (2.0, 12.0)  # seconds of a store that is away
HANG_SECONDS = 8
LATEST = 180.0  # seconds from the end of the budget to the end of the driver


class Soak:
    """One search, and who disturbs it."""

    def __init__(self, folder: Path, bucket: Bucket, given: argparse.Namespace) -> None:
        self._folder, self._bucket, self._random = folder, bucket, random.Random(given.seed)
        self.lake, self._seconds = f"{bucket.address}/lake", given.minutes * 60
        self._accidents = Accidents(folder / "accidents", [accident for _, accident in KINDS])
        os.environ |= self._accidents.environment | bucket.service.environment | lean.ENVIRONMENT
        os.environ |= {"CDAL_CACHE": str(folder / "cache"), "CDAL_HANG_SECONDS": str(HANG_SECONDS)}
        space = tiny(folder, epochs=EPOCHS, steps=2)
        self._begin = ["--space", str(space), "--name", NAME, "--trials", str(given.trials), "--sampler", "quasirandom"]
        self._begin += ["--scheduler", "none", "--min-improvement", "0", "--time-budget", f"{given.minutes * 60:.0f}s"]
        self._log: IO[str] = (folder / "output.txt").open("w")
        self._caused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.pauses, self.full, self.worked = 0, 0, 0.0
        self._seen: set[tuple[str, int]] = set()

    @property
    def happened(self) -> dict[str, int]:
        """How often an accident of each kind befell the search."""
        inside = Counter(KINDS[one.number][0] for one in self._accidents.happened)
        return {kind: inside[kind] for kind in INSIDE} | {kind: self._caused[kind] for kind in OUTSIDE}

    @property
    def output(self) -> str:
        """All that the drivers said."""
        return (self._folder / "output.txt").read_text()

    def run(self) -> None:
        """Until the search ends by itself."""
        driver, began, resumed = self._start(*self._begin), time.monotonic(), 0
        try:
            while resumed < 1000:
                pause = time.monotonic() + self._random.uniform(*PAUSE)
                while time.monotonic() < pause and driver.poll() is None:
                    time.sleep(0.2)
                if driver.poll() == 0:
                    break
                if driver.poll() is not None:
                    self._explain(int(driver.returncode))
                elif time.monotonic() - began > self._seconds + LATEST:
                    self.wrong.append(f"the driver still works {LATEST:.0f} s after its budget")
                    break
                else:
                    driver = self._disturb(driver)
                if driver.poll() is not None:
                    self.worked += time.monotonic() - began
                    driver, began, resumed = self._start("--resume", NAME), time.monotonic(), resumed + 1
        finally:
            self.worked += time.monotonic() - began
            end(driver)
            self._log.close()

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "tune/search.py", *arguments, "--storage", self.lake]
        return subprocess.Popen(command, cwd=HERE.parents[1], stdout=self._log, stderr=subprocess.STDOUT, text=True)

    def _explain(self, status: int) -> None:
        """The driver ended by itself, before all was done."""
        last = [line for line in self.output.splitlines() if line][-3:]
        if any(line.startswith("paused: ") for line in last):
            self.pauses += 1
        elif any(line.startswith("the search failed: a disk of this machine is full") for line in last):
            self.full += 1
        else:
            self.wrong.append(f"the driver ended with status {status}: {' / '.join(last)[:500]}")

    def _disturb(self, driver: subprocess.Popen[str]) -> subprocess.Popen[str]:
        kind = self._random.choice([*INSIDE, *OUTSIDE])
        self._caused[kind] += 1
        if kind in INSIDE:
            self._accidents.again(self._random.choice([number for number, (other, _) in enumerate(KINDS) if other == kind]))
        elif kind == "worker killed":
            for process in worker_processes(driver.pid)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        elif kind == "driver killed":
            self.look()
            driver.kill()
            driver.wait()
        elif kind == "store away":
            with self._bucket.service.away():
                time.sleep(self._random.uniform(*AWAY))
        else:
            self._second_driver(driver)
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {kind}\n")
        sys.stdout.flush()
        return driver

    def _second_driver(self, driver: subprocess.Popen[str]) -> None:
        os.environ["CDAL_CACHE"] = str(self._folder / "cache of another machine")
        second = self._start("--resume", NAME)
        os.environ["CDAL_CACHE"] = str(self._folder / "cache")
        while second.poll() is None and driver.poll() is None:
            time.sleep(0.2)
        if driver.poll() is None and second.returncode != 2:
            self.wrong.append(f"a second driver was let in: it ended with status {second.returncode}")
        end(second)

    def look(self) -> None:
        """Remember what the lake has now."""
        if rows_of(self.lake, "metrics"):
            table = load(self.lake).metrics(["dice"]).to_pandas()
            now = set(zip(table["trial_id"], table["epoch"], strict=True))
            self.wrong += [f"a row that was there is gone: {lost}" for lost in sorted(self._seen - now)]
            self._seen |= now


def judge(soak: Soak, given: argparse.Namespace) -> Iterator[tuple[str, str, bool]]:
    """What was promised, what was found, and whether that is the same."""
    soak.look()
    table = trials(soak.lake, NAME)
    wrong = faults_in(soak.lake, NAME, len(table))
    waiting = int((table["status"] == INTERRUPTED).sum())
    if len(table) < given.trials:  # the budget was used up before: what had no turn waits for more
        wrong = [sentence for sentence in wrong if f"({INTERRUPTED}: " not in sentence]
    wrong += soak.wrong
    yield "no row lost, no trial without an end and a cause", "; ".join(wrong) or f"{len(table)} trials, sound", not wrong
    settings = table[table["kind"] == "searched"].filter(like="config.").astype(str)
    doubled = int(settings.duplicated().sum())
    yield "nothing doubled", f"{doubled} settings twice", doubled == 0
    places = len(os.sched_getaffinity(0))
    yield "every trial ended, or had no turn", f"{waiting} wait", waiting <= 2 * places
    booked, worked = float(table["seconds"].sum()), soak.worked * places
    yield "no more hours are booked than there were", f"{booked:.0f} s of {worked:.0f} s", booked <= worked
    over = booked / places - given.minutes * 60
    yield "the budget holds", f"{booked / places:.0f} s a place of {given.minutes * 60:.0f} s", over <= HANG_SECONDS + 5


def main() -> int:
    """Run it and print what befell the search, and what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=20, help="the search's time budget")
    parser.add_argument("--seed", type=int, default=0, help="of the accidents")
    given = parser.parse_args()
    service = S3Service()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(Path(folder), service.new_bucket(), given)
        soak.run()
        rows, happened = list(judge(soak, given)), soak.happened
        statuses = trials(soak.lake, NAME).groupby(["status", "cause"], dropna=False).size()
        if not all(good for *_, good in rows):
            sys.stdout.write(soak.output[-20000:])
    service.stop()
    print_table(("accident", "times"), [(kind, str(times)) for kind, times in happened.items()])
    ends = [(" ".join(part for part in key if isinstance(part, str)), str(count)) for key, count in statuses.items()]
    ends += [("pauses of the search", str(soak.pauses)), ("ends for a full disk", str(soak.full))]
    print_table(("trials ended", "how many"), ends)
    print_table(("promise", "measured", ""), [(promise, found, "held" if good else "BROKEN") for promise, found, good in rows])
    return 0 if all(good for *_, good in rows) else 1


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown."""
    for cells in (head, ["---"] * len(head), *rows):
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
