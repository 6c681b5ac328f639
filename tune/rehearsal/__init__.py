"""Strategies on recorded curves: what was recorded, a simulated cluster, medians over seeds."""

from tune.rehearsal.advice import CHOICES, advice_table, advise, in_words, trials_that_fit
from tune.rehearsal.curves import LearningCurve, Recording, Surrogate, families, read
from tune.rehearsal.medians import Estimate, estimate_ratio
from tune.rehearsal.runs import Plan, about, rehearse, run_one, summary, table
from tune.rehearsal.simulation import Cluster, Simulation
from tune.rehearsal.strategies import STRATEGIES, Strategy, strategy
