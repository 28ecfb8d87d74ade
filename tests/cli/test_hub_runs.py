"""Runs that need the Hugging Face Hub, through the real clients, against a stand-in on loopback."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from commands import Commands
from conftest import environment
from hub import Hub
from make_repos import SENTENCES, make_fineweb, make_gpt_neo
from pyarrow import parquet
from safetensors.numpy import load_file
from transformers import AutoTokenizer

MODEL, DATASET = "EleutherAI/gpt-neo-125m", "HuggingFaceFW/fineweb"
GATED, ADAPTER, QUANTISED, ROWS = "some/gated-id", "some/adapter", "some/quantised", "some/rows"
CHAT = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
DOCUMENTS = [" ".join(SENTENCES[number % 6 :] * 4) + f"\n\nPage {number}." for number in range(60)]


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("repositories")
    model = make_gpt_neo(folder / "model")
    (model / "pytorch_model.bin").write_bytes(b"a pickle: never to be asked for")
    (model / "README.md").write_text("A model card.")
    adapter, quantised = folder / "adapter", folder / "quantised"
    for made in (adapter, quantised):
        made.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    (adapter / "adapter_model.safetensors").touch()
    config = json.loads((model / "config.json").read_text("utf-8"))
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    (quantised / "model.safetensors").write_bytes(b"never to be asked for")
    dataset = make_fineweb(folder / "dataset", DOCUMENTS, shards=2)
    rows = make_rows(folder / "rows")
    return {"model": model, ADAPTER: adapter, QUANTISED: quantised, "dataset": dataset, "rows": rows}


def make_rows(folder: Path) -> Path:
    """A dataset with rows that cannot be used, an empty shard, and chat messages."""
    folder.mkdir()
    shards = [[DOCUMENTS[0], None, "a\0b", DOCUMENTS[1]], [], [DOCUMENTS[2], ""]]
    for number, texts in enumerate(shards):
        messages = pa.array([[{"role": "user", "content": text}] for text in texts], CHAT)
        table = pa.table({"text": pa.array(texts, pa.string()), "messages": messages})
        with parquet.ParquetWriter(folder / f"train-{number:05d}-of-00003.parquet", table.schema) as writer:
            writer.write_table(table)  # of the empty one an empty row group
    return folder


def serve(repositories: dict[str, Path], port: int = 0) -> Hub:
    models = {MODEL: repositories["model"], ADAPTER: repositories[ADAPTER], QUANTISED: repositories[QUANTISED]}
    return Hub(models, {DATASET: repositories["dataset"], ROWS: repositories["rows"]}, {GATED}, port)


@pytest.fixture
def hub(repositories, hub_port) -> Iterator[Hub]:
    with serve(repositories, hub_port) as hub:
        yield hub


def test_the_default_command_runs_on_the_hubs_model_and_text(quick_cli, hub, hub_home, repositories, tmp_path):
    process = quick_cli("experiment=token_length", "device=cpu")
    assert (process.returncode, process.stderr) == (0, "")

    (folder,) = (tmp_path / "outputs" / "token_length").iterdir()
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["model"] == MODEL
    assert summary["provenance"]["model_revision"] == hub.commit(MODEL)
    assert summary["provenance"]["model_weights"] == "pretrained"
    assert summary["provenance"]["dataset"] == {
        "source": "hub",
        "name": DATASET,
        "subset": "sample-10BT",
        "split": "train",
        "resolved": hub.commit(DATASET),
    }

    # The text is the documents of sample-10BT, one after the other
    tokens = load_file(folder / "tokens.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(repositories["model"])
    stream: list[int] = []
    for text in DOCUMENTS:
        stream += tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    assert tokens["input_ids"].shape == (16, 512)
    assert tokens["input_ids"].flatten().tolist() == stream[:8192]

    # The announcement comes first, and is true of what was then fetched: no pickle, and no code
    announced = re.search(
        rf"Downloading (\d+) files of {MODEL} \((\d+\.\d) MB, commit (\w+)\) to (\S+);", process.stdout
    )
    assert announced is not None
    assert process.stdout.index(announced[0]) < process.stdout.index("Model: ")
    files = rf"/{MODEL}/resolve/{hub.commit(MODEL)}/(.+)"
    fetched = {match[1] for method, path in hub.requests if method == "GET" and (match := re.fullmatch(files, path))}
    assert fetched == {path.name for path in repositories["model"].iterdir()} - {"pytorch_model.bin", "README.md"}
    size = sum((repositories["model"] / name).stat().st_size for name in fetched)
    assert (int(announced[1]), float(announced[2])) == (len(fetched), round(size / 1e6, 1))
    assert hub.commit(MODEL).startswith(announced[3])
    assert announced[4].startswith(str(hub_home))
    assert not any(path.endswith((".bin", ".py")) for method, path in hub.requests if method == "GET")


@pytest.fixture
def served(commands, hub, hub_home) -> Commands:
    """Warm commands that reach a Hub."""
    return commands


PYDOC, MINI = ("dataset=pydoc", "tracking=off"), ("model=mini", "tracking=off")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ("model=hub", "model.name=no/such-model", *PYDOC),
            "model.name=no/such-model: no such folder here and no such model on the Hub",
        ),
        (("model=hub", f"model.name={GATED}", *PYDOC), f"model.name={GATED}: gated; ask for access at http"),
        (("model=hub", f"model.name={ADAPTER}", *PYDOC), f"model.name={ADAPTER}: adapter_config.json is of an adapter"),
        (("model=hub", f"model.name={QUANTISED}", *PYDOC), f"model.name={QUANTISED}: its weights are quantised (gptq)"),
        (("model.revision=v9", *PYDOC), f"model.revision=v9: {MODEL} has no such revision on the Hub"),
        (("model.tokenizer=no/such-tokenizer", *PYDOC), "model.tokenizer=no/such-tokenizer: no such folder here"),
        (("model=hub", f"model.name={MODEL}-large", *PYDOC), f"model.name={MODEL}-large: no such folder here"),
        (
            ("dataset.name=no/such-dataset", *MINI),
            "dataset.name=no/such-dataset: no such folder here and no such dataset on the Hub",
        ),
        ((f"dataset.name={GATED}", *MINI), f"dataset.name={GATED}: gated; ask for access at http"),
        (("dataset.revision=v9", *MINI), f"dataset.revision=v9: {DATASET} has no such revision on the Hub"),
        (("dataset.subset=sample-1TT", *MINI), "dataset.subset=sample-1TT: "),
        (("dataset.split=test", *MINI), "dataset.split=test: "),
        (("dataset.text_column=body", *MINI), "dataset.text_column=body: "),
        (("dataset.tokens=1000000", *MINI), "dataset.tokens=1000000: the text has only "),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[value[0] == "model=hub"],
)
def test_what_the_hub_refuses_is_one_line_and_leaves_nothing(served, tmp_path, arguments, answer):
    process = served.run(arguments, tmp_path)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {answer}")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_dataset_without_subset_reads_the_default_one(served, tmp_path):
    process = served.run(("dataset.subset=null", "dataset.tokens=64", *MINI), tmp_path)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("column", ["text", "messages"])
def test_rows_of_the_hub_that_cannot_be_used_are_skipped_like_those_of_a_file(served, repositories, tmp_path, column):
    tokenizer = AutoTokenizer.from_pretrained(repositories["model"])
    stream: list[int] = []
    for text in DOCUMENTS[:3]:
        stream += tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    count = len(stream) - 1
    command = (f"dataset.name={ROWS}", "dataset.subset=null", f"dataset.text_column={column}", "tracking=off")
    command += (
        "model=hub",
        f"model.name={MODEL}",
        f"dataset.tokens={count}",
        "experiment.layer=0",
        "hydra.run.dir=run",
    )
    refused = served.run(command, tmp_path)
    assert refused.returncode == 1
    assert re.match(rf"error: dataset.bad_rows=0.02: 1 of \d rows cannot be used \({ROWS}, row 3: bin", refused.stderr)
    done = served.run((*command, "dataset.bad_rows=0.2"), tmp_path)
    assert done.returncode == 0, done.stderr
    tokens = load_file(tmp_path / "run" / "tokens.safetensors")
    assert tokens["input_ids"][tokens["valid"]].tolist() == stream[:-1]
    assert parquet.read_table(tmp_path / "run" / "skipped.parquet").to_pydict() == {
        "where": [ROWS],
        "item": [3],
        "reason": ["binary, not text: it has a NUL character"],
    }


@pytest.mark.slow
def test_with_a_warm_cache_the_model_and_the_tokens_of_an_earlier_run_need_no_hub(repositories, tmp_path):
    pydoc = ("dataset=pydoc", "dataset.tokens=512")
    with serve(repositories) as hub:
        commands = Commands(environment(tmp_path / "hf", HF_ENDPOINT=hub.url))
        first = commands.run(("tracking=off", "hydra.run.dir=first"), tmp_path)
        assert first.returncode == 0, first.stderr
        asked = len(hub.requests)
        again = commands.run(("tracking=off", "hydra.run.dir=again", *pydoc), tmp_path)
        assert again.returncode == 0, again.stderr
        assert "Downloading" not in again.stdout
        assert not any(path.endswith(".safetensors") for method, path in hub.requests[asked:] if method == "GET")

    # From here on nothing answers at the Hub's address
    offline = commands.run(("tracking=off", "hydra.run.dir=offline", *pydoc), tmp_path)
    text = commands.run(("tracking=off", "hydra.run.dir=text"), tmp_path)
    refused = commands.run(("tracking=off", "hydra.run.dir=refused", "dataset.tokens=4096"), tmp_path)
    unknown = commands.run(("tracking=off", "hydra.run.dir=unknown", "dataset.revision=v1"), tmp_path)
    commands.close()
    assert offline.returncode == 0, offline.stderr
    assert f"{MODEL} comes from the cache, commit {hub.commit(MODEL)[:12]}" in offline.stdout
    summary = json.loads((tmp_path / "offline" / "summary.json").read_text())
    assert summary["provenance"]["model_revision"] == hub.commit(MODEL)
    for name in ("neurons.parquet", "histograms.safetensors"):
        assert (tmp_path / "offline" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    assert text.returncode == 0, text.stderr
    (said,) = [line for line in text.stdout.splitlines() if f"the tokens of {DATASET} come from the cache" in line]
    assert said.startswith("The Hub cannot be reached (")
    assert said.endswith(f"commit {hub.commit(DATASET)[:12]}")
    provenance = [json.loads((tmp_path / run / "summary.json").read_text())["provenance"] for run in ("first", "text")]
    for name in ("token_hash", "dataset", "model_revision"):
        assert provenance[0][name] == provenance[1][name]

    for process, run, reason in (
        (refused, "refused", "no earlier run has kept these tokens"),
        (unknown, "unknown", "the Hub at "),
    ):
        assert process.returncode == 1
        (line,) = process.stderr.splitlines()
        assert line.startswith(f"error: dataset.name={DATASET}: ")
        assert reason in line
        assert "dataset=pydoc" in line.partition("offline: ")[2]
        assert not (tmp_path / run).exists()


@pytest.mark.slow
def test_told_to_stay_offline_a_run_takes_what_is_kept_and_says_so(cli, hub, tmp_path):
    arguments = ("dataset.tokens=512", "device=cpu", "tracking=off")
    online = cli(*arguments, "hydra.run.dir=online", HF_ENDPOINT=hub.url)
    assert online.returncode == 0, online.stderr
    asked = len(hub.requests)
    for revision in ("main", hub.commit(DATASET)):
        process = cli(
            *arguments,
            f"hydra.run.dir={revision}",
            f"dataset.revision={revision}",
            HF_ENDPOINT=hub.url,
            HF_HUB_OFFLINE="1",
        )
        assert (process.returncode, process.stderr) == (0, "")
        for what, name in ((f"{MODEL} comes", MODEL), (f"the tokens of {DATASET} come", DATASET)):
            line = f"The Hub cannot be reached (HF_HUB_OFFLINE is set): {what} from the cache, commit "
            assert line + hub.commit(name)[:12] in process.stdout
        tokens = [(tmp_path / run / "tokens.safetensors").read_bytes() for run in ("online", revision)]
        assert tokens[0] == tokens[1]
    assert len(hub.requests) == asked


@pytest.fixture(scope="module")
def unanswered(tmp_path_factory) -> Iterator[tuple[str, Commands]]:
    """A Hub that accepts every connection and never answers, and commands that ask it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        commands = Commands(environment(tmp_path_factory.mktemp("hf"), HF_ENDPOINT=url))
        yield url, commands
        commands.close()


