"""Runs experiments without the command line: a small random model, hand-made texts, one call."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerBase

from neurexp.engine import plan as engine
from neurexp.experiments.base import Experiment, Inputs, Plan, Results
from neurexp.experiments.profile import Profile, ProfileData
from neurexp.experiments.token_length import Options, TokenLength
from neurexp.models.load import LanguageModel
from neurexp.report.finished import FinishedRun
from neurexp.report.report import Report
from neurexp.text.tokens import Tokens

torch.set_num_threads(1)  # with matrices this small, threads do little but wait for one another


def small_model(tokenizer: PreTrainedTokenizerBase, layers: int = 2) -> LanguageModel:
    """A random GPT-Neo of 48 neurons a layer that speaks `tokenizer`'s vocabulary."""
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        num_layers=layers,
        num_heads=2,
        attention_types=[[["global"], layers]],
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPTNeoForCausalLM(config).eval().requires_grad_(False)
        for parameter in network.parameters():  # large enough that every part of the forward matters
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return LanguageModel(network, tokenizer, "small", "made here", "random")


def text_of(ids: Any, sequence_length: int = 32) -> Tokens:
    """The ids as sequences, the last one padded."""
    ids = np.asarray(ids, dtype=np.int32)
    rows = -(-len(ids) // sequence_length)
    padded = np.zeros(rows * sequence_length, dtype=np.int32)
    padded[: len(ids)] = ids
    valid = np.arange(len(padded)) < len(ids)
    return Tokens(padded.reshape(rows, -1), valid.reshape(rows, -1), documents=1)


def inputs_of(
    model: LanguageModel,
    text: Tokens | None = None,
    model_name: str = "model",
    dataset_name: str = "text",
    seed: int = 0,
    source: FinishedRun | None = None,
) -> Inputs:
    """The inputs of an experiment. Without a `text`, to read one is a mistake of the experiment."""

    def read_text() -> Tokens:
        assert text is not None, "the experiment reads a text that it said it would not read"
        return text

    return Inputs(model, model_name, dataset_name, read_text, seed, source=source)


def run_passes(plan: Plan, batch_size: int = 4) -> Results:
    """The results of a plan's passes, each run afresh."""
    results: dict[str, Any] = {}
    for one in plan.passes:
        results[one.name] = engine.run(one.after(results), plan.inputs.model, batch_size)
    return results


def run_experiment(
    experiment: Experiment[Any],
    model: LanguageModel,
    text: Tokens | None = None,
    batch_size: int = 4,
    model_name: str = "model",
    dataset_name: str = "text",
    seed: int = 0,
) -> tuple[Any, Mapping[str, Mapping[str, Any]], Report]:
    """Prepares, runs and analyses an experiment: its plan, the results of the passes, and its report, checked."""
    plan = experiment.prepare(inputs_of(model, text, model_name, dataset_name, seed))
    results = run_passes(plan, batch_size)
    report = experiment.analyse(plan, results)
    report.check()
    return plan, results, report


def measure(
    model: LanguageModel, tokens: Tokens, batch_size: int = 4, plugin: type[Profile] = TokenLength, **options: Any
) -> tuple[ProfileData, Report]:
    """The data of `token_length`, as the pass left it, and its report."""
    experiment = plugin(Options(name="token_length", plugin="", **options))
    plan, results, report = run_experiment(experiment, model, tokens, batch_size)
    return ProfileData.of(experiment.options, plan, results), report
