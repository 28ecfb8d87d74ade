"""The figures of an optimisation: which numbers each shows, and its texts. Computes nothing."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from neurexp.experiments.optimisation.analysis import Analysis
from neurexp.experiments.optimisation.data import OptimisationData
from neurexp.experiments.optimisation.strings import DISCRETE, FROM_TEXT, GRADIENT, RANDOM, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # units
NAMES = {
    TEXT: "the text's best window",
    DISCRETE: "search, from random",
    FROM_TEXT: "search, from the text",
    GRADIENT: "ascent, decoded tokens",
}


class Figures:
    """Draws the figures of one optimisation."""

    def __init__(self, data: OptimisationData, analysis: Analysis):
        self._data, self._analysis = data, analysis
        self._units = range(len(data.plan.units))[:SHOWN]

    def all(self) -> "dict[str, Callable[[], Figure]]":
        """File name without ending → drawing."""
        return {"ascent_curves": self.ascent_curves, "reached": self.reached}

    def _detail(self, more: str) -> str:
        shown = (
            "" if len(self._data.plan.units) <= SHOWN else f"; the first {SHOWN} of {len(self._data.plan.units)} units"
        )
        return f"{self._data.label}, site {self._data.site}{shown}. {more}"

    def ascent_curves(self) -> "Figure":
        """The activation by step, for each start."""
        from neurexp.figures.ascents import ascent_curves

        data, rows = self._data, self._analysis.neurons
        panels = {data.name_of(unit): data.curves[unit] for unit in self._units}
        lines = {
            data.name_of(unit): {
                "best string": float(np.nanmax([rows[f"{source}_best"][unit] for source in NAMES])),
                "decoded tokens": float(rows["gradient_mean"][unit]),
            }
            for unit in self._units
        }
        title, kept = "What gradient ascent reaches with embeddings", self._analysis.metrics.get("kept_mean")
        if kept is not None:
            title += f"; its decoded tokens keep {kept:z.0%} of it, beyond random tokens"
        detail = self._detail(
            f"A line for each of {data.options.starts} starts: the mean activation over {data.options.length} "
            "positions. Best string: of tokens, of any way; decoded tokens: their mean over starts when they are run."
        )
        return ascent_curves(data.plan.ascent.points, panels, lines, title, detail, "mean activation")

    def reached(self) -> "Figure":
        """What the best string of each source excites."""
        from neurexp.figures.ascents import Reached, reached

        data, rows, ways = self._data, self._analysis.neurons, self._analysis.metrics
        panels = {}
        for unit in self._units:
            means = data.values.mean(1)
            bars = {
                NAMES[one]: float(rows[f"{one}_best"][unit]) for one in NAMES if not np.isnan(rows[f"{one}_best"][unit])
            }
            random = means[data.rows(unit, RANDOM)]
            panels[data.name_of(unit)] = Reached(bars, float(rows["embedding_best"][unit]), random)
        title = (
            "The highest activation by real tokens is found by the search for "
            f"{ways['share_best_discrete']:.0%} of the units, in the text for {ways['share_best_data']:.0%}, by "
            f"gradient ascent for {ways['share_best_gradient']:.0%}"
        )
        detail = self._detail(
            f"Mean activation over {data.options.length} tokens that are run alone, of each source's best string. "
            f"Grey: the middle 95 % of {data.options.starts * data.options.draws} strings of random tokens, as "
            "frequent as the decoded ones."
        )
        return reached(panels, title, detail, "mean activation")
