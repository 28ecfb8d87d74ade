"""What each kind of edit makes of activations, against hooks written by hand; masks, pads, order, mistakes."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny import EXPANSION, LAYERS, build, difference, token_ids

import neurexp
from neurexp.engine.edits import KINDS

Edit = neurexp.Edit
IDS = token_ids(3, 12)
CHOSEN = [5, 7, 30]
LENGTHS = [12, 5, 9]


@pytest.fixture(scope="module")
def model():
    """GPT-2: its neurons of layer i are what `transformer.h[i].mlp.c_proj` reads."""
    return build("gpt2")


def valid_on(side):
    """`[3, 12]`: sequences of `LENGTHS` with pads on one side; None without pads."""
    if side is None:
        return None
    places = torch.arange(12) if side == "right" else torch.arange(12).flip(0)
    return places[None] < torch.tensor(LENGTHS)[:, None]


def padded(valid):
    """What transformers' forward must be given for a text with pads."""
    if valid is None:
        return {}
    return {"attention_mask": valid.long(), "position_ids": (valid.cumsum(1) - 1).clamp(min=0)}


def logits(model, ids=IDS, **named):
    with torch.no_grad():
        return model(ids, **named).logits


@contextmanager
def neurons_by_hand(model, layer, function, chosen=CHOSEN):
    """A hook that replaces x `[sequences, length, neurons]` of the chosen neurons by function(x)."""

    def before(module, arguments):
        new = arguments[0].clone()
        new[..., chosen] = function(arguments[0][..., chosen]).to(new.dtype)
        return (new,)

    handle = model.transformer.h[layer].mlp.c_proj.register_forward_pre_hook(before)
    yield
    handle.remove()


def neurons_of(model, layer, valid=None, chosen=CHOSEN, **options):
    return neurexp.capture(model, IDS, "NEURON", layer, valid=valid, **options)[f"NEURON_{layer}"][..., chosen]


def mode_by_hand(values):
    """Of a one-dimensional sample, by halves."""
    values = sorted(values)
    while len(values) > 2:
        if len(values) == 3:
            gaps = values[1] - values[0], values[2] - values[1]
            values = [values[1]] if gaps[0] == gaps[1] else values[:2] if gaps[0] < gaps[1] else values[1:]
            continue
        half = (len(values) + 1) // 2
        first = min(range(len(values) - half + 1), key=lambda one: values[one + half - 1] - values[one])
        values = values[first : first + half]
    return sum(values) / len(values)


CONSTANTS = [
    ("zero", None, torch.zeros_like),
    ("value", 2, lambda x: torch.full_like(x, 2.0)),
    ("value", [1.0, -2.0, 3.5], lambda x: torch.tensor([1.0, -2.0, 3.5]).expand_as(x)),
    ("mean", np.array([0.1, 0.2, 0.3]), lambda x: torch.tensor([0.1, 0.2, 0.3]).expand_as(x)),
    ("peak", -0.25, lambda x: torch.full_like(x, -0.25)),
    ("scale", -0.5, lambda x: x * -0.5),
    ("scale", torch.tensor([2.0, 0.0, 1.0]), lambda x: x * torch.tensor([2.0, 0.0, 1.0])),
    ("add", 0.75, lambda x: x + 0.75),
    ("add", (1, 2, 3), lambda x: x + torch.tensor([1.0, 2.0, 3.0])),
]


@pytest.mark.parametrize(("kind", "value", "function"), CONSTANTS)
def test_kinds_that_need_no_text(model, kind, value, function):
    edit = Edit("NEURON", 1, CHOSEN, kind, value)
    with neurons_by_hand(model, 1, function):
        reference, stream = logits(model), neurexp.capture(model, IDS, "RESID_POST")
    with neurexp.edited(model, [edit]):
        assert difference(logits(model), reference) <= 1e-6
    captured = neurexp.capture(model, IDS, "RESID_POST", edits=[edit], batch_size=2)
    assert all(difference(captured[key], values) <= 1e-6 for key, values in stream.items())
    assert difference(logits(model), reference) > 1e-4


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("kind", ["mean", "peak"])
def test_means_and_modes_are_of_the_valid_tokens(model, kind, side):
    """With `edited` of the forward's own tokens; with `capture` of all tokens, whatever the batches. Pads stay NaN."""
    valid, edit = valid_on(side), Edit("NEURON", 1, CHOSEN, kind)
    every = torch.ones_like(IDS, dtype=torch.bool) if valid is None else valid
    sample = neurons_of(model, 1, valid)[every].double().numpy()
    numbers = sample.mean(0) if kind == "mean" else [mode_by_hand(column.tolist()) for column in sample.T]
    constant = torch.as_tensor(np.array(numbers))
    with neurons_by_hand(model, 1, lambda x: constant.expand(*x.shape)):
        reference = logits(model, **padded(valid))[every]
        stream = neurexp.capture(model, IDS, "RESID_POST", LAYERS - 1, valid=valid)["RESID_POST_2"]
    with neurexp.edited(model, [edit]):
        assert difference(logits(model, **padded(valid))[every], reference) <= 1e-5
    for batch_size in (1, 2, 3):
        found = neurexp.capture(model, IDS, "RESID_POST", 2, valid, batch_size, edits=[edit])["RESID_POST_2"]
        assert difference(found[every], stream[every]) <= 1e-5
        assert found[~every].isnan().all()


