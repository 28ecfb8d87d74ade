"""Whatever a caller gets wrong from Python, and whatever is wrong with folders to compare: one line, at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Finished
from tiny import POSITIONS, build, token_ids
from transformers import BertConfig, BertModel

import neurexp
from neurexp.runs.compare import compare, main, read_run

IDS = token_ids(2, 8)
RANDOM = {"weights": "random", "architecture": {"model_type": "gpt_neo"}}

# What is given to load_model, and what the UserError must say
LOADS = [
    ({"name": ""}, "model.name is empty"),
    ({"name": None}, "model.name=None: give text"),
    ({"name": Path("/no/such")}, "model.name=/no/such: give text, as str(path) of a folder"),
    ({"name": "a\0b"}, "model.name=a\\x00b: no such folder"),
    ({"name": "\x1b[2J"}, "model.name=\\x1b[2J: no such folder"),
    ({"revision": None}, "model.revision=None: give text"),
    ({"tokenizer": ""}, "model.tokenizer is empty"),
    ({"tokenizer": 3}, "model.tokenizer=3: give text"),
    ({"weights": None}, "model.weights=None: give pretrained or random"),
    ({"dtype": torch.float32}, "device.dtype=torch.float32: give float32, bfloat16 or float16"),
    ({"device": None}, "device=None: no such device"),
    ({"device": "\x1b[2J"}, "device=\\x1b[2J: no such device"),
    ({"weights": "random", "seed": -1}, "run.seed=-1: give a whole number from 0"),
    ({"weights": "random", "seed": 1.5}, "run.seed=1.5: give a whole number"),
    ({"weights": "random", "seed": 2**64}, "run.seed=18446744073709551616: give a whole number"),
    (RANDOM | {"architecture": [1]}, "model.architecture=[1]: give names and values"),
    (RANDOM | {"architecture": {}}, "model.architecture=mini: cannot be built"),
    (RANDOM | {"architecture": {"model_type": "bert"}}, "the architecture 'bert' is not known"),
    (
        RANDOM | {"architecture": {"model_type": "gpt_neo", "hidden_size": -1}},
        "); correct its values",
    ),
]
# What is given to capture beside a model and ids; whether it is a UserError or a ValueError, and what it must say
CAPTURES = [
    ({"input_ids": torch.full((1, 4), float("nan"))}, ValueError, "input_ids must be integers"),
    ({"input_ids": IDS[None]}, ValueError, "input_ids must be integers"),
    ({"input_ids": []}, ValueError, "input_ids must be integers"),
    ({"input_ids": [-(2**63)]}, ValueError, "input_ids must be 0 or more"),
    ({"input_ids": [10**9]}, ValueError, "input_ids must be 0 or more"),
    ({"stride": 0}, ValueError, f"stride is 0; give a whole number of tokens from 1 to {POSITIONS}"),
    ({"input_ids": token_ids(1, POSITIONS + 1), "stride": POSITIONS + 1}, ValueError, f"from 1 to {POSITIONS}"),
    ({"input_ids": "a text"}, neurexp.UserError, "texts need a model of neurexp.load_model"),
    ({"input_ids": ["a text"], "valid": [True]}, ValueError, "valid is for token ids"),
    ({"valid": torch.ones(2, 7)}, ValueError, "valid has shape"),
    ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ({"budget_bytes": -1}, MemoryError, "bytes of -1"),
    ({"site": None}, neurexp.UserError, "experiment.site=null: give one site, or a list"),
    ({"site": ["MLP", "mlp"]}, neurexp.UserError, "did you mean MLP?"),
    ({"site": "\x1b[2J"}, neurexp.UserError, "experiment.site=\\x1b[2J: gpt_neo has MLP"),
    ({"layers": -1}, neurexp.UserError, "this model has layers 0 to 2"),
    ({"layers": float("nan")}, neurexp.UserError, "this model has layers 0 to 2"),
    ({"layers": {0: 1}}, neurexp.UserError, "this model has layers 0 to 2"),
    ({"layers": range(10**12)}, neurexp.UserError, "this model has layers 0 to 2"),
    ({"layers": np.zeros((1, 1), int)}, neurexp.UserError, "this model has layers 0 to 2"),
]
# What is no model, or no numbers: the message names the argument
UNNAMED = [
    ({"input_ids": None}, "input_ids"),
    ({"input_ids": ["hello", 1]}, "input_ids"),
    ({"input_ids": [[1, 2], [3]]}, "input_ids"),
    ({"input_ids": [2**70]}, "input_ids"),
    ({"input_ids": np.array([1j])}, "input_ids"),
    ({"input_ids": np.array([2**63], dtype=np.uint64)}, "input_ids"),
    ({"valid": np.array(["yes"] * 8)}, "valid"),
    ({"valid": torch.full((2, 8), float("nan"))}, "valid"),
    ({"batch_size": 1.5}, "batch_size"),
    ({"batch_size": None}, "batch_size"),
    ({"model": "mini"}, "model"),
    ({"model": torch.nn.Linear(2, 2)}, "model"),
]


@pytest.fixture(scope="module")
def model():
    return build("gpt_neo")


def refusal(call: Callable, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> str:
    with pytest.raises(kinds) as refused:
        call()
    message = str(refused.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(("given", "answer"), LOADS, ids=lambda given: ascii(given)[:60])
def test_what_cannot_be_loaded_names_the_option(given, answer):
    assert answer in refusal(lambda: neurexp.load_model(**given), neurexp.UserError)


@pytest.mark.parametrize(("given", "kind", "answer"), CAPTURES, ids=lambda given: ascii(given)[:60])
def test_what_cannot_be_captured_is_named(model, given, kind, answer):
    assert answer in refusal(lambda: neurexp.capture(**({"model": model, "input_ids": IDS} | given)), kind)


@pytest.mark.parametrize(("given", "name"), UNNAMED, ids=lambda given: ascii(given)[:60])
def test_what_cannot_be_captured_at_all_is_named_too(model, given, name):
    call = {"model": model, "input_ids": IDS} | given
    message = refusal(lambda: neurexp.capture(**call), (ValueError, TypeError, neurexp.UserError))
    assert name in message


def test_an_encoder_and_a_misspelt_name_are_refused():
    encoder = BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    assert "known are gpt_neo" in refusal(lambda: neurexp.capture(encoder, IDS), neurexp.UserError)
    assert "no attribute 'captur'" in refusal(lambda: neurexp.captur, AttributeError)


def test_nan_weights_are_shown_and_not_hidden():
    """`capture` gives what the model computes; a run refuses it (test_bad_input.py)."""
    model = build("gpt_neo")
    model.transformer.h[1].mlp.c_fc.weight.data.fill_(torch.nan)
    captured = neurexp.capture(model, IDS, layers=[0, 1])
    assert captured["MLP_0"].isfinite().all()
    assert captured["MLP_1"].isnan().all()


# Runs to compare


@pytest.fixture(scope="module")
def runs(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of a finished run, each broken in its own way."""
    folder = tmp_path_factory.mktemp("runs")

    def spoil(name: str) -> Path:
        return Path(shutil.copytree(finished.folder, folder / name))

    summary = json.loads((spoil("sound") / "summary.json").read_text("utf-8"))
    for name, content in {
        "no_json": "{no",
        "a_list": "[1]",
        "of_a_sweep": json.dumps({"experiment": "sweep", "jobs": []}),
        "no_metrics": json.dumps(summary | {"metrics": None}),
        "many_layers": json.dumps(summary | {"model_layers": "many"}),
        "deep": "[" * 200_000,
        "other_statistic": json.dumps(summary | {"statistic": "no_such"}),
        "other_model": json.dumps(
            summary | {"experiment": "\x1b[2J\n", "provenance": summary["provenance"] | {"model_hash": "another"}}
        ),
    }.items():
        (spoil(name) / "summary.json").write_text(content, "utf-8")
    spoil("again")
    (spoil("no_table") / "neurons.parquet").unlink()
    (spoil("torn_table") / "neurons.parquet").write_bytes(b"PAR1, but no more than that")
    shutil.copy(folder / "sound" / "layers.parquet", spoil("wrong_table") / "neurons.parquet")
    (folder / "nothing").mkdir()
    (folder / "a_file").write_text("a file")
    (folder / "loop").symlink_to(folder / "loop")
    return folder


