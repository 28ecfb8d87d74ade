"""A contrast's statistics: labelled rows `[rows, neurons]` → effect sizes, tests, nulls and replication. Float64.

Knows no word and no model. Labels are 0 … categories − 1; with two categories a positive t or d means that category 1
is the higher one. Where a quantity is not defined (a neuron that never varies) it is NaN, and its p and q are 1.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy import special, stats

from neurexp.stats.association import LEVEL, varies

CHUNK = 500  # labellings at once
FLAT = 1e-13  # of a neuron's variance: what rounding can leave of no variance within the groups
DRAWN = 4  # chunks of labellings whose statistics are counted for a picture of the null
TIE = 1e-9  # relative: statistics as close as this are equal but for rounding
FAR = 3.5  # robust standard deviations beyond which a neuron's mean is a band (Iglewicz and Hoaglin 1993)


@dataclass(frozen=True)
class Welch:
    """Welch's t for two categories, or the one-way F for more, with its p; `[…, neurons]`."""

    statistic: np.ndarray
    p: np.ndarray


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x about each neuron's mean, and which neurons vary at all."""
    mean = x.mean(0)
    centred = x - mean
    defined = varies((centred**2).mean(0), mean)
    return np.where(defined, centred, 0.0), defined


def welch(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> Welch:
    """Welch's t, (mean of `second` − mean of `first`) over its standard error, and its two-sided p.

    Welch (1947, Biometrika 34); degrees of freedom by Welch and Satterthwaite. Many pairs of groups at once. A neuron
    that is constant within both groups, and differs between them, has a t of about a million in place of infinity.

    Args:
        x: `[rows, neurons]`.
        first, second: `[…, rows]` bool, disjoint, of two rows or more each.
    """
    x, _ = _centred(x)
    x2 = x**2
    spread = x2.mean(0)
    groups = []
    for members in (first.astype(float), second.astype(float)):
        n = members.sum(-1)[..., None]
        mean = members @ x / n
        groups.append((mean, np.maximum(members @ x2 / n - mean**2, FLAT * spread) / (n - 1), n))
    (mean0, error0, n0), (mean1, error1, n1) = groups  # squared errors of the means
    with np.errstate(invalid="ignore", divide="ignore"):
        error = error0 + error1
        t = (mean1 - mean0) / np.sqrt(error)
        degrees = error**2 / (error0**2 / (n0 - 1) + error1**2 / (n1 - 1))
        p = 2 * special.stdtr(degrees, -np.abs(t))
    return Welch(t, np.where(np.isfinite(p), p, 1.0))


def anova(x: np.ndarray, labels: np.ndarray) -> Welch:
    """The one-way F of the categories and its p (Fisher's, equal variances). `labels` is `[…, rows]`."""
    f = _f_statistic(x, labels)
    count = int(labels.max()) + 1
    p = special.fdtrc(count - 1, x.shape[0] - count, np.nan_to_num(f, nan=0.0))
    return Welch(f, np.where(np.isfinite(f), p, 1.0))


def _f_statistic(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    x, defined = _centred(x)
    count, rows = int(labels.max()) + 1, x.shape[0]
    total, between = (x**2).sum(0), 0.0
    for category in range(count):
        members = (labels == category).astype(float)
        between = between + (members @ x) ** 2 / members.sum(-1)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        f = (between / (count - 1)) / (np.maximum(total - between, FLAT * total) / (rows - count))
    return np.where(defined, f, np.nan)


def compare(x: np.ndarray, labels: np.ndarray) -> Welch:
    """Welch's t where there are two categories, the one-way F where there are more."""
    if labels.max() > 1:
        return anova(x, labels)
    return welch(x, labels == 0, labels == 1)


@dataclass(frozen=True)
class Within:
    """A test among some of the rows: `[splits, neurons]` each."""

    statistic: np.ndarray
    p: np.ndarray
    direction: np.ndarray  # two categories: the sign of the difference; more: the category with the highest mean


def compare_within(x: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> Within:
    """`compare` among the rows `inside` of many labellings, `[splits, rows]` both, at once."""
    if labels.max() == 1:
        tested = welch(x, inside & (labels == 0), inside & (labels == 1))
        return Within(tested.statistic, tested.p, np.sign(np.nan_to_num(tested.statistic)))
    each = [anova(x[rows], one[rows]) for one, rows in zip(labels, inside, strict=True)]
    highest = [
        np.argmax([x[rows & (one == category)].mean(0) for category in range(int(labels.max()) + 1)], axis=0)
        for one, rows in zip(labels, inside, strict=True)
    ]
    return Within(np.stack([one.statistic for one in each]), np.stack([one.p for one in each]), np.stack(highest))


def paired_t(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """t and p of x[second] − x[first], row by row (one-sample t on the differences), `[neurons]`."""
    difference = x[second] - x[first]
    constant = ~varies(difference.var(0), np.abs(x).max(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        t, p = stats.ttest_1samp(np.where(constant, 0.0, difference), 0.0, axis=0)
    t, p = np.asarray(t), np.asarray(p)
    return np.where(constant, np.nan, t), np.where(constant | ~np.isfinite(p), 1.0, p)


def eta_squared(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of a neuron's variance that lies between categories, `[neurons]`."""
    x, defined = _centred(x)
    between = sum((x[labels == one].sum(0)) ** 2 / (labels == one).sum() for one in range(int(labels.max()) + 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, between / (x**2).sum(0), np.nan)


@dataclass(frozen=True)
class Permutation:
    """Against relabelled rows: p per neuron, p corrected for all neurons by the largest statistic, and the null."""

    p: np.ndarray  # [neurons]
    p_max: np.ndarray  # [neurons]
    largest: np.ndarray  # [draws] the largest |statistic| of any neuron
    counts: np.ndarray  # [bins] of all neurons' statistics over the first 2,000 draws
    edges: np.ndarray  # [bins + 1]
    exact: bool  # every distinct labelling was taken once, so that p needs no +1


def permutation(x: np.ndarray, labels: np.ndarray, draws: int, seed: int, bins: int = 120) -> Permutation:
    """Deals the labels out anew: how often is |Welch t| (more categories: F) as large as the one observed?

    p = (1 + exceedances) / (draws + 1) (Phipson and Smyth 2010, Statistical Applications in Genetics 9). `p_max`
    compares with the largest of all neurons in each draw (Westfall and Young 1993): it controls the chance of a single
    false find in the layer under any dependence between neurons. Two categories with no more than `draws` distinct
    labellings are enumerated, and p = exceedances / labellings, the observed one among them.
    """
    observed = np.abs(compare(x, labels).statistic)
    defined = np.isfinite(observed)
    threshold = np.where(defined, observed, np.inf) * (1 - TIE)
    rows = len(labels)
    exact = labels.max() == 1 and comb(rows, int(labels.sum())) <= draws
    random = np.random.default_rng(seed)
    top = max(6.0, float(observed[defined].max()) * 1.05) if defined.any() else 6.0
    edges = np.linspace(0 if labels.max() > 1 else -top, top, bins + 1)
    exceed, counts, largest = np.zeros(x.shape[1], dtype=np.int64), np.zeros(bins, dtype=np.int64), []
    for batch in _every_labelling(rows, int(labels.sum())) if exact else _labellings(labels, draws, random):
        drawn = _f_statistic(x, batch) if labels.max() > 1 else _welch_statistic(x, batch)
        magnitude = np.where(np.isfinite(drawn), np.abs(drawn), 0.0)
        exceed += (magnitude >= threshold).sum(0)
        largest.append(magnitude.max(1))
        if len(largest) <= DRAWN:
            counts += np.histogram(drawn[:, defined], edges)[0]
    highest = np.concatenate(largest)
    add = 0 if exact else 1
    p = np.where(defined, (exceed + add) / (len(highest) + add), 1.0)
    return Permutation(p, p_of_largest(observed, highest, exact), highest, counts, edges, bool(exact))


def p_of_largest(observed: np.ndarray, largest: np.ndarray, exact: bool) -> np.ndarray:
    """p of each |statistic| against the largest of all neurons in each draw `[draws]`; 1 where undefined."""
    defined, add = np.isfinite(observed), 0 if exact else 1
    threshold = np.where(defined, np.abs(observed), np.inf) * (1 - TIE)
    exceed = len(largest) - np.searchsorted(np.sort(largest), threshold, side="left")
    return np.where(defined, (exceed + add) / (len(largest) + add), 1.0)


def _welch_statistic(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`welch(...).statistic` for `[draws, rows]` labels 0/1, all with the same numbers of each, in few operations.

    x is about its mean, so the groups' sums are each other's negative, and their sums of squares add up to the whole:
    the squared error of the difference is linear in one group's sum of squares and in the square of its sum. With
    groups of equal size the sums of squares fall out.
    """
    x, _ = _centred(x)
    member = labels.astype(float)
    n1 = member[0].sum()
    n0 = len(member[0]) - n1
    a1, a0 = 1 / (n1 * (n1 - 1)), 1 / (n0 * (n0 - 1))
    total = (x**2).sum(0)
    sums = member @ x
    error = sums**2
    error *= -(a1 / n1 + a0 / n0)
    error += total * a0
    if n1 != n0:
        error += (a1 - a0) * (member @ x**2)
    np.maximum(error, FLAT * total / len(x) * (1 / (n1 - 1) + 1 / (n0 - 1)), out=error)
    np.sqrt(error, out=error)
    sums *= 1 / n1 + 1 / n0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(sums, error, out=sums)


def _labellings(labels: np.ndarray, draws: int, random: np.random.Generator):
    for start in range(0, draws, CHUNK):
        yield random.permuted(np.repeat(labels[None], min(CHUNK, draws - start), axis=0), axis=1)


def _every_labelling(rows: int, ones: int):
    chunk: list[np.ndarray] = []
    for chosen in combinations(range(rows), ones):
        labels = np.zeros(rows, dtype=np.int64)
        labels[list(chosen)] = 1
        chunk.append(labels)
        if len(chunk) == CHUNK:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def cohens_d(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean 1 − mean 0) / pooled SD, and its 95 % interval, `[neurons]` each.

    The interval is exact for normal values of equal variance: noncentrality parameters under which the observed t is
    the 97.5 % and the 2.5 % quantile (Steiger and Fouladi 1997).
    """
    centred, defined = _centred(x)
    one, zero = centred[labels == 1], centred[labels == 0]
    n1, n0 = len(one), len(zero)
    degrees = n1 + n0 - 2
    pooled = np.sqrt((one.var(0) * n1 + zero.var(0) * n0) / degrees)
    pooled = np.maximum(pooled, np.sqrt(FLAT * (centred**2).mean(0)))
    with np.errstate(invalid="ignore", divide="ignore"):
        d = np.where(defined, (one.mean(0) - zero.mean(0)) / pooled, np.nan)
    scale = np.sqrt(n1 * n0 / (n1 + n0))
    bounds = []
    for quantile in (1 - LEVEL / 2, LEVEL / 2):
        noncentrality = special.nctdtrinc(degrees, quantile, np.where(defined, d, 0.0) * scale)
        bounds.append(np.where(defined, noncentrality / scale, np.nan))
    return d, bounds[0], bounds[1]


def auroc(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chance that a row of category 1 lies above one of category 0, ties counting half, `[neurons]`."""
    ones = labels == 1
    n1, n0 = int(ones.sum()), int((labels == 0).sum())
    if not n1 or not n0:
        return np.full(x.shape[1], np.nan)
    both = ones | (labels == 0)
    ranks = stats.rankdata(x[both], axis=0)
    return (ranks[ones[both]].sum(0) - n1 * (n1 + 1) / 2) / (n1 * n0)


def bands(means: np.ndarray) -> np.ndarray:
    """Which neurons' means `[neurons]` lie far from the others': beyond 3.5 robust SD (1.4826 × MAD) of their median.

    These are the vertical bands of a picture words × neurons: neurons that are far out whatever the word.
    """
    distance = np.abs(means - np.median(means))
    return distance > FAR * 1.4826 * np.median(distance)


@dataclass(frozen=True)
class Replication:
    """Over splits of the rows in two halves: neurons selected in the first (q < 0.05), tested in the second."""

    selected: np.ndarray  # [splits, neurons] bool
    replicated: np.ndarray  # [splits, neurons] bool: p < 0.05 in the second half, in the same direction
    by_chance: np.ndarray  # [splits] of the selected, those that replicate when the second half's labels are shuffled
    heldout: np.ndarray  # [splits] AUROC in the second half, in the expected direction, of the first half's best neuron

    @property
    def rate(self) -> float:
        """The share of selections that replicated; NaN where nothing was selected."""
        return float(self.replicated.sum() / self.selected.sum()) if self.selected.any() else float("nan")

    @property
    def chance_rate(self) -> float:
        """The same where the second half's labels are shuffled."""
        return float(self.by_chance.sum() / self.selected.sum()) if self.selected.any() else float("nan")


def replicate(x: np.ndarray, labels: np.ndarray, splits: int, seed: int, shuffle: bool = False) -> Replication:
    """Selection on one half of each category's rows, test on the other, over random splits.

    Args:
        x: `[rows, neurons]`, four rows or more of each category.
        labels: `[rows]`.
        splits: how many.
        seed: of splits and shuffles.
        shuffle: deal the labels out anew for every split: what there is to find by chance.
    """
    random = np.random.default_rng(seed)
    given = np.stack([random.permutation(labels) if shuffle else labels for _ in range(splits)])
    first = np.stack([_half(one, random) for one in given])
    dealt = given.copy()
    for one, inside in zip(dealt, first, strict=True):
        one[~inside] = random.permutation(one[~inside])
    found, again, shuffled = (
        compare_within(x, one, inside) for one, inside in ((given, first), (given, ~first), (dealt, ~first))
    )
    chosen = stats.false_discovery_control(found.p, axis=1) < LEVEL
    way = found.direction
    replicated = chosen & (again.p < LEVEL) & (way == again.direction)
    by_chance = chosen & (shuffled.p < LEVEL) & (way == shuffled.direction)
    best = np.argmax(np.nan_to_num(np.abs(found.statistic), nan=-1.0), axis=1)
    heldout = [
        _one_against_rest(x[~inside, index], one[~inside], way[split, index])
        for split, (one, inside, index) in enumerate(zip(given, first, best, strict=True))
    ]
    return Replication(chosen, replicated, by_chance.sum(1), np.array(heldout))


def _half(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half of the rows of each category, bool."""
    chosen = np.zeros(len(labels), dtype=bool)
    for category in range(int(labels.max()) + 1):
        members = random.permutation(np.flatnonzero(labels == category))
        chosen[members[: len(members) // 2]] = True
    return chosen


def _one_against_rest(x: np.ndarray, labels: np.ndarray, way: float) -> float:
    """AUROC in the expected direction: of the higher category (two), or of the highest one against the rest (more)."""
    if labels.max() > 1:
        return float(auroc(x[:, None], (labels == way).astype(int))[0])
    value = float(auroc(x[:, None], labels)[0])
    return value if way >= 0 else 1 - value
