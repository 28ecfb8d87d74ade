"""Where text comes from: a dataset config → whole documents, in order. Knows nothing of tokens or models.

A document is a .txt file, or a row of a table or list in a local file (`readers`) or on the Hub (through `datasets`).
What cannot be used is skipped, counted and named, up to the share of `dataset.bad_rows`.
"""

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from neurexp.config.schema import TEXT_KINDS, DatasetConfig, Source
from neurexp.errors import UserError, one_line
from neurexp.io import hub
from neurexp.io.files import data_files
from neurexp.text.readers import ENDINGS, kind_of, read
from neurexp.text.rows import BadRow, Row, is_chat, no_column, text_of
from neurexp.text.skipped import EARLY, Share, Skipped, named

log = logging.getLogger(__name__)

RULES = 2  # of what is a document; tokens that were kept under earlier ones are made anew
TRIES = 2  # of datasets, on each of which huggingface_hub tries six times within a minute and a half
HUB_BATCH = 1000  # rows that datasets decodes at once
OFFLINE = "dataset=pydoc, or dataset=text dataset.path=FILE_OR_FOLDER"
MANIFESTS = (".json", ".csv", ".tsv")  # endings of what often lies beside texts and describes them

# Where a row or file lies, as the user would find it, and what was read there
Found = tuple[str, Row | BadRow]


class Reading:
    """What was read of a source until now, and what of it could not be used."""

    def __init__(self, config: DatasetConfig) -> None:
        self.skipped: list[Skipped] = []
        self._config = config
        self._rows = Share(config.bad_rows, "dataset.bad_rows", "rows")
        self._files = Share(config.bad_rows, "dataset.bad_rows", "files")
        self._good_rows = 0
        self._kinds: set[str | None] = set()  # of files that had text
        self._no_column: list[tuple[str | None, Skipped]] = []  # manifests, unless others of their kind have text
        self._only_column = True  # nothing else is amiss

    @property
    def needed(self) -> float:
        """The least `dataset.bad_rows` with which what was read until now is accepted."""
        return max(self._rows.needed, self._files.needed)

    def begin(self, files: int) -> None:
        """Says how many files there are."""
        self._files.seen = files

    def take(self, where: str, found: Row | BadRow) -> str:
        """The text of a row; empty where there is none. Raises UserError where too much is bad."""
        if isinstance(found, Row):
            try:
                text = text_of(found.value)
            except ValueError as error:
                is_type = not isinstance(found.value, str)
                found = BadRow(found.number, str(error), no_column=is_type)
            else:
                self._rows.seen += 1
                self._good_rows += 1
                self._kinds.add(kind_of(where))
                return text
        one = Skipped(where, found.number, found.reason)
        self.skipped.append(one)
        self._only_column &= found.no_column
        share = self._rows if found.number else self._files
        if found.number:
            share.seen += 1
        if not found.number and found.no_column and kind_of(where) in MANIFESTS:
            self._no_column.append((kind_of(where), one))
            return ""
        try:
            share.add_bad(one)
        except UserError as error:
            if len(share.bad) >= EARLY:
                self._refuse_if_nothing_is_good(error)
            raise
        return ""

    def check(self) -> None:
        """Raises UserError where more than `dataset.bad_rows` of what was read cannot be used, or nothing can be."""
        if self.skipped:
            self._refuse_if_nothing_is_good(None)
        for kind, one in self._no_column:
            if kind in self._kinds:
                self._files.add_bad(one)
        self._no_column = []
        self._rows.check()
        self._files.check()

    def _refuse_if_nothing_is_good(self, cause: UserError | None) -> None:
        if self._good_rows:
            return
        first, option, others = self.skipped[0], _option(self._config), len(self.skipped) - 1
        is_path = Path(first.where) == Path(self._config.path or "").expanduser()
        place = [*([] if is_path else [first.where]), *([f"row {first.item}"] if first.item else [])]
        what = f"{', '.join(place)}{': ' if place else ''}{first.reason}"
        if others:
            what += f" (and {others} more that cannot be used)"
        about = f"text_column={self._config.text_column}: {option}" if self._only_column else option
        todo = (
            _pick(first.reason)
            if self._only_column
            else f"; mend {'them' if others else 'it'}, or {_another(self._config)}"
        )
        raise UserError(f"dataset.{about}: {what}{todo}") from cause


