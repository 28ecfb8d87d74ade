"""Which neurons a finished run found: ranked by hand, named after what they prefer, and never dead."""

import numpy as np
import pytest
from inprocess import run_experiment, small_model
from made_runs import GIVEN, made_run, written
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from neurexp.errors import UserError
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.experiments.intervention import neurons_found, neurons_given
from neurexp.experiments.options.interventions import AblationOptions
from neurexp.models.locations import MINI
from neurexp.report.finished import FinishedRun

D = [2.0, -3.0, 0.5, np.nan, 9.0, -1.0, 1.0, 4.0]  # 9.0 is a dead neuron's


@pytest.fixture
def contrast(tmp_path) -> FinishedRun:
    """A contrast of nouns (0) and verbs (1) over two layers of four neurons; neuron 0 of layer 2 is dead."""
    columns = {
        "layer": [1, 1, 1, 1, 2, 2, 2, 2],
        "neuron": [0, 1, 2, 3, 0, 1, 2, 3],
        "mean_0": np.zeros(8),
        "mean_1": np.nan_to_num(D),
        "mean": [1.0] * 8,
        "std": [1.0] * 4 + [1e-9] + [1.0] * 3,
        "cohens_d": D,
        "auroc": [0.9, 0.1, 0.6, 0.5, 1.0, 0.3, 0.7, 0.95],
        "significant_bonferroni": [True] * 8,
        "significant_bonferroni_all": [True, True, False, True, True, True, False, True],
        "band": [False] * 8,
    }
    words = {"word": ["dog", "run"], "category": ["nouns", "verbs"], "label": [0, 1]}
    return made_run(tmp_path / "contrast", columns, "cohens_d", words)


@pytest.fixture
def profile(tmp_path) -> FinishedRun:
    """A profile of token length over one layer of five neurons."""
    columns = {
        "layer": [0] * 5,
        "neuron": range(5),
        "mean": [0.0] * 5,
        "std": [1.0] * 5,
        "mean_abs": [1.0] * 5,
        "mean_shorter": [0.0] * 5,
        "mean_equal": [0.0] * 5,
        "mean_longer": [0.0] * 5,
        "d_longer_shorter": [0.1, -0.2, 0.3, 0.4, -0.5],
        "r_length": [0.1, -0.2, 0.3, 0.4, -0.5],
        "r_frequency": [-0.5, 0.4, 0.3, 0.2, 0.1],
        "null_mean": [0.0, 0.0, 0.0, 0.6, 0.0],
        "q_length": [0.01] * 5,
        "q_length_all": [0.01, 0.01, 0.2, 0.01, 0.01],
        "eta2_length": [0.01, 0.05, 0.3, 0.02, 0.04],
    }
    return made_run(tmp_path / "profile", columns, "r_length")


def places(found) -> list[tuple[int, int]]:
    return list(zip(found.layers.tolist(), found.neurons.tolist(), strict=True))


def refusal(call) -> str:
    with pytest.raises(UserError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_contrasts_neurons_are_named_after_the_category_that_they_prefer(contrast):
    sets = neurons_found(contrast)
    assert list(sets) == ["verbs", "nouns"]
    assert places(sets["verbs"]) == [(2, 3), (1, 0)]  # not 9.0, which is dead; 0.5 and 1.0 are not significant
    assert places(sets["nouns"]) == [(1, 1), (2, 1)]
    assert sets["nouns"].scores.tolist() == [-3.0, -1.0]
    assert (sets["verbs"].column, sets["verbs"].criterion) == ("cohens_d", "significant_bonferroni_all")
    assert sets["verbs"].description == "that prefer verbs most (cohens_d)"
    first = neurons_found(contrast, count=1)
    assert {name: places(found) for name, found in first.items()} == {"verbs": [(2, 3)], "nouns": [(1, 1)]}
    assert {found.found for found in first.values()} == {2}


def test_without_the_test_all_that_vary_are_ranked(contrast):
    sets = neurons_found(contrast, significant=False)
    assert places(sets["verbs"]) == [(2, 3), (1, 0), (2, 2), (1, 2)]
    assert sets["verbs"].criterion == ""


def test_an_auroc_counts_from_a_half(contrast):
    sets = neurons_found(contrast, by="auroc")
    assert {name: places(found) for name, found in sets.items()} == {
        "verbs": [(2, 3), (1, 0)],
        "nouns": [(1, 1), (2, 1)],
    }


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("positive", {"verbs": [(2, 3), (1, 0)]}),
        ("negative", {"nouns": [(1, 1), (2, 1)]}),
        ("largest", {"largest": [(2, 3), (1, 1), (1, 0), (2, 1)]}),
    ],
)
def test_directions(contrast, direction, expected):
    sets = neurons_found(contrast, direction=direction)
    assert {name: places(found) for name, found in sets.items()} == expected


def test_a_profiles_neurons_are_named_after_the_groups_of_tokens(profile):
    sets = neurons_found(profile)
    # Neuron 2 is not significant; neuron 3 is, but below what chance gives it, so not because of long tokens
    assert {name: places(found) for name, found in sets.items()} == {"longer": [(0, 0)], "shorter": [(0, 4), (0, 1)]}
    assert sets["longer"].criterion == "q_length_all < 0.05"
    assert sets["longer"].description == "that prefer longer tokens most (r_length)"
    assert list(neurons_found(profile, by="d_longer_shorter")) == ["longer", "shorter"]
    assert list(neurons_found(profile, by="r_frequency")) == ["positive", "negative"]


def test_a_column_without_a_sign_is_ranked_by_magnitude(profile):
    (found,) = neurons_found(profile, by="eta2_length", count=2).values()
    assert (places(found), found.description) == ([(0, 1), (0, 4)], "with the largest eta2_length in magnitude")


