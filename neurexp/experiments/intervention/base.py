"""The base of interventions: does the model use these neurons?

A subclass says which neurons (`sets`), on which predictions (`groups`) and how they are edited (`edits`). The passes,
matched random neurons, the estimate for all neurons, the direct path, statistics and figures are shared.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from neurexp.engine.edits import Edit
from neurexp.engine.plan import EditedPass, GradientPass, Pass
from neurexp.engine.reducers.attribution import Attribution
from neurexp.engine.reducers.base import predicting
from neurexp.engine.reducers.effects import Effects
from neurexp.engine.reducers.rows import Rows
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Results, TokenGroup
from neurexp.experiments.intervention.data import ALL, Group, InterventionData, InterventionPlan, Options
from neurexp.experiments.intervention.draws import Measured, draw
from neurexp.experiments.intervention.report import write
from neurexp.experiments.intervention.selection import FoundNeurons, given
from neurexp.experiments.intervention.trials import Trials, doses
from neurexp.experiments.named_neurons import check_neurons
from neurexp.models.head import Head
from neurexp.report.report import Report
from neurexp.text.tokens import Tokens

MOST_BLOCKS = 64  # of sequences, for intervals
ROWS = 1024  # tokens of the text that `peak` and `resample` are measured on
MOST = 16  # neurons of a set, if no number is given


class Intervention(Experiment[InterventionPlan]):
    """Base of interventions. A subclass implements `sets`, and may say on which tokens (`groups_of_tokens`)."""

    Options = Options

    @abstractmethod
    def sets(self, inputs: Inputs) -> Mapping[str, FoundNeurons]:
        """The neurons that are edited, by name. Raises UserError if there are none."""

    def groups_of_tokens(self, inputs: Inputs) -> Mapping[str, TokenGroup]:
        """The groups of tokens that effects are measured on apart, by name; by default none."""
        return {}

    def describe_source(self, inputs: Inputs) -> str:
        """Where the neurons are from, in words; empty if the user named them."""
        return ""

    def prepare(self, inputs: Inputs) -> InterventionPlan:
        model, options, tokens = inputs.model, self.options, inputs.text
        Head(model.network)  # raises UserError if there is none
        sets = {name: one for name, one in self.sets(inputs).items() if len(one.layers)}
        if not sets or not all(re.fullmatch(r"\w[\w .-]*", name) for name in sets):  # they become names of metrics
            raise ValueError(f"sets must be of one neuron at least, and named by letters and digits, not {list(sets)}")
        pairs = {name: one.pairs for name, one in sets.items()}
        named = given("run", options.run) if options.neurons is None else given("neurons", options.neurons)
        check_neurons(model.network, options.site, np.concatenate(list(pairs.values())), named)
        own = {int(layer) for one in sets.values() for layer in one.layers}
        layers = tuple(sorted({*inputs.layers(options.layer), *own}))
        ks = {name: doses(len(one), options.ks, f"the set {name}") for name, one in pairs.items()}
        trials = Trials(pairs, self.options.kinds, ks, options.draws, options.alone, options.sample)
        found = self.groups_of_tokens(inputs)
        groups, masks = _groups(tokens, found)
        if not bool(masks[0].any()):
            raise UserError(
                f"dataset.tokens: the text has {tokens.count} {'token' if tokens.count == 1 else 'tokens'} in "
                f"{len(tokens.valid)} sequences, and none is followed by another; give more text"
            )
        blocks = _blocks(len(tokens.valid))
        measured = partial(Measured.of, layers=layers, kinds=self.options.kinds)

        def variants(results: Results) -> Sequence[Sequence[Edit]]:
            known = measured(results)
            drawn = draw(known, model.network, options.site, trials, inputs.seed)
            return trials.variants(drawn.sets, drawn.sample, partial(known.edits, options.site))

        attribution = GradientPass(
            name="gradients",
            tokens=tokens,
            site=options.site,
            layers=layers,
            reducers=lambda sites: {"attribution": Attribution(sites, model.device)},
            label="Estimates for all neurons",
            cacheable=True,
            shared=True,
        )
        edited = EditedPass(
            name="edits",
            tokens=tokens,
            site=options.site,
            layers=layers,
            reducers=lambda _: {"effects": Effects(masks, blocks, trials.count, trials.detailed)},
            key={
                "sets": {name: one.tolist() for name, one in pairs.items()},
                "ks": {name: list(one) for name, one in ks.items()},
                "groups": hashlib.sha256(np.packbits(masks.numpy()).tobytes()).hexdigest(),
                "kinds": list(self.options.kinds),
                "seed": inputs.seed,
                **{name: getattr(options, name) for name in ("draws", "alone", "sample")},
            },
            label=f"Edits: {trials.count:,} edited models",
            cacheable=True,
            variants=variants,
        )
        return InterventionPlan(
            inputs=inputs,
            passes=(attribution, *self._rows(inputs, layers), edited),
            tokens=tokens,
            skipped=tokens.skipped,
            layers=layers,
            sets=sets,
            trials=trials,
            groups=groups,
            own_groups={name: own for name in sets if (own := f"next: {name}") in {group.name for group in groups}},
            notes=tuple(self._notes(inputs, found, groups)),
            blocks_are_sequences=int(blocks.max()) + 1 == len(tokens.valid),
            category_tokens={
                name: np.unique(tokens.input_ids[group.begins & tokens.valid])
                for name, group in found.items()
                if group.begins.any()
            },
            source=self.describe_source(inputs),
        )

    def _notes(self, inputs: Inputs, found: Mapping[str, TokenGroup], groups: Sequence[Group]) -> list[str]:
        """What a reader must know of where the neurons and the groups are from."""
        notes, source = [], inputs.source
        if source is None:
            return notes
        chosen_on = ["token_hash"]  # of a contrast these are its words, and its text only where a column says so
        if "text" in str(self.options.by):
            chosen_on.append("text_token_hash")
        if inputs.text.hash in [source.facts.get(one) for one in chosen_on]:
            notes.append(
                "The run that found these neurons read the same tokens: they were chosen and are tested on one text. "
                "Another text (dataset.path=, dataset.tokens=) keeps the two apart."
            )
        if len(groups) == 1:
            what = "has none of its words" if found else "is not divided by that run's experiment"
            notes.append(f"There are no effects by category: this text {what}.")
        return notes

    def analyse(self, plan: InterventionPlan, results: Results) -> Report:
        return write(InterventionData.of(self.options, plan, results))

    def _rows(self, inputs: Inputs, layers: tuple[int, ...]) -> list[Pass]:
        """The pass that keeps activations at random tokens, if an edit needs them."""
        if not {"peak", "resample"} & set(self.options.kinds):
            return []
        tokens = inputs.text
        places = np.argwhere(tokens.valid)
        chosen = np.random.default_rng([inputs.seed, 1]).choice(len(places), min(ROWS, len(places)), replace=False)
        sequence, start = torch.from_numpy(places[np.sort(chosen)]).T.contiguous()
        return [
            Pass(
                name="rows",
                tokens=tokens,
                site=self.options.site,
                layers=layers,
                reducers=lambda _: {"rows": Rows(sequence, start, start + 1, pooling="mean")},
                key={"rows": ROWS, "seed": inputs.seed},
                label=f"Activations at {len(chosen)} random tokens",
                shared=True,
            )
        ]


def _groups(tokens: Tokens, found: Mapping[str, TokenGroup]) -> tuple[tuple[Group, ...], torch.Tensor]:
    """The groups of predictions, and which predictions are in each, `[groups, sequences, length]`: all of them, those
    whose next token begins a member of a group of tokens, and those made at its tokens. Empty groups are left out."""
    counted = predicting(torch.from_numpy(tokens.valid))
    groups, masks = [ALL], [counted]
    for name, group in found.items():
        begins = "is" if np.array_equal(group.own, group.begins) else "begins"
        following = torch.zeros_like(counted)
        following[:, :-1] = torch.from_numpy(np.ascontiguousarray(group.begins[:, 1:]))
        for place, words, mask in (
            ("next", f"predictions whose next token {begins} one of the {group.description}", following),
            ("own", f"predictions at tokens of the {group.description}", torch.from_numpy(group.own)),
        ):
            if bool((mask & counted).any()):
                groups.append(Group(f"{place}: {name}", words))
                masks.append(mask & counted)
    return tuple(groups), torch.stack(masks)


def _blocks(sequences: int) -> torch.Tensor:
    """The block of each sequence, `[sequences]`: itself, or one of `MOST_BLOCKS` runs of consecutive sequences."""
    return torch.arange(sequences) * min(sequences, MOST_BLOCKS) // sequences
