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
from matplotlib.axes import Axes
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
    ".neurexp-heat .scale{font-size:.8em}.neurexp-heat .scale div{display:inline-block;padding:0 .8em}"
    ".neurexp-heat span{padding:.15em 0;white-space:pre-wrap}.neurexp-heat footer{font-size:.8em;color:#444}</style>"
)
LABEL = "activation (model’s units) "
STEPS = 5  # of the colour scale
STEP = 9  # columns of the picture that one of them takes
LINES = (
    "underline", "underline dotted", "underline dashed", "underline wavy", "underline double", "overline",
    "overline dotted", "overline dashed",
)  # fmt: skip


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The activations of the palest and of the darkest colour: all but the outermost 2 % at either end lie between."""
    low, high = np.nanquantile(values, (0.02, 0.98))
    return float(low), float(high)


def _colours(values: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """From pale to dark within the limits (those of the values, if not given): a grey print tells as much."""
    if not len(values):
        return np.empty((0, 4))
    low, high = limits or _limits(values)
    return colormaps["YlOrBr"](0.62 * np.clip((values - low) / max(high - low, 1e-12), 0, 1))


def _scale(values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The steps of the colour scale: their activations as texts, and their colours `[steps, 4]`."""
    low, high = _limits(values)
    steps = np.linspace(low, high, STEPS)
    texts = [f"{step:+.2f}".replace("-", "−") if 0.01 <= abs(high - low) < 1e4 else f"{step:+.1e}" for step in steps]
    return [f"≤ {texts[0]}", *texts[1:-1], f"≥ {texts[-1]}"], _colours(steps, (low, high))


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


def _initials(names: Sequence[str]) -> list[str]:
    """The beginning of each name that no other name shares, one character if possible; its marks are included."""
    split = [regex.findall(r"\X", name.upper()) for name in names]
    found = []
    for index, characters in enumerate(split):
        others = [other for place, other in enumerate(split) if place != index]
        lengths = range(1, len(characters))
        length = next((n for n in lengths if all(characters[:n] != other[:n] for other in others)), len(characters))
        found.append("".join(characters[:length]).capitalize())
    return found


def heat_map(passages: Sequence[Passage], categories: Sequence[str], title: str, detail: str) -> Figure:
    """The passages one below the other; listed words are in bold type, with their category's initial above them.

    The initial is as long as it must be to tell the category from the others.
    """
    initials = _initials(categories)
    laid = [_lines(passage) for passage in passages]
    rows = sum(len(lines) + 3 for lines in laid)
    figure = new_figure(10, 1.4 + 0.3 * rows)
    axes = figure.add_subplot()
    axes.set(xlim=(0, WIDTH), ylim=(rows, 0))
    axes.set_axis_off()
    y = 0.5
    for (heading, tokens, values, listed), lines in zip(passages, laid, strict=True):
        colours = _colours(values)
        axes.text(0, y, heading, fontsize=9, fontweight="bold", va="center", parse_math=False)
        y += 0.9
        if len(values):
            _draw_scale(axes, y, values)
        y += 1.2
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
                    initial = initials[int(listed[index])]
                    axes.text(x + width / 2, y - 0.42, initial, fontsize=5, ha="center", va="center", parse_math=False)
            y += 1
        y += 0.9
    set_title(
        figure,
        title,
        f"{detail}; darker: more active; bold: listed words, the beginning of their category's name above them",
    )
    return figure


def _draw_scale(axes: Axes, y: float, values: np.ndarray) -> None:
    """A line with the colours, and the activation that each stands for."""
    texts, colours = _scale(values)
    first = columns_of_text(LABEL)
    axes.text(0, y, LABEL, fontsize=7, va="center")
    axes.imshow(
        colours[None], extent=(first, first + STEP * STEPS, y + 0.3, y - 0.3), aspect="auto", interpolation="nearest"
    )
    for index, text in enumerate(texts):
        axes.text(first + STEP * (index + 0.5), y, text, fontsize=7, ha="center", va="center")


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


def _css(colour: np.ndarray) -> str:
    if colour[3] == 0:  # where no activation is
        return "transparent"
    return f"rgb({','.join(str(round(255 * float(part))) for part in colour[:3])})"


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
        parts.append(f'<h2 dir="auto">{escape(heading)}</h2>')
        if len(values):
            steps = zip(*_scale(values), strict=True)
            parts.append(
                f'<div class="scale">{LABEL}'
                + "".join(f'<div style="background:{_css(colour)}">{text}</div>' for text, colour in steps)
                + "</div>"
            )
        parts.append('<p dir="auto" lang="">')
        for token, value, colour, category in zip(tokens, values, _colours(values), listed, strict=True):
            line = f";text-decoration:{LINES[int(category) % len(LINES)]};font-weight:bold" if category >= 0 else ""
            shown = f'title="{value:+.3f}" ' if np.isfinite(value) else ""  # none between two stretches
            parts.append(
                f'<span {shown}style="background:{_css(colour)}{line}">{escape_markup(on_one_line(token))}</span>'
            )
        parts.append("</p>")
    parts.append(f'<footer dir="auto">{escape(detail)}</footer></div></body></html>')
    return "\n".join(parts[:5]) + "".join(parts[5:]) + "\n"
