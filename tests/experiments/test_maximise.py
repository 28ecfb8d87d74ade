"""`maximise` on a planted bigram: search and text find it; every number against numpy; mistakes in one line."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from inprocess import inputs_of, run_experiment
from optimised import END, FIRST, PLANTED, SECOND, WORDS, maximise, planted

import neurexp
from neurexp.engine.one_unit import unit_of_embeddings
from neurexp.errors import UserError
from neurexp.experiments.optimisation import Optimisation
from neurexp.models.sites import find_sites
from neurexp.stats.optima import compare_repeats
from neurexp.text.tokens import Tokens


def text(with_bigram: bool = True) -> Tokens:
    """Random words; the bigram occurs once, or not at all. The end of text is a special token."""
    ids = np.random.default_rng(0).integers(1, WORDS + 1, (6, 32)).astype(np.int32)
    for row in ids:
        for column, pair in enumerate(pairwise(row.tolist())):
            if pair == (FIRST, SECOND):
                row[column + 1] = 1
    ids[2, 16] = 0
    if with_bigram:
        ids[3, 10:12] = FIRST, SECOND
    return Tokens(ids, np.ones(ids.shape, dtype=bool), documents=1)


@pytest.fixture(scope="module")
def model():
    return planted()


@pytest.fixture(scope="module")
def run(model):
    experiment = maximise(units=[[0, PLANTED], [0, 5]], length=2, top=WORDS, candidates=100, draws=39)
    return run_experiment(experiment, model, text())


def activations(model, strings):
    """The planted unit and unit 5 after the non-linearity, for each string run alone, `[strings, n]` each."""
    values = neurexp.capture(model, np.asarray(strings), "NEURON", 0)["NEURON_0"]
    return {unit: values[..., unit].double().numpy() for unit in (PLANTED, 5)}


def ids_of(table, rows):
    return [list(map(int, one.split())) for one in table["ids"][rows]]


def test_search_and_text_find_the_planted_bigram_and_it_is_the_best_of_all_strings(run, model):
    _, _, report = run
    pairs = [[one, other] for one in range(1, WORDS + 1) for other in range(1, WORDS + 1)]
    every = activations(model, pairs)[PLANTED].mean(1)
    assert pairs[int(every.argmax())] == [FIRST, SECOND]
    strings = report.tables["strings"]
    for source in ("discrete", "discrete_from_text", "text"):
        rows = (strings["neuron"] == PLANTED) & (strings["source"] == source) & (strings["rank"] == 0)
        assert ids_of(strings, rows) == [[FIRST, SECOND]], source
        assert strings["mean"][rows] == pytest.approx(every.max(), rel=1e-4)
        assert list(strings["text"][rows]) == [f"w{FIRST} w{SECOND}"]
    place = rows & (strings["source"] == "text")
    assert (strings["sequence"][place], strings["column"][place]) == (3, 11)


def test_every_string_is_run_alone_and_ranked(run, model):
    _, _, report = run
    strings = report.tables["strings"]
    for unit in (PLANTED, 5):
        rows = np.flatnonzero(strings["neuron"] == unit)
        expected = activations(model, ids_of(strings, rows))[unit]
        assert np.allclose(strings["mean"][rows], expected.mean(1), atol=1e-5)
        assert np.allclose(strings["peak"][rows], expected.max(1), atol=1e-5)
        for source in ("gradient", "random", "discrete", "text"):
            own = rows[strings["source"][rows] == source]
            assert list(strings["rank"][own]) == list(range(len(own)))
            assert (np.diff(strings["mean"][own]) <= 0).all()
    assert not any(0 in ids for ids in ids_of(strings, slice(None)))  # no end of text


def test_everything_is_run_after_what_begins_a_sequence():
    """Ascent, search and strings stand on one footing: each after the token that begins a sequence, if there is one."""
    model = replace(planted(), begins_with_bos=True)
    model.tokenizer.bos_token = END
    begun = text()
    begun.input_ids[:, 0] = 0
    experiment = maximise(units=[[0, PLANTED], [0, 5]], length=2, top=4, candidates=8, from_text=False)
    _, _, report = run_experiment(experiment, model, begun)
    strings = report.tables["strings"]
    ends, curves = (
        torch.from_numpy(report.tensors[name][of]) for name, of in (("embeddings", "end"), ("curves", "ascent"))
    )
    for index, unit in enumerate((PLANTED, 5)):
        rows = np.flatnonzero(strings["neuron"] == unit)
        alone, after = (
            activations(model, [[*begin, *ids] for ids in ids_of(strings, rows)])[unit] for begin in ([], [0])
        )
        assert np.allclose(strings["mean"][rows], after[:, 1:].mean(1), atol=1e-5)
        assert not np.allclose(strings["mean"][rows], alone.mean(1), atol=1e-3)
        found = [
            strings["mean"][rows][(strings["source"][rows] == "discrete") & (strings["start"][rows] == start)].max()
            for start in (0, 1)
        ]
        assert np.allclose(report.tensors["curves"]["search"][index, :, -1], found, atol=1e-5)
        (site,) = find_sites(model.network, "NEURON", [0])
        with unit_of_embeddings(model.network, site, unit, [0]) as of_embeddings, torch.no_grad():
            assert torch.allclose(curves[index, :, -1], of_embeddings(ends[index]).mean(1), atol=1e-5)


def test_the_numbers_of_a_unit_are_those_of_its_tables(run):
    _, _, report = run
    neurons, strings, optima = report.neurons, report.tables["strings"], report.tables["optima"]
    assert list(neurons["neuron"]) == [PLANTED, 5]
    end, start = (report.tensors["embeddings"][name].astype(np.float64) for name in ("end", "start"))
    for index, unit in enumerate(neurons["neuron"]):
        own = {
            source: strings["mean"][(strings["neuron"] == unit) & (strings["source"] == source)]
            for source in ("gradient", "random", "discrete", "discrete_from_text", "text")
        }
        assert neurons["gradient_mean"][index] == pytest.approx(own["gradient"].mean(), rel=1e-4, abs=1e-6)
        assert neurons["random_mean"][index] == pytest.approx(own["random"].mean(), rel=1e-4, abs=1e-6)
        draws = strings["draw"][(strings["neuron"] == unit) & (strings["source"] == "random")]
        means = np.array([own["random"][draws == draw].mean() for draw in range(39)])
        assert neurons["p_gradient"][index] == pytest.approx((1 + (means >= own["gradient"].mean()).sum()) / 40)
        highest = np.array([own["random"][draws == draw].max() for draw in range(39)])
        p = (1 + (highest >= own["gradient"].max()).sum()) / 40
        assert neurons["p_gradient_best"][index] == pytest.approx(p)
        rise = neurons["embedding_activation"][index] - own["random"].mean()
        kept = (own["gradient"].mean() - own["random"].mean()) / rise if rise > 1e-3 else np.nan
        assert neurons["kept"][index] == pytest.approx(kept, rel=1e-3, nan_ok=True)
        best = {
            "gradient": own["gradient"].max(),
            "discrete": max(own["discrete"].max(), own["discrete_from_text"].max()),
            "data": own["text"].max(),
        }
        highest = [way for way, value in best.items() if value == pytest.approx(max(best.values()), rel=1e-6)]
        assert neurons["best_way"][index] == (highest[0] if len(highest) == 1 else "none")
        tokens = optima["token_id"][optima["neuron"] == unit]
        assert (neurons["distinct"][index], neurons["decoded"][index]) == (len(set(tokens)), 3 * 2)
        assert neurons["cosine_decoded"][index] == pytest.approx(optima["cosine"][optima["neuron"] == unit].mean())
        flat = [one[index].reshape(3, -1) for one in (end, start, end - start)]
        flat = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in flat]
        for name, one in zip(("cosine_optima", "cosine_starts", "cosine_displacements"), flat, strict=True):
            assert neurons[name][index] == pytest.approx((one @ one.T)[np.triu_indices(3, 1)].mean(), abs=1e-6)
    assert np.isfinite(neurons["kept"]).any()
    curves = report.tensors["curves"]["ascent"]
    assert np.allclose(neurons["embedding_activation"], curves[..., -1].mean(1), rtol=1e-5)
    assert report.metrics["share_best_data"] + report.metrics["share_best_discrete"] <= 1
    assert any(f"NEURON 0.{PLANTED}: " in line for line in report.findings)


def test_random_tokens_are_as_frequent_as_the_decoded_ones_and_repeats_are_against_random_directions(run):
    _, results, report = run
    octave = np.floor(np.log2(np.maximum(np.bincount(text().input_ids.ravel(), minlength=WORDS + 1), 0.5)))
    assert len(set(octave[1:])) > 1
    strings, pool = report.tables["strings"], results["ascent"]["found"].of(None, "direction_ids").numpy()
    for index, unit in enumerate((PLANTED, 5)):
        decoded = results["ascent"]["found"].of(index, "ids").numpy()
        rows = np.flatnonzero((strings["neuron"] == unit) & (strings["source"] == "random"))
        for ids, start in zip(ids_of(strings, rows), strings["start"][rows], strict=True):
            assert (octave[ids] == octave[decoded[start]]).all()
        assert report.neurons["p_repeats"][index] == compare_repeats(decoded, pool, WORDS, 999, 0).p


def test_decoded_tokens_are_the_nearest_of_all_that_are_not_special(run, model):
    _, _, report = run
    table = model.network.get_input_embeddings().weight.double().numpy()
    end, optima = report.tensors["embeddings"]["end"].reshape(-1, table.shape[1]), report.tables["optima"]
    cosines = end @ table.T / np.linalg.norm(end, axis=1, keepdims=True) / np.linalg.norm(table, axis=1)
    assert list(optima["token_id"]) == list(1 + cosines[:, 1:].argmax(1))
    assert np.allclose(optima["cosine"], cosines[:, 1:].max(1), atol=1e-5)


def test_the_search_finds_a_bigram_that_the_text_does_not_have(model):
    experiment = maximise(units=[[0, PLANTED]], length=2, top=WORDS, candidates=100, search_starts=6, steps=2)
    _, _, report = run_experiment(experiment, model, text(with_bigram=False))
    assert report.neurons["best_way"][0] == "discrete"
    strings = report.tables["strings"]
    assert ids_of(strings, strings["mean"] == strings["mean"].max())[0] == [FIRST, SECOND]


def test_a_unit_that_nothing_excites_has_no_best_way(model):
    experiment = maximise(units=[[0, 0]], length=2, steps=2, search_steps=1, top=4, candidates=4)
    _, _, report = run_experiment(experiment, model, text())
    assert (report.neurons["best_way"][0], report.neurons["best_way_peak"][0]) == ("none", "none")
    assert report.metrics["share_best_none"] == 1
    assert np.isnan(report.neurons["kept"][0])
    assert "what decoded tokens keep of it is not defined" in report.findings[0]
    assert report.findings[1].startswith("NEURON 0.0: every string that was run excites it to the same 0,")
    assert not any("-0%" in line or "keep nothing" in line for line in report.findings)


def test_without_a_search_two_ways_are_compared(model):
    experiment = maximise(units=[[0, PLANTED]], length=3, search=False, steps=2)
    _, results, report = run_experiment(experiment, model, text())
    assert "search" not in results
    assert set(report.tables["strings"]["source"]) == {"gradient", "random", "text"}
    for draw in report.figures.values():
        assert draw() is not None


def test_a_subclass_says_which_units_and_from_which_strings_to_start(model):
    class Own(Optimisation):
        def units(self, inputs):
            return [(0, 5), (0, PLANTED)]

        def starts(self, inputs, unit):
            return None if unit[1] == 5 else np.array([[FIRST, 2], [4, SECOND], [9, 9]])

    few = maximise(units=[[0, 0]], length=2, steps=2, top=WORDS, candidates=100)
    options = vars(few.options)
    given = Own.Options(**{name: value for name, value in options.items() if name != "units"})
    plan, results, report = run_experiment(Own(given), model, text())
    assert plan.units == ((0, PLANTED), (0, 5))
    table = model.network.get_input_embeddings().weight
    assert torch.equal(results["ascent"]["found"].of(0, "start")[0], table[[FIRST, 2]])
    strings = report.tables["strings"]
    rows = (strings["neuron"] == PLANTED) & (strings["source"] == "discrete") & (strings["start"] == 0)
    assert ids_of(strings, rows) == [[FIRST, SECOND]]  # one swap away


def test_chance_has_many_random_directions_for_each_token_and_too_many_tokens_are_refused(model):
    plan = maximise(units=[[0, 1]], starts=60, length=4).prepare(inputs_of(model, text()))
    assert plan.ascent.directions == 20 * 60 * 4
    with pytest.raises(UserError, match=r"^experiment\.starts=1000: .*; give 250 or fewer"):
        maximise(units=[[0, 1]], starts=1000, length=4)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"units": [[3, 1]]}, "experiment.units: there is no layer 3; this model has layers 0 to 0"),
        ({"units": [[0, 8]]}, "experiment.units: there is no neuron 8 in layer 0; NEURON has neurons 0 to 7 there"),
        ({"units": [[0, 1]], "length": 40}, "experiment.length=40: the text's sequences have room for 32 tokens"),
        ({"units": [[0, 1]], "site": "UP"}, "experiment.site=UP: "),
    ],
)
def test_what_the_model_does_not_have_is_one_line(model, options, line):
    with pytest.raises(UserError) as error:
        maximise(**options).prepare(inputs_of(model, text()))
    assert str(error.value).startswith(line)


def test_a_unit_below_the_first_is_none_of_the_models(model):
    experiment = maximise(units=[[0, 1]])
    experiment.units = lambda inputs: [(0, -1)]
    with pytest.raises(
        UserError, match=r"^experiment\.units: there is no neuron -1 in layer 0; NEURON has neurons 0 to 7"
    ):
        experiment.prepare(inputs_of(model, text()))
