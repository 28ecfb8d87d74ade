"""Ablations at their edges: groups of predictions, runs that found neurons, short texts, neurons that are not there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ablations import FEW, ablation, measured, of_neurons, text, tiny
from inprocess import inputs_of, run_experiment, small_model, text_of
from made_runs import GIVEN, made_run, written
from tiny import build
from transformers import AutoTokenizer

from neurexp.errors import UserError
from neurexp.experiments.ablation import Ablation
from neurexp.experiments.base import TokenGroup
from neurexp.experiments.grammar_tuning import GrammarTuning
from neurexp.experiments.grammar_tuning import Options as WordOptions
from neurexp.experiments.intervention import Options
from neurexp.experiments.intervention.base import MOST_BLOCKS
from neurexp.experiments.intervention.trials import different_draws
from neurexp.experiments.token_length import Options as LengthOptions
from neurexp.experiments.token_length import TokenLength
from neurexp.models.locations import MINI
from neurexp.report.finished import FinishedRun
from neurexp.text.tokens import Tokens

QUICK = {"ks": [1], "alone": False}


def of_run(**options) -> Ablation:
    """The experiment with `experiment.run`."""
    return Ablation(Options(name="ablation", plugin="", run="X", **(FEW | QUICK | options)))


def refusal(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def prepared(experiment: Ablation, tokens: Tokens | None = None, source: FinishedRun | None = None, **model):
    return experiment.prepare(inputs_of(tiny(**model), text() if tokens is None else tokens, source=source))


def mask(*rows: str) -> np.ndarray:
    """“.x” → [[False, True]]."""
    return np.array([[letter == "x" for letter in row] for row in rows])


def found(folder, site="MLP", layers=(0, 1, 2), width=40, **columns) -> FinishedRun:
    """A run over all neurons of the tiny models."""
    count = len(layers) * width
    table = {
        "layer": np.repeat(layers, width),
        "neuron": np.tile(range(width), len(layers)),
        "mean": np.zeros(count),
        "std": np.ones(count),
        "r_length": np.linspace(-1, 1, count),
        "q_length_all": np.full(count, 0.01),
    }
    run = made_run(folder, table | columns, "r_length")
    run.options.experiment.site = site
    return run


def test_groups_of_predictions_by_hand():
    ids = np.arange(1, 13, dtype=np.int32).reshape(2, 6)
    tokens = Tokens(ids, mask("xxxxxx", "xxxx.."), documents=1)
    groups = {
        "verbs": TokenGroup(mask("x.xx.x", "...xx."), mask("x.x..x", "...x.."), "listed verbs"),
        "last": TokenGroup(mask(".....x", "...x.."), mask(".....x", "...x.."), "last tokens"),
        "first": TokenGroup(mask("x.....", "x....."), mask("x.....", "x....."), "first tokens"),
        "pads": TokenGroup(mask("......", "....xx"), mask("......", "....xx"), "pads"),
    }
    experiment = ablation({name: [(1, index)] for index, name in enumerate(groups)}, groups)
    plan = prepared(experiment, tokens)
    edited = plan.passes[-1].reducers(1)["effects"]
    found = {group.name: edited._groups[index].numpy() for index, group in enumerate(plan.groups)}
    expected = {
        "all": mask("xxxxx.", "xxx..."),
        "next: verbs": mask(".x..x.", "..x..."),
        "own: verbs": mask("x.xx..", "......"),
        "next: last": mask("....x.", "..x..."),  # but no prediction is made at the last token
        "own: first": mask("x.....", "x....."),  # nothing predicts the first one
    }
    assert list(found) == list(expected)
    for name, members in expected.items():
        assert np.array_equal(found[name], members), name
    assert plan.own_groups == {"verbs": "next: verbs", "last": "next: last"}
    assert plan.category_tokens["verbs"].tolist() == [1, 3, 6, 10]
    sentences = {group.name: group.description for group in plan.groups}
    assert sentences["next: verbs"] == "predictions whose next token begins one of the listed verbs"
    assert sentences["next: last"] == "predictions whose next token is one of the last tokens"


def test_a_group_of_all_predictions_has_nothing_to_be_compared_with():
    every = np.ones((1, 12), dtype=bool)
    experiment = ablation({"every": [(2, 1)]}, {"every": TokenGroup(every, every, "tokens")}, **QUICK)
    _, report = measured(experiment, tiny(), text(sequences=1))
    assert "are all predictions, so there are no others" in report.findings[1]
    assert "specific_p_every" not in report.metrics
    for draw in report.figures.values():
        draw()


def test_the_neurons_of_a_profile(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    model = small_model(tokenizer)
    tokens = text_of(tokenizer("A dog unravelled the complicated rope, and then it went to sleep. " * 8).input_ids)
    length = LengthOptions(name="token_length", plugin="")
    _, _, report = run_experiment(TokenLength(length), model, tokens)
    run = written(tmp_path / "run", report, "experiment=token_length", model_layers=2)
    options = {"significant": False, "count": 3, "ks": [1, 3], "layer": 1}
    data, report = measured(of_run(**options), model, tokens, source=run)
    assert list(data.sets) == ["longer", "shorter"]
    names = [group.name for group in data.groups]
    assert names == ["all", "next: shorter", "own: shorter", "next: longer", "own: longer"]
    assert data.own_groups == {"longer": "next: longer", "shorter": "next: shorter"}
    r = run.neurons["r_length"]
    order = np.argsort(-np.nan_to_num(r), kind="stable")[:3]
    pairs = np.stack([run.neurons["layer"], run.neurons["neuron"]], axis=1)
    assert data.trials.sets["longer"].tolist() == pairs[order].tolist()
    lengths = np.array([len(tokenizer.decode([one])) for one in tokens.input_ids.ravel().tolist()]).reshape(-1, 32)
    median = np.median(lengths[tokens.valid])
    both = tokens.valid[:, :-1] & tokens.valid[:, 1:]
    longer = (lengths[:, 1:] > median) & both
    assert data.counts[names.index("next: longer")].tolist() == longer.sum(1).tolist()
    assert report.findings[0].startswith("longer: 3 neurons that prefer longer tokens most (r_length): layer.neuron ")
    assert report.findings[0].count(", 0.") + report.findings[0].count(", 1.") >= 2  # three are named


@pytest.mark.slow
def test_the_neurons_of_a_contrast(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    model = small_model(tokenizer)
    tokens = text_of(tokenizer("The dogs eat. A house can sleep, go, or eat trees. " * 8).input_ids)
    words = tmp_path / "words"
    words.mkdir()
    (words / "nouns.txt").write_text("dogs\nhouse\ntrees\nrope")
    (words / "verbs.txt").write_text("eat\nsleep\ngo\nrun")
    options = {"words": str(words), "text": False, "permutations": 100, "splits": 4, "shuffles": 2}
    _, _, report = run_experiment(GrammarTuning(WordOptions("grammar_tuning", "", **options)), model)
    run = written(tmp_path / "run", report, f"experiment=grammar_tuning experiment.words={words}", model_layers=2)
    data, report = measured(of_run(significant=False, count=2), model, tokens, source=run)
    assert set(data.own_groups.values()) == {"next: nouns", "next: verbs"}
    counts = dict(zip([group.name for group in data.groups], data.counts.sum(1).tolist(), strict=True))
    text_ = tokenizer.decode(tokens.input_ids[tokens.valid].tolist())
    assert counts["next: nouns"] <= text_.count("dogs") + text_.count("house") + text_.count("trees")
    assert counts["next: nouns"] > 10
    assert any("begins one of the occurrences of the listed nouns" in line for line in report.findings)


def test_a_text_of_one_sequence_has_no_intervals_and_says_so():
    _, report = measured(of_neurons((1, 3), (2, 4), kind="zero"), tiny(), text(sequences=1))
    assert np.isnan(report.tables["effects"]["delta_loss_low"]).all()
    assert np.isfinite(report.tables["effects"]["p"]).all()
    assert "There are no intervals: the text has one sequence" in report.findings[-1]


def test_a_text_without_a_prediction_is_refused():
    for tokens in (text(1, 1, 0), text(4, 1, 0), text(1, 4, 3)):
        line = refusal(lambda tokens=tokens: prepared(of_neurons((1, 3)), tokens))
        assert line.startswith(f"dataset.tokens: the text has {tokens.count} token")
        assert line.endswith("and none is followed by another; give more text")


def test_intervals_of_a_long_text_are_over_blocks():
    data, report = measured(of_neurons((2, 4), **QUICK), tiny(), text(MOST_BLOCKS + 3, 3, 1), batch_size=64)
    assert data.counts.shape == (1, MOST_BLOCKS)
    assert data.counts.sum() == (MOST_BLOCKS + 3) * 2 - 1
    assert f"intervals over {MOST_BLOCKS} blocks of consecutive sequences" in report.findings[-1]


def test_a_site_without_output_weights_is_matched_in_activation_alone():
    _, report = measured(of_neurons((1, 3), (2, 5), site="RESID_POST"), tiny(), text())
    assert "output_norm" not in report.neurons
    assert "direct" not in report.tables
    assert "match_weights_ratio_chosen" not in report.metrics
    assert any(line.endswith("(the site RESID_POST has no output weights to match).") for line in report.findings)
    assert "The direct path to the logits was not read: RESID_POST has no output weights." in report.findings


def test_draws_of_the_same_neurons_count_once():
    a, b, c = (0, 1), (0, 2), (1, 2)
    assert different_draws(np.array([[a, b], [b, a], [a, c], [a, b], [c, b]])).tolist() == [0, 2, 4]
    # 200 draws from 32 neurons: the p of one neuron is that of 32
    data, report = measured(of_neurons((1, 3), draws=200, kind="zero"), tiny(), text())
    assert data.drawn.pools["chosen"].tolist() == [32]
    p = report.tables["effects"]["p"] * 33
    np.testing.assert_allclose(p, np.round(p), atol=1e-9)
    assert set(np.round(p)) <= set(range(1, 34))


def test_the_batches_do_not_matter():
    reports = [
        measured(of_neurons((0, 3), (2, 5), kind=["mean", "resample"], ks=[2]), tiny(), text(), batch_size=size)[1]
        for size in (1, 5)
    ]
    for name, values in reports[0].tables["effects"].items():
        other = reports[1].tables["effects"][name]
        if values.dtype.kind == "f" and not name.endswith(("null_z", "p")):
            np.testing.assert_allclose(values, other, atol=2e-6, err_msg=name)
        elif values.dtype.kind != "f":
            assert np.array_equal(values, other)


@pytest.mark.parametrize(
    ("neurons", "options", "answer"),
    [
        ([(7, 1)], {}, "experiment.neurons=[[7,1]]: there is no layer 7; the model has layers 0 to 2"),
        (
            [(1, 3), (1, 40)],
            {},
            "experiment.neurons=[[1,3],[1,40]]: there is no neuron 40 in layer 1; NEURON has neurons 0 to 39 there",
        ),
        ([(1, 3)], {"ks": [1, 2]}, "experiment.ks=[1,2]: the set chosen has 1 neuron; give numbers from 1 to 1"),
        ([(1, 3)], {"layer": 5}, "experiment.layer=5: this model has layers 0 to 2; give all, one of them, or a list"),
        ([(1, 3)], {"site": "MPL"}, "did you mean MLP?"),
    ],
)
def test_neurons_that_are_not_there(neurons, options, answer):
    assert answer in refusal(lambda: prepared(of_neurons(*neurons, **options)))


def test_a_dead_neuron_is_named():
    model = tiny()
    with torch.no_grad():
        model.network.transformer.h[1].mlp.c_fc.weight[3] = 0
        model.network.transformer.h[1].mlp.c_fc.bias[3] = 0
    line = refusal(lambda: measured(of_neurons((1, 2), (1, 3)), model, text()))
    assert line == (
        "neuron 3 of layer 1, of the set chosen, is dead: NEURON is 0 there on every token of this text, or writes "
        "nothing; leave it out (experiment.neurons names those that are edited)"
    )


def test_a_model_with_too_few_other_neurons():
    many = [(2, index) for index in range(25)]
    line = refusal(lambda: measured(of_neurons((0, 1), *many, layer=2), tiny(), text()))
    assert line.startswith("the set chosen: layer 2 has 25 targets, but only 15 other neurons to draw from; edit fewer")
    line = refusal(lambda: measured(of_neurons((0, 1), sample=500), tiny(), text()))
    assert line == "experiment.sample=500: there are 119 other neurons; give fewer"


def test_the_run_found_no_neuron(tmp_path):
    run = found(tmp_path / "run", q_length_all=np.full(120, 0.5))
    line = refusal(lambda: prepared(of_run(), source=run))
    assert line.startswith(
        f"{GIVEN}: no neuron with a r_length passes q_length_all < 0.05; give experiment.significant"
    )


def test_which_site_of_the_run(tmp_path):
    run = found(tmp_path / "mlp")
    sets = Ablation.sets
    assert len(sets(of_run(), inputs_of(tiny(), text(), source=run))["positive"].layers) == 16  # MLP and NEURON agree
    assert refusal(lambda: sets(of_run(site="Q"), inputs_of(tiny(), text(), source=run))) == (
        f"experiment.site=Q: {GIVEN} found units of MLP; give experiment.site=MLP"
    )
    assert refusal(lambda: sets(of_run(run_site="ACT"), inputs_of(tiny(), text(), source=run))) == (
        f"experiment.run_site=ACT: {GIVEN} has no such site; give one of MLP"
    )
    both = found(tmp_path / "both", site=["Q", "MLP"])
    q = np.linspace(1, -1, 120)
    table = {name: np.concatenate([values, values]) for name, values in both.neurons.items()}
    table |= {"site": np.repeat(["Q", "MLP"], 120), "r_length": np.concatenate([q, -q])}
    layers = {"site": np.repeat(["Q", "MLP"], 3), "layer": np.tile(range(3), 2)}
    both = replace(both, neurons=table, layers=layers)
    for options, first in (({}, (2, 39)), ({"run_site": "MLP"}, (2, 39)), ({"site": "Q"}, (0, 0))):
        pairs = sets(of_run(**options), inputs_of(tiny(), text(), source=both))["positive"].pairs
        assert tuple(pairs[0]) == first
    assert refusal(lambda: sets(of_run(run_site="Q"), inputs_of(tiny(), text(), source=both))) == (
        "experiment.run_site=Q: its units are not those of experiment.site=NEURON; give experiment.site=Q"
    )


def test_neurons_that_were_dead_in_the_run(tmp_path):
    std = np.ones(120)
    std[43] = 0
    inputs = inputs_of(tiny(), text(), source=found(tmp_path / "run", std=std))
    experiment = of_neurons((1, 3))
    assert "neuron 3 of layer 1 is dead, it never varies in" in refusal(lambda: experiment.sets(inputs))
    assert len(of_neurons((1, 3), site="Q").sets(inputs)["chosen"].layers) == 1  # other units


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma2", "qwen3", "phi", "bloom"])
def test_families(family):
    model = tiny(family)
    experiment = of_neurons((0, 3), (2, 5), kind=["mean", "peak", "resample"])
    _, report = measured(experiment, model, text())
    width = len(report.neurons["neuron"]) // 3
    assert width in (40, 64)
    assert np.isfinite(report.neurons["delta_loss_estimate"]).all()
    assert (build(family).config.model_type == model.network.config.model_type) and report.metrics["kl_chosen"] > 0
