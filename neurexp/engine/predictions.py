"""What a model predicts, token by token: losses, divergence from another model, ranks.

Position t predicts the token at t + 1. Knows no model and no experiment.
"""

import torch

MEASURES = ("loss", "kl", "agrees", "rank")  # of every prediction


def next_tokens(ids: torch.Tensor) -> torch.Tensor:
    """The token after each token, `[sequences, length]`; that of a last token is of no meaning."""
    return ids.roll(-1, dims=1)


def losses_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−log p(target) in nats, `[tokens]`, of logits `[tokens, vocabulary]`.

    All losses that are compared must come from this function, or all from `models.losses`. In float32 on a CPU torch's
    `log_softmax` is too small by 1e-6 to 4e-6 nats on average for a vocabulary of 50,000, more than many a neuron's
    effect; `logsumexp` is not.
    """
    return logits.logsumexp(-1) - logits.gather(-1, targets[:, None]).squeeze(-1)


def measures_of(logits: torch.Tensor, targets: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """All `MEASURES`, `[4, tokens]`, of logits `[tokens, vocabulary]`.

    - loss: −log p(target) in nats (`losses_of`).
    - kl: the Kullback-Leibler divergence Σ q · log(q / p) in nats, where q are the probabilities of `reference`.
    - agrees: 1 if the most probable token is that of the reference, else 0.
    - rank: of the target among all tokens, 1 for the most probable; a tie counts in its favour.

    Args:
        logits: `[tokens, vocabulary]` float32.
        targets: `[tokens]` int64.
        reference: `[tokens, vocabulary]` log-probabilities of the model that it is compared with.
    """
    log_p = logits.log_softmax(-1)
    own = log_p.gather(-1, targets[:, None])
    kl = torch.nn.functional.kl_div(log_p, reference, reduction="none", log_target=True).sum(-1)
    agrees = (log_p.argmax(-1) == reference.argmax(-1)).to(log_p)
    rank = 1 + (log_p > own).sum(-1).to(log_p)
    return torch.stack([losses_of(logits, targets), kl, agrees, rank])


def of_tokens(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities in nats, and the ranks (1: the most probable; a tie counts in its favour), of some ids.

    Args:
        logits: `[rows, vocabulary]`.
        tokens: `[ids]` int64.

    Returns:
        Both `[rows, ids]`.
    """
    log_p = logits.log_softmax(-1)
    chosen = log_p[:, tokens]
    return chosen, torch.stack([1 + (log_p > one[:, None]).sum(-1) for one in chosen.T], dim=-1)
