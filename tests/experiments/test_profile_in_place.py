"""A profile over values of tokens in their places: its numbers by hand, and its null under values that mean nothing."""

from itertools import product

import numpy as np
import pytest
from inprocess import inputs_of, run_experiment, small_model, text_of
from scipy import stats
from transformers import AutoTokenizer

import neurexp
from neurexp import Covariate, Profile, ProfileOptions
from neurexp.experiments.profile.design import _offsets
from neurexp.models.locations import MINI

TOKENS, LENGTH, DRAWS = 900, 32, 16


class InPlace(Profile):
    """A profile of the values that it is given."""

    values: np.ndarray

    def covariate(self, inputs):
        return Covariate(self.values, "place", "place", "steps")


@pytest.fixture(scope="module")
def model():
    return small_model(AutoTokenizer.from_pretrained(MINI))


@pytest.fixture(scope="module")
def text():
    return text_of(np.random.default_rng(0).integers(1, 200, TOKENS), LENGTH)


def profile_of(model, text, values, **options):
    chosen = ProfileOptions("in_place", "", **({"permutations": DRAWS} | options))
    experiment = InPlace(chosen)
    experiment.values = values
    _, _, report = run_experiment(experiment, model, text)
    return report


def walk(shape, seed, most=9):
    """Values that change little from token to token, as positions in a sentence do; some are undefined."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 2, shape[0] * shape[1]).cumsum()
    values = np.abs((steps % (2 * most)) - most).reshape(shape)
    return np.where(rng.random(shape) < 0.05, -1, values)


@pytest.mark.parametrize("skip", [0, 2])
def test_every_number_is_that_of_all_activations_kept(model, text, skip):
    values = walk(text.valid.shape, 1)
    report = profile_of(model, text, values, skip_positions=skip)
    kept = neurexp.capture(model, text.input_ids, valid=text.valid)
    for layer, activations in enumerate(kept.values()):
        counted = text.valid & (values != -1)
        counted[:, :skip] = False
        x, z = activations.double().numpy()[counted], values[counted].astype(np.float64)
        neurons = {name: column.reshape(2, -1)[layer] for name, column in report.neurons.items()}

        def r_with(series, x=x):
            centred, series = x - x.mean(0), series - series.mean()
            return series @ centred / np.sqrt((series**2).sum() * (centred**2).sum(0))

        r = r_with(z)
        np.testing.assert_allclose(neurons["r_place"], r, atol=1e-5)
        null = np.array([r_with(np.roll(z, -offset)) for offset in _offsets(len(z), LENGTH, DRAWS, 0)])
        np.testing.assert_allclose(neurons["null_mean"], null.mean(0), atol=1e-5)
        np.testing.assert_allclose(neurons["null_sd"], null.std(0, ddof=1), atol=1e-5)
        t = (r - null.mean(0)) / (null.std(0, ddof=1) * np.sqrt(1 + 1 / DRAWS))
        np.testing.assert_allclose(neurons["p_place"], 2 * stats.t.sf(np.abs(t), DRAWS - 1), atol=1e-3)
        median = np.median(z)
        for name, members in (("lower", z < median), ("equal", z == median), ("higher", z > median)):
            np.testing.assert_allclose(neurons[f"mean_{name}"], x[members].mean(0), atol=1e-5)
        within = sum((x[z == one].mean(0) - x.mean(0)) ** 2 * (z == one).sum() for one in np.unique(z))
        np.testing.assert_allclose(neurons["eta2_place"], within / ((x - x.mean(0)) ** 2).sum(0), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(model, text, batch_size):
    values = walk(text.valid.shape, 2)
    whole = profile_of(model, text, values)
    experiment = InPlace(ProfileOptions("in_place", "", permutations=DRAWS))
    experiment.values = values
    _, _, report = run_experiment(experiment, model, text, batch_size)
    for name, column in whole.neurons.items():
        np.testing.assert_allclose(report.neurons[name], column, rtol=1e-3, atol=1e-5, err_msg=name)


def test_values_that_a_neuron_follows_are_found(model, text):
    x = neurexp.capture(model, text.input_ids, layers=1)["MLP_1"][:, :, 7].double().numpy()
    values = np.digitize(x, np.quantile(x[text.valid], np.linspace(0, 1, 10)[1:-1]))
    report = profile_of(model, text, np.where(text.valid, values, -1), layer=1)
    assert report.neurons["p_place"][7] < 1e-8
    assert report.neurons["r_place"][7] > 0.9


@pytest.mark.slow
def test_p_is_uniform_under_values_that_mean_nothing(model):
    """The walks are autocorrelated. A seed's neurons depend on each other, so the shares are averaged over seeds."""
    text = text_of(np.random.default_rng(0).integers(1, 200, 2000), LENGTH)
    found = [profile_of(model, text, walk(text.valid.shape, seed), layer=1).neurons for seed in range(100)]
    for name, level in product(("p_place", "p_place_given_context"), (0.05, 0.2, 0.5, 0.8)):
        shares = (np.array([neurons[name] for neurons in found]) < level).mean(1)
        error = shares.std(ddof=1) / np.sqrt(len(shares))
        print(f"share of {name} < {level}: {shares.mean():.3f} ± {error:.3f}")
        assert abs(shares.mean() - level) < 3 * error + 0.005


@pytest.mark.parametrize(
    ("values", "words", "message"),
    [
        (np.arange(100) % 7, {}, "place has 100 values; give one for each of the vocabulary's 8192 tokens"),
        (np.arange(8192) % 7, {"name": "frequency"}, "'frequency' with the groups lower, equal, higher: two columns"),
        (np.arange(8192) % 7, {"groups": ("lower", "equal", "abs")}, "groups lower, equal, abs: two columns"),
        (np.arange(8192) % 7, {"groups": ("negative", "zero", "positive")}, "two columns would have one name"),
        (np.arange(8192) % 7, {"groups": ("one", "equal", "one")}, "two columns would have one name"),
    ],
)
def test_a_covariate_that_does_not_fit_is_refused_before_the_pass(model, text, values, words, message):
    experiment = InPlace(ProfileOptions("in_place", ""))
    experiment.covariate = lambda inputs: Covariate(
        values, **({"name": "place", "noun": "place", "unit": "steps"} | words)
    )
    with pytest.raises(ValueError, match=message):
        experiment.prepare(inputs_of(model, text))


def test_the_values_may_be_of_any_whole_type(model, text):
    values = walk(text.valid.shape, 3).clip(min=0)
    expected = profile_of(model, text, values)
    for given_values in (values.astype(np.uint8), values.astype(np.int8), values.tolist()):
        found = profile_of(model, text, given_values)
        for name, column in expected.neurons.items():
            np.testing.assert_array_equal(found.neurons[name], column, err_msg=name)


def test_files_and_tensors_have_the_plural(model, text):
    experiment = InPlace(ProfileOptions("in_place", "", permutations=DRAWS))
    values = walk(text.valid.shape, 4)
    experiment.covariate = lambda inputs: Covariate(values, "difficulty", "difficulty", "steps", plural="difficulties")
    _, _, report = run_experiment(experiment, model, text)
    assert "token_difficulties" in report.figures
    assert "difficulties" in report.tensors["difficulty_curves"]
