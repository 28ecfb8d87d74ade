"""The config: every choice composes and is typed, the defaults are the agreed ones, a mistake is one clear sentence."""

from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neurexp.config.mistakes import explain
from neurexp.config.schema import (
    CONFIG_FOLDER,
    Added,
    Backend,
    Config,
    DatasetConfig,
    Dtype,
    Source,
    Weights,
    checked,
    quoted,
    register_schema,
    typed_options,
)
from neurexp.errors import UserError, closest, one_line

CHOICES = {
    "model": ["gpt_neo_125m", "gpt_neo_1_3b", "hub", "mini", "smollm2"],
    "device": ["auto", "cpu", "cuda"],
    "dataset": ["fineweb", "hub", "pydoc", "text"],
    "experiment": [
        "ablation",
        "benchmark",
        "categories",
        "context",
        "grammar_tuning",
        "identities",
        "maximise",
        "negation",
        "proper_nouns",
        "token_length",
        "top_contexts",
    ],
    "tracking": ["mlflow", "off"],
}
NEEDED = {("model", "hub"): "model.name=some/model", ("dataset", "text"): f"dataset.path={Path(__file__)}"}


def composed(*overrides: str) -> Any:
    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def settings(*overrides: str) -> Config:
    return checked(composed(*overrides))


def test_these_are_all_the_choices():
    folders = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in CONFIG_FOLDER.iterdir()
        if folder.is_dir()
    }
    assert folders == CHOICES


# The groups' files know nothing of one another, so a few combinations stand for all of them: with each pair of a model
# and a dataset, and with each combination of the others
@pytest.mark.parametrize(("model", "dataset"), list(product(CHOICES["model"], CHOICES["dataset"])))
def test_every_combination_composes_and_is_typed(model, dataset):
    place = CHOICES["model"].index(model) * len(CHOICES["dataset"]) + CHOICES["dataset"].index(dataset)
    combinations = list(product(CHOICES["device"], CHOICES["experiment"], CHOICES["tracking"]))[place::20]
    for device, experiment, tracking in combinations:
        chosen = {"model": model, "device": device, "dataset": dataset, "experiment": experiment, "tracking": tracking}
        needed = [NEEDED[choice] for choice in chosen.items() if choice in NEEDED]
        whole = settings(*(f"{group}={choice}" for group, choice in chosen.items()), *needed)
        assert isinstance(whole, Config)
        assert isinstance(whole.model.weights, Weights)
        assert isinstance(whole.device.dtype, Dtype)
        assert isinstance(whole.dataset.source, Source)
        assert whole.tracking.backend is Backend[tracking]
        assert whole.device.name == device
        options, plugin = typed_options(whole.experiment)
        assert type(options) is plugin.Options
        assert options.name == experiment


@pytest.mark.parametrize("group", CHOICES)
def test_every_key_of_every_yaml_is_typed(group):
    for file in (CONFIG_FOLDER / group).glob("*.yaml"):
        given = OmegaConf.load(file)
        if group == "experiment":
            given = given.get("experiment", given)  # of a file that sets other groups too
            plugin = typed_options(OmegaConf.create({"name": given.name, "plugin": given.plugin}))[1]
            known = {option.name for option in fields(plugin.Options)} | {"defaults"}
        else:
            known = {
                option.name
                for option in fields(next(part for part in fields(Config) if part.name == group).default_factory)
            }
        assert set(given) <= known, file


@pytest.mark.parametrize("choice", CHOICES["experiment"])
def test_an_experiments_yaml_shows_every_option_with_its_default(choice):
    given = settings(f"experiment={choice}").experiment  # composed: a yaml may take over another's options
    _, plugin = typed_options(given)
    defaults = vars(plugin.Options(name="", plugin=""))
    defaults = {name: value for name, value in defaults.items() if name not in ("name", "plugin")}
    assert {name: value for name, value in given.items() if name not in ("name", "plugin")} == defaults


def test_the_defaults_are_the_agreed_ones():
    whole = settings()
    assert (whole.model.name, whole.model.revision) == ("EleutherAI/gpt-neo-125m", "main")
    assert (whole.model.weights, whole.model.tokenizer) == (Weights.pretrained, None)
    assert (whole.device.name, whole.device.dtype) == ("auto", Dtype.float32)
    assert (whole.dataset.source, whole.dataset.name) == (Source.hub, "HuggingFaceFW/fineweb")
    assert (whole.dataset.subset, whole.dataset.split) == ("sample-10BT", "train")
    assert (whole.dataset.tokens, whole.dataset.sequence_length) == (8192, 512)
    assert (whole.experiment.name, whole.experiment.site, whole.experiment.layer) == ("token_length", "MLP", "all")
    assert (whole.tracking.backend, whole.tracking.uri) == (Backend.mlflow, None)
    assert whole.run.outputs == "outputs"


