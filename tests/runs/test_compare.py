"""`python -m neurexp.compare`: finished runs side by side, from folders or MLflow ids, as a run of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from mlflow import MlflowClient
from pyarrow import parquet

from neurexp.errors import UserError
from neurexp.figures.profiles import densities_at_depths, over_depth
from neurexp.io.files import read_table
from neurexp.report.words import in_words
from neurexp.runs.compare import compare, main, read_run
from neurexp.runs.names import circumstances, common_to, labels_of, names_of


@pytest.fixture(scope="module")
def pair(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and a copy of it that captured three layers of twelve and whose r is shifted by 0.1."""
    other = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(finished.folder, other)
    layers, neurons = (parquet.read_table(other / f"{name}.parquet").to_pandas() for name in ("layers", "neurons"))
    layers, neurons = layers[layers.layer < 3], neurons[neurons.layer < 3]
    layers, neurons = (table.assign(layer=table.layer * 5 + 1) for table in (layers, neurons))
    neurons = neurons.assign(r_length=neurons.r_length + 0.1)
    layers.to_parquet(other / "layers.parquet")
    neurons.to_parquet(other / "neurons.parquet")
    summary = json.loads((other / "summary.json").read_text())
    summary["metrics"]["r_median_all"] += 0.1
    (other / "summary.json").write_text(json.dumps(summary | {"setting": "other on pydoc", "model_layers": 12}))
    return finished.folder, other


def test_layers_are_put_on_relative_depth(pair):
    report = compare([read_run(str(folder), None) for folder in pair])
    runs, depth, median = (report.layers[name] for name in ("run", "depth", "median"))
    assert depth[runs == 0] == pytest.approx(np.linspace(0, 1, 6))
    assert depth[runs == 1] == pytest.approx(np.array([1, 6, 11]) / 11)
    assert median[runs == 1] == pytest.approx(median[runs == 0][:3] + 0.1)


def test_headlines_are_tabulated_for_every_run_and_defined(pair):
    report = compare([read_run(str(folder), None) for folder in pair])
    assert report.metrics["r_median_all_1"] - report.metrics["r_median_all_0"] == pytest.approx(0.1)
    report.check()
    told = "\n".join(report.findings)
    assert "r_median_all:" in told
    assert "tokens:" not in told  # what is equal in all runs is not repeated


def test_the_command_leaves_figures_tables_and_an_mlflow_run(pair, tmp_path, capsys):
    main([*map(str, pair), "--outputs", str(tmp_path)])
    (folder,) = (tmp_path / "compare").iterdir()
    assert {file.name for file in folder.iterdir()} == {
        "summary.json",
        "layers.parquet",
        "agreement.parquet",
        "agreement_by_layer.parquet",
        "agreed.parquet",
        "columns.json",
        "columns.md",
        "figures",
    }
    assert {file.name for file in (folder / "figures").iterdir()} == {
        "agreement.png",
        "densities.png",
        "maps.png",
        "over_depth.png",
        "overlaid.png",
    }
    run_id = json.loads((folder / "summary.json").read_text())["mlflow_run_id"]
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "r_median_all_1" in run.data.metrics
    told = capsys.readouterr().out
    assert all(line.removeprefix("- ") in told for line in run.data.tags["mlflow.note.content"].splitlines())
    assert "lead" in run.data.tags["mlflow.note.content"]
    assert "other on pydoc" in told


def test_a_run_is_found_by_its_mlflow_id(finished: Finished):
    run_id = json.loads((finished.folder / "summary.json").read_text())["mlflow_run_id"]
    run = read_run(run_id, f"sqlite:///{finished.outputs / 'mlflow.db'}")
    assert run.summary["mlflow_run_id"] == run_id
    assert set(run.neurons) == set(parquet.read_table(finished.folder / "neurons.parquet").column_names)


