"""A contrast's statistics: labelled rows `[rows, neurons]` → effect sizes, tests and replication. Float64.

Knows no word and no model. Labels are 0 … categories − 1; with two categories a positive t or d means that category 1
is the higher one. Where a quantity is not defined (a neuron that never varies) it is NaN, and its p and q are 1.
Rows may be float32: the neurons are taken to float64 a part at a time (`parts`), which bounds the memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, special, stats

from neurexp.stats import association
from neurexp.stats.association import LEVEL, varies
from neurexp.stats.parts import Advance, by_neurons, no_progress, of_labellings
from neurexp.stats.units import is_paired, shuffled_within, strata

FLAT = 1e-13  # of a neuron's variance: what rounding can leave of no variance within the groups
LARGE = 500.0  # |t| beyond which the noncentral t is not inverted, but approximated
FEW_CATEGORIES = 16  # up to so many, dense products are the quicker way to their sums
FAR = 3.5  # robust standard deviations beyond which a neuron's mean is a band (Iglewicz and Hoaglin 1993)


@dataclass(frozen=True)
class TestResult:
    """Welch's t for two categories, or the one-way F for more, with its p; `[…, neurons]`."""

    statistic: np.ndarray
    p: np.ndarray


def centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x about each neuron's mean, and which neurons vary at all."""
    mean = x.mean(0)
    about = x - mean
    defined = varies((about**2).mean(0), mean)
    return np.where(defined, about, 0.0), defined


