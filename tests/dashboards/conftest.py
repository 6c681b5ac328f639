"""Lakes to build pages from, written by the real Writer; the learning in them is made up, the pictures are drawn. And a browser."""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from patience import communicate
from PIL import Image

from tune.results import Writer, create_experiment

MakeLake = Callable[..., Path]

SCRIPT = Path(__file__).parents[2] / "dashboards" / "serve.py"
_START = 1_790_000_000.0
# Without the GL flags, charts that need WebGL fail in a browser without a display.
_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-gpu-compositing"]


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(dice: float, seed: int, side: int = 64) -> dict[str, bytes]:
    """A grey image with a bright two-class blob, its true mask, and a predicted mask that is off by more the lower the Dice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle = np.arctan2(y, x)

    def blob(shift: float) -> NDArray[np.uint8]:
        radius = 0.26 + 0.05 * np.sin(3 * angle + seed) + 0.03 * np.cos(5 * angle + 2 * seed)
        inside = np.hypot(x - shift, y - shift / 2) < radius
        return np.where(inside, np.where(x - shift < 0.05, 1, 2), 0).astype(np.uint8)

    truth = blob(0.0)
    texture = rng.normal(0, 9, (side, side)) + 30 * np.cos(4 * x + seed) + 20 * np.sin(7 * y)
    image = np.clip(70 + 75 * (truth > 0) + 25 * (truth == 2) + texture, 0, 255).astype(np.uint8)
    uncertainty = (255 * np.exp(-((np.hypot(x, y) - 0.26) ** 2) * 400)).astype(np.uint8)
    drawn = {"image": image, "truth": truth, "prediction": blob(0.45 * (1 - dice)), "uncertainty": uncertainty}
    return {name: png(pixels) for name, pixels in drawn.items()}


def trial_rows(
    number: int, rng: np.random.Generator, *, dataset: str, epochs: int = 27
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One plausible trial and its epochs: more steps and a suitable learning rate help, ASHA stops the slow starters."""
    kind = {0: "published", 1: "unet"}.get(number, "searched")
    lr = 1.6e-4 if number < 2 else float(10 ** rng.uniform(-5, -2.5))
    steps, latent = (4, 50) if number < 2 else (int(rng.choice([1, 2, 4, 8])), int(rng.choice([16, 50, 100, 256])))
    adversarial = 0.0 if number < 2 else float(rng.uniform(0, 0.5))
    ceiling = 0.9 - 0.06 * abs(math.log10(lr) + 3.3) ** 1.7 - 0.02 * abs(math.log2(steps) - 2.4) - 0.2 * abs(adversarial - 0.15)
    ceiling -= 0.03 if kind == "unet" else 0.0
    speed = rng.uniform(3, 7)
    curve = [max(0.02, ceiling * (1 - math.exp(-epoch / speed)) + rng.normal(0, 0.008)) for epoch in range(1, epochs + 1)]
    for rung in (3, 9):
        if number > 1 and curve[rung - 1] < 0.25 + 0.055 * rung:
            curve = curve[:rung]
            break
    status = "finished" if len(curve) == epochs else "stopped"
    best = int(np.argmax(curve))
    trial_id = f"t{number:04d}"
    row = {
        "trial_id": trial_id, "number": number, "dataset": dataset, "fold": 0, "kind": kind, "status": status,
        "reason": None if status == "finished" else f"ASHA: not among the best third at epoch {len(curve)}",
        "epochs": len(curve), "validation_dice": curve[best], "best_epoch": best + 1, "votes": 5,
        "seconds_per_case": 0.04 * steps + 0.03,
        "started_at": _START + 40 * number, "ended_at": _START + 40 * number + 9 * len(curve),
        "seconds": 9.0 * len(curve), "cpu_seconds": 18.0 * len(curve), "device": "cpu", "parameters": 1_400_000,
        "host": f"node-{number % 2}", "checkpoint": f"first/tune/{trial_id}/best.safetensors", "seed": 3,
        "config.training.epochs": epochs,
        "config.diffusion.timesteps": steps, "config.model.latent_size": latent, "config.optimiser.lr_generator": lr,
        "config.loss.adversarial": adversarial, "config.model.width_multipliers": [1, 2, 2], "config.diffusion.schedule":
        "variance_preserving",
    }  # fmt: skip
    if status == "finished":
        row |= {"final_dice": curve[best] + 0.006, "final_iou": (curve[best] + 0.006) / (2 - curve[best] - 0.006)}
    losses = [
        {"loss_generator": 1.2 * math.exp(-e / 6) + 0.1, "loss_discriminator": 0.9, "train_seconds": 8.0} for e in range(len(curve))
    ]
    epochs_rows = [
        {"trial_id": trial_id, "epoch": epoch, "dice": dice, "iou": dice / (2 - dice), **losses[epoch - 1]}
        for epoch, dice in enumerate(curve, 1)
    ]
    return row, epochs_rows


