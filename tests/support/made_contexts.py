"""Run folders of `top_contexts`, written by hand by the contract of their files, with planted and hostile texts."""

from pathlib import Path

import numpy as np
from made_runs import written

from neurexp.io.files import write_table, write_tensors
from neurexp.report.finished import FinishedRun
from neurexp.report.report import Report

HOSTILE = "</script><img src=x onerror=alert(1)>"
# The vocabulary: bytes of each token. 🍕 and ’ are cut into their bytes
TOKENS = [
    b"<|endoftext|>", b"The", b" dog", b" cat", b" runs", b"\n", HOSTILE.encode(),
    *(bytes([one]) for one in "🍕".encode()),
    " שלום".encode(), " עולם".encode(), b"don", *(bytes([one]) for one in "’".encode()), b"t", "\u2028".encode(),
    "\u202e".encode(), "é".encode(), b" $x_1$", b" &amp;", b'"\\',
]  # fmt: skip
PIZZA, QUOTE, RTL = 7, 14, 11  # where they begin
DOG = 2
MODEL_HASH = "a" * 64
PROPERTIES = ("length", "log_frequency", "position", "punctuation", "token", "previous_token")


def texts_alone() -> list[str]:
    return [one.decode("utf-8", "replace") for one in TOKENS]


def made_text(sequences: int, length: int, seed: int = 0) -> np.ndarray:
    """Whole characters only, except at the ends of a sequence; each sequence begins with the special token."""
    draw = np.random.default_rng(seed)
    pieces = [
        [PIZZA, 8, 9, 10],
        [13, QUOTE, 15, 16, 17],
        [RTL, 12],
        *([one] for one in (1, 2, 2, 3, 4, 5, 6, 18, 19, 20, 21, 22, 23)),
    ]
    rows = []
    for _ in range(sequences):
        row = [0]
        while len(row) < length:
            row += pieces[draw.integers(len(pieces))]
        rows.append(row[:length])
    return np.array(rows, dtype=np.int32)


