"""Hooks on an unmodified model, for the length of a context: each chosen site hands over what it computed.

Hooks are registered on entering and removed on leaving, whatever happens inside; hooks of the caller's own stay. Once
every site has spoken the forward stops, so nothing beyond the last one is computed. Several threads may run the model
at once: a context's hooks act in the forwards of that context only. Knows nothing of what is done with the activations.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from neurexp.models.sites import Site


class _EverySiteSpoke(BaseException):
    """Ends a forward early. Not an Exception, so that no handler inside a model takes it for a failure."""


class _Forward(threading.local):
    """The sites that have not spoken yet in this thread's forward; None where the thread is in no forward of ours."""

    silent: frozenset[int] | None = None


@contextmanager
def hooked(sites: Sequence[Site], receive: Callable[[int, torch.Tensor], None]) -> Iterator[Callable[..., None]]:
    """Hooks `sites` and yields `forward`, which runs a module up to the last of them.

        with hooked(sites, receive) as forward:
            forward(model.base_model, input_ids=batch, use_cache=False)

    Args:
        sites: what to listen to; two parts of one module are two sites.
        receive: called with the site's index in `sites` and its activations `[sequences, length, neurons]`, in the
            order in which the forward reaches them, by the thread that is in the forward. It may keep a view, but must
            not write into it.

    The hooks lie on a model that others may run at the same time: the caller in another thread, or another context.
    Such a forward is neither listened to nor stopped.
    """
    here = _Forward()

    def hook_for(index: int, site: Site):
        def hook(module, arguments, output):
            if here.silent is None:
                return
            activations = output[0] if isinstance(output, tuple) else output
            if site.address.parts > 1:
                activations = activations.chunk(site.address.parts, dim=-1)[site.address.part]
            receive(index, activations)
            here.silent -= {index}
            if not here.silent:
                raise _EverySiteSpoke

        return hook

    def forward(module: torch.nn.Module, **inputs) -> None:
        here.silent = frozenset(range(len(sites)))
        try:
            with suppress(_EverySiteSpoke):
                module(**inputs)
            silent = here.silent
        finally:
            here.silent = None
        if silent:
            missing = ", ".join(sites[index].key for index in sorted(silent))
            raise RuntimeError(f"the forward never reached {missing}")

    handles = []
    try:
        for index, site in enumerate(sites):
            handles.append(site.module.register_forward_hook(hook_for(index, site)))
        yield forward
    finally:
        for handle in handles:
            handle.remove()
