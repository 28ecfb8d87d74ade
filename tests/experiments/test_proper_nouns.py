"""Proper nouns: planted neurons of known meaning, every column by hand, and what a bad input says."""

import json

import numpy as np
import pytest
import torch
from inprocess import inputs_of, run_passes, text_of
from scipy import stats
from sklearn.linear_model import LogisticRegression

from neurexp.engine.notebook import capture
from neurexp.errors import UserError
from neurexp.experiments.proper_nouns import Options, ProperNouns
from neurexp.experiments.regression import RegressionData
from neurexp.experiments.regression.report import write
from neurexp.models.load import load_model
from neurexp.stats.group_shuffles import shuffle_groups

NAMES, RARE, FREQUENT = (
    text.split()
    for text in (
        """Maria Boston Peter Berlin Anna London Thomas Paris Clara Vienna Martin Oxford Helen Rome George Dublin Alice
        Egypt Robert Athens Susan Spain Walter Kent Laura Oslo Henry Madrid Emma Lisbon Frank Malta Julia Cairo Oscar
        Texas""",
        """old river house garden water stone market winter summer window letter table doctor farmer soldier morning
        evening little yellow silent heavy broken walked looked carried waited answered opened closed laughed between
        under over behind beside about during without""",
        "the the the the a a a and and of of in in to to it was was he she they had",
    )
)
COMMON = [*RARE, *4 * FREQUENT]
NAME, CAPITAL, START, EXACT, NOISE = range(5)  # planted neurons; from `NOISE` on there is nothing
NEURONS = 40


def made_text(tokenizer, sentences=260, names=tuple(NAMES)):
    """Sentences of common words with two names in most of them, one of them sometimes at the start."""
    random = np.random.default_rng(0)
    lines = []
    for _ in range(sentences):
        words = list(random.choice(COMMON, 9))
        for place in random.choice(np.arange(1, 8), 2, replace=False):
            words[place] = str(random.choice(names)) if random.random() < 0.8 and names else words[place]
        first = str(random.choice(names)) if random.random() < 0.3 and names else words[0].title()
        lines.append(" ".join([first, *words[1:-1], "there"]))
    return text_of(tokenizer(". ".join(lines) + ".", add_special_tokens=False).input_ids, 128)


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def text(model):
    return made_text(model.tokenizer)


def options(**changes):
    return Options(**({"name": "proper_nouns", "plugin": "", "layer": 2, "shuffles": 2, "permutations": 100} | changes))


@pytest.fixture(scope="module")
def planned(model, text):
    return ProperNouns(options()).prepare(inputs_of(model, text))


def planted(plan, settings):
    """The plan's data, with neurons that know the rows' spelling and place instead of the model's."""
    count = len(next(iter(plan.passes)).reducers(1)["rows"]._sequence)
    x = np.random.default_rng(1).normal(size=(count, NEURONS)).astype(np.float32)
    tokenizer = plan.inputs.model.tokenizer
    for name, one in plan.comparisons.items():
        for row, place in enumerate(plan.places[name]):
            ids = plan.tokens.input_ids[one.rows.sequence[row]]
            word = tokenizer.decode(one.rows.ids(row)).strip()
            before = tokenizer.decode(ids[: one.rows.start[row]])
            is_name = word in NAMES
            facts = (is_name, word[:1].isupper(), before.rstrip().endswith("."), is_name)
            noise = np.random.default_rng(int(place)).normal(size=4) * (0.6, 0.6, 0.6, 0.05)
            x[place, :4] = np.array(facts, dtype=float) + noise
    return RegressionData(settings, plan, {"text": {2: x}})


@pytest.fixture(scope="module")
def data(planned):
    return planted(planned, options())


@pytest.fixture(scope="module")
def report(data):
    found = write(data)
    found.check()
    return found


