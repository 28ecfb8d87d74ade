"""What all figures share: colours that the colour-blind and a grey print tell apart, sizes, title and foot."""

import re
import textwrap
from collections.abc import Iterator
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from neurexp.figures.fonts import fit

# Okabe and Ito's orange, grey-black and blue: of different lightness, and each with a line style of its own.
GROUP_STYLES = (
    {"color": "#E69F00", "linestyle": "-"},
    {"color": "#555555", "linestyle": ":"},
    {"color": "#0072B2", "linestyle": "--"},
)


WIDEST = 10.0  # inches: a page, turned
BESIDE = 0.8  # inches of a panel's place that its numbers and their label take
HANDLE, LETTER = 0.45, 0.062  # inches in a legend: a line with the space about it, and a letter of 8 points
# A hyphen before a number, at the start of a text or after a space, a bracket or an equals sign
_HYPHEN = re.compile(r"(?<![^\s(=≈])-(?=[\d.])")


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure of `width` × `height` inches that keeps its parts from overlapping.

    With `layout` None whoever draws places the panels: for a grid of many panels, where measuring every text is slow.
    """
    return Figure(figsize=(width, height), dpi=120, layout=layout)


def set_title(figure: Figure, finding: str, detail: str) -> None:
    """The finding as the title, what it was measured on at the foot, both wrapped to the figure's width.

    Called last. All texts are taken as they are: names of models, files and words may hold `$` and `_`. Only the hyphen
    of a negative number becomes a minus sign, as the axes have it.
    """
    width = int(figure.get_figwidth() * 11)
    figure.suptitle(textwrap.fill(finding, width), fontsize=11, fontweight="bold")
    figure.supxlabel(textwrap.fill(detail, int(width * 1.3)), fontsize=8, color="#333333")
    texts = list(_own_texts(figure))
    for text in texts:
        text.set_parse_math(False)
        text.set_text(_HYPHEN.sub("−", text.get_text()))
    fit(texts)


def _own_texts(figure: Figure) -> Iterator[Text]:
    """Every text but the numbers at the ticks."""
    yield from (text for text in figure.get_children() if isinstance(text, Text))
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        legend = axes.get_legend()
        if legend is not None:
            yield from (legend.get_title(), *legend.get_texts())


def legend_above(axes: Axes, columns: int = 3) -> None:
    """The legend of a panel without a title of its own: above the panel, where no data are.

    It has fewer columns where so many would be wider than the panel, and be cut at the figure's edge.
    """
    labels = axes.get_legend_handles_labels()[1]
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    panels = place.get_gridspec().ncols if place is not None else 1
    room = figure.get_figwidth() / panels - BESIDE if figure is not None else WIDEST
    while columns > 1 and _legend_width(labels, columns) > room:
        columns -= 1
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=columns)


def _legend_width(labels: list[str], columns: int) -> float:
    """About how wide a legend is, in inches; matplotlib fills one column after the other."""
    rows = max(1, -(-len(labels) // columns))
    longest = [max(map(len, labels[first : first + rows])) for first in range(0, len(labels), rows)]
    return sum(HANDLE + LETTER * length for length in longest)


def bare(axes: Axes) -> None:
    """Takes away the frame that carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
