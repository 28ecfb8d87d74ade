"""A planted neuron that raises one token is found, with the size of its effect; random neurons are calibrated."""

import copy

import numpy as np
import pytest
import torch
from ablations import ablation, language_model, measured
from scipy import stats
from tiny import EXPANSION, VOCABULARY, WIDTH, build

from neurexp.experiments.base import TokenGroup
from neurexp.text.tokens import Tokens

CLASS = np.arange(VOCABULARY) < 15  # the tokens after which the planted neuron fires
RAISED, PLANTED = 40, 11  # the token that it raises, and its index
SIZE, GAIN = 100.0, 800.0  # of the stream, and of the unembedding where the neuron writes
ONE, OTHER = 1, 2  # the dimensions of the stream that it writes into: + and −, so that the final norm's mean stays
IDLE = (3, 4)  # those that all other neurons write into; the unembedding does not read them


def planted() -> torch.nn.Module:
    """One block without attention: the stream is the token's embedding, and what the neurons add."""
    network = build("gpt_neo", num_layers=1, attention_types=[[["global"], 1]], tie_word_embeddings=False)
    random = np.random.default_rng(0)
    embedding = np.zeros((VOCABULARY, WIDTH))
    embedding[:, 0] = np.where(CLASS, SIZE, -SIZE)
    embedding[:, 5:] = random.normal(0, SIZE, (VOCABULARY, WIDTH - 5))
    embedding[:, 5:] -= embedding.sum(1, keepdims=True) / (WIDTH - 5)
    into, out = random.normal(0, 10, (EXPANSION, WIDTH)), np.zeros((WIDTH, EXPANSION))
    into[PLANTED], out[IDLE, :] = 0, 0.1 / 20
    into[PLANTED, 0], out[:, PLANTED] = 40, 0
    out[IDLE[1]] *= -1
    out[ONE, PLANTED], out[OTHER, PLANTED] = 0.1 / 20, -0.1 / 20
    bias = random.normal(0, 5, EXPANSION)
    bias[PLANTED] = -20
    unembedding = np.zeros((VOCABULARY, WIDTH))
    unembedding[:, 5:] = random.normal(0, 0.5, (VOCABULARY, WIDTH - 5))
    unembedding[RAISED, [ONE, OTHER]] = GAIN, -GAIN
    block = network.transformer.h[0]
    values = {
        network.transformer.wte.weight: embedding,
        network.lm_head.weight: unembedding,
        block.mlp.c_fc.weight: into,
        block.mlp.c_fc.bias: bias,
        block.mlp.c_proj.weight: out,
    }
    zeros = (network.transformer.wpe.weight, block.attn.attention.out_proj.weight, block.attn.attention.out_proj.bias)
    with torch.no_grad():
        for norm in (block.ln_1, block.ln_2, network.transformer.ln_f):
            norm.weight.fill_(1)
            norm.bias.zero_()
        for parameter in (*zeros, block.mlp.c_proj.bias):
            parameter.zero_()
        for parameter, value in values.items():
            parameter.copy_(torch.from_numpy(value))
    return network


def text_after_the_class() -> Tokens:
    """After a token of the class the raised one follows three times out of four."""
    random = np.random.default_rng(5)
    ids = random.integers(0, VOCABULARY, (8, 32)).astype(np.int32)
    for column in range(1, 32):
        raised = CLASS[ids[:, column - 1]] & (random.random(8) < 0.75)
        ids[raised, column] = RAISED
    return Tokens(ids, np.ones_like(ids, dtype=bool), documents=1)


def closed_form(network: torch.nn.Module, tokens: Tokens) -> np.ndarray:
    """What each prediction loses without the neuron: log p with it − log p without, float64 `[sequences, length − 1]`.

    The neuron adds δ to one logit z, where δ is its output through the final norm. So log p of that token changes by
    δ − log(1 + p · (exp(δ) − 1)), and that of every other token by the second term alone (p without the neuron).
    """
    embedding, unembedding = (
        one.weight.detach().double().numpy() for one in (network.transformer.wte, network.lm_head)
    )
    spread = embedding.std(1)  # the embeddings have mean 0
    activation = np.where(CLASS, 40 * embedding[:, 0] / spread - 20, 0)
    delta = 2 * GAIN * activation * 0.1 / 20 / spread
    logits = embedding / spread[:, None] @ unembedding.T
    p = np.exp(logits)[:, RAISED] / np.exp(logits).sum(1)
    everywhere = -np.log1p(p * np.expm1(delta))
    before, following = tokens.input_ids[:, :-1], tokens.input_ids[:, 1:]
    return everywhere[before] + np.where(following == RAISED, delta[before], 0)


