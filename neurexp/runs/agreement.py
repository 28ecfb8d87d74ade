"""Which neurons several runs of one model agree on, against chance, whatever the runs' experiments.

A neuron *leads* in a run if its statistic is among the layer's largest in magnitude. Knows no experiment.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from neurexp.report.report import SITE, Report, Table
from neurexp.report.words import number_of
from neurexp.runs.agreement_columns import columns_of
from neurexp.runs.agreement_groups import Group
from neurexp.stats import agreement as chance

NAMED = 8  # neurons in a finding
TOLD = 6  # pairs of runs in findings
SEED = 0  # of the draws
CAVEAT = (
    "Runs of one model share its neurons, and often a text: a neuron of large spread may lead in all of them. "
    "Agreement is no independent confirmation"
)


def report_of(groups: list[Group], names: list[str], labels: list[str], lead: float) -> Report:
    """The tables of pairs, of layers and of agreed neurons, with findings, metrics and figures.

    Args:
        groups: of `groups_of`.
        names: of all runs.
        labels: of all runs, for figures.
        lead: per cent of a layer's neurons that lead.
    """
    findings, metrics, figures = [], {}, {}
    pairs, layers = [], []
    for group in groups:
        where = f"{group.site}: " if len(groups) > 1 else ""
        prefix = f"{group.site}/" if len(groups) > 1 else ""
        own_pairs = _pairs(group)
        own_layers, totals = _by_times(group)
        for times, (plain, spread) in totals.items():
            metrics[f"{prefix}agreed_{times}"] = float(plain.observed)
            metrics[f"{prefix}agreed_{times}_by_chance"] = plain.expected
            metrics[f"{prefix}agreed_{times}_p"] = (spread or plain).p
        sentences = _findings(group, own_pairs, totals)
        findings += [where + line for line in sentences]
        pairs += own_pairs
        layers += own_layers
        suffix = f"_{group.site}" if len(groups) > 1 else ""
        headline = _headline(totals[2][0], len(group.layer), len(group.numbers))
        detail = (
            f"bars: the middle 95 % by chance; leads: among the {lead:g} % of a layer's neurons with the largest "
            f"|statistic|; {group.site}, {number_of(len(group.layer), 'neuron')}. {CAVEAT}."
        )
        figures[f"agreement{suffix}"] = _drawing(own_pairs, own_layers, labels, headline, detail)
    compared = {number for group in groups for number in group.numbers}
    findings += [
        f"Run {number} is left out: no other run here is of its model and site"
        for number in range(len(names))
        if number not in compared
    ]
    findings.append(f"A neuron leads in a run if it is among the {lead:g} % of its layer with the largest |statistic|")
    findings.append(CAVEAT)
    numbers = sorted(number for group in groups for number in group.numbers)
    agreed = [_agreed(group, numbers) for group in groups]
    tables = {
        "agreement": _rows_table(pairs),
        "agreement_by_layer": _rows_table(layers),
        "agreed": {name: np.concatenate([table[name] for table in agreed]) for name in agreed[0]},
    }
    statistics = {number: name for one in groups for number, name in zip(one.numbers, one.columns, strict=True)}
    columns = columns_of(names, statistics, lead)
    for name in metrics:
        columns[name] = columns[name.rpartition("/")[2]]
    return Report(findings, metrics, {}, {}, columns, "", tables=tables, figures=figures, step_column=None)


def _pairs(group: Group) -> list[dict]:
    """A row for each pair of the group's runs."""
    rows = []
    for first, second in combinations(range(len(group.numbers)), 2):
        shared = group.known[first] & group.known[second]
        if not shared.any():
            continue
        leads, values = group.leads[[first, second]][:, shared], group.values[[first, second]][:, shared]
        layer, both = group.layer[shared], leads.all(0)
        plain = chance.led_by_both(leads[0], leads[1], layer)
        r, p = chance.rank_correlation(values[0], values[1], layer)
        row = {
            SITE: group.site,
            "first": group.numbers[first],
            "second": group.numbers[second],
            "first_statistic": group.columns[first],
            "second_statistic": group.columns[second],
            "neurons": len(layer),
            "first_leads": int(leads[0].sum()),
            "second_leads": int(leads[1].sum()),
            "both": plain.observed,
            "same_sign": int((np.sign(values[0]) == np.sign(values[1]))[both].sum()),
            **_columns(plain),
            "r_ranks": r,
            "p_ranks": p,
        }
        if group.spread is not None:
            similar = group.spread[shared]
            row |= _columns(chance.led_by_both(leads[0], leads[1], similar), "_spread")
            row["r_ranks_spread"], row["p_ranks_spread"] = chance.rank_correlation(values[0], values[1], similar)
        rows.append(row)
    return rows


def _columns(overlap: chance.Overlap, suffix: str = "") -> dict[str, float]:
    known = {"expected": overlap.expected, "ratio": overlap.ratio, "low": overlap.low, "high": overlap.high}
    return {f"{name}{suffix}": value for name, value in (known | {"p": overlap.p}).items()}


Totals = dict[int, tuple[chance.Overlap, chance.Overlap | None]]  # least number of runs → among all, among similar ones


def _by_times(group: Group) -> tuple[list[dict], Totals]:
    """How many neurons lead in at least 2, 3, … runs: a row for each layer, and over all layers."""
    null = _Null(group, group.strata)
    similar = None if group.spread is None else _Null(group, group.spread)
    rows, totals = [], {}
    for times in range(2, len(group.numbers) + 1):
        totals[times] = null.overlap(times), similar and similar.overlap(times)
        for layer in np.unique(group.layer):
            one = null.overlap(times, layer)
            place = {SITE: group.site, "layer": int(layer), "times": times, "agreed": one.observed}
            rows.append(place | _columns(one))
    return rows, totals


