"""Small files and a reader that logs what it decodes; as a script, a process that opens them and may meet with accidents.

python decoding.py FOLDER [decoding | writing | full]      # starts when it reads a line
"""

import hashlib
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cdal.data import Case, Source
from cdal.data.cache import load_cases
from cdal.errors import InputError


def make_sources(folder: Path, count: int, first: int = 0) -> list[Source]:
    """Cases of one image and one label file, an hour old."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for number in range(first, first + count):
        image, label = folder / f"image_{number}.bin", folder / f"label_{number}.bin"
        for path in (image, label):
            if not path.exists():
                path.write_text(path.name)
                os.utime(path, (time.time() - 3600,) * 2)
        sources.append(Source(id=f"case_{number}", images=(image,), labels=(label,)))
    return sources


@dataclass
class Decoder:
    """Makes noise that depends on the bytes of all files: coloured with instances for some, grey and strided for others."""

    log_file: Path | None = None
    accident: str = ""

    def __call__(self, source: Source) -> Case:
        case = self.decode(source)
        if self.log_file:
            with self.log_file.open("a") as file:  # one short line is written at once, also by several processes
                file.write(f"{source.id}\n")
        if self.accident == "decoding" and source.id == "case_3":
            os.kill(os.getpid(), signal.SIGKILL)
        return case

    @property
    def log(self) -> list[str]:
        """Ids of the cases decoded so far, by any process."""
        assert self.log_file
        return self.log_file.read_text().split() if self.log_file.exists() else []

    @staticmethod
    def decode(source: Source) -> Case:
        if not all(path.is_file() for path in source.images + source.labels):
            raise InputError(f"{source.images[0]} is missing")
        content = b"".join(path.read_bytes() for path in source.images + source.labels)
        if content.startswith(b"bad"):
            raise InputError(f"{source.images[0]} is bad")
        time.sleep(0.02)
        number = int.from_bytes(hashlib.blake2b(content, digest_size=4).digest())
        rng = torch.Generator().manual_seed(number)
        noise = torch.randint(256, (3, 2, 40, 40), generator=rng)
        coloured = number % 2 == 0
        return Case(
            id=source.id,
            image=noise.byte() if coloured else noise.float().transpose(2, 3),
            label=torch.randint(3, (2, 40, 40), generator=rng).byte(),
            spacing=(0.1 + 0.2, 1.0, number / 3),
            instances=torch.randint(9, (2, 40, 40), generator=rng).int() if coloured else None,
        )


def main(folder: str, accident: str = "") -> None:
    if accident == "writing":
        _die_before_the_third_rename()
    if accident == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    decoder = Decoder(None if accident == "full" else Path(folder) / "decoded.log", accident)
    cases = load_cases(make_sources(Path(folder) / "data", 6), decoder, {"reader": "noise", "version": 1})
    sys.stdout.write(f"{len(cases)} cases\n")


def _die_before_the_third_rename() -> None:
    replace, renamed = Path.replace, []

    def dying(self: Path, target: Path) -> None:
        renamed.append(target)
        if sum(path.suffix == ".safetensors" for path in renamed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(self, target)

    Path.replace = dying  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
