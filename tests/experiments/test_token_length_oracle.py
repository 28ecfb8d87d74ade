"""Every column of `token_length` in the embedded model over real text, recomputed from all its activations, kept."""

from dataclasses import dataclass, replace
from functools import cache, cached_property

import by_hand
import numpy as np
import pytest
import torch
from by_hand import Text
from inprocess import run_experiment
from scipy import stats

from neurexp.config.schema import DatasetConfig, Source
from neurexp.engine.reducers.keep import Keep
from neurexp.experiments.token_length import Options, TokenLength
from neurexp.models.load import LanguageModel, load_model
from neurexp.report.report import Report
from neurexp.text.running_text import read_text
from neurexp.text.tokens import Tokens

FINE = 1e-5  # of correlations, absolute; of means and standard deviations in units of the neuron's spread
EVERY = 17  # the jackknife deletes tokens for real, so only for every so-manieth neuron

# name → tokens, sequence length, options. Blocks and halves of unequal size, a padded last sequence everywhere
RUNS = {
    "main": (2250, 192, {}),
    "long": (8300, 192, {}),
    "skipped": (1650, 96, {"skip_positions": 4, "batch_size": 3, "layer": [0, 2, 4, 5]}),
    "stripped": (1650, 96, {"strip_space": True, "batch_size": 1, "layer": [3, 5]}),
    "corrected": (1650, 96, {"correction": "by", "layer": [1, 4]}),
    "numbers": (1650, 96, {"permutations": 9, "blocks": 17, "bins": 8, "layer": [0, 1]}),
    "reference": (1650, 96, {"layer": 2}),  # frequencies from a reference count, not from the text
}


class Keeping(TokenLength):
    """The experiment, with one reducer more that keeps exactly what the others see."""

    def prepare(self, inputs):
        plan = super().prepare(inputs)
        (planned,) = plan.passes

        def reducers(sites):
            self.keep = Keep(len(plan.layers), *plan.tokens.valid.shape, budget_bytes=2**30)
            return planned.reducers(sites) | {"keep": self.keep}

        return replace(plan, passes=(replace(planned, reducers=reducers),))


@dataclass
class Measured:
    """A run of the experiment, the activations `[tokens, neurons]` that it saw, and what is known of the tokens."""

    text: Text
    report: Report
    edges: np.ndarray
    activations: list[np.ndarray]  # by layer
    correction: str

    @property
    def layers(self) -> int:
        return len(self.activations)

    def found(self, index: int) -> dict[str, np.ndarray]:
        """A layer's rows of the neuron table."""
        return {name: values.reshape(self.layers, -1)[index] for name, values in self.report.neurons.items()}

    @cached_property
    def expected(self) -> list[tuple[dict[str, np.ndarray], dict[str, float]]]:
        """Layer by layer, its neurons and its row of `layers`, by hand."""
        return [by_hand.of_layer(x.astype(np.float64), self.text) for x in self.activations]

    @cached_property
    def histograms(self) -> list[dict[str, np.ndarray]]:
        """Layer by layer and group by group: counts of [edge, next edge), underflow first, overflow last."""
        edges = [np.concatenate([[-np.inf], row, [np.inf]]) for row in self.edges]
        return [
            {name: np.histogram(x[members].astype(np.float64), row)[0] for name, members in self.text.groups.items()}
            for x, row in zip(self.activations, edges, strict=True)
        ]

    @property
    def neurons(self) -> list[dict[str, np.ndarray]]:
        return [neurons for neurons, _ in self.expected]


def pydoc(model: LanguageModel, folder, tokens: int, sequence_length: int) -> Tokens:
    dataset = DatasetConfig(source=Source.pydoc, tokens=tokens, sequence_length=sequence_length)
    return read_text(dataset, model.tokenizer, model.begins_with_bos, folder)


@pytest.fixture(scope="module")
def mini() -> LanguageModel:
    return load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def runs(mini, tmp_path_factory):
    """Name → `Measured`, each made once."""
    folder = tmp_path_factory.mktemp("cache")

    @cache
    def run(name: str) -> Measured:
        count, length, options = RUNS[name]
        counts = np.random.default_rng(4).zipf(1.5, len(mini.tokenizer)).clip(max=10**6)
        model = replace(mini, token_counts=counts if name == "reference" else None)
        tokens = pydoc(model, folder, count, length)
        batch_size = options.get("batch_size", 4)
        others = {name: value for name, value in options.items() if name != "batch_size"}
        experiment = Keeping(Options("token_length", "", **others))
        plan, results, report = run_experiment(experiment, model, tokens, batch_size)
        text = Text(
            tokens,
            mini.tokenizer,
            strip_space=options.get("strip_space", False),
            skip_positions=options.get("skip_positions", 0),
            draws=options.get("permutations", 32),
            most_blocks=options.get("blocks", 32),
            reference=model.token_counts,
        )
        kept = [experiment.keep.kept[index].numpy()[tokens.valid] for index in range(len(plan.layers))]
        return Measured(text, report, results["text"]["histogram"].edges.numpy(), kept, options.get("correction", "bh"))

    return run


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if name == "long" else []) for name in RUNS])
def run(runs, request) -> Measured:
    return runs(request.param)


