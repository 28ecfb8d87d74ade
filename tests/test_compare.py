"""`python -m neurexp.compare`: finished runs side by side, from folders or MLflow ids, as a run of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from mlflow import MlflowClient
from pyarrow import parquet

from neurexp.compare import compare, main, read_run
from neurexp.errors import UserError


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
    assert {"summary.json", "layers.parquet", "columns.md", "figures"} == {file.name for file in folder.iterdir()}
    assert {file.name for file in (folder / "figures").iterdir()} == {
        "densities.png",
        "maps.png",
        "over_depth.png",
        "overlaid.png",
    }
    run_id = json.loads((folder / "summary.json").read_text())["mlflow_run_id"]
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "r_median_all_1" in run.data.metrics
    assert "other on pydoc" in capsys.readouterr().out


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


def test_runs_of_different_experiments_are_refused(pair, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pair[1], other)
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"experiment": "grammar_tuning"}))
    with pytest.raises(UserError, match="different experiments"):
        compare([read_run(str(pair[0]), None), read_run(str(other), None)])