def assert_answered_soon(commands: Commands, url: str, arguments: tuple[str, ...], option: str, folder: Path) -> None:
    commands.run(("--help",), folder)  # once it answers, what follows is measured without the imports
    start = time.monotonic()
    process = commands.run(arguments, folder)
    assert time.monotonic() - start < 10
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {option}=")
    assert f"the Hub at {url} cannot be reached" in line
    assert "dataset=pydoc" in line.partition("offline: ")[2]
    assert not [path for path in folder.rglob("*") if path.is_file()]


NEEDING_A_HUB = pytest.mark.parametrize(
    ("arguments", "option"), [((), "model.name"), (("model=mini",), "dataset.name")], ids=["model", "dataset"]
)


@NEEDING_A_HUB
def test_a_hub_that_refuses_is_answered_soon_with_what_works_offline(commands, hub_port, tmp_path, arguments, option):
    assert_answered_soon(commands, f"http://127.0.0.1:{hub_port}", arguments, option, tmp_path)


@pytest.mark.slow
@NEEDING_A_HUB
def test_a_hub_that_stays_silent_is_answered_soon_with_what_works_offline(unanswered, tmp_path, arguments, option):
    url, commands = unanswered
    assert_answered_soon(commands, url, arguments, option, tmp_path)


@pytest.mark.slow
def test_random_weights_of_a_named_model_need_no_hub(quick_cli, tmp_path):
    arguments = ("model.weights=random", "model.tokenizer=mini", "dataset=pydoc", "dataset.tokens=64", "tracking=off")
    process = quick_cli(*arguments, "hydra.run.dir=run")
    assert (process.returncode, process.stderr) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["model"], summary["provenance"]["model_weights"]) == (MODEL, "random")
    assert "12 layers" in process.stdout


def test_random_weights_follow_from_the_seed(quick_cli, tmp_path):
    neurons = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = (
            "model=mini",
            "model.weights=random",
            "dataset=pydoc",
            "dataset.tokens=64",
            "tracking=off",
            "experiment.layer=0",
        )
        process = quick_cli(*arguments, f"run.seed={seed}", f"hydra.run.dir={folder}")
        assert process.returncode == 0, process.stderr
        neurons.append((tmp_path / folder / "neurons.parquet").read_bytes())
    assert neurons[0] == neurons[1] != neurons[2]
