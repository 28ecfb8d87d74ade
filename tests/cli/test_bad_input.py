"""Whatever a user gets wrong: one line that names the option and what would work, and nothing left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import environment, sampled
from make_repos import make_gpt_neo
from mlflow import MlflowClient
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from neurexp.errors import without_secrets

GPT_NEO_SITES = "MLP, ACT, NEURON, PROJ, RESID_PRE, RESID_MID, RESID_POST, ATTN_OUT, Z, Q, K, V"
MINI = ("model=mini", "dataset=pydoc", "tracking=off")

# What is typed after the defaults (`{inputs}`: the folder of the fixture below) and what the answer must say. Arguments
# are split at spaces; a tuple is not. After MINI: the embedded model on the embedded text.
WITH_MINI = [
    ("dataset.tokens=10000000", "dataset.tokens=10000000: the text has only "),
    ("dataset.tokens=true", "dataset.tokens: Value 'True' of type 'bool'"),
    ("dataset.sequence_length=513", "dataset.sequence_length=513: mini has 512 positions; give 512 or fewer"),
    ("device.name=gpu", "device=gpu: no such device; give auto, cpu or cuda"),
    ("device.name=mps", "device=mps: not supported; give auto, cpu or cuda"),
    ("device.tf32=true device.name=cpu", "device.tf32=true: a cpu has no TensorFloat-32"),
    ("device.batch_size=1000000000000000", "device.batch_size=1000000000000000: give 2147483647 or fewer"),
    ("experiment.layer=-1", "experiment.layer=-1: this model has layers 0 to 5; give all, one of them, or a list"),
    ("experiment.layer=99", "experiment.layer=99: this model has layers 0 to 5"),
    ("experiment.layer=[0,6]", "experiment.layer=[0, 6]: this model has layers 0 to 5"),
    ("experiment.layer=[]", "experiment.layer=[]: this model has layers 0 to 5"),
    ("experiment.layer=[[0]]", "experiment.layer=[[0]]: this model has layers 0 to 5"),
    ("experiment.layer=first", "experiment.layer=first: this model has layers 0 to 5"),
    ("experiment.layer=1.5", "experiment.layer=1.5: this model has layers 0 to 5"),
    ("experiment.layer=true", "experiment.layer=True: this model has layers 0 to 5"),
    ("experiment.layer=", "experiment.layer=: this model has layers 0 to 5"),
    ("experiment.layer=1000000000000000", "experiment.layer=1000000000000000: this model has layers 0 to 5"),
    ("experiment.layer=null model.default_layer=99", "experiment.layer=99: this model has layers 0 to 5"),
    ("experiment.skip_positions=-1", "experiment.skip_positions=-1: give a whole number of 0 or more"),
    ("experiment.skip_positions=512", "experiment.skip_positions=512: give a whole number from 0 to 511"),
    ("experiment.name=../../x", "experiment.name=../../x: it becomes a folder's"),
    ("experiment.site=", f"experiment.site=: gpt_neo has {GPT_NEO_SITES}; give one of them"),
    ("experiment.site=MPL", f"experiment.site=MPL: gpt_neo has {GPT_NEO_SITES}; did you mean MLP?"),
    ("dataset.bos=maybe", "dataset.bos=maybe: give auto, true or false"),
    ("dataset.eos=[1]", "dataset.eos=[1]: give auto, true or false"),
    ("model.weights=none", "model.weights: Invalid value 'none', expected one of [pretrained, random]"),
    ("model.tokenizer=/no/such", "model.tokenizer=/no/such: no such folder"),
    ("model.tokenizer=", "model.tokenizer is empty: give model.tokenizer=ORGANISATION/MODEL, a local folder, or mini"),
    ("model.name=", "model.name is empty: give model.name=ORGANISATION/MODEL, a local folder, or mini"),
    ("model.tokenizer={inputs}/no_end", "model.tokenizer: it has no end-of-text token"),
    ("hydra.run.dir={inputs}/a_file/below", "hydra.run.dir: the run folder cannot be made"),
    ("run.outputs={inputs}/a_file", "hydra.run.dir: the run folder cannot be made"),
    ("run.outputs={inputs}/dangling", "hydra.run.dir: the run folder cannot be made"),
    ("run.outputs={inputs}/loop", "hydra.run.dir: the run folder cannot be made"),
    ("run.outputs=/proc/none", "hydra.run.dir: the run folder cannot be made"),
    (f"run.outputs={'a' * 300}", "File name too long"),
    ("run.outputs=${nowhere}", "hydra.run.dir: Interpolation key 'nowhere' not found"),
    ("run.outputs=" + "{inputs}/no_cache", "run.outputs: {inputs}/no_cache/cache cannot be made"),
    ("hydra.run.dir=", "hydra.run.dir is empty: give hydra.run.dir=FOLDER"),
    ("hydra.run.dir=${now:%Y", "hydra.run.dir=${now:%Y: quote the value"),
    ("tracking=mlflow tracking.uri=nonsense://x", "tracking.uri=nonsense://x: MLflow cannot be opened there"),
    ("hydra/launcher=joblob", "hydra/launcher=joblob: no such choice; did you mean joblib?"),
    ("--config-name=x", "Cannot find primary config 'x'"),
    # An escape sequence, a newline, a bidirectional override: told as its escape
    (("dataset.tokens=\x1b[31mred",), "dataset.tokens=\\x1b[31mred: quote the value"),
    (("experiment.site='a\nb\x1b[2J'",), "experiment.site=a\\nb\\x1b[2J: gpt_neo has MLP"),
    (("experiment.layer='\x1b[2J'",), "experiment.layer=\\x1b[2J: this model has layers 0 to 5"),
    (("device.name='\u202ecpu'",), "device=\\u202ecpu: no such device"),
    (("model.name='\u202e\x07'",), "model.name=\\u202e\\x07: no such folder"),
]
# On their own: what is chosen is what is wrong.
ALONE = [
    ("model=min", "model=min: no such choice; did you mean mini? (choices: gpt_neo_125m, gpt_neo_1_3b, hub, mini"),
    ("devise=cpu", "devise: no such option; did you mean device?"),
    ("~experiment", "hydra.run.dir: "),
    ("-m model=mini run.outputs= experiment.layer=0,1", "run.outputs is empty: give run.outputs=FOLDER"),
    ("-m model=mini hydra.sweep.dir= experiment.layer=0,1", "hydra.sweep.dir is empty: give hydra.sweep.dir=FOLDER"),
    ("-m model=mini hydra.sweep.dir=${nowhere}", "hydra.sweep.dir: Interpolation key 'nowhere' not found"),
    ("model@x=mini", "model@x"),
]
# After `model=mini tracking=off`.
TEXTS = [
    ("dataset=text dataset.path={inputs}/dangling", "dataset.path={inputs}/dangling: no such file or folder"),
    ("dataset=text dataset.path={inputs}/loop", "dataset.path={inputs}/loop: no such file or folder"),
    ("dataset=text dataset.path=/dev/zero", "dataset.path=/dev/zero: no such file or folder"),
    ("dataset=text dataset.path={inputs}/utf16.txt", "dataset.path={inputs}/utf16.txt: not UTF-16-LE text (truncated"),
    ("dataset=text dataset.path={inputs}/null.jsonl", "dataset.path={inputs}/null.jsonl: row 1: not an object"),
    (
        "dataset=text dataset.path={inputs}/list.jsonl",
        "1 of 2 rows cannot be used ({inputs}/list.jsonl, row 2: not an object",
    ),
    ("dataset=text dataset.path={inputs}/deep.jsonl", "deep.jsonl: row 1: JSON nested too deeply"),
    ("dataset=text dataset.path={inputs}/cut.jsonl", "cut.jsonl: row 1: not JSON: Unterminated string"),
    ("dataset=text dataset.path={inputs}/number.jsonl", "number.jsonl: row 1: a number in place of text"),
    ("dataset=text dataset.path={inputs}/half.jsonl", "half.jsonl: row 1: half a character (\\ud800)"),
    ("dataset=text dataset.path={inputs}/zero.jsonl", "zero.jsonl: row 1: binary, not text"),
    (
        "dataset=text dataset.tokens=1000000000000000 dataset.path={inputs}/table.csv",
        "dataset.tokens=1000000000000000: give ",
    ),
    (
        "dataset=text dataset.tokens=1000000000 dataset.path={inputs}/right_to_left.txt",
        "dataset.tokens=1000000000: the text has only ",
    ),
    ("dataset=text dataset.path=/no/such", "dataset.path=/no/such: no such file or folder"),
    ("dataset=text dataset.path={inputs}/empty.txt", "dataset.path={inputs}/empty.txt: there is no text in it"),
    ("dataset=text dataset.path={inputs}/blank.txt", "dataset.path={inputs}/blank.txt: there is no text in it"),
    ("dataset=text dataset.path={inputs}/binary.txt", "dataset.path={inputs}/binary.txt: not UTF-8 text (invalid"),
    ("dataset=text dataset.path={inputs}/zeros.txt", "dataset.path={inputs}/zeros.txt: binary, not text"),
    ("dataset=text dataset.path={inputs}/page.html", "dataset.path={inputs}/page.html: .html ending; give .txt"),
    ("dataset=text dataset.path={inputs}/table.csv", "table.csv: no column text; the columns are "),
    (
        "dataset=text dataset.bad_rows=-1 dataset.path={inputs}/zeros.txt",
        "dataset.bad_rows=-1: give a share from 0 to 1",
    ),
    ("dataset=text dataset.bad_rows=nan dataset.path={inputs}/zeros.txt", "dataset.bad_rows=nan: give a share"),
    (
        "dataset=text dataset.path={inputs}/nothing",
        "dataset.path={inputs}/nothing: the folder holds no text; give .txt",
    ),
    ("dataset=text dataset.path={inputs}/column.jsonl", "dataset.text_column=text: "),
    (
        "dataset=text dataset.path={inputs}/broken.jsonl",
        "dataset.path={inputs}/broken.jsonl: row 1: not JSON",
    ),
    ("dataset=text dataset.path={inputs}/empty.jsonl", "dataset.path={inputs}/empty.jsonl: "),
    (
        "dataset=text dataset.path={inputs}/broken.parquet",
        "dataset.path={inputs}/broken.parquet: cannot be read",
    ),
    ("dataset=fineweb", "dataset.name=HuggingFaceFW/fineweb: not a folder here, and the Hub at {hub}"),
]
# After `model=hub dataset=pydoc tracking=off`.
MODELS = [
    ("model.name=/no/such/folder", "model.name=/no/such/folder: no such folder"),
    ("model.name=no-such/model", "model.name=no-such/model: not a folder here, and the Hub at {hub}"),
    ("model.name={inputs}/a_file", "model.name={inputs}/a_file: is a file; give the folder that holds it"),
    ("model.name={inputs}/nothing", "model.name={inputs}/nothing: is no model's folder (no config.json)"),
    ("model.name={inputs}/cut_weights", "model.name={inputs}/cut_weights: a weight file is damaged"),
    ("model.name={inputs}/garbled_weights", "model.name={inputs}/garbled_weights: a weight file is damaged"),
    ("model.name={inputs}/pickled_weights", "model.name={inputs}/pickled_weights: it has no .safetensors file"),
    ("model.name={inputs}/lacking_weights", "; give the config.json that they were saved with, or fetch it again"),
    ("model.name={inputs}/misshapen_weights", "model.name={inputs}/misshapen_weights: "),
    ("model.name={inputs}/garbled_config", "); fetch it again, or give another model.name"),
    ("model.name={inputs}/mistyped_config", "model.name={inputs}/mistyped_config: cannot be loaded"),
    ("model.name={inputs}/unknown_family", "model.name: the architecture 'bert' is not known to neurexp; known are "),
    ("model.name={inputs}/no_tokenizer", "model.tokenizer={inputs}/no_tokenizer: no tokenizer files there"),
    ("model.name={inputs}/dangling", "model.name={inputs}/dangling: no such folder"),
    ("model.name={inputs}/loop", "model.name={inputs}/loop: no such folder"),
    (("model.name='$(touch pwned);{x}'",), "model.name=$(touch pwned);{x}: no such folder, nor is it a Hub id"),
    ("model.name=../../etc/passwd/x", "model.name=../../etc/passwd/x: no such folder, nor is it a Hub id"),
    (f"model.name={'a' * 300}", "cannot be a folder ([Errno 36] File name too long"),
    ("model.name={inputs}/nan_weights", "MLP_1 puts out NaN or infinity"),
    ("model.name={inputs}/infinite_weights", "MLP_1 puts out NaN or infinity"),
    ("model.name={inputs}/empty_weights", "model.name={inputs}/empty_weights: its weight files lack 31 tensors"),
    ("model.name={inputs}/wider_config", "model.name={inputs}/wider_config: its weights have other shapes"),
    ("model.name={inputs}/smaller_vocabulary", "model.name={inputs}/smaller_vocabulary: its weights have other shapes"),
    ("model.name={inputs}/huge_config", "model.name={inputs}/huge_config: cannot be loaded"),
    ("model.name={inputs}/deep_config", "model.name={inputs}/deep_config: cannot be loaded"),
    ("model.name={inputs}/encoder", "model.name: the architecture 'bert' is not known"),
    ("model.name={inputs}/encoder_decoder", "model.name: the architecture 't5' is not known"),
    (
        "model.name={inputs}/own_code",
        "model.name={inputs}/own_code: its architecture 'own' comes as code in the repository",
    ),
    ("model.name={inputs}/escape_config", "model.name: the architecture 'a\\x1b[31m\\nb' is not known"),
    ("model.name={inputs}/garbled_tokenizer", "); fetch it again, or give another model.tokenizer"),
    ("model.name={inputs}/garbled_counts", "model.tokenizer={inputs}/garbled_counts: token_counts.safetensors"),
    ("model.name={inputs}/sound model.tokenizer=mini", "model.tokenizer: its token "),
]
# After `experiment=grammar_tuning experiment.text=false` and MINI; tests/test_grammar_cli.py has its other options.
LISTS = [
    ("experiment.words={inputs}/a_file", "experiment.words={inputs}/a_file: is a file"),
    ("experiment.words={inputs}/dangling", "experiment.words={inputs}/dangling: no such folder"),
    (
        "experiment.words={inputs}/lists/one_list",
        "experiment.words={inputs}/lists/one_list: the folder has 1 CATEGORY.txt",
    ),
    ("experiment.words={inputs}/lists/empty_list", "a.txt is empty; put 4 or more words in it"),
    ("experiment.words={inputs}/lists/one_word", "a.txt has 1 different words that are in no other list"),
    ("experiment.words={inputs}/lists/same_words", "a.txt has 0 different words that are in no other list"),
    ("experiment.words={inputs}/lists/repeated", "a.txt has 1 different words that are in no other list"),
    ("experiment.words={inputs}/lists/latin", "a.txt, row 1: not UTF-8 text); correct them, or give"),
    ("experiment.words={inputs}/lists/huge", "a.txt, row 1: “xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…” has 1000000 characters"),
    ("experiment.words={inputs}/lists/escape", "a.txt, row 1: “\\x1b[31mred” has an invisible character, U+001B"),
    ("experiment.words={inputs}/lists/override", "a.txt, row 1: “\\u202egnol” has an invisible character, U+202E"),
    ("experiment.words={inputs}/lists/sound experiment.template=", "experiment.template=: give a text with one {word}"),
    (
        "experiment.words={inputs}/lists/sound experiment.permutations=1e9",
        "experiment.permutations: Value '1000000000.0'",
    ),
]
BEGINNINGS = (
    (MINI, WITH_MINI),
    ((), ALONE),
    (("model=mini", "tracking=off"), TEXTS),
    (("model=hub", "dataset=pydoc", "tracking=off"), MODELS),
    (("experiment=grammar_tuning", "experiment.text=false", *MINI), LISTS),
)


def case(beginning: tuple[str, ...], given: str | tuple[str, ...], answer: str, **marks):
    split = tuple(given.split()) if isinstance(given, str) else given
    return pytest.param((*beginning, *split), answer, id=ascii(" ".join(split))[1:60] or "nothing given", **marks)


CASES = [case(beginning, *one) for beginning, cases in BEGINNINGS for one in cases]


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
        "table.csv": b"body\nhello\n",
        "page.html": b"<p>hello</p>",
        "column.jsonl": b'{"body": "hello"}\n',
        "broken.jsonl": b"no json\n",
        "empty.jsonl": b"",
        "broken.parquet": b"PAR1, but no more than that",
        "utf16.txt": "hello world".encode("utf-16")[:-1],
        "right_to_left.txt": "שלום עולם ".encode() * 100,
        "null.jsonl": b"null\n",
        "list.jsonl": b'{"text": "hello"}\n[1, 2]\n',
        "deep.jsonl": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "cut.jsonl": b'{"text": "hello',
        "number.jsonl": b'{"text": 3}\n',
        "half.jsonl": b'{"text": "half a character: \\ud800"}\n',
        "zero.jsonl": b'{"text": "a\\u0000b"}\n',
    }.items():
        (folder / name).write_bytes(content)
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "no_cache").mkdir()
    (folder / "no_cache" / "cache").write_text("a file where a folder must be")
    _make_lists(folder / "lists")

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

    for spoilt, value in (("nan_weights", float("nan")), ("infinite_weights", float("inf"))):
        full = torch.full_like(tensors[name], value)
        save_file(tensors | {name: full}, spoil(spoilt) / "model.safetensors", {"format": "pt"})
    save_file({}, spoil("empty_weights") / "model.safetensors", {"format": "pt"})
    for spoilt, change in {
        "wider_config": {"hidden_size": 32},
        "smaller_vocabulary": {"vocab_size": 10},
        "more_layers": {"num_layers": 4},
        "huge_config": {"hidden_size": 10**12},
        "encoder_decoder": {"model_type": "t5"},
        "own_code": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
        "escape_config": {"model_type": "a\x1b[31m\nb"},
    }.items():
        (spoil(spoilt) / "config.json").write_text(json.dumps(config | change))
    (spoil("deep_config") / "config.json").write_text("[" * 200_000)
    BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=8).save_pretrained(spoil("encoder"))
    (spoil("garbled_tokenizer") / "tokenizer.json").write_bytes(bytes(range(256)))
    (spoil("garbled_counts") / "token_counts.safetensors").write_bytes(b"garbage")
    settings = json.loads((sound / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if not key.endswith("_token")}
    (spoil("no_end") / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _make_lists(folder: Path) -> None:
    """Folders of word lists `a.txt` and `b.txt`, whose first one is broken in its own way."""
    sound = "".join(f"{word}\n" for word in ("door", "house", "tree", "river", "stone")).encode()
    for name, content in {
        "sound": b"run\ngo\nsee\ntake\n",
        "empty_list": b"",
        "one_word": b"run\n",
        "same_words": sound,
        "repeated": b"run\n" * 5,
        "latin": b"caf\xe9\nrun\ngo\nsee\n",
        "huge": b"x" * 1_000_000 + b"\nrun\ngo\nsee\n",
        "escape": b"\x1b[31mred\nrun\ngo\nsee\n",
        "override": "\u202egnol\nrun\ngo\nsee\n".encode(),
        "one_list": None,
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "b.txt").write_bytes(sound)
        if content is not None:
            (folder / name / "a.txt").write_bytes(content)


def left_behind(folder: Path) -> set[str]:
    """Files and run folders that a refused command left; the tokens of its text, which others will want, are none."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or re.match(r"\d{4}-\d\d-", path.name)]
    return {str(path.relative_to(folder)) for path in found if not path.name.startswith("tokens_")}


