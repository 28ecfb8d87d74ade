"""One unit's activations as a function of embeddings: what gradient ascent and the discrete search climb.

The embeddings take the place of what the model's input embedding puts out, which is what `inputs_embeds` means in
transformers: whatever the model does afterwards (adds positions, multiplies by √width as Gemma does) it still does. The
forward stops at the unit's site. No gradient of a parameter is computed. Several units run one after the other, with
progress and checkpoints (`each_unit`). Knows nothing of what is optimised.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.gradients import no_gradients_of_parameters
from neurexp.engine.hooks import hooked
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.errors import UserError
from neurexp.models.sites import Site
from neurexp.models.spread import at_hand, device_of
from neurexp.models.transfer import to_device

SMALL = 2**15  # numbers in a hidden state

Unit = tuple[int, int]  # layer and neuron
AfterStep = Callable[[int], None]  # is told the number of each step


def embedding_table(network: PreTrainedModel) -> torch.Tensor:
    """What the model's input embedding puts out for every id, `[ids, width]`; of a plain embedding its own weights."""
    embedding: nn.Module = network.get_input_embeddings()  # type: ignore[assignment]
    if type(embedding) is nn.Embedding:
        with at_hand(embedding):
            return embedding.weight.detach().to(device_of(network))
    weight: torch.Tensor = embedding.weight  # type: ignore[assignment]
    with torch.no_grad():  # some families scale within the module
        return embedding(torch.arange(len(weight), device=device_of(network))).detach().to(device_of(network))


@contextmanager
def few_threads(network: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Within the context PyTorch uses one thread if forwards of `tokens` tokens are small: on a busy machine the wait
    of two threads for each other took 60 times as long as the work (2 cores, a width of 192)."""
    threads = torch.get_num_threads()
    is_small = tokens * network.config.get_text_config().hidden_size < SMALL
    try:
        if is_small and device_of(network).type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def unit_of_embeddings(
    network: PreTrainedModel, site: Site, neuron: int, prefix: Sequence[int] = ()
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Yields a function from embeddings `[sequences, n, width]` to the unit's activations `[sequences, n]`.

    It is differentiable with respect to the embeddings, and the sequences do not influence each other.

    Args:
        network: a causal Hugging Face model in `eval()`. Its parameters require no gradients within the context, for
            other threads neither.
        site: of `find_sites`, on that model.
        neuron: the unit's index at the site.
        prefix: ids of the tokens that stand before the embeddings; their activations are left out.

    Raises (from the function):
        UserError: the forward does not call the input embedding or the site's module; or the unit does not depend on
            the embeddings.
    """
    own, kept = threading.get_ident(), []
    state: dict[str, torch.Tensor | None] = {"embedded": None}

    def take_the_place(module: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor | None:
        embedded = state["embedded"]
        if embedded is None or threading.get_ident() != own:
            return None
        state["embedded"] = None
        return torch.cat([output[:, : len(prefix)], embedded.to(output)], 1)

    embedding: nn.Module = network.get_input_embeddings()  # type: ignore[assignment]
    handle = embedding.register_forward_hook(take_the_place)
    try:
        with (
            no_gradients_of_parameters(network),
            hooked(network, [site], lambda _, values: kept.append(values)) as forward,
        ):

            def unit(embedded: torch.Tensor) -> torch.Tensor:
                sequences, n = embedded.shape[:2]
                ids = torch.zeros(sequences, len(prefix) + n, dtype=torch.long)
                ids[:, : len(prefix)] = torch.tensor(list(prefix), dtype=torch.long)
                state["embedded"] = embedded
                kept.clear()
                forward(input_ids=to_device(ids, device_of(network)), use_cache=False)
                if state["embedded"] is not None:
                    state["embedded"] = None
                    raise UserError(
                        f"model.name: the forward of {type(network).__name__} does not call its input embeddings; give "
                        "a model of a known family"
                    )
                values = kept.pop()[:, len(prefix) :, neuron].float().to(embedded.device)
                if embedded.requires_grad and not values.requires_grad:
                    raise UserError(
                        f"experiment.site={site.name}: no gradient goes from {site.address} of layer {site.layer} to "
                        "the embeddings; give another site"
                    )
                return values

            yield unit
    finally:
        handle.remove()


def each_unit(
    units: Sequence[Unit],
    steps: int,
    found: ByUnit,
    forecast_after: int,
    progress: bool = False,
    forecast: Callable[[float, int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[tuple[int, AfterStep]]:
    """Goes through the units that are not done, shows progress, and saves it: a step of the checkpoints is a unit.

    Args:
        units: layer and neuron of each.
        steps: of each unit.
        found: what was found so far; the checkpoints hold it.
        forecast_after: the step of the first unit after which `forecast` is called.
        progress, forecast, checkpoints: as in `engine.passes.run_pass`.

    Yields:
        The unit's index, and a function that is to be called with the number of each step that is done.

    Raises:
        OtherPassError: the checkpoints belong to another pass.
    """
    done = 0 if checkpoints is None else checkpoints.load([found])
    bar = tqdm(
        total=len(units) * steps,
        initial=done * steps,
        unit=" steps",
        disable=None if progress else True,
        leave=False,
    )
    with bar:
        for index in range(done, len(units)):
            began = time.perf_counter()

            def after_step(step: int, index: int = index, began: float = began) -> None:
                bar.update()
                if forecast is not None and index == done and step == forecast_after:
                    forecast((time.perf_counter() - began) / (step + 1) * (len(units) - done) * steps, 0)

            yield index, after_step
            if checkpoints is not None and checkpoints.due():
                checkpoints.save([found], index + 1)
