"""Every experiment, from its config to its tables, on a device that is not the CPU: it finds what it finds there."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend import pretending
from pyarrow.parquet import read_table

import neurexp
from neurexp.models import load
from neurexp.runs import measure

pytestmark = pytest.mark.slow

SMALL = {
    "model": "mini", "dataset": "pydoc", "device": "cpu", "device.threads": 1, "device.batch_size": 2,
    "dataset.tokens": 512, "dataset.sequence_length": 64, "tracking": "off", "run.reuse": False,
    "model.fast": False,  # that of another device rounds differently
}  # fmt: skip
SOME_LAYERS = {"experiment.layer": [1, 3]}
LONGER = {"dataset.tokens": 16384, "dataset.sequence_length": 256, "device.batch_size": 8}

# Experiment → options, and how often the engine waits for the device at most: in all passes, calibration and states
# included. More tokens or layers change it little (tests/engine/test_pretend_device.py)
EXPERIMENTS = {
    "token_length": ({"experiment.control": "random"}, 80),
    "grammar_tuning": ({"experiment.permutations": 100, "experiment.splits": 2, "experiment.shuffles": 2}, 8),
    "top_contexts": (
        {"experiment.layer": [0, 2], "experiment.k": 4, "experiment.pages": False, "experiment.direct": 2,
         "experiment.site": ["MLP", "RESID_POST"]},
        64,
    ),
    "ablation": (
        {"experiment.neurons": [[5, 3], [5, 700]], "experiment.draws": 20, "experiment.sample": 3,
         "dataset.tokens": 256},
        32,
    ),
    "maximise": (
        {"experiment.site": "RESID_POST", "experiment.units": [[2, 34], [0, 5]], "experiment.starts": 2,
         "experiment.steps": 3, "experiment.search_steps": 2, "experiment.search_starts": 1,
         "experiment.candidates": 4, "experiment.draws": 19},
        96,
    ),
    "categories": ({**SOME_LAYERS, "experiment.permutations": 100}, 8),
    "identities": ({}, 16),
    "context": (
        {**SOME_LAYERS, "experiment.tokens": 20, "experiment.types": 20, "experiment.permutations": 19}, 8
    ),
    "proper_nouns": ({**SOME_LAYERS, **LONGER, "experiment.site": "MLP"}, 8),
    "negation": ({**SOME_LAYERS, **LONGER, "experiment.site": "MLP"}, 8),
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Outputs lie there, `device.name=pretend` is a device, and figures are drawn without being painted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **options: path.write_bytes(b"dot"))
    choose = load.choose_device

    def choose_any(name):
        return torch.device("pretend:0") if name == "pretend" else choose(name)

    for module in (load, measure):
        monkeypatch.setattr(module, "choose_device", choose_any)


def assert_same_tables(one: Path, other: Path) -> None:
    """Up to the rounding of another order of additions."""
    tables = sorted(file.name for file in one.glob("*.parquet"))
    assert tables == sorted(file.name for file in other.glob("*.parquet"))
    assert tables
    for name in tables:
        expected, found = (read_table(where / name).to_pandas() for where in (one, other))
        assert list(found.columns) == list(expected.columns)
        assert len(found) == len(expected)
        for column, values in expected.items():
            if values.dtype.kind == "f":
                scale = values.abs().max() if values.notna().any() else 1.0
                np.testing.assert_allclose(found[column], values, rtol=0, atol=1e-3 * scale, err_msg=f"{name} {column}")
            else:
                assert (found[column].astype(str) == values.astype(str)).mean() > 0.999, f"{name} {column}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_finds_what_it_finds_on_the_cpu(experiment):
    options, most = EXPERIMENTS[experiment]
    neurexp.run(experiment, **SMALL | options, **{"hydra.run.dir": "cpu"})
    with pretending() as device:
        neurexp.run(experiment, **SMALL | options, **{"hydra.run.dir": "device", "device.name": "pretend"})
    assert_same_tables(Path("cpu"), Path("device"))
    places = Counter(
        {
            place: count
            for place, count in device.waits.items()
            if place.startswith(("engine/", "models/transfer")) and " in " not in place
        }
    )
    assert sum(places.values()) <= most, places
    assert not device.pageable


@pytest.mark.parametrize("experiment", ["top_contexts", "ablation", "maximise", "grammar_tuning"])
def test_an_experiment_with_blocks_on_the_disk_finds_what_it_finds_in_memory(experiment):
    options, _ = EXPERIMENTS[experiment]
    for name, more in (("whole", {}), ("spread", {"model.device_map": "auto", "model.max_memory": {"cpu": "9MB"}})):
        neurexp.run(experiment, **SMALL | options | more, **{"hydra.run.dir": name})
    assert "disk (" in Path("spread/neurexp.log").read_text("utf-8")
    assert_same_tables(Path("whole"), Path("spread"))
