"""How the sequences of a pass are shared out among processes, and anew if a resumed run has another number of them.

At first each process gets one contiguous range. Every checkpoint says how all sequences were shared out, and which of
them its states cover. Another number of processes leaves these states as they are, and shares out the sequences that
no state covers. Knows neither reducers nor models.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

Ranges = tuple[range, ...]  # ascending and disjoint, each of step 1


@dataclass(frozen=True)
class Division:
    """Which sequences each process runs."""

    shares: tuple[Ranges, ...]  # of each process
    number: int = 0  # how many times the sequences were shared out anew
    finished: tuple[str, ...] = ()  # checkpoints whose sequences are in no share

    @classmethod
    def of(cls, sequences: int, processes: int) -> Self:
        """One contiguous part for each process, in their order."""
        return cls(_dealt([range(sequences)], processes))

    def anew(self, processes: int, kept: Iterable[tuple[str, Ranges]]) -> Self:
        """Shares out what the checkpoints `kept` of this division (their names and sequences) do not cover."""
        kept = list(kept)
        finished = self.finished + tuple(name for name, _ in kept)
        left = _without([one for share in self.shares for one in share], [one for _, share in kept for one in share])
        return type(self)(_dealt(left, processes), self.number + 1, finished)

    def suffix(self, process: int) -> str:
        """What distinguishes the names of a process's checkpoints."""
        if len(self.shares) == 1 and self.number == 0:
            return ""
        return f"-{process}of{len(self.shares)}" + (f"-{self.number}" if self.number else "")

    def as_json(self) -> str:
        """The division as a text, for `from_json`."""
        shares = [to_pairs(share) for share in self.shares]
        return json.dumps({"shares": shares, "number": self.number, "finished": self.finished})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The division of `as_json`."""
        read = json.loads(text)
        return cls(tuple(map(from_pairs, read["shares"])), read["number"], tuple(read["finished"]))


def to_pairs(ranges: Iterable[range]) -> list[list[int]]:
    """The ranges as pairs of start and stop, for JSON."""
    return [[one.start, one.stop] for one in ranges]


def from_pairs(pairs: Iterable[Sequence[int]]) -> Ranges:
    """The ranges of `to_pairs`."""
    return tuple(range(start, stop) for start, stop in pairs)


def ranges_of(part: slice | Sequence[range], sequences: int) -> Ranges:
    """The part of so many sequences as ranges; none of them is empty."""
    ranges = [range(*part.indices(sequences))] if isinstance(part, slice) else part
    return tuple(one for one in ranges if len(one))


def batches_of(ranges: Iterable[range], size: int) -> list[range]:
    """Batches of at most `size` sequences, none of which crosses a gap."""
    return [range(start, min(start + size, one.stop)) for one in ranges for start in one[::size]]


def joined(ranges: Iterable[range]) -> Ranges:
    """The ranges with neighbours made one."""
    found: list[range] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if found and found[-1].stop == one.start:
            found[-1] = range(found[-1].start, one.stop)
        elif len(one):
            found.append(one)
    return tuple(found)


def _without(ranges: Iterable[range], covered: Iterable[range]) -> Ranges:
    """What is left of the ranges."""
    left = joined(ranges)
    for gone in filter(len, covered):
        pieces = [
            (range(one.start, min(one.stop, gone.start)), range(max(one.start, gone.stop), one.stop)) for one in left
        ]
        left = tuple(piece for pair in pieces for piece in pair if len(piece))
    return left


def _dealt(ranges: Sequence[range], processes: int) -> tuple[Ranges, ...]:
    """As many sequences for each process, or one more, in order."""
    total, shares = sum(map(len, ranges)), []
    for process in range(processes):
        first, last = total * process // processes, total * (process + 1) // processes
        share, passed = [], 0
        for one in ranges:
            piece = one[max(0, first - passed) : max(0, last - passed)]
            passed += len(one)
            if len(piece):
                share.append(piece)
        shares.append(tuple(share))
    return tuple(shares)
