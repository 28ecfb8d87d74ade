"""Effect sizes of every neuron: how far apart are its values in the categories of rows? Float64.

Rows are `[rows, neurons]`, and labels are integers from 0. With two categories, a positive d means that category 1 is
the higher one. An effect is NaN where it is not defined. Knows no word and no model.
"""

import numpy as np
from scipy import special, stats

from neurexp.stats import association
from neurexp.stats.association import LEVEL
from neurexp.stats.chunks import in_neuron_chunks, labelling_chunks
from neurexp.stats.rounding import FLAT, centred

LARGE = 500.0  # |t| beyond which the noncentral t is approximated instead of inverted
FAR = 3.5  # robust standard deviations from the median beyond which a mean is an outlier (Iglewicz and Hoaglin 1993)
MAD_TO_SD = 1.4826  # the standard deviation of normal values over their median absolute deviation


@in_neuron_chunks
def moments(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of each category `[categories, neurons]`, and the mean and standard deviation (ddof 0) of all rows."""
    means = [x[labels == category].mean(0) for category in range(int(labels.max()) + 1)]
    return np.stack(means), x.mean(0), x.std(0)


def bands(means: np.ndarray) -> np.ndarray:
    """Which neurons' means `[neurons]` lie more than 3.5 robust SD (1.4826 × MAD) from the median of all means.

    These neurons are the vertical bands in an image of words × neurons: they are far from the others for every word.
    """
    return np.abs(means - np.median(means)) > FAR * MAD_TO_SD * stats.median_abs_deviation(means)


@in_neuron_chunks
def eta_squared(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of a neuron's variance that lies between categories, `[neurons]`."""
    mean = x.mean(0)
    sums = np.stack([(x[labels == category] - mean).sum(0) for category in range(int(labels.max()) + 1)])
    return association.eta_squared(np.bincount(labels), sums, ((x - mean) ** 2).sum(0), mean)


@in_neuron_chunks
def cohens_d(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cohen's d, (mean 1 − mean 0) / pooled SD, and the ends of its 95 % interval, `[neurons]` each.

    The interval is exact for normal values of equal variance: its ends are the noncentrality parameters for which the
    observed t is the 97.5 % and the 2.5 % quantile (Steiger and Fouladi 1997). Beyond |t| = 500 it is the normal
    approximation. All three are NaN where no row differs from the others of its category: the pooled SD is 0.
    """
    x, defined = centred(x)
    one, zero = x[labels == 1], x[labels == 0]
    n1, n0 = len(one), len(zero)
    degrees = n1 + n0 - 2
    pooled = np.sqrt((one.var(0) * n1 + zero.var(0) * n0) / degrees)
    defined = defined & (pooled**2 > FLAT * (x**2).mean(0))
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


@in_neuron_chunks
def cohens_d_of_labellings(x: np.ndarray, labellings: np.ndarray) -> np.ndarray:
    """Cohen's d for many labellings `[labellings, rows]` at once, `[labellings, neurons]`.

    NaN where a category has no row.
    """
    x, defined = centred(x)
    member = labellings.astype(float)
    n1 = member.sum(1)[:, None]
    n0 = len(x) - n1
    total, sums = (x**2).sum(0), member @ x  # x is centred: the sum of category 0 is the negative of this
    with np.errstate(invalid="ignore", divide="ignore"):  # a category may have no row
        within = total - sums**2 / n1 - sums**2 / n0
        d = (sums / n1 + sums / n0) / np.sqrt(within / (len(x) - 2))
    return np.where(defined & (within > FLAT * total), d, np.nan)


@in_neuron_chunks
def auroc(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The area under the ROC curve: the chance that a row of category 1 exceeds one of category 0; ties count half.

    Args:
        x: `[rows, neurons]`.
        labels: `[rows]`, or `[labellings, rows]`.

    Returns:
        `[neurons]`, or `[labellings, neurons]`. NaN where a category has no row.
    """
    ranks = stats.rankdata(x, axis=0)
    ones = labels == 1
    n1 = ones.sum(-1)[..., None]
    n0 = len(x) - n1
    if ones.ndim == 1:
        sums = ones.astype(float) @ ranks
    else:
        sums = np.concatenate([ones[part].astype(float) @ ranks for part in labelling_chunks(len(ones), len(x))])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums - n1 * (n1 + 1) / 2) / (n1 * n0)


def auroc_in_direction(x: np.ndarray, labels: np.ndarray, direction: float) -> float:
    """The AUROC of one neuron in the expected direction; NaN where a category has no row.

    Args:
        x: `[rows]`.
        labels: `[rows]`.
        direction: for two categories, the sign of the expected difference. For more, the category that is expected to
            be the highest: it is compared with all the others.
    """
    if len(labels) == 0:
        return float("nan")
    if labels.max() > 1:
        return float(auroc(x[:, None], (labels == direction).astype(int))[0])
    value = float(auroc(x[:, None], labels)[0])
    return value if direction >= 0 else 1 - value
