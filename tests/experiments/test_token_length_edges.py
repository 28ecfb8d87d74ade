"""Token length at the ends of what a text or a model can be: all is defined, said and drawn, no headline is NaN."""

from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from inprocess import measure, run_experiment, small_model, text_of

from neurexp.config.schema import CONFIG_FOLDER, register_schema, typed_options
from neurexp.errors import UserError
from neurexp.experiments.token_length import TokenLength
from neurexp.models.load import load_model
from neurexp.runs.driver import run
from neurexp.text.vocabulary import token_lengths

R_COLUMNS = ("r_length", "r_length_partial", "r_length_low", "r_length_high", "null_mean", "null_sd")


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("mini", device="cpu").tokenizer


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_model(tokenizer)


@pytest.fixture(scope="module")
def of_length(tokenizer):
    """(length, number) → that many token types of that length."""
    lengths = token_lengths(tokenizer)
    return lambda length, number: np.flatnonzero(lengths == length)[:number]


@pytest.fixture(scope="module")
def prose(of_length):
    """A thousand tokens of 2 to 9 characters, the short ones more frequent, among them ends of text."""
    rng = np.random.default_rng(0)
    types = np.concatenate([of_length(length, 30) for length in range(2, 10)])
    ids = types[rng.geometric(0.02, 1000).clip(max=len(types)) - 1]
    ids[100::200] = 0
    return ids


def assert_sound(report, drawn=True):
    """Whatever the input was: defined, finite in its headlines, in words without `nan`, and drawn without a warning."""
    report.check()
    for name in ("p_length", "q_length", "q_length_all"):
        assert ((report.neurons[name] >= 0) & (report.neurons[name] <= 1)).all(), name
    for name in R_COLUMNS:
        values = report.neurons[name]
        assert (np.isnan(values) | (np.abs(values) <= 1)).all(), name
    said = " ".join(report.findings).lower()
    for word in ("nan", "inf ", "none"):
        assert word not in said, said
    if drawn:
        for draw in report.figures.values():
            draw()


def assert_nothing_is_found(report):
    assert (report.neurons["p_length"] == 1).all()
    assert (report.neurons["q_length"] == 1).all()
    assert np.isnan(report.neurons["r_length"]).all()
    assert report.metrics["share_significant_all"] == 0
    assert "r_median_all" not in report.metrics
    assert any("No correlation is defined" in line for line in report.findings)


def test_plain_text_is_sound(model, prose):
    _, report = measure(model, text_of(prose))
    assert_sound(report)
    assert np.isfinite(report.neurons["r_length_low"]).all()


# The median


def test_ties_at_the_median(model, of_length):
    rng = np.random.default_rng(6)
    ids = np.concatenate([rng.choice(of_length(length, 9), count) for length, count in ((2, 30), (3, 80), (7, 40))])
    _, report = measure(model, text_of(rng.permutation(ids)))
    assert_sound(report, drawn=False)
    assert report.metrics["length_median"] == 3
    shares = [report.metrics[f"share_{name}"] for name in ("shorter", "equal", "longer")]
    assert shares == pytest.approx([30 / 150, 80 / 150, 40 / 150])
    counts = report.tensors["histograms"]
    total = counts["counts"].sum(-1) + counts["underflow"] + counts["overflow"]
    assert (total[:, :3] == np.array([30, 80, 40]) * 48).all()


def test_an_even_number_of_tokens_with_a_gap_in_the_middle_has_no_equal_group(model, of_length):
    rng = np.random.default_rng(1)
    ids = rng.permutation(np.concatenate([rng.choice(of_length(2, 9), 80), rng.choice(of_length(5, 9), 80)]))
    _, report = measure(model, text_of(ids))
    assert_sound(report)
    assert report.metrics["length_median"] == 3.5
    assert report.metrics["share_equal"] == 0
    assert np.isnan(report.neurons["mean_equal"]).all()
    assert np.isnan(report.layers["mean_equal"]).all()
    assert np.isfinite(report.neurons["d_longer_shorter"]).all()
    assert np.isfinite(report.metrics["d_longer_shorter_strongest"])


