"""`experiment=top_contexts` from the command line: its files, several sites, a control, stored passes, mistakes."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from background import wait_for
from mistakes import mistake
from pyarrow.parquet import read_table
from safetensors import safe_open
from safetensors.numpy import load_file

MINI = (
    "experiment=top_contexts", "model=mini", "dataset=pydoc", "device=cpu", "device.threads=1", "tracking=off",
    "dataset.sequence_length=64", "device.batch_size=2", "experiment.pages=false",
)  # fmt: skip
FEW = (*MINI, "dataset.tokens=500", "experiment.layer=[0,2]", "experiment.k=4")
BOTH = (*FEW, "experiment.site=[MLP,RESID_POST]", "experiment.control=random", "experiment.direct=2")
FILES = ("contexts", "direct", "vocabulary")


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text("utf-8"))


def table_of(run: Path, name: str):
    return read_table(run / f"{name}.parquet").to_pandas()


def assert_close(one, other, rtol: float) -> None:
    assert list(one.columns) == list(other.columns)
    for name in one.columns:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=1e-9, err_msg=name)
        else:
            assert one[name].equals(other[name]), name


@pytest.fixture(scope="module")
def folder(commands, tmp_path_factory) -> Path:
    """A folder in which a run over two sites with a control, and one over the first site alone, have run."""
    folder = tmp_path_factory.mktemp("contexts")
    for arguments in ([*BOTH, "hydra.run.dir=both"], [*FEW, "experiment.direct=2", "hydra.run.dir=one"]):
        process = commands.run(arguments, folder)
        assert process.returncode == 0, process.stderr
    return folder


def test_a_run_has_all_files_and_defines_every_name(folder):
    run = folder / "both"
    summary, defined = summary_of(run), json.loads((run / "columns.json").read_text("utf-8"))
    neurons, layers = table_of(run, "neurons"), table_of(run, "layers")
    names = [*neurons.columns, *layers.columns, *summary["metrics"]]
    for site in ("MLP", "RESID_POST"):
        for name in FILES:
            names += [f"{name}_{site}.{column}" for column in table_of(run, f"{name}_{site}").columns]
        for name in ("windows", "context_tokens"):
            with safe_open(run / f"{name}_{site}.safetensors", "numpy") as file:
                names += [f"{name}_{site}.{tensor}" for tensor in file.keys()]  # noqa: SIM118
    own = {name.removesuffix("_control").removesuffix("_excess") for name in names}
    assert not [name for name in own if name not in defined]
    assert "NAME_control" in defined
    assert set(neurons["site"]) == {"MLP", "RESID_POST"}
    assert len(neurons) == 2 * (768 + 192)
    assert sorted(path.stem for path in (run / "figures").iterdir()) == sorted(
        f"{name}_{site}" for name in ("concentration", "control", "explained_variance", "properties_by_layer")
        for site in ("MLP", "RESID_POST")
    )  # fmt: skip
    assert all(np.isfinite(list(summary["metrics"].values())))


def test_a_residual_dimension_writes_itself(folder):
    direct = table_of(folder / "both", "direct_RESID_POST")
    by_layer = [rows.drop(columns="layer").reset_index(drop=True) for _, rows in direct.groupby("layer")]
    assert len(by_layer) == 2
    assert by_layer[0].equals(by_layer[1])
    assert set(direct["neuron"]) == set(range(192))


def test_the_control_is_beside_every_share(folder):
    summary = summary_of(folder / "both")
    metrics, line = summary["metrics"], summary["findings"][0]
    assert line.startswith("MLP: ")
    assert f"{metrics['MLP/share_explained']:.1%} of the neurons are explained by one of these" in line
    assert f"{metrics['MLP/share_explained_control']:.1%} in the same network with random weights" in line
    assert metrics["MLP/share_token_excess"] == metrics["MLP/share_token"] - metrics["MLP/share_token_control"]


def test_a_site_has_the_same_numbers_alone_as_together_with_others(folder):
    both, one = table_of(folder / "both", "neurons"), table_of(folder / "one", "neurons")
    both = both[both["site"] == "MLP"].drop(columns="site").reset_index(drop=True)
    assert_close(both, one, rtol=1e-6)
    for name in FILES:
        other = table_of(folder / "one", name)
        assert table_of(folder / "both", f"{name}_MLP").equals(other), name
    assert summary_of(folder / "one")["provenance"]["reused"] == ["text"]


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("k=0", "experiment.k=0: give a whole number from 1 to 1000"),
        ("k=ten", "experiment.k: Value 'ten' of type 'str'"),
        ("per_document=-1", "experiment.per_document=-1: give a whole number from 0 to 1000"),
        ("before=5000", "experiment.before=5000: give a whole number from 0 to 1000"),
        ("after=-1", "experiment.after=-1: give a whole number from 0 to 1000"),
        ("skip_positions=-1", "experiment.skip_positions=-1: give a whole number from 0 to "),
        ("histogram=-1", "experiment.histogram=-1: give a whole number from 0 to "),
        ("bins=4", "experiment.bins=4: give a whole number from 8 to 1024"),
        ("permutations=2", "experiment.permutations=2: give a whole number from 8 to 1024"),
        ("property_tokens=10", "experiment.property_tokens=10: give a whole number from 1024 to "),
        ("direct=-3", "experiment.direct=-3: give a whole number from 0 to 1000"),
        ("batches=0", "experiment.batches=0: give a whole number from 1 to "),
        ("batch_sequences=0", "experiment.batch_sequences=0: give a whole number from 1 to "),
        ("winners=[2,345]", "experiment.winners=[2,345]: give pairs of a layer and a neuron, such as [[2,345],[6,5]]"),
        ("winners=[[2,-1]]", "experiment.winners=[[2,-1]]: give pairs"),
        ("winners=all", "experiment.winners=all: give pairs"),
        ("pages=maybe", "experiment.pages: Value 'maybe'"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(option, answer):
    given = mistake("experiment=top_contexts", f"experiment.{option}")
    assert answer in given
    assert "\n" not in given


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("experiment.skip_positions=64", "experiment.skip_positions=64: give a whole number from 0 to 63"),
        ("experiment.winners=[[2,768]]", "experiment.winners=[[2, 768]]: there is no neuron 768 in layer 2; MLP has"),
        (
            "experiment.winners=[[3,1]]",
            "experiment.winners=[[3, 1]]: layer 3 is not run; give neurons of the layers 0, 2",
        ),
        ("experiment.control=shuffled", "experiment.control=shuffled: give off, random or shuffled_text"),
        pytest.param("experiment.site=MPL", "did you mean MLP?", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_that_only_the_model_or_the_text_shows_is_one_line(quick_cli, tmp_path, option, answer):
    process = quick_cli(*FEW, option)
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    assert re.match(r"error: ", line)
    assert answer in line
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_pass_goes_on_to_the_same_numbers(quick_cli, quick_start, tmp_path):
    arguments = (*FEW, "dataset.tokens=3000", "run.reuse=false", "run.checkpoint_every=0.01", "experiment.histogram=2")
    process = quick_cli(*arguments, "hydra.run.dir=whole")
    assert process.returncode == 0, process.stderr
    running = quick_start(*arguments)
    wait_for(lambda: list(tmp_path.glob("outputs/top_contexts/*/checkpoint_text*.safetensors")), running)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    (run,) = tmp_path.glob("outputs/top_contexts/*")
    process = quick_cli(*arguments, "run.resume=true")
    assert process.returncode == 0, process.stderr
    assert summary_of(run)["provenance"]["resumed"]["text"] > 0
    for name in (*FILES, "neurons", "layers"):
        assert (run / f"{name}.parquet").read_bytes() == (tmp_path / "whole" / f"{name}.parquet").read_bytes(), name


@pytest.mark.slow
def test_torchrun_gives_the_result_of_one_process(quick_cli, tmp_path):
    arguments = (*FEW, "device.batch_size=1", "experiment.per_document=2", "experiment.histogram=1", "run.reuse=false")
    winners = "experiment.winners=[[0,5],[2,7]]"
    process = quick_cli(*arguments, winners, "hydra.run.dir=one")
    assert process.returncode == 0, process.stderr
    process = quick_cli(*arguments, winners, "hydra.run.dir=two", processes=2)
    assert process.returncode == 0, process.stderr
    for name in (*FILES, "winners"):
        assert table_of(tmp_path / "one", name).equals(table_of(tmp_path / "two", name)), name
    assert_close(*(table_of(tmp_path / name, "neurons") for name in ("one", "two")), rtol=1e-8)
    for name in ("windows", "context_tokens", "neuron_histograms"):
        one, two = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("one", "two"))
        assert set(one) == set(two)
        assert all(np.array_equal(one[tensor], two[tensor]) for tensor in one), name


@pytest.mark.slow
def test_a_run_is_repeated_resumed_swept_and_compared(quick_cli, tmp_path):
    """With the files and numbers of the first."""
    process = quick_cli(*FEW, "hydra.run.dir=first")
    assert process.returncode == 0, process.stderr
    process = quick_cli("first", module="neurexp.rerun")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "identical" in process.stdout
    process = quick_cli("-m", *FEW, "run.seed=0,1", "hydra.sweep.dir=sweep")
    assert process.returncode == 0, process.stderr
    one, other = (table_of(tmp_path / "sweep" / job, "neurons") for job in ("0", "1"))
    assert one["maximum"].equals(other["maximum"])
    assert one["r_length"].equals(other["r_length"])
    assert not one["ev_token"].equals(other["ev_token"])  # other signs
    assert np.corrcoef(one["ev_token"], other["ev_token"])[0, 1] > 0.6
    runs = [str(tmp_path / "sweep" / job) for job in ("0", "1")]
    process = quick_cli(*runs, "--no-mlflow", module="neurexp.compare")
    assert process.returncode == 0, process.stderr
    assert "share_token" in process.stdout
