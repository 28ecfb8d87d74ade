"""`experiment=maximise` from the command line: a run is whole, is stored and repeated, and splits over processes."""

import json

import numpy as np
import pytest
from pyarrow.parquet import read_table

MINI = (
    "experiment=maximise", "model=mini", "dataset=pydoc", "device=cpu", "device.threads=1", "dataset.tokens=512",
    "dataset.sequence_length=64", "tracking=off",
)  # fmt: skip
FEW = (
    *MINI, "experiment.site=RESID_POST", "experiment.units=[[2,34],[0,5]]", "experiment.starts=2", "experiment.steps=3",
    "experiment.search_steps=2", "experiment.search_starts=1", "experiment.candidates=4", "experiment.draws=19",
)  # fmt: skip
FILES = ("neurons.parquet", "layers.parquet", "optima.parquet", "strings.parquet", "curves.safetensors",
         "embeddings.safetensors")  # fmt: skip


@pytest.fixture(scope="module")
def folder(commands, tmp_path_factory):
    """A folder in which two units have been maximised; the run folder is `first`."""
    folder = tmp_path_factory.mktemp("maximise")
    process = commands.run([*FEW, "hydra.run.dir=first"], folder)
    assert process.returncode == 0, process.stderr
    return folder


def summary_of(run):
    return json.loads((run / "summary.json").read_text("utf-8"))


def assert_same_bits(run, other):
    for name in FILES:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert summary_of(run)["findings"] == summary_of(other)["findings"]


def test_a_run_is_whole(folder):
    run = folder / "first"
    neurons, optima, strings = (
        read_table(run / f"{name}.parquet").to_pandas() for name in ("neurons", "optima", "strings")
    )
    assert list(zip(neurons["layer"], neurons["neuron"], strict=True)) == [(0, 5), (2, 34)]
    assert {"layer", "neuron", "start", "position", "token_id", "token", "cosine"} <= set(optima.columns)
    assert len(optima) == 2 * 2 * 5
    assert set(strings["source"]) == {"gradient", "random", "discrete", "discrete_from_text", "text"}
    best = strings[strings["source"].str.startswith("discrete")].groupby(["layer", "neuron"])["mean"].max()
    started = strings[(strings["source"] == "text")].groupby(["layer", "neuron"])["mean"].max()
    assert (best > started - np.inf).all()
    defined = (run / "columns.md").read_text("utf-8")
    names = [*neurons.columns, *summary_of(run)["metrics"], *(f"strings.{name}" for name in strings.columns)]
    assert not [name for name in names if f"`{name}`" not in defined]
    assert {path.stem for path in (run / "figures").iterdir()} == {"ascent_curves", "reached"}


def test_the_same_again_is_taken_from_the_store_and_a_fresh_run_has_the_same_bits(folder, commands):
    process = commands.run([*FEW, "hydra.run.dir=stored"], folder)
    assert process.returncode == 0, process.stderr
    assert set(summary_of(folder / "stored")["provenance"]["reused"]) == {"text", "ascent", "search", "strings"}
    assert_same_bits(folder / "first", folder / "stored")
    process = commands.run([*FEW, "run.reuse=false", "hydra.run.dir=fresh"], folder)
    assert process.returncode == 0, process.stderr
    assert summary_of(folder / "fresh")["provenance"]["reused"] == []
    assert_same_bits(folder / "first", folder / "fresh")


def test_a_layer_that_there_is_not_is_one_line(folder, commands):
    process = commands.run([*MINI, "experiment.units=[[6,1]]"], folder)
    assert process.returncode == 1
    assert process.stderr.strip() == "error: experiment.units: there is no layer 6; this model has layers 0 to 5"


@pytest.mark.slow
def test_two_processes_find_what_one_finds(folder, quick_cli, tmp_path):
    process = quick_cli(*FEW, f"hydra.run.dir={tmp_path}/two", processes=2)
    assert process.returncode == 0, process.stderr
    tables = {}
    for name in ("optima", "strings", "neurons"):
        one, two = (read_table(run / f"{name}.parquet").to_pandas() for run in (folder / "first", tmp_path / "two"))
        sums = ["text_mean", "text_sd"] if name == "neurons" else []  # added up in another order
        assert one.drop(columns=sums).equals(two.drop(columns=sums)), name
        tables[name] = one, two
    one, two = tables["neurons"]
    assert {"text_maximum", "text_window"} <= set(one.columns)
    for name in ("text_mean", "text_sd"):
        assert np.allclose(one[name], two[name], rtol=1e-6, atol=0), name


@pytest.mark.slow
def test_the_defaults_reach_more_than_random_tokens(folder, commands):
    process = commands.run(
        [*MINI, "experiment.units=[[4,7]]", "experiment.site=RESID_POST", "hydra.run.dir=whole"], folder
    )
    assert process.returncode == 0, process.stderr
    (row,) = read_table(folder / "whole" / "neurons.parquet").to_pylist()
    assert row["p_gradient"] == 0.01
    assert row["embedding_activation"] > row["discrete_best"] > row["gradient_best"] > row["random_best"]