@pytest.mark.parametrize(
    ("model", "layers", "width", "heads", "neurons"),
    [("gpt_neo_125m", 12, 768, 12, 3072), ("gpt_neo_1_3b", 24, 2048, 16, 8192)],
)
def test_named_models_state_their_architecture(model, layers, width, heads, neurons):
    from transformers import AutoConfig

    stated = dict(settings(f"model={model}").model.architecture or {})
    config = AutoConfig.for_model(stated.pop("model_type"), **stated)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, heads)
    assert (config.intermediate_size or 4 * config.hidden_size) == neurons
    assert config.attention_layers == ["global", "local"] * (layers // 2)
    assert (config.window_size, config.max_position_embeddings, config.vocab_size) == (256, 2048, 50257)


def test_the_default_layer_of_gpt_neo_125m_is_the_one_of_two_thirds_depth():
    assert settings().model.default_layer == 2 * 12 // 3


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        settings(*overrides)
    return str(refused.value)


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("dataset.tokens", 0, 1),
        ("dataset.tokens", -1, 1),
        ("dataset.sequence_length", 1, 2),
        ("device.batch_size", 0, 1),
        ("device.threads", 0, 1),
        ("run.seed", -1, 0),
    ],
)
def test_numbers_that_can_never_work_are_refused_and_the_least_that_can_is_not(option, value, least):
    assert refusal(f"{option}={value}") == f"{option}={value}: give a whole number of {least} or more"
    settings(f"{option}={least}")


def test_what_must_be_given_is_named():
    assert refusal("model=hub").startswith("model.name is missing: give model.name=")
    assert refusal("dataset=text").startswith("dataset.path is missing: give dataset.path=")


def test_a_path_that_is_not_there_is_refused():
    assert refusal("dataset=text", "dataset.path=/no/such").startswith("dataset.path=/no/such: no such file or folder")


def test_an_added_group_is_refused_with_those_that_there_are():
    assert refusal("+foo=1") == "foo: no such group (there are model, device, dataset, experiment, tracking, run)"
    assert "did you mean model?" in refusal("+modle=1")


def explanation(*overrides: str) -> str | None:
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as refused:
        composed(*overrides)
    return explain(refused.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "model=min",
            "model=min: no such choice; did you mean mini? (choices: gpt_neo_125m, gpt_neo_1_3b, hub, mini, smollm2)",
        ),
        (
            "dataset=c4",
            "dataset=c4: no such choice; a file or folder is dataset=text dataset.path=c4, a dataset of the Hub "
            "dataset=hub dataset.name=c4 (choices: fineweb, hub, pydoc, text)",
        ),
        (
            "model=/models/mine",
            "model=/models/mine: no such choice; a Hub id or a folder is model=hub model.name=/models/mine (choices: ",
        ),
        (
            "model=EleutherAI/mini",  # near a choice, but no choice has a slash
            "model=EleutherAI/mini: no such choice; a Hub id or a folder is model=hub model.name=EleutherAI/mini (",
        ),
        (
            "dataset=books/text.txt",
            "dataset=books/text.txt: no such choice; a file or folder is dataset=text dataset.path=books/text.txt, ",
        ),
        ("experiment=mine", "experiment=mine: no such choice; an experiment of your own needs --config-dir FOLDER ("),
        ("layer=2", "layer: no such option; did you mean experiment.layer? (there are "),
        ("tokens=9", "tokens: no such option; did you mean dataset.tokens? (there are "),
        ("dataset.token=1", "dataset.token: no such option; did you mean dataset.tokens? (there are dataset.source,"),
        ("run.sed=1", "run.sed: no such option; did you mean run.seed? (there are run.seed, run.outputs, run.reuse,"),
        ("run.reuse=maybe", "run.reuse: Value 'maybe' is not a valid bool (type str); give true or false"),
        ("modle=mini", "modle: no such option; did you mean model?"),
        (
            "dataset.tokens=many",
            "dataset.tokens: Value 'many' of type 'str' could not be converted to Integer; give a whole number, "
            "such as 8192 or 100_000",
        ),
        ("dataset.tokens=1.5", "dataset.tokens: Value '1.5'"),
        ("device.dtype=float8", "device.dtype: Invalid value 'float8', expected one of [float32, bfloat16, float16]"),
        ("model.weights=none", "model.weights: Invalid value 'none', expected one of [pretrained, random]"),
    ],
)
def test_a_mistyped_override_is_explained_in_one_line(override, expected):
    message = explanation(override)
    assert message is not None
    assert message.startswith(expected)
    assert "\n" not in message