def documents(config: DatasetConfig, reading: Reading | None = None) -> Iterator[str]:
    """Yields every document's text, newlines kept, empty documents left out.

    Args:
        config: which text.
        reading: is told what was skipped. Whoever stops before the last document calls its `check`.

    Raises:
        UserError: the source is not there, not reachable, empty, lacks its text column, or more than
            `dataset.bad_rows` of it cannot be used.
    """
    reading = reading or Reading(config)
    rows = {Source.pydoc: _pydoc, Source.files: _files, Source.hub: _from_hub}[config.source](config, reading)
    any_text = said = False
    for where, found in rows:
        text = reading.take(where, found)
        if text and not text.isspace():
            if not said and isinstance(found, Row) and is_chat(found.value):
                said = True
                log.info("%s holds chat messages: the contents of a row, joined by blank lines, are a text", where)
            any_text = True
            yield text
    reading.check()
    if not any_text:
        but = f", and {len(reading.skipped)} cannot be used ({named(reading.skipped)})" if reading.skipped else ""
        raise UserError(
            f"dataset.{_option(config)}: there is no text in it{but}; {_another(config)} (or, of a table, "
            "dataset.text_column=COLUMN)"
        )


def identity(config: DatasetConfig) -> dict[str, Any]:
    """What names the dataset in a run's provenance; `resolved` is its commit, or what stands for it offline."""
    if config.source is Source.pydoc:
        return {"source": "pydoc", "resolved": f"CPython {sys.version.split()[0]}"}
    if config.source is Source.files:
        files, _ = _listed(config)
        facts = [_state(file) for file in files]
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


def _state(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
        return str(file), found.st_size, found.st_mtime_ns
    except OSError:  # gone since it was listed: reading will say so
        return str(file), 0, 0


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


def _another(config: DatasetConfig) -> str:
    """What to do about a source without text."""
    return f"give another dataset.{'path' if config.source is Source.files else 'name'}"


def _pick(reason: str) -> str:
    """What to do about `no_column`, whose reason lists the columns and may itself propose one of them."""
    return "" if reason.endswith("?") else "; give dataset.text_column=COLUMN, one that there is"


def _pydoc(config: DatasetConfig, reading: Reading) -> Iterator[Found]:
    from pydoc_data.topics import topics

    for number, name in enumerate(sorted(topics), start=1):
        yield name, Row(number, topics[name])


def _listed(config: DatasetConfig) -> tuple[list[Path], list[OSError]]:
    """The files that a path names, and what of its folders cannot be read."""
    path = Path(config.path or "").expanduser()
    if path.is_file():
        if kind_of(path.name) is None:
            raise UserError(f"dataset.path={config.path}: {path.suffix or 'no'} ending; give {TEXT_KINDS}, or a folder")
        return [path], []
    if not path.is_dir():
        raise UserError(f"dataset.path={config.path}: no such file or folder; give {TEXT_KINDS}")
    unread: list[OSError] = []
    files = data_files(path, ENDINGS, on_error=unread.append)
    if not files:
        others = {file.suffix.lower() or file.name for file in data_files(path, [""], on_error=unread.append)}
        there = [*(one_line(error) for error in unread[:1]), *sorted(others)[:5]]
        why = f" (there: {', '.join(there)})" if there else ""
        raise UserError(f"dataset.path={config.path}: the folder holds no text{why}; give {TEXT_KINDS}")
    return files, unread


def _files(config: DatasetConfig, reading: Reading) -> Iterator[Found]:
    files, unread = _listed(config)
    reading.begin(len(files) + len(unread))
    for error in unread:
        yield str(error.filename), BadRow(0, error.strerror or one_line(error))
    for file in files:
        for found in read(file, config.text_column):
            yield str(file), found


def _from_hub(config: DatasetConfig, reading: Reading) -> Iterator[Found]:
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
        if hasattr(builder.config, "batch_size"):  # or it takes the size of a shard's first part, which may be none
            builder.config.batch_size = HUB_BATCH  # type: ignore[attr-defined]
        stream: Any = iter(builder.as_streaming_dataset(split=config.split))
        with closing(stream) as rows:  # or it makes noise at exit
            for row in rows:
                if config.text_column not in row:
                    reason = no_column(config.text_column, row)
                    raise UserError(
                        f"dataset.text_column={config.text_column}: {_option(config)} has {reason}{_pick(reason)}"
                    )
                begun += 1
                yield str(config.name), Row(begun, row[config.text_column])
    except UserError:
        raise
    except Exception as error:
        text = one_line(error)
        unknown = {"BuilderConfig": f"subset={config.subset}", "split": f"split={config.split}"}
        if text.startswith("Config name is missing"):  # the next line lists them
            there = str(error).splitlines()[1].rpartition(": ")[2]
            raise UserError(f"dataset.subset is missing: give one that {config.name} has, {there}") from error
        option = next((option for word, option in unknown.items() if word in text), None)
        if begun == 0 and option is not None and isinstance(error, ValueError):
            raise UserError(f"dataset.{option}: {text}; give one that there is") from error
        reason = hub.explain(error, str(config.name), "dataset")
        todo = f"run again: it starts over; if it fails there once more, {_another(config)}"
        what = f"the text broke off after {begun} rows" if begun else "cannot be read from the Hub"
        raise UserError(f"dataset.name={config.name}: {what} ({reason}); {todo}") from error