def test_mistakes_are_one_line(pair, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        ([str(pair[0])], "two runs or more"),
        ([str(pair[0]), str(empty)], "not the folder of a finished run"),
        ([str(pair[0]), "0123456789abcdef"], "no MLflow store"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--outputs", str(tmp_path)])
        assert ended.value.code == 1
        message = capsys.readouterr().err.strip()
        assert message.startswith("error: ")
        assert said in message
        assert "\n" not in message
    assert not (tmp_path / "compare").exists()


def test_runs_of_different_experiments_and_models_are_refused(pair, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pair[1], other)
    summary = json.loads((other / "summary.json").read_text())
    summary["provenance"]["model_hash"] = "of another model"
    (other / "summary.json").write_text(json.dumps(summary | {"experiment": "grammar_tuning"}))
    with pytest.raises(UserError, match="different experiments, and no two of them are of one model"):
        compare([read_run(str(pair[0]), None), read_run(str(other), None)])


# What runs are called


def summary(setting="ckpt on text", dataset="text", provenance=None, **options) -> dict:
    options = {name.replace("__", "."): value for name, value in options.items()}
    return {"setting": setting, "dataset": dataset, "options": options, "provenance": provenance or {}}


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (  # models and texts that the titles tell apart
            [summary("a on x", "x", model__name="a"), summary("b on x", "x", model__name="b")],
            ["a on x", "b on x"],
        ),
        (  # something else differs as well
            [
                summary("a on x", "x", model__name="a", dataset__tokens="512"),
                summary("b on x", "x", model__name="b", dataset__tokens="8192"),
            ],
            ["a on x, dataset.tokens=512", "b on x, dataset.tokens=8192"],
        ),
        (  # folders of one last name: the title does not tell
            [summary(model__name="/old/ckpt"), summary(model__name="/new/ckpt")],
            ["ckpt on text, model.name=/old/ckpt", "ckpt on text, model.name=/new/ckpt"],
        ),
        (  # nor does it where only the texts' names differ
            [
                summary("ckpt on x", "x", model__name="/old/ckpt", dataset__path="/x"),
                summary("ckpt on y", "y", model__name="/new/ckpt", dataset__path="/y"),
            ],
            ["ckpt on x, model.name=/old/ckpt", "ckpt on y, model.name=/new/ckpt"],
        ),
        (  # an option that one of them did not have
            [summary(), summary(experiment__layer="3")],
            ["ckpt on text, experiment.layer=null", "ckpt on text, experiment.layer=3"],
        ),
        (  # its own neurons are compared, not its control's; and what follows from the text is no difference of its own
            [
                summary("ckpt on x", "x", experiment__control="off", dataset__subset=None),
                summary("ckpt on y", "y", experiment__control="random", dataset__subset="s", dataset__split="train"),
            ],
            ["ckpt on x", "ckpt on y"],
        ),
        (  # two subsets of one dataset
            [summary(dataset__subset=None), summary(dataset__subset="s")],
            ["ckpt on text, dataset.subset=null", "ckpt on text, dataset.subset=s"],
        ),
        (  # more than fit
            [summary(a="1", b="1", c="1", d="1", e="1"), summary(a="2", b="2", c="2", d="2", e="2")],
            ["ckpt on text, a=1, b=1, c=1, and 2 more options", "ckpt on text, a=2, b=2, c=2, and 2 more options"],
        ),
        (  # equal options, other weights in the same folder
            [
                summary(provenance={"git_commit": "0" * 40, "model_hash": "1" * 64}),
                summary(provenance={"git_commit": "9" * 40, "model_hash": "2" * 64}),
            ],
            ["ckpt on text, model_hash=11111111", "ckpt on text, model_hash=22222222"],
        ),
        (  # equal options, another code
            [summary(provenance={"git_commit": "a" * 40}), summary(provenance={"git_commit": "b" * 40})],
            ["ckpt on text, git_commit=aaaaaaaa", "ckpt on text, git_commit=bbbbbbbb"],
        ),
        ([summary(), summary()], ["ckpt on text (run 0)", "ckpt on text (run 1)"]),
    ],
)
def test_runs_are_called_by_what_differs(runs, names):
    assert names_of(runs) == names


def test_labels_leave_out_what_all_runs_have_in_common():
    runs = [summary(run__seed=seed) for seed in "01"]
    assert labels_of(runs) == ["run.seed=0", "run.seed=1"]
    assert common_to(runs) == "None, ckpt on text"
    questions = [one | {"experiment": name} for one, name in zip([*runs, runs[1]], ("a", "a", "b"), strict=True)]
    questions[2]["options"] = {"run.seed": "1", "experiment.own": "3"}  # an option that only b has is no difference
    assert names_of(questions) == [
        "a, ckpt on text, run.seed=0",
        "a, ckpt on text, run.seed=1",
        "b, ckpt on text, run.seed=1",
    ]
    assert labels_of(questions) == ["a, run.seed=0", "a, run.seed=1", "b, run.seed=1"]
    assert common_to(questions) == "ckpt on text"
    assert labels_of([summary(), summary()]) == ["run 0", "run 1"]


def test_a_panel_is_headed_by_the_depths_that_it_shows_and_the_axis_by_words():
    values = list(np.random.default_rng(0).normal(size=(6, 50)))
    runs = [("a", np.linspace(0, 1, 6), values), ("b", np.linspace(0, 1, 4), values[:4])]
    titles = [axes.get_title() for axes in densities_at_depths(runs, "", "", "r").axes]
    assert titles == ["depth 0.00", "depth 0.33 to 0.40", "depth 0.60 to 0.67", "depth 1.00"]
    assert (
        in_words("r", "Pearson's r of this with that over tokens; missing if …") == "Pearson's r of this with that (r)"
    )
    assert in_words("d", "the same, given the context") == "d"


