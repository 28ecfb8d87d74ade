"""What a run says before its pass: how much it will write, and what will take long afterwards."""

import re
from functools import partial
from unittest.mock import Mock

import pytest
import torch

import neurexp
from neurexp.experiments import promoted
from neurexp.experiments.top_contexts import experiment as top_contexts
from neurexp.models.load import load_model
from neurexp.runs import announcing

LAYERS = "experiment.layer=[0,1]"


def announced(folder, *overrides, experiment="top_contexts", layers=LAYERS):
    """The run's log, and the bytes of its folder."""
    given = [f"hydra.run.dir={folder}", "tracking=off", "dataset.tokens=2048", layers, *overrides]
    neurexp.run(experiment, model="mini", dataset="pydoc", overrides=given)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return (folder / "neurexp.log").read_text("utf-8"), written


@pytest.mark.parametrize(
    "options",
    [(), ("experiment.pages=false", "experiment.k=60", "experiment.before=60", "experiment.direct=0")],
    ids=["defaults", "wide windows without pages"],
)
def test_the_announced_size_is_that_of_the_run_folder_within_a_factor_of_two(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(announcing, "ANNOUNCED", -1)
    log, written = announced(tmp_path / "run", *options)
    (megabytes,) = re.findall(r"Pass: .*; the run will write about (\d+) MB", log)
    assert 0.5 < int(megabytes) * 1e6 / written < 2


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["[0]", "all"])
@pytest.mark.parametrize(
    "experiment", ["grammar_tuning", "categories", "context", "negation", "proper_nouns", "token_length"]
)
def test_each_experiment_announces_its_size(tmp_path, monkeypatch, experiment, layers):
    """To the byte, because tiny runs write few megabytes; figures, `THE_REST`, are much of that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(announcing, "ANNOUNCED", -1)
    monkeypatch.setattr(announcing, "log", log := Mock())
    tokens = "dataset.tokens=20_000" if experiment == "negation" else "dataset.tokens=4096"
    _, written = announced(tmp_path / "run", tokens, experiment=experiment, layers=f"experiment.layer={layers}")
    megabytes = log.info.call_args_list[-1].args[2]
    assert 0.5 < megabytes * 1e6 / written < 2


def test_what_takes_long_after_the_pass_is_said_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(top_contexts, "seconds_for", lambda *_: 600.0)
    few = ("experiment.pages=false", "experiment.k=1", "dataset.tokens=1024")
    log, _ = announced(tmp_path / "run", *few)
    said = "After the pass: about 10 min for the direct paths of all neurons to the logits (experiment.direct=0: none)"
    assert 0 < log.index(said) < log.index("Text: 1024 tokens in 2 sequences")
    log, _ = announced(tmp_path / "other", *few, "experiment.direct=0")
    assert said not in log


@pytest.mark.parametrize(("site", "layers"), [("MLP", (0, 1, 2)), ("RESID_POST", (0, 1))])
def test_the_seconds_of_direct_paths_are_those_of_one_block_times_the_blocks(monkeypatch, site, layers):
    model, clock, rows = load_model("mini", device="cpu"), [0.0], []

    def slow(effects: torch.Tensor, count: int):
        rows.append(len(effects))
        clock[0] += len(effects) / 8
        return real(effects, count)

    real = promoted.strongest
    monkeypatch.setattr(promoted, "strongest", slow)
    monkeypatch.setattr(promoted.time, "perf_counter", lambda: clock[0])
    seconds_for = partial(promoted.seconds_for, model.network, site, layers, 3)
    assert seconds_for() == 0 and not rows  # little work is not timed
    monkeypatch.setattr(promoted, "LITTLE", 0)
    seconds, timed = seconds_for(), sum(rows)
    promoted.promoted_tokens(model.network, site, layers, 3)
    assert seconds == pytest.approx((sum(rows) - timed) / 8)
