"""Folders of finished runs, written by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from neurexp.config.schema import CONFIG_FOLDER, register_schema
from neurexp.io.files import write_table
from neurexp.report.finished import FinishedRun, read_finished
from neurexp.report.folder import write_report
from neurexp.report.report import Report

GIVEN = "experiment.run=X"


def made_run(
    folder: Path, neurons: Mapping[str, Any], statistic: str, words: Mapping[str, Any] | None = None, **summary: Any
) -> FinishedRun:
    """A run of one site with these columns of neurons, and a table of words."""
    table = {name: np.asarray(values) for name, values in neurons.items()}
    report = Report(
        [], {}, {"layer": np.unique(table["layer"])}, table, dict.fromkeys([*table, "layer"], ""), statistic
    )
    return written(folder, report, "site=MLP", words, **summary)


def written(
    folder: Path, report: Report, overrides: str = "", words: Mapping[str, Any] | None = None, **summary: Any
) -> FinishedRun:
    """The run folder of a report, as far as later runs read it.

    Args:
        folder: is made.
        report: of the run.
        overrides: of the experiment's options: `experiment=grammar_tuning experiment.words=FOLDER`, or `site=MLP` for
            a config of nothing else.
        words: a table of words, in place of the report's.
        summary: entries that replace the usual ones.
    """
    (folder / ".hydra").mkdir(parents=True)
    write_report(folder, report)
    if words is not None:
        write_table(folder / "words.parquet", {name: np.asarray(values) for name, values in words.items()})
    if overrides.startswith("experiment="):
        register_schema()
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("config", ["model=mini", "dataset=pydoc", *overrides.split()])
    else:
        name, _, value = overrides.partition("=")
        config = OmegaConf.create({"experiment": {name: value}})
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    usual = {
        "setting": "model on text",
        "experiment": "made",
        "statistic": report.statistic,
        "model_layers": 4,
        "metrics": report.metrics,
        "provenance": {},
    }
    (folder / "summary.json").write_text(json.dumps(usual | summary), "utf-8")
    return read_finished(folder, GIVEN)
