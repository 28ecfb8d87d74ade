"""Text: documents, packed token sequences, labelled spans and word lists. Knows no model and no experiment."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurexp.text.spans import Selection, align, place
    from neurexp.text.words import OWN_LISTS, read_lists

__all__ = ["OWN_LISTS", "Selection", "align", "place", "read_lists"]

_HOMES = {
    "OWN_LISTS": "neurexp.text.words",
    "Selection": "neurexp.text.spans",
    "align": "neurexp.text.spans",
    "place": "neurexp.text.spans",
    "read_lists": "neurexp.text.words",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: transformers takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'neurexp.text' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
