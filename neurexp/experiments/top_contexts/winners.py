"""Winners of random batches: which token has a neuron's highest activation in each of many batches of sequences.

This is a common way to look at a neuron. It counts draws, not occurrences: the few highest activations of the text win
again and again. So the table says from how many places a token won, and how often it occurs. Pure functions of arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neurexp.report.report import Table
from neurexp.report.words import number_of


@dataclass(frozen=True)
class Draws:
    """The winner of each batch, for some neurons."""

    units: Sequence[tuple[int, int]]  # layer and neuron
    places: np.ndarray  # [units, batches] int64: sequence · length + column of the winner; −1 if no token was counted
    sequences: int  # in the text
    in_batch: int  # sequences in a batch


def draw(
    units: Sequence[tuple[int, int]],
    values: np.ndarray,
    columns: np.ndarray,
    length: int,
    batches: int,
    batch_sequences: int,
    seed: int,
) -> Draws:
    """Draws batches of different sequences, the same ones for all neurons, and finds the winners.

    Equal activations are won by the lower place. A batch has all sequences if the text has fewer than asked for.

    Args:
        units: layer and neuron of each row.
        values: `[units, sequences]` each sequence's highest activation, NaN where none was counted.
        columns: `[units, sequences]` where it is in the sequence.
        length: of the sequences.
        batches: how many to draw, each anew from all sequences.
        batch_sequences: sequences in a batch.
        seed: of the draws.
    """
    sequences, random = values.shape[1], np.random.default_rng(seed)
    in_batch = min(batch_sequences, sequences)
    places = np.empty((len(units), batches), dtype=np.int64)
    for batch in range(batches):
        chosen = np.sort(random.choice(sequences, in_batch, replace=False, shuffle=False))
        found = np.where(np.isnan(values[:, chosen]), -np.inf, values[:, chosen])
        winner = chosen[found.argmax(1)]  # the first of equal ones
        of_unit = columns[np.arange(len(units)), winner]
        places[:, batch] = np.where(of_unit >= 0, winner * length + of_unit, -1)
    return Draws(units, places, sequences, in_batch)


def table_of(
    draws: Draws, input_ids: np.ndarray, counted: np.ndarray, decode: Callable[[np.ndarray], Sequence[str]]
) -> Table:
    """`winners.parquet`: a row for each neuron and token that won a batch, those with the most wins first.

    `wins` is the number of batches and `win_share` their share of all, `places` the number of places of the text from
    which the token won, and `occurrences` how often it is a counted token, of which `occurrence_share` is the share of
    all counted tokens.

    Args:
        draws: of `draw`.
        input_ids: `[sequences, length]`.
        counted: `[sequences, length]` bool: the tokens that could win.
        decode: ids `[tokens]` → the text of each.
    """
    ids, occurrences = np.unique(input_ids[counted], return_counts=True)
    rows: list[tuple[int, int, int, int, int, int]] = []
    for (layer, neuron), places in zip(draws.units, draws.places, strict=True):
        won, wins = np.unique(places[places >= 0], return_counts=True)
        tokens = input_ids.ravel()[won]
        unit = [
            (layer, neuron, int(one), int(wins[tokens == one].sum()), int((tokens == one).sum()))
            for one in np.unique(tokens)
        ]
        unit.sort(key=lambda row: (-row[3], row[2]))
        rows += [(*row, int(occurrences[np.searchsorted(ids, row[2])])) for row in unit]
    names = ("layer", "neuron", "token_id", "wins", "places", "occurrences")
    columns = dict(zip(names, np.array(rows, dtype=np.int64).reshape(-1, len(names)).T, strict=True))
    return {
        "layer": columns["layer"],
        "neuron": columns["neuron"],
        "token_id": columns["token_id"],
        "token": np.array(list(decode(columns["token_id"])), dtype=object),
        "wins": columns["wins"],
        "win_share": columns["wins"] / max(1, draws.places.shape[1]),
        "places": columns["places"],
        "occurrences": columns["occurrences"],
        "occurrence_share": columns["occurrences"] / max(1, int(counted.sum())),
    }


def findings_of(draws: Draws, table: Table) -> list[str]:
    """A sentence or two on each neuron: what wins most often, and why wins are not occurrences."""
    batches, lines = draws.places.shape[1], []
    for (layer, neuron), places in zip(draws.units, draws.places, strict=True):
        own = np.flatnonzero((table["layer"] == layer) & (table["neuron"] == neuron))
        if len(own) == 0:
            lines.append(f"Neuron {layer}.{neuron} won no batch: no sequence has a token that counts.")
            continue
        first = own[0]
        counts = np.unique(places[places >= 0], return_counts=True)[1]
        occurrences = int(table["occurrences"][first])
        lines.append(
            f"Neuron {layer}.{neuron}: {table['token'][first]!r} has the highest activation in "
            f"{table['win_share'][first]:.1%} of {number_of(batches, 'random batch')} of "
            f"{number_of(draws.in_batch, 'sequence')}, but from "
            f"only {number_of(int(table['places'][first]), 'place')} of the text. It occurs {_times(occurrences)} "
            f"({table['occurrence_share'][first]:.2%} of the tokens). Batches share their sequences: each sequence is "
            f"in {draws.in_batch / draws.sequences:.1%} of them. All wins come from "
            f"{number_of(len(counts), 'place')}, and {counts.max() / batches:.1%} of the batches are won by one place. "
            "So wins say which activations are the highest, not how often a token excites the neuron."
        )
    return lines


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
