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
    valid = np.asarray(valid, dtype=bool)
    return np.pad(valid[:, :-1] & valid[:, 1:], ((0, 0), (0, 1)))


def measures(logits, reference, ids, valid, slack=0.0):
    """`[4, sequences, length]` float64 of `MEASURES`, NaN where there is no prediction; `reference` are logits too.

    A token ranks before the target only if its log-probability is larger by more than `slack`.
    """
    p, q = log_probabilities(logits), log_probabilities(reference)
    targets = np.zeros((*ids.shape, 1), dtype=np.int64)
    targets[:, :-1, 0] = ids[:, 1:]
    own = np.take_along_axis(p, targets, axis=-1)
    kl = (np.exp(q) * (q - p)).sum(-1)
    found = np.stack([-own[..., 0], kl, p.argmax(-1) == q.argmax(-1), 1 + (p > own + slack).sum(-1)])
    return np.where(counted(valid), found, np.nan)


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
