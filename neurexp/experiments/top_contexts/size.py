"""About how many bytes a run of top contexts writes for each neuron, from its options.

The numbers are those of SmolLM2-135M and the embedded model, after compression. Knows no file.
"""

from neurexp.experiments.top_contexts.data import ENDS, Options

CONTEXT = 10  # a row of contexts.parquet
CONTEXT_IN_PAGES = 13  # in its neuron's card, beside the window, and in the search
DIRECT = 12  # a row of direct.parquet, and as much in the cards
NEURON = 450  # a row of neurons.parquet
NEURON_IN_PAGES = 850  # in the columns of the index, and in the card
BIN = 4  # of a histogram, and as much in the cards


def bytes_per_neuron(options: Options) -> float:
    """The sum over the tables, the windows of int8 and the pages; nothing for the text."""
    contexts, window = len(ENDS) * options.k, options.before + 1 + options.after
    direct, bins = 2 * options.direct, options.bins if options.histogram else 0
    found = NEURON + contexts * (CONTEXT + window) + DIRECT * direct + BIN * bins
    if options.pages:
        found += NEURON_IN_PAGES + contexts * (CONTEXT_IN_PAGES + window) + DIRECT * direct + BIN * bins
    return float(found)
