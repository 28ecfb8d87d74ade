"""The figures of an intervention: which numbers each shows, and its texts. Computes nothing."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from neurexp.experiments.intervention.analysis import Analysis, name_of
from neurexp.experiments.intervention.columns import WORDS
from neurexp.experiments.intervention.data import InterventionData
from neurexp.experiments.intervention.findings import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNIT = "change of the loss, nats per prediction"
DRAWN = 6  # neurons whose direct paths are drawn, of all sets together


class Figures:
    """Draws the figures of one intervention."""

    def __init__(self, data: InterventionData, analysis: Analysis):
        self._data, self._analysis = data, analysis

    def all(self) -> "dict[str, Callable[[], Figure]]":
        """File name without ending → drawing."""
        figures: dict[str, Callable[[], Figure]] = {"dose_response": self.dose_response}
        if self._data.own_groups:
            figures["dose_response_specific"] = self.dose_response_specific
        figures |= {"effects_by_tokens": self.effects_by_tokens}
        if np.isfinite(self._analysis.neurons["delta_loss"]).any():
            figures["estimate_against_exact"] = self.estimate_against_exact
        if self._data.direct is not None:
            figures["direct_path"] = self.direct_path
        return figures

    def _detail(self, more: str) -> str:
        data = self._data
        of = f"; neurons of {data.source}" if data.source else ""
        return f"{data.label}, site {data.site}, {int(data.counts[0].sum()):,} predictions{of}. {more}"

    def _null(self) -> str:
        matched = "mean |activation| and output weights" if self._data.drawn.norms is not None else "mean |activation|"
        return f"Grey: {self._data.options.draws} random sets of the same layers, matched in {matched}."

    def dose_response(self) -> "Figure":
        """The effect on all predictions over the number of neurons."""
        title = f"{self._largest('', 'all')}"
        return self._doses(title, "", dict.fromkeys(self._data.sets, "all"), f"{UNIT},\nall predictions")

    def dose_response_specific(self) -> "Figure":
        """The effect on each set's own category minus that on all other predictions."""
        groups = dict(self._data.own_groups)
        title = self._largest("specific_", None)
        return self._doses(title, "specific_", groups, f"{UNIT}:\non the set's own category − elsewhere")

    def _largest(self, prefix: str, tokens: str | None) -> str:
        """What the largest k of each set does, as a title."""
        parts = []
        effects = self._analysis.effects
        for name in self._data.sets:
            group = tokens or self._data.own_groups.get(name)
            rows = self._rows(name, self._data.trials.kinds[0], group)
            if len(rows):
                row = rows[-1]
                value = effects[f"{prefix}delta_loss"][row]
                p = effects[f"{prefix}p"][row]
                parts.append(f"{effects['k'][row]} × {name} {value:+.2g} nats (p = {p:.2g})")
        what = "Without these neurons the loss changes by" if not prefix else "On their own category, beyond elsewhere"
        return f"{what}: " + "; ".join(parts)

    def _rows(self, name: str, kind: str, tokens: str | None) -> np.ndarray:
        effects = self._analysis.effects
        return np.flatnonzero((effects["set"] == name) & (effects["kind"] == kind) & (effects["tokens"] == tokens))

    def _doses(self, title: str, prefix: str, groups: dict[str, str], ylabel: str) -> "Figure":
        from neurexp.figures.interventions import Doses, dose_response

        effects, panels = self._analysis.effects, {}
        value = f"{prefix}delta_loss"
        for name, tokens in groups.items():
            curves = []
            for kind in self._data.trials.kinds:
                rows = self._rows(name, kind, tokens)
                curves.append(
                    Doses(
                        kind,
                        effects["k"][rows].tolist(),
                        effect=effects[value][rows],
                        low=effects[f"{value}_low"][rows],
                        high=effects[f"{value}_high"][rows],
                        null_mean=effects[f"{prefix}null_mean"][rows],
                        null_low=effects[f"{prefix}null_low"][rows],
                        null_high=effects[f"{prefix}null_high"][rows],
                    )
                )
            panels[named(self._data, name) if not prefix else f"{named(self._data, name)}, {tokens}"] = curves
        kinds = ", ".join(WORDS[kind] for kind in self._data.trials.kinds)
        return dose_response(panels, title, self._detail(f"Replaced by {kinds}. {self._null()}"), ylabel)

    def effects_by_tokens(self) -> "Figure":
        """The effect of each whole set on each group of predictions."""
        from neurexp.figures.interventions import TokenEffect, effects_by_tokens

        effects, rows = self._analysis.effects, []
        kind = self._data.trials.kinds[0]
        for name in self._data.sets:
            k = self._data.trials.ks[name][-1]
            chosen = np.flatnonzero((effects["set"] == name) & (effects["kind"] == kind) & (effects["k"] == k))
            rows += [
                TokenEffect(
                    f"{k} neurons: {named(self._data, name)}",
                    f"{effects['tokens'][row]} ({effects['predictions'][row]:,})",
                    effect=float(effects["delta_loss"][row]),
                    low=float(effects["delta_loss_low"][row]),
                    high=float(effects["delta_loss_high"][row]),
                    null_mean=float(effects["null_mean"][row]),
                    null_low=float(effects["null_low"][row]),
                    null_high=float(effects["null_high"][row]),
                    p=float(effects["p"][row]),
                )
                for row in chosen
            ]
        detail = self._detail(
            f"Replaced by {WORDS[kind]}; in brackets the number of predictions; p by rank, one-sided, not corrected. "
            f"{self._null()}"
        )
        return effects_by_tokens(rows, self._largest("", "all"), detail, UNIT)

    def estimate_against_exact(self) -> "Figure":
        """The first-order estimate against exact ablations of single neurons."""
        from neurexp.figures.estimates import estimate_against_exact

        table, metrics = self._analysis.neurons, self._analysis.metrics
        known = np.isfinite(table["delta_loss"])
        pairs = np.stack([table["layer"], table["neuron"]], axis=1)[known]
        r = metrics.get("estimate_r_sample")
        title = "The estimate of single ablations" + (
            f" agrees with exact ones with r = {r:.2f} (random neurons)" if r is not None else " and exact ones"
        )
        return estimate_against_exact(
            table["delta_loss_estimate"][known],
            table["delta_loss"][known],
            table["found"][known],
            [name_of(pair) for pair in pairs],
            title,
            self._detail(f"Replaced by {WORDS[self._data.trials.kinds[0]]}."),
            "nats per prediction",
        )

    def direct_path(self) -> "Figure":
        """The tokens that found neurons promote and suppress most."""
        from neurexp.figures.estimates import DirectPath, direct_path

        direct, shown = self._data.direct, []
        assert direct is not None
        each = max(1, DRAWN // len(self._data.sets))
        for name, pairs in self._data.trials.sets.items():
            for index, pair in enumerate(pairs[:each]):
                up, down = (
                    [(direct.texts[one], float(value)) for one, value in zip(ids[:5].tolist(), values[:5], strict=True)]
                    for ids, values in zip(
                        (direct.promoted[name][index], direct.suppressed[name][index]),
                        (direct.effects[name][0][index], direct.effects[name][1][index]),
                        strict=True,
                    )
                )
                shown.append(DirectPath(f"{name}: {name_of(pair)}", up, down))
        detail = self._detail(
            "Through the final norm's weight and the unembedding, per unit of activation; what later blocks make of it "
            "is left out."
        )
        return direct_path(
            shown,
            "Tokens that each neuron promotes and suppresses most, directly",
            detail,
            "logits per unit (relative)",
        )
