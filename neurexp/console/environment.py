"""Environment variables that a library would misread: checked or set before the library is imported.

Knows no option and no experiment; imports nothing heavy. MLflow's variables are in `mlflow_stores`, the Hub's in `hub`.
"""

import os
import re

from neurexp.errors import UserError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# OpenMP takes one number, or one for each level of nested threads
_COUNTS = re.compile(r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*")


def settle() -> None:
    """Selects matplotlib's backend for files. A user's backend for windows is not needed, and may be missing."""
    os.environ["MPLBACKEND"] = "agg"


def check() -> None:
    """Checks that numbers of threads are numbers. PyTorch would ignore other values.

    Raises:
        UserError: a value is not a number.
    """
    for name in THREADS:
        value = os.environ.get(name, "")
        if value.strip() and not _COUNTS.fullmatch(value):
            raise UserError(f"{name}={value}: give a whole number of 1 or more, or unset it; device.threads=N is ours")
