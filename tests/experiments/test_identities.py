"""Identities: they hold in every family, and each of them fails where its part of the model is not as it should be."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from ablations import language_model, text
from blocks import EXPERTS, NO_MID, VARIANTS
from tiny import build

from neurexp.errors import UserError
from neurexp.experiments import identities
from neurexp.experiments.base import Inputs
from neurexp.experiments.identities import IDENTITIES, Identities, Options, deviation
from neurexp.models.families import FAMILIES, Address
from neurexp.models.sites import blocks_of, use_family

THROUGH_NORMS = ("opt, norms last", "bloom, stream of norms")
TEXT = text(sequences=4, length=12, padded=3)


def check(network, fast=False, **options):
    """The report on a network over three whole sequences of random tokens."""
    experiment = Identities(Options(name="identities", plugin="", **options))
    model = replace(language_model(network), fast=fast)
    inputs = Inputs(model, "tiny", "random tokens", lambda: TEXT)
    return experiment.analyse(experiment.prepare(inputs), {})


def failed(report):
    """The identities that the report's first finding calls off."""
    assert report.findings[0].startswith("PASS") == (report.metrics["passed"] == 1)
    return {name for name in IDENTITIES if f"{name} ({IDENTITIES[name]}) is off" in report.findings[0]}


@pytest.mark.parametrize("name", VARIANTS)
def test_they_hold_in_every_family(name):
    family, changes = VARIANTS[name]
    report = check(build(family, **changes))
    report.check()
    assert report.findings[0].startswith("PASS"), report.findings[0]
    said = {one for one in IDENTITIES if f"worst_{one}" in report.metrics}
    expected = set(IDENTITIES) - {"fast"}
    if name in NO_MID:
        expected -= {"attention", "mlp"}
    if name in EXPERTS:
        expected -= {"mlp", "sum"}
    if name in THROUGH_NORMS:
        expected -= {"attention", "mlp", "sum"}
        assert "goes through norms" in report.findings[1]
    if name == "opt, norms last":
        expected -= {"last_with_norm"}  # there is no final norm
    assert said == expected


def test_the_table_has_the_deviations_that_numpy_finds_and_the_last_layer_needs_the_norm():
    network = build("gpt_neo")
    report = check(network)
    ids = torch.from_numpy(TEXT.input_ids[:3]).long()
    with torch.no_grad():
        hidden = [one.numpy() for one in network.base_model(ids, output_hidden_states=True).hidden_states]
    stream = []
    handle = blocks_of(network)[2].register_forward_hook(lambda module, given, out: stream.append(out))
    with torch.no_grad():
        network.base_model(ids)
    handle.remove()
    last = stream[0][0] if isinstance(stream[0], tuple) else stream[0]
    apart = np.linalg.norm(last.numpy() - hidden[-1], axis=-1) / np.linalg.norm(hidden[-1], axis=-1)
    assert report.metrics["last_without_norm"] == pytest.approx(apart.max(), rel=1e-5)
    assert report.layers["layer"].tolist() == [0, 1, 2]
    assert np.isnan(report.layers["deviation_stream_out"]).tolist() == [False, False, True]
    assert np.isnan(report.layers["deviation_last_with_norm"]).tolist() == [True, True, False]
    assert report.neurons["largest_first"][:16] == pytest.approx(np.abs(hidden[1][:, 0]).max(0), rel=1e-5)
    assert report.neurons["largest_rest"][:16] == pytest.approx(np.abs(hidden[1][:, 1:]).max((0, 1)), rel=1e-5)


def test_deviation_is_relative_to_each_tokens_norm():
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3, 5))
    expected = (np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).max()
    assert deviation(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-12)
    assert deviation(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)) == 0
    assert deviation(torch.ones(1, 1, 4), torch.zeros(1, 1, 4)) == np.inf


def test_activations_that_are_no_numbers_add_up_to_nothing():
    a, nan = torch.ones(1, 3, 4), torch.full((1, 1, 4), torch.nan)
    assert deviation(torch.cat([a, nan], 1), torch.cat([a, nan], 1)) == np.inf
    assert deviation(torch.full((1, 1, 4), torch.inf), torch.full((1, 1, 4), torch.inf)) == np.inf
    for layer in (0, 1):
        network = build("gpt_neo")
        next(blocks_of(network)[layer].parameters()).data[0] = torch.nan
        report = check(network)
        report.check()
        # The final norm is found by what it reads, which is never equal here
        assert failed(report) == set(IDENTITIES) - {"fast", "last_with_norm"}
        report.figures["deviations"]()


