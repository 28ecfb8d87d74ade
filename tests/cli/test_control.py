"""`experiment.control`: the same with random weights, or with the words shuffled; its numbers beside ours."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from pyarrow import parquet

from neurexp.config.schema import CONFIG_FOLDER, register_schema
from neurexp.errors import UserError
from neurexp.report.report import Report, with_control
from neurexp.runs import driver
from neurexp.runs.control_figure import with_figure
from neurexp.runs.driver import run

OF_THE_TEXT = {
    *("tokens", "tokens_special", "types", "types_effective", "length_min", "length_max", "length_median"),
    *("share_shorter", "share_equal", "share_longer"),
}


@dataclass
class Run:
    """A finished run folder."""

    folder: Path

    @property
    def metrics(self):
        return json.loads((self.folder / "summary.json").read_text("utf-8"))["metrics"]

    @property
    def findings(self):
        return json.loads((self.folder / "summary.json").read_text("utf-8"))["findings"]

    def table(self, name):
        table = parquet.read_table(self.folder / f"{name}.parquet")
        return {column: table[column].to_numpy() for column in table.column_names}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name → a run of mini over 1500 tokens: alone, with its control, and the control as a run of its own."""
    folder = tmp_path_factory.mktemp("runs")
    register_schema()
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(driver, "write_figures", lambda *_: None)  # not what is tested, and half of the time
    finished = {}
    for name, option in (
        ("alone", "experiment.control=off"),
        ("controlled", "experiment.control=random"),
        ("control", "model.weights=random"),
        ("shuffled", "experiment.control=shuffled_text"),
    ):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
            config = compose(
                "config",
                [
                    "model=mini",
                    "dataset=pydoc",
                    "dataset.tokens=1500",
                    "dataset.sequence_length=64",
                    "device=cpu",
                    "device.threads=1",
                    "tracking=off",
                    "run.seed=3",
                    "experiment.layer=[0,1,3,5]",
                    f"run.outputs={folder}/outputs",
                    option,
                ],
            )
        where = folder / name
        where.mkdir()
        run(config, where)
        finished[name] = Run(where)
    monkeypatch.undo()
    return finished


def test_our_own_numbers_are_the_same_with_a_control(runs):
    alone, controlled = runs["alone"], runs["controlled"]
    for name, value in alone.metrics.items():
        assert controlled.metrics[name] == value, name
    for name, values in alone.table("layers").items():
        np.testing.assert_array_equal(controlled.table("layers")[name], values, name)
    for name, values in alone.table("neurons").items():
        np.testing.assert_array_equal(controlled.table("neurons")[name], values, name)


def test_the_control_is_a_run_with_random_weights(runs):
    controlled, control = runs["controlled"], runs["control"]
    for name, value in control.metrics.items():
        assert controlled.metrics.get(f"{name}_control", controlled.metrics[name]) == value, name
    layers = controlled.table("layers")
    for name, values in control.table("layers").items():
        if name != "layer":
            np.testing.assert_array_equal(layers[f"{name}_control"], values, name)


def test_every_headline_of_the_model_has_its_control_and_excess(runs):
    metrics, alone = runs["controlled"].metrics, runs["alone"].metrics
    of_the_model = set(alone) - OF_THE_TEXT
    assert {name for name in alone if f"{name}_control" in metrics} == of_the_model
    places = {name for name in of_the_model if name.endswith("_layer")}
    assert places
    assert not {f"{name}_excess" for name in places} & set(metrics)  # the index of a layer has none
    for name in of_the_model - places:
        assert metrics[f"{name}_excess"] == metrics[name] - metrics[f"{name}_control"]
    assert {"r_abs_median_excess", "survival_overall_excess", "share_significant_all_excess"} <= set(metrics)


def test_what_is_of_the_text_alone_has_no_control(runs):
    assert not {f"{name}_control" for name in OF_THE_TEXT} & set(runs["controlled"].metrics)


def test_a_trained_network_is_not_its_control(runs):
    metrics = runs["controlled"].metrics
    assert metrics["r_abs_median_control"] != metrics["r_abs_median"]
    layers = runs["controlled"].table("layers")
    assert not np.allclose(layers["r_median"], layers["r_median_control"])


def test_every_name_is_defined_and_those_of_the_control_by_one_rule(runs):
    controlled = runs["controlled"]
    lines = (controlled.folder / "columns.md").read_text("utf-8").splitlines()
    defined = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    for name in (*controlled.metrics, *controlled.table("layers"), *controlled.table("neurons")):
        base = name if name in defined else name.removesuffix("_control").removesuffix("_excess")
        assert base in defined, name
    assert [name for name in defined if "_control" in name] == ["NAME_control"]
    assert "random weights; NAME_excess is NAME − NAME_control" in defined["NAME_control"]
    assert "excess_excess" not in str(controlled.metrics)
    assert "_control`" not in (runs["alone"].folder / "columns.md").read_text("utf-8")


