"""The text's best windows of a few units, against numpy over everything."""

import numpy as np
import torch
from tiny import build

import neurexp
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers.unit_values import UnitValues
from neurexp.engine.reducers.windows import Windows
from neurexp.models.sites import find_sites

N, K, LENGTH, UNITS = 3, 5, 12, [[2, 7], [], [4]]


def text():
    random = np.random.default_rng(0)
    ids = random.integers(1, 60, (9, LENGTH))
    valid = np.ones(ids.shape, dtype=bool)
    valid[4, 5:] = valid[-1, 2:] = False
    return ids, valid, valid & (random.random(ids.shape) > 0.1)


def of_pass(ids, valid, counted, batch_size, part=slice(None)):
    network, windows = build("gpt_neo"), Windows(UNITS, N, K, LENGTH)
    mask = torch.from_numpy(counted)

    def covariates(tokens, positions, sequences):
        return {"counted": mask[sequences, positions]}

    sites = find_sites(network, "MLP", [0, 1, 2])
    run_pass(network, sites, ids, valid, [windows], covariates, batch_size, part=part)
    return network, windows


def test_windows_are_those_of_numpy_however_the_text_is_cut():
    ids, valid, counted = text()
    network, windows = of_pass(ids, valid, counted, 2)
    every = neurexp.capture(network, ids, "MLP", [0, 2], valid=valid)
    for index, (layer, neuron) in enumerate(((0, 2), (0, 7), (2, 4))):
        x = every[f"MLP_{layer}"][..., neuron].double().numpy()
        means, peaks = [], []
        for row in range(len(ids)):
            for end in range(N - 1, LENGTH):
                if counted[row, end - N + 1 : end + 1].all():
                    means.append((x[row, end - N + 1 : end + 1].mean(), row * LENGTH + end))
                    peaks.append((x[row, end], row * LENGTH + end))
        for kind, expected in (("mean", means), ("peak", peaks)):
            best = sorted(expected, reverse=True)[:K]
            assert windows.places(index, kind).tolist() == [place for _, place in best]
            assert np.allclose(windows.values(index, kind), [value for value, _ in best], rtol=1e-5)
        assert np.isclose(windows.values(index, "maximum")[0], x[counted].max())
    _, first = of_pass(ids, valid, counted, 3, slice(0, 5))
    _, second = of_pass(ids, valid, counted, 1, slice(5, None))
    second.merge(first)
    loaded = Windows(UNITS, N, K, LENGTH)
    loaded.load(second.state())
    for name, value in windows.state().items():
        assert torch.allclose(loaded.state()[name], value, equal_nan=True), name


def test_a_window_longer_than_the_sequences_is_nowhere():
    network, windows = build("gpt_neo"), Windows([[0]], 20, K, LENGTH)
    run_pass(network, find_sites(network, "MLP", [0]), text()[0], None, [windows])
    assert windows.places(0, "mean").tolist() == [-1] * K


def test_the_values_of_units_are_the_activations():
    network, (ids, valid, _) = build("gpt_neo"), text()
    found = UnitValues(UNITS, *ids.shape)
    run_pass(network, find_sites(network, "MLP", [0, 1, 2]), ids, valid, [found], batch_size=4)
    every = neurexp.capture(network, ids, "MLP", [0, 2], valid=valid)
    expected = torch.stack([every["MLP_0"][..., 2], every["MLP_0"][..., 7], every["MLP_2"][..., 4]]).nan_to_num(0)
    assert torch.allclose(found.values, expected, rtol=1e-4, atol=1e-6)
