"""What a pass leaves in the store where the disk is full in the middle."""

from types import SimpleNamespace

import torch

from neurexp.engine.reducers.moments import Moments
from neurexp.io.store import Entry, Store
from neurexp.runs.stored_pass import StoredPass


def stored(folder, layers):
    """A pass over these layers, by one reducer, and the reducer after it."""
    made = SimpleNamespace(layers=layers, reducers=lambda count: {"moments": Moments(count)})
    reducer = Moments(len(layers), torch.tensor([[float(layer)] for layer in layers]).expand(-1, 3))
    return StoredPass(Store(folder), made, {"text": "one"}), {"moments": reducer}


def test_a_full_disk_takes_away_only_what_this_pass_has_added(tmp_path, monkeypatch):
    earlier, reducers = stored(tmp_path, (0, 2))
    earlier.save(reducers, (0, 2))
    assert earlier.load() is not None

    save, saved = Entry.save, []

    def until_full(entry, arrays, part=""):
        saved.append(part)
        return len(saved) < 4 and save(entry, arrays, part)

    later, more = stored(tmp_path, (0, 1, 2, 3))
    with monkeypatch.context() as patch:
        patch.setattr(Entry, "save", until_full)
        later.save(more, (0, 1, 2, 3))
    assert saved == ["layer_0", "layer_1", "layer_2", "layer_3"]
    assert {file.stem[-7:] for file in tmp_path.glob("*.safetensors")} == {"layer_0", "layer_2"}
    found = earlier.load()
    assert found is not None
    assert torch.equal(found["moments"].state()["shift"], reducers["moments"].state()["shift"])
