"""Messages between processes: texts and the states of reducers arrive as they were sent, and are given to all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

CODE = """
import torch
from neurexp.engine import processes
from neurexp.engine.passes import make_batch
from neurexp.engine.reducers.not_finite import NotFinite
from neurexp.engine.reducers.of_sites import OfSites
from neurexp.engine.reducers.rows import Rows
from neurexp.engine.reducers.windows import Windows

processes.connect()
rank = processes.rank()
for text in ("/a/folder \u00e9 \u5b57", "", "x" * 100_000):
    assert processes.broadcast(text if rank == 0 else "other") == text
counted = NotFinite(2)
counted.counts[1] += 1 + rank
spans = torch.arange(2), torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
rows = Rows(*spans)
rows.load({"0": torch.tensor([[1.0, 2.0], [torch.nan] * 2] if rank == 0 else [[torch.nan] * 2, [3.0, 4.0]])})
# Reducers that hold others: each process has one of the two highest activations
windows, inside = Windows([[0]], 1, 2, 2), NotFinite(1)
inside.counts[0] += 5 + rank
batch = make_batch(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool), rank, torch.device("cpu"))
windows.begin(batch)
windows.update(0, torch.tensor([[0.5], [3.0]]) if rank == 0 else torch.tensor([[2.0], [1.0]]), batch)
processes.merge([counted, rows, Rows(*spans), windows, OfSites(inside, 1, 1)])
if rank == 0:
    assert windows.values(0, "mean").tolist() == windows.values(0, "peak").tolist() == [3.0, 2.0]
    assert windows.places(0, "mean").tolist() == [1, 2]
    assert windows.values(0, "maximum").tolist() == [3.0]
    assert inside.counts.tolist() == [11]
    assert counted.counts.tolist() == [0, 3]
    assert rows.rows(0).tolist() == [[1.0, 2.0], [3.0, 4.0]]
else:
    assert counted.counts.tolist() == [0, 2]
processes.share([rows, counted])
assert counted.counts.tolist() == [0, 3]
assert rows.rows(0).tolist() == [[1.0, 2.0], [3.0, 4.0]]
processes.share([])
processes.shut_down()
"""


def test_texts_and_states_arrive_as_they_were_sent():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE],
            env=os.environ | given | {"RANK": str(rank), "MASTER_PORT": port},
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0], ended
