r"""Rehearse a search: recorded learning curves on a simulated cluster, to compare strategies in seconds instead of GPU-days.

    python tune/rehearse.py --from results --gpus 16 --trials 200
    python tune/rehearse.py --from results --experiment first --experiment second --strategies default,random --out rehearsal.json
    python tune/rehearse.py --from results --advise         # which strategy would have served your own searches best?

What is replayed are Ray Tune's own schedulers, Optuna's own samplers and this project's; no cluster is started and nothing is
trained. Strategies:

    default            what tune/search.py does, which ends when trials no longer pay; without the U-Net, whose record does not fit
    SAMPLER+SCHEDULER  others of its samplers and schedulers, such as gp+median, for all trials asked for
    ray                OptunaSearch and ASHAScheduler of Ray Tune as they come
    random             random settings, none stopped early
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from cdal.command import DONE, command_line, run
    from cdal.errors import InputError
    from tune.rehearsal import (
        CHOICES,
        STRATEGIES,
        Cluster,
        Estimate,
        Plan,
        Recording,
        Surrogate,
        about,
        advice_table,
        advise,
        families,
        in_words,
        read,
        rehearse,
        strategy,
        summary,
        table,
        trials_that_fit,
    )
    from tune.results import Lake, load
except ModuleNotFoundError as missing:
    sys.exit(f"The package {missing.name} is missing; run `pip install -e .` in the project's folder.")

if TYPE_CHECKING:
    from rich.console import Console


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = command_line(__doc__)
    found.add_argument("--from", dest="source", required=True, metavar="LAKE", help="results lake with recorded searches")
    found.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="NAME",
        help="whose curves to replay; repeatable (default: the newest, and all with its space)",
    )
    found.add_argument(
        "--gpus", type=int, default=16, metavar="N", help="of the simulated cluster; a trial takes one (default: 16)"
    )
    found.add_argument("--trials", type=int, default=200, metavar="N", help="of each search (default: 200)")
    found.add_argument("--seeds", type=int, default=20, metavar="N", help="searches per strategy (default: 20)")
    found.add_argument(
        "--strategies", metavar="A,B", help=f"which; the first is what others are compared with (default: {','.join(STRATEGIES)})"
    )
    found.add_argument("--startup-seconds", type=float, metavar="S", help="of a trial on a GPU (default: the record's median)")
    found.add_argument(
        "--spot-losses-per-hour",
        type=float,
        default=0.05,
        metavar="X",
        help="of each GPU, replaced after 5 minutes (default: 0.05)",
    )
    found.add_argument("--target", type=float, default=0.99, metavar="SHARE", help="of the best recorded Dice (default: 0.99)")
    found.add_argument(
        "--advise",
        action="store_true",
        help="for every space of the lake: which strategy finds the best settings in the GPU-hours that a search of yours took",
    )
    found.add_argument("--out", type=Path, metavar="FILE.json", help="write all figures there too")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 2 the input is wrong, 130 interrupted."""
    return run(_rehearse, parser().parse_args(arguments))


def _rehearse(given: argparse.Namespace, console: Console) -> int:
    given.strategies = given.strategies or ",".join(CHOICES if given.advise else STRATEGIES)
    _check(given)
    lake = load(given.source)
    if given.advise:
        return _advise(given, lake, console)
    recording = read(lake, given.experiment)
    plan = make_plan(given, recording)
    surrogate = Surrogate(recording)
    for line in about(surrogate, plan):
        console.print(line, markup=False)
    runs = rehearse(surrogate, plan)
    rows = summary(runs, plan.strategies)
    if given.out is not None:
        _write(given.out, {"plan": asdict(plan), "strategies": rows, "runs": [asdict(run) for run in runs]})
    console.print(table(rows, plan))
    return DONE


def _advise(given: argparse.Namespace, lake: Lake, console: Console) -> int:
    """Rehearse what could have been done with every space, or with that of the experiments that are named."""
    recordings, left_out = [], []
    for names in [given.experiment] if given.experiment else families(lake):
        try:
            recordings.append(read(lake, names))
        except InputError as error:
            left_out.append(str(error))
    if not recordings:
        raise InputError(left_out[-1] if left_out else f"{given.source} holds no search that says what its space is")
    told = []
    for recording in recordings:
        surrogate = Surrogate(recording)
        plan = replace(make_plan(given, recording), gpu_hours=recording.gpu_hours)
        plan = replace(plan, trials=trials_that_fit(surrogate, plan.gpu_hours))
        for line in about(surrogate, plan)[:2]:
            console.print(line, markup=False)
        advice = advise(rehearse(surrogate, plan), plan.strategies)
        console.print(advice_table(advice, plan))
        console.print(in_words(advice, surrogate) + "\n", markup=False)
        told.append({"plan": asdict(plan), "strategies": [each._asdict() for each in advice]})
    for sentence in left_out:
        console.print(f"left out: {sentence}", markup=False)
    if given.out is not None:
        _write(given.out, {"advice": told})
    return DONE


def make_plan(given: argparse.Namespace, recording: Recording) -> Plan:
    """What was asked for, on what is recorded.

    Raises:
        InputError: GPUs are lost so often that no trial would end an epoch.
    """
    startup = recording.startup_seconds if given.startup_seconds is None else given.startup_seconds
    longest = startup + max(trial.seconds for trial in recording.trials if trial.seconds > 0)
    if given.spot_losses_per_hour * longest > 3600:
        raise InputError(
            f"--spot-losses-per-hour is {given.spot_losses_per_hour:g}, but starting and an epoch take up to {longest:.0f} s; "
            f"give less than {3600 / longest:.3g}"
        )
    cluster = Cluster(gpus=given.gpus, startup_seconds=startup, losses_per_hour=given.spot_losses_per_hour)
    return Plan(
        cluster=cluster, trials=given.trials, seeds=given.seeds, strategies=given.strategies.split(","), target=given.target
    )


def _check(given: argparse.Namespace) -> None:
    for option in ("gpus", "trials", "seeds"):
        if getattr(given, option) < 1:
            raise InputError(f"--{option} is {getattr(given, option)}; it must be at least 1")
    if given.advise and given.seeds < 2:
        raise InputError("--advise tells chance from merit by comparing seeds; give --seeds 2 or more")
    for option in ("startup_seconds", "spot_losses_per_hour"):
        value = getattr(given, option)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"--{option.replace('_', '-')} is {value:g}; it must be a number from 0")
    if not 0 < given.target <= 1:
        raise InputError(f"--target is {given.target:g}; it is a share of the best recorded Dice, above 0 and up to 1")
    for name in given.strategies.split(","):
        strategy(name)
    if given.out is not None and not given.out.parent.is_dir():
        raise InputError(f"--out is {given.out}, but there is no folder {given.out.parent}")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """JSON, in which what was never reached is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            value = value._asdict()
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    try:
        path.write_text(json.dumps(plain(content), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # tune/ itself is no place to import from
    sys.exit(main())
