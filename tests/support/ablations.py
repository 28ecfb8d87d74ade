"""Ablations without the command line: tiny models and texts of any words, and an oracle on plain transformers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from inprocess import inputs_of, run_passes
from tiny import VOCABULARY, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from neurexp.experiments.ablation import Ablation
from neurexp.experiments.base import Inputs, TokenGroup
from neurexp.experiments.intervention import FoundNeurons, Options
from neurexp.experiments.intervention.data import InterventionData
from neurexp.models.load import LanguageModel
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
    experiment: Ablation, model: LanguageModel, tokens: Tokens, batch_size: int = 2, seed: int = 0, source: Any = None
) -> tuple[InterventionData, Report]:
    """The data of an ablation, and its report, checked."""
    inputs = inputs_of(model, tokens, seed=seed)
    if source is not None:
        object.__setattr__(inputs, "source", source)
    plan = experiment.prepare(inputs)
    results: dict[str, Any] = {}
    for one in plan.passes:
        results |= run_passes(_of_one(plan, one.after(results)), batch_size)
    report = experiment.analyse(plan, results)
    report.check()
    return InterventionData.of(experiment.options, plan, results), report


def _of_one(plan: Any, one: Any) -> Any:
    from dataclasses import replace

    return replace(plan, passes=(one,))


class Oracle:
    """Losses in float64 of a plain transformers model, with its down-projections' inputs replaced by hooks."""

    def __init__(self, model: LanguageModel, tokens: Tokens, down: Callable[[Any, int], torch.nn.Module]):
        """`down` finds the module of a layer that reads its neurons."""
        import copy

        self.network = copy.deepcopy(model.network).double()
        self.tokens, self._down = tokens, down
        self.counted = tokens.valid[:, :-1] & tokens.valid[:, 1:]
        with self._watching() as seen:
            self.log_p = self._run()
        self.neurons = {layer: torch.cat(values).numpy() for layer, values in seen.items()}  # [sequences, length, n]

    def _run(self) -> np.ndarray:
        """log p of every token of the vocabulary at every place, `[sequences, length, vocabulary]`."""
        rows = []
        with torch.inference_mode():
            for ids, valid in zip(self.tokens.input_ids, self.tokens.valid, strict=True):
                out = torch.zeros(len(ids), self.network.config.vocab_size, dtype=torch.float64)
                whole = torch.from_numpy(ids[valid].astype(np.int64))[None]
                out[: whole.shape[1]] = self.network(whole, use_cache=False).logits[0].log_softmax(-1)
                rows.append(out.numpy())
        return np.stack(rows)

    @contextmanager
    def _watching(self) -> Iterator[dict[int, list[torch.Tensor]]]:
        seen: dict[int, list[torch.Tensor]] = {}
        length, handles = self.tokens.valid.shape[1], []
        for layer in range(self.network.config.num_hidden_layers):
            seen[layer] = []

            def keep(module: Any, given: tuple, layer: int = layer) -> None:
                values = given[0].reshape(1, -1, given[0].shape[-1])
                padded = torch.full((1, length, values.shape[-1]), torch.nan, dtype=torch.float64)
                padded[:, : values.shape[1]] = values
                seen[layer].append(padded)

            handles.append(self._down(self.network, layer).register_forward_pre_hook(keep))
        yield seen
        for handle in handles:
            handle.remove()

    def edited(self, replacements: Mapping[tuple[int, int], np.ndarray]) -> np.ndarray:
        """log p with neurons replaced: (layer, neuron) → values `[sequences, length]`, or one number."""
        handles, sequence = [], {layer: -1 for layer, _ in replacements}
        for layer in sequence:

            def change(module: Any, given: tuple, layer: int = layer) -> tuple:
                sequence[layer] += 1
                values = given[0].clone()
                flat = values.view(-1, values.shape[-1])
                for (of_layer, neuron), new in replacements.items():
                    if of_layer == layer:
                        full = np.broadcast_to(new, self.tokens.valid.shape)[sequence[layer], : len(flat)]
                        flat[:, neuron] = torch.from_numpy(full.copy())
                return (values,)

            handles.append(self._down(self.network, layer).register_forward_pre_hook(change))
        try:
            return self._run()
        finally:
            for handle in handles:
                handle.remove()

    def losses(self, log_p: np.ndarray) -> np.ndarray:
        """−log p of the next token, `[sequences, length − 1]`; 0 where there is no prediction."""
        following = self.tokens.input_ids[:, 1:, None].astype(np.int64)
        return np.where(self.counted, -np.take_along_axis(log_p[:, :-1], following, -1)[..., 0], 0.0)

    def measures(self, log_p: np.ndarray) -> dict[str, np.ndarray]:
        """KL divergence from the model without edits, agreement and rank, `[sequences, length − 1]` each."""
        plain, edited = self.log_p[:, :-1], log_p[:, :-1]
        own = np.take_along_axis(edited, self.tokens.input_ids[:, 1:, None].astype(np.int64), -1)
        return {
            "kl": np.where(self.counted, (np.exp(plain) * (plain - edited)).sum(-1), 0),
            "agreement": np.where(self.counted, plain.argmax(-1) == edited.argmax(-1), 0),
            "rank": np.where(self.counted, 1 + (edited > own).sum(-1), 0),
        }