def test_a_mean_is_of_each_forward_of_its_own(model):
    with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, "mean")]):
        alone = torch.cat([logits(model, sequence[None]) for sequence in IDS])
        together = logits(model)
    assert difference(alone, together) > 1e-4
    for row, sequence in enumerate(IDS):
        mean = neurexp.capture(model, sequence, "NEURON", 1)["NEURON_1"][0, :, CHOSEN].mean(0)
        with neurons_by_hand(model, 1, lambda x, mean=mean: mean.expand_as(x)):
            assert difference(alone[row], logits(model, sequence[None])[0]) <= 1e-5


def test_values_are_measured_without_the_other_edits(model):
    """In `capture`; in `edited` each edit sees what the ones before it made."""
    edits = [Edit("NEURON", 0, CHOSEN, "value", 9.0), Edit("NEURON", 1, CHOSEN, "mean")]
    mean = neurons_of(model, 1).double().flatten(0, 1).mean(0)
    found = neurexp.capture(model, IDS, "NEURON", 1, edits=edits)["NEURON_1"][..., CHOSEN]
    assert difference(found, mean.expand(3, 12, -1)) <= 1e-6
    changed = neurexp.capture(model, IDS, "NEURON", 1, edits=edits[:1])["NEURON_1"][..., CHOSEN]
    with neurexp.edited(model, edits):
        in_the_forward = neurexp.capture(model, IDS, "NEURON", 1)["NEURON_1"][..., CHOSEN]
    assert difference(in_the_forward, changed.flatten(0, 1).mean(0).expand(3, 12, -1)) <= 1e-5
    assert difference(in_the_forward, found) > 1e-3


def sources(found, sample):
    """For each edited token the row of the sample that it has in all neurons, -1 for none."""
    same = (found[:, None] == sample[None]).all(-1)
    return [row.nonzero()[0].item() if row.any() else -1 for row in same]


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_resampled_neurons_have_all_the_values_of_one_valid_token(model, side):
    valid = valid_on(side)
    every = torch.ones_like(IDS, dtype=torch.bool) if valid is None else valid
    sample = neurons_of(model, 1, valid)[every]

    def resampled(value, batch_size):
        edits = [Edit("NEURON", 1, CHOSEN, "resample", value)]
        return sources(neurons_of(model, 1, valid, batch_size=batch_size, edits=edits)[every], sample)

    found = resampled(3, 3)
    assert min(found) >= 0
    assert len(set(found)) > len(sample) / 3  # of as many draws with replacement about 63 % differ
    assert found == resampled(3, 1) == resampled(3, 2)
    assert resampled(None, 2) == resampled(0, 2) != found
    # In a forward of the model itself, from the same forward
    heard = []
    with neurexp.edited(model, [Edit("NEURON", 1, CHOSEN, "resample", 3)]):
        reader = model.transformer.h[1].mlp.c_proj
        handle = reader.register_forward_pre_hook(lambda module, arguments: heard.append(arguments[0][..., CHOSEN]))
        first, second = logits(model, **padded(valid)), logits(model, **padded(valid))
        handle.remove()
    assert torch.equal(first, second)
    rows = [torch.isclose(row, sample, rtol=1e-4, atol=1e-5).all(-1).any() for row in heard[0][every]]
    assert all(rows)


def test_resampling_from_given_rows_takes_each_about_as_often(model):
    rows = torch.arange(12.0).view(4, 3)
    ids = token_ids(40, 50)
    edit = Edit("NEURON", 0, CHOSEN, "resample", rows)
    found = neurexp.capture(model, ids, "NEURON", 0, edits=[edit])["NEURON_0"][..., CHOSEN].flatten(0, 1)
    counts = np.bincount(sources(found, rows), minlength=4)
    assert counts.sum() == 2000
    assert ((counts - 500) ** 2 / 500).sum() < 16.3  # the 0.999 quantile of chi-square with 3 degrees of freedom