def digest_of(folder: Path) -> list[tuple[str, int, int]]:
    """Every file of a folder, its size and its time: what changes when anything in it is lost."""
    facts = ((path, path.lstat()) for path in sorted(folder.rglob("*")))
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in facts if "no_cache" not in path.parts]


@pytest.mark.parametrize(("arguments", "answer"), sampled(CASES, 5))
def test_one_line_names_the_option_and_nothing_is_left_behind(quick_cli, hub_port, inputs, tmp_path, arguments, answer):
    before = digest_of(inputs)
    process = quick_cli(*(argument.replace("{inputs}", str(inputs)) for argument in arguments), timeout=20)
    assert process.returncode == 1
    line = process.stderr.removesuffix("\n")
    assert line.startswith("error: ")
    assert line.isprintable()
    answer = answer.replace("{inputs}", str(inputs)).replace("{hub}", f"http://127.0.0.1:{hub_port} cannot be reached")
    assert answer in line
    assert "Traceback" not in process.stdout
    assert digest_of(inputs) == before
    assert left_behind(tmp_path) == set()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_where_there_is_none_is_refused_with_what_works(quick_cli, tmp_path):
    process = quick_cli(*MINI, "device=cuda")
    assert process.returncode == 1
    assert process.stderr.startswith("error: device=cuda: PyTorch ")
    assert process.stderr.endswith("sees no such GPU here; give device=cpu or auto\n")
    assert left_behind(tmp_path) == set()


