"""Which sites number their neurons alike. Imports nothing heavy."""

SHARE_NEURONS = ("MLP", "UP", "ACT", "NEURON")  # sites whose neuron i is the down-projection's input i


def number_alike(one: str, other: str) -> bool:
    """Whether neuron i of one site is neuron i of the other."""
    return one == other or {one, other} <= set(SHARE_NEURONS)
