r"""Search the settings of cDAL that segment a dataset best.

On this machine, with generated images, in about two minutes:

    python tune/search.py

On real data (small models where there is no GPU, the published sizes where there is one):

    python tune/search.py --dataset hippocampus --data Task04_Hippocampus --time-budget 30m
    python tune/search.py --data my_images                     # your own: images/ and masks/, nnU-Net or Decathlon layout
    python tune/search.py --data my_slices --groups patients.csv           # no patient is both trained and tested on
    python tune/search.py --data my_slices --split results/first/splits    # the folds of an earlier experiment

On a Ray cluster, two GPUs a trial, from its head (`ray attach cluster.yaml`) or through `ray job submit`:

    python tune/search.py --address auto --dataset hippocampus --data s3://bucket/Task04_Hippocampus \
        --storage s3://bucket/lake --trials 200 --workers-per-trial 2 --gpus-per-worker 1

A search that was cut, by Ctrl-C or by a power failure, goes on with `--resume`. The last line printed is the leaderboard's path.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from cdal.command import DONE, WORK_FAILED, command_line, run
    from cdal.errors import InputError
    from tune.command import add_address, add_notify, add_storage, command_for, ends_well, lake_root
    from tune.results import check_writable, create_experiment, load, read_experiment
    from tune.steering import BUDGET_USED, FINISHED, Notices, check
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] not in ("cdal", "tune"):
        sys.exit(f"The package {missing.name} is missing; run `pip install -e .` in the project's folder.")
    sys.exit("The project is not installed; run `pip install -e .` in its folder.")

if TYPE_CHECKING:
    from rich.console import Console

    from tune.running import Node, Options, Plan, Record

_ON_RESUME = (
    "trials", "time_budget", "gpu_hours", "cost_per_gpu_hour", "min_improvement", "data", "max_concurrent",
    "workers_per_trial", "cpus_per_worker", "gpus_per_worker",
)  # fmt: skip
_NEWEST = ""  # --resume without a name
_TYPED = {"sets": "set", "tries": "try"}  # where an option is not called like what it gives


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = command_line(__doc__)
    what = found.add_argument_group("what to search")
    what.add_argument("--dataset", help="phantom, hippocampus, monuseg, chest_xray, own (default: what --data holds; else phantom)")
    what.add_argument("--data", metavar="FOLDER", help="the dataset's files: a folder, or s3://bucket/prefix")
    what.add_argument("--space", metavar="FILE", help="YAML file, or a name under tune/spaces (default: the dataset's)")
    what.add_argument(
        "--set",
        action="append",
        metavar="PATH=VALUE",
        dest="sets",
        help="fix a field of the configuration, such as loss.r1_gamma=0.5, or an option of the dataset, such as dataset.size=64; "
        "repeatable",
    )
    what.add_argument(
        "--try",
        action="append",
        metavar="FILE",
        dest="tries",
        help="YAML file with settings of your own, lines such as loss.adversarial: 0.1, that are tried first; repeatable",
    )
    what.add_argument(
        "--groups",
        metavar="FILE",
        help="own data: CSV with columns case and group (such as the patient); no group is in two parts of a fold (default: by the "
        "names of folders and cases; none: each case stands alone)",
    )
    what.add_argument(
        "--split",
        metavar="FILE",
        help="own data: the folds to use, nnU-Net's splits_final.json or a table with columns fold, case and part, such as the "
        "folder splits of an experiment",
    )
    what.add_argument("--fold", type=int, help="which fold's training and validation cases to use (default: 0)")
    what.add_argument("--epochs", type=int, help="length of a whole trial (default: the space's)")
    long = found.add_argument_group("how long")
    long.add_argument("--trials", type=int, help="how many, controls included (default: 8, or as many as the budgets allow)")
    long.add_argument("--time-budget", metavar="TIME", help="90s, 30m, 2h, 1h30m: stop then, with the best trial fully scored")
    long.add_argument(
        "--gpu-hours", type=float, metavar="N", help="stop when the trials have taken that many, all sessions together"
    )
    long.add_argument("--cost-per-gpu-hour", type=float, metavar="N", help="to show what the search costs, in any currency")
    long.add_argument(
        "--min-improvement",
        type=float,
        metavar="DICE",
        help="end when the next ten trials are not expected to raise the best Dice by this much (default: 0.001; 0: never)",
    )
    how = found.add_argument_group("how (docs/search.md has a paragraph of advice on each)")
    how.add_argument(
        "--sampler",
        metavar="NAME",
        help="curves (default; with several objectives tpe), tpe, gp, cmaes, random, quasirandom, nsga2",
    )
    how.add_argument("--scheduler", metavar="NAME", help="asha (default), hedged, hyperband, median, pbt, none")
    how.add_argument(
        "--objectives",
        metavar="LIST",
        help="dice (default), or dice with seconds_per_case, gpu_hours or both, by commas: the front of the best trade-offs",
    )
    how.add_argument("--warm-start", metavar="FROM", help="learn from an earlier experiment of the lake, or from another lake")
    how.add_argument("--seed", type=int, help="of the search and of every training (default: 0)")
    where = found.add_argument_group("with what")
    where.add_argument("--max-concurrent", type=int, metavar="N", help="trials at once (default: as many as fit)")
    where.add_argument("--workers-per-trial", type=int, metavar="N", help="processes that train one model together (default: 1)")
    where.add_argument("--cpus-per-worker", type=float, metavar="N", help="default: 1; beside GPUs their share")
    where.add_argument(
        "--gpus-per-worker",
        metavar="N",
        help="0.5: two trials share one; auto (default): as many as a short measurement finds worthwhile, 1 where a trial has "
        "several workers",
    )
    add_address(where)
    keep = found.add_argument_group("results")
    add_storage(keep)
    keep.add_argument("--name", help="of the experiment (default: the dataset and the time)")
    keep.add_argument("--resume", nargs="?", const=_NEWEST, metavar="NAME", help="go on with an experiment (default: the newest)")
    keep.add_argument(
        "--retry-failed",
        action="store_true",
        help="with --resume: take up failed trials again, unless their settings were the reason",
    )
    keep.add_argument("--repeat", metavar="NAME", help="run an experiment of the lake again, as it was started, under a new name")
    keep.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="of the trials that ended, the best N keep all their checkpoints, the others their best weights (default: 20)",
    )
    add_notify(keep)
    keep.add_argument("--dry-run", action="store_true", help="print what would be done and what it is expected to take, and stop")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 1 the work failed, 2 the input is wrong, 130 interrupted."""
    return run(search, parser().parse_args(arguments))


