"""Whether more trials still pay: how much the next ones are expected to raise the best Dice.

The last third of the searched trials (20 at least) shows what the sampler proposes nowadays. The next ten are taken for draws of
the same kind: from those trials' Dice, each smeared by a normal kernel (Silverman 1986, equation 3.31), whose tail stands for what
has not been seen yet. (A model of the settings would know more in two dimensions; in ten it keeps hoping for every corner.)
"""

from collections.abc import Sequence

import numpy as np

AHEAD = 10
LEAST_TRIALS = 30
DEFAULT_MIN_IMPROVEMENT = 0.001

_RECENT = (20, 3)  # at least, and one in how many
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
    width = 0.9 * spread * len(recent) ** -0.2
    rng = np.random.default_rng(0)
    drawn = rng.choice(recent, (_DRAWS, ahead)) + width * rng.standard_normal((_DRAWS, ahead))
    best = np.minimum(drawn.max(axis=1), 1.0)
    return float(np.maximum(best - max(dice), 0.0).mean())


def why_enough(dice: Sequence[float], min_improvement: float) -> str | None:
    """One sentence on why the search may end; None where it shall go on. For the arguments see `expected_gain`."""
    gain = expected_gain(dice)
    if gain is None or gain >= min_improvement:
        return None
    return (
        f"the next {AHEAD} trials are expected to raise the best Dice by {gain:.5f}, less than {min_improvement:g} "
        "(--min-improvement; 0 goes on)"
    )
