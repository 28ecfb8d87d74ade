"""Sources of text: from a dataset config to whole documents, in order. Knows nothing of tokens or models.

A document is a .txt file, or a row of a table or list in a local file (`readers`) or on the Hub (through `datasets`).
Rows and files that cannot be used are skipped, counted and named, up to the share `dataset.bad_rows`.
"""

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from glob import glob
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

RULES = 2  # version of the rules for documents; tokens that were stored under other rules are not reused
TRIES = 2  # attempts of `datasets`; in each of them huggingface_hub tries six times within a minute and a half
HUB_BATCH = 1000  # rows that `datasets` decodes at once
OFFLINE = "dataset=pydoc, or dataset=text dataset.path=FILE_OR_FOLDER"  # what works without a network
MANIFESTS = (".json", ".csv", ".tsv")  # endings of files that often describe the texts of a folder

# (the file or dataset as the user knows it, a row of it)
LocatedRow = tuple[str, Row | BadRow]


class Reading:
    """Keeps account of what was read from a source, and refuses a source with too many bad rows or files."""

    def __init__(self, config: DatasetConfig) -> None:
        self.skipped: list[Skipped] = []
        self._config = config
        self._rows = Share(config.bad_rows, "dataset.bad_rows", "rows")
        self._files = Share(config.bad_rows, "dataset.bad_rows", "files")
        self._good_rows = 0
        self._kinds_with_text: set[str | None] = set()
        # Tables without the text column, with their kind. Each is a manifest unless another file of its kind has text
        self._manifests: list[tuple[str | None, Skipped]] = []
        self._only_column = True  # so far a missing text column was the only problem

    @property
    def needed(self) -> float:
        """The smallest `dataset.bad_rows` that accepts what was read so far."""
        return max(self._rows.needed, self._files.needed)

    def set_file_count(self, files: int) -> None:
        """Sets the number of files of the source, the unreadable ones included."""
        self._files.seen = files

    def text_of_row(self, where: str, row: Row | BadRow) -> str:
        """Counts a row and returns its text, which is empty if the row is bad.

        Raises:
            UserError: too many rows or files are bad.
        """
        if isinstance(row, Row):
            try:
                text = text_of(row.value)
            except ValueError as error:
                row = BadRow(row.number, str(error), no_column=not isinstance(row.value, str))  # a column of numbers
            else:
                self._rows.seen += 1
                self._good_rows += 1
                self._kinds_with_text.add(kind_of(where))
                return text
        item = Skipped(where, row.number, row.reason)
        self.skipped.append(item)
        self._only_column &= row.no_column
        share = self._rows if row.number else self._files
        if row.number:
            share.seen += 1
        if not row.number and row.no_column and kind_of(where) in MANIFESTS:
            self._manifests.append((kind_of(where), item))
            return ""
        try:
            share.add_bad(item)
        except UserError as error:
            if len(share.bad) >= EARLY:
                self._refuse_if_nothing_is_good(error)
            raise
        return ""

    def check(self) -> None:
        """Raises UserError if more than `dataset.bad_rows` of what was read cannot be used, or if none of it can."""
        if self.skipped:
            self._refuse_if_nothing_is_good(None)
        for kind, item in self._manifests:
            if kind in self._kinds_with_text:
                self._files.add_bad(item)
        self._manifests = []
        self._rows.check()
        self._files.check()

    def _refuse_if_nothing_is_good(self, cause: UserError | None) -> None:
        if self._good_rows:
            return
        first, option, others = self.skipped[0], _option(self._config), len(self.skipped) - 1
        is_path = Path(first.where) == Path(self._config.path or "").expanduser()
        place = [*([] if is_path else [first.where]), *([f"row {first.item}"] if first.item else [])]
        problem = f"{', '.join(place)}{': ' if place else ''}{first.reason}"
        if others:
            problem += f" (and {others} more that cannot be used)"
        if self._only_column:
            option = f"text_column={self._config.text_column}: {option}"
            advice = _advice_on_column(first.reason)
        else:
            advice = f"; correct {'them' if others else 'it'}, or {_give_another(self._config)}"
        raise UserError(f"dataset.{option}: {problem}{advice}") from cause