COMPARED = [
    ([], "compare: give two runs or more"),
    (
        ["{runs}/nothing"],
        "nothing: not the folder of a finished run (summary.json, layers.parquet, neurons.parquet missing)",
    ),
    (["{runs}/a_file"], "a_file: no such run folder, and no MLflow store at "),
    (["{runs}/loop"], "loop: no such run folder, and no MLflow store at "),
    (["{runs}/x\x1b[2J\n"], "x\\x1b[2J\\n: no such run folder"),
    (["a" * 300], "cannot be a run folder ([Errno 36] File name too long"),
    (["{runs}/no_json"], "no_json: cannot be read (Expecting property name"),
    (["{runs}/deep"], "deep: cannot be read (maximum recursion depth"),
    (["{runs}/a_list"], "a_list: its summary.json is not that of one finished run"),
    (["{runs}/of_a_sweep"], "of_a_sweep: its summary.json is not that of one finished run (setting, statistic, "),
    (["{runs}/no_metrics"], "no_metrics: its summary.json is not that of one finished run (metrics missing)"),
    (["{runs}/many_layers"], "many_layers: its summary.json is not that of one finished run (model_layers missing)"),
    (["{runs}/other_model"], ", {runs}/other_model: \\x1b[2J\\n, "),
    (["{runs}/nothing/../sound"], "compare: {runs}/sound is given 2 times; give each run once"),
    (["{runs}/no_table"], "no_table: not the folder of a finished run (neurons.parquet missing)"),
    (["{runs}/torn_table"], "torn_table: cannot be read (Parquet magic bytes"),
    (["{runs}/wrong_table"], "compare: {runs}/wrong_table has no r_length"),
    (["0123", "--uri", "nonsense://x"], "--uri=nonsense://x: MLflow cannot be opened there"),
    (["{runs}/again", "--outputs", "/proc/none"], "--outputs /proc/none: /proc/none/compare/"),
]


