"""What the product does on one GPU, in a few minutes: numbers, speed, memory, trainings at once. Writes JSON, prints tables.

    python benchmarks/gpu.py --out gpu.json                       # six minutes on a GPU, an H100 or H200
    python benchmarks/gpu.py --quick                              # less of everything in a minute and a half
    python benchmarks/gpu.py --part parity --parity FOLDER        # one part; with vectors made by running the release
    python benchmarks/gpu.py --device cpu --quick                 # tries the script itself, on shrunken networks

It needs PyTorch with Triton and, of the project's dependencies, NumPy, safetensors, rich and those in pure Python. Every part is a
process of its own with an end to its time, so that an error, a crash or a hang costs a row or a part, not the rest. The file is
written again every few seconds. The exit status is 0, or 1 where a row failed or a number differs, or 2 without a GPU.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
NO_GPU = 2  # exit status
ENDS = {"device": 0.12, "parity": 0.36, "step": 0.70, "sampling": 0.80, "packing": 0.91, "training": 0.96, "compile": 1.0}
"""When each part has to be done at the latest, as a share of the whole time; what one leaves over, the next ones have."""
TITLES = {
    "device": "peaks: TB/s of a copy, read and written; TFLOP/s",
    "parity": "numbers: the worst difference of each check",
    "step": "a training step, weighted over the kinds of steps",
    "sampling": "masks of a batch",
    "packing": "several trainings of hippocampus_fast at once",
    "training": "a training of hippocampus_fast",
    "compile": "the generator there and back, bf16",
}


def main() -> int:
    """Run all parts or some, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, help="for all of it (default: 6; on a GPU with --quick 1.5)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and repetitions")
    parser.add_argument("--part", choices=list(ENDS), action="append", help="default: all")
    parser.add_argument("--parity", type=Path, help="folder of the vectors made by running the release")
    parser.add_argument(
        "--mps", action="store_true", help="several trainings through NVIDIA's MPS, too, which is started and ended"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--work", choices=list(ENDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options)
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes is {options.minutes:g}; it must be above 0")
    if options.parity and not options.parity.is_dir():
        parser.error(f"--parity is {options.parity}, which is no folder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that parts are ended
    minutes = options.minutes or (1.5 if options.quick and options.device == "cuda" else 6.0)
    return Session(options, 60 * minutes).run()


def work(options: argparse.Namespace) -> int:
    """One part, in a process of its own: gets ready, and begins as soon as it is told when to end."""
    import torch
    from on_gpu import parity, speed, work
    from on_gpu.run import Run

    parts = {"device": speed.device, "parity": parity.parity, "step": speed.step, "sampling": speed.sampling}
    parts |= {"packing": work.packing_together, "training": work.training, "compile": work.compiled}
    told = sys.stdin.readline().split(maxsplit=1) if not sys.stdin.closed else []
    if not told:
        return 1
    if options.device == "cuda" and not torch.cuda.is_available():
        return NO_GPU
    run = Run(options, float(told[0]), json.loads(told[1]))
    warnings.showwarning = lambda message, *_, **__: run.note(f"warning: {str(message).splitlines()[0][:200]}")  # type: ignore
    parts[options.work](run)
    run.save()
    return 0


class Session:
    """All parts in turn. The next one gets ready while one runs, which takes some seconds."""

    def __init__(self, options: argparse.Namespace, seconds: float) -> None:
        self.options, self.start, self.seconds = options, time.monotonic(), seconds
        self.names = [name for name in ENDS if name in (options.part or ENDS)]
        self.folder = Path(tempfile.mkdtemp())
        self.console = Console(width=180, highlight=False)
        self.found: dict[str, Any] = {"device": options.device, "quick": options.quick, "seconds": seconds, "parts": {}}
        self.started: list[subprocess.Popen[str]] = []
        self.ready: dict[str, subprocess.Popen[str]] = {}

    def run(self) -> int:
        """Returns the exit status."""
        try:
            for number, name in enumerate(self.names):
                status = self._part(name, self.names[number + 1] if number + 1 < len(self.names) else None)
                if status == NO_GPU:
                    print("there is no GPU that PyTorch can use here; --device cpu tries this script on shrunken networks")
                    return NO_GPU
                self._print(name)
        finally:
            for process in self.started:
                if process.poll() is None:
                    end(process)
            shutil.rmtree(self.folder, ignore_errors=True)
        self.found["seconds taken"] = time.monotonic() - self.start
        self.found["bars"] = bars(self.found)
        self._save()
        title = "bars" if self.options.device == "cuda" else "bars (shrunken networks on a CPU: speeds say nothing)"
        self.console.print(table(title, self.found["bars"]))
        rows = [row for part in self.found["parts"].values() for row in part["rows"]]
        failed = [part for part in self.found["parts"].values() if part["ended"].startswith("with")]
        return int(bool(failed) or any("failed" in row or row.get("within") is False for row in rows))

    def _part(self, name: str, following: str | None) -> int:
        """Run a part, again where the GPU no longer answered it, while its time lasts; returns the last exit status."""
        began, ends = time.monotonic(), self.start + self.seconds * self._end_of(name)
        part = self.found["parts"][name] = {"ended": "no time was left", "rows": [], "notes": []}
        status, tries = 0, 0
        while tries < 3 and ends - time.monotonic() > 5:
            process = self.ready.pop(name, None) or self._get_ready(name)
            if following and following not in self.ready:
                self.ready[following] = self._get_ready(following)
            earlier = {other: {"rows": found["rows"]} for other, found in self.found["parts"].items() if other == "device"}
            with suppress(OSError):  # it has ended already
                assert process.stdin is not None
                process.stdin.write(f"{ends - 2} {json.dumps(earlier)}\n")
                process.stdin.flush()
            status, tries = self._watch(process, name, ends), tries + 1
            if status == 0 or status == NO_GPU or time.monotonic() >= ends:
                break
        part["seconds"] = time.monotonic() - began
        if status != NO_GPU:
            self._save()
        return status

    def _end_of(self, name: str) -> float:
        """As a share of the whole time."""
        shares = [ENDS[other] - before for other, before in zip(ENDS, (0.0, *ENDS.values()), strict=False) if other in self.names]
        chosen = [other for other in ENDS if other in self.names]
        return sum(shares[: chosen.index(name) + 1]) / sum(shares)

    def _get_ready(self, name: str) -> subprocess.Popen[str]:
        options = self.options
        command = [sys.executable, __file__, "--work", name, "--device", options.device, "--out", str(self.folder / f"{name}.json")]
        command += ["--quick"] * options.quick + ["--mps"] * options.mps
        command += ["--parity", str(options.parity.resolve())] if options.parity else []
        places = [HERE.parent, HERE, HERE.parent / "tests" / "support", *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
        if options.device == "cpu":
            environment.setdefault("OMP_NUM_THREADS", "1")  # which other programs on the machine disturb least
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment, start_new_session=True
            )
        self.started.append(process)
        return process

    def _watch(self, process: subprocess.Popen[str], name: str, ends: float) -> int:
        """Wait for a part, with what it has found so far in the file; returns its exit status."""
        ended = "in time"
        while True:
            left = ends - time.monotonic()
            try:
                status = process.wait(max(0.1, min(2, left)))
                break
            except subprocess.TimeoutExpired:
                self._collect(name)
                if left <= 0:
                    ended = "stopped at the end of its time"
                    status = end(process)
                    break
        end(process)  # whatever it has started
        part = self.found["parts"][name]
        part["ended"] = ended if status == 0 or ended != "in time" else f"with status {status}"
        self._collect(name, lost=part["ended"])
        if part["ended"] != "in time":
            part["log"] = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
        return status

    def _collect(self, name: str, lost: str | None = None) -> None:
        """Take over what a part has found; `lost`: what became of the row that it had begun."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return
        found = json.loads(path.read_text())
        if lost:
            for about in found["begun"]:
                if not any(matches(row, about) for row in found["rows"]):
                    found["rows"].append(about | {"failed" if lost.startswith("with") else "skipped": f"its process ended {lost}"})
            path.write_text(json.dumps(found))
        self.found["parts"][name] |= found
        self._save()

    def _save(self) -> None:
        """Write all that is known, or nothing."""
        temporary = self.options.out.with_name(self.options.out.name + ".new")
        temporary.write_text(json.dumps(self.found, indent=1))
        temporary.replace(self.options.out)

    def _print(self, name: str) -> None:
        part = self.found["parts"][name]
        tables: dict[str, list[dict[str, Any]]] = {}
        for row in part["rows"]:
            if "skipped" in row:
                continue
            tables.setdefault(row.get("table", TITLES[name]), []).append(row)
        for title, rows in tables.items():
            self.console.print(table(title, rows))
        skipped = Counter(row["skipped"] for row in part["rows"] if "skipped" in row)
        for note in (*part["notes"], *(f"{count} rows were skipped: {why}" for why, count in skipped.items())):
            self.console.print(f"  {note}", markup=False)
        self.console.print(f"  {name}: {part['seconds']:.0f} s, ended {part['ended']}\n{part.get('log', '')}", markup=False)


def end(process: subprocess.Popen[str]) -> int:
    """End a part and all that it has started, which are one session of processes; returns its exit status."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def matches(row: dict[str, Any], about: dict[str, Any]) -> bool:
    """Whether a row is about something."""
    return all(row.get(key) == value for key, value in about.items())


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """What fits a table."""
    return {key: value for key, value in row.items() if key not in ("table", "row took") and not isinstance(value, (list, dict))}


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows of any keys, each of which is a column."""
    drawn = Table(title=title)
    headings = list(dict.fromkeys(key for row in rows for key in plain(row)))
    for heading in headings:
        drawn.add_column(heading, overflow="fold", justify="left" if heading in ("failed", "check", "worst") else "right")
    for row in rows:
        drawn.add_row(*(shown(row.get(heading)) for heading in headings))
    return drawn


def shown(value: Any) -> str:
    """A value of a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def bars(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised, and what was found."""

    def rows(part: str, **about: Any) -> list[dict[str, Any]]:
        return [row for row in found["parts"].get(part, {}).get("rows", []) if matches(row, about)]

    def number(key: str, part: str, **about: Any) -> float | None:
        return min((row[key] for row in rows(part, **about) if key in row), default=None)

    def against(title: str, value: float | None, wanted: float) -> dict[str, Any]:
        return {"bar": title, "found": value, "wanted": wanted, "met": None if value is None else value >= wanted}

    judged = []
    for part, wanted in (("step", 4.0), ("sampling", 6.0)):
        for preset in ("monuseg", "chest_xray", "hippocampus"):
            plain_ms = number("ms", part, preset=preset, side="plain", precision="fp32")
            ours_ms = number("ms", part, preset=preset, side="ours", precision="bf16")
            ratio = plain_ms / ours_ms if plain_ms and ours_ms else None
            judged.append(against(f"{part} of {preset}: plain float32 / ours bf16", ratio, wanted))
    steps = rows("step", preset="monuseg", side="ours", precision="bf16")
    shares = [row[key] for row in steps for key in ("FLOP share", "byte share") if key in row]
    judged.append(against("step of monuseg in bf16: share of the larger floor", max(shares, default=None), 0.35))
    together = [row["of one alone"] for row in rows("packing", trainings=4) if "of one alone" in row]
    judged.append(against("four trainings at once: images of one alone", max(together, default=None), 2.5))
    checks = [row.get("within", False) for row in rows("parity") if "skipped" not in row]
    judged.append(
        against("numbers: checks within their tolerance, of those made", float(sum(checks)) if checks else None, float(len(checks)))
    )
    return judged


if __name__ == "__main__":
    sys.exit(main())
