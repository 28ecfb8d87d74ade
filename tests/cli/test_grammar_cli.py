"""Grammar tuning from the command line: what it leaves, reuse, sweeps, and what it refuses."""

import importlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from conftest import sampled
from pyarrow import parquet
from safetensors import safe_open
from safetensors.numpy import load_file

from neurexp.text.words import OWN_LISTS, read_lists

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow's own, about SQLAlchemy
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    from mlflow import MlflowClient
    from mlflow.entities import Run

GPT_NEO_SITES = "MLP, ACT, NEURON, PROJ, RESID_PRE, RESID_MID, RESID_POST, ATTN_OUT, Z, Q, K, V"
QUICK = (
    "experiment=grammar_tuning",
    "model=mini",
    "device=cpu",
    "experiment.permutations=100",
    "experiment.splits=2",
    "experiment.shuffles=2",
)
TEXT = ("dataset=pydoc", "dataset.tokens=2048")
ALONE = ("experiment.text=false", "tracking=off")
TAKEN = "taken from an earlier pass"
NEURONS = 768


@dataclass(frozen=True)
class Done:
    """A run that ended well."""

    process: CompletedProcess[str]
    folder: Path

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text("utf-8"))

    @property
    def metrics(self) -> dict[str, float]:
        return self.summary["metrics"]

    def table(self, name: str) -> dict[str, np.ndarray]:
        table = parquet.read_table(self.folder / f"{name}.parquet")
        return {column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names}

    def bytes_of(self, name: str) -> bytes:
        return (self.folder / f"{name}.parquet").read_bytes()

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        return load_file(self.folder / "activations.safetensors")


def run_in(where: Path, commands, *arguments: str, timeout: int = 120, draws: bool = False) -> Done:
    """The run that is new in `where` after the command; its figures are painted only with `draws`."""
    before = set(where.glob("outputs/grammar_tuning/*"))
    process = commands.run((*QUICK, *arguments), where, timeout=timeout, draws=draws)
    assert (process.returncode, process.stderr) == (0, "")
    (folder,) = set(where.glob("outputs/grammar_tuning/*")) - before
    return Done(process, folder)


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> Path:
    """A working folder that the runs of this module share, and so the store of captures."""
    return tmp_path_factory.mktemp("grammar")


@pytest.fixture(scope="module")
def base(commands, where) -> Done:
    """One run as the documents ask for it, tracked, and the first in its folder."""
    return run_in(where, commands, *TEXT, draws=True)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    """The option that takes a fifth of the own lists, for what does not depend on how many words there are."""
    folder = tmp_path_factory.mktemp("few")
    for name, words in read_lists(OWN_LISTS).words.items():
        (folder / f"{name}.txt").write_text("\n".join(words[:20]))
    return f"experiment.words={folder}"


@pytest.fixture
def quick(commands, tmp_path):
    """A run in a folder of its own."""
    return lambda *arguments, **options: run_in(tmp_path, commands, *arguments, **options)


def defined_in(folder: Path) -> set[str]:
    page = (folder / "columns.md").read_text("utf-8")
    return set(re.findall(r"^\| `([\w.]+)` \| .+ \|$", page, flags=re.MULTILINE))


def present_in(done: Done) -> set[str]:
    names = {*done.metrics, *done.table("neurons"), *done.table("layers")}
    tables = [name for name in ("words", "agreement", "leading") if (done.folder / f"{name}.parquet").exists()]
    for table in tables:
        names |= {f"{table}.{column}" for column in done.table(table)}
    return names | {f"activations.{name}" for name in done.tensors}


# What a run leaves


def test_a_run_leaves_the_files_of_the_contract_and_nothing_else(base):
    files = {str(path.relative_to(base.folder)) for path in base.folder.rglob("*") if path.is_file()}
    assert files == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "activations.safetensors",
        "agreement.parquet",
        "columns.json",
        "columns.md",
        "figures/t_against_null.png",
        "figures/text_heat_map.html",
        "figures/text_heat_map.png",
        "figures/top_neurons.png",
        "figures/volcano.png",
        "figures/words_by_neurons.png",
        "layers.parquet",
        "neurexp.log",
        "neurons.parquet",
        "summary.json",
        "tokens.safetensors",
        "words.parquet",
    }