@by_neurons
def welch(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> TestResult:
    """Welch's t, (mean of `second` − mean of `first`) over its standard error, and its two-sided p.

    Welch (1947, Biometrika 34); degrees of freedom by Welch and Satterthwaite. Many pairs of groups at once. A neuron
    that is constant within both groups, and differs between them, has a t of about a million in place of infinity.

    Args:
        x: `[rows, neurons]`.
        first, second: `[…, rows]` bool, disjoint, of two rows or more each.
    """
    x, _ = centred(x)
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
    return TestResult(t, np.where(np.isfinite(p), p, 1.0))


@by_neurons
def anova(x: np.ndarray, labels: np.ndarray) -> TestResult:
    """The one-way F of the categories and its p (Fisher's, equal variances). `labels` is `[…, rows]`."""
    f = f_over(x)(labels)
    count = int(labels.max()) + 1
    p = special.fdtrc(count - 1, x.shape[0] - count, np.nan_to_num(f, nan=0.0))
    return TestResult(f, np.where(np.isfinite(f), p, 1.0))


def f_over(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The one-way F as a function of the labels `[…, rows]`; what does not depend on them is computed once."""
    x, defined = centred(x)
    rows, total = len(x), (x**2).sum(0)

    def statistic(labels: np.ndarray) -> np.ndarray:
        count, between = int(labels.max()) + 1, 0.0
        for size, sums in _by_category(x, labels):
            between = between + sums**2 / size
        with np.errstate(invalid="ignore", divide="ignore"):
            f = (between / (count - 1)) / (np.maximum(total - between, FLAT * total) / (rows - count))
        return np.where(defined, f, np.nan)

    return statistic


def _by_category(x: np.ndarray, labels: np.ndarray, inside: np.ndarray | None = None) -> Iterator[tuple[Any, Any]]:
    """Of each category its number of rows `[…, 1]` and their sums `[…, neurons]`, for labels `[…, rows]`.

    `inside` `[…, rows]`: only these rows count. A dense product adds every row for every category. Beyond
    `FEW_CATEGORIES` a sparse one is quicker: it adds each row once, so time does not grow with the categories.
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
        own = members[category * count : (category + 1) * count]
        yield np.diff(own.indptr).reshape(*shape, 1), (own @ x).reshape(*shape, x.shape[1])


def compare(x: np.ndarray, labels: np.ndarray) -> TestResult:
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
    return _f_within(x, labels, inside)


@by_neurons
def _f_within(x: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> Within:
    """The one-way F among the rows `inside`, by sums over the categories' rows."""
    mean = x.mean(0)
    x, _ = centred(x)
    rows, present = inside.sum(-1)[:, None], 0
    within = inside.astype(float)
    total, sums = within @ x**2, within @ x
    total -= sums**2 / rows
    between = -(sums**2) / rows
    highest, direction = np.full(sums.shape, -np.inf), np.zeros(sums.shape, dtype=np.int64)
    for category, (size, own) in enumerate(_by_category(x, labels, inside)):
        count, present = np.maximum(size, 1), present + (size > 0)
        between += own**2 / count
        higher = (own / count > highest) & (size > 0)
        highest, direction = np.where(higher, own / count, highest), np.where(higher, category, direction)
    degrees = present - 1, rows - present
    defined = varies(total / rows, mean + sums / rows) & (degrees[0] > 0) & (degrees[1] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f = (between / degrees[0]) / (np.maximum(total - between, FLAT * total) / degrees[1])
    f = np.where(defined, np.maximum(f, 0.0), np.nan)
    p = special.fdtrc(degrees[0], degrees[1], np.nan_to_num(f, nan=0.0))
    return Within(f, np.where(np.isfinite(f), p, 1.0), direction)


@by_neurons
def paired_t(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """t and p of x[second] − x[first], row by row (one-sample t on the differences), `[neurons]`.

    As in `welch`, differences that are all equal, and not 0, have a t of about a million in place of infinity.
    """
    about, _ = centred(x)
    difference = about[second] - about[first]
    n, mean = len(difference), difference.mean(0)
    error = np.maximum(difference.var(0), FLAT * (about**2).mean(0)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = mean / np.sqrt(error)
    p = 2 * special.stdtr(n - 1, -np.abs(t))
    return t, np.where(np.isfinite(p), p, 1.0)


@by_neurons
def eta_squared(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of a neuron's variance that lies between categories, `[neurons]`."""
    mean = x.mean(0)
    sums = np.stack([(x[labels == one] - mean).sum(0) for one in range(int(labels.max()) + 1)])
    return association.eta_squared(np.bincount(labels), sums, ((x - mean) ** 2).sum(0), mean)


@by_neurons
def differences(x: np.ndarray, labellings: np.ndarray) -> np.ndarray:
    """Cohen's d, (mean 1 − mean 0) / pooled SD, for many labellings `[labellings, rows]` at once, by two sums.

    NaN where a category has no row.
    """
    x, defined = centred(x)
    member = labellings.astype(float)
    n1 = member.sum(1)[:, None]
    n0 = len(x) - n1
    total, sums = (x**2).sum(0), member @ x  # the other group's sum is the negative
    with np.errstate(invalid="ignore", divide="ignore"):  # of a category without a row
        within = total - sums**2 / n1 - sums**2 / n0
        d = (sums / n1 + sums / n0) / np.sqrt(within / (len(x) - 2))
    return np.where(defined & (within > FLAT * total), d, np.nan)


@by_neurons
def cohens_d(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean 1 − mean 0) / pooled SD, and its 95 % interval, `[neurons]` each.

    The interval is exact for normal values of equal variance: noncentrality parameters under which the observed t is
    the 97.5 % and the 2.5 % quantile (Steiger and Fouladi 1997); beyond |t| = 500 by the normal approximation. NaN
    where no row differs from another of its category: there is no standard deviation to measure by.
    """
    about, defined = centred(x)
    one, zero = about[labels == 1], about[labels == 0]
    n1, n0 = len(one), len(zero)
    degrees = n1 + n0 - 2
    pooled = np.sqrt((one.var(0) * n1 + zero.var(0) * n0) / degrees)
    defined = defined & (pooled**2 > FLAT * (about**2).mean(0))
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


@by_neurons
def auroc(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chance that a row of category 1 lies above one of category 0, ties counting half.

    `[neurons]`, or `[labellings, neurons]` for labels `[labellings, rows]`; NaN where a category has no row.
    """
    ranks = stats.rankdata(x, axis=0)
    ones = labels == 1
    n1 = ones.sum(-1)[..., None]
    n0 = len(x) - n1
    if ones.ndim == 1:
        sums = ones.astype(float) @ ranks
    else:
        sums = np.concatenate([ones[part].astype(float) @ ranks for part in of_labellings(len(ones), len(x))])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums - n1 * (n1 + 1) / 2) / (n1 * n0)


@by_neurons
def moments(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of each category `[categories, neurons]`, and of all rows the mean and standard deviation (ddof 0)."""
    means = [x[labels == one].mean(0) for one in range(int(labels.max()) + 1)]
    return np.stack(means), x.mean(0), x.std(0)


def bands(means: np.ndarray) -> np.ndarray:
    """Which neurons' means `[neurons]` lie far from the others': beyond 3.5 robust SD (1.4826 × MAD) of their median.

    These are the vertical bands of a picture words × neurons: neurons that are far out whatever the word.
    """
    distance = np.abs(means - np.median(means))
    return distance > FAR * 1.4826 * np.median(distance)


@dataclass(frozen=True)
class Replication:
    """Over splits of the rows in two halves: neurons selected in the first (q < 0.05), tested in the second.

    Replicated: p < 0.05 in the second half, in the same direction.
    """

    selected: np.ndarray  # [neurons] share of the splits in which the neuron was selected
    replicated: np.ndarray  # [neurons] share of the splits in which it was selected and replicated
    found: np.ndarray  # [splits] number of neurons selected
    kept: np.ndarray  # [splits] number of those that replicated
    by_chance: np.ndarray  # [splits] of the selected, those that replicate when the second half's labels are shuffled
    heldout: np.ndarray  # [splits] AUROC in the second half, in the expected direction, of the first half's best neuron
    first: np.ndarray  # [splits, rows] bool: the first half
    best: np.ndarray  # [splits] the best neuron of the first half, by the largest |statistic|
    best_direction: np.ndarray  # [splits] its direction: the sign of the difference, or the highest category

    @property
    def rate(self) -> float:
        """The share of selections that replicated; NaN where nothing was selected."""
        return float(self.kept.sum() / self.found.sum()) if self.found.any() else float("nan")


def replicate(
    x: np.ndarray,
    labels: np.ndarray,
    splits: int,
    seed: int,
    units: np.ndarray | None = None,
    shuffles: int = 0,
    tick: Advance = no_progress,
) -> Replication:
    """Selection on one half of the units of each category, test on the other half, over random splits.

    Memory: a byte for each row of each split, and what a part of the splits needs.

    Args:
        x: `[rows, neurons]`, rows of four units or more of each category.
        labels: `[rows]`.
        splits: how many; with `shuffles`, of each.
        seed: of splits and shuffles.
        units: `[rows]`: rows of one unit (a word in two sentences) go to the same half; None: every row is one.
        shuffles: so many times the labels are dealt out anew first, to see what there is to find by chance; 0: not.
        tick: is told of the progress.
    """
    units = np.arange(len(labels)) if units is None else units
    random = np.random.default_rng(seed)
    groups = units if is_paired(labels, units) else np.zeros(len(labels), dtype=np.int64)
    dealt = [shuffled_within(labels, groups, random) for _ in range(shuffles)] if shuffles else [labels]
    first = np.stack([half for one in dealt for half in _halves(one, units, splits, random)])
    count, neurons = len(first), x.shape[1]
    selected, replicated = np.zeros(neurons, dtype=np.int64), np.zeros(neurons, dtype=np.int64)
    each: dict[str, list[np.ndarray]] = {
        name: [] for name in ("found", "kept", "chance", "heldout", "best", "direction")
    }
    for part in of_labellings(count, max(len(labels), neurons)):
        inside = first[part]
        given = np.stack([dealt[split // splits] for split in range(part.start, part.stop)])
        again_dealt = given.copy()
        for one, half in zip(again_dealt, inside, strict=True):
            one[~half] = shuffled_within(one[~half], groups[~half], random)
        found = compare_within(x, given, inside)
        chosen, direction = stats.false_discovery_control(found.p, axis=1) < LEVEL, found.direction
        best = np.argmax(np.nan_to_num(np.abs(found.statistic), nan=-1.0), axis=1)
        best_direction = direction[np.arange(len(best)), best]
        again = compare_within(x, given, ~inside)
        kept = chosen & (again.p < LEVEL) & (direction == again.direction)
        again = compare_within(x, again_dealt, ~inside)
        by_chance = chosen & (again.p < LEVEL) & (direction == again.direction)
        heldout = [
            one_against_rest(x[~half, index], one[~half], direction)
            for one, half, index, direction in zip(given, inside, best, best_direction, strict=True)
        ]
        selected += chosen.sum(0)
        replicated += kept.sum(0)
        counts = chosen.sum(1), kept.sum(1), by_chance.sum(1), np.array(heldout), best, best_direction
        for name, values in zip(each, counts, strict=True):
            each[name].append(values)
        tick(len(inside) / count)
    joined = {name: np.concatenate(values) for name, values in each.items()}
    return Replication(
        selected=selected / count,
        replicated=replicated / count,
        found=joined["found"],
        kept=joined["kept"],
        by_chance=joined["chance"],
        heldout=joined["heldout"],
        first=first,
        best=joined["best"],
        best_direction=joined["direction"],
    )


def _halves(labels: np.ndarray, units: np.ndarray, splits: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Half of the units of each kind, bool by row, for each split."""
    kinds = strata(labels, units)
    for _ in range(splits):
        chosen = np.zeros(int(units.max()) + 1, dtype=bool)
        for kind in kinds:
            members = random.permutation(kind)
            chosen[members[: len(members) // 2]] = True
        yield chosen[units]


def one_against_rest(x: np.ndarray, labels: np.ndarray, direction: float) -> float:
    """AUROC in the expected direction: of the higher category (two), or of the highest one against the rest (more).

    NaN where a category has no row.
    """
    if len(labels) == 0:
        return float("nan")
    if labels.max() > 1:
        return float(auroc(x[:, None], (labels == direction).astype(int))[0])
    value = float(auroc(x[:, None], labels)[0])
    return value if direction >= 0 else 1 - value
