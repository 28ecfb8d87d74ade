"""Negation: planted neurons of known meaning, the rows of every comparison, and what a bad input says."""

import json

import numpy as np
import pytest
import torch
from inprocess import inputs_of, run_passes, text_of
from scipy import stats

from neurexp.engine.notebook import capture
from neurexp.errors import UserError
from neurexp.experiments.negation import Negation, Options
from neurexp.experiments.regression import RegressionData
from neurexp.experiments.regression.report import write
from neurexp.models.load import load_model
from neurexp.stats.group_shuffles import group_permutation, shuffle_groups
from neurexp.text import negations

FILLERS = [
    "the", "old", "river", "house", "garden", "water", "stone", "market", "winter", "summer", "window",
    "letter", "table", "doctor", "farmer", "soldier", "morning", "evening", "little", "yellow", "silent", "they", "he",
    "she", "we",
]  # fmt: skip
# Planted neurons; from `NOISE` on there is nothing
NEGATION, NOT, ECHO, AUXILIARY, VERB, OPPOSED, ONE_WORD, ONE_ECHO, NOISE = range(9)
NEURONS = 40


def made_text(tokenizer, words=None, sentences=700):
    """Sentences of fillers, with a listed word in the middle, sometimes before a full stop."""
    random = np.random.default_rng(0)
    if words is None:
        lists = (negations.NEGATED, negations.AFFIRMATIVE, negations.NEGATIVE, negations.POSITIVE)
        words = [word for one in lists for word in one]
        words += ["hardly", "without", "unable", "unknown", "not", "not", "not", "never"]
    lines = []
    for place in range(sentences):
        line = list(random.choice(FILLERS, 8))
        line[int(random.integers(2, 8))] = words[place % len(words)]
        lines.append(" ".join(line))
    return text_of(tokenizer(". ".join(lines) + ".", add_special_tokens=False).input_ids, 128)


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def text(model):
    return made_text(model.tokenizer)


def options(**changes):
    given = {"name": "negation", "plugin": "", "site": "MLP", "layer": 2}
    given |= {"shuffles": 2, "permutations": 300, "before": 20, "verbs": 6}
    return Options(**(given | changes))


@pytest.fixture(scope="module")
def planned(model, text):
    return Negation(options()).prepare(inputs_of(model, text))


def planted(plan, settings):
    """The plan's data, with neurons that know the rows' words instead of the model's."""
    activations = {}
    for one in plan.passes:
        count = len(one.reducers(1)["rows"]._sequence)
        activations[one.name] = {2: np.random.default_rng(1).normal(size=(count, NEURONS)).astype(np.float32)}
    for name, one in plan.comparisons.items():
        source = plan.sources[name]
        for word, label, place in zip(one.rows.words, one.labels, plan.places[name], strict=True):
            at_verb = source != "text"
            is_partial = name.startswith("graded") and label == 1
            facts = (
                0.5 if is_partial else label,
                word == "not",
                word == "not" or (at_verb and word.endswith(" not")),
                not at_verb and (word in negations.AFFIRMATIVE or word.endswith("n't")),
                at_verb and label,
                -label if at_verb else label,
                label if at_verb else word == "not",
                word.endswith(" not") if at_verb else label,
            )
            noise = np.random.default_rng(int(place)).normal(size=8) * 0.2
            activations[source][2][place, :8] = np.array(facts, dtype=float) + noise
    return RegressionData(settings, plan, activations)


@pytest.fixture(scope="module")
def data(planned):
    return planted(planned, options())


@pytest.fixture(scope="module")
def report(data):
    found = write(data)
    found.check()
    return found


