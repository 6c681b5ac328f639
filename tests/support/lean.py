"""Ray's nodes without what a test does not look at: no helpers that follow logs or show pages, no processes started in advance."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_worker_niceness": "0",  # Ray's processes would yield to whatever else is tested here
}
NODE = ["--include-log-monitor=false"]
HEAD = [*NODE, "--include-dashboard=false", "--no-monitor"]
