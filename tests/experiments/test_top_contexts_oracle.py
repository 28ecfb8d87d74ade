"""Every column of `top_contexts` from all activations of a plain Hugging Face forward, kept in float64."""

from collections import Counter
from functools import cached_property

import numpy as np
import pytest
import torch
from inprocess import run_experiment, small_model, text_of
from made_tokenizers import sentencepiece_like
from scipy import stats

from neurexp.experiments.top_contexts import Options, TopContexts
from neurexp.experiments.top_contexts.design import BY_TYPE, OF_TYPES, SIMPLE
from neurexp.models.direct import direct_effects, output_weights
from neurexp.report.report import Report
from neurexp.stats.concentration import Pool
from neurexp.stats.explained import noise_of_sketch
from neurexp.text.characters import token_bytes
from neurexp.text.tokens import Tokens

LENGTH, K, BEFORE, AFTER, DIRECT = 32, 6, 3, 2, 4
PIECES = ("▁door", "▁Door", "▁the", "▁House", "▁a", "ing", "s", "▁are", "14", "2", "▁(", "!?", ";", "▁internationally")
FINE = 1e-5


class Measured:
    """A run of the experiment, and all that a plain forward says of the same text."""

    def __init__(self, **options):
        self.tokenizer = sentencepiece_like("always", PIECES)
        random = np.random.default_rng(2)
        chance = random.dirichlet(np.full(len(self.tokenizer), 0.6))
        ids = random.choice(len(self.tokenizer), 1700, p=chance)
        ids[::45] = self.tokenizer.eos_token_id
        self.text: Tokens = text_of(ids, LENGTH)
        self.model = small_model(self.tokenizer)
        self.options = Options(
            "top_contexts", "", k=K, before=BEFORE, after=AFTER, direct=DIRECT, property_tokens=1024, permutations=9,
            histogram=2, bins=16, winners=[[1, 5], [0, 7]], batches=50, batch_sequences=4, **options,
        )  # fmt: skip
        self.plan, self.results, report = run_experiment(TopContexts(self.options), self.model, self.text)
        self.report: Report = report

    @cached_property
    def all_activations(self) -> np.ndarray:
        """`[layers, sequences, length, neurons]` float64, of one sequence at a time."""
        seen, found = [], []
        handles = [
            block.mlp.c_fc.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0].double()))
            for block in self.model.network.transformer.h
        ]
        with torch.inference_mode():
            for row in self.text.input_ids:
                seen.clear()
                self.model.network(input_ids=torch.from_numpy(row.astype(np.int64))[None])
                found.append(torch.stack(seen).numpy())
        for handle in handles:
            handle.remove()
        return np.stack(found, 1)

    @cached_property
    def counted(self) -> np.ndarray:
        special = np.isin(self.text.input_ids, self.tokenizer.all_special_ids)
        return self.text.valid & ~special & (np.arange(LENGTH) >= self.options.skip_positions)

    @cached_property
    def activations(self) -> np.ndarray:
        """`[layers, counted tokens, neurons]`."""
        return self.all_activations[:, self.counted]

    @cached_property
    def spelled(self) -> list[str]:
        texts = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return [text.replace("▁", " ") for text in texts]

    def neurons(self, name: str) -> np.ndarray:
        """A column of the neuron table, `[layers, neurons]`."""
        return self.report.neurons[name].reshape(len(self.activations), -1)


@pytest.fixture(
    scope="module", params=[pytest.param({}, marks=pytest.mark.slow), {"skip_positions": 2}], ids=["all", "skipped"]
)
def measured(request):
    return Measured(**request.param)


def test_contexts_are_the_highest_and_lowest_activations(measured):
    table = measured.report.tables["contexts"]
    layers, _, neurons = measured.activations.shape
    assert len(table["layer"]) == layers * neurons * 2 * K
    order = np.lexsort((table["rank"], table["end"] == "bottom", table["neuron"], table["layer"]))
    assert (order == np.arange(len(order))).all()
    at = table["sequence"], table["position"]
    assert measured.counted[at].all()
    own = measured.all_activations[table["layer"], *at, table["neuron"]]
    np.testing.assert_allclose(table["value"], own, atol=FINE)
    ordered = np.sort(measured.activations, axis=1)
    expected = np.stack([ordered[:, ::-1][:, :K], ordered[:, :K]], 1)  # [layers, ends, k, neurons]
    values = table["value"].reshape(layers, neurons, 2, K)
    np.testing.assert_allclose(values.transpose(0, 2, 3, 1), expected, atol=FINE)
    place = (table["sequence"] * LENGTH + table["position"]).reshape(-1, K)
    assert all(len(set(row)) == K for row in place)
    ids = measured.text.input_ids[at]
    assert (table["token_id"] == ids).all()
    assert table["token"].tolist() == [measured.spelled[one] for one in ids]


