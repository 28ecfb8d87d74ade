"""What a model predicts at every token, against transformers' own losses and against whole logits in float64."""

import threading

import numpy as np
import pytest
import torch
from blocks import VARIANTS
from conftest import sampled
from predicted import MEASURES, counted, edited_logits, log_probabilities, measures, whole_logits
from scipy import stats
from test_hooks import StopTestError, hooks_on
from tiny import LAYERS, VOCABULARY, build, token_ids
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import neurexp
from neurexp.engine.predictions import losses_of, measures_of, next_tokens, of_tokens
from neurexp.models import head

Edit = neurexp.Edit
IDS = token_ids(3, 12)
CHOSEN = [5, 7]
EDIT = Edit("NEURON", 1, CHOSEN, "scale", -3.0)
BY_HAND = ("NEURON", 1, CHOSEN, lambda x: -3.0 * x)
# Soft caps, scales, projections: what a family does beside the product with the unembedding
HEADS = {
    "gemma2, capped": ("gemma2", {"final_logit_softcapping": 2.0}),
    "granite, scaled": ("granite", {"logits_scaling": 3.0}),
    "cohere, scaled": ("cohere", {"logit_scale": 0.2}),
    "opt, projected": ("opt", {"word_embed_proj_dim": 8}),
}
MODELS = VARIANTS | HEADS


@pytest.fixture(scope="module")
def model():
    return build("gpt2")


def padded(side):
    """`[3, 12]`: 12, 5 and 9 valid tokens; `middle`: a pad between valid tokens as well."""
    places = torch.arange(12) if side != "left" else torch.arange(12).flip(0)
    valid = places[None] < torch.tensor([12, 5, 9])[:, None]
    if side == "middle":
        valid[0, 4] = False
    return valid


def assert_close(found, reference, tolerance=1e-5):
    assert found.shape == reference.shape
    np.testing.assert_allclose(np.asarray(found), np.asarray(reference), rtol=tolerance, atol=tolerance)


def assert_measures(found, logits, reference, ids, valid):
    """Two tokens may change places if their log-probabilities differ by no more than float32's rounding."""
    *expected, least = measures(logits, reference, ids, valid, slack=1e-5)
    for name, values in zip(MEASURES, expected, strict=False):
        assert_close(found[name], values)
    most = measures(logits, reference, ids, valid, slack=-1e-5)[3] - 1  # it counts the target itself
    ranks, exists = found["rank"].numpy(), counted(valid)
    assert (ranks[exists] >= least[exists]).all()
    assert (ranks[exists] <= most[exists]).all()
    assert np.mean(least[exists] == most[exists]) > 0.9
    assert np.isnan(ranks[~exists]).all()
    assert_close(found["loss_unedited"], measures(reference, reference, ids, valid)[0])


def test_measures_are_those_of_whole_logits_in_float64():
    logits, reference = torch.randn(2, 50, 300, generator=torch.Generator().manual_seed(0)) * 4
    targets = torch.randint(300, (50,), generator=torch.Generator().manual_seed(1))
    logits[0, 7] = logits[0, targets[0]]  # a tie, in the target's favour
    p, q = log_probabilities(logits), log_probabilities(reference)
    own = p[np.arange(50), targets]
    found = measures_of(logits, targets, reference.log_softmax(-1)).numpy()
    assert_close(found[0], -own)
    assert_close(losses_of(logits, targets), -own)
    assert_close(found[1], stats.entropy(np.exp(q), np.exp(p), axis=-1))  # of q, the reference, relative to p
    assert np.abs(found[1] - stats.entropy(np.exp(p), np.exp(q), axis=-1)).min() > 1e-3
    assert (found[2] == (p.argmax(-1) == q.argmax(-1))).all()
    assert (found[3] == 1 + (logits > logits.gather(1, targets[:, None])).sum(-1).numpy()).all()
    some, ranks = of_tokens(logits, torch.tensor([3, 299, 3]))
    assert_close(some, p[:, [3, 299, 3]])
    reference = stats.rankdata(-logits.numpy(), method="min", axis=-1)[:, [3, 299, 3]]
    assert (ranks.numpy() == reference).all()


