"""Context: how much of an activation is the token's own, and how much comes from what stands before it?

The same tokens are run twice, in two places, and each neuron's two values are compared over tokens: nouns with and
without their leading space, and tokens of running text in their place and alone. Alone is a context too, and the first
position of a sequence an unusual one: so a token is also put behind a neutral one. Over the occurrences of repeated
token types, variance components say how much of a neuron's variance type, position and context explain.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from neurexp.console import progress
from neurexp.engine.plan import Pass
from neurexp.engine.reducers.rows import Rows
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.experiments.base import Experiment, Inputs, Plan, Results
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.models.load import LanguageModel
from neurexp.models.sampling import write_text
from neurexp.report.report import Report, Table
from neurexp.stats import summary
from neurexp.stats.association import LEVEL, q_values
from neurexp.stats.components import variance_components
from neurexp.stats.pairs import paired, pooled
from neurexp.text.samples import padded, sample_types, single_tokens
from neurexp.text.tokenizer import document_end, encode, first_tokens, special_ids
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import token_texts
from neurexp.text.words import OWN_LISTS

FEWEST = 8  # items of a comparison, and types with several occurrences
BINS = 8  # of positions, with equal numbers of the text's tokens
FIRST = 32  # sequences whose first token is looked at
SHORT = 512  # tokens of short sequences that share a forward, for each sequence of running text
NAMED = 5  # neurons at each end, and words that are left out, in the findings
PARTS = ("type", "position", "context")


@dataclass
class Options(base.Options):
    """The options of conf/experiment/context.yaml."""

    tokens: int = 200
    types: int = 300
    occurrences: int = 4
    neutral: str = "\n"
    prompt: str | None = None
    generated: int = 2000
    permutations: int = 499


@dataclass(frozen=True)
class Comparison:
    """The same items in two places: rows of the pass `alone`, and rows of it or of the pass `text`."""

    x: np.ndarray  # [items] rows of `alone`
    y: np.ndarray  # [items] rows of `y_rows_of`
    y_rows_of: str
    texts: Sequence[str]  # of the items
    x_is: str  # what x is, as it stands in a sentence
    y_is: str
    title: str  # of its panel


@dataclass(frozen=True, kw_only=True)
class ContextPlan(Plan):
    """What the analysis needs beside the passes. The rows of the pass `text` are those of `place`, in its order."""

    layers: tuple[int, ...]
    comparisons: Mapping[str, Comparison]
    chosen: Mapping[str, slice]  # rows of the pass `text`: "tokens", "repeated" and "first"
    place: tuple[np.ndarray, np.ndarray]  # sequence and column of each row of the pass `text`
    types: np.ndarray  # [repeated] number of each row's type, from 0
    bins: np.ndarray  # [repeated] number of each row's bin of positions
    words: Mapping[str, str]  # word → why it is left out, or ""
    about: str  # the first finding


class Context(Experiment[ContextPlan]):
    """The experiment `context`."""

    Options = Options
    controls = ("off", "random", "shuffled_text")
    distributed = False  # the rows are few: one process captures them
    without_text = "text that it wrote itself"

    def __init__(self, options: Any):
        super().__init__(options)
        self.check_range(FEWEST, 100_000, "tokens", "types")
        self.check_range(2, 10_000, "occurrences")
        self.check_range(32, 1_000_000, "generated")
        self.check_range(19, 1_000_000, "permutations")
        if options.prompt is not None and options.control == "shuffled_text":
            raise UserError(
                "experiment.control=shuffled_text: it shuffles the dataset's text, and experiment.prompt lets the "
                "model write its own; give experiment.control=random, or leave experiment.prompt out"
            )

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
        if len(ids) < FEWEST or len(np.unique(repeated_ids)) < FEWEST:
            what = "dataset.tokens" if options.prompt is None else "experiment.generated"
            raise UserError(
                f"{what}: the text has {len(np.unique(repeated_ids))} token types that occur twice behind the first "
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
        return ContextPlan(
            inputs=inputs, passes=passes, tokens=text, skipped=text.skipped, layers=layers, comparisons=comparisons,
            chosen=chosen, place=(sequence, column), words=words,
            types=np.unique(repeated_ids, return_inverse=True)[1],
            bins=np.searchsorted(edges, repeated[1], side="right"),
            about=_about(options, int(counted.sum()), words, chosen, repeated_ids, where),
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
        spans = np.stack([sequence, column, column + 1]).astype("<i8")
        sequences, starts, stops = (torch.from_numpy(one.astype(np.int64)) for one in spans)
        return Pass(
            name=name,
            tokens=tokens,
            site=self.options.site,
            layers=layers,
            reducers=lambda: {"rows": Rows(sequences, starts, stops)},
            key={
                "tokenizer": hash_of_tokenizer(inputs.model.tokenizer),
                "spans": hashlib.sha256(spans.tobytes()).hexdigest(),
            },
            label=f"{'Alone' if name == 'alone' else 'In their place'}: {len(sequence)} tokens",
            distributed=False,
            cacheable=True,
            batch_factor=max(1, SHORT // tokens.valid.shape[1]),
        )

    def analyse(self, plan: ContextPlan, results: Results) -> Report:
        options, seed = self.options, plan.inputs.seed
        rows: dict[str, Rows] = {name: results[name]["rows"] for name in ("alone", "text")}  # type: ignore[misc]
        neurons: list[Table] = []
        layers: list[dict[str, float]] = []
        for site in progress.over(range(len(plan.layers)), "Analysis"):
            of = {name: one.rows(site).numpy() for name, one in rows.items()}
            table, line = _components(plan, of["text"])
            for name, one in plan.comparisons.items():
                columns, numbers = _compared(
                    name, of["alone"][one.x], of[one.y_rows_of][one.y], options.permutations, seed
                )
                table, line = table | columns, line | numbers
            neurons.append(table)
            layers.append(line)
        return _report(plan, rows, _joined(plan.layers, neurons), _layers(plan.layers, layers))


def _components(plan: ContextPlan, text: np.ndarray) -> tuple[Table, dict[str, float]]:
    """The variance components of one layer, from the rows `[rows, neurons]` of the pass `text`."""
    x, first = text[plan.chosen["repeated"]], text[plan.chosen["first"]]
    types, bins, table = plan.types, plan.bins, Table()
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    table |= {"mean": mean, "std": std}
    for part, share in zip(PARTS, variance_components(x, types, bins).shares, strict=True):
        table[f"share_{part}"] = share
    for half, name in enumerate(("first", "second")):
        mine = types % 2 == half
        table[f"share_context_{name}_half"] = variance_components(x[mine], types[mine], bins[mine]).shares[2]
    line = {f"share_{part}_mean": summary.mean(table[f"share_{part}"]) for part in PARTS}
    for part in PARTS:
        line |= _quartiles(f"share_{part}", table[f"share_{part}"])
    line["share_context_replication"] = summary.correlation(
        table["share_context_first_half"], table["share_context_second_half"]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (first.mean(0, dtype=np.float64) - mean) / std
    line["first_distance"] = float(np.sqrt(summary.mean(z**2)))
    return table, line


def _compared(
    name: str, x: np.ndarray, y: np.ndarray, draws: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """One comparison in one layer: the neurons' columns, and the layer's numbers."""
    pairs, whole = paired(x, y, draws, seed), pooled(x, y)
    q = q_values(pairs.p)
    columns = {
        f"r_{name}": pairs.r, f"r_{name}_low": pairs.low, f"r_{name}_high": pairs.high, f"slope_{name}": pairs.slope,
        f"p_{name}": pairs.p, f"q_{name}": q,
    }  # fmt: skip
    return columns, _quartiles(f"r_{name}", pairs.r) | {
        f"slope_{name}_median": summary.median(pairs.slope),
        f"share_significant_{name}": float((q < LEVEL).mean()),
        f"pooled_r_{name}": whole.raw,
        f"pooled_r_{name}_centred": whole.centred,
        f"pooled_r_{name}_shuffled": whole.shuffled,
        f"distance_{name}": float(np.sqrt(summary.mean(pairs.distance**2))),
    }


def _quartiles(name: str, values: np.ndarray) -> dict[str, float]:
    return {
        f"{name}_{end}": summary.quantile(values, share)
        for end, share in (("median", 0.5), ("q25", 0.25), ("q75", 0.75))
    }


def _joined(layers: Sequence[int], tables: Sequence[Table]) -> Table:
    count = len(tables[0]["mean"])
    place = {"layer": np.repeat(layers, count), "neuron": np.tile(np.arange(count), len(layers))}
    return place | {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}


def _layers(layers: Sequence[int], lines: Sequence[Mapping[str, float]]) -> Table:
    return {"layer": np.array(layers)} | {name: np.array([one[name] for one in lines]) for name in lines[0]}


def _report(plan: ContextPlan, rows: Mapping[str, Rows], neurons: Table, layers: Table) -> Report:
    counts = {
        "words_used": sum(not why for why in plan.words.values()),
        "tokens_compared": plan.chosen["tokens"].stop,
        "types_repeated": int(plan.types.max()) + 1,
        "tokens_repeated": len(plan.types),
    }
    metrics: dict[str, float] = {**counts, "neurons_compared": len(neurons["mean"])}
    metrics |= {f"share_{part}_overall": summary.median(neurons[f"share_{part}"]) for part in PARTS}
    metrics["share_context_replication_overall"] = summary.correlation(
        neurons["share_context_first_half"], neurons["share_context_second_half"]
    )
    for name in plan.comparisons:
        metrics |= {
            f"r_{name}_overall": summary.median(neurons[f"r_{name}"]),
            f"share_significant_{name}_overall": float((neurons[f"q_{name}"] < LEVEL).mean()),
        }
        for kind in ("", "_centred", "_shuffled"):
            metrics[f"pooled_r_{name}{kind}_overall"] = summary.mean(layers[f"pooled_r_{name}{kind}"])
    ends = _ends(neurons)
    for name, found in ends.items():
        if len(found):
            metrics |= {f"{name}_context_{one}": float(neurons[one][found[0]]) for one in ("layer", "neuron")}
            metrics[f"{name}_context_share"] = float(neurons["share_context_second_half"][found[0]])
    sequence, column = (one[plan.chosen["tokens"]] for one in plan.place)
    ids = plan.tokens.input_ids[sequence, column]
    key = f"{plan.inputs.label}; {len(plan.types):,} occurrences of {counts['types_repeated']} token types"
    return Report(
        findings=_findings(plan, metrics, layers, neurons, ends),
        metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
        layers=layers,
        neurons=neurons,
        columns=_columns(plan),
        statistic="share_context",
        of_the_text=frozenset((*counts, "neurons_compared")),
        shares={
            "share_significant_alone_neutral_overall": "follow in their place what they are for the same token alone "
            "(q < 0.05)"
        },
        tables={
            "words": {"word": np.array(list(plan.words)), "left_out": np.array(list(plan.words.values()))},
            "sample": {
                "text": np.array(plan.comparisons["alone_neutral"].texts), "id": ids, "sequence": sequence,
                "position": column,
            },
        },
        figures={
            "r_by_layer": lambda: _draw_r(plan, layers, metrics),
            "tokens_of_a_neuron": lambda: _draw_tokens(plan, rows, neurons),
            "variance_components": lambda: _draw_components(plan, layers, metrics, key),
        },
        over_layers={
            "share_context_median": ("share of the variance that context explains", ""),
            "r_alone_neutral_median": ("r of a token alone with the token in its place", ""),
        },
    )  # fmt: skip


def _ends(neurons: Table) -> dict[str, np.ndarray]:
    """The neurons with the least and with the most context, by one half of the types."""
    share = neurons["share_context_first_half"]
    usable = np.flatnonzero(np.isfinite(share) & np.isfinite(neurons["share_context_second_half"]))
    order = usable[np.argsort(share[usable], kind="stable")]
    return {"least": order[:NAMED], "most": order[::-1][:NAMED]}


def _about(
    options: Options, counted: int, words: Mapping[str, str], chosen: Mapping[str, slice], ids: np.ndarray, where: str
) -> str:
    used, left_out = [word for word, why in words.items() if not why], [word for word, why in words.items() if why]
    named = ", ".join(left_out[:NAMED]) + (", …" if len(left_out) > NAMED else "")
    nouns = f"{len(used)} of {len(words)} nouns are single tokens with and without their leading space"
    if left_out:
        nouns += f" ({len(left_out)} are left out: {named}; words.parquet)"
    if len(used) < FEWEST:
        nouns += f": fewer than {FEWEST}, so the space is not compared"
    source = "" if options.prompt is None else f", written by the model after {options.prompt!r}, which does not count"
    return (
        f"{nouns}. From {counted:,} tokens of text{source}, {chosen['tokens'].stop} tokens of as many types are "
        f"compared with the same tokens alone, and {len(ids):,} occurrences of {len(np.unique(ids))} types with each "
        f"other; no special token and none at position 0 is among them. {where}."
    )


def _findings(
    plan: ContextPlan, metrics: Mapping[str, float], layers: Table, neurons: Table, ends: Mapping[str, np.ndarray]
) -> list[str]:
    lines = [plan.about]
    for name, one in plan.comparisons.items():
        raw, centred, shuffled = (metrics[f"pooled_r_{name}{kind}_overall"] for kind in ("", "_centred", "_shuffled"))
        r = layers[f"r_{name}_median"]
        by_layer = (
            f" ({_extreme(plan.layers, r, min)}, {_extreme(plan.layers, r, max)})" if len(plan.layers) > 1 else ""
        )
        distance = summary.median(layers[f"distance_{name}"])
        lines.append(
            f"{name}, {one.x_is} against {one.y_is}: the median neuron has r = {metrics[f'r_{name}_overall']:.2f} over "
            f"{len(one.x)} tokens{by_layer}; {metrics[f'share_significant_{name}_overall']:.0%} of the neurons pass "
            f"(q < 0.05). Pooled over neurons and tokens r = {raw:.2f}; with tokens paired at random, which leaves the "
            f"neurons' own means alone, {shuffled:.2f}; without each neuron's mean {centred:.2f}. Between the two "
            f"places a neuron's mean moves by {distance:.1f} standard deviations (root mean square, median layer)."
        )
    shares = {part: metrics[f"share_{part}_overall"] for part in PARTS}
    quartiles = np.nanquantile(neurons["share_context"], (0.25, 0.75))
    by_layer = ""
    if len(plan.layers) > 1:
        own = layers["share_context_median"]
        by_layer = f"; by layer: {_extreme(plan.layers, own, min, '%')}, {_extreme(plan.layers, own, max, '%')}"
    lines.append(
        f"In running text behind position 0, context explains {shares['context']:.0%} of the median neuron's variance "
        f"(middle half {quartiles[0]:.0%} to {quartiles[1]:.0%}{by_layer}), the token's type {shares['type']:.0%} and "
        f"its position {shares['position']:.0%}. Position 0 is apart: there a neuron's mean is off by "
        f"{summary.median(layers['first_distance']):.1f} standard deviations (root mean square, median layer)."
    )
    told = [
        f"the {name}: " + ", ".join(
            f"{neurons['layer'][index]}.{neurons['neuron'][index]} ({neurons['share_context_second_half'][index]:.0%})"
            for index in found
        )
        for name, found in ends.items()
    ]  # fmt: skip
    lines.append(
        f"Neurons by the share of context, chosen on one half of the types, with their share on the other: "
        f"{'; '.join(told)}. Over all neurons the halves correlate at "
        f"{metrics['share_context_replication_overall']:.2f}."
    )
    return lines


def _extreme(layers: Sequence[int], values: np.ndarray, which: Any, unit: str = "") -> str:
    """The smallest or largest value and its layer, in words."""
    if not np.isfinite(values).any():
        return "not defined"
    index = int(np.nanargmin(values) if which is min else np.nanargmax(values))
    value = f"{values[index]:.0%}" if unit else f"{values[index]:.2f}"
    return f"{'lowest' if which is min else 'highest'} {value} in layer {layers[index]}"


def _columns(plan: ContextPlan) -> dict[str, str]:
    half = "variance components of half of the types: every other one in the order of their ids"
    columns = {
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "mean": "mean over the occurrences of repeated types; model's own units",
        "std": "standard deviation over them (ddof 0); model's own units",
        "share_type": "share of the variance that the token's type explains: variance components of the random model "
        "mean + type + position + rest by Henderson's method 3, over experiment.types types with up to "
        "experiment.occurrences occurrences each. Unbiased components: a share may be a little below 0. Every type "
        "counts the same, however frequent. Missing for a neuron that does not vary",
        "share_position": f"the same of position, in {BINS} bins with equal numbers of the text's tokens; position 0 "
        "is left out",
        "share_context": "the same of the rest: what type and position do not explain, 1 − share_type − share_position",
        "share_context_first_half": f"share_context by the {half}",
        "share_context_second_half": "share_context by the other half of the types",
        "share_context_replication": "correlation over neurons of share_context_first_half and _second_half",
        "share_context_replication_overall": "the same over the neurons of all layers",
        "first_distance": "how far the mean at position 0 lies from `mean`, in units of `std`: root mean square over "
        "neurons",
        "words_used": "nouns of our list that are single tokens with and without their leading space",
        "tokens_compared": "tokens of the text that are compared with the same tokens alone, each of another type",
        "types_repeated": "token types of the variance components",
        "tokens_repeated": "their occurrences",
        "neurons_compared": "neurons of all layers",
        "words.word": "a noun of our list",
        "words.left_out": "why it is left out; empty if it is used",
        "sample.text": "the text of a token that is compared with the same token alone",
        "sample.id": "its id",
        "sample.sequence": "its sequence in tokens.safetensors",
        "sample.position": "its column there",
    }
    for part in PARTS:
        columns |= {
            f"share_{part}_mean": f"mean of share_{part} over neurons",
            f"share_{part}_overall": f"median of share_{part} over the neurons of all layers",
        } | _quartile_columns(f"share_{part}")
    for end, what in (("least", "smallest"), ("most", "largest")):
        columns |= {
            f"{end}_context_layer": f"layer of the neuron with the {what} share_context_first_half",
            f"{end}_context_neuron": "its index",
            f"{end}_context_share": "its share_context_second_half, on which it was not chosen",
        }
    for name, one in plan.comparisons.items():
        columns |= {
            f"r_{name}": f"Pearson's r over tokens between x, {one.x_is}, and y, {one.y_is}",
            f"r_{name}_low": f"lower end of the 95 % interval of r_{name}: jackknife over tokens, each of another "
            "type, of Fisher's z",
            f"r_{name}_high": "upper end",
            f"slope_{name}": "slope of the regression of y on x",
            f"p_{name}": f"p of |r_{name}| among experiment.permutations shuffles of which x belongs to which y: (1 + "
            "exceedances) / (shuffles + 1)",
            f"q_{name}": f"p_{name} corrected by Benjamini-Hochberg, family: the layer",
            f"r_{name}_overall": f"median of r_{name} over the neurons of all layers",
            f"slope_{name}_median": f"median of slope_{name} over neurons",
            f"share_significant_{name}": f"share of the layer's neurons with q_{name} < 0.05",
            f"share_significant_{name}_overall": f"share of the neurons of all layers with q_{name} < 0.05",
            f"pooled_r_{name}": "r over all neurons and tokens of the layer together, as the lecture reports it",
            f"pooled_r_{name}_centred": "the same after each neuron's own mean is subtracted from its x and its y",
            f"pooled_r_{name}_shuffled": f"mean of pooled_r_{name} over all shuffles of which x belongs to which y "
            "(exact): what the neurons' means alone give",
            f"distance_{name}": "(mean of y − mean of x) / standard deviation of y: root mean square over neurons",
        } | _quartile_columns(f"r_{name}")
        for kind in ("", "_centred", "_shuffled"):
            columns[f"pooled_r_{name}{kind}_overall"] = f"mean of pooled_r_{name}{kind} over layers"
    return columns


def _quartile_columns(name: str) -> dict[str, str]:
    names = (("median", "median"), ("q25", "lower quartile"), ("q75", "upper quartile"))
    return {f"{name}_{end}": f"{what} of {name} over neurons" for end, what in names}


def _draw_r(plan: ContextPlan, layers: Table, metrics: Mapping[str, float]):
    from neurexp.figures.in_context import ByLayer, r_by_layer

    series = {
        f"{name}: {one.title}": ByLayer(
            np.stack([layers[f"r_{name}_{end}"] for end in ("q25", "median", "q75")], axis=1),
            layers[f"pooled_r_{name}"], layers[f"pooled_r_{name}_centred"], layers[f"pooled_r_{name}_shuffled"],
        )
        for name, one in plan.comparisons.items()
    }  # fmt: skip
    title = (
        f"A token in its place and alone: r = {metrics['r_alone_neutral_overall']:.2f} for the median neuron, "
        f"{metrics['pooled_r_alone_neutral_overall']:.2f} pooled over neurons"
    )
    return r_by_layer(
        plan.layers, series, title, f"{plan.inputs.label}; the title is of alone_neutral, over all layers"
    )


def _draw_tokens(plan: ContextPlan, rows: Mapping[str, Rows], neurons: Table):
    from neurexp.figures.in_context import Cloud, tokens_of_a_neuron

    (wanted,) = plan.inputs.layers(None)
    site = int(np.abs(np.array(plan.layers) - wanted).argmin())
    layer, r = plan.layers[site], neurons["r_alone_neutral"].reshape(len(plan.layers), -1)[site]
    off = np.abs(r - summary.median(r))
    neuron = int(np.nanargmin(off)) if np.isfinite(off).any() else 0
    clouds = []
    for name, one in plan.comparisons.items():
        if one.y_rows_of == "text":
            x, y = rows["alone"].rows(site)[one.x, neuron].numpy(), rows["text"].rows(site)[one.y, neuron].numpy()
            own = neurons[f"r_{name}"].reshape(len(plan.layers), -1)[site, neuron]
            clouds.append(Cloud(f"{name}: r = {own:.2f}", x, y, one.texts, one.x_is, one.y_is))
    title = f"Neuron {layer}.{neuron}, the nearest to its layer's median r (alone_neutral): the same tokens twice"
    return tokens_of_a_neuron(clouds, title, f"{plan.inputs.label}; layer.neuron; a dot is a token, model's own units")


def _draw_components(plan: ContextPlan, layers: Table, metrics: Mapping[str, float], detail: str):
    from neurexp.figures.in_context import stacked_shares

    names = {"type": "the token's type", "position": "its position", "context": "its context"}
    parts = {names[part]: layers[f"share_{part}_mean"] for part in PARTS}
    title = f"Context explains {metrics['share_context_overall']:.0%} of the median neuron's variance in running text"
    return stacked_shares(plan.layers, parts, title, f"{detail}; areas: means over the layer's neurons")
