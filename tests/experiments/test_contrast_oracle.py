"""Grammar tuning on the embedded model: every column again by scipy, every activation again by plain transformers."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from inprocess import inputs_of, run_passes
from pyarrow.parquet import read_table
from safetensors.numpy import load_file
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

import neurexp
from neurexp.config.schema import CONFIG_FOLDER, checked, register_schema
from neurexp.experiments.contrast import ContrastData
from neurexp.experiments.contrast.analysis import Analyst
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.models.load import load_model
from neurexp.report.clock import Stopwatch
from neurexp.report.report import Report
from neurexp.runs.measure import measure
from neurexp.stats.chunks import no_progress

torch.set_num_threads(1)

MINI = Path(neurexp.__file__).parent / "mini"
LISTS = Path(neurexp.__file__).parent / "text" / "word_lists"
LAYERS = [1, 4]
DRAWS = 300
ARGUMENTS = (
    "experiment=grammar_tuning",
    "model=mini",
    "dataset=pydoc",
    "device=cpu",
    "tracking=off",
    "hydra.run.dir=run",
    "experiment.text=false",
    f"experiment.layer={LAYERS}".replace(" ", ""),
    f"experiment.permutations={DRAWS}",
    "experiment.splits=4",
    "experiment.shuffles=2",
)


@dataclass
class Run:
    folder: Path
    neurons: dict[str, np.ndarray]
    layers: dict[str, np.ndarray]
    words: dict[str, np.ndarray]
    agreement: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]

    @classmethod
    def of(cls, folder):
        tables = {
            name: {key: np.array(column) for key, column in read_table(folder / f"{name}.parquet").to_pydict().items()}
            for name in ("neurons", "layers", "words", "agreement")
        }
        return cls(folder, **tables, tensors=load_file(folder / "activations.safetensors"))

    def x(self, layer):
        return self.tensors[f"MLP_{layer}"].astype(np.float64)

    def of_layer(self, layer):
        """The neurons' columns of one layer, in the order of the neurons."""
        rows = self.neurons["layer"] == layer
        columns = {name: column[rows] for name, column in self.neurons.items()}
        np.testing.assert_array_equal(columns["neuron"], np.arange(rows.sum()))
        return columns


@pytest.fixture(scope="module")
def run(commands, tmp_path_factory):
    where = tmp_path_factory.mktemp("contrast")
    process = commands.run(ARGUMENTS, where)
    assert process.returncode == 0, process.stderr
    return Run.of(where / "run")


# The columns, from the saved activations


def test_the_saved_rows_are_the_words_in_their_order_and_by_category(run):
    labels = run.words["label"]
    np.testing.assert_array_equal(run.tensors["labels"], labels)
    np.testing.assert_array_equal(labels, np.repeat([0, 1], 100))
    np.testing.assert_array_equal(run.words["category"], np.repeat(["verbs", "nouns"], 100))
    for category in ("verbs", "nouns"):
        listed = (LISTS / f"{category}.txt").read_text("utf-8").split()
        assert run.words["word"][run.words["category"] == category].tolist() == sorted(listed)
    for layer in LAYERS:
        rows = run.tensors[f"MLP_{layer}"]
        assert rows.shape == (200, 768)
        assert rows.dtype == np.float32
        for category in (0, 1):
            np.testing.assert_array_equal(run.tensors[f"MLP_{layer}_by_category"][category], rows[labels == category])


