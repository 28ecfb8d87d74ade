"""A card as HTML that stands in a notebook: no script, styles that touch nothing else, every text escaped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

# (value, tokens, activations [tokens], limits [tokens] as in `card.Context`, index of the context's own token)
Line = tuple[float, Sequence[str], np.ndarray, np.ndarray, int]
KEY = (
    "Orange: above 0, blue: below, underlined: the context's own token. Colours are limited to the size of the "
    "context's own activation; ≥ and ≤ in a token's tooltip tell where."
)

SHOWN = 10  # contexts at each end
FAINT, STRONG = 0.06, 0.4  # as in site/card.js
STYLE = """<style>
.neurexp-card{font:14px/1.5 system-ui,sans-serif;max-width:70em}
.neurexp-card h3{margin:.2em 0;font-size:1.15em}.neurexp-card h4{margin:1em 0 .3em;font-size:1em}
.neurexp-card p{margin:0}.neurexp-card .quiet{opacity:.7;font-size:.9em}
.neurexp-card table{border-collapse:collapse;margin:0;background:none}
.neurexp-card td,.neurexp-card th{text-align:start;padding:.1em .6em .1em 0;vertical-align:top;font-weight:400;
background:none;border:0;white-space:normal}
.neurexp-card .number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.neurexp-card .text{font-family:Georgia,serif;white-space:break-spaces;unicode-bidi:isolate}
.neurexp-card mark{background-color:transparent;color:inherit;font-weight:700;text-decoration:underline 2px;
text-underline-offset:3px}
.neurexp-card .below{text-decoration:underline dotted;text-underline-offset:3px}
.neurexp-card .bar{display:inline-block;height:.7em;background:#3b78b5;min-width:1px}
.neurexp-card .pair{display:flex;flex-wrap:wrap;gap:0 3em}
</style>"""


def number(value: float) -> str:
    """A number to three digits."""
    if not math.isfinite(value):
        return "–"
    return (f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}").replace("-", "−")


def visible(token: str) -> str:
    """The token with the spaces at its ends made visible."""
    body = token.strip(" ")
    before = len(token) - len(token.lstrip(" "))
    return "␣" * before + body + "␣" * (len(token) - before - len(body) if body else 0)


def card_html(
    heading: str,
    detail: str,
    contexts: Mapping[str, Sequence[Line]],
    direct: Mapping[str, Sequence[tuple[str, float]]],
    explained: Sequence[tuple[str, float, float]],
    statistics: Mapping[str, tuple[float | str, str]],
    others: Sequence[tuple[str, str, float, float, float, str]],
    width: int,
) -> str:
    """The card, as one element.

    Args:
        heading: the neuron.
        detail: what it was measured on.
        contexts: title → contexts, the strongest first.
        direct: verb (promotes, suppresses) → (token, effect).
        explained: (property, explained variance, its q or NaN).
        statistics: column → value, and what it means.
        others: (title of another run, its statistic, value, q or NaN, rank in the layer, what the statistic means).
        width: neurons of the layer.
    """
    parts = [
        STYLE,
        f'<div class="neurexp-card"><h3>{escape(heading)}</h3><p class="quiet" dir="auto">{escape(detail)}</p>',
        f'<p class="quiet">{escape(KEY)}</p>' if contexts else "",
        *(_contexts(title, lines) for title, lines in contexts.items()),
        '<div class="pair">',
    ]
    if explained:
        rows = (
            [f"<td>{escape(name)}</td>", _bar(ev), _cell(number(ev)), _cell("" if math.isnan(q) else f"q {number(q)}")]
            for name, ev, q in explained
        )
        parts.append(_section("Explained variance", rows))
    for verb, tokens in direct.items():
        if tokens:
            rows = ([f"<td><bdi>{escape(visible(one))}</bdi></td>", _cell(number(effect))] for one, effect in tokens)
            parts.append(_section(f"{verb.capitalize()} directly", rows))
    rows = (
        [
            f'<td title="{escape(meaning)}">{escape(name)}</td>',
            _cell(f"<bdi>{escape(visible(value))}</bdi>" if isinstance(value, str) else number(value)),
        ]
        for name, (value, meaning) in statistics.items()
    )
    parts.append(_section("Statistics", rows))
    parts.append("</div>")
    if others:
        rows = (
            [
                f'<td dir="auto">{escape(title)}</td>',
                _cell(f'<span title="{escape(meaning)}">{escape(name)}</span> = {number(value)}'),
                _cell("" if math.isnan(q) else f"q {number(q)}"),
                _cell(f"rank {number(rank)} of {width:,}"),
            ]
            for title, name, value, q, rank, meaning in others
        )
        parts.append(_section("In other runs", rows))
    return "".join(parts) + "</div>"


def _section(title: str, rows: Iterable[Sequence[str]]) -> str:
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<div><h4>{escape(title)}</h4><table>{body}</table></div>"


def _cell(content: str) -> str:
    return f'<td class="number">{content}</td>'


def _bar(share: float) -> str:
    width = 0.0 if math.isnan(share) else max(0.0, min(1.0, share))
    return f'<td><span class="bar" style="width:{8 * width:.2f}em"></span></td>'


def _contexts(title: str, lines: Sequence[Line]) -> str:
    largest = max((abs(line[0]) for line in lines), default=1.0) or 1.0
    rows = (
        [_cell(number(line[0])), f'<td class="text" dir="auto" lang="">{_coloured(line, largest)}</td>']
        for line in lines[:SHOWN]
    )
    return _section(title, rows)


def _coloured(line: Line, largest: float) -> str:
    own, tokens, activations, limits, at = line
    parts, index = [], 0
    while index < len(tokens):
        stop = index + 1
        while stop < len(tokens) and tokens[stop] == "":  # the rest of a character
            stop += 1
        there = [one for one in range(index, stop) if math.isfinite(activations[one])]
        strongest = max(there, key=lambda one: abs(activations[one]), default=None)
        value = 0.0 if strongest is None else float(activations[strongest]) + 0.0  # no −0
        share, kind = min(1.0, abs(value) / largest), "mark" if index <= at < stop else "span"
        style = ""
        if share > FAINT:
            colour = "230,130,0" if value > 0 else "0,110,200"
            style = f' style="background:rgba({colour},{0.08 + 0.62 * share:.2f})"'
            style += ' class="below"' if value < 0 and share > STRONG and kind == "span" else ""
        limit = "" if strongest is None or kind == "mark" else ("", "≥ ", "≤ ")[int(limits[strongest])]
        told = limit + number(own if kind == "mark" else value)
        parts.append(f'<{kind} title="{told}"{style}>{escape(tokens[index]) or "·"}</{kind}>')
        index = stop
    return "".join(parts)
