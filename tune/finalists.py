r"""Train the best settings of a search again, with new seeds, and score them on the test split, once.

    python tune/finalists.py --experiment NAME                                  # the best 5 and the controls, 5 seeds each
    python tune/finalists.py --experiment NAME --top 3 --seeds 3 --folds all    # on all folds of the dataset
    python tune/finalists.py --experiment NAME --dry-run                        # what that would be, and how long it would take

Every training runs for the whole number of epochs; its best checkpoint is scored by the full protocol on the validation split and
on the test split. The published settings and the plain U-Net take part. The results are an experiment of their own, NAME-finalists.

The same command again goes on where it was cut. Settings that the test split has judged are refused, in whatever experiment that
was; with --again they are scored once more, and the results count it. The last line printed is the leaderboard's path.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from cdal.command import DONE, WORK_FAILED, command_line, run
    from cdal.errors import InputError
    from tune.command import add_address, add_notify, add_storage, command_for, ends_well, lake_root
    from tune.results import check_writable, create_experiment, load, read_experiment
    from tune.steering import FINISHED, Notices
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] not in ("cdal", "tune"):
        sys.exit(f"The package {missing.name} is missing; run `pip install -e .` in the project's folder.")
    sys.exit("The project is not installed; run `pip install -e .` in its folder.")

if TYPE_CHECKING:
    from rich.console import Console

    from tune.finals import Contest, Evaluation, Look
    from tune.running import Node, Plan, Record

_TOP, _SEEDS = 5, 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = command_line(__doc__)
    what = found.add_argument_group("what to train")
    what.add_argument("--experiment", metavar="NAME", required=True, help="the search, finished or cut")
    what.add_argument("--top", type=int, metavar="N", help=f"how many of its settings, controls not counted (default: {_TOP})")
    what.add_argument("--seeds", type=int, metavar="N", help=f"trainings of each per fold (default: {_SEEDS})")
    what.add_argument(
        "--folds",
        help="all, or numbers such as 0,2 (default: the search's, the only one whose test cases the search has surely not seen)",
    )
    what.add_argument("--epochs", type=int, metavar="N", help="length of every training (default: the search's)")
    what.add_argument("--data", metavar="FOLDER", help="the dataset's files (default: where the search had them)")
    what.add_argument("--again", action="store_true", help="score settings on the test split that it has judged before")
    where = found.add_argument_group("with what")
    where.add_argument("--max-concurrent", type=int, metavar="N", help="trainings at once (default: the search's, or what fits)")
    where.add_argument("--cpus-per-worker", type=float, metavar="N", help="default: the search's")
    where.add_argument("--gpus-per-worker", type=float, metavar="N", help="default: the search's")
    add_address(where)
    keep = found.add_argument_group("results")
    add_storage(keep)
    keep.add_argument("--name", help="of the experiment (default: the search's, with -finalists)")
    add_notify(keep)
    keep.add_argument("--dry-run", action="store_true", help="print the trainings and about how long they would take, and stop")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 1 the work failed, 2 the input is wrong, 130 interrupted."""
    return run(retrain, parser().parse_args(arguments))


def retrain(given: argparse.Namespace, console: Console) -> int:
    """Choose, train, and show the result.

    Raises:
        InputError: what was asked for cannot be done, or a finalist has been tested before.
    """
    from tune.finals import Retraining, earlier_looks, refuse_again
    from tune.lake import hold
    from tune.running import check_machine, connect, this_machine

    _check(given)
    root, name = lake_root(given.storage), given.name or f"{given.experiment}-finalists"
    say = partial(console.print, markup=False)
    notices = Notices(given.notify, given.notify_command, name, say=say, go_on=_go_on(given))
    search = _search(root, given.experiment)
    earlier = _earlier(root, name, given.experiment)
    check_machine(root, given.data or search["arguments"].get("data"), starts_ray=given.address is None)
    machine = None if given.address else this_machine()
    if machine is None:
        connect(given.address, this=None)
    plan = _plan(given, search, earlier, machine)
    contest = _contest(given, plan, root, earlier, name)
    cases = {case for fold in contest.folds for case in plan.dataset.split(fold).test}
    before = earlier_looks(load(root), plan.dataset.spec.name, cases, contest.finalists)
    if given.dry_run:
        _print_plan(plan, contest, name, before, console)
        return DONE
    check_writable(root)
    if earlier is None:
        if not given.again:
            refuse_again(before)
        create_experiment(root, name, _describe(given, plan, contest), plan.split_rows)
    with ends_well("the retraining", _go_on(given), console), hold(f"{root}/{name}/tune", say) as lease, notices:
        evaluations = _evaluation(root, name).begin(contest, before, again=given.again)
        _print_plan(plan, contest, name, {}, console)
        retraining = Retraining(plan, contest, root, name, evaluations, machine=machine, address=given.address)
        records = retraining.run(console, lease.check)
        failed = [record for record in records if not retraining.is_done(record)]
        notices.send(FINISHED, f"{len(records)} trainings, {len(failed)} of them failed")
    return _finish(given, plan, contest, root, name, records, failed, console)