def test_the_controls_neurons_are_a_table(runs):
    ours, control = runs["controlled"], runs["control"]
    for name, values in control.table("neurons").items():
        np.testing.assert_array_equal(ours.table("neurons_control")[name], values, name)
    assert not (runs["alone"].folder / "neurons_control.parquet").exists()


def test_the_figure_has_both_medians_at_each_layer():
    def report(shift):
        neurons = {"layer": np.repeat([2, 5], 3), "x": np.array([1.0, 2, 3, 4, 5, np.nan]) + shift}
        return Report([], {}, {"layer": np.array([2, 5])}, neurons, {"x": "a number; what else", "layer": ""}, "x")

    ours, theirs = report(0), report(10)
    drawn = with_figure(with_control(ours, theirs), theirs, "random", "mini on pydoc").figures["control"]()
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in drawn.axes[0].get_lines()}
    assert lines["this model and text"] == [2, 4.5]
    assert lines["control: random weights"] == [12, 14.5]
    assert drawn.axes[0].get_ylabel() == "a number (x)"


def test_the_control_speaks_for_itself(runs):
    spoken = [line for line in runs["controlled"].findings if line.startswith("Control (random weights)")]
    assert spoken
    assert any("median |r|" in line for line in spoken)
    hint = " What a network with random weights shows too (experiment.control=random) is not learned."
    alone = [line.removesuffix(hint) for line in runs["alone"].findings]
    assert alone != runs["alone"].findings
    assert runs["controlled"].findings[1 : 1 + len(alone)] == alone


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("controlled", "in the same network with random weights"),
        ("shuffled", "in the same model over the text with its words shuffled"),
    ],
)
def test_the_first_finding_is_the_share_of_neurons_beside_the_controls(runs, name, where):
    metrics, first = runs[name].metrics, runs[name].findings[0]
    for share in ("share_significant_all", "share_significant_given_context_all"):
        ours, theirs = metrics[share], metrics[f"{share}_control"]
        assert f"{ours:.1%} of the neurons" in first
        assert f"against {theirs:.1%} {where}" in first
        points = f"{100 * abs(ours - theirs):.1f} percentage points"
        assert (f"an excess of {points}" if ours >= theirs else f"{points} fewer") in first


def test_the_control_of_a_shuffled_text_is_the_same_model_over_other_tokens(runs):
    shuffled, alone, random = runs["shuffled"], runs["alone"], runs["controlled"]
    for name, values in alone.table("layers").items():
        np.testing.assert_array_equal(shuffled.table("layers")[name], values, name)
    layers, untrained = shuffled.table("layers"), random.table("layers")
    assert not np.array_equal(layers["r_median"], layers["r_median_control"])
    assert not np.array_equal(layers["r_median_control"], untrained["r_median_control"])
    np.testing.assert_allclose(layers["std_control"], layers["std"], rtol=0.2)  # the same model
    assert not np.allclose(untrained["std_control"], untrained["std"], rtol=0.2)
    lines = (shuffled.folder / "columns.md").read_text("utf-8")
    assert "NAME of the control: the same model over the text with its words shuffled" in lines
    assert "random weights" not in lines


def test_two_reports_side_by_side():
    def report(metrics, shares):
        columns = dict.fromkeys((*metrics, "layer", "share"), "a definition")
        layers = {"layer": np.array([0, 1]), "share": np.array(shares)}
        return Report(["the text", "the numbers"], metrics, layers, {}, columns, "share", frozenset({"tokens"}))

    ours, theirs = (
        report({"tokens": 9, "r": 0.5, "only": 1.0}, [0.1, 0.2]),
        report({"tokens": 9, "r": 0.1}, [0.3, np.nan]),
    )
    both = with_control(ours, theirs)
    both.check()
    assert both.metrics == {"tokens": 9, "r": 0.5, "only": 1.0, "r_control": 0.1, "r_excess": 0.4}
    np.testing.assert_array_equal(both.layers["share_control"], [0.3, np.nan])
    assert "layer_control" not in both.layers
    assert ours.metrics == {"tokens": 9, "r": 0.5, "only": 1.0}
    assert set(both.columns) - set(ours.columns) == {"NAME_control"}
    assert set(ours.columns) == {"tokens", "r", "only", "layer", "share"}


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (
            "experiment=grammar_tuning",
            "grammar_tuning has rows of its own, and no running text .*; give off or random",
        ),
        ("experiment=benchmark", "benchmark has no control; give off"),
        ("experiment=ablation", "ablation has no control; give off"),
    ],
)
def test_words_alone_have_no_text_to_shuffle(tmp_path, option, line):
    register_schema()
    options = [option, "model=mini", "dataset=pydoc", "tracking=off", f"run.outputs={tmp_path}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        config = compose("config", [*options, "experiment.control=shuffled_text"])
    with pytest.raises(UserError, match=f"^experiment.control=shuffled_text: {line}$"):
        run(config, tmp_path)
