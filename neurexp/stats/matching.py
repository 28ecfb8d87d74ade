"""Matching: random neurons that resemble chosen ones, as a null for what the chosen ones do. Float64.

The neurons of all layers lie in one list. A feature is a number for each of them, such as the logarithm of its mean
|activation| or of the norm of its output weights. Knows no model, no text and no edit.
"""

from dataclasses import dataclass

import numpy as np

CLOSE = 32  # neurons from which a random one is drawn, at least, where the layer has them
SHARE = 4  # no more than 1 / SHARE of a layer's candidates counts as close, unless that is fewer than CLOSE


@dataclass(frozen=True)
class Draws:
    """Random neurons in place of the targets.

    Draws are nested: the first k columns are the draws for the first k targets. A column alone is the draws for that
    target alone.
    """

    chosen: np.ndarray  # [draws, targets] int64, indices of neurons
    pools: np.ndarray  # [targets] int64, the number of closest neurons that the target's neurons were drawn from


def matched_draws(
    features: np.ndarray,
    layers: np.ndarray,
    targets: np.ndarray,
    excluded: np.ndarray,
    draws: int,
    seed: int,
    nearest: int | None = None,
) -> Draws:
    """Draws, for every target, neurons of its layer that are close to it in the features.

    The distance is Euclidean, after each feature was divided by its standard deviation over the layer. A target's
    neuron is uniform among the `nearest` candidates. Each of these is used once before one is used again, so that the
    draws of a single target are as many different neurons as there can be. No neuron is twice in one draw: where
    targets of a layer share candidates, later targets take what earlier ones have left, or the next nearest.

    Args:
        features: `[neurons, f]` float64. A neuron with a value that is not finite (the logarithm of 0) is no candidate.
        layers: `[neurons]` int.
        targets: `[n]` indices of neurons, without repeats.
        excluded: `[neurons]` bool: no candidates. The targets are never candidates either.
        draws: how many sets of neurons.
        seed: of the draws.
        nearest: None: as many as draws, but not more than a quarter of the layer's candidates, and 32 at least. With
            fewer than draws, the draws of a single target repeat, and `rank_p` gives the smallest p too often: as
            often as one of `nearest` + 1 neurons is the most harmful one.

    Raises:
        ValueError: a target repeats, or one of its features is not finite, or a layer has fewer candidates than
            targets.
    """
    features, layers, targets = np.asarray(features, dtype=np.float64), np.asarray(layers), np.asarray(targets)
    if len(np.unique(targets)) < len(targets):
        raise ValueError("a target is given twice")
    finite = _finite(features)
    for target in targets[~finite[targets]]:
        raise ValueError(f"neuron {target} is dead: {features[target].tolist()} has a value that is not finite")
    candidate = finite & ~np.asarray(excluded, dtype=bool)
    candidate[targets] = False
    scaled = features / _spread(features, layers, finite)
    random = np.random.default_rng(seed)
    chosen = np.empty((draws, len(targets)), dtype=np.int64)
    pools = np.empty(len(targets), dtype=np.int64)
    for column, target in enumerate(targets):
        layer = layers[target]
        inside = np.flatnonzero(candidate & (layers == layer))
        own = int((layers[targets] == layer).sum())
        if len(inside) < own:
            raise ValueError(f"layer {layer} has {own} targets, but only {len(inside)} other neurons to draw from")
        close = max(CLOSE, min(draws, len(inside) // SHARE)) if nearest is None else nearest
        distance = np.square(scaled[inside] - scaled[target]).sum(1)
        by_distance = inside[np.argsort(distance, kind="stable")]
        pool = by_distance[:close]
        pools[column] = len(pool)
        rounds = [random.permutation(pool) for _ in range(-(-draws // len(pool)))]
        picked = np.concatenate(rounds)[:draws]
        shares = random.random(draws)
        for draw in np.flatnonzero((chosen[:, :column] == picked[:, None]).any(1)):
            candidates = by_distance[: close + column]
            free = candidates[~np.isin(candidates, chosen[draw, :column])][:close]
            picked[draw] = free[int(shares[draw] * len(free))]
        chosen[:, column] = picked
    return Draws(chosen, pools)


def balance(features: np.ndarray, layers: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The standardised mean difference of each feature, `[f]`: targets minus drawn, in SDs over the target's layer.

    Differences within ± 0.1 are usually taken as balanced (Austin 2009, Statistics in Medicine 28, 3083).

    Args:
        features: `[neurons, f]`.
        layers: `[neurons]` int.
        targets: `[n]` indices of neurons.
        chosen: `[draws, n]`, as in `Draws`.
    """
    spread = _spread(features, layers, _finite(features))
    return ((features[targets] - features[chosen].mean(0)) / spread[targets]).mean(0)


def mean_ratios(features: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How many times the targets' the drawn neurons' quantities are, `[f]`, where features are natural logarithms.

    It is the exponential of the mean difference, drawn minus targets, and so a ratio of geometric means: 0.98 says that
    the random neurons have 0.98 times the targets' value.
    """
    return np.exp((features[chosen].mean(0) - features[targets]).mean(0))


def _finite(features: np.ndarray) -> np.ndarray:
    """The neurons all of whose features are finite, `[neurons]` bool."""
    return np.logical_and.reduce(np.isfinite(features), axis=1)


def _spread(features: np.ndarray, layers: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Each feature's standard deviation (ddof 0) over the finite neurons of a neuron's layer, `[neurons, f]`.

    1 where a feature does not vary: it then adds nothing to a distance within the layer.
    """
    spread = np.ones_like(features, dtype=np.float64)
    for layer in np.unique(layers[finite]):
        values = features[finite & (layers == layer)]
        deviation, size = values.std(0), np.abs(values).max(0)
        spread[layers == layer] = np.where(deviation > 1e-12 * size, deviation, 1.0)
    return spread
