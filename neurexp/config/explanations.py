"""What every option means, for `--help` and docs/options.md. Imports nothing heavy.

The sentences stand beside the options, and only there: as comments of the fields in `config.schema`, and as comments
in the yaml file of an experiment and of the bases that it names. The first comment of a yaml file describes the choice.
"""

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from neurexp.config import schema

WIDTH = 118  # columns of `--help`
INDENT = 36  # column where the meanings begin
_OPTION = re.compile(r"(?P<name>\w+):(?P<rest>.*)")
_BASE = re.compile(r"^\s*- /(?P<base>[\w/]+)@_here_|^\s*- (?P<own>\w+)@experiment", re.MULTILINE)


def explained(config: DictConfig, choices: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Every option of a composed config: `GROUP.OPTION` → its value as on the command line, and what it means.

    Args:
        config: as Hydra composed it.
        choices: group → chosen file.
        folders: of configs, in the order in which Hydra searches them.
    """
    found = {}
    for group in schema.GROUPS:
        if group not in config:
            continue
        meanings = _of_file(folders, f"experiment/{choices.get(group)}") if group == "experiment" else _of_schema(group)
        for name, value in config[group].items():
            if name not in schema.FIXED.get(group, ()):
                shown = "???" if OmegaConf.is_missing(config[group], name) else _shown(schema.plain(value))
                found[f"{group}.{name}"] = shown, meanings.get(str(name), "")
    return found


def described(folders: Sequence[Path], group: str, choice: str) -> str:
    """The first sentence or question of a choice's yaml file; empty if it has no comment."""
    file = _find(folders, f"{group}/{choice}")
    lines = [] if file is None else file.read_text("utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            comment.append(line.lstrip("# "))
    return re.split(r"(?<=[.?:;]) ", " ".join(comment), maxsplit=1)[0].rstrip(":;.")


def choices_of(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The choices of each group, in alphabetical order."""
    return {
        group: sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
        for group in schema.GROUPS
        if any((folder / group).is_dir() for folder in folders)
    }


def as_help(config: DictConfig, choices: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """The groups with their choices, and the options of a composed config, for a terminal."""
    names, experiment = choices_of(folders), choices.get("experiment")
    lines = ["== Groups and their choices (GROUP=CHOICE) =="]
    lines += [f"{group}: {', '.join(known)}" for group, known in names.items()]
    lines += ["", "Experiments:"]
    lines += [_in_columns(name, described(folders, "experiment", name)) for name in names["experiment"]]
    lines += ["", "== Options (OPTION=VALUE), with the values of this command =="]
    options = explained(config, choices, folders)
    lines += [_in_columns(f"{name}={value}", text) for name, (value, text) in options.items()]
    lines += ["", f"These are the options of experiment={experiment}; experiment=NAME --help shows those of another."]
    return "\n".join(lines)


def as_markdown(folder: Path) -> str:
    """docs/options.md, from our own configs in `folder`."""
    parts = [
        "# Options\n",
        "Made by `python -m neurexp.config.explanations` from the comments beside the options. Give an option as",
        "`OPTION=VALUE`, and a group's choice as `GROUP=CHOICE`. A command's `--help` shows its options and values.\n",
    ]
    names = choices_of([folder])
    for group in schema.GROUPS:
        parts.append(f"## {group}\n")
        if group in names:
            rows = [(f"`{group}={name}`", described([folder], group, name)) for name in names[group]]
            parts.append(_table(("choice", ""), rows))
        if group == "experiment":
            for name in names[group]:
                meanings = _of_file([folder], f"experiment/{name}")
                rows = [(f"`experiment.{option}`", text) for option, text in meanings.items() if text]
                parts += [f"### {name}\n", _table(("option", "meaning"), rows)]
        else:
            rows = [(f"`{group}.{option}`", text) for option, text in _of_schema(group).items() if text]
            parts.append(_table(("option", "meaning"), rows))
    return "\n".join(parts)


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    cells = [head, ("---", "---"), *((first, second.replace("|", "\\|")) for first, second in rows)]
    return "\n".join(f"| {first} | {second} |" for first, second in cells) + "\n"


def _of_schema(group: str) -> dict[str, str]:
    """Field → the comment above it and behind it, of a group's dataclass in `config.schema`."""
    lines, comments, classes = _schema_source()
    found = {}
    for node in classes[schema.GROUPS[group].__name__].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in comments and lines[line - 1].lstrip().startswith("#"):
                above.insert(0, comments[line])
                line -= 1
            behind = [comments[node.lineno]] if node.lineno in comments else []
            found[node.target.id] = " ".join([*above, *behind])
    return found


@cache
def _schema_source() -> tuple[list[str], dict[int, str], dict[str, ast.ClassDef]]:
    """The lines of `config.schema`, the comment in a line, by its number from 1, and the classes."""
    source = inspect.getsource(schema)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    classes = {one.name: one for one in ast.parse(source).body if isinstance(one, ast.ClassDef)}
    return source.splitlines(), comments, classes


def _of_file(folders: Sequence[Path], name: str) -> dict[str, str]:
    """Option → the comment behind it, in a yaml file and in those that it begins from."""
    file = _find(folders, name)
    if file is None:
        return {}
    text, found = file.read_text("utf-8"), dict[str, str]()
    for base in _BASE.finditer(text):
        found |= _of_file(folders, base["base"] or f"experiment/{base['own']}")
    for line in text.splitlines():
        option = _OPTION.fullmatch(line.strip())
        if option is None or not option["rest"].strip():  # the head of a section
            continue
        _, mark, comment = option["rest"].rpartition(" # ")
        if mark or option["name"] not in found:
            found[option["name"]] = comment.strip() if mark else ""
    return {option: meaning for option, meaning in found.items() if option not in schema.FIXED["experiment"]}


def _find(folders: Sequence[Path], name: str) -> Path | None:
    return next((file for folder in folders if (file := folder / f"{name}.yaml").is_file()), None)


def _shown(value: Any) -> str:
    value = getattr(value, "value", value)  # of an enum
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)
    return schema.quoted(value)


def _in_columns(first: str, text: str) -> str:
    """An option and its meaning, in two columns. A long option has a line of its own."""
    lines = textwrap.wrap(text, WIDTH - INDENT, break_on_hyphens=False) or [""]
    if len(first) + 4 > INDENT:
        lines.insert(0, "")
    below = [" " * INDENT + line for line in lines[1:]]
    return "\n".join([(f"  {first}".ljust(INDENT) + lines[0]).rstrip(), *below])


if __name__ == "__main__":
    print(as_markdown(schema.CONFIG_FOLDER), end="")