def documents(config: DatasetConfig, reading: Reading | None = None) -> Iterator[str]:
    """Yields the text of every document, with its newlines; empty documents are left out.

    Args:
        config: which text.
        reading: counts the rows and collects the skipped ones. A caller that stops before the last document must call
            its `check`.

    Raises:
        UserError: the source does not exist, cannot be reached, is empty, lacks its text column, or more than
            `dataset.bad_rows` of it cannot be used.
    """
    reading = reading or Reading(config)
    rows = {Source.pydoc: _pydoc, Source.files: _files, Source.hub: _from_hub}[config.source](config, reading)
    any_text = chat_logged = False
    for where, row in rows:
        text = reading.text_of_row(where, row)
        if text and not text.isspace():
            if not chat_logged and isinstance(row, Row) and is_chat(row.value):
                chat_logged = True
                log.info("%s holds chat messages: the contents of a row, joined by blank lines, are a text", where)
            any_text = True
            yield text
    reading.check()
    if not any_text:
        but = f", and {len(reading.skipped)} cannot be used ({named(reading.skipped)})" if reading.skipped else ""
        raise UserError(
            f"dataset.{_option(config)}: there is no text in it{but}; {_give_another(config)} (or, for a table, "
            "dataset.text_column=COLUMN)"
        )


def identity(config: DatasetConfig) -> dict[str, Any]:
    """The dataset's entry in a run's provenance. `resolved` identifies its content: a commit, or the files' state."""
    if config.source is Source.pydoc:
        return {"source": "pydoc", "resolved": f"CPython {sys.version.split()[0]}"}
    if config.source is Source.files:
        files, _ = listed(config)
        states = [_state(file) for file in files]
        digest = hashlib.sha256(repr(states).encode()).hexdigest()[:16]
        path = str(Path(config.path or "").expanduser().resolve())
        total = sum(size for _, size, _ in states)
        return {"source": "files", "path": path, "resolved": f"{len(files)} files, {total} bytes, state {digest}"}
    return {
        "source": "hub",
        "name": config.name,
        "subset": config.subset,
        "split": config.split,
        "resolved": check_reachable(config),
    }


def _state(file: Path) -> tuple[str, int, int]:
    """(path, size in bytes, time of the last change in ns)."""
    try:
        status = file.stat()
        return str(file), status.st_size, status.st_mtime_ns
    except OSError:  # reading the file will report it
        return str(file), 0, 0


def check_reachable(config: DatasetConfig) -> str | None:
    """The commit of a dataset on the Hub; None for other sources. Raises UserError if the source does not exist."""
    if config.source is not Source.hub:
        if config.source is Source.files:
            listed(config)
        return None
    if not config.name:
        raise UserError("dataset.name is missing: give dataset.name=ORGANISATION/DATASET")
    return on_the_hub(config).commit


def on_the_hub(config: DatasetConfig) -> hub.Repository:
    """The dataset's repository. Raises UserError if there is none."""
    return hub.resolve(str(config.name), config.revision, "dataset", "dataset.name", None, offline=OFFLINE)


def _option(config: DatasetConfig) -> str:
    return f"path={config.path}" if config.source is Source.files else f"name={config.name or config.source.value}"


def _give_another(config: DatasetConfig) -> str:
    """The advice for a source without text."""
    return f"give another dataset.{'path' if config.source is Source.files else 'name'}"


def _advice_on_column(reason: str) -> str:
    """The advice after the reason that `no_column` gives, unless that already suggests a column."""
    return "" if reason.endswith("?") else "; give dataset.text_column=COLUMN, one of these"


def _pydoc(config: DatasetConfig, reading: Reading) -> Iterator[LocatedRow]:
    from pydoc_data.topics import topics

    for number, name in enumerate(sorted(topics), start=1):
        yield name, Row(number, topics[name])


