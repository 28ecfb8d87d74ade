"""Progress of long work: a bar on a terminal, and one line in the log with the expected time.

Knows nothing of the work.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Self, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

WORTH_SAYING = 10.0  # seconds left, from which on a line is logged
FIRST_LOOK = 0.5  # seconds after which the speed is known well enough
Item = TypeVar("Item")


class Progress:
    """Work of a known size, in any unit. Call `tick` with the amount that was done; use it as a context."""

    def __init__(self, what: str, size: float, detail: str = "", unit: str = ""):
        """`what` starts the log line and the bar, `detail` ends the line; `unit` is the unit of the bar, if any."""
        self._what, self._size, self._detail = what, size, detail
        self._done, self._begun, self._said = 0.0, monotonic(), False
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self._bar = tqdm(total=size, desc=what, leave=False, disable=_hides_bars(), bar_format=form, unit=unit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tick(self, amount: float) -> None:
        """Adds to the amount that was done."""
        self._done = min(self._done + amount, self._size)
        self._bar.update(self._done - self._bar.n)
        spent = monotonic() - self._begun
        if self._said or spent < FIRST_LOOK or self._done <= 0:
            return
        left = spent * (self._size - self._done) / self._done
        if left > WORTH_SAYING:
            self._said = True
            log.info("%s: about %s to go%s", self._what, told(left), f" ({self._detail})" if self._detail else "")

    def part(self, size: float) -> "Part":
        """The progress of a part of this size, counted in shares of the part."""
        return Part(self, size)


def _hides_bars() -> bool | None:
    """None, with which tqdm shows bars on a terminal only; False in a notebook, which is no terminal and shows them."""
    return False if type(sys.stderr).__module__.startswith("ipykernel.") else None


class Part:
    """A part of the work. Call it with the share that was done since the last call."""

    def __init__(self, whole: Progress, size: float):
        self._whole, self._size = whole, size

    def __call__(self, share: float) -> None:
        self._whole.tick(share * self._size)


def told(seconds: float) -> str:
    """A duration in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def over(items: Iterable[Item], what: str, detail: str = "") -> Iterator[Item]:
    """Iterates over items that each take about the same time, and shows the progress."""
    every = list(items)
    with Progress(what, len(every), detail) as progress:
        for item in every:
            yield item
            progress.tick(1)
