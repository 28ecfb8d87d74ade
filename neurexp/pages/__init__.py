"""Pages to look at: every neuron of a run of `top_contexts`, as a folder that a browser opens from disk.

Knows run folders, and neither models nor experiments.
"""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.pages.card import Card, card_of
    from neurexp.pages.subject import Subject, read
    from neurexp.pages.writing import write_of

__all__ = ["Card", "Subject", "card_of", "read", "write_of"]

_HOMES = {
    "Card": "neurexp.pages.card",
    "card_of": "neurexp.pages.card",
    "Subject": "neurexp.pages.subject",
    "read": "neurexp.pages.subject",
    "write_of": "neurexp.pages.writing",
}
__getattr__ = lazy(__name__, _HOMES)
