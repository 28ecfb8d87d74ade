"""Ablations without the command line: tiny models and texts of any words, and an oracle on plain transformers."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from inprocess import inputs_of
from tiny import VOCABULARY, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from neurexp.engine import plan as engine
from neurexp.experiments.ablation import Ablation
from neurexp.experiments.base import Inputs, TokenGroup
from neurexp.experiments.intervention import FoundNeurons, Options
from neurexp.experiments.intervention.data import InterventionData
from neurexp.models.load import LanguageModel
from neurexp.report.finished import FinishedRun
from neurexp.report.report import Report
from neurexp.text.tokens import Tokens

Neurons = Sequence[tuple[int, int]]  # layer and neuron of each
FEW = {"draws": 20, "sample": 3, "bootstraps": 100}


def language_model(network: PreTrainedModel) -> LanguageModel:
    """A tiny model whose token i is the word “w<i>”."""
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0")
    return LanguageModel(network.requires_grad_(False), tokenizer, "tiny", "made here", "random")


def tiny(family: str = "gpt_neo", **changes: Any) -> LanguageModel:
    """A tiny model of a family."""
    return language_model(build(family, **changes))


def text(sequences: int = 5, length: int = 12, padded: int = 3, seed: int = 1) -> Tokens:
    """Random tokens; the last sequence ends with so many pads."""
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (sequences, length)).astype(np.int32)
    valid = np.ones((sequences, length), dtype=bool)
    valid[-1, length - padded :] = False
    return Tokens(ids, valid, documents=1)


class OfSets(Ablation):
    """An ablation of given sets, on given groups of tokens, as if a run had found them."""

    given: Mapping[str, Neurons]
    groups: Mapping[str, TokenGroup]

    def sets(self, inputs: Inputs) -> Mapping[str, FoundNeurons]:
        found = {}
        for name, neurons in self.given.items():
            layers, places = np.array(neurons, dtype=np.int64).T
            scores = np.arange(len(places), 0, -1.0)
            found[name] = FoundNeurons(layers, places, scores, "d", f"that prefer {name}", "", len(places))
        return found

    def groups_of_tokens(self, inputs: Inputs) -> Mapping[str, TokenGroup]:
        return self.groups


def ablation(sets: Mapping[str, Neurons], groups: Mapping[str, TokenGroup] | None = None, **options: Any) -> OfSets:
    """The experiment on these sets; few draws, unless the options say otherwise."""
    experiment = OfSets(Options(name="ablation", plugin="", neurons=[[0, 0]], **(FEW | options)))
    experiment.given, experiment.groups = sets, groups or {}
    return experiment


def of_neurons(*neurons: tuple[int, int], **options: Any) -> Ablation:
    """The experiment with `experiment.neurons`."""
    return Ablation(Options(name="ablation", plugin="", neurons=[list(one) for one in neurons], **(FEW | options)))


def measured(
    experiment: Ablation,
    model: LanguageModel,
    tokens: Tokens,
    batch_size: int = 2,
    seed: int = 0,
    source: FinishedRun | None = None,
) -> tuple[InterventionData, Report]:
    """The data of an ablation, and its report, checked."""
    plan = experiment.prepare(inputs_of(model, tokens, seed=seed, source=source))
    results: dict[str, Any] = {}
    for one in plan.passes:
        results[one.name] = engine.run(one.after(results), model, batch_size)
    report = experiment.analyse(plan, results)
    report.check()
    return InterventionData.of(experiment.options, plan, results), report


class Oracle:
    """What a plain transformers model in float64 predicts, its down-projections reading other values by hooks."""

    def __init__(self, model: LanguageModel, tokens: Tokens, blocks: str, down: str):
        """`blocks` is the path of the blocks, `down` that of the module in a block that reads its neurons."""
        self.network = copy.deepcopy(model.network).double()
        self._modules = [block.get_submodule(down) for block in self.network.get_submodule(blocks)]
        self._ids, self._valid = torch.from_numpy(tokens.input_ids.astype(np.int64)), tokens.valid
        self.counted = tokens.valid[:, :-1] & tokens.valid[:, 1:]
        self.neurons: dict[int, np.ndarray] = {}  # layer → activations [sequences, length, neurons]
        self.gradients: dict[int, np.ndarray] = {}  # of the sum of all losses, at them
        seen: dict[int, torch.Tensor] = {}

        def keep(layer: int, values: torch.Tensor) -> torch.Tensor:
            seen[layer] = values.detach().requires_grad_() if layer == 0 else values
            seen[layer].retain_grad()
            return seen[layer]

        log_p = self._run(dict.fromkeys(range(len(self._modules)), keep))
        (-log_p[:, :-1].gather(-1, self._ids[:, 1:, None])[..., 0] * torch.from_numpy(self.counted)).sum().backward()
        for layer, values in seen.items():
            assert values.grad is not None
            self.neurons[layer], self.gradients[layer] = values.detach().numpy(), values.grad.numpy()
        self.log_p = log_p.detach().numpy()

    def _run(self, changes: Mapping[int, Callable[[int, torch.Tensor], torch.Tensor]]) -> torch.Tensor:
        """log p of the vocabulary at every token, `[sequences, length, vocabulary]`; pads come last and change none."""

        def hook(layer: int) -> Callable:
            def change(module: torch.nn.Module, given: tuple) -> tuple:
                shape = given[0].shape  # some families flatten the tokens
                return (changes[layer](layer, given[0].view(*self._ids.shape, -1)).view(shape),)

            return change

        handles = [self._modules[layer].register_forward_pre_hook(hook(layer)) for layer in changes]
        try:
            return self.network(self._ids, use_cache=False).logits.log_softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    def edited(self, replaced: Mapping[tuple[int, int], np.ndarray | float]) -> np.ndarray:
        """log p with neurons replaced: (layer, neuron) → a number, or values `[sequences, length]`."""

        def change(layer: int, values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            for (of_layer, neuron), new in replaced.items():
                if of_layer == layer:
                    values[..., neuron] = torch.as_tensor(new)
            return values

        with torch.inference_mode():
            return self._run({layer: change for layer, _ in replaced}).numpy()

    def loss(self, log_p: np.ndarray) -> np.ndarray:
        """−log p of each next token, `[sequences, length − 1]`."""
        return -np.take_along_axis(log_p[:, :-1], self._ids[:, 1:, None].numpy(), -1)[..., 0]

    def kl(self, log_p: np.ndarray) -> np.ndarray:
        """The KL divergence from the model without edits, `[sequences, length − 1]`."""
        plain, edited = self.log_p[:, :-1], log_p[:, :-1]
        return (np.exp(plain) * (plain - edited)).sum(-1)

    def agrees(self, log_p: np.ndarray) -> np.ndarray:
        """Whether the most probable token is that of the model without edits, `[sequences, length − 1]`."""
        return self.log_p[:, :-1].argmax(-1) == log_p[:, :-1].argmax(-1)

    def rank(self, log_p: np.ndarray) -> np.ndarray:
        """The rank of each next token, `[sequences, length − 1]`."""
        return 1 + (log_p[:, :-1] > -self.loss(log_p)[..., None]).sum(-1)

    def mean(self, layer: int, neuron: int) -> float:
        """A neuron's mean over all tokens that are no pads."""
        return float(self.neurons[layer][self._valid, neuron].mean())
