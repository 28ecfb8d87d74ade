"""Text: from a dataset or a list of words to token sequences and labelled spans. Knows no model and no experiment.

`read_text` gives running text as `Tokens`. `read_lists` reads lists of words. `align` (words in a template) and
`find_occurrences` (words in running text) give a `Selection` of labelled spans. `token_texts`, `token_lengths` and
`begins_word` are properties of a vocabulary's token types. `Skipped` names a part of a source that cannot be used.
"""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.text.characters import readable_tokens
    from neurexp.text.occurrences import find_occurrences
    from neurexp.text.running_text import read_text
    from neurexp.text.skipped import Skipped, check_share
    from neurexp.text.spans import Example, Selection, align, drop_too_long, place
    from neurexp.text.tokenizer import special_ids
    from neurexp.text.tokens import Tokens, pack
    from neurexp.text.vocabulary import UNDEFINED, begins_word, log_frequency, token_lengths, token_texts
    from neurexp.text.words import OWN_LISTS, WordLists, read_lists

__all__ = [
    "OWN_LISTS",
    "UNDEFINED",
    "Example",
    "Selection",
    "Skipped",
    "Tokens",
    "WordLists",
    "align",
    "begins_word",
    "check_share",
    "drop_too_long",
    "find_occurrences",
    "log_frequency",
    "pack",
    "place",
    "read_lists",
    "read_text",
    "readable_tokens",
    "special_ids",
    "token_lengths",
    "token_texts",
]

_HOMES = {
    "Example": "neurexp.text.spans",
    "OWN_LISTS": "neurexp.text.words",
    "Selection": "neurexp.text.spans",
    "Skipped": "neurexp.text.skipped",
    "Tokens": "neurexp.text.tokens",
    "UNDEFINED": "neurexp.text.vocabulary",
    "WordLists": "neurexp.text.words",
    "align": "neurexp.text.spans",
    "begins_word": "neurexp.text.vocabulary",
    "check_share": "neurexp.text.skipped",
    "drop_too_long": "neurexp.text.spans",
    "find_occurrences": "neurexp.text.occurrences",
    "log_frequency": "neurexp.text.vocabulary",
    "pack": "neurexp.text.tokens",
    "place": "neurexp.text.spans",
    "read_lists": "neurexp.text.words",
    "read_text": "neurexp.text.running_text",
    "readable_tokens": "neurexp.text.characters",
    "special_ids": "neurexp.text.tokenizer",
    "token_lengths": "neurexp.text.vocabulary",
    "token_texts": "neurexp.text.vocabulary",
}
__getattr__ = lazy(__name__, _HOMES)