class _Null:
    """In how many runs neurons lead, against chance: exact for two runs, else by draws."""

    def __init__(self, group: Group, strata: np.ndarray):
        self.group, self.strata = group, strata
        self.expected = chance.expected_times_led(group.leads, strata, group.layer)
        self.drawn = chance.times_led(group.leads, strata, group.layer, SEED) if len(group.leads) > 2 else None

    def overlap(self, times: int, layer: int | None = None) -> chance.Overlap:
        """The neurons that lead in `times` runs or more, of one layer or of all."""
        group = self.group
        inside = np.full(len(group.layer), True) if layer is None else group.layer == layer
        if self.drawn is None:
            first, second = group.leads[:, inside]
            return chance.led_by_both(first, second, self.strata[inside])
        rows = slice(None) if layer is None else np.unique(group.layer) == layer
        observed = int((group.times >= times)[inside].sum())
        return chance.at_least(observed, times, self.drawn[:, rows], self.expected[rows])


def _agreed(group: Group, numbers: Sequence[int]) -> Table:
    """A row for each neuron that leads in two runs or more; those that lead in most runs, and highest, first.

    It has columns for the runs `numbers`, of which some may be of other groups.
    """
    ranks = np.array([group.ranks(row) for row in range(len(group.numbers))])
    mean = np.where(group.known, ranks, 0).sum(0) / group.known.sum(0)
    chosen = np.flatnonzero(group.times >= 2)
    chosen = chosen[np.lexsort((mean[chosen], -group.times[chosen]))]
    table = {
        SITE: np.full(len(chosen), group.site),
        "layer": group.layer[chosen],
        "neuron": group.neuron[chosen],
        "runs": group.times[chosen],
        "mean_rank": mean[chosen],
    }
    for number in numbers:
        row = group.numbers.index(number) if number in group.numbers else None
        none = len(chosen)
        table[f"leads_{number}"] = np.full(none, False) if row is None else group.leads[row, chosen]
        table[f"value_{number}"] = np.full(none, np.nan) if row is None else group.values[row, chosen]
        table[f"rank_{number}"] = np.full(none, -1) if row is None else ranks[row, chosen]
    return table


def _rows_table(rows: list[dict]) -> Table:
    """Rows as columns; a number that some rows lack is NaN there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _findings(group: Group, pairs: list[dict], totals: Totals) -> list[str]:
    lines, runs = [], len(group.numbers)
    for times, (plain, similar) in totals.items():
        which = "both runs" if runs == 2 else f"all {runs} runs" if times == runs else f"{times} or more of {runs} runs"
        count = f"{plain.observed:,}" if plain.observed else "none"
        leads = "leads" if plain.observed < 2 else "lead"
        line = (
            f"Of {number_of(len(group.layer), 'neuron')}, {count} {leads} in {which}; "
            f"by chance {_number(plain.expected)} ({plain.low:.0f} to {plain.high:.0f}), {_p(plain.p)}"
        )
        if similar:
            line += f"; among neurons of a similar spread {_number(similar.expected)}, {_p(similar.p)}"
        lines.append(line)
        if not plain.observed:
            break
    if group.times.max() > 1:
        best = _agreed(group, ())
        told = [
            f"{layer}.{neuron}" + (f" ({count} runs)" if runs > 2 else "")
            for layer, neuron, count in zip(best["layer"], best["neuron"], best["runs"], strict=True)
        ]
        more = f" and {len(told) - NAMED} more (agreed.parquet)" if len(told) > NAMED else ""
        lines.append(f"Neurons that lead in most runs, the highest ranks first: {', '.join(told[:NAMED])}{more}")
    for row in sorted(pairs, key=lambda row: -np.nan_to_num(row["ratio"]))[:TOLD]:
        line = f"Runs {row['first']} and {row['second']}: "
        if runs > 2:
            line += f"{row['both']} lead in both, {_number(row['expected'])} by chance, {_p(row['p'])}; "
        line += (
            f"ranks of |{row['first_statistic']}| and |{row['second_statistic']}| correlate within layers with "
            f"{row['r_ranks']:.2f}, {_p(row['p_ranks'])}"
        )
        if "r_ranks_spread" in row:
            line += f"; among neurons of a similar spread {row['r_ranks_spread']:.2f}"
        lines.append(line)
    return lines


def _headline(found: chance.Overlap, neurons: int, runs: int) -> str:
    lead = "leads" if found.observed == 1 else "lead"
    among = "both runs" if runs == 2 else f"two or more of {runs} runs"
    count = f"{found.observed:,}" if found.observed else "None"
    return f"{count} of {number_of(neurons, 'neuron')} {lead} in {among}; chance gives {_number(found.expected)}"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _p(p: float) -> str:
    return "p undefined" if np.isnan(p) else "p < 1e-100" if p < 1e-100 else f"p = {p:.2g}"


def _drawing(pairs: list[dict], layers: list[dict], labels: list[str], title: str, detail: str):
    def draw():
        from neurexp.figures.agreement import pairs_and_layers

        rows = [(labels[row["first"]], labels[row["second"]], row) for row in pairs]
        return pairs_and_layers(rows, [row for row in layers if row["times"] == 2], title, detail)

    return draw