@pytest.mark.parametrize(
    ("site", "address", "caught"),
    [
        ("RESID_PRE", Address("ln_1"), {"stream_in", "attention", "sum"}),
        ("RESID_MID", Address("ln_2"), {"attention", "mlp"}),
        ("RESID_POST", Address("mlp"), {"stream_out", "mlp", "sum", "last_with_norm"}),
        ("ATTN_OUT", Address("attn.attention.v_proj"), {"attention", "sum"}),
        ("PROJ", Address("attn.attention.out_proj"), {"mlp", "sum"}),
    ],
)
def test_a_site_at_a_wrong_place_is_caught(site, address, caught):
    network = build("gpt_neo")
    family = FAMILIES["gpt_neo"]
    use_family(network, replace(family, sites=family.sites | {site: address}))
    assert failed(check(network)) == caught


def test_a_model_that_looks_ahead_is_caught():
    network = build("gpt_neo")

    def mixes(module, given, output):
        return output + output.mean(1, keepdim=True)

    blocks_of(network)[1].mlp.register_forward_hook(mixes)
    report = check(network)
    assert failed(report) >= {"prefix"}
    assert np.nan_to_num(report.layers["deviation_prefix"])[0] < 1e-5  # the layer before it is as it was


def test_a_model_whose_sequences_touch_each_other_is_caught():
    network = build("gpt_neo")

    def mixes(module, given, output):
        return output + output.mean(0, keepdim=True)

    blocks_of(network)[1].mlp.register_forward_hook(mixes)
    assert failed(check(network)) >= {"alone"}


def test_another_final_norm_is_caught(monkeypatch):
    network = build("gpt_neo")
    monkeypatch.setattr(identities, "norm_after_blocks", lambda network: blocks_of(network)[0].ln_1)
    assert failed(check(network)) == {"last_with_norm"}


def test_a_faster_forward_that_computes_something_else_is_caught(monkeypatch):
    @contextmanager
    def other(network):
        handle = blocks_of(network)[1].mlp.register_forward_hook(lambda module, given, output: 1.01 * output)
        yield
        handle.remove()

    network = build("gpt_neo")
    assert failed(check(network, fast=True)) == set()
    monkeypatch.setattr(identities, "fast_forward", other)
    assert failed(check(network, fast=True)) == {"fast"}


def test_hooks_that_are_left_are_caught_and_the_users_own_are_not(monkeypatch):
    network = build("gpt_neo")
    blocks_of(network)[0].register_forward_hook(lambda *given: None)  # the user's
    assert check(network).metrics["hooks_left"] == 0
    real = identities.capture

    def leaves(network, *given, **named):
        blocks_of(network)[0].register_forward_hook(lambda *given: None)
        return real(network, *given, **named)

    monkeypatch.setattr(identities, "capture", leaves)
    report = check(network)
    assert report.metrics["passed"] == 0
    assert "hooks are left" in report.findings[0]


def test_huge_dimensions_at_the_first_token_are_named():
    network = build("gpt2")

    def huge(module, given, output):
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[:, 0, 5] += 5000
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    blocks_of(network)[1].register_forward_hook(huge)
    report = check(network)
    assert report.metrics["passed"] == 0  # the block adds what neither attention nor MLP added
    assert "1 of 16 dimensions of the residual stream are huge" in report.findings[-1]
    assert "the largest: 5 (up to 50" in report.findings[-1]
    assert report.layers["huge_dimensions"].tolist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": 1}, "experiment.sequences=1: give a whole number from 2 to 1024"),
        ({"length": 3}, "experiment.length=3: give a whole number from 4"),
        ({"site": "Q"}, "experiment.site=Q: identities compares RESID_PRE"),
        ({"tolerance": 0.0}, "experiment.tolerance=0.0: give a number above 0"),
    ],
)
def test_a_bad_option_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        check(None, **changes)


def test_the_command_says_pass_and_leaves_its_tables(quick_cli, tmp_path):
    process = quick_cli(
        "experiment=identities",
        "model=mini",
        "dataset=pydoc",
        "dataset.tokens=512",
        "tracking=off",
        "dataset.sequence_length=64",
        "device=cpu",
    )
    assert process.returncode == 0, process.stderr
    assert "PASS over 4 sequences of 64 tokens and 6 layers: 9 identities hold" in process.stdout
    (folder,) = (tmp_path / "outputs" / "identities").iterdir()
    files = {path.name for path in folder.iterdir()}
    assert {"layers.parquet", "neurons.parquet", "columns.md", "summary.json", "figures"} <= files
