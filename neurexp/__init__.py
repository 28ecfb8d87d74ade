"""neurexp: what do the individual neurons of a language model respond to?

run           an experiment, as on the command line: `run("token_length", model="mini", dataset="pydoc")` → a Run
open_run      a finished run: its findings, tables and figures; `open_run(FOLDER).neuron(15, 276)` shows a neuron
runs          the finished runs of a folder, as a table
compare       several finished runs side by side
load_model    a causal language model and its tokenizer: "mini" (embedded), a folder, or a Hub id
capture       its activations at one site of every chosen layer: {"MLP_0": [sequences, length, neurons], …}
Edit          activations of chosen neurons that are replaced: by zero, their mean, another token's value, …
edited        a context in which a model runs with edits
predictions   what a model predicts at every token, with and without edits: loss, divergence, rank
Contrast      base of experiments that compare labelled rows; its options: ContrastOptions
Regression    base of experiments that tell tokens of a text apart, in several comparisons: RegressionOptions
Profile       base of experiments that relate activations to a Covariate of tokens; its options: ProfileOptions
Intervention  base of experiments that edit chosen neurons; its options: InterventionOptions
Optimisation  base of experiments that look for the input that excites a unit most; its options: OptimisationOptions
UserError     what a user can mend; its text is the whole message
"""

import os
from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.engine.edits import Edit, edited
    from neurexp.engine.notebook import capture, predictions
    from neurexp.errors import UserError
    from neurexp.experiments.contrast import Condition, Contrast
    from neurexp.experiments.contrast import Options as ContrastOptions
    from neurexp.experiments.intervention import FoundNeurons, Intervention
    from neurexp.experiments.intervention import Options as InterventionOptions
    from neurexp.experiments.optimisation import Optimisation
    from neurexp.experiments.optimisation import Options as OptimisationOptions
    from neurexp.experiments.profile import Covariate, Profile
    from neurexp.experiments.profile import Options as ProfileOptions
    from neurexp.experiments.regression import Chosen, Comparison, Regression, Verdict
    from neurexp.experiments.regression import Options as RegressionOptions
    from neurexp.models.load import load_model
    from neurexp.run import run
    from neurexp.runs.comparison import compare
    from neurexp.runs.listing import runs
    from neurexp.runs.opened_run import Run, open_run

# No library that we bring reports home unless the user asks it to.
for _variable in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "true")

__all__ = [
    "Chosen",
    "Comparison",
    "Condition",
    "Contrast",
    "ContrastOptions",
    "Covariate",
    "Edit",
    "FoundNeurons",
    "Intervention",
    "InterventionOptions",
    "Optimisation",
    "OptimisationOptions",
    "Profile",
    "ProfileOptions",
    "Regression",
    "RegressionOptions",
    "Run",
    "UserError",
    "Verdict",
    "capture",
    "compare",
    "edited",
    "load_model",
    "open_run",
    "predictions",
    "run",
    "runs",
]

_HOMES = {
    "Chosen": "neurexp.experiments.regression",
    "Comparison": "neurexp.experiments.regression",
    "Condition": "neurexp.experiments.contrast",
    "Contrast": "neurexp.experiments.contrast",
    "ContrastOptions": "neurexp.experiments.contrast:Options",
    "Covariate": "neurexp.experiments.profile",
    "Edit": "neurexp.engine.edits",
    "FoundNeurons": "neurexp.experiments.intervention",
    "Intervention": "neurexp.experiments.intervention",
    "InterventionOptions": "neurexp.experiments.intervention:Options",
    "Optimisation": "neurexp.experiments.optimisation",
    "OptimisationOptions": "neurexp.experiments.optimisation:Options",
    "Profile": "neurexp.experiments.profile",
    "ProfileOptions": "neurexp.experiments.profile:Options",
    "Regression": "neurexp.experiments.regression",
    "RegressionOptions": "neurexp.experiments.regression:Options",
    "Run": "neurexp.runs.opened_run",
    "UserError": "neurexp.errors",
    "Verdict": "neurexp.experiments.regression",
    "capture": "neurexp.engine.notebook",
    "compare": "neurexp.compare:",
    "edited": "neurexp.engine.edits",
    "load_model": "neurexp.models.load",
    "open_run": "neurexp.runs.opened_run",
    "predictions": "neurexp.engine.notebook",
    "run": "neurexp.run:",
    "runs": "neurexp.runs:",
}
__getattr__ = lazy(__name__, _HOMES)
