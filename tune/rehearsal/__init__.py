"""Strategies on recorded curves: what was recorded, a simulated cluster, medians over seeds."""

from tune.rehearsal.curves import Recording, Surrogate, families, read
from tune.rehearsal.medians import Estimate, estimate, estimate_ratio, number
from tune.rehearsal.simulation import Cluster, simulate

__all__ = ["Cluster", "Estimate", "Recording", "Surrogate", "estimate", "estimate_ratio", "families", "number", "read", "simulate"]
