"""What reaches the terminal: text that it can show, and of the libraries' own warnings none.

A terminal or a pipe may know another encoding than UTF-8, be closed, or full: no run ends of that, and no traceback
takes the place of a finding. Knows no experiment; imports nothing heavy.
"""

import codecs
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from neurexp.console import environment

# Whose warnings go into the run's log. huggingface_hub is not among them: what it says of its tries, a user waits for
LIBRARIES = frozenset({
    "absl", "accelerate", "alembic", "datasets", "filelock", "fsspec", "httpcore", "httpx", "matplotlib", "mlflow",
    "numexpr", "numpy", "PIL", "pyarrow", "safetensors", "scipy", "sqlalchemy", "tokenizers", "torch", "transformers",
    "urllib3",
})  # fmt: skip
PLAIN = str.maketrans({
    "•": "*", "·": ".", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "≈": "~",
    "‘": "'", "’": "'", "“": '"', "”": '"', "±": "+-", "²": "2", "η": "eta", "ρ": "rho",
})  # fmt: skip


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """For what an encoding has not: our own signs in ASCII, all else (words, names of files) as its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("neurexp", _replaced)


def prepare() -> None:
    """Standard streams that exist, and take every text; no library looks for a window."""
    environment.settle()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="neurexp")


_refused: list[OSError] = []  # what kept lines of the log from where they should go


def flush() -> OSError | None:
    """Writes out what is left to be printed; returns why standard output, or the log's file, took not all of it.

    A reader that went away, as `| head` does, is no reason.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            with suppress(OSError, ValueError):  # or the interpreter, as it ends, would try once more
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and isinstance(error, OSError):
                _refused.append(error)
    return next((error for error in _refused if not isinstance(error, BrokenPipeError)), None)


@contextmanager
def warnings_in_the_log() -> Iterator[None]:
    """Within the context, warnings of libraries go into the log's files and not to the terminal.

    Nothing changes where a user asked for them: by `-W`, by PYTHONWARNINGS, or by `hydra.verbose=true`. So
    PYTHONWARNINGS=error is taken at its word: a library's warning then ends the run as any unexpected error does.
    """
    root, show = logging.getLogger(), warnings.showwarning
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # or its log would have a way of its own to the terminal
    for handler in root.handlers:
        handler.handleError = partial(_note_refused, handler)
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8")  # whatever the locale's
        elif isinstance(handler, logging.StreamHandler) and root.level >= logging.WARNING:
            handler.addFilter(_is_for_the_terminal)
    if not sys.warnoptions:
        warnings.showwarning = _write_into_the_log
    try:
        yield
    finally:
        warnings.showwarning = show


@contextmanager
def without_a_log() -> Iterator[None]:
    """As `warnings_in_the_log`, for the commands that keep none: warnings of libraries are shown to no one."""
    logging.basicConfig(format="%(message)s")
    with warnings_in_the_log():
        yield


def _note_refused(handler: logging.Handler, record: logging.LogRecord) -> None:
    """A line that a closed or full output does not take is no news by itself: logging would print a traceback."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        _refused.append(error)
    else:
        logging.Handler.handleError(handler, record)


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] not in LIBRARIES


def _write_into_the_log(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    text = f"{filename}:{lineno}: {category.__name__}: {message}"
    record = logging.LogRecord("py.warnings", logging.WARNING, filename, lineno, text, None, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
