"""The direct path of neurons to the logits: which tokens their output weights promote, without any pass.

Knows no test and no figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurexp.experiments.intervention.trials import Pairs, alone_draws
from neurexp.models.direct import direct_effects, output_weights
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
        on_category_null: set → group → `[draws]`: the same of one random neuron of each draw.
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
        found = _effects(model, site, pairs)
        if found is None:
            return None
        top, bottom = found.topk(min(SHOWN, found.shape[1])), (-found).topk(min(SHOWN, found.shape[1]))
        promoted[name], suppressed[name] = top.indices.numpy(), bottom.indices.numpy()
        effects[name] = (top.values.numpy(), -bottom.values.numpy())
        on_category[name] = {group: _standardised(found, ids) for group, ids in tokens.items()}
        on_null[name] = {group: np.empty(0) for group in tokens}
        if tokens and len(drawn[name]):
            random = _effects(model, site, alone_draws(drawn[name]))
            assert random is not None
            on_null[name] = {group: _standardised(random, ids) for group, ids in tokens.items()}
    ids = {int(one) for found in (promoted, suppressed) for rows in found.values() for one in rows.flat}
    texts = {one: "".join(text for text, *_ in readable_tokens(model.tokenizer, [one])) for one in sorted(ids)}
    return DirectPath(promoted, suppressed, effects, on_category, on_null, texts)


def _effects(model: Any, site: str, pairs: Pairs) -> torch.Tensor | None:
    """`[n, vocabulary]` float32 on the CPU."""
    rows = []
    with torch.inference_mode():
        weights = {int(layer): output_weights(model.network, site, int(layer)) for layer in np.unique(pairs[:, 0])}
        for first in range(0, len(pairs), AT_ONCE):
            chosen = [weights[layer] for layer, _ in pairs[first : first + AT_ONCE].tolist()]
            if any(one is None for one in chosen):
                return None
            own = [
                one[neuron]
                for one, (_, neuron) in zip(chosen, pairs[first : first + AT_ONCE].tolist(), strict=True)
                if one is not None
            ]
            part = direct_effects(model.network, torch.stack(own))
            if part is None:
                return None
            rows.append(part.float().cpu())
    return torch.cat(rows)


def _standardised(effects: torch.Tensor, ids: np.ndarray) -> np.ndarray:
    """The mean over `ids` in standard deviations over the vocabulary, `[n]`; NaN without ids."""
    values = effects.double()
    deviation, mean = values.std(1, unbiased=False), values.mean(1)
    chosen = values[:, torch.from_numpy(ids)].mean(1) if len(ids) else torch.full_like(mean, torch.nan)
    return ((chosen - mean) / deviation).numpy()
