"""Folders of a report: written from the run folder's tables, whole or not at all, named by site, and into MLflow."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from neurexp.config.schema import CONFIG_FOLDER, register_schema
from neurexp.experiments.token_length import TokenLength
from neurexp.io.files import read_table
from neurexp.report.folder import write_folders, write_report
from neurexp.report.report import Report, join_sites, with_control
from neurexp.runs import driver


def layers_seen(folder, run_folder):
    (folder / "data").mkdir()
    (folder / "data" / "layers.json").write_text(
        json.dumps(read_table(run_folder / "layers.parquet")["layer"].tolist())
    )


def report(*layers: int) -> Report:
    neurons = {"layer": np.array(layers), "neuron": np.zeros(len(layers), int)}
    columns = dict.fromkeys(["layer", "neuron"], "")
    return Report([], {}, {"layer": np.array(layers)}, neurons, columns, "neuron", folders={"pages": layers_seen})


def test_a_writer_reads_the_tables_and_a_failing_one_leaves_nothing(tmp_path):
    write_report(tmp_path, report(3, 5))
    write_folders(tmp_path, report(3, 5))
    assert json.loads((tmp_path / "pages" / "data" / "layers.json").read_text()) == [3, 5]
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "layers.parquet").rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="layers"):
        write_folders(tmp_path, replace(report(3), folders={"other": layers_seen}))
    (tmp_path / "elsewhere").rename(tmp_path / "layers.parquet")
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_are_named_by_site_and_kept_beside_a_control():
    assert list(join_sites({"MLP": report(0), "RESID_POST": report(1)}).folders) == ["pages_MLP", "pages_RESID_POST"]
    assert with_control(report(0), report(0)).folders == report(0).folders


class WithFolder(TokenLength):
    """Writes a folder that says whether the run was already a result."""

    def analyse(self, plan, results):
        def write(folder, run_folder):
            (folder / "index.html").write_text(str((run_folder / "summary.json").exists()))

        return replace(super().analyse(plan, results), folders={"pages": write})


@pytest.mark.slow
def test_the_driver_writes_folders_before_the_summary_and_mlflow_gets_them(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(driver, "write_figures", lambda *_: None)
    register_schema()
    given = ["model=mini", "dataset=pydoc", "device=cpu", f"run.outputs={tmp_path}/outputs", "dataset.tokens=600"]
    given += ["experiment.plugin=test_folders.WithFolder", "dataset.sequence_length=60", "experiment.layer=0"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("config", given)
    (tmp_path / "run").mkdir()
    with caplog.at_level("INFO"):
        driver.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "pages" / "index.html").read_text() == "False"
    assert "pages/index.html" in caplog.text
    (logged,) = (tmp_path / "outputs").rglob("artifacts/pages/index.html")
    assert logged.read_text() == "False"