def test_one_side_of_the_median_may_be_empty(model, of_length):
    rng = np.random.default_rng(2)
    ids = np.concatenate([rng.choice(of_length(2, 20), 150), rng.choice(of_length(6, 20), 60)])
    _, report = measure(model, text_of(rng.permutation(ids)))
    assert_sound(report)
    assert report.metrics["share_shorter"] == 0
    assert np.isnan(report.neurons["d_longer_shorter"]).all()
    assert "d_longer_shorter_strongest" not in report.metrics
    assert np.isfinite(report.metrics["r_median_all"])


# Texts with next to nothing in them


def test_one_single_length(model, of_length):
    rng = np.random.default_rng(3)
    _, report = measure(model, text_of(rng.choice(of_length(4, 40), 300)))
    assert_sound(report)
    assert_nothing_is_found(report)
    assert report.metrics["share_equal"] == 1
    np.testing.assert_allclose(report.neurons["eta2_length"], 0, atol=1e-9)  # one category explains nothing


def test_one_single_type(model, of_length):
    _, report = measure(model, text_of(np.repeat(of_length(4, 1), 300)))
    assert_sound(report)
    assert_nothing_is_found(report)
    assert report.metrics["types"] == 1
    assert report.metrics["types_effective"] == 1


def test_one_single_token(model, of_length):
    _, report = measure(model, text_of(of_length(4, 1)))
    assert_sound(report)
    assert_nothing_is_found(report)


def test_two_tokens(model, of_length):
    _, report = measure(model, text_of([*of_length(2, 1), *of_length(5, 1)]))
    assert_sound(report)
    assert np.isnan(report.neurons["r_length_low"]).all()


def test_two_types_leave_nothing_of_length_once_frequency_is_known(model, of_length):
    rng = np.random.default_rng(4)
    ids = rng.choice([*of_length(2, 1), *of_length(5, 1)], 201)
    _, report = measure(model, text_of(ids))
    assert_sound(report)
    assert np.isfinite(report.neurons["r_length"]).all()
    assert np.isnan(report.neurons["r_length_partial"]).all()
    assert np.isnan(report.neurons["r_length_low"]).all()  # no type can be spared


def test_types_that_no_shuffle_can_move_are_no_evidence(model, of_length):
    """Each type is alone in its octave of the count, so every draw of the null is the text itself."""
    types = np.concatenate([of_length(length, 1) for length in (2, 3, 5, 7)])
    ids = np.random.default_rng(5).permutation(np.repeat(types, [5, 11, 40, 100]))
    _, report = measure(model, text_of(ids))
    assert_sound(report, drawn=False)
    np.testing.assert_allclose(report.neurons["null_mean"], report.neurons["r_length"], atol=1e-6)
    assert (report.neurons["p_length"] > 0.05).all()
    assert report.metrics["share_significant_all"] == 0


def test_special_tokens_alone_are_no_text(model):
    with pytest.raises(UserError, match="no token of this text has a token length"):
        measure(model, text_of([0] * 40))


def test_no_special_tokens_at_all(model, prose):
    _, report = measure(model, text_of(prose[prose > 0]))
    assert_sound(report)
    assert report.metrics["tokens_special"] == 0
    assert np.isnan(report.layers["mean_special"]).all()
    assert np.isnan(report.layers["special_distance"]).all()


# Sequences


def test_one_sequence_has_no_interval_and_says_so(model, prose):
    _, report = measure(model, text_of(prose[:60], sequence_length=64))
    assert_sound(report)
    for name in ("r_length_low", "r_length_high", "r_length_second_half"):
        assert np.isnan(report.neurons[name]).all(), name
    assert any("One sequence only" in line and "no interval" in line for line in report.findings)
    assert "replication_r_overall" not in report.metrics
    assert np.isfinite(report.neurons["r_length"]).all()
    assert (report.neurons["p_length"] < 1).any()


