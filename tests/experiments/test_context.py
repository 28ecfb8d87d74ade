"""What r given the context can tell apart: neurons made of the token itself, and of the tokens before it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from inprocess import inputs_of, measure
from tiny import feed

from neurexp.config.schema import DatasetConfig, Source
from neurexp.engine.reducers.gram import Gram
from neurexp.experiments.token_length import Options, TokenLength
from neurexp.models.load import load_model
from neurexp.stats.profile import LayerProfile, ProfileSums, profile_layer
from neurexp.text.running_text import read_text
from neurexp.text.vocabulary import token_lengths

SEQUENCES, LENGTH, NEURONS = 32, 256, 200


@pytest.fixture(scope="module")
def mini():
    return load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def text(mini, tmp_path_factory):
    dataset = DatasetConfig(source=Source.pydoc, tokens=SEQUENCES * LENGTH, sequence_length=LENGTH)
    return read_text(dataset, mini.tokenizer, mini.begins_with_bos, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def profile_of(mini, text):
    """The statistics of made activations `[tokens, neurons]` of the text."""
    design = TokenLength(Options("token_length", "")).prepare(inputs_of(mini, text)).design
    sequence, position = np.nonzero(text.valid)
    cells = design(*(torch.from_numpy(of) for of in (text.input_ids[text.valid].astype(np.int64), position, sequence)))

    def profile(activations: np.ndarray) -> LayerProfile:
        values = torch.from_numpy(activations.astype(np.float32))
        gram = Gram(design.width, 1, design.squared, shift=torch.zeros(1, values.shape[1]))
        feed(gram, values[None], place=np.arange(len(position)), design=cells)
        state = {name: tensor.numpy() for name, tensor in gram.state().items() if name != "magnitudes"}
        layout = {"columns": design.columns, "squared_from": design.squared.start}
        return profile_layer(ProfileSums(**state, **layout, categories=design.categories, centre=design.centre), 0)

    return profile


@pytest.fixture(scope="module")
def length(mini, text):
    """Each token's length about the mean, `[sequences, length]`."""
    lengths = token_lengths(mini.tokenizer)[text.input_ids].astype(float)
    return lengths - lengths.mean()


def before(values, back):
    """The values of the tokens that stand so many places before each one in its sequence."""
    moved = np.zeros_like(values)
    moved[:, back:] = values[:, :-back]
    return moved


def noisy(signal, seed=0):
    noise = np.random.default_rng(seed).normal(size=(signal.size, NEURONS))
    return signal.ravel()[:, None] / signal.std() + 0.5 * noise


def test_neurons_of_the_tokens_own_length_are_found_with_and_without_the_context(profile_of, length):
    found = profile_of(noisy(length))
    assert found.p.max() < 1e-6
    assert found.p_given_context.max() < 1e-6
    assert found.r_given_context.min() > 0.5


@pytest.mark.parametrize("back", [1, 2, 3])
def test_neurons_of_an_earlier_tokens_length_are_found_by_r_and_not_given_the_context(profile_of, length, back):
    found = profile_of(noisy(before(length, back)))
    assert np.median(found.p) < 0.05
    assert np.median(np.abs(found.r)) > 3 * np.median(np.abs(found.r_given_context))
    assert (found.p_given_context < 0.05).mean() < 0.12  # 0.05 is nominal; 0.12 is beyond 4 standard errors


def test_neurons_of_an_average_over_what_came_before_are_found_by_r_and_not_given_the_context(profile_of, length):
    found = profile_of(noisy(sum(before(length, back) for back in range(1, 60))))
    assert np.median(found.p) < 1e-4
    assert (found.p_given_context < 0.05).mean() < 0.12


def test_neurons_of_both_keep_what_is_of_the_token_itself(profile_of, length):
    alone, both = profile_of(noisy(length)), profile_of(noisy(length + before(length, 1)))
    assert both.p_given_context.max() < 1e-6
    # The signal of unit variance is half of each; once the context is known, half of it is left, of noise as large
    ratio = np.median(both.r_given_context) / np.median(alone.r_given_context)
    assert 0.75 < ratio < 0.95


def test_the_batch_size_changes_nothing(mini, text):
    one, other = (measure(mini, text, batch_size, layer=[0, 4])[1].neurons for batch_size in (1, 5))
    for name in ("r_length_given_context", "p_length_given_context", "q_length_given_context_all"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-5, err_msg=name)


def test_a_single_sequence_has_no_other_to_expect_lengths_from(mini, text):
    alone = replace(text, input_ids=text.input_ids[:1], valid=text.valid[:1])
    neurons = measure(mini, alone, layer=2)[1].neurons
    assert np.isfinite(neurons["r_length_given_context"]).all()