def test_the_default_model_without_a_hub_is_refused_with_the_offline_alternative(quick_cli, hub_port, tmp_path):
    process = quick_cli()
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: model.name=EleutherAI/gpt-neo-125m: ")
    assert f"the Hub at http://127.0.0.1:{hub_port} cannot be reached" in line
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


# Where it is written


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("48k")` is a folder on a file system of that size; skips where none may be mounted."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("only root may mount")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


def half_written(folder: Path) -> list[str]:
    """Files that look like a result and are none: temporary ones, and tables and tensors that cannot be read."""
    bad = [str(path) for path in folder.rglob("*.tmp")]
    for path in folder.rglob("*"):
        if path.suffix in (".parquet", ".safetensors", ".json"):
            read = {
                ".parquet": parquet.read_table,
                ".safetensors": load_file,
                ".json": lambda one: json.loads(one.read_text("utf-8")),
            }
            try:
                read[path.suffix](path)
            except Exception as error:
                bad.append(f"{path}: {error}")
    return bad


@pytest.mark.parametrize("size", ["48k", "300k", "1m"])
def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(quick_cli, small_disk, size):
    """The disk is full at the first table, at the neurons' table, and among the figures."""
    disk = small_disk(size)
    process = quick_cli(*MINI, "dataset.tokens=300", f"run.outputs={disk}/outputs", timeout=30, draws=True)
    assert process.returncode == 1
    assert process.stderr.startswith("error: run.outputs: ")
    assert "No space left on device" in process.stderr
    assert process.stderr.removesuffix("\n").isprintable()
    assert not list(disk.rglob("summary.json"))
    assert half_written(disk) == []


def test_a_disk_that_takes_nothing_at_all_is_one_line(quick_cli, small_disk):
    process = quick_cli(*MINI, "dataset.tokens=300", f"run.outputs={small_disk('16k')}/outputs", timeout=30)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1


def test_a_disk_that_fills_up_as_artifacts_are_copied_is_one_line(quick_cli, small_disk):
    arguments = ("model=mini", "dataset=pydoc", "dataset.tokens=300")
    outputs = small_disk("3m") / "outputs"
    process = quick_cli(*arguments, f"run.outputs={outputs}", timeout=60, draws=True)
    assert process.returncode == 1
    assert process.stderr.startswith("error: tracking: MLflow did not take the run ([Errno 28] No space left")
    assert len(process.stderr.splitlines()) == 1
    (summary,) = outputs.rglob("summary.json")
    assert half_written(outputs) == []
    assert {"neurons.parquet", "layers.parquet", "figures"} <= {path.name for path in summary.parent.iterdir()}


def test_a_quota_that_a_file_exceeds_is_one_line_without_root(quick_cli, tmp_path):
    """As a full disk, where nobody may mount one: no file may be larger than the first table."""
    process = quick_cli(*MINI, "dataset.tokens=300", largest_file=100_000)
    assert process.returncode == 1
    assert process.stderr.startswith("error: run.outputs: ")
    assert "File too large" in process.stderr
    assert process.stderr.removesuffix("\n").isprintable()
    assert not list(tmp_path.rglob("summary.json"))
    assert half_written(tmp_path) == []


def test_a_read_only_file_system_is_one_line(quick_cli, small_disk):
    disk = small_disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    process = quick_cli(*MINI, f"run.outputs={disk}/outputs", timeout=20)
    assert process.returncode == 1
    assert process.stderr.startswith("error: hydra.run.dir: the run folder cannot be made ([Errno 30] Read-only")
    assert process.stderr.removesuffix("\n").isprintable()


def test_a_folder_that_others_own_is_one_line(tmp_path):
    """Root may write anywhere, so the command gives its rights up once it has started."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    outputs = tmp_path / "outputs"
    outputs.mkdir(mode=0o755)
    code = """import os, runpy, neurexp.runs.driver
os.setgid(65534)
os.setuid(65534)
runpy.run_module("neurexp", run_name="__main__", alter_sys=True)"""
    process = subprocess.run(
        [sys.executable, "-c", code, *MINI, f"run.outputs={outputs}"],
        cwd=tmp_path, env=environment(tmp_path / "hf"), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "ModuleNotFoundError" in process.stderr or "Could not find 'hydra" in process.stderr:
        pytest.skip("the other user cannot read this checkout")
    assert process.returncode == 1
    assert process.stderr.startswith(
        "error: hydra.run.dir: the run folder cannot be made ([Errno 13] Permission denied"
    )
    assert process.stderr.removesuffix("\n").isprintable()


@pytest.mark.slow
def test_a_store_that_cannot_be_opened_is_told_within_seconds(quick_cli, tmp_path):
    (tmp_path / "outputs" / "mlflow.db").mkdir(parents=True)
    process = quick_cli("model=mini", "dataset=pydoc", "dataset.tokens=300", timeout=10)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1


ODD_NAMES = (
    "we ird",
    "a=b",
    "$(touch pwned)",
    "a;b",
    "{x}",
    "q\"'uo",
    "שלום",
    "x\x1b[31my",
    "\u202ex",
    "new\nline",
    "<b>",
)


def test_outputs_may_be_a_link_and_have_any_name(quick_cli, tmp_path):
    """What is written lies where the link leads, or in the folder of that very name; nothing beside it."""
    name = " ".join(ODD_NAMES)
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    process = quick_cli(
        "model=mini", "dataset=pydoc", "dataset.tokens=64", "experiment.layer=0", f"run.outputs={tmp_path / 'link'}"
    )
    assert process.returncode == 0, process.stderr
    assert (process.stderr, {path.name for path in tmp_path.iterdir()}) == ("", {"link", name})
    assert {"mlflow.db", "mlartifacts", "token_length", "cache"} <= {path.name for path in (tmp_path / name).iterdir()}
    assert all(line.isprintable() for line in process.stdout.splitlines())


# Long and hostile texts


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "ending"),
    [
        ("lorem ipsum ", "txt"),
        ("x", "txt"),
        *(pytest.param(*one, marks=SLOW) for one in (("字", "txt"), ("x", "jsonl"))),
    ],
)
def test_a_line_of_50_megabytes_is_run_within_seconds(quick_cli, tmp_path, content, ending):
    text = content * (50_000_000 // len(content.encode()))
    path = tmp_path / f"line.{ending}"
    path.write_text(text if ending == "txt" else json.dumps({"text": text}), "utf-8")
    process = quick_cli(
        "model=mini", "tracking=off", "dataset=text", f"dataset.path='{path}'", "dataset.tokens=64", timeout=30
    )
    assert process.returncode == 0, process.stderr


HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "../../etc/x", "$(touch pwned)", "`touch pwned`",
    "a'; DROP TABLE runs; --", "{word}", "%s%n", "שלום", "$x_1^2$",
)  # fmt: skip


def test_words_and_texts_reach_no_page_file_name_or_store_unescaped(quick_cli, tmp_path):
    """Hostile words, lists of hostile names, a hostile text: on every page they are text, and nothing else."""
    lists, text = tmp_path / "lists $(touch pwned)", tmp_path / "<img src=x onerror=alert(1)> \x1b[31m.txt"
    lists.mkdir()
    plain = ["door", "house", "tree", "river", "stone", "lamp"]
    (lists / "<svg onload=alert(1)>.txt").write_text("\n".join(HOSTILE), "utf-8")
    (lists / "b.txt").write_text("\n".join(plain), "utf-8")
    passage = " and ".join(f"the {one} is {other}\u202e\x1b[2J" for one in (*HOSTILE, *plain) for other in HOSTILE)
    text.write_text(passage * 2, "utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    process = quick_cli(
        "experiment=grammar_tuning", "model=mini", "dataset=text", "dataset.tokens=1500", "experiment.permutations=100",
        "experiment.splits=2", "experiment.shuffles=2", f"experiment.words='{lists}'", f"dataset.path='{text}'",
        draws=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert all(line.isprintable() for line in process.stdout.splitlines())
    assert {path.name for path in tmp_path.iterdir()} - before == {"outputs"}
    (folder,) = (tmp_path / "outputs" / "grammar_tuning").iterdir()
    pages = list(folder.rglob("*.html"))
    assert pages
    for page in pages:
        content = page.read_text("utf-8")
        elements = set(re.findall(r"<\s*/?\s*(\w+)", content))
        assert elements <= {"html", "head", "meta", "title", "style", "body", "div", "h1", "h2", "p", "span", "footer"}
        assert "\x1b" not in content
        assert "\u202e" not in content
    names = [path.name for path in (tmp_path / "outputs").rglob("*")]
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names), names
    (run,) = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}").search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.params["experiment.words"] == str(lists)
    assert run.data.params["dataset.path"] == str(text)
