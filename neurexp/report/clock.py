"""The clock of a run: seconds by stage. Knows no stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage: `with clock("capture"): …`. `total` counts from its creation."""

    def __init__(self) -> None:
        self._start, self.stages = time.perf_counter(), dict[str, float]()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the block's duration to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start

    def move(self, seconds: float, stage: str, other: str) -> None:
        """Counts seconds of `stage` as those of another stage, which is a part of it."""
        if seconds:
            self.stages[stage] -= seconds
            self.stages[other] = self.stages.get(other, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Every stage so far, and `total`, to the millisecond."""
        return {name: round(value, 3) for name, value in self.stages.items()} | {
            "total": round(time.perf_counter() - self._start, 3)
        }