@pytest.mark.parametrize("make", [lambda mask: mask, lambda mask: mask.numpy(), lambda mask: mask.int().tolist()])
def test_only_chosen_tokens_are_edited(model, make):
    tokens = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) < 0.3
    edit = Edit("NEURON", 1, CHOSEN, "add", 1.5, tokens=make(tokens))
    with neurons_by_hand(model, 1, lambda x: x + 1.5 * tokens[..., None]):
        reference = logits(model)
    with neurexp.edited(model, [edit]):
        assert difference(logits(model), reference) <= 1e-6
    before = neurons_of(model, 1)
    for batch_size in (1, 2, 3):
        after = neurons_of(model, 1, batch_size=batch_size, edits=[edit])
        assert difference(after - before, 1.5 * tokens[..., None].expand_as(before)) <= 1e-5


def test_a_mask_of_tokens_does_not_choose_what_is_measured(model):
    tokens = torch.zeros(3, 12, dtype=torch.bool)
    tokens[1, 4] = True
    found = neurons_of(model, 1, edits=[Edit("NEURON", 1, CHOSEN, "mean", tokens=tokens)])
    before = neurons_of(model, 1)
    assert difference(found[1, 4], before.flatten(0, 1).mean(0)) <= 1e-6
    assert torch.equal(found[~tokens], before[~tokens])


def test_one_sequence_takes_a_mask_without_an_axis_of_sequences(model):
    tokens = torch.arange(12) >= 8
    edit = Edit("NEURON", 1, CHOSEN, tokens=tokens)
    found = neurexp.capture(model, IDS[0], "NEURON", 1, edits=[edit])["NEURON_1"][0][:, CHOSEN]
    assert ((found == 0).all(-1) == tokens).all()
    with neurexp.edited(model, [edit]):
        one = logits(model, IDS[:1])
    assert difference(one[0, :8], logits(model, IDS[:1])[0, :8]) <= 1e-6
    assert difference(one[0, 8:], logits(model, IDS[:1])[0, 8:]) > 1e-4


@pytest.mark.parametrize("shape", [(2, 12), (4, 12), (3, 11), (3, 13), (1, 12), (12,), (36,)])
def test_a_mask_of_another_shape_is_refused_before_anything_is_run(model, shape):
    edit = Edit("NEURON", 1, CHOSEN, "mean", tokens=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"tokens of an edit .*\[3, 12\]"):
        neurexp.capture(model, IDS, edits=[edit], batch_size=1)
    with neurexp.edited(model, [edit]), pytest.raises(ValueError, match=r"tokens of an edit .*\[3, 12\]"):
        logits(model)


def test_edits_of_one_site_act_in_their_order_and_edits_of_several_layers_together(model):
    twice = Edit("NEURON", 1, CHOSEN, "scale", 2.0)
    more = Edit("NEURON", 1, [7, 9], "add", 1.0)
    for edits, function in [([twice, more], lambda x: 2 * x + 1), ([more, twice], lambda x: 2 * (x + 1))]:
        assert (
            difference(neurons_of(model, 1, chosen=[7], edits=edits), function(neurons_of(model, 1, chosen=[7])))
            <= 1e-6
        )
    with neurons_by_hand(model, 0, torch.zeros_like), neurons_by_hand(model, 2, lambda x: x - 1):
        reference = logits(model)
    edits = [Edit("NEURON", 2, CHOSEN, "add", -1), Edit("NEURON", 0, CHOSEN)]
    with neurexp.edited(model, edits):
        assert difference(logits(model), reference) <= 1e-6


@pytest.mark.parametrize("turned", [False, True])
def test_what_an_edit_adds_in_the_middle_of_a_block_is_there_before_an_edit_behind_the_block(model, turned):
    edits = [Edit("RESID_MID", 1, CHOSEN[:2], "add", 5.0), Edit("RESID_POST", 1, CHOSEN[:2], "value", 2.0)]
    captured = neurexp.capture(model, IDS, "RESID_POST", 1, edits=edits[::-1] if turned else edits)["RESID_POST_1"]
    assert (captured[..., CHOSEN[:2]] == 2.0).all()


