"""Regression by a Gaussian process over a search space (Rasmussen and Williams 2006, sections 2.2, 4.2 and 5.4)."""

from collections.abc import Callable, Sequence
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
    variances: FloatArray | None = None
    """(trials,): known noise of each target, besides what is common to all."""
    given: FloatArray | None = None
    """Hyperparameters of an earlier fit, to be taken over."""
    hyperparameters: FloatArray = field(init=False)
    """Logarithms of amplitude, noise, and a length for each field."""

    def __post_init__(self) -> None:
        self._offset, self._scale = float(self.targets.mean()), float(self.targets.std()) or 1.0
        y = (self.targets - self._offset) / self._scale
        variances = np.zeros(len(y)) if self.variances is None else self.variances
        if self.given is None:
            self.hyperparameters = _choose(squares_between(self.points, self.points), y, variances / self._scale**2)
        else:
            self.hyperparameters = self.given
        self._lower = self._factor(self.points, variances)
        self._weights: FloatArray = linalg.cho_solve((self._lower, True), y)

    @property
    def left_out(self) -> FloatArray:
        """(trials,): what is foretold of each trial from all others."""
        inverse = linalg.cho_solve((self._lower, True), np.eye(len(self.targets)))
        return np.asarray(self.targets - self._scale * self._weights / np.diag(inverse))

    def mean(self, points: list[FloatArray]) -> FloatArray:
        """Expected values (points,)."""
        kernel = _covariance(self.hyperparameters, points, self.points)
        return np.asarray(self._offset + self._scale * (kernel @ self._weights))

    def deviations(self, points: list[FloatArray], variances: FloatArray) -> Callable[[list[FloatArray]], FloatArray]:
        """Standard deviations (n,) at other points, if these are all that is known; what was found there does not matter."""
        logs, lower = self.hyperparameters, self._factor(points, variances)

        def at(others: list[FloatArray]) -> FloatArray:
            explained = linalg.solve_triangular(lower, _covariance(logs, points, others), lower=True)
            return np.asarray(self._scale * np.sqrt(np.maximum(np.exp(logs[0]) - (explained**2).sum(axis=0), _JITTER)))

        return at

    def _factor(self, points: list[FloatArray], variances: FloatArray) -> FloatArray:
        """Lower Cholesky factor (n, n) of the covariance with noise."""
        noise = np.exp(self.hyperparameters[1]) + variances / self._scale**2 + _JITTER
        return np.asarray(linalg.cholesky(_covariance(self.hyperparameters, points, points) + np.diag(noise), lower=True))


def _choose(squares: FloatArray, y: FloatArray, known: FloatArray) -> FloatArray:
    bounds = [(-4.0, 3.0), (-8.0, 0.7), *[(-3.0, 4.0)] * len(squares)]
    starts = [np.array([0.0, noise, *[length] * len(squares)]) for noise, length in ((-4.0, 0.0), (-1.0, 1.0))]
    found = [
        optimize.minimize(_loss, start, args=(squares, y, known), jac=True, bounds=bounds, options={"maxiter": _STEPS})
        for start in starts
    ]
    return np.asarray(min(found, key=lambda result: float(result.fun)).x)


def _covariance(logs: FloatArray, one: Sequence[FloatArray], other: Sequence[FloatArray]) -> FloatArray:
    """Matern 5/2 (n, m), with one product of matrices: there may be thousands of points."""
    a, b = (np.concatenate([x * np.exp(-log) for x, log in zip(points, logs[2:], strict=True)], axis=1) for points in (one, other))
    root = np.sqrt(5 * np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0))
    return _matern(root, np.exp(logs[0] - root))


def _matern(root: FloatArray, decayed: FloatArray) -> FloatArray:
    return np.asarray((1 + root + root**2 / 3) * decayed)


def _loss(logs: FloatArray, squares: FloatArray, y: FloatArray, known: FloatArray) -> tuple[float, FloatArray]:
    """Negative log posterior of (amplitude, noise, lengths), given as logarithms, and its gradient."""
    scaled = squares * np.exp(-2 * logs[2:])[:, None, None]
    root = np.sqrt(5 * scaled.sum(axis=0))
    decayed, noise = np.exp(logs[0] - root), np.exp(logs[1])
    kernel, slope = _matern(root, decayed), 5 / 3 * (1 + root) * decayed  # the latter is common to the derivatives by the lengths
    lower = linalg.cholesky(kernel + np.diag(noise + known + _JITTER), lower=True)
    inverse = linalg.cho_solve((lower, True), np.eye(len(y)))
    weights = inverse @ y
    loss = 0.5 * y @ weights + np.log(np.diag(lower)).sum() + 0.5 * (logs[2:] ** 2).sum() / 2
    outer = 0.5 * (inverse - np.outer(weights, weights))
    lengths = np.tensordot(scaled, outer * slope, axes=2) + 0.5 * logs[2:]
    return float(loss), np.concatenate([[(outer * kernel).sum(), noise * np.trace(outer)], lengths])


def squares_between(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> FloatArray:
    """Squared distances (fields, n, m)."""
    return np.stack([((a[:, None] - b[None]) ** 2).sum(axis=-1) for a, b in zip(one, other, strict=True)])
