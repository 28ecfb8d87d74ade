"""Where text comes from: a dataset config → whole documents, in order. Knows nothing of tokens or models.

A document is a .txt file, or a row of a .jsonl, .parquet or Hub dataset; the last two are read through `datasets`.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Generator, Iterator
from glob import escape
from pathlib import Path
from typing import Any

from neurexp import hub
from neurexp.config import DatasetConfig, Source
from neurexp.errors import UserError, closest, one_line

log = logging.getLogger(__name__)

ENDINGS = (".txt", ".jsonl", ".parquet")
TRIES = 2  # of datasets, on each of which huggingface_hub tries six times within a minute and a half
OFFLINE = "dataset=pydoc, or dataset=text dataset.path=FILE_OR_FOLDER"


def documents(config: DatasetConfig) -> Iterator[str]:
    """Yields every document's text, newlines kept, empty documents left out.

    Raises:
        UserError: the source is not there, not reachable, empty, not UTF-8 text, or lacks its text column.
    """
    read = {Source.pydoc: _pydoc, Source.files: _files, Source.hub: _from_hub}[config.source]
    found = False
    for text in read(config):
        if text and not text.isspace():
            found = True
            yield text
    if not found:
        raise UserError(f"dataset.{_option(config)}: there is no text in it")


def identity(config: DatasetConfig) -> dict[str, Any]:
    """What names the dataset in a run's provenance; `resolved` is its commit, or what stands for it offline."""
    if config.source is Source.pydoc:
        return {"source": "pydoc", "resolved": f"CPython {sys.version.split()[0]}"}
    if config.source is Source.files:
        files = _listed(config)
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        path = str(Path(config.path or "").expanduser().resolve())
        total = sum(size for _, size, _ in facts)
        return {"source": "files", "path": path, "resolved": f"{len(files)} files, {total} bytes, state {digest}"}
    return {
        "source": "hub",
        "name": config.name,
        "subset": config.subset,
        "split": config.split,
        "resolved": check_reachable(config),
    }


def check_reachable(config: DatasetConfig) -> str | None:
    """The commit of a dataset on the Hub (None for the other sources). Raises UserError where it is not to be had."""
    if config.source is not Source.hub:
        if config.source is Source.files:
            _listed(config)
        return None
    if not config.name:
        raise UserError("dataset.name is missing: give dataset.name=ORGANISATION/DATASET")
    return _on_the_hub(config).commit


def _on_the_hub(config: DatasetConfig) -> hub.Repository:
    return hub.resolve(str(config.name), config.revision, "dataset", "dataset.name", None, offline=OFFLINE)


def _option(config: DatasetConfig) -> str:
    return f"path={config.path}" if config.source is Source.files else f"name={config.name or config.source.value}"


def _pydoc(config: DatasetConfig) -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _listed(config: DatasetConfig) -> list[Path]:
    path = Path(config.path or "").expanduser()
    known = ", ".join(ENDINGS)
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise UserError(
                f"dataset.path={config.path}: {path.suffix or 'no'} ending; give a {known} file, or a folder"
            )
        return [path]
    if not path.is_dir():
        raise UserError(f"dataset.path={config.path}: no such file or folder")
    files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS and file.is_file())
    if not files:
        raise UserError(f"dataset.path={config.path}: the folder holds no {known} file")
    return files


