"""Whether more trials still pay. Three things must say that they do not:

* Evidence: the trials have trained as many epochs as twenty whole trainings.
* The past: in the last third of those epochs the best Dice rose by less than is asked for. Whatever finds better settings every now
  and then, such as a lucky draw, has had half as much time again as it took before.
* The sampler: the last third of its trials (20 at least) shows what it proposes nowadays, and the next ten are taken for draws of
  the same kind: those trials' Dice, each smeared by a normal kernel twice as wide as Silverman's (1986, equation 3.31), whose tail
  stands for what has not been seen yet and for the error of this very estimate. (A model of the settings would know more in two
  dimensions; in ten it keeps hoping for every corner.)
"""

from collections.abc import Sequence

import numpy as np

AHEAD = 10
LEAST_TRIALS, LEAST_TRAININGS = 30, 20
DEFAULT_MIN_IMPROVEMENT = 0.001

_RECENT = (20, 3)  # at least, and one in how many
_LATELY = 3  # one in how many epochs
_DOUBT = 2.0
_DRAWS = 4000


def expected_gain(dice: Sequence[float], *, ahead: int = AHEAD) -> float | None:
    """How much the next trials are expected to raise the best Dice.

    Args:
        dice: best validation Dice of every ended trial that the sampler proposed, in order of proposal, those stopped early too.
        ahead: how many trials to look ahead.

    Returns:
        A Dice, 0 or more; None with fewer than `LEAST_TRIALS` trials, which say too little.
    """
    if len(dice) < LEAST_TRIALS:
        return None
    least, share = _RECENT
    recent = np.asarray(dice[-max(least, len(dice) // share) :])
    low, high = np.percentile(recent, [25, 75])
    spread = min(recent.std(), (high - low) / 1.34) or recent.std()
    width = _DOUBT * 0.9 * spread * len(recent) ** -0.2
    rng = np.random.default_rng(0)
    drawn = rng.choice(recent, (_DRAWS, ahead)) + width * rng.standard_normal((_DRAWS, ahead))
    best = np.minimum(drawn.max(axis=1), 1.0)
    return float(np.maximum(best - max(dice), 0.0).mean())


def why_enough(dice: Sequence[float], progress: Sequence[float], epochs: int, min_improvement: float) -> str | None:
    """One sentence on why the search may end; None where it shall go on.

    Args:
        dice: see `expected_gain`.
        progress: best Dice of such trials so far, after every epoch that any of them trained, in the order in which they did.
        epochs: of a whole trial.
        min_improvement: of the best Dice, above 0.
    """
    if len(progress) < LEAST_TRAININGS * epochs:
        return None
    lately = len(progress) // _LATELY
    if progress[-1] - progress[-1 - lately] >= min_improvement:
        return None
    gain = expected_gain(dice)
    if gain is None or gain >= min_improvement:
        return None
    return (
        f"the best Dice has not risen by {min_improvement:g} in the last {lately} of {len(progress)} epochs, and the next {AHEAD} "
        f"trials are expected to raise it by {gain:.5f} (--min-improvement; 0 goes on)"
    )
