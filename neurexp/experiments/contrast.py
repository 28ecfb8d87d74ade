"""A contrast: which neurons tell labelled rows apart? The base of grammar tuning and of its siblings.

A subclass says only which rows there are and how they are labelled (`select`); site, layers, pooling and the whole
analysis (tests, effect sizes, corrections, nulls, replication, probes, generalisation to running text, figures) are
here. The arithmetic is in `stats.contrast` and `stats.probe`, the texts of the data dictionary in `contrast_columns`.
"""

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurexp.config import DatasetConfig
from neurexp.engine.reducers import Pilot, Reducer, Rows
from neurexp.engine.store import RowStore
from neurexp.errors import UserError
from neurexp.experiments import base
from neurexp.models.load import LanguageModel
from neurexp.models.sites import parse_layers
from neurexp.provenance import hash_of_tokenizer
from neurexp.report import Report, Table
from neurexp.stats import contrast, probe
from neurexp.stats.association import LEVEL, q_values
from neurexp.text.tokens import Tokens, token_texts
from neurexp.text.words import Selection, excerpt, occurrences, pairs

log = logging.getLogger(__name__)

SHORT = 512  # tokens: of shorter sequences so many more go into one forward
FEWEST = 4  # rows of a category, below which a condition is not compared


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


class Contrast(base.Experiment):
    """Base of contrasts. A subclass implements `select`, and sets `categories` in it."""

    Options = Options
    categories: list[str]  # names, in the order of the labels

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

    def beside(self, model: LanguageModel) -> dict[str, Selection]:
        """The same contrast under other conditions, shown side by side with the first: name → rows."""
        return {}

    def counts(self) -> dict[str, int]:
        """What the selection left out, as metrics."""
        return {}

    def in_text(self, model: LanguageModel, tokens: Tokens) -> Selection | None:
        """Labelled rows of running text to which the finding should generalise; unless overridden, the same words."""
        words = zip(self.rows.words, self.rows.category.tolist(), strict=True)
        return occurrences(tokens, model.tokenizer, words, self.options.occurrences)

    # -- the passes ------------------------------------------------------------------------------------------------

    def passes(self, model: LanguageModel, dataset: DatasetConfig, cache: Path) -> Iterator[base.Pass]:
        self.layers = self.chosen_layers(model)
        self.rows = self.select(model)
        self.tokens = self.rows.tokens
        _check_sizes(self.rows.category, self.categories)
        self.conditions = self.beside(model)
        self.tokenizer = model.tokenizer
        captured: dict[str, dict[int, np.ndarray]] = {}
        self.reused: list[str] = []
        selections = {"words": self.rows, **self.conditions}
        if self.options.text:
            text = self.inputs(model, dataset, cache)
            found = self.in_text(model, text)
            if found is not None and len(found.words):
                self.found, self.excerpt = found, excerpt(found, self.options.excerpt)
                selections["text"] = _only_needed(_joined(self.found, self.excerpt))
        for name, selection in selections.items():
            yield from self._captured(name, selection, model, cache, captured)
        self.activations = captured
        if self.reused:
            log.info("Taken from an earlier capture: %s (run.reuse=false for a fresh pass)", ", ".join(self.reused))

    def _captured(self, name, selection, model, cache, captured) -> Iterator[base.Pass]:
        spans = np.stack([selection.sequence, selection.start, selection.stop]).astype("<i8")
        key = {
            "weights": model.weights_hash,
            "dtype": str(model.network.dtype),
            "device": model.device.type,
            "site": self.options.site,
            "pooling": self.options.pooling,
            "tokenizer": hash_of_tokenizer(model.tokenizer),
            "tokens": selection.tokens.hash,
            "spans": hashlib.sha256(spans.tobytes()).hexdigest(),
            "fast": model.fast,
            "batch_size": self.setting.batch_size,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        store, reuse = RowStore(cache, key), self.setting.reuse
        found = store.load(self.layers) if reuse else None
        if found is None:
            with store.lock():
                found = store.load(self.layers) if reuse else None  # another process may have just made it
                if found is None:
                    layers = parse_layers("all", model.layers) if self.setting.every_layer else self.layers
                    one = _RowsPass(name, selection, layers, self.options.pooling)
                    yield one
                    for index, layer in enumerate(layers):
                        store.save(layer, one.reducer.rows(index).numpy())
                    captured[name] = {
                        layer: one.reducer.rows(index).numpy()
                        for index, layer in enumerate(layers)
                        if layer in self.layers
                    }
                    return
        self.reused.append(name)
        captured[name] = found

    def reducers(
        self, model: LanguageModel, tokens: Tokens, layers: list[int], pilot: Callable[[], Pilot]
    ) -> list[Reducer]:
        raise NotImplementedError("a contrast has several passes")

    def provenance(self) -> dict[str, Any]:
        labelled = json.dumps([self.rows.words, self.rows.category.tolist()], ensure_ascii=False)
        facts = {"words_hash": hashlib.sha256(labelled.encode()).hexdigest(), "reused": self.reused}
        if "text" in self.activations:
            facts["text_token_hash"] = self.found.tokens.hash
        return facts

    # -- what the numbers say --------------------------------------------------------------------------------------

    def analyse(self) -> Report:
        from neurexp.experiments.contrast_report import write

        return write(self)

    @property
    def test(self) -> str:
        """The name of the main test in column names."""
        return "welch" if self.two else "f"

    @property
    def two(self) -> bool:
        """Whether there are two categories, so that differences have a sign."""
        return len(self.categories) == 2

    def layer_analysis(self, layer: int) -> "LayerAnalysis":
        """Every statistic of one layer."""
        x = self.activations["words"][layer].astype(np.float64)
        labels, options, seed = self.rows.category, self.options, self.setting.seed
        tested = contrast.compare(x, labels)
        count = x.shape[1]
        null = contrast.permutation(x, labels, options.permutations, seed)
        neurons: Table = {f"mean_{one}": x[labels == one].mean(0) for one in range(len(self.categories))}
        neurons |= {"mean": x.mean(0), "std": x.std(0), "band": contrast.bands(x.mean(0))}
        if self.two:
            first, second = self._pairs()
            missing = np.full(count, np.nan)
            t_paired, p_paired = contrast.paired_t(x, first, second) if len(first) else (missing, missing)
            d, low, high = contrast.cohens_d(x, labels)
            neurons |= {"t_paired": t_paired, "p_paired": p_paired, "t_welch": tested.statistic, "p_welch": tested.p}
        else:
            neurons |= {"f": tested.statistic, "p_f": tested.p, "eta2": contrast.eta_squared(x, labels)}
        neurons |= {
            "p_permutation": null.p,
            "p_maxt": null.p_max,
            "significant_bonferroni": tested.p < LEVEL / count,
            f"q_{self.test}": q_values(tested.p),
        }
        if self.two:
            neurons |= {"cohens_d": d, "cohens_d_low": low, "cohens_d_high": high, "auroc": contrast.auroc(x, labels)}
        row: dict[str, float] = {
            "mean_offset": float(neurons["mean"].mean()),
            "share_mean_negative": float((neurons["mean"] < 0).mean()),
            "bands": int(neurons["band"].sum()),
            "std_median": float(np.median(neurons["std"])),
        }
        replication = contrast.replicate(x, labels, options.splits, seed)
        shuffled = contrast.replicate(x, labels, options.splits, seed, shuffle=True)
        neurons["selected"] = replication.selected.mean(0)
        neurons["replicated"] = replication.replicated.mean(0)
        row |= {
            "replication_selected": float(replication.selected.sum(1).mean()),
            "replication_rate": replication.rate,
            "replication_rate_chance": replication.chance_rate,
            "replication_selected_shuffled": float(shuffled.selected.sum(1).mean()),
            "replication_rate_shuffled": shuffled.rate,
            "auroc_heldout": float(replication.heldout.mean()),
            "auroc_heldout_shuffled": float(shuffled.heldout.mean()),
            "auroc_heldout_shuffled_q95": float(np.quantile(shuffled.heldout, 1 - LEVEL)),
        }
        row |= self._chance(x)
        row |= self._probes(x, neurons)
        for name in self.conditions:
            row |= self._beside(name, layer, neurons)
        if self.two:
            row |= self._one_token(x, neurons)
        generalised = self._in_text(layer, neurons)
        return LayerAnalysis(neurons, row | generalised, null)

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of category 0 and of category 1, paired; empty where the categories differ in size."""
        ids = self.tokens.input_ids
        order = []
        for category in (0, 1):
            members = np.flatnonzero(self.rows.category == category)
            own = [
                ids[row, a:b].tolist()
                for row, a, b in zip(
                    self.rows.sequence[members], self.rows.start[members], self.rows.stop[members], strict=True
                )
            ]
            order.append(members[pairs(own, [self.rows.words[member] for member in members])])
        empty = np.array([], dtype=np.int64)
        return (order[0], order[1]) if len(order[0]) == len(order[1]) else (empty, empty)

    def _chance(self, x: np.ndarray) -> dict[str, float]:
        """What shuffled labels find, on average."""
        random = np.random.default_rng(self.setting.seed)
        shuffles = [random.permutation(self.rows.category) for _ in range(self.options.shuffles)]
        p = [contrast.compare(x, labels).p for labels in shuffles]
        return {
            "share_significant_shuffled": float(np.mean([(q_values(one) < LEVEL).mean() for one in p])),
            "share_bonferroni_shuffled": float(np.mean([(one < LEVEL / len(one)).mean() for one in p])),
        }

    def _probes(self, x: np.ndarray, neurons: Table) -> dict[str, float]:
        labels, random = self.rows.category, np.random.default_rng(self.setting.seed)
        fold = probe.folds(labels, self.setting.seed)
        shuffles = np.stack([random.permutation(labels) for _ in range(self.options.shuffles)])
        labellings = np.concatenate([labels[None], shuffles])
        of_layer = probe.layer_accuracy(x, labellings, fold)
        row = {
            "probe_layer_accuracy": float(of_layer[0]),
            "probe_layer_accuracy_shuffled_q95": float(np.quantile(of_layer[1:], 1 - LEVEL)),
        }
        if not self.two:
            return row
        probes = probe.neuron_probes(x, labels, fold)
        neurons["probe_accuracy"], neurons["probe_separated"] = probes.accuracy, probes.separated
        best = probe.best_neuron_accuracy(x, labellings, fold)
        by_chance = probe.neuron_probes(x, shuffles[0], fold).accuracy
        return row | {
            "probe_best_accuracy": float(best[0]),
            "probe_best_accuracy_shuffled_q95": float(np.quantile(best[1:], 1 - LEVEL)),
            "probe_median_accuracy": float(np.median(probes.accuracy)),
            "probe_accuracy_shuffled_q95": float(np.quantile(by_chance, 1 - LEVEL)),
            "probe_separated_neurons": int(probes.separated.sum()),
            "probe_unconverged": int((~probes.converged).sum()),
        }

    def _beside(self, name: str, layer: int, neurons: Table) -> dict[str, float]:
        """The headline under another condition, and how well its effects agree with the first's."""
        x, labels = self.activations[name][layer].astype(np.float64), self.conditions[name].category
        return self._condition(name, x, labels, neurons)

    def _one_token(self, x: np.ndarray, neurons: Table) -> dict[str, float]:
        """The headline within words of one token, whose activations no pooling and no later position can touch."""
        single = self.rows.lengths == 1
        return self._condition("one_token", x[single], self.rows.category[single], neurons)

    def _condition(self, name: str, x: np.ndarray, labels: np.ndarray, neurons: Table) -> dict[str, float]:
        sizes = np.bincount(labels, minlength=len(self.categories))
        missing = np.full(x.shape[1], np.nan)
        row = {f"rows_{name}": len(labels)}
        if sizes.min() < FEWEST:
            if self.two:
                neurons |= {f"t_welch_{name}": missing, f"q_{name}": missing, f"cohens_d_{name}": missing}
            return row | {
                f"share_significant_{name}": np.nan,
                f"share_bonferroni_{name}": np.nan,
                f"d_r_{name}": np.nan,
            }
        tested = contrast.compare(x, labels)
        q = q_values(tested.p)
        row |= {
            f"share_significant_{name}": float((q < LEVEL).mean()),
            f"share_bonferroni_{name}": float((tested.p < LEVEL / len(q)).mean()),
        }
        if self.two:
            d = contrast.cohens_d(x, labels)[0]
            neurons |= {f"t_welch_{name}": tested.statistic, f"q_{name}": q, f"cohens_d_{name}": d}
            row[f"d_r_{name}"] = _correlation(neurons["cohens_d"], d)
        return row

    def _in_text(self, layer: int, neurons: Table) -> dict[str, float]:
        if not self.two or not self.options.text:
            return {}
        rows, missing = self._text_rows(layer), np.full(len(neurons["mean"]), np.nan)
        neurons["auroc_text"] = missing
        if rows is None:
            return {"auroc_text_r": np.nan}
        enough = np.bincount(self.found.category, minlength=2).min() >= FEWEST
        if enough:
            neurons["auroc_text"] = contrast.auroc(rows[0].astype(np.float64), self.found.category)
        return {"auroc_text_r": _correlation(neurons["auroc"], neurons["auroc_text"])}

    def _text_rows(self, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The listed words' occurrences, and the excerpt's tokens, `[rows, neurons]` each."""
        if "text" not in self.activations:
            return None
        rows, count = self.activations["text"][layer], len(self.found.words)
        return rows[:count], rows[count:]

    def excerpt_of(self, layer: int, neuron: int) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """The excerpt's tokens as texts, one neuron's activations on them, and their categories (−1: not listed)."""
        rows = self._text_rows(layer)
        if rows is None:
            return None
        ids = self.excerpt.tokens.input_ids[self.excerpt.sequence, self.excerpt.start]
        return token_texts(self.tokenizer, ids.tolist()), rows[1][:, neuron], self.excerpt.category


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer's columns of `neurons`, its row of `layers`, and its permutation null."""

    neurons: Table
    row: dict[str, float]
    null: contrast.Permutation


class _RowsPass(base.Pass):
    """The pass that captures a selection's rows."""

    def __init__(self, what: str, selection: Selection, layers: list[int], pooling: str):
        self.what = f"{what.capitalize()}: {len(selection.words)} rows"
        self.tokens, self._selection, self._layers, self._pooling = selection.tokens, selection, layers, pooling

    def chosen_layers(self, model: LanguageModel) -> list[int]:
        return self._layers

    def sequences_at_once(self, batch_size: int) -> int:
        return batch_size * max(1, SHORT // self.tokens.valid.shape[1])

    def reducers(
        self, model: LanguageModel, tokens: Tokens, layers: list[int], pilot: Callable[[], Pilot]
    ) -> list[Reducer]:
        chosen = self._selection
        sequence, start, stop = (
            torch.from_numpy(np.asarray(span, dtype=np.int64)) for span in (chosen.sequence, chosen.start, chosen.stop)
        )
        self.reducer = Rows(sequence, start, stop, self._pooling)
        return [self.reducer]


def _check_sizes(labels: np.ndarray, categories: list[str]) -> None:
    for category, name in enumerate(categories):
        size = int((labels == category).sum())
        if size < FEWEST:
            raise UserError(f"experiment.words: only {size} words of {name} can be used; give {FEWEST} or more")


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


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return float("nan")
    return float(np.corrcoef(x[both], y[both])[0, 1])
