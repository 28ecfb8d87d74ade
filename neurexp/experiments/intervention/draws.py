"""What the first passes measured, and what follows from it: the edits' values, and matched random neurons.

It is computed twice, before the edited pass and in the analysis, with the same result. Knows no figure and no sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurexp.engine.edits import Edit
from neurexp.engine.reducers.attribution import Attribution
from neurexp.engine.reducers.rows import Rows
from neurexp.errors import UserError
from neurexp.experiments.base import Results
from neurexp.experiments.intervention.direct import output_norms
from neurexp.experiments.intervention.trials import Pairs, Trials, by_layer
from neurexp.stats.matching import matched_draws
from neurexp.stats.mode import half_sample_mode


@dataclass(frozen=True)
class Measured:
    """What was measured of each neuron.

    Args:
        layers: block indices, ascending.
        mean, magnitude: `[layers, neurons]` float64, over all tokens.
        estimates: kind → `[layers, neurons]`, the estimated change of the mean loss in nats.
        rows: `[layers, rows, neurons]` activations at random tokens, where an edit needs them.
    """

    layers: tuple[int, ...]
    mean: np.ndarray
    magnitude: np.ndarray
    estimates: Mapping[str, np.ndarray]
    rows: Sequence[np.ndarray]

    @classmethod
    def of(cls, results: Results, layers: tuple[int, ...], kinds: Sequence[str]) -> "Measured":
        """From the passes' results."""
        attribution = results["gradients"]["attribution"]
        assert isinstance(attribution, Attribution)
        rows: list[np.ndarray] = []
        if "rows" in results:
            kept = results["rows"]["rows"]
            assert isinstance(kept, Rows)
            rows = [kept.rows(index).float().cpu().numpy() for index in range(len(layers))]
        replaced = {"zero": lambda: 0.0, "mean": lambda: attribution.mean}
        replaced["resample"] = lambda: _tensor(np.stack([one.mean(0, dtype=np.float64) for one in rows]))
        replaced["peak"] = lambda: _tensor(np.stack([half_sample_mode(one) for one in rows]))
        estimates = {kind: attribution.estimate(replaced[kind]()).cpu().numpy() for kind in kinds}
        mean, magnitude = (one.cpu().numpy() for one in (attribution.mean, attribution.mean_magnitude))
        return cls(layers, mean, magnitude, estimates, rows)

    def edits(self, site: str, kind: str, pairs: Pairs) -> list[Edit]:
        """The edits that replace neurons."""
        return [
            Edit(site, layer, neurons, kind, self._value(kind, self.layers.index(layer), neurons))
            for layer, neurons in by_layer(pairs)
        ]

    def _value(self, kind: str, at: int, neurons: list[int]) -> np.ndarray | None:
        if kind == "mean":
            return self.mean[at, neurons]
        if kind == "peak":
            return half_sample_mode(self.rows[at][:, neurons])
        return self.rows[at][:, neurons] if kind == "resample" else None


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values)


@dataclass(frozen=True)
class Drawn:
    """Random neurons.

    Args:
        sets: set → `[draws, n, 2]`, in place of the set's neurons, of the same layers and alike in `features`.
        pools: set → `[n]`, from how many neurons each was drawn.
        sample: `[sample, 2]`, of all layers.
        features: `[layers · neurons, f]`, natural logarithms of the mean |activation|, and of the output weights' norm
            where the site has such weights.
        norms: `[layers, neurons]` of the output weights, or None.
    """

    sets: Mapping[str, np.ndarray]
    pools: Mapping[str, np.ndarray]
    sample: Pairs
    features: np.ndarray
    norms: np.ndarray | None


def draw(measured: Measured, network: Any, site: str, trials: Trials, seed: int) -> Drawn:
    """Draws random neurons for every set, and the sample.

    Raises:
        UserError: a neuron of a set is dead, or its layer has too few others.
    """
    count, width = measured.mean.shape
    norms = output_norms(network, site, measured.layers)
    with np.errstate(divide="ignore"):
        columns = [np.log(measured.magnitude).ravel()] + ([] if norms is None else [np.log(norms).ravel()])
    features = np.stack(columns, axis=1)
    layers = np.repeat(np.asarray(measured.layers), width)
    taken = np.zeros(count * width, dtype=bool)
    flat = {name: _flat(measured.layers, width, pairs) for name, pairs in trials.sets.items()}
    for places in flat.values():
        taken[places] = True
    sets, pools = {}, {}
    for number, (name, places) in enumerate(flat.items()):
        dead = ~np.isfinite(features[places]).all(1)
        if dead.any():
            layer, neuron = trials.sets[name][dead][0].tolist()
            raise UserError(
                f"neuron {neuron} of layer {layer}, of the set {name}, is dead: {site} is 0 there on every token of "
                "this text, or writes nothing; leave it out (experiment.neurons names those that are edited)"
            )
        try:
            drawn = matched_draws(features, layers, places, taken, trials.draws, _seed(seed, number))
        except ValueError as error:
            raise UserError(
                f"the set {name}: {error}; edit fewer neurons (experiment.count, or experiment.neurons)"
            ) from error
        sets[name] = _pairs(measured.layers, width, drawn.chosen)
        pools[name] = drawn.pools
    alive = np.flatnonzero(np.isfinite(features).all(1) & ~taken)
    random = np.random.default_rng([seed, 2])
    sample = np.sort(random.choice(alive, min(trials.sample, len(alive)), replace=False))
    if len(sample) < trials.sample:
        raise UserError(f"experiment.sample={trials.sample}: there are {len(alive)} other neurons; give fewer")
    return Drawn(sets, pools, _pairs(measured.layers, width, sample), features, norms)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, 3, number]).generate_state(1)[0])


def _flat(layers: tuple[int, ...], width: int, pairs: Pairs) -> np.ndarray:
    return np.searchsorted(layers, pairs[..., 0]) * width + pairs[..., 1]


def _pairs(layers: tuple[int, ...], width: int, flat: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(layers)[flat // width], flat % width], axis=-1)