def test_two_sequences_have_a_wide_interval(model, prose):
    _, report = measure(model, text_of(prose[:128], sequence_length=64))
    assert_sound(report, drawn=False)
    width = report.neurons["r_length_high"] - report.neurons["r_length_low"]
    assert np.median(width) > 0.5  # t with one degree of freedom
    assert not any("One sequence only" in line for line in report.findings)


def test_a_last_sequence_of_one_token(model, prose):
    _, padded = measure(model, text_of(prose[:321]))
    assert_sound(padded, drawn=False)
    assert padded.metrics["tokens"] == 321


def test_first_positions_left_out(model, prose):
    tokens = text_of(prose)
    _, report = measure(model, tokens, skip_positions=1)
    assert_sound(report, drawn=False)
    _, everything = measure(model, tokens)
    r, without = everything.neurons["r_length"], everything.neurons["r_length_without_first"]
    np.testing.assert_allclose(report.neurons["r_length"], without, atol=1e-6)
    assert np.abs(r - without).max() > 1e-3
    assert np.isnan(report.layers["first_distance"]).all()
    assert report.metrics["tokens"] == everything.metrics["tokens"]
    assert report.metrics["types"] <= everything.metrics["types"]


def test_all_positions_but_one_left_out(model, prose):
    _, report = measure(model, text_of(prose), skip_positions=31)
    assert_sound(report)


def test_a_text_shorter_than_what_is_left_out(model, prose):
    with pytest.raises(UserError, match="no token of this text has a token length"):
        measure(model, text_of(prose[:3]), skip_positions=5)


# Neurons that never vary


def silenced(tokenizer, neurons, bias):
    """A copy whose `neurons` of layer 0 put out `bias` whatever they see."""
    model = small_model(tokenizer)
    expansion = model.network.transformer.h[0].mlp.c_fc
    expansion.weight[neurons] = 0.0
    expansion.bias[neurons] = bias
    return model


@pytest.mark.parametrize("bias", [0.0, 0.1, -300.0])
def test_a_dead_neuron(tokenizer, model, prose, bias):
    dead = [3, 17]
    tokens = text_of(prose)
    _, report = measure(silenced(tokenizer, dead, bias), tokens)
    assert_sound(report)
    rows = report.neurons
    np.testing.assert_allclose(rows["mean"][dead], bias, rtol=1e-6)
    assert (rows["std"][dead] == 0).all()
    assert report.layers["constant_neurons"].tolist() == [2, 0]
    for name in (*R_COLUMNS, "eta2_length", "r_frequency", "r_length_first_half", "survival", "d_longer_shorter"):
        assert np.isnan(rows[name][dead]).all(), name
    for name in ("p_length", "q_length", "q_length_all"):
        assert (rows[name][dead] == 1).all(), name
    # the others of the layer know nothing of it
    _, untouched = measure(model, tokens)
    others = np.setdiff1d(np.arange(48), dead)
    np.testing.assert_allclose(rows["r_length"][others], untouched.neurons["r_length"][others], atol=1e-6)


def test_a_layer_of_dead_neurons(tokenizer, prose):
    _, report = measure(silenced(tokenizer, slice(None), 0.0), text_of(prose))
    assert_sound(report)
    assert report.layers["constant_neurons"][0] == 48
    assert np.isnan(report.layers["r_median"][0])
    assert np.isfinite(report.layers["r_median"][1])
    assert report.layers["share_significant"][0] == 0


def test_nothing_but_dead_neurons(tokenizer, prose):
    _, report = measure(silenced(tokenizer, slice(None), 0.5), text_of(prose), layer=0)
    assert_sound(report)
    assert_nothing_is_found(report)


# Options


