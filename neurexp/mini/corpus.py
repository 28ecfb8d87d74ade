"""Text that the embedded model is trained on: a folder of books and the docstrings of the installed Python packages.

Knows nothing of tokens or models. It never reads `pydoc_data`, the text that `dataset=pydoc` runs on, and drops every
docstring that shares a run of words with it.
"""

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHARED_WORDS = 13  # a run of this many equal words makes a docstring a copy of held-out text
SHORTEST_DOCSTRING = 200  # characters; below this it is a label rather than prose
PROSE_SHARE = 0.75  # of a docstring's characters that are lower-case letters or spaces


def read_books(folder: Path, held_out: list[str]) -> tuple[list[str], list[str]]:
    """Returns (training documents, held-out documents) of the `.txt` files in `folder`, one document a file."""
    files = sorted(folder.glob("*.txt"))
    unknown = set(held_out) - {file.name for file in files}
    if not files or unknown:
        raise SystemExit(f"--corpus {folder}: no .txt file there" if not files else f"--held-out: no {sorted(unknown)}")
    texts = {file.name: file.read_text("utf-8") for file in files}
    return [text for name, text in texts.items() if name not in held_out], [texts[name] for name in held_out]


def read_docstrings(characters: int, seed: int, held_out: list[str]) -> tuple[list[str], dict[str, int]]:
    """Returns prose docstrings of the standard library and the installed packages, shuffled, about `characters` long.

    Also returns how many were seen, too short or not prose, doubled, and dropped as copies of the held-out text.
    """
    forbidden = {run for text in held_out for run in _word_runs(text)}
    counts = {"seen": 0, "short_or_not_prose": 0, "double": 0, "shared_with_held_out": 0, "kept": 0}
    kept: dict[str, None] = {}
    for docstring in _docstrings():
        counts["seen"] += 1
        prose = len(re.findall(r"[a-z ]", docstring)) / max(1, len(docstring))
        if len(docstring) < SHORTEST_DOCSTRING or prose < PROSE_SHARE:
            counts["short_or_not_prose"] += 1
        elif docstring in kept:
            counts["double"] += 1
        elif not forbidden.isdisjoint(_word_runs(docstring)):
            counts["shared_with_held_out"] += 1
        else:
            kept[docstring] = None
    texts = list(kept)
    random.Random(seed).shuffle(texts)
    chosen, length = [], 0
    for text in texts:
        if length >= characters:
            break
        chosen.append(text)
        length += len(text)
    counts["kept"] = len(chosen)
    return chosen, counts


def _docstrings() -> Iterator[str]:
    paths = sysconfig.get_paths()
    for root in (Path(paths["stdlib"]), Path(paths["purelib"])):
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).parts
            if parts[0] in ("pydoc_data", "site-packages", "neurexp") or {"test", "tests"} & set(parts):
                continue
            try:
                tree = ast.parse(file.read_text("utf-8"))
            except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                if documented and (docstring := ast.get_docstring(node)):
                    yield docstring


def _word_runs(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(SHARED_WORDS)), strict=False)
