"""The base of optimisations: which input excites a unit most?

A subclass says which units (`units`), and may say from which token strings to start (`starts`). Gradient ascent, the
search over token strings, the text's own best, what they excite when they are run, statistics and figures are shared.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from neurexp.engine.ascent import Ascent
from neurexp.engine.one_unit import Unit
from neurexp.engine.plan import AscentPass, FollowingPass, Pass, SearchPass
from neurexp.engine.reducers.base import Reducer
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.engine.reducers.moments import Moments
from neurexp.engine.reducers.unit_values import UnitValues
from neurexp.engine.reducers.windows import Windows
from neurexp.engine.search import Search
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Results
from neurexp.experiments.named_neurons import check_neurons
from neurexp.experiments.optimisation.data import OptimisationData, OptimisationPlan, Options
from neurexp.experiments.optimisation.report import write
from neurexp.experiments.optimisation.strings import as_tokens, is_text, strings_of, windows_of
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.models.load import positions_of
from neurexp.models.own_tokenizer import embedding_rows
from neurexp.report.report import Report
from neurexp.report.words import number_of
from neurexp.text.tokenizer import first_tokens
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import UNDEFINED, token_lengths, token_texts

POOL = 20
TOKENS_AT_ONCE = 1024  # of strings that run together, about


class Optimisation(Experiment[OptimisationPlan]):
    """Base of optimisations. A subclass implements `units`, and may say where to start (`starts`)."""

    Options = Options

    @abstractmethod
    def units(self, inputs: Inputs) -> Sequence[Unit]:
        """The units, as layer and neuron. Raises UserError if there are none."""

    def starts(self, inputs: Inputs, unit: Unit) -> np.ndarray | None:
        """Token ids `[starts, n]` that ascent and search start from; None: random embeddings, and random tokens."""
        return None

    def prepare(self, inputs: Inputs) -> OptimisationPlan:
        model, options, tokens = inputs.model, self.options, inputs.text
        network, tokenizer, n = model.network, model.tokenizer, options.length
        units = self._checked_units(inputs)
        layers = tuple(sorted({layer for layer, _ in units}))
        prefix = tuple(first_tokens(tokenizer)) if model.begins_with_bos else ()
        length = tokens.valid.shape[1]
        most = min(length, positions_of(network) or length) - len(prefix)
        if n > most:
            raise UserError(
                f"experiment.length={n}: the text's sequences have room for {most} tokens; give {most} or fewer, or a "
                "longer dataset.sequence_length"
            )
        ordinary = token_lengths(tokenizer) != UNDEFINED
        ordinary[min(len(ordinary), embedding_rows(network)) :] = False
        whole = np.array([bool(text) and "\ufffd" not in text for text in token_texts(tokenizer)])
        allowed = np.flatnonzero(ordinary & whole)
        if len(allowed) < 2:
            raise UserError("model.tokenizer: it has fewer than two tokens of text; give another model.tokenizer")
        counted = tokens.valid & ordinary[np.where(tokens.valid, tokens.input_ids, 0)]
        counts, reference = inputs.reference_counts
        own = [self._own_starts(inputs, unit, len(ordinary)) for unit in units]
        drawn = [_random_strings(allowed, options.search_starts, n, inputs.seed, unit) for unit in units]
        random = [torch.from_numpy(one if given is None else given) for one, given in zip(drawn, own, strict=True)]
        chosen = [[neuron for where, neuron in units if where == layer] for layer in layers]
        masks = torch.from_numpy(counted)
        key = {
            "units": [list(unit) for unit in units],
            "tokenizer": hash_of_tokenizer(tokenizer),
            "length": n,
        }
        directions = max(Ascent.directions, POOL * options.starts * n)
        rates = options.rate, options.penalty
        ascent = Ascent(n, options.starts, options.steps, *rates, seed=inputs.seed, directions=directions)

        def covariates(ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> dict[str, Any]:
            return {"counted": masks[sequences, positions]}

        def text_reducers(sites: int) -> dict[str, Reducer]:
            windows = Windows(chosen, n, options.windows, tokens.valid.shape[1], model.device)
            return {"windows": windows, "moments": Moments(sites, device=model.device)}

        def search_starts(results: Results) -> list[torch.Tensor]:
            if not options.from_text or "text" not in results:
                return random
            windows = results["text"]["windows"]
            assert isinstance(windows, Windows)
            best = [list(windows_of(windows, unit, tokens, n).values())[:1] for unit in range(len(units))]
            return [
                torch.cat([one, torch.from_numpy(np.stack(own).astype(np.int64))]) if own else one
                for one, own in zip(random, best, strict=True)
            ]

        strings = partial(
            strings_of,
            units=len(units),
            tokens=tokens,
            n=n,
            counts=counts,
            allowed=allowed,
            draws=options.draws,
            seed=inputs.seed,
            own_starts=[len(one) for one in random],
        )

        def follow(results: Results) -> Mapping[str, Any]:
            if "ascent" not in results:
                return {}  # another process than the first
            found = as_tokens(strings(results), prefix)
            count, length = found.valid.shape
            return {
                "tokens": found,
                "reducers": lambda _: {"values": UnitValues(chosen, count, length, model.device)},
            }

        every = {"site": options.site, "layers": layers, "cacheable": True}
        passes: list[Pass] = [
            Pass(
                name="text",
                tokens=tokens,
                reducers=text_reducers,
                covariates=covariates,
                key=key | {"windows": options.windows},
                label="The text",
                shared=True,
                **every,
            ),
            AscentPass(
                name="ascent",
                tokens=_as_text(np.concatenate([drawn[0]] * options.starts)[: options.starts]),
                reducers=lambda _: {"found": ByUnit()},
                key=key
                | {"prefix": list(prefix), "ascent": vars(ascent), "ordinary": _hash(ordinary)}
                | {"starts": [None if one is None else one.tolist() for one in own]},
                label=f"Gradient ascent, for {number_of(len(units), 'unit')}",
                units=units,
                ascent=ascent,
                allowed=torch.from_numpy(np.flatnonzero(ordinary)),
                prefix=prefix,
                starts=[None if one is None else torch.from_numpy(one) for one in own],
                **every,
            ),
        ]
        if options.search:
            search = Search(options.search_steps, options.top, options.candidates, inputs.seed)
            passes.append(
                SearchPass(
                    name="search",
                    tokens=_as_text(random[0].numpy()),
                    reducers=lambda _: {"found": ByUnit()},
                    key=key | {"prefix": list(prefix), "search": vars(search), "allowed": _hash(allowed)},
                    label=f"Search over strings of tokens, for {number_of(len(units), 'unit')}",
                    units=units,
                    search=search,
                    allowed=torch.from_numpy(allowed),
                    is_text=partial(is_text, tokenizer),
                    starts_of=search_starts,
                    prefix=prefix,
                    **every,
                )
            )
        passes.append(
            FollowingPass(
                name="strings",
                tokens=passes[1].tokens,
                reducers=lambda _: {},
                key=key,
                label="The strings that were found, run alone",
                distributed=False,
                batch_factor=max(1, TOKENS_AT_ONCE // (inputs.batch_size * (len(prefix) + n))),
                follow=follow,
                **every,
            )
        )
        return OptimisationPlan(
            inputs=inputs,
            passes=tuple(passes),
            tokens=tokens,
            skipped=tokens.skipped,
            units=units,
            layers=layers,
            ascent=ascent,
            prefix=prefix,
            allowed=allowed,
            counted=counted,
            reference=reference,
            strings=strings,
        )

    def analyse(self, plan: OptimisationPlan, results: Results) -> Report:
        return write(OptimisationData.of(self.options, plan, results))

    def _checked_units(self, inputs: Inputs) -> tuple[Unit, ...]:
        """The units, each once and by layer. Raises UserError if the model lacks one."""
        units = sorted({(int(layer), int(neuron)) for layer, neuron in self.units(inputs)})
        for layer, _ in units:
            if not 0 <= layer < inputs.model.layers:
                raise UserError(
                    f"experiment.units: there is no layer {layer}; this model has layers 0 to {inputs.model.layers - 1}"
                )
        check_neurons(inputs.model.network, self.options.site, units, "experiment.units")
        return tuple(units)

    def _own_starts(self, inputs: Inputs, unit: Unit, vocabulary: int) -> np.ndarray | None:
        """The subclass's starts. Raises ValueError for another shape or an id that there is not."""
        starts = self.starts(inputs, unit)
        if starts is None:
            return None
        starts, shape = np.asarray(starts, dtype=np.int64), (self.options.starts, self.options.length)
        if starts.shape != shape or starts.min() < 0 or starts.max() >= vocabulary:
            raise ValueError(f"starts must be ids {list(shape)} below {vocabulary}, not {list(starts.shape)}")
        return starts


def _random_strings(allowed: np.ndarray, count: int, n: int, seed: int, unit: Unit) -> np.ndarray:
    return np.random.default_rng([seed, *unit]).choice(allowed, (count, n))


def _as_text(ids: np.ndarray) -> Tokens:
    return Tokens(ids.astype(np.int32), np.ones(ids.shape, dtype=bool), documents=len(ids))


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()
