"""Every family's edits against hooks written by hand on the plain model, and against surgery on a copy's weights.

Which modules and columns those touch is written here, not taken from `neurexp.models.families`.
"""

from contextlib import ExitStack, contextmanager
from copy import deepcopy

import pytest
import torch
from blocks import BLOCKS, EXPERTS, NO_MID, UNGATED, VARIANTS
from conftest import sampled
from tiny import EXPANSION, LAYERS, build, difference, token_ids
from torch import nn

import neurexp
from neurexp.engine.edits import resolve
from neurexp.engine.passes import run_pass
from neurexp.engine.reducers.keep import Keep
from neurexp.models.fast import fast_forward
from neurexp.models.sites import find_sites, sites_of

Edit = neurexp.Edit
IDS = token_ids(2, 10)
WITH_NEURONS = [name for name, (family, _) in VARIANTS.items() if family not in EXPERTS]
FAST = ["gpt_neo", "llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "gemma"]
CHOSEN = (1, 3)  # the neurons that are edited: every site has as many
# One model of each way through the middle of a block
WAYS = [
    *("gpt_neo", "opt", "bloom", "bloom, stream of norms", "falcon, heads", "gpt_neox, sequential"),
    *("llama", "granite", "gemma2", "olmo2", "mixtral"),
]

# The expansion, the module of the non-linearity, and what reads the stream in the middle of a block
MLPS = {
    "gpt_neo": ("mlp.c_fc", "mlp.act", "ln_2"),
    "gpt2": ("mlp.c_fc", "mlp.act", "ln_2"),
    "gptj": ("mlp.fc_in", "mlp.act", ""),
    "gpt_neox": ("mlp.dense_h_to_4h", "mlp.act", "post_attention_layernorm"),
    "opt": ("fc1", "activation_fn", "final_layer_norm"),
    "bloom": ("mlp.dense_h_to_4h", "mlp.gelu_impl", "post_attention_layernorm"),
    "falcon": ("mlp.dense_h_to_4h", "mlp.act", "post_attention_layernorm"),
    "phi": ("mlp.fc1", "mlp.activation_fn", ""),
    "phi3": ("mlp.gate_up_proj", "mlp.activation_fn", "post_attention_layernorm"),
    "starcoder2": ("mlp.c_fc", "mlp.act", "post_attention_layernorm"),
    "gemma2": ("mlp.gate_proj", "mlp.act_fn", "pre_feedforward_layernorm"),
    "gemma3_text": ("mlp.gate_proj", "mlp.act_fn", "pre_feedforward_layernorm"),
    "olmo2": ("mlp.gate_proj", "mlp.act_fn", "mlp"),
    "olmo3": ("mlp.gate_proj", "mlp.act_fn", "mlp"),
}
LLAMA = ("mlp.gate_proj", "mlp.act_fn", "post_attention_layernorm")
# Fused projections: their module, and the columns of the chosen queries, keys and values. 4 heads of 4 columns each
PARTS_OF_HEADS = {"Q": (1, 3), "K": (5, 7), "V": (9, 11)}  # the first head's q, k and v, then the second's
GPT2 = ("attn.c_attn", {"Q": (1, 3), "K": (17, 19), "V": (33, 35)})
FUSED = {
    "gpt2": GPT2,
    "gpt2, relu": GPT2,
    "gpt_neox": ("attention.query_key_value", PARTS_OF_HEADS),
    "gpt_neox, sequential": ("attention.query_key_value", PARTS_OF_HEADS),
    "bloom": ("self_attention.query_key_value", PARTS_OF_HEADS),
    "bloom, stream of norms": ("self_attention.query_key_value", PARTS_OF_HEADS),
    "falcon": ("self_attention.query_key_value", {"Q": (1, 3), "K": (17, 19), "V": (21, 23)}),  # one key head
    "falcon, heads of keys": ("self_attention.query_key_value", {"Q": (1, 3), "K": (9, 11), "V": (13, 15)}),
    "falcon, heads": ("self_attention.query_key_value", PARTS_OF_HEADS),
    "phi3": ("self_attn.qkv_proj", {"Q": (1, 3), "K": (17, 19), "V": (25, 27)}),  # two key heads
}


def ways_first(names):
    """The models of `WAYS` in the fast tier, all others in the slow one."""
    return [name if name in WAYS else pytest.param(name, marks=pytest.mark.slow) for name in names]


def sites_by_hand(name):
    """Site → the path of its module in a block, whether it is what that reads, and the columns of the neurons."""
    family = VARIANTS[name][0]
    block, sites = BLOCKS[family], {}
    expansion, act, middle = MLPS.get(family, LLAMA)
    if family not in EXPERTS:
        sites["MLP"] = (expansion, False, CHOSEN)
        if family == "phi3":
            sites["UP"] = (expansion, False, tuple(EXPANSION + neuron for neuron in CHOSEN))
        elif family not in UNGATED:
            sites["UP"] = ("mlp.up_proj", False, CHOSEN)
        sites |= {
            "ACT": (act, False, CHOSEN),
            "NEURON": (block.down, True, CHOSEN),
            "PROJ": (block.down, False, CHOSEN),
        }
    sites |= {"RESID_PRE": ("", True, CHOSEN), "RESID_POST": ("", False, CHOSEN)}
    if name not in NO_MID:
        sites["RESID_MID"] = (middle, True, CHOSEN)
    sites |= {"ATTN_OUT": (block.out, False, CHOSEN), "Z": (block.out, True, CHOSEN)}
    attention = block.out.rpartition(".")[0]
    for site in "QKV":
        fused, columns = FUSED.get(name, ("", {}))
        sites[site] = (fused or f"{attention}.{site.lower()}_proj", False, columns.get(site, CHOSEN))
    return sites


def built(name):
    family, changes = VARIANTS[name]
    return build(family, **changes)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def edited_logits(model, *edits):
    with neurexp.edited(model, edits):
        return logits(model)


def block_of(model, name, layer):
    path = BLOCKS[VARIANTS[name][0]].prefix
    return model.get_submodule(f"{path}.{layer}")


@contextmanager
def by_hand(model, name, site, layer, function):
    """A hook that replaces the chosen columns x of a site by function(x)."""
    path, is_input, columns = sites_by_hand(name)[site]
    block = block_of(model, name, layer)

    def changed(values):
        columns_of = list(columns)
        new = values.clone()
        new[..., columns_of] = function(values[..., columns_of])
        return new

    def after(module, arguments, output):
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    def before(module, arguments):
        return (changed(arguments[0]), *arguments[1:])

    module = block.get_submodule(path)
    handle = module.register_forward_pre_hook(before) if is_input else module.register_forward_hook(after)
    yield
    handle.remove()


def sublayer(name, config, block, stream):
    """What a block makes of the stream in its middle, by the modules themselves."""
    family, known = VARIANTS[name][0], BLOCKS[VARIANTS[name][0]]
    middle = MLPS.get(family, LLAMA)[2]
    normed = stream if middle == "mlp" else block.get_submodule(middle)(stream)
    if family == "opt":
        put_out = block.fc2(block.activation_fn(block.fc1(normed)))
    elif family == "bloom":
        put_out = block.mlp(normed, torch.zeros_like(stream))  # it adds the stream itself
    else:
        put_out = block.mlp(normed)
    put_out = put_out[0] if isinstance(put_out, tuple) else put_out
    if known.after_mlp:
        put_out = block.get_submodule(known.after_mlp)(put_out)
    around = normed if name == "bloom, stream of norms" else stream
    return around + put_out * (getattr(config, known.factor) if known.factor else 1)


def middle_by_hand(model, name, layer, function):
    """Logits after the stream in the middle of a block became function(stream): the rest of the block is run anew."""
    block, heard = block_of(model, name, layer), []
    reader = block.get_submodule(sites_by_hand(name)["RESID_MID"][0])

    def instead(module, arguments, output):
        stream = heard[0].clone().view(*IDS.shape, -1)
        stream[..., list(CHOSEN)] = function(stream[..., list(CHOSEN)])
        new = sublayer(name, model.config, block, stream)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handles = [
        reader.register_forward_pre_hook(lambda module, arguments: heard.append(arguments[0])),
        block.register_forward_hook(instead),
    ]
    found = logits(model)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_edits_at_all_sites_of_a_model_are_hooks_written_by_hand(name):
    """All at once, in layers that take turns; at the residual stream too, but not in the middle of a block."""
    model, factors = built(name), torch.tensor([0.5, -1.0])
    sites = [site for site in sites_by_hand(name) if site != "RESID_MID"]
    assert {*sites, *sites_by_hand(name)} == set(sites_of(model))
    edits = [Edit(site, place % LAYERS, CHOSEN, "scale", [0.5, -1.0]) for place, site in enumerate(sites)]
    with ExitStack() as hooks:
        for edit in edits:
            hooks.enter_context(by_hand(model, name, edit.site, edit.layer, lambda x: x * factors))
        reference = logits(model)
    assert difference(edited_logits(model, *edits), reference) <= 1e-6
    assert difference(logits(model), reference) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_an_edit_at_each_site_of_each_layer_is_a_hook_written_by_hand(name):
    model = built(name)
    plain = logits(model)
    for site in set(sites_by_hand(name)) - {"RESID_MID"}:
        for layer in range(LAYERS):
            for kind, value, function in [
                ("zero", None, torch.zeros_like),
                ("value", [2.0, -3.0], lambda x: torch.tensor([2.0, -3.0]).expand_as(x)),
                ("scale", -2.0, lambda x: x * -2.0),
                ("add", [1.0, 0.5], lambda x: x + torch.tensor([1.0, 0.5])),
                ("mean", None, lambda x: x.double().flatten(0, -2).mean(0).float().expand_as(x)),
            ]:
                with by_hand(model, name, site, layer, function):
                    reference = logits(model)
                found = edited_logits(model, Edit(site, layer, CHOSEN, kind, value))
                assert difference(found, reference) <= 1e-6, (site, layer, kind)
                if not (site == "K" and kind == "add"):  # the softmax does not see it
                    assert difference(found, plain) > 1e-6, (site, layer, kind)


@pytest.mark.parametrize("name", ways_first(name for name in VARIANTS if name not in NO_MID))
def test_an_edit_in_the_middle_of_a_block_is_the_rest_of_the_block_run_anew(name):
    """What reads the stream there sees the edit, and what goes around it has the edit too."""
    model = built(name)
    for layer, kind, value, function in [
        (0, "zero", None, torch.zeros_like),
        (LAYERS - 1, "scale", 3.0, lambda x: 3.0 * x),
    ]:
        reference = middle_by_hand(model, name, layer, function)
        assert difference(edited_logits(model, Edit("RESID_MID", layer, CHOSEN, kind, value)), reference) <= 1e-5
        assert difference(logits(model), reference) > 1e-3


@pytest.mark.parametrize("name", ways_first(VARIANTS))
def test_places_of_the_residual_stream_that_are_one(name):
    """The stream after a block is the one before the next; what attention and MLP add are steps of the stream."""
    model, family, value = built(name), VARIANTS[name][0], torch.tensor([0.7, -1.2])
    block = BLOCKS[family]
    after, before = (
        edited_logits(model, Edit(site, layer, CHOSEN, kind, value if kind == "add" else None))
        for site, layer, kind in [("RESID_POST", 0, "zero"), ("RESID_PRE", 1, "zero")]
    )
    assert torch.equal(after, before)
    if block.after_attention or name == "opt, norms last":
        return
    factor = getattr(model.config, block.factor) if block.factor else 1.0
    added = edited_logits(model, Edit("ATTN_OUT", 1, CHOSEN, "add", value / factor))
    assert difference(added, logits(model)) > 1e-3
    if name not in NO_MID:
        assert difference(edited_logits(model, Edit("RESID_MID", 1, CHOSEN, "add", value)), added) <= 1e-5
    if family not in EXPERTS:
        added = edited_logits(model, Edit("PROJ", 1, CHOSEN, "add", value / factor))
        assert difference(edited_logits(model, Edit("RESID_POST", 1, CHOSEN, "add", value)), added) <= 1e-5


class Surgery:
    """Changes of a linear layer's weights: of rows, which it puts out, or of columns, which it reads."""

    def __init__(self, layer):
        self.layer = layer
        weight = layer.weight.data
        self.weight = weight if isinstance(layer, nn.Linear) else weight.T  # GPT-2's are [in, out]
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(len(self.weight)))
        self.bias = layer.bias.data

    def scale_rows(self, rows, factor):
        self.weight[rows] *= factor
        self.bias[rows] *= factor

    def add_to_rows(self, rows, value):
        self.bias[rows] += value

    def scale_columns(self, columns, factor):
        self.weight[:, columns] *= factor

    def add_to_columns(self, columns, value):
        self.bias += self.weight[:, columns] @ value


