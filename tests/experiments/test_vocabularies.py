"""A result does not depend on how a tokenizer numbers its tokens: ids with gaps give what dense ones give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from inprocess import inputs_of, measure, small_model, text_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoForCausalLM, PreTrainedTokenizerFast

from neurexp.config.schema import DatasetConfig, Source
from neurexp.engine import plan as engine
from neurexp.engine.plan import Pass
from neurexp.errors import UserError
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.models.load import LanguageModel, load_model
from neurexp.text.occurrences import find_occurrences
from neurexp.text.running_text import read_text
from neurexp.text.spans import align, place
from neurexp.text.tokens import pack

PLAIN = [*("ox" * length for length in range(1, 6)), *("cat"[:length] for length in range(1, 4)), "Cat"]
WORDS = ["<e>", "<unk>", *(f"▁{word}" for word in PLAIN)]
STEP, FIRST = 3, 4  # of the ids with gaps


def tokenizer_of(step: int = 1, first: int = 0) -> PreTrainedTokenizerFast:
    vocabulary = {word: first + step * index for index, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<e>", eos_token="<e>", unk_token="<unk>")


@pytest.fixture(scope="module")
def dense() -> LanguageModel:
    return small_model(tokenizer_of())


@pytest.fixture(scope="module")
def sparse(dense) -> LanguageModel:
    """The same model, whose embeddings lie at ids with gaps; those between are NaN, so that none may be looked up."""
    config = dense.network.config.__class__(
        **dense.network.config.to_dict() | {"vocab_size": FIRST + STEP * len(WORDS)}
    )
    network = GPTNeoForCausalLM(config).eval().requires_grad_(False)
    state = {name: tensor for name, tensor in dense.network.state_dict().items() if "wte" not in name}
    state = {name: tensor for name, tensor in state.items() if "lm_head" not in name}
    network.load_state_dict(state, strict=False)
    embeddings = torch.full((config.vocab_size, config.hidden_size), float("nan"))
    embeddings[FIRST + STEP * torch.arange(len(WORDS))] = dense.network.transformer.wte.weight
    embeddings[0] = 1.0  # what pads are replaced with
    network.transformer.wte.weight.copy_(embeddings)
    return replace(dense, network=network, tokenizer=tokenizer_of(STEP, FIRST))


def document() -> str:
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, len(PLAIN) + 1)
    return " ".join(random.choice(PLAIN, size=300, p=shares / shares.sum()))


def test_token_length_is_the_same_for_ids_with_gaps(dense, sparse):
    tables = []
    for model in (dense, sparse):
        tokens = pack([document()], model.tokenizer, 290, 32)
        assert not tokens.valid.all()
        _, report = measure(model, tokens)
        tables.append((report.neurons, report.metrics))
    (one, metrics), (other, of_other) = tables
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("r_length", "p_length", "null_sd", "mean_longer"):
        assert np.array_equal(one[name], other[name], equal_nan=True), name
    assert metrics == pytest.approx(of_other)


def test_words_and_their_occurrences_are_the_same_for_ids_with_gaps(dense, sparse):
    found = []
    for model in (dense, sparse):
        rows = align(model.tokenizer, [place(word, 0, "{word}") for word in ("cat", "oxox", "dog")])
        text = pack([document()], model.tokenizer, 290, 32)
        within = find_occurrences(text, model.tokenizer, [("cat", 0), ("oxox", 1)], 50)
        found.append((rows, within))
    assert found[0][0].words == found[1][0].words == ["cat", "oxox"]
    assert found[0][0].dropped == found[1][0].dropped == 1
    for name in ("sequence", "start", "category"):
        assert np.array_equal(getattr(found[0][1], name), getattr(found[1][1], name))
    assert set(found[0][1].words) == {"cat", "oxox"}


def test_a_pad_whose_id_has_no_embedding_is_never_looked_up(dense):
    ids = np.array([2, 3, 4, 5, 6, 7, 8, 2, 3, 3])
    tokens = text_of(ids, 6)
    _, report = measure(dense, tokens)
    beyond = replace(tokens, input_ids=np.where(tokens.valid, tokens.input_ids, 10_000).astype(np.int32))
    _, same = measure(dense, beyond)
    assert all(np.array_equal(report.neurons[name], same.neurons[name], equal_nan=True) for name in report.neurons)


def test_a_token_that_occurs_without_an_embedding_is_refused_by_its_name(dense):
    tokenizer = tokenizer_of()
    tokenizer.add_tokens(["dog"])
    model = replace(dense, tokenizer=tokenizer)
    planned = Pass("text", pack(["cat dog"], tokenizer, 3, 3), "MLP", (0,), dict)
    with pytest.raises(UserError, match=r"^model\.tokenizer: its token 'dog' \(id 11\).*small.*ids below 11"):
        engine.run(planned, model, 1)


def test_a_text_is_refused_as_soon_as_it_is_packed(dense, tmp_path):
    tokenizer = tokenizer_of()
    tokenizer.add_tokens(["dog"])
    (tmp_path / "text.txt").write_text("cat dog", "utf-8")
    dataset = DatasetConfig(Source.files, tokens=2, sequence_length=2, path=str(tmp_path / "text.txt"))
    cache = tmp_path / "cache"
    assert inputs_of(dense, read_text(dataset, dense.tokenizer, False, cache)).text.count == 2  # "dog" is unknown
    dataset.tokens = dataset.sequence_length = 3
    text = read_text(dataset, tokenizer, False, cache)
    with pytest.raises(UserError, match=r"^model\.tokenizer: its token 'dog'"):
        _ = inputs_of(replace(dense, tokenizer=tokenizer), text).text


@pytest.mark.parametrize("begins", [False, True])
def test_words_stand_after_bos_where_the_models_sequences_begin_with_it(begins):
    model = replace(load_model("mini", device="cpu"), begins_with_bos=begins)
    experiment = GrammarTuning(Options(name="grammar_tuning", plugin=""))
    rows = experiment.select(model)
    assert set(rows.start) == {int(begins)}
    assert ((rows.tokens.input_ids[:, 0] == model.tokenizer.bos_token_id) == begins).all()
