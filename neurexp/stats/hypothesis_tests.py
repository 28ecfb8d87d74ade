"""Hypothesis tests of every neuron: do its values differ between categories of rows? Float64.

Rows are `[rows, neurons]`, and labels are integers from 0. With two categories, a positive t means that category 1 is
the higher one. A neuron that never varies has the statistic NaN and p = 1. Knows no word and no model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, special

from neurexp.stats.chunks import in_neuron_chunks
from neurexp.stats.rounding import FLAT, centred, varies

FEW_CATEGORIES = 16  # with more, sparse products are faster than dense ones


@dataclass(frozen=True)
class TestResult:
    """A test statistic (t or F) and its p, `[…, neurons]` each."""

    statistic: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class DirectedResult(TestResult):
    """A test result with its direction.

    The direction is the sign of the difference for two categories, and the category with the highest mean for more.
    """

    direction: np.ndarray


def compare(x: np.ndarray, labels: np.ndarray) -> TestResult:
    """Welch's t for two categories, the one-way F for more.

    Args:
        x: `[rows, neurons]`.
        labels: `[…, rows]`.
    """
    if labels.max() > 1:
        return anova(x, labels)
    return welch(x, labels == 0, labels == 1)


def compare_within(x: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> DirectedResult:
    """The same test among some of the rows, for many splits at once.

    Args:
        x: `[rows, neurons]`.
        labels: `[splits, rows]`.
        inside: `[splits, rows]` bool, the rows that each test uses.

    Returns:
        Arrays `[splits, neurons]`.
    """
    if labels.max() == 1:
        tested = welch(x, inside & (labels == 0), inside & (labels == 1))
        return DirectedResult(tested.statistic, tested.p, np.sign(np.nan_to_num(tested.statistic)))
    return _anova_within(x, labels, inside)


@in_neuron_chunks
def welch(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> TestResult:
    """Welch's t, (mean of `second` − mean of `first`) over its standard error, and its two-sided p.

    Welch (1947, Biometrika 34), with the degrees of freedom of Welch and Satterthwaite. A neuron that is constant
    within both sets, and differs between them, has a t of about a million instead of infinity.

    Args:
        x: `[rows, neurons]`.
        first, second: `[…, rows]` bool: two sets without a common row, of at least two rows each.
    """
    x, _ = centred(x)
    x2 = x**2
    variance = x2.mean(0)
    sides = []
    for members in (first.astype(float), second.astype(float)):
        n = members.sum(-1)[..., None]
        mean = members @ x / n
        sides.append((mean, np.maximum(members @ x2 / n - mean**2, FLAT * variance) / (n - 1), n))
    (mean0, error0, n0), (mean1, error1, n1) = sides  # squared standard errors of the means
    with np.errstate(invalid="ignore", divide="ignore"):
        error = error0 + error1
        t = (mean1 - mean0) / np.sqrt(error)
        degrees = error**2 / (error0**2 / (n0 - 1) + error1**2 / (n1 - 1))
        p = 2 * special.stdtr(degrees, -np.abs(t))
    return TestResult(t, np.where(np.isfinite(p), p, 1.0))


@in_neuron_chunks
def anova(x: np.ndarray, labels: np.ndarray) -> TestResult:
    """The one-way F of the categories and its p (Fisher's, equal variances). `labels` is `[…, rows]`."""
    f = anova_of(x)(labels)
    categories = int(labels.max()) + 1
    p = special.fdtrc(categories - 1, x.shape[0] - categories, np.nan_to_num(f, nan=0.0))
    return TestResult(f, np.where(np.isfinite(f), p, 1.0))


def anova_of(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The one-way F of `x` as a function of the labels `[…, rows]`; what only depends on `x` is computed once."""
    x, defined = centred(x)
    rows, total = len(x), (x**2).sum(0)

    def statistic(labels: np.ndarray) -> np.ndarray:
        categories, between = int(labels.max()) + 1, 0.0
        for size, sums in _sums_by_category(x, labels):
            between = between + sums**2 / size
        with np.errstate(invalid="ignore", divide="ignore"):
            f = (between / (categories - 1)) / (np.maximum(total - between, FLAT * total) / (rows - categories))
        return np.where(defined, f, np.nan)

    return statistic


@in_neuron_chunks
def _anova_within(x: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> DirectedResult:
    mean = x.mean(0)
    x, _ = centred(x)
    rows, present = inside.sum(-1)[:, None], 0
    used = inside.astype(float)
    total, sums = used @ x**2, used @ x
    total -= sums**2 / rows
    between = -(sums**2) / rows
    highest, direction = np.full(sums.shape, -np.inf), np.zeros(sums.shape, dtype=np.int64)
    for category, (size, category_sums) in enumerate(_sums_by_category(x, labels, inside)):
        count, present = np.maximum(size, 1), present + (size > 0)
        between += category_sums**2 / count
        higher = (category_sums / count > highest) & (size > 0)
        highest, direction = np.where(higher, category_sums / count, highest), np.where(higher, category, direction)
    degrees = present - 1, rows - present
    defined = varies(total / rows, mean + sums / rows) & (degrees[0] > 0) & (degrees[1] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f = (between / degrees[0]) / (np.maximum(total - between, FLAT * total) / degrees[1])
    f = np.where(defined, np.maximum(f, 0.0), np.nan)
    p = special.fdtrc(degrees[0], degrees[1], np.nan_to_num(f, nan=0.0))
    return DirectedResult(f, np.where(np.isfinite(f), p, 1.0), direction)


def _sums_by_category(x: np.ndarray, labels: np.ndarray, inside: np.ndarray | None = None) -> Iterator[tuple[Any, Any]]:
    """The number of rows `[…, 1]` and the sum of the rows `[…, neurons]` of each category, for labels `[…, rows]`.

    Only the rows `inside` `[…, rows]` count, if given. A dense product adds every row once for every category. With
    more than `FEW_CATEGORIES` a sparse product is faster: it adds each row once, whatever the number of categories.
    """
    categories, shape = int(labels.max()) + 1, labels.shape[:-1]
    if categories <= FEW_CATEGORIES:
        for category in range(categories):
            members = labels == category if inside is None else inside & (labels == category)
            yield members.sum(-1)[..., None], members.astype(float) @ x
        return
    flat = labels.reshape(-1, len(x))
    count = len(flat)
    labelling, row = np.nonzero(np.ones(flat.shape, dtype=bool) if inside is None else inside.reshape(flat.shape))
    place = flat[labelling, row].astype(np.int64) * count + labelling
    members = sparse.csr_array((np.ones(len(row)), (place, row)), shape=(categories * count, len(x)))
    for category in range(categories):
        members_of_category = members[category * count : (category + 1) * count]
        sizes = np.diff(members_of_category.indptr)
        yield sizes.reshape(*shape, 1), (members_of_category @ x).reshape(*shape, x.shape[1])


@in_neuron_chunks
def paired_t(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> TestResult:
    """The paired t-test: a one-sample t-test of the differences x[second] − x[first].

    As in `welch`, equal differences other than 0 have a t of about a million instead of infinity.

    Args:
        x: `[rows, neurons]`.
        first, second: `[pairs]`, the row numbers of each pair.
    """
    x, _ = centred(x)
    difference = x[second] - x[first]
    n, mean = len(difference), difference.mean(0)
    error = np.maximum(difference.var(0), FLAT * (x**2).mean(0)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = mean / np.sqrt(error)
    p = 2 * special.stdtr(n - 1, -np.abs(t))
    return TestResult(t, np.where(np.isfinite(p), p, 1.0))
