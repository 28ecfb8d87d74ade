"""What a run folder holds, by name: tables, tensors and figures, each read when it is asked for.

Knows no experiment. Imports nothing heavy.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurexp.errors import UserError, closest
from neurexp.report.folder import FIGURES

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from pandas import DataFrame

KINDS = ("png", "svg", "pdf")  # of a figure, the best to show first


class _Named(Mapping[str, Any]):
    """A mapping that names what it has where a name is wrong."""

    def __init__(self, what: str, given: str):
        self._what, self._given = what, given

    def missing(self, name: object) -> UserError:
        there = ", ".join(self) or "none"
        return UserError(
            f"{name}: {self._given} has no such {self._what}{closest(str(name), self)} (there are {there})"
        )

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:  # Mapping's own asks for the item, and expects a KeyError
        return name in list(iter(self))

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 (it would call itself)

    def __repr__(self) -> str:
        return f"<{self._what} of {self._given}: {', '.join(self) or 'none'}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


class Contents(_Named):
    """The files of a folder with one ending, by name."""

    def __init__(self, folder: Path, ending: str, what: str, read: Callable[[Path, str], Any], given: str):
        super().__init__(what, given)
        self._files = {file.stem: file for file in sorted(folder.glob(f"*.{ending}"))}
        self._read, self._known = read, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        """Raises UserError if there is no such file, or if it cannot be read."""
        if name not in self._files:
            raise self.missing(name)
        if name not in self._known:
            self._known[name] = self._read(self._files[name], self._given)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)


class Tables(Contents):
    """The tables of a folder as DataFrames."""

    def __init__(self, folder: Path, given: str):
        super().__init__(folder, "parquet", "table", _frame, given)


def _frame(file: Path, given: str) -> "DataFrame":
    from pandas import DataFrame

    from neurexp.io.files import read_table

    try:
        return DataFrame(read_table(file))
    except (ValueError, OSError) as error:
        raise UserError(f"{given}: its {file.name} cannot be read ({error})") from error


class Tensors(_Named):
    """The tensors of one file; `notes` is the file's metadata."""

    def __init__(self, file: Path, given: str):
        super().__init__(f"tensor in {file.name}", given)
        self._file = file

    def _opened(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self._file, "numpy")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self._given}: its {self._file.name} cannot be read ({error})") from error

    @property
    def notes(self) -> dict[str, str]:
        """The file's metadata."""
        with self._opened() as file:
            return file.metadata() or {}

    def __getitem__(self, name: str) -> "np.ndarray":
        with self._opened() as file:
            if name not in file.keys():  # noqa: SIM118
                raise self.missing(name)
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        with self._opened() as file:
            return iter(list(file.keys()))


class Picture:
    """A figure, of a file or drawn when it is asked for. A notebook shows it."""

    def __init__(self, path: Path | None = None, draw: "Callable[[], Figure] | None" = None):
        self.path, self._draw, self._png = path, draw, b""

    @property
    def figure(self) -> "Figure | None":
        """The Matplotlib figure, drawn anew; None for a figure that is a file."""
        return None if self._draw is None else self._draw()

    def _repr_png_(self) -> bytes | None:
        if self.path is not None:
            return self.path.read_bytes() if self.path.suffix == ".png" else None
        if not self._png and self._draw is not None:
            from io import BytesIO

            stream = BytesIO()
            self._draw().savefig(stream, format="png")
            self._png = stream.getvalue()
        return self._png

    def _repr_svg_(self) -> str | None:
        return self.path.read_text("utf-8") if self.path is not None and self.path.suffix == ".svg" else None

    def __repr__(self) -> str:
        return f"<figure {self.path or 'drawn when it is shown'}>"


class Page:
    """A page of HTML among the figures. A notebook shows it in a frame of its own, so neither restyles the other."""

    def __init__(self, path: Path):
        self.path = path

    def _repr_html_(self) -> str:
        from html import escape

        source = escape(self.path.read_text("utf-8"), quote=True)
        return f'<iframe srcdoc="{source}" sandbox="" style="width:100%;height:32em;border:0"></iframe>'

    def __repr__(self) -> str:
        return f"<page {self.path}>"


class Figures(_Named):
    """The figures of a run folder; a page that is there beside a figure of the same name is `NAME.html`."""

    def __init__(self, folder: Path, given: str):
        super().__init__("figure", given)
        self._shown: dict[str, Picture | Page] = {}
        for kind in KINDS:
            for file in sorted((folder / FIGURES).glob(f"*.{kind}")):
                self._shown.setdefault(file.stem, Picture(file))
        for file in sorted((folder / FIGURES).glob("*.html")):
            self._shown[f"{file.stem}.html" if file.stem in self._shown else file.stem] = Page(file)

    def __getitem__(self, name: str) -> Picture | Page:
        """Raises UserError if there is no such figure."""
        if name not in self._shown:
            raise self.missing(name)
        return self._shown[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown)