def test_targets_are_whole_words_with_as_much_text_before_them(model, text, planned):
    tokenizer = model.tokenizer
    assert not model.begins_with_bos
    for name in ("lecture", "words", "graded_words"):
        one = planned.comparisons[name]
        assert one.sizes[0] == one.sizes[1] >= 20
        assert (one.rows.start == 20).all()
        for row, (label, word) in enumerate(zip(one.labels, one.rows.words, strict=True)):
            ids = planned.tokens.input_ids[one.rows.sequence[row]]
            shown = tokenizer.decode(one.rows.ids(row)).strip()
            assert word in (shown, negations.NOT if shown in negations.CONTRACTED else shown)
            after = tokenizer.decode(ids[one.rows.stop[row] :])
            assert not after[:1].isalpha()
            lists = {
                "lecture": (negations.AFFIRMATIVE, negations.NEGATED),
                "words": (negations.POSITIVE, (*negations.NEGATIVE, negations.NOT)),
                "graded_words": (negations.POSITIVE, ("hardly", "without", "unable", "unknown")),
            }[name]
            assert word in lists[label]
    words, counts = np.unique(planned.comparisons["words"].rows.words, return_counts=True)
    assert counts.max() == 12
    assert negations.NOT in words
    # A window is the text around its target
    joined = text.input_ids[text.valid].tolist()
    window = planned.tokens.input_ids[0][planned.tokens.valid[0]].tolist()
    assert any(joined[start : start + len(window)] == window for start in range(len(joined)))
    # The heat map shows the held-out part only
    assert planned.text.found.sequence.min() >= round(2 / 3 * len(planned.tokens.input_ids))


def test_verbs_stand_at_the_same_position_in_both_frames_of_a_pair(planned):
    one = planned.comparisons["pairs"]
    assert len(set(one.units)) == 6
    words = np.array(one.rows.words)
    for negated, affirmative in negations.PAIRS:
        sides = [(words == frame) & (one.labels == label) for frame, label in ((affirmative, 0), (negated, 1))]
        if not sides[1].any():  # another number of tokens
            continue
        np.testing.assert_array_equal(*(one.rows.start[mine] for mine in sides))
        np.testing.assert_array_equal(*(one.units[mine] for mine in sides))
        (block,) = {*one.blocks[sides[0]], *one.blocks[sides[1]]}
        assert {negations.negation_of(frame) for frame in words[(one.blocks == block) & (one.labels == 1)]} == {
            negations.negation_of(negated)
        }
    assert set(words[one.labels == 1]) <= {negated for negated, _ in negations.PAIRS}
    assert 6 <= len(np.unique(one.blocks)) < len(set(words[one.labels == 1]))
    tokenizer = planned.inputs.model.tokenizer
    for row in range(0, len(one.labels), 7):
        assert tokenizer.decode(one.rows.ids(row)).strip() == one.units[row]
        ids = one.rows.tokens.input_ids[one.rows.sequence[row]]
        assert tokenizer.decode(ids[: one.rows.stop[row]]).endswith(f"{one.rows.words[row]} {one.units[row]}")
    # Whole verbs, and all frames of a negation with their partners, are held out
    for train, what in ((one.training_text(1 / 3), one.units), (one.training_types(1 / 3, 0), one.blocks)):
        assert train.any() and not train.all()
        assert not set(what[train]) & set(what[~train])
        assert len(set(what[train])) == round(2 / 3 * len(set(what)))
    assert one.units[~one.training_text(1 / 3)][-1] == one.units[-1]  # the last ones


def test_the_rows_are_the_models_activations(model, text):
    few = options(rows=20, verbs=4, before=6, after=0, layer=1)
    planned = Negation(few).prepare(inputs_of(model, text))
    found = RegressionData.of(few, planned, run_passes(planned))
    for name in ("words", "pairs", "graded_pairs"):
        rows = planned.comparisons[name].rows
        for row in range(0, len(rows.words), 31):
            ids = rows.tokens.input_ids[rows.sequence[row]][: rows.stop[row]]
            exact = capture(model.network, torch.from_numpy(ids[None].astype(np.int64)), "MLP", [1])["MLP_1"][0]
            expected = exact[rows.start[row] : rows.stop[row]].mean(0)
            np.testing.assert_allclose(found.rows(name, 1)[row], expected.numpy(), atol=2e-5)


