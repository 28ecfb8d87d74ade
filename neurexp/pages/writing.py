"""Writes a folder of pages: the program that the browser runs, and the data in pieces that it loads when wanted.

| file in `data/` | what |
| --- | --- |
| `meta.js` | the title, the layers, what each column means, the other runs |
| `column_N.js` | one column of the table of neurons |
| `search.js` | the tokens of every neuron's top contexts |
| `cards_N.js` | the contexts, direct tokens, histogram and table row of `CARDS` neurons |
| `texts_N.js` | the tokens of some sequences |
"""

import re
import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from neurexp.pages.others import OtherRun
from neurexp.pages.pieces import ALPHABET, level_text, packed, packed_words, write_piece
from neurexp.pages.subject import ENDS, Subject, read
from neurexp.pages.texts import alone

DATA, SITE_FILES = "data", ("index.html", "style.css", "data.js", "table.js", "card.js", "app.js")
CARDS = 256  # neurons in a piece
TOKENS = 16_384  # of a piece of text, about
# The columns that the index shows at first, where the run has them
SHOWN = (
    "property", "ev_property", "top_token", "top_share", "bottom_token", "mean", "std", "kurtosis", "share_positive",
    "maximum",
)  # fmt: skip


def is_piece(name: str) -> bool:
    """Whether a file of `data/` is one that `write` makes, by its name."""
    return re.fullmatch(r"(meta|search|(column|cards|texts)_\d+)\.js", name) is not None


def write_of(run_folder: Path, to: Path, title: str, site: str | None = None) -> None:
    """Fills a folder with the pages of a run of `top_contexts`.

    Args:
        run_folder: its tables and tensors must be written; its `summary.json` need not.
        to: an empty folder that exists (`Report.folders` gives one).
        title: of the pages: the model and the text.
        site: of the neurons; in a run of several sites the files are named `NAME_SITE`.

    Raises:
        UserError: the run folder is no run of `top_contexts`.
    """
    write(read(run_folder, site), to, f"{title}, {site}" if site else title)


