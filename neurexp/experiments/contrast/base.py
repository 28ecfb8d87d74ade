"""A contrast: which neurons tell labelled rows apart? The base of grammar tuning and of its siblings.

A subclass says only which rows there are and how they are labelled (`select`); site, layers, pooling and the whole
analysis (tests, effect sizes, corrections, nulls, replication, probes, generalisation to running text, figures) are
shared: `contrast_analysis` looks at a layer, `contrast_report` says what was found, `contrast_columns` what it means.
"""

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from neurexp.config.schema import DatasetConfig
from neurexp.engine.reducers.base import Reducer, Rows
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.experiments.contrast.analysis import FEWEST
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.io.store import RowStore
from neurexp.models.load import LanguageModel
from neurexp.models.sites import parse_layers
from neurexp.report.report import Report
from neurexp.text.characters import shown_tokens
from neurexp.text.occurrences import occurrences
from neurexp.text.spans import Selection, excerpt
from neurexp.text.tokens import Tokens

log = logging.getLogger(__name__)

SHORT = 512  # tokens: of shorter sequences so many more go into one forward
TEXT_COUNTS = ("text_occurrences", "text_occurrences_dropped", "text_occurrences_adjoining")  # metrics
RESERVED = {"words", "text", "one_token"}  # no names of conditions


@dataclass
class Options(base.Options):
    """Options of every contrast."""

    layer: Any = None  # the model's own default
    pooling: str = "mean"
    permutations: int = 10_000
    splits: int = 50
    shuffles: int = 20
    text: bool = True
    occurrences: int = 4
    excerpt: int = 120


@dataclass(frozen=True)
class Condition:
    """The same labelled words in other rows."""

    described: str  # as it stands in a sentence: "as “The {word}”"
    rows: Selection


