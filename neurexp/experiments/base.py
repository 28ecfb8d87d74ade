"""What an experiment is: it chooses inputs and reductions before the pass, and says what the numbers mean after it.

An experiment never touches a hook, and never sees an activation that its reducers did not keep.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from neurexp.config import DatasetConfig
from neurexp.engine.reducers import Pilot, Reducer
from neurexp.models.load import LanguageModel
from neurexp.report import Report
from neurexp.text import sources
from neurexp.text.tokens import Tokens, pack


@dataclass
class Options:
    """Options that every experiment has; a subclass adds its own."""

    name: str
    plugin: str
    site: str = "MLP"
    layer: Any = "all"


@dataclass(frozen=True)
class Setting:
    """What a run is about, for titles and texts."""

    model: str
    dataset: str

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}"


class Experiment(ABC):
    """Base of all experiments. The driver calls `inputs`, `reducers`, `covariates` (per batch), then `analyse`."""

    Options: ClassVar[type] = Options

    def __init__(self, options: Any, setting: Setting):
        self.options, self.setting = options, setting

    def inputs(self, model: LanguageModel, dataset: DatasetConfig) -> Tokens:
        """The token sequences to run; unless overridden, the dataset's running text, packed."""
        return pack(
            sources.documents(dataset),
            model.tokenizer,
            dataset.tokens,
            dataset.sequence_length,
            begin_with_bos=model.family.expects_bos,
        )

    @abstractmethod
    def reducers(
        self, model: LanguageModel, tokens: Tokens, layers: list[int], pilot: Callable[[], Pilot]
    ) -> list[Reducer]:
        """What to reduce each layer to. `pilot` measures the first sequence alone, where ranges must be fixed first."""

    def covariates(self, ids: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the reducers need to know of a batch's tokens: name → `[tokens]`, on the device of `ids` `[tokens]`."""
        return {}

    @abstractmethod
    def analyse(self) -> Report:
        """After the pass: from the reducers' state to the report."""
