"""The direct path of neurons to the logits: which tokens their output weights promote, without any pass.

Knows no test and no figure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurexp.experiments.intervention.trials import Pairs
from neurexp.experiments.promoted import strongest
from neurexp.models.direct import output_weights, path_to_logits
from neurexp.text.characters import readable_tokens

SHOWN = 10  # tokens that a neuron promotes most, and suppresses most
AT_ONCE = 64  # neurons


@dataclass(frozen=True)
class DirectPath:
    """What neurons add to the logits through the final norm and the unembedding.

    Args:
        promoted, suppressed: set → `[n, SHOWN]` token ids, the strongest first.
        effects: set → (`[n, SHOWN]` of the promoted, `[n, SHOWN]` of the suppressed), logits per unit of activation, up
            to one positive factor for each token of a text.
        on_category: set → group → `[n]`: the mean effect on the tokens that begin a member of the group, in standard
            deviations over the vocabulary, from the mean over the vocabulary.
        on_category_null: set → group → `[draws, n]`: the same of the random neurons.
        texts: token id → its text.
    """

    promoted: Mapping[str, np.ndarray]
    suppressed: Mapping[str, np.ndarray]
    effects: Mapping[str, tuple[np.ndarray, np.ndarray]]
    on_category: Mapping[str, Mapping[str, np.ndarray]]
    on_category_null: Mapping[str, Mapping[str, np.ndarray]]
    texts: Mapping[int, str]


def output_norms(network: Any, site: str, layers: tuple[int, ...]) -> np.ndarray | None:
    """The norm of each neuron's output weights, `[layers, neurons]` float64; None where the site has none."""
    weights = [output_weights(network, site, layer) for layer in layers]
    if any(one is None for one in weights):
        return None
    return np.stack([one.double().norm(dim=-1).cpu().numpy() for one in weights if one is not None])


def direct_path(
    model: Any,
    site: str,
    sets: Mapping[str, Pairs],
    drawn: Mapping[str, np.ndarray],
    tokens: Mapping[str, np.ndarray],
) -> DirectPath | None:
    """The direct paths of sets of neurons, and of random ones; None where they cannot be read.

    Args:
        model: the language model.
        site: of the neurons.
        sets: name → `[n, 2]`.
        drawn: name → `[draws, n, 2]`.
        tokens: group → token ids that begin one of its members.
    """
    promoted, suppressed, effects, on_category, on_null = {}, {}, {}, {}, {}
    for name, pairs in sets.items():
        parts = _effects(model, site, pairs)
        if parts is None:
            return None
        found = torch.cat(list(parts))
        ids, values = strongest(found, SHOWN)
        promoted[name], suppressed[name] = ids[:, 0], ids[:, 1]
        effects[name] = (values[:, 0], values[:, 1])
        on_category[name] = {group: _standardised(found, ids) for group, ids in tokens.items()}
        different, of_draws = np.unique(drawn[name].reshape(-1, 2), axis=0, return_inverse=True)
        random = _effects(model, site, different) if tokens else None
        parts = [] if random is None else [[_standardised(part, ids) for ids in tokens.values()] for part in random]
        joined = [np.concatenate(of_group) for of_group in zip(*parts, strict=True)]
        on_null[name] = {
            group: values[of_draws].reshape(drawn[name].shape[:2]) for group, values in zip(tokens, joined, strict=True)
        }
    ids = {int(one) for found in (promoted, suppressed) for rows in found.values() for one in rows.flat}
    texts = {one: "".join(text for text, *_ in readable_tokens(model.tokenizer, [one])) for one in sorted(ids)}
    return DirectPath(promoted, suppressed, effects, on_category, on_null, texts)


def _effects(model: Any, site: str, pairs: Pairs) -> Iterator[torch.Tensor] | None:
    """The effects of neurons, `[some, vocabulary]` float32 on the CPU for a few at a time; None without a path."""
    found = {int(layer): output_weights(model.network, site, int(layer)) for layer in np.unique(pairs[:, 0])}
    weights = {layer: one for layer, one in found.items() if one is not None}
    to_logits = path_to_logits(model.network)
    if len(weights) < len(found) or to_logits is None:
        return None

    def parts() -> Iterator[torch.Tensor]:
        for first in range(0, len(pairs), AT_ONCE):
            own = [weights[layer][neuron] for layer, neuron in pairs[first : first + AT_ONCE].tolist()]
            yield to_logits(torch.stack(own)).float().cpu()

    return parts()


def _standardised(effects: torch.Tensor, ids: np.ndarray) -> np.ndarray:
    """The mean over `ids` in standard deviations over the vocabulary, `[n]`.

    NaN without ids; 0 for a neuron that adds the same to every logit.
    """
    values = effects.double()
    deviation, mean = values.std(1, unbiased=False), values.mean(1)
    chosen = values[:, torch.from_numpy(ids)].mean(1) if len(ids) else torch.full_like(mean, torch.nan)
    return torch.where(deviation > 0, (chosen - mean) / deviation, 0 * chosen).numpy()
