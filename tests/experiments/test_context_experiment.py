"""`context`: every column by a plain forward in float64, planted neurons, text of the model's own, the command."""

import copy
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from ablations import language_model
from inprocess import inputs_of, run_experiment, run_passes, small_model, text_of
from pyarrow.parquet import read_table
from tiny import build
from transformers import PreTrainedModel

from neurexp.errors import UserError
from neurexp.experiments.context import Context, Options
from neurexp.models.load import load_model
from neurexp.stats.pairs import paired
from neurexp.text.tokenizer import encode

FEW = {"tokens": 30, "types": 40, "occurrences": 3, "permutations": 99, "generated": 100}


@pytest.fixture(scope="module")
def mini():
    return load_model("mini", device="cpu")


def experiment(**options):
    return Context(Options(name="context", plugin="", **(FEW | options)))


def running_text(seed=0, tokens=400, types=55):
    """Random ids of few types, with an end of text now and then."""
    ids = np.random.default_rng(seed).integers(200, 200 + types, tokens)
    ids[::37] = 0
    return text_of(ids, 32)


class Plain:
    """The MLP's expansion of a GPT-Neo in float64, by transformers alone: layer → `[length, neurons]`."""

    def __init__(self, network: PreTrainedModel):
        self._network, self._seen = copy.deepcopy(network).double(), {}
        for layer, block in enumerate(self._network.transformer.h):
            block.mlp.c_fc.register_forward_hook(lambda _, given, out, layer=layer: self._seen.update({layer: out}))

    def __call__(self, ids):
        with torch.no_grad():
            self._network(torch.tensor([list(map(int, ids))]), use_cache=False)
        return np.stack([self._seen[layer][0].numpy() for layer in sorted(self._seen)])


@pytest.fixture(scope="module")
def whole(mini):
    """The experiment on a small random model that speaks mini's tokens, and the same by hand."""
    model, text = small_model(mini.tokenizer), running_text()
    plan, _, report = run_experiment(experiment(), model, text)
    return model, text, plan, report, Plain(model.network)


def by_hand(whole, name):
    """x and y `[layers, items, neurons]` of a comparison, each from a forward of its own."""
    model, text, plan, report, plain = whole
    newline = encode(model.tokenizer, "\n")["input_ids"]
    before = {"space": [], "space_neutral": newline, "alone_first": [], "alone_bos": [0], "alone_neutral": newline}[
        name
    ]
    if name.startswith("space"):
        words = [word for word, why in plan.words.items() if not why]
        forms = [[encode(model.tokenizer, space + word)["input_ids"] for word in words] for space in (" ", "")]
        assert {len(ids) for form in forms for ids in form} == {1}
        return [np.stack([plain([*before, *ids])[:, -1] for ids in form], axis=1) for form in forms]
    sample = report.tables["sample"]
    x = [plain([*before, one])[:, -1] for one in sample["id"]]
    rows = {row: plain(text.input_ids[row][text.valid[row]]) for row in set(sample["sequence"].tolist())}
    y = [rows[row][:, column] for row, column in zip(sample["sequence"], sample["position"], strict=True)]
    return [np.stack(values, axis=1) for values in (x, y)]


@pytest.mark.parametrize("name", ["space", "space_neutral", "alone_first", "alone_bos", "alone_neutral"])
def test_every_column_of_a_comparison_is_that_of_a_plain_forward(whole, name):
    report = whole[3]
    x, y = by_hand(whole, name)
    for layer in range(2):
        mine = report.neurons["layer"] == layer
        columns = {key: report.neurons[f"{key}_{name}"][mine] for key in ("r", "slope", "p")}
        a, b = x[layer] - x[layer].mean(0), y[layer] - y[layer].mean(0)
        r = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
        np.testing.assert_allclose(columns["r"], r, atol=2e-5)
        np.testing.assert_allclose(columns["slope"], (a * b).sum(0) / (a**2).sum(0), rtol=1e-3, atol=1e-5)
        ends = paired(x[layer], y[layer], 99, 0)  # itself tested against numpy
        for end in ("low", "high"):
            np.testing.assert_allclose(report.neurons[f"r_{name}_{end}"][mine], getattr(ends, end), atol=1e-4)
        assert (np.abs(columns["p"] - ends.p) <= 0.0101).all()
        line = {key: values[layer] for key, values in report.layers.items()}
        pooled = np.corrcoef(x[layer].ravel(), y[layer].ravel())[0, 1]
        assert line[f"pooled_r_{name}"] == pytest.approx(pooled, abs=1e-5)
        assert line[f"pooled_r_{name}_centred"] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-5)
        random = np.random.default_rng(1)
        drawn = [np.corrcoef(x[layer].ravel(), random.permutation(y[layer]).ravel())[0, 1] for _ in range(200)]
        error = max(np.std(drawn) / np.sqrt(200), 1e-6)
        assert abs(line[f"pooled_r_{name}_shuffled"] - np.mean(drawn)) < 5 * error
        assert line[f"r_{name}_median"] == pytest.approx(np.median(r), abs=2e-5)
        distance = np.sqrt(np.mean(((y[layer].mean(0) - x[layer].mean(0)) / y[layer].std(0)) ** 2))
        assert line[f"distance_{name}"] == pytest.approx(distance, rel=1e-4)
        assert line[f"share_significant_{name}"] == (report.neurons[f"q_{name}"][mine] < 0.05).mean()


