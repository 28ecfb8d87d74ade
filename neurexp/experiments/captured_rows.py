"""The passes that capture rows: the activations of chosen spans of tokens. Knows no kind of experiment."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from neurexp.engine.plan import Pass
from neurexp.engine.reducers.rows import Rows
from neurexp.experiments.base import Inputs, Results
from neurexp.io.provenance import hash_of_tokenizer
from neurexp.text.tokens import Tokens

SHORT = 512  # tokens of short sequences that share a forward, for each sequence of running text


def rows_pass(
    name: str,
    tokens: Tokens,
    spans: np.ndarray,
    inputs: Inputs,
    site: str,
    layers: tuple[int, ...],
    label: str,
    pooling: str = "mean",
) -> Pass:
    """The pass that captures one row for each span, in the order of the spans; its reducer is called `rows`.

    One process runs it, because the rows are few, and later runs take what it has captured.

    Args:
        name, site, layers, label: of the pass (`engine.plan.Pass`).
        tokens: what is run.
        spans: `[3, rows]`: the sequence of each span, its first token, and its last token + 1.
        inputs: of the experiment.
        pooling: of a span's tokens, one of `Rows.POOLINGS`.
    """
    spans = np.ascontiguousarray(spans, dtype="<i8")
    return Pass(
        name=name,
        tokens=tokens,
        site=site,
        layers=layers,
        reducers=lambda _: {"rows": Rows(*torch.from_numpy(spans.astype(np.int64)), pooling=pooling)},
        key={
            "pooling": pooling,
            "tokenizer": hash_of_tokenizer(inputs.model.tokenizer),
            "spans": hashlib.sha256(spans.tobytes()).hexdigest(),
        },
        label=label,
        distributed=False,
        cacheable=True,
        batch_factor=max(1, SHORT // tokens.valid.shape[1]),
    )


def captured(results: Results, layers: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
    """What such passes captured: the pass's name → layer → `[rows, neurons]` float32.

    Args:
        results: of passes from `rows_pass` only.
        layers: those of the passes.
    """
    activations: dict[str, dict[int, np.ndarray]] = {}
    for name, reducers in results.items():
        rows = reducers["rows"]
        assert isinstance(rows, Rows)
        activations[name] = {layer: rows.rows(site).numpy() for site, layer in enumerate(layers)}
    return activations
