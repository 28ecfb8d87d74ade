"""The edited pass against whole forwards of transformers with hooks by hand; its shortcut, its memory, resumption."""

import logging
from collections import Counter
from contextlib import nullcontext
from types import MethodType
from weakref import finalize

import numpy as np
import pytest
import torch
from blocks import EXPERTS, VARIANTS
from predicted import counted, edited_logits, measures, whole_logits
from test_hooks import StopTestError, hooks_on
from tiny import LAYERS, build, token_ids
from torch.utils._python_dispatch import TorchDispatchMode

import neurexp
from neurexp.engine import checkpoint, edited_pass
from neurexp.engine.changes import Change
from neurexp.engine.checkpoint import Checkpoints, divide
from neurexp.engine.edited_pass import run_edited_pass
from neurexp.engine.reducers.base import NotFiniteError
from neurexp.engine.reducers.effects import Effects
from neurexp.models.fast import fast_forward

Edit = neurexp.Edit
SEQUENCES, LENGTH = 7, 12
IDS = token_ids(SEQUENCES, LENGTH)
VALID = torch.ones_like(IDS, dtype=torch.bool)
VALID[2, 8:] = VALID[4, 1:] = VALID[6] = False  # one token, and none
GROUPS = torch.stack([torch.ones_like(VALID), IDS % 3 == 0, IDS % 5 > 1])
BLOCKS = [0, 0, 1, 2, 2, 2, 3]
CHOSEN = [5, 7]
ROWS = torch.randn(9, 2, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model():
    return build("gpt2")


def effects_of(variants, detailed=None, groups=GROUPS):
    return Effects(groups, torch.tensor(BLOCKS), variants, variants if detailed is None else detailed)


def run(model, variants, detailed=None, valid=VALID, effects=None, batch_size=3, **options):
    effects = effects_of(len(variants), detailed) if effects is None else effects
    run_edited_pass(model, variants, IDS, valid, effects, batch_size=batch_size, **options)
    return effects


def sums(values, valid=VALID):
    """By group and block, `[groups, blocks]`, token by token; values `[sequences, length]`."""
    found = np.zeros((len(GROUPS), 4))
    for group, sequence, token in zip(*np.nonzero(GROUPS.numpy() & counted(valid)), strict=True):
        found[group, BLOCKS[sequence]] += values[sequence, token]
    return found


def assert_effects(effects, logits, valid=VALID):
    """`logits` of the unedited model and of each variant, whole. Groups have up to 40 tokens: the error of a token is
    below 1e-5. Ranks may change places where log-probabilities are equal to float32's rounding."""
    assert (effects.counts.numpy() == sums(np.ones(IDS.shape), valid)).all()
    for variant, own in enumerate(logits):
        loss, kl, agrees, rank = (sums(one, valid) for one in measures(own, logits[0], IDS, valid))
        np.testing.assert_allclose(effects.loss[variant], loss, rtol=1e-5, atol=1e-5)
        if variant <= effects.detailed:
            np.testing.assert_allclose(effects.details[variant, 0], kl, rtol=1e-5, atol=1e-4)
            np.testing.assert_array_equal(effects.details[variant, 1], agrees)
            np.testing.assert_allclose(effects.details[variant, 2], rank, atol=1.0)


def assert_close(one, other, tolerance=1e-5):
    assert torch.equal(one.counts, other.counts)
    np.testing.assert_allclose(one.loss, other.loss, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.details, other.details, rtol=tolerance, atol=10 * tolerance)


def same(one, other):
    return all(torch.equal(values, other.state()[name]) for name, values in one.state().items())


def drawn(x):
    """A row for each token, by one generator for each sequence of the text."""
    picked = [np.random.default_rng([0, sequence]).integers(0, len(ROWS), LENGTH) for sequence in range(SEQUENCES)]
    return ROWS[np.array(picked)]


def masked(mask, function):
    return lambda x: torch.where(mask[..., None], function(x), x)


# Each variant beside the hooks that do the same; not sorted by layer
SOME = IDS % 2 == 0
CASES = [
    ([Edit("NEURON", 2, CHOSEN)], [("NEURON", 2, CHOSEN, torch.zeros_like)]),
    ([Edit("NEURON", 0, [3], "value", 4.0)], [("NEURON", 0, [3], lambda x: torch.full_like(x, 4.0))]),
    (
        [Edit("NEURON", 2, [1], "scale", -2.0), Edit("NEURON", 1, CHOSEN, "mean", [0.5, -0.5])],
        [
            ("NEURON", 2, [1], lambda x: -2.0 * x),
            ("NEURON", 1, CHOSEN, lambda x: torch.tensor([0.5, -0.5]).expand_as(x)),
        ],
    ),
    ([Edit("NEURON", 1, CHOSEN, "resample", ROWS)], [("NEURON", 1, CHOSEN, drawn)]),
    (
        [Edit("NEURON", 1, CHOSEN, "add", 3.0, tokens=SOME), Edit("NEURON", 2, [0], "peak", 1.0)],
        [
            ("NEURON", 1, CHOSEN, masked(SOME, lambda x: x + 3.0)),
            ("NEURON", 2, [0], lambda x: torch.full_like(x, 1.0)),
        ],
    ),
    ([Edit("RESID_POST", 1, CHOSEN, "add", 1.0)], [("RESID_POST", 1, CHOSEN, lambda x: x + 1.0)]),
    ([], []),
    ([Edit("NEURON", 1, CHOSEN, "resample", ROWS), Edit("NEURON", 0, [3])],
     [("NEURON", 1, CHOSEN, drawn), ("NEURON", 0, [3], torch.zeros_like)]),
]  # fmt: skip
VARIANTS_OF_CASES = [edits for edits, _ in CASES]


def reference(model, name, valid=None, cases=CASES):
    return [whole_logits(model, IDS, valid), *(edited_logits(model, name, IDS, *own, valid=valid) for _, own in cases)]


@pytest.mark.parametrize(("name", "fast"), [("gpt2", False), ("gpt_neo", True), ("llama", False), ("llama", True)])
def test_variants_are_whole_forwards_with_hooks_written_by_hand(name, fast):
    model = build(name)
    logits = reference(model, name)
    for batch_size in (2, 3):
        with fast_forward(model) if fast else nullcontext():
            assert_effects(run(model, VARIANTS_OF_CASES, batch_size=batch_size), logits)
    losses = [float(sums(measures(one, one, IDS, VALID)[0])[0].sum()) for one in logits]
    assert len({round(loss, 2) for loss in losses}) == len(losses) - 1  # all differ, except the one without edits


@pytest.mark.parametrize("name", VARIANTS)
def test_an_edit_in_each_family(name):
    """From the last block on; and in the middle of a mixture of experts, whose neurons are not edited."""
    family, changes = VARIANTS[name]
    model, site = build(family, **changes), "RESID_POST" if family in EXPERTS else "NEURON"
    cases = [([Edit(site, LAYERS - 1, CHOSEN, "scale", -2.0)], [(site, LAYERS - 1, CHOSEN, lambda x: -2.0 * x)])]
    assert_effects(run(model, [cases[0][0]], batch_size=4), reference(model, name, cases=cases))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_all_variants_in_each_family(name):
    family, changes = VARIANTS[name]
    cases = CASES
    if family in EXPERTS:
        cases = [
            ([Edit("RESID_POST", layer, CHOSEN, "value", value)],
             [("RESID_POST", layer, CHOSEN, lambda x, value=value: torch.full_like(x, value))])
            for layer in (2, 0, 1) for value in (0.5, -1.0)
        ]  # fmt: skip
    model = build(family, **changes)
    assert_effects(run(model, [edits for edits, _ in cases]), reference(model, name, cases=cases))


@pytest.mark.parametrize("side", ["left", "middle"])
def test_pads_before_valid_tokens(model, side):
    valid = VALID.flip(1) if side == "left" else VALID & (torch.arange(LENGTH) != 3)
    effects = run(model, VARIANTS_OF_CASES, valid=valid)
    assert_effects(effects, reference(model, "gpt2", valid), valid)


def test_without_a_mask_every_token_counts(model):
    assert_effects(run(model, VARIANTS_OF_CASES, valid=None), reference(model, "gpt2"), torch.ones_like(VALID))


def test_neither_batches_nor_neighbours_matter(model, monkeypatch):
    whole = run(model, VARIANTS_OF_CASES, batch_size=7)
    for batch_size in (1, 10):
        assert_close(run(model, VARIANTS_OF_CASES, batch_size=batch_size), whole)
    monkeypatch.setattr(edited_pass, "SIDE_BY_SIDE", 1)
    assert_close(run(model, VARIANTS_OF_CASES), whole)
    for index, variant in enumerate(VARIANTS_OF_CASES):
        alone = run(model, [variant])
        np.testing.assert_allclose(alone.loss[1], whole.loss[1 + index], rtol=1e-5)
        np.testing.assert_allclose(alone.details[1], whole.details[1 + index], rtol=1e-5, atol=1e-4)


def test_parts_of_the_text_add_up(model):
    whole, merged = run(model, VARIANTS_OF_CASES), effects_of(len(CASES))
    for part in (slice(0, 3), slice(3, 3), slice(3, 7)):
        merged.merge(run(model, VARIANTS_OF_CASES, part=part, batch_size=2))
    assert_close(merged, whole)


def test_details_of_the_first_variants_alone(model):
    some, every = run(model, VARIANTS_OF_CASES, detailed=2), run(model, VARIANTS_OF_CASES)
    assert some.details.shape == (3, 3, 3, 4)
    np.testing.assert_allclose(some.details, every.details[:3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(some.loss, every.loss, rtol=1e-5)
    assert run(model, VARIANTS_OF_CASES, detailed=0).details.shape == (1, 3, 3, 4)
    assert (every.details[0, 0] == 0).all()  # the unedited model against itself
    assert torch.equal(every.details[0, 1].long(), every.counts)


@pytest.mark.parametrize("hooked", [False, True], ids=["in parts", "whole logits"])
def test_a_loss_is_the_same_with_and_without_the_other_measures(model, monkeypatch, hooked):
    """Else what is compared, a found neuron and random ones, would differ by the rounding of two ways to compute it."""
    monkeypatch.setattr("neurexp.models.losses.IDS", 7)
    handle = model.lm_head.register_forward_hook(lambda *_: None) if hooked else None
    variants = [*VARIANTS_OF_CASES, []]
    some, every = run(model, variants, detailed=0), run(model, variants)
    assert torch.equal(some.loss, every.loss)
    assert torch.equal(every.loss[-1], every.loss[0])
    if handle is not None:
        handle.remove()


@pytest.mark.parametrize("variants", [[], [[]], [[], []]])
def test_nothing_to_edit(model, variants):
    effects = run(model, variants)
    assert_effects(effects, [whole_logits(model, IDS)] * (1 + len(variants)))
    assert all(torch.equal(one, effects.loss[0]) for one in effects.loss)


def test_blocks_below_the_first_edit_run_once_for_a_batch(model):
    """A block runs once for the text itself, once for the check of the shortcut, and for its own variants."""
    calls = [0] * LAYERS

    def count(layer):
        forward = model.transformer.h[layer].forward

        def counting(module, *arguments, **named):
            calls[layer] += 1
            return forward(*arguments, **named)

        return MethodType(counting, model.transformer.h[layer])

    for layer, block in enumerate(model.transformer.h):
        block.forward = count(layer)
    try:
        run(model, [[Edit("NEURON", 2, [index])] for index in range(40)], valid=None, batch_size=1)
    finally:
        for block in model.transformer.h:
            del block.__dict__["forward"]
    # 40 variants of 12 tokens fit into one forward
    assert calls == [SEQUENCES + 1, SEQUENCES + 1, 2 * SEQUENCES + 2]


class Remembering:
    """GPT-2 blocks that hand more than the stream to later ones: the second leaves its output, the last adds it."""

    def __init__(self, model, way):
        self.blocks, self.way, self.kept = model.transformer.h, way, None

    def __enter__(self):
        first, last = self.blocks[1], self.blocks[2]
        of_first, of_last = first.forward, last.forward

        def leave(stream, *arguments, **named):
            output = of_first(stream, *arguments, **named)
            self.kept = output * 0.5
            return (output, self.kept) if self.way == "a tuple" else output

        def read(stream, *arguments, **named):
            stream, kept = stream if self.way == "a tuple" else (stream, self.kept)
            return of_last(stream + kept.sin(), *arguments, **named)

        first.forward, last.forward = leave, read
        return self

    def __exit__(self, *_):
        for block in self.blocks:
            block.__dict__.pop("forward", None)


@pytest.mark.parametrize(("batch_size", "side_by_side"), [(1, 1), (3, 2048)])
def test_a_model_that_keeps_more_than_the_stream_runs_whole(model, monkeypatch, caplog, batch_size, side_by_side):
    """With one sequence and one variant at a time, what was left behind has the right shape, but is of another text."""
    monkeypatch.setattr(edited_pass, "SIDE_BY_SIDE", side_by_side)
    with Remembering(model, "an attribute"), caplog.at_level(logging.WARNING):
        assert_effects(run(model, VARIANTS_OF_CASES, batch_size=batch_size), reference(model, "gpt2"))
    assert len(caplog.messages) == 1  # not for every batch
    assert "From block 2 on the model differs from the whole model by" in caplog.text
    assert "every edited model runs whole" in caplog.text


def test_a_block_that_fails_without_what_an_earlier_one_hands_on(monkeypatch, caplog):
    model = build("gpt2")
    # The model hands on what a block puts out as it is
    with Remembering(model, "a tuple"), caplog.at_level(logging.WARNING):
        assert_effects(run(model, VARIANTS_OF_CASES[:4]), reference(model, "gpt2", cases=CASES[:4]))
    assert "From block 2 on the model fails (" in caplog.text


def test_a_hook_of_the_users_that_would_act_twice_is_noticed(model, caplog):
    """It acts at the block's output, from which the shortcut goes on; the largest start alone would not show it."""
    handle = model.transformer.h[0].register_forward_hook(lambda module, arguments, output: output * 1.5)
    try:
        with caplog.at_level(logging.WARNING):
            assert_effects(run(model, VARIANTS_OF_CASES), reference(model, "gpt2"))
    finally:
        handle.remove()
    assert "From block 1 on the model differs" in caplog.text


def test_no_warning_without_a_cause(model, caplog):
    with caplog.at_level(logging.WARNING):
        run(model, VARIANTS_OF_CASES)
        run(build("gpt2", dtype=torch.bfloat16), VARIANTS_OF_CASES)
    assert not caplog.messages


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats(dtype):
    model = build("llama", dtype=dtype)
    effects = run(model, VARIANTS_OF_CASES)
    logits = reference(model, "llama")
    for variant, own in enumerate(logits):
        loss = sums(measures(own, logits[0], IDS, VALID)[0])
        np.testing.assert_allclose(effects.loss[variant], loss, rtol=1e-5 if dtype == torch.float64 else 2e-2)


def state_of(model):
    return hooks_on(model), {name: dict(module.__dict__) for name, module in model.named_modules()}


@pytest.mark.parametrize("where", ["first block", "last block", "edit", "head", "effects", "check", "nowhere"])
def test_nothing_is_left_behind(model, monkeypatch, where):
    plain, weights = whole_logits(model, IDS), {name: value.clone() for name, value in model.state_dict().items()}
    calls, threads = [], torch.get_num_threads()

    def fail_at(count):
        def failing(*_, **__):
            calls.append(None)
            if len(calls) >= count:
                raise StopTestError

        return failing

    modules = {"first block": model.transformer.h[0], "last block": model.transformer.h[2], "head": model.lm_head}
    # The last block has run for the text and the check, the first block begins the second batch
    count = {"first block": 4, "last block": 6, "head": 3}.get(where, 1)
    handles = [modules[where].register_forward_hook(fail_at(count))] if where in modules else []
    if where == "edit":
        monkeypatch.setattr(Change, "of", fail_at(1))
    elif where == "effects":
        monkeypatch.setattr(Effects, "add", fail_at(2))
    elif where == "check":
        monkeypatch.setattr("neurexp.engine.stream.log.warning", fail_at(1))
        monkeypatch.setattr("neurexp.engine.stream.AGREEMENT", {torch.float32: -1.0})
    before = state_of(model)
    with nullcontext() if where == "nowhere" else pytest.raises(StopTestError):
        run(model, VARIANTS_OF_CASES)
    assert state_of(model) == before
    for handle in handles:
        handle.remove()
    assert torch.equal(whole_logits(model, IDS), plain)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()
    model(IDS, labels=IDS).loss.backward()  # no tensor of inference mode is left in it
    model.zero_grad()


def test_a_failing_block_is_no_other_architecture(model, caplog):
    """What fails without edits fails in the check too, and then in the run."""
    calls = []

    def fail(*_):
        calls.append(None)
        if len(calls) > 1:
            raise StopTestError

    handle = model.transformer.h[2].register_forward_hook(fail)
    with pytest.raises(StopTestError):
        run(model, VARIANTS_OF_CASES)
    handle.remove()


@pytest.mark.parametrize(
    ("variants", "match"),
    [
        ([[Edit("NEURON", 9, [1])]], "layer 9 of an edit: this model has layers 0 to 2"),
        ([[Edit("NEURON", 1, [40])]], "neuron 40 of layer 1: NEURON has neurons 0 to 39"),
        ([[Edit("NEURONS", 1, [1])]], "NEURONS"),
        ([[Edit("NEURON", 1, [1], "mean")]], "mean in layer 1 has no values"),
        ([[Edit("NEURON", 0, [1]), Edit("NEURON", 2, [1], "resample", 3)]], "resample in layer 2 has no values"),
        ([[Edit("NEURON", 1, [1], tokens=SOME[:2])]], r"tokens of an edit has the shape \[2, 12\]"),
    ],
)
def test_edits_that_cannot_be_made_are_refused(model, variants, match):
    with pytest.raises((neurexp.UserError, ValueError), match=match):
        run(model, variants)


def test_effects_made_for_something_else_are_refused(model):
    with pytest.raises(ValueError, match="made for 2 variants, but 1 are given"):
        run(model, VARIANTS_OF_CASES[:1], effects=effects_of(2))
    with pytest.raises(ValueError, match=r"made for tokens \[7, 11\]"):
        run(model, [], effects=effects_of(0, groups=GROUPS[..., 1:]))


def test_the_loss_that_has_no_number_is_named(model):
    variants = [[Edit("NEURON", 1, [1])], [Edit("NEURON", 2, CHOSEN, "value", 3e38), Edit("NEURON", 0, [1])]]
    with pytest.raises(NotFiniteError) as raised:
        run(model, variants)
    assert raised.value.what == "the loss of the model with edits (value at 2 of NEURON_2, zero at 1 of NEURON_0)"
    assert raised.value.sequences == slice(0, 3)


class CutError(Exception):
    """What ends a pass."""


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_pass_that_is_cut_in_the_middle_of_a_batch_goes_on(model, tmp_path, monkeypatch, steps):
    """Five steps a batch: the unedited model, and variants from each of the three blocks; then those without edits."""
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)
    whole, save = run(model, VARIANTS_OF_CASES), Checkpoints.save

    def cut(self, reducers, done, covered=None):
        save(self, reducers, done)
        if done == steps:
            raise CutError

    with monkeypatch.context() as patch, pytest.raises(CutError):
        patch.setattr(Checkpoints, "save", cut)
        run(model, VARIANTS_OF_CASES, checkpoints=Checkpoints(tmp_path, "edits", {}, 1e-9))
    resumed, checkpoints = effects_of(len(CASES)), Checkpoints(tmp_path, "edits", {}, 1e-9)
    run(model, VARIANTS_OF_CASES, effects=resumed, checkpoints=checkpoints)
    assert checkpoints.resumed_at == steps
    assert same(resumed, whole)
    again = effects_of(len(CASES))  # a whole pass is not run again
    run(model, VARIANTS_OF_CASES, effects=again, checkpoints=Checkpoints(tmp_path, "edits", {}, 1e-9))
    assert same(again, whole)


def by_processes(model, folder, count, cuts=()):
    """What so many processes leave behind, each cut after so many steps; merged, if none is cut."""
    division, states = divide(folder, "edits", {}, SEQUENCES, count), []
    for process in range(count):
        checkpoints = Checkpoints(folder, "edits", {}, 1e-9, division, process)
        options: dict = {"part": division.shares[process], "checkpoints": checkpoints, "batch_size": 1}
        effects = effects_of(len(CASES))
        states.append((effects, checkpoints))
        if not cuts:
            run(model, VARIANTS_OF_CASES, effects=effects, **options)
            continue
        options["checkpoints"] = Cut(checkpoints, cuts[process])
        with pytest.raises(CutError):
            run(model, VARIANTS_OF_CASES, effects=effects, **options)
    (merged, checkpoints), *others = states
    for other, _ in others:
        merged.merge(other)
    checkpoints.add_finished([merged])
    return merged, division


class Cut:
    """Checkpoints of a pass that ends after so many steps."""

    def __init__(self, checkpoints, after):
        self._checkpoints, self._after, self._steps = checkpoints, after, 0
        self.load, self.due = checkpoints.load, checkpoints.due

    def save(self, reducers, done, covered=None):
        self._checkpoints.save(reducers, done, covered)
        self._steps += 1
        if self._steps == self._after:
            raise CutError


STEPS = 5  # of a batch: the unedited model, variants from each of three blocks, and one without edits


@pytest.mark.parametrize(
    ("cuts", "done"),
    [((STEPS - 1, 1), 0), ((2 * STEPS - 1, STEPS), 2), ((2 * STEPS + 3, STEPS + 3), 3), ((STEPS, 2), 1)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_processes_goes_on_from_the_last_whole_batch(
    model, tmp_path, monkeypatch, caplog, cuts, done, count
):
    """One sequence a batch; three and four sequences in the first two processes."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)
    by_processes(model, tmp_path, 2, cuts)
    found, division = by_processes(model, tmp_path, count)
    assert SEQUENCES - sum(len(one) for share in division.shares for one in share) == done
    assert f"another number of processes: {done} of {SEQUENCES} sequences are done" in caplog.text
    assert_close(found, run(model, VARIANTS_OF_CASES))


def test_after_a_checkpoint_in_the_middle_of_a_batch_one_of_the_whole_batch_comes_soon(model, tmp_path, monkeypatch):
    """The batches are shorter than the time between checkpoints."""
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)
    checkpoints, saved = Checkpoints(tmp_path, "edits", {}, 3600.0), []
    due, save = checkpoints.due, checkpoints.save
    first = iter([True])
    monkeypatch.setattr(checkpoints, "due", lambda at_whole=False: next(first, False) or due(at_whole))
    monkeypatch.setattr(checkpoints, "save", lambda *one: (saved.append(one[1:]), save(*one)))
    run(model, VARIANTS_OF_CASES, checkpoints=checkpoints)
    assert saved == [(1, None), (STEPS, [range(3)])]


@pytest.mark.parametrize("variants", [VARIANTS_OF_CASES, []])
def test_a_forecast_is_made_once(model, variants):
    given = []
    run(model, variants, forecast=lambda *told: given.append(told))
    ((seconds, neurons),) = given
    assert 0 < seconds < 60
    assert neurons == 0


class Live(TorchDispatchMode):
    """Follows the bytes of tensors that were made within the context and are still there, and their peak."""

    def __init__(self):
        super().__init__()
        self.users, self.bytes, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        output = function(*arguments, **(named or {}))
        for one in output if isinstance(output, tuple | list) else [output]:
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                self.bytes += size * (self.users[place] == 0)
                self.users[place] += 1
                finalize(one, self.free, place, size)
        self.peak = max(self.peak, self.bytes)
        return output

    def free(self, place, size):
        self.users[place] -= 1
        self.bytes -= size * (self.users[place] == 0)


def peak_of(model, sequences, variants):
    ids = token_ids(sequences, 16)
    effects = Effects(ids[None] >= 0, torch.zeros(sequences, dtype=torch.long), variants, 2)
    edits = [[Edit("NEURON", index % LAYERS, [index % 40])] for index in range(variants)]
    with Live() as live:
        run_edited_pass(model, edits, ids, None, effects, batch_size=2)
    return live.peak


def test_memory_does_not_grow_with_the_text_nor_with_the_variants(model, monkeypatch):
    """Beyond what an edit itself is (its neuron, 8 bytes) and the text's own mask; two variants run side by side."""
    monkeypatch.setattr(edited_pass, "SIDE_BY_SIDE", 64)
    least = peak_of(model, 4, 6)
    assert least > 60 * 32 * 4  # the logits of a batch's tokens, at least once
    assert peak_of(model, 12, 6) <= least + 8 * 16 * 9
    assert peak_of(model, 4, 36) <= least + 30 * 16


def test_a_loss_is_the_same_whether_other_measures_are_taken_or_not():
    """Found neurons get all measures and random ones the loss alone: neither may look more harmful for that."""
    model = build("llama", vocab_size=50_000)
    with torch.no_grad():
        model.lm_head.weight *= 8  # logits as far apart as a real model's
    effects = run(model, [[], []], detailed=1)
    plain, detailed, short = (effects.loss[:, 0].sum(-1) / effects.counts[0].sum()).tolist()
    assert detailed == pytest.approx(plain, abs=3e-7)
    assert short == pytest.approx(plain, abs=3e-7)
