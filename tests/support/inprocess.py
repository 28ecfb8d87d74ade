"""Runs the experiment on a few tokens without the command line: a small random model, hand-made texts, one call."""

from typing import Any

import numpy as np
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerBase

from neurexp.experiments.base import Setting
from neurexp.experiments.token_length import Options, TokenLength
from neurexp.models.load import LanguageModel
from neurexp.report.report import Report
from neurexp.runs.measure import capture_for
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


def measure(
    model: LanguageModel, tokens: Tokens, batch_size: int = 4, plugin: type[TokenLength] = TokenLength, **options: Any
) -> tuple[TokenLength, Report]:
    """The experiment with its reducers as the pass left them, and its report, which has passed its own check."""
    chosen = Options(name="token_length", plugin="", **options)
    experiment = plugin(chosen, Setting("model", "text"))
    capture_for(experiment, model, tokens, batch_size)
    report = experiment.analyse()
    report.check()
    return experiment, report
