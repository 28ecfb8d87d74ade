"""What the whole command costs beside its pass: the demo as a user types it, by stage, next to bare imports.

Both are started as processes of their own, in turn. Knows no other case of the benchmark.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from neurexp.errors import UserError, one_line
from neurexp.report.folder import SUMMARY
from neurexp.report.report import Table

log = logging.getLogger(__name__)

AIM = 1.6  # times the bare imports, for the command without its pass
ALONE, COMMAND, OUTSIDE, PASS = "imports_alone", "command", "outside", "capture"
BARE_IMPORTS = ("-c", "import torch, transformers, mlflow")
DEMO = ("-m", "neurexp", "experiment=token_length", "model=mini", "dataset=pydoc", "run.reuse=false")

STAGES = {
    OUTSIDE: "before the run's clock starts and after it stops: Python, Hydra, early checks, the end of tracking",
    "imports": "PyTorch, transformers and the experiment; MLflow is imported in a process beside, where there is one",
    "load_model": "the model and its tokenizer",
    "prepare_text": "the text's tokens",
    PASS: "the pass over the tokens",
    "analyse": "statistics, tables and tensors",
    "figures": "all figures",
    "track": "MLflow, and the facts about the run",
}
WHOLE = {
    COMMAND: f"all of `python {' '.join(DEMO)}`, with an MLflow store that exists",
    ALONE: f"`python {BARE_IMPORTS[0]} '{BARE_IMPORTS[1]}'`",
}

COLUMNS = {
    "command_costs.stage": "; ".join(f"{name}: {meaning}" for name, meaning in (STAGES | WHOLE).items()),
    "command_costs.seconds": "median over the rounds",
    "command_costs.seconds_min": "of the quickest round",
    "command_costs.seconds_max": "of the slowest round",
    "command_ratio": f"median over the rounds of (seconds of {COMMAND} − seconds of {PASS}) / seconds of {ALONE} in "
    "the same round",
    "command_ratio_min": "smallest of these",
    "command_ratio_max": "largest of these",
    **{f"command_seconds_{name}": f"command_costs.seconds of {name}" for name in (*STAGES, *WHOLE)},
}


@dataclass
class CommandCosts:
    """What was measured: seconds `[rounds]` of each stage and of each whole process."""

    seconds: dict[str, np.ndarray]

    def table(self) -> Table:
        """`command_costs.parquet`."""
        rows = np.stack([self.seconds[name] for name in (*STAGES, *WHOLE)])
        return {
            "stage": np.array([*STAGES, *WHOLE]),
            "seconds": np.median(rows, 1),
            "seconds_min": rows.min(1),
            "seconds_max": rows.max(1),
        }

    def metrics(self, table: Table) -> dict[str, float]:
        """Flat metrics of the table, and the ratio to bare imports."""
        ratio = (self.seconds[COMMAND] - self.seconds[PASS]) / self.seconds[ALONE]
        pairs = zip(table["stage"].tolist(), table["seconds"].tolist(), strict=True)
        return {f"command_seconds_{name}": seconds for name, seconds in pairs} | {
            "command_ratio": float(np.median(ratio)),
            "command_ratio_min": float(ratio.min()),
            "command_ratio_max": float(ratio.max()),
        }

    def findings(self, metrics: dict[str, float]) -> list[str]:
        """A sentence: how long the command takes, against what, and where its time goes."""
        stages = sorted(STAGES, key=lambda name: -metrics[f"command_seconds_{name}"])
        told = ", ".join(f"{name} {metrics[f'command_seconds_{name}']:.1f}" for name in stages)
        return [
            f"The command: the demo takes {metrics['command_seconds_command']:.1f} s. Without its pass that is "
            f"{metrics['command_ratio']:.2f} times ({metrics['command_ratio_min']:.2f} to "
            f"{metrics['command_ratio_max']:.2f}; the aim is {AIM}) as long as importing PyTorch, transformers and "
            f"MLflow. Seconds by stage: {told}."
        ]


def measure(device: str, rounds: int) -> CommandCosts:
    """Starts bare imports and the demo once in each round, in turn, after one round that is not counted.

    Raises:
        UserError: one of them failed.
    """
    found: list[dict[str, float]] = []
    with TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            if number:
                log.info("The command: round %d of %d", number, rounds)
            alone = _seconds(BARE_IMPORTS)
            run = Path(folder) / str(number)
            command = _seconds((*DEMO, f"device={device}", f"run.outputs={folder}", f"hydra.run.dir={run}"))
            timings = json.loads((run / SUMMARY).read_text("utf-8"))["timings"]
            stages = {name: timings.get(name, 0.0) for name in STAGES}
            found.append(stages | {OUTSIDE: command - timings["total"], COMMAND: command, ALONE: alone})
    return CommandCosts({name: np.array([one[name] for one in found[1:]]) for name in (*STAGES, *WHOLE)})


def _seconds(arguments: Sequence[str]) -> float:
    """The wall seconds of a process of this Python."""
    checkout = Path(__file__).parents[3]  # it need not be installed
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"it ended with {process.returncode}"]
        raise UserError(f"`python {' '.join(arguments)}` failed ({one_line(Exception(last[0]))})")
    return time.perf_counter() - began
