"""The embedded model's training: its text, its batches, and a stopped run that goes on as if it had not stopped."""

import csv
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import environment
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from neurexp.mini import corpus
from neurexp.mini.train import BATCH_SIZE, SEQUENCE_LENGTH, Batches, learning_rate_share

PROSE = "this is a docstring in plain english prose that says what a function does and why it does it at all "


def test_books_are_whole_files_and_the_held_out_ones_stand_apart(tmp_path):
    for name in ("b.txt", "a.txt", "c.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "notes.md").write_text("no book")
    assert corpus.read_books(tmp_path, ["b.txt"]) == (["a.txt\n", "c.txt\n"], ["b.txt\n"])
    with pytest.raises(SystemExit, match=r"no .'nowhere\.txt'"):
        corpus.read_books(tmp_path, ["nowhere.txt"])
    with pytest.raises(SystemExit, match=r"no \.txt file there"):
        corpus.read_books(tmp_path / "nowhere", [])


def test_docstrings_that_share_a_run_of_words_with_held_out_text_are_dropped(monkeypatch):
    copied = " ".join(f"word{letter * 3}" for letter in "abcdefghijklmnop")
    kept = [PROSE * 3, "another one, " + PROSE * 3]
    docstrings = [kept[0], "too short", "x = 1; " * 50, kept[0], f"{PROSE * 9}: {copied.upper()}.", kept[1]]
    monkeypatch.setattr(corpus, "_docstrings", lambda: iter(docstrings))
    texts, counts = corpus.read_docstrings(10**6, seed=0, held_out=[f"before {copied}, after"])
    assert sorted(texts) == sorted(kept)
    assert counts == {"seen": 6, "short_or_not_prose": 2, "double": 1, "shared_with_held_out": 1, "kept": 2}


def test_the_text_of_pydoc_is_not_among_the_docstrings_nor_is_our_own(tmp_path, monkeypatch):
    paths = {"stdlib": str(tmp_path / "lib"), "purelib": str(tmp_path / "lib" / "site-packages")}
    monkeypatch.setattr(corpus.sysconfig, "get_paths", lambda: paths)
    for name in ("good.py", "pydoc_data/topics.py", "package/tests/test_it.py", "site-packages/other/module.py"):
        file = tmp_path / "lib" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""Docstring of {name}."""\n')
    for name, content in (("neurexp/mini.py", b'"""Ours."""'), ("broken.py", b"def"), ("binary.py", b"\xff\0")):
        file = tmp_path / "lib" / "site-packages" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert sorted(corpus._docstrings()) == ["Docstring of good.py.", "Docstring of site-packages/other/module.py."]


def test_an_epoch_visits_every_window_once_and_the_next_one_in_another_order():
    stream = np.arange(SEQUENCE_LENGTH * (2 * BATCH_SIZE + 1), dtype=np.uint16)
    batches = Batches(stream, seed=3)
    assert batches.steps_per_epoch == 2
    epochs = [torch.cat([batches(step), batches(step + 1)]) for step in (0, 2)]
    for rows in epochs:
        assert (rows[:, 1:] == rows[:, :-1] + 1).all()
        starts = rows[:, 0].sort().values
        assert (starts.diff() == SEQUENCE_LENGTH).all()
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(Batches(stream, seed=3)(3), batches(3)), "a step's batch depends on nothing but seed and step"


def test_the_rate_warms_up_stays_and_decays_to_nothing():
    share = [learning_rate_share(step, 2000) for step in range(2001)]
    assert share[0] == 1 / 200
    assert set(share[199:1300]) == {1.0}
    assert share[2000] == 0
    assert all(later <= earlier for earlier, later in pairwise(share[199:]))


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


# As `python -m neurexp.mini.train`, but saving after every step, in small steps, and looking for no docstrings
TRAIN = """
from neurexp.mini import corpus, train
train.BATCH_SIZE, train.HELD_OUT_TOKENS, train.SAVE_SECONDS = 2, 2048, 0
corpus._docstrings = lambda: iter(())
train.main()
"""


@pytest.mark.slow
def test_the_command_explains_itself(quick_cli):
    process = quick_cli("--help", module="neurexp.mini.train")
    assert process.returncode == 0, process.stderr
    assert "--corpus" in process.stdout


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not_and_its_folder_loads(tmp_path):
    books = tmp_path / "books"
    books.mkdir()
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij", k=source.randint(1, 8))) for _ in range(2000)]
    for name in ("a.txt", "b.txt", "held.txt"):
        (books / name).write_text(" ".join(source.choices(words, k=1500)))
    shared = ("--corpus", books, "--held-out", "held.txt", "--docstrings", 0, "--steps", 4)
    one, two = tmp_path / "one", tmp_path / "two"
    environ = environment(tmp_path / "hf", OMP_NUM_THREADS="2")

    def run(where: Path) -> str:
        arguments = ("--state", where / "state", "--output", where / "model")
        process = subprocess.run(
            command(TRAIN, *shared, *arguments), env=environ, capture_output=True, text=True, timeout=900, check=False
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert "resumed" not in run(one)

    shutil.copytree(one / "state", two / "state", ignore=shutil.ignore_patterns("checkpoint*"))
    checkpoint = two / "state" / "checkpoint.pt"
    killed = subprocess.Popen(
        command(TRAIN, *shared, "--state", two / "state", "--output", two / "model"),
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not checkpoint.exists():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (two / "model").exists()
    stopped_at = torch.load(checkpoint)["step"]
    assert 0 < stopped_at < 4
    assert f"resumed at step {stopped_at}" in run(two)

    states = [torch.load(where / "state" / "checkpoint.pt") for where in (one, two)]
    assert [state["step"] for state in states] == [4, 4]
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name
    for first, second in zip(*(state["optimizers"] for state in states), strict=True):
        for index, moments in first["state"].items():
            for name, moment in moments.items():
                assert torch.equal(torch.as_tensor(moment), torch.as_tensor(second["state"][index][name])), name
    for name in ("model.safetensors", "tokenizer.json", "token_counts.safetensors"):
        assert (one / "model" / name).read_bytes() == (two / "model" / name).read_bytes(), name

    model = AutoModelForCausalLM.from_pretrained(one / "model")
    tokenizer = AutoTokenizer.from_pretrained(one / "model")
    assert model.config.model_type == "gpt_neo"
    assert model.config.attention_layers == ["global", "local"] * 3
    assert len(tokenizer) <= model.config.vocab_size == 8192
    assert tokenizer.decode(tokenizer("abc, def ghi").input_ids) == "abc, def ghi"
    ids = torch.tensor([tokenizer((books / "held.txt").read_text()).input_ids[:128]])
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)

    counts = load_file(one / "model" / "token_counts.safetensors")["counts"]
    assert counts.shape == (8192,)
    documents = [tokenizer((books / name).read_text()).input_ids for name in ("a.txt", "b.txt")]
    assert counts.sum() == sum(map(len, documents)) + 2
    card = (one / "model" / "README.md").read_text()
    assert "held.txt" in card
    assert "| pydoc |" in card
    assert "| novels |" in card
    with (one / "model" / "loss_curve.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4"]


def test_the_embedded_model_is_small_and_has_learnt_more_than_word_frequencies():
    """Loads what ships: under 10 MB, and on its own plain English far better than a model that knows no order."""
    from neurexp.models.locations import MINI

    assert (MINI / "model.safetensors").stat().st_size < 10_000_000
    model = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    text = (
        "It was a dark night, and the old man sat by the fire with his hands on his knees. He said that he had "
        "not seen her for a long time, and that he did not know whether she would come back to the house again."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        losses = [model(input_ids=given, labels=given).loss.item() for given in (ids, shuffled)]
    assert losses[0] < losses[1] - 1
