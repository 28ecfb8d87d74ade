"""An optimisation's plan before its passes, and its data after them. Knows no test and no sentence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from neurexp.engine.ascent import Ascent
from neurexp.engine.one_unit import Unit
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.engine.reducers.moments import Moments
from neurexp.engine.reducers.unit_values import UnitValues
from neurexp.engine.reducers.windows import Windows
from neurexp.experiments import base
from neurexp.experiments.base import Results
from neurexp.experiments.optimisation.strings import Strings, is_text, text_of
from neurexp.experiments.options.optimisations import OptimisationOptions as Options
from neurexp.stats.moments import moments_of
from neurexp.text.vocabulary import token_texts


@dataclass(frozen=True, kw_only=True)
class OptimisationPlan(base.Plan):
    """What an optimisation runs, and what its analysis needs beside the results."""

    units: tuple[Unit, ...]  # layer and neuron, by layer
    layers: tuple[int, ...]
    ascent: Ascent
    prefix: tuple[int, ...]  # what begins a sequence
    allowed: np.ndarray  # ids that strings may be made of
    counted: np.ndarray  # [sequences, length] bool: tokens of the text that are no special tokens
    reference: str  # which text frequencies are taken from
    strings: Callable[[Results], Strings]  # all strings that are run, from the results of the passes before


@dataclass(frozen=True)
class OptimisationData:
    """Everything that the analysis needs.

    Args:
        options, plan: of the run.
        start, end: embeddings `[units, starts, n, width]` float32.
        curves: mean activation by step, `[units, starts, points]`.
        ids, cosine: the nearest tokens to `end`, `[units, starts, n]`, and their cosines.
        direction_ids, direction_cosine: the same for random directions, `[directions]`.
        search_curves: `[units, search starts, steps + 1]`, NaN for a start that a unit lacks; None without a search.
        tried: strings that the search has run, `[units]`.
        strings: all that were run.
        values: each string's activations at its own unit, `[strings, n]` float32.
        text_mean, text_sd, text_maximum: of each unit over the text's tokens, `[units]`.
        windows_best: the best mean over a window of the text, in its place, `[units]`.
        windows: of each unit: place of a window's last token → the window's mean there.
    """

    options: Options
    plan: OptimisationPlan
    start: np.ndarray
    end: np.ndarray
    curves: np.ndarray
    ids: np.ndarray
    cosine: np.ndarray
    direction_ids: np.ndarray
    direction_cosine: np.ndarray
    search_curves: np.ndarray | None
    tried: np.ndarray
    strings: Strings
    values: np.ndarray
    text_mean: np.ndarray
    text_sd: np.ndarray
    text_maximum: np.ndarray
    windows_best: np.ndarray
    windows: Sequence[Mapping[int, float]]

    @classmethod
    def of(cls, options: Options, plan: OptimisationPlan, results: Results) -> "OptimisationData":
        """Joins a plan with the results of its passes."""
        ascent, windows, moments = results["ascent"]["found"], results["text"]["windows"], results["text"]["moments"]
        values = results["strings"]["values"]
        assert isinstance(ascent, ByUnit)
        assert isinstance(windows, Windows)
        assert isinstance(moments, Moments)
        assert isinstance(values, UnitValues)
        named = {name: getattr(moments, name).cpu().numpy() for name in moments.summed + moments.calibrated}
        statistics, units, strings = moments_of(**named), range(len(plan.units)), plan.strings(results)
        layers, neurons = (np.array(one) for one in zip(*plan.units, strict=True))
        places = np.searchsorted(np.array(plan.layers), layers), neurons
        every = values.values.cpu().numpy()[:, :, len(plan.prefix) :]
        search = results["search"]["found"] if "search" in results else None
        assert search is None or isinstance(search, ByUnit)

        def joined(name: str) -> np.ndarray:
            return torch.stack([ascent.of(unit, name) for unit in units]).numpy()

        def best(kind: str) -> np.ndarray:
            return np.array([float(windows.values(unit, kind)[0]) for unit in units])

        return cls(
            options=options,
            plan=plan,
            start=joined("start"),
            end=joined("end"),
            curves=joined("curve"),
            ids=joined("ids"),
            cosine=joined("cosine"),
            direction_ids=ascent.of(None, "direction_ids").numpy(),
            direction_cosine=ascent.of(None, "direction_cosine").numpy(),
            search_curves=None if search is None else _padded([search.of(unit, "curve").numpy() for unit in units]),
            tried=np.array([0 if search is None else int(search.of(unit, "tried")) for unit in units]),
            strings=strings,
            values=every[np.array(strings.unit), np.arange(len(strings.unit))],
            text_mean=statistics.mean[places],
            text_sd=statistics.std[places],
            text_maximum=best("maximum"),
            windows_best=best("mean"),
            windows=[
                dict(zip(windows.places(unit, "mean").tolist(), windows.values(unit, "mean").tolist(), strict=True))
                for unit in units
            ],
        )

    @property
    def label(self) -> str:
        """The model and the text, for titles."""
        return self.plan.inputs.label

    @property
    def site(self) -> str:
        """The place in each block."""
        return self.options.site

    def name_of(self, unit: int) -> str:
        """A unit in a sentence."""
        layer, neuron = self.plan.units[unit]
        return f"{self.site} {layer}.{neuron}"

    @cached_property
    def texts(self) -> list[str]:
        """Each string as text."""
        tokenizer = self.plan.inputs.model.tokenizer
        return [text_of(tokenizer, ids) for ids in self.strings.ids]

    @cached_property
    def are_texts(self) -> np.ndarray:
        """Whether each string is what the tokenizer makes of its text."""
        return is_text(self.plan.inputs.model.tokenizer, np.stack(self.strings.ids))

    @cached_property
    def tokens(self) -> list[str]:
        """`[vocabulary]`: each token decoded alone."""
        return token_texts(self.plan.inputs.model.tokenizer)

    def rows(self, unit: int, *sources: str) -> np.ndarray:
        """The strings of a unit from some sources."""
        own = np.array(self.strings.unit) == unit
        return np.flatnonzero(own & np.isin(np.array(self.strings.source), sources))


def _padded(curves: list[np.ndarray]) -> np.ndarray:
    """Curves `[starts, points]` of each unit as one array, with NaN where a unit has fewer starts."""
    joined = np.full((len(curves), max(map(len, curves)), curves[0].shape[1]), np.nan, dtype=np.float32)
    for unit, curve in enumerate(curves):
        joined[unit, : len(curve)] = curve
    return joined