def test_the_tokens_are_one_of_each_type_and_none_is_first_or_special(whole):
    _, text, plan, report, _ = whole
    sample = report.tables["sample"]
    ids = text.input_ids[sample["sequence"], sample["position"]]
    assert (ids == sample["id"]).all()
    assert len(set(ids.tolist())) == len(ids) == 30
    assert (sample["position"] > 0).all()
    repeated = plan.place[0][plan.chosen["repeated"]], plan.place[1][plan.chosen["repeated"]]
    found, counts = np.unique(text.input_ids[repeated], return_counts=True)
    assert len(found) == 40
    assert counts.min() >= 2
    assert counts.max() == 3
    assert 0 not in {*ids.tolist(), *found.tolist()}
    assert (repeated[1] > 0).all()


def test_shares_are_those_of_dense_projections_on_a_plain_forward(whole):
    _, text, plan, report, plain = whole
    sequence, column = (one[plan.chosen["repeated"]] for one in plan.place)
    rows = {row: plain(text.input_ids[row][text.valid[row]]) for row in set(sequence.tolist())}
    x = np.stack([rows[row][:, place] for row, place in zip(sequence, column, strict=True)], axis=1)
    places = np.nonzero(text.valid & (text.input_ids != 0))[1]
    edges = np.quantile(places[places > 0], np.arange(1, 8) / 8)
    bins = (column[:, None] >= edges).sum(1)
    assert len(set(bins.tolist())) == 8

    def dummies(groups):
        return (groups[:, None] == np.unique(groups)).astype(float)

    def onto(matrix):
        return matrix @ np.linalg.pinv(matrix)

    def shares(chosen):
        t, p = dummies(text.input_ids[sequence, column][chosen]), dummies(bins[chosen])
        own_t, own_p, both = onto(t), onto(p), onto(np.hstack([t, p]))
        left, found = np.eye(len(both)) - both, []
        for layer in x[:, chosen]:
            rest = ((left @ layer) * layer).sum(0) / np.trace(left)
            parts = [
                (((extra @ layer) * layer).sum(0) - np.trace(extra) * rest) / np.trace(own.T @ extra @ own)
                for extra, own in ((both - own_p, t), (both - own_t, p))
            ]
            found.append(np.array([*parts, rest]) / np.sum([*parts, rest], axis=0))
        return np.concatenate(found, axis=1)

    every = shares(np.full(len(sequence), True))
    for part, expected in zip(("type", "position", "context"), every, strict=True):
        np.testing.assert_allclose(report.neurons[f"share_{part}"], expected, atol=1e-4)
    number = np.unique(text.input_ids[sequence, column], return_inverse=True)[1]
    for half, name in enumerate(("first", "second")):
        np.testing.assert_allclose(
            report.neurons[f"share_context_{name}_half"], shares(number % 2 == half)[2], atol=1e-4
        )
    medians = np.median(every.reshape(3, 2, -1), axis=2)
    for part, expected in zip(("type", "position", "context"), medians, strict=True):
        np.testing.assert_allclose(report.layers[f"share_{part}_median"], expected, atol=1e-4)
    np.testing.assert_allclose(report.neurons["std"], x.std(1).ravel(), rtol=1e-4)
    first = np.stack([plain(ids[valid])[:, 0] for ids, valid in zip(text.input_ids, text.valid, strict=True)], axis=1)
    z = (first.mean(1) - x.mean(1)) / x.std(1)
    np.testing.assert_allclose(report.layers["first_distance"], np.sqrt((z**2).mean(1)), rtol=1e-4)


