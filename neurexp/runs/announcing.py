"""What a run says of itself before it is done: how long it will take, and how much it will write.

Knows what experiments plan, and no experiment.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from neurexp.engine.plan import Pass
from neurexp.experiments.base import Plan

log = logging.getLogger(__name__)

ANNOUNCED = 10  # seconds: what takes longer is announced
LARGE = 100  # MB: a larger run folder is announced
MOST_TOKENS_WRITTEN = 1_000_000  # longer inputs are identified by their hash only
BYTES_PER_TOKEN = 5  # its id, and whether it is valid
THE_REST = 0.8  # MB: figures and texts


class Announcer:
    """Of the passes of some plans: one for each site, which share them."""

    def __init__(self, plans: Sequence[Plan]):
        self._plans, self._neurons = plans, 0

    def before(self) -> None:
        """Says what will take long after the passes."""
        seconds = Counter[str]()
        for plan in self._plans:
            seconds.update(plan.afterwards)
        for what, its in seconds.items():
            if its > ANNOUNCED:
                log.info("After the pass: about %s for %s", _spelled(its), what)

    def during(self, planned: Pass, seconds: float, neurons: int) -> None:
        """Says how long the pass will take, in `seconds`, and what the run will write about all its neurons.

        `neurons` are those that this pass captures; the plans' neurons are those of the pass with the most.
        """
        self._neurons = max(self._neurons, neurons)
        tokens = min(planned.tokens.count, MOST_TOKENS_WRITTEN)
        size = self._neurons * self._plans[0].bytes_per_neuron + tokens * BYTES_PER_TOKEN
        megabytes = size / 1e6 + THE_REST
        if seconds > ANNOUNCED or megabytes > LARGE:
            spelled = _spelled(seconds)
            log.info("Pass: about %s to go by the pace so far; the run will write about %.0f MB", spelled, megabytes)


def _spelled(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
