"""Every kind of pass on a device that is not the CPU: no mixed devices, few waits for it, the numbers of the CPU."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pretend import MixedDevicesError, pretending
from tiny import VOCABULARY, build, token_ids

import neurexp
from neurexp.engine import checkpoint
from neurexp.engine.ascent import Ascent, run_ascent
from neurexp.engine.checkpoint import Checkpoints
from neurexp.engine.edited_pass import run_edited_pass
from neurexp.engine.gradients import run_gradient_pass
from neurexp.engine.passes import CHECKED_EVERY, run_pass
from neurexp.engine.reducers import (
    Attribution,
    Cells,
    Extremes,
    Gram,
    Histogram,
    Keep,
    Moments,
    NeuronHistogram,
    NotFinite,
    Rows,
    SequenceMaxima,
)
from neurexp.engine.reducers.by_unit import ByUnit
from neurexp.engine.reducers.effects import Effects
from neurexp.engine.reducers.unit_values import UnitValues
from neurexp.engine.reducers.windows import Windows
from neurexp.engine.search import Search, run_search
from neurexp.models.fast import fast_forward
from neurexp.models.sites import find_sites

LENGTH, FEW, MANY = 12, 2, 10  # sequences; the difference is 8 batches, after which a pass looks for NaN once
FAMILIES = ["gpt_neo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "gpt2"))]
# transformers looks in each forward whether several texts share a sequence (GPT-Neo, GPT-2: positions are given)
OF_TRANSFORMERS = "in masking_utils.py"


def model_of(family, layers=2):
    if family == "gpt_neo":
        return build(family, num_layers=layers, attention_types=[[["global", "local"][:layers], 1]])
    return build(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": layers})


def text_of(sequences):
    """Ids and which of them are valid; a sequence is padded, one on the left."""
    ids = token_ids(sequences, LENGTH)
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[1, 7:] = valid[-1, :4] = False
    return ids, valid


def covariates(ids, positions, sequences):
    kind = ids % 3
    cells = Cells(kind, torch.nn.functional.one_hot(torch.arange(3), 3).float(), torch.arange(3))
    dense = Cells(torch.arange(len(ids)), torch.stack([ids / VOCABULARY, positions / LENGTH], 1), torch.arange(3, 5))
    return {"group": kind, "design": [cells, dense], "counted": ids > 5, "document": sequences // 2}


def reducers_of(layers, sequences, device):
    row = torch.arange(sequences)
    units = [[1, 5] for _ in range(layers)]
    return {
        "gram": Gram(5, layers, slice(0, 3), slice(1, 2), device=device),
        "histogram": Histogram(3, layers, 16, device),
        "moments": Moments(layers, device=device),
        "neuron_histogram": NeuronHistogram(layers, 8, 2, device),
        "extremes": Extremes(layers, 4, LENGTH, 2, 1, device=device),
        "by_document": Extremes(layers, 4, LENGTH, per_document=2, device=device),
        "maxima": SequenceMaxima(units, sequences, device),
        "unit_values": UnitValues(units, sequences, LENGTH, device),
        "windows": Windows([[], [3], *[[]] * layers][:layers], 3, 2, LENGTH, device),
        "first": Rows(row, torch.zeros_like(row) + 4, torch.zeros_like(row) + 6),
        "highest": Rows(row, torch.zeros_like(row) + 4, torch.zeros_like(row) + 7, "max"),
        "kept": Keep(layers, sequences, LENGTH, 2**20),
        "not_finite": NotFinite(layers, device),
    }


@contextmanager
def fast(network):
    with fast_forward(network):
        yield network


def capturing(network, sequences):
    layers = len(find_sites(network))
    reducers = reducers_of(layers, sequences, network.device)
    with fast(network):
        run_pass(network, find_sites(network), *text_of(sequences), list(reducers.values()), covariates, batch_size=1)
    return {name: reducer.state() for name, reducer in reducers.items() if name != "kept"} | {
        "kept": {str(site): values for site, values in reducers["kept"].kept.items()}
    }


def taking_gradients(network, sequences):
    sites = find_sites(network, "NEURON")
    found = Attribution(len(sites), network.device)
    with fast(network):
        run_gradient_pass(network, sites, *text_of(sequences), [found], batch_size=1)
    return {"attribution": found.state()}


def editing(network, sequences):
    layers = len(find_sites(network))
    ids, valid = text_of(sequences)
    tokens = ids % 2 == 0
    variants = [
        [neurexp.Edit("NEURON", 0, [1, 3], "scale", 0.5), neurexp.Edit("MLP", layers - 1, [2], "add", 0.3)],
        [neurexp.Edit("NEURON", layers - 1, [4], "zero", tokens=tokens)],
        [neurexp.Edit("NEURON", 0, [4, 6], "mean", [0.2, 0.1]), neurexp.Edit("RESID_MID", 0, [3], "value", 0.5)],
        [neurexp.Edit("NEURON", layers - 1, [0, 1], "resample", torch.randn(7, 2, generator=_seeded()))],
        [],
    ]
    effects = Effects(torch.stack([valid, tokens]), torch.arange(sequences) // 4, len(variants), 2)
    with fast(network):
        run_edited_pass(network, variants, ids, valid, effects, batch_size=1)
    return {"effects": effects.state()}


def _seeded():
    return torch.Generator().manual_seed(3)


PASSES = {"capture": capturing, "gradients": taking_gradients, "edits": editing}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for reducer, state in expected.items():
        assert found[reducer].keys() == state.keys()
        for name, values in state.items():
            assert found[reducer][name].device.type == "cpu"
            np.testing.assert_allclose(
                found[reducer][name], values, rtol=2e-5, atol=2e-5, err_msg=f"{reducer}.{name}", equal_nan=True
            )


def own_waits(device):
    return Counter({place: count for place, count in device.waits.items() if OF_TRANSFORMERS not in place})


def test_the_device_refuses_what_cuda_refuses():
    with pretending():
        here, there = torch.ones(3, 4, device="pretend"), torch.ones(3, 4)
        index = torch.tensor([0, 2], device="pretend")
        other = here.to("pretend:1")
        assert (here * torch.tensor(2.0) + 1).sum().item() == 36  # a number may be the CPU's
        assert here[torch.tensor([0, 2])].shape == (2, 4)  # and an index
        for mixed in (
            lambda: here + there,
            lambda: here @ there.T,
            lambda: torch.cat([here, there]),
            lambda: there[index],
            lambda: there.add_(here),
            lambda: torch.tensor(1.0).add_(here.sum()),
            lambda: here.index_select(0, index.cpu()),
            lambda: torch.where(there > 0, here, 0.0),
            lambda: other + here,
            lambda: torch.randn(3, device="pretend", generator=_seeded()),
        ):
            with pytest.raises(MixedDevicesError):
                mixed()
        with pytest.raises(RuntimeError):
            here.numpy()
        with pytest.raises(RuntimeError):
            here.pin_memory()
        with pytest.raises(NotImplementedError):
            torch.mm(here.long(), here.long().T)
        with pytest.raises(NotImplementedError):
            torch.ops.mkldnn._linear_pointwise(here, here, None, "none", [], "")


@pytest.mark.parametrize("inference", [False, True])
def test_the_device_counts_waits(inference):
    with pretending() as device, torch.inference_mode(inference):
        here, there = torch.arange(6.0, device="pretend"), torch.arange(6.0)
        waiting = (
            lambda: here.sum().item(), lambda: bool(here.any()), lambda: here.cpu(), lambda: here.to("cpu"),
            lambda: here.to("cpu", non_blocking=True), lambda: here.nonzero(), lambda: here[here > 2],
            lambda: torch.equal(here, here), lambda: here.unique(), lambda: here.long().bincount(),
            lambda: here.masked_select(here > 2), lambda: here.tolist(), lambda: there.to("pretend"),
            lambda: here.copy_(there), lambda: here[torch.tensor([1])], lambda: here[here.long()[2]],
            lambda: torch.tensor([1], device="pretend"), lambda: torch.allclose(here, here),
        )  # fmt: skip
        for number, wait in enumerate(waiting):
            device.clear()
            wait()
            assert sum(device.waits.values()) == 1, number
        device.clear()
        for free in (
            lambda: here[here.long()], lambda: here[1:3] + 2, lambda: torch.zeros(3, device="pretend"),
            lambda: there.pin_memory().to("pretend", non_blocking=True), lambda: here.masked_fill(here > 2, 0.0),
            lambda: here.to(torch.float64), lambda: here.to("pretend:1"), lambda: here.topk(2), lambda: here.sort(),
        ):  # fmt: skip
            free()
        assert not device.waits
        assert not device.pageable
        there.to("pretend", non_blocking=True)
        assert (sum(device.waits.values()), sum(device.pageable.values())) == (0, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_waits_as_rarely_with_more_layers_and_finds_what_the_cpu_finds(kind, family):
    """What is done once may wait in each layer: calibration, and the state in the end. A batch does not."""
    each = {}
    for layers in (1, 2):
        network, counted = model_of(family, layers).requires_grad_(False), []
        expected = PASSES[kind](network, MANY)
        with pretending() as device:
            network.to("pretend")
            for sequences in (FEW, MANY):
                device.clear()
                found = PASSES[kind](network, sequences)
                assert not device.pageable
                counted.append(own_waits(device))
        assert_same(found, expected)
        few, many = counted
        each[layers] = many - few
    assert each[1] == each[2]
    assert MANY - FEW == CHECKED_EVERY
    # Of 8 batches: the search for NaN, by each reducer that has one; an edited pass takes the losses in once a batch
    most = {"capture": 6, "gradients": 1, "edits": 8}[kind]
    assert sum(each[2].values()) <= most, each[2]


@pytest.mark.parametrize("kind", ["ascent", "search"])
def test_an_optimisation_waits_as_rarely_with_more_layers(kind):
    waits = {}
    for layers in (1, 2):
        network, found = model_of("gpt_neo", layers).requires_grad_(False), []

        def optimise(steps, network=network, layers=layers):
            allowed = torch.arange(50)
            kept = ByUnit()
            with fast(network):
                if kind == "ascent":
                    settings = Ascent(length=3, starts=2, steps=steps, every=steps, directions=5)
                    run_ascent(network, "MLP", [(layers - 1, 2)], settings, allowed, kept, [0])
                else:
                    settings, starts = Search(steps=steps, top=8, candidates=9), torch.tensor([[5, 9, 30], [44, 2, 17]])
                    every = lambda strings: np.ones(len(strings), dtype=bool)  # noqa: E731
                    run_search(network, "MLP", [(layers - 1, 2)], settings, [starts], allowed, every, kept, [0])
            return {"found": kept.state()}

        expected = optimise(4)
        with pretending() as device:
            network.to("pretend")
            for steps in (2, 4):
                device.clear()
                result = optimise(steps)
                found.append(own_waits(device))
        assert_same(result, expected)
        waits[layers] = found[1] - found[0]
    assert waits[1] == waits[2]
    per_step = {"ascent": 0, "search": 3}[kind]  # a search looks at the values, and at the best strings
    assert sum(waits[2].values()) <= 2 * per_step, waits[2]


def test_a_pass_that_is_cut_short_goes_on_and_merges_with_the_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_WAIT", 0)
    network = model_of("gpt_neo").requires_grad_(False)
    ids, valid = text_of(MANY)

    class CutError(Exception):
        pass

    def run(cut=None, part=slice(None), saves=True):
        seen = []

        def until(*tokens):
            seen.append(1)
            if len(seen) == cut:
                raise CutError
            return covariates(*tokens)

        reducers = reducers_of(2, MANY, network.device)
        del reducers["kept"], reducers["not_finite"]
        checkpoints = Checkpoints(tmp_path, "pass", {}, 1e-9) if saves else None
        run_pass(
            network, find_sites(network), ids, valid, list(reducers.values()), until, 2, part=part,
            checkpoints=checkpoints,
        )  # fmt: skip
        return reducers

    def states(reducers):
        return {name: reducer.state() for name, reducer in reducers.items()}

    whole, half = states(run(saves=False)), run(part=slice(0, 6), saves=False)
    with pretending():
        network.to("pretend")
        with pytest.raises(CutError):
            run(cut=4)
        assert_same(states(run()), whole)
        rest = run(part=slice(6, MANY), saves=False)
        for name, reducer in rest.items():
            half[name].merge(reducer)
    assert_same(states(half), whole)


def test_a_notebook_finds_what_it_finds_on_the_cpu():
    network = model_of("llama").requires_grad_(False)
    ids, valid = text_of(6)
    edits = [
        neurexp.Edit("NEURON", 1, [2, 5], kind, tokens=None if kind == "peak" else ids % 2 == 1)
        for kind in ("mean", "peak", "resample")
    ]

    def look():
        kept = neurexp.capture(network, ids, valid=valid, site=["MLP", "RESID_POST"], edits=edits[:1])
        found = {f"predicted {one.kind}": neurexp.predictions(network, ids, valid, [one], [3, 4]) for one in edits}
        with neurexp.edited(network, edits):
            logits = network(ids.to(network.device), attention_mask=valid.long().to(network.device)).logits
        return {"captured": dict(kept), "logits": {"": logits.cpu()}, **found}

    expected = look()
    with pretending():
        network.to("pretend")
        assert_same(look(), expected)
