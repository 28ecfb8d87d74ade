"""The driver: which facts a run's summary has, and when text is read."""

import json
from dataclasses import replace

from hydra import compose, initialize_config_dir

from neurexp.config.schema import CONFIG_FOLDER, register_schema
from neurexp.experiments.token_length import TokenLength
from neurexp.runs import driver


class Boastful(TokenLength):
    """Claims facts that are the driver's, and one of its own."""

    def prepare(self, inputs):
        plan = super().prepare(inputs)
        return replace(plan, provenance={"reused": ["mine"], "seed": -1, "token_hash": "mine", "stimuli": "own"})


def summary_of(tmp_path, monkeypatch, *overrides):
    monkeypatch.setattr(driver, "write_figures", lambda *_: None)
    register_schema()
    common = ("model=mini", "dataset=pydoc", "device=cpu", "tracking=off", f"run.outputs={tmp_path}/outputs")
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("config", [*common, *overrides])
    (tmp_path / "run").mkdir()
    driver.run(config, tmp_path / "run")
    return json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))


def test_an_experiments_facts_replace_none_of_the_runs(tmp_path, monkeypatch):
    small = ("dataset.tokens=600", "dataset.sequence_length=60", "experiment.layer=0")
    summary = summary_of(tmp_path, monkeypatch, "experiment.plugin=test_driver.Boastful", *small)
    facts = summary["provenance"]
    assert facts["stimuli"] == "own"
    assert (facts["reused"], facts["seed"]) == ([], 0)
    assert len(facts["token_hash"]) == 64