def test_the_rows_are_names_matched_words_and_other_capitals(planned):
    ones = planned.comparisons
    assert list(ones) == ["lecture", "matched", "capitals", "initial"]
    names = {name.lower() for name in NAMES}
    for name, zeros in (("matched", "small"), ("capitals", "start"), ("initial", "start")):
        one = ones[name]
        assert one.sizes[0] == one.sizes[1] >= 20
        for row, (label, word) in enumerate(zip(one.labels, one.rows.words, strict=True)):
            text = planned.inputs.model.tokenizer.decode(one.rows.ids(row)).strip()
            ids = planned.tokens.input_ids[one.rows.sequence[row]]
            starts = planned.inputs.model.tokenizer.decode(ids[: one.rows.start[row]]).endswith(".")
            assert (word in names) == bool(label)
            assert text == (word if zeros == "small" and not label else word.title())
            assert starts == (name == "initial" or (name == "capitals" and not label))
        counts = np.unique(one.rows.words, return_counts=True)[1]
        assert counts.max() <= 4
    matched = ones["matched"]
    by_length = [np.bincount(np.minimum(matched.rows.lengths, 3)[matched.labels == label]) for label in (0, 1)]
    np.testing.assert_array_equal(*by_length)
    # The same names are in both comparisons, and are captured once
    shared = set(planned.places["matched"]) & set(planned.places["capitals"])
    assert len(shared) == ones["capitals"].sizes[1]


def test_the_rows_are_the_models_activations_over_the_words_tokens(model, text, planned):
    found = RegressionData.of(options(), planned, run_passes(planned))
    for name in ("matched", "lecture"):
        rows = planned.comparisons[name].rows
        for row in range(0, len(rows.words), 41):
            ids = torch.from_numpy(text.input_ids[rows.sequence[row]][None].astype(np.int64))
            exact = capture(model.network, ids, "MLP", [2])["MLP_2"][0, rows.start[row] : rows.stop[row]].mean(0)
            np.testing.assert_allclose(found.rows(name, 2)[row], exact.numpy(), atol=2e-5)


def test_a_neuron_for_names_is_found_and_one_for_capitals_is_not_taken_for_it(report):
    survives, beta = report.neurons["survives"], report.neurons["beta_least"]
    assert survives[NAME]
    assert beta[NAME] > 1
    assert report.neurons["survives_types"][NAME]
    # Capitals: significant against small words, by the lectures' rule too, and nothing against other capitals
    assert report.neurons["significant_lecture"][CAPITAL]
    assert report.neurons["significant_matched"][CAPITAL]
    assert not report.neurons["significant_capitals"][CAPITAL]
    assert not survives[CAPITAL]
    # The start of a sentence: only between names and capitals there
    assert report.neurons["significant_capitals"][START]
    assert report.neurons["beta_capitals"][START] < 0
    assert not survives[START]
    assert not survives[NOISE:].any()
    assert "Proper-noun neurons: 2 (5.0% of all), significant in" in report.findings[6]
    assert f"2.{EXACT} (+∞ and +∞), 2.{NAME} (+" in report.findings[8]


def test_a_neuron_that_separates_the_names_is_reported_as_separable_and_first(report):
    neurons = report.neurons
    for name in ("matched", "capitals", "initial"):
        assert neurons[f"separation_{name}"][EXACT] == 2
        assert neurons[f"beta_{name}"][EXACT] == np.inf
        assert neurons[f"accuracy_heldout_{name}"][EXACT] == 1
        assert neurons[f"p_lr_{name}"][EXACT] < 1e-10
        assert neurons[f"p_wald_{name}"][EXACT] == 1
        assert report.metrics[f"number_separated_{name}"] >= 1
    assert neurons["survives"][EXACT]
    assert (report.metrics["top_layer"], report.metrics["top_neuron"]) == (2, EXACT)
    assert "top_beta" not in report.metrics  # it is infinite
    assert "fits separate the categories" in report.findings[-1]


