"""The analysis of rows of every shape: no warning, no failure, and every column what it says (warnings are errors)."""

import logging

import numpy as np
import pytest
from scipy import stats

from neurexp.experiments.contrast import Condition, ContrastData, Options
from neurexp.experiments.contrast import report as contrast_report
from neurexp.experiments.contrast.analysis import Analyst
from neurexp.experiments.contrast.data import TextRows
from neurexp.stats import chunks, effect_sizes
from neurexp.text.spans import Selection
from neurexp.text.tokens import Tokens

TEXT_COUNTS = ("text_occurrences", "text_occurrences_dropped", "text_occurrences_adjoining")


def selection(words, category, lengths=None):
    """Rows of words, a sequence each, of `lengths` tokens."""
    rows = len(words)
    lengths = np.ones(rows, dtype=int) if lengths is None else np.asarray(lengths)
    longest = max(int(lengths.max(initial=1)), 1)
    ids = np.arange(rows * longest, dtype=np.int32).reshape(rows, longest)
    tokens = Tokens(ids, np.ones(ids.shape, dtype=bool), rows)
    return Selection(tokens, np.arange(rows), np.zeros(rows, dtype=int), lengths, np.asarray(category), list(words))


def made(x, category, lengths=None, words=None, condition=None, text=None, layers=(0,), **options):
    """Data with `x` `[rows, neurons]` in every layer; `condition` and `text`: (rows of x, words, categories)."""
    chosen = {"permutations": 100, "splits": 4, "shuffles": 3, "text": text is not None, "occurrences": 4} | options
    category = np.asarray(category)
    activations, conditions, found, counts = {"words": x}, {}, None, dict.fromkeys(TEXT_COUNTS, 0)
    if condition is not None:
        activations["context"], *rows = condition
        conditions["context"] = Condition("in context", selection(*rows))
    if text is not None:
        values, *rows = text
        found = selection(*rows)
        counts["text_occurrences"] = len(found.words)
        found = TextRows(found, selection(found.words[:2], [-1, -1]), (("a", 0, 1), ("a", 1, 2)), ((0, 2),))
        activations["text"] = np.concatenate([values, values[:2]])
    return ContrastData(
        options=Options("made", "", **chosen),
        categories=[f"kind {one}" for one in range(int(category.max()) + 1)],
        layers=layers,
        rows=selection(words or [f"w{row}" for row in range(len(x))], category, lengths),
        activations={
            name: dict.fromkeys(layers, np.asarray(rows, dtype=np.float32)) for name, rows in activations.items()
        },
        conditions=conditions,
        text=found,
        reads_text=text is not None,
        counts=counts,
    )


def reported(data, drawn=True):
    report = contrast_report.write(data)
    report.check()
    for figure in (report.figures if drawn else {}).values():
        figure().canvas.draw()
    return report


RANDOM = np.random.default_rng(0)
FORTY_FOUR = np.repeat([0, 1], [4, 40])


def noise(rows, neurons=6):
    return RANDOM.normal(size=(rows, neurons))


