"""Hooks on an unmodified model for the length of a context: each chosen site passes on its activations.

The context registers its hooks on entering and removes them on leaving, also after an error. Other hooks on the model
stay. The forward stops after the last chosen site, so nothing beyond it is computed. Several threads may run the model
at the same time: a context's hooks act only in the forwards of that context. Knows nothing of what happens to the
activations.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from neurexp.errors import UserError
from neurexp.models.sites import Site


class _AllSitesReached(BaseException):
    """Ends a forward early. It is no Exception, so that no handler inside a model catches it as a failure."""


class _Forward(threading.local):
    """What each thread's forward has still to do."""

    pending: frozenset[int] | None = None  # sites that are not reached yet; None outside the context's own forwards
    shape: tuple[int, ...] = ()  # [sequences, length] of the tokens


@contextmanager
def hooked(sites: Sequence[Site], receive: Callable[[int, torch.Tensor], None]) -> Iterator[Callable[..., None]]:
    """Hooks `sites`, and yields `forward`, which runs a module up to the last of them.

        with hooked(sites, receive) as forward:
            forward(model.base_model, input_ids=batch, use_cache=False)

    Args:
        sites: whose activations to capture: outputs or inputs of modules; two parts of one module are two sites.
        receive: called with the site's index in `sites` and its activations `[sequences, length, neurons]`, in the
            order in which the forward reaches them, by the thread that is in the forward. It may keep a view, but must
            not write into it.

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

    def forward(module: torch.nn.Module, **inputs) -> None:
        current.pending, current.shape = frozenset(range(len(sites))), tuple(inputs["input_ids"].shape)
        try:
            with suppress(_AllSitesReached):
                module(**inputs)
            unreached = current.pending
        finally:
            current.pending = None
        if unreached:
            missing = sites[min(unreached)]
            raise UserError(
                f"experiment.site={missing.name}: the forward does not call {missing.address} of layer "
                f"{missing.layer}; give another site, or model.fast=false if only the faster forward leaves it out"
            )

    handles = []
    try:
        for index, site in enumerate(sites):
            handles.append(site.listen(receive_for(index)))
        yield forward
    finally:
        for handle in handles:
            handle.remove()
