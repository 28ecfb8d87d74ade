"""What a model predicts, from whole logits in float64 with numpy: nothing of neurexp's own."""

from contextlib import ExitStack

import numpy as np
import torch
from blocks import BLOCKS, VARIANTS

MEASURES = ("loss", "kl", "agrees", "rank")


def log_probabilities(logits):
    """`[…, vocabulary]` float64."""
    logits = np.asarray(logits, dtype=np.float64)
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


def counted(valid):
    """Which tokens predict a next one, `[sequences, length]`."""
    valid, found = np.asarray(valid), np.zeros(valid.shape, dtype=bool)
    for sequence, token in np.ndindex(valid.shape):
        if token + 1 < valid.shape[1]:
            found[sequence, token] = valid[sequence, token] and valid[sequence, token + 1]
    return found


def measures(logits, reference, ids, valid):
    """`[4, sequences, length]` float64 of `MEASURES`, NaN where there is no prediction; `reference` are logits too."""
    p, q = log_probabilities(logits), log_probabilities(reference)
    found = np.full((4, *ids.shape), np.nan)
    for sequence, token in zip(*np.nonzero(counted(valid)), strict=True):
        own, other, target = p[sequence, token], q[sequence, token], int(ids[sequence, token + 1])
        found[0, sequence, token] = -own[target]
        found[1, sequence, token] = (np.exp(other) * (other - own)).sum()
        found[2, sequence, token] = own.argmax() == other.argmax()
        found[3, sequence, token] = 1 + (own > own[target]).sum()
    return found


def whole_logits(model, ids, valid=None):
    """Of transformers' own forward over all sequences at once."""
    inputs = {}
    if valid is not None:
        inputs = {"attention_mask": valid.long(), "position_ids": (valid.long().cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        output = model(ids, use_cache=False, **inputs)
    return (output[0] if isinstance(output, tuple) else output.logits).float()


def edited_logits(model, name, ids, *edits, valid=None):
    """Whole logits with plain hooks. Each edit is (site, layer, neurons, function of `[sequences, length, neurons]`);
    the site is NEURON, what the down-projection reads, or RESID_POST, what the block puts out."""
    block = BLOCKS[VARIANTS[name][0]]
    with ExitStack() as hooks:
        for site, layer, neurons, function in edits:

            def changed(values, neurons=neurons, function=function):
                new = values.clone().view(*ids.shape, -1)
                new[..., neurons] = function(new[..., neurons]).to(new.dtype)
                return new.view(values.shape)

            def before(module, arguments, changed=changed):
                return (changed(arguments[0]), *arguments[1:])

            def after(module, arguments, output, changed=changed):
                return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

            module = model.get_submodule(f"{block.prefix}.{layer}")
            if site == "NEURON":
                handle = module.get_submodule(block.down).register_forward_pre_hook(before)
            else:
                handle = module.register_forward_hook(after)
            hooks.callback(handle.remove)
        return whole_logits(model, ids, valid)