def plant(network, own=range(8), previous=range(8, 40), seed=0):
    """In the first layer, neurons that depend on their own token only, and ones that depend on the previous only."""
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(network.config.vocab_size, 48))).float()
    here = threading.local()

    def note(module, given):
        here.ids = given[0]

    def planted(module, given, output):
        output = output.clone()
        before = torch.roll(here.ids, 1, 1)
        before[:, 0] = 0
        output[..., list(own)] = values[here.ids][..., list(own)]
        output[..., list(previous)] = values[before][..., list(previous)]
        return output

    network.transformer.wte.register_forward_pre_hook(note)
    network.transformer.h[0].mlp.c_fc.register_forward_hook(planted)


def test_planted_neurons_are_told_apart(mini):
    model = small_model(mini.tokenizer, layers=1)
    plant(model.network)
    _, _, report = run_experiment(experiment(tokens=50, types=50, occurrences=8), model, running_text(tokens=900))
    neurons = report.neurons
    for name in ("alone_first", "alone_bos", "alone_neutral"):
        np.testing.assert_allclose(neurons[f"r_{name}"][:8], 1, atol=1e-6)
        np.testing.assert_allclose(neurons[f"slope_{name}"][:8], 1, atol=1e-5)
        assert (neurons[f"q_{name}"][:8] < 0.05).all()
        assert np.isnan(neurons[f"r_{name}"][8:40]).all()  # alone, the previous token is always the same
        assert (neurons[f"p_{name}"][8:40] == 1).all()
    np.testing.assert_allclose(neurons["share_context"][:8], 0, atol=1e-6)
    np.testing.assert_allclose(neurons["share_type"][:8], 1, atol=1e-6)
    assert neurons["share_context"][8:40].mean() == pytest.approx(1, abs=0.03)
    assert np.abs(neurons["share_type"][8:40]).max() < 0.2
    least = [f"0.{index}" for index in range(8)]
    assert any(f"the least: {one} (0%)" in report.findings[-1].replace("-0%", "0%") for one in least)


def test_words_that_are_no_single_tokens_are_named_and_not_compared(whole):
    plan, report = whole[2], whole[3]
    assert report.metrics["words_used"] == 23
    assert plan.words["accident"] == "no single token with or without its space"
    assert "77 are left out: accident, afternoon, army" in report.findings[0]
    model = language_model(build("gpt_neo"))  # its tokens are w0, w1, …
    text = text_of(np.random.default_rng(0).integers(1, 60, 300), 30)
    found = run_experiment(experiment(neutral="w3"), model, text)[2]
    assert "0 of 100 nouns are single tokens" in found.findings[0]
    assert "fewer than 8, so the space is not compared" in found.findings[0]
    assert not any("space" in column for column in found.neurons)
    assert np.isfinite(found.metrics["r_alone_neutral_overall"])


def test_a_model_that_begins_with_bos_has_it_before_every_token_but_one(mini):
    model = replace(small_model(mini.tokenizer), begins_with_bos=True)
    text = running_text()
    text.input_ids[:, 0] = 0
    plan, _, report = run_experiment(experiment(), model, text)
    ids, valid = plan.passes[0].tokens.input_ids, plan.passes[0].tokens.valid
    rows = {name: [ids[row][valid[row]].tolist() for row in one.x] for name, one in plan.comparisons.items()}
    assert {len(row) for row in rows["alone_first"]} == {1}
    for name, length in (("space", 2), ("space_neutral", 3), ("alone_bos", 2), ("alone_neutral", 3)):
        assert {len(row) for row in rows[name]} == {length}
        assert {row[0] for row in rows[name]} == {0}
    assert "A sequence of this model begins with <|endoftext|>" in report.findings[0]


