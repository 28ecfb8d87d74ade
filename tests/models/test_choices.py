"""Choices of sites and layers that a model's config.json shows to be wrong, before anything heavy is imported."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import CONFIGS, build

from neurexp.errors import UserError
from neurexp.models.choices import check_early
from neurexp.models.locations import Location
from neurexp.models.sites import sites_of

LATE = ("torch", "transformers", "mlflow", "datasets")
MISTAKES = [
    ("experiment.site=zzz", "experiment.site=zzz: gpt_neo has MLP, ACT"),
    ("experiment.site=[MLP,UP]", "experiment.site=UP: gpt_neo has MLP, ACT"),
    ("experiment.site=acts", "did you mean ACT?"),
    ("experiment.site=[]", "experiment.site=[]: give one site, or a list"),
    ("experiment.layer=99", "experiment.layer=99: this model has layers 0 to 5"),
    ("experiment.layer=[0,6]", "experiment.layer=[0, 6]: this model has layers 0 to 5"),
    ("model=hub model.name={empty}", "is no model's folder (no config.json)"),
    ("--model mini", "--model: options have no dashes; give model=mini"),
    ("--dataset.tokens=7", "options have no dashes; give dataset.tokens=7"),
]


@pytest.mark.parametrize(("given", "answer"), MISTAKES, ids=[given for given, _ in MISTAKES])
def test_a_wrong_choice_is_one_line_before_the_large_libraries(given, answer, tmp_path):
    """The program runs as a user's, with libraries that end it if anything imports them."""
    for name in LATE:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported too early')")
    (tmp_path / "empty").mkdir()
    arguments = ["model=mini", "dataset=pydoc", *given.format(empty=tmp_path / "empty").split()]
    process = subprocess.run(
        [sys.executable, "-m", "neurexp", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert answer in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("mlflow.db"))


def folder_of(config: dict, tmp_path: Path) -> Location:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return Location(str(tmp_path), name="model")


@pytest.mark.parametrize("family", CONFIGS)
def test_what_a_model_has_is_not_refused_early(family, tmp_path):
    network = build(family)
    network.config.save_pretrained(tmp_path)
    location = Location(str(tmp_path), name="model")
    check_early(location, list(sites_of(network)), [0, network.config.num_hidden_layers - 1])
    with pytest.raises(UserError, match="this model has layers"):
        check_early(location, "Q", network.config.num_hidden_layers)


def test_what_the_config_cannot_tell_is_left_to_the_model(tmp_path):
    check_early(None, "zzz", 99)
    check_early(folder_of({"model_type": "invented", "n_layer": 2}, tmp_path), "zzz", 99)
    check_early(folder_of({"model_type": "llama"}, tmp_path), "MLP", 99)
    location = folder_of({"model_type": "llama", "num_hidden_layers": 2}, tmp_path)
    check_early(location, "MINE", None, ["MINE"])
    check_early(replace(location, path=str(tmp_path / "config.json")), "zzz", 99)
