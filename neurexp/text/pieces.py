"""Pieces of a source that can be read alone, so that several processes tokenise one text. Knows nothing of tokens.

A piece is a file, or some row groups of a table. Nobody reads more of a table than its own row groups and its end.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neurexp.config.schema import DatasetConfig, Source
from neurexp.text import sources
from neurexp.text.readers import kind_of, read, row_groups
from neurexp.text.rows import Row

HUB_PIECE = 4 * 2**20  # bytes that a row group on the Hub counts as, whose size is not asked for


@dataclass(frozen=True)
class Piece:
    """A range of a source's documents that can be read alone: a file, or row groups of a table."""

    file: Path | int  # the path, or the number of the dataset's file on the Hub
    groups: range | None  # row groups of a .parquet; None: the whole file
    size: int  # bytes, about


class Pieces:
    """The pieces of a source, in the order of its documents. Only the ends of tables are read, as far as asked for.

    There is none if the source cannot be read in pieces.
    """

    def __init__(self, config: DatasetConfig):
        self._config = config

    def __iter__(self) -> Iterator[Piece]:
        if self._config.source is Source.files:
            for file in sources.listed(self._config)[0]:
                if kind_of(file.name) != ".parquet":
                    yield Piece(file, None, file.stat().st_size)
                    continue
                for group, size in enumerate(row_groups(file)):
                    yield Piece(file, range(group, group + 1), size)
        elif self._config.source is Source.hub:
            for file in range(self._on_the_hub.num_shards):
                groups = self._hub_file(file).reshard().num_shards
                for group in range(groups):
                    yield Piece(file, range(group, group + 1) if groups > 1 else None, HUB_PIECE)

    @cached_property
    def _on_the_hub(self) -> Any:
        return sources.hub_stream(self._config, sources.on_the_hub(self._config))

    def _hub_file(self, number: int) -> Any:
        return self._on_the_hub.shard(self._on_the_hub.num_shards, number)

    def documents_of(self, chosen: Sequence[Piece], reading: sources.Reading) -> Iterator[str]:
        """Yields the text of every document of some pieces; the caller looks at `reading.skipped`."""
        for piece in chosen:
            with closing(self._rows(piece)) as rows:
                for where, row in rows:
                    text = reading.text_of_row(where, row)
                    if text and not text.isspace():
                        yield text

    def _rows(self, piece: Piece) -> Generator[sources.LocatedRow, None, None]:
        if isinstance(piece.file, Path):
            for row in read(piece.file, self._config.text_column, piece.groups):
                yield str(piece.file), row
            return
        stream = self._hub_file(piece.file)
        if piece.groups is not None:
            stream = stream.reshard()
            stream = stream.shard(stream.num_shards, piece.groups.start)
        with closing(iter(stream)) as rows:  # an open stream would print errors at exit
            for row in rows:
                yield str(self._config.name), Row(0, row[self._config.text_column])
