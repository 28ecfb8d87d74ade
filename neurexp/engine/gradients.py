"""The gradient pass: one forward and one backward over a text; each site's activations and gradients are reduced.

The loss is what the model predicts worse: the cross-entropy of every next token, summed over the text. No gradient of a
parameter is computed, and nothing is kept beyond a batch. Knows neither edits nor what the gradients are for.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.division import batches_of, ranges_of
from neurexp.engine.passes import CHECKED_EVERY, Covariates, as_tensor, inputs_of, make_batch
from neurexp.engine.predictions import next_tokens
from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer, predicting
from neurexp.engine.reducers.not_finite import NotFinite
from neurexp.errors import UserError
from neurexp.models.head import Head, token_losses
from neurexp.models.sites import Site
from neurexp.models.spread import device_of
from neurexp.models.transfer import to_device


def run_gradient_pass(
    network: PreTrainedModel,
    sites: Sequence[Site],
    input_ids: np.ndarray | torch.Tensor,
    valid: np.ndarray | torch.Tensor | None,
    reducers: Sequence[Reducer],
    covariates: Covariates | None = None,
    batch_size: int = 4,
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    part: slice | Sequence[range] = slice(None),
    checkpoints: Checkpoints | None = None,
) -> None:
    """Runs every sequence once, forwards and backwards, and lets each reducer see each site's valid tokens.

    The loss is Σ −log p(token t + 1 | tokens up to t) in nats, over all t where both tokens are valid. A reducer gets
    `update_with_gradient(site, activations, gradients, batch)`: the gradient of that sum with respect to the site's
    value at each token, through all that the value acts on (also at later tokens), in the model's dtype. The sites of a
    batch come in the order of the backward: the last layer first.

    Args:
        network: a causal Hugging Face model with its head, in `eval()`. While the pass runs, its parameters do not
            require gradients, for other threads neither.
        sites: of `find_sites`, on that model.
        input_ids, valid, covariates, batch_size, progress, forecast, part, checkpoints: as in `engine.passes.run_pass`.
            A batch's activations of all layers are in memory at once: what the backward needs, and the sites.
        reducers: updated in place. They must not need a calibration.

    Raises:
        NotFiniteError: a site's activations or gradients have NaN or infinity. Raised some batches later.
        OtherPassError: the checkpoints belong to another pass.
        UserError: the network has no head, or the forward does not call a site's module.
        ValueError: a reducer must be calibrated.
    """
    if not all(reducer.is_calibrated for reducer in reducers):
        raise ValueError("a gradient pass calibrates no reducer: give shifts and edges when you make it")
    device = device_of(network)
    ids = as_tensor(input_ids).cpu()
    mask = torch.ones_like(ids, dtype=torch.bool) if valid is None else as_tensor(valid).cpu()
    if not any(reducer.handles_not_finite for reducer in reducers):
        reducers = [*reducers, NotFinite(len(sites), device)]
    own = batches_of(ranges_of(part, len(ids)), batch_size)
    batches = [slice(one.start, one.stop) for one in own]
    done = checked = 0 if checkpoints is None else checkpoints.load(reducers)
    tokens_in = [int(mask[here].sum()) for here in batches]

    def check(index: int) -> None:
        nonlocal checked
        try:
            for reducer in reducers:
                reducer.check()
        except NotFiniteError as error:
            error.sequences = slice(batches[checked].start, batches[index].stop)
            raise
        checked = index + 1

    bar = tqdm(
        total=sum(tokens_in),
        initial=sum(tokens_in[:done]),
        unit=" tokens",
        unit_scale=True,
        disable=None if progress else True,
        leave=False,
    )
    with bar, _Backward(network, sites, reducers) as backward:
        for index in range(done, len(batches)):
            began, here = time.perf_counter(), batches[index]
            backward.run(make_batch(ids[here], mask[here], here.start, device, covariates))
            due = checkpoints is not None and checkpoints.due()
            if due or index % CHECKED_EVERY == 0 or index == len(batches) - 1:
                check(index)
            if checkpoints is not None and due:
                checkpoints.save(reducers, index + 1, own[: index + 1])
            bar.update(tokens_in[index])
            if forecast is not None and index == min(done + 1, len(batches) - 1) > done:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                left = sum(one.stop - one.start for one in batches[done:])
                forecast((time.perf_counter() - began) / (here.stop - here.start) * left, sum(backward.widths.values()))


class _Forward(threading.local):
    """What the calling thread's own forward has met; `batch` is None outside of it."""

    batch: Batch | None = None
    rows: torch.Tensor | None = None  # of the batch, where the activations are
    embedded: torch.Tensor | None = None  # where the gradient ends