def test_losses_over_a_large_vocabulary_are_not_too_small_on_average():
    """torch's log_softmax is, by 4e-6 here: an effect of a neuron may be smaller."""
    logits = torch.randn(100, 50_257, generator=torch.Generator().manual_seed(0)) * 4 - 100
    targets = torch.randint(50_257, (100,), generator=torch.Generator().manual_seed(1))
    found = measures_of(logits, targets, logits.log_softmax(-1))[0]
    assert abs(float((found.double() - losses_of(logits.double(), targets)).mean())) < 1e-6
    assert found.equal(losses_of(logits, targets))


def test_the_next_tokens_are_those_of_the_same_sequence():
    assert next_tokens(IDS)[:, :-1].equal(IDS[:, 1:])


@pytest.mark.parametrize(
    "name", [*HEADS, *sampled([pytest.param(name, id=name) for name in VARIANTS], 4)], ids=lambda name: str(name)
)
def test_losses_are_transformers_own(name):
    family, changes = MODELS[name]
    model = build(family, **changes)
    found = neurexp.predictions(model, IDS, batch_size=2)
    with torch.no_grad():
        output = model(IDS, labels=IDS, use_cache=False)
    reference = cross_entropy(output.logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten(), reduction="none")
    assert_close(found["loss"][:, :-1].flatten(), reference)
    # A mixture of experts adds the loss of its routers, if that is asked for, as it is not here
    assert float(found["loss"].nanmean()) == pytest.approx(float(output.loss), abs=1e-5)
    assert found["loss_unedited"][:, :-1].equal(found["loss"][:, :-1])
    assert bool((found["kl"][:, :-1] == 0).all())
    assert bool((found["agrees"][:, :-1] == 1).all())
    assert all(bool(values[:, -1].isnan().all()) for values in found.values())


@pytest.mark.parametrize("name", ["llama", "opt", "bloom", "gemma2, capped"])
def test_an_edited_model_is_one_with_hooks_written_by_hand(name):
    family, changes = MODELS[name]
    model, every = build(family, **changes), torch.ones_like(IDS)
    logits, reference = edited_logits(model, family, IDS, BY_HAND), whole_logits(model, IDS)
    assert_measures(neurexp.predictions(model, IDS, edits=[EDIT]), logits, reference, IDS, every)
    assert np.nanmean(measures(logits, reference, IDS, every)[1]) > 1e-3


@pytest.mark.parametrize("side", ["right", "left", "middle"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_pads_change_nothing(model, side, batch_size):
    valid = padded(side)
    logits = edited_logits(model, "gpt2", IDS, BY_HAND, valid=valid)
    reference = whole_logits(model, IDS, valid)
    foreign = IDS.where(valid, -100)  # what a collator puts at pads
    found = neurexp.predictions(model, foreign, valid, [EDIT], tokens=[4, 9], batch_size=batch_size)
    assert_measures(found, logits, reference, IDS, valid)
    p = log_probabilities(logits)
    for index, token in enumerate((4, 9)):
        assert_close(found["log_probability_of"][..., index][valid], p[..., token][valid])
        assert (found["rank_of"][..., index][valid].numpy() == 1 + (p > p[..., [token]]).sum(-1)[valid]).all()
    for name in ("log_probability_of", "rank_of"):
        assert bool(found[name][~valid].isnan().all())
        assert not bool(found[name][valid].isnan().any())  # also at the last token of a sequence
    assert (found["loss"].isnan().numpy() == ~counted(valid)).all()


def test_one_sequence_and_other_integers(model):
    reference = neurexp.predictions(model, IDS[:1], edits=[EDIT], tokens=[1])
    for ids in (IDS[0], IDS[0].numpy(), IDS[:1].int(), IDS[0].numpy().astype(np.uint8)):
        found = neurexp.predictions(model, ids, edits=[EDIT], tokens=torch.tensor([1]))
        assert all(torch.equal(found[name].nan_to_num(), reference[name].nan_to_num()) for name in reference)
        assert found["rank_of"].shape == (1, 12, 1)
    assert all(values.dtype == torch.float32 for values in found.values())


def test_a_text_that_predicts_nothing(model):
    valid = torch.zeros_like(IDS, dtype=torch.bool)
    valid[1, 3] = True
    found = neurexp.predictions(model, IDS, valid, [EDIT], tokens=[2])
    assert bool(found["loss"].isnan().all())
    assert int(found["rank_of"].isfinite().sum()) == 1
    assert bool(neurexp.predictions(model, IDS[:, :1])["loss"].isnan().all())


def test_what_an_edit_takes_from_the_text_does_not_depend_on_the_batches(model):
    valid = padded("left")
    for edit in (Edit("NEURON", 0, CHOSEN, "mean"), Edit("NEURON", 0, CHOSEN, "resample", 3)):
        one, three = (neurexp.predictions(model, IDS, valid, [edit], batch_size=size) for size in (1, 3))
        assert_close(one["loss"], three["loss"])
        assert_close(one["kl"], three["kl"])
        assert float(one["kl"].nansum()) > 1e-3


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ([VOCABULARY], "ids of the vocabulary, 0 to 59"),
        ([-1], "ids of the vocabulary"),
        ([1.5], "ids of the vocabulary"),
        (["the"], "tokens must be numbers"),
    ],
)
def test_tokens_that_are_no_ids_are_refused(model, tokens, match):
    with pytest.raises(ValueError, match=match):
        neurexp.predictions(model, IDS, tokens=tokens)


