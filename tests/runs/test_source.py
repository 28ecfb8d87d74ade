"""An experiment that goes on from a finished run: where the run is found, and what is kept of it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from neurexp.config.schema import CONFIG_FOLDER, checked, register_schema
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.experiments.source import own_experiment
from neurexp.report.folder import CONFIG
from neurexp.report.report import Report
from neurexp.runs import driver
from neurexp.runs.rerun import arguments_of
from neurexp.runs.source import opened
from neurexp.text.tokens import Tokens

TOKENS = Tokens(np.arange(8, dtype=np.int32)[None], np.ones((1, 8), dtype=bool), 1)


@dataclass
class Options(base.Options):
    run: str | None = None
    site: str = "MLP"


class Onward(base.Experiment):
    """Reports how many neurons its source has."""

    Options = Options
    reads_text = False

    def prepare(self, inputs):
        return base.Plan(inputs, (), TOKENS)

    def analyse(self, plan, results):
        source = plan.inputs.source
        count = -1 if source is None else len(source.neurons["neuron"])
        keyed = "source" in self.key(plan.inputs)
        return Report([], {"found": count, "keyed": keyed}, {}, {}, {"found": "neurons", "keyed": "yes"}, "none")


def config_of(*overrides: str):
    register_schema()
    common = ("experiment.plugin=test_source.Onward", "model=mini", "dataset=pydoc", "device=cpu", "tracking=off")
    # Nothing but the options of every experiment and `run`
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("config", ["experiment=token_length", *common, *overrides])
    kept = {name: config.experiment[name] for name in ("name", "plugin", "site", "layer", "control")}
    config.experiment = OmegaConf.create(kept | {"run": config.experiment.get("run")})
    return config


def went_on(tmp_path: Path, monkeypatch, *overrides: str) -> dict:
    monkeypatch.setattr(driver, "write_figures", lambda *_: None)
    folder = tmp_path / "went_on"
    folder.mkdir()
    driver.run(config_of(f"run.outputs={tmp_path}/outputs", *overrides), folder)
    return json.loads((folder / "summary.json").read_text("utf-8"))


def refused(tmp_path: Path, monkeypatch, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        went_on(tmp_path, monkeypatch, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_experiment_without_a_source_gets_none(tmp_path, monkeypatch):
    summary = went_on(tmp_path, monkeypatch)
    assert summary["metrics"] == {"found": -1, "keyed": False}
    assert "source_run" not in summary["provenance"]


def test_a_folder_is_opened_from_where_the_command_was_typed(finished: Finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.folder.parent)
    summary = went_on(tmp_path, monkeypatch, f"++experiment.run={finished.folder.name}")
    assert summary["metrics"] == {"found": 6 * 768, "keyed": True}
    facts = summary["provenance"]
    assert facts["source_run"] == str(finished.folder)
    assert len(facts["source_run_hash"]) == 64
    wanted = OmegaConf.create({"experiment": {"run": finished.folder.name}})
    facts["dataset"] = {"source": "pydoc"}
    (tmp_path / "old").mkdir()
    assert f"++experiment.run={finished.folder}" in arguments_of(tmp_path / "old", wanted, facts)


def id_of(finished: Finished) -> str:
    return json.loads((finished.folder / "summary.json").read_text("utf-8"))["mlflow_run_id"]


@pytest.mark.parametrize("place", ["token_length/run", "multirun/sweep/3"])
def test_an_id_is_found_among_the_outputs(finished: Finished, tmp_path, monkeypatch, place):
    kept = shutil.copytree(finished.folder, tmp_path / "outputs" / place, ignore=shutil.ignore_patterns("figures"))
    config = checked(config_of(f"run.outputs={tmp_path}/outputs"))
    with opened(id_of(finished), config) as source:
        assert source is not None
        assert (source.folder, source.place) == (Path(kept), id_of(finished))


def test_an_id_is_downloaded_and_gone_afterwards(finished: Finished, tmp_path, monkeypatch):
    address = f"sqlite:///{finished.outputs / 'mlflow.db'}"
    config = checked(config_of(f"run.outputs={tmp_path}/outputs", f"tracking.uri={address}"))
    with opened(id_of(finished), config) as source:
        assert source is not None
        assert not source.folder.is_relative_to(finished.outputs)
        assert source.options.dataset.tokens == 1200
        assert source.columns["r_length"]
        assert len(source.neurons["neuron"]) == 6 * 768
    assert not source.folder.exists()


def test_the_run_of_another_model_is_refused_when_the_model_is_loaded(finished: Finished, tmp_path, monkeypatch):
    told = refused(tmp_path, monkeypatch, f"++experiment.run={finished.folder}", "model.weights=random")
    assert told.startswith(f"experiment.run={finished.folder}: is of mini, and model.name=mini gives other weights")
    assert told.endswith("; give model=mini")


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Folders that are no source: a benchmark's, a sweep's, an empty one."""
    folder = tmp_path_factory.mktemp("odd")
    for name, summary in (("benchmark", {"experiment": "benchmark"}), ("sweep", {"experiment": "sweep"}), ("no", None)):
        (folder / name).mkdir()
        if summary is not None:
            (folder / name / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("{odd}/gone", "no such folder; give the folder of a finished run, or its id in MLflow"),
        ("{odd}/no", "not the folder of a finished run (summary.json, layers.parquet, neurons.parquet missing)"),
        ("{odd}/sweep", "this is a sweep: give the folders of its jobs"),
        ("{odd}/benchmark", "a run of benchmark, which has no neurons; give a run that tested neurons"),
        ("x" * 300, "cannot be a run folder ("),
        (
            "0" * 31 + "f",
            "no such run folder, and no MLflow store at {outputs}/mlflow.db; give its address with tracki",
        ),
    ],
    ids=lambda one: one[:20],
)
def test_what_is_no_source_is_refused_before_the_model_is_loaded(odd, tmp_path, monkeypatch, given, answer):
    monkeypatch.setattr("neurexp.runs.measure.load_model", lambda **_: pytest.fail("the model was loaded"))
    given = given.replace("{odd}", str(odd))
    told = refused(tmp_path, monkeypatch, f"++experiment.run='{given}'")
    assert told.startswith(f"experiment.run={given}: ")
    assert answer.replace("{outputs}", str(tmp_path / "outputs")) in told
    assert not list((tmp_path / "went_on").iterdir())


def test_a_source_without_options_is_opened_and_its_experiment_refused(finished: Finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / CONFIG).write_text("")
    with opened(str(tmp_path / "run"), checked(config_of())) as source:
        assert source is not None
        with pytest.raises(UserError, match="its experiment cannot be set up again"):
            own_experiment(source)


def test_an_empty_source_is_not_the_current_folder(tmp_path, monkeypatch):
    assert refused(tmp_path, monkeypatch, "++experiment.run=''").startswith("experiment.run is empty: ")