class Contrast(base.Experiment):
    """Base of contrasts. A subclass implements `select`, and sets `categories` in it."""

    Options = Options
    categories: list[str]  # names, in the order of the labels
    splits = False  # its rows are few, and one process captures them for all
    chosen_by: ClassVar[str] = "experiment"  # the option that a user changes to get other rows

    def __init__(self, options: Any, setting: base.Setting):
        super().__init__(options, setting)
        for name, least, most in (
            ("permutations", 100, 1_000_000),
            ("splits", 2, 10_000),
            ("shuffles", 2, 10_000),
            ("occurrences", 1, 1000),
            ("excerpt", 8, 1000),
        ):
            value = getattr(options, name)
            if not least <= value <= most:
                raise UserError(f"experiment.{name}={value}: give a whole number from {least} to {most}")
        if options.pooling not in Rows.POOLINGS:
            raise UserError(f"experiment.pooling={options.pooling}: give one of {', '.join(Rows.POOLINGS)}")

    @abstractmethod
    def select(self, model: LanguageModel) -> Selection:
        """The labelled rows. Sets `self.categories`."""

    def beside(self, model: LanguageModel) -> dict[str, Condition]:
        """The same words under other conditions, shown side by side with the first: name → condition."""
        return {}

    def counts(self) -> dict[str, int]:
        """What the selection left out, as metrics."""
        return {}

    def in_text(self, model: LanguageModel, tokens: Tokens) -> Selection | None:
        """Labelled rows of running text to which the finding should generalise; unless overridden, the same words.

        None where there are none: a word that stands in several categories has no label in a text.
        """
        if len(set(self.rows.words)) < len(self.rows.words):
            return None
        words = zip(self.rows.words, self.rows.category.tolist(), strict=True)
        return occurrences(tokens, model.tokenizer, words, self.options.occurrences)

    def _check(self) -> None:
        for category, name in enumerate(self.categories):
            size = int((self.rows.category == category).sum())
            if size < FEWEST:
                raise UserError(f"{self.chosen_by}: only {size} rows of {name} can be used; give {FEWEST} or more")

    # -- the passes ------------------------------------------------------------------------------------------------

    def passes(self, model: LanguageModel, dataset: DatasetConfig, cache: Path) -> Iterator[base.Pass]:
        self.layers = self.chosen_layers(model)
        self.rows = self.select(model)
        self.tokens = self.rows.tokens
        self._check()
        self.conditions = self.beside(model)
        if taken := set(self.conditions) & RESERVED:
            raise ValueError(f"conditions must be named otherwise: {taken}")
        self.tokenizer = model.tokenizer
        captured: dict[str, dict[int, np.ndarray]] = {}
        self.reused: list[str] = []
        self.text_counts = dict.fromkeys(TEXT_COUNTS, 0)
        selections = {"words": self.rows} | {name: one.rows for name, one in self.conditions.items()}
        if self.reads_text:
            text = self.inputs(model, dataset, cache)
            found = self.in_text(model, text)
            if found is not None:
                counted = (len(found.words), found.dropped, found.adjoining)
                self.text_counts = dict(zip(TEXT_COUNTS, counted, strict=True))
            if found is not None and len(found.words):
                self.found, self.excerpt = found, excerpt(found, self.options.excerpt)
                selections["text"] = _only_needed(_joined(self.found, self.excerpt))
        for selection in selections.values():
            _check_length(selection, model)
        for name, selection in selections.items():
            yield from self._captured(name, selection, model, cache, captured)
        self.activations = captured
        if self.reused:
            log.info("Taken from an earlier capture: %s (run.reuse=false for a fresh pass)", ", ".join(self.reused))

    def _captured(self, name, selection, model, cache, captured) -> Iterator[base.Pass]:
        spans = np.stack([selection.sequence, selection.start, selection.stop]).astype("<i8")
        key = base.capture_key(model, selection.tokens, self.options.site, self.setting.batch_size) | {
            "pooling": self.options.pooling,
            "tokenizer": hash_of_tokenizer(model.tokenizer),
            "spans": hashlib.sha256(spans.tobytes()).hexdigest(),
        }
        store, reuse = RowStore(cache, key), self.setting.reuse
        found = store.load(self.layers) if reuse else None
        if found is None:
            with store.lock():
                found = store.load(self.layers) if reuse else None  # another process may have just made it
                if found is None:
                    every = self.setting.every_layer and reuse  # the sweep's other jobs will find theirs
                    layers = parse_layers("all", model.layers) if every else self.layers
                    one = _RowsPass(name, selection, layers, self.options.pooling, key)
                    yield one
                    for index, layer in enumerate(layers):
                        store.save(layer, one.reducer.rows(index).numpy())
                    captured[name] = store.load(self.layers) or {  # as files, which take no memory, if they are there
                        layer: one.reducer.rows(index).numpy()
                        for index, layer in enumerate(layers)
                        if layer in self.layers
                    }
                    return
        self.reused.append(name)
        captured[name] = found

    def reducers(self, model: LanguageModel, tokens: Tokens, layers: list[int]) -> list[Reducer]:
        raise NotImplementedError("a contrast has several passes")

    def provenance(self) -> dict[str, Any]:
        labelled = json.dumps([self.rows.words, self.rows.category.tolist()], ensure_ascii=False)
        facts = {"words_hash": hashlib.sha256(labelled.encode()).hexdigest(), "reused": self.reused}
        if "text" in self.activations:
            facts["text_token_hash"] = self.found.tokens.hash
        return facts

    # -- what the numbers say --------------------------------------------------------------------------------------

    def analyse(self) -> Report:
        from neurexp.experiments.contrast.report import write

        return write(self)

    @property
    def test(self) -> str:
        """The name of the main test in column names."""
        return "welch" if self.two else "f"

    @property
    def two(self) -> bool:
        """Whether there are two categories, so that differences have a sign."""
        return len(self.categories) == 2

    @property
    def reads_text(self) -> bool:
        """Whether running text is looked at: AUROC is between two categories."""
        return bool(self.options.text) and self.two

    def text_rows(self, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The listed words' occurrences, and the excerpt's tokens, `[rows, neurons]` each."""
        if "text" not in self.activations:
            return None
        rows, count = self.activations["text"][layer], len(self.found.words)
        return rows[:count], rows[count:]

    def excerpt_of(self, layer: int, neuron: int) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """The excerpt's tokens as texts, one neuron's activations on them, and their categories (−1: not listed).

        Tokens that are parts of one character stand as one, with the mean of their activations.
        """
        rows = self.text_rows(layer)
        if rows is None:
            return None
        chosen, values = self.excerpt, rows[1][:, neuron]
        whole = chosen.tokens.input_ids[chosen.sequence[0]][chosen.tokens.valid[chosen.sequence[0]]]
        first, last = int(chosen.start[0]), int(chosen.stop[-1])
        groups = [one for one in shown_tokens(self.tokenizer, whole.tolist()) if first <= one[1] and one[2] <= last]
        return (
            [text for text, _, _ in groups],
            np.array([values[start - first : stop - first].mean() for _, start, stop in groups], dtype=values.dtype),
            np.array(
                [chosen.category[start - first : stop - first].max() for _, start, stop in groups], dtype=np.int64
            ),
        )


class _RowsPass(base.Pass):
    """The pass that captures a selection's rows."""

    splits = False

    def __init__(self, what: str, selection: Selection, layers: list[int], pooling: str, key: dict[str, Any]):
        """`key` is what the rows of one layer depend on."""
        self.what = f"{what.capitalize()}: {len(selection.words)} rows"
        self.tokens, self._selection, self._layers, self._pooling = selection.tokens, selection, layers, pooling
        self._key = key

    def key(self, model: LanguageModel) -> dict[str, Any]:
        return self._key | {"layers": self._layers}

    def chosen_layers(self, model: LanguageModel) -> list[int]:
        return self._layers

    def sequences_at_once(self, batch_size: int) -> int:
        return batch_size * max(1, SHORT // self.tokens.valid.shape[1])

    def reducers(self, model: LanguageModel, tokens: Tokens, layers: list[int]) -> list[Reducer]:
        chosen = self._selection
        sequence, start, stop = (
            torch.from_numpy(np.asarray(span, dtype=np.int64)) for span in (chosen.sequence, chosen.start, chosen.stop)
        )
        self.reducer = Rows(sequence, start, stop, self._pooling)
        return [self.reducer]


def positions_of(model: LanguageModel) -> int | None:
    """How many tokens a sequence of the model may have; None where its config does not say."""
    return getattr(model.network.config, "max_position_embeddings", None)


def _check_length(selection: Selection, model: LanguageModel) -> None:
    positions, length = positions_of(model), selection.tokens.valid.shape[1]
    if positions is not None and length > positions:
        raise UserError(
            f"experiment: its longest text has {length} tokens; {model.name} has {positions} positions; give shorter "
            "words or templates, or another model.name"
        )


def _joined(first: Selection, second: Selection) -> Selection:
    """The rows of two selections of the same tokens, one after the other."""
    names = ("sequence", "start", "stop", "category")
    joined = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    return replace(first, **joined, words=first.words + second.words)


def _only_needed(selection: Selection) -> Selection:
    """Without the sequences that no row lies in: what is not asked for need not be run."""
    needed, sequence = np.unique(selection.sequence, return_inverse=True)
    tokens = Tokens(selection.tokens.input_ids[needed], selection.tokens.valid[needed], selection.tokens.documents)
    return replace(selection, tokens=tokens, sequence=sequence)
