"""The card of one neuron: what `Subject` and other runs know of it, for a notebook, a picture or a program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurexp.errors import UserError, printable
from neurexp.pages.html import card_html, number, visible
from neurexp.pages.others import OtherRun
from neurexp.pages.subject import ENDS, Subject
from neurexp.pages.texts import alone
from neurexp.report.report import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHOWN = 5  # contexts of an end, and tokens, as plain text
SHARED = 3  # equal values at an end from which a card says so; as in site/card.js


@dataclass(frozen=True)
class Context:
    """A token of the text where the neuron is very active, or very inactive.

    Args:
        value: the activation, the model's own units.
        token: the token, decoded alone.
        tokens: readable texts of the tokens around and of the token itself; "" for the rest of a character that
            several tokens make.
        activations: `[tokens]`, to a hundredth of `value`, and limited to ±|value|.
        limits: `[tokens]`: 1 where the activation is at the upper limit or beyond it, −1 at the lower one; 0 elsewhere,
            and for the token itself.
        at: the index of the token itself in these.
        sequence, position: where it stands: a row of `context_tokens`, and the token's place in the sequence.
    """

    value: float
    token: str
    tokens: tuple[str, ...]
    activations: np.ndarray
    limits: np.ndarray
    at: int
    sequence: int
    position: int


@dataclass(frozen=True, repr=False)
class Card:
    """What is known of one neuron. A notebook shows it, `print` too; `figure()` draws it.

    Args:
        title: the model and the text.
        layer, neuron: which one.
        statistics: column of `neurons.parquet` → value.
        columns: column → what it means.
        top, bottom: its contexts, the strongest first.
        promoted, suppressed: (token, effect), the strongest first; empty where the run has none.
        explained: (property, explained variance, its q or NaN).
        histogram: edges `[bins + 1]` and counts `[bins]`; None if the run has none.
        others: (title, statistic, value, q or NaN, rank by magnitude in the layer, what the statistic means).
        width: neurons of the layer.
    """

    title: str
    layer: int
    neuron: int
    statistics: dict[str, float | str]
    columns: dict[str, str]
    top: tuple[Context, ...]
    bottom: tuple[Context, ...]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    explained: tuple[tuple[str, float, float], ...]
    histogram: tuple[np.ndarray, np.ndarray] | None
    others: tuple[tuple[str, str, float, float, float, str], ...]
    width: int

    @property
    def heading(self) -> str:
        """The neuron and its label."""
        label, ev = self.statistics.get("property"), self.statistics.get("ev_property")
        told = "" if label is None else f": {label}"
        return f"Layer {self.layer}, neuron {self.neuron}{told}" + (
            f" (explained variance {ev:.2f})" if isinstance(ev, float) and np.isfinite(ev) else ""
        )

    @property
    def _ends(self) -> dict[str, tuple[Context, ...]]:
        ends = {"Highest activations": self.top, "Lowest activations": self.bottom} if self.top or self.bottom else {}
        return {title + _ties([one.value for one in end]): end for title, end in ends.items()}

    @property
    def _direct(self) -> dict[str, tuple[tuple[str, float], ...]]:
        return {"promotes": self.promoted, "suppresses": self.suppressed}

    @property
    def _further(self) -> dict[str, float | str]:
        """The statistics without those of the properties, which `explained` has."""
        told = {f"{kind}_{name}" for name, *_ in self.explained for kind in ("ev", "q", "p", "r")}
        return {name: value for name, value in self.statistics.items() if name not in told}

    def figure(self) -> "Figure":
        """The card as a picture for a paper. Raises UserError for a card without contexts: it is a table of numbers."""
        if not self.top and not self.bottom:
            raise UserError(f"{self.heading}: has no contexts to draw; experiment=top_contexts finds them")
        from neurexp.figures.cards import neuron_card

        explained = [(name, ev) for name, ev, _ in self.explained]
        direct = {verb: [(visible(token), effect) for token, effect in tokens] for verb, tokens in self._direct.items()}
        contexts = {
            title: [(one.value, one.tokens, one.activations, one.at) for one in end]
            for title, end in self._ends.items()
        }
        return neuron_card(self.heading, self.title, contexts, direct, explained, self.histogram)

    def __repr__(self) -> str:
        lines = [f"{self.heading} ({self.title})"]
        for title, end in self._ends.items():
            told = (f"  {number(one.value)}  {one.token!r} in {''.join(one.tokens)!r}" for one in end[:SHOWN])
            lines += [f"{title}:", *told]
        for verb, tokens in self._direct.items():
            if tokens:
                lines.append(f"Directly {verb}: {', '.join(repr(token) for token, _ in tokens[:SHOWN])}")
        if self.explained:
            lines.append(f"Explained variance: {', '.join(f'{name} {number(ev)}' for name, ev, _ in self.explained)}")
        lines += [f"  {name} = {number(value)}" for name, value in self._further.items() if isinstance(value, float)]
        return "\n".join(printable(line) for line in lines)

    def _repr_html_(self) -> str:
        statistics = {name: (value, self.columns.get(name, "")) for name, value in self._further.items()}
        contexts = {
            title: [(one.value, one.tokens, one.activations, one.limits, one.at) for one in end]
            for title, end in self._ends.items()
        }
        told = contexts, self._direct, self.explained, statistics, self.others, self.width
        return card_html(self.heading, self.title, *told)


def _ties(values: Sequence[float]) -> str:
    """Says that the last value is shared, such as the 0 of a ReLU: which of its tokens are kept means nothing then."""
    same = sum(value == values[-1] for value in values)
    if same < SHARED:
        return ""
    return f" ({same} of these {len(values)} are equal, {number(values[-1])}; more tokens may be than are kept)"


def card_of(subject: Subject, title: str, layer: int, neuron: int, others: Sequence[OtherRun] = ()) -> Card:
    """The card of a neuron.

    Args:
        subject: the run's neurons.
        title: the model and the text.
        layer, neuron: which one.
        others: what other runs say.

    Raises:
        UserError: there is no such neuron.
    """
    row = subject.row(layer, neuron)
    at = int(np.searchsorted(subject.layers, layer)), neuron
    names = [name for name in subject.neurons if name not in ("layer", "neuron")]
    statistics = {name: _plain(subject.neurons[name][row]) for name in names}

    def known(name: str) -> float:
        value = statistics.get(name, np.nan)
        return value if isinstance(value, float) else float("nan")

    top, bottom = (_contexts(subject, at[0], end, neuron) for end in range(len(ENDS)))
    promoted, suppressed = (_direct(subject, layer, neuron, sign) for sign in (1, -1))
    histogram = None
    if subject.histograms:
        counts = subject.histograms["counts"][at][1:-1]
        start, width = (float(subject.histograms[name][at]) for name in ("start", "width"))
        histogram = start + width * np.arange(len(counts) + 1), counts
    return Card(
        title=title,
        layer=layer,
        neuron=neuron,
        statistics=statistics,
        columns={name: subject.columns.get(name, "") for name in names},
        top=top,
        bottom=bottom,
        promoted=promoted,
        suppressed=suppressed,
        explained=tuple((name, known(f"ev_{name}"), known(f"q_{name}")) for name in subject.properties),
        histogram=histogram,
        others=tuple(
            (
                one.title,
                one.statistic,
                float(one.values[row]),
                float(one.q_values[row]),
                float(one.ranks[row]),
                one.meanings[one.statistic],
            )
            for one in others
        ),
        width=subject.width,
    )


def card_of_row(neurons: Table, columns: Mapping[str, str], title: str, layer: int, neuron: int, given: str) -> Card:
    """The card of a neuron without contexts: its row of `neurons.parquet`.

    Args:
        neurons: the table, of one site.
        columns: what each column means.
        title: the model and the text.
        layer, neuron: which one.
        given: what messages call the run.

    Raises:
        UserError: there is no such neuron.
    """
    if not {"layer", "neuron"} <= neurons.keys():
        raise UserError(f"{given}: has no table of neurons")
    of_layer = neurons["layer"] == layer
    found = np.flatnonzero(of_layer & (neurons["neuron"] == neuron))
    if not len(found):
        layers = ", ".join(map(str, np.unique(neurons["layer"]).tolist()))
        there = f"of layer {layer} it has others" if of_layer.any() else f"it has layers {layers}"
        raise UserError(f"{layer}/{neuron}: {given} has no such neuron; {there}")
    names = [name for name in neurons if name not in ("layer", "neuron")]
    return Card(
        title=title,
        layer=layer,
        neuron=neuron,
        statistics={name: _plain(neurons[name][found[0]]) for name in names},
        columns={name: columns.get(name, "") for name in names},
        top=(),
        bottom=(),
        promoted=(),
        suppressed=(),
        explained=(),
        histogram=None,
        others=(),
        width=int(of_layer.sum()),
    )


def _plain(value: object) -> float | str:
    return alone(value) if isinstance(value, str) else float(value)  # type: ignore[arg-type]


def _contexts(subject: Subject, layer: int, end: int, neuron: int) -> tuple[Context, ...]:
    found = []
    for rank, place in enumerate(subject.places[layer, end, neuron].tolist()):
        if place < 0:
            continue
        sequence, position = divmod(place, subject.length)
        value = float(subject.values[layer, end, neuron, rank])
        levels = subject.levels[layer, end, neuron, rank].astype(np.float64)
        texts = subject.texts(sequence)
        first, stop = max(0, position - subject.before), min(len(texts), position + subject.after + 1)
        levels = levels[first - position + subject.before : stop - position + subject.before]
        activations = np.where(levels == -128, np.nan, levels / 100 * abs(value))
        limits = np.where(np.abs(levels) == 100, np.sign(levels), 0).astype(np.int64)
        limits[position - first] = 0
        token = alone(subject.vocabulary[int(subject.token_ids[layer, end, neuron, rank])][1])
        around = tuple(texts[first:stop])
        found.append(Context(value, token, around, activations, limits, position - first, sequence, position))
    return tuple(found)


def _direct(subject: Subject, layer: int, neuron: int, sign: int) -> tuple[tuple[str, float], ...]:
    table = subject.direct
    if not table:
        return ()
    rows = np.flatnonzero((table["layer"] == layer) & (table["neuron"] == neuron) & (table["sign"] == sign))
    rows = rows[np.argsort(table["rank"][rows])]
    return tuple((alone(str(table["token"][row])), float(table["effect"][row])) for row in rows)
