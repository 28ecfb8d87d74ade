"""The data dictionary of an agreement of runs. Texts only."""

from collections.abc import Mapping, Sequence

_OVERLAP = {
    "expected": "number expected by chance, exact: {how}",
    "ratio": "observed number / expected; missing if nothing is expected",
    "low": "2.5 % quantile of the number by chance",
    "high": "97.5 % quantile of the number by chance",
    "p": "p of as many or more by chance",
}
_EXCHANGE = (
    "Neurons of a layer are taken as exchangeable; where neurons go together, p is too small. Runs of one model share "
    "its neurons, and often a text: agreement is no independent confirmation"
)
_SPREAD = "within sets of about 25 neurons of a layer with a similar `std` (mean of its ranks in the runs that have it)"


def columns_of(names: Sequence[str], statistics: Mapping[int, str], lead: float) -> dict[str, str]:
    """The definition of every column and metric.

    Args:
        names: of all runs.
        statistics: number of a run → the column that it is compared by.
        lead: per cent of a layer's neurons that lead.
    """
    leads = (
        f"a neuron leads in a run if its |statistic| is among the {lead:g} % largest of its layer (at least one; "
        "those that tie with the last of them lead too; 0 and missing values never lead)"
    )
    both = {
        "first": "number of a run, in the order given",
        "second": "number of another run of the same model and site",
        "first_statistic": "the column of neurons.parquet that the first run is compared by",
        "second_statistic": "the column of neurons.parquet that the second run is compared by",
        "neurons": "number of neurons that have a value in both runs",
        "first_leads": f"number of neurons that lead in the first run: {leads}",
        "second_leads": "number of neurons that lead in the second run",
        "both": "number of neurons that lead in both",
        "same_sign": "number of those of both whose two values have the same sign",
        **_formatted("over layers, the sum of hypergeometric means", ". Hypergeometric within layers, convolved. "),
        **{f"{name}_spread": f"as {name}, but neurons change places by chance {_SPREAD}" for name in _OVERLAP},
        "r_ranks": "Spearman's correlation of the two |statistics| within layers: ranks divided by the layer's neurons "
        "and taken about the layer's mean, all layers together",
        "p_ranks": "two-sided p of r_ranks: exact variance of permutations within layers, normal approximation",
        "r_ranks_spread": f"as r_ranks, {_SPREAD}",
        "p_ranks_spread": "two-sided p of r_ranks_spread, as p_ranks",
        "site": "the site of the runs (docs/models.md)",
    }
    by_layer = {
        "layer": "block index, from 0",
        "times": "the least number of runs in which a neuron leads",
        "agreed": "number of the layer's neurons that lead in so many runs or more",
        "site": "the site of the runs",
        **_formatted(
            "Poisson-binomial over runs",
            ": exact (hypergeometric) for two runs, else (1 + draws with as many) / 10,001. ",
        ),
    }
    agreed = {
        "site": "the site of the runs",
        "layer": "block index, from 0",
        "neuron": "index of the unit within the site",
        "runs": "number of runs in which the neuron leads, 2 or more",
        "mean_rank": "mean of its ranks within the layer, over the runs that have a value for it",
    }
    for number, statistic in statistics.items():
        agreed |= {
            f"leads_{number}": f"whether the neuron leads in run {number} ({names[number]})",
            f"value_{number}": f"its {statistic} in run {number}",
            f"rank_{number}": f"its rank in the layer by |{statistic}| in run {number}, from 1, ties alike; "
            "−1: the run has no value for it",
        }
    columns = {f"agreement.{name}": text for name, text in both.items()}
    columns |= {f"agreement_by_layer.{name}": text for name, text in by_layer.items()}
    columns |= {f"agreed.{name}": text for name, text in agreed.items()}
    for times in range(2, len(names) + 1):
        columns |= {
            f"agreed_{times}": f"number of neurons that lead in {times} or more runs, of those with a value "
            f"in two runs or more: {leads}",
            f"agreed_{times}_by_chance": f"agreed_{times} expected by chance, exact: Poisson-binomial within layers",
            f"agreed_{times}_p": f"p of agreed_{times} or more by chance: exact for two runs, else in 10,000 draws. If "
            f"each neuron has a `std` in some run, neurons change places {_SPREAD}. {_EXCHANGE}",
        }
    return columns


def _formatted(how: str, of_p: str) -> dict[str, str]:
    texts = {name: text.format(how=how) for name, text in _OVERLAP.items()}
    return texts | {"p": texts["p"] + of_p + _EXCHANGE}
