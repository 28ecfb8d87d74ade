"""What an experiment is: it chooses inputs and reductions before the pass, and says what the numbers mean after it.

An experiment never touches a hook, and never sees an activation that its reducers did not keep.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from neurexp.config import DatasetConfig
from neurexp.engine.reducers import Pilot, Reducer
from neurexp.models.load import LanguageModel
from neurexp.provenance import hash_of_tokenizer
from neurexp.report import Report
from neurexp.text import sources
from neurexp.text.tokens import Tokens, cached, pack


@dataclass
class Options:
    """Options that every experiment has; a subclass adds its own."""

    name: str
    plugin: str
    site: str = "MLP"
    layer: Any = "all"
    control: str = "off"  # random: the same again with random weights


@dataclass(frozen=True)
class Setting:
    """What a run is about, for titles and texts."""

    model: str
    dataset: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}"


class Experiment(ABC):
    """Base of all experiments. The driver calls `inputs`, `reducers`, `covariates` (per batch), then `analyse`."""

    Options: ClassVar[type] = Options

    def __init__(self, options: Any, setting: Setting):
        self.options, self.setting = options, setting

    def inputs(self, model: LanguageModel, dataset: DatasetConfig, cache: Path) -> Tokens:
        """The token sequences to run; unless overridden, the dataset's running text, packed, from `cache` if there."""
        bos = model.family.expects_bos
        key = {
            "dataset": sources.identity(dataset),
            "text_column": dataset.text_column,
            "tokenizer": hash_of_tokenizer(model.tokenizer),
            "tokens": dataset.tokens,
            "sequence_length": dataset.sequence_length,
            "bos": bos,
        }

        def tokenise() -> Tokens:
            texts = sources.documents(dataset)
            return pack(texts, model.tokenizer, dataset.tokens, dataset.sequence_length, begin_with_bos=bos)

        return cached(cache, key, tokenise)

    @abstractmethod
    def reducers(
        self, model: LanguageModel, tokens: Tokens, layers: list[int], pilot: Callable[[], Pilot]
    ) -> list[Reducer]:
        """What to reduce each layer to. `pilot` measures the first sequence alone, where ranges must be fixed first."""

    def covariates(
        self, ids: torch.Tensor, positions: torch.Tensor, sequences: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the reducers need to know of a batch's tokens, from id, position and sequence of each, `[tokens]`.

        Returns name → `[tokens, …]`, on the device of `ids`.
        """
        return {}

    @abstractmethod
    def analyse(self) -> Report:
        """After the pass: from the reducers' state to the report."""
