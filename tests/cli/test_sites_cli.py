"""Sites on the command line: `--sites`, several sites in one run, the user's own places, and the generated pages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from pyarrow.parquet import read_table
from tiny import build

from neurexp.models.table import families_in_words, sites_table
from neurexp.runs.compare import main

ROOT = Path(__file__).resolve().parents[2]
MINI = ("model=mini", "dataset=pydoc", "dataset.tokens=1024", "dataset.sequence_length=128", "experiment.layer=[1,4]")


def test_the_pages_are_those_of_the_code():
    page, readme = (" ".join((ROOT / name).read_text("utf-8").split()) for name in ("docs/models.md", "README.md"))
    assert " ".join(sites_table().split()) in page
    for words in (families_in_words(), families_in_words(experts=True)):
        assert words in page or words in readme
        assert words in readme


def test_sites_of_a_model(quick_cli):
    process = quick_cli("--sites", "model=mini")
    assert process.returncode == 0, process.stderr
    first, *rows = process.stdout.splitlines()
    assert first == "mini: gpt_neo, 6 layers in h; known to neurexp"
    found = {row.split()[0]: row for row in rows[1:]}
    assert list(found)[:4] == ["MLP", "ACT", "NEURON", "PROJ"]
    assert re.search(r"NEURON +768 +mlp.c_proj:input", found["NEURON"])
    assert re.search(r"Z +192 = 6 × 32 +attn.attention.out_proj:input", found["Z"])


def test_sites_of_a_folder_with_a_place_of_the_users(quick_cli, tmp_path):
    build("falcon", new_decoder_architecture=True, num_kv_heads=2).save_pretrained(tmp_path / "tiny")
    chosen = ("model=hub", "model.name=tiny", "model.tokenizer=mini", "model.sites.NORMED=ln_mlp")
    process = quick_cli("--sites", *chosen)
    assert process.returncode == 0, process.stderr
    assert re.search(r"\nQ +16 ", process.stdout)
    assert re.search(r"\nNORMED +16 +ln_mlp +given by model.sites", process.stdout)
    process = quick_cli("--sites", "model=hub", "model.name=./nowhere")
    assert process.returncode == 1
    assert process.stderr.startswith("error: model.name=./nowhere: no such folder")


@pytest.fixture(scope="module")
def runs(commands, tmp_path_factory):
    """Folders of a run of three sites at once, and of runs of two of them alone."""
    where = tmp_path_factory.mktemp("sites")
    folders = {}
    for name, site in (("all", "[Q,NEURON,NORMED]"), ("Q", "Q"), ("NEURON", "NEURON")):
        options = (*MINI, "model.sites.NORMED=ln_1", f"experiment.site={site}", f"run.outputs={name}")
        process = commands.run((*options, f"hydra.run.dir={name}/run"), where)
        assert process.returncode == 0, process.stderr
        folders[name] = where / name / "run"
    return folders


def test_several_sites_have_the_rows_that_each_has_alone(runs):
    together = read_table(runs["all"] / "neurons.parquet")
    sites = np.array(together["site"].to_pylist())
    assert list(dict.fromkeys(sites)) == ["Q", "NEURON", "NORMED"]
    for site in ("Q", "NEURON"):
        alone, rows = read_table(runs[site] / "neurons.parquet"), together.filter(sites == site)
        assert set(alone.column_names) <= set(rows.column_names)
        for name in alone.column_names:
            np.testing.assert_array_equal(rows[name].to_numpy(), alone[name].to_numpy(), err_msg=name)
    assert together["head"].to_pylist()[:33] == [0] * 32 + [1]
    assert set(together["head"].filter(sites == "NEURON").to_pylist()) == {-1}


def test_mlflow_has_a_curve_over_layers_for_each_site(runs):
    folder = runs["all"]
    run_id = json.loads((folder / "summary.json").read_text("utf-8"))["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    layers = read_table(folder / "layers.parquet")
    values = layers["r_median"].filter(np.array(layers["site"].to_pylist()) == "Q").to_pylist()
    assert len(values) == 2
    history = sorted(client.get_metric_history(run_id, "Q/r_median"), key=lambda one: one.step)
    assert [one.value for one in history] == values


def test_metrics_figures_and_definitions_name_their_site(runs):
    folder = runs["all"]
    metrics = json.loads((folder / "summary.json").read_text("utf-8"))["metrics"]
    alone = json.loads((runs["NEURON"] / "summary.json").read_text("utf-8"))["metrics"]
    assert metrics["NEURON/r_median_all"] == alone["r_median_all"]
    assert metrics["tokens"] == alone["tokens"]
    assert {f"r_map_{site}.png" for site in ("Q", "NEURON", "NORMED")} <= {
        file.name for file in folder.glob("figures/*")
    }
    defined = json.loads((folder / "columns.json").read_text("utf-8"))
    assert "NEURON/r_median_all" in json.dumps(defined)


def test_several_sites_are_compared_one_by_one(runs, tmp_path, capsys):
    main([str(runs["all"]), str(runs["Q"]), "--outputs", str(tmp_path), "--no-mlflow"])
    printed = capsys.readouterr().out
    assert all(f"experiment.site={site}" in printed for site in ("Q", "NEURON", "NORMED"))
    assert "Run 3" in printed
