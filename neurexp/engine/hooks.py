"""Hooks on a model for the length of a context: each chosen site passes on its activations, after the edits if any.

The context registers its hooks on entering and removes them on leaving, also after an error. Other hooks on the model
stay. The forward stops after the last chosen site, so nothing beyond it is computed. Several threads may run the model
at the same time: a context's hooks act only in the forwards of that context. Knows nothing of what happens to the
activations.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

import torch
from transformers import PreTrainedModel

from neurexp.engine.changes import Change, Place, changing
from neurexp.errors import UserError
from neurexp.models.sites import Site


class _AllSitesReached(BaseException):
    """Ends a forward early. It is no Exception, so that no handler inside a model catches it as a failure."""


class _Forward(threading.local):
    """What each thread's forward has still to do."""

    pending: frozenset[int] | None = None  # sites that are not reached yet; None outside the context's own forwards
    shape: tuple[int, ...] = ()  # [sequences, length] of the tokens
    place: Place | None = None  # for edits; None outside the context's own forwards


@contextmanager
def hooked(
    network: PreTrainedModel,
    sites: Sequence[Site],
    receive: Callable[[int, torch.Tensor], None],
    changes: Sequence[Change] = (),
) -> Iterator[Callable[..., None]]:
    """Hooks `sites`, and yields `forward`, which runs the model without its head up to the last of them.

        with hooked(model, sites, receive) as forward:
            forward(input_ids=batch, use_cache=False)

    Args:
        network: a causal Hugging Face model, with or without its head.
        sites: whose activations to capture: outputs or inputs of modules; two parts of one module are two sites.
        receive: called with the site's index in `sites` and its activations `[sequences, length, neurons]`, in the
            order in which the forward reaches them, by the thread that is in the forward. It may keep a view, but must
            not write into it.
        changes: edits (`engine.changes`), which act before the activations are passed on. `forward` then needs `place`,
            which says where the batch stands.

    Raises (from `forward`):
        UserError: the forward did not call a site's module.

    Other threads and other contexts may run the same model at the same time. The hooks ignore those forwards and do not
    stop them.
    """
    current = _Forward()

    def receive_for(index: int) -> Callable[[torch.Tensor], None]:
        def receive_activations(activations: torch.Tensor) -> None:
            if current.pending is None:
                return
            if activations.dim() == 2:  # OPT's blocks join all sequences
                activations = activations.unflatten(0, current.shape)
            receive(index, activations)
            current.pending -= {index}
            if not current.pending:
                raise _AllSitesReached

        return receive_activations

    def forward(place: Place | None = None, **inputs) -> None:
        current.pending, current.shape = frozenset(range(len(sites))), tuple(inputs["input_ids"].shape)
        current.place = place
        try:
            with suppress(_AllSitesReached):
                network.base_model(**inputs)
            unreached = current.pending
        finally:
            current.pending = current.place = None
        if unreached:
            missing = sites[min(unreached)]
            raise UserError(
                f"experiment.site={missing.name}: the forward does not call {missing.address} of layer "
                f"{missing.layer}; give another site, or model.fast=false if only the faster forward leaves it out"
            )

    handles = []
    editing = changing(network, changes, lambda: current.place) if changes else nullcontext()
    try:
        with editing:
            for index, site in enumerate(sites):
                handles.append(site.listen(receive_for(index)))
            yield forward
    finally:
        for handle in handles:
            handle.remove()
