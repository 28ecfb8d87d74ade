"""The card of a neuron as a picture: its contexts as coloured text, what explains it, what it promotes.

Orange is above 0, blue below; strong tokens below 0 are also underlined, so that a grey print tells them apart. Knows
no run.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from neurexp.figures.heat import columns_of_text, runs_left
from neurexp.figures.style import bare, new_figure, set_title

# (value, tokens, activations [tokens], index of the context's own token)
Line = tuple[float, Sequence[str], np.ndarray, int]
WIDTH, BEFORE = 118, 74  # columns of a line of text, one for a Latin letter; at most so many before the token itself
LINES = 8  # contexts at each end
STRONG = 0.4  # share of the largest activation from which a token below 0 is underlined
HOT, COLD = np.array([0xE6, 0x82, 0x00]) / 255, np.array([0x00, 0x6E, 0xC8]) / 255
BAR = "#3b78b5"


def neuron_card(
    heading: str,
    detail: str,
    contexts: Mapping[str, Sequence[Line]],
    direct: Mapping[str, Sequence[tuple[str, float]]],
    explained: Sequence[tuple[str, float]],
    histogram: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """The card.

    Args:
        heading: the neuron.
        detail: what it was measured on.
        contexts: title → contexts, the strongest first.
        direct: verb (promotes, suppresses) → (token, effect), the strongest first.
        explained: (property, explained variance).
        histogram: edges `[bins + 1]` and counts `[bins]` of the activations.
    """
    kept = {title: lines[:LINES] for title, lines in contexts.items()}
    rows = sum(len(lines) + 1.6 for lines in kept.values())
    below = [bool(explained), any(map(len, direct.values())), histogram is not None]
    figure = new_figure(10, 1.2 + 0.24 * rows + (2.4 if any(below) else 0))
    above, *parts = figure.subfigures(
        1 + any(below), 1, height_ratios=[0.24 * rows, 2.4][: 1 + any(below)], squeeze=False
    )
    _draw_texts(above[0].add_subplot(), kept, rows)
    places = iter(parts[0][0].subplots(1, sum(below), squeeze=False)[0] if parts else ())
    if explained:
        _draw_explained(next(places), explained)
    if below[1]:
        _draw_direct(next(places), direct)
    if histogram is not None:
        axes = next(places)
        edges, counts = histogram
        axes.stairs(counts, edges, fill=True, color=BAR)
        axes.set(xlabel="activation", ylabel="tokens")
        bare(axes)
    key = "orange: above 0, blue: below, underlined: the context's own token, whose size limits the colours of its line"
    set_title(figure, heading, f"{detail}; {key}")
    return figure


def _draw_texts(axes: Axes, contexts: Mapping[str, Sequence[Line]], rows: float) -> None:
    axes.set(xlim=(0, WIDTH + 9), ylim=(rows, 0))
    axes.set_axis_off()
    y = 0.5
    for title, lines in contexts.items():
        axes.text(0, y, title, fontsize=9, fontweight="bold", va="center")
        largest = max((abs(line[0]) for line in lines), default=1.0) or 1.0
        y += 1.0
        for line in lines:
            axes.text(7, y, f"{line[0]:.3g}".replace("-", "−"), fontsize=8.5, ha="right", va="center")
            _draw_line(axes, y, line, largest)
            y += 1.0
        y += 0.6


def _draw_line(axes: Axes, y: float, line: Line, largest: float) -> None:
    shown = shown_tokens(line)
    length = sum(columns_of_text(text) for text, *_ in shown)
    leftwards = runs_left([text for text, *_ in shown])
    for text, x, value, own in shown:
        width = columns_of_text(text)
        x = length - x - width if leftwards else x
        share = min(1.0, abs(value) / largest) if np.isfinite(value) else 0.0
        colour = 1 - (0.04 + 0.66 * share) * (1 - (HOT if value > 0 else COLD)) if share > 0.06 else np.ones(3)
        axes.add_patch(Rectangle((8 + x, y - 0.42), width, 0.84, facecolor=colour, edgecolor="none"))
        if own or (value < 0 and share > STRONG):
            thick, kind = (1.6, "-") if own else (0.8, ":")
            axes.plot([8 + x, 8 + x + width], [y + 0.4] * 2, color="black", linewidth=thick, linestyle=kind)
        axes.text(
            8 + x + width / 2, y, text, fontsize=8.5, family="monospace", ha="center", va="center",
            fontweight="bold" if own else "normal", parse_math=False,
        )  # fmt: skip


def shown_tokens(line: Line) -> list[tuple[str, float, float, bool]]:
    """The tokens of a context that fit a line: text, the column where it begins, activation, whether it is the own one.

    The context's own token is always among them.
    """
    _, tokens, activations, at = line
    groups: list[tuple[str, float, bool]] = []
    for index, text in enumerate(tokens):
        if text == "" and groups:  # the rest of a character
            before = groups[-1]
            value = max((before[1], float(activations[index])), key=lambda one: abs(one) if np.isfinite(one) else -1)
            groups[-1] = before[0], value, before[2] or index == at
        else:
            groups.append((text or "·", float(activations[index]), index == at))
    own = next(index for index, group in enumerate(groups) if group[2])
    first, room = own, BEFORE
    while first > 0 and columns_of_text(groups[first - 1][0]) <= room:
        first -= 1
        room -= columns_of_text(groups[first][0])
    shown, x = [], 0
    for index, (text, value, is_own) in enumerate(groups[first:], first):
        if index > own and x + columns_of_text(text) > WIDTH:
            break
        shown.append((text, float(x), value, is_own))
        x += columns_of_text(text)
    return shown


def _draw_explained(axes: Axes, explained: Sequence[tuple[str, float]]) -> None:
    names = [name.replace("_", " ") for name, _ in explained]
    values = np.nan_to_num([ev for _, ev in explained])
    axes.barh(range(len(names)), values, color=BAR)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="explained variance", xlim=(min(0.0, values.min()) - 0.02, max(0.2, values.max() * 1.1)))
    bare(axes)


def _draw_direct(axes: Axes, direct: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    axes.set(xlim=(0, len(direct)), ylim=(max(10, *map(len, direct.values())) + 1.5, 0))
    axes.set_axis_off()
    for column, (verb, tokens) in enumerate(direct.items()):
        axes.text(column, 0.6, verb, fontsize=8, fontweight="bold", va="center")
        for row, (token, effect) in enumerate(tokens):
            text = token if columns_of_text(token) <= 14 else token[:13] + "…"
            axes.text(column, row + 1.7, text, fontsize=7, family="monospace", va="center", parse_math=False)
            told = f"{effect:+.2f}".replace("-", "−")
            axes.text(column + 0.92, row + 1.7, told, fontsize=7, ha="right", va="center")
