"""Neurons that were written to fire on a token, a place, punctuation or a bigram are found, and labelled rightly."""

import numpy as np
import pytest
from inprocess import run_experiment, text_of
from made_tokenizers import sentencepiece_like
from written_network import Written

from neurexp.experiments.top_contexts import Options, TopContexts
from neurexp.text.vocabulary import token_lengths, token_texts

LENGTH, NEURONS = 32, 40
PIECES = ("▁door", "▁Door", "▁the", "▁House", "▁a", "ing", "s", "▁are", "14", "2", "▁(", "!?", ";", "▁internationally")
PLANTED = {
    "one_token": 0,
    "first": 1,
    "position": 2,
    "punctuation": 3,
    "token": 4,
    "previous_token": 5,
    "none": 6,
    "length": 7,
    "digit": 8,
    "capital": 9,
    "word_beginning": 10,
}


@pytest.fixture(scope="module")
def planted():
    tokenizer = sentencepiece_like("always", PIECES)
    texts, random = token_texts(tokenizer), np.random.default_rng(0)
    written = Written(tokenizer, LENGTH, NEURONS)
    written.weights[:] = 0
    types = len(tokenizer)
    one = np.eye(types)
    door = texts.index(" door")
    written.plant(PLANTED["one_token"], written.token, one[door])
    written.plant(PLANTED["first"], written.position, np.eye(LENGTH)[0])
    written.plant(PLANTED["position"], written.position, np.log2(1 + np.arange(LENGTH)))
    written.plant(PLANTED["punctuation"], written.token, [not any(map(str.isalnum, text)) for text in texts])
    written.plant(PLANTED["token"], written.token, random.normal(size=types))
    written.plant(PLANTED["previous_token"], written.before, one[texts.index(" the")])
    written.plant(PLANTED["none"], written.two_before, random.normal(size=types))
    written.plant(PLANTED["length"], written.token, np.maximum(token_lengths(tokenizer), 0))
    written.plant(PLANTED["digit"], written.token, [any(map(str.isdigit, text)) for text in texts])
    written.plant(PLANTED["capital"], written.token, [text.strip()[:1].isupper() for text in texts])
    written.plant(PLANTED["word_beginning"], written.token, [text[:1] == " " and text[1:2].isalnum() for text in texts])
    for neuron in range(len(PLANTED), NEURONS):  # noise, of what stands two tokens before
        written.plant(neuron, written.two_before, random.normal(size=types))
    chance = random.dirichlet(np.full(types, 3.0))
    ids = random.choice(types, 6000, p=chance)
    ids[::40] = texts.index(" internationally")
    _, _, report = run_experiment(TopContexts(Options("top_contexts", "", k=10, direct=3)), written.model, text_of(ids))
    return report, texts, text_of(ids)


def test_every_planted_neuron_has_its_label(planted):
    report, *_ = planted
    found = dict(enumerate(report.neurons["property"].tolist()))
    assert {label: found[neuron] for label, neuron in PLANTED.items()} == {label: label for label in PLANTED}
    assert {found[neuron] for neuron in range(len(PLANTED), NEURONS)} == {"none"}
    ev = report.neurons["ev_property"]
    for label, neuron in PLANTED.items():
        assert np.isnan(ev[neuron]) if label == "none" else ev[neuron] > 0.6
    assert report.metrics["share_none"] == (NEURONS - len(PLANTED) + 1) / NEURONS
    assert report.metrics["share_position"] == 1 / NEURONS


def test_their_contexts_are_where_they_fire(planted):
    report, texts, text = planted
    contexts = report.tables["contexts"]

    def top(label):
        own = (contexts["neuron"] == PLANTED[label]) & (contexts["end"] == "top")
        return {name: values[own] for name, values in contexts.items()}

    assert set(top("one_token")["token"]) == {" door"}
    assert set(top("first")["position"]) == {0}
    assert set(top("position")["position"]) == {LENGTH - 1}
    assert all(not any(map(str.isalnum, token)) for token in top("punctuation")["token"])
    after = top("previous_token")
    before = np.maximum(after["position"] - 1, 0)  # at position 0 a head can only look at the token itself
    assert {texts[text.input_ids[at]] for at in zip(after["sequence"], before, strict=True)} == {" the"}
    assert set(top("length")["token"]) == {" internationally"}
    neurons = report.neurons
    assert neurons["top_token"][PLANTED["one_token"]] == " door"
    assert neurons["top_share"][PLANTED["one_token"]] == 1
    assert neurons["ev_one_token"][PLANTED["one_token"]] > 0.8
    assert neurons["q_top_share"][PLANTED["one_token"]] < 0.05


def test_the_sentences_name_them(planted):
    report, *_ = planted
    told = " ".join(report.findings)
    assert "0.2 by the position (" in told
    assert "0.1 by being the first of a sequence (" in told
    assert "0.0 by one token alone (" in told
    assert "top token ' door'" in told
    assert (
        f"For {(len(PLANTED) - 1) / NEURONS:.1%} of the 40 neurons, a property of the token is shown to explain" in told
    )
    assert f"5 % of the variance or more (q < 0.05); for {(NEURONS - len(PLANTED) + 1) / NEURONS:.1%} none is." in told