def test_a_negation_neuron_is_found_and_one_for_not_alone_is_not_taken_for_it(report):
    neurons = report.neurons
    assert neurons["survives"].nonzero()[0].tolist() == [NEGATION]
    assert neurons["beta_least"][NEGATION] > 1
    # “not” alone: significant as the lectures have it, and against words; not over words, and nothing at the verb
    assert neurons["significant_lecture"][NOT]
    assert neurons["p_types_max_words"][NOT] > 0.05
    assert not neurons["significant_pairs"][NOT]
    # “not”, and whatever comes behind it
    assert neurons["significant_lecture"][ECHO]
    assert neurons["significant_pairs"][ECHO]
    assert neurons["p_types_max_words"][ECHO] > 0.05
    # Auxiliaries: never at the verb. The verb's own: not at the word
    assert not neurons["significant_pairs"][AUXILIARY]
    assert neurons["p_types_max_pairs"][VERB] < 0.05
    assert not neurons["significant_words"][VERB]
    # Higher at the negative word, and lower at the verb behind it
    assert (neurons["p_types_max_words"][OPPOSED] < 0.05) and (neurons["p_types_max_pairs"][OPPOSED] < 0.05)
    assert neurons["beta_least"][OPPOSED] == 0
    # “not” alone among words, and every frame: by the likelihood ratio in both, but not over words
    assert neurons["in_all"][ONE_WORD]
    assert neurons["p_types_max_pairs"][ONE_WORD] < 0.05 < neurons["p_types_max_words"][ONE_WORD]
    # Every negative word, and verbs behind “not” only: by the likelihood ratio in both, but not over negations
    assert neurons["in_all"][ONE_ECHO]
    assert neurons["p_types_max_words"][ONE_ECHO] < 0.05 < neurons["p_types_max_pairs"][ONE_ECHO]
    # What negates in part need only agree in sign, with p < 0.05
    assert report.metrics["survivors_hold_graded_words"] == 1
    assert "Negation neurons: 1 (2.5% of all), significant in" in "\n".join(report.findings)


def test_words_that_negate_in_part_lie_where_they_were_planted(data, report):
    table = report.tables["positions"]
    whole = table["word"] == "all of them"
    assert set(table["kind"][whole]) == {"un-", "frames that negate in part"}  # the others have one word
    np.testing.assert_allclose(table["position"][whole], 0.5, atol=0.15)
    assert (table["position_low"] <= table["position"]).all() and (table["position"] <= table["position_high"]).all()
    one = data.plan.comparisons["words"]
    x, words = data.rows("words", 2)[:, NEGATION].astype(np.float64), np.array(one.rows.words)
    means = [np.mean([x[(words == word) & (one.labels == label)].mean() for word in set(words[one.labels == label])])
             for label in (0, 1)]  # fmt: skip
    third = data.plan.comparisons["graded_words"]
    own = data.rows("graded_words", 2)[(np.array(third.rows.words) == "hardly") & (third.labels == 1), NEGATION]
    expected = (own.astype(np.float64).mean() - means[0]) / (means[1] - means[0])
    assert table["position"][table["word"] == "hardly"] == pytest.approx(expected, abs=1e-9)
    # A listed word stands between all others
    left = np.mean([x[(words == word) & (one.labels == 1)].mean() for word in set(words[one.labels == 1]) - {"never"}])
    own = x[(words == "never") & (one.labels == 1)].mean()
    found = table["position"][(table["word"] == "never") & (table["comparison"] == "words")]
    assert found == pytest.approx((own - means[0]) / (left - means[0]), abs=1e-9)
    assert report.metrics["position_graded_pairs"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("frame", "negation"),
    [("They will not", "not"), ("They never", "never"), ("They won't", "n't"), ("They cannot", "cannot"),
     ("No one will", "No one"), ("Neither can", "Neither"), ("They will hardly", "hardly"), ("Few could", "Few")],
)  # fmt: skip
def test_frames_with_one_negation_are_one_piece_of_evidence(frame, negation):
    assert negations.negation_of(frame) == negation


