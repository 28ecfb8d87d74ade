"""A label for each neuron: the property of a token that explains it best, or none of them."""

from collections.abc import Mapping

import numpy as np

from neurexp.experiments.top_contexts.design import BY_TYPE, SIMPLE
from neurexp.stats.association import LEVEL

ONE_TOKEN, NONE = "one_token", "none"
LABELS: tuple[str, ...] = (*SIMPLE, ONE_TOKEN, *BY_TYPE, NONE)
LEAST = 0.05  # share of the variance that a property must explain
WORDS = {  # in sentences: neurons are explained by …
    "length": "the token's length",
    "log_frequency": "the token's frequency",
    "word_beginning": "whether it begins a word",
    "capital": "a capital",
    "digit": "a digit",
    "punctuation": "punctuation",
    "position": "the position",
    "first": "being the first of a sequence",
    "one_token": "one token alone",
    "token": "which token it is",
    "previous_token": "which token comes before",
    "none": "none of these",
}
ENOUGH = 0.5  # share of what the type explains that a simpler answer must explain


def labels_of(
    ev: Mapping[str, np.ndarray], q: Mapping[str, np.ndarray], ev_one_token: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each neuron's label, as an index of `LABELS`, and how much it explains (NaN for `none`), `[neurons]`.

    A property counts if it explains `LEAST` or more and q < 0.05. The simplest answer that tells enough is taken: the
    best simple property if it explains at least half of what the type of the token or of the one before does; else one
    token alone if it explains `LEAST` or more, and at least half of what the type of the token does; else the better
    one of the two types.

    Args:
        ev: property → `[neurons]` explained variance; NaN where it is not defined.
        q: property → `[neurons]`.
        ev_one_token: `[neurons]`; NaN where there is no such token.
    """

    def counting(name: str) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where((q[name] < LEVEL) & (ev[name] >= LEAST), ev[name], -np.inf)

    simple = np.stack([counting(name) for name in SIMPLE])
    by_type = np.stack([counting(name) for name in BY_TYPE])
    best, best_type = simple.max(0), by_type.max(0)
    label = np.full(best.shape, LABELS.index(NONE))
    explained = np.full(best.shape, np.nan)

    def give(where: np.ndarray, index: np.ndarray | int, value: np.ndarray) -> None:
        label[where], explained[where] = np.broadcast_to(index, label.shape)[where], value[where]

    typed = np.isfinite(best_type)
    give(typed, LABELS.index(BY_TYPE[0]) + by_type.argmax(0), best_type)
    of_token = np.where(np.isfinite(by_type[0]), by_type[0], np.inf)
    one = np.nan_to_num(ev_one_token, nan=-np.inf) >= np.maximum(LEAST, ENOUGH * of_token)
    give(typed & (by_type.argmax(0) == 0) & one, LABELS.index(ONE_TOKEN), ev_one_token)
    enough = np.isfinite(best) & (best >= ENOUGH * np.where(typed, best_type, 0))
    give(enough, simple.argmax(0), best)
    return label, explained