@pytest.mark.parametrize("name", ["lecture", "matched"])
def test_every_column_is_that_of_its_rows(data, report, name):
    one, neurons = data.plan.comparisons[name], report.neurons
    x, y = data.rows(name, 2).astype(np.float64), one.labels
    train = one.rows.sequence < round(len(data.plan.tokens.valid) * 2 / 3)
    types = one.training_types(1 / 3, 0)
    assert not {*zip(np.array(one.rows.words)[types], y[types], strict=True)} & {
        *zip(np.array(one.rows.words)[~types], y[~types], strict=True)
    }
    for neuron in (NAME, CAPITAL, NOISE, NEURONS - 1):
        values = x[:, neuron]
        z = (values - values.mean()) / values.std()
        fit = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
        assert neurons[f"beta_{name}"][neuron] == pytest.approx(fit.coef_[0, 0], rel=1e-3, abs=1e-5)
        assert neurons[f"accuracy_{name}"][neuron] == pytest.approx(fit.score(z[:, None], y), abs=1e-12)
        score = fit.decision_function(z[:, None])
        chi2 = 2 * (-np.logaddexp(0, np.where(y == 1, -score, score)).sum() + len(y) * np.log(2))
        assert neurons[f"p_lr_{name}"][neuron] == pytest.approx(stats.chi2.sf(chi2, 1), rel=1e-4)
        t = stats.ttest_ind(values[y == 1], values[y == 0])
        u = stats.ttest_ind(values[y == 1], values[y == 0], equal_var=False)
        found = [neurons[f"{column}_{name}"][neuron] for column in ("t", "p_t", "t_welch", "p_welch")]
        np.testing.assert_allclose(found, (t.statistic, t.pvalue, u.statistic, u.pvalue), rtol=1e-6)
        for column, part in (("heldout", train), ("types", types)):
            fit = LogisticRegression(C=np.inf, tol=1e-10).fit(z[part, None], y[part])
            accuracy = fit.score(z[~part, None], y[~part])
            assert neurons[f"accuracy_{column}_{name}"][neuron] == pytest.approx(accuracy, abs=1e-12)
            unseen = np.sign(fit.coef_[0, 0]) * z[~part]
            u = stats.mannwhitneyu(unseen[y[~part] == 1], unseen[y[~part] == 0]).statistic
            pairs = (y[~part] == 1).sum() * (y[~part] == 0).sum()
            assert neurons[f"auroc_{column}_{name}"][neuron] == pytest.approx(u / pairs, abs=1e-9)
        random, r = np.random.default_rng(0), abs(np.corrcoef(values, y)[0, 1])
        draws = [np.corrcoef(values, shuffle_groups(y, one.groups, random))[0, 1] for _ in range(100)]
        assert neurons[f"p_types_{name}"][neuron] == pytest.approx((1 + (np.abs(draws) >= r - 1e-12).sum()) / 101)
    significant = neurons[f"p_lr_{name}"] < 0.05 / NEURONS
    np.testing.assert_array_equal(neurons[f"significant_{name}"], significant)
    np.testing.assert_allclose(neurons[f"q_lr_{name}"], stats.false_discovery_control(neurons[f"p_lr_{name}"]))
    assert report.layers[f"share_significant_{name}"][0] == pytest.approx(significant.mean())
    missed = significant & (neurons[f"p_wald_{name}"] >= 0.05 / NEURONS)
    assert report.layers[f"wald_misses_{name}"][0] == missed.sum()
    near = significant & (neurons[f"wald_{name}"] ** 2 < neurons[f"chi2_{name}"] / 2)
    assert report.layers[f"near_separation_{name}"][0] == near.sum() >= (name == "matched")


def test_the_rules_side_by_side_are_counts_of_the_columns(report):
    lecture, matched, survives = (
        report.neurons[name] for name in ("significant_lecture", "significant_matched", "survives")
    )
    metrics = report.metrics
    same = np.sign(report.neurons["beta_lecture"]) == np.sign(report.neurons["beta_least"])
    assert metrics["both_rules"] == (lecture & matched).sum()
    assert metrics["naive_only"] == (lecture & ~matched).sum()
    assert metrics["main_only"] == (matched & ~lecture).sum()
    assert metrics["naive_survive"] == pytest.approx((lecture & survives & same).sum() / lecture.sum())
    assert metrics["number_survivors"] == survives.sum()
    holds = (report.neurons["p_lr_initial"] < 0.05) & (
        np.sign(report.neurons["beta_initial"]) == np.sign(report.neurons["beta_least"])
    )
    assert metrics["survivors_hold_initial"] == pytest.approx(holds[survives].mean())


