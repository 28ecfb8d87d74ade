"""Context: how much of an activation is the token's own, and how much comes from what stands before it?

The same tokens are run twice, in two places, and each neuron's two values are compared over tokens: nouns with and
without their leading space, and tokens of running text in their place and alone. Alone is a context too, and the first
position of a sequence an unusual one: so a token is also put after a neutral one. Over the occurrences of repeated
token types, variance components say how much of a neuron's variance type, position and context explain.

Chooses the tokens and plans the two passes. Knows no figure.
"""

from dataclasses import replace

import numpy as np

from neurexp.engine.plan import Pass
from neurexp.errors import UserError
from neurexp.experiments.base import Experiment, Inputs, Results
from neurexp.experiments.captured_rows import rows_pass
from neurexp.experiments.context.data import BINS, Comparison, ContextData, ContextPlan, Options, halves_of
from neurexp.experiments.context.findings import about
from neurexp.experiments.context.report import write
from neurexp.experiments.options.others import FEWEST_ITEMS as FEWEST
from neurexp.models.load import LanguageModel
from neurexp.models.sampling import write_text
from neurexp.report.report import Report
from neurexp.stats.components import degrees_left
from neurexp.text.samples import sample_types, single_tokens
from neurexp.text.tokenizer import document_end, encode, first_tokens, special_ids
from neurexp.text.tokens import Tokens, padded
from neurexp.text.vocabulary import token_texts
from neurexp.text.words import OWN_LISTS

FIRST = 32  # sequences whose first token is looked at


