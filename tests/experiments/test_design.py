"""The columns of a profile, as cells, against the same columns written down token by token, one at a time."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import feed, matrix_of

from neurexp.engine.reducers.gram import Gram
from neurexp.experiments.profile import Covariate
from neurexp.experiments.profile.design import Design, _offsets
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import UNDEFINED, shuffled_within_bands

VOCABULARY, GROUPS, DRAWS = 40, 4, 5
NAMES = [
    *("category", "log_frequency", "begins_word", "type_block_value", "type_block", "sequence_block", "first", "early"),
    *("skipped", "group", "skipped_value", "sequence_block_value", "first_value", "early_value"),
    *("null_early", "null_late", "position", "context", "null_in_context"),
]


@dataclass
class Case:
    """A text of types that have a value, or none, or do not occur; the last sequence is padded."""

    rows: int
    blocks: int
    skip: int
    length: int = 12
    last: int = 7  # valid tokens of the last sequence
    seed: int = 0
    in_place: bool = False  # the value belongs to the token in its place, not to its type

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        ids = (rng.zipf(1.4, (self.rows, self.length)).clip(max=VOCABULARY - 4) - 1).astype(np.int32)
        valid = np.ones(ids.shape, dtype=bool)
        valid[-1, self.last :] = False
        ids[:, 1] = VOCABULARY - 3  # where three positions are skipped it occurs nowhere else
        ids[:, self.length // 2] = VOCABULARY - 2  # without a value, amid the others
        ids[0, 0] = VOCABULARY - 2  # and at a first position
        ids[~valid] = VOCABULARY - 1  # in no place that counts
        self.tokens = Tokens(ids, valid, 1)
        values = rng.integers(1, 9, VOCABULARY)
        values[VOCABULARY - 2] = UNDEFINED
        values[5] = UNDEFINED
        if self.in_place:
            values = np.where(values[ids] == UNDEFINED, UNDEFINED, rng.integers(0, 9, ids.shape))
        self.covariate = Covariate(values, "size", "size", "mm")
        self.reference = rng.integers(0, 1000, VOCABULARY)
        self.begins_word = rng.random(VOCABULARY) < 0.4
        self.group_of_value = rng.integers(0, GROUPS - 1, 10)
        self.groups = GROUPS if self.skip else GROUPS - 1
        self.sequence, self.column = np.nonzero(valid)
        self.ids, self.position = ids[valid].astype(np.int64), self.column
        self.value = self.covariate.of_tokens(self.tokens)[valid]
        self.design = Design(
            self.tokens,
            self.covariate,
            self.reference,
            self.begins_word,
            DRAWS,
            self.blocks,
            self.skip,
            7,
            self.group_of_value,
            self.groups,
        )

    def cells(self, part: slice = slice(None)):
        return self.design(*(torch.from_numpy(of[part]) for of in (self.ids, self.position, self.sequence)))

    def batches(self, size: int) -> list[slice]:
        """The tokens of `size` sequences each."""
        edges = [int(np.searchsorted(self.sequence, row)) for row in (*range(0, self.rows, size), self.rows)]
        return [slice(*pair) for pair in pairwise(edges)]


def by_hand(case: Case) -> dict[str, np.ndarray]:
    """Every column of every token, `[tokens, columns]` float64 by name; nothing is looked up by cell or by table."""
    tokens = range(len(case.ids))
    has_value = [case.value[t] != -1 for t in tokens]
    counted = [has_value[t] and case.position[t] >= case.skip for t in tokens]
    skipped = [has_value[t] and case.position[t] < case.skip for t in tokens]
    value = [float(one) for one in case.value]
    those = [t for t in tokens if counted[t]]
    counts = [sum(counted[t] and case.ids[t] == one for t in tokens) for one in range(VOCABULARY)]
    centre = sum(value[t] for t in those) / max(1, len(those))
    frequency = [np.log2((case.reference[case.ids[t]] + 1) / (case.reference.sum() + VOCABULARY)) for t in tokens]
    middle = sum(frequency[t] for t in those) / max(1, len(those))

    load, block_of = [0] * max(1, min(case.blocks, sum(count > 0 for count in counts))), {}
    for one in sorted((one for one in range(VOCABULARY) if counts[one]), key=lambda one: (-counts[one], one)):
        block_of[one] = load.index(min(load))
        load[block_of[one]] += counts[one]
    sequence_blocks = min(case.blocks, case.rows)
    early = [2 * case.sequence[t] < case.rows for t in tokens]
    if case.in_place:
        offsets = _offsets(len(those), case.length, DRAWS, 7)
        nulls = {
            t: [value[those[(place + offset) % len(those)]] - centre for offset in offsets]
            for place, t in enumerate(those)
        }
        shifts = offsets
    else:
        centred = np.array([0.0 if one == -1 else one - centre for one in case.covariate.values])
        shuffled = shuffled_within_bands(centred, np.array(counts), DRAWS, 7)
        nulls = {t: shuffled[:, case.ids[t]] for t in those}
    categories = sorted({int(value[t]) for t in those})

    def column(entry, width=1):
        """`entry(token)` is None, or (which column, what stands there)."""
        matrix = np.zeros((len(case.ids), width))
        for t in tokens:
            found = entry(t)
            if found is not None:
                matrix[t, found[0]] = found[1]
        return matrix

    def indicator(where):
        return column(lambda t: (0, 1) if where(t) else None)

    def indicator_value(where):
        return column(lambda t: (0, value[t] - centre) if where(t) else None)

    def null(where):
        matrix = np.zeros((len(case.ids), DRAWS))
        for t in tokens:
            if counted[t] and where(t):
                matrix[t] = nulls[t]
        return matrix

    def if_counted(t, where, what=1.0):
        return (where, what) if counted[t] else None

    def sequence_block(t):
        return int(case.sequence[t]) * sequence_blocks // case.rows

    begun = sum(bool(case.begins_word[case.ids[t]]) for t in those) / max(1, len(those))
    place_of = {(int(case.sequence[t]), int(case.position[t])): t for t in tokens}
    folds = min(8, case.rows)
    fold = [int(case.sequence[t]) * folds // case.rows for t in tokens]

    def features(t):
        """The covariate, log frequency and word beginning of a token, about their means; 0 where it has none."""
        occurs = counts[case.ids[t]] > 0
        return [
            value[t] - centre if has_value[t] else 0.0,
            frequency[t] - middle if occurs else 0.0,
            float(case.begins_word[case.ids[t]]) - begun if occurs else 0.0,
        ]

    def context(t):
        before = [place_of[int(case.sequence[t]), place] for place in range(int(case.position[t]))]
        near = [features(one)[0] for one in before[::-1][:3]]
        expected, mean, decaying = 0.0, [0.0] * 3, [0.0] * 3
        if before:
            elsewhere = [
                (case.ids[place_of[int(case.sequence[u]), int(case.position[u]) - 1]], value[u] - centre)
                for u in those
                if fold[u] != fold[t] and case.position[u] > 0
            ]
            overall = sum(one for _, one in elsewhere) / max(1, len(elsewhere))
            after = [one for type_before, one in elsewhere if type_before == case.ids[before[-1]]]
            expected = (sum(after) + 4 * overall) / (len(after) + 4)
            mean = np.mean([features(one) for one in before], axis=0)
            weights = [0.5 ** (back / 16) * (1 - 0.5 ** (1 / 16)) for back in range(len(before))]
            decaying = sum(w * np.array(features(one)) for w, one in zip(weights, before[::-1], strict=True))
        return [*near, *[0.0] * (3 - len(near)), expected, *mean, *decaying]

    def left_by_types():
        """The draws of what frequency and word beginning leave of the values, token by token."""
        columns = np.array([[1.0, frequency[t], case.begins_word[case.ids[t]]] for t in those]).reshape(-1, 3)
        series = np.array([value[t] - centre for t in those])
        left, of_type = series - columns @ np.linalg.lstsq(columns, series, rcond=1e-7)[0], np.zeros(VOCABULARY)
        for t, one in zip(those, left, strict=True):
            of_type[case.ids[t]] = one
        dealt = shuffled_within_bands(of_type, np.array(counts), DRAWS, 7)
        return np.array([dealt[:, case.ids[t]] * counted[t] for t in tokens])

    def left_by_controls(found):
        """The shifted values of a profile in place, once the confounds are taken out of the values."""
        names = ("position", "log_frequency", "begins_word", "context")
        controls = np.concatenate([found[name][those] for name in names], axis=1)
        series = np.array([value[t] - centre for t in those])
        if not those:
            return np.zeros((len(case.ids), DRAWS))
        left = series - controls @ np.linalg.lstsq(controls, series, rcond=1e-5)[0]
        places = {t: place for place, t in enumerate(those)}
        return np.array(
            [[left[(places[t] + offset) % len(those)] if t in places else 0.0 for offset in shifts] for t in tokens]
        ).reshape(-1, DRAWS)

    first = lambda t: counted[t] and case.position[t] == 0  # noqa: E731
    in_early = lambda t: counted[t] and early[t]  # noqa: E731
    bins = int(case.length - 1).bit_length() + 1
    found = {
        "category": column(
            lambda t: if_counted(t, categories.index(int(value[t])) if counted[t] else 0), len(categories)
        ),
        "log_frequency": column(lambda t: if_counted(t, 0, frequency[t] - middle)),
        "begins_word": column(lambda t: if_counted(t, 0, float(case.begins_word[case.ids[t]]))),
        "type_block_value": column(lambda t: if_counted(t, block_of.get(case.ids[t]), value[t] - centre), case.blocks),
        "type_block": column(lambda t: if_counted(t, block_of.get(case.ids[t])), case.blocks),
        "sequence_block": column(lambda t: if_counted(t, sequence_block(t)), sequence_blocks),
        "first": indicator(first),
        "early": indicator(in_early),
        "skipped": indicator(lambda t: skipped[t]),
        "group": column(
            lambda t: (case.groups - 1 if case.position[t] < case.skip else case.group_of_value[case.value[t]], 1),
            case.groups,
        ),
        "skipped_value": indicator_value(lambda t: skipped[t]),
        "sequence_block_value": column(lambda t: if_counted(t, sequence_block(t), value[t] - centre), sequence_blocks),
        "first_value": indicator_value(first),
        "early_value": indicator_value(in_early),
        "null_early": null(lambda t: early[t]),
        "null_late": null(lambda t: not early[t]),
        "position": column(lambda t: if_counted(t, int(case.position[t]).bit_length()), bins),
        "context": column(lambda t: if_counted(t, slice(None), context(t)), 10),
    }
    return found | {"null_in_context": left_by_controls(found) if case.in_place else left_by_types()}


def assert_is(found, expected, columns, what=""):
    """The matrix `[tokens, width]` is `expected`, name by name; nothing but rounding to float32 is allowed for."""
    for name, part in expected.items():
        of_name = found[:, columns[name]].numpy()
        assert of_name.shape == part.shape, f"{name} {what}"
        # A regression on columns that nearly depend on each other magnifies their rounding to float32
        tolerance = 1e-4 if name == "null_in_context" else 1e-6 if name == "context" else 1e-7
        np.testing.assert_allclose(of_name, part, rtol=2e-7, atol=tolerance, err_msg=f"{name} {what}")
        if "value" not in name and "null" not in name and name not in ("log_frequency", "context"):
            assert np.array_equal(of_name, part), f"{name} {what}"


# Sequences fewer than blocks, as many, more, and no multiple of them; an odd number has a middle one
@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize(
    ("rows", "blocks"), [(1, 16), (2, 3), (3, 3), (5, 2), (7, 3), (7, 16), (8, 5), (9, 4)], ids=lambda value: f"{value}"
)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("in_place", [False, True])
def test_every_column_is_that_of_every_token(rows, blocks, skip, batch_size, in_place):
    case = Case(rows, blocks, skip, seed=rows * 100 + blocks, in_place=in_place)
    expected = by_hand(case)
    assert list(case.design.columns) == list(expected) == NAMES
    assert sum(len(part.T) for part in expected.values()) == case.design.width
    for part in case.batches(batch_size):
        tokens = part.stop - part.start
        found = matrix_of(case.cells(part), tokens, case.design.width)
        of_part = {name: columns[part] for name, columns in expected.items()}
        assert_is(found, of_part, case.design.columns, f"of tokens {part.start} to {part.stop}")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    blocks=st.integers(1, 12),
    skip=st.integers(0, 11),
    last=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    in_place=st.booleans(),
    data=st.data(),
)
def test_every_column_whatever_the_text_and_the_tokens_of_a_batch(rows, blocks, skip, last, seed, in_place, data):
    """A batch may be any tokens in any order."""
    case = Case(rows, blocks, skip, last=last, seed=seed, in_place=in_place)
    expected = by_hand(case)
    chosen = data.draw(st.lists(st.integers(0, len(case.ids) - 1), max_size=30))
    place = np.array(chosen, dtype=np.int64)
    cells = case.design(*(torch.from_numpy(of[place]) for of in (case.ids, case.position, case.sequence)))
    found = matrix_of(cells, len(place), case.design.width)
    assert_is(found, {name: columns[place] for name, columns in expected.items()}, case.design.columns)


@pytest.mark.parametrize("skip", [0, 3])
def test_the_texts_of_these_tests_have_what_they_should(skip):
    case = Case(7, 3, skip)
    expected, columns = by_hand(case), case.design.columns
    for name in NAMES:
        empty = {"first", "first_value"} if skip else {"skipped", "skipped_value"}
        assert expected[name].any() == (name not in empty), name
    rows_without = ~expected["category"].any(1)
    assert (case.value == UNDEFINED).any()
    assert rows_without.sum() == ((case.value == UNDEFINED) | (case.position < skip)).sum()
    assert expected["group"].sum() == len(case.ids) == case.tokens.count
    assert 0 < expected["early"].sum() < expected["category"].sum()
    straddling = case.batches(3)[1]  # sequences 3 to 5: the half ends at 4, blocks change at 3 and 5
    assert len(set(case.sequence[straddling] * 3 // 7)) == 2
    assert set(case.sequence[straddling] < 3.5) == {True, False}
    edges = [columns[name] for name in NAMES]
    assert [edge.start for edge in edges] == [0, *(edge.stop for edge in edges[:-1])]
    assert edges[-1].stop == case.design.width


def test_squares_are_wanted_of_indicators_alone_and_of_all_of_them_that_have_a_value():
    case = Case(7, 3, 3)
    assert case.design.squared.start == case.design.columns["type_block"].start
    assert case.design.squared.stop == case.design.columns["group"].stop
    matrix = matrix_of(case.cells(), len(case.ids), case.design.width)[:, case.design.squared]
    assert set(matrix.unique().tolist()) == {0.0, 1.0}


def test_tokens_of_one_type_in_one_block_are_one_cell():
    """One type over two blocks of three sequences: first positions apart, and the half that ends within none."""
    ids, valid = np.ones((6, 10), dtype=np.int32), np.ones((6, 10), dtype=bool)
    values, anything = np.array([3, 4]), np.ones(2)
    covariate, groups = Covariate(values, "size", "size", "mm"), np.zeros(6, dtype=int)
    design = Design(Tokens(ids, valid, 1), covariate, anything, anything > 0, DRAWS, 2, 0, 0, groups, 1)
    sequence, position = np.nonzero(valid)
    by_cell, by_token = design(*(torch.from_numpy(of) for of in (ids[valid].astype(np.int64), position, sequence)))
    assert len(by_cell.design) == 4
    assert torch.bincount(by_cell.of_token).tolist() == [27, 3, 27, 3]
    assert torch.equal(by_token.of_token, torch.arange(60))
    position = by_token.design[:, : design.columns["position"].stop - design.columns["position"].start]
    assert position.sum(0).tolist() == [6, 6, 12, 24, 12]


def test_a_text_gives_fewer_cells_than_tokens():
    case = Case(9, 4, 0)
    assert len(case.cells()[0].design) < 0.8 * len(case.ids)


def test_columns_without_an_entry_are_not_given():
    """Of a batch in the second half nothing is early, and one block of sequences is as good as another."""
    case = Case(8, 4, 0)
    last = case.batches(2)[-1]
    given_columns = torch.cat([one.columns for one in case.cells(last)]).tolist()
    columns = case.design.columns
    for name in ("early", "early_value", "null_early", "skipped", "skipped_value"):
        assert not set(range(columns[name].start, columns[name].stop)) & set(given_columns), name
    assert len(given_columns) < case.design.width


@pytest.mark.parametrize("skip", [0, 3])
def test_a_batch_without_tokens_is_no_matter(skip):
    case = Case(5, 3, skip)
    none = case.cells(slice(0, 0))
    assert matrix_of(none, 0, case.design.width).shape == (0, case.design.width)
    gram = Gram(case.design.width, 1, case.design.squared, shift=torch.zeros(1, 3))
    feed(gram, torch.zeros(1, 0, 3), place=np.arange(0), design=none)
    assert not any(tensor.any() for tensor in gram.state().values())


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 9])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_gram_of_the_cells_is_that_of_the_columns(skip, batch_size, in_place):
    case = Case(9, 4, skip, length=40, last=11, in_place=in_place)
    design, group = case.design, case.design.columns["group"]
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.normal(0.5, 1, (2, len(case.ids), 6)).astype(np.float32))
    gram = Gram(design.width, 2, design.squared, group, torch.full((2, 6), 0.5))
    for part in case.batches(batch_size):
        feed(gram, values[:, part], place=np.arange(part.stop - part.start), design=case.cells(part))
    z, raw = np.concatenate(list(by_hand(case).values()), axis=1), values.double().numpy()
    expected = {
        "zz": z.T @ z,
        "zx": z.T @ (raw - 0.5),
        "qxx": z[:, design.squared].T @ (raw - 0.5) ** 2,
        "magnitudes": z[:, group].T @ np.abs(raw),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(gram, name), value, rtol=2e-6, atol=2e-6 * np.abs(value).max(), err_msg=name)
    assert np.array_equal(gram.zz.diagonal()[group], z[:, group].sum(0))


def test_another_seed_deals_the_values_out_otherwise_and_nothing_else_changes():
    case = Case(7, 3, 0)
    given = case.covariate, case.reference, case.begins_word
    other = Design(case.tokens, *given, DRAWS, 3, 0, 8, case.group_of_value, case.groups)
    arguments = [torch.from_numpy(of) for of in (case.ids, case.position, case.sequence)]
    one, two = (matrix_of(design(*arguments), len(case.ids), design.width) for design in (case.design, other))
    for name, columns in case.design.columns.items():
        assert torch.equal(one[:, columns], two[:, columns]) == (not name.startswith("null")), name


@pytest.mark.parametrize(("count", "length", "least"), [(1000, 64, 64), (1000, 512, 250), (3, 8, 1), (1, 8, 1)])
def test_shifts_stay_away_from_no_shift(count, length, least):
    offsets = _offsets(count, length, 500, 0)
    assert least <= offsets.min() <= offsets.max() <= max(least, count - least)
    assert np.array_equal(offsets, _offsets(count, length, 500, 0))
    if count > 3:
        assert len(set(offsets)) > 200
        assert offsets.min() < least + 0.02 * count


@pytest.mark.parametrize(
    ("values", "name", "what"),
    [
        (np.array([1.0, 2.0]), "size", "must be whole numbers"),
        (np.array([-2, 2]), "size", "run from -2 to 2; give values from 0 to 1000000, and -1 where"),
        (np.array([[[1]]]), "size", "must be whole numbers"),
        (np.array([], dtype=int), "size", "must be whole numbers"),
        (np.array([1, 2_000_000]), "size", "run from 1 to 2000000; give values from 0 to 1000000"),
        (np.array([1, 2]), "Size of it", "'Size of it' must be one word in lower case"),
    ],
)
def test_a_covariate_that_cannot_be_used_is_refused(values, name, what):
    with pytest.raises(ValueError, match=what):
        Covariate(values, name, "size", "mm")


def test_values_of_other_sequences_and_too_many_values_are_refused():
    case = Case(3, 2, 0)
    given = case.reference, case.begins_word, DRAWS, 2, 0, 0
    other = Covariate(np.zeros((2, 12), dtype=int), "size", "size", "mm")
    with pytest.raises(ValueError, match=r"the values of size are \[2, 12\], the tokens \[3, 12\]"):
        Design(case.tokens, other, *given, np.zeros(2, dtype=int), 1)
    many = Tokens(np.zeros((1, 300), np.int32), np.ones((1, 300), bool), 1)
    with pytest.raises(ValueError, match="size has 300 different values; bin them into 256 or fewer"):
        Design(many, Covariate(np.arange(300)[None], "size", "size", "mm"), *given, np.zeros(302, dtype=int), 1)
