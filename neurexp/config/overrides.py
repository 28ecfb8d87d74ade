"""Options that are given as Python values, written as overrides of Hydra's command line. Imports nothing heavy."""

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from neurexp.config.schema import quoted
from neurexp.errors import UserError

# Words that Hydra would read as another type, unless they are quoted
_NO_TEXT = {"true", "false", "null", "nan", "inf"}
_PLAIN = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_NAME = re.compile(r"[+~]{0,2}[\w@/][\w@/.:-]*")


def overrides_of(options: Mapping[str, Any]) -> list[str]:
    """`{"dataset.path": "my text.txt", "experiment.layer": [0, 1]}` → `["dataset.path='my text.txt'", …]`.

    A value is None, a bool, a number, a text, a path, or a list or dictionary of these; NumPy's numbers are numbers.
    Text is text, whatever it says ("null", "1e5", "a=b, {c}"), but `${NAME}` stands for another option's value.

    Raises:
        UserError: a value of another kind, or a name that no option can have.
    """
    for name in options:
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r}: is no name of an option; write it as in **{{'dataset.tokens': 4096}}")
    return [f"{name}={_written(name, value)}" for name, value in options.items()]


def _written(name: str, value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    elif isinstance(value, Path):
        value = str(value)
    elif hasattr(value, "tolist"):  # of NumPy and PyTorch
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not (isinstance(key, str) and re.fullmatch(r"[\w./-]+", key, re.ASCII)):
                raise UserError(f"{name}: the name {key!r} in a dictionary; give letters, digits, _, -, . and / only")
        return "{" + ",".join(f"{key}:{_written(name, one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(name, one) for one in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    if value is None or isinstance(value, bool | int | float | str):
        return quoted(value)
    raise UserError(
        f"{name}={value!r}: a {type(value).__name__} is no value of an option; give a number, a text or a list"
    )