def listed(config: DatasetConfig) -> tuple[list[Path], list[OSError]]:
    """The files at a path, or of a pattern such as `books/*.txt`, and an error for each folder that cannot be read."""
    path = Path(config.path or "").expanduser()
    if path.is_file():
        if kind_of(path.name) is None:
            raise UserError(f"dataset.path={config.path}: {path.suffix or 'no'} ending; give {TEXT_KINDS}, or a folder")
        return [path], []
    if not path.is_dir():
        found = sorted(Path(name) for name in glob(str(path), recursive=True))  # noqa: PTH207 (a whole path)
        matching = [file for file in found if file.is_file()]  # a link may lead nowhere
        files = [file for file in matching if kind_of(file.name) is not None]
        if not files:
            what = "no file that matches can be read" if matching else "no such file or folder"
            raise UserError(f"dataset.path={config.path}: {what}; give {TEXT_KINDS}")
        return files, []
    errors: list[OSError] = []
    files = data_files(path, ENDINGS, on_error=errors.append)
    if not files:
        others = {file.suffix.lower() or file.name for file in data_files(path, [""], on_error=errors.append)}
        found = [*(one_line(error) for error in errors[:1]), *sorted(others)[:5]]
        why = f" (found: {', '.join(found)})" if found else ""
        raise UserError(f"dataset.path={config.path}: the folder holds no text{why}; give {TEXT_KINDS}")
    return files, errors


def _files(config: DatasetConfig, reading: Reading) -> Iterator[LocatedRow]:
    files, errors = listed(config)
    reading.set_file_count(len(files) + len(errors))
    for error in errors:
        yield str(error.filename), BadRow(0, error.strerror or one_line(error))
    for file in files:
        for row in read(file, config.text_column):
            yield str(file), row


def hub_stream(config: DatasetConfig, repository: hub.Repository) -> Any:
    """The rows of a dataset of the Hub, as `datasets` streams them: an IterableDataset."""
    from datasets import config as settings
    from datasets import load_dataset_builder
    from datasets.utils.logging import CRITICAL, set_verbosity

    set_verbosity(CRITICAL)  # `datasets` logs the errors that it also raises
    settings.STREAMING_OPEN_MAX_RETRIES = settings.STREAMING_READ_MAX_RETRIES = TRIES
    # The card says which files belong to a subset. Without it `datasets` would guess, or use a copy of another commit
    hub.fetch(repository, f"dataset.name={config.name}")
    builder = load_dataset_builder(str(config.name), config.subset, revision=repository.commit)
    if ".cache." in type(builder).__module__:
        raise ConnectionError("datasets would use an older copy")
    if hasattr(builder.config, "batch_size"):  # the default is the size of a shard's first part, which may be 0
        builder.config.batch_size = HUB_BATCH  # type: ignore[attr-defined]
    return builder.as_streaming_dataset(split=config.split)


def _from_hub(config: DatasetConfig, reading: Reading) -> Iterator[LocatedRow]:
    """Streams rows. After a failure `datasets` requests the same range of the file again, so no row comes twice."""
    repository = on_the_hub(config)
    if repository.unreachable:
        raise UserError(
            f"dataset.name={config.name}: no earlier run has kept these tokens (for this tokenizer, dataset.tokens and "
            f"dataset.sequence_length), and the Hub cannot be reached ({repository.unreachable}); offline: {OFFLINE}"
        )
    log.info(
        "Streaming %s%s (commit %s): read as far as needed, nothing of it is stored",
        config.name,
        f", {config.subset}" if config.subset else "",
        repository.commit[:12],
    )
    count = 0
    try:
        stream: Any = iter(hub_stream(config, repository))
        with closing(stream) as rows:  # an open stream would print errors at exit
            for row in rows:
                if config.text_column not in row:
                    reason = no_column(config.text_column, row)
                    raise UserError(
                        f"dataset.text_column={config.text_column}: {_option(config)} has {reason}"
                        f"{_advice_on_column(reason)}"
                    )
                count += 1
                yield str(config.name), Row(count, row[config.text_column])
    except UserError:
        raise
    except Exception as error:
        text = one_line(error)
        options = {"BuilderConfig": f"subset={config.subset}", "split": f"split={config.split}"}
        if text.startswith("Config name is missing"):  # the error's second line lists the subsets
            subsets = str(error).splitlines()[1].rpartition(": ")[2]
            raise UserError(f"dataset.subset is missing: give one that {config.name} has, {subsets}") from error
        option = next((option for word, option in options.items() if word in text), None)
        if count == 0 and option is not None and isinstance(error, ValueError):
            raise UserError(f"dataset.{option}: {text}; give one of these") from error
        reason = hub.explain(error, str(config.name), "dataset")
        problem = f"the text broke off after {count} rows" if count else "cannot be read from the Hub"
        raise UserError(
            f"dataset.name={config.name}: {problem} ({reason}); run again from the start; if it fails there once more, "
            f"{_give_another(config)}"
        ) from error