def test_the_activations_around_are_in_units_of_the_context(measured):
    table, levels = measured.report.tables["contexts"], measured.report.tensors["windows"]["levels"]
    by_neuron = levels.transpose(0, 2, 1, 3, 4).reshape(-1, BEFORE + 1 + AFTER)
    for row in range(0, len(by_neuron), 7):
        layer, neuron, sequence, position = (table[name][row] for name in ("layer", "neuron", "sequence", "position"))
        for index, offset in enumerate(range(-BEFORE, AFTER + 1)):
            place = position + offset
            if not 0 <= place < LENGTH or not measured.text.valid[sequence, place]:
                assert by_neuron[row, index] == -128
                continue
            x, own = (measured.all_activations[layer, sequence, one, neuron] for one in (place, position))
            assert abs(by_neuron[row, index] - np.clip(100 * x / abs(own), -100, 100)) < 0.51
    assert measured.report.notes["windows"] == {"before": str(BEFORE), "after": str(AFTER), "scale": "100"}


def test_the_sequences_of_the_contexts_and_their_tokens_are_kept(measured):
    table, kept = measured.report.tables["contexts"], measured.report.tensors["context_tokens"]
    assert kept["sequences"].tolist() == sorted(set(table["sequence"].tolist()))
    assert (kept["input_ids"] == measured.text.input_ids[kept["sequences"]]).all()
    assert (kept["valid"] == measured.text.valid[kept["sequences"]]).all()
    vocabulary = measured.report.tables["vocabulary"]
    wanted = set(kept["input_ids"][kept["valid"]].tolist()) | set(measured.report.tables["direct"]["id"].tolist())
    assert set(vocabulary["token_id"].tolist()) == wanted
    spelled = token_bytes(measured.tokenizer, sorted(wanted))
    assert [bytes.fromhex(one) for one in vocabulary["bytes"]] == [spelled[one] for one in sorted(wanted)]


def test_moments_and_quantiles(measured):
    x = measured.activations
    for name, expected in (
        ("mean", x.mean(1)),
        ("std", x.std(1)),
        ("skewness", stats.skew(x, axis=1)),
        ("kurtosis", stats.kurtosis(x, axis=1)),
        ("minimum", x.min(1)),
        ("maximum", x.max(1)),
    ):
        np.testing.assert_allclose(measured.neurons(name), expected, atol=1e-4, err_msg=name)
    near = (np.abs(x) < FINE).sum(1) / x.shape[1]
    assert (np.abs(measured.neurons("share_positive") - (x > 0).mean(1)) <= near + 1e-12).all()
    chosen = measured.counted & (np.arange(len(measured.counted)) % 2 == 0)[:, None]
    half = measured.all_activations[:, chosen]
    for share in (5, 25, 50, 75, 95):
        error = measured.neurons(f"q{share:02d}") - np.quantile(half, share / 100, axis=1)
        assert np.abs(error / x.std(1)).max() < 0.4  # as wide as a bin
    assert measured.report.tensors["neuron_histograms"]["counts"].sum(-1).min() == chosen.sum()


def test_concentration_against_draws_of_the_same_bands(measured):
    table, neurons = measured.report.tables["contexts"], measured.report.neurons
    text = measured.text.input_ids[measured.counted]
    pool = Pool.of(np.bincount(text, minlength=len(measured.spelled)))
    places = [text[pool.band[text] == band] for band in range(pool.bands)]
    random = np.random.default_rng(1)
    for end in ("top", "bottom"):
        own = table["token_id"][table["end"] == end].reshape(-1, K)
        assert (neurons[f"{end}_contexts"] == K).all()
        for row in range(0, len(own), 5):
            ids = own[row].tolist()
            commonest, most = Counter(ids).most_common(1)[0]
            assert neurons[f"{end}_token"][row] == measured.spelled[commonest]
            assert neurons[f"{end}_share"][row] == most / K
            entropy = stats.entropy(list(Counter(ids).values()), base=2)
            np.testing.assert_allclose(neurons[f"{end}_entropy"][row], entropy, atol=1e-9)
            drawn = np.column_stack([random.choice(places[pool.band[one]], 400) for one in ids])
            shares = np.array([np.unique(line, return_counts=True)[1].max() / K for line in drawn])
            # With replacement, unlike the null: of these many occurrences it is nearly the same
            assert abs(neurons[f"{end}_share_null"][row] - shares.mean()) <= 5 * shares.std() / 20 + 0.02
            p = (shares >= most / K).mean()
            assert abs(neurons[f"p_{end}_share"][row] - p) < 0.03 + 5 * np.sqrt(p * (1 - p) / 400)
        expected = stats.false_discovery_control(neurons[f"p_{end}_share"])
        np.testing.assert_allclose(neurons[f"q_{end}_share"], expected)


