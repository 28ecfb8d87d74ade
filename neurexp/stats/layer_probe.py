"""The probe on all neurons of a layer: how well does a regularised logistic regression predict held-out rows?

Knows no word and no model. Time is linear in the rows, the neurons (in blocks), the categories and the labellings.
Memory is one copy of the rows, and a matrix of `BLOCK` × neurons.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from neurexp.stats.chunks import CHUNK_SIZE, ProgressCallback, chunks, neuron_chunks, no_progress

REGULARISATION = 1.0  # scikit-learn's C
FLOAT64_SIZE = 2**22  # rows × neurons × categories, above which the arithmetic is float32
FEW_ROWS = 1000  # up to which the matrix rows × rows is decomposed
BLOCK = 4096  # neurons that are whitened together
EVALUATIONS = 2000  # of the loss, at most
GRADIENT = {np.dtype(np.float64): 1e-5, np.dtype(np.float32): 3e-3}  # tolerance, on whitened weights


def layer_accuracy(
    x: np.ndarray, labellings: np.ndarray, fold: np.ndarray, progress: ProgressCallback = no_progress
) -> np.ndarray:
    """Held-out accuracy of an L2-regularised logistic regression on all neurons of a layer, `[labellings]`.

    For two categories or more. Neurons are standardised on the training rows. The fit is that of scikit-learn with
    C = 1. Its penalty is invariant under rotation, so if the training rows are few (at most the number of neurons, and
    at most `FEW_ROWS`), they are first rotated into the space that they span.

    The arithmetic is float64 if rows × neurons × categories (1 for two categories) is at most `FLOAT64_SIZE`, and
    float32 above. In measurements, float32 changed no prediction, or one in some hundreds: a row that lies almost on
    the decision boundary. Another choice of folds changes far more.

    Args:
        x: `[rows, neurons]`.
        labellings: `[labellings, rows]`: the labels, and shuffles of them.
        fold: `[rows]`, as from `probe.folds`.
        progress: called with each share of the work that is done.
    """
    if x.size <= CHUNK_SIZE:  # on matrices this small, threads wait for each other more than they work
        with threadpool_limits(1, user_api="blas"):
            return _accuracy(x, labellings, fold, progress)
    return _accuracy(x, labellings, fold, progress)


def _accuracy(x: np.ndarray, labellings: np.ndarray, fold: np.ndarray, progress: ProgressCallback) -> np.ndarray:
    correct, held_out, categories = np.zeros(len(labellings)), np.unique(fold), int(labellings.max()) + 1
    dtype = np.dtype(np.float64 if x.size * _score_columns(categories) <= FLOAT64_SIZE else np.float32)
    for held in held_out:
        train = fold != held
        whitened = _whitened(x, train, dtype, categories)
        for index, labels in enumerate(labellings):
            if whitened is None:  # no neuron varies: predict the most frequent category
                correct[index] += (labels[~train] == np.bincount(labels[train]).argmax()).sum()
            else:
                correct[index] += (whitened.predict(labels[train]) == labels[~train]).sum()
            progress(1 / len(labellings) / len(held_out))
    return correct / x.shape[0]


def _score_columns(categories: int) -> int:
    """The number of categories with a fitted score: with two categories, the first one's score is 0."""
    return 1 if categories == 2 else categories


def _whitened(x: np.ndarray, train: np.ndarray, dtype: np.dtype, categories: int) -> "_Whitened | None":
    """The regression on the neurons, standardised on the training rows, or on equivalent coordinates of fewer
    dimensions; None if no neuron varies."""
    rows, z = int(train.sum()), np.empty(x.shape, dtype=dtype)
    seen, unseen = z[:rows], z[rows:]
    for columns in neuron_chunks(x):
        values = x[:, columns].astype(np.float64)
        training = values[train]
        mean, spread = training.mean(0), training.std(0)
        scale = np.where(spread > 0, spread, 1.0)
        seen[:, columns], unseen[:, columns] = (training - mean) / scale, (values[~train] - mean) / scale
    if rows > min(x.shape[1], FEW_ROWS):
        varies = any((np.ptp(seen[:, columns], axis=0) > 0).any() for columns in neuron_chunks(z))
        return _Whitened.of(seen, unseen, categories) if varies else None
    squares, axes = np.linalg.eigh((seen @ seen.T).astype(np.float64))
    kept = squares > max(1e-10 * squares.max(), 1e-12)
    if not kept.any():
        return None
    z = z @ (seen.T @ (axes[:, kept] / np.sqrt(squares[kept])).astype(dtype))
    curvature = 1 / REGULARISATION + (categories - 1) / categories**2 * squares[kept]  # the coordinates are orthogonal
    return _Whitened(z[:rows], z[rows:], categories, [(slice(None), np.sqrt(curvature))])


