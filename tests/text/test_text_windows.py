"""Windows of running text: each row at one position, with its own text around it."""

import numpy as np
from inprocess import text_of

from neurexp.text.spans import Selection
from neurexp.text.windows import has_room, inside, windows


def rows(*more):
    """The ids of a text of three sequences are its positions; rows at 3, 8–9, 12, 15 and 21, and `more`."""
    tokens = text_of(np.arange(100, 124), 10)
    place, stop = np.array(sorted([(3, 4), (8, 10), (12, 13), (15, 16), (21, 22), *more])).T
    sequence = place // 10
    words = [str(one) for one in place]
    return Selection(tokens, sequence, place - 10 * sequence, stop - 10 * sequence, np.arange(len(place)), words)


def test_a_window_is_the_text_around_the_row():
    found = rows()
    assert has_room(found, 2).tolist() == [True, True, True, True, False]
    assert has_room(found, 2, first=[7]).tolist() == [True, True, False, True, False]
    chosen = found.only(has_room(found, 2))
    cut = windows(chosen, 2, 3, first=[7])
    ids = [cut.tokens.input_ids[row][cut.tokens.valid[row]].tolist() for row in range(4)]
    assert ids == [
        [7, 101, 102, 103, 104, 105, 106],
        [7, 106, 107, 108, 109],  # the end of its sequence
        [7, 110, 111, 112, 113, 114, 115],
        [7, 113, 114, 115, 116, 117, 118],
    ]
    assert [cut.ids(row) for row in range(4)] == [[103], [108, 109], [112], [115]]
    assert set(cut.start) == {3}
    assert (cut.words, cut.category.tolist()) == (["3", "8", "12", "15"], [0, 1, 2, 3])


def test_a_window_ends_with_its_sequence_and_has_no_padding():
    last = rows((22, 23))
    cut = windows(last.only(np.array(last.words) == "22"), 2, 3)
    assert cut.tokens.input_ids[0][cut.tokens.valid[0]].tolist() == [120, 121, 122, 123]


def test_other_rows_within_the_windows_are_found():
    found = rows()
    chosen = found.only(has_room(found, 2))
    cut = windows(chosen, 2, 3, first=[7])
    # Before the target; across the end of two windows, of which the rest is not seen
    within = inside(chosen, rows((1, 2), (13, 14), (17, 20)), 2, cut)
    shown = [(int(within.sequence[row]), within.ids(row), within.words[row]) for row in range(len(within.words))]
    assert shown == [
        (0, [101], "1"), (0, [103], "3"), (1, [108, 109], "8"), (2, [112], "12"), (2, [113], "13"), (2, [115], "15"),
        (3, [113], "13"), (3, [115], "15"),
    ]  # fmt: skip
