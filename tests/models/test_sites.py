"""The site table: in every family each site is the module it is said to be, and wrong names say what there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIGS, EXPANSION, LAYERS, WIDTH, build
from transformers import BertConfig, BertModel

from neurexp.errors import UserError
from neurexp.models.sites import FAMILIES, family_of, find_sites, parse_layers

GATED = {
    "MLP": ("mlp.gate_proj", EXPANSION),
    "UP": ("mlp.up_proj", EXPANSION),
    "ACT": ("mlp.act_fn", None),
    "PROJ": ("mlp.down_proj", WIDTH),
    "Q": ("self_attn.q_proj", WIDTH),
    "K": ("self_attn.k_proj", WIDTH // 2),
    "V": ("self_attn.v_proj", WIDTH // 2),
}
MLP = {"MLP": ("mlp.c_fc", EXPANSION), "ACT": ("mlp.act", None), "PROJ": ("mlp.c_proj", WIDTH)}

# Site → module within a block and the width of its output; as written in transformers' own model files
TABLES = {
    "gpt_neo": MLP | {site: (f"attn.attention.{site.lower()}_proj", WIDTH) for site in "QKV"},
    "gpt2": MLP | dict.fromkeys("QKV", ("attn.c_attn", 3 * WIDTH)),
    "gpt_neox": {
        "MLP": ("mlp.dense_h_to_4h", EXPANSION),
        "ACT": ("mlp.act", None),
        "PROJ": ("mlp.dense_4h_to_h", WIDTH),
    },
    "llama": GATED,
    "mistral": GATED,
    "qwen2": GATED,
}
BLOCKS = {"gpt_neo": "h", "gpt2": "h"}
EVERY_SITE = [(family, site) for family, table in TABLES.items() for site in table]


def width_of(module):
    return getattr(module, "out_features", getattr(module, "nf", None))


def test_these_are_all_families_and_sites():
    assert {family: set(known.sites) for family, known in FAMILIES.items()} == {
        family: set(table) for family, table in TABLES.items()
    }
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", TABLES)
def test_a_familys_name_is_the_model_type_of_its_config(family):
    assert build(family).config.model_type == family


@pytest.mark.parametrize(("family", "site"), EVERY_SITE)
def test_a_site_is_the_module_that_it_is_said_to_be(family, site):
    model = build(family)
    path, width = TABLES[family][site]
    found = find_sites(model, site)
    blocks = model.base_model.get_submodule(BLOCKS.get(family, "layers"))
    assert [each.key for each in found] == [f"{site}_{layer}" for layer in range(LAYERS)]
    assert [each.layer for each in found] == list(range(LAYERS))
    assert all(each.module is blocks[each.layer].get_submodule(path) for each in found)
    assert all(width_of(each.module) == width for each in found)
    assert len({id(each.module) for each in found}) == LAYERS


def test_the_fused_projection_of_gpt2_has_three_parts():
    addresses = [FAMILIES["gpt2"].sites[site] for site in "QKV"]
    assert [(address.part, address.parts) for address in addresses] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("family", TABLES)
def test_with_and_without_its_head_a_model_has_the_same_sites(family):
    model = build(family)
    for headed, bare in zip(find_sites(model, "MLP"), find_sites(model.base_model, "MLP"), strict=True):
        assert headed.module is bare.module


def test_the_chosen_layers_in_their_order():
    assert [site.key for site in find_sites(build("gpt2"), "MLP", [2, 0])] == ["MLP_2", "MLP_0"]


def test_an_unknown_architecture_names_the_known_ones():
    with pytest.raises(UserError, match="'bert'") as error:
        family_of("bert")
    assert all(family in str(error.value) for family in FAMILIES)
    assert "\n" not in str(error.value)
    bert = BertModel(BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(UserError, match="'bert'"):
        find_sites(bert, "MLP")


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("site", ["MPL", "", "MLP_0"])
def test_an_unknown_site_names_the_familys_own(family, site):
    with pytest.raises(UserError, match=f"experiment.site={site}") as error:
        find_sites(build(family), site)
    assert ", ".join(TABLES[family]) in str(error.value)
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
