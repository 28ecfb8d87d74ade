"""The tokens of a sequence as readable texts. Knows no tokenizer."""

from collections.abc import Sequence

from neurexp.figures.heat import on_one_line
from neurexp.text.joined import characters


def readable(parts: Sequence[bytes]) -> list[str]:
    """A text for each token of a sequence, on one line, without characters that would move others.

    A character that several tokens make together belongs to the first of them; the others get what is left of their
    own text, or "". A byte that is no part of a whole character becomes `·`.

    Args:
        parts: the bytes of each token, in order.
    """
    found = characters(parts)
    text = on_one_line(found.text)  # as long as before
    texts, told = [], 0
    for start, stop in zip(found.start.tolist(), found.stop.tolist(), strict=True):
        texts.append(text[max(start, told) : stop])
        told = max(told, stop)
    return texts


def alone(token: str) -> str:
    """A token that stands alone, on one line."""
    return on_one_line(token)
