"""`python -m neurexp.ui` serves MLflow's pages of the runs, on this machine only. Imports nothing heavy."""

import argparse
import os
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

from neurexp.console import terminal
from neurexp.errors import UserError, printable
from neurexp.io.mlflow_stores import Store, store_of

# MLflow's pages would ask its makers what to report to them, and start 13 processes where two do for one person
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: list[str] | None = None) -> None:
    """The command line. MLflow's server takes the place of this process."""
    terminal.prepare()
    parser = argparse.ArgumentParser("python -m neurexp.ui", description="Open MLflow's pages of the runs.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="run.outputs of the runs (outputs)")
    parser.add_argument("--uri", help="an MLflow store: tracking.uri of the runs, unless it lies under --outputs")
    parser.add_argument("--port", type=int, default=5000, help="of the page (5000)")
    options = parser.parse_args(arguments)
    try:
        store = store_of(options.uri, options.outputs.expanduser().resolve(), option="--uri")
        if store.is_server:
            raise UserError(f"{store.given}: is a server; open this address in a browser")
        if store.file is not None and not store.file.exists():
            raise UserError(f"{store.given}: no MLflow store there; run an experiment, or give --outputs FOLDER")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    address = f"http://127.0.0.1:{options.port}"
    print(f"MLflow's pages: {address} (Ctrl-C ends them)")
    for number, name in _experiments(store):
        print(f"  {printable(name)}: {address}/#/experiments/{number}/runs")
    sys.stdout.flush()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    command = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(options.port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, *command, "--backend-store-uri", store.uri])  # noqa: S606 (no shell is wanted)


def _experiments(store: Store) -> list[tuple[int, str]]:
    """Number and name of each MLflow experiment that has runs, the latest run's first; of an SQLite store only."""
    if store.file is None:
        return []
    query = (
        "SELECT experiments.experiment_id, experiments.name FROM experiments JOIN runs USING (experiment_id) WHERE "
        "experiments.lifecycle_stage = 'active' GROUP BY experiments.experiment_id ORDER BY max(start_time) DESC"
    )
    with suppress(sqlite3.Error), closing(sqlite3.connect(store.file)) as connection:
        return connection.execute(query).fetchall()
    return []


if __name__ == "__main__":
    main()
