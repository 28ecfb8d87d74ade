"""What an experiment is: it plans passes before they run, and says what their results mean afterwards.

An experiment never touches a hook, and never sees an activation that its reducers did not keep. Knows neither run
folders nor MLflow.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from neurexp.engine.plan import Pass
from neurexp.engine.reducers.base import Reducer
from neurexp.errors import UserError
from neurexp.experiments.options.base import Options
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.models.choices import parse_layers
from neurexp.models.load import LanguageModel
from neurexp.report.finished import FinishedRun
from neurexp.report.report import Report
from neurexp.text.skipped import Skipped
from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import vocabulary_size

Results = Mapping[str, Mapping[str, Reducer]]  # the pass's name → the reducer's name → the reducer after the pass


@dataclass(frozen=True)
class Inputs:
    """What an experiment plans its passes from.

    `read_text` reads the dataset's running text, packed into sequences. `model_name` and `dataset_name` are for titles.
    """

    model: LanguageModel
    model_name: str
    dataset_name: str
    read_text: Callable[[], Tokens]
    seed: int = 0
    default_layer: int | None = None  # the model config's own, for experiments on one layer
    batch_size: int = 4  # sequences of running text in one forward
    source: FinishedRun | None = None  # the run that the experiment goes on from (`Experiment.source_run`)
    writer: LanguageModel | None = None  # the model that writes a text, if not `model`: a control's is the original

    @property
    def label(self) -> str:
        """The model and the dataset, as titles have them."""
        return f"{self.model_name} on {self.dataset_name}"

    @cached_property
    def text(self) -> Tokens:
        """The dataset's running text. It is read when it is first asked for.

        Raises:
            UserError: the text cannot be read, or has an id that the model does not have.
        """
        tokens = self.read_text()
        self.model.check_ids(tokens.input_ids[tokens.valid])
        return tokens

    @cached_property
    def reference_counts(self) -> tuple[np.ndarray, str]:
        """How often each token type occurs, `[vocabulary]`, and in which text: “the tokenizer's training text” where
        its counts are known, else “this very text”."""
        if self.model.token_counts is not None:
            return self.model.token_counts, "the tokenizer's training text"
        tokens, types = self.text, vocabulary_size(self.model.tokenizer)
        return np.bincount(tokens.input_ids[tokens.valid], minlength=types), "this very text"

    def layers(self, chosen: Any) -> tuple[int, ...]:
        """The block indices that `experiment.layer` means; for None the default layer, else that at two thirds.

        Raises:
            UserError: no such layer.
        """
        if chosen is None:
            chosen = 2 * self.model.layers // 3 if self.default_layer is None else self.default_layer
        return tuple(parse_layers(chosen, self.model.layers))


BYTES_PER_NEURON = 230  # of neurons.parquet with some thirty columns, after compression


@dataclass(frozen=True)
class TokenGroup:
    """The tokens of a running text that a finding is about.

    Args:
        own: `[sequences, length]` bool: the token belongs to the group.
        begins: `[sequences, length]` bool: a member begins at the token. Equal to `own` for a property of single
            tokens; the first token of each word for a list of words.
        description: as it stands in a sentence: “occurrences of the listed verbs”.
    """

    own: np.ndarray
    begins: np.ndarray
    description: str


@dataclass(frozen=True)
class Plan:
    """What an experiment wants to run. A kind of experiment adds what its analysis needs."""

    inputs: Inputs
    passes: tuple[Pass, ...]
    tokens: Tokens  # written into the run folder
    skipped: tuple[Skipped, ...] = ()  # parts of the inputs that could not be used
    provenance: Mapping[str, Any] = field(default_factory=dict)  # names the inputs, beside `tokens` and the dataset
    bytes_per_neuron: float = BYTES_PER_NEURON  # that the run will write, roughly; nothing for tokens
    afterwards: Mapping[str, float] = field(default_factory=dict)  # what follows the passes → about how many seconds


P = TypeVar("P", bound=Plan)


class Experiment(ABC, Generic[P]):
    """Base of all experiments. The driver calls `prepare`, runs the plan's passes, and calls `analyse`."""

    Options: ClassVar[type] = Options
    distributed: ClassVar[bool] = True  # `torchrun` splits one of its passes at least
    without_text: ClassVar[str] = "words alone"  # in titles, what it measures if it reads no dataset

    def __init__(self, options: Any):
        """Raises UserError for an option that cannot be used, or a class that sets `controls`, as it once did."""
        name, moved = type(self).__name__, getattr(type(self), "controls", None)
        if moved is not None:
            raise UserError(
                f"{name}.controls: the options say now which values experiment.control may have; move it to the "
                f"dataclass that {name}.Options is (docs/your_own_experiment.md), as controls = {moved!r}"
            )
        self.options = options
        options.check()

    @property
    def reads_text(self) -> bool:
        """Whether the plan needs the dataset's running text."""
        return True

    @property
    def source_run(self) -> str | None:
        """The finished run that this one goes on from, as the user gave it: a folder, or an id in MLflow.

        By default the option `run`, where an experiment has one. `Inputs.source` is that run, of the same model.
        """
        return getattr(self.options, "run", None)

    @abstractmethod
    def prepare(self, inputs: Inputs) -> P:
        """Plans the passes.

        Raises:
            UserError: the inputs and options do not fit each other.
        """

    @abstractmethod
    def analyse(self, plan: P, results: Results) -> Report:
        """Turns the passes' results into the report."""

    def token_groups(self, inputs: Inputs) -> dict[str, TokenGroup]:
        """The groups of tokens of `inputs.text` that the experiment's finding is about, by name; by default none.

        A group may have no token in a text. `inputs.source`, where there is one, is the finished run of this
        experiment.
        """
        return {}

    def key(self, inputs: Inputs) -> dict[str, Any]:
        """What a pass depends on that follows from all options. A pass that depends on fewer names them itself."""
        return {
            "experiment": f"{type(self).__module__}.{type(self).__qualname__}",
            "tokenizer": hash_of_tokenizer(inputs.model.tokenizer),
            "seed": inputs.seed,
            **({"source": inputs.source.neurons_hash} if inputs.source is not None else {}),
            "options": {one.name: str(getattr(self.options, one.name)) for one in fields(self.options)},
        }
