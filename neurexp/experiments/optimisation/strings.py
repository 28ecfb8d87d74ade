"""The token strings that an optimisation compares: where each is from, and what each excites when it is run alone.

On one footing: every string has n tokens, and is run after what begins a sequence for this model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.engine.reducers.windows import Windows
from neurexp.experiments.base import Results
from neurexp.stats.optima import draw_alike
from neurexp.text.tokenizer import encode
from neurexp.text.tokens import Tokens

GRADIENT, RANDOM, DISCRETE, FROM_TEXT, TEXT = SOURCES = (
    "gradient",
    "random",
    "discrete",
    "discrete_from_text",
    "text",
)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> str:
    """A string of tokens as text, with the spaces that it has within a text."""
    return tokenizer.decode([int(one) for one in ids], clean_up_tokenization_spaces=False)  # type: ignore[return-value]


def is_text(tokenizer: PreTrainedTokenizerBase, strings: np.ndarray) -> np.ndarray:
    """Whether each string `[strings, n]` is what the tokenizer makes of its text, `[strings]` bool."""
    texts = [text_of(tokenizer, one) for one in strings]
    if not texts:
        return np.zeros(0, dtype=bool)
    again = encode(tokenizer, texts)["input_ids"]
    return np.array([list(one) == ids.tolist() for one, ids in zip(again, strings, strict=True)])


@dataclass
class Strings:
    """Strings of one unit or several, a row each, in the order in which they are run."""

    unit: list[int] = field(default_factory=list)  # index of the unit
    source: list[str] = field(default_factory=list)
    start: list[int] = field(default_factory=list)  # of the optimisation; −1 for the text's
    draw: list[int] = field(default_factory=list)  # of random tokens; −1 for all others
    place: list[int] = field(default_factory=list)  # in the text, sequence · length + column of its last token, or −1
    ids: list[np.ndarray] = field(default_factory=list)

    def add(self, unit: int, source: str, ids: np.ndarray, start: int = -1, draw: int = -1, place: int = -1) -> None:
        """Adds a string of n ids."""
        row = unit, source, start, draw, place, ids.astype(np.int64)
        for column, value in zip(vars(self).values(), row, strict=True):
            column.append(value)


def windows_of(windows: Windows, unit: int, tokens: Tokens, n: int) -> dict[int, np.ndarray]:
    """The text's best windows for a unit, by the place of their last token: the best by their mean first, then those by
    their last token. Windows with the same ids as an earlier one are left out."""
    flat, found, seen = tokens.input_ids.reshape(-1), {}, set()
    for kind in ("mean", "peak"):
        for place in windows.places(unit, kind).tolist():
            ids = flat[place - n + 1 : place + 1]
            if place >= 0 and tuple(ids.tolist()) not in seen:
                seen.add(tuple(ids.tolist()))
                found[place] = ids
    return found


def strings_of(
    results: Results,
    units: int,
    tokens: Tokens,
    n: int,
    counts: np.ndarray,
    allowed: np.ndarray,
    draws: int,
    seed: int,
    own_starts: Sequence[int],
) -> Strings:
    """Every string that is to be run, from the results of the passes before.

    Args:
        results: of the passes `text`, `ascent` and, if there was one, `search`.
        units: how many there are.
        tokens: the text.
        n: tokens of a string.
        counts: of each type, for random tokens of like frequency.
        allowed: ids that may be drawn.
        draws, seed: of random tokens.
        own_starts: how many of the search's starts, the first ones, are not from the text, for each unit.
    """
    windows, ascent = results["text"]["windows"], results["ascent"]["found"]
    assert isinstance(windows, Windows)
    assert isinstance(ascent, ByUnit)
    strings = Strings()
    for unit in range(units):
        decoded = ascent.of(unit, "ids").numpy()
        for start, ids in enumerate(decoded):
            strings.add(unit, GRADIENT, ids, start)
        for draw, drawn in enumerate(draw_alike(decoded, counts, allowed, draws, seed + unit)):
            for start, ids in enumerate(drawn):
                strings.add(unit, RANDOM, ids, start, draw)
        if "search" in results:
            _add_searched(strings, results["search"]["found"], unit, own_starts[unit])
        for place, ids in windows_of(windows, unit, tokens, n).items():
            strings.add(unit, TEXT, ids, place=place)
    return strings


def _add_searched(strings: Strings, found: object, unit: int, own_starts: int) -> None:
    """What the search found: each start's best string, and its best that is a text, if that is another."""
    assert isinstance(found, ByUnit)
    best, texts = found.of(unit, "ids").numpy(), found.of(unit, "text_ids").numpy()
    for start, (ids, text) in enumerate(zip(best, texts, strict=True)):
        source = DISCRETE if start < own_starts else FROM_TEXT
        strings.add(unit, source, ids, start)
        if text[0] >= 0 and not np.array_equal(text, ids):
            strings.add(unit, source, text, start)


def as_tokens(strings: Strings, prefix: Sequence[int]) -> Tokens:
    """The strings as sequences that begin with `prefix`."""
    ids = np.stack(strings.ids).astype(np.int32)
    whole = np.concatenate([np.tile(np.array(prefix, dtype=np.int32), (len(ids), 1)), ids], axis=1)
    return Tokens(whole, np.ones_like(whole, dtype=bool), documents=len(whole))