@pytest.mark.parametrize(("given", "answer"), COMPARED, ids=lambda given: ascii(given)[:60])
def test_what_cannot_be_compared_is_one_line(runs, tmp_path, capsys, given, answer):
    arguments = [str(runs / "sound"), *(one.replace("{runs}", str(runs)) for one in given)]
    if "--outputs" not in given:
        arguments += ["--outputs", str(tmp_path / "outputs")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--no-mlflow"])
    assert ended.value.code == 1
    line = capsys.readouterr().err.removesuffix("\n")
    assert line.startswith("error: ")
    assert line.isprintable()
    assert answer.replace("{runs}", str(runs)) in line
    assert not (tmp_path / "outputs").exists()


def test_no_runs_are_refused_from_python_too(runs):
    assert refusal(lambda: compare([]), neurexp.UserError) == "compare: give two runs or more"
    assert "not the folder of a finished run" in refusal(lambda: read_run(str(runs / "nothing"), ""), neurexp.UserError)


@pytest.mark.parametrize(
    ("changed", "named"), [("setting", "a\\x1b[31m\\nb <script>"), ("experiment", "a\\x1b[31m\\nb <script>, ")]
)
def test_a_dictionary_that_is_no_text_and_a_hostile_name_are_compared(runs, tmp_path, capsys, changed, named):
    """The terminal and the figures get what stands in a run's files with its control characters as escapes."""
    hostile = Path(shutil.copytree(runs / "sound", tmp_path / "hostile"))
    (hostile / "columns.md").write_bytes(b"\xff\xfe| `r_length` |")
    summary = json.loads((hostile / "summary.json").read_text("utf-8"))
    (hostile / "summary.json").write_text(json.dumps(summary | {changed: "a\x1b[31m\nb <script>"}), "utf-8")
    main([str(hostile), str(runs / "sound"), "--outputs", str(tmp_path / "outputs"), "--no-mlflow"])
    told = capsys.readouterr().out
    assert f"Run 0: {named}" in told
    assert all(line.isprintable() for line in told.splitlines())