@pytest.mark.parametrize("where", ["block", "head", "nowhere"])
def test_nothing_is_left_behind(model, where):
    def fail(*_):
        raise StopTestError

    modules = {"block": model.transformer.h[2], "head": model.lm_head}
    handles = [modules[where].register_forward_hook(fail)] if where in modules else []
    before = hooks_on(model), {name: dict(module.__dict__) for name, module in model.named_modules()}
    plain = None if handles else whole_logits(model, IDS)
    if handles:
        with pytest.raises(StopTestError):
            neurexp.predictions(model, IDS, edits=[EDIT])
    else:
        neurexp.predictions(model, IDS, edits=[EDIT], tokens=[1])
        assert torch.equal(whole_logits(model, IDS), plain)
        model(IDS, labels=IDS).loss.backward()  # no tensor of inference mode is left in it
        model.zero_grad()
    assert (hooks_on(model), {name: dict(module.__dict__) for name, module in model.named_modules()}) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    for handle in handles:
        handle.remove()


def test_threads_at_once_have_their_own_edits_and_leave_nothing(model):
    edits = [[], [EDIT], [Edit("NEURON", 0, [1])], [Edit("RESID_POST", 2, [3], "add", 2.0)]]
    alone = [neurexp.predictions(model, IDS, edits=some, batch_size=1)["loss"][:, :-1] for some in edits]
    start, same = threading.Barrier(4), {}

    def repeatedly(index):
        start.wait()
        found = [neurexp.predictions(model, IDS, edits=edits[index], batch_size=1)["loss"][:, :-1] for _ in range(4)]
        same[index] = all(torch.equal(one, alone[index]) for one in found)

    threads = [threading.Thread(target=repeatedly, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert same == dict.fromkeys(range(4), True)
    assert all("forward" not in module.__dict__ for module in model.modules())


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made within the context."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        output = function(*arguments, **(named or {}))
        for one in output if isinstance(output, tuple | list) else [output]:
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.numel() * one.element_size())
        return output


def test_a_large_vocabulary_costs_no_more_than_a_piece(monkeypatch):
    """All logits at once would take 48 MB here; a piece takes 10, and no tensor that is made takes more."""
    monkeypatch.setitem(head.BUDGET, "cpu", 10 * 2**20)
    model = build("llama", vocab_size=150_000, tie_word_embeddings=True)
    ids = torch.randint(150_000, (2, 40), generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        found = neurexp.predictions(model, ids, edits=[EDIT], tokens=[149_999])
    assert 5 * 2**20 < largest.size <= 10 * 2**20
    few = ids[:1, :6]
    logits = edited_logits(model, "llama", few, BY_HAND)
    for name, values in zip(MEASURES, measures(logits, whole_logits(model, few), few, few >= 0), strict=True):
        assert_close(found[name][:1, :5], values[:, :5])


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_measures_of_every_family(name):
    family, changes = VARIANTS[name]
    model, every = build(family, **changes), torch.ones_like(IDS)
    reference = whole_logits(model, IDS)
    for layer in range(LAYERS):
        logits = edited_logits(model, name, IDS, ("RESID_POST", layer, CHOSEN, lambda x: x + 2.0))
        found = neurexp.predictions(model, IDS, edits=[Edit("RESID_POST", layer, CHOSEN, "add", 2.0)], batch_size=2)
        assert_measures(found, logits, reference, IDS, every)
