"""`compare` of runs of one model: the neurons that lead in several of them, from made run folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_run

from neurexp.errors import UserError
from neurexp.io.files import read_table
from neurexp.report.finished import FinishedRun
from neurexp.runs.compare import compare, main

LAYERS, WIDTH = 4, 250
PLANTED = [(1, 7), (1, 8), (3, 200)]


@pytest.fixture
def made(tmp_path: Path):
    """Makes a run whose values are noise but for the planted neurons."""

    def make(number: int, planted=PLANTED, **given: Any) -> FinishedRun:
        random = np.random.default_rng(number)
        layer, neuron = np.repeat(np.arange(LAYERS), WIDTH), np.tile(np.arange(WIDTH), LAYERS)
        column = given.pop("column", f"d_{number}")
        values = random.normal(size=LAYERS * WIDTH) * 10.0**layer
        for at, unit in planted:
            values[(layer == at) & (neuron == unit)] = -5 * 10.0**at
        order = random.permutation(len(layer))  # tables need not be in the same order
        neurons = {"layer": layer[order], "neuron": neuron[order], column: values[order]} | given.pop("more", {})
        given.setdefault("experiment", f"question_{number}")
        given.setdefault("provenance", {"model_hash": "one"})
        run = made_run(tmp_path / f"run_{number}", neurons, column, **given)
        for name, of_file in run.neurons.items():  # a file's arrays are read-only
            run.neurons[name] = of_file.copy()
        return run

    return make


def test_planted_neurons_are_found_against_chance_and_named(made):
    report = compare([made(0), made(1), made(2, [*PLANTED[:1], (0, 0)])])
    report.check()
    agreed = report.tables["agreed"]
    found = list(zip(agreed["layer"], agreed["neuron"], agreed["runs"], strict=True))
    assert found[0] == (1, 7, 3)
    assert {(1, 8, 2), (3, 200, 2)} <= set(found)
    assert agreed["value_1"][0] == -50
    assert agreed["rank_0"][0] == 1
    assert report.metrics["agreed_3"] == 1
    assert report.metrics["agreed_3_by_chance"] < 0.01
    assert report.metrics["agreed_3_p"] < 0.01
    pairs = report.tables["agreement"]
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert pairs["both"][0] >= 3
    assert pairs["expected"] == pytest.approx(4 * 2 * 2 / 250, abs=0.01)  # 2 of 250 neurons, and ties
    assert pairs["p"][0] < 1e-4
    for row in range(3):
        first, second = (f"_{pairs[end][row]}" for end in ("first", "second"))
        both = agreed[f"leads{first}"] & agreed[f"leads{second}"]
        same = np.sign(agreed[f"value{first}"]) == np.sign(agreed[f"value{second}"])
        assert (pairs["both"][row], pairs["same_sign"][row]) == (both.sum(), (both & same).sum())
    told = "\n".join(report.findings)
    assert "1.7 (3 runs)" in told
    assert "question_0, model on text" in told
    by_layer = report.tables["agreement_by_layer"]
    twice = by_layer["times"] == 2
    assert by_layer["agreed"][twice].sum() == report.metrics["agreed_2"] == len(found)
    assert by_layer["expected"][twice].sum() == pytest.approx(report.metrics["agreed_2_by_chance"])


def test_what_a_run_lacks_is_neither_agreement_nor_chance(made):
    """Half of the neurons are missing in one run: chance deals among those that both runs have a value for."""
    whole, other = made(0, []), made(1, [])
    other.neurons["d_1"][other.neurons["neuron"] % 2 == 0] = np.nan
    other.neurons["d_1"][other.neurons["layer"] == 2] = np.nan
    pairs = compare([whole, other]).tables["agreement"]
    assert pairs["neurons"] == 3 * 125
    leads = int(pairs["first_leads"][0])
    assert leads <= 6  # of 2 in each layer that both have
    assert pairs["expected"] == pytest.approx(leads * 1 / 125)  # 1 % of 125 lead in the other


def test_neurons_of_one_spread_are_chances_other_kind(made):
    std = np.exp(np.random.default_rng(9).uniform(0, 5, LAYERS * WIDTH))
    runs = [made(number, [], more={"std": std}) for number in (0, 1)]
    place = np.lexsort((runs[1].neurons["neuron"], runs[1].neurons["layer"]))
    first = np.lexsort((runs[0].neurons["neuron"], runs[0].neurons["layer"]))
    spread = np.empty_like(std)
    spread[place] = std[first]  # the same spread for the same neuron
    runs[1].neurons["std"] = spread
    for run, name in zip(runs, ("d_0", "d_1"), strict=True):
        run.neurons[name] = run.neurons[name] * run.neurons["std"]
    report = compare(runs, lead=4)
    pairs = report.tables["agreement"]
    assert pairs["p"][0] < 0.001
    assert pairs["p_spread"][0] > 0.05
    assert pairs["expected_spread"][0] > 3 * pairs["expected"][0]
    assert report.metrics["agreed_2_p"] == pairs["p_spread"][0]
    assert "among neurons of a similar spread" in report.findings[2]
    report.check()


def test_two_runs_of_one_question_agree_beside_their_layers(made):
    report = compare([made(number, column="d", experiment="question") for number in (0, 1)])
    assert set(report.figures) >= {"agreement", "densities"}
    assert report.layers["run"].tolist() == [0] * LAYERS + [1] * LAYERS
    assert report.metrics["agreed_2"] >= 3
    report.check()


def test_runs_of_different_models_are_compared_by_layers_only(made):
    runs = [made(number, column="d", experiment="question", provenance={"model_hash": number}) for number in (0, 1)]
    report = compare(runs)
    assert set(report.tables) == set()
    assert report.layers


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"provenance": {"model_hash": "two"}}, "no two of them are of one model"),
        ({"provenance": {}}, "no two of them are of one model"),
        ({"options": {"experiment.site": "UP"}}, "one site"),
    ],
)
def test_runs_of_other_models_or_sites_do_not_agree(made, change, said):
    with pytest.raises(UserError, match=said):
        compare(
            [made(0, options={"experiment.site": "MLP"}), made(1, **({"options": {"experiment.site": "MLP"}} | change))]
        )


def test_a_run_that_no_other_can_agree_with_is_said_to_be_left_out(made):
    sites = ["MLP", "PROJ", "MLP"]
    report = compare([made(number, options={"experiment.site": site}) for number, site in enumerate(sites)])
    left = [line for line in report.findings if "left out" in line]
    assert left == ["Run 1 is left out: no other run here is of its model and site"]
    assert not [line for line in compare([made(3), made(4)]).findings if "left out" in line]


def test_another_column_and_share_may_be_chosen(made):
    twin = np.random.default_rng(5).normal(size=LAYERS * WIDTH)
    runs = [made(0, more={"other": twin}), made(1)]
    assert compare(runs, by=["other", "d_1"]).tables["agreement"]["first_statistic"] == "other"
    assert compare(runs, lead=10).tables["agreement"]["first_leads"] == 100
    for given, said in (
        ({"by": ["other"]}, "--by other: .*run_1 has no such column of numbers; it has d_1"),
        ({"by": ["a", "b", "c"]}, "--by a,b,c: give one column, or one for each of the 2 runs"),
        ({"lead": 0}, "--lead 0: give per cent"),
    ):
        with pytest.raises(UserError, match=said):
            compare(runs, **given)


def test_the_command_names_them_and_writes_the_tables(made, tmp_path, capsys):
    folders = [str(made(number).folder) for number in (0, 1)]
    main([*folders, "--lead", "2", "--by", "d_0,d_1", "--outputs", str(tmp_path), "--no-mlflow"])
    (folder,) = (tmp_path / "compare").iterdir()
    assert (1, 7) in set(
        zip(*(read_table(folder / "agreed.parquet")[name] for name in ("layer", "neuron")), strict=True)
    )
    assert (folder / "figures" / "agreement.png").exists()
    assert not (folder / "layers.parquet").exists()
    assert json.loads((folder / "summary.json").read_text())["of"] == "question_0, question_1"
    assert "1.7" in capsys.readouterr().out
