"""The environment's variables that a library would misread: what a command checks or settles before it imports one.

Knows no option and no experiment; imports nothing heavy. MLflow's own variables are in `stores`, the Hub's in `hub`.
"""

import os
import re

from neurexp.errors import UserError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# OpenMP takes one number, or one for each level of nested threads
_COUNTS = re.compile(r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*")


def settle() -> None:
    """Figures are drawn into files: the backend that a user has for windows is not needed, and may be missing here."""
    os.environ["MPLBACKEND"] = "agg"


def check() -> None:
    """That numbers of threads are numbers: PyTorch would go on with as many threads as it likes.

    Raises:
        UserError: one is no number.
    """
    for name in THREADS:
        value = os.environ.get(name, "")
        if value.strip() and not _COUNTS.fullmatch(value):
            raise UserError(f"{name}={value}: give a whole number of 1 or more, or unset it; device.threads=N is ours")