def made_contexts(
    folder: Path,
    layers: tuple[int, ...] = (0, 3),
    neurons: int = 8,
    k: int = 4,
    sequences: int = 12,
    length: int = 24,
    before: int = 5,
    after: int = 3,
    histogram: bool = True,
    direct: int = 3,
    site: str | None = None,
) -> FinishedRun:
    """A run folder whose activations are random, but for neuron 1 of the last layer, which fires on ` dog` alone.

    Args:
        folder: is made.
        site: writes the files of a run of several sites, MLP and this one, which are equal but for the planted neuron.
    """
    draw = np.random.default_rng(1)
    ids = made_text(sequences, length)
    counted = np.ones(ids.shape, bool)
    counted[:, 0] = False
    names = {"MLP": "_MLP", site: f"_{site}"} if site else {None: ""}
    report: Report | None = None
    further, tensors, notes, tables = {}, {}, {}, []
    for one in names:
        ending = f"_{one}" if site else ""
        shape = (len(layers), 2, neurons, k)
        values, places = np.full(shape, np.nan, np.float32), np.full(shape, -1)
        levels = np.full((*shape, before + 1 + after), -128, np.int8)
        for row, layer in enumerate(layers):
            x = draw.normal(size=(neurons, *ids.shape)).astype(np.float32)
            if layer == layers[-1] and one in (None, "MLP"):
                x[1] = np.where(ids == DOG, 5 + draw.random(ids.shape), -0.5 * draw.random(ids.shape))
            for neuron in range(neurons):
                flat = np.where(counted, x[neuron], np.nan).ravel()
                order = np.argsort(flat, kind="stable")
                order = order[: int(counted.sum())]
                for end, best in enumerate((order[::-1][:k], order[:k])):
                    values[row, end, neuron], places[row, end, neuron] = flat[best], best
                    for rank, place in enumerate(best):
                        s, t = divmod(int(place), length)
                        for offset in range(-before, after + 1):
                            if 0 <= t + offset < length:
                                level = round(100 * x[neuron, s, t + offset] / abs(flat[place]))
                                levels[row, end, neuron, rank, before + offset] = np.clip(level, -100, 100)
        by_neuron = [array.transpose(0, 2, 1, 3).ravel() for array in (values, places)]
        where = np.indices((len(layers), neurons, 2, k)).reshape(4, -1)
        token_ids = ids.ravel()[by_neuron[1]]
        texts = np.array(texts_alone(), dtype=object)
        contexts = {
            "layer": np.array(layers)[where[0]], "neuron": where[1],
            "end": np.array(["top", "bottom"], dtype=object)[where[2]], "rank": where[3], "value": by_neuron[0],
            "sequence": by_neuron[1] // length * 10, "position": by_neuron[1] % length, "token_id": token_ids,
            "token": texts[token_ids],
        }  # fmt: skip
        further[f"contexts{ending}"] = contexts
        used = np.unique(contexts["sequence"])
        tensors[f"context_tokens{ending}"] = {
            "sequences": used, "input_ids": ids[used // 10], "valid": np.ones((len(used), length), bool)
        }  # fmt: skip
        tensors[f"windows{ending}"] = {"levels": levels, "layers": np.array(layers)}
        notes[f"windows{ending}"] = {"before": str(before), "after": str(after), "scale": "100"}
        further[f"vocabulary{ending}"] = {
            "token_id": np.arange(len(TOKENS)), "token": texts,
            "bytes": np.array([one.hex() for one in TOKENS], dtype=object),
        }  # fmt: skip
        rows = len(layers) * neurons
        if histogram:
            tensors[f"neuron_histograms{ending}"] = {
                "counts": draw.integers(0, 50, (len(layers), neurons, 10)).astype(np.int32),
                "start": np.full((len(layers), neurons), -4, np.float32),
                "width": np.ones((len(layers), neurons), np.float32), "layers": np.array(layers),
            }  # fmt: skip
        if direct:
            each = np.indices((len(layers), neurons, 2, direct)).reshape(4, -1)
            promoted = draw.integers(0, len(TOKENS), each.shape[1])
            further[f"direct{ending}"] = {
                "layer": np.array(layers)[each[0]], "neuron": each[1], "sign": 1 - 2 * each[2], "rank": each[3] + 1,
                "id": promoted, "token": texts[promoted], "effect": (1 - 2 * each[2]) * (3.0 - each[3]),
            }  # fmt: skip
        best = places[:, 0, :, 0].ravel()
        table = {
            "layer": np.repeat(layers, neurons), "neuron": np.tile(np.arange(neurons), len(layers)),
            "mean": draw.normal(size=rows), "std": draw.random(rows), "kurtosis": draw.normal(size=rows) * 1000,
            "share_positive": draw.random(rows), "maximum": values[:, 0, :, 0].ravel().astype(float),
            "top_token": texts[ids.ravel()[best]], "top_share": draw.integers(1, k + 1, rows) / k,
            **{f"ev_{name}": draw.normal(size=rows) * 0.3 for name in PROPERTIES},
            **{f"q_{name}": draw.random(rows) for name in PROPERTIES},
            "ev_one_token": draw.normal(size=rows) * 0.1,
            "property": np.array(["none", "position", "token"], dtype=object)[draw.integers(0, 3, rows)],
            "ev_property": draw.random(rows),
        }  # fmt: skip
        table["ev_property"][table["property"] == "none"] = np.nan
        if site:
            table = {"site": np.full(rows, one, dtype=object), **table}
        tables.append(table)
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    shape_of = {"layer": np.tile(np.array(layers), len(tables))}
    if site:
        shape_of = {"site": np.repeat(list(names), len(layers)).astype(object), **shape_of}
    columns = {name: f"what {name} means, in the model's own units" for name in (*joined, *shape_of)}
    for file, within in (further | tensors).items():
        columns |= {f"{file}.{name}": "" for name in within}
    report = Report([], {}, shape_of, joined, columns, "ev_token", tables=further, tensors=tensors, notes=notes)
    options = {"experiment.site": "MLP"}
    return written(
        folder, report, "site=MLP", experiment="top_contexts", setting="made on text", options=options,
        provenance={"model_hash": MODEL_HASH},
    )  # fmt: skip


__all__ = ["HOSTILE", "MODEL_HASH", "TOKENS", "made_contexts", "made_text", "write_table", "write_tensors"]
