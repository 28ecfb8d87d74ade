"""Whatever is typed, and whatever bytes a file holds: what was asked for, or one printable line. Never anything else.

Runs in this process, because a command takes longer than a hundred examples; the command line itself is tested in
test_bad_input.py. The examples are the same on every run.
"""

import json
import re
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from transformers import AutoTokenizer

from neurexp.config.mistakes import explain
from neurexp.config.schema import CONFIG_FOLDER, Config, DatasetConfig, Source, checked, register_schema, typed_options
from neurexp.errors import UserError, one_line, printable, unseen
from neurexp.models.locations import MINI
from neurexp.text import sources, tokens

fuzzed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Overrides

OPTIONS = (
    "model", "model.name", "model.weights", "model.architecture", "device", "device.threads", "device.dtype", "dataset",
    "dataset.tokens", "dataset.path", "experiment", "experiment.layer", "experiment.bins", "experiment.name",
    "experiment.plugin", "tracking", "tracking.uri", "run", "run.seed", "run.outputs", "hydra.run.dir", "nonsense",
)  # fmt: skip
PIECES = (
    "mini", "pydoc", "0", "-1", "1e9", "1.5", "nan", "true", "null", "all", "[0,1]", "[", "]", "{a:1}", "{", "}", "(",
    "${run.seed}", "${nowhere}", "${", "$(touch pwned)", "'", '"', "\\", ",", ":", "=", "+", "~", "@", "..", "/", " ",
    ")", "\n", "\t", "\x1b[2J", "\u202e", "שלום", "\udcff", "choice(0,1)", "range(0,3)", "sort(", "???",
    "*", ";", "|", "`", "%",
)  # fmt: skip
values = st.lists(st.sampled_from(PIECES), max_size=4).map("".join) | st.text(max_size=12)
overrides = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        st.sampled_from(OPTIONS) | st.text(max_size=8),
        st.sampled_from(["=", "=", "=", "=", "", "@x="]),
        values,
    ),
)


def understood(given: list[str]) -> Config | str:
    """The checked config that overrides stand for, or the line that a user would read."""
    register_schema()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("config", overrides=given)
        assert isinstance(config, DictConfig)
        whole = checked(config)
        typed_options(whole.experiment)
        return whole
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        return message


@settings(fuzzed, max_examples=40)
@given(st.lists(overrides, min_size=1, max_size=2))
@example(["+="])
@example(["model.architecture={a:1}"])
@example(["+model.architecture.x=1"])
@example(["dataset.tokens='a\nb'"])
@example(["experiment.name=../../x"])
@example(["dataset.path='\0'", "dataset=text"])
def test_any_override_is_a_config_or_one_line(given):
    answer = understood(["model=mini", "dataset=pydoc", *given])
    if isinstance(answer, str):
        assert len(answer.splitlines()) == 1
        assert not unseen(answer)
    else:
        assert re.fullmatch(r"\w[\w.-]*", str(answer.experiment.name))


NUMBERS = [f"{group}.{name}" for group, names in {
    "dataset": ("tokens", "sequence_length"),
    "device": ("threads", "batch_size"),
    "run": ("seed",),
    "experiment": ("skip_positions", "permutations", "blocks", "bins"),
}.items() for name in names]  # fmt: skip
NO_NUMBERS = ("", "many", "1.5", "1e3", "nan", "true", "[1]", "{a:1}", "½")


@pytest.mark.parametrize("others", ["another for each option", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("option", NUMBERS)
def test_what_is_no_whole_number_is_refused_for_every_option_that_wants_one(option, others):
    for value in NO_NUMBERS if others == "all" else NO_NUMBERS[NUMBERS.index(option) :: len(NUMBERS)]:
        answer = understood(["model=mini", "dataset=pydoc", f"{option}={value}"])
        assert isinstance(answer, str), value
        assert answer.startswith(option)
        assert answer.isprintable()


# Files


def texts_of(path: Path) -> list[str] | str:
    """The documents of a file, or the line that a user would read."""
    try:
        return list(sources.documents(DatasetConfig(source=Source.files, path=str(path))))
    except UserError as refused:
        return str(refused)


def check(answer: list[str] | str) -> None:
    if isinstance(answer, str):
        assert answer.isprintable()
        assert answer.startswith("dataset.")
    else:
        assert answer
        assert all(isinstance(text, str) and text.encode("utf-8") for text in answer)


@fuzzed
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_text_or_one_line(tmp_path, content):
    path = tmp_path / "any.txt"
    path.write_bytes(content)
    check(texts_of(path))


LINES = (
    b'{"text": "a"}', b'{"text": null}', b'{"body": "a"}', b"null", b"[]", b"3", b'"a"', b"NaN", b"{", b"\xff", b"\0",
    b"", b" ", b'{"text": "\\ud800"}', b'{"text": 1e999}', b'{"text": {"a": [1]}}', b'{"text": "a", "text": 3}',
    b"\xef\xbb\xbf{}", b"[" * 5000, b"1" * 5000, b'{"text": "\xd7\xa9\xe2\x80\xae\\u001b"}',
)  # fmt: skip


@fuzzed
@given(st.lists(st.sampled_from(LINES) | st.binary(max_size=30), max_size=4).map(b"\n".join))
def test_any_lines_are_documents_or_one_line(tmp_path, content):
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    check(texts_of(path))


@fuzzed
@given(st.text(min_size=1).filter(lambda text: not text.isspace() and "\0" not in text and _is_text(text)))
@example("one\r\ntwo\rthree\n")
@example("\ufeffbegins with a mark\u2028\x85\x1c")
def test_a_text_is_read_exactly_as_it_is(tmp_path, text):
    (tmp_path / "text.txt").write_bytes(text.encode())
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (tmp_path / "plain.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", "utf-8", newline="")
    for name in ("text.txt", "text.jsonl", "plain.jsonl"):
        mark = "\ufeff" if name == "text.txt" else ""  # is no part of a text file's text
        assert texts_of(tmp_path / name) == [text.removeprefix(mark)], name


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


# Long texts


@pytest.fixture(scope="module")
def mini():
    return AutoTokenizer.from_pretrained(MINI)


@fuzzed
@given(
    st.lists(
        st.sampled_from(
            ["door", "Ab", " ", "\n", ". ", ",", "。", "，", "字字", "שלום", "1", "'s", "\r\n", "é", "  ", "-", "👩"]
        ),
        min_size=1,
    )
)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(mini, words):
    """Cut at every place where a cut is allowed."""
    text = "".join(words)
    cuts = [0, *(match.start() for match in tokens._CUT.finditer(text)), len(text)]
    pieces = [text[start:stop] for start, stop in pairwise(cuts)]
    whole, *parts = (
        mini(part, add_special_tokens=False, split_special_tokens=True).input_ids for part in (text, *pieces)
    )
    assert list(chain.from_iterable(parts)) == whole


@pytest.mark.parametrize("piece", ["x", "字", "字字字字。", "word\n", "1,", "\n", "a b "])
def test_pieces_of_a_long_line_are_bounded_and_lose_nothing(mini, piece):
    text = piece * (1_000_000 // len(piece))
    pieces = list(tokens.cut(text, mini))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= tokens.LONGEST_PIECE
    assert all(pieces)


# What is told


@fuzzed
@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_a_message_is_one_printable_line_and_keeps_what_is_printable(text):
    for message in (printable(text), str(UserError(text)), one_line(ValueError(text))):
        assert not unseen(message)
        assert len(message.splitlines()) <= 1
    if text.isprintable():
        assert printable(text) == text
