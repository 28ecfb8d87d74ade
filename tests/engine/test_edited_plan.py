"""Edited passes in a plan: their edits come from earlier passes, and their mistakes are one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import environment

import neurexp
from neurexp.engine.edited_pass import run_edited_pass
from neurexp.engine.plan import EditedPass, GradientPass, Pass, activation_key, run, run_together
from neurexp.engine.reducers.effects import Effects
from neurexp.text.tokens import Tokens

Edit = neurexp.Edit
VARIANTS = [[Edit("NEURON", 3, [5, 7])], [Edit("NEURON", 1, [2], "value", 2.0)], []]


@pytest.fixture(scope="module")
def mini():
    return neurexp.load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def text(mini):
    """Three sequences of the model's own documentation, the last one padded."""
    ids = np.zeros((3, 24), dtype=np.int32)
    ids.flat[:] = mini.tokenizer("\n".join(str(one.__doc__) for one in (np, neurexp, torch))).input_ids[: ids.size]
    valid = np.ones(ids.shape, dtype=bool)
    valid[-1, 15:] = False
    return Tokens(ids, valid, 1)


def effects_of(tokens, variants):
    groups = torch.ones(1, *tokens.valid.shape, dtype=torch.bool)
    return Effects(groups, torch.arange(len(tokens.valid)), variants, variants)


def planned(tokens, variants=VARIANTS, **options):
    return EditedPass(
        name="edits",
        tokens=tokens,
        site="NEURON",
        layers=(1, 3),
        reducers=lambda _: {"effects": effects_of(tokens, len(variants))},
        variants=lambda results: variants,
        **options,
    )


def test_a_planned_pass_is_the_edited_pass(mini, text):
    """The fast forward rounds differently."""
    found, alone = run(planned(text).after({}), mini, batch_size=2)["effects"], effects_of(text, 3)
    run_edited_pass(mini.network, VARIANTS, text.input_ids, text.valid, alone, batch_size=2)
    assert torch.equal(found.counts, alone.counts)
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-5)
    np.testing.assert_allclose(found.details, alone.details, rtol=1e-4, atol=1e-3)
    whole = neurexp.predictions(mini, text.input_ids, text.valid, VARIANTS[0])
    np.testing.assert_allclose(found.loss[1, 0], whole["loss"].nansum(1), rtol=1e-5)
    np.testing.assert_allclose(found.loss[3], found.loss[0])


def test_edits_come_from_the_results_of_earlier_passes(text):
    one = planned(text)
    later = EditedPass("later", text, "NEURON", (1,), one.reducers, variants=lambda results: results["first"]["edits"])
    assert later.after({"first": {"edits": VARIANTS[:1]}}).edits == VARIANTS[:1]
    keys = [
        later.after({"first": {"edits": [[Edit("NEURON", 1, [neuron], "mean", value)]]}}).key
        for neuron, value in ((2, 0.5), (2, 0.5000001), (3, 0.5))
    ]
    assert keys[0] == keys[1]  # the last digits of a mean are no other pass
    assert keys[0] != keys[2]
    plain = Pass("plain", text, "NEURON", (1,), one.reducers)
    assert plain.after({"first": {}}) is plain


def test_a_loss_without_numbers_is_one_line(mini, text):
    variants = [[Edit("NEURON", 1, [2])], [Edit("NEURON", 3, [5], "value", 3e38)]]
    with pytest.raises(neurexp.UserError) as raised:
        run(planned(text, variants).after({}), mini)
    assert str(raised.value) == (
        "device.dtype=float32: the loss of the model with edits (value at 1 of NEURON_3) is NaN or infinite; check the "
        "values of the edits"
    )


def test_weights_without_numbers_are_told_from_edits(mini, text):
    weight = mini.network.lm_head.weight
    unused, kept = sorted(set(range(1, len(weight))) - set(text.input_ids.flat))[0], weight.detach().clone()
    with torch.no_grad():
        weight[unused] = torch.nan  # of a token that the text does not have, but that it might predict
    try:
        with pytest.raises(neurexp.UserError, match=r"float32: the loss is NaN or infinite; check the model's weights"):
            run(planned(text).after({}), mini)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_edited_passes_run_alone(mini, text):
    with pytest.raises(ValueError, match="runs alone"):
        run_together([planned(text).after({})] * 2, mini)


def test_what_one_process_runs_alone_is_not_shared(text):
    with pytest.raises(ValueError, match="the pass edits is shared: all processes must run it"):
        planned(text, shared=True, distributed=False)


def test_a_store_tells_an_edited_pass_from_others(mini, text):
    others = [kind("edits", text, "NEURON", (1, 3), dict) for kind in (Pass, GradientPass)]
    assert len({json.dumps(activation_key(mini, one, 2), sort_keys=True) for one in [planned(text), *others]}) == 3


CODE = """
import sys
import numpy as np
import torch
import neurexp
from neurexp.engine import processes
from neurexp.engine.plan import EditedPass, run
from neurexp.engine.reducers.effects import Effects
from neurexp.text.tokens import Tokens
from safetensors.torch import save_file

processes.connect()
ids = np.random.default_rng(0).integers(1, 5000, (5, 16)).astype(np.int32)
valid = np.ones(ids.shape, dtype=bool)
valid[3, 9:] = False
variants = [[neurexp.Edit("NEURON", 3, [5, 7])], [neurexp.Edit("NEURON", 1, [2], "resample", np.eye(4)[:, :1])], []]
planned = EditedPass(
    name="edits", tokens=Tokens(ids, valid, 1), site="NEURON", layers=(1, 3), shared=True,
    reducers=lambda _: {"effects": Effects(torch.ones(1, 5, 16) > 0, torch.arange(5), 3, 2)},
    variants=lambda results: variants,
)
effects = run(planned.after({}), neurexp.load_model("mini", device="cpu"), batch_size=1)["effects"]
save_file(effects.state(), f"{sys.argv[1]}/{processes.rank()}of{processes.count()}")
processes.shut_down()
"""


@pytest.mark.slow
def test_two_processes_have_the_effects_of_one(tmp_path):
    """To the bit, as the batches are the same; and every process has them, because the pass is shared."""
    from safetensors.torch import load_file

    script = tmp_path / "script.py"
    script.write_text(CODE, "utf-8")
    several = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for command in ([sys.executable], several):
        subprocess.run(
            [*command, str(script), str(tmp_path)],
            env=environment(tmp_path / "hf", PYTHONPATH=str(Path(neurexp.__file__).parents[1]), OMP_NUM_THREADS="1"),
            check=True,
            timeout=240,
        )
    one, *shared = (load_file(tmp_path / name) for name in ("0of1", "0of2", "1of2"))
    assert int(one["counts"].sum()) == 4 * 15 + 8
    for found in shared:
        assert all(torch.equal(values, found[name]) for name, values in one.items())
