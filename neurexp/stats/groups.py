"""Groups of tokens: values split at their median, and each neuron's mean and spread in a group. Float64."""

from dataclasses import dataclass

import numpy as np

LOW, EQUAL, HIGH = range(3)


@dataclass(frozen=True)
class MedianSplit:
    """Integer values split at their median into three groups: below, at and above it.

    Many values may equal the median, so the groups below and above rarely have half of the values each.
    """

    median: float
    counts: tuple[int, int, int]  # below, at and above the median

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of all values, in the order of `counts`."""
        total = sum(self.counts)
        below, equal, above = (count / total for count in self.counts)
        return below, equal, above

    def group(self, values: np.ndarray) -> np.ndarray:
        """`LOW`, `EQUAL` or `HIGH` for each value, int64."""
        return np.where(values < self.median, LOW, np.where(values > self.median, HIGH, EQUAL)).astype(np.int64)


def median_split(histogram: np.ndarray) -> MedianSplit:
    """Splits integer values at their median (the mean of the middle two, for an even number of values).

    Args:
        histogram: `[values]`: the value v occurs `histogram[v]` times.

    Raises:
        ValueError: there are no values.
    """
    total = int(histogram.sum())
    if total == 0:
        raise ValueError("the median of no values")
    cumulative = np.cumsum(histogram)
    low, high = (int(np.searchsorted(cumulative, rank, side="right")) for rank in ((total - 1) // 2, total // 2))
    median = (low + high) / 2
    values = np.arange(len(histogram))
    below, above = int(histogram[values < median].sum()), int(histogram[values > median].sum())
    return MedianSplit(median, (below, total - below - above, above))


@dataclass(frozen=True)
class GroupSums:
    """Sums of each neuron's activation x over the tokens of each group."""

    count: np.ndarray  # [groups] number of tokens
    sums: np.ndarray  # [layers, groups, neurons] Σ(x − shift)
    squares: np.ndarray  # [layers, groups, neurons] Σ(x − shift)²
    magnitudes: np.ndarray  # [layers, groups, neurons] Σ|x|
    shift: np.ndarray  # [layers, neurons]

    def summary(self, *groups: int) -> "Summary":
        """Each neuron's mean, standard deviation and mean magnitude over the tokens of `groups` (default: all)."""
        chosen = list(groups) or list(range(len(self.count)))
        count = self.count[chosen].sum()
        with np.errstate(invalid="ignore", divide="ignore"):  # a group without tokens has no mean
            offset = self.sums[:, chosen].sum(1) / count
            variance = self.squares[:, chosen].sum(1) / count - offset**2
            magnitude = self.magnitudes[:, chosen].sum(1) / count
        return Summary(int(count), self.shift + offset, np.sqrt(np.maximum(variance, 0)), magnitude)


@dataclass(frozen=True)
class Summary:
    """Statistics of each neuron, `[layers, neurons]`; NaN if there are no tokens. `std` has ddof 0."""

    tokens: int
    mean: np.ndarray
    std: np.ndarray
    mean_abs: np.ndarray

    def per_layer(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean, standard deviation and mean magnitude over all tokens and neurons of each layer, `[layers]`.

        The variance is the mean of the neurons' variances plus the variance of their means (law of total variance).
        """
        variance = (self.std**2).mean(1) + self.mean.var(1)
        return self.mean.mean(1), np.sqrt(variance), self.mean_abs.mean(1)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The overlap coefficient of two histograms of counts: 1 if they are proportional, 0 if they share no bin.

    Args:
        first, second: `[…, bins]`.

    Returns:
        `[…]`; NaN where a histogram is empty.
    """
    with np.errstate(invalid="ignore"):
        first = first / first.sum(-1, keepdims=True)
        second = second / second.sum(-1, keepdims=True)
    return np.minimum(first, second).sum(-1)