def test_the_columns_of_pairs_are_those_of_verbs_and_negations(data, report):
    one, neurons = data.plan.comparisons["pairs"], report.neurons
    x = data.rows("pairs", 2).astype(np.float64)
    verbs = list(dict.fromkeys(one.units))
    for neuron in (NEGATION, ECHO, NOISE):
        negated, affirmative = (
            [x[(one.units == verb) & (one.labels == label), neuron].mean() for verb in verbs] for label in (1, 0)
        )
        expected = stats.ttest_rel(negated, affirmative)
        assert neurons["t_units_pairs"][neuron] == pytest.approx(expected.statistic, rel=1e-6)
        assert neurons["p_units_pairs"][neuron] == pytest.approx(expected.pvalue, rel=1e-6)
        # The labels of all frames of a negation and of their partners change places at once
        random, r, beyond = np.random.default_rng(7), abs(np.corrcoef(x[:, neuron], one.labels)[0, 1]), 0
        for _ in range(1000):
            swapped = random.random(one.blocks.max() + 1)[one.blocks] < 0.5
            beyond += abs(np.corrcoef(x[:, neuron], one.labels ^ swapped)[0, 1]) >= r - 1e-12
        p = (1 + beyond) / 1001
        assert neurons["p_types_pairs"][neuron] == pytest.approx(p, abs=0.1 if p > 0.02 else 0.01)


def test_what_is_left_of_the_lectures_share(report):
    lecture, survives = report.neurons["significant_lecture"], report.neurons["survives"]
    same = np.sign(report.neurons["beta_lecture"]) == np.sign(report.neurons["beta_least"])
    assert report.layers["share_left"][0] == pytest.approx((lecture & survives & same).sum() / lecture.sum())
    # Neurons of single words pass with other labels of the words, and none with other labels of the rows
    assert report.layers["share_significant_shuffled_types_lecture"][0] > 0.02
    assert report.layers["share_significant_shuffled_rows_lecture"][0] == 0
    positive = lecture & (report.neurons["beta_lecture"] > 0)
    accuracy = report.neurons["accuracy_lecture"][positive].mean()
    assert report.layers["accuracy_positive_lecture"][0] == pytest.approx(accuracy)
    assert f"and {(lecture & survives & same).sum() / lecture.sum():.1%} are negation neurons" in report.findings[1]
    words, verbs = (report.neurons[f"beta_{name}"] for name in ("words", "pairs"))
    in_all = report.neurons["significant_words"] & report.neurons["significant_pairs"] & (words * verbs > 0)
    np.testing.assert_array_equal(report.neurons["in_all"], in_all)
    assert report.metrics["naive_in_all"] == pytest.approx((lecture & in_all & same).sum() / lecture.sum())


def test_what_has_the_other_sign_by_the_lectures_rule_is_not_left_of_their_share(planned):
    """Auxiliaries lie above negated words, and all other positive words below."""
    data = planted(planned, options())
    raised = set()
    for name in ("lecture", "words"):
        is_auxiliary = np.isin(planned.comparisons[name].rows.words, negations.AFFIRMATIVE)
        raised |= set(planned.places[name][is_auxiliary].tolist())
    data.activations["text"][2][sorted(raised), NEGATION] += 1.2
    found = write(data)
    assert found.neurons["significant_lecture"][NEGATION] and found.neurons["beta_lecture"][NEGATION] < 0
    assert found.neurons["in_all"][NEGATION] and found.neurons["beta_least"][NEGATION] > 0
    kept = found.neurons["in_all"] & found.neurons["significant_lecture"]
    kept[NEGATION] = False
    lecture = found.neurons["significant_lecture"].sum()
    assert found.metrics["naive_in_all"] == pytest.approx(kept.sum() / lecture)
    assert found.metrics["naive_survive"] == found.layers["share_left"][0] == 0
    # One layer has no range
    assert "of the neurons are significant; " in found.findings[1]


def test_words_in_part_of_the_other_sign_do_not_hold(planned):
    data = planted(planned, options())
    one = planned.comparisons["graded_words"]
    data.activations["text"][2][planned.places["graded_words"][one.labels == 1], NEGATION] -= 3
    found = write(data)
    assert found.neurons["survives"].nonzero()[0].tolist() == [NEGATION]
    assert found.neurons["p_lr_graded_words"][NEGATION] < 0.05
    assert found.metrics["survivors_hold_graded_words"] == 0
    rows = found.tables["rows"]
    for name, one in planned.comparisons.items():
        heldout = rows["heldout"][rows["comparison"] == name]
        np.testing.assert_array_equal(heldout, ~one.training_text(1 / 3))
        assert 0 < heldout.mean() < 0.5


