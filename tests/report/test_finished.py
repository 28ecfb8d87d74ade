"""A finished run read back from its folder, its sites, and whether a model is the one that it was made with."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from pyarrow import parquet

from neurexp.errors import UserError
from neurexp.io.files import write_table
from neurexp.report.finished import FinishedRun, read_finished

GIVEN = "experiment.run=X"


@pytest.fixture
def folder(finished: Finished, tmp_path: Path) -> Path:
    """A copy of a finished run, without its figures."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("figures")))


def of_sites(folder: Path, *sites: str) -> FinishedRun:
    """The run in `folder` as if it had captured several sites; the second site's r is that of the first, negated."""
    for name in ("layers", "neurons"):
        table = parquet.read_table(folder / f"{name}.parquet").to_pandas()
        table = {column: np.tile(table[column].to_numpy(), len(sites)) for column in table}
        rows = len(table["layer"]) // len(sites)
        if name == "neurons":
            table["r_length"][rows:] *= -1
        write_table(folder / f"{name}.parquet", {"site": np.repeat(sites, rows), **table})
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    metrics = {f"{site}/r_median_all": index for index, site in enumerate(sites)}
    (folder / "summary.json").write_text(json.dumps(summary | {"metrics": metrics}), "utf-8")
    return read_finished(folder, GIVEN)


def refusal(call) -> str:
    with pytest.raises(UserError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_everything_of_a_run_is_there(finished: Finished):
    run = read_finished(finished.folder, GIVEN)
    table = parquet.read_table(finished.folder / "neurons.parquet")
    assert {name: values.tolist() for name, values in run.neurons.items()}.keys() == set(table.column_names)
    assert run.neurons["neuron"].tolist() == table["neuron"].to_pylist()
    assert (run.experiment, run.summary["statistic"], run.sites) == ("token_length", "r_length", ("MLP",))
    assert run.options.dataset.tokens == 1200
    assert run.options.experiment.plugin == "neurexp.experiments.token_length.TokenLength"
    assert run.columns["r_length"].startswith("Pearson's r")
    assert run.place == str(finished.folder)
    assert run.neurons_hash == hashlib.sha256((finished.folder / "neurons.parquet").read_bytes()).hexdigest()


def test_a_run_of_several_sites_is_seen_site_by_site(folder):
    whole = of_sites(folder, "Q", "K")
    assert whole.sites == ("Q", "K")
    first, second = whole.by_site()
    key = whole.at_site("K")
    for run in (second, key):
        assert run.neurons["r_length"].tolist() == pytest.approx((-first.neurons["r_length"]).tolist(), nan_ok=True)
        assert set(run.neurons["site"]) == set(run.layers["site"]) == {"K"}
        assert run.summary["metrics"] == {"r_median_all": 1, "Q/r_median_all": 0}
    assert refusal(lambda: whole.at_site("V")) == f"experiment.run_site=V: {GIVEN} has no such site; give one of Q, K"
    assert refusal(whole.at_site) == f"{GIVEN}: is of several sites; give experiment.run_site= one of Q, K"


def test_a_run_of_one_site_needs_no_choice(finished: Finished):
    run = read_finished(finished.folder, GIVEN)
    assert run.at_site() is run
    assert run.at_site("MLP") is run
    assert (
        refusal(lambda: run.at_site("NEURON"))
        == f"experiment.run_site=NEURON: {GIVEN} has no such site; give one of MLP"
    )


@pytest.mark.parametrize(
    ("damage", "answer"),
    [
        (lambda folder: (folder / "summary.json").unlink(), "not the folder of a finished run (summary.json missing)"),
        (lambda folder: (folder / "neurons.parquet").write_text("x"), "cannot be read (Parquet file size is 1 bytes"),
        (lambda folder: (folder / "summary.json").write_text("[]"), "its summary.json is not that of one finished run"),
        (
            lambda folder: (
                (folder / "summary.json").write_text('{"experiment": "sweep"}') and (folder / "layers.parquet").unlink()
            ),
            "(layers.parquet missing); this is a sweep: give the folders of its jobs",
        ),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(folder, damage, answer):
    damage(folder)
    told = refusal(lambda: read_finished(folder, GIVEN))
    assert told.startswith(f"{GIVEN}: ")
    assert answer in told


@pytest.mark.parametrize(("file", "read"), [(".hydra/config.yaml", "options"), ("columns.json", "columns")])
@pytest.mark.parametrize("content", ["{", "a: [", "\0"])
def test_damaged_options_and_definitions_are_one_line(folder, file, read, content):
    (folder / file).write_text(content)
    assert refusal(lambda: getattr(read_finished(folder, GIVEN), read)).startswith(f"{GIVEN}: its ")


def test_another_model_is_told_with_both_names_and_what_to_give(finished: Finished):
    run = read_finished(finished.folder, GIVEN)
    run.check_model("mini", run.facts["model_hash"])
    assert refusal(lambda: run.check_model("gpt2", "0" * 64)) == (
        f"{GIVEN}: is of mini, and model.name=gpt2 gives another model; give model=mini"
    )
    assert "and model.name=mini gives other weights, or another number format; give model=mini" in refusal(
        lambda: run.check_model("mini", "0" * 64)
    )


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (
            "[model=hub, model.name=a/b, dataset=pydoc, device.dtype=bfloat16]",
            "model=hub model.name=a/b device.dtype=bfloat16",
        ),
        ("[run.seed=3, ++model.sites.X=mlp]", "model=mini ++model.sites.X=mlp run.seed=3"),
        ("}", "model.name=mini"),
    ],
)
def test_the_model_is_asked_for_as_that_run_named_it(folder, typed, wanted):
    (folder / ".hydra" / "overrides.yaml").write_text(typed)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    summary["provenance"]["model_weights"] = "random"
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    told = refusal(lambda: read_finished(folder, GIVEN).check_model("gpt2", "0" * 64))
    assert sorted(told.rpartition("; give ")[2].split()) == sorted(wanted.split())