def _check(given: argparse.Namespace) -> None:
    for option in ("top", "seeds", "epochs", "max_concurrent"):
        value = getattr(given, option)
        if value is not None and value < 1:
            raise InputError(f"--{option.replace('_', '-')} is {value}; it must be at least 1")


def _finish(
    given: argparse.Namespace,
    plan: Plan,
    contest: Contest,
    root: str,
    name: str,
    records: Sequence[Record],
    failed: Sequence[Record],
    console: Console,
) -> int:
    """Print the finalists and draw the leaderboard; its path is the last line."""
    from dashboards.leaderboard import build

    page = build(root)
    rows = [row for row in load(root).finalists().to_pylist() if row["experiment"] == name]
    _print_finalists(rows, plan, contest, console)
    if failed:
        reason = next((record.row["reason"] for record in failed if record.row.get("reason")), "for no known reason")
        again = _go_on(given)
        console.print(f"{len(failed)} of {len(records)} trainings failed: {reason}\ntry them again: {again}", markup=False)
    else:
        _evaluation(root, name).end()
    print(page)  # noqa: T201
    return WORK_FAILED if failed or all(row["test_dice"] is None for row in rows) else DONE


def _search(root: str, name: str) -> dict[str, Any]:
    """The description of the search."""
    found = dict(read_experiment(root, name).description)
    if "finalists" in found:
        raise InputError(f"{name} holds finalists of {found['source']}; name the search: --experiment {found['source']}")
    if not isinstance(found.get("space"), Mapping) or not isinstance(found.get("arguments"), Mapping):
        raise InputError(f"{name} was not made by tune/search.py: its experiment.json has no space or no arguments")
    return found


def _earlier(root: str, name: str, source: str) -> dict[str, Any] | None:
    """The description of the finalists' experiment, where it has begun."""
    if name not in (experiment.name for experiment in load(root).experiments):
        return None
    found = dict(read_experiment(root, name).description)
    if found.get("source") != source:
        raise InputError(f"{name} is not an experiment with finalists of {source}; choose another --name")
    return found


def _plan(given: argparse.Namespace, search: Mapping[str, Any], earlier: Mapping[str, Any] | None, machine: Node | None) -> Plan:
    """The plan of the search, with what may differ from it."""
    from tune.running import Options, absolute, cluster_nodes, remake_plan

    options = replace(Options.from_dict(search["arguments"]), trials=None, time_budget=None, gpu_hours=None)
    said = {name: getattr(given, name) for name in ("data", "max_concurrent", "cpus_per_worker", "gpus_per_worker")}
    if given.data is not None:
        said["data"] = absolute(given.data)
    elif earlier is not None:
        said["data"] = earlier["arguments"]["data"]
    options = replace(options, **{name: value for name, value in said.items() if value is not None})
    return remake_plan(search, options, cluster_nodes() if machine is None else [machine])


def _contest(given: argparse.Namespace, plan: Plan, root: str, earlier: Mapping[str, Any] | None, name: str) -> Contest:
    """Who is trained: as it was decided before, or chosen now."""
    from tune.finals import Contest, choose, fresh_seeds

    folds = None if given.folds is None else _folds(given.folds, plan)
    if earlier is None:
        trials = [row for row in load(root).trials().to_pylist() if row["experiment"] == given.experiment]
        finalists = choose(plan, trials, top=given.top or _TOP, epochs=given.epochs)
        seeds = fresh_seeds(plan, trials, given.seeds or _SEEDS)
        return Contest(finalists=finalists, folds=folds or (plan.options.fold,), seeds=seeds)
    contest = Contest.from_dict(earlier)
    asked = {"top": given.top, "seeds": given.seeds, "folds": folds, "epochs": given.epochs}
    began = dict(earlier["arguments"]) | {"seeds": len(contest.seeds), "folds": contest.folds}
    for option, value in asked.items():
        if value is not None and value != began[option]:
            was = ",".join(map(str, contest.folds)) if option == "folds" else began[option] or "the search's"
            raise InputError(f"{name} was begun with --{option} {was}; leave the option out to go on, or choose another --name")
    return contest