@pytest.fixture(scope="session")
def lake_maker() -> Callable[[Path], MakeLake]:
    """Makes makers of lakes in a folder."""
    return _maker


@pytest.fixture
def make_lake(tmp_path: Path) -> MakeLake:
    """Write (part of) a lake: `make_lake("name", dataset="phantom", trials=24)`; returns its root."""
    return _maker(tmp_path)


def _maker(folder: Path) -> MakeLake:

    def make(name: str = "first", *, dataset: str = "phantom", trials: int = 24, seed: int = 0, **overrides: Any) -> Path:
        root = folder / "lake"
        searched = ["diffusion.timesteps", "model.latent_size", "optimiser.lr_generator", "loss.adversarial"]
        arguments = {"sampler": "tpe", "scheduler": "asha"}
        about = {"dataset": dataset, "fold": 0, "searched": searched, "arguments": arguments, "git_commit": "0123abc"}
        create_experiment(root, name, about)
        rng = np.random.default_rng(seed)
        with Writer(root, name, flush_seconds=60) as writer:
            for number in range(trials):
                row, epochs = trial_rows(number, rng, dataset=dataset)
                writer.append("metrics", epochs)
                writer.append("trials", row | overrides)
                if row["status"] == "finished":
                    noise = np.random.default_rng([seed, number]).normal(0, 0.002, 7)  # ties would make the tests of ranks slow
                    for case in range(7):
                        dice = row["final_dice"] - 0.06 * case + 0.04 + noise[case]
                        shown = {
                            "trial_id": row["trial_id"],
                            "split": "validation",
                            "case": f"case_{case:03d}",
                            "votes": 5,
                            "dice": dice,
                        }
                        writer.append("cases", {**shown, "class": "anterior", "iou": dice / (2 - dice), "seconds": 0.2})
                        writer.append("gallery", shown | pictures(dice, case))
        return root

    return make


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    """A page of Chromium, one for all tests of a file: it need not compile Plotly again and again."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        executable = None
    if executable is None:
        reason = "browser tests need Playwright and Chromium: pip install playwright, apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        page: Any = chromium.new_page()
        page.set_default_timeout(600_000)  # for a machine that does much else
        page.wait_for_function = partial(page.wait_for_function, polling=100)  # ms; else it looks at every frame
        yield page
        chromium.close()


@pytest.fixture
def visit(window: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; afterwards, check that nothing went wrong there and that nothing was asked of another machine."""
    troubles: list[str] = []
    requested: list[str] = []
    own = ["data:", "blob:"]
    listeners = {
        "console": lambda message: troubles.append(message.text) if message.type in ("error", "warning", "trace") else None,
        "pageerror": lambda error: troubles.append(str(error)),
        "dialog": lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        "request": lambda request: requested.append(request.url),
    }
    for event, listener in listeners.items():
        window.on(event, listener)

    def open_(address: str, *, width: int = 1280, scheme: str = "light") -> Any:
        own.append("/".join(address.split("/")[:3]) + "/")
        window.set_viewport_size({"width": width, "height": 900})
        window.emulate_media(color_scheme=scheme)
        window.goto(address)
        return window

    yield open_
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    window.goto("about:blank")
    assert [trouble for trouble in troubles if "GPU stall" not in trouble] == []
    assert [url for url in requested if not url.startswith(tuple(own))] == []


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start the server and return its address; afterwards it must end cleanly when interrupted, with nothing to complain of."""
    started: list[subprocess.Popen[str]] = []

    def start(root: Path | str, *more: str) -> str:
        command = [sys.executable, str(SCRIPT), "--storage", str(root), "--port", "0", *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
    for process in started:
        out, err = communicate(process)
        assert (process.returncode, out, err) == (0, "", "")