@pytest.mark.parametrize("layer", LAYERS)
def test_means_deviations_and_bands(run, layer):
    x, columns, labels = run.x(layer), run.of_layer(layer), run.words["label"]
    for category in (0, 1):
        np.testing.assert_allclose(columns[f"mean_{category}"], x[labels == category].mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(columns["mean"], x.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(columns["std"], np.sqrt(((x - x.mean(0)) ** 2).sum(0) / 200), rtol=1e-9)
    means = x.mean(0)
    robust = stats.median_abs_deviation(means, scale="normal")
    np.testing.assert_array_equal(columns["band"], np.abs(means - np.median(means)) / robust > 3.5)


@pytest.mark.parametrize("layer", LAYERS)
def test_welch_and_its_corrections(run, layer):
    x, columns, labels = run.x(layer), run.of_layer(layer), run.words["label"]
    theirs = stats.ttest_ind(x[labels == 1], x[labels == 0], equal_var=False, axis=0)
    np.testing.assert_allclose(columns["t_welch"], theirs.statistic, rtol=1e-6)
    np.testing.assert_allclose(columns["p_welch"], theirs.pvalue, rtol=1e-6)
    np.testing.assert_array_equal(columns["significant_bonferroni"], theirs.pvalue * 768 < 0.05)
    assert 10 < columns["significant_bonferroni"].sum() < 700
    np.testing.assert_allclose(columns["q_welch"], stats.false_discovery_control(theirs.pvalue), rtol=1e-6)
    higher = x[labels == 1].mean(0) > x[labels == 0].mean(0)
    np.testing.assert_array_equal(columns["t_welch"] > 0, higher)


def test_q_over_all_layers_of_the_run(run):
    labels, p = run.words["label"], []
    for layer in LAYERS:
        x = run.x(layer)
        p.append(stats.ttest_ind(x[labels == 1], x[labels == 0], equal_var=False, axis=0).pvalue)
    expected = stats.false_discovery_control(np.concatenate(p))
    np.testing.assert_allclose(run.neurons["q_welch_all"], expected, rtol=1e-6)
    assert run.neurons["layer"].tolist() == np.repeat(LAYERS, 768).tolist()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_paired_t_is_of_the_pairs_in_the_words_table(run, layer):
    x, columns, words = run.x(layer), run.of_layer(layer), run.words
    one, zero = ({pair: row for row, pair in enumerate(words["pair"]) if words["label"][row] == c} for c in (1, 0))
    assert sorted(one) == sorted(zero) == list(range(100))
    second, first = ([of[pair] for pair in range(100)] for of in (one, zero))
    theirs = stats.ttest_rel(x[second], x[first], axis=0)
    np.testing.assert_allclose(columns["t_paired"], theirs.statistic, rtol=1e-6)
    np.testing.assert_allclose(columns["p_paired"], theirs.pvalue, rtol=1e-6)


def test_pairs_are_by_number_of_tokens_then_rank_then_alphabet(run):
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    for category in ("verbs", "nouns"):
        of = run.words["category"] == category
        words = run.words["word"][of]
        ids = {word: tokenizer(word, add_special_tokens=False).input_ids for word in words}
        np.testing.assert_array_equal(run.words["tokens"][of], [len(ids[word]) for word in words])
        ordered = words[np.argsort(run.words["pair"][of])]
        keys = [(len(ids[word]), max(ids[word])) for word in ordered]
        assert keys == sorted(keys)


@pytest.mark.parametrize("layer", LAYERS)
def test_effect_sizes(run, layer):
    x, columns, labels = run.x(layer), run.of_layer(layer), run.words["label"]
    one, zero = x[labels == 1], x[labels == 0]
    pooled = np.sqrt((one.var(0, ddof=1) + zero.var(0, ddof=1)) / 2)
    np.testing.assert_allclose(columns["cohens_d"], (one.mean(0) - zero.mean(0)) / pooled, rtol=1e-6)
    scale = np.sqrt(50)
    t = columns["cohens_d"] * scale
    np.testing.assert_allclose(stats.nct.cdf(t, 198, columns["cohens_d_low"] * scale), 0.975, rtol=1e-6)
    np.testing.assert_allclose(stats.nct.cdf(t, 198, columns["cohens_d_high"] * scale), 0.025, rtol=1e-5)
    above = np.stack([(one[:, None] > row).mean((0, 1)) for row in zero[:, None]]).mean(0)
    equal = np.stack([(one[:, None] == row).mean((0, 1)) for row in zero[:, None]]).mean(0)
    np.testing.assert_allclose(columns["auroc"], above + equal / 2, rtol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_p_of_permutations_lies_where_it_can(run, layer):
    columns = run.of_layer(layer)
    for name in ("p_permutation", "p_maxt", "p_maxt_all"):
        p = columns[name]
        assert p.min() >= 1 / (DRAWS + 1)
        assert p.max() <= 1
        np.testing.assert_allclose(p * (DRAWS + 1), np.round(p * (DRAWS + 1)), atol=1e-9)
    assert (columns["p_maxt"] >= columns["p_permutation"]).all()
    assert (columns["p_maxt_all"] >= columns["p_maxt"]).all()
    assert columns["p_permutation"].min() == 1 / (DRAWS + 1)
    # By shuffling and by Student's t the same is asked: 0.5 / sqrt(300) is the largest standard error
    np.testing.assert_allclose(columns["p_permutation"], columns["p_welch"], atol=5 * 0.5 / np.sqrt(DRAWS))
    # The larger |t|, the smaller p of the largest
    order = np.argsort(-np.abs(columns["t_welch"]))
    assert (np.diff(columns["p_maxt"][order]) >= 0).all()


def test_p_of_the_largest_agrees_with_shuffles_of_our_own(run):
    """Another generator's shuffles and scipy's t: the same p but for the two samples' chance."""
    random, labels, draws = np.random.default_rng(12345), run.words["label"], 150
    largest = {layer: [] for layer in LAYERS}
    for _ in range(draws):
        dealt = random.permutation(labels)
        for layer in LAYERS:
            x = run.x(layer)
            t = stats.ttest_ind(x[dealt == 1], x[dealt == 0], equal_var=False, axis=0).statistic
            largest[layer].append(np.abs(t).max())
    highest = np.max([largest[layer] for layer in LAYERS], axis=0)
    for layer in LAYERS:
        columns = run.of_layer(layer)
        t = np.abs(columns["t_welch"])
        for name, null in (("p_maxt", np.array(largest[layer])), ("p_maxt_all", highest)):
            expected = (null[:, None] >= t).mean(0)
            error = np.sqrt(0.25 * (1 / draws + 1 / DRAWS))
            np.testing.assert_allclose(columns[name], expected, atol=4 * error)


# The other tables


def test_the_shares_of_the_layers_table_are_counted_from_the_neurons(run):
    table = run.layers
    assert table["layer"].tolist() == LAYERS
    for index, layer in enumerate(LAYERS):
        of = run.of_layer(layer)
        significant, positive = of["significant_bonferroni"], of["t_welch"] > 0
        expected = {
            "mean_offset": of["mean"].mean(),
            "share_mean_negative": (of["mean"] < 0).mean(),
            "bands": of["band"].sum(),
            "std_median": np.median(of["std"]),
            "share_significant": (of["q_welch"] < 0.05).mean(),
            "share_bonferroni": significant.mean(),
            "share_maxt": (of["p_maxt"] < 0.05).mean(),
            "share_paired_bonferroni": (of["p_paired"] < 0.05 / 768).mean(),
            "share_bonferroni_positive": (significant & positive).mean(),
            "share_bonferroni_negative": (significant & ~positive).mean(),
            "d_abs_median": np.median(np.abs(of["cohens_d"])),
            "auroc_best": of["auroc"][np.abs(of["auroc"] - 0.5).argmax()],
            "replication_selected": of["selected"].sum(),
            "replication_rate": of["replicated"].sum() / of["selected"].sum(),
            "probe_median_accuracy": np.median(of["probe_accuracy"]),
            "probe_separated_neurons": of["probe_separated"].sum(),
            "share_significant_context": (of["q_context"] < 0.05).mean(),
            "share_significant_one_token": (of["q_one_token"] < 0.05).mean(),
            "d_r_context": np.corrcoef(of["cohens_d"], of["cohens_d_context"])[0, 1],
            "d_r_one_token": np.corrcoef(of["cohens_d"], of["cohens_d_one_token"])[0, 1],
            "rows_context": 200,
            "rows_one_token": (run.words["tokens"] == 1).sum(),
        }
        for name, value in expected.items():
            assert table[name][index] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("layer", LAYERS)
def test_words_of_one_token_are_compared_among_themselves(run, layer):
    single = run.words["tokens"] == 1
    x, labels, columns = run.x(layer)[single], run.words["label"][single], run.of_layer(layer)
    theirs = stats.ttest_ind(x[labels == 1], x[labels == 0], equal_var=False, axis=0)
    np.testing.assert_allclose(columns["t_welch_one_token"], theirs.statistic, rtol=1e-6)
    np.testing.assert_allclose(columns["q_one_token"], stats.false_discovery_control(theirs.pvalue), rtol=1e-6)
    share = (theirs.pvalue < 0.05 / 768).mean()
    assert run.layers["share_bonferroni_one_token"][LAYERS.index(layer)] == pytest.approx(share)


def test_the_agreement_of_tests_is_counted_from_the_neurons(run):
    of, table = run.neurons, run.agreement
    called = {
        "paired_bonferroni": of["p_paired"] < 0.05 / 768,
        "welch_bonferroni": of["p_welch"] < 0.05 / 768,
        "max_t": of["p_maxt"] < 0.05,
        "welch_bh": of["q_welch"] < 0.05,
        "replicated": of["replicated"] > 0.5,
    }
    pairs = [frozenset(pair) for pair in zip(table["first"], table["second"], strict=True)]
    assert len(set(pairs)) == len(pairs) == 10
    for row, (first, second) in enumerate(zip(table["first"], table["second"], strict=True)):
        a, b = called[first], called[second]
        counts = [table[name][row] for name in ("both", "only_first", "only_second", "neither")]
        assert counts == [(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()]
        assert sum(counts) == 2 * 768


def test_the_metrics_are_those_of_the_tables(run):
    metrics, of = json.loads((run.folder / "summary.json").read_text("utf-8"))["metrics"], run.neurons
    top, bottom = of["t_welch"].argmax(), of["t_welch"].argmin()
    expected = {
        "words": 200,
        "words_one_token": (run.words["tokens"] == 1).sum(),
        "neurons_tested": 1536,
        "bonferroni_within_layers": of["significant_bonferroni"].sum(),
        "bonferroni_over_all": (of["p_welch"] < 0.05 / 1536).sum(),
        "share_significant_over_all": (of["q_welch_all"] < 0.05).mean(),
        "share_bonferroni_within_layers": of["significant_bonferroni"].mean(),
        "top_t": of["t_welch"][top],
        "top_neuron": of["neuron"][top],
        "top_layer": of["layer"][top],
        "top_d": of["cohens_d"][top],
        "bottom_t": of["t_welch"][bottom],
        "bottom_neuron": of["neuron"][bottom],
        "bottom_layer": of["layer"][bottom],
        "auroc_heldout_best": run.layers["auroc_heldout"].max(),
        "probe_layer_accuracy_best": run.layers["probe_layer_accuracy"].max(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-9), name


# The activations, by plain transformers


@pytest.fixture(scope="module")
def plain():
    """`plain(text, layers)`: what c_fc puts out on one text alone, unpadded, `[tokens, neurons]` of each layer."""
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    network = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval()

    @torch.inference_mode()
    def forward(ids, layers):
        seen, handles = {}, []
        for layer in layers:
            hook = lambda _module, _inputs, output, layer=layer: seen.__setitem__(layer, output[0].double().numpy())  # noqa: E731
            handles.append(network.transformer.h[layer].mlp.c_fc.register_forward_hook(hook))
        network(input_ids=torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return seen

    return lambda text: tokenizer(text, add_special_tokens=False).input_ids, forward


def distance(ours, theirs):
    """Of the rows, relative to their norms; the largest."""
    return (np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max()


def test_the_saved_activations_are_those_of_each_word_alone_in_plain_transformers(run, plain):
    tokenise, forward = plain
    by_hand = {layer: [] for layer in LAYERS}
    for word in run.words["word"]:
        seen = forward(tokenise(word), LAYERS)
        for layer in LAYERS:
            by_hand[layer].append(seen[layer].mean(0))
    for layer in LAYERS:
        assert distance(run.x(layer), np.array(by_hand[layer])) < 1e-5


def captured(batch_size=4, layers=LAYERS, lists=None, **options):
    """The contrast's data, without the command line: the words alone, and in context."""
    chosen = Options(name="grammar_tuning", plugin="", text=False, layer=layers, words=lists, **options)
    plan = GrammarTuning(chosen).prepare(inputs_of(load_model("mini", device="cpu")))
    return ContrastData.of(chosen, plan, run_passes(plan, batch_size))


@pytest.fixture
def few(tmp_path):
    """Lists of a few words of one to five tokens."""
    folder = tmp_path / "few"
    folder.mkdir()
    for category in ("verbs", "nouns"):
        words = (LISTS / f"{category}.txt").read_text("utf-8").split()[::6]
        (folder / f"{category}.txt").write_text("\n".join([*words, f"un{words[0]}ishnessly"]), "utf-8")
    return str(folder)


POOLED = {
    "mean": lambda rows: rows.mean(0),
    "first": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
    "max": lambda rows: rows.max(0),
}


@pytest.mark.parametrize("pooling", POOLED)
def test_every_pooling_is_over_the_words_own_tokens(pooling, plain, few, tmp_path):
    tokenise, forward = plain
    data = captured(lists=few, pooling=pooling, second_template="Many {word} here")
    assert len(set(data.rows.lengths)) > 2
    expected, inside = {layer: [] for layer in LAYERS}, {layer: [] for layer in LAYERS}
    for word in data.rows.words:
        before, own = tokenise("Many"), tokenise(f" {word}")
        assert tokenise(f"Many {word} here") == [*before, *own, *tokenise(" here")]
        alone, among = forward(tokenise(word), LAYERS), forward([*before, *own, *tokenise(" here")], LAYERS)
        for layer in LAYERS:
            expected[layer].append(POOLED[pooling](alone[layer]))
            inside[layer].append(POOLED[pooling](among[layer][len(before) : len(before) + len(own)]))
    for layer in LAYERS:
        assert distance(data.activations["words"][layer], np.array(expected[layer])) < 1e-5
        assert distance(data.activations["context"][layer], np.array(inside[layer])) < 1e-5


def test_tokens_of_the_template_do_not_leak_into_a_words_row(plain, few, tmp_path):
    tokenise, forward = plain
    data = captured(lists=few, template="The {word}", second_template=None)
    assert data.conditions == {}
    own, with_the = {layer: [] for layer in LAYERS}, {layer: [] for layer in LAYERS}
    for word in data.rows.words:
        the, ids = tokenise("The"), tokenise(f"The {word}")
        assert len(the) == 1
        assert ids == [*the, *tokenise(f" {word}")]
        seen = forward(ids, LAYERS)
        for layer in LAYERS:
            own[layer].append(seen[layer][1:].mean(0))
            with_the[layer].append(seen[layer].mean(0))
    for layer in LAYERS:
        rows = data.activations["words"][layer]
        assert distance(rows, np.array(own[layer])) < 1e-5
        assert distance(rows, np.array(with_the[layer])) > 0.1
    lengths = [len(tokenise(f" {word}")) for word in data.rows.words]
    np.testing.assert_array_equal(data.rows.lengths, lengths)


# What must not matter


def shuffled_lists(folder):
    folder.mkdir()
    random = np.random.default_rng(0)
    for category in ("verbs", "nouns"):
        words = random.permutation((LISTS / f"{category}.txt").read_text("utf-8").split())
        (folder / f"{category}.txt").write_text("\n".join(words) + "\n", "utf-8")
    return folder


def test_the_order_of_the_words_in_the_files_does_not_matter(run, quick_cli, tmp_path):
    folder = shuffled_lists(tmp_path / "lists")
    process = quick_cli(*ARGUMENTS, f"experiment.words={folder}")
    assert process.returncode == 0, process.stderr
    other = Run.of(tmp_path / "run")
    for name in ("neurons", "layers", "words", "agreement", "tensors"):
        ours, theirs = getattr(other, name), getattr(run, name)
        assert list(ours) == list(theirs)
        for column, values in ours.items():
            np.testing.assert_array_equal(values, theirs[column])
    assert (tmp_path / "run" / "neurons.parquet").read_bytes() == (run.folder / "neurons.parquet").read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_does_not_matter_beyond_rounding(run, batch_size, tmp_path):
    data = captured(batch_size=batch_size)
    assert data.rows.words == run.words["word"].tolist()
    for layer in LAYERS:
        assert distance(data.activations["words"][layer], run.x(layer)) < 1e-5


class Keeping(GrammarTuning):
    """Keeps the data, and reports nothing."""

    def analyse(self, plan, results):
        self.data = ContrastData.of(self.options, plan, results)
        return Report([], {}, {}, {}, {}, "")


def measured(folder, lists, **options):
    """The passes that an earlier run stood for, and the data."""
    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = checked(compose("config", ["model=mini", "device=cpu", f"run.outputs={folder}"]))
    chosen = Options(name="grammar_tuning", plugin="", text=False, layer=LAYERS, words=lists, **options)
    experiment = Keeping(chosen)
    return measure(config, experiment, ("mini", "words alone"), folder, Stopwatch()).reused, experiment.data


def test_what_was_captured_before_is_taken_again_and_only_for_the_same(tmp_path, few):
    reused, first = measured(tmp_path, few)
    assert reused == ()
    reused, again = measured(tmp_path, few)
    assert reused == ("words", "context")
    assert measured(tmp_path, few, pooling="last")[0] == ()
    reused, template = measured(tmp_path, few, template="A {word}")
    assert reused == ("context",)
    for layer in LAYERS:
        for name in ("words", "context"):
            np.testing.assert_array_equal(first.activations[name][layer], again.activations[name][layer])
        assert not np.array_equal(first.activations["words"][layer], template.activations["words"][layer])


def test_of_neurons_without_information_one_in_twenty_passes_the_probes_null(tmp_path):
    """`probe_accuracy_shuffled_q95` is what `probe_accuracy` is held against: in noise 5 % may lie above it."""
    data = captured(layers=[1], second_template=None, shuffles=2)
    random, above = np.random.default_rng(0), []
    for seed in range(12):
        neurons = {}
        row = Analyst(replace(data, seed=seed))._probes(
            random.normal(size=(200, 400)), neurons, no_progress, no_progress
        )
        above.append((neurons["probe_accuracy"] > row["probe_accuracy_shuffled_q95"]).mean())
    assert np.mean(above) < 0.08  # with folds that deal out the shuffled labels evenly: 0.045 ± 0.004
