"""neurexp: what do the individual neurons of a language model respond to?

load_model    a causal language model and its tokenizer: "mini" (embedded), a folder, or a Hub id
capture       its activations at one site of every chosen layer: {"MLP_0": [sequences, length, neurons], …}
UserError     what a user can mend; its text is the whole message
Contrast      base of experiments that compare labelled rows; its options: ContrastOptions
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurexp.engine.passes import capture
    from neurexp.errors import UserError
    from neurexp.experiments.contrast import Contrast
    from neurexp.experiments.contrast import Options as ContrastOptions
    from neurexp.models.load import load_model

# No library that we bring reports home unless the user asks it to.
for _variable in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "true")

__all__ = ["Contrast", "ContrastOptions", "UserError", "capture", "load_model"]

_HOMES = {  # public name → its module, and its name there
    "Contrast": ("neurexp.experiments.contrast", "Contrast"),
    "ContrastOptions": ("neurexp.experiments.contrast", "Options"),
    "UserError": ("neurexp.errors", "UserError"),
    "capture": ("neurexp.engine.passes", "capture"),
    "load_model": ("neurexp.models.load", "load_model"),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: `--help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'neurexp' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
