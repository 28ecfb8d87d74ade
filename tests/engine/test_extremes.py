"""The Extremes reducer against numpy, which keeps every activation and sorts it by value and place."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurexp.engine.passes import make_batch
from neurexp.engine.reducers import Extremes
from neurexp.engine.reducers.candidates import BLOCK
from neurexp.engine.reducers.ranking import best_rows

SITES = 2


class Text:
    """Activations `[sites, sequences, length, neurons]`, with what a pass would know of the tokens."""

    def __init__(self, seed, sequences=6, length=8, neurons=3, levels=0, pads=False, skipped=False):
        """`levels`: so many different activations only, so that many are equal; 0 for continuous ones."""
        rng = np.random.default_rng(seed)
        shape = (SITES, sequences, length, neurons)
        values = rng.normal(size=shape) if levels == 0 else rng.integers(-levels, levels + 1, shape) / 2
        values = np.where(values == 0, np.where(rng.random(shape) < 0.5, 0.0, -0.0), values)  # zeros of either sign
        self.values = values.astype(np.float32)
        self.valid = np.ones((sequences, length), dtype=bool)
        if pads:
            self.valid = rng.random((sequences, length)) < 0.8
            self.valid[:, 0] = True
        self.counted = self.valid & (rng.random((sequences, length)) < (0.7 if skipped else 1.1))
        self.document = np.sort(rng.integers(0, 4, sequences * length)).reshape(sequences, length)

    def reducer(self, k=3, before=2, after=1, per_document=0):
        return Extremes(SITES, k, self.valid.shape[1], before, after, per_document)

    def show(self, reducer, start=0, stop=None, batch_size=2, dtype=torch.float32):
        """Shows a reducer some of the sequences, as a pass would."""
        stop = len(self.valid) if stop is None else stop
        for first in range(start, stop, batch_size):
            self.show_batch(reducer, first, min(first + batch_size, stop), dtype)
        return reducer

    def show_batch(self, reducer, first, stop, dtype=torch.float32):
        here = slice(first, stop)
        batch = make_batch(
            torch.ones(stop - first, self.valid.shape[1], dtype=torch.int64),
            torch.from_numpy(self.valid[here]),
            first,
            torch.device("cpu"),
            lambda ids, positions, sequences: {
                "counted": torch.from_numpy(self.counted[here][self.valid[here]]),
                "document": torch.from_numpy(self.document[here][self.valid[here]]),
            },
        )
        reducer.begin(batch)
        for site in range(SITES):
            values = torch.from_numpy(self.values[site, here]).to(dtype).flatten(0, 1)
            reducer.update(site, values if batch.rows is None else values[batch.rows], batch)


def oracle(text, reducer):
    """The state that `reducer` should have after the whole text."""
    k, around, length = reducer.k, range(-reducer.before, reducer.after + 1), text.valid.shape[1]
    neurons = text.values.shape[-1]
    values = np.full((SITES, 2, neurons, k), np.nan, dtype=np.float32)
    places = np.full(values.shape, -1, dtype=np.int64)
    documents = np.full(values.shape, -1, dtype=np.int64)
    levels = np.full((*values.shape, len(around)), -128, dtype=np.int8)
    for site, end, neuron in np.ndindex(SITES, 2, neurons):
        x = text.values[site, :, :, neuron]
        of_counted = np.flatnonzero(text.counted)
        sign = 1 if end == 0 else -1
        order = of_counted[np.lexsort((of_counted, -sign * x.ravel()[of_counted]))]
        taken, filled = {}, 0
        for place in order:
            document = text.document.ravel()[place]
            if filled == k or (reducer.per_document and taken.get(document, 0) == reducer.per_document):
                continue
            taken[document] = taken.get(document, 0) + 1
            at = (site, end, neuron, filled)
            filled += 1
            values[at], places[at], documents[at] = x.ravel()[place], place, document
            sequence, column = divmod(place, length)
            for index, offset in enumerate(around):
                if 0 <= column + offset < length and text.valid[sequence, column + offset]:
                    other, own = x[sequence, column + offset], np.abs(x[sequence, column])
                    level = 100 * np.sign(other) if own == 0 else np.round(other / own * np.float32(100))
                    levels[(*at, index)] = np.clip(level, -100, 100)
    state = {"values": values, "places": places, "levels": levels}
    return state | ({"documents": documents} if reducer.per_document else {})


def assert_is(reducer, expected):
    found = reducer.state()
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), value, err_msg=name)
        assert found[name].numpy().dtype == value.dtype


TEXTS = {
    "seed": st.integers(0, 100_000),
    "sequences": st.integers(1, 7),
    "length": st.integers(1, 9),
    "neurons": st.integers(1, 4),
    "levels": st.sampled_from([0, 1, 2, 6]),
    "pads": st.booleans(),
    "skipped": st.booleans(),
}
SEARCHES = {
    "k": st.integers(1, 12),
    "before": st.integers(0, 3),
    "after": st.integers(0, 3),
    "per_document": st.integers(0, 3),
}
texts = st.builds(Text, **TEXTS)
searches = st.fixed_dictionaries(SEARCHES)


@settings(deadline=None, max_examples=150)
@given(text=texts, search=searches, batch_size=st.integers(1, 4), on_a_cpu=st.booleans())
def test_the_extremes_are_those_of_all_tokens(text, search, batch_size, on_a_cpu):
    reducer = text.reducer(**search)
    reducer._by_block = on_a_cpu  # or as on another device, but here
    text.show(reducer, batch_size=batch_size)
    assert_is(reducer, oracle(text, reducer))


@settings(deadline=None, max_examples=100)
@given(text=texts, search=searches, cuts=st.lists(st.integers(0, 7), max_size=3), order=st.integers(0, 1000))
def test_parts_merged_in_any_order_are_the_whole(text, search, cuts, order):
    stops = sorted({0, len(text.valid), *(min(cut, len(text.valid)) for cut in cuts)})
    parts = [text.show(text.reducer(**search), *part) for part in itertools.pairwise(stops)]
    merged = text.reducer(**search)
    for part in np.random.default_rng(order).permutation(len(parts)):
        before = parts[part].state()
        merged.merge(parts[part])
        assert all(
            torch.equal(before[name].nan_to_num(), value.nan_to_num()) for name, value in parts[part].state().items()
        )
    assert_is(merged, oracle(text, merged))


@settings(deadline=None, max_examples=50)
@given(text=texts, search=searches, seed=st.integers(0, 1000), on_a_cpu=st.booleans())
def test_the_order_of_the_batches_does_not_matter(text, search, seed, on_a_cpu):
    reducer = text.reducer(**search)
    reducer._by_block = on_a_cpu
    for sequence in np.random.default_rng(seed).permutation(len(text.valid)):
        text.show_batch(reducer, sequence, sequence + 1)
    assert_is(reducer, oracle(text, reducer))


@pytest.mark.parametrize("on_a_cpu", [True, False])
def test_equal_activations_of_earlier_places_come_first_even_after_a_merge(on_a_cpu):
    text = Text(11, sequences=9, levels=1)
    text.values[:, :3] = 0  # so that what is kept is from the others
    reducer = text.reducer()
    reducer._by_block = on_a_cpu
    text.show(reducer, 0, 3)
    reducer.merge(text.show(text.reducer(), 6, 9))
    text.show(reducer, 3, 6)  # before what was merged
    assert_is(reducer, oracle(text, reducer))


@settings(deadline=None, max_examples=50)
@given(text=texts, search=searches, cut=st.integers(0, 7))
def test_going_on_from_a_saved_state_is_not_having_stopped(text, search, cut):
    cut = min(cut, len(text.valid))
    saved = text.show(text.reducer(**search), 0, cut).state()
    resumed = text.reducer(**search)
    resumed.load(saved)
    before = {name: tensor.clone() for name, tensor in saved.items()}
    text.show(resumed, cut)
    assert_is(resumed, oracle(text, resumed))
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, before[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_activations(dtype):
    """Rounded, many are equal; their places still decide."""
    text = Text(3, sequences=12, length=40, neurons=5)
    reducer = text.show(text.reducer(k=6), dtype=dtype)
    text.values = torch.from_numpy(text.values).to(dtype).float().numpy()
    assert_is(reducer, oracle(text, reducer))


@pytest.mark.parametrize("per_document", [0, 2])
@pytest.mark.parametrize("levels", [0, 2, 30])
def test_long_batches_of_many_neurons(levels, per_document):
    text = Text(5, sequences=40, length=64, neurons=70, levels=levels, pads=True, skipped=True)
    text.values[0] = np.maximum(text.values[0], 0)  # the lowest activations of one site are all 0
    reducer = text.show(text.reducer(k=4, per_document=per_document), batch_size=5)
    assert_is(reducer, oracle(text, reducer))


@pytest.mark.parametrize("per_document", [0, 2])
def test_tokens_side_by_side_that_do_not_count_hide_no_others(per_document):
    """A block of them has no highest activation, however high theirs are."""
    text = Text(10, sequences=6, length=2 * BLOCK)
    text.counted[2:4] = False
    text.values[:, 2], text.values[:, 3] = 100, -100
    reducer = text.show(text.reducer(per_document=per_document), batch_size=6)
    assert_is(reducer, oracle(text, reducer))


@pytest.mark.parametrize("levels", [0, 1])
def test_a_batch_offers_no_more_of_a_document_than_may_be_kept(levels, monkeypatch):
    """Documents · per_document is less than k, so that an end is never full; without a limit all tokens would come."""
    text, offered = Text(7, sequences=30, length=64, neurons=5, levels=levels, skipped=True), []
    take = Extremes._take

    def noting(self, site, found, *others):
        offered.append(np.bincount(np.repeat(found.units, found.count)).max())
        take(self, site, found, *others)

    monkeypatch.setattr(Extremes, "_take", noting)
    reducer = text.show(text.reducer(k=20, per_document=2), batch_size=3)
    assert_is(reducer, oracle(text, reducer))
    assert max(offered) <= 2 * 2  # a batch has tokens of two documents at most


@pytest.mark.parametrize(("rows", "columns", "k"), [(5, 3, 9), (40, 7, 4), (300, 11, 5), (1000, 9, 20)])
def test_the_best_rows_are_those_of_a_stable_sort(rows, columns, k):
    """Few different scores, zeros of either sign; more than one whole block of rows, and a rest."""
    rng = np.random.default_rng(rows)
    scores = (rng.integers(-6, 7, (rows, columns)) * rng.choice([1.0, -1.0], (rows, columns))).astype(np.float32)
    order = np.argsort(-scores, axis=0, kind="stable")
    np.testing.assert_array_equal(best_rows(torch.from_numpy(scores), k), order[:k])
    group = rng.integers(0, 7, rows)
    groups = [torch.from_numpy(np.flatnonzero(group == one)) for one in np.unique(group)]
    found = best_rows(torch.from_numpy(scores), k, groups, 2)
    for column in range(columns):
        taken, counts = [], dict.fromkeys(group, 0)
        for row in order[:, column]:
            counts[group[row]] += 1
            taken += [row] if counts[group[row]] <= 2 else []
        np.testing.assert_array_equal(found[:, column], taken[:k])


def test_equal_activations_of_a_later_part_of_a_document_are_not_looked_at_again(monkeypatch):
    text, offered = Text(7, sequences=8, length=16), []
    text.values[:], text.document[:] = 1, 0
    take = Extremes._take

    def noting(self, site, found, which, index, activations, at, is_later):
        offered.append(at.first)
        take(self, site, found, which, index, activations, at, is_later)

    monkeypatch.setattr(Extremes, "_take", noting)
    reducer = text.show(text.reducer(k=3, per_document=2), batch_size=2)
    assert_is(reducer, oracle(text, reducer))
    assert set(offered) == {0}  # the first of the four batches


def test_activations_that_rise_all_the_time():
    """Every token is a new highest one, and no token after the first ones is a new lowest one."""
    text = Text(6, sequences=20, length=32, neurons=4)
    text.values = np.sort(text.values.reshape(SITES, -1, 4), axis=1).reshape(text.values.shape)
    reducer = text.show(text.reducer(k=5), batch_size=4)
    assert_is(reducer, oracle(text, reducer))


def test_a_site_that_is_a_part_of_a_module():
    """Queries, keys and values of GPT-2 lie side by side: rows that do not follow one another in memory."""
    text = Text(8, sequences=9, length=40, neurons=6)
    wide = torch.from_numpy(text.values[0].reshape(-1, 6)).repeat(1, 3)
    reducer = text.reducer(k=5)
    for first in range(0, 9, 3):
        batch = make_batch(
            torch.ones(3, 40, dtype=torch.int64), torch.ones(3, 40, dtype=torch.bool), first, wide.device
        )
        reducer.begin(batch)
        for site in range(SITES):
            reducer.update(site, wide[first * 40 : (first + 3) * 40].chunk(3, dim=1)[1], batch)
    text.values[1] = text.values[0]
    assert_is(reducer, oracle(text, reducer))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_disturbs_no_other_neuron(bad):
    """Another reducer reports it, batches later; until then nothing may break."""
    text = Text(9, sequences=10, length=50, neurons=3)
    text.values[:, 3, 7, 1] = bad
    found = text.show(text.reducer()).state()
    text.values[:, 3, 7, 1] = 0
    for name, value in oracle(text, text.reducer()).items():
        np.testing.assert_array_equal(found[name][:, :, [0, 2]], value[:, :, [0, 2]])


def test_the_activations_are_not_written_into():
    text = Text(1)
    before = text.values.copy()
    text.show(text.reducer())
    np.testing.assert_array_equal(text.values, before)


def test_sequences_of_another_length_are_refused():
    text = Text(1, length=8)
    with pytest.raises(ValueError, match="8 tokens, not 9"):
        text.show(Extremes(SITES, 3, 9))


@pytest.mark.parametrize("changed", [{"k": 4}, {"before": 1}, {"after": 2}, {"per_document": 1}])
def test_merging_what_was_looked_for_differently_is_refused(changed):
    text = Text(1)
    one = text.reducer()
    with pytest.raises(ValueError, match=next(iter(changed))):
        one.merge(text.show(text.reducer(**changed)))
    assert one.values.shape[2] == 0


@pytest.mark.parametrize("wrong", [{"k": 0}, {"length": 0}, {"before": -1}, {"after": -1}, {"per_document": -1}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Extremes(**{"sites": 1, "k": 3, "length": 8} | wrong)