def _folds(text: str, plan: Plan) -> tuple[int, ...]:
    count = len(plan.dataset.spec.folds)
    if text.strip() == "all":
        return tuple(range(count))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < count for part in parts):
        has = f"folds 0 to {count - 1}" if count > 1 else "fold 0 only"
        raise InputError(f"--folds is {text!r}; {plan.dataset.spec.name} has {has}: write all, or numbers such as 0,2")
    return tuple(sorted({int(part) for part in parts}))


def _describe(given: argparse.Namespace, plan: Plan, contest: Contest) -> dict[str, Any]:
    """For experiment.json."""
    own = ("dataset", "space", "groups", "protocol", "resources", "versions", "git_commit")
    of_plan = {name: value for name, value in plan.describe().items() if name in own}
    arguments = {"top": given.top or _TOP, "epochs": given.epochs, "data": plan.data}
    return of_plan | {"source": given.experiment, "arguments": arguments} | contest.to_dict()


def _evaluation(root: str, name: str) -> Evaluation:
    """Which evaluation the experiment is at."""
    from tune.finals import Evaluation

    return Evaluation(f"{root}/{name}/tune")


def _print_plan(plan: Plan, contest: Contest, name: str, before: Mapping[str, Look], console: Console) -> None:
    from tune.running import clock

    spec, trainings = plan.dataset.spec, len(contest.trainings)
    splits = {fold: plan.dataset.split(fold) for fold in contest.folds}
    lines = [f"experiment  {name}", f"dataset     {spec.name}: {spec.protocol}"]
    for fold, split in splits.items():
        seen = len({*plan.split.train, *plan.split.validation} & {*split.test})
        known = f"; the search saw {seen} of these" if seen else ""
        lines.append(f"fold        {fold}, {spec.folds[fold]}: {plan.sizes(fold)}{known}")
    lines.append(f"seeds       {', '.join(map(str, contest.seeds))}")
    scored = sum(len(split.validation) + len(split.test) for split in splits.values()) / len(splits)
    each, whole = trainings // len(contest.finalists), 0.0
    for finalist in contest.finalists:
        said = "not run by the search" if finalist.search_dice is None else f"Dice {finalist.search_dice:.4f} in the search"
        seconds = contest.seconds(finalist, scored / len(plan.split.validation))
        whole += each * seconds
        long = f"{finalist.config.training.epochs} epochs, about {clock(seconds)} each"
        lines.append(f"finalist    {finalist.id} {finalist.kind}, {said}: {each} trainings of {long}")
        if finalist.id in before:
            tested = before[finalist.id]
            lines.append(f"            tested on {tested.when:%Y-%m-%d %H:%M} UTC in {tested.experiment}")
    lines.append(f"trainings   {trainings}, about {clock(whole / min(plan.resources.at_once, trainings))} in all")
    lines += [f"resources   {plan.resources}", *(f"note        {note}" for note in plan.all_notes)]
    for line in lines:
        console.print(line, markup=False)


def _print_finalists(rows: Sequence[Mapping[str, Any]], plan: Plan, contest: Contest, console: Console) -> None:
    """A table of figures, and the settings they belong to."""
    from rich.table import Table

    from tune.running import brief, describe_kind

    def figure(value: float | None, digits: int = 4) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    table = Table(title="Finalists (mean Dice over cases and trainings)", title_justify="left", box=None, pad_edge=False)
    for heading in ("finalist", "n", "search", "validation", "test", "95 % interval", "seed SD", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    configs = {finalist.id: finalist.config.flatten() for finalist in contest.finalists}
    settings = []
    for row in rows:
        name, interval = row["finalist"], "-" if row["low"] is None else f"{row['low']:.4f}–{row['high']:.4f}"
        scores = [figure(row[column]) for column in ("search_dice", "final_dice", "test_dice")]
        p = "best" if row["best"] else figure(row["p"], 3)
        table.add_row(name, str(row["trainings"]), *scores, interval, figure(row["seed_sd"]), p)
        values = ", ".join(f"{path.split('.', 1)[1]} {brief(configs[name][path])}" for path in plan.space.parameters)
        settings.append(f"{name}  {values if row['kind'] == 'searched' else describe_kind(row['kind'])}")
    console.print(table)
    for line in settings:
        console.print(line, markup=False)


def _go_on(given: argparse.Namespace) -> str:
    name = ["--name", given.name] if given.name else []
    return command_for("finalists", given, "--experiment", given.experiment, *name)


if __name__ == "__main__":
    if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # tune/ itself is no place to import from
    sys.exit(main())
