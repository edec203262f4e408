"""Regularised multinomial logistic regression on scikit-learn's digits, with known constants.

The convergence bounds need a problem whose Lipschitz constant, bound on stochastic gradients and
minimum are known, and whose gradient is cheap at any point. This is the smallest real one:
1,797 images of 8 x 8 pixels, bundled with scikit-learn.

    f(theta) = mean over samples i of [log sum_c exp(x_i . theta_c) - x_i . theta_{y_i}]
               + regularization / 2 ||theta||^2

Parameters are flat, feature by feature: entry feature * classes + class. Leading axes of an array
of parameters are copies (one per seed, say), which are treated at once.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simcore.errors import InputError

__all__ = ["FloatArray", "IntArray", "LogisticProblem", "Minimum", "digits", "split"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """Where an optimiser stopped; `gradient_norm` says how close to the minimum that is.

    With regularisation mu > 0 the loss is mu-strongly convex, so that
    `loss` - f* <= `gradient_norm`^2 / (2 mu).
    """

    parameters: FloatArray  # (parameters,)
    loss: float
    gradient_norm: float


@dataclass(frozen=True, slots=True, eq=False)
class LogisticProblem:
    """The loss above: `features` (samples, features), `labels` (samples,) in 0..classes-1."""

    features: FloatArray
    labels: IntArray
    classes: int
    regularization: float

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.labels)

    @property
    def parameters(self) -> int:
        """How many parameters there are."""
        return int(self.features.shape[1]) * self.classes

    def loss(self, parameters: FloatArray) -> FloatArray:
        """f at each copy: (..., parameters) -> (...)."""
        scores = self._scores(parameters)  # (samples, classes, copies)
        top = scores.max(axis=1)
        normalizer = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        chosen = scores[np.arange(self.samples), self.labels]
        mean = (normalizer - chosen).mean(axis=0).reshape(parameters.shape[:-1])
        return np.asarray(mean + self.regularization / 2 * (parameters**2).sum(axis=-1))

    def gradient(self, parameters: FloatArray) -> FloatArray:
        """The gradient of f at each copy: (..., parameters) -> (..., parameters)."""
        residuals = _softmax(self._scores(parameters))  # (samples, classes, copies)
        residuals[np.arange(self.samples), self.labels] -= 1
        means = self.features.T @ residuals.reshape(self.samples, -1) / self.samples
        flat = means.reshape(self.parameters, -1).T.reshape(parameters.shape)
        return np.asarray(flat + self.regularization * parameters)

    def batch_gradient(self, parameters: FloatArray, samples: IntArray) -> FloatArray:
        """The mini-batch gradient at each copy, each with a mini-batch of its own.

        (copies, parameters), (copies, batch size) -> (copies, parameters). It is unbiased for
        `gradient` if samples are drawn uniformly; the regularisation is exact in every batch.
        """
        features = self.features[samples]  # (copies, batch size, features)
        weights = parameters.reshape(len(parameters), -1, self.classes)
        residuals = _softmax((features @ weights).transpose(1, 2, 0))  # (batch, classes, copies)
        copies, size = samples.shape
        residuals[np.arange(size)[:, None], self.labels[samples].T, np.arange(copies)] -= 1
        means = features.transpose(0, 2, 1) @ residuals.transpose(2, 0, 1) / size
        return np.asarray(means.reshape(parameters.shape) + self.regularization * parameters)

    def lipschitz(self) -> float:
        """Lipschitz constant of the gradient of f: lambda_max(X^T X / samples) / 2 + mu.

        For one sample the Hessian in the scores is diag(p) - p p^T <= (I - 1 1^T / classes) / 2 <=
        I / 2 (Böhning 1992, Multinomial logistic regression algorithm, Ann. Inst. Stat. Math. 44,
        section 2); in the parameters it is x x^T (Kronecker) that, and the mean over samples of
        x x^T is X^T X / samples. The regularisation adds mu I.
        """
        largest = np.linalg.eigvalsh(self.features.T @ self.features / self.samples)[-1]
        return float(largest) / 2 + self.regularization

    def second_moment(self, radius: float) -> float:
        """A: bounds ||g||^2 of every mini-batch gradient g, anywhere in ||theta|| <= radius.

        The gradient of sample i is x_i (p_i - e_{y_i})^T + mu theta. With q the probability of
        the true class, ||p - e_y||^2 = (1 - q)^2 + sum of the other p_c^2 <= 2 (1 - q)^2 < 2, so
        its norm is at most sqrt(2) max_i ||x_i|| + mu radius, and so is that of a mean of such.
        It bounds the full gradient as well.
        """
        longest = float(np.linalg.norm(self.features, axis=1).max())
        return (math.sqrt(2) * longest + self.regularization * radius) ** 2

    def coupling(self, blocks: tuple[slice, ...]) -> float:
        """How far a block's gradient moves with the *other* blocks, at theta = 0.

        The spectral norm of the Hessian at 0, X^T X / samples (Kronecker) (I - 1 1^T / classes) /
        classes + mu I, without its diagonal blocks. 0 if and only if blocks do not interact there.
        """
        from scipy.sparse.linalg import eigsh

        moments = self.features.T @ self.features / self.samples
        centring = np.eye(self.classes) - 1 / self.classes
        hessian = np.kron(moments, centring / self.classes)  # (parameters, parameters)
        for block in blocks:
            hessian[block, block] = 0
        if not hessian.any():
            return 0.0
        start = np.linspace(0.0, 1.0, self.parameters)  # so that equal calls give equal results
        largest = eigsh(hessian, k=1, which="LM", v0=start, return_eigenvectors=False)
        return abs(float(largest[0]))

    def minimum(self) -> Minimum:
        """theta* and f*, by L-BFGS from 0, until it finds no lower point in floating point."""
        from scipy.optimize import minimize

        def both(point: FloatArray) -> tuple[float, FloatArray]:
            return float(self.loss(point)), self.gradient(point)

        options = {"ftol": 0.0, "gtol": 1e-10, "maxiter": 10_000, "maxcor": 30}
        start = np.zeros(self.parameters)
        found = minimize(both, start, jac=True, method="L-BFGS-B", options=options)
        norm = float(np.linalg.norm(self.gradient(found.x)))
        return Minimum(np.asarray(found.x), float(found.fun), norm)

    def _scores(self, parameters: FloatArray) -> FloatArray:
        # Copies come last, so that sums over classes run along contiguous memory.
        weights = parameters.reshape(-1, self.parameters).T.reshape(self.features.shape[1], -1)
        scores = self.features @ weights
        return np.asarray(scores.reshape(self.samples, self.classes, -1))


def digits(regularization: float = 0.01) -> LogisticProblem:
    """The digits: pixels / 16, centred, and a constant 1; 65 features, 10 classes.

    Centring takes the mean image out of X^T X, and with it nine tenths of the Lipschitz constant.
    """
    from sklearn.datasets import load_digits

    if not regularization > 0:
        rule, remedy = "must be more than 0, or no minimum need exist", "give 0.01, say"
        raise InputError("regularization", regularization, rule, remedy)
    images, labels = load_digits(return_X_y=True)
    pixels = images / 16
    features = np.column_stack([pixels - pixels.mean(axis=0), np.ones(len(pixels))])
    return LogisticProblem(features, labels.astype(np.int64), 10, regularization)


def split(parameters: int, modules: int) -> tuple[slice, ...]:
    """Contiguous blocks of parameters, whose sizes differ by at most one; block 1 comes first.

    >>> split(10, 3)
    (slice(0, 4, None), slice(4, 7, None), slice(7, 10, None))

    Raises:
        InputError: fewer than one module, or more modules than parameters.
    """
    if not 1 <= modules <= parameters:
        rule = f"must be from 1 to {parameters}, the number of parameters"
        raise InputError("modules", modules, rule, "give fewer modules")
    size, longer = divmod(parameters, modules)
    ends = [size * k + min(k, longer) for k in range(modules + 1)]
    return tuple(slice(a, b) for a, b in pairwise(ends))


def _softmax(scores: FloatArray) -> FloatArray:
    # (..., classes, copies), over classes
    powers = np.exp(scores - scores.max(axis=-2, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-2, keepdims=True))
