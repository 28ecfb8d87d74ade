"""The design of the properties and what follows from its sums, against all tokens by hand."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from inprocess import inputs_of, text_of
from scipy.signal import lfilter

from neurexp.config.schema import DatasetConfig, Source
from neurexp.engine.notebook import capture
from neurexp.engine.reducers.base import Batch
from neurexp.engine.reducers.gram import Gram
from neurexp.experiments.top_contexts import Options, TopContexts
from neurexp.experiments.top_contexts.design import BY_TYPE, OF_PLACES, OF_TYPES, SIMPLE, Design, sampled_sequences
from neurexp.experiments.top_contexts.explained import PropertySums
from neurexp.experiments.top_contexts.labels import LABELS, labels_of
from neurexp.models.load import load_model
from neurexp.stats.association import q_values
from neurexp.stats.explained import noise_of_sketch
from neurexp.text.running_text import read_text

VOCABULARY, LENGTH, NEURONS, SHIFT = 40, 16, 30, 3.0
ONE = 5  # the type that neuron 4 fires on


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(8)


@pytest.fixture(scope="module")
def text(random):
    ids = random.choice(VOCABULARY, 500, p=random.dirichlet(np.full(VOCABULARY, 0.5)))
    ids[::9] = ONE
    return text_of(ids, LENGTH)


@pytest.fixture(scope="module")
def design(text, random):
    counted = text.valid & (text.input_ids != 3)
    return Design(text, counted, random.normal(size=(VOCABULARY, len(OF_TYPES))), 10**6, draws=12, seed=1)


@pytest.fixture(scope="module")
def activations(text, random):
    """`[sequences, length, neurons]`."""
    of_type, of_previous = random.normal(size=(2, VOCABULARY, NEURONS))
    x = random.normal(size=(*text.valid.shape, NEURONS)) + of_type[text.input_ids] + SHIFT
    x[:, 1:] += of_previous[text.input_ids[:, :-1]]
    x[:, :, 4] = text.input_ids == ONE
    return x.astype(np.float32)


def summed(design, activations, batch_size, shift=SHIFT):
    text, shifts = design.tokens, torch.full((1, activations.shape[-1]), shift)
    gram = Gram(design.width, 1, design.squared, shift=shifts)
    for start in range(0, len(text.valid), batch_size):
        valid = text.valid[start : start + batch_size]
        sequence, position = np.nonzero(valid)
        cells = design(torch.from_numpy(position), torch.from_numpy(sequence + start))
        batch = Batch(torch.zeros(1, 1), torch.zeros(1, 1), None, torch.zeros(1, 1), 0, {"design": cells})
        gram.begin(batch)
        gram.update(0, torch.from_numpy(activations[start : start + batch_size][valid]), batch)
    state = {name: values.numpy() for name, values in gram.state().items() if name != "magnitudes"}
    return PropertySums(design, **state)


def by_hand(design, activations):
    """Of the used tokens: activations, halves, ids, previous ids (−1: none), simple properties `[tokens, 8]`."""
    text = design.tokens
    used = design.counted & design.rows[:, None]
    sequence, position = np.nonzero(used)
    ids = text.input_ids[used]
    before = np.where(position > 0, text.input_ids[sequence, np.maximum(position - 1, 0)], -1)
    z = np.column_stack([design.values[ids], np.log2(1 + position), position == 0])
    return activations[used].astype(np.float64), sequence >= (len(text.valid) + 1) // 2, ids, before, z


def exact_by_type(x, half, ids):
    """The sum over types that are in both halves, over the variance."""
    total = np.zeros(x.shape[1])
    for one in np.unique(ids[ids >= 0]):
        members = [(ids == one) & (half == side) for side in (False, True)]
        if all(part.any() for part in members):
            means = [
                x[part].mean(0) - x[half == side].mean(0) for part, side in zip(members, (False, True), strict=True)
            ]
            total += (ids == one).mean() * means[0] * means[1]
    return total / x.var(0)


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_what_follows_from_the_sums_is_what_all_tokens_say(design, activations, batch_size):
    sums = summed(design, activations, batch_size)
    one_token = np.arange(NEURONS) % VOCABULARY
    found = sums.explained(0, one_token)
    x, half, ids, before, z = by_hand(design, activations)
    np.testing.assert_allclose(sums.variance(0), x.var(0), rtol=1e-5)
    for column, name in enumerate(SIMPLE):
        r = [np.corrcoef(z[:, column], neuron)[0, 1] for neuron in x.T]
        np.testing.assert_allclose(found.r[name], r, atol=1e-5)
        slopes = [
            np.cov(z[half == side, column], x[half == side].T, ddof=0)[0, 1:] / z[half == side, column].var()
            for side in (False, True)
        ]
        np.testing.assert_allclose(found.ev[name], slopes[0] * slopes[1] * z[:, column].var() / x.var(0), atol=1e-5)
    for name, types in (("token", ids), ("previous_token", before)):
        noise = noise_of_sketch(sums.sketch(0, name), sums.variance(0))
        exact = exact_by_type(x, half, types)
        assert np.abs((found.ev[name] - exact) / noise).max() < 4
        # Signs of their own show that nothing but noise parts the two
        assert np.corrcoef(found.ev[name], exact)[0, 1] > 0.5
    assert found.ev["token"][4] == pytest.approx(1, abs=0.15)
    alone = sums.explained(0, np.full(NEURONS, ONE))
    assert alone.ev_one_token[4] == pytest.approx(1, abs=0.15)
    assert alone.ev_one_token[5] < 0.5
    assert (sums.explained(0, np.full(NEURONS, -1)).ev_one_token == 0).all()


def test_the_sketch_has_the_signs_of_its_types(design, activations):
    sums = summed(design, activations, 4)
    x, half, ids, before, _ = by_hand(design, activations)
    for name, types in (("token", ids), ("previous_token", before)):
        sketch = sums.sketch(0, name)
        for side, projected in ((False, sketch.first), (True, sketch.second)):
            expected = 0
            for one in np.unique(types[types >= 0]):
                members = (types == one) & (half == side)
                if members.any():
                    away = x[members].mean(0) - x[half == side].mean(0)
                    signs = design.types[name].of(np.array([one]))[0].astype(float)
                    expected = expected + np.outer(signs * np.sqrt((types == one).mean()), away)
            np.testing.assert_allclose(projected, expected, atol=1e-4)


def test_draws_keep_what_they_must(design):
    """Draws of a type's property deal out its values among types; those of a position keep each sequence's values."""
    text = design.tokens
    sequence, position = np.nonzero(text.valid)
    columns = np.zeros((len(position), design.width), dtype=np.float32)
    for cells in design(torch.from_numpy(position), torch.from_numpy(sequence)):
        columns[:, cells.columns.numpy()] += cells.design.numpy()[cells.of_token.numpy()]
    used = design.counted[sequence, position]
    assert not columns[~used].any()
    ids, columns, sequence, position = text.input_ids[text.valid][used], columns[used], sequence[used], position[used]
    for index, name in enumerate(OF_TYPES):
        null, own = columns[:, design.columns[f"null_{name}"]], columns[:, design.columns["simple_0"].start + index]
        own = own + columns[:, design.columns["simple_1"].start + index]
        assert abs(own.mean()) < 1e-6
        types, first, counts = np.unique(ids, return_index=True, return_counts=True)
        octaves = np.floor(np.log2(counts))
        assert len(set(octaves)) > 1
        for draw in null.T:
            assert (draw == draw[first][np.searchsorted(types, ids)]).all()
            for band in np.unique(octaves):  # log frequency among all types, others among those of like frequency
                inside = octaves == band if name != "log_frequency" else np.ones_like(octaves, dtype=bool)
                np.testing.assert_allclose(np.sort(draw[first][inside]), np.sort(own[first][inside]), atol=1e-6)
        assert (null != own[:, None]).mean() > (0.8 if name == "log_frequency" else 0.2)
    log_place = np.log2(1 + np.arange(LENGTH))
    for draw in columns[:, design.columns["null_position"]].T:
        values = np.round(2 ** (draw + log_place[position].mean()) - 1).astype(int)
        shift = (values - position) % text.valid.sum(1)[sequence]
        assert (shift > 0).all()
        assert all(len(set(shift[sequence == row])) == 1 for row in range(len(text.valid)))


def test_the_sample_is_spread_over_both_halves():
    for sequences, tokens in ((1, 100), (2, 10), (7, 64), (100, 320), (1000, 65536), (1001, 3000), (301, 10**9)):
        chosen = sampled_sequences(sequences, 16, tokens)
        middle = (sequences + 1) // 2
        assert chosen[:middle].any()
        assert chosen[middle:].any() == (sequences > 1)
        assert chosen.sum() <= max(2, tokens // 16)
        assert chosen.sum() >= min(sequences, tokens // 16) * 0.7
        runs = np.flatnonzero(np.diff(chosen.astype(int)) == 1)
        assert sequences < 200 or len(runs) > 5 or chosen.all()


def test_only_batches_of_the_sample_are_summed(text, random):
    design = Design(text, text.valid, random.normal(size=(VOCABULARY, len(OF_TYPES))), 128, draws=8, seed=0)
    assert 2 <= design.rows.sum() <= 8
    for row in range(len(text.valid)):
        position = torch.arange(int(text.valid[row].sum()))
        cells = design(position, torch.full_like(position, row))
        assert bool(cells) == bool(design.rows[row])


# Labels


def label(one_token=0.0, q=0.0, **ev):
    names = (*SIMPLE, *BY_TYPE)
    found, explained = labels_of(
        {name: np.array([ev.get(name, 0.0)]) for name in names},
        {name: np.array([q if name in ev else 1.0]) for name in names},
        np.array([one_token]),
    )
    return LABELS[found[0]], explained[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "none"),
        ({"length": 0.04, "token": 0.049}, "none"),
        ({"length": 0.3, "q": 0.05}, "none"),
        ({"length": 0.3, "position": 0.31, "token": 0.6}, "position"),
        ({"length": 0.29, "token": 0.6}, "token"),
        ({"length": 0.29, "token": 0.6, "one_token": 0.3}, "one_token"),
        ({"length": 0.29, "token": 0.6, "previous_token": 0.61, "one_token": 0.4}, "previous_token"),
        ({"length": float("nan"), "digit": 0.06}, "digit"),
        ({"token": 0.06, "one_token": 0.04}, "token"),
        ({"token": 0.06, "one_token": float("nan")}, "token"),
        ({"one_token": 0.4}, "none"),
        ({"token": -0.2}, "none"),
    ],
)
def test_the_simplest_answer_that_tells_enough_is_the_label(given, expected):
    found, explained = label(**given)
    assert found == expected
    if expected == "none":
        assert np.isnan(explained)
    else:
        assert explained == given[expected]


# Where there is nothing to explain


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["independent", "shuffled", "drifting"])
def test_where_nothing_is_explained_p_errs_at_its_level_and_q_finds_nothing(kind):
    """Activations that know nothing of the tokens: noise, a network's own in random order, or noise that drifts."""
    model, random = load_model("mini", device="cpu"), np.random.default_rng(4)
    dataset = DatasetConfig(source=Source.pydoc, tokens=8192, sequence_length=256)
    with TemporaryDirectory() as folder:
        text = read_text(dataset, model.tokenizer, model.begins_with_bos, Path(folder))
    plan = TopContexts(Options("top_contexts", "")).prepare(inputs_of(model, text))
    shape, neurons = text.valid.shape, 300
    x = random.normal(size=(shape[0] * shape[1], neurons))
    if kind == "shuffled":
        values = torch.cat(list(capture(model.network, torch.from_numpy(text.input_ids).long(), "MLP", 3).values()))
        x = values.flatten(0, 1)[torch.from_numpy(random.permutation(len(x)))][:, :neurons].double().numpy()
    if kind == "drifting":
        x = np.asarray(lfilter([1], [1, -0.8], x, axis=0))
    x = x.astype(np.float32).reshape(*shape, neurons)
    sums = summed(plan.design, x, 4, shift=0.0)
    found = sums.explained(0, np.full(neurons, int(text.input_ids[0, 5])))
    for name, p in found.p.items():
        assert abs(found.ev[name].mean()) < 0.005, name
        if kind == "drifting" and name not in OF_PLACES:
            continue  # dealing out types anew does not keep what neighbouring tokens have in common
        assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.05), name  # one set of draws for all neurons
        assert (q_values(p) < 0.05).mean() < 0.02, name
    assert abs(found.ev_one_token.mean()) < 0.005
    label, _ = labels_of(found.ev, {name: q_values(p) for name, p in found.p.items()}, found.ev_one_token)
    assert (label == LABELS.index("none")).mean() > 0.98
