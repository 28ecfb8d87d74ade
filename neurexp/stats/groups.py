"""The median split, and what sums over groups say about neurons and layers. Float64 throughout."""

from dataclasses import dataclass

import numpy as np

LOW, EQUAL, HIGH = range(3)


@dataclass(frozen=True)
class MedianSplit:
    """Values split at their median into three groups; they rarely come out half and half."""

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
    """Splits integer values that occur `histogram[value]` times; an even number of them has the mean of the middle two.

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
    """Sums over the tokens of each group, as an `engine.gram.Gram` with indicators of the groups leaves them.

    `count` `[groups]`; `sums` and `squares` of x − shift and `magnitudes` of x, `[layers, groups, neurons]`; `shift`
    `[layers, neurons]`.
    """

    count: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    magnitudes: np.ndarray
    shift: np.ndarray

    def of(self, *groups: int) -> "Summary":
        """Mean, standard deviation and mean magnitude per layer and neuron over the tokens of `groups` (none: all)."""
        chosen = list(groups) or list(range(len(self.count)))
        count = self.count[chosen].sum()
        with np.errstate(invalid="ignore", divide="ignore"):  # a group without tokens has no mean
            offset = self.sums[:, chosen].sum(1) / count
            variance = self.squares[:, chosen].sum(1) / count - offset**2
            magnitude = self.magnitudes[:, chosen].sum(1) / count
        return Summary(int(count), self.shift + offset, np.sqrt(np.maximum(variance, 0)), magnitude)


@dataclass(frozen=True)
class Summary:
    """Per layer and neuron, `[layers, neurons]`; NaN where there was no token. `std` is of the population (ddof 0)."""

    tokens: int
    mean: np.ndarray
    std: np.ndarray
    mean_abs: np.ndarray

    def per_layer(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, standard deviation and mean magnitude `[layers]` over all tokens and neurons of a layer.

        The variance is the mean of the neurons' variances plus the variance of their means (law of total variance).
        """
        variance = (self.std**2).mean(1) + self.mean.var(1)
        return self.mean.mean(1), np.sqrt(variance), self.mean_abs.mean(1)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share `[…]` that two histograms `[…, bins]` of counts have in common: 1 equal, 0 apart (overlap coefficient).

    NaN where one of them is empty.
    """
    with np.errstate(invalid="ignore"):
        first = first / first.sum(-1, keepdims=True)
        second = second / second.sum(-1, keepdims=True)
    return np.minimum(first, second).sum(-1)