def test_the_activations_are_there_word_by_word_and_as_the_array_of_the_documents(base):
    tensors = base.tensors
    assert {name: values.shape for name, values in tensors.items()} == {
        "MLP_4": (200, NEURONS),
        "MLP_4_by_category": (2, 100, NEURONS),
        "labels": (200,),
    }
    assert tensors["MLP_4"].dtype == np.float32
    for category in (0, 1):
        of_category = tensors["MLP_4"][tensors["labels"] == category]
        np.testing.assert_array_equal(tensors["MLP_4_by_category"][category], of_category)
    with safe_open(base.folder / "activations.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["categories"]) == ["verbs", "nouns"]
    own = read_lists(OWN_LISTS).words
    assert json.loads(metadata["words"]) == [*own["verbs"], *own["nouns"]]


def test_the_words_table_says_what_each_row_is(base):
    words, own = base.table("words"), read_lists(OWN_LISTS).words
    assert words["word"].tolist() == [*own["verbs"], *own["nouns"]]
    assert words["category"].tolist() == ["verbs"] * 100 + ["nouns"] * 100
    assert words["label"].tolist() == base.tensors["labels"].tolist() == [0] * 100 + [1] * 100
    assert (words["tokens"] == 1).sum() == base.metrics["words_one_token"]
    for label in (0, 1):
        assert sorted(words["pair"][words["label"] == label]) == list(range(100))
    ordered = [words["tokens"][words["label"] == label][np.argsort(words["pair"][:100])] for label in (0,)]
    assert (np.diff(ordered[0]) >= 0).all()


def test_the_tokens_file_holds_the_words_as_run(base):
    from transformers import AutoTokenizer

    from neurexp.models.locations import MINI

    tokens, tokenizer = load_file(base.folder / "tokens.safetensors"), AutoTokenizer.from_pretrained(MINI)
    shown = [tokenizer.decode(ids[valid]) for ids, valid in zip(tokens["input_ids"], tokens["valid"], strict=True)]
    assert shown == base.table("words")["word"].tolist()


def test_the_activations_are_those_of_a_second_computation(base):
    import torch
    from transformers import AutoTokenizer, GPTNeoForCausalLM

    from neurexp.models.locations import MINI

    tokenizer, network = (
        AutoTokenizer.from_pretrained(MINI),
        GPTNeoForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval(),
    )
    kept = []
    network.transformer.h[4].mlp.c_fc.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    with torch.no_grad():
        for word in base.table("words")["word"]:
            network(torch.tensor([tokenizer(word)["input_ids"]]))
    expected = torch.stack([values.double().mean(0) for values in kept]).numpy()
    found = base.tensors["MLP_4"]
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    neurons = base.table("neurons")
    for label in (0, 1):
        own = found[base.tensors["labels"] == label].astype(float)
        np.testing.assert_allclose(neurons[f"mean_{label}"], own.mean(0), rtol=1e-9)


def test_the_data_dictionary_defines_exactly_what_there_is(base):
    assert defined_in(base.folder) == present_in(base)


def test_the_table_of_agreement_adds_up_to_all_neurons(base):
    table = base.table("agreement")
    parts = sum(table[name] for name in ("both", "only_first", "only_second", "neither"))
    assert parts.tolist() == [NEURONS] * len(parts)
    assert len(set(zip(table["first"], table["second"], strict=True))) == len(parts) == 10


def test_the_default_layer_is_the_one_at_two_thirds_of_the_depth(base):
    assert base.table("layers")["layer"].tolist() == [4]
    assert set(base.table("neurons")["layer"]) == {4}
    assert base.table("neurons")["neuron"].tolist() == list(range(NEURONS))


def test_the_heat_maps_page_has_no_script_and_names_the_neurons(base):
    page = (base.folder / "figures" / "text_heat_map.html").read_text("utf-8")
    assert "<script" not in page
    for end in ("top", "bottom"):
        assert f"MLP 4.{base.metrics[f'{end}_neuron']}: prefers" in page
    shown = page.count('<span title="')  # of each neuron one or two passages, which may grow to whole sentences
    assert shown % 2 == 0 and 2 * 120 <= shown <= 2 * 2 * 160


def test_the_findings_are_printed(base):
    assert base.summary["findings"]
    for line in base.summary["findings"]:
        assert line in base.process.stdout
    assert "figures/text_heat_map.html" in base.process.stdout


def runs_in(where: Path) -> list[Run]:
    client = MlflowClient(tracking_uri=f"sqlite:///{where / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("grammar_tuning")
    assert experiment is not None
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time)


def test_mlflow_has_the_metrics_with_the_layer_as_step(base, where):
    client = MlflowClient(tracking_uri=f"sqlite:///{where / 'outputs' / 'mlflow.db'}")
    run = client.get_run(base.summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    layers = base.table("layers")
    finite = {name for name in layers if name != "layer" and np.isfinite(layers[name]).all()}
    assert set(run.data.metrics) == finite | set(base.metrics)
    for name in finite:
        ((step, value),) = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        assert (step, value) == (4, layers[name][0])


# Reuse


def test_a_second_run_takes_the_capture_of_the_first_and_gives_the_same_to_the_bit(base, where, commands):
    assert TAKEN not in base.process.stdout
    assert base.summary["provenance"]["reused"] == []
    again = run_in(where, commands, *TEXT, "tracking=off")
    taken = [line.partition(":")[0] for line in again.process.stdout.splitlines() if TAKEN in line]
    assert taken == ["Words", "Context", "Text"]
    assert again.summary["provenance"]["reused"] == ["words", "context", "text"]
    for table in ("neurons", "layers", "words", "agreement"):
        assert again.bytes_of(table) == base.bytes_of(table)
    fresh = run_in(where, commands, *TEXT, "tracking=off", "run.reuse=false")
    assert TAKEN not in fresh.process.stdout
    assert fresh.summary["provenance"]["reused"] == []
    assert fresh.bytes_of("neurons") == base.bytes_of("neurons")


@pytest.mark.parametrize(
    "change",
    [
        "experiment.pooling=last",
        pytest.param("experiment.site=ACT", marks=pytest.mark.slow),
        pytest.param("device.batch_size=3", marks=pytest.mark.slow),
        pytest.param("device.dtype=bfloat16", marks=pytest.mark.slow),
    ],
)
def test_what_changes_the_activations_is_captured_anew(base, where, commands, change):
    other = run_in(where, commands, *ALONE, "experiment.layer=4", change)
    assert TAKEN not in other.process.stdout
    assert other.summary["provenance"]["reused"] == []


@pytest.mark.slow
def test_what_does_not_change_the_activations_takes_the_capture(base, where, commands):
    other = run_in(where, commands, *ALONE, "experiment.layer=4", "experiment.splits=5", "run.seed=3")
    assert other.process.stdout.count(TAKEN) == 2
    assert other.summary["provenance"]["reused"] == ["words", "context"]


# Options


def test_without_text_neither_a_dataset_nor_the_hub_is_needed(quick, few):
    done = quick(*ALONE, few, "dataset=fineweb")
    assert done.summary["setting"] == "mini on words alone"
    assert done.metrics["text_occurrences"] == 0
    assert not {"auroc_text", "auroc_text_r"} & {*done.table("neurons"), *done.table("layers")}
    assert not list(done.folder.glob("figures/text_heat_map.*"))
    assert defined_in(done.folder) == present_in(done)


def test_all_layers_have_their_rows_and_a_figure_over_them(quick, few):
    done = quick(*ALONE, few, "experiment.layer=all")
    assert done.table("layers")["layer"].tolist() == list(range(6))
    assert done.table("neurons")["layer"].tolist() == [layer for layer in range(6) for _ in range(NEURONS)]
    assert {f"MLP_{layer}" for layer in range(6)} < set(done.tensors)
    assert (done.folder / "figures" / "over_layers.png").exists()
    assert defined_in(done.folder) == present_in(done)


def test_a_list_of_layers(quick, few):
    done = quick(*ALONE, few, "experiment.layer=[5,1]", "experiment.second_template=null")
    assert done.table("layers")["layer"].tolist() == [1, 5]
    assert {name for name in done.tensors if name.count("_") == 1} == {"MLP_1", "MLP_5"}
    assert not [name for name in done.table("neurons") if "context" in name]


@pytest.mark.parametrize(
    "site", ["PROJ", pytest.param("ACT", marks=pytest.mark.slow), pytest.param("Q", marks=pytest.mark.slow)]
)
def test_other_sites(quick, few, site):
    done = quick(*ALONE, few, f"experiment.site={site}")
    width = {"PROJ": 192, "ACT": 768, "Q": 192}[site]
    assert done.tensors[f"{site}_4_by_category"].shape == (2, 20, width)
    assert done.table("neurons")["neuron"].tolist() == list(range(width))


@pytest.mark.parametrize(
    "pooling", ["max", pytest.param("first", marks=pytest.mark.slow), pytest.param("last", marks=pytest.mark.slow)]
)
def test_other_poolings_run_quietly(quick, few, pooling):
    done = quick(*ALONE, few, f"experiment.pooling={pooling}")
    assert done.tensors["MLP_4"].shape == (40, NEURONS)


@pytest.mark.parametrize("off", ["off", *(pytest.param(one, marks=pytest.mark.slow) for one in ("no", "0"))])
def test_the_text_may_be_switched_off_in_other_words(quick_cli, tmp_path, off):
    process = quick_cli(*QUICK, "tracking=off", f"experiment.text={off}", "dataset=fineweb", "experiment.layer=99")
    assert process.stderr.startswith("error: experiment.layer=99: ")


def test_three_categories_have_f_and_eta_squared_in_place_of_t_and_d(quick, tmp_path):
    own = read_lists(OWN_LISTS).words
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, words in {"verbs": own["verbs"][:25], "nouns": own["nouns"][:20], "more": own["nouns"][40:70]}.items():
        (folder / f"{name}.txt").write_text("\n".join(words))
    done = quick("tracking=off", *TEXT, f"experiment.words={folder}", draws=True)
    assert done.metrics["text_occurrences"] > 0
    assert {"text_heat_map.png", "text_heat_map.html"} <= {file.name for file in (done.folder / "figures").iterdir()}
    assert done.table("leading")["category"].tolist() == ["verbs", "nouns", "more"]
    neurons = done.table("neurons")
    assert {"f", "p_f", "q_f", "q_f_all", "eta2", "mean_0", "mean_1", "mean_2", "p_permutation"} <= set(neurons)
    assert not {"t_welch", "t_paired", "cohens_d", "auroc", "probe_accuracy"} & set(neurons)
    assert ((neurons["eta2"] >= 0) & (neurons["eta2"] <= 1)).all()
    assert done.summary["statistic"] == "eta2"
    with safe_open(done.folder / "activations.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["categories"]) == ["verbs", "nouns", "more"]
    assert "MLP_4_by_category" not in done.tensors
    assert defined_in(done.folder) == present_in(done)


def test_categories_of_unequal_size_have_no_paired_test(quick, tmp_path):
    own = read_lists(OWN_LISTS).words
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "verbs.txt").write_text("\n".join(own["verbs"][:30]))
    (folder / "nouns.txt").write_text("\n".join(own["nouns"][:20]))
    done = quick(*ALONE, f"experiment.words={folder}")
    neurons, words = done.table("neurons"), done.table("words")
    assert np.isnan(neurons["t_paired"]).all()
    assert np.isnan(neurons["p_paired"]).all()
    assert np.isfinite(neurons["t_welch"]).all()
    assert set(words["pair"]) == {-1}
    assert set(done.tensors) == {"MLP_4", "labels"}
    assert "paired_bonferroni" not in done.table("agreement")["first"]
    assert np.isnan(done.table("layers")["share_paired_bonferroni"]).all()


def test_words_left_out_are_counted(quick, tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a.txt").write_text("run\ngo\nsee\nsee\nmake\ntake\nboth\n")
    (folder / "b.txt").write_text("door\nhouse\ntree\nriver\nboth\nroad\n")
    done = quick(*ALONE, f"experiment.words={folder}")
    assert (done.metrics["words_duplicate"], done.metrics["words_shared"]) == (1, 1)
    assert done.metrics["words"] == 10
    assert done.summary["findings"][0].endswith("Left out: duplicates (1), words in several lists (1).")


def test_a_text_in_which_no_listed_word_occurs_is_said_so(quick, few, tmp_path):
    (tmp_path / "book.txt").write_text("Nothing of that. " * 100)
    done = quick("tracking=off", "dataset=text", f"dataset.path={tmp_path / 'book.txt'}", "dataset.tokens=300", few)
    assert done.metrics["text_occurrences"] == 0
    assert "No listed word occurs in the text" in done.summary["findings"][-1]
    assert not list(done.folder.glob("figures/text_heat_map.*"))


def test_a_control_with_random_weights_stands_beside(quick, few):
    done = quick(*ALONE, few, "experiment.control=random", draws=True)
    layers = done.table("layers")
    assert "share_bonferroni_control" in layers
    own = {
        name for name in layers if name != "layer" and not name.startswith("rows_") and not name.endswith("_control")
    }
    assert {f"{name}_control" for name in own} <= set(layers)
    assert done.metrics["share_bonferroni_within_layers_excess"] == pytest.approx(
        done.metrics["share_bonferroni_within_layers"] - done.metrics["share_bonferroni_within_layers_control"]
    )
    assert "words_control" not in done.metrics
    assert any(line.startswith("Control (random weights): ") for line in done.summary["findings"])
    by_rule = {name for name in present_in(done) if name.endswith(("_control", "_excess"))}
    assert defined_in(done.folder) == present_in(done) - by_rule | {"NAME_control"}


@pytest.mark.slow
def test_the_default_layer_of_gpt_neo_125m_is_8(commands, tmp_path, data):
    done = run_in(
        tmp_path, commands, *ALONE, "model=gpt_neo_125m", "model.weights=random",
        f"model.tokenizer={data / 'gpt2-tokenizer'}",
        timeout=300,
    )  # fmt: skip
    assert done.table("layers")["layer"].tolist() == [8]
    assert done.tensors["MLP_8_by_category"].shape == (2, 100, 3072)


# What is refused

BAD = [
    ("experiment.pooling=avg", "experiment.pooling=avg: give one of mean, first, last, max"),
    ("experiment.permutations=1", "experiment.permutations=1: give a whole number from 100 to 1000000"),
    ("experiment.permutations=many", "experiment.permutations: "),
    ("experiment.splits=0", "experiment.splits=0: give a whole number from 2 to 10000"),
    ("experiment.splits=1", "experiment.splits=1: "),
    ("experiment.shuffles=0", "experiment.shuffles=0: give a whole number from 2 to 10000"),
    ("experiment.occurrences=0", "experiment.occurrences=0: give a whole number from 1 to 1000"),
    ("experiment.excerpt=0", "experiment.excerpt=0: give a whole number from 8 to 1000"),
    ("experiment.layer=99", "experiment.layer=99: this model has layers 0 to 5"),
    ("experiment.layer=-1", "experiment.layer=-1: this model has layers 0 to 5"),
    ("experiment.layer=[]", "experiment.layer=[]: this model has layers 0 to 5"),
    ("experiment.site=MPL", f"experiment.site=MPL: gpt_neo has {GPT_NEO_SITES}; did you mean MLP?"),
    ("experiment.template=word", "experiment.template=word: give a text with one {word} in it"),
    ("experiment.template='{word} {word}'", "experiment.template={word} {word}: give a text with one {word} in it"),
    ("experiment.second_template=The", "experiment.second_template=The: give a text with one {word} in it"),
    ("experiment.words=/nonexistent", "experiment.words=/nonexistent: no such folder"),
    ("experiment.words={lists}/empty", "experiment.words={lists}/empty: the folder has 0 CATEGORY.txt"),
    ("experiment.words={lists}/few", "experiment.words: only 3 rows of a can be used; give 4 or more"),
    ("experiment.control=shuffled", "experiment.control=shuffled: give off or random"),
    ("experiment.text=perhaps", "experiment.text: "),
    ("experiment.bins=96", "experiment.bins: no such option"),
    ("experiment.poolin=mean", "experiment.poolin: no such option; did you mean experiment.pooling?"),
    ("run.reuse=perhaps", "run.reuse: "),
]


@pytest.fixture(scope="module")
def broken_lists(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty").mkdir()
    (folder / "few").mkdir()
    (folder / "few" / "a.txt").write_text("run\ngo\nsee\n")
    (folder / "few" / "b.txt").write_text("door\nhouse\ntree\nriver\n")
    return folder


@pytest.mark.parametrize(("argument", "answer"), sampled(BAD, 2), ids=[argument for argument, _ in BAD])
def test_a_bad_option_is_one_line_and_leaves_nothing(quick_cli, broken_lists, tmp_path, argument, answer):
    argument, answer = (text.replace("{lists}", str(broken_lists)) for text in (argument, answer))
    process = quick_cli(*QUICK, *ALONE, "dataset=pydoc", argument)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert answer in line
    assert "Traceback" not in process.stdout + process.stderr
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left <= {"outputs", "outputs/grammar_tuning"}


def test_a_dataset_that_cannot_be_reached_is_told_before_anything_is_run(quick_cli, tmp_path):
    process = quick_cli(*QUICK, "tracking=off", "dataset=fineweb")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: dataset.name=HuggingFaceFW/fineweb: ")


# Sweeps


@dataclass(frozen=True)
class Swept:
    process: CompletedProcess[str]
    where: Path

    @property
    def folder(self) -> Path:
        (folder,) = (self.where / "outputs" / "multirun").iterdir()
        return folder

    def job(self, number: int) -> Done:
        return Done(self.process, self.folder / str(number))


def sweep(commands, where: Path, *arguments: str) -> Swept:
    return Swept(commands.run(("-m", *QUICK, *arguments), where), where)


@pytest.fixture(scope="module")
def swept(commands, few, tmp_path_factory) -> Swept:
    """A sweep over three layers, tracked."""
    return sweep(commands, tmp_path_factory.mktemp("swept"), "experiment.text=false", few, "experiment.layer=0,1,2")


def test_the_jobs_of_a_sweep_are_child_runs_of_one_parent(swept):
    assert (swept.process.returncode, swept.process.stderr) == (0, "")
    parent, *children = runs_in(swept.where)
    assert len(children) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert "mlflow.parentRunId" not in parent.data.tags
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert [run.data.params["experiment.layer"] for run in children] == ["0", "1", "2"]
    summaries = [swept.job(number).summary for number in range(3)]
    assert [summary["mlflow_run_id"] for summary in summaries] == [run.info.run_id for run in children]
    summary = json.loads((swept.folder / "summary.json").read_text())
    assert summary["mlflow_run_id"] == parent.info.run_id
    assert [job["metrics"] for job in summary["jobs"]] == [one["metrics"] for one in summaries]
    assert ["experiment.layer=1" in job["overrides"] for job in summary["jobs"]] == [False, True, False]
    assert summary["failed"] == []


def test_the_parent_has_the_jobs_metrics_over_the_layers_and_a_figure(swept):
    client = MlflowClient(tracking_uri=f"sqlite:///{swept.where / 'outputs' / 'mlflow.db'}")
    parent = runs_in(swept.where)[0].info.run_id
    rows = [swept.job(number).table("layers") for number in range(3)]
    for name in ("share_bonferroni", "auroc_heldout", "share_bonferroni_shuffled"):
        logged = {one.step: one.value for one in client.get_metric_history(parent, f"by_layer/{name}")}
        assert logged == {layer: row[name][0] for layer, row in enumerate(rows)}
    artifacts = {one.path for one in client.list_artifacts(parent)}
    assert {"summary.json", "layers.parquet", "columns.md", "figures"} <= artifacts
    assert [one.path for one in client.list_artifacts(parent, "figures")] == ["figures/over_layers.png"]
    assert (swept.folder / "figures" / "over_layers.png").exists()
    table = parquet.read_table(swept.folder / "layers.parquet").to_pydict()
    assert (table["layer"], table["job"]) == ([0, 1, 2], [0, 1, 2])
    metrics = client.get_run(parent).data.metrics
    assert {*table, *(name.removeprefix("by_layer/") for name in metrics)} <= defined_in(swept.folder)
    own = json.loads((swept.folder / "summary.json").read_text())["metrics"]  # of the sweep, not of its last job
    assert {name: value for name, value in metrics.items() if not name.startswith("by_layer/")} == own


def test_a_sweep_over_layers_captures_once(swept):
    logs = [(swept.folder / str(number) / "neurexp.log").read_text("utf-8") for number in range(3)]
    assert [TAKEN in log for log in logs] == [False, True, True]
    assert [swept.job(number).summary["provenance"]["reused"] for number in range(3)] == [
        [],
        ["words", "context"],
        ["words", "context"],
    ]


def test_each_job_of_a_sweep_is_to_the_bit_the_run_of_its_layer_alone(swept, commands, few, tmp_path):
    alone = run_in(tmp_path, commands, *ALONE, few, "experiment.layer=2", "run.reuse=false")
    for table in ("neurons", "layers", "words", "agreement"):
        assert alone.bytes_of(table) == swept.job(2).bytes_of(table), table
    for name, values in alone.tensors.items():
        assert values.tobytes() == swept.job(2).tensors[name].tobytes()


def test_a_job_that_fails_marks_the_parent_and_the_others_go_on(commands, few, tmp_path):
    done = sweep(commands, tmp_path, "experiment.text=false", few, "experiment.layer=0,99,1")
    assert done.process.returncode == 1
    (line,) = done.process.stderr.splitlines()
    assert line.startswith("error: experiment.layer=99: this model has layers 0 to 5")
    parent, *children = runs_in(tmp_path)
    assert parent.info.status == "FAILED"
    assert "experiment.layer=99" in parent.data.tags["reason"]
    assert [run.info.status for run in children] == ["FINISHED", "FINISHED"]  # the other's mistake was seen before
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert [(done.folder / str(number) / "summary.json").exists() for number in range(3)] == [True, False, True]
    summary = json.loads((done.folder / "summary.json").read_text())
    assert [job["job"] for job in summary["jobs"]] == ["0", "2"]
    (failed,) = summary["failed"]
    assert failed.startswith("1\t")
    assert parquet.read_table(done.folder / "layers.parquet")["layer"].to_pylist() == [0, 1]


@pytest.mark.slow
def test_a_sweep_of_which_every_job_fails_is_failed(commands, tmp_path):
    """No word fits into the template, which only the run itself can tell."""
    too_long = f"experiment.template='{'a ' * 600}{{word}}'"
    done = sweep(commands, tmp_path, "experiment.text=false", too_long, "run.seed=1,2")
    assert done.process.returncode == 1
    assert len(done.process.stderr.splitlines()) == 2
    assert [run.info.status for run in runs_in(tmp_path)] == ["FAILED"] * 3


@pytest.mark.slow
def test_a_sweep_without_tracking_leaves_a_summary_and_no_store(commands, tmp_path):
    done = sweep(commands, tmp_path, *ALONE, "experiment.layer=3,1")
    assert (done.process.returncode, done.process.stderr) == (0, "")
    assert not (tmp_path / "outputs" / "mlflow.db").exists()
    summary = json.loads((done.folder / "summary.json").read_text())
    assert (summary["of"], summary["mlflow_run_id"], len(summary["jobs"])) == ("grammar_tuning", None, 2)
    table = parquet.read_table(done.folder / "layers.parquet").to_pydict()
    assert (table["layer"], table["job"]) == ([1, 3], [1, 0])
    assert (done.folder / "figures" / "over_layers.png").exists()
    assert "mlflow" not in done.process.stdout.lower()


@pytest.mark.slow
def test_a_sweep_over_something_else_has_no_step(commands, tmp_path):
    done = sweep(commands, tmp_path, *ALONE, "experiment.pooling=first,last")
    assert (done.process.returncode, done.process.stderr) == (0, "")
    table = parquet.read_table(done.folder / "layers.parquet").to_pydict()
    assert (table["layer"], table["job"]) == ([4, 4], [0, 1])
    assert not (done.folder / "figures" / "over_layers.png").exists()