@pytest.mark.parametrize(("kind", "function"), [("scale", lambda x: x * 0.3), ("add", lambda x: x + 0.3)])
def test_in_bfloat16_the_result_is_rounded_once(kind, function):
    model = build("gpt2", dtype=torch.bfloat16)
    found = neurons_of(model, 1, edits=[Edit("NEURON", 1, CHOSEN, kind, 0.3)])
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, function(neurons_of(model, 1).float()).bfloat16())
    mean = neurons_of(model, 1, edits=[Edit("NEURON", 1, CHOSEN, "mean")])
    assert torch.equal(mean[0, 0], neurons_of(model, 1).double().flatten(0, 1).mean(0).bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": ["Q", "K"]}, "site must be the name"),
        ({"layer": "all"}, "one Edit for each layer"),
        ({"layer": [0, 1]}, "one Edit for each layer"),
        ({"layer": True}, "layer must be"),
        ({"layer": 1.0}, "layer must be"),
        ({"neurons": []}, "indices from 0"),
        ({"neurons": [-1]}, "indices from 0"),
        ({"neurons": [1.5]}, "indices from 0"),
        ({"neurons": [True, False]}, "indices from 0"),
        ({"neurons": [[1, 2]]}, "indices from 0"),
        ({"neurons": [[1], [2, 3]]}, "indices from 0"),
        ({"neurons": "all"}, "indices from 0"),
        ({"neurons": {5, 7}}, "indices from 0"),
        ({"neurons": None}, "indices from 0"),
        ({"neurons": [1, 1]}, "twice"),
        ({"kind": "ablate"}, "zero, mean, peak, resample, value, scale, add"),
        ({"kind": None}, "zero, mean"),
        ({"value": 3.0}, "kind='zero' takes no value"),
        ({"kind": "value"}, "needs a value"),
        ({"kind": "scale"}, "needs a value"),
        ({"kind": "add"}, "needs a value"),
        ({"kind": "value", "value": [1.0]}, "one for each of the 2"),
        ({"kind": "mean", "value": [1.0, 2.0, 3.0]}, "one for each of the 2"),
        ({"kind": "add", "value": [[1.0, 2.0]]}, "one for each of the 2"),
        ({"kind": "value", "value": "much"}, "value must be numbers"),
        ({"kind": "value", "value": [[1], [1, 2]]}, "value must be numbers"),
        ({"kind": "value", "value": float("nan")}, "finite"),
        ({"kind": "resample", "value": 1.5}, "seed, or values"),
        ({"kind": "resample", "value": -1}, "seed, or values"),
        ({"kind": "resample", "value": 10**30}, "value must be numbers"),
        ({"kind": "resample", "value": [1.0, 2.0]}, "seed, or values"),
        ({"kind": "resample", "value": torch.zeros(0, 2)}, "seed, or values"),
        ({"tokens": [3, 4]}, "not their indices"),
        ({"tokens": True}, "for each token"),
        ({"tokens": "nouns"}, "tokens must be"),
    ],
    ids=lambda one: str(one)[:40] if isinstance(one, dict) else "",
)
def test_an_edit_that_cannot_be_is_one_clear_error(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Edit(**({"site": "NEURON", "layer": 1, "neurons": [2, 3]} | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("neurons", [(5, 7), range(5, 8, 2), np.array([5, 7]), torch.tensor([5, 7])])
def test_indices_of_every_kind(model, neurons):
    edit = Edit("NEURON", np.int64(1), neurons)
    assert (edit.layer, edit.neurons) == (1, (5, 7))
    assert (neurons_of(model, 1, chosen=[5, 7], edits=[edit]) == 0).all()


def test_which_edits_are_measured_on_a_text():
    values = {"value": 1, "scale": 1, "add": 1}
    measured = {kind for kind in KINDS if Edit("NEURON", 0, [1], kind, values.get(kind)).is_measured}
    assert measured == {"mean", "peak", "resample"}
    assert Edit("NEURON", 0, [1], "resample", 4).is_measured
    assert not Edit("NEURON", 0, [1], "resample", [[4.0]]).is_measured
    assert not Edit("NEURON", 0, [1], "mean", 4).is_measured


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("UP", 1, [1]), "experiment.site=UP: gpt2 has"),
        (Edit("NEURON", LAYERS, [1]), f"layer {LAYERS} of an edit: this model has layers 0 to {LAYERS - 1}"),
        (Edit("NEURON", -1, [1]), "layer -1 of an edit"),
        (Edit("NEURON", 1, [2, EXPANSION]), f"neuron {EXPANSION} of layer 1: NEURON has neurons 0 to {EXPANSION - 1}"),
        (Edit("NEURON", 1, [EXPANSION], "mean"), f"neuron {EXPANSION} of layer 1"),
        (Edit("K", 1, [16]), "neuron 16 of layer 1: K has neurons 0 to 15"),
    ],
)
def test_a_place_that_the_model_does_not_have(model, edit, message):
    with pytest.raises(neurexp.UserError, match=message):
        neurexp.capture(model, IDS, edits=[edit])
    with pytest.raises(neurexp.UserError, match=message), neurexp.edited(model, [edit]):
        logits(model)


@pytest.mark.parametrize("edits", [Edit("NEURON", 1, [1]), [("NEURON", 1, [1])], "zero", None, 3], ids=str)
def test_edits_that_are_no_list_of_edits(model, edits):
    with pytest.raises(TypeError, match=r"edits must be a list of neurexp\.Edit"):
        neurexp.capture(model, IDS, edits=edits)
    with pytest.raises(TypeError, match=r"edits must be a list of neurexp\.Edit"), neurexp.edited(model, edits):
        pass


def test_a_model_that_is_none():
    with pytest.raises(TypeError, match="model must be"), neurexp.edited("gpt2", []):
        pass
