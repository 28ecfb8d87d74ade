"""The options of built-in experiments are checked before anything heavy is imported."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import neurexp
from neurexp.config.mistakes import explain
from neurexp.config.schema import CONFIG_FOLDER, checked, register_schema
from neurexp.errors import UserError
from neurexp.experiments.options import known_options

NAMES = sorted(file.stem for file in (CONFIG_FOLDER / "experiment").glob("*.yaml"))
# Runs the command where torch, transformers and mlflow cannot be imported
BARE = """
import sys
for name in ("torch", "transformers", "mlflow"):
    sys.modules[name] = None
from neurexp.cli import main
main()
"""
NEEDED = {"ablation": "experiment.neurons=[[1,2]]", "maximise": "experiment.units=[[1,2]]"}


def composed(name, *overrides):
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return checked(compose("config", ["model=mini", "dataset=pydoc", f"experiment={name}", *overrides])).experiment


@pytest.mark.parametrize("name", NAMES)
def test_every_built_in_experiment_has_its_options_where_nothing_heavy_is_imported(name):
    needed = [NEEDED[name]] if name in NEEDED else []
    options = known_options(composed(name, *needed))
    module, _, plugin = composed(name).plugin.rpartition(".")
    assert type(options) is getattr(import_module(module), plugin).Options


def test_a_class_of_ones_own_is_checked_later():
    assert known_options(composed("token_length", "experiment.plugin=my.module.TokenLength")) is None


@pytest.mark.parametrize(
    ("name", "wrong", "line"),
    [
        ("token_length", "permutations=-1", "experiment.permutations=-1: give a whole number from 8 to 1024"),
        ("token_length", "skip_positions=-1", "experiment.skip_positions=-1: give a whole number of 0 or more"),
        ("token_length", "bins=x", "experiment.bins: Value 'x'"),
        ("token_length", "control=foo", "experiment.control=foo: give off, random or shuffled_text"),
        ("grammar_tuning", "control=shuffled_text", "experiment.control=shuffled_text: grammar_tuning has rows of its"),
        ("grammar_tuning", "pooling=foo", "experiment.pooling=foo: give one of mean, first, last, max"),
        ("grammar_tuning", "words=/nowhere", "experiment.words=/nowhere: no such folder"),
        ("grammar_tuning", "words={empty}", "experiment.words={empty}: "),
        ("grammar_tuning", "words=''", "experiment.words is empty: "),
        (
            "grammar_tuning",
            "words={file}",
            "experiment.words={file}: is a file; give a folder with a CATEGORY.txt",
        ),
        (
            "grammar_tuning",
            "sentences={empty}",
            "experiment.sentences={empty}: it is a folder; give a file with a line ",
        ),
        (
            "grammar_tuning",
            "sentences=''",
            "experiment.sentences=: give a file SENTENCES.jsonl, or null for word lists",
        ),
        (
            "grammar_tuning",
            "sentences={file}",
            "experiment.sentences={file}: its lines have one category (a); give two",
        ),
        (
            "grammar_tuning",
            "sentences={file} experiment.words={empty}",
            "experiment.words and experiment.sentences are",
        ),
        (
            "grammar_tuning",
            "sentences={file} experiment.second_template='a {word}'",
            "experiment.second_template=a {word}: experiment.sentences has",
        ),
        ("grammar_tuning", "second_template=x", "experiment.second_template=x: give a text with one {word} in it"),
        ("categories", "sentences=/nowhere", "experiment.sentences=/nowhere: no such file"),
        ("categories", "replication=true", "experiment.replication=True: give a file SENTENCES.jsonl, or false"),
        ("negation", "verbs=3", "experiment.verbs=3: give a whole number from 4 to 100"),
        ("proper_nouns", "heldout=2", "experiment.heldout=2: give a share of the text from 0.1 to 0.9"),
        ("ablation", "control=random", "experiment.control=random: ablation has no control; give off"),
        ("ablation", "neurons=[[1,2],[1,2]]", "experiment.neurons=[[1,2],[1,2]]: neuron 2 of layer 1 is named twice"),
        ("ablation", "neurons=foo", "experiment.neurons=foo: give experiment.neurons=[["),
        ("ablation", "neurons=[]", "experiment.neurons=[]: give experiment.neurons=[["),
        ("ablation", "direction=foo", "experiment.direction=foo: give one of auto, both, positive, negative, largest"),
        ("ablation", "count=0", "experiment.count=0: give a whole number of 1 or more"),
        ("ablation", "kind=foo", "experiment.kind=foo: give one of mean, zero, peak, resample"),
        ("ablation", "site=[Q,K]", "experiment.site=[Q,K]: ablation edits one site"),
        ("maximise", "units=[[1]]", "experiment.units=[[1]]: give a list of pairs"),
        ("maximise", "rate=0", "experiment.rate=0.0: give a number above 0"),
        ("top_contexts", "k=0", "experiment.k=0: give a whole number from 1 to 1000"),
        ("top_contexts", "winners=[1,2]", "experiment.winners=[1,2]: give pairs of a layer and a neuron"),
        ("context", "tokens=-1", "experiment.tokens=-1: give a whole number from 8 to 100000"),
        ("identities", "tolerance=0", "experiment.tolerance=0.0: give a number above 0"),
        ("benchmark", "batch_sizes=[]", "experiment.batch_sizes=[]: give a list of whole numbers"),
        ("benchmark", "bf16=foo", "experiment.bf16=foo: give true, false or auto"),
    ],
)
def test_a_value_that_can_never_work_is_told_from_the_options_alone(tmp_path, name, wrong, line):
    needed = [NEEDED[name]] if name in NEEDED and not wrong.startswith(NEEDED[name][11:16]) else []
    (file := tmp_path / "a.jsonl").write_text('{"text": "One.", "category": "a"}\n')
    (folder := tmp_path / "empty").mkdir()

    def filled(text: str) -> str:
        return text.replace("{empty}", str(folder)).replace("{file}", str(file))

    overrides = filled(f"experiment.{wrong}").replace(" experiment.", "\nexperiment.").split("\n")
    with pytest.raises(UserError) as caught:
        known_options(composed(name, *needed, *overrides))
    assert (explain(caught.value) or "").startswith(filled(line))


@pytest.mark.parametrize(
    ("lists", "category"),
    [
        ({"a": ["He runs away.", "“Do you see it?”", "Go there now!", "run"], "b": ["x", "y"]}, "a"),
        ({"a": ["go", "run"], "b": ["他走了。", "你好吗？"]}, "b"),
        ({"a": ["He runs away.", "He goes on.", "go", "run"], "b": ["x", "y"]}, None),  # half of them only
        ({"a": ["etc.", "Dr. Smith", "New York City", "what?"], "b": ["x", "y"]}, None),
    ],
)
def test_word_lists_of_sentences_are_told_what_to_give(tmp_path, lists, category):
    for name, words in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(words), "utf-8")
    config = composed("grammar_tuning", f"experiment.words={tmp_path}")
    if category is None:
        assert known_options(config) is not None
        return
    with pytest.raises(
        UserError, match=rf"lines of “{category}” are sentences .*give experiment\.sentences=FILE"
    ) as told:
        known_options(config)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("experiment=ablation experiment.run=/nowhere", "error: experiment.run=/nowhere: no such folder; "),
        (
            f"experiment=ablation experiment.run={'0' * 32}",
            f"error: experiment.run={'0' * 32}: no such run folder, and",
        ),
        ("experiment=top_contexts experiment.k=0", "error: experiment.k=0: give a whole number from 1 to 1000"),
    ],
)
def test_the_command_tells_it_before_pytorch_and_leaves_nothing(tmp_path, arguments, line):
    command = [sys.executable, "-c", BARE, "model=mini", "dataset=pydoc", *arguments.split()]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith(line)
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]


class Moved(neurexp.Profile):
    """As it was written before the options said which controls there are."""

    controls = ("off",)

    def covariate(self, inputs):
        raise NotImplementedError


class MovedOptions(neurexp.ProfileOptions):
    controls = ("off",)


class AsNow(neurexp.Profile):
    Options = MovedOptions

    def covariate(self, inputs):
        raise NotImplementedError


def test_controls_of_the_class_are_refused_in_a_line_and_those_of_its_options_hold():
    line = r"Moved.controls: the options say now .*; move it to the dataclass that Moved.Options is .*= \('off',\)"
    with pytest.raises(UserError, match=line):
        Moved(neurexp.ProfileOptions("moved", "test_options.Moved"))
    AsNow(MovedOptions("as_now", "test_options.AsNow"))
    with pytest.raises(UserError, match=r"experiment.control=random: as_now has no control; give off"):
        AsNow(MovedOptions("as_now", "test_options.AsNow", control="random"))
