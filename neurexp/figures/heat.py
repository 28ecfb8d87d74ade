"""Running text, every token coloured by a neuron's activation: as a picture, and as a page that opens anywhere.

A page has no script and loads nothing; whatever stands in the text is escaped. Text of scripts that run from right to
left runs so in both.
"""

import unicodedata
from collections.abc import Sequence
from html import escape as escape_markup

import numpy as np
import regex
from matplotlib import colormaps
from matplotlib.figure import Figure

from neurexp.errors import printable, unseen
from neurexp.figures.style import new_figure, set_title

# (heading, tokens, activations [tokens], index of the category of a listed word or −1)
Passage = tuple[str, Sequence[str], np.ndarray, np.ndarray]
WIDTH = 92  # columns of a line of the picture, one for a Latin letter
# Of its own element only: a notebook that shows the page keeps its own look
STYLE = (
    "<style>.neurexp-heat{font:16px/2 Georgia,serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111;"
    "background:#fff}.neurexp-heat h1{font-size:1.2em}.neurexp-heat h2{font-size:1em;margin-top:2em}"
    ".neurexp-heat span{padding:.15em 0;white-space:pre-wrap}.neurexp-heat footer{font-size:.8em;color:#444}</style>"
)
LINES = ("underline", "underline dotted", "underline dashed", "underline wavy")


def _colours(values: np.ndarray) -> np.ndarray:
    """From pale, the lowest 2 % of the excerpt, to dark, the highest: a grey print tells as much."""
    if not len(values):
        return np.empty((0, 4))
    low, high = np.quantile(values, (0.02, 0.98))
    return colormaps["YlOrBr"](0.62 * np.clip((values - low) / max(high - low, 1e-12), 0, 1))


def escape(text: str) -> str:
    """The text as text of a page: no markup, and no character that moves others."""
    return escape_markup(printable(text))


def on_one_line(token: str) -> str:
    """A token on one line, without characters that would move others."""
    text = token.replace("\n", "⏎").replace("\t", "→")
    hidden = set(unseen(text))
    return "".join("·" if index in hidden else one for index, one in enumerate(text))


def columns_of_text(text: str) -> int:
    """How wide a text is: Chinese and Japanese characters and emoji take two columns, marks and joiners none."""
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.category(one) in ("Mn", "Me", "Cf") for one in text)


def runs_left(tokens: Sequence[str]) -> bool:
    """Whether the first letter that has a direction runs from right to left."""
    strong = (unicodedata.bidirectional(one) for token in tokens for one in token)
    return next((one for one in strong if one in ("L", "R", "AL")), "L") != "L"


def _initial(name: str) -> str:
    """The first character of a name as a reader sees it, its marks included."""
    first = regex.match(r"\X", name)
    return first[0].upper() if first else ""


def heat_map(passages: Sequence[Passage], categories: Sequence[str], title: str, detail: str) -> Figure:
    """The passages one below the other; listed words are in bold type, with the category's initial above them."""
    laid = [_lines(passage) for passage in passages]
    rows = sum(len(lines) + 2 for lines in laid)
    figure = new_figure(10, 1.4 + 0.3 * rows)
    axes = figure.add_subplot()
    axes.set(xlim=(0, WIDTH), ylim=(rows, 0))
    axes.set_axis_off()
    y = 0.5
    for (heading, tokens, values, listed), lines in zip(passages, laid, strict=True):
        colours = _colours(values)
        axes.text(0, y, heading, fontsize=9, fontweight="bold", va="center", parse_math=False)
        y += 1.1
        leftwards = runs_left(tokens)
        for line in lines:
            for index, x in line:
                text = on_one_line(tokens[index])
                width = columns_of_text(text)
                x = WIDTH - x - width if leftwards else x
                axes.add_patch(_box(x, y, width, colours[index]))
                bold = "bold" if listed[index] >= 0 else "normal"
                axes.text(
                    x + width / 2, y, text, fontsize=8, family="monospace", fontweight=bold, ha="center", va="center",
                    parse_math=False,
                )  # fmt: skip
                if listed[index] >= 0:
                    initial = _initial(categories[int(listed[index])])
                    axes.text(x + width / 2, y - 0.42, initial, fontsize=5, ha="center", va="center")
            y += 1
        y += 0.9
    set_title(figure, title, f"{detail}; darker: more active; bold: listed words, their category's initial above them")
    return figure


def _box(x: float, y: float, width: float, colour: np.ndarray):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y - 0.36), width, 0.72, facecolor=colour, edgecolor="none")


def _lines(passage: Passage) -> list[list[tuple[int, int]]]:
    """For each line of the picture, the tokens on it and the column each begins at."""
    lines, x = [[]], 0
    for index, token in enumerate(passage[1]):
        width = columns_of_text(on_one_line(token))
        if x + width > WIDTH and lines[-1]:
            lines.append([])
            x = 0
        lines[-1].append((index, x))
        x += width
    return lines


def heat_page(passages: Sequence[Passage], categories: Sequence[str], title: str, detail: str) -> str:
    """The passages as HTML: a token's activation shows under the pointer; listed words are underlined by category."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title>",
        STYLE,
        f'</head><body><div class="neurexp-heat"><h1 dir="auto">{escape(title)}</h1>',
    ]
    key = ", ".join(
        f'<span dir="auto" style="text-decoration:{LINES[index % len(LINES)]}">{escape(name)}</span>'
        for index, name in enumerate(categories)
    )
    parts.append(f"<p>Listed words: {key}. The darker a token, the more active the neuron.</p>")
    for heading, tokens, values, listed in passages:
        parts.append(f'<h2 dir="auto">{escape(heading)}</h2><p dir="auto" lang="">')
        for token, value, colour, category in zip(tokens, values, _colours(values), listed, strict=True):
            red, green, blue = (round(255 * float(part)) for part in colour[:3])
            line = f";text-decoration:{LINES[int(category) % len(LINES)]};font-weight:bold" if category >= 0 else ""
            parts.append(
                f'<span title="{value:+.3f}" style="background:rgb({red},{green},{blue}){line}">'
                f"{escape_markup(on_one_line(token))}</span>"
            )
        parts.append("</p>")
    parts.append(f'<footer dir="auto">{escape(detail)}</footer></div></body></html>')
    return "\n".join(parts[:5]) + "".join(parts[5:]) + "\n"
