"""Contexts that the order of the text chose: zeros, constant neurons, short texts. And what is said of it."""

from types import SimpleNamespace

import numpy as np
import pytest
from inprocess import inputs_of, run_experiment, small_model, text_of
from made_tokenizers import sentencepiece_like

from neurexp.experiments.top_contexts import Options, TopContexts
from neurexp.experiments.top_contexts.data import TopContextsData

PIECES = ("▁door", "▁the", "ing", "s", "14", "▁(", "!?", ";")
CONSTANT, ZEROS = 3, 5  # neurons


def telling(values, ids, tokens=100):
    """Of one neuron's end, `[k]`; its other end is not equal to it."""
    values, ids = np.array(values, dtype=np.float32), np.array(ids)
    both = np.stack([values + 100, values])[None, :, None]
    data = SimpleNamespace(
        values=both, ids=np.broadcast_to(ids, both.shape), places=np.broadcast_to(np.arange(len(ids)), both.shape),
        tokens=tokens, options=SimpleNamespace(k=len(ids)), constant=np.zeros((1, 1), dtype=bool),
    )  # fmt: skip
    return TopContextsData.telling.func(data)[0, 1, 0].tolist()


def test_contexts_that_equal_the_last_one_do_not_count_unless_they_are_of_one_type():
    assert telling([-3, -2, -1, 0], [1, 2, 3, 4]) == [True] * 4
    assert telling([-3, -2, 0, 0], [1, 2, 3, 4]) == [True, True, False, False]
    assert telling([-3, -3, -2, 0], [1, 2, 3, 4]) == [True] * 4
    assert telling([0, 0, 0, 0], [1, 2, 3, 4]) == [False] * 4
    assert telling([-3, 0, 0, 0], [1, 2, 2, 2]) == [True] * 4
    assert telling([-3, -2, 0, 0], [1, 2, 2, 2]) == [True, True, False, False]
    assert telling([0, 0, 0, 0], [1, 2, 3, 4], tokens=4) == [True] * 4  # nothing was left out


@pytest.fixture(scope="module")
def tokenizer():
    return sentencepiece_like("always", PIECES)


def run(tokenizer, ids, length=16, **options):
    model = small_model(tokenizer)
    block = model.network.transformer.h[0].mlp.c_fc
    block.weight[CONSTANT], block.bias[CONSTANT] = 0, 0.5
    block.bias[ZEROS] = -1e4  # after the GELU exactly 0
    given = Options("top_contexts", "", site="NEURON", layer=0, direct=0, k=6, pages=False, **options)
    _, _, report = run_experiment(TopContexts(given), model, text_of(ids, length))
    return report


def ordinary(tokenizer, count):
    ids = [one for one in range(len(tokenizer)) if one not in tokenizer.all_special_ids]
    return np.random.default_rng(0).choice(ids, count)


def test_what_is_missing_of_constant_neurons_is_said(tokenizer):
    report = run(tokenizer, ordinary(tokenizer, 400))
    neurons, told = report.neurons, " ".join(report.findings)
    for end in ("top", "bottom"):
        for neuron in (CONSTANT, ZEROS):
            assert neurons[f"{end}_contexts"][neuron] == 0
            assert neurons[f"{end}_token"][neuron] == ""
            for name in (f"{end}_share", f"{end}_entropy", f"{end}_share_null", f"p_{end}_share", f"q_{end}_share"):
                assert np.isnan(neurons[name][neuron]), name
        assert np.isfinite(neurons[f"p_{end}_share"]).sum() == 46
        assert report.metrics[f"{end}_without_contexts"] == 2
    assert "For 2 neurons, the lowest activation is shared by more tokens than are kept" in told
    assert report.metrics["neurons_constant"] == 2
    assert "Among the latter are 2 neurons with one activation at all tokens." in told


def test_without_tokens_in_a_half_nothing_is_explained(tokenizer):
    ids = np.concatenate([ordinary(tokenizer, 200), np.full(184, tokenizer.eos_token_id), ordinary(tokenizer, 16)])
    report = run(tokenizer, ids)
    assert report.findings[0].startswith("The halves of the sample have 200 tokens and 16 tokens that count: too few")
    assert not any("cross-validated between" in line or "shown to explain" in line for line in report.findings)
    assert set(report.neurons["property"]) == {""}
    for name in ("ev_token", "ev_length", "ev_one_token", "ev_property"):
        assert np.isnan(report.neurons[name]).all()
    assert not [name for name in report.metrics if name.startswith(("share_none", "share_explained", "ev_"))]
    assert report.shares == {}
    assert set(report.figures) == {"concentration"}


def test_fewer_tokens_than_contexts_are_said(tokenizer, caplog):
    report = run(tokenizer, ordinary(tokenizer, 5))
    told = " ".join(report.findings)
    assert "Only 5 tokens of the text count, fewer than twice 6" in told
    assert "of a neuron's 5 highest activations" in told
    assert "experiment.k=6: only 5 of the text's tokens count" in caplog.text
    assert "give more of the text, or k=2 or less" in caplog.text


def test_what_the_pass_depends_on_is_in_its_key_and_what_it_does_not_is_not(tokenizer):
    """Otherwise a run would be given the stored pass of another one."""
    model, text = small_model(tokenizer), text_of(ordinary(tokenizer, 200), 16)

    def key(**options):
        given = Options("top_contexts", "", site="NEURON", layer=0, **options)
        return TopContexts(given).prepare(inputs_of(model, text)).passes[0].key

    plain = key()
    for name, value in {
        "k": 5,
        "per_document": 1,
        "before": 1,
        "after": 1,
        "skip_positions": 2,
        "permutations": 9,
        "property_tokens": 2000,
        "histogram": 2,
        "winners": [[0, 1]],
    }.items():
        assert key(**{name: value}) != plain, name
    assert key(direct=3, pages=False) == plain