def assert_close(found, expected, tolerance, what):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize(
    ("name", "tokens", "types"), [("main", 2048, 200), pytest.param("long", 8192, 500, marks=pytest.mark.slow)]
)
def test_the_text_is_long_and_real(runs, name, tokens, types):
    text = runs(name).text
    assert len(text.ids) >= tokens
    assert text.counts.astype(bool).sum() > types
    assert all(members.any() for members in text.groups.values())
    assert not text.tokens.valid.all()


def test_what_the_pass_saw_is_hugging_faces_own_forward(mini, runs):
    """One sequence at a time, whole, with plain hooks on `c_fc`: nothing of the engine takes part."""
    run = runs("main")
    kept: list[list[np.ndarray]] = [[] for _ in range(run.layers)]
    blocks = mini.network.transformer.h
    handles = [
        block.mlp.c_fc.register_forward_hook(lambda _, __, out, rows=rows: rows.append(out[0].numpy()))
        for block, rows in zip(blocks, kept, strict=True)
    ]
    with torch.no_grad():
        for ids, valid in zip(run.text.tokens.input_ids, run.text.tokens.valid, strict=True):
            mini.network.transformer(torch.tensor(ids[valid], dtype=torch.long)[None])
    for handle in handles:
        handle.remove()
    for seen, rows in zip(run.activations, kept, strict=True):
        plain = np.concatenate(rows)
        assert_close(seen / plain.std(0), plain / plain.std(0), FINE, "activations")


def test_every_column_is_recomputed(runs):
    run = runs("main")
    by_name = {"layer", "neuron", "r_length_low", "r_length_high", "q_length", "q_length_all", "survival"}
    by_name |= {"q_length_given_context", "q_length_given_context_all"}
    assert set(run.neurons[0]) | by_name == set(run.report.neurons)


def test_means_and_standard_deviations_of_neurons(run):
    for index, expected in enumerate(run.neurons):
        found, spread = run.found(index), expected["std"]
        for name in ("mean", "std", "mean_abs", "mean_shorter", "mean_equal", "mean_longer"):
            assert_close(found[name] / spread, expected[name] / spread, FINE, f"{name}, layer {index}")
        assert_close(found["d_longer_shorter"], expected["d_longer_shorter"], 2 * FINE, f"d, layer {index}")


def test_correlations_of_neurons(run):
    names = [name for name in run.neurons[0] if name.startswith(("r_", "eta2", "null"))]
    assert len(names) == 12 + bool(run.text.skip_positions)
    for index, expected in enumerate(run.neurons):
        for name in names:
            assert_close(run.found(index)[name], expected[name], FINE, f"{name}, layer {index}")


def test_r_is_the_dot_product_of_z_scores_and_numpys_and_scipys(runs):
    run = runs("main")
    length = run.text.length[run.text.used].astype(float)
    for index, x in enumerate(run.activations):
        x = x[run.text.used, 3::97].astype(np.float64)
        z = (length - length.mean()) / length.std()
        for expected in (
            ((x - x.mean(0)) / x.std(0) * z[:, None]).mean(0),  # as the documents have it
            np.corrcoef(length, x, rowvar=False)[0, 1:],
            stats.pearsonr(x, length[:, None], axis=0).statistic,
        ):
            assert_close(run.found(index)["r_length"][3::97], expected, FINE, f"layer {index}")


def test_intervals_of_neurons(run):
    for index, x in enumerate(run.activations):
        low, high = by_hand.intervals(x[:, ::EVERY].astype(np.float64), run.text)
        found = run.found(index)
        assert (low < high).all()
        assert_close(found["r_length_low"][::EVERY], low, 10 * FINE, f"layer {index}")
        assert_close(found["r_length_high"][::EVERY], high, 10 * FINE, f"layer {index}")


@pytest.mark.parametrize("name", ["p_length", "p_length_given_context"])
def test_p_of_neurons(run, name):
    for index, expected in enumerate(run.neurons):
        assert_close(run.found(index)[name], expected[name], 10 * FINE, f"layer {index}")


@pytest.mark.parametrize("name", ["length", "length_given_context"])
def test_corrections_of_neurons_name_their_family(run, name):
    dependent = run.correction == "by"
    p, q = (run.report.neurons[f"{kind}_{name}"].reshape(run.layers, -1) for kind in "pq")
    for of_p, of_q in zip(p, q, strict=True):
        assert_close(of_q, by_hand.q_values(of_p, dependent), 1e-12, f"q_{name}")
    assert_close(run.report.neurons[f"q_{name}_all"], by_hand.q_values(p.ravel(), dependent), 1e-12, f"q_{name}_all")


def test_survival_of_neurons(run):
    for index, expected in enumerate(run.neurons):
        found = run.found(index)
        survival, significant = found["survival"], found["q_length"] < 0.05
        assert np.array_equal(np.isfinite(survival), significant)
        ratio, r = survival[significant], expected["r_length"][significant]
        assert_close(ratio * r, expected["r_length_partial"][significant], 2 * FINE, f"survival, layer {index}")


