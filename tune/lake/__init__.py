"""The results lake: where rows are written, kept safe while a store is away, read and looked after."""

from tune.lake.checkpoints import KEPT, Pruned, prune
from tune.lake.driver import Lease, LostError, TakenError, hold, lease_of
from tune.lake.experiments import (
    Experiment,
    amend_experiment,
    create_experiment,
    git_commit,
    read_experiment,
    refuse_taken,
    versions,
)
from tune.lake.mirror import Mirror, ray_storage
from tune.lake.reader import Lake, compact, load, read_log
from tune.lake.s3 import RemoteError
from tune.lake.storage import REPEATED, Store, check_writable
from tune.lake.tables import KEYS, SCHEMA_VERSION, SCHEMAS, LakeWarning, write_file
from tune.lake.writer import Writer, send