def test_one_layer_has_no_others_to_compare_with(model, prose):
    _, report = measure(model, text_of(prose), layer=1)
    assert_sound(report)
    assert report.layers["layer"].tolist() == [1]
    assert "first_layer_above_others" not in report.metrics
    assert "last_layers_contraction" not in report.metrics


@pytest.mark.parametrize("options", [{"permutations": 8, "blocks": 16}, {"blocks": 64}, {"bins": 8}, {"bins": 4096}])
def test_the_ends_of_the_options(model, prose, options):
    _, report = measure(model, text_of(prose), **options)
    assert_sound(report, drawn=False)
    assert np.isfinite(report.neurons["r_length_low"]).all()


def test_yekutieli_is_stricter_and_named(model, prose):
    tokens = text_of(prose)
    (_, hochberg), (_, yekutieli) = measure(model, tokens), measure(model, tokens, correction="by")
    assert_sound(yekutieli, drawn=False)
    assert np.array_equal(yekutieli.neurons["p_length"], hochberg.neurons["p_length"])
    for name in ("q_length", "q_length_all"):
        strict, plain = yekutieli.neurons[name], hochberg.neurons[name]
        assert (strict >= plain).all()
        assert (strict > plain).any()
    assert any("Benjamini-Yekutieli" in line for line in yekutieli.findings)
    assert any("Benjamini-Hochberg" in line for line in hochberg.findings)


def test_frequencies_say_where_they_come_from(model, prose):
    tokens = text_of(prose)
    _, own = measure(model, tokens)
    counts = np.arange(len(model.tokenizer))[::-1]
    _, reference = measure(replace(model, token_counts=counts), tokens)
    assert any("the counts of this very text" in line for line in own.findings)
    assert any("the tokenizer's training text" in line for line in reference.findings)
    assert np.abs(own.neurons["r_frequency"] - reference.neurons["r_frequency"]).max() > 0.01
    np.testing.assert_allclose(own.neurons["r_length"], reference.neurons["r_length"], atol=1e-9)


def composed(*overrides):
    register_schema()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        return compose("config", ["model=mini", "dataset=pydoc", "tracking=off", "device=cpu", *overrides])


@pytest.mark.parametrize(
    ("option", "would_work"),
    [
        ("permutations=7", "from 8 to 1024"),
        ("permutations=1025", "from 8 to 1024"),
        ("permutations=-1", "from 8 to 1024"),
        ("permutations=many", ""),
        ("permutations=9.5", ""),
        ("blocks=15", "from 16 to 64"),
        ("blocks=65", "from 16 to 64"),
        ("skip_positions=-1", "give a whole number of 0 or more"),
        ("skip_positions=32", "from 0 to 31"),
        ("bins=7", "from 8 to"),
        ("correction=fdr", "bh "),
        ("correction=BH", "bh "),
        ("strip_space=perhaps", ""),
        ("layer=2", "layers 0 to 1"),
    ],
)
def test_a_bad_option_gets_one_clear_line(model, prose, option, would_work):
    name, _, value = option.partition("=")
    with pytest.raises(UserError) as caught:
        options, _ = typed_options(composed(f"experiment.{option}").experiment)
        run_experiment(TokenLength(options), model, text_of(prose))
    message = str(caught.value)
    assert f"experiment.{name}" in message
    assert value in message
    assert would_work in message
    assert "\n" not in message


@pytest.mark.parametrize("value", ["on", "true", "shuffled", "''"])
def test_a_bad_control_is_refused_before_anything_is_loaded(tmp_path, value):
    config = composed(f"experiment.control={value}", f"run.outputs={tmp_path}/outputs")
    with pytest.raises(UserError, match=r"experiment\.control=.*give off, random or shuffled_text") as caught:
        run(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_control_may_be_said_to_be_off():
    options, _ = typed_options(composed("experiment.control=off").experiment)
    assert options.control == "off"
