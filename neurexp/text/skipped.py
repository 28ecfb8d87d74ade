"""Skipped items, the parts of a text or a word list that cannot be used: named, counted and limited to a share.

Knows nothing of files, tokens or models.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.errors import UserError, printable

log = logging.getLogger(__name__)

SHOWN = 3  # items named in the log and in error lines; `skipped.parquet` names all
EARLY = 1000  # bad items after which reading may stop early


@dataclass(frozen=True, slots=True)
class Skipped:
    """One item that was skipped."""

    where: str  # the file
    item: int  # the row or line in the file, from 1; 0 for the whole file
    reason: str

    def __post_init__(self) -> None:
        """Makes names and reasons printable, because they quote the file."""
        for name in ("where", "reason"):
            object.__setattr__(self, name, printable(getattr(self, name)))


def tell(skipped: Sequence[Skipped]) -> None:
    """Logs how many items were skipped, and names the first few."""
    if skipped:
        log.warning("Skipped %d, all listed in skipped.parquet: %s", len(skipped), named(skipped))


def check_share(skipped: Sequence[Skipped], seen: int, most: float, option: str, what: str) -> None:
    """Checks that the share of bad items is small enough.

    Args:
        skipped: the bad items.
        seen: the number of items, the bad ones included.
        most: the largest share of bad items that is accepted, 0 to 1.
        option: the option that sets `most`.
        what: the items' name in the error line, such as "rows".

    Raises:
        UserError: more than `most` of the items are bad.
    """
    share = len(skipped) / max(seen, 1)
    if share > most:
        enough = f"{option}={min(1.0, np.ceil(100 * share) / 100):g}" if most else f"a larger {option}"
        raise UserError(
            f"{option}={most:g}: {len(skipped)} of {seen} {what} cannot be used ({named(skipped)}); "
            f"correct them, or give {enough} to skip them"
        )


class Share:
    """Counts the bad rows or files of a source while it is read.

    The share is checked at the end. Reading stops earlier if the source is clearly bad: after `EARLY` bad items, if
    their share is more than twice `most`. If `most` is 0, the first bad item stops it.

    Args:
        most: the largest share of bad items that is accepted, 0 to 1.
        option: the option that sets `most`.
        what: the items' name in the error line.
    """

    def __init__(self, most: float, option: str, what: str) -> None:
        self.most, self.option, self.what = most, option, what
        self.seen = 0  # items read, the bad ones included
        self.bad: list[Skipped] = []
        self._early = 0.0

    @property
    def needed(self) -> float:
        """The smallest `most` that accepts what was read so far."""
        return max(self._early, len(self.bad) / max(self.seen, 1))

    def add_bad(self, item: Skipped) -> None:
        """Adds a bad item. Raises UserError if so many are bad that reading on is pointless."""
        self.bad.append(item)
        if len(self.bad) >= EARLY:
            self._early = max(self._early, len(self.bad) / (2 * self.seen))
        if self.most == 0 or self._early > self.most:
            self.check()

    def check(self) -> None:
        """Raises UserError if more than `most` are bad."""
        check_share(self.bad, self.seen, self.most, self.option, self.what)


def table(skipped: Sequence[Skipped]) -> dict[str, np.ndarray]:
    """The skipped items as columns, for `skipped.parquet`."""
    return {
        "where": np.array([item.where for item in skipped]),
        "item": np.array([item.item for item in skipped], dtype=np.int64),
        "reason": np.array([item.reason for item in skipped]),
    }


def named(skipped: Sequence[Skipped]) -> str:
    """The first few items with their reasons, for the log or an error line."""
    first = [f"{item.where}{f', row {item.item}' if item.item else ''}: {item.reason}" for item in skipped[:SHOWN]]
    return "; ".join(first) + ("; …" if len(skipped) > SHOWN else "")