SHAPES = {
    "four against forty": (noise(44), FORTY_FOUR),
    "four against four": (noise(8), np.repeat([0, 1], 4)),
    "one neuron": (noise(20, 1), np.repeat([0, 1], 10)),
    "one neuron of three categories": (noise(18, 1), np.repeat([0, 1, 2], 6)),
    "nothing varies": (np.ones((20, 5)), np.repeat([0, 1], 10)),
    "nothing varies, of three categories": (np.zeros((18, 5)), np.repeat([0, 1, 2], 6)),
    "one neuron varies": (np.pad(noise(20, 1), ((0, 0), (0, 4))), np.repeat([0, 1], 10)),
    "separated": (np.repeat([0, 1], 10)[:, None] * 5.0 + 0.1 * noise(20), np.repeat([0, 1], 10)),
    "constant in each category": (np.repeat([0.0, 1.0], 10)[:, None] * np.ones(5), np.repeat([0, 1], 10)),
    "one row differs": (np.eye(20)[:, :3], np.repeat([0, 1], 10)),
    "large": (noise(20) * 1e30, np.repeat([0, 1], 10)),
    "small": (noise(20) * 1e-30, np.repeat([0, 1], 10)),
    "far from zero": (noise(20) + 1e6, np.repeat([0, 1], 10)),
    "unequal thirds": (noise(64), np.repeat([0, 1, 2], [4, 40, 20])),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_every_shape_are_analysed_and_drawn_without_a_warning(shape):
    x, category = SHAPES[shape]
    several = shape in ("four against forty", "unequal thirds", "nothing varies")  # layers, and a figure over them
    report = reported(made(x, category, layers=(0, 1) if several else (0,)))
    for values in report.neurons.values():
        assert not np.isinf(values.astype(float)).any()


def test_a_shuffle_that_leaves_a_category_without_a_word_is_counted_and_left_out():
    """Four words of one token against four, among forty more: a shuffle may give all eight one label."""
    lengths = np.where(np.isin(np.arange(44), [0, 1, 2, 3, 4, 5, 6, 7]), 1, 2)
    data = made(noise(44, 30), FORTY_FOUR, lengths, shuffles=40)
    report = reported(data, drawn=False)
    single = lengths == 1
    shuffles = Analyst(data).shuffles
    undefined = [len(set(one[single])) < 2 for one in shuffles]
    assert 0 < sum(undefined) < 40
    assert report.layers["d_r_one_token_shuffled_undefined"][0] == sum(undefined)
    x, null = data.activations["words"][0].astype(float), []
    for one in shuffles:
        if len(set(one[single])) == 2:
            both = effect_sizes.cohens_d(x, one)[0], effect_sizes.cohens_d(x[single], one[single])[0]
            null.append(np.corrcoef(*both)[0, 1])
    assert report.layers["d_r_one_token_shuffled_q95"][0] == pytest.approx(np.quantile(null, 0.95), abs=1e-9)
    assert "not defined" in report.columns["d_r_one_token_shuffled_undefined"]


def test_text_in_which_a_shuffle_has_one_category_only_is_counted():
    x, category = noise(20, 30), np.repeat([0, 1], 10)
    # Four occurrences of one word of each category
    text = (noise(8, 30), ["w0"] * 4 + ["w10"] * 4, np.repeat([0, 1], 4))
    report = reported(made(x, category, text=text, shuffles=30, splits=10))
    undefined = report.layers["auroc_text_r_shuffled_undefined"][0]
    assert 0 < undefined < 30
    assert np.isfinite(report.layers["auroc_text_r_shuffled_q95"][0])
    assert 0 < report.layers["auroc_text_heldout_undefined"][0] <= 10


def test_one_word_in_both_categories_and_a_condition_without_rows_of_a_category():
    x, words = noise(20), [f"w{row % 10}" for row in range(20)]
    category = np.repeat([0, 1], 10)
    condition = (noise(6), words[:6], category[:6])
    report = reported(made(x, category, words=words, condition=condition))
    assert np.isnan(report.layers["share_bonferroni_context"]).all()


def test_chunks_of_any_size_give_the_same_numbers(monkeypatch):
    """Every step again with a few numbers at a time: neurons, labellings, splits and rows in many chunks.

    The probe on all neurons stays in float64 (`layer_probe.FLOAT64_SIZE`): float32 may predict a row at the border
    otherwise.
    """
    random = np.random.default_rng(0)  # the same numbers in any order of the tests
    x, category = random.normal(size=(60, 40)), np.repeat([0, 1], [25, 35])
    x[:, :5] += category[:, None]
    text = (random.normal(size=(50, 40)), [f"w{row}" for row in range(50)], category[:50])
    condition = (random.normal(size=(60, 40)), [f"w{row}" for row in range(60)], category)
    whole = reported(made(x, category, text=text, condition=condition), drawn=False)
    for name in ("chunks", "nulls", "layer_probe"):
        monkeypatch.setattr(f"neurexp.stats.{name}.CHUNK_SIZE", 500)
    some = reported(made(x, category, text=text, condition=condition), drawn=False)
    for table in ("neurons", "layers"):
        for name, values in getattr(whole, table).items():
            other = getattr(some, table)[name]
            np.testing.assert_allclose(other, values, rtol=1e-6, atol=1e-9, err_msg=f"{table}: {name}")
    assert chunks.CHUNK_SIZE == 500


def test_each_of_three_categories_has_the_neuron_that_leads_for_it_also_in_running_text():
    random = np.random.default_rng(0)
    x, category = random.normal(size=(40, 9)), np.repeat([0, 1, 2], [10, 12, 18])
    for kind in range(3):  # neuron 3 + kind prefers it
        x[category == kind, 3 + kind] += 2
    spoken = [*range(0, 10, 2), *range(10, 22), *range(22, 25)]  # three words of category 2: too few
    text = (x[spoken] + random.normal(size=(len(spoken), 9)), [f"w{row}" for row in spoken], category[spoken])
    report = reported(made(x, category, text=text))
    found = report.tables["leading"]
    assert found["neuron"].tolist() == [3, 4, 5]
    assert found["text_occurrences"].tolist() == [5, 12, 3]
    for kind in range(3):
        values = np.float32(x[:, 3 + kind]).astype(float)
        t = stats.ttest_ind(values[category == kind], values[category != kind], equal_var=False).statistic
        assert found["t"][kind] == pytest.approx(t)
        spoken_values, own = np.float32(text[0][:, 3 + kind]).astype(float), text[2] == kind
        u = stats.mannwhitneyu(spoken_values[own], spoken_values[~own]).statistic
        if kind < 2:
            assert found["auroc_text"][kind] == pytest.approx(u / (own.sum() * (~own).sum()))
            assert found["auroc_text_low"][kind] < found["auroc_text"][kind] < found["auroc_text_high"][kind]
    assert np.isnan(found["auroc_text"][2])
    page = report.pages["text_heat_map"]()
    assert [f"MLP 0.{3 + kind}: prefers kind {kind}" in page for kind in range(3)] == [True] * 3
    assert sum("prefers “kind" in line and "0.4 (t = " in line for line in report.findings) == 1


def test_the_best_neuron_of_three_categories_is_scored_in_text_on_words_that_did_not_choose_it():
    random = np.random.default_rng(0)
    x, category = random.normal(size=(60, 6)), np.repeat([0, 1, 2], 20)
    x[category == 2, 1] += 8
    in_text = x.copy()
    report = reported(made(x, category, text=(in_text, [f"w{row}" for row in range(60)], category)), drawn=False)
    assert report.layers["auroc_text_heldout"][0] > 0.99
    in_text[:, 1] *= -1
    report = reported(made(x, category, text=(in_text, [f"w{row}" for row in range(60)], category)), drawn=False)
    assert report.layers["auroc_text_heldout"][0] < 0.01


def test_many_categories_are_told_and_drawn_in_few_words():
    category = np.arange(50 * 5) % 50
    report = reported(made(noise(250, 12), category, splits=2, shuffles=2))
    assert max(len(line) for line in report.findings) < 600
    assert "50 categories" in report.findings[0]
    figure = report.figures["top_neurons"]()
    assert max(figure.get_size_inches()) < 30


def test_the_heat_map_of_many_categories_shows_the_strongest():
    category = np.arange(50 * 5) % 50
    x = noise(250, 12)
    report = reported(made(x, category, text=(x, [f"w{row}" for row in range(250)], category), splits=2, shuffles=2))
    assert report.pages["text_heat_map"]().count("<h2") == 8
    assert "8 categories" in report.pages["text_heat_map"]()
    assert "leading.parquet" in " ".join(report.findings)


def test_the_log_says_how_long_an_analysis_will_take(monkeypatch, caplog):
    from neurexp.console import progress

    clock = iter(np.arange(0.0, 1e6, 30.0))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        reported(made(noise(20), np.repeat([0, 1], 10), layers=(0, 1)), drawn=False)
    said = [record.getMessage() for record in caplog.records if "to go" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("Analysis: about ")
    assert "2 layers of 20 rows × 6 neurons" in said[0]


def test_a_neuron_shows_the_stretches_with_its_most_active_tokens():
    rows = selection([f"{place}" for place in range(9)], [-1, 0, -1, -1, 1, -1, -1, -1, 0])
    shown = (*((name, place, place + 1) for place, name in enumerate("abcdefgh")), ("ij", 7, 9))
    text = TextRows(rows, rows, shown, ((0, 3), (3, 6), (6, 9)))
    texts, values, categories = text.around_strongest(np.array([0.0, 5, 0, 1, 1, 1, 0, 0, 9], dtype=np.float32))
    assert texts == ["a", "b", "c", " […] ", "g", "h", "ij"]
    assert values[[1, 6]].tolist() == [5, 4.5]
    assert np.isnan(values[3])
    assert categories.tolist() == [-1, 0, -1, -1, -1, -1, 0]
