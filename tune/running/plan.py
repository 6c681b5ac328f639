"""What a search will do, decided before it starts: data, space, workers, how many trials at once. Without Ray."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cdal.config import Config, parse_setting
from cdal.data import Dataset, Split, open_dataset
from cdal.data.dataset import PARTS
from cdal.data.folds import counted
from cdal.data.layouts import recognise
from cdal.data.own.groups import check_own
from cdal.data.remote import local_folder
from cdal.errors import InputError
from cdal.training import check_fit
from tune.lake import git_commit, versions
from tune.proposing import OBJECTIVES, SAMPLERS, Space, WarmStart, check_sampler, controls, default_sampler, gather, startup_trials
from tune.proposing import space as spaces
from tune.running.estimate import Forecast, Paces, forecast
from tune.running.machines import Node, Resources, size
from tune.running.options import AUTO, Options, absolute
from tune.running.sharing import Sharing
from tune.stopping import DEFAULT_MIN_IMPROVEMENT, POPULATION, SCHEDULERS, check_scheduler, grace_epochs, mutable

DEFAULT_DATASET = "phantom"


@dataclass(frozen=True)
class Plan:
    """A search, ready to start."""

    options: Options
    space: Space
    resources: Resources
    dataset: Dataset
    data: str | None
    split: Split
    notes: tuple[str, ...]
    """What was decided for the user, in words."""
    warm_start: WarmStart = field(default_factory=WarmStart)
    nodes: tuple[Node, ...] = ()
    sharing: Sharing | None = None
    """How many trials share a GPU, once that is decided."""
    begun_with: int | None = None
    """`startup` of a search that goes on, as it was when it began: other GPUs do not change it."""

    @property
    def undecided(self) -> bool:
        """Whether trials may share GPUs, and nobody has said how many."""
        return self.sharing is None and self.resources.workers == 1 and self.gpus > 0 and _asks_for_auto(self.options)

    def shared(self, sharing: Sharing) -> "Plan":
        """The same where it is decided how many trials share a GPU."""
        if not self.undecided:
            return replace(self, sharing=sharing)
        return replace(self, sharing=sharing, resources=size(replace(self.options, gpus_per_worker=1 / sharing.trials), self.nodes))

    @property
    def per_gpu(self) -> tuple[float, float]:
        """CPUs, in those that one trial asks for, and trials of the search, for every GPU."""
        biggest = max(self.nodes, key=lambda node: (node.gpus, node.cpus))
        limits = (limit for limit in (self.trials, self.options.max_concurrent) if limit is not None)
        cpus = biggest.cpus / biggest.gpus / (self.options.cpus_per_worker or 1)
        return cpus, min(limits, default=math.inf) / sum(node.gpus for node in self.nodes)

    @property
    def published(self) -> Config:
        """The configuration of trial 0."""
        return self.space.base

    @property
    def typical(self) -> Config:
        """The configuration of a trial from the middle of the space; the published one where that one does not go together."""
        try:
            return self.space.config(self.space.middle)
        except InputError:
            return self.published

    @property
    def trials(self) -> int | None:
        """How many trials; None where only a budget ends the search."""
        return self.options.trials_in_all

    @property
    def startup(self) -> int:
        """Trials before the sampler's model takes over, controls among them; fewer where it knows of some from elsewhere."""
        if self.begun_with is not None:
            return self.begun_with
        return max(startup_trials(self.trials, self.resources.at_once) - len(self.warm_start.told), 0)

    @property
    def gpus(self) -> float:
        """GPUs that one trial holds."""
        return self.resources.gpus * self.resources.workers

    @property
    def min_improvement(self) -> float:
        """Expected gain in Dice below which the search ends."""
        if len(self.options.objectives) > 1:
            return 0.0  # what further trials gain is not a matter of Dice alone
        return DEFAULT_MIN_IMPROVEMENT if self.options.min_improvement is None else self.options.min_improvement

    def forecast(self, paces: Paces) -> Forecast:
        """What the search is going to take, given how fast a trial alone is."""
        options = self.options
        return forecast(
            paces.slowed(self.sharing.slowdown) if self.sharing else paces,
            scheduler=options.scheduler,
            epochs=self.published.training.epochs,
            grace=self.grace,
            controls=len(controls(self.space)),
            trials=self.trials,
            at_once=self.resources.at_once,
            gpus=self.gpus,
            seconds=options.time_budget,
            gpu_hours=options.gpu_hours,
            price=options.cost_per_gpu_hour,
        )

    @property
    def grace(self) -> int:
        """Epochs before a trial may be stopped early."""
        return grace_epochs(self.options.scheduler, self.published.training.epochs)

    @property
    def split_hash(self) -> str:
        """Tells whether two searches have the same cases."""
        ids = json.dumps([self.split.train, self.split.validation, self.split.test])
        return hashlib.sha256(ids.encode()).hexdigest()

    @property
    def split_rows(self) -> list[dict[str, Any]]:
        """For the lake: every case of every fold that the dataset has cases for."""
        groups, rows = self.dataset.groups, []
        for fold in range(len(self.dataset.spec.folds)):
            with suppress(InputError):
                split = self.dataset.split(fold)
                rows += [
                    {"fold": fold, "case": case, "group": groups.get(case), "part": part} for part in PARTS for case in split[part]
                ]
        return rows

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What was decided for the user, and what was found in the data."""
        return (*self.notes, *self.dataset.spec.notes)

    def sizes(self, fold: int, tested: str = "test") -> str:
        """How many cases, and groups, of a fold train, validate and test."""
        split, groups = self.dataset.split(fold), self.dataset.groups
        return ", ".join(
            f"{counted(split[part], groups)} {verb}" for part, verb in zip(PARTS, ("train", "validate", tested), strict=True)
        )

    def describe(self) -> dict[str, Any]:
        """For experiment.json."""
        return {
            "dataset": self.dataset.spec.name,
            "fold": self.options.fold,
            "fold_name": self.dataset.spec.folds[self.options.fold],
            "space": self.space.to_dict(),
            "arguments": self.options.to_dict() | {"data": self.data},
            "seeds": {"search": self.options.seed, "training": self.published.training.seed},
            "split_sizes": {name: len(self.split[name]) for name in PARTS},
            "split_hash": self.split_hash,
            "groups": len(set(self.dataset.groups.values())) or None,
            "protocol": self.dataset.spec.protocol,
            "machines": [node._asdict() for node in self.nodes],
            "resources": asdict(self.resources),
            "sharing": asdict(self.sharing) if self.sharing else None,
            "warm_start": self.warm_start.to_dict(),
            "startup": self.startup,
            "grace_epochs": self.grace,
            "versions": versions(),
            "git_commit": git_commit(),
        }

    def lines(self, *, advice: bool = False) -> list[str]:
        """For `--dry-run`, which also says when to take the sampler and the scheduler, and for the start of a search."""
        spec, config, options = self.dataset.spec, self.published, self.options
        until = [f"{self.trials} trials"] if self.trials is not None else []
        if options.time_budget is not None:
            until.append(f"{options.time_budget:g} s")
        if options.gpu_hours is not None:
            until.append(f"{options.gpu_hours:g} GPU-hours")
        if self.min_improvement > 0:
            until.append(f"the next ones gain less than {self.min_improvement:g} Dice")
        names = ", ".join(f"{control.number} {control.kind}" for control in controls(self.space))
        shown = [f"dataset     {spec.name}: {spec.protocol}"]
        shown += [f"fold        {options.fold}, {spec.folds[options.fold]}: {self.sizes(options.fold, 'kept for testing')}"]
        kind = f"{'volumes' if spec.volumetric else 'images'} of {spec.image_channels} channel{'s' * (spec.image_channels > 1)}"
        shown += [f"cases       {kind}, samples of {spec.image_size} px; classes {', '.join(spec.classes)}"]
        shown += [f"space       {self.space.source}"]
        values = config.flatten()
        shown += [f"            {path}: {p} (published {values[path]})" for path, p in self.space.parameters.items()]
        shown += [f"trials      until {' or '.join(until)}; controls {names}"]
        steps = config.training.steps_per_epoch or "one pass"
        shown += [f"training    {config.training.epochs} epochs of {steps} steps, batch {config.training.batch_size}"]
        shown += [f"objectives  {', '.join(f'{OBJECTIVES[name]} {name}' for name in options.objectives)}"]
        first = max(self.startup, len(controls(self.space)) + len(self.warm_start.hints))
        start = f", from trial {first} on" if SAMPLERS[options.sampler].learns else ""
        shown += [f"sampler     {options.sampler}{start}"]
        shown += [f"            {SAMPLERS[options.sampler].advice}"] if advice else []
        start = "" if options.scheduler == "none" else f", from epoch {self.grace} on"
        shown += [f"scheduler   {options.scheduler}{start}"]
        shown += [f"            {SCHEDULERS[options.scheduler].advice}"] if advice else []
        if options.warm_start is not None:
            shown += [f"warm start  from {options.warm_start}: {self.warm_start}"]
        return [*shown, *self.resource_lines, f"seed        {options.seed}", *(f"note        {note}" for note in self.all_notes)]

    @property
    def resource_lines(self) -> list[str]:
        """What trials take, and why they share GPUs or do not."""
        why = [f"sharing     {self.sharing.reason}"] if self.sharing else []
        return [*why, f"resources   {self.resources}" + (", unless trials share a GPU" if self.undecided else "")]


def make_plan(options: Options, nodes: Sequence[Node], root: str = "results") -> Plan:
    """Decide everything; `root` is the lake.

    Raises:
        InputError: something asked for does not exist, does not fit together, or is more than the cluster has.
    """
    options = replace(options, sampler=options.sampler or default_sampler(len(options.objectives)))
    _check_strategy(options)
    resources = _size(options, nodes)
    space, notes = _choose_space(options, resources)
    if options.scheduler == POPULATION and not mutable(space):
        raise InputError(f"--scheduler pbt changes loss weights and learning rates, but {space.source} searches none; add one")
    options = replace(options, dataset=space.dataset)
    data = None if options.data is None else absolute(options.data)
    dataset = open_dataset(space.dataset, data, **space.options)
    space = space.fitted(dataset.spec)
    check_fit(space.base, dataset.spec, resources.workers)
    plan = Plan(options, space, resources, dataset, data, dataset.split(options.fold), tuple(notes), nodes=tuple(nodes))
    if options.warm_start is None:
        return plan
    return replace(plan, warm_start=gather(options.warm_start, root, space, plan.split_hash))


def remake_plan(description: Mapping[str, Any], options: Options, nodes: Sequence[Node]) -> Plan:
    """The plan of an experiment that is in the lake, with options that may differ from those it started with.

    Raises:
        InputError: as `make_plan` does; or the cases are others, or the GPUs are gone.
    """
    options, notes = _with_gpus_as_before(description, options, nodes)
    resources = _size(options, nodes)
    space = spaces.parse(description["space"], str(description["space"].get("source", "experiment.json")))
    dataset = open_dataset(space.dataset, options.data, **space.options)
    split = dataset.split(options.fold)
    space = space.fitted(dataset.spec)
    check_fit(space.base, dataset.spec, resources.workers)
    known = WarmStart.from_dict(description.get("warm_start") or {}, space)
    plan = Plan(
        options,
        space,
        resources,
        dataset,
        options.data,
        split,
        (*notes, *changes_since(description)),
        known,
        tuple(nodes),
        begun_with=description.get("startup"),
    )
    if plan.undecided:
        plan = plan.shared(_sharing_of(description, options))
    if plan.split_hash != description.get("split_hash"):
        raise InputError(f"the cases in {options.data or space.dataset} are not those that the experiment started with")
    return plan


def changes_since(description: Mapping[str, Any]) -> list[str]:
    """In words, how this machine's versions and the project's commit differ from those that an experiment began with."""
    then = dict(description.get("versions") or {}) | {"git commit": description.get("git_commit")}
    now = versions() | {"git commit": git_commit()}
    return [
        f"{name} was {then.get(name) or 'unknown'} then and is {now[name] or 'unknown'} now; figures may differ"
        for name in now
        if then.get(name) != now[name]
    ]


def _with_gpus_as_before(description: Mapping[str, Any], options: Options, nodes: Sequence[Node]) -> tuple[Options, list[str]]:
    """A search that began on GPUs does not go on without in silence, nor the other way round; notes say what is different."""
    began, there = (description.get("resources") or {}).get("gpus"), sum(node.gpus for node in nodes)
    if began and not there and _asks_for_auto(options):
        raise InputError(
            "the search began on GPUs, and none is visible here: see nvidia-smi and CUDA_VISIBLE_DEVICES, or let it go on on CPUs, "
            "with --gpus-per-worker 0"
        )
    if began == 0 and there and options.gpus_per_worker is None:
        note = "the search began without GPUs and goes on so; --gpus-per-worker 1 takes those that there are now"
        return replace(options, gpus_per_worker=0.0), [note]
    before = sum(node["gpus"] for node in description.get("machines") or ())
    fewer = f"{there:g} GPUs are visible, and {before:g} were when the search began: fewer trials run at once"
    return options, [fewer] if there < before and began else []


def _asks_for_auto(options: Options) -> bool:
    return options.gpus_per_worker in (None, AUTO)


def _sharing_of(description: Mapping[str, Any], options: Options) -> Sharing:
    """What an experiment has decided when it began."""
    if found := description.get("sharing"):
        return Sharing.from_dict(found)
    if options.gpus_per_worker == AUTO:
        raise InputError("--gpus-per-worker auto is measured when a search begins, which this one did without; name a number")
    return Sharing(1, "a trial has a GPU of its own: nothing else was decided when the search began")


def _size(options: Options, nodes: Sequence[Node]) -> Resources:
    """What a trial takes, of a search that begins or goes on, once the numbers in its options make sense."""
    for name, least in (("trials", 1), ("epochs", 1), ("max_concurrent", 1), ("workers_per_trial", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
    for name, value in (("gpu-hours", options.gpu_hours), ("cost-per-gpu-hour", options.cost_per_gpu_hour)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name} is {value:g}; it must be a number above 0")
    if options.min_improvement is not None and not 0 <= options.min_improvement < 1:
        raise InputError(f"--min-improvement is {options.min_improvement:g}; it is a difference of Dice, 0 or more and below 1")
    if options.scheduler == POPULATION and options.workers_per_trial > 1:
        raise InputError("--scheduler pbt needs trials of one worker")
    resources = size(options, nodes)
    if options.gpu_hours is not None and resources.gpus == 0:
        raise InputError("--gpu-hours limits a search whose trials take no GPU; give --time-budget instead")
    return resources


def _check_strategy(options: Options) -> None:
    objectives = options.objectives
    if objectives[:1] != ("dice",) or len(set(objectives)) < len(objectives) or not set(objectives) <= set(OBJECTIVES):
        raise InputError(f"--objectives is {','.join(objectives)!r}; name dice first, then any of {', '.join([*OBJECTIVES][1:])}")
    check_sampler(options.sampler, len(objectives))
    check_scheduler(options.scheduler)
    if options.scheduler == POPULATION and options.trials is None:
        raise InputError("--scheduler pbt needs --trials, the size of the population")


def _choose_space(options: Options, resources: Resources) -> tuple[Space, list[str]]:
    notes = []
    if options.space is not None:
        space = spaces.load(options.space)
        if options.dataset is not None and options.dataset != space.dataset:
            raise InputError(f"--dataset is {options.dataset}, but {space.source} searches {space.dataset}; leave one of them out")
    else:
        dataset = options.dataset or DEFAULT_DATASET
        if options.data is not None and options.dataset is None:
            dataset = recognise(local_folder(options.data))
            notes.append(f"{options.data} is read as the dataset {dataset}; --dataset names another")
        name = dataset
        if resources.gpus == 0 and f"{dataset}_cpu" in spaces.shipped():
            name = f"{dataset}_cpu"
            notes.append(f"no GPU: the space {name} has smaller models than the published ones; --space {dataset} has those")
        if name not in spaces.shipped():
            raise InputError(f"there is no search space for the dataset {dataset!r}; datasets with one: {', '.join(_names())}")
        space = spaces.load(name)
    changes = dict(parse_setting(item) for item in options.sets)
    of_data = {name: value for name, value in (("groups", options.groups), ("split", options.split)) if value is not None}
    check_own(space.dataset, of_data)
    changes |= {f"dataset.{name}": value for name, value in of_data.items()}
    if options.epochs is not None:
        changes["training.epochs"] = options.epochs
    if "training.seed" not in space.fixed and "training.seed" not in changes:
        changes["training.seed"] = options.seed
    freed = [path for path in changes if path in space.parameters]
    notes += [f"{path} is fixed to {changes[path]}, so it is not searched" for path in freed]
    return space.with_fixed(changes), notes


def _names() -> list[str]:
    return [name for name in spaces.shipped() if not name.endswith("_cpu")]