def test_the_excerpt_is_of_the_held_out_text(data):
    texts, values, categories = data.excerpt_of(2, NOISE)
    assert len(texts) == len(values) == len(categories)
    assert set(categories) == {-1, 0, 1}
    assert data.plan.text.excerpt.sequence[0] >= round(len(data.plan.tokens.valid) * 2 / 3)
    joined = "".join(text for text, category in zip(texts, categories, strict=True) if category == 1)
    assert set(joined.split()) <= set(NAMES)


def test_the_figures_are_drawn(report, draws=True):
    for name, draw in report.figures.items():
        assert draw().get_suptitle(), name
    assert "<html" in report.pages["text_heat_map"]()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 5}, "experiment.rows=5: give a whole number from 20"),
        ({"occurrences": 0}, "experiment.occurrences=0: give a whole number from 1"),
        ({"pooling": "sum"}, "experiment.pooling=sum: give one of mean, first, last, max"),
        ({"heldout": 0.0}, "experiment.heldout=0: give a share of the text from 0.1 to 0.9"),
        ({"permutations": 3}, "experiment.permutations=3: give a whole number from 100"),
        ({"shuffles": 0}, "experiment.shuffles=0: give a whole number from 1"),
        ({"excerpt": 1}, "experiment.excerpt=1: give a whole number from 8"),
    ],
)
def test_a_bad_option_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        ProperNouns(options(**changes))


def test_a_text_without_names_is_one_line(model):
    text = made_text(model.tokenizer, sentences=40, names=())
    with pytest.raises(UserError, match="the text has only 0 proper nouns that can be used; give 10 or more"):
        ProperNouns(options()).prepare(inputs_of(model, text))


def test_the_command_leaves_its_tables_and_names_every_column(quick_cli, tmp_path):
    process = quick_cli(
        "experiment=proper_nouns", "model=mini", "dataset=pydoc", "tracking=off", "device=cpu", "experiment.layer=3",
        "experiment.shuffles=1", "experiment.permutations=100", "experiment.rows=40", "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "The lectures' rule takes" in process.stdout
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"layers.parquet", "neurons.parquet", "rows.parquet", "columns.md", "summary.json", "figures"} <= files
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["statistic"] == "beta_least"
    assert summary["metrics"]["number_rows_lecture"] == 80


@pytest.mark.slow
def test_with_shuffled_labels_the_tests_keep_their_rates(model, text, planned):
    """Rows shuffled: p of the likelihood ratio is below 0.05 in 5 % of the neurons. Over types: max-T errs in 5 %."""
    x = RegressionData.of(options(), planned, run_passes(planned)).rows("matched", 2)
    comparison, random = planned.comparisons["matched"], np.random.default_rng(5)
    from neurexp.stats.group_shuffles import group_permutation
    from neurexp.stats.logistic import likelihood_ratio_p

    shares, errs, runs = [], 0, 200
    for run in range(runs):
        shares.append((likelihood_ratio_p(x, random.permutation(comparison.labels)[None]) < 0.05).mean())
        labels = shuffle_groups(comparison.labels, comparison.groups, random)
        errs += bool((group_permutation(x, labels, comparison.groups, 199, seed=run).p_max <= 0.05).any())
    print(f"mean share {np.mean(shares):.4f}; {errs} of {runs} runs err")
    assert abs(np.mean(shares) - 0.05) < 4 * np.std(shares, ddof=1) / np.sqrt(runs) + 0.005
    low, high = stats.binom.ppf([5e-4, 1 - 5e-4], runs, 0.05)
    assert low <= errs <= high
