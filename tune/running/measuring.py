"""What is measured before a search starts, on one trial's worker: how fast its settings are, and how many trials share a GPU."""

import gc

import ray
import torch

from cdal.config import Config
from tune.lake.status import SEARCHED
from tune.running.estimate import Pace, Paces, calibrate
from tune.running.machines import Node, connect
from tune.running.plan import Plan
from tune.running.sharing import Sharing, as_asked, measure_sharing
from tune.running.tuning import trial_settings
from tune.trials import limit_memory

_CANCEL_SECONDS = 10.0


def measure(plan: Plan, machine: Node | None) -> tuple[Plan, Paces | None]:
    """The plan with as many trials on a GPU as are worthwhile, and how fast a trial alone is; None where its settings do not run.

    Args:
        plan: what to do.
        machine: what this machine gives to trials; None on a cluster, where one of its workers measures.
    """
    on_gpu = plan.resources.gpus > 0
    if machine is not None and not on_gpu:
        paces, sharing = _measure(plan, "cpu")
    else:
        connect(None, this=machine)
        task = ray.remote(max_calls=1)(_measure)  # a process that used a GPU holds some of it until it ends
        found = task.options(num_cpus=plan.resources.cpus, num_gpus=plan.resources.gpus).remote(plan, "cuda" if on_gpu else "cpu")
        try:
            paces, sharing = ray.get(found)
        except (KeyboardInterrupt, SystemExit):
            ray.cancel(found)  # it ends what it has started
            ray.wait([found], timeout=_CANCEL_SECONDS)
            raise
    return plan if sharing is None else plan.shared(sharing), paces


def _measure(plan: Plan, device: str) -> tuple[Paces | None, Sharing | None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(plan.resources.cpus)))
    if device == "cuda":
        limit_memory(plan.resources.gpus)

    def pace(config: Config) -> Pace | None:
        share = config.training.batch_size // plan.resources.workers
        try:
            return calibrate(config.replace({"training.batch_size": share}), plan.dataset, fold=plan.options.fold, device=device)
        except (RuntimeError, MemoryError):  # mostly too little memory, of which its trials will tell
            return None

    try:
        published, typical = pace(plan.published), pace(plan.typical)
        paces = None
        if one := typical or published:
            paces = Paces(one, published or one)
        return paces, _sharing(plan, published, typical, device)
    finally:
        torch.set_num_threads(threads)


def _sharing(plan: Plan, published: Pace | None, typical: Pace | None, device: str) -> Sharing | None:
    if 0 < plan.resources.gpus < 1:
        return as_asked(plan.resources.gpus)
    if not plan.undecided:
        return None
    if published is None or typical is None:
        return Sharing(1, "a trial has a GPU of its own: settings of the search do not fit it alone")
    gc.collect()
    torch.cuda.empty_cache()
    cpus, trials = plan.per_gpu
    settings = trial_settings(plan, 0, SEARCHED, plan.typical, "")
    return measure_sharing(settings, peak_memory=max(published.memory, typical.memory), cpus=cpus, trials=trials)
