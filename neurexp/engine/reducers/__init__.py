"""Reducers: what is left of a site's activations once a batch is over. Know neither models nor words."""