def test_the_models_own_text_is_fixed_by_the_seed_and_the_prompt_is_not_counted():
    model = language_model(build("gpt_neo"))
    written = experiment(prompt="w5 w9 w9", generated=150, neutral="w3")
    assert not written.reads_text
    plan = written.prepare(inputs_of(model, seed=4))
    assert (plan.tokens.input_ids[:, :3] == [5, 9, 9]).all()
    assert (plan.place[1][: plan.chosen["repeated"].stop] >= 3).all()
    again = written.prepare(inputs_of(model, seed=4))
    assert again.tokens.hash == plan.tokens.hash
    assert (again.place[1] == plan.place[1]).all()
    assert written.prepare(inputs_of(model, seed=5)).tokens.hash != plan.tokens.hash
    report = written.analyse(plan, run_passes(plan))
    report.check()
    assert "From 150 tokens of text, written by the model after 'w5 w9 w9'" in report.findings[0]
    other = language_model(build("gpt_neo", seed=1))  # a control reads what the model wrote
    assert written.prepare(inputs_of(other, seed=4)).tokens.hash != plan.tokens.hash
    assert written.prepare(replace(inputs_of(other, seed=4), writer=model)).tokens.hash == plan.tokens.hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 2}, "experiment.tokens=2: give a whole number from 8"),
        ({"types": 7}, "experiment.types=7: give a whole number from 8"),
        ({"types": 8, "occurrences": 2}, "experiment.types=8: 16 occurrences of 8 types are too few to tell context"),
        ({"occurrences": 1}, "experiment.occurrences=1: give a whole number from 2"),
        ({"permutations": 5}, "experiment.permutations=5: give a whole number from 19"),
        ({"generated": 1}, "experiment.generated=1: give a whole number from 32"),
        (
            {"control": "shuffled_text", "prompt": "A cat"},
            "experiment.control=shuffled_text: it shuffles the dataset's",
        ),
        ({"neutral": ""}, "experiment.neutral='': it has 0 tokens; give a text of 1 to 8"),
        ({"prompt": ""}, "experiment.prompt='': it has no token"),
        ({"prompt": "the " * 100}, "experiment.prompt: it has .* tokens, and small has 64 positions"),
    ],
)
def test_a_bad_option_is_one_line(mini, options, message):
    with pytest.raises(UserError, match=message):
        experiment(**options).prepare(inputs_of(small_model(mini.tokenizer), running_text()))


def test_a_text_without_repeated_types_is_one_line(mini):
    short = text_of(np.arange(200, 232), 32)
    with pytest.raises(UserError, match=r"dataset\.tokens: the text has 0 token types that occur twice"):
        experiment().prepare(inputs_of(small_model(mini.tokenizer), short))


@pytest.mark.slow
def test_p_is_uniform_on_real_activations_under_shuffled_pairs(mini):
    from neurexp.engine.notebook import capture

    random = np.random.default_rng(0)
    ids = random.integers(200, 900, (20, 12))
    rows = capture(mini, torch.from_numpy(ids), "MLP", [2])["MLP_2"].flatten(0, 1).numpy()
    chosen = random.permutation(len(rows))
    x, y = rows[chosen[:100]], rows[chosen[100:200]]
    p = np.concatenate([paired(x, random.permutation(y), 199, seed).p for seed in range(60)])
    for level in (0.05, 0.25, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.03)


def test_the_command_lets_the_model_write_and_compares_with_random_weights(quick_cli, tmp_path):
    """The dataset is one of the Hub, which is not in reach: it is not read."""
    process = quick_cli(
        "experiment=context", "model=mini", "tracking=off", "device=cpu", "experiment.layer=[1,4]", "hydra.run.dir=run",
        "experiment.prompt=The world could be better if", "experiment.generated=200", "experiment.permutations=39",
        "experiment.tokens=30", "experiment.control=random",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "written by the model after 'The world could be better if'" in process.stdout
    assert "of the neurons follow in their place what they are for the same token alone" in process.stdout
    run = tmp_path / "run"
    assert {"neurons.parquet", "layers.parquet", "words.parquet", "sample.parquet", "columns.md"} <= {
        path.name for path in run.iterdir()
    }
    assert len(list((run / "figures").iterdir())) == 4
    assert json.loads((run / "summary.json").read_text("utf-8"))["setting"] == "mini on text that it wrote itself"
    layers = read_table(run / "layers.parquet").to_pandas()
    assert layers["layer"].tolist() == [1, 4]
    assert layers["share_context_median_control"].between(0, 1).all()