def surgeries(name):
    """Edits, and for each the surgery on the weights of its block that does the same."""
    sites, value = sites_by_hand(name), torch.tensor([0.9, -0.6])

    def rows(site, factor=1.0, add=None):
        def cut(block):
            surgery, columns = Surgery(block.get_submodule(sites[site][0])), list(sites[site][2])
            surgery.scale_rows(columns, factor)
            if add is not None:
                surgery.add_to_rows(columns, add)

        return cut

    def columns(site, factor=1.0, add=None):
        def cut(block):
            surgery = Surgery(block.get_submodule(sites[site][0]))
            if add is not None:
                surgery.add_to_columns(list(CHOSEN), add)
            surgery.scale_columns(list(CHOSEN), factor)

        return cut

    found = [
        (Edit("NEURON", 0, CHOSEN), columns("NEURON", 0.0)),
        (Edit("NEURON", 1, CHOSEN, "value", value), columns("NEURON", 0.0, value)),
        (Edit("NEURON", 2, CHOSEN, "add", value), columns("NEURON", 1.0, value)),
        (Edit("ACT", 1, CHOSEN, "scale", 0.3), columns("NEURON", 0.3)),  # also of a gated MLP: the product is scaled
        (Edit("MLP", 2, CHOSEN, "value", value), rows("MLP", 0.0, value)),
        (Edit("MLP", 0, CHOSEN, "add", value), rows("MLP", 1.0, value)),
        (Edit("PROJ", 1, CHOSEN), rows("PROJ", 0.0)),
        (Edit("PROJ", 2, CHOSEN, "add", value), rows("PROJ", 1.0, value)),
        (Edit("ATTN_OUT", 0, CHOSEN, "add", value), rows("ATTN_OUT", 1.0, value)),
        (Edit("Z", 1, CHOSEN), columns("Z", 0.0)),
        (Edit("Z", 2, CHOSEN, "value", value), columns("Z", 0.0, value)),
        (Edit("Q", 1, CHOSEN), rows("Q", 0.0)),
        (Edit("K", 2, CHOSEN), rows("K", 0.0)),
        (Edit("K", 0, CHOSEN, "scale", 2.5), rows("K", 2.5)),
        (Edit("V", 1, CHOSEN, "value", value), rows("V", 0.0, value)),
    ]
    if "UP" in sites:
        found.append((Edit("UP", 1, CHOSEN, "value", value), rows("UP", 0.0, value)))
    return found


