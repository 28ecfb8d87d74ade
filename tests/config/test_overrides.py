"""Python values as overrides: Hydra reads from them what was given."""

import math
import re
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as some

from neurexp.config.overrides import overrides_of
from neurexp.errors import UserError

PARSER = OverridesParser.create()
NAMES = some.from_regex("[a-z]{1,3}", fullmatch=True)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(NAMES, inner),
    max_leaves=4,
)


def read(override: str) -> Any:
    """What Hydra reads as the value, without its own types of quoted text."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if isinstance(value, dict):
            return {plain(key): plain(one) for key, one in value.items()}
        return getattr(value, "text", value)

    parsed = PARSER.parse_override(override)
    assert not parsed.is_sweep_override()
    return plain(parsed.value())


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_every_value_is_read_as_it_was_given(value):
    found = read(overrides_of({"a.b": value})[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["null", "True", "nan", "1e5", "007", 'it\'s "so"', "a=b, {c}", "[x]", "\\", "x\\'", "名 詞", "a\nb", "", " ", "#"],
)
def test_text_is_text_whatever_it_says(text):
    assert read(overrides_of({"a": text})[0]) == text


def test_numbers_of_numpy_paths_tuples_and_enums_are_values_too():
    class Kind(Enum):
        mean = "mean"

    given = {"a": np.int64(3), "b": np.array([[1, 2]]), "c": Path("my text/a.txt"), "d": (1, "x y"), "e": Kind.mean}
    assert [read(one) for one in overrides_of(given)] == [3, [[1, 2]], "my text/a.txt", [1, "x y"], "mean"]
    assert math.isinf(read(overrides_of({"a": math.inf})[0]))


def test_plain_words_stay_plain_so_that_a_run_records_them_as_they_are_typed():
    assert overrides_of({"model": "mini", "experiment.control": "random"}) == [
        "model=mini",
        "experiment.control=random",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a b": 1}, "'a b': is no name of an option"),
        ({"": 1}, "'': is no name"),
        ({"a": object}, "a=<class 'object'>: a type is no value"),
        ({"a": {"x y": 1}}, "a: the name 'x y' in a dictionary"),
        ({"a": b"x"}, "a=b'x': a bytes is no value"),
    ],
)
def test_what_is_no_option_is_one_line(options, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        overrides_of(options)
