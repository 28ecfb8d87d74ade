"""Categories: every number again by plain transformers, numpy and scipy; planted neurons; what a bad line says."""

import json
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import inputs_of, run_passes
from pyarrow.parquet import read_table
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

import neurexp
from neurexp.errors import UserError
from neurexp.experiments.categories import Categories, Options
from neurexp.experiments.categories.analysis import Analyst
from neurexp.experiments.categories.data import SET_2, CategoryData, Targets
from neurexp.experiments.categories.report import with_sentences
from neurexp.experiments.contrast import Condition, ContrastData
from neurexp.experiments.contrast.report import write
from neurexp.models.load import load_model
from neurexp.text.labelled_sentences import OWN_SENTENCES

torch.set_num_threads(1)

MINI = Path(neurexp.__file__).parent / "mini"
LAYERS = [0, 3]
INSTRUMENTS, TOOLS = ["banjo", "bassoon", "trumpet", "violin"], ["hatchet", "mallet", "shovel", "wrench"]
WORDS = [*INSTRUMENTS, *TOOLS]
LABEL = np.repeat([0, 1], 4)
OTHERS = [
    np.isin(np.arange(8), chosen).astype(int)
    for chosen in combinations(range(8), 4)
    if 0 not in chosen and chosen != (4, 5, 6, 7)
]  # every other way to split the words in two


def options(**changes):
    fields = {"name": "categories", "plugin": "", "site": "PROJ", "pooling": "last", "text": False, "layer": LAYERS}
    few = {"permutations": 200, "splits": 2, "shuffles": 2}
    return Options(**(fields | few | changes))


