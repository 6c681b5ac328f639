"""When a trial ends before its last epoch, and when a search ends: schedulers, budgets, what further trials would gain."""

from tune.stopping.breaker import Breaker
from tune.stopping.budget import Budget
from tune.stopping.halving import REDUCTION
from tune.stopping.improvement import DEFAULT_MIN_IMPROVEMENT, why_enough
from tune.stopping.ledger import Ledger
from tune.stopping.population import PopulationTraining, mutable
from tune.stopping.schedulers import (
    DEFAULT_SCHEDULER,
    HEDGE,
    POPULATION,
    SCHEDULERS,
    EarlyStopping,
    InOrder,
    check_scheduler,
    grace_epochs,
    make_scheduler,
)
