"""Regression by a Gaussian process over a search space (Rasmussen and Williams 2006, sections 2.2, 4.2 and 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize

FloatArray = npt.NDArray[np.float64]

_STEPS = 60
_JITTER = 1e-9


@dataclass
class GaussianProcess:
    """Regression with a Matern 5/2 kernel, a length for each field, and noise; all chosen by the marginal likelihood.

    A weak prior, log-normal, keeps the lengths of few trials sensible.
    """

    points: list[FloatArray]
    """Per field an array (trials, columns)."""
    targets: FloatArray
    """(trials,)"""
    left_out: FloatArray = field(init=False)
    """(trials,): what is foretold of each trial from all others."""

    def __post_init__(self) -> None:
        self._offset, self._scale = float(self.targets.mean()), float(self.targets.std()) or 1.0
        squares, y = squares_between(self.points, self.points), (self.targets - self._offset) / self._scale
        fields = len(squares)
        bounds = [(-4.0, 3.0), (-8.0, 0.7), *[(-3.0, 4.0)] * fields]
        starts = [np.array([0.0, noise, *[length] * fields]) for noise, length in ((-4.0, 0.0), (-1.0, 1.0))]
        found = [
            optimize.minimize(_loss, start, args=(squares, y), jac=True, bounds=bounds, options={"maxiter": _STEPS})
            for start in starts
        ]
        self._chosen: FloatArray = min(found, key=lambda result: float(result.fun)).x
        inverse = np.linalg.inv(_kernel(self._chosen, squares)[0] + np.exp(self._chosen[1]) * np.eye(len(y)))
        self._weights = inverse @ y
        self.left_out = self._offset + self._scale * (y - self._weights / np.diag(inverse))

    def mean(self, points: list[FloatArray]) -> FloatArray:
        """Expected values (points,)."""
        return self._offset + self._scale * (_kernel(self._chosen, squares_between(points, self.points))[0] @ self._weights)


def _kernel(logs: FloatArray, squares: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Matern 5/2 (n, m), the factor common to its derivatives by the log lengths, and the scaled squares (fields, n, m)."""
    scaled = squares * np.exp(-2 * logs[2:])[:, None, None]
    root = np.sqrt(5 * scaled.sum(axis=0))
    decayed = np.exp(logs[0] - root)
    return (1 + root + root**2 / 3) * decayed, 5 / 3 * (1 + root) * decayed, scaled


def _loss(logs: FloatArray, squares: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
    """Negative log posterior of (amplitude, noise, lengths), given as logarithms, and its gradient."""
    kernel, slope, scaled = _kernel(logs, squares)
    noise = np.exp(logs[1])
    lower = linalg.cholesky(kernel + (noise + _JITTER) * np.eye(len(y)), lower=True)
    inverse = linalg.cho_solve((lower, True), np.eye(len(y)))
    weights = inverse @ y
    loss = 0.5 * y @ weights + np.log(np.diag(lower)).sum() + 0.5 * (logs[2:] ** 2).sum() / 2
    outer = 0.5 * (inverse - np.outer(weights, weights))
    lengths = np.tensordot(scaled, outer * slope, axes=2) + 0.5 * logs[2:]
    return float(loss), np.concatenate([[(outer * kernel).sum(), noise * np.trace(outer)], lengths])


def squares_between(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> FloatArray:
    """Squared distances (fields, n, m)."""
    return np.stack([((a[:, None] - b[None]) ** 2).sum(axis=-1) for a, b in zip(one, other, strict=True)])
