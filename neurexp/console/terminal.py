"""The terminal: text that it can show, and no warnings of libraries.

A terminal or a pipe may have another encoding than UTF-8, or be closed or full. That neither ends a run nor prints a
traceback. Knows no experiment; imports nothing heavy.
"""

import codecs
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from neurexp.console import environment
from neurexp.errors import PrintableFormatter

# Libraries whose warnings go into the run's log. huggingface_hub is not one: users need to see its retries
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
    """Replaces what an encoding lacks: our own symbols by ASCII, everything else by its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("neurexp", _replaced)


def prepare() -> None:
    """Makes the standard streams exist and accept every text, and keeps libraries from opening windows."""
    environment.settle()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get the output
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="neurexp")


_refused: list[OSError] = []  # why lines of the log were lost


def flush() -> OSError | None:
    """Flushes the output. Returns why standard output or the log file did not take all of it.

    A reader that closed the pipe, as `| head` does, is no reason.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            with suppress(OSError, ValueError):  # otherwise the interpreter tries again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and isinstance(error, OSError):
                _refused.append(error)
    return next((error for error in _refused if not isinstance(error, BrokenPipeError)), None)


@contextmanager
def lent() -> Iterator[None]:
    """For a call from Python: the standard streams accept every text within the context, and are as before after it."""
    errors = {stream: stream.errors for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)}
    for stream in errors:
        stream.reconfigure(errors="neurexp")
    try:
        yield
    finally:
        for stream, before in errors.items():
            if not stream.closed:
                stream.reconfigure(errors=before)


@contextmanager
def own_log(file: Path, shows: bool = True) -> Iterator[None]:
    """For a call from Python: our lines go to standard output (if it `shows`) and to `file`, those of libraries there.

    The caller's handlers get none of ours, or each line would be there twice. All loggers are as before afterwards.
    """
    ours, root = logging.getLogger("neurexp"), logging.getLogger()
    known = ours.level, ours.propagate
    shown, kept = logging.StreamHandler(sys.stdout), logging.FileHandler(file, encoding="utf-8")
    kept.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.partition(".")[0] == "neurexp")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    handlers = [shown, kept] if shows else [kept]
    for handler in handlers:
        handler.setFormatter(PrintableFormatter("%(message)s"))
        ours.addHandler(handler)
    root.addHandler(kept)
    try:
        with warnings_in_the_log(handlers):
            yield
    finally:
        root.removeHandler(kept)
        for handler in handlers:
            ours.removeHandler(handler)
        kept.close()
        ours.level, ours.propagate = known


@contextmanager
def warnings_in_the_log(handlers: Sequence[logging.Handler] | None = None) -> Iterator[None]:
    """Sends warnings of libraries to the log files instead of the terminal, within the context.

    Nothing changes if the user asked for warnings: by `-W`, PYTHONWARNINGS or `hydra.verbose=true`. With
    PYTHONWARNINGS=error a library's warning ends the run like any unexpected error.

    Args:
        handlers: of the log; the root logger's if not given.
    """
    root, show = logging.getLogger(), warnings.showwarning
    handlers = root.handlers if handlers is None else handlers
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # otherwise its log goes to the terminal
    for handler in handlers:
        handler.handleError = partial(_note_refused, handler)
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8")  # whatever the locale's
        elif isinstance(handler, logging.StreamHandler) and root.level >= logging.WARNING:
            handler.addFilter(_is_for_the_terminal)
    if not sys.warnoptions:
        warnings.showwarning = partial(_write_into_the_log, list(handlers))
    try:
        yield
    finally:
        warnings.showwarning = show


@contextmanager
def without_a_log() -> Iterator[None]:
    """Like `warnings_in_the_log`, for commands without a log: warnings of libraries are dropped."""
    logging.basicConfig(format="%(message)s")
    with warnings_in_the_log():
        yield


def _note_refused(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Ignores lines that a closed or full output does not take: logging would print a traceback."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        _refused.append(error)
    else:
        logging.Handler.handleError(handler, record)


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] not in LIBRARIES


def _write_into_the_log(
    handlers: Sequence[logging.Handler],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: Any = None,
) -> None:
    text = f"{filename}:{lineno}: {category.__name__}: {message}"
    record = logging.LogRecord("py.warnings", logging.WARNING, filename, lineno, text, None, None)
    for handler in handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