@dataclass(frozen=True)
class _Whitened:
    """Features `[rows, features]`, and variables in which the loss has the same curvature in every direction.

    In each block of features, the variables of the weights w are v = Lᵀw, where L Lᵀ is the second derivative of the
    loss at w = 0: (K − 1) / K² Σ z zᵀ + 1/C for K categories. A quasi-Newton method then needs few steps (5 to 30
    instead of 100 to 150, measured). The optimum is the same.
    """

    seen: np.ndarray  # the training rows
    unseen: np.ndarray  # the held-out rows
    categories: int
    factors: list[tuple[slice, np.ndarray]]  # each block's columns and its L, or the diagonal of L

    @classmethod
    def of(cls, seen: np.ndarray, unseen: np.ndarray, categories: int) -> "_Whitened":
        factors = []
        for block in chunks(seen.shape[1], BLOCK):
            width = block.stop - block.start
            curvature = np.eye(width) / REGULARISATION
            for rows in chunks(len(seen), CHUNK_SIZE // width):  # Ctrl-C works between two chunks
                values = seen[rows, block]
                curvature += (categories - 1) / categories**2 * (values.T @ values)
            factors.append((block, np.linalg.cholesky(curvature)))
        return cls(seen, unseen, categories, factors)

    def weights(self, v: np.ndarray) -> np.ndarray:
        """The weights w of variables v, `[features, columns]` both."""
        return np.concatenate([_solve(factor, v[block], 1) for block, factor in self.factors])

    def gradient(self, by_weights: np.ndarray) -> np.ndarray:
        """The gradient with respect to the variables, from the gradient with respect to the weights."""
        return np.concatenate([_solve(factor, by_weights[block], 0) for block, factor in self.factors])

    def predict(self, labels: np.ndarray) -> np.ndarray:
        """The predicted category of each held-out row, by a regression fitted to the training rows' `labels`."""
        seen, features, categories = self.seen, self.seen.shape[1], self.categories
        columns = _score_columns(categories)
        member = labels[:, None] == np.arange(categories)[-columns:]
        unit = 1 / np.sqrt(len(seen) * (categories - 1) / categories**2)  # of the intercept, for the same curvature

        def scores(z: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
            return (z @ w.astype(z.dtype)).astype(np.float64) + v[-1] * unit

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            v = flat.reshape(features + 1, columns)
            w = self.weights(v[:-1])
            score = scores(seen, w, v)
            highest = np.maximum(score.max(1, keepdims=True), 0.0 if columns == 1 else -np.inf)
            exponential = np.exp(score - highest)
            total = exponential.sum(1, keepdims=True)
            if columns == 1:
                total += np.exp(-highest)
            residual = exponential / total - member
            by_weights = (seen.T @ residual.astype(seen.dtype)).astype(np.float64) + w / REGULARISATION
            value = (highest + np.log(total)).sum() - score[member].sum() + (w**2).sum() / 2 / REGULARISATION
            return float(value), np.concatenate([self.gradient(by_weights), residual.sum(0)[None] * unit]).ravel()

        options = {"gtol": GRADIENT[seen.dtype], "ftol": 0.0, "maxfun": EVALUATIONS, "maxiter": EVALUATIONS}
        fitted = minimize(loss, np.zeros((features + 1) * columns), jac=True, method="L-BFGS-B", options=options)
        v = fitted.x.reshape(features + 1, columns)
        found = scores(self.unseen, self.weights(v[:-1]), v)
        return (found[:, 0] > 0).astype(np.int64) if columns == 1 else found.argmax(1)


def _solve(factor: np.ndarray, right: np.ndarray, transposed: int) -> np.ndarray:
    if factor.ndim == 1:
        return right / factor[:, None]
    return solve_triangular(factor, right, trans=transposed, lower=True, check_finite=False)
