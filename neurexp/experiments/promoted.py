"""The tokens that neurons promote and suppress directly, by their output weights: for all neurons of some layers.

Knows no kind of experiment and no test.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from neurexp.console.progress import Progress
from neurexp.models.direct import output_weights, path_to_logits
from neurexp.models.spread import device_of
from neurexp.report.report import Table

RESIDUAL = ("RESID_PRE", "RESID_MID", "RESID_POST")  # a neuron of these is a dimension of the stream itself
LITTLE = 2**33  # multiplications: so many take about a second
TIMED = 4  # blocks of neurons: one alone varies by half
NUMBERS = 2**22  # of effects in memory at a time: more would be new memory again and again

COLUMNS = {
    "layer": "its layer",
    "neuron": "its index",
    "sign": "1: a token that the neuron promotes; −1: one that it suppresses, where its activation is positive",
    "rank": "1: the strongest",
    "id": "the token's id",
    "token": "the token",
    "effect": "logits per unit of activation through the final norm's weight and the unembedding, up to one positive "
    "factor for each token of a text; the norm's division is left out, and so is every later block",
}


def strongest(effects: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the tokens with the largest and the smallest effects, and these effects.

    Args:
        effects: `[n, vocabulary]`.
        count: of tokens at each end; all of them if the vocabulary has fewer.

    Returns:
        ids `[n, 2, count]` int64, the promoted ones first, the strongest first; effects of the same shape, float32.
    """
    count = min(count, effects.shape[1])
    top, bottom = effects.topk(count), effects.topk(count, largest=False)
    ids = torch.stack([top.indices, bottom.indices], 1)
    return ids.cpu().numpy(), torch.stack([top.values, bottom.values], 1).cpu().numpy()


def written_by(network: PreTrainedModel, site: str, layer: int) -> torch.Tensor | None:
    """What a unit of each neuron adds to the residual stream, `[neurons, width]`; None if nothing by itself.

    A neuron of a residual site is a dimension of the stream: it adds itself.
    """
    if site not in RESIDUAL:
        return output_weights(network, site, layer)
    embedding: Any = network.get_input_embeddings()
    width = getattr(network.config, "hidden_size", None) or embedding.weight.shape[1]
    return torch.eye(int(width), device=device_of(network))


def promoted_tokens(
    network: PreTrainedModel, site: str, layers: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The tokens that every neuron promotes and suppresses most, `strongest` of `[layers, neurons]`.

    Works through blocks of neurons: memory does not grow with their number times the vocabulary's.

    Returns:
        ids and effects, `[layers, neurons, 2, count]`; None where the site has no output weights, or the path from the
        stream to the logits cannot be read.
    """
    to_logits, weights = path_to_logits(network), written_by(network, site, layers[0])
    if to_logits is None or weights is None:
        return None
    neurons, found = len(weights), []
    once = site in RESIDUAL  # the stream's dimensions are the same in every layer
    step = max(1, NUMBERS // _vocabulary(network))
    with Progress("Direct paths", 1 if once else len(layers), f"{len(layers)} layers of {neurons:,} neurons") as bar:
        for layer in layers[:1] if once else layers:
            weights = written_by(network, site, layer)
            assert weights is not None
            for some in weights.split(step):
                found.append(strongest(to_logits(some), count))
                bar.tick(len(some) / neurons)
    ids, effects = (np.concatenate(part).reshape(-1, neurons, *part[0].shape[1:]) for part in zip(*found, strict=True))
    if once:
        ids, effects = (np.repeat(part, len(layers), axis=0) for part in (ids, effects))
    return ids, effects


def seconds_for(network: PreTrainedModel, site: str, layers: Sequence[int], count: int) -> float:
    """About how many seconds `promoted_tokens` will take, by those of some blocks of neurons; 0 if it is little."""
    weights, vocabulary = written_by(network, site, layers[0]), _vocabulary(network)
    if weights is None:
        return 0.0
    repeated = 1 if site in RESIDUAL else len(layers)
    if repeated * weights.numel() * vocabulary < LITTLE:
        return 0.0
    to_logits = path_to_logits(network)
    if to_logits is None:
        return 0.0
    blocks = weights.split(max(1, NUMBERS // vocabulary))
    strongest(to_logits(blocks[0]), count)  # the first one is slower than all others
    timed = blocks[1 : 1 + TIMED] or blocks[:1]
    began = time.perf_counter()
    for some in timed:
        strongest(to_logits(some), count)
    return (time.perf_counter() - began) * repeated * len(weights) / sum(map(len, timed))


def _vocabulary(network: PreTrainedModel) -> int:
    unembedding: Any = network.get_output_embeddings()
    return int(unembedding.weight.shape[0])


def table_of(layers: Sequence[int], ids: np.ndarray, effects: np.ndarray, texts: np.ndarray) -> Table:
    """The rows of `direct.parquet`: a row for each neuron and token that it promotes or suppresses.

    Args:
        layers: block indices.
        ids, effects: of `promoted_tokens`.
        texts: `[vocabulary]` object, the text of each id; "" for ids beyond it.
    """
    _, neurons, ends, count = ids.shape
    flat = ids.ravel()
    known = np.append(texts, np.array([""], dtype=object))
    each = ends * count
    return {
        "layer": np.repeat(np.asarray(layers), neurons * each),
        "neuron": np.tile(np.repeat(np.arange(neurons), each), len(layers)),
        "sign": np.tile(np.repeat([1, -1], count), len(layers) * neurons),
        "rank": np.tile(np.arange(1, count + 1), len(layers) * neurons * ends),
        "id": flat,
        "token": known[np.minimum(flat, len(texts))],
        "effect": effects.ravel(),
    }