def search(given: argparse.Namespace, console: Console) -> int:
    """Plan, run, and show the result.

    Raises:
        InputError: what was asked for cannot be done.
    """
    from tune.lake import KEPT, hold, refuse_taken
    from tune.proposing import settings
    from tune.running import Session, check_machine, cluster_nodes, connect, make_plan, remake_plan, this_machine

    if given.retry_failed and given.resume is None:
        raise InputError("--retry-failed takes up trials of an experiment again; name it: --resume NAME --retry-failed")
    if given.keep is not None and given.keep < 0:
        raise InputError(f"--keep is {given.keep}; it must be at least 0")
    check(given.notify, given.notify_command)
    root = lake_root(given.storage)
    description: dict[str, Any] | None = None
    name = given.name or ""
    if given.resume is not None:
        name = _resumed_name(given, root)
        description = dict(read_experiment(root, name).description)
        if "finalists" in description:
            raise InputError(f"{name} holds finalists; go on with: python tune/finalists.py --experiment {description['source']}")
    options = _options(given, description)
    if given.repeat is not None:
        options = _repeated(given, root, console)

    check_machine(root, options.data, starts_ray=given.address is None)
    machine = None if given.address else this_machine()
    if machine is None:
        connect(given.address, this=None)
    nodes = cluster_nodes() if machine is None else [machine]
    plan = make_plan(options, nodes, root) if description is None else remake_plan(description, options, nodes)
    for path, values in zip(given.tries or (), options.tries, strict=False):
        settings(plan.space, values, path)
    if given.dry_run:
        _print_plan(plan, name, console, advice=True)
        if description is not None:
            _print_taken_up(root, name, given.retry_failed, console)
        _measured(plan, machine, console)
        return DONE
    check_writable(root)
    if description is None:
        name = name or f"{plan.dataset.spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        refuse_taken(root, name)
        _print_plan(plan, name, console)
        plan = _measured(plan, machine, console)
        create_experiment(root, name, plan.describe(), plan.split_rows)
    go_on = command_for("search", given, "--resume", name)
    again = command_for("search", given, "--resume", name, "--retry-failed")
    say = partial(console.print, markup=False)
    notices = Notices(given.notify, given.notify_command, name, say=say, go_on=go_on)
    with ends_well("the search", go_on, console, after_pause=again), hold(f"{root}/{name}/tune", say) as lease, notices:
        if description is not None:
            _print_plan(plan, name, console)
            _print_taken_up(root, name, given.retry_failed, console)
        kept = KEPT if given.keep is None else given.keep
        session = Session(plan, root, name, machine=machine, address=given.address, keep=kept)
        budget = options.time_budget
        if budget is not None and description is not None and given.time_budget is None:
            budget = max(budget - session.used, 0.0)  # the rest of what the search was given first
        records = session.run(
            console, resume=description is not None, budget=budget, retry_failed=given.retry_failed, check=lease.check
        )
        notices.send(BUDGET_USED if session.out_of_budget else FINISHED, _in_short(records))
    return _finish(plan, root, records, console)


def _in_short(records: list[Record]) -> str:
    """What came out of a search, for those who are not there."""
    from tune.running import best_of

    best = best_of(records)
    dice = "none has a result" if best is None else f"best Dice {best.row['validation_dice']:.4f} in trial {best.number}"
    return f"{len(records)} trials, {dice}"


