"""How long the dashboards take on a large lake, and how large their pages are.

    python benchmarks/site.py                               # 10,000 trials of 100 epochs
    python benchmarks/site.py --trials 1000 --keep lake     # and keep the lake there

The learning in the lake is made up. With Chromium, the time is told until the first page answers and until all is drawn.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dashboards.leaderboard import build
from tune.lake_storage import Store
from tune.lake_tables import concatenate, to_table, write_file
from tune.results import create_experiment

CASES, VOTES, CLASSES = 20, (1, 3, 5), ("anterior", "posterior")
PICTURED = 20  # trials
_START = 1_790_000_000.0
_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def make_lake(root: Path, trials: int, epochs: int, seed: int = 0, *, name: str = "large", dataset: str = "hippocampus") -> None:
    """Write one experiment: searched by TPE, stopped by ASHA, on four GPUs of two machines."""
    rng = np.random.default_rng(seed)
    parameters: dict[str, Any] = {
        "diffusion.timesteps": {"values": [1, 2, 4, 8]},
        "model.latent_size": {"min": 16, "max": 256, "distribution": "int_log_uniform"},
        "optimiser.lr_generator": {"min": 1e-5, "max": 3e-3, "distribution": "log_uniform"},
        "loss.adversarial": {"min": 0.0, "max": 0.5},
        "loss.soft_dice": {"min": 0.0, "max": 1.0},
        "loss.attention": {"min": 0.0, "max": 1.0},
        "loss.attention_normalised": {"values": [False, True], "condition": {"loss.attention": {"min": 0.3}}},
    }
    about = {"arguments": {"sampler": "tpe", "scheduler": "asha", "trials": trials, "seed": seed}, "fold": 0}
    space = {"source": "made up", "preset": "hippocampus", "parameters": parameters}
    create_experiment(root, name, {"dataset": dataset, "space": space, "protocol": "made up"} | about)
    curves, rows, ends = _train(rng, trials, epochs, name, dataset)
    store = Store(root, None)
    for table, content in (
        ("trials", to_table(rows, "trials")),
        ("metrics", _metrics(rng, curves, ends, name)),
        ("cases", _cases(rng, rows, name)),
        ("gallery", _gallery(rows, name)),
    ):
        if len(content):
            write_file(store, f"{name}/{table}", _in_order(content, table), 4)


def _train(rng: np.random.Generator, trials: int, epochs: int, name: str, dataset: str) -> tuple[Any, list[dict[str, Any]], Any]:
    """Curves (trials, epochs), the trials' rows, and the epoch at which each ended."""
    lr, steps = 10 ** rng.uniform(-5, -2.5, trials), rng.choice([1, 2, 4, 8], trials)
    latent, adversarial = np.exp(rng.uniform(np.log(16), np.log(256), trials)).astype(int), rng.uniform(0, 0.5, trials)
    dice_weight, attention, normalised = rng.uniform(0, 1, trials), rng.uniform(0, 1, trials), rng.random(trials) < 0.5
    kind = np.array(["published", "unet", *["searched"] * trials], dtype=object)[:trials]
    lr[:2], steps[:2], latent[:2], adversarial[:2], dice_weight[:2], attention[:2] = 1.6e-4, 4, 50, 0.0, 0.0, 1.0
    learned = np.clip(np.arange(trials) / max(trials - 1, 1) * 2, 0, 1)  # the sampler learns
    lr = np.where(kind == "searched", lr ** (1 - 0.6 * learned) * 5e-4 ** (0.6 * learned), lr)
    ceiling = 0.89 - 0.05 * np.abs(np.log10(lr) + 3.3) ** 1.7 - 0.02 * np.abs(np.log2(steps) - 2.4)
    ceiling += 0.03 * dice_weight - 0.25 * np.abs(adversarial - 0.15) - 0.04 * np.abs(attention - 0.5) * (lr > 2e-4)
    speed = rng.uniform(0.06, 0.15, trials) * epochs
    curves = ceiling[:, None] * (1 - np.exp(-np.arange(1, epochs + 1) / speed[:, None])) + rng.normal(0, 0.006, (trials, epochs))
    curves = np.clip(curves, 0.01, 0.99)
    best = np.maximum.accumulate(curves, axis=1)
    ends, status = np.full(trials, epochs), np.full(trials, "finished", dtype=object)
    rung = max(1, epochs // 8)
    while rung < epochs:
        there = (ends > rung) & (kind == "searched")
        bar = np.quantile(best[there, rung - 1], 0.62) if there.any() else 0.0
        cut = there & (best[:, rung - 1] < bar)
        ends[cut], status[cut] = rung, "stopped"
        rung *= 3
    for share, word in ((0.01, "failed"), (0.005, "diverged"), (0.004, "infeasible")):
        chosen = (rng.random(trials) < share) & (kind == "searched")
        ends[chosen], status[chosen] = np.minimum(ends[chosen], 1), word
    status[-2:] = np.where(kind[-2:] == "searched", "running", status[-2:])
    free = np.zeros(4)
    rows = []
    for number in range(trials):
        worker = int(np.argmin(free))
        seconds = float(ends[number] * (4 + 2 * steps[number]) + 20)
        begin = _START + free[worker]
        free[worker] += seconds + 3
        own = best[number, ends[number] - 1]
        ended = status[number] != "running"
        row = {
            "experiment": name, "trial_id": f"{number:05d}", "number": number, "dataset": dataset, "fold": 0, "kind": kind[number],
            "status": status[number], "reason": _reason(status[number], ends[number]), "epochs": int(ends[number]), "seed": 0,
            "validation_dice": float(own) if status[number] not in ("failed", "infeasible") else None,
            "best_epoch": int(np.argmax(curves[number, : ends[number]])) + 1, "votes": 5,
            "seconds_per_case": 0.05 * float(steps[number]),
            "started_at": begin, "ended_at": begin + seconds if ended else None, "seconds": seconds if ended else None,
            "gpu_seconds": seconds if ended else None, "cpu_seconds": 1.4 * seconds,
            "cost": seconds / 3600 * 2.5 if ended else None,
            "device": "NVIDIA A100", "host": f"node-{worker // 2}", "restarts": int(rng.random() < 0.01), "workers": 1,
            "memory_bytes": 9 * 2**30, "parameters": 24_000_000, "checkpoint": f"{name}/tune/{number:05d}/best.safetensors",
            "config.diffusion.timesteps": int(steps[number]), "config.model.latent_size": int(latent[number]),
            "config.optimiser.lr_generator": float(lr[number]), "config.loss.adversarial": float(adversarial[number]),
            "config.loss.soft_dice": float(dice_weight[number]), "config.loss.attention": float(attention[number]),
            "config.loss.attention_normalised": bool(normalised[number] and attention[number] >= 0.3),
            "config.training.epochs": epochs, "config.model.width_multipliers": [1, 2, 2, 4], "recorded_at": begin + seconds,
        }  # fmt: skip
        if status[number] == "finished":
            row |= {"final_dice": float(own) + 0.004, "final_iou": float(own / (2 - own))}
        rows.append(row | ({"error": "Traceback: CUDA error\n" * 12} if status[number] == "failed" else {}))
    times = ("started_at", "ended_at", "recorded_at")
    as_times = [
        row | {name: None if row[name] is None else np.datetime64(int(row[name] * 1e6), "us").item() for name in times}
        for row in rows
    ]
    return curves, as_times, ends


def _reason(status: str, epoch: int) -> str | None:
    return {
        "finished": "trained and scored",
        "stopped": f"not among the best third at epoch {epoch}",
        "failed": "RuntimeError: CUDA error: device-side assert triggered",
        "diverged": "the generator's loss is not finite at step 180",
        "infeasible": "out of memory, with 78.90 GiB in use",
    }.get(status)


def _metrics(rng: np.random.Generator, curves: Any, ends: Any, name: str) -> pa.Table:
    trial = np.repeat(np.arange(len(ends)), ends)
    epoch = np.concatenate([np.arange(1, end + 1) for end in ends])
    dice = curves[trial, epoch - 1]
    noise = rng.normal(1, 0.05, len(dice))
    reconstruction = 0.8 * np.exp(-dice * 2) * noise
    columns = {
        "experiment": pa.array([name] * len(dice)), "trial_id": pa.array(np.char.zfill(trial.astype(str), 5)),
        "epoch": pa.array(epoch),
        "step": pa.array(epoch * 200), "dice": pa.array(dice), "iou": pa.array(dice / (2 - dice)),
        "loss_generator": pa.array(reconstruction + 0.3), "loss_discriminator": pa.array(0.9 * noise), "loss_reconstruction":
        pa.array(reconstruction), "loss_adversarial": pa.array(0.3 * noise), "train_seconds": pa.array(np.full(len(dice), 8.0)),
    }  # fmt: skip
    return pa.table(columns)


def _cases(rng: np.random.Generator, rows: list[dict[str, Any]], name: str) -> pa.Table:
    scored = [row for row in rows if row["status"] == "finished"]
    if not scored:
        return pa.table({})
    shape = (len(scored), CASES, len(CLASSES), len(VOTES))
    hard = np.linspace(0.04, -0.1, CASES)[None, :, None, None]
    dice = np.array([row["final_dice"] for row in scored])[:, None, None, None] + hard + rng.normal(0, 0.012, shape)
    dice = np.clip(dice + np.array([-0.012, -0.003, 0.0]) - np.array([0.0, 0.015])[None, None, :, None], 0, 1)
    seconds = np.array([row["seconds_per_case"] for row in scored])[:, None, None, None] * np.array(VOTES) / 5 + np.zeros(shape)
    index = np.indices(shape).reshape(4, -1)
    columns = {
        "experiment": pa.array([name] * dice.size), "trial_id": pa.array(np.array([row["trial_id"] for row in scored])[index[0]]),
        "split": pa.array(["validation"] * dice.size),
        "case": pa.array(np.char.add("hippocampus_", np.char.zfill(index[1].astype(str), 3))),
        "class": pa.array(np.array(CLASSES)[index[2]]), "votes": pa.array(np.array(VOTES)[index[3]]),
        "dice": pa.array(dice.ravel()),
        "iou": pa.array((dice / (2 - dice)).ravel()), "hd95": pa.array((6 * (1 - dice)).ravel()),
        "seconds": pa.array(seconds.ravel()),
    }  # fmt: skip
    return pa.table(columns)


def _gallery(rows: list[dict[str, Any]], name: str) -> pa.Table:
    scored = sorted((row for row in rows if row["status"] == "finished"), key=lambda row: -row["final_dice"])[:PICTURED]
    found = []
    for row in scored:
        for case, shift in enumerate((0.04, 0.035, 0.03, 0.0, -0.06, -0.08, -0.1)):
            dice = row["final_dice"] + shift
            about = {"experiment": name, "trial_id": row["trial_id"], "split": "validation", "case": f"hippocampus_{case:03d}"}
            found.append(about | {"votes": 5, "dice": dice} | _pictures(dice, case))
    return to_table(found, "gallery") if found else pa.table({})


def _pictures(dice: float, seed: int, side: int = 96) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle = np.arctan2(y, x)
    radius = 0.26 + 0.05 * np.sin(3 * angle + seed) + 0.03 * np.cos(5 * angle + 2 * seed)

    def blob(shift: float) -> Any:
        inside = np.hypot(x - shift, y - shift / 2) < radius
        return np.where(inside, np.where(x - shift < 0.05, 1, 2), 0).astype(np.uint8)

    truth, shift = blob(0.0), 0.45 * (1 - dice)
    texture = rng.normal(0, 9, (side, side)) + 30 * np.cos(4 * x + seed) + 20 * np.sin(7 * y)
    image = np.clip(70 + 75 * (truth > 0) + 25 * (truth == 2) + texture, 0, 255).astype(np.uint8)
    edge = np.exp(-((np.abs(np.hypot(x - shift, y - shift / 2) - radius) / 0.03) ** 2)) * 255
    pictures = {"image": image, "truth": truth, "prediction": blob(shift), "uncertainty": edge.astype(np.uint8)}
    return {key: _png(pixels) for key, pixels in pictures.items()}


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _in_order(content: pa.Table, table: str) -> pa.Table:
    """With the columns that the lake expects, and a time of recording."""
    if "recorded_at" not in content.column_names or content["recorded_at"].null_count:
        now = pa.array([np.datetime64(time.time_ns() // 1000, "us").item()] * len(content), pa.timestamp("us", tz="UTC"))
        names = [name for name in content.column_names if name != "recorded_at"]
        content = content.select(names).append_column("recorded_at", now)
    return concatenate([content.replace_schema_metadata({b"schema_version": b"1"})], table, None)


def measure_browser(path: Path) -> Mapping[str, float]:
    """Seconds until the page answers a click on a heading, and until all charts are drawn."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.locator("th[aria-sort] button").first.click()
        page.wait_for_selector("th[aria-sort=ascending], th[aria-sort=descending]")
        answers = time.perf_counter() - started
        drawn = "[...document.querySelectorAll('[data-figure]')].every(box => box.querySelector('.main-svg'))"
        page.wait_for_function(drawn, timeout=120_000)
        all_drawn = time.perf_counter() - started
        browser.close()
    return {"answers": answers, "drawn": all_drawn}


def main() -> None:
    """Make a lake, build the site, print figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--keep", metavar="FOLDER", help="make the lake here, and use it again where it is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.keep or temporary) / f"{options.trials}x{options.epochs}"
        if not root.exists():
            started = time.perf_counter()
            make_lake(root, options.trials, options.epochs)
            print(f"lake of {options.trials} trials, {options.epochs} epochs: made in {time.perf_counter() - started:.1f} s")
        for out in (root / "site", root / "single.html"):
            started, worked = time.perf_counter(), time.process_time()
            first = build(root, out)
            took, worked = time.perf_counter() - started, time.process_time() - worked
            print(
                f"{out.name}: built in {took:.1f} s, {worked:.1f} s of them at work, first page {first.stat().st_size / 1e6:.2f} MB"
            )
        site = root / "site"
        pages = sorted(site.rglob("*.html"), key=lambda path: path.stat().st_size)
        print(f"{len(pages)} pages, the largest {pages[-1].stat().st_size / 1e6:.2f} MB")
        experiment = next((site / "pages" / "experiments").glob("*.html"))
        for name, path in (("index", site / "index.html"), ("experiment", experiment)):
            found = measure_browser(path)
            print(f"{name} in Chromium: answers after {found['answers']:.1f} s, all drawn after {found['drawn']:.1f} s")


if __name__ == "__main__":
    main()
