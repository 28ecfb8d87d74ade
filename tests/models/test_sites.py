"""Sites by name, by structure and by the user's paths; wrong names say what there is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build, difference, token_ids
from transformers import BertConfig, BertModel, PreTrainedConfig, PreTrainedModel

import neurexp
from neurexp.errors import UserError
from neurexp.models.choices import parse_layers, site_names
from neurexp.models.families import FAMILIES
from neurexp.models.sites import family_with, find_sites, sites_of, use_family
from neurexp.models.structure import find_family


def test_with_and_without_its_head_a_model_has_the_same_sites():
    model = build("opt")
    for headed, bare in zip(find_sites(model, "MLP"), find_sites(model.base_model, "MLP"), strict=True):
        assert headed.module is bare.module


def test_the_chosen_layers_in_their_order():
    assert [site.key for site in find_sites(build("gpt2"), "MLP", [2, 0])] == ["MLP_2", "MLP_0"]


def encoder():
    return BertModel(BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))


def test_an_unknown_architecture_names_the_known_ones_and_the_options():
    with pytest.raises(UserError, match="'bert'") as error:
        find_sites(encoder(), "MLP")
    assert all(text in str(error.value) for text in [*FAMILIES, "model.blocks=PATH", "model.sites.MLP=PATH"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("site", ["MPL", "", "MLP_0"])
def test_an_unknown_site_names_the_familys_own(site):
    with pytest.raises(UserError, match=f"experiment.site={site}: llama has MLP, UP, ACT, NEURON, PROJ") as error:
        find_sites(build("llama"), site)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "site", "why"),
    [("gptj", "RESID_MID", "RESID_MID"), ("mixtral", "MLP", "mixture of experts"), ("gpt_neox", "RESID_MID", "beside")],
)
def test_a_site_that_a_model_cannot_have(family, site, why):
    with pytest.raises(UserError, match=why) as error:
        find_sites(build(family), site)
    assert "RESID_POST" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("site", [[], ["Q", "Q"], [1], None, [["Q"]]], ids=repr)
def test_what_is_no_list_of_sites(site):
    with pytest.raises(UserError, match=r"experiment\.site="):
        site_names(site)


def test_sites_at_the_input_and_at_parts_of_a_module():
    (read,) = find_sites(build("llama"), "NEURON", [1])
    assert (read.key, str(read.address)) == ("NEURON_1", "mlp.down_proj:input")
    assert [str(find_sites(build("gpt2"), site, [0])[0].address) for site in "QKV"] == [
        "attn.c_attn[0/3]", "attn.c_attn[1/3]", "attn.c_attn[2/3]",
    ]  # fmt: skip


FOUND_BY_STRUCTURE = [
    "gpt_neo", "gpt2", "gptj", "gpt_neox", "opt", "falcon", "phi", "phi3", "starcoder2", "stablelm", "llama", "mistral",
    "qwen2", "qwen3", "olmo", "smollm3", "gemma", "cohere", "cohere2",
]  # fmt: skip


@pytest.mark.parametrize("family", FOUND_BY_STRUCTURE)
def test_structure_finds_what_the_table_says(family, caplog):
    """But for fused projections of queries, keys and values, which no name shows."""
    caplog.set_level("INFO")
    model = build(family)
    found, known = find_family(model), sites_of(model)
    fused = {name for name in "QKV" if known[name].part is not None}
    assert found.origin == "structure"
    assert found.blocks == FAMILIES[family].blocks
    assert {name: str(address) for name, address in found.sites.items()} == {
        name: str(address) for name, address in known.items() if name not in fused
    }
    assert "not in neurexp's table" in caplog.text


@pytest.mark.parametrize("family", ["gemma2", "granite", "olmo2", "bloom", "mixtral"])
def test_structure_finds_nothing_where_the_recomputation_fails(family):
    """A norm or a factor comes between the MLP and the residual stream, or there is no down-projection."""
    assert find_family(build(family)) is None


def test_an_architecture_that_is_not_in_the_table_is_found_by_its_structure(monkeypatch, caplog):
    caplog.set_level("INFO")
    model, ids = build("qwen3"), token_ids(2, 12)
    expected = neurexp.capture(model, ids, ["MLP", "NEURON", "RESID_MID"])
    without = {name: family for name, family in FAMILIES.items() if name != "qwen3"}
    monkeypatch.setattr("neurexp.models.sites.FAMILIES", without)
    unknown = build("qwen3")
    found = neurexp.capture(unknown, ids, ["MLP", "NEURON", "RESID_MID"])
    assert all(torch.equal(found[key], values) for key, values in expected.items())
    assert caplog.text.count("found by structure") == 1


class Invented(torch.nn.Module):
    """A block whose MLP is gated by a sine, which no structure shows."""

    def __init__(self):
        super().__init__()
        self.widen, self.narrow = torch.nn.Linear(8, 36), torch.nn.Linear(12, 8)

    def forward(self, x):
        gate, up, _ = self.widen(x).chunk(3, dim=-1)
        return x + self.narrow(gate.sin() * up)


class InventedConfig(PreTrainedConfig):
    model_type = "invented_sines"
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 60, 8, 2, 1


class InventedModel(PreTrainedModel):
    config_class, base_model_prefix = InventedConfig, "core"

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(60, 8)
        self.steps = torch.nn.ModuleList(Invented() for _ in range(2))
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, use_cache=False):
        x = self.words(input_ids)
        for step in self.steps:
            x = step(x)
        return x


def test_the_user_tells_where_the_neurons_of_an_invented_architecture_are():
    model, ids = InventedModel(InventedConfig()).eval(), token_ids(2, 5)
    with pytest.raises(UserError, match="invented_sines"):
        neurexp.capture(model, ids)
    sites = {"MLP": "widen[0/3]", "UP": "widen[1/3]", "NEURON": "narrow:input"}
    use_family(model, family_with(model, "steps", sites))
    found = neurexp.capture(model, ids, ["MLP", "UP", "NEURON", "RESID_PRE", "RESID_POST"])
    with torch.no_grad():
        x = model.words(ids)
        for layer, step in enumerate(model.steps):
            gate, up, _ = step.widen(x).chunk(3, dim=-1)
            after = step(x)
            for site, expected in (
                ("MLP", gate),
                ("UP", up),
                ("NEURON", gate.sin() * up),
                ("RESID_PRE", x),
                ("RESID_POST", after),
            ):
                assert difference(found[f"{site}_{layer}"], expected) <= 1e-6
            x = after


def test_parts_that_are_not_equal_are_refused():
    model = InventedModel(InventedConfig()).eval()
    use_family(model, family_with(model, "steps", {"MLP": "widen[0/7]"}))
    with pytest.raises(UserError, match=r"model.sites: 36 columns do not make 7 equal parts"):
        neurexp.capture(model, token_ids(1, 3))


def test_a_module_that_some_layers_lack_or_no_forward_calls():
    model = build("llama")
    del model.model.layers[2].self_attn.q_proj
    with pytest.raises(UserError, match=r"layer 2 of this model has no self_attn.q_proj; give experiment.layer="):
        find_sites(model, "Q")
    assert len(find_sites(model, "Q", [0, 1])) == 2
    unused = InventedModel(InventedConfig()).eval()
    unused.steps[0].spare = unused.steps[1].spare = torch.nn.Identity()
    use_family(unused, family_with(unused, "steps", {"SPARE": "spare"}))
    with pytest.raises(UserError, match=r"experiment.site=SPARE: the forward does not call spare of layer 0"):
        neurexp.capture(unused, token_ids(1, 3), "SPARE")


def test_a_site_of_the_users_beside_the_known_ones():
    model, ids = build("llama"), token_ids(2, 5)
    use_family(model, family_with(model, None, {"NORMED": "input_layernorm"}))
    found = neurexp.capture(model, ids, ["NORMED", "MLP"])
    with torch.no_grad():
        assert (
            difference(found["NORMED_0"], model.model.layers[0].input_layernorm(model.model.embed_tokens(ids))) <= 1e-6
        )
    assert torch.equal(found["MLP_1"], neurexp.capture(build("llama"), ids)["MLP_1"])


@pytest.mark.parametrize(
    ("blocks", "sites", "message"),
    [
        ("stepz", {}, "model.blocks=stepz: no such module in InventedModel; did you mean steps"),
        ("words", {}, r"model.blocks=words: is no list of blocks \(it is Embedding\); this model has steps"),
        ("steps", {"MLP": "wide"}, "model.sites.MLP=wide: no such module in Invented"),
        ("steps", {"MLP": "widen[3/3]"}, r"give an INDEX from 0 and a larger COUNT"),
        ("steps", {"MLP": ""}, "give a NAME in capitals, and PATH"),
        ("steps", {"MLP": "widen:output"}, "give a NAME in capitals, and PATH"),
        ("steps", {"mlp": "widen"}, "give a NAME in capitals, and PATH"),
    ],
)
def test_a_place_that_is_none(blocks, sites, message):
    with pytest.raises(UserError, match=message) as error:
        family_with(InventedModel(InventedConfig()), blocks, sites)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given_as", "meant"), [("mlp", "MLP"), ("Act", "ACT"), ("PRJ", "PROJ")])
def test_a_site_that_is_nearly_right_is_suggested(given_as, meant):
    with pytest.raises(UserError, match=f"did you mean {meant}"):
        find_sites(build("gpt_neo"), given_as)


@pytest.mark.parametrize(
    ("layers", "parsed"),
    [("all", [0, 1, 2, 3]), (0, [0]), (3, [3]), ([3, 1], [1, 3]), ([2, 2], [2]), ((0,), [0]), (range(2), [0, 1])],
)
def test_layers_are_sorted_and_without_repeats(layers, parsed):
    assert parse_layers(layers, 4) == parsed


@settings(deadline=None)
@given(st.lists(st.integers(-3, 15), max_size=6))
def test_a_list_of_layers_is_taken_whole_or_refused(layers):
    if layers and all(0 <= layer < 12 for layer in layers):
        assert parse_layers(layers, 12) == sorted(set(layers))
    else:
        with pytest.raises(UserError, match="layers 0 to 11"):
            parse_layers(layers, 12)


@pytest.mark.parametrize(
    "layers", [4, -1, True, False, None, "1", "ALL", 2.0, [], [0, 4], [0, None], ["all"]], ids=repr
)
def test_what_are_no_layers_is_refused_with_those_there_are(layers):
    with pytest.raises(UserError, match="0 to 3") as error:
        parse_layers(layers, 4)
    assert str(error.value).startswith(f"experiment.layer={layers}:")
    assert "\n" not in str(error.value)
