"""What a text or a word list held that could not be used: every item is named, counted, and limited to a share.

Knows nothing of files, tokens or models.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.errors import UserError, printable

log = logging.getLogger(__name__)

SHOWN = 3  # items that the log and a message name; `skipped.parquet` names them all


EARLY = 1000  # bad items from which on a reading may be stopped before its end


@dataclass(frozen=True, slots=True)
class Skipped:
    """One item that was left out."""

    where: str  # the file, as the user would find it
    item: int  # the row or line within it, counted from 1; 0 where it is the file as a whole
    reason: str

    def __post_init__(self) -> None:
        """Names of files need not be text, and reasons quote what was found: both are made printable."""
        for name in ("where", "reason"):
            object.__setattr__(self, name, printable(getattr(self, name)))


def tell(skipped: Sequence[Skipped]) -> None:
    """Says in the log how many items were skipped, and names the first few."""
    if skipped:
        log.warning("Skipped %d, all listed in skipped.parquet: %s", len(skipped), named(skipped))


def check_share(skipped: Sequence[Skipped], seen: int, most: float, option: str, what: str) -> None:
    """Refuses a source that holds too many bad items.

    Args:
        skipped: the bad items.
        seen: how many items there were, the bad ones included.
        most: the largest share of bad items that is accepted, 0 to 1.
        option: the option that sets `most`.
        what: the items' name in the message.

    Raises:
        UserError: more than `most` of the items are bad.
    """
    share = len(skipped) / max(seen, 1)
    if share > most:
        enough = f"{option}={min(1.0, np.ceil(100 * share) / 100):g}" if most else f"a larger {option}"
        raise UserError(
            f"{option}={most:g}: {len(skipped)} of {seen} {what} cannot be used ({named(skipped)}); "
            f"mend them, or give {enough} to skip them"
        )


class Share:
    """How many of the rows, or of the files, of a source are bad, while it is read.

    The share is checked when the reading ends. Before that a reading is stopped only where its end is hardly in doubt:
    after 1000 bad items and at twice the accepted share. With `most` 0 the first bad item stops it.
    """

    def __init__(self, most: float, option: str, what: str) -> None:
        self.most, self.option, self.what = most, option, what
        self.seen = 0  # the bad ones included
        self.bad: list[Skipped] = []
        self._early = 0.0

    @property
    def needed(self) -> float:
        """The least `most` with which what was read until now is accepted."""
        return max(self._early, len(self.bad) / max(self.seen, 1))

    def add_bad(self, one: Skipped) -> None:
        """Counts an item that was seen before. Raises UserError where so many are bad that reading on is no use."""
        self.bad.append(one)
        if len(self.bad) >= EARLY:
            self._early = max(self._early, len(self.bad) / (2 * self.seen))
        if self.most == 0 or self._early > self.most:
            self.check()

    def check(self) -> None:
        """Raises UserError where more than `most` are bad."""
        check_share(self.bad, self.seen, self.most, self.option, self.what)


def table(skipped: Sequence[Skipped]) -> dict[str, np.ndarray]:
    """The items as columns, for `skipped.parquet`."""
    return {
        "where": np.array([one.where for one in skipped]),
        "item": np.array([one.item for one in skipped], dtype=np.int64),
        "reason": np.array([one.reason for one in skipped]),
    }


def named(skipped: Sequence[Skipped]) -> str:
    """The first few items, for a message."""
    told = [f"{one.where}{f', row {one.item}' if one.item else ''}: {one.reason}" for one in skipped[:SHOWN]]
    return "; ".join(told) + ("; …" if len(skipped) > SHOWN else "")
