"""The words of the lake for what a trial is, how it stands and how it went."""

from collections.abc import Mapping, Sequence

import numpy as np

Curve = Sequence[tuple[int, float]]
"""(epoch, best validation Dice so far), one per epoch."""

PUBLISHED, UNET, TRIED, SEARCHED = "published", "unet", "tried", "searched"
"""Kinds of trials: published settings, a plain U-Net of the same backbone, a person's own settings, proposals of the sampler."""

FINISHED, STOPPED, INFEASIBLE, DIVERGED, FAILED = "finished", "stopped", "infeasible", "diverged", "failed"
"""Trained and scored; stopped before its end; out of memory; a loss became NaN or infinite; any other error."""

SETTING, MACHINE, INPUT, STORE = "setting", "machine", "input", "store"
"""Whose fault it was that a trial did not end well: its settings', which the sampler learns; a machine's, upon which it is tried
again elsewhere; the user's, which ends the search; the store's, which is waited for."""

PENDING, RUNNING, INTERRUPTED = "pending", "running", "interrupted"

ACTIVE = (PENDING, RUNNING)
ENDED = (FINISHED, STOPPED, INFEASIBLE, DIVERGED, FAILED)
"""What is not taken up again; an interrupted trial goes on when its search does."""
FALLEN = (INFEASIBLE, DIVERGED, FAILED)
"""What is never called the best, whatever its Dice was before."""


def trial_id(number: int) -> str:
    """A trial's name in the lake and of its folder."""
    return f"{number:05d}"


def curve(dice: Mapping[int, float]) -> Curve:
    """(epoch, best Dice so far) from the Dice of every epoch."""
    epochs = sorted(dice)
    best = np.maximum.accumulate([dice[epoch] for epoch in epochs]).tolist() if epochs else []
    return list(zip(epochs, best, strict=True))
