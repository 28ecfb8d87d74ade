"""What a notebook shows of a run or a comparison: one element, styles that touch nothing else, every text escaped."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from neurexp.errors import printable
from neurexp.pages.html import number

if TYPE_CHECKING:
    from pandas import DataFrame

WIDTH = 300  # pixels of a figure
FIGURES = 6  # that are shown
STYLE = """<style>
.neurexp-run{font:14px/1.5 system-ui,sans-serif;max-width:70em}
.neurexp-run h3{margin:.2em 0;font-size:1.15em}.neurexp-run p{margin:.3em 0}
.neurexp-run .quiet{opacity:.7;font-size:.9em}
.neurexp-run ul{margin:.3em 0;padding-inline-start:1.4em}
.neurexp-run table{border-collapse:collapse;margin:.6em 0}
.neurexp-run td,.neurexp-run th{text-align:right;padding:.1em .8em .1em 0;font-variant-numeric:tabular-nums}
.neurexp-run figure{display:inline-block;margin:.4em .8em .4em 0;vertical-align:top}
.neurexp-run img{background:#fff}
</style>"""


def as_html(
    heading: str,
    place: str,
    findings: Sequence[str],
    strongest: "DataFrame | None",
    columns: Mapping[str, str],
    figures: Mapping[str, Any],
) -> str:
    """A run as HTML.

    Args:
        heading: what it is.
        place: its folder or id.
        findings: a sentence each.
        strongest: a few rows of a table.
        columns: what the table's columns mean.
        figures: name → what has `_repr_png_`; others are named only.
    """
    parts = [
        STYLE,
        f'<div class="neurexp-run"><h3 dir="auto">{_text(heading)}</h3><p class="quiet">{_text(place)}</p>',
        "<ul>" + "".join(f'<li dir="auto">{_text(line)}</li>' for line in findings) + "</ul>",
    ]
    if strongest is not None and len(strongest):
        head = "".join(f'<th title="{_text(columns.get(str(name), ""))}">{_text(str(name))}</th>' for name in strongest)
        rows = ("".join(f"<td>{_cell(value)}</td>" for value in row) for row in strongest.itertuples(index=False))
        parts.append(f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
    pictures = [(name, png) for name in figures if (png := _small(figures[name]))]
    for name, png in pictures[:FIGURES]:
        image = f'<img alt="{_text(name)}" width="{WIDTH}" src="data:image/png;base64,{png}">'
        parts.append(f'<figure>{image}<figcaption class="quiet">{_text(name)}</figcaption></figure>')
    shown = {name for name, _ in pictures[:FIGURES]}
    if more := [name for name in figures if name not in shown]:
        parts.append(f'<p class="quiet">Also in figures: {_text(", ".join(more))}</p>')
    return "".join(parts) + "</div>"


def _text(text: str) -> str:
    return escape(printable(text))


def _cell(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    return str(value) if isinstance(value, int) or not isinstance(value, float) else number(value)


def _small(figure: Any) -> str:
    """A small PNG in base64: a notebook keeps it in its file. Empty for what is no picture."""
    made = figure._repr_png_() if hasattr(figure, "_repr_png_") else None
    if made is None:
        return ""
    from PIL import Image

    with Image.open(BytesIO(made)) as image:
        small = image.convert("RGB")
        small.thumbnail((WIDTH * 3 // 2, 4 * WIDTH))  # more pixels than shown, for fine screens
        stream = BytesIO()
        small.quantize(64).save(stream, "png", optimize=True)
    return b64encode(stream.getvalue()).decode()