def test_a_planted_neuron_is_found_with_its_size_on_its_class_only():
    network, tokens = planted(), text_after_the_class()
    lost = closed_form(network, tokens)
    own = CLASS[tokens.input_ids]
    follows = np.zeros_like(own)
    follows[:, 1:] = own[:, :-1]
    groups = {"raised": TokenGroup(follows, follows, "tokens after one of the class")}
    experiment = ablation({"raised": [(0, PLANTED)]}, groups, kind="zero", sample=20)
    _, report = measured(experiment, language_model(copy.deepcopy(network)), tokens)
    metrics, after = report.metrics, own[:, :-1]
    assert lost[after].mean() > 0.5  # a large effect, or nothing was planted
    assert not lost[~after].any()
    assert metrics["delta_loss_raised_next"] == pytest.approx(lost[after].mean(), rel=2e-3)
    assert metrics["delta_loss_raised"] == pytest.approx(lost.mean(), rel=2e-3)
    assert metrics["specific_delta_loss_raised_next"] == pytest.approx(lost[after].mean(), rel=2e-3)
    assert metrics["p_raised"] == metrics["specific_p_raised_next"] == 1 / 21
    assert metrics["specific_null_z_raised_next"] > 20

    effects = report.tables["effects"]
    everywhere = effects["tokens"] == "all"
    # Without it nothing changes elsewhere: all of the change is that of the class
    share = after.mean()
    assert effects["delta_loss"][everywhere] == pytest.approx(share * metrics["delta_loss_raised_next"], abs=1e-6)
    assert np.abs(effects["null_mean"]).max() < 1e-3
    assert np.nanmax(np.abs(effects["null_high"])) < 2e-3
    assert effects["delta_loss_low"][everywhere].min() > 0

    table = report.neurons
    others = np.isfinite(table["delta_loss"]) & ~table["found"]
    assert others.sum() >= 20
    assert np.abs(table["delta_loss"][others]).max() < 2e-3
    assert table["delta_loss_estimate"].argmax() == PLANTED
    direct = report.tables["direct"]
    assert direct["token"][0].strip() == f"w{RAISED}"
    assert "more than random neurons do" in report.findings[0]
    assert "the effect is specific to them" in report.findings[1]


@pytest.mark.slow
def test_p_is_uniform_where_random_neurons_stand_for_found_ones():
    draws, sets, found = 20, 60, {"p": [], "specific_p": []}
    for seed in range(4):
        network = build("gpt_neo", seed=seed, intermediate_size=192)
        random = np.random.default_rng(seed)
        ids = random.integers(0, VOCABULARY, (8, 16)).astype(np.int32)
        tokens = Tokens(ids, np.ones_like(ids, dtype=bool), documents=1)
        chosen = random.permutation(3 * 192)[: 2 * sets].reshape(sets, 2)
        given = {
            f"set {index}": [(one // 192, one % 192) for one in pair] for index, pair in enumerate(chosen.tolist())
        }
        some = random.random(ids.shape) < 0.3
        group = TokenGroup(some, some, "random tokens")
        experiment = ablation(given, {"random": group}, ks=[2], alone=False, draws=draws, kind="mean")
        _, report = measured(experiment, language_model(network), tokens, batch_size=8)
        effects = report.tables["effects"]
        for column, tokens_of in (("p", "all"), ("specific_p", "next: random")):
            found[column] += effects[column][effects["tokens"] == tokens_of].tolist()
    spread = np.random.default_rng(0).random(4 * sets) / (draws + 1)  # p has draws + 1 values
    for column, values in found.items():
        values = np.array(values)
        assert len(values) == 4 * sets
        assert stats.kstest(values - spread, "uniform").pvalue > 0.01, column
        least = (values < 0.05).sum()  # the smallest value alone
        assert stats.binomtest(int(least), len(values), 1 / (draws + 1)).pvalue > 0.01, column
