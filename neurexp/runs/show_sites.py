"""`python -m neurexp --sites model=…`: the sites of a model, how many neurons each has, and where they are.

Loads the model as a run would. Runs no experiment.
"""

from collections.abc import Sequence

import numpy as np
from hydra import compose, initialize_config_dir

from neurexp.config.schema import CONFIG_FOLDER, checked
from neurexp.errors import UserError

ORIGINS = {
    "table": "known to neurexp",
    "structure": "found by structure: act(MLP), times UP if there is one, is what the down-projection reads, and "
    "attention and MLP add up to what each block adds",
    "options": "with the places that model.blocks and model.sites give",
}


def show_sites(overrides: Sequence[str]) -> str:
    """The table of the model that the command line's `overrides` choose, as text.

    Raises:
        UserError: the model cannot be loaded, or its architecture is unknown.
    """
    if flags := [text for text in overrides if text.startswith("-")]:
        raise UserError(f"--sites {flags[0]}: it takes options of the model (model=…) only; leave {flags[0]} out")
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        # A dataset that needs nothing: none is read
        config = checked(compose("config", [*overrides, "dataset=pydoc"]))
    from neurexp.engine.notebook import capture
    from neurexp.models.families import SITES
    from neurexp.models.sites import family_of, sites_of, width_of_head
    from neurexp.runs.measure import load_configured

    model = load_configured(config)
    family, sites = family_of(model.network), sites_of(model.network)
    captured = capture(model, np.zeros((1, 1), int), list(sites), layers=0)
    widths = dict(zip(sites, (values.shape[-1] for values in captured.values()), strict=True))
    rows = [("site", "neurons", "where in a block", "what it is")]
    for name, address in sites.items():
        head = width_of_head(model.network, name)
        neurons = f"{widths[name]:,}" + (f" = {widths[name] // head} × {head}" if head else "")
        rows.append((name, neurons, str(address), SITES.get(name, "given by model.sites")))
    sizes = [max(len(row[column]) for row in rows) for column in range(3)]
    table = ["  ".join(text.ljust(size) for text, size in zip(row, [*sizes, 0], strict=True)) for row in rows]
    kind = model.network.config.model_type
    return "\n".join(
        [f"{model.name}: {kind}, {model.layers} layers in {family.blocks}; {ORIGINS[family.origin]}", *table]
    )
