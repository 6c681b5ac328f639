"""What to try next: search spaces, samplers, the study that is told the truth, what earlier searches know."""

from tune.proposing.axes import Axis
from tune.proposing.extrapolation import extrapolate, from_logit, to_logit
from tune.proposing.gaussian_process import FloatArray, GaussianProcess, squares_between
from tune.proposing.own_settings import settings
from tune.proposing.parameters import Parameter
from tune.proposing.samplers import SAMPLERS, check_sampler, default_sampler
from tune.proposing.searcher import StatelessSearcher, TruthfulSearcher
from tune.proposing.space import Space, from_optuna, to_optuna
from tune.proposing.study import OBJECTIVES, Outcome, Proposal, Queue, Study, controls, startup_trials
from tune.proposing.warm_start import WarmStart, costs_of, gather