def lines_of(name):
    return [json.loads(line) for line in (OWN_SENTENCES / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def plan(model):
    return Categories(options()).prepare(inputs_of(model))


@pytest.fixture(scope="module")
def results(plan):
    return run_passes(plan)


@pytest.fixture(scope="module")
def data(plan, results):
    return CategoryData(ContrastData.of(options(), plan, results))


@pytest.fixture(scope="module")
def report(plan, results):
    found = Categories(options()).analyse(plan, results)
    found.check()
    return found


@pytest.fixture(scope="module")
def by_hand():
    """Set → word → what plain transformers give at each of its targets: `[sentences, …]` of each layer.

    `PROJ` at the last token of the target, and of the targets in set 1 the hidden states at the first and last token.
    """
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    network = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval()
    seen = {}
    for layer in LAYERS:
        hook = lambda _module, _inputs, output, layer=layer: seen.__setitem__(layer, output[0].double().numpy())  # noqa: E731
        network.transformer.h[layer].mlp.c_proj.register_forward_hook(hook)
    rows = []
    for number, name in ((1, "set_1.jsonl"), (2, "set_2.jsonl")):
        texts = {}
        for line in lines_of(name):
            texts.setdefault(line["text"], []).append(line["target"])
        for text, targets in sorted(texts.items()):
            with torch.inference_mode():
                hidden = network(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            for target in targets:
                before = text.partition(f" {target}")[0]
                first = len(tokenizer(before).input_ids)
                last = len(tokenizer(f"{before} {target}").input_ids) - 1
                row = {"set": number, "word": target, "alone": len(targets) == 1}
                row["frame"] = " ".join("_" if one.strip(".,") in targets else one for one in text.split())
                row["earlier"] = [word for word in targets if text.index(word) < text.index(target)]
                row["x"] = {layer: seen[layer][last] for layer in LAYERS}
                row["stream"] = {
                    layer: [hidden[layer + after][0, place].double().numpy()
                            for after in (0, 1) for place in (first, last)]
                    for layer in LAYERS
                }  # fmt: skip
                rows.append(row)
    return rows


def x_by_hand(rows, number, layer):
    own = [row for word in WORDS for row in rows if row["set"] == number and row["word"] == word]
    return np.array([row["x"][layer] for row in own]), np.array([WORDS.index(row["word"]) for row in own])


def of_layer(report, name, layer):
    return report.neurons[name][report.neurons["layer"] == layer]


def row_of(report, name, layer):
    return report.layers[name][LAYERS.index(layer)]


def means(x, word):
    return np.array([x[word == one].mean(0) for one in range(8)])


def student(x, labels):
    return stats.ttest_ind(x[labels == 1], x[labels == 0], axis=0)


def welch(x, labels):
    return stats.ttest_ind(x[labels == 1], x[labels == 0], axis=0, equal_var=False)


# The rows


def test_the_rows_are_the_targets_last_tokens_in_plain_transformers(data, by_hand):
    assert data.contrast.categories == ("instruments", "tools")
    assert len(set(by_hand[0]["x"][0])) > 10
    for name, number in (("words", 1), (SET_2, 2)):
        own = data.sets[name]
        assert own.words == WORDS
        for layer in LAYERS:
            exact, word = x_by_hand(by_hand, number, layer)
            np.testing.assert_array_equal(own.groups, word)
            np.testing.assert_allclose(data.x(name, layer), exact, atol=2e-5)


def test_a_sentence_with_two_targets_is_run_once(plan):
    second = plan.conditions[SET_2].rows
    assert len(second.words) == 96
    assert len(second.tokens.input_ids) == 48
    assert len(plan.rows.tokens.input_ids) == len(plan.rows.words) == 40


def test_all_words_stand_in_the_same_sentences():
    """So the context tells no words apart, and all splits of the words are alike but for their meaning."""
    frames = {word: sorted(one["text"].replace(word, "_") for one in lines_of("set_1.jsonl") if one["target"] == word)
              for word in WORDS}  # fmt: skip
    assert len(set(map(tuple, frames.values()))) == 1
    assert len(set(frames["banjo"])) == 5
    later = {word: [] for word in WORDS}
    for first, second in zip(*[iter(lines_of("set_2.jsonl"))] * 2, strict=True):
        assert first["text"] == second["text"]
        assert first["text"].index(first["target"]) < first["text"].index(second["target"])
        frame = first["text"].replace(first["target"], "_").replace(second["target"], "_")
        later[second["target"]].append((frame, first["category"] == second["category"], first["target"]))
    for word, seen in later.items():
        assert len(seen) == 6
        assert len({frame for frame, _, _ in seen}) == 3
        same = [earlier for _, is_same, earlier in seen if is_same]
        assert sorted([word, *same]) == (INSTRUMENTS if word in INSTRUMENTS else TOOLS)


# The columns


@pytest.mark.parametrize("layer", LAYERS)
def test_the_tests_over_sentences_and_over_words(report, by_hand, layer):
    for number, end in ((1, ""), (2, f"_{SET_2}")):
        x, word = x_by_hand(by_hand, number, layer)
        theirs = student(x, LABEL[word])
        np.testing.assert_allclose(of_layer(report, f"t_sentences{end}", layer), theirs.statistic, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(of_layer(report, f"p_sentences{end}", layer), theirs.pvalue, rtol=2e-2, atol=1e-12)
        of_words = welch(means(x, word), LABEL)
        np.testing.assert_allclose(of_layer(report, f"t_welch{end}", layer), of_words.statistic, rtol=2e-3, atol=2e-3)
        share = row_of(report, f"share_sentences{end}", layer)
        assert share == pytest.approx((theirs.pvalue < 0.05 / x.shape[1]).mean(), abs=0.006)
        others = [(student(x, split[word]).pvalue < 0.05 / x.shape[1]).mean() for split in OTHERS]
        assert len(others) == 34
        assert row_of(report, f"share_sentences{end}_shuffled", layer) == pytest.approx(np.mean(others), abs=0.003)
        assert min(others) < share
        m = means(x, word)
        separated = [np.mean((m[s == 1].min(0) > m[s == 0].max(0)) | (m[s == 1].max(0) < m[s == 0].min(0)))
                     for s in (LABEL, *OTHERS)]  # fmt: skip
        assert row_of(report, f"share_separated{end}", layer) == pytest.approx(separated[0], abs=0.006)
        assert row_of(report, f"share_separated{end}_shuffled", layer) == pytest.approx(
            np.mean(separated[1:]), abs=0.002
        )
    assert report.neurons["significant_sentences"].sum() > 20


@pytest.mark.parametrize("layer", LAYERS)
def test_the_permutation_over_words_is_exact(report, data, layer):
    one = data.sets["words"]
    m = means(data.x("words", layer).astype(float), one.groups)
    splits = np.array([np.isin(np.arange(8), chosen) for chosen in combinations(range(8), 4)])
    t = np.abs([welch(m, split).statistic for split in splits])
    expected = (t >= np.abs(welch(m, LABEL).statistic) * (1 - 1e-6)).mean(0)
    np.testing.assert_allclose(of_layer(report, "p_permutation", layer), expected, atol=1e-9)
    assert expected.min() == pytest.approx(2 / 70)


@pytest.mark.parametrize("layer", LAYERS)
def test_concordance_and_its_nulls(report, data, layer):
    for level in ("sentences", "words"):
        found = []
        for split in [LABEL, *OTHERS]:
            signs, t = [], []
            for name in ("words", SET_2):
                x, word = data.x(name, layer).astype(float), data.sets[name].groups
                tested = student(x, split[word]) if level == "sentences" else welch(means(x, word), split)
                t.append(tested.statistic)
                signs.append(np.sign(tested.statistic) * (tested.pvalue < 0.05 / x.shape[1]))
            same = signs[0] == signs[1]
            found.append((same.mean(), (same & (signs[0] != 0)).mean(), np.corrcoef(*t)[0, 1]))
            if split is LABEL:
                independent = sum((signs[0] == s).mean() * (signs[1] == s).mean() for s in (-1, 0, 1))
                assert row_of(report, f"concordance_{level}_independent", layer) == pytest.approx(independent)
                np.testing.assert_array_equal(of_layer(report, f"concordant_{level}", layer), same & (signs[0] != 0))
        for name, values in zip(("concordance", "both", "t_r"), np.array(found).T, strict=True):
            assert row_of(report, f"{name}_{level}", layer) == pytest.approx(values[0])
            assert row_of(report, f"{name}_{level}_shuffled", layer) == pytest.approx(values[1:].mean())
            assert row_of(report, f"{name}_{level}_p", layer) == pytest.approx((values >= values[0] - 1e-9).mean())


@pytest.mark.parametrize("layer", LAYERS)
def test_held_out_words(report, data, layer):
    m = means(data.x("words", layer).astype(float), data.sets["words"].groups)
    results = []
    for split in [LABEL, *OTHERS[:3]]:
        right, selected = [], []
        for zero, one in product(np.flatnonzero(split == 0), np.flatnonzero(split == 1)):
            rest = np.setdiff1d(np.arange(8), [zero, one])
            t = welch(m[rest], split[rest]).statistic
            correct = np.sign(m[one] - m[zero]) == np.sign(t)
            right.append(correct)
            selected.append(correct[np.argsort(-np.abs(t))[: round(0.05 * len(t))]].mean())
        results.append((np.mean(right, axis=0), np.mean(selected)))
    np.testing.assert_allclose(of_layer(report, "pairs_right", layer), results[0][0], atol=1e-9)
    assert row_of(report, "members", layer) == pytest.approx(results[0][1], abs=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_leak_of_an_earlier_target(report, by_hand, layer):
    alone = np.array(
        [np.mean([r["x"][layer] for r in by_hand if r["word"] == w and r["alone"]], axis=0) for w in WORDS]
    )
    difference = alone[4:].mean(0) - alone[:4].mean(0)
    moved = []
    for word in WORDS:
        later = [row for row in by_hand if row["word"] == word and row["earlier"]]
        sides = [[r["x"][layer] for r in later if r["earlier"][0] in names] for names in (INSTRUMENTS, TOOLS)]
        assert [len(side) for side in sides] == [3, 3]
        moved.append(np.mean(sides[1], axis=0) - np.mean(sides[0], axis=0))
    expected = np.mean(moved, axis=0)
    np.testing.assert_allclose(of_layer(report, "leak", layer), expected, atol=3e-5)
    np.testing.assert_allclose(of_layer(report, "difference_alone", layer), difference, atol=3e-5)
    share = expected @ difference / (difference @ difference)
    assert row_of(report, "leak_share", layer) == pytest.approx(share, abs=1e-4)
    # The null: what each of the eight earlier words moves, with constants for later words and frames; then every split
    later = [row for row in by_hand if row["earlier"]]
    frames = sorted({row["frame"] for row in later})
    assert len(frames) == 3
    design = np.array([
        [*(row["earlier"][0] == word for word in WORDS), *(row["word"] == word for word in WORDS),
         *(row["frame"] == frame for frame in frames)]
        for row in later
    ], dtype=float)  # fmt: skip
    effects = np.linalg.lstsq(design, np.array([row["x"][layer] for row in later]))[0][:8]
    values = [effects[labels == 1].mean(0) - effects[labels == 0].mean(0) for labels in [LABEL, *OTHERS]]
    np.testing.assert_allclose(values[0], expected, atol=1e-6)
    shares = np.array(values) @ difference / (difference @ difference)
    assert row_of(report, "leak_share", layer) == pytest.approx(shares[0], abs=1e-4)
    p = np.mean(np.abs(shares) >= abs(shares[0]) - 1e-9)
    assert row_of(report, "leak_share_p", layer) == pytest.approx(p)
    low, high = np.quantile([*shares[1:], *-shares[1:]], [0.025, 0.975])
    assert row_of(report, "leak_share_low", layer) == pytest.approx(low, abs=1e-4)
    assert row_of(report, "leak_share_high", layer) == pytest.approx(high, abs=1e-4)
    p = np.mean(np.abs(values) >= np.abs(values[0]) - 1e-12, axis=0)
    assert report.metrics["leak_layers"] == (report.layers["leak_share_p"] < 0.05).sum()
    assert (report.metrics["rows_leak_all"], report.metrics["words_leak_all"]) == (48, 8)
    assert np.mean(of_layer(report, "p_leak", layer) == p) > 0.95  # float32 activations may exchange two splits
    np.testing.assert_allclose(of_layer(report, "p_leak", layer), p, atol=2.1 / 35)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_displacement_is_that_of_the_hidden_states(report, by_hand, layer):
    expected = {}
    for index, place in enumerate(("first", "last")):
        by_word = []
        for word in WORDS:
            both = [(r["stream"][layer][index], r["stream"][layer][2 + index]) for r in by_hand
                    if r["set"] == 1 and r["word"] == word]  # fmt: skip
            moved = np.array([np.linalg.norm(after - before) for before, after in both])
            by_word.append((moved.mean(), (moved / [np.linalg.norm(before) for before, _ in both]).mean()))
        expected[place], expected[f"{place}_relative"] = np.mean(by_word, axis=0)
    assert layer < 5  # the last hidden state has gone through the final norm
    for name, value in expected.items():
        assert row_of(report, f"displacement_{name}", layer) == pytest.approx(value, rel=1e-4)


def test_the_findings_say_what_is_not_measured(model, tmp_path):
    """No second set, no word after a target of each category, no word of several tokens."""
    file = tmp_path / "short.jsonl"
    words = {"a": ["one", "two", "four", "time"], "b": ["day", "life", "work", "way"]}
    rows = [{"text": f"We saw the {word}.", "target": word, "category": c} for c in words for word in words[c]]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    experiment = Categories(options(sentences=str(file), layer=[1]))
    plan = experiment.prepare(inputs_of(model))
    report = experiment.analyse(plan, run_passes(plan))
    report.check()
    text = "\n".join(report.findings)
    assert "There is no set 2." in text
    assert "The leak of an earlier target into a later one is not measured" in text
    assert "leak_share" not in report.layers
    single = (plan.rows.lengths == 1).all()
    assert single == ("no target of set 1 has several tokens" in text)
    assert single == ("displacement_last" not in report.layers)


def test_a_second_set_of_other_words_is_compared_without_splits(model, tmp_path):
    words = {"instruments": ["cello", "flute", "piano", "drum"], "tools": ["hammer", "rake", "ladder", "drill"]}
    rows = [
        {"text": f"{before} the {word}.", "target": word, "category": category}
        for category, own in words.items()
        for word in own
        for before in ("We forgot", "Nobody saw")
    ]
    file = tmp_path / "other.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    experiment = Categories(options(replication=str(file), layer=[1]))
    plan = experiment.prepare(inputs_of(model))
    report = experiment.analyse(plan, run_passes(plan))
    report.check()
    assert report.metrics["sentences_set_2"] == 16
    assert any("The sets do not have the same words" in line for line in report.findings)
    for name in ("both_sentences_shuffled", "t_r_words_p", "share_words_set_2_shuffled", "d_r_set_2_shuffled_q95"):
        assert np.isnan(report.layers[name]).all()
    for name in ("both_sentences", "both_sentences_independent", "t_r_words", "share_sentences_set_2", "d_r_set_2"):
        assert np.isfinite(report.layers[name]).all()


def test_without_common_sentences_the_leak_is_within_words(data):
    """Each sentence is made unlike all others, so that a word is compared with itself over all of them."""
    second = data.sets[SET_2].rows
    ids = second.tokens.input_ids.copy()
    ids[:, 0] = np.arange(len(ids))
    assert (second.start > 0).all()
    rows = replace(second, tokens=replace(second.tokens, input_ids=ids))
    contrast = replace(data.contrast, conditions={SET_2: Condition("in set 2", rows)})
    found = Analyst(CategoryData(contrast)).layer(3)
    own, x = data.sets[SET_2], data.x(SET_2, 3).astype(float)
    expected = [
        np.subtract(*(x[(own.groups == word) & (own.earlier == side)].mean(0) for side in (1, 0))) for word in range(8)
    ]
    np.testing.assert_allclose(found.neurons["leak"], np.mean(expected, axis=0), atol=1e-9)
    assert found.row["rows_leak"] == 48
    whole = Analyst(data).layer(3)
    np.testing.assert_allclose(found.neurons["leak"], whole.neurons["leak"], atol=1e-9)
    assert found.row["leak_share_high"] != whole.row["leak_share_high"]  # the sentences' own variance is in it


def test_earlier_targets_of_both_categories_or_of_the_same_word_do_not_count(tmp_path, model):
    """Three targets in one text: the third comes after both. And a word that comes again, in capitals."""
    lines = [
        *({"text": "A cup, a saw and a pan.", "target": word, "category": one} for word, one in
          (("cup", "a"), ("saw", "b"), ("pan", "a"))),
        *({"text": "No Cup is a cup.", "target": word, "category": "a"} for word in ("Cup", "cup")),
    ]  # fmt: skip
    examples = Categories(options(sentences=written(tmp_path, *lines))).select(model)
    targets = Targets.of(examples)
    found = {word: [] for word in ("cup", "saw", "pan")}
    for word, earlier in zip(examples.words, targets.earlier.tolist(), strict=True):
        found.setdefault(word, []).append(earlier)
    assert {word: found[word] for word in ("cup", "saw", "pan")} == {"cup": [-1, -1, -1], "saw": [0], "pan": [-1]}


def test_a_target_at_the_first_position_has_no_displacement(tmp_path, model):
    first = [
        one | {"text": f"{one['target'].capitalize()} was there.", "target": one["target"].capitalize()} for one in GOOD
    ]
    found = {}
    for name, lines in (("behind", GOOD), ("both", [*GOOD, *first]), ("first", first)):
        experiment = Categories(options(sentences=written(tmp_path, good=lines), layer=[1]))
        plan = experiment.prepare(inputs_of(model))
        assert not model.begins_with_bos
        found[name] = experiment.analyse(plan, run_passes(plan))
    for name in ("displacement_first", "displacement_last_relative"):
        assert found["both"].layers[name][0] == pytest.approx(found["behind"].layers[name][0])
    layers = found["both"].layers
    more = layers["displacement_last_relative"] > layers["displacement_first_relative"]
    assert found["both"].metrics["displacement_last_more"] == more.sum()
    assert "displacement_first" not in found["first"].layers
    assert any("no target of set 1 has several tokens and text before it" in one for one in found["first"].findings)


# Planted neurons

CATEGORY, TWO_WORDS, ONE_WORD, ONE_SENTENCE, EARLIER, NOISE = range(6)


@pytest.fixture(scope="module")
def planted(data):
    """The plan's data, with neurons that know words and places instead of the model's; 40 neurons of one layer."""
    random, activations = np.random.default_rng(3), {}
    for name, own in data.sets.items():
        x = random.normal(size=(len(own.groups), 40)) + random.normal(size=(8, 40))[own.groups] * 0.5
        x[:, CATEGORY] = 3 * own.label[own.groups] + random.normal(size=8)[own.groups] * 0.2 + x[:, CATEGORY] * 0.1
        x[:, TWO_WORDS] = 5.0 * np.isin(own.groups, (5, 6)) + x[:, TWO_WORDS] * 0.1
        x[:, ONE_WORD] = 5.0 * (own.groups == 6) + x[:, ONE_WORD] * 0.1
        x[:, ONE_SENTENCE] = 8.0 * (np.arange(len(own.groups)) == 25) + x[:, ONE_SENTENCE] * 0.1
        x[:, EARLIER] = np.where(own.earlier >= 0, 2.0 * own.earlier - 1, 0) + x[:, EARLIER] * 0.1
        activations[name] = {0: x.astype(np.float32)}
    contrast = replace(data.contrast, layers=[0], activations=activations, options=options(permutations=4000))
    found = with_sentences(write(contrast.by_word()), CategoryData(contrast))
    found.check()
    return found.neurons, found


def test_a_category_neuron_is_found_over_words_and_in_both_sets(planted):
    neurons, _ = planted
    assert neurons["t_welch"][CATEGORY] > 10
    assert neurons["p_permutation"][CATEGORY] == pytest.approx(2 / 70)
    assert neurons["significant_bonferroni"][CATEGORY]
    assert neurons["concordant_words"][CATEGORY]
    assert neurons["pairs_right"][CATEGORY] == 1


def test_a_neuron_for_two_of_the_words_passes_over_sentences_and_not_over_words(planted):
    neurons, found = planted
    assert neurons["significant_sentences"][TWO_WORDS]
    assert neurons["concordant_sentences"][TWO_WORDS]
    assert neurons["p_welch"][TWO_WORDS] > 0.1
    assert not neurons["concordant_words"][TWO_WORDS]
    assert neurons["pairs_right"][TWO_WORDS] < 0.8
    assert found.layers["share_sentences_shuffled"][0] > found.layers["share_words_shuffled"][0]


@pytest.mark.parametrize("neuron", [ONE_WORD, ONE_SENTENCE, EARLIER])
def test_a_neuron_for_one_word_one_sentence_or_an_earlier_target_is_not_taken_for_one_of_the_category(planted, neuron):
    neurons, _ = planted
    assert not neurons["significant_bonferroni"][neuron]
    assert not neurons["concordant_sentences"][neuron]
    assert not neurons["concordant_words"][neuron]


def test_the_leak_is_found_where_it_was_planted(planted):
    neurons, found = planted
    assert neurons["leak"][EARLIER] == pytest.approx(2, abs=0.15)
    assert neurons["p_leak"][EARLIER] == pytest.approx(1 / 35)
    assert abs(found.layers["leak_share"][0]) < 0.25  # the planted neuron tells no category
    assert found.layers["leak_share_p"][0] > 0.05


# Files


GOOD = [{"text": f"We saw the {word}.", "target": word, "category": "ab"[i % 2]} for i, word in enumerate(WORDS)]


def written(tmp_path, *extra, good=GOOD):
    file = tmp_path / "own.jsonl"
    lines = [*(json.dumps(one) for one in good), *(one if isinstance(one, str) else json.dumps(one) for one in extra)]
    file.write_text("\n".join(lines), "utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: .* a line is"),
        ("[1]", "not an object; a line is"),
        ({"text": "A cat.", "target": "cat"}, "no key “category”"),
        ({"text": 3, "target": "cat", "category": "a"}, "“text” is no text"),
        ({"text": "A cat.", "target": "dog", "category": "a"}, "“dog” does not stand in the text as a whole word"),
        ({"text": "Concatenate it.", "target": "cat", "category": "a"}, "“cat” does not stand in the text"),
        ({"text": "A cat saw a cat.", "target": "cat", "category": "a"}, "“cat” stands in the text 2 times"),
        ({"text": "Oh ha ha ha.", "target": "ha ha", "category": "a"}, "“ha ha” stands in the text 2 times"),
        ({"text": "The banjo rang.", "target": "Banjo", "category": "a"}, "“Banjo” does not stand .*, spelled so"),
        ({"text": "The banjo rang.", "target": "banjo", "category": "b"}, "“banjo” is of category “a” in line 1"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, line, message):
    file = written(tmp_path, line)
    with pytest.raises(UserError, match=rf"experiment.bad_sentences=0.05: 1 of 9 lines .*own.jsonl, row 9: {message}"):
        Categories(options(sentences=file))
    skipping = Categories(options(sentences=file, bad_sentences=0.2))
    (skipped,) = skipping.skipped
    assert skipped.item == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": "nowhere.jsonl"}, "experiment.sentences=nowhere.jsonl: no such file"),
        ({"sentences": " "}, "experiment.sentences= : give a file"),
        ({"replication": True}, "experiment.replication=True: give a file SENTENCES.jsonl, or false for none"),
        ({"bad_sentences": 2}, "experiment.bad_sentences=2: give a share from 0 to 1"),
        ({"replication": str(OWN_SENTENCES)}, "experiment.replication=.*: it is a folder"),
    ],
)
def test_a_bad_option_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        Categories(options(**changes))


def test_three_categories_and_an_empty_file_are_one_line(tmp_path):
    third = {"text": "A new thing.", "target": "thing", "category": "c"}
    with pytest.raises(UserError, match=r"experiment.sentences=.*have 3 categories \(a, b, c\); give two"):
        Categories(options(sentences=written(tmp_path, third)))
    with pytest.raises(UserError, match=r"experiment.sentences=.*: it has no sentence"):
        Categories(options(sentences=written(tmp_path, good=[])))


def test_set_2_must_have_the_categories_of_set_1(tmp_path):
    file = written(tmp_path)
    with pytest.raises(UserError, match=r"8 of 8 lines .*“a” is none of the first set's categories, “instruments” and"):
        Categories(options(replication=file))


@pytest.mark.parametrize(("count", "words"), [(0, "0 words"), (1, "1 word")])
def test_set_2_must_have_two_words_of_each_category(tmp_path, model, count, words):
    second = tmp_path / "second.jsonl"
    chosen = [one for one in GOOD if one["category"] == "a"] + [one for one in GOOD if one["category"] == "b"][:count]
    second.write_text("\n".join(map(json.dumps, chosen)), "utf-8")
    experiment = Categories(options(sentences=written(tmp_path), replication=str(second)))
    with pytest.raises(UserError, match=rf"^experiment.replication: only {words} of b can be used; give sentences"):
        experiment.prepare(inputs_of(model))


def test_too_few_words_are_one_line(tmp_path, model):
    file = written(tmp_path, good=GOOD[:7] * 3)
    experiment = Categories(options(sentences=file))
    assert experiment.counts([])["sentences_duplicate"] == 14
    with pytest.raises(UserError, match=r"experiment.sentences: only 3 words of b can be used; give 4 or more"):
        experiment.prepare(inputs_of(model))


def test_capitals_and_order_do_not_matter(tmp_path, model):
    lines = [json.dumps(one) for one in lines_of("set_1.jsonl")]
    file = tmp_path / "reversed.jsonl"
    file.write_text("\n\n".join(reversed(lines)) + "\n", "utf-8")
    ours, theirs = (Categories(options(sentences=one)).select(model) for one in (None, str(file)))
    assert ours.words == theirs.words
    np.testing.assert_array_equal(ours.tokens.input_ids, theirs.tokens.input_ids)
    spelled = [{"text": "Banjo players met.", "target": "Banjo", "category": "a"}, *GOOD]
    examples = Categories(options(sentences=written(tmp_path, good=spelled)))._sets[0].examples
    assert [one.word for one in examples if one.word.lower() == "banjo"] == ["banjo", "banjo"]
    # The other set's only sentence of a word may begin with it
    second = tmp_path / "second.jsonl"
    second.write_text(json.dumps({"text": "Banjo players met.", "target": "Banjo", "category": "a"}), "utf-8")
    both = Categories(options(sentences=written(tmp_path), replication=str(second)))._sets[1]
    assert [one.word for one in both.examples] == ["banjo"]


# The command


COMMAND = (
    "experiment=categories", "model=mini", "tracking=off", "device=cpu", "experiment.permutations=100",
    "experiment.splits=2", "experiment.shuffles=2", "hydra.run.dir=run",
)  # fmt: skip


def test_the_command_with_two_sites_captures_the_stream_once(quick_cli, tmp_path):
    process = quick_cli(*COMMAND, "experiment.layer=1", "experiment.site=[PROJ,RESID_POST]")
    assert process.returncode == 0, process.stderr
    layers = read_table(tmp_path / "run" / "layers.parquet").to_pydict()
    assert layers["site"] == ["PROJ", "RESID_POST"]
    assert layers["displacement_last"][0] == layers["displacement_last"][1]
    assert layers["share_sentences"][0] != layers["share_sentences"][1]


@pytest.mark.slow
def test_the_figures_of_a_run_with_its_control(quick_cli, tmp_path):
    process = quick_cli(*COMMAND, "experiment.layer=[1,2]", "experiment.control=random", draws=True)
    assert process.returncode == 0, process.stderr
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures >= {
        "sentences_over_layers", "t_of_sets", "top_neurons_by_sentence", "leak_over_layers", "displacement_over_layers"
    }  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["metrics"]
    assert metrics["share_sentences_all_control"] >= 0
    assert "sentences_control" not in metrics


@pytest.mark.slow
def test_with_labels_of_no_meaning_the_tests_over_words_keep_their_rates(data):
    """Words have effects of their own, categories none: t over sentences errs often, over words rarely."""
    random, of_sentences, of_words, leaks, exact = np.random.default_rng(9), [], [], [], []
    for _ in range(60):
        activations = {}
        words, after = random.normal(size=(2, 8, 60))
        for name, own in data.sets.items():
            x = words[own.groups] + 0.5 * random.normal(size=(len(own.groups), 60))
            # Each earlier word leaks something of its own
            x += (own.word_before >= 0)[:, None] * after[own.word_before]
            activations[name] = {0: x.astype(np.float32)}
        contrast = replace(data.contrast, layers=[0], activations=activations)
        found = with_sentences(write(contrast.by_word()), CategoryData(contrast))
        of_sentences.append((found.neurons["p_sentences"] < 0.05).mean())
        of_words.append((found.neurons["p_welch"] < 0.05).mean())
        exact.append((found.neurons["p_permutation"] < 0.05).mean())
        leaks.append((found.neurons["p_leak"] < 0.05).mean())
    print([np.mean(values) for values in (of_sentences, of_words, exact, leaks)])
    assert np.mean(of_sentences) > 0.3
    assert np.mean(of_words) < 0.06
    assert np.mean(exact) == pytest.approx(2 / 70, abs=0.01)
    assert np.mean(leaks) < 0.05