def sample_of(measured):
    """Of the sampled tokens: their places, activations `[layers, tokens, neurons]`, and in which half they are."""
    used = measured.counted & measured.plan.design.rows[:, None]
    sequence, position = np.nonzero(used)
    return (sequence, position), measured.all_activations[:, used], sequence >= (len(used) + 1) // 2


def simple_properties(measured, places):
    """`[tokens, 8]`, from the spelling of each token and its place."""
    texts = [measured.spelled[one] for one in measured.text.input_ids[places]]
    counts = np.bincount(measured.text.input_ids[measured.text.valid], minlength=len(measured.spelled))
    frequency = np.log2((counts + 1) / (counts.sum() + len(counts)))
    found = {
        "length": [len(text) for text in texts],
        "log_frequency": frequency[measured.text.input_ids[places]],
        "word_beginning": [text[0] == " " and text[1:2].isalnum() for text in texts],
        "capital": [text.lstrip(" ")[:1].isupper() for text in texts],
        "digit": [any(letter in "0123456789" for letter in text) for text in texts],
        "punctuation": [any(letter in "(!?;.,'-’" for letter in text) for text in texts],
        "position": np.log2(1 + places[1]),
        "first": places[1] == 0,
    }
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


def test_the_sample_has_no_more_tokens_than_asked_for(measured):
    (sequence, _), _, half = sample_of(measured)
    assert len(set(sequence.tolist())) <= 1024 // LENGTH
    assert 0.4 < half.mean() < 0.6
    assert measured.report.metrics["tokens_sampled"] == len(sequence)
    assert measured.report.metrics["tokens_counted"] == measured.counted.sum()


def test_simple_properties_explain_what_two_fits_say(measured):
    places, x, half = sample_of(measured)
    properties = simple_properties(measured, places)
    design = np.zeros((len(half), measured.plan.design.width))
    for cells in measured.plan.design(torch.from_numpy(places[1]), torch.from_numpy(places[0])):
        design[:, cells.columns.numpy()] += cells.design.numpy()[cells.of_token.numpy()]
    for name in SIMPLE:
        z = properties[name]
        if z.std() == 0:
            assert measured.options.skip_positions
            assert np.isnan(measured.neurons(f"ev_{name}")).all()
            assert (measured.neurons(f"p_{name}") == 1).all()
            continue
        null = design[:, measured.plan.design.columns[f"null_{name}"]]
        for layer, own in enumerate(x):
            r = np.array([np.corrcoef(z, one)[0, 1] for one in own.T])
            np.testing.assert_allclose(measured.neurons(f"r_{name}")[layer], r, atol=FINE, err_msg=name)
            slopes = [np.polyfit(z[half == side], own[half == side], 1)[0] for side in (False, True)]
            expected = slopes[0] * slopes[1] * z.var() / own.var(0)
            np.testing.assert_allclose(measured.neurons(f"ev_{name}")[layer], expected, atol=FINE, err_msg=name)
            draws = np.corrcoef(null.T, own.T)[: null.shape[1], null.shape[1] :]
            t = (r - draws.mean(0)) / (draws.std(0, ddof=1) * np.sqrt(1 + 1 / len(draws)))
            p = 2 * stats.t.sf(np.abs(t), len(draws) - 1)
            np.testing.assert_allclose(measured.neurons(f"p_{name}")[layer], p, rtol=0.01, atol=1e-4, err_msg=name)
    assert set(OF_TYPES) < set(SIMPLE)


