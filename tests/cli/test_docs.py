"""The page "Write your own experiment" is true: its plugin runs from outside the package, as the page says."""

import json
import re
from pathlib import Path

from pyarrow.parquet import read_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_own_experiment.md").read_text("utf-8")


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return code


def test_the_plugin_of_the_page_runs_from_another_folder(quick_cli, tmp_path):
    (tmp_path / "negation.py").write_text(block("python"), "utf-8")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "negation_tuning.yaml").write_text(block("yaml"), "utf-8")
    command = "--config-dir conf experiment=negation_tuning model=mini"
    assert f"python -m neurexp {command}" in PAGE
    few = ("experiment.permutations=100", "experiment.splits=2", "experiment.shuffles=2", "experiment.layer=[1,3]")
    process = quick_cli(*command.split(), "tracking=off", *few, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["experiment"] == "negation_tuning"
    assert summary["metrics"]["words"] == 200
    neurons = read_table(tmp_path / "run" / "neurons.parquet")
    assert set(neurons["layer"].to_pylist()) == {1, 3}
    assert {"t_welch", "t_paired", "p_maxt", "cohens_d", "auroc"} <= set(neurons.column_names)
    words = read_table(tmp_path / "run" / "words.parquet").to_pylist()
    # The option of the yaml is in force, and pairs are of the same verb
    by_pair = {}
    for row in words:
        by_pair.setdefault(row["pair"], set()).add(row["word"])
    assert len(by_pair) == 100
    assert all(len(pair) == 1 for pair in by_pair.values())
    assert "affirmed: They will {word}" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text("utf-8")


def test_an_option_that_the_plugin_does_not_have_is_refused(quick_cli, tmp_path):
    process = quick_cli("experiment=grammar_tuning", "model=mini", "dataset=pydoc", "+experiment.templat=x")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: experiment.templat")