def test_the_figures_are_drawn(report):
    assert "positions" in report.figures
    for name, draw in report.figures.items():
        assert draw().get_suptitle(), name
    assert "<html" in report.pages["text_heat_map"]()


def test_the_lectures_rule_would_drop_the_targets_before_a_full_stop(model):
    words = " ".join(["the old house they"] * 10)
    text = text_of(
        model.tokenizer(
            f"{words} cannot. {words} will go. {words} never, {words} not.", add_special_tokens=False
        ).input_ids,
        512,
    )
    _, _, counts = Negation(options(before=4))._at_words(inputs_of(model, text), np.random.default_rng(0))
    assert counts["targets_negated"][0] == 3
    assert counts["targets_affirmative"][0] == 1
    assert counts["targets_before_punctuation"][0] == 0.75
    assert counts["targets_too_early"][0] == 0
    _, _, counts = Negation(options(before=43))._at_words(inputs_of(model, text), np.random.default_rng(0))
    assert counts["targets_too_early"][0] == 1  # “cannot” is behind 40 words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": -1}, "experiment.before=-1: give a whole number from 0"),
        ({"verbs": 2}, "experiment.verbs=2: give a whole number from 4 to 100"),
        ({"occurrences": 0}, "experiment.occurrences=0: give a whole number from 1"),
    ],
)
def test_a_bad_option_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        Negation(options(**changes))


def test_a_text_that_does_not_do_is_one_line(model, text):
    none = made_text(model.tokenizer, words=["river"], sentences=40)
    with pytest.raises(UserError, match=r"dataset.tokens=.*: the text has only 0 negative words.* give 10 or more"):
        Negation(options()).prepare(inputs_of(model, none))
    few = made_text(model.tokenizer, words=["not", "can"], sentences=10)
    with pytest.raises(UserError, match=r"dataset.tokens=.*: the text has only . negat.* give 10 or more"):
        Negation(options()).prepare(inputs_of(model, few))
    words = [*["not", "never", "nobody", "nothing"] * 3, *negations.POSITIVE]
    one_sided = made_text(model.tokenizer, words=words)
    with pytest.raises(UserError, match=r"only 4 different words among the negative words that can be used; give 5 or"):
        Negation(options()).prepare(inputs_of(model, one_sided))
    with pytest.raises(
        UserError, match=r"experiment.before=128: no target has so many tokens before it in its sequence"
    ):
        Negation(options(before=128)).prepare(inputs_of(model, text))


@pytest.mark.slow
def test_the_command_leaves_its_tables_for_several_sites(quick_cli, tmp_path):
    process = quick_cli(
        "experiment=negation", "model=mini", "dataset=pydoc", "tracking=off", "device=cpu", "experiment.layer=3",
        "experiment.site=[Q,V]", "experiment.shuffles=1", "experiment.permutations=100", "experiment.verbs=4",
        "experiment.rows=40", "experiment.before=20", "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "the lectures' rule (a space must come next) would drop" in process.stdout
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"layers.parquet", "neurons.parquet", "rows_Q.parquet", "columns.md", "summary.json", "figures"} <= files
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["statistic"] == "beta_least"
    assert {"Q/naive_survive", "V/found_lecture", "targets_negated"} <= set(summary["metrics"])


@pytest.mark.slow
def test_with_labels_dealt_out_anew_the_verdicts_tests_err_in_five_percent(model, text, planned):
    data, runs = RegressionData.of(options(), planned, run_passes(planned)), 200
    for name in ("words", "pairs"):
        one, x, random, errs = planned.comparisons[name], data.rows(name, 2), np.random.default_rng(5), 0
        for run in range(runs):
            labels = shuffle_groups(one.labels, one.groups, random, one.blocks)
            errs += bool(
                (group_permutation(x, labels, one.groups, 199, seed=run, blocks=one.blocks).p_max <= 0.05).any()
            )
        print(f"{name}: {errs} of {runs} runs err")
        low, high = stats.binom.ppf([5e-4, 1 - 5e-4], runs, 0.05)
        assert low <= errs <= high
