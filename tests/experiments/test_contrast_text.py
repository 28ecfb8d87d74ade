"""Does the finding hold in running text? Every number about it, from the captured rows, by hand."""

import numpy as np
import pytest
from inprocess import inputs_of, run_passes
from scipy import stats

from neurexp.config.schema import DatasetConfig, Source
from neurexp.experiments.contrast import ContrastData
from neurexp.experiments.contrast.analysis import Analyst
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.models.load import load_model
from neurexp.stats import effect_sizes, replication
from neurexp.text.running_text import read_text

LAYER, SPLITS = 4, 6


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    options = Options("grammar_tuning", "", layer=LAYER, permutations=100, splits=SPLITS, shuffles=3)
    dataset = DatasetConfig(source=Source.pydoc, tokens=40_000)
    model = load_model("mini", device="cpu")
    text = read_text(dataset, model.tokenizer, model.begins_with_bos, tmp_path_factory.mktemp("cache"))
    plan = GrammarTuning(options).prepare(inputs_of(model, text))
    data = ContrastData.of(options, plan, run_passes(plan))
    analyst = Analyst(data)
    return data, analyst, analyst.layer(LAYER)


def score(values, labels):
    """Mann and Whitney's U over the number of pairs."""
    one, zero = values[labels == 1], values[labels == 0]
    return stats.mannwhitneyu(one, zero).statistic / (len(one) * len(zero))


def test_auroc_in_text_is_that_of_the_occurrences(analysed):
    data, _, found = analysed
    rows, labels = data.text_rows(LAYER)[0].astype(np.float64), data.text.found.category
    assert min(np.bincount(labels)) > 5
    for neuron in range(0, rows.shape[1], 97):
        assert found.neurons["auroc_text"][neuron] == pytest.approx(score(rows[:, neuron], labels), abs=1e-12)
    both = np.corrcoef(found.neurons["auroc"], found.neurons["auroc_text"])[0, 1]
    assert found.row["auroc_text_r"] == pytest.approx(both)


def test_the_held_out_score_is_of_words_that_did_not_choose_the_neuron(analysed):
    data, analyst, found = analysed
    x = data.activations["words"][LAYER].astype(np.float64)
    text, labels = data.text_rows(LAYER)[0].astype(np.float64), data.rows.category
    scores = []
    for first in replication.replicate(x, labels, SPLITS, 0, analyst.groups).first:
        chosen = {data.rows.words[row] for row in np.flatnonzero(first)}
        t = stats.ttest_ind(x[first & (labels == 1)], x[first & (labels == 0)], equal_var=False).statistic
        best = int(np.abs(t).argmax())
        unseen = np.array([word not in chosen for word in data.text.found.words])
        one = score(text[unseen, best], data.text.found.category[unseen])
        scores.append(one if t[best] > 0 else 1 - one)
    assert found.row["auroc_text_heldout"] == pytest.approx(np.mean(scores), abs=1e-12)


def test_agreement_is_held_against_the_same_shuffle_of_the_same_words(analysed):
    data, analyst, found = analysed
    x, other = (data.activations[name][LAYER].astype(np.float64) for name in ("words", "context"))
    words = {word: row for row, word in enumerate(data.rows.words)}
    rows = [words[word] for word in data.conditions["context"].rows.words]
    null = [
        np.corrcoef(effect_sizes.cohens_d(x, labels)[0], effect_sizes.cohens_d(other, labels[rows])[0])[0, 1]
        for labels in analyst.shuffles
    ]
    assert found.row["d_r_context_shuffled_q95"] == pytest.approx(np.quantile(null, 0.95), abs=1e-9)