def write(subject: Subject, to: Path, title: str, others: Sequence[OtherRun] = ()) -> None:
    """Fills a folder with pages.

    Args:
        subject: the neurons.
        to: an empty folder that exists.
        title: of the pages.
        others: what other runs say of the same neurons.
    """
    with as_file(files("neurexp.pages") / "site") as site:
        for name in SITE_FILES:
            shutil.copyfile(site / name, to / name)
    data = to / DATA
    data.mkdir()
    columns = _columns(subject, others)
    for index, (values, _) in enumerate(columns.values()):
        write_piece(data, f"column_{index}", _packed_column(values))
    per_piece = max(1, TOKENS // subject.length)
    write_piece(data, "meta", _meta(subject, title, others, columns, per_piece))
    write_piece(data, "search", _search(subject))
    for piece, first in enumerate(range(0, len(subject.input_ids), per_piece)):
        rows = range(first, min(first + per_piece, len(subject.input_ids)))
        write_piece(data, f"texts_{piece}", [subject.texts(row) for row in rows])
    _write_cards(subject, data)


def _columns(subject: Subject, others: Sequence[OtherRun]) -> dict[str, tuple[np.ndarray, str]]:
    """Every column that the index can show: values, and what they mean."""
    columns = {
        name: (values, subject.columns.get(name, ""))
        for name, values in subject.neurons.items()
        if name not in ("layer", "neuron")
    }
    for other in others:
        of_it = f"{other.statistic} in the run {other.title}"
        meaning = other.meanings[other.statistic]
        columns[f"{other.name}.{other.statistic}"] = other.values, f"{of_it}: {meaning}"
        if other.q:
            columns[f"{other.name}.{other.q}"] = (
                other.q_values,
                f"{other.q} in the run {other.title}: {other.meanings[other.q]}",
            )
        columns[f"{other.name}.rank"] = other.ranks, f"rank of |{of_it}| in the layer, 1 the largest"
    return columns


def _is_text(values: np.ndarray) -> bool:
    return values.dtype.kind in "OUS"


def _packed_column(values: np.ndarray) -> dict[str, Any]:
    if _is_text(values):
        return packed_words(_readable(values))
    return {"numbers": packed(values, "<f4")}


def _readable(values: np.ndarray) -> np.ndarray:
    texts = np.array([str(one) for one in values.tolist()], dtype=object)  # dtype str drops a NUL at the end
    words, codes = np.unique(texts, return_inverse=True)
    return np.array([alone(one) for one in words.tolist()], dtype=str)[codes]


def _meta(
    subject: Subject, title: str, others: Sequence[OtherRun], columns: dict[str, tuple[np.ndarray, str]], per_piece: int
) -> dict[str, Any]:
    shown = [*SHOWN, *(f"{other.name}.{other.statistic}" for other in others)]
    return {
        "title": title,
        "site": subject.site or "",
        "layers": subject.layers.tolist(),
        "width": subject.width,
        "columns": [
            {"name": name, "meaning": meaning, "text": _is_text(values)} for name, (values, meaning) in columns.items()
        ],
        "statistics": [name for name in subject.neurons if name not in ("layer", "neuron")],
        "shown": [name for name in shown if name in columns],
        "properties": list(subject.properties),
        "contexts": subject.values.shape[3],
        "before": subject.before,
        "after": subject.after,
        "length": subject.length,
        "alphabet": ALPHABET,
        "cards": CARDS,
        "sequences": per_piece,
        "bins": int(subject.histograms["counts"].shape[2]) if subject.histograms else 0,
        "others": [
            {
                "name": other.name,
                "title": other.title,
                "statistic": other.statistic,
                "q": other.q,
                "meaning": other.meanings[other.statistic],
                "effects": other.effects,
            }
            for other in others
        ],
    }


def _search(subject: Subject) -> dict[str, Any]:
    """The tokens of the top contexts of each neuron: their texts, and `[neurons, k]` indices of them."""
    ids = subject.token_ids[:, 0].reshape(-1, subject.values.shape[3])
    known, codes = np.unique(ids, return_inverse=True)
    words = ["" if one < 0 else alone(subject.vocabulary[one][1]) for one in known.tolist()]
    return {"words": words, "codes": packed(codes, "<u4"), "each": ids.shape[1]}


def _write_cards(subject: Subject, data: Path) -> None:
    width, rows = subject.width, len(subject.layers) * subject.width
    columns = {name: values for name, values in subject.neurons.items() if name not in ("layer", "neuron")}
    numbers = [name for name, values in columns.items() if not _is_text(values)]
    table = np.stack([columns[name].astype(np.float32) for name in numbers], axis=1)
    words = {name: _readable(values) for name, values in columns.items() if name not in numbers}
    # [neurons, 2, …]: views, not copies
    values, places, levels = (np.moveaxis(array, 1, 2) for array in (subject.values, subject.places, subject.levels))
    direct = _direct(subject)
    for piece, first in enumerate(range(0, rows, CARDS)):
        these = np.arange(first, min(first + CARDS, rows))
        at = these // width, these % width
        there = places[at] >= 0
        content: dict[str, Any] = {
            "counts": packed(there.sum(2), "<u2"),
            "values": packed(values[at][there], "<f4"),
            "places": packed(places[at][there], "<u4"),
            "levels": level_text(levels[at][there]),
            "numbers": packed(table[these], "<f4"),
            "words": {name: column[these].tolist() for name, column in words.items()},
        }
        if direct is not None:
            tokens, effects = direct
            content["direct"] = {"tokens": tokens[these].tolist(), "effects": packed(effects[these], "<f4")}
        if subject.histograms:
            content["histogram"] = {
                "counts": packed(subject.histograms["counts"][at], "<u4"),
                "start": packed(subject.histograms["start"][at], "<f4"),
                "width": packed(subject.histograms["width"][at], "<f4"),
            }
        write_piece(data, f"cards_{piece}", content)


def _direct(subject: Subject) -> tuple[np.ndarray, np.ndarray] | None:
    """The texts `[neurons, 2, count]` (promoted first) and effects of the direct tokens; None if there are none."""
    if not len(subject.direct.get("neuron", ())):
        return None
    table, count = subject.direct, int(subject.direct["rank"].max())
    shape = len(subject.layers) * subject.width, len(ENDS), count
    rows = np.searchsorted(subject.layers, table["layer"]) * subject.width + table["neuron"]
    at = rows, (table["sign"] < 0).astype(np.int64), table["rank"] - 1
    tokens, effects = np.full(shape, "", dtype=object), np.full(shape, np.nan, dtype=np.float32)
    tokens[at], effects[at] = _readable(table["token"]).astype(object), table["effect"]
    return tokens, effects
