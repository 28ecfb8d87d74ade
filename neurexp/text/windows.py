"""Windows: a stretch of running text around each row, as a sequence of its own. Knows nothing of models.

Every row then stands at the same position, with as much text before it as any other.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neurexp.text.spans import Selection
from neurexp.text.tokens import padded


def has_room(rows: Selection, before: int, first: Sequence[int] = ()) -> np.ndarray:
    """Whether each row `[rows]` has enough of its sequence before it for a window."""
    return rows.start >= before + len(first)


def windows(rows: Selection, before: int, after: int, first: Sequence[int] = ()) -> Selection:
    """Each row in a sequence of its own: `before` tokens of its text, the row, and at most `after` tokens.

    A row near the end of its sequence has fewer tokens after it.

    Args:
        rows: the rows; each of them has room (`has_room`).
        before, after: numbers of tokens.
        first: token ids that begin every window.
    """
    text, cut = rows.tokens, []
    ends = text.valid.sum(1)
    for sequence, start, stop in zip(rows.sequence, rows.start, rows.stop, strict=True):
        end = min(int(stop) + after, int(ends[sequence]))
        cut.append([*first, *text.input_ids[sequence, start - before : end].tolist()])
    start = np.full(len(cut), len(first) + before, dtype=np.int64)
    return replace(rows, tokens=padded(cut), sequence=np.arange(len(cut)), start=start, stop=start + rows.lengths)


def inside(rows: Selection, others: Selection, before: int, cut: Selection) -> Selection:
    """The other rows of the same text that lie within the windows, as rows of the windows.

    Args:
        rows: what the windows were cut around.
        others: rows of the same text, in order of sequence and start.
        before: tokens before each row in its window.
        cut: `windows` of `rows`.
    """
    width = int(max(rows.tokens.valid.shape[1], 1))
    order, found = others.sequence * width + others.start, []
    for window, (sequence, start) in enumerate(zip(rows.sequence, rows.start, strict=True)):
        first = int(start) - before
        shift = int(cut.start[window]) - int(start)
        length = int(cut.tokens.valid[window].sum())
        low, high = np.searchsorted(order, (sequence * width + first, sequence * width + length - shift))
        found += [(window, index, shift) for index in range(low, high) if others.stop[index] + shift <= length]
    window, index, shift = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return replace(
        cut, sequence=window, start=others.start[index] + shift, stop=others.stop[index] + shift,
        category=others.category[index], words=[others.words[one] for one in index],
    )  # fmt: skip