def test_rows_are_named_by_layer_and_neuron(run):
    layers, neurons = run.report.layers["layer"], run.report.neurons
    width = run.activations[0].shape[1]
    assert [(a, b) for a in layers for b in range(width)] == list(zip(neurons["layer"], neurons["neuron"], strict=True))


def test_histograms_are_exact(run):
    """Counts of [edge, next edge) in float64 over all neurons of a layer, group by group, nothing lost."""
    tensors = run.report.tensors["histograms"]
    assert np.array_equal(tensors["edges"], run.edges)
    assert tensors["counts"].shape[:2] == (run.layers, len(run.text.groups))
    for index, by_group in enumerate(run.histograms):
        for group, expected in enumerate(by_group.values()):
            assert np.array_equal(tensors["counts"][index, group], expected[1:-1])
            assert tensors["underflow"][index, group] == expected[0]
            assert tensors["overflow"][index, group] == expected[-1]


def test_curves_over_lengths(run):
    tensors = run.report.tensors["length_curves"]
    length = run.text.length[run.text.used]
    values, counts = np.unique(length, return_counts=True)
    assert np.array_equal(tensors["lengths"], values)
    assert np.array_equal(tensors["tokens"], counts)
    for index, x in enumerate(run.activations):
        x = x[run.text.used].astype(np.float64)
        expected = np.array([x[length == value].mean() for value in values])
        assert_close(tensors["mean"][index], expected, FINE * x.std(), f"layer {index}")


def test_every_number_of_the_layers(run):
    table, draws = run.report.layers, run.text.draws
    of_neurons, whole = set(), {"found_first_half", "replicated"}
    for index, (neurons, expected) in enumerate(run.expected):
        spread = expected["std"]
        for name, value in expected.items():
            # a share of neurons found may turn on one that lies at the threshold
            in_units = spread if name.startswith(("mean", "std")) else 1.0
            tolerance = 2 / len(neurons["mean"]) if name in whole else 2 * FINE
            assert_close(table[name][index] / in_units, value / in_units, tolerance, f"{name}, layer {index}")
        summary = by_hand.summary_of_neurons(run.found(index), draws)
        for name, value in summary.items():
            assert_close(table[name][index], value, 1e-9, f"{name}, layer {index}")
        of_neurons = set(expected) | set(summary)
    histograms = {"overlap_longer_shorter", "second_peak_shorter", "second_peak_equal", "second_peak_longer"}
    assert of_neurons | histograms | {"layer"} == set(table)


def test_what_the_histograms_of_the_layers_say(run):
    table = run.report.layers
    for index, counts in enumerate(run.histograms):
        for name in ("shorter", "equal", "longer"):
            found = table[f"second_peak_{name}"][index]
            assert_close(found, by_hand.second_peak(counts[name][1:-1]), 1e-6, f"second peak, layer {index}")
        shares = [counts[name] / counts[name].sum() for name in ("shorter", "longer")]
        assert_close(table["overlap_longer_shorter"][index], np.minimum(*shares).sum(), 1e-9, f"layer {index}")


def test_every_headline(run):
    expected = by_hand.metrics(run.text, run.report.neurons, run.report.layers)
    found = dict(run.report.metrics)
    assert 0 < found.pop("share_significant_all_error") < 0.2  # it needs each draw: see tests/stats/test_association.py
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_close(found[name], value, 1e-9, name)


def test_the_strongest_neurons_and_their_means(runs):
    """Named in the table, the finding and the figure: the largest |r| given the context, of each sign."""
    run = runs("main")
    neurons, table = run.report.neurons, run.report.tables["strongest"]
    r = np.concatenate([one["r_length_given_context"] for one in run.neurons])
    r[neurons["q_length_given_context_all"] >= 0.05] = 0
    width, up, down = run.activations[0].shape[1], int((table["r"] > 0).sum()), int((table["r"] < 0).sum())
    assert min(up, down) > 2
    rows = [*np.argsort(-r, kind="stable")[:up], *np.argsort(r, kind="stable")[:down]]
    assert list(zip(table["layer"], table["neuron"], strict=True)) == [divmod(row, width) for row in rows]
    assert (table["low"] < table["r"]).all()
    assert (table["r"] < table["high"]).all()
    (line,) = [line for line in run.report.findings if "layer.neuron" in line]
    assert line.index(f"longer tokens {table['layer'][0]}.{table['neuron'][0]} (") > 0
    assert line.index(f"shorter tokens {table['layer'][up]}.{table['neuron'][up]} (") > 0

    above = run.report.figures["strongest_neurons"]().axes[0]
    length = run.text.length[run.text.used]
    for row, curve in enumerate(above.lines[: min(up, 4)]):
        x = run.activations[table["layer"][row]][run.text.used, table["neuron"][row]].astype(np.float64)
        whole = run.activations[table["layer"][row]][:, table["neuron"][row]].astype(np.float64)
        values, means = curve.get_data()
        assert all((length == value).sum() >= 5 for value in values)
        expected = [(x[length == value].mean() - whole.mean()) / whole.std() for value in values]
        assert_close(means, expected, 10 * FINE, f"means of row {row}")
