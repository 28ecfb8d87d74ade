"""What a text or a word list held that could not be used: every item is named, counted, and limited to a share.

Knows nothing of files, tokens or models.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.errors import UserError

log = logging.getLogger(__name__)

SHOWN = 3  # items that the log and a message name; `skipped.parquet` names them all


@dataclass(frozen=True)
class Skipped:
    """One item that was left out."""

    where: str  # the file, as the user would find it
    item: int  # the row or line within it, counted from 1; 0 where it is the file as a whole
    reason: str


def tell(skipped: Sequence[Skipped]) -> None:
    """Says in the log how many items were skipped, and names the first few."""
    if skipped:
        log.warning("Skipped %d, all listed in skipped.parquet: %s", len(skipped), _first(skipped))


def check_share(skipped: Sequence[Skipped], seen: int, most: float, option: str) -> None:
    """Refuses a source that holds too many bad items.

    Args:
        skipped: the bad items.
        seen: how many items there were, the bad ones included.
        most: the largest share of bad items that is accepted, 0 to 1.
        option: the option that sets `most`.

    Raises:
        UserError: more than `most` of the items are bad.
    """
    if len(skipped) > most * seen:
        raise UserError(
            f"{option}={most:g}: {len(skipped)} of {seen} cannot be used ({_first(skipped)}); "
            f"mend them, or give {option}={min(1.0, np.ceil(100 * len(skipped) / max(seen, 1)) / 100):g} to skip them"
        )


def table(skipped: Sequence[Skipped]) -> dict[str, np.ndarray]:
    """The items as columns, for `skipped.parquet`."""
    return {
        "where": np.array([one.where for one in skipped]),
        "item": np.array([one.item for one in skipped], dtype=np.int64),
        "reason": np.array([one.reason for one in skipped]),
    }


def _first(skipped: Sequence[Skipped]) -> str:
    named = [f"{one.where}{f', row {one.item}' if one.item else ''}: {one.reason}" for one in skipped[:SHOWN]]
    return "; ".join(named) + ("; …" if len(skipped) > SHOWN else "")