def _options(given: argparse.Namespace, description: dict[str, Any] | None) -> Options:
    """What was asked for; of a resumed experiment, what it was started with, and what may be changed."""
    from cdal.data.own.groups import own_options
    from tune.running import Options, absolute, parse_duration, parse_gpus
    from tune.steering import granted, read_settings, read_text

    said = {name: value for name, value in vars(given).items() if value is not None and name in Options.__dataclass_fields__}
    if "sets" in said:
        said["sets"] = tuple(said["sets"])
    if "time_budget" in said:
        said["time_budget"] = parse_duration(said["time_budget"])
    if "gpus_per_worker" in said:
        said["gpus_per_worker"] = parse_gpus(said["gpus_per_worker"])
    if "objectives" in said:
        said["objectives"] = tuple(said["objectives"].split(","))
    if "tries" in said:
        said["tries"] = tuple(read_settings(read_text(path), path) for path in said["tries"])
    if description is None:
        return Options(**said | own_options(given.groups, given.split))
    for name in said:
        if name == "tries":
            raise InputError(
                "--try is for the start; a search that has begun takes settings by: python tune/control.py NAME enqueue FILE"
            )
        if name not in _ON_RESUME:
            option = _typed(name)
            raise InputError(f"--{option} cannot change when an experiment goes on; start another one, without --resume")
    if "data" in said:
        said["data"] = absolute(said["data"])
    return replace(Options.from_dict(description["arguments"]).with_granted(granted(description)), **said)


def _typed(name: str) -> str:
    """An option as it is typed, without its dashes."""
    return _TYPED.get(name, name.replace("_", "-"))


def _repeated(given: argparse.Namespace, root: str, console: Console) -> Options:
    """What an experiment was started with; says where this machine's versions are not those of then."""
    from tune.running import Options, changes_since

    asked = [name for name, value in vars(given).items() if value is not None and name in Options.__dataclass_fields__]
    if asked or given.resume is not None:
        raise InputError(f"--repeat runs {given.repeat} as it was started; leave out --{_typed((asked or ['resume'])[0])}")
    description = read_experiment(root, given.repeat).description
    for change in changes_since(description):
        console.print(f"note        {change}", markup=False)
    return Options.from_dict(description["arguments"])


def _resumed_name(given: argparse.Namespace, root: str) -> str:
    if given.resume != _NEWEST or given.name:
        return str(given.resume or given.name)
    experiments = [experiment for experiment in load(root).experiments if "finalists" not in experiment.description]
    if not experiments:
        raise InputError(f"{root} holds no search to go on with")
    return max(experiments, key=lambda experiment: str(experiment.description.get("created_at", ""))).name


def _print_plan(plan: Plan, name: str, console: Console, *, advice: bool = False) -> None:
    if name:
        console.print(f"experiment  {name}", markup=False)
    for line in plan.lines(advice=advice):
        console.print(line, markup=False)


def _print_taken_up(root: str, name: str, retry_failed: bool, console: Console) -> None:
    """What becomes of the trials of a search that goes on."""
    from tune.lake.status import ENDED, FAILED, SETTING

    rows = load(root).trials().select(["experiment", "status", "cause"]).to_pylist()
    own = [row for row in rows if row["experiment"] == name]
    failed = sum(row["status"] == FAILED and row["cause"] != SETTING for row in own)
    ended = sum(row["status"] in ENDED for row in own) - failed
    left = len(own) - ended - failed
    parts = [f"{ended} trial{'s' * (ended != 1)} ended", f"{left} go{'es' * (left == 1)} on"]
    if failed:
        parts.append(
            f"{failed} that failed begin again" if retry_failed else f"{failed} failed (--retry-failed takes them up again)"
        )
    console.print(f"resume      {', '.join(parts)}", markup=False)


def _measured(plan: Plan, machine: Node | None, console: Console) -> Plan:
    """The plan with as many trials on a GPU as are worthwhile; says how many, and what the search is going to take."""
    from tune.running import measure

    before = plan.resource_lines
    plan, paces = measure(plan, machine, partial(console.print, markup=False))
    lines = [] if plan.resource_lines == before else plan.resource_lines
    estimate = plan.forecast(paces) if paces else "none: neither the published nor a typical setting could be timed"
    for line in (*lines, f"estimate    {estimate}"):
        console.print(line, markup=False)
    return plan


def _finish(plan: Plan, root: str, records: list[Record], console: Console) -> int:
    """Print the best trials and draw the leaderboard; its path is the last line."""
    from dashboards.leaderboard import build
    from tune.running import top_table

    page = build(root)
    if not any(record.may_be_best for record in records):
        reasons = [record.row["reason"] for record in records if record.row.get("reason")]
        reason = reasons[0] if reasons else "the budget was used up before a trial began"
        console.print(f"no trial has a result: {reason}", markup=False)
        print(page)  # noqa: T201
        return WORK_FAILED
    console.print(top_table(records, list(plan.space.parameters)))
    print(page)  # noqa: T201
    return DONE


if __name__ == "__main__":
    if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # tune/ itself is no place to import from
    sys.exit(main())