def test_names_are_distinct_though_values_are_cut_short():
    runs = [summary(words=f"{'x' * 60}{one}{'y' * 60}") for one in "ab"]
    assert len(set(names_of(runs))) == 2


def test_circumstances_are_code_and_machine_and_not_what_the_options_say():
    versions = ({"torch": "2.8"}, {"torch": "2.9"})
    runs = [
        summary(provenance={"versions": one, "git_commit": "a" * 40, "token_hash": one["torch"]}) for one in versions
    ]
    assert circumstances(runs) == ["versions.torch 2.8 | 2.9"]


def test_each_row_line_and_definition_is_that_of_the_run_it_is_called_by(pair, tmp_path):
    """Three runs of one title that differ in one option, in the order given, whatever it is."""
    folders = []
    for index, shift in enumerate((0.3, 0.0, 0.6)):
        folder = tmp_path / str(index)
        shutil.copytree(pair[0], folder)
        neurons = parquet.read_table(folder / "neurons.parquet").to_pandas()
        neurons.assign(r_length=shift).to_parquet(folder / "neurons.parquet")
        known = json.loads((folder / "summary.json").read_text())
        known["options"] |= {"run.seed": str(shift)}
        (folder / "summary.json").write_text(json.dumps(known))
        if index < 2:
            text = (folder / "columns.json").read_text("utf-8")
            text = text.replace('"r_median_all": "', f'"r_median_all": "of {shift}: ')
            (folder / "columns.json").write_text(text, "utf-8")
        else:  # as a run left it before there was a columns.json
            (folder / "columns.json").unlink()
            text = (folder / "columns.md").read_text("utf-8")
            text = text.replace("| `r_median_all` | ", f"| `r_median_all` | of {shift}: ")
            (folder / "columns.md").write_text(text, "utf-8")
        folders.append(str(folder))
    report = compare([read_run(folder, None) for folder in folders])
    for name, median in zip(report.layers["name"], report.layers["median"], strict=True):
        assert name == f"mini on pydoc, run.seed={median}"
    assert [f"of {shift}: " in report.columns[f"r_median_all_{run}"] for run, shift in enumerate((0.3, 0.0, 0.6))] == [
        True
    ] * 3
    lines = {
        line.get_label(): set(np.asarray(line.get_ydata()))
        for line in report.figures["over_depth"]().axes[0].get_lines()
        if len(np.asarray(line.get_ydata())) == 6
    }
    assert lines == {f"run.seed={shift}": {shift} for shift in (0.3, 0.0, 0.6)}


def test_no_two_of_ten_runs_look_alike_and_none_is_drawn_where_it_has_no_layer():
    rng = np.random.default_rng(0)
    depth = np.linspace(0, 1, 4)
    runs = [(f"run {index}", depth, list(rng.normal(index, 1, (4, 50)))) for index in range(9)]
    figure = densities_at_depths([*runs, ("run 9", np.array([1.0]), [rng.normal(9, 1, 50)])], "", "", "r")
    first, *_, last = figure.axes

    def drawn(axes) -> list[tuple]:
        lines = [line for line in axes.get_lines() if len(np.asarray(line.get_xdata())) > 2]
        return [(line.get_color(), line.get_linestyle()) for line in lines]

    def keys(axes) -> dict:
        legend = axes.get_legend()
        return {
            text.get_text(): (line.get_color(), line.get_linestyle())
            for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
        }

    labels = keys(first)
    assert list(labels) == [f"run {index}" for index in range(10)]
    assert len(set(labels.values())) == 10
    assert drawn(last) == list(labels.values())
    assert drawn(first) == list(labels.values())[:9]  # the last one has no layer near there
    other = over_depth({name: (depth, np.zeros((4, 3))) for name, *_ in runs}, "", "", "r")
    assert keys(other.axes[0]) == {name: style for name, style in labels.items() if name != "run 9"}


def test_a_run_of_mlflow_is_called_by_its_id_not_by_a_temporary_folder(finished: Finished, pair, tmp_path, capsys):
    run_id = json.loads((finished.folder / "summary.json").read_text())["mlflow_run_id"]
    uri = f"sqlite:///{finished.outputs / 'mlflow.db'}"
    main([run_id, str(pair[1]), "--outputs", str(tmp_path), "--uri", uri, "--no-mlflow"])
    assert f"mini on pydoc, MLflow run {run_id}\n" in capsys.readouterr().out
    (folder,) = (tmp_path / "compare").iterdir()
    known = json.loads((folder / "summary.json").read_text())
    assert [run["folder"] for run in known["runs"]] == [f"MLflow run {run_id}", str(pair[1])]
    assert [run["name"] for run in known["runs"]] == ["mini on pydoc", "other on pydoc"]
    assert set(read_table(folder / "layers.parquet")["name"]) == {"mini on pydoc", "other on pydoc"}
