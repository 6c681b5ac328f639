"""One trial, on the machine where it runs: training, scoring, and its two ways to run on Ray."""

from tune.trials.alongside import PULSE_SECONDS
from tune.trials.faults import Fault
from tune.trials.log import LOG
from tune.trials.mps import mps_folder, start_mps, stop_mps
from tune.trials.settings import Message, TrialSettings
from tune.trials.together import SHARED_OUT, kinds_of_steps, limit_memory, side_by_side
from tune.trials.trainable import CdalTrial, request
from tune.trials.training import LOSS, messages, metrics_row