@pytest.mark.parametrize("override", ["nonsense", "experiment.layer=[0,", "model=125"])
def test_an_override_that_cannot_be_parsed_is_quoted(override):
    message = explanation(override)
    assert message is not None
    assert override in message
    assert "\n" not in message


def test_a_folder_that_cannot_be_made_is_explained_and_a_bug_is_not():
    assert "hydra.run.dir" in str(explain(PermissionError(13, "Permission denied", "/root/x")))
    assert explain(UserError("what the user can mend")) == "what the user can mend"
    assert explain(ZeroDivisionError("a bug")) is None


@pytest.mark.parametrize("plugin", ["no.such.Class", "nonsense", "os.path.join", "os.path.no_such", "null"])
def test_a_plugin_that_is_no_experiment_is_refused(plugin):
    experiment = settings(f"experiment.plugin={plugin}").experiment
    with pytest.raises(UserError, match=r"^experiment\.plugin="):
        typed_options(experiment)


def test_an_experiments_option_of_a_wrong_type_or_name_is_refused():
    with pytest.raises(UserError, match=r"^experiment\.bins: .*'lots'"):
        typed_options(settings("experiment.bins=lots").experiment)
    with pytest.raises(UserError, match=r"^experiment\.bin: .*"):
        typed_options(settings("+experiment.bin=3").experiment)


def test_the_nearest_choice_is_named_only_where_one_is_near():
    assert closest("modl", ["model", "device"]) == "; did you mean model?"
    assert closest("xyz", ["model", "device"]) == ""


def test_an_error_is_told_by_its_first_line_with_words():
    assert one_line(ValueError("\n  first \nsecond")) == "first"
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    "value",
    [
        *("plain", "two words", "it's", "a\\b", "a\\'b", "end\\", "'", "/a,b", "(x)", "a=b", "#", "${x}"),
        *("{a: 1}", "[1]", "null", "true", "1", "", "a: b", "/tmp/out-1.x/Å", '"', "\\\\'", "x, y"),
        *(None, True, False, 3, 0.5),
    ],
)  # fmt: skip
def test_a_quoted_value_is_read_back_as_it_was(value):
    (override,) = OverridesParser.create().parse_overrides([f"x={quoted(value)}"])
    read = override.value()
    assert read == value
    assert type(read) is type(value) or str(read) == value


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        *[(word, None) for word in ("auto", "AUTO", "null")],
        *[(word, True) for word in ("true", "'true'", "True", "yes")],
        *[(word, False) for word in ("false", "'False'", "0", "off")],
    ],
)
def test_bos_and_eos_are_auto_true_or_false_however_yaml_or_the_shell_spells_them(given, wanted):
    dataset = settings("dataset=pydoc", f"dataset.bos={given}", f"dataset.eos={given}").dataset
    assert dataset.bos.wanted is wanted
    assert dataset.eos.wanted is wanted


@pytest.mark.parametrize(("option", "other"), [("bos", "eos"), ("eos", "bos")])
def test_where_one_of_bos_and_eos_is_given_the_other_stays_auto(option, other):
    dataset = settings("dataset=pydoc", f"dataset.{option}=true").dataset
    assert getattr(dataset, option) is Added.true
    assert getattr(dataset, other) is Added.auto


def test_bos_and_eos_of_python_are_the_same():
    assert DatasetConfig(Source.pydoc).bos is DatasetConfig(Source.pydoc, bos=None).bos is Added.auto
    assert DatasetConfig(Source.pydoc, eos=False).eos is DatasetConfig(Source.pydoc, eos="false").eos is Added.false
    assert OmegaConf.to_yaml(composed("dataset=pydoc").dataset).count(": auto\n") == 2
    for value in ("maybe", "[1]", "2", "''"):
        with pytest.raises(UserError, match=r"^dataset\.bos=.*: give auto, true or false$"):
            settings("dataset=pydoc", f"dataset.bos={value}")
