"""On a GPU: the numbers of the CPU, and nothing inside the pass that waits for the device."""

import numpy as np
import pytest
import torch
from conftest import FINISHED_ARGUMENTS
from pyarrow.parquet import read_table
from tiny import build, token_ids

from neurexp.engine.passes import run_pass
from neurexp.engine.reducers.base import Batch
from neurexp.engine.reducers.extremes import Extremes
from neurexp.engine.reducers.gram import Cells, Gram
from neurexp.engine.reducers.histogram import Histogram
from neurexp.engine.reducers.moments import Moments
from neurexp.engine.reducers.neuron_histogram import NeuronHistogram
from neurexp.engine.reducers.rows import Rows
from neurexp.models.sites import find_sites

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"), [((), 1e-4), (("device.tf32=true",), 5e-3), (("device.dtype=bfloat16",), 5e-2)]
)
def test_a_run_finds_what_it_finds_on_the_cpu(cli, tmp_path, options, tolerance):
    arguments = [one for one in FINISHED_ARGUMENTS if not one.startswith("device=")]
    for device, more in (("cpu", ()), ("cuda", options)):
        process = cli(*arguments, f"device={device}", "tracking=off", f"hydra.run.dir={device}", *more)
        assert process.returncode == 0, process.stderr
    on_cpu, on_gpu = (read_table(tmp_path / name / "neurons.parquet").to_pandas() for name in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu["r_length"], on_cpu["r_length"], atol=tolerance)


def test_reducing_a_site_does_not_wait_for_the_device():
    device, tokens, neurons = torch.device("cuda"), 64, 40
    values = torch.randn(tokens, neurons, device=device)
    gram, histogram = Gram(6, 1, slice(2, 6), slice(2, 6), device=device), Histogram(2, 1, 32, device)
    row = torch.tensor([0, 1])  # a span in each batch
    reducers = [gram, histogram, Moments(1, device=device), NeuronHistogram(1, 8, device=device)]
    reducers += [Extremes(1, 4, tokens, 2, 1, device=device), Rows(row, row + 3, row + 6)]
    for reducer in reducers:
        reducer.calibrate(0, values)
    of_token = torch.arange(tokens) % 9
    cells = Cells(of_token, torch.randn(9, 6), torch.arange(6))
    ids = torch.zeros(1, tokens, dtype=torch.long)
    covariates = {"design": [cells], "group": torch.arange(tokens) % 2}
    with torch.inference_mode():
        for number in range(2):  # the first one makes the states, which may wait
            batch = Batch(ids, ids == 0, None, torch.arange(tokens)[None], number, covariates, device)
            torch.cuda.set_sync_debug_mode("error" if number else "default")
            try:
                for reducer in reducers:
                    reducer.begin(batch)
                    reducer.update(0, values, batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    for reducer in reducers:
        reducer.check()
    assert reducers[-1].rows(0).isfinite().all()
    x, z = values.double().cpu(), cells.design[of_token].double()
    np.testing.assert_allclose(gram.zx[0].cpu(), 2 * z.T @ (x - gram.shift[0].cpu().double()), rtol=1e-4, atol=1e-3)
    assert histogram.counts.sum().item() == 2 * tokens * neurons


def test_the_pass_on_the_device_is_the_pass_on_the_cpu():
    ids = token_ids(5, 16)
    found = []
    for device in ("cpu", "cuda"):
        model = build("gpt_neo").to(device)
        histogram = Histogram(1, 3, 32, device)
        run_pass(
            model, find_sites(model, "MLP"), ids, None, [histogram], lambda ids, *_: {"group": torch.zeros_like(ids)}, 2
        )
        found.append(histogram.counts.cpu())
    assert torch.equal(found[0].sum(-1), found[1].sum(-1))
    assert (found[0] - found[1]).abs().sum() <= 2e-3 * found[0].sum()
