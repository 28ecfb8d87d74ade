"""The neuron that leads for each category of a contrast of three or more. Computes no statistic of other neurons.

Which neuron: the one with the highest Welch's t of the category's words against all other words. With two categories
these would be the neurons with the highest and with the lowest t.
"""

import numpy as np

from neurexp.experiments.contrast.data import ContrastData
from neurexp.report.report import Table
from neurexp.stats.nulls import auroc_interval

BOOTSTRAPS = 2000  # draws for the interval of an AUROC in running text


def leading(data: ContrastData, neurons: Table) -> Table:
    """A row for each category that some neuron prefers to the others, in the order of the labels."""
    table: dict[str, list] = {name: [] for name in _COLUMNS}
    for label, category in enumerate(data.categories):
        t = np.nan_to_num(neurons[f"t_rest_{label}"])
        index = int(t.argmax())
        if t[index] <= 0:
            continue
        auroc = neurons[f"auroc_text_{label}"][index] if data.reads_text else np.nan
        interval = (np.nan, np.nan)
        if np.isfinite(auroc):
            interval = text_interval(data, int(neurons["layer"][index]), int(neurons["neuron"][index]), label)
        count = 0 if data.text is None else int((data.text.found.category == label).sum())
        row = (category, label, neurons["layer"][index], neurons["neuron"][index], t[index], neurons["eta2"][index])
        for name, value in zip(_COLUMNS, (*row, auroc, *interval, count), strict=True):
            table[name].append(value)
    return {name: np.array(values, dtype=_COLUMNS[name]) for name, values in table.items()}


def text_interval(data: ContrastData, layer: int, neuron: int, category: int) -> tuple[float, float]:
    """The 95 % interval, over words, of a neuron's AUROC in running text: a category against all others."""
    rows = data.text_rows(layer)
    assert rows is not None
    assert data.text is not None
    found = data.text.found
    _, groups = np.unique(found.words, return_inverse=True)
    member = (found.category == category).astype(np.int64)
    return auroc_interval(rows[0][:, neuron].astype(np.float64), member, groups, BOOTSTRAPS, data.seed)


_COLUMNS: dict[str, type] = {
    "category": str,
    "label": int,
    "layer": int,
    "neuron": int,
    "t": float,
    "eta2": float,
    "auroc_text": float,
    "auroc_text_low": float,
    "auroc_text_high": float,
    "text_occurrences": int,
}
