"""Top contexts: what excites a neuron, and what inhibits it?

One pass over a text keeps, for every neuron, the tokens with its highest and its lowest activations, its moments, and
what simple properties of a token explain of it.
"""

import hashlib
import logging
from typing import Any

import numpy as np
import torch

from neurexp.engine.plan import Pass
from neurexp.engine.reducers.base import Reducer
from neurexp.engine.reducers.extremes import Extremes
from neurexp.engine.reducers.gram import Gram
from neurexp.engine.reducers.moments import Moments
from neurexp.engine.reducers.neuron_histogram import NeuronHistogram
from neurexp.engine.reducers.sequence_maxima import SequenceMaxima
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Results
from neurexp.experiments.named_neurons import check_neurons
from neurexp.experiments.promoted import seconds_for
from neurexp.experiments.top_contexts import size
from neurexp.experiments.top_contexts.data import ONLY, Options, TopContextsData, TopContextsPlan
from neurexp.experiments.top_contexts.design import Design, values_of_types
from neurexp.experiments.top_contexts.report import write
from neurexp.experiments.top_contexts.tables import direct_is_left_out
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.report.report import Report
from neurexp.text.vocabulary import UNDEFINED, token_lengths

log = logging.getLogger(__name__)

# Options that the results of the pass depend on
OF_THE_PASS = ("k", "per_document", "before", "after", "skip_positions", "permutations", "property_tokens")


class TopContexts(Experiment[TopContextsPlan]):
    """The experiment `top_contexts`."""

    Options = Options

    @property
    def winners(self) -> list[tuple[int, int]]:
        """The option `winners`: layers and neurons, each once."""
        return list(dict.fromkeys((layer, neuron) for layer, neuron in self.options.winners or ()))

    def prepare(self, inputs: Inputs) -> TopContextsPlan:
        model, tokens, options = inputs.model, inputs.text, self.options
        layers, length = inputs.layers(options.layer), tokens.valid.shape[1]
        if options.skip_positions >= length:
            given = options.skip_positions
            raise UserError(f"experiment.skip_positions={given}: give a whole number from 0 to {length - 1}")
        ordinary = token_lengths(model.tokenizer) != UNDEFINED
        counted = tokens.valid & ordinary[np.where(tokens.valid, tokens.input_ids, 0)]
        counted[:, : options.skip_positions] = False
        if not counted.any():
            raise UserError(
                "dataset.tokens: this text has only special tokens (end of text, …) and skipped positions; give more"
            )
        if (count := int(counted.sum())) < 2 * options.k:
            log.warning(
                "experiment.k=%d: only %d of the text's tokens count, so the highest and the lowest activations share "
                "tokens; give more of the text, or k=%d or less", options.k, count, max(1, count // 2)
            )  # fmt: skip
        reference_counts, reference = inputs.reference_counts
        values = values_of_types(model.tokenizer, reference_counts)
        design = Design(tokens, counted, values, options.property_tokens, options.permutations, inputs.seed)
        units = self._units(inputs, layers)
        masks = torch.from_numpy(counted)
        document = torch.from_numpy(tokens.document) if options.per_document else None

        def covariates(ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> dict[str, Any]:
            known: dict[str, Any] = {"counted": masks[sequences, positions], "design": design(positions, sequences)}
            return known if document is None else known | {"document": document[sequences, positions]}

        def reducers(sites: int) -> dict[str, Reducer]:
            device, around = model.device, (options.before, options.after, options.per_document)
            made: dict[str, Reducer] = {
                "extremes": Extremes(sites, options.k, length, *around, device=device),
                "moments": Moments(sites, device=device),
                "properties": Gram(design.width, sites, design.squared, device=device),
            }
            if options.histogram:
                made["histogram"] = NeuronHistogram(sites, options.bins, options.histogram, device)
            if units:
                chosen = [[neuron for where, neuron in units if where == layer] for layer in layers]
                made["maxima"] = SequenceMaxima(chosen, len(tokens.valid), device)
            return made

        planned = Pass(
            name=ONLY,
            tokens=tokens,
            site=options.site,
            layers=layers,
            reducers=reducers,
            covariates=covariates,
            key={
                "experiment": f"{type(self).__module__}.{type(self).__qualname__}",
                "tokenizer": hash_of_tokenizer(model.tokenizer),
                "reference_counts": hashlib.sha256(reference_counts.tobytes()).hexdigest(),
                "seed": inputs.seed,
                "documents": hashlib.sha256(tokens.document.tobytes()).hexdigest() if options.per_document else "",
                "winners": [list(unit) for unit in units],
                "histogram": [options.histogram, options.bins] if options.histogram else [],
                # The other options are of the analysis: the same pass serves them
                **{name: getattr(options, name) for name in OF_THE_PASS},
            },
            cacheable=True,
        )
        return TopContextsPlan(
            inputs=inputs,
            passes=(planned,),
            tokens=tokens,
            skipped=tokens.skipped,
            layers=layers,
            counted=counted,
            design=design,
            reference=f"the counts of {reference}",
            units=units,
            bytes_per_neuron=size.bytes_per_neuron(options),
            afterwards=self._afterwards(inputs, layers),
        )

    def _afterwards(self, inputs: Inputs, layers: tuple[int, ...]) -> dict[str, float]:
        model, count = inputs.model, self.options.direct
        if not count or direct_is_left_out(self.options, model):
            return {}
        seconds = seconds_for(model.network, self.options.site, layers, count)
        return {"the direct paths of all neurons to the logits (experiment.direct=0: none)": seconds}

    def _units(self, inputs: Inputs, layers: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """The neurons of `experiment.winners`, by layer. Raises UserError if there is no such neuron."""
        for layer, _ in self.winners:
            if layer not in layers:
                raise UserError(
                    f"experiment.winners={self.options.winners}: layer {layer} is not run; give neurons of the layers "
                    f"{', '.join(map(str, layers))}"
                )
        check_neurons(
            inputs.model.network, self.options.site, self.winners, f"experiment.winners={self.options.winners}"
        )
        return tuple(sorted(self.winners))

    def analyse(self, plan: TopContextsPlan, results: Results) -> Report:
        return write(TopContextsData.of(self.options, plan, results))
