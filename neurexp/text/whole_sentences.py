"""A stretch of tokens, extended to whole sentences. Knows no tokenizer: it reads the tokens' texts."""

from collections.abc import Sequence

import regex

# A full stop, question or exclamation mark of any script, closing quotes and brackets, and then white space or a letter
# of a script that writes none; or an empty line
_END = regex.compile(r"\p{Sentence_Terminal}[\p{Pe}\p{Pf}\"']*(?=\s|$)|[。！？]|\n\s*\n")


def whole_sentences(texts: Sequence[tuple[str, int, int]], start: int, stop: int, most: int) -> tuple[int, int]:
    """The tokens [start, stop), extended on either side to the end of a sentence, if it is near.

    Args:
        texts: of a sequence: text, and the range [start, stop) of the tokens that it stands for, in order.
        start, stop: the stretch.
        most: tokens that either side may gain; a side whose sentence is longer stays as it is.

    Returns:
        The new start and stop.
    """
    first, places = 0, []
    for text, begin, _ in texts:
        places.append((first, begin))
        first += len(text)
    ends = [found.end() for found in _END.finditer("".join(text for text, _, _ in texts))]
    last = max((stop for _, _, stop in texts), default=stop)
    # A sentence begins with the first token that has no character of the sentence before
    begins = {0} | {_token_at(places, end, last) for end in ends}
    earlier = [place for place in begins if start - most <= place <= start]
    later = [place for place in begins | {last} if stop <= place <= stop + most]
    return max(earlier, default=start), min(later, default=stop)


def _token_at(places: Sequence[tuple[int, int]], character: int, last: int) -> int:
    """The first token whose text begins at the character or later."""
    return next((begin for first, begin in places if first >= character), last)