class _Backward:
    """Runs batches forwards and backwards, within a context that holds the hooks."""

    def __init__(self, network: PreTrainedModel, sites: Sequence[Site], reducers: Sequence[Reducer]):
        self._network, self._sites, self._reducers = network, sites, reducers
        self._now = _Forward()
        self._left: set[int] = set()  # sites that are not reduced yet
        self.widths: dict[int, int] = {}

    def __enter__(self) -> "_Backward":
        with ExitStack() as stack:
            self._head = stack.enter_context(Head(self._network))
            stack.enter_context(no_gradients_of_parameters(self._network))
            stack.enter_context(self._hooks())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        embeddings: Any = self._network.get_input_embeddings()
        handles = []
        try:
            handles.append(embeddings.register_forward_hook(self._begin_gradient))
            for index, site in enumerate(self._sites):
                handles.append(_listen_to_all_columns(site, self._receive_for(index)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin_gradient(self, module: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if self._now.batch is None:
            return None
        self._now.embedded = output.detach().requires_grad_()
        return self._now.embedded.clone()  # a model may write into it

    def _receive_for(self, index: int) -> Callable[[torch.Tensor], None]:
        def receive(values: torch.Tensor) -> None:
            batch = self._now.batch
            if batch is None or not values.requires_grad:
                return
            # A model may go on to write into what a module puts out: Falcon's blocks add to it
            rows, output = self._now.rows, self._sites[index].address.side == "output"
            held, version = [values.detach().clone() if output else values.detach()], values._version

            def reduce(gradient: torch.Tensor) -> None:
                activations = held.pop()
                if not output and activations._version != version:
                    raise RuntimeError(f"the model has written into {self._sites[index].key}, whose values are lost")
                with torch.no_grad():
                    self._reduce(index, activations, gradient, batch, rows)

            values.register_hook(reduce)

        return receive

    def _reduce(
        self, index: int, activations: torch.Tensor, gradient: torch.Tensor, batch: Batch, rows: torch.Tensor | None
    ) -> None:
        both = []
        for values in (activations, gradient):
            values = self._sites[index].read(values)
            values = values.flatten(0, -2).to(batch.device)  # OPT's blocks join all sequences themselves
            both.append(values if rows is None else values[rows])
        self.widths[index] = both[0].shape[-1]
        for reducer in self._reducers:
            reducer.update_with_gradient(index, both[0], both[1], batch)
        self._left.discard(index)

    def run(self, batch: Batch) -> None:
        """One batch, forwards and backwards."""
        for reducer in self._reducers:
            reducer.begin(batch)
        self._left = set(range(len(self._sites)))
        with torch.inference_mode(False), torch.enable_grad():
            self._now.batch = batch
            self._now.rows = None if batch.rows is None else to_device(batch.rows, batch.device)
            try:
                hidden = self._network.base_model(use_cache=False, **inputs_of(batch))[0].to(batch.device)
                embedded = self._now.embedded
            finally:
                self._now.batch = self._now.rows = self._now.embedded = None
            if embedded is None:
                raise UserError(
                    f"model.name: the forward of {type(self._network).__name__} does not call its input embeddings, so "
                    "there is no gradient; give a model of a known family"
                )
            torch.autograd.grad(hidden, embedded, self._gradient_of(hidden.detach(), batch))
        if self._left:
            site = self._sites[min(self._left)]
            raise UserError(
                f"experiment.site={site.name}: no gradient reaches {site.address} of layer {site.layer}; give another "
                "site"
            )

    def _gradient_of(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss's gradient with respect to the last hidden states; the logits are made in pieces."""
        places = predicting(batch.valid)
        rows = to_device(places.flatten().nonzero().squeeze(1), batch.device)
        targets = to_device(next_tokens(batch.input_ids)[places], batch.device)
        flat = hidden.flatten(0, -2)
        gradient = torch.zeros_like(flat)
        for piece in self._head.pieces(len(rows)):
            some = flat[rows[piece]].requires_grad_()
            loss = token_losses(self._head, some, targets[piece]).sum()
            (gradient[rows[piece]],) = torch.autograd.grad(loss, some)
        return gradient.view_as(hidden)


def _listen_to_all_columns(site: Site, receive: Callable[[torch.Tensor], None]) -> Any:
    """As `Site.listen`, but for all columns of a fused projection: only they have a gradient, their parts do not."""
    if site.address.side == "output":

        def after(module: nn.Module, arguments: tuple, output: Any) -> None:
            receive(output[0] if isinstance(output, tuple) else output)

        return site.module.register_forward_hook(after)

    def before(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        receive(arguments[0] if arguments else next(iter(named.values())))

    return site.module.register_forward_pre_hook(before, with_kwargs=True)


@contextmanager
def no_gradients_of_parameters(network: nn.Module) -> Iterator[None]:
    """Within the context no parameter requires a gradient."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
