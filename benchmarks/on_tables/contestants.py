"""Strategies by name, on fields that are none of this project's configuration.

default              what tune/search.py does, but that nothing is published and that it does not end early
SAMPLER+SCHEDULER    others of its samplers and schedulers: the default with a part exchanged
late                 the default with its first rung after an eighth of a training
ending               the default with its early end: as it is
guided, misled       the default, told to try first what is near the best setting known, or the worst
ray                  OptunaSearch and ASHAScheduler of Ray Tune as they come
random               random settings, each trained to its end
syne-asha, syne-cqr  ASHA of Syne Tune as it comes, with random settings and with its conformal quantile regression
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from cdal.errors import InputError
from on_tables.tables import Fields, Table
from tune.lake.status import TRIED
from tune.proposing import Proposal, Queue, Study, TruthfulSearcher, check_sampler, default_sampler, startup_trials
from tune.rehearsal import Strategy
from tune.stopping import DEFAULT_MIN_IMPROVEMENT, DEFAULT_SCHEDULER, check_scheduler, grace_epochs, make_scheduler, why_enough

VARIANTS = ("default", "ending", "late", "guided", "misled")
SYNE = {"syne-asha": "random_search", "syne-cqr": "cqr"}


def make(name: str, table: Table, at_once: int, seed: int) -> Strategy:
    """A strategy for one search."""
    fields = table.fields
    if name in SYNE:
        return _syne(SYNE[name], table, seed)
    if name == "ray":
        searcher = OptunaSearch(fields.distributions, metric="dice", mode="max", seed=seed)
        return Strategy(searcher, ASHAScheduler(metric="dice", mode="max", max_t=table.epochs))
    if name == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
        searcher = OptunaSearch(fields.distributions, metric="dice", mode="max", sampler=sampler)
        return Strategy(searcher, FIFOScheduler())
    sampler, _, scheduler = name.partition("+")
    if name in VARIANTS:
        sampler, scheduler = default_sampler(1), DEFAULT_SCHEDULER
    grace = max(1, table.epochs // 8) if name == "late" else grace_epochs(scheduler, table.epochs)
    tries = {"guided": [table.near_best(seed)], "misled": [table.extremes[1]]}.get(name, [])
    least = DEFAULT_MIN_IMPROVEMENT if name == "ending" else 0
    return _ours(fields, table.epochs, at_once, seed, sampler, scheduler, grace, tries, least)


def check(name: str) -> None:
    """Raise InputError where there is no such strategy, or where Syne Tune is not installed."""
    if name in SYNE:
        try:
            import syne_tune  # noqa: F401
        except ModuleNotFoundError:
            raise InputError(f"{name} needs Syne Tune; `pip install syne-tune`, or the extra cdal-search[compare]") from None
    elif name not in (*VARIANTS, "ray", "random"):
        sampler, plus, scheduler = name.partition("+")
        if not plus:
            known = ", ".join((*VARIANTS, "ray", "random", *SYNE))
            raise InputError(f"--strategies names {name!r}; strategies are {known}, and SAMPLER+SCHEDULER, such as gp+median")
        check_sampler(sampler)
        check_scheduler(scheduler)


def _ours(
    fields: Fields,
    epochs: int,
    at_once: int,
    seed: int,
    sampler: str,
    scheduler: str,
    grace: int,
    tries: Sequence[Mapping[str, Any]],
    least: float,
) -> Strategy:
    startup, space = startup_trials(None, at_once), fields
    study = Study(space, seed=seed, startup=startup, sampler=sampler)
    queue = Queue(space, study, None, len(tries), [Proposal(number, TRIED, values) for number, values in enumerate(tries)])
    study.first = len(tries)

    def configure(proposal: Proposal) -> dict[str, Any]:
        return {"number": proposal.number, "kind": proposal.kind, "values": proposal.values}

    def enough() -> bool:
        return least > 0 and why_enough(study.sampled, study.progress, epochs, least) is not None

    searcher = TruthfulSearcher(queue, configure, lambda proposal, reason: None, enough)
    return Strategy(searcher, make_scheduler(scheduler, epochs=epochs, grace=grace, startup=startup))


def _syne(searcher: str, table: Table, seed: int) -> Strategy:
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
    from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving

    def domain(each: Any) -> Any:
        if isinstance(each, CategoricalDistribution):
            return choice(list(each.choices))
        if isinstance(each, IntDistribution):
            return (lograndint if each.log else randint)(each.low, each.high)
        assert isinstance(each, FloatDistribution)
        return (loguniform if each.log else uniform)(each.low, each.high)

    theirs = AsynchronousSuccessiveHalving(
        {name: domain(each) for name, each in table.fields.distributions.items()},
        metric="dice",
        do_minimize=False,
        searcher=searcher,
        time_attr="epoch",
        max_t=table.epochs,
        random_seed=seed,
    )
    logging.getLogger("syne_tune").setLevel(logging.ERROR)  # it warns of every trial that diverged
    trials: dict[str, Any] = {}

    class Theirs(Searcher):
        def suggest(self, trial_id: str) -> dict[str, Any]:
            suggestion = theirs.suggest()
            trials[trial_id] = Trial(int(trial_id), suggestion.config, datetime.now())
            theirs.on_trial_add(trials[trial_id])
            return dict(suggestion.config)

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if error:
                theirs.on_trial_error(trials[trial_id])

    class Rule(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            told = {"dice": result["dice"], "epoch": result["epoch"]}
            if result["epoch"] >= table.epochs:
                theirs.on_trial_complete(trials[trial.trial_id], told)
                return str(TrialScheduler.CONTINUE)
            goes_on = theirs.on_trial_result(trials[trial.trial_id], told) == "CONTINUE"
            return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    return Strategy(Theirs(), Rule())
