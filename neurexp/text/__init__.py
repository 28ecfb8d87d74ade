"""Text: documents, packed token sequences, labelled spans and word lists. Knows no model and no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.text.characters import shown_tokens
    from neurexp.text.running_text import read_text
    from neurexp.text.skipped import Skipped
    from neurexp.text.spans import Example, Selection, align, place
    from neurexp.text.tokens import Tokens, pack, token_lengths, token_texts
    from neurexp.text.vocabulary import begins_word
    from neurexp.text.words import OWN_LISTS, read_lists

__all__ = [
    "OWN_LISTS",
    "Example",
    "Selection",
    "Skipped",
    "Tokens",
    "align",
    "begins_word",
    "pack",
    "place",
    "read_lists",
    "read_text",
    "shown_tokens",
    "token_lengths",
    "token_texts",
]

_HOMES = {
    "Example": "neurexp.text.spans",
    "OWN_LISTS": "neurexp.text.words",
    "Selection": "neurexp.text.spans",
    "Skipped": "neurexp.text.skipped",
    "Tokens": "neurexp.text.tokens",
    "align": "neurexp.text.spans",
    "begins_word": "neurexp.text.vocabulary",
    "pack": "neurexp.text.tokens",
    "place": "neurexp.text.spans",
    "read_lists": "neurexp.text.words",
    "read_text": "neurexp.text.running_text",
    "shown_tokens": "neurexp.text.characters",
    "token_lengths": "neurexp.text.tokens",
    "token_texts": "neurexp.text.tokens",
}
__getattr__ = lazy(__name__, _HOMES)
