"""The contexts themselves, as tables and tensors: where they stand, their tokens, and what the tokens are."""

import numpy as np

from neurexp.engine.reducers.places import SCALE
from neurexp.experiments.promoted import promoted_tokens, table_of
from neurexp.experiments.top_contexts.data import ENDS, Options, TopContextsData
from neurexp.experiments.top_contexts.winners import table_of as table_of_winners
from neurexp.models.load import LanguageModel
from neurexp.report.report import Table
from neurexp.text.characters import token_bytes

Tensors = dict[str, dict[str, np.ndarray]]


def contexts_of(data: TopContextsData) -> Table:
    """A row for each context, by layer, neuron, end (top first) and rank."""
    layers, ends, neurons, k = data.places.shape
    length = data.plan.tokens.valid.shape[1]

    def by_neuron(values: np.ndarray) -> np.ndarray:
        return values.transpose(0, 2, 1, 3).ravel()

    place, ids = by_neuron(data.places), by_neuron(data.ids)
    there = place >= 0
    place, ids = place[there], ids[there]
    return {
        "layer": np.repeat(data.layers, neurons * ends * k)[there],
        "neuron": np.tile(np.repeat(np.arange(neurons), ends * k), layers)[there],
        "end": np.tile(np.repeat(np.array(ENDS, dtype=object), k), layers * neurons)[there],
        "rank": np.tile(np.arange(k), layers * neurons * ends)[there],
        "value": by_neuron(data.values)[there],
        "sequence": place // length,
        "position": place % length,
        "token_id": ids,
        "token": data.texts[ids],
    }


def tensors_of(data: TopContextsData, contexts: Table) -> Tensors:
    """The activations around each context, and the sequences that have one."""
    tokens, layers = data.plan.tokens, np.array(data.layers)
    sequences = np.unique(contexts["sequence"])
    found: Tensors = {
        "windows": {"levels": data.levels, "layers": layers},
        "context_tokens": {
            "sequences": sequences,
            "input_ids": tokens.input_ids[sequences].astype(np.int32),
            "valid": tokens.valid[sequences],
        },
    }
    if data.histogram:
        found["neuron_histograms"] = {
            "counts": data.histogram["counts"].astype(np.int32),
            "start": data.histogram["start"],
            "width": data.histogram["width"],
            "layers": layers,
        }
    return found


def notes_of(data: TopContextsData) -> dict[str, dict[str, str]]:
    """Metadata of the tensors' files."""
    return {
        "windows": {"before": str(data.options.before), "after": str(data.options.after), "scale": str(SCALE)},
    }


def direct_is_left_out(options: Options, model: LanguageModel) -> bool:
    """Whether the model is the control with random weights, whose tables no one sees."""
    return options.control == "random" and model.weights == "random"


def direct_of(data: TopContextsData) -> Table:
    """The tokens that each neuron promotes and suppresses directly; empty where that cannot be read."""
    model = data.plan.inputs.model
    if not data.options.direct or direct_is_left_out(data.options, model):
        return {}
    found = promoted_tokens(model.network, data.site, data.layers, data.options.direct)
    return {} if found is None else table_of(data.layers, *found, data.texts)


def winners_of(data: TopContextsData) -> Table:
    """Which tokens won random batches."""
    assert data.winners is not None
    return table_of_winners(
        data.winners, data.plan.tokens.input_ids, data.plan.counted, lambda ids: list(data.texts[ids])
    )


def vocabulary_of(data: TopContextsData, tensors: Tensors, direct: Table) -> Table:
    """Every token of the sequences with a context, and of the direct paths."""
    known = tensors["context_tokens"]
    ids = np.unique(np.concatenate([known["input_ids"][known["valid"]], direct.get("id", np.zeros(0, np.int64))]))
    ids = ids[ids < len(data.texts)]
    spelled = token_bytes(data.plan.inputs.model.tokenizer, ids.tolist())
    return {
        "token_id": ids,
        "token": data.texts[ids],
        "bytes": np.array([spelled[int(one)].hex() for one in ids], dtype=object),
    }
