"""One search at work: its options and plan, the machines, the estimate, the session and what it records and shows."""

from tune.running.machines import Node, cluster_nodes, connect, this_machine
from tune.running.measuring import measure
from tune.running.options import Options, absolute, parse_duration, parse_gpus
from tune.running.overseer import Overseer
from tune.running.plan import Plan, changes_since, make_plan, remake_plan
from tune.running.preflight import check_machine
from tune.running.progress import Progress, best_of, brief, clock, describe_kind, top_table
from tune.running.recorder import Record, Recorder
from tune.running.session import Session, trial_config
from tune.running.sharing import Sharing, measure_sharing
from tune.running.tuning import RequestsToEnd, make_tuner, run_tuner, stop_sharing, trial_settings
