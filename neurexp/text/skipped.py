"""Parts of a text or a word list that could not be used: each is named and counted, and their share is limited.

Knows nothing of files, tokens or models.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.errors import UserError, printable

log = logging.getLogger(__name__)

SHOWN = 3  # items named in the log and in messages; `skipped.parquet` names all


EARLY = 1000  # bad items after which reading may stop early


@dataclass(frozen=True, slots=True)
class Skipped:
    """One item that was left out."""

    where: str  # the file
    item: int  # the row or line in it, from 1; 0 for the whole file
    reason: str

    def __post_init__(self) -> None:
        """Makes names and reasons printable: they quote what was found."""
        for name in ("where", "reason"):
            object.__setattr__(self, name, printable(getattr(self, name)))


def tell(skipped: Sequence[Skipped]) -> None:
    """Logs how many items were skipped, and names the first few."""
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
    """Counts the bad rows or files of a source while it is read.

    The share is checked when the reading ends. Reading stops earlier only if the outcome is clear: after 1000 bad items
    and at twice the accepted share. With `most` 0 the first bad item stops it.
    """

    def __init__(self, most: float, option: str, what: str) -> None:
        self.most, self.option, self.what = most, option, what
        self.seen = 0  # the bad ones included
        self.bad: list[Skipped] = []
        self._early = 0.0

    @property
    def needed(self) -> float:
        """The smallest `most` that accepts what was read so far."""
        return max(self._early, len(self.bad) / max(self.seen, 1))

    def add_bad(self, one: Skipped) -> None:
        """Counts a bad item. Raises UserError if so many are bad that reading on is pointless."""
        self.bad.append(one)
        if len(self.bad) >= EARLY:
            self._early = max(self._early, len(self.bad) / (2 * self.seen))
        if self.most == 0 or self._early > self.most:
            self.check()

    def check(self) -> None:
        """Raises UserError if more than `most` are bad."""
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
