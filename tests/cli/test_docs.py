"""The pages are true: a plugin runs from outside the package, as its page says, and edits do what theirs says."""

import json
import re
from pathlib import Path

import pytest
import torch
from pyarrow.parquet import read_table

from neurexp.engine.edits import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_own_experiment.md").read_text("utf-8")


MOST_LINES = 40  # of a profile, imports included


def blocks(language: str) -> list[str]:
    """The code on the page: the contrast's, the profile's, the regression's, the intervention's, the optimisation's."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == 5
    return found


def written(folder: Path, name: str, config: str, index: int) -> None:
    """A plugin of the page and its config, as the page says where they lie."""
    (folder / f"{name}.py").write_text(blocks("python")[index], "utf-8")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / f"{config}.yaml").write_text(blocks("yaml")[index], "utf-8")


def test_the_plugin_of_the_page_runs_from_another_folder(quick_cli, tmp_path):
    written(tmp_path, "negation", "negation_tuning", 0)
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


def test_the_profile_of_the_page_is_short_and_runs_from_another_folder(quick_cli, tmp_path):
    code = blocks("python")[1]
    assert len(code.splitlines()) <= MOST_LINES
    imports = re.findall(r"^from (neurexp[\w.]*) import", "".join(blocks("python")), re.MULTILINE)
    assert set(imports) == {"neurexp", "neurexp.experiments", "neurexp.models", "neurexp.text"}  # no deep path
    written(tmp_path, "sentences", "sentence_position", 1)
    command = "--config-dir conf experiment=sentence_position model=mini dataset=pydoc"
    assert f"python -m neurexp {command}" in PAGE
    small = ("dataset.tokens=2000", "dataset.sequence_length=200", "experiment.layer=[1,3]")
    process = quick_cli(*command.split(), "tracking=off", *small, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["statistic"] == "r_sentence_position"
    assert summary["metrics"]["sentence_position_min"] == 0
    assert summary["findings"][0].startswith("The position in the sentence runs from 0 to 50 tokens, with a median of")
    assert "the null of values shifted along the text" in summary["findings"][1]
    neurons = read_table(run / "neurons.parquet").to_pandas()
    assert {"mean_lower", "mean_higher", "d_higher_lower", "p_sentence_position", "r_sentence_position_partial"} <= set(
        neurons.columns
    )
    columns = json.loads((run / "columns.json").read_text("utf-8"))
    assert "shifted circularly along the text" in columns["null_mean"]
    assert set(neurons.columns) <= set(columns)
    figures = {file.name for file in (run / "figures").iterdir()}
    assert {"activation_over_sentence_position.png", "sentence_position_and_frequency.png"} <= figures


def test_the_regression_of_the_page_runs_from_another_folder(quick_cli, tmp_path):
    written(tmp_path, "numbers_in_text", "numbers", 2)
    command = "--config-dir conf experiment=numbers model=mini dataset=pydoc"
    assert f"python -m neurexp {command}" in PAGE
    small = ("experiment.layer=1", "experiment.permutations=100", "experiment.shuffles=1")
    process = quick_cli(*command.split(), "tracking=off", *small, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["metrics"]["number_survivors"] > 0
    assert any("neurons: " in line and "so signs of any kind do not explain" in line for line in summary["findings"])
    rows = read_table(tmp_path / "run" / "rows.parquet").to_pandas()
    assert set(rows["comparison"]) == {"others", "words", "signs"}
    told = rows[rows["comparison"] == "words"]
    assert (told["word"].str.isdecimal() == (told["label"] == 1)).all()
    assert told["label"].mean() == 0.5


@pytest.mark.slow
def test_the_optimisation_of_the_page_runs_from_another_folder(quick_cli, tmp_path):
    written(tmp_path, "favourites", "favourites", 4)
    command = "--config-dir conf experiment=favourites model=mini dataset=pydoc"
    assert f"python -m neurexp {command}" in PAGE
    small = ("dataset.tokens=256", "experiment.steps=3", "experiment.search_steps=1", "experiment.starts=2")
    process = quick_cli(*command.split(), "tracking=off", *small, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    findings = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["findings"]
    assert not any("nan" in line for line in findings)  # two starts have no interval
    assert read_table(tmp_path / "run" / "neurons.parquet")["layer"].to_pylist() == list(range(6))


def test_the_intervention_of_the_page_runs_from_another_folder(quick_cli, tmp_path):
    written(tmp_path, "writers", "writers", 3)
    command = "--config-dir conf experiment=writers model=mini dataset=pydoc"
    assert f"python -m neurexp {command}" in PAGE
    small = ("dataset.tokens=256", "dataset.sequence_length=64", "experiment.draws=20", "experiment.sample=3")
    process = quick_cli(*command.split(), "tracking=off", *small, "experiment.ks=[4]", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    run = tmp_path / "run"
    effects = read_table(run / "effects.parquet").to_pandas()
    assert set(effects["tokens"]) == {"all", "next: the", "own: the"}
    assert {"the"} < set(effects["set"])
    metrics = json.loads((run / "summary.json").read_text("utf-8"))["metrics"]
    assert {"delta_loss_the", "p_the", "specific_delta_loss_the_next"} <= set(metrics)
    assert metrics["direct_the"] > 1  # they were chosen for that


def test_the_code_about_edits_runs_from_top_to_bottom():
    page = (ROOT / "docs" / "edits.md").read_text("utf-8")
    found = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/edits.md", "exec"), found)
    with torch.no_grad():
        plain = found["model"].network(found["ids"]).logits
    assert not torch.allclose(found["logits"], plain)
    assert found["stream"].shape == (1, found["ids"].shape[1], 192)
    assert found["harm"] != 0
    assert (found["both"][..., [5, 7]] == found["mean"]).all()
    assert re.findall(r"^\| `(\w+)`", page, re.MULTILINE)[1:] == list(KINDS)