def cut_logits(model, name, some):
    """Logits of a copy of the model with the surgeries."""
    copy = deepcopy(model)
    for edit, cut in some:
        cut(block_of(copy, name, edit.layer))
    return logits(copy)


@pytest.mark.parametrize("name", WITH_NEURONS)
def test_edits_are_surgery_on_the_weights(name):
    """Edits of the same module in one layer do not meet: their sites differ, so several fit into one model."""
    model, found = built(name), surgeries(name)
    reference = cut_logits(model, name, found[::2])
    assert difference(edited_logits(model, *(edit for edit, _ in found[::2])), reference) <= 1e-5
    reference = cut_logits(model, name, found[1::2])
    assert difference(edited_logits(model, *(edit for edit, _ in found[1::2])), reference) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NEURONS)
def test_each_edit_is_surgery_on_the_weights(name):
    model = built(name)
    plain = logits(model)
    for edit, cut in surgeries(name):
        reference = cut_logits(model, name, [(edit, cut)])
        assert difference(edited_logits(model, edit), reference) <= 1e-5, edit
        assert difference(plain, reference) > 1e-4, edit


@pytest.mark.parametrize("name", sampled([(name,) for name in VARIANTS], 5))
def test_a_factor_of_one_and_adding_nothing_change_nothing(name):
    model = built(name)
    plain = logits(model)
    for kind, value in [("scale", 1.0), ("add", 0.0)]:
        edits = [Edit(site, layer, CHOSEN, kind, value) for site in sites_of(model) for layer in range(LAYERS)]
        assert torch.equal(edited_logits(model, *edits), plain)


@pytest.mark.parametrize("name", FAST)
def test_edits_of_the_fast_forward_are_those_of_the_plain_one(name):
    model, kinds = built(name), [("zero", None), ("scale", -1.5), ("add", 0.8)]
    edits = [Edit(site, place % LAYERS, CHOSEN, *kinds[place % 3]) for place, site in enumerate(sites_of(model))]
    wanted = ["NEURON", "RESID_POST"]
    plain = neurexp.capture(model, IDS, wanted, edits=edits)
    unedited = neurexp.capture(model, IDS, wanted)
    with fast_forward(model):
        sites = find_sites(model, wanted)
        keep = Keep(len(sites), *IDS.shape, 2**20)
        run_pass(model, sites, IDS, None, [keep], changes=resolve(model, edits))
    for index, (key, values) in enumerate(plain.items()):
        assert difference(keep.kept[index], values) <= 1e-5
        assert difference(unedited[key], values) > 1e-3
