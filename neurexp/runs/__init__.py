"""One run from its config to its folder, resumed runs, sweeps and comparisons: the only room that sees all others."""