def test_the_sign_of_a_real_contrast(tmp_path):
    """Each chosen neuron's mean is higher on the words of the category that its set is named after."""
    model = small_model(AutoTokenizer.from_pretrained(MINI))
    options = Options("grammar_tuning", "", layer=1, permutations=100, splits=2, shuffles=2, text=False)
    _, _, report = run_experiment(GrammarTuning(options), model)
    run = written(tmp_path / "run", report, "site=MLP")
    words = report.tables["words"]
    activations = report.tensors["activations"]["MLP_1"]
    sets = neurons_found(run, count=3, significant=False)
    assert set(sets) == {"nouns", "verbs"}
    for name, found in sets.items():
        other = next(one for one in sets if one != name)
        for neuron in found.neurons:
            means = {one: activations[words["category"] == one, neuron].mean() for one in (name, other)}
            assert means[name] > means[other]
    best = max(sets.values(), key=lambda found: abs(found.scores[0]))
    assert abs(best.scores[0]) == np.nanmax(np.abs(report.neurons["cohens_d"]))


def test_more_than_two_categories_are_ranked_by_eta2(tmp_path):
    columns = {"layer": [0] * 3, "neuron": range(3), "eta2": [0.1, 0.5, 0.3], "mean_0": [0] * 3, "mean_1": [0] * 3}
    columns |= {"mean_2": [0] * 3, "significant_bonferroni_all": [True, True, False]}
    (found,) = neurons_found(made_run(tmp_path / "run", columns, "eta2")).values()
    assert places(found) == [(0, 1), (0, 0)]


def test_a_run_without_a_test_gives_its_extremes(tmp_path):
    columns = {"layer": [0] * 3, "neuron": range(3), "score": [0.1, -0.5, 0.3]}
    sets = neurons_found(made_run(tmp_path / "run", columns, "score"))
    assert {name: places(found) for name, found in sets.items()} == {
        "positive": [(0, 2), (0, 0)],
        "negative": [(0, 1)],
    }


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"by": "cohen_d"}, f"experiment.by=cohen_d: {GIVEN} has no such column of neurons; did you mean cohens_d?"),
        ({"by": "band"}, "experiment.by=band: a column without numbers to rank neurons by"),
        ({"by": "layer"}, "experiment.by=layer: a column without numbers to rank neurons by"),
        ({"direction": "up"}, "experiment.direction=up: give one of auto, both, positive, negative, largest"),
        ({"count": 0}, "experiment.count=0: give a whole number of 1 or more"),
        (
            {"count": 3},
            "experiment.count=3: 2 neurons that prefer verbs most (cohens_d) pass significant_bonferroni_all in that "
            "run (dead ones, which never vary, left out: 1); give 2 or fewer",
        ),
        ({"site": "NEURON"}, f"experiment.run_site=NEURON: {GIVEN} has no such site; give one of MLP"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(contrast, options, answer):
    assert answer in refusal(lambda: neurons_found(contrast, **options))


def test_no_neuron_found_says_what_to_give(contrast):
    contrast.neurons["significant_bonferroni_all"] = np.zeros(8, dtype=bool)
    assert refusal(lambda: neurons_found(contrast)) == (
        f"{GIVEN}: no neuron with a cohens_d passes significant_bonferroni_all; give experiment.significant=false for "
        "the most extreme ones all the same, or another experiment.by=COLUMN"
    )
    contrast.neurons["std"] = np.zeros(8)
    assert "no neuron with a positive cohens_d, and varies" in refusal(
        lambda: neurons_found(contrast, direction="positive", significant=False)
    )


def test_neurons_that_the_user_names():
    for value in ([[15, 276], [20, 0]], OmegaConf.create([[15, 276], [20, 0]])):
        found = neurons_given(value, layers=30)
        assert places(found) == [(15, 276), (20, 0)]
        assert np.isnan(found.scores).all()


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ([], "experiment.neurons=[]: give experiment.neurons=[[15,276],[20,1394]] (layer and neuron of each)"),
        (None, "experiment.neurons=null: give "),
        ("[[1,2]]", "experiment.neurons=[[1,2]]: give "),
        ([1, 2], "experiment.neurons=[1,2]: 1 is no pair of whole numbers; give "),
        ([[1, 2, 3]], "[1,2,3] is no pair of whole numbers"),
        ([[1, 2.0]], "[1,2.0] is no pair of whole numbers"),
        ([[1, True]], "[1,True] is no pair of whole numbers"),
        ([[1, -1]], "[1,-1] is no pair of whole numbers"),
        ([["1", 2]], "is no pair of whole numbers"),
        ([[4, 0]], "there is no layer 4; the model has layers 0 to 3"),
        ([[1, 2], [1, 2]], "neuron 2 of layer 1 is named twice"),
    ],
)
def test_what_names_no_neurons_is_one_line(value, answer):
    assert answer in refusal(lambda: neurons_given(value, layers=4))


def test_a_dead_neuron_that_is_asked_for_is_named(contrast):
    assert neurons_given([[2, 1], [3, 0]], 4, contrast).found == 2
    assert "neuron 0 of layer 2 is dead, it never varies in" in refusal(lambda: neurons_given([[2, 0]], 4, contrast))


def test_too_many_neurons_for_as_many_random_others_are_told_before_a_pass(contrast):
    asked = {"run": str(contrast.folder), "site": "MLP", "direction": "largest", "significant": False}
    AblationOptions("ablation", "", **asked, count=4).check_source(contrast)  # two of four neurons in either layer
    line = refusal(lambda: AblationOptions("ablation", "", **asked, count=6).check_source(contrast))
    assert line == (
        "experiment.count=6: the set largest has 3 of the 4 neurons of layer 1, and 1 are left to draw as many random "
        "ones from; give a smaller number"
    )
