"""A contrast's statistics: labelled rows `[rows, neurons]` → effect sizes, tests, nulls and replication. Float64.

Knows no word and no model. Labels are 0 … categories − 1; with two categories a positive t or d means that category 1
is the higher one. Where a quantity is not defined (a neuron that never varies) it is NaN, and its p and q are 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy import special, stats

from neurexp.stats import association
from neurexp.stats.association import LEVEL, varies

CHUNK = 500  # labellings at once
FLAT = 1e-13  # of a neuron's variance: what rounding can leave of no variance within the groups
LARGE = 500.0  # |t| beyond which the noncentral t is not inverted, but approximated
DRAWN = 4  # chunks of labellings whose statistics are counted for a picture of the null
TIE = 1e-9  # relative and absolute: statistics as close as this are equal but for rounding
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
    f = _f_over(x)(labels)
    count = int(labels.max()) + 1
    p = special.fdtrc(count - 1, x.shape[0] - count, np.nan_to_num(f, nan=0.0))
    return Welch(f, np.where(np.isfinite(f), p, 1.0))


def _f_over(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The one-way F as a function of the labels `[…, rows]`; what does not depend on them is computed once."""
    x, defined = _centred(x)
    rows, total = len(x), (x**2).sum(0)

    def statistic(labels: np.ndarray) -> np.ndarray:
        count, between = int(labels.max()) + 1, 0.0
        for category in range(count):
            members = (labels == category).astype(float)
            between = between + (members @ x) ** 2 / members.sum(-1)[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            f = (between / (count - 1)) / (np.maximum(total - between, FLAT * total) / (rows - count))
        return np.where(defined, f, np.nan)

    return statistic


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
    """t and p of x[second] − x[first], row by row (one-sample t on the differences), `[neurons]`.

    As in `welch`, differences that are all equal, and not 0, have a t of about a million in place of infinity.
    """
    centred, _ = _centred(x)
    difference = centred[second] - centred[first]
    n, mean = len(difference), difference.mean(0)
    error = np.maximum(difference.var(0), FLAT * (centred**2).mean(0)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = mean / np.sqrt(error)
    p = 2 * special.stdtr(n - 1, -np.abs(t))
    return t, np.where(np.isfinite(p), p, 1.0)


def eta_squared(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of a neuron's variance that lies between categories, `[neurons]`."""
    mean = x.mean(0)
    sums = np.stack([(x[labels == one] - mean).sum(0) for one in range(int(labels.max()) + 1)])
    return association.eta_squared(np.bincount(labels), sums, ((x - mean) ** 2).sum(0), mean)


@dataclass(frozen=True)
class Permutation:
    """Against relabelled rows: p per neuron, p corrected for all neurons by the largest statistic, and the null."""

    p: np.ndarray  # [neurons]
    p_max: np.ndarray  # [neurons]
    observed: np.ndarray  # [neurons] |statistic|, by the same arithmetic as in the draws
    largest: np.ndarray  # [draws] the largest |statistic| of any neuron
    counts: np.ndarray  # [bins] of all neurons' statistics over the first 2,000 draws
    edges: np.ndarray  # [bins + 1]
    exact: bool  # every distinct labelling was taken once, so that p needs no +1


def permutation(
    x: np.ndarray, labels: np.ndarray, draws: int, seed: int, units: np.ndarray | None = None, bins: int = 120
) -> Permutation:
    """Deals the labels out anew: how often is |Welch t| (more categories: F) as large as the one observed?

    p = (1 + exceedances) / (draws + 1) (Phipson and Smyth 2010, Statistical Applications in Genetics 9). `p_max`
    compares with the largest of all neurons in each draw (Westfall and Young 1993): it controls the chance of a single
    false find in the layer under any dependence between neurons. Two categories with no more than `draws` distinct
    labellings are enumerated, and p = exceedances / labellings, the observed one among them.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`.
        draws: of labellings.
        seed: of the draws.
        units: `[rows]`: rows of one unit (a word in two sentences) change labels among themselves only, if every unit
            has as many rows of each category.
        bins: of the null's histogram.
    """
    statistic = (_f_over if labels.max() > 1 else _welch_over)(x)
    # By the same arithmetic as the draws, or the observed labelling might not be found as extreme as itself
    observed = np.abs(statistic(labels[None])[0])
    defined = np.isfinite(observed)
    threshold = _threshold(observed)
    rows, within = len(labels), units if is_paired(labels, units) else None
    exact = labels.max() == 1 and within is None and comb(rows, int(labels.sum())) <= draws
    random = np.random.default_rng(seed)
    edges = np.linspace(-6.0, 6.0, bins + 1)
    exceed, counts, largest = np.zeros(x.shape[1], dtype=np.int64), np.zeros(bins, dtype=np.int64), []
    labellings = _every_labelling(rows, int(labels.sum())) if exact else _labellings(labels, draws, random, within)
    for batch in labellings:
        drawn = statistic(batch)
        magnitude = np.where(np.isfinite(drawn), np.abs(drawn), 0.0)
        exceed += (magnitude >= threshold).sum(0)
        largest.append(magnitude.max(1))
        if len(largest) == 1:
            top = 1.5 * max(float(magnitude.max()), 1.0)  # hardly a later draw lies beyond
            edges = np.linspace(0.0 if labels.max() > 1 else -top, top, bins + 1)
        if len(largest) <= DRAWN:
            counts += np.histogram(drawn[:, defined], edges)[0]
    highest = np.concatenate(largest)
    add = 0 if exact else 1
    p = np.where(defined, (exceed + add) / (len(highest) + add), 1.0)
    return Permutation(p, p_of_largest(observed, highest, exact), observed, highest, counts, edges, bool(exact))


def is_paired(labels: np.ndarray, units: np.ndarray | None) -> bool:
    """Whether every unit has the same number of rows, at least one, of each category."""
    if units is None:
        return False
    counts = np.zeros((int(units.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (units, labels), 1)
    counts = counts[counts.sum(1) > 0]
    return bool((counts == counts[:, :1]).all())


def _threshold(observed: np.ndarray) -> np.ndarray:
    """What counts as at least as large as each observed |statistic|; nothing does where it is undefined.

    A statistic of the same labelling differs by rounding only, but the larger it is the more: it divides by what
    cancellation left of the variance.
    """
    rounding = np.minimum(TIE + 1e-14 * observed**2, 0.5)
    return np.where(np.isfinite(observed), observed * (1 - rounding) - TIE, np.inf)


def p_of_largest(observed: np.ndarray, largest: np.ndarray, exact: bool) -> np.ndarray:
    """p of each |statistic| against the largest of all neurons in each draw `[draws]`; 1 where undefined."""
    defined, add = np.isfinite(observed), 0 if exact else 1
    exceed = len(largest) - np.searchsorted(np.sort(largest), _threshold(np.abs(observed)), side="left")
    return np.where(defined, (exceed + add) / (len(largest) + add), 1.0)


def _welch_over(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Welch's t as a function of labels 0/1 `[draws, rows]`, all with the same numbers of each, in few operations.

    x is about its mean, so the groups' sums are each other's negative, and their sums of squares add up to the whole:
    the squared error of the difference is linear in one group's sum of squares and in the square of its sum. With
    groups of equal size the sums of squares fall out.
    """
    x, _ = _centred(x)
    rows, x2 = len(x), x**2
    total = x2.sum(0)

    def statistic(labels: np.ndarray) -> np.ndarray:
        member = labels.astype(float)
        n1 = member[0].sum()
        n0 = rows - n1
        a1, a0 = 1 / (n1 * (n1 - 1)), 1 / (n0 * (n0 - 1))
        sums = member @ x
        error = sums**2
        error *= -(a1 / n1 + a0 / n0)
        error += total * a0
        if n1 != n0:
            error += (a1 - a0) * (member @ x2)
        np.maximum(error, FLAT * total / rows * (1 / (n1 - 1) + 1 / (n0 - 1)), out=error)
        np.sqrt(error, out=error)
        sums *= 1 / n1 + 1 / n0
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.divide(sums, error, out=sums)

    return statistic


def _labellings(labels: np.ndarray, draws: int, random: np.random.Generator, units: np.ndarray | None = None):
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        if units is None:
            yield random.permuted(np.repeat(labels[None], count, axis=0), axis=1)
        else:
            yield np.stack([shuffled_within(labels, units, random) for _ in range(count)])


def shuffled_within(labels: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The labels dealt out anew among the rows of each group."""
    into = np.lexsort((np.arange(len(labels)), groups))  # rows by group, in order
    drawn = np.lexsort((random.random(len(labels)), groups))  # rows by group, in random order
    shuffled = np.empty_like(labels)
    shuffled[into] = labels[drawn]
    return shuffled


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


def differences(x: np.ndarray, labellings: np.ndarray) -> np.ndarray:
    """Cohen's d, (mean 1 − mean 0) / pooled SD, for many labellings `[labellings, rows]` at once, by two sums."""
    x, defined = _centred(x)
    member = labellings.astype(float)
    n1 = member.sum(1)[:, None]
    n0 = len(x) - n1
    total, sums = (x**2).sum(0), member @ x  # the other group's sum is the negative
    within = total - sums**2 / n1 - sums**2 / n0
    with np.errstate(invalid="ignore", divide="ignore"):
        d = (sums / n1 + sums / n0) / np.sqrt(within / (len(x) - 2))
    return np.where(defined & (within > FLAT * total), d, np.nan)


def auroc_interval(x: np.ndarray, labels: np.ndarray, units: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of one neuron's AUROC, by drawing units of each category anew (bootstrap).

    Args:
        x: `[rows]`.
        labels: `[rows]`, 0 or 1.
        units: `[rows]`: rows of one unit (a word that occurs several times) are drawn together.
        draws: how many.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    above = (x[labels == 1][:, None] > x[labels == 0]) + 0.5 * (x[labels == 1][:, None] == x[labels == 0])
    weights = []
    for category in (0, 1):
        _, own = np.unique(units[labels == category], return_inverse=True)
        count = own.max() + 1
        weights.append(random.multinomial(count, np.full(count, 1 / count), size=draws)[:, own].astype(float))
    scores = np.einsum("bi,ij,bj->b", weights[1], above, weights[0], optimize=True)
    scores /= weights[1].sum(1) * weights[0].sum(1)
    low, high = np.quantile(scores, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def cohens_d(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean 1 − mean 0) / pooled SD, and its 95 % interval, `[neurons]` each.

    The interval is exact for normal values of equal variance: noncentrality parameters under which the observed t is
    the 97.5 % and the 2.5 % quantile (Steiger and Fouladi 1997); beyond |t| = 500 by the normal approximation. NaN
    where no row differs from another of its category: there is no standard deviation to measure by.
    """
    centred, defined = _centred(x)
    one, zero = centred[labels == 1], centred[labels == 0]
    n1, n0 = len(one), len(zero)
    degrees = n1 + n0 - 2
    pooled = np.sqrt((one.var(0) * n1 + zero.var(0) * n0) / degrees)
    defined = defined & (pooled**2 > FLAT * (centred**2).mean(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        d = np.where(defined, (one.mean(0) - zero.mean(0)) / pooled, np.nan)
    scale = np.sqrt(n1 * n0 / (n1 + n0))
    t = np.where(defined, d, 0.0) * scale
    moderate = np.abs(t) < LARGE
    bounds = []
    for quantile in (1 - LEVEL / 2, LEVEL / 2):
        exact = special.nctdtrinc(degrees, quantile, np.where(moderate, t, 0.0))
        normal = t - stats.norm.ppf(quantile) * np.sqrt(1 + t**2 / (2 * degrees))
        bounds.append(np.where(defined, np.where(moderate, exact, normal) / scale, np.nan))
    return d, bounds[0], bounds[1]


def auroc(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chance that a row of category 1 lies above one of category 0, ties counting half.

    `[neurons]`, or `[labellings, neurons]` for labels `[labellings, rows]`; NaN where a category has no row.
    """
    ranks = stats.rankdata(x, axis=0)
    ones = labels == 1
    n1 = ones.sum(-1)[..., None]
    n0 = len(x) - n1
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ones.astype(float) @ ranks - n1 * (n1 + 1) / 2) / (n1 * n0)


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
    first: np.ndarray  # [splits, rows] bool: the first half
    best: np.ndarray  # [splits] the best neuron of the first half, by the largest |statistic|
    best_way: np.ndarray  # [splits] its direction: the sign of the difference, or the highest category

    @property
    def rate(self) -> float:
        """The share of selections that replicated; NaN where nothing was selected."""
        return float(self.replicated.sum() / self.selected.sum()) if self.selected.any() else float("nan")


def replicate(
    x: np.ndarray, labels: np.ndarray, splits: int, seed: int, units: np.ndarray | None = None, shuffles: int = 0
) -> Replication:
    """Selection on one half of the units of each category, test on the other half, over random splits.

    Args:
        x: `[rows, neurons]`, rows of four units or more of each category.
        labels: `[rows]`.
        splits: how many; with `shuffles`, of each.
        seed: of splits and shuffles.
        units: `[rows]`: rows of one unit (a word in two sentences) go to the same half; None: every row is one.
        shuffles: so many times the labels are dealt out anew first, to see what there is to find by chance; 0: not.
    """
    units = np.arange(len(labels)) if units is None else units
    random = np.random.default_rng(seed)
    groups = units if is_paired(labels, units) else np.zeros(len(labels), dtype=np.int64)
    dealt = [shuffled_within(labels, groups, random) for _ in range(shuffles)] if shuffles else [labels]
    given = np.repeat(np.stack(dealt), splits, axis=0)
    first = np.stack([_half(one, units, random) for one in given])
    again_dealt = given.copy()
    for one, inside in zip(again_dealt, first, strict=True):
        one[~inside] = shuffled_within(one[~inside], groups[~inside], random)
    found, again, shuffled = (
        compare_within(x, one, inside) for one, inside in ((given, first), (given, ~first), (again_dealt, ~first))
    )
    chosen = stats.false_discovery_control(found.p, axis=1) < LEVEL
    way = found.direction
    best = np.argmax(np.nan_to_num(np.abs(found.statistic), nan=-1.0), axis=1)
    best_way = way[np.arange(len(best)), best]
    heldout = [
        one_against_rest(x[~inside, index], one[~inside], direction)
        for one, inside, index, direction in zip(given, first, best, best_way, strict=True)
    ]
    return Replication(
        chosen,
        chosen & (again.p < LEVEL) & (way == again.direction),
        (chosen & (shuffled.p < LEVEL) & (way == shuffled.direction)).sum(1),
        np.array(heldout),
        first,
        best,
        best_way,
    )


def _half(labels: np.ndarray, units: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half of the units of each kind, bool by row."""
    chosen = np.zeros(int(units.max()) + 1, dtype=bool)
    for kind in kinds_of_units(labels, units):
        members = random.permutation(kind)
        chosen[members[: len(members) // 2]] = True
    return chosen[units]


def kinds_of_units(labels: np.ndarray, units: np.ndarray) -> list[np.ndarray]:
    """The units by kind; units are of one kind if they have rows of the same categories."""
    kinds = np.zeros(int(units.max()) + 1, dtype=np.int64)
    np.bitwise_or.at(kinds, units, 1 << labels)
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds[kinds > 0])]


def one_against_rest(x: np.ndarray, labels: np.ndarray, way: float) -> float:
    """AUROC in the expected direction: of the higher category (two), or of the highest one against the rest (more)."""
    if labels.max() > 1:
        return float(auroc(x[:, None], (labels == way).astype(int))[0])
    value = float(auroc(x[:, None], labels)[0])
    return value if way >= 0 else 1 - value