def _files(config: DatasetConfig) -> Iterator[str]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from datasets.utils.logging import CRITICAL, set_verbosity

    set_verbosity(CRITICAL)  # it logs what it then raises
    for file in _listed(config):
        if file.stat().st_size == 0 and file.suffix != ".parquet":  # no rows; an empty parquet file is a torn one
            continue
        try:
            if file.suffix == ".txt":  # a document as it is: `datasets` would turn \r\n into \n
                texts: Iterator[str] = iter([file.read_bytes().decode("utf-8")])
            elif file.suffix == ".jsonl":
                texts = _column(_json_lines(file), config.text_column, config)
            else:
                # A file's name is no pattern, whatever characters it has
                rows = load_dataset("parquet", data_files=escape(str(file)), split="train", streaming=True)
                texts = _column(iter(rows), config.text_column, config)
            for text in texts:
                if "\0" in text:
                    raise UserError(f"dataset.path={config.path}: {file.name} is binary, not text")
                yield text
        except UnicodeError as error:
            raise UserError(f"dataset.path={config.path}: {file.name} is not UTF-8 text ({one_line(error)})") from error
        except (DatasetGenerationError, ValueError, OSError) as error:
            raise UserError(f"dataset.path={config.path}: {file.name} cannot be read ({one_line(error)})") from error


def _json_lines(file: Path) -> Generator[dict[str, Any]]:
    """The objects of a .jsonl file, a line each. `datasets` ends the whole process at a line such as `null`."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text or text.isspace():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f'line {number} is no object, as {{"text": …}} would be')
            yield row


def _from_hub(config: DatasetConfig) -> Iterator[str]:
    """Rows over a connection that may fail; datasets repeats a request for a range of a file, so no row comes twice."""
    from datasets import config as settings
    from datasets import load_dataset_builder
    from datasets.utils.logging import CRITICAL, set_verbosity

    set_verbosity(CRITICAL)  # it logs what it then raises
    settings.STREAMING_OPEN_MAX_RETRIES = settings.STREAMING_READ_MAX_RETRIES = TRIES
    repository = _on_the_hub(config)
    if repository.unreachable:
        raise UserError(
            f"dataset.name={config.name}: no earlier run has kept these tokens (its dataset.tokens, .sequence_length "
            f"and tokenizer were others), and the Hub cannot be reached ({repository.unreachable}); offline: {OFFLINE}"
        )
    log.info(
        "Streaming %s%s (commit %s): read as far as needed, nothing of it is stored",
        config.name,
        f", {config.subset}" if config.subset else "",
        repository.commit[:12],
    )
    # Its card says which files are which subset; datasets goes on without it, or with what it kept of another commit
    hub.fetch(repository, f"dataset.name={config.name}")
    begun = 0
    try:
        builder = load_dataset_builder(str(config.name), config.subset, revision=repository.commit)
        if ".cache." in type(builder).__module__:
            raise ConnectionError("datasets would take a copy of another time")
        for text in _column(iter(builder.as_streaming_dataset(split=config.split)), config.text_column, config):
            begun += 1
            yield text
    except UserError:
        raise
    except Exception as error:
        text = one_line(error)
        unknown = {"BuilderConfig": f"subset={config.subset}", "split": f"split={config.split}"}
        option = next((option for word, option in unknown.items() if word in text), None)
        if begun == 0 and option is not None and isinstance(error, ValueError):
            raise UserError(f"dataset.{option}: {text}") from error
        reason = hub.explain(error, str(config.name), "dataset")
        what = f"the text broke off after {begun} documents" if begun else "cannot be read from the Hub"
        raise UserError(f"dataset.name={config.name}: {what} ({reason}); run again: it starts over") from error


def _column(rows: Any, column: str, config: DatasetConfig) -> Iterator[str]:
    """One column of a generator of rows. It is closed with ours: left open, that of `datasets` makes noise at exit."""
    try:
        for number, row in enumerate(rows):
            if number == 0 and column not in row:  # of .jsonl a later row may lack what is empty
                there = ", ".join(row)
                raise UserError(
                    f"dataset.text_column={column}: {_option(config)} has the columns {there}{closest(column, row)}"
                )
            text = row.get(column)
            text = "" if text is None else text
            if not isinstance(text, str):
                raise UserError(
                    f"dataset.text_column={column}: {_option(config)} has {type(text).__name__} there, not text"
                )
            if not text.isascii():
                text.encode()  # raises where it is none: JSON can spell half a character
            yield text
    finally:
        rows.close()
