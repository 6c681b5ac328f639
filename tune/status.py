"""The words of the lake for what a trial is and how it stands."""

PUBLISHED, UNET, SEARCHED = "published", "unet", "searched"
"""Kinds of trials: published settings, a plain U-Net of the same backbone, proposals of the sampler."""

FINISHED, STOPPED, INFEASIBLE, DIVERGED, FAILED = "finished", "stopped", "infeasible", "diverged", "failed"
"""Trained and scored; stopped before its end; out of memory; a loss became NaN or infinite; any other error."""

PENDING, RUNNING, INTERRUPTED = "pending", "running", "interrupted"

ACTIVE = (PENDING, RUNNING)
ENDED = (FINISHED, STOPPED, INFEASIBLE, DIVERGED, FAILED)
"""What is not taken up again; an interrupted trial goes on when its search does."""