@pytest.mark.parametrize("name", BY_TYPE)
def test_which_type_a_token_is_explains_the_sum_over_types(measured, name):
    places, x, half = sample_of(measured)
    ids = measured.text.input_ids[places]
    if name == "previous_token":
        ids = np.where(places[1] > 0, measured.text.input_ids[places[0], np.maximum(places[1] - 1, 0)], -1)
    for layer, own in enumerate(x):
        exact, projected = np.zeros(own.shape[1]), np.zeros((2, 128, own.shape[1]))
        for one in np.unique(ids[ids >= 0]):
            members = [(ids == one) & (half == side) for side in (False, True)]
            if all(part.any() for part in members):
                share, signs = (ids == one).mean(), measured.plan.design.types[name].of(np.array([one]))[0]
                away = [own[part].mean(0) - own[half == side].mean(0) for side, part in enumerate(members)]
                exact += share * away[0] * away[1] / own.var(0)
                projected += np.sqrt(share) * signs[None, :, None] * np.array(away)[:, None]
        found = measured.neurons(f"ev_{name}")[layer]
        np.testing.assert_allclose(found, (projected[0] * projected[1]).mean(0) / own.var(0), atol=FINE)
        sums = measured_sums(measured)
        noise = noise_of_sketch(sums.sketch(layer, name), sums.variance(layer))
        assert np.abs((found - exact) / noise).max() < 4.5


def measured_sums(measured):
    from neurexp.experiments.top_contexts import TopContextsData

    return TopContextsData.of(measured.options, measured.plan, measured.results).sums


def test_the_commonest_top_token_alone_explains_about_what_it_does(measured):
    places, x, half = sample_of(measured)
    ids = measured.text.input_ids[places]
    expected, found = [], []
    for layer, own in enumerate(x):
        for neuron in range(own.shape[1]):
            z = ids == measured.spelled.index(measured.neurons("top_token")[layer, neuron])
            if all(z[half == side].any() for side in (False, True)):
                slopes = [np.polyfit(z[half == side], own[half == side, neuron], 1)[0] for side in (False, True)]
                expected.append(slopes[0] * slopes[1] * z.var() / own[:, neuron].var())
                found.append(measured.neurons("ev_one_token")[layer, neuron])
    assert len(found) > 40
    assert np.corrcoef(found, expected)[0, 1] > 0.8
    assert np.abs(np.array(found) - expected).max() < 0.25
    assert abs(np.mean(np.array(found) - expected)) < 0.02


def test_the_tokens_that_output_weights_promote(measured):
    table = measured.report.tables["direct"]
    names = ("layer", "neuron", "sign", "rank", "id", "token", "effect")
    assert tuple(table) == names
    for layer in range(len(measured.activations)):
        weights = output_weights(measured.model.network, "MLP", layer)
        assert weights is not None
        effects = direct_effects(measured.model.network, weights)
        assert effects is not None
        for neuron, row in enumerate(effects.double().numpy()):
            own = (table["layer"] == layer) & (table["neuron"] == neuron)
            np.testing.assert_allclose(table["effect"][own], row[table["id"][own]], atol=1e-6)
            top, bottom = np.sort(row)[::-1][:DIRECT], np.sort(row)[:DIRECT]
            np.testing.assert_allclose(table["effect"][own], [*top, *bottom], atol=1e-6)
            assert table["sign"][own].tolist() == [1] * DIRECT + [-1] * DIRECT
            assert table["rank"][own].tolist() == [*range(1, DIRECT + 1)] * 2


def test_layers_and_metrics_are_means_over_neurons(measured):
    neurons, layers, metrics = measured.report.neurons, measured.report.layers, measured.report.metrics
    for layer in layers["layer"]:
        own = neurons["layer"] == layer
        assert layers["top_share"][layer] == pytest.approx(neurons["top_share"][own].mean())
        assert layers["ev_token"][layer] == pytest.approx(neurons["ev_token"][own].mean())
        assert layers["labelled_token"][layer] == (neurons["property"][own] == "token").mean()
        explained = (neurons["ev_length"][own] >= 0.05) & (neurons["q_length"][own] < 0.05)
        assert layers["explained_length"][layer] == explained.mean()
    labels = {name: value for name, value in metrics.items() if name.removeprefix("share_") in set(neurons["property"])}
    assert sum(labels.values()) == pytest.approx(1)


def test_winners_of_batches_are_in_the_table(measured):
    winners = measured.report.tables["winners"]
    assert set(zip(winners["layer"].tolist(), winners["neuron"].tolist(), strict=True)) == {(0, 7), (1, 5)}
    for layer, neuron in ((0, 7), (1, 5)):
        own = (winners["layer"] == layer) & (winners["neuron"] == neuron)
        assert winners["wins"][own].sum() == 50
        highest = np.where(measured.counted, measured.all_activations[layer, :, :, neuron], -np.inf)
        best = measured.text.input_ids[np.unravel_index(highest.argmax(), highest.shape)]
        assert best in winners["token_id"][own]
    assert any("random batches of 4 sequences" in line for line in measured.report.findings)
