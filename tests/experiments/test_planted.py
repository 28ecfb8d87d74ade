"""Planted neurons are found, with their signs; where nothing is planted, the corrected tests keep their rates."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import inputs_of, run_passes
from pyarrow.parquet import read_table
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

import neurexp
from neurexp.experiments.contrast import ContrastData
from neurexp.experiments.grammar_tuning import GrammarTuning, Options
from neurexp.models.load import load_model
from neurexp.stats import nulls

torch.set_num_threads(1)

MINI = Path(neurexp.__file__).parent / "mini"
LISTS = Path(neurexp.__file__).parent / "text" / "word_lists"
LAYER, HIGHER, LOWER = 3, 123, 456  # the neuron that prefers nouns (category 1), and the one that prefers verbs
DRAWS = 300
ARGUMENTS = (
    "experiment=grammar_tuning",
    "dataset=pydoc",
    "device=cpu",
    "tracking=off",
    "experiment.text=false",
    f"experiment.layer={LAYER}",
    f"experiment.permutations={DRAWS}",
    "experiment.splits=4",
    "experiment.shuffles=2",
)


@torch.inference_mode()
def inputs_of_the_layer(words):
    """What c_fc of the layer is given, mean over each word's tokens, `[words, hidden]`."""
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    network = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval()
    seen = []
    handle = network.transformer.h[LAYER].mlp.c_fc.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0][0].double().mean(0).numpy())
    )
    for word in words:
        network(input_ids=torch.tensor([tokenizer(word, add_special_tokens=False).input_ids]), use_cache=False)
    handle.remove()
    return np.array(seen)


def direction():
    """Weights and bias that bring verbs near −1 and nouns near 1: least squares, a little shrunken."""
    verbs, nouns = ((LISTS / f"{category}.txt").read_text("utf-8").split() for category in ("verbs", "nouns"))
    x = inputs_of_the_layer([*verbs, *nouns])
    target = np.repeat([-1.0, 1.0], [len(verbs), len(nouns)])
    centred = x - x.mean(0)
    ridge = 0.01 * np.trace(centred.T @ centred) / x.shape[1]
    weight = np.linalg.solve(centred.T @ centred + ridge * np.eye(x.shape[1]), centred.T @ target)
    return weight, -x.mean(0) @ weight


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A copy of the embedded model with two neurons of one layer replaced."""
    folder = tmp_path_factory.mktemp("model") / "planted"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MINI / name, folder / name)
    tensors = load_file(MINI / "model.safetensors")
    weight, bias = direction()
    own_weight, own_bias = (tensors[f"transformer.h.{LAYER}.mlp.c_fc.{name}"] for name in ("weight", "bias"))
    for neuron, sign in ((HIGHER, 1), (LOWER, -1)):
        own_weight[neuron] = torch.from_numpy(sign * weight).to(own_weight.dtype)
        own_bias[neuron] = sign * bias
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def columns_of(folder):
    return {name: np.array(column) for name, column in read_table(folder / "neurons.parquet").to_pydict().items()}


def test_planted_neurons_are_found_with_their_signs_and_a_model_before_them_is_not_mistaken_for_theirs(
    planted, quick_cli, tmp_path
):
    before = quick_cli(*ARGUMENTS, "model=mini", "hydra.run.dir=before")
    after = quick_cli(*ARGUMENTS, "model=hub", f"model.name={planted}", "hydra.run.dir=after")
    for process in (before, after):
        assert process.returncode == 0, process.stderr
    neurons, without = columns_of(tmp_path / "after"), columns_of(tmp_path / "before")
    assert set(neurons["layer"]) == {LAYER}
    t = neurons["t_welch"]
    assert t.argmax() == HIGHER
    assert t.argmin() == LOWER
    assert set(np.argsort(-np.abs(t))[:2]) == {HIGHER, LOWER}
    np.testing.assert_allclose(t[HIGHER], -t[LOWER], rtol=1e-3)
    for neuron in (HIGHER, LOWER):
        assert abs(t[neuron]) > 1.5 * np.abs(np.delete(t, [HIGHER, LOWER])).max()
        assert abs(without["t_welch"][neuron]) < 0.5 * abs(t[neuron])
        assert neurons["significant_bonferroni"][neuron]
        assert neurons["q_welch_all"][neuron] < 1e-10
        assert neurons["p_paired"][neuron] < 1e-10
        for name in ("p_permutation", "p_maxt", "p_maxt_all"):
            assert neurons[name][neuron] == 1 / (DRAWS + 1)
        assert neurons["selected"][neuron] == neurons["replicated"][neuron] == 1
        assert neurons["probe_accuracy"][neuron] > 0.9
    assert neurons["mean_1"][HIGHER] > neurons["mean_0"][HIGHER]
    assert neurons["cohens_d_low"][HIGHER] > 1
    assert neurons["cohens_d_high"][LOWER] < -1
    assert neurons["auroc"][HIGHER] > 0.95
    assert neurons["auroc"][LOWER] < 0.05
    # Only they were touched, in the layer that is looked at
    others = np.delete(np.arange(768), [HIGHER, LOWER])
    np.testing.assert_allclose(t[others], without["t_welch"][others], rtol=1e-6)
    summary = json.loads((tmp_path / "after" / "summary.json").read_text("utf-8"))
    metrics, findings = summary["metrics"], "\n".join(summary["findings"])
    assert (metrics["top_layer"], metrics["top_neuron"]) == (LAYER, HIGHER)
    assert (metrics["bottom_layer"], metrics["bottom_neuron"]) == (LAYER, LOWER)
    assert metrics["top_t"] == t[HIGHER]
    assert metrics["bottom_t"] == t[LOWER]
    assert metrics["auroc_heldout_best"] > 0.95
    assert f"prefers “nouns” most is {LAYER}.{HIGHER} (layer.neuron" in findings
    assert f"prefers “verbs” most is {LAYER}.{LOWER} (layer.neuron" in findings
    assert summary["provenance"]["reused"] == []


# Where nothing is planted


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_over_shuffled_labels_the_corrected_p_errs_in_one_run_of_twenty(sizes):
    """Both tests are exact whatever the neurons' dependence: P(p ≤ 50/1000) is 50/1000, and p < 0.05 is p ≤ 49/1000."""
    options = Options(name="grammar_tuning", plugin="", text=False, layer=4, second_template=None)
    plan = GrammarTuning(options).prepare(inputs_of(load_model("mini", device="cpu")))
    x = ContrastData.of(options, plan, run_passes(plan)).activations["words"][4].astype(np.float64)
    if sizes == "unequal":
        x = x[60:]
    labels = (np.arange(len(x)) >= len(x) - 100).astype(int)
    random, runs = np.random.default_rng(0), 300
    errs, shares = 0, []
    for run in range(runs):
        null = nulls.permutation(x, random.permutation(labels), draws=999, seed=1000 + run)
        errs += bool((null.p_max < 0.05).any())
        shares.append((null.p < 0.05).mean())
    level = 49 / 1000
    print(f"{sizes}: {errs} of {runs} runs err; mean share {np.mean(shares):.4f}")
    low, high = stats.binom.ppf([5e-4, 1 - 5e-4], runs, level)
    assert low <= errs <= high
    assert abs(np.mean(shares) - level) < 4 * np.std(shares, ddof=1) / np.sqrt(runs)
    assert np.std(shares, ddof=1) / np.sqrt(runs) < 0.01
