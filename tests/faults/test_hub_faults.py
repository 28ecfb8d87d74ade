"""Runs through the real clients against a Hub that fails: each recovers every token, or ends in one line, in time."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path

import pytest
from commands import Commands
from conftest import environment, sampled
from hub import Fault, Hub
from make_repos import SENTENCES, make_fineweb, make_gpt_neo
from safetensors.numpy import load_file
from transformers import AutoTokenizer, GPTNeoForCausalLM

from neurexp.io.hub import asked_to_wait

MODEL, DATASET = "EleutherAI/gpt-neo-125m", "HuggingFaceFW/fineweb"
PICKLE, TORN, SHARDED = "some/pickle", "some/torn", "some/sharded"
DOCUMENTS = [" ".join(SENTENCES[number % 6 :] * 2) + f"\n\nPage {number}." for number in range(36)]
TOKENS = 7168  # all of the shards 000 and 001, and some of 002
ALWAYS = 10_000
QUICK = (
    "device=cpu", "device.threads=1", "tracking=off", f"dataset.tokens={TOKENS}", "dataset.sequence_length=256",
    "experiment.layer=[0]", "experiment.permutations=8",  # what comes after the text is not what is tested
)  # fmt: skip
WEIGHTS, FIRST, SECOND, THIRD = "model.safetensors", "000_00000.parquet", "001_00000.parquet", "002_00000.parquet"
MODEL_INFO, DATASET_INFO, LIST = f"/api/models/{MODEL}", f"/api/datasets/{DATASET}/rev", f"/api/datasets/{DATASET}/tree"


@dataclass
class Site:
    """A Hub, and commands that reach it, whose cache of it is empty at the start of each test."""

    hub: Hub
    commands: Commands
    home: Path
    expected: list[int]

    def run(
        self, folder: Path, *arguments: str, timeout: int = 240, hurries: bool = False
    ) -> tuple[subprocess.CompletedProcess[str], float]:
        start = time.monotonic()
        process = self.commands.run((*QUICK, "hydra.run.dir=run", *arguments), folder, timeout, hurries=hurries)
        return process, time.monotonic() - start

    def tokens(self, run: Path) -> list[int]:
        return load_file(run / "tokens.safetensors")["input_ids"].flatten().tolist()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("repositories")
    model = make_gpt_neo(folder / "model")
    pickle, torn = shutil.copytree(model, folder / "pickle"), shutil.copytree(model, folder / "torn")
    (pickle / WEIGHTS).rename(pickle / "pytorch_model.bin")
    (torn / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-1000])
    sharded = shutil.copytree(model, folder / "sharded", ignore=shutil.ignore_patterns(WEIGHTS))
    GPTNeoForCausalLM.from_pretrained(model).save_pretrained(sharded, max_shard_size="200KB")
    (sharded / "onnx").mkdir()
    for other in ("consolidated.safetensors", f"onnx/{WEIGHTS}"):  # the same once more, not for transformers
        shutil.copy(model / WEIGHTS, sharded / other)
    dataset = make_fineweb(folder / "dataset", DOCUMENTS, shards=3, large=1)
    return {"model": model, PICKLE: pickle, TORN: torn, SHARDED: sharded, "dataset": dataset}


@pytest.fixture(scope="module")
def served(sources, commands, hub_port, tmp_path_factory) -> tuple[Hub, list[int]]:
    """A Hub, and the tokens of its text."""
    tokenizer = AutoTokenizer.from_pretrained(sources["model"])
    stream: list[int] = []
    for text in DOCUMENTS:
        stream += tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    models = {MODEL: sources["model"], PICKLE: sources[PICKLE], TORN: sources[TORN], SHARDED: sources[SHARDED]}
    commands.run(("--help",), tmp_path_factory.mktemp("help"))  # from here on commands start without the imports
    return Hub(models, {DATASET: sources["dataset"]}, port=hub_port), stream[:TOKENS]


@pytest.fixture
def site(served, commands, hub_home) -> Iterator[Site]:
    hub, expected = served
    hub.faults = []
    hub.requests.clear()
    with hub:
        yield Site(hub, commands, hub_home, expected)


def faults(*given: Fault) -> tuple[Fault, ...]:
    return given


def name_of(value: object) -> str | None:
    if isinstance(value, tuple) and value and isinstance(value[0], Fault):
        return ",".join(f"{fault.method} {fault.path.rsplit('/')[-1]} {fault.kind}" for fault in value)
    return ""


def slow(*values: object):
    return pytest.param(*values, marks=pytest.mark.slow)


RECOVERED = [
    # What describes the repositories
    faults(Fault(MODEL_INFO, 429, retry_after="1")),
    slow(faults(Fault(MODEL_INFO, "closed"))),
    slow(faults(Fault(DATASET_INFO, 500, times=2))),
    slow(faults(Fault(LIST, 503, retry_after="1"))),
    slow(faults(Fault(LIST, "silent"))),
    slow(faults(Fault("README.md", 500, method="HEAD"))),
    slow(faults(Fault("README.md", "cut"))),
    # The model's files
    slow(faults(Fault("config.json", 429, method="HEAD", retry_after="1"))),
    slow(faults(Fault("tokenizer_config.json", 502, method="HEAD"))),
    slow(faults(Fault("tokenizer_config.json", "silent", method="HEAD"))),
    slow(faults(Fault("tokenizer.json", "cut"))),
    slow(faults(Fault(WEIGHTS, "cut"), Fault(WEIGHTS, 500))),
    slow(faults(Fault(WEIGHTS, "stall"))),
    slow(faults(Fault(WEIGHTS, "closed"))),
    # The text: where it begins, in the middle of a shard, in a later one
    slow(faults(Fault(FIRST, "cut"))),
    slow(faults(Fault(SECOND, "cut", after=2))),
    slow(faults(Fault(SECOND, "stall", after=2))),
    slow(faults(Fault(SECOND, "silent", after=1))),
    slow(faults(Fault(SECOND, "closed"))),
    slow(faults(Fault(SECOND, 500, after=2, times=3))),
    slow(faults(Fault(THIRD, 429, times=2, retry_after="1"))),
    # Several in one run
    faults(Fault(WEIGHTS, "cut"), Fault(SECOND, "cut", after=1), Fault(SECOND, 429, after=2, retry_after="1")),
    slow(faults(*(Fault(shard, "cut", times=2) for shard in (FIRST, SECOND, THIRD)))),
]


@pytest.mark.parametrize("given", RECOVERED, ids=name_of)
def test_a_fault_that_passes_costs_no_token_and_doubles_none(site, tmp_path, given):
    site.hub.faults = [replace(fault) for fault in given]
    process, _ = site.run(tmp_path)
    assert [fault.left for fault in site.hub.faults] == [0] * len(given)
    assert (process.returncode, process.stderr) == (0, "")
    assert site.tokens(tmp_path / "run") == site.expected
    shards = [path.rsplit("/")[-1] for method, path in site.hub.requests if path.endswith(".parquet")]
    assert shards.count(SECOND) > 2  # read in several requests, so there is a middle


def test_the_hub_is_given_the_time_that_it_asks_for(site, tmp_path):
    site.hub.faults = [Fault(SECOND, 429, times=2, retry_after="2")]
    process, seconds = site.run(tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("The Hub answers 429 Too Many Requests: the next try comes in 2 s") == 2
    assert seconds > 4
    assert site.tokens(tmp_path / "run") == site.expected


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Thu, 01 Jan 2015 00:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"ratelimit": '"api";r=0;t=55', "Retry-After": "7"}, 56),  # the Hub's own, with a second for rounding
        ({"ratelimit": '"api";r=12;t=55'}, None),  # some requests are left
    ],
    ids=str,
)
def test_how_long_the_hub_asks_to_wait(headers, seconds):
    assert asked_to_wait(headers) == seconds


def test_a_date_to_come_back_is_understood():
    assert 58 < (asked_to_wait({"Retry-After": formatdate(time.time() + 60, usegmt=True)}) or 0) <= 60


def assert_refused(
    site: Site, folder: Path, arguments: tuple[str, ...], begin: str, reason: str, within: float, hurries: bool = False
) -> str:
    process, seconds = site.run(folder, *arguments, hurries=hurries)
    assert process.returncode == 1, process.stdout
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {begin}"), line
    assert reason in line
    assert seconds < within
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert all(fault.injected for fault in site.hub.faults)
    return line


OF_MODEL, OF_TEXT = f"model.name={MODEL}: ", f"dataset.name={DATASET}: "
BROKEN = f"{OF_TEXT}the text broke off after 12 rows ("  # those of the first shard
MIDDLE = f"{OF_TEXT}the text broke off after 18 rows ("  # with six of the second's
HUB_MODEL = ("model=hub", "dataset=pydoc", f"dataset.tokens={TOKENS}")

REFUSED = [
    # The Hub says no; transformers by itself would go on without a tokenizer file
    (faults(Fault("config.json", 403, method="HEAD", code="GatedRepo")), (), OF_MODEL, "gated; ask for access at http"),
    (faults(Fault("config.json", 401, method="HEAD")), (), f"{OF_MODEL}config.json cannot be fetched", "401"),
    (faults(Fault("tokenizer_config.json", 403, method="HEAD")), (), f"{OF_MODEL}tokenizer_config.json cannot", "403"),
    (faults(Fault("tokenizer.json", 403)), (), f"{OF_MODEL}tokenizer.json cannot be fetched", "403"),
    (faults(Fault(SECOND, 403, code="GatedRepo")), (), BROKEN, "gated; ask for access at http"),
    (faults(Fault(SECOND, 401)), (), BROKEN, "401"),
    (faults(Fault(LIST, 403, after=1)), (), OF_TEXT, "cannot be read from the Hub"),
    (faults(Fault(LIST, "short")), (), OF_TEXT, "cannot be read from the Hub"),
    (faults(Fault("README.md", 403, method="HEAD")), (), f"{OF_TEXT}README.md cannot be fetched", "403"),
    # The Hub wants to be left alone
    (faults(Fault(SECOND, 429, retry_after="3600")), (), BROKEN, "asks to wait 3600 s"),
    # What comes is not what was announced
    (faults(Fault(WEIGHTS, "short")), (), f"{OF_MODEL}{WEIGHTS} cannot be fetched", "Consistency check failed"),
    (faults(Fault(SECOND, "short")), (), BROKEN, "arquet"),
    (faults(Fault(SECOND, "short", after=2)), (), MIDDLE, "too short"),
    ((), (*HUB_MODEL, f"model.name={TORN}"), f"model.name={TORN}: a weight file is damaged", ""),
    ((), (*HUB_MODEL, f"model.name={PICKLE}"), f"model.name={PICKLE}: it has no .safetensors file", ""),
]


@pytest.mark.parametrize(("given", "arguments", "begin", "reason"), sampled(REFUSED, 7), ids=name_of)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(site, tmp_path, given, arguments, begin, reason):
    site.hub.faults = [replace(fault) for fault in given]
    assert_refused(site, tmp_path, arguments, begin, reason, within=30)
    assert not any(path.endswith(".bin") for _, path in site.hub.requests)


BUSY = "the Hub answers 500 Internal Server Error, 6 times in 31 s"
LASTING = [
    (faults(Fault(MODEL_INFO, 500, times=ALWAYS)), OF_MODEL, BUSY, 60),
    (faults(Fault(WEIGHTS, 500, times=ALWAYS)), OF_MODEL, BUSY, 60),
    (faults(Fault(WEIGHTS, "stall", times=ALWAYS)), OF_MODEL, "timed out", 60),
    (faults(Fault("config.json", "silent", method="HEAD", times=ALWAYS)), OF_MODEL, "timed out", 60),
    (faults(Fault("README.md", "silent", method="HEAD", times=ALWAYS)), OF_TEXT, "timed out", 60),
    (faults(Fault(LIST, "silent", times=ALWAYS)), OF_TEXT, "timed out", 60),
    (faults(Fault(SECOND, 500, times=ALWAYS, after=2)), MIDDLE, BUSY, 60),
    (faults(Fault(SECOND, "cut", times=ALWAYS, after=2)), MIDDLE, "peer closed connection", 120),
    (faults(Fault(SECOND, "stall", times=ALWAYS, after=2)), MIDDLE, "timed out", 120),
]


@pytest.mark.slow
@pytest.mark.parametrize(("given", "begin", "reason", "within"), LASTING, ids=name_of)
def test_a_fault_that_lasts_is_one_line_within_a_bounded_time(site, tmp_path, given, begin, reason, within):
    """The first one waits as long as it does for a user; the others need not."""
    site.hub.faults = [replace(fault) for fault in given]
    assert_refused(site, tmp_path, (), begin, reason, within, hurries=given != LASTING[0][0])


@pytest.mark.slow
def test_of_weights_in_several_files_all_come_and_of_other_layouts_none(site, tmp_path):
    pydoc = ("dataset=pydoc", "dataset.tokens=512")
    site.hub.faults = [Fault("model-00002-of-", "cut"), Fault("model-00001-of-", 500)]
    several, _ = site.run(tmp_path, "model=hub", f"model.name={SHARDED}", *pydoc, "hydra.run.dir=several")
    assert (several.returncode, several.stderr) == (0, "")
    assert [fault.left for fault in site.hub.faults] == [0, 0]
    assert not any("consolidated" in path or "onnx" in path for _, path in site.hub.requests)
    single, _ = site.run(tmp_path, "model=hub", f"model.name={MODEL}", *pydoc, "hydra.run.dir=single")
    assert single.returncode == 0, single.stderr
    written = [(tmp_path / run / "histograms.safetensors").read_bytes() for run in ("several", "single")]
    assert written[0] == written[1]


@pytest.mark.slow
def test_a_copy_that_datasets_keeps_does_not_stand_in_for_the_commit(site, tmp_path):
    """Where the Hub fails, datasets takes the rows that it prepared earlier, of whichever commit."""
    prepare = f"import datasets; print(datasets.load_dataset('{DATASET}', 'sample-10BT', split='train'))"
    given = environment(site.home, HF_ENDPOINT=site.hub.url)
    subprocess.run([sys.executable, "-c", prepare], env=given, check=True, capture_output=True)
    site.hub.faults = [Fault(LIST, 403, times=ALWAYS)]
    assert_refused(site, tmp_path, (), OF_TEXT, "datasets would use an older copy", within=30)


@pytest.mark.slow
def test_a_download_that_broke_off_goes_on_where_it_was(site, tmp_path):
    """The run after one that failed fetches what is absent, and only that."""
    site.hub.faults = [Fault("tokenizer_config.json", 403, method="HEAD")]
    assert_refused(site, tmp_path, (), OF_MODEL, "run again: what is complete is kept", within=30)
    first = [path for method, path in site.hub.requests if method == "GET" and "/resolve/" in path]
    site.hub.requests.clear()
    process, _ = site.run(tmp_path)
    assert process.returncode == 0, process.stderr
    again = [path for method, path in site.hub.requests if method == "GET" and "/resolve/" in path]
    assert first
    assert not set(first) & set(again)
    assert site.tokens(tmp_path / "run") == site.expected