class Context(Experiment[ContextPlan]):
    """The experiment `context`."""

    Options = Options
    distributed = False  # the rows are few: one process captures them
    without_text = "text that it wrote itself"

    @property
    def reads_text(self) -> bool:
        return self.options.prompt is None

    def prepare(self, inputs: Inputs) -> ContextPlan:
        options, model, layers = self.options, inputs.model, inputs.layers(self.options.layer)
        texts, random = token_texts(model.tokenizer), np.random.default_rng(inputs.seed)
        text, counted = self._text(inputs)
        tokens = sample_types(text, counted, options.tokens, 1, 1, random)
        repeated = sample_types(text, counted, options.types, options.occurrences, 2, random)
        ids, repeated_ids = text.input_ids[tokens], text.input_ids[repeated]
        what = "dataset.tokens" if options.prompt is None else "experiment.generated"
        if len(ids) < FEWEST or len(np.unique(repeated_ids)) < FEWEST:
            raise UserError(
                f"{what}: the text has {len(np.unique(repeated_ids))} token types that occur twice after the first "
                f"position; give a larger {what}, so that there are {FEWEST}"
            )
        first = np.flatnonzero(text.valid[:, 0])[:FIRST]
        parts = {"tokens": tokens, "repeated": repeated, "first": (first, np.zeros_like(first))}
        ends = np.cumsum([len(one[0]) for one in parts.values()])
        chosen = {name: slice(end - len(parts[name][0]), end) for name, end in zip(parts, ends.tolist(), strict=True)}
        sequence, column = (np.concatenate([one[axis] for one in parts.values()]) for axis in (0, 1))

        short, comparisons, words, where = self._short(model, [int(one) for one in ids], texts)
        needed, row = np.unique(sequence, return_inverse=True)
        run = replace(text, input_ids=text.input_ids[needed], valid=text.valid[needed], skipped=())
        last = short.valid.sum(1) - 1
        passes = (
            self._pass("alone", short, np.arange(len(last)), last, inputs, layers),
            self._pass("text", run, row, column, inputs, layers),
        )
        edges = np.quantile(np.nonzero(counted)[1], np.linspace(0, 1, BINS + 1)[1:-1])
        types, bins = np.unique(repeated_ids, return_inverse=True)[1], np.searchsorted(edges, repeated[1], side="right")
        if any(degrees_left(types[half], bins[half]) < 1 for half in halves_of(types)):
            raise UserError(
                f"experiment.types={options.types}: {len(types)} occurrences of {types.max() + 1} types are too few to "
                "tell context from type and position in each half of the types; give more types, a larger "
                f"experiment.occurrences or a larger {what}"
            )
        return ContextPlan(
            inputs=inputs, passes=passes, tokens=text, skipped=text.skipped, layers=layers, comparisons=comparisons,
            chosen=chosen, place=(sequence, column), words=words, types=types, bins=bins,
            about=about(options, int(counted.sum()), words, chosen, repeated_ids, where),
        )  # fmt: skip

    def _text(self, inputs: Inputs) -> tuple[Tokens, np.ndarray]:
        """The running text, and its tokens that may be chosen: none that is special, at position 0 or of a prompt."""
        options, writer = self.options, inputs.writer or inputs.model
        if options.prompt is None:
            text, counted = inputs.text, inputs.text.valid
        else:
            text, counted = write_text(writer, options.prompt, options.generated, inputs.seed)
        counted = counted & ~np.isin(text.input_ids, sorted(special_ids(inputs.model.tokenizer)))
        counted[:, 0] = False
        return text, counted

    def _short(
        self, model: LanguageModel, ids: list[int], texts: list[str]
    ) -> tuple[Tokens, dict[str, Comparison], dict[str, str], str]:
        """The short sequences whose last tokens are the rows of `alone`, what is compared, the words, and where."""
        tokenizer, neutral = model.tokenizer, encode(model.tokenizer, self.options.neutral)["input_ids"]
        if not 1 <= len(neutral) <= 8:
            raise UserError(
                f"experiment.neutral={self.options.neutral!r}: it has {len(neutral)} tokens; give a text of 1 to 8, "
                "such as a line break or “ the”"
            )
        begin = first_tokens(tokenizer) if model.begins_with_bos else []
        end = begin or document_end(tokenizer) or [tokenizer.bos_token_id]
        spelled = "".join(tokenizer.convert_ids_to_tokens([one for one in end if one is not None]))  # type: ignore[arg-type]
        alone, at_first = f"after {spelled}", "at position 0"
        usual = alone if begin else at_first
        behind = f"after {self.options.neutral!r}"
        sequences: list[list[int]] = []

        def rows(before: list[int], tokens: list[int]) -> np.ndarray:
            sequences.extend([*before, one] for one in tokens)
            return np.arange(len(sequences) - len(tokens), len(sequences))

        listed = (OWN_LISTS / "nouns.txt").read_text("utf-8").split()
        found, left_out = single_tokens(tokenizer, listed)
        comparisons: dict[str, Comparison] = {}
        if len(found) >= FEWEST:
            with_space, without = ([pair[index] for pair in found.values()] for index in (0, 1))
            for name, before, at in (("space", begin, usual), ("space_neutral", [*begin, *neutral], behind)):
                comparisons[name] = Comparison(
                    rows(before, with_space), rows(before, without), "alone", list(found),
                    f"a noun with its leading space, {at}", f"the noun without the space, {at}",
                    f"nouns with and without their space, {at}",
                )  # fmt: skip
        places = {
            "alone_first": ([], at_first),
            "alone_bos": (end, alone),
            "alone_neutral": ([*begin, *neutral], behind),
        }
        if None in end:
            del places["alone_bos"]
        for name, (before, at) in places.items():
            comparisons[name] = Comparison(
                rows(before, ids), np.arange(len(ids)), "text", [texts[one] for one in ids],
                f"a token alone, {at}", "the token in its place in the text",
                f"alone ({at}) and in its place",
            )  # fmt: skip
        where = (
            f"A sequence of this model begins with {spelled}, so a token that is alone comes after it"
            if begin
            else "A sequence of this model begins with nothing, so a token that is alone stands at position 0"
        )
        return padded(sequences), comparisons, {word: left_out.get(word, "") for word in listed}, where

    def _pass(
        self,
        name: str,
        tokens: Tokens,
        sequence: np.ndarray,
        column: np.ndarray,
        inputs: Inputs,
        layers: tuple[int, ...],
    ) -> Pass:
        """The pass that captures single tokens."""
        spans = np.stack([sequence, column, column + 1])
        label = f"{'Alone' if name == 'alone' else 'In their place'}: {len(sequence)} tokens"
        return rows_pass(name, tokens, spans, inputs, self.options.site, layers, label)

    def analyse(self, plan: ContextPlan, results: Results) -> Report:
        return write(ContextData.of(self.options, plan, results))
