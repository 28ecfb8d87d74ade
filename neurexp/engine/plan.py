"""A planned pass: which tokens, which layers of a site, which reducers; and how it is run.

An experiment plans passes, and the driver runs them. Knows no experiment: what the reducers' groups mean, and what an
earlier run may stand for, is decided elsewhere.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import transformers

from neurexp.engine import processes
from neurexp.engine.ascent import Ascent, run_ascent
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.division import Division
from neurexp.engine.edited_pass import Variant, run_edited_pass
from neurexp.engine.gradients import run_gradient_pass
from neurexp.engine.lanes import lanes_on
from neurexp.engine.one_unit import Unit
from neurexp.engine.passes import Covariates, count_not_finite, run_pass
from neurexp.engine.reducers.base import NotFiniteError, Reducer
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.engine.reducers.of_sites import OfSites
from neurexp.engine.search import Search, Strings, run_search
from neurexp.errors import UserError
from neurexp.io.provenance import hash_of_code, of_arithmetic
from neurexp.models.fast import fast_forward
from neurexp.models.load import LanguageModel
from neurexp.models.sites import Site, family_of, find_sites, sites_of
from neurexp.models.spread import described, is_spread
from neurexp.text.tokens import Tokens


@dataclass(frozen=True)
class Pass:
    """One pass over token sequences, as an experiment plans it.

    Args:
        name: unique among the passes of a run; results, checkpoints and log lines are found by it.
        tokens: what to run.
        site: the place in each block, `MLP` for example.
        layers: block indices, ascending.
        reducers: makes new reducers, by name, for so many sites. It is called once for each run of the pass. In a sweep
            over layers a pass may run over all layers, if every reducer is `by_site`.
        covariates: what the reducers must know of the tokens of a batch (`engine.passes.run_pass`).
        key: everything that the reducers' states depend on, except `activation_key`, site and layers; JSON values.
        label: the inputs in a few words, for the log.
        distributed: `torchrun` splits the pass over its processes. Otherwise its first process runs it alone.
        cacheable: the states are stored, and stand for the same pass of later runs.
        batch_factor: so many times more sequences go into one forward than of running text.
        shared: every process of `torchrun` gets the merged reducers, because a later pass is planned from them. Only a
            distributed pass can be shared.

    Raises:
        ValueError: a pass that one process runs alone is to be shared.
    """

    name: str
    tokens: Tokens
    site: str
    layers: tuple[int, ...]
    reducers: Callable[[int], dict[str, Reducer]]
    covariates: Covariates | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    label: str = "Text"
    distributed: bool = True
    cacheable: bool = False
    batch_factor: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        if self.shared and not self.distributed:
            raise ValueError(f"the pass {self.name} is shared: all processes must run it (distributed=True)")

    def after(self, results: Mapping[str, Mapping[str, Reducer]]) -> Self:
        """The pass as it runs once earlier passes of the plan have these results: pass → name → reducer."""
        return self


@dataclass(frozen=True)
class GradientPass(Pass):
    """A pass that also runs backwards: its reducers get the loss's gradients, too (`engine.gradients`).

    They must need no calibration by the first sequence.
    """


@dataclass(frozen=True, kw_only=True)
class EditedPass(Pass):
    """A pass over edited variants of the model, whose predictions are added up (`engine.edited_pass`).

    Its one reducer is an `Effects`. `site` and `layers` are those of the edits.

    Args:
        variants: the edits of each variant, from the results of the plan's earlier passes.
        edits: the same, once they are known. `key` then says which neurons each variant edits: an earlier pass that
            was rounded differently may lead to others, and stored or half-done results are not of those.
    """

    variants: Callable[[Mapping[str, Mapping[str, Reducer]]], Sequence[Variant]]
    edits: Sequence[Variant] = ()

    def after(self, results: Mapping[str, Mapping[str, Reducer]]) -> Self:
        edits = self.variants(results)
        places = json.dumps([[(one.site, one.layer, one.neurons, one.kind) for one in variant] for variant in edits])
        return replace(self, edits=edits, key={**self.key, "edits": hashlib.sha256(places.encode()).hexdigest()})


@dataclass(frozen=True, kw_only=True)
class FollowingPass(Pass):
    """A pass over tokens that follow from the results of earlier passes.

    Args:
        follow: the fields of the pass that follow from them (its tokens, reducers and label, for example); none in a
            process that does not have these results.
    """

    follow: Callable[[Mapping[str, Mapping[str, Reducer]]], Mapping[str, Any]]

    def after(self, results: Mapping[str, Mapping[str, Reducer]]) -> Self:
        return replace(self, **self.follow(results))


@dataclass(frozen=True, kw_only=True)
class AscentPass(Pass):
    """Gradient ascent on the input for a few units (`engine.ascent`). Its one reducer is a `ByUnit`.

    One process runs it. `tokens` has as many sequences as there are starts; their ids are read if they are starts.

    Args:
        units: layer and neuron of each, at `site`.
        ascent: the settings.
        allowed: ids that may be decoded, `[allowed]`.
        prefix: ids that begin a sequence.
        starts: for each unit ids `[starts, n]` whose embeddings are its starts, or None: random embeddings.
    """

    units: Sequence[Unit]
    ascent: Ascent
    allowed: torch.Tensor
    prefix: Sequence[int] = ()
    starts: Sequence[torch.Tensor | None] = ()
    distributed: bool = False


@dataclass(frozen=True, kw_only=True)
class SearchPass(Pass):
    """A search over token strings for a few units (`engine.search`). Its one reducer is a `ByUnit`.

    One process runs it.

    Args:
        units: layer and neuron of each, at `site`.
        search: the settings.
        allowed: ids that a swap may bring in, `[allowed]`.
        is_text: whether strings stay the same when they are decoded and encoded again.
        starts_of: from the results of the plan's earlier passes to the starts, ids `[starts, n]` for each unit.
        prefix: ids that begin a sequence.
        starts: the same, once they are known. `key` then says which they are.
    """

    units: Sequence[Unit]
    search: Search
    allowed: torch.Tensor
    is_text: Strings
    starts_of: Callable[[Mapping[str, Mapping[str, Reducer]]], Sequence[torch.Tensor]]
    prefix: Sequence[int] = ()
    starts: Sequence[torch.Tensor] = ()
    distributed: bool = False

    def after(self, results: Mapping[str, Mapping[str, Reducer]]) -> Self:
        starts = self.starts_of(results)
        return replace(self, starts=starts, key={**self.key, "starts": [one.tolist() for one in starts]})


def activation_key(model: LanguageModel, planned: Pass, batch_size: int) -> dict[str, Any]:
    """What a pass's activations depend on to the last bit: weights, tokens, arithmetic and the batches' boundaries."""
    return {
        "code": hash_of_code(),
        "weights": model.weights_hash,
        "dtype": str(model.network.dtype),
        "fast": model.fast,
        "attention": model.attention,
        "site": planned.site,
        "address": f"{family_of(model.network).blocks}: {sites_of(model.network).get(planned.site)}",
        "tokens": planned.tokens.hash,
        "batch_size": batch_size,
        "arithmetic": of_arithmetic(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **({"spread": described(model.network)} if is_spread(model.network) else {}),
        **({} if type(planned) is Pass else {"kind": type(planned).__name__}),
    }


def run(planned: Pass, model: LanguageModel, batch_size: int = 4, **options: Any) -> dict[str, Reducer]:
    """Runs one pass, and returns its reducers: `run_together` for a single pass."""
    return run_together([planned], model, batch_size, **options)[0]


def run_together(
    passes: Sequence[Pass],
    model: LanguageModel,
    batch_size: int = 4,
    checkpoints: Checkpoints | None = None,
    forecast: Callable[[float, int], None] | None = None,
    progress: bool = False,
    division: Division | None = None,
) -> list[dict[str, Reducer]]:
    """Runs several passes over the same tokens as one; returns the reducers of each, which have seen every token.

    The passes may differ in their site, layers and reducers only: all of them are of one kind.

    Under `torchrun` each process runs its share of a distributed pass, and only the reducers of process 0 see it all.
    One thread at a time runs a pass: the fast forward swaps parts of a model, and lanes share out PyTorch's threads.

    Args:
        passes: what to run.
        model: the model; it is left as it was.
        batch_size: sequences of running text in one forward.
        checkpoints, forecast, progress: as in `engine.passes.run_pass`.
        division: which sequences each process runs of a distributed pass; contiguous parts if not given.

    Raises:
        UserError: no such site or layer, an id that the model does not have, or NaN or infinity among the activations.
        OtherPassError: the checkpoints are those of another pass.
        ValueError: the passes are not over the same tokens.
    """
    first, tokens = passes[0], passes[0].tokens
    if len({(type(one), one.tokens.hash, json.dumps(one.key, sort_keys=True), one.distributed) for one in passes}) > 1:
        raise ValueError("passes that run together must be of one kind, with the same tokens and key")
    batch_size *= first.batch_factor
    division = division or Division.of(len(tokens.valid), processes.count())
    climbs = isinstance(first, AscentPass | SearchPass)
    # On a CPU the fast forward does not help strings so short. Elsewhere transformers' own attention of GPT-Neo would
    # wait for the device in each layer
    fast = model.fast and not (climbs and model.device.type == "cpu")
    with _one_pass, fast_forward(model.network) if fast else nullcontext():
        model.check_ids(tokens.input_ids[tokens.valid])
        sites: list[Site] = []
        results, reducers = [], []
        for one in passes:
            own = find_sites(model.network, one.site, list(one.layers))  # fast_forward swaps modules
            results.append(one.reducers(len(own)))
            mine = results[-1].values()
            reducers += mine if len(passes) == 1 else [OfSites(reducer, len(sites), len(own)) for reducer in mine]
            sites += own
        with _explaining_not_finite(model, sites, tokens, batch_size):
            inputs = model.network, sites, tokens.input_ids, tokens.valid, reducers, first.covariates, batch_size
            options: dict[str, Any] = {
                "progress": progress,
                "forecast": forecast,
                "part": division.shares[processes.rank()] if first.distributed else slice(None),
                "checkpoints": checkpoints,
            }
            if isinstance(first, EditedPass):
                if len(passes) > 1:
                    raise ValueError("an edited pass runs alone")
                (effects,) = reducers
                run_edited_pass(model.network, first.edits, *inputs[2:4], effects, batch_size, **options)
            elif isinstance(first, AscentPass | SearchPass):
                if len(passes) > 1:
                    raise ValueError("an ascent and a search run alone")
                (found,) = reducers
                assert isinstance(found, ByUnit)
                del options["part"]
                if isinstance(first, AscentPass):
                    ascent = first.ascent, first.allowed, found, first.prefix, first.starts
                    run_ascent(model.network, first.site, first.units, *ascent, **options)
                else:
                    search = first.search, first.starts, first.allowed, first.is_text, found, first.prefix
                    run_search(model.network, first.site, first.units, *search, **options)
            elif isinstance(first, GradientPass):
                run_gradient_pass(*inputs, **options)
            else:
                run_pass(*inputs, **options, lanes=1 if is_spread(model.network) else lanes_on(model.device))
    if first.distributed:
        every = [reducer for one in results for reducer in one.values()]
        processes.merge(every)
        if processes.rank() == 0 and checkpoints is not None:
            checkpoints.add_finished(reducers)
        if first.shared:
            processes.share(every)
    return results


@contextmanager
def _explaining_not_finite(
    model: LanguageModel, sites: Sequence[Site], tokens: Tokens, batch_size: int
) -> Iterator[None]:
    """Counts NaN and infinity in each layer once there are some, and says what to do about them."""
    try:
        yield
    except NotFiniteError as error:
        counts, values = count_not_finite(
            model.network, sites, tokens.input_ids, tokens.valid, error.sequences, batch_size
        )
        bad = [site.key for site, count in zip(sites, counts, strict=True) if count] or [sites[error.site].key]
        dtype = str(model.network.dtype).removeprefix("torch.")
        places = "layers" if len({site.name for site in sites}) == 1 else "sites of layers"
        remedy = f"check {error.look_at}" if dtype == "float32" else "give device.dtype=float32 or bfloat16"
        if not sum(counts):
            what = error.what or f"the loss, or its gradient at {bad[0]},"
            raise UserError(f"device.dtype={dtype}: {what} is NaN or infinite; {remedy}") from error
        raise UserError(
            f"device.dtype={dtype}: {bad[0]} puts out NaN or infinity, and {sum(map(bool, counts))} of {len(sites)} "
            f"{places} in all ({sum(counts):,} of {sum(values):,} activations); {remedy}"
        ) from error


_one_pass = threading.Lock()
