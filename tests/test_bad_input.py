"""Whatever a user gets wrong: one line that names the option and what would work, and nothing left behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from make_repos import make_gpt_neo
from safetensors.torch import load_file, save_file

from neurexp.provenance import without_secrets

MINI = ("model=mini", "dataset=pydoc", "tracking=off")

# What is typed after the defaults (`{inputs}`: the folder of the fixture below) and what the answer must say.
# After MINI: the embedded model on the embedded text.
WITH_MINI = [
    ("dataset.tokens=0", "dataset.tokens=0: give a whole number of 1 or more"),
    ("dataset.tokens=-1", "dataset.tokens=-1: give a whole number of 1 or more"),
    ("dataset.tokens=many", "dataset.tokens: Value 'many'"),
    ("dataset.tokens=1.5", "dataset.tokens: Value '1.5'"),
    ("dataset.tokens=null", "dataset.tokens: "),
    ("dataset.tokens=10000000", "dataset.tokens=10000000: the text has only "),
    ("dataset.sequence_length=1", "dataset.sequence_length=1: give a whole number of 2 or more"),
    ("dataset.sequence_length=513", "dataset.sequence_length=513: mini has 512 positions; give 512 or fewer"),
    ("device.name=gpu", "device=gpu: no such device; give auto, cpu or cuda"),
    ("device.name=mps", "device=mps: not supported; give auto, cpu or cuda"),
    ("device.dtype=float8", "device.dtype: Invalid value 'float8', expected one of [float32, bfloat16, float16]"),
    ("device.threads=0", "device.threads=0: give a whole number of 1 or more"),
    ("device.batch_size=0", "device.batch_size=0: give a whole number of 1 or more"),
    ("run.seed=-1", "run.seed=-1: give a whole number of 0 or more"),
    ("experiment.layer=-1", "experiment.layer=-1: this model has layers 0 to 5; give all, one of them, or a list"),
    ("experiment.layer=99", "experiment.layer=99: this model has layers 0 to 5"),
    ("experiment.layer=[0,6]", "experiment.layer=[0, 6]: this model has layers 0 to 5"),
    ("experiment.layer=[]", "experiment.layer=[]: this model has layers 0 to 5"),
    ("experiment.layer=[[0]]", "experiment.layer=[[0]]: this model has layers 0 to 5"),
    ("experiment.layer=first", "experiment.layer=first: this model has layers 0 to 5"),
    ("experiment.site=MPL", "experiment.site=MPL: gpt_neo has MLP, ACT, PROJ, Q, K, V; did you mean MLP?"),
    ("experiment.bins=2", "experiment.bins=2: give a whole number from 8 to 4096"),
    ("experiment.bins=lots", "experiment.bins: "),
    ("experiment.bin=16", "experiment.bin: no such option; did you mean experiment.bins?"),
    ("experiment.strip_space=maybe", "experiment.strip_space: "),
    ("experiment.plugin=no.such.Class", "experiment.plugin=no.such.Class: no such class"),
    ("experiment.plugin=os.path.join", "experiment.plugin=os.path.join: "),
    ("model.weights=none", "model.weights: Invalid value 'none', expected one of [pretrained, random]"),
    ("model.tokenizer=/no/such", "model.tokenizer=/no/such: no such folder"),
    ("model.tokenizer={inputs}/large_tokenizer", "model.tokenizer={inputs}/large_tokenizer: it has "),
    ("+foo=1", "foo: no such group (there are model, device, dataset, experiment, tracking, run)"),
    ("+experiment.foo=1", "experiment.foo: "),
    ("hydra.run.dir={inputs}/a_file/below", "hydra.run.dir: the run folder cannot be made"),
    ("run.outputs={inputs}/a_file", "hydra.run.dir: the run folder cannot be made"),
]
# On their own: what is chosen is what is wrong.
ALONE = [
    ("model=min", "model=min: no such choice; did you mean mini? (choices: gpt_neo_125m, gpt_neo_1_3b, hub, mini)"),
    ("model=125", "model=125: "),
    ("model=null", "model=null: "),
    ("device=gpu", "device=gpu: no such choice; did you mean cpu? (choices: auto, cpu, cuda)"),
    ("dataset=pydok", "dataset=pydok: no such choice; did you mean pydoc? (choices: fineweb, pydoc, text)"),
    ("experiment=token_lenght", "experiment=token_lenght: no such choice; did you mean token_length?"),
    ("tracking=on", "tracking=on: no such choice (choices: mlflow, off)"),
    ("devise=cpu", "devise: no such option; did you mean device?"),
    ("dataset.token=5", "dataset.token: no such option; did you mean dataset.tokens?"),
    ("experiment.layer=[0,", "experiment.layer=[0,"),
    ("nonsense", "nonsense"),
]
# After `model=mini tracking=off`.
TEXTS = [
    ("dataset=text", "dataset.path is missing: give dataset.path=FILE_OR_FOLDER (.txt, .jsonl or .parquet)"),
    ("dataset=text dataset.path=/no/such", "dataset.path=/no/such: no such file or folder"),
    ("dataset=text dataset.path={inputs}/empty.txt", "dataset.path={inputs}/empty.txt: there is no text in it"),
    ("dataset=text dataset.path={inputs}/blank.txt", "dataset.path={inputs}/blank.txt: there is no text in it"),
    ("dataset=text dataset.path={inputs}/binary.txt", "dataset.path={inputs}/binary.txt: binary.txt is not UTF-8 text"),
    ("dataset=text dataset.path={inputs}/zeros.txt", "dataset.path={inputs}/zeros.txt: zeros.txt is binary"),
    ("dataset=text dataset.path={inputs}/table.csv", "dataset.path={inputs}/table.csv: .csv ending; give a .txt"),
    ("dataset=text dataset.path={inputs}/nothing", "dataset.path={inputs}/nothing: the folder holds no .txt"),
    ("dataset=text dataset.path={inputs}/column.jsonl", "dataset.text_column=text: "),
    (
        "dataset=text dataset.path={inputs}/broken.jsonl",
        "dataset.path={inputs}/broken.jsonl: broken.jsonl cannot be read",
    ),
    ("dataset=text dataset.path={inputs}/empty.jsonl", "dataset.path={inputs}/empty.jsonl: "),
    (
        "dataset=text dataset.path={inputs}/broken.parquet",
        "dataset.path={inputs}/broken.parquet: broken.parquet cannot be read",
    ),
    ("dataset=fineweb", "dataset.name=HuggingFaceFW/fineweb: not a folder here, and the Hub at http://127.0.0.1:9"),
]
# After `model=hub dataset=pydoc tracking=off`.
MODELS = [
    ("", "model.name is missing: give model.name=ORGANISATION/MODEL or a local folder"),
    ("model.name=/no/such/folder", "model.name=/no/such/folder: no such folder"),
    ("model.name=no-such/model", "model.name=no-such/model: not a folder here, and the Hub at http://127.0.0.1:9"),
    ("model.name={inputs}/a_file", "model.name={inputs}/a_file: is a file; give the folder that holds it"),
    ("model.name={inputs}/nothing", "model.name={inputs}/nothing: cannot be loaded from this folder"),
    ("model.name={inputs}/cut_weights", "model.name={inputs}/cut_weights: a weight file is damaged"),
    ("model.name={inputs}/garbled_weights", "model.name={inputs}/garbled_weights: a weight file is damaged"),
    ("model.name={inputs}/pickled_weights", "model.name={inputs}/pickled_weights: no .safetensors file"),
    ("model.name={inputs}/lacking_weights", "model.name={inputs}/lacking_weights: its weight files lack 1 tensors"),
    ("model.name={inputs}/misshapen_weights", "model.name={inputs}/misshapen_weights: "),
    ("model.name={inputs}/garbled_config", "model.name={inputs}/garbled_config: cannot be loaded"),
    ("model.name={inputs}/mistyped_config", "model.name={inputs}/mistyped_config: cannot be loaded"),
    ("model.name={inputs}/unknown_family", "model.name: the architecture 'bert' is not known to neurexp; known are "),
    ("model.name={inputs}/no_tokenizer", "model.tokenizer={inputs}/no_tokenizer: no tokenizer files there"),
]
BEGINNINGS = (
    (MINI, WITH_MINI),
    ((), ALONE),
    (("model=mini", "tracking=off"), TEXTS),
    (("model=hub", "dataset=pydoc", "tracking=off"), MODELS),
)
CASES = [
    pytest.param((*beginning, *given.split()), answer, id=given.replace("{inputs}/", "") or "nothing given")
    for beginning, cases in BEGINNINGS
    for given, answer in cases
]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files and models, each broken in its own way."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "nothing").mkdir()
    for name, content in {
        "a_file": b"a file",
        "empty.txt": b"",
        "blank.txt": b" \n\t ",
        "binary.txt": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "zeros.txt": b"abc\0def",
        "table.csv": b"text\nhello\n",
        "column.jsonl": b'{"body": "hello"}\n',
        "broken.jsonl": b"no json\n",
        "empty.jsonl": b"",
        "broken.parquet": b"PAR1, but no more than that",
    }.items():
        (folder / name).write_bytes(content)

    sound = make_gpt_neo(folder / "sound", layers=2, width=16)
    config, weights = json.loads((sound / "config.json").read_text()), (sound / "model.safetensors").read_bytes()
    tensors = load_file(sound / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.weight"

    def spoil(name: str) -> Path:
        return Path(shutil.copytree(sound, folder / name))

    (spoil("cut_weights") / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (spoil("garbled_weights") / "model.safetensors").write_bytes(b"garbage" * 1000)
    (spoil("pickled_weights") / "model.safetensors").unlink()
    torch.save(tensors, folder / "pickled_weights" / "pytorch_model.bin")
    lacking = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(lacking, spoil("lacking_weights") / "model.safetensors", {"format": "pt"})
    save_file(
        tensors | {name: tensors[name].T.contiguous()},
        spoil("misshapen_weights") / "model.safetensors",
        {"format": "pt"},
    )
    (spoil("garbled_config") / "config.json").write_text("{no json")
    (spoil("unknown_family") / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (spoil("mistyped_config") / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    spoil("no_tokenizer")
    for file in (folder / "no_tokenizer").glob("tokenizer*"):
        file.unlink()

    large = spoil("large_tokenizer")
    definition = json.loads((large / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    vocabulary |= {f"word{index}": index for index in range(len(vocabulary), 9000)}
    (large / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def left_behind(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {"outputs", "outputs/token_length"}


@pytest.mark.parametrize(("arguments", "answer"), CASES)
def test_one_line_names_the_option_and_nothing_is_left_behind(quick_cli, inputs, tmp_path, arguments, answer):
    process = quick_cli(*(argument.format(inputs=inputs) for argument in arguments))
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert answer.format(inputs=inputs) in line
    assert "Traceback" not in process.stdout + process.stderr
    assert left_behind(tmp_path) == set()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_where_there_is_none_is_refused_with_what_works(quick_cli, tmp_path):
    process = quick_cli(*MINI, "device=cuda")
    assert process.returncode == 1
    assert process.stderr.startswith("error: device=cuda: PyTorch ")
    assert process.stderr.endswith("sees no such GPU here; give device=cpu or auto\n")
    assert left_behind(tmp_path) == set()


def test_the_default_model_without_a_hub_is_refused_with_the_offline_alternative(quick_cli, tmp_path):
    process = quick_cli()
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: model.name=EleutherAI/gpt-neo-125m: ")
    assert "the Hub at http://127.0.0.1:9 cannot be reached" in line
    assert "model=mini dataset=pydoc" in line
    assert left_behind(tmp_path) == set()


def test_a_finished_runs_folder_is_refused_and_stays_as_it_was(quick_cli, finished, tmp_path):
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    folder = Path(shutil.copytree(finished.folder, tmp_path / "finished"))
    before = contents()
    process = quick_cli(*MINI, "dataset.tokens=64", f"hydra.run.dir={folder}")
    assert process.returncode == 1
    assert process.stderr == f"error: hydra.run.dir={folder}: holds a finished run; choose another folder\n"
    assert contents() == before


def test_the_traceback_is_shown_to_who_asks_for_it(commands, cli):
    process = cli(*MINI, "dataset.tokens=0", HYDRA_FULL_ERROR="1")
    assert process.returncode == 1
    assert "Traceback" in process.stderr
    assert (
        process.stderr.splitlines()[-1]
        == "neurexp.errors.UserError: dataset.tokens=0: give a whole number of 1 or more"
    )


def test_an_empty_outputs_folder_is_not_the_root(quick_cli):
    process = quick_cli("model=mini", "dataset=pydoc", "run.outputs=")
    assert (process.returncode, process.stderr) == (1, "error: run.outputs is empty: give run.outputs=FOLDER\n")


def test_a_password_in_an_address_is_not_passed_on():
    assert without_secrets("tracking.uri=https://me:secret@host/x y") == "tracking.uri=https://***@host/x y"
    assert without_secrets("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"
