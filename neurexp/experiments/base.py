"""What an experiment is: it chooses inputs and reductions before the pass, and says what the numbers mean after it.

An experiment never touches a hook, and never sees an activation that its reducers did not keep.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers

from neurexp.config.schema import DatasetConfig
from neurexp.engine.reducers.base import Reducer
from neurexp.io.provenance import hash_of_code, hash_of_tokenizer, of_arithmetic
from neurexp.models.load import LanguageModel
from neurexp.models.sites import parse_layers
from neurexp.report.report import Report
from neurexp.text import sources
from neurexp.text.skipped import Skipped
from neurexp.text.tokens import Tokens, cached, pack


@dataclass
class Options:
    """Options that every experiment has; a subclass adds its own."""

    name: str
    plugin: str
    site: str = "MLP"
    layer: Any = "all"  # None: the model's own default
    control: str = "off"  # random: the same again with random weights


@dataclass(frozen=True)
class Setting:
    """What a run is about, for titles and texts, and the driver's choices that an experiment must know."""

    model: str
    dataset: str
    seed: int = 0
    default_layer: int | None = None  # the model's own, for experiments on one layer
    batch_size: int = 4
    reuse: bool = True  # what an earlier run captured of the same may stand for a pass
    every_layer: bool = False  # a sweep over layers: other jobs will want the other layers of the same pass

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}"


class Pass(ABC):
    """One pass over tokens that an experiment asks for; `tokens` are those to run."""

    what = "Text"  # it runs over, for the log
    splits: ClassVar[bool] = True  # over the processes of torchrun
    kept: ClassVar[bool] = False  # its statistics may stand for the same pass of later runs
    tokens: Tokens

    @abstractmethod
    def key(self, model: LanguageModel) -> dict[str, Any]:
        """All that the reducers' states depend on beside `capture_key`, as JSON has it: layers, options, rows, …"""

    @abstractmethod
    def chosen_layers(self, model: LanguageModel) -> list[int]:
        """Which layers to listen to."""

    def sequences_at_once(self, batch_size: int) -> int:
        """How many sequences go into one forward, given as many as suit running text."""
        return batch_size

    @abstractmethod
    def reducers(self, model: LanguageModel, tokens: Tokens, layers: list[int]) -> list[Reducer]:
        """What to reduce each layer to."""

    def covariates(self, ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor) -> dict[str, Any]:
        """What the reducers need to know of a batch's tokens, from id, position and sequence of each, `[tokens]`.

        Returns name → `[tokens, …]`, or what else a reducer takes; all of it on the CPU.
        """
        return {}


def capture_key(model: LanguageModel, tokens: Tokens, site: str, batch_size: int) -> dict[str, Any]:
    """What activations depend on to the last bit: weights, tokens, arithmetic and how the pass is cut."""
    return {
        "code": hash_of_code(),
        "weights": model.weights_hash,
        "dtype": str(model.network.dtype),
        "fast": model.fast,
        "site": site,
        "tokens": tokens.hash,
        "batch_size": batch_size,
        "arithmetic": of_arithmetic(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


class Experiment(Pass):
    """Base of all experiments. The driver runs its `passes`, then calls `analyse`.

    An experiment with a single pass is that pass itself: it says what to run (`inputs`) and what to reduce it to.
    """

    Options: ClassVar[type] = Options
    _text_skipped: tuple[Skipped, ...] = ()  # of the running text, which may be read beside other inputs

    def __init__(self, options: Any, setting: Setting):
        self.options, self.setting = options, setting

    def key(self, model: LanguageModel) -> dict[str, Any]:
        """Unless overridden, all of the experiment's options and the run's seed."""
        return {
            "experiment": f"{type(self).__module__}.{type(self).__qualname__}",
            "layers": self.chosen_layers(model),
            "tokenizer": hash_of_tokenizer(model.tokenizer),
            "seed": self.setting.seed,
            "options": {name: str(value) for name, value in vars(self.options).items()},
        }

    def chosen_layers(self, model: LanguageModel) -> list[int]:
        """`experiment.layer`; where it is not given, the model's own default, else the one at two thirds of its depth.

        Raises:
            UserError: no such layer.
        """
        layer = self.options.layer
        if layer is None:
            layer = self.setting.default_layer
        return parse_layers(2 * model.layers // 3 if layer is None else layer, model.layers)

    def passes(self, model: LanguageModel, dataset: DatasetConfig, cache: Path) -> Iterator[Pass]:
        """Yields each pass in turn; when the iterator goes on, its reducers have seen every token.

        `self.tokens` is set, and what `skipped` returns is known, before the first one.
        """
        self.tokens = self.inputs(model, dataset, cache)
        yield self

    def inputs(self, model: LanguageModel, dataset: DatasetConfig, cache: Path) -> Tokens:
        """The token sequences to run; unless overridden, the dataset's running text, packed, from `cache` if there."""
        bos = model.begins_with_bos
        key = {
            "dataset": sources.identity(dataset),
            "rules": sources.RULES,
            "text_column": dataset.text_column,
            "tokenizer": hash_of_tokenizer(model.tokenizer),
            "tokens": dataset.tokens,
            "sequence_length": dataset.sequence_length,
            "bos": bos,
        }

        def tokenise() -> Tokens:
            reading = sources.Reading(dataset)
            texts = sources.documents(dataset, reading)
            length = dataset.sequence_length
            tokens = pack(texts, model.tokenizer, dataset.tokens, length, bos, skipped=reading.skipped)
            reading.check()
            return replace(tokens, bad_share=reading.needed)

        tokens = cached(cache, key, tokenise, dataset.bad_rows)
        model.check_ids(tokens.input_ids[tokens.valid])
        self._text_skipped = tokens.skipped
        return tokens

    def provenance(self) -> dict[str, Any]:
        """What else names the inputs of this run, beside the tokens of its first pass and the dataset."""
        return {}

    def skipped(self) -> list[Skipped]:
        """What of the inputs could not be used. The driver says it in the log, and writes it to `skipped.parquet`."""
        return list(dict.fromkeys((*self.tokens.skipped, *self._text_skipped)))

    @abstractmethod
    def analyse(self) -> Report:
        """After the pass: from the reducers' state to the report."""
