"""An optimisation's findings: the sentences that a person reads first. Computes nothing."""

import numpy as np

from neurexp.experiments.optimisation.analysis import Analysis
from neurexp.experiments.optimisation.data import OptimisationData
from neurexp.experiments.optimisation.strings import DISCRETE, FROM_TEXT, GRADIENT, TEXT
from neurexp.report.report import Table
from neurexp.stats.association import LEVEL

NAMED = 10  # units that get sentences of their own
LECTURES = {"distinct": "48 of 50", "cosine": 0.17}  # GPT-2 small: what the course notes report
SAID = {
    "gradient": "gradient ascent tells most",
    "discrete": "the search over token strings tells most",
    "data": "the text itself tells most",
    "none": "no way alone tells most, since several find the same highest activation",
}


def findings_of(data: OptimisationData, analysis: Analysis) -> list[str]:
    """Three sentences or more on each unit, and what holds for all of them."""
    lines = [_summary(data, analysis)]
    units = range(len(data.plan.units))
    for unit in units[:NAMED]:
        row = {name: values[unit] for name, values in analysis.neurons.items()}
        lines += [_ways(data, analysis.strings, unit, row), _ascent(data, unit, row), _decoded(data, unit, row)]
    if len(units) > NAMED:
        lines.append(f"The other {len(units) - NAMED} units are in neurons.parquet.")
    return [*lines, _footing(data)]


def _summary(data: OptimisationData, analysis: Analysis) -> str:
    ways, count = analysis.neurons["best_way"], len(data.plan.units)
    of = {way: int((ways == way).sum()) for way in SAID}
    m = analysis.metrics
    shared = f", and from several of them alike for {of['none']}" if of["none"] else ""
    kept = (
        f"Decoded tokens keep {m['kept_mean']:z.0%} of what the ascent reaches with embeddings beyond random tokens."
        if "kept_mean" in m
        else "The ascent reaches no more than random tokens, so that what decoded tokens keep of it is not defined."
    )
    return (
        f"Of {count} {'unit' if count == 1 else 'units'}, the strings of {data.options.length} tokens with the highest "
        f"mean activation are from the search for {of['discrete']}, from the text for {of['data']}, and from gradient "
        f"ascent for {of['gradient']}{shared}. {kept} The mean cosine similarity of decoded tokens to the embeddings "
        f"is {m['cosine_decoded_mean']:.2f}, that of random directions {m['cosine_decoded_null_mean']:.2f} (the "
        f"lectures on GPT-2 report about {LECTURES['cosine']:.2f})."
    )


def _best_of(strings: Table, row: dict, *sources: str) -> int | None:
    own = (
        (strings["layer"] == row["layer"]) & (strings["neuron"] == row["neuron"]) & np.isin(strings["source"], sources)
    )
    rows = np.flatnonzero(own)
    return int(rows[np.argmax(strings["mean"][rows])]) if len(rows) else None


def _quoted(strings: Table, at: int | None) -> str:
    if at is None:
        return "none"
    typed = "" if strings["is_typed"][at] else ", which the tokenizer would split otherwise"
    return f"{strings['mean'][at]:.3g} ({strings['text'][at]!r}{typed})"


def _ways(data: OptimisationData, strings: Table, unit: int, row: dict) -> str:
    name, n = data.name_of(unit), data.options.length
    own = (strings["layer"] == row["layer"]) & (strings["neuron"] == row["neuron"])
    if np.ptp(strings["mean"][own]) == np.ptp(strings["peak"][own]) == 0:
        return (
            f"{name}: every string that was run excites it to the same {row['random_mean']:.3g}, so that no way tells "
            f"more than another. Over the whole text it has {row['text_mean']:.3g} ± {row['text_sd']:.3g} (mean ± SD), "
            f"and {row['text_maximum']:.3g} at most."
        )
    search = [_best_of(strings, row, source) for source in (DISCRETE, FROM_TEXT)]
    parts = [f"the text's best window {_quoted(strings, _best_of(strings, row, TEXT))}"]
    if search[0] is not None:
        parts.append(f"the search from random strings {_quoted(strings, search[0])}")
    if search[1] is not None:
        parts.append(f"the search from that text {_quoted(strings, search[1])}")
    parts.append(f"decoded tokens of gradient ascent {_quoted(strings, _best_of(strings, row, GRADIENT))}")
    verdict = SAID[str(row["best_way"])]
    peak = "" if row["best_way"] == row["best_way_peak"] else (
        f" By the highest activation at one position, {SAID[str(row['best_way_peak'])]}."
    )  # fmt: skip
    tried = f"{data.options.starts} strings by gradient ascent"
    tried += f", {row['tried']:,} by the search" if row["tried"] else ""
    windows, of = int((own & (strings["source"] == TEXT)).sum()), int(data.plan.counted.sum())
    return (
        f"{name}: {verdict} (tried: {tried}, and the best {windows} windows of {of:,} tokens of text). Mean activation "
        f"over {n} tokens that are run alone: {'; '.join(parts)}; random tokens {row['random_mean']:.3g}. Over the "
        f"whole text the unit has {row['text_mean']:.3g} ± {row['text_sd']:.3g} (mean ± SD), and "
        f"{row['text_maximum']:.3g} at most.{peak}"
    )


def _ascent(data: OptimisationData, unit: int, row: dict) -> str:
    alike = row["p_cosine_optima"] < LEVEL and row["cosine_optima_low"] > row["cosine_null_high"]
    low, high = row["cosine_optima_low"], row["cosine_optima_high"]
    interval = "" if np.isnan(low) else f" ({low:.3f} to {high:.3f})"  # two starts have no jackknife
    return (
        f"{data.name_of(unit)}, gradient ascent in embedding space: from {row['start_activation']:.3g} to "
        f"{row['embedding_activation']:.3g} in the mean of {data.options.starts} starts, {row['embedding_best']:.3g} "
        f"at best; an embedding is {row['norm_ratio']:.2g} times as long at the end. Two optima have a cosine "
        f"similarity of {row['cosine_optima']:.3f}{interval}, two starts {row['cosine_starts']:.3f} (random: "
        f"{row['cosine_null_low']:.3f} to {row['cosine_null_high']:.3f}; p = {row['p_cosine_optima']:.2g}), two "
        f"displacements {row['cosine_displacements']:.3f}: the optima are "
        f"{'more alike than random starts' if alike else 'not shown to be more alike than random starts'}."
    )


def _decoded(data: OptimisationData, unit: int, row: dict) -> str:
    verdict = "more than" if row["p_gradient"] < LEVEL else "not shown to be more than"
    kept = "" if np.isnan(row["kept"]) else f", {row['kept']:z.0%} of what the embeddings reach beyond random tokens"
    return (
        f"{data.name_of(unit)}, decoded: {row['distinct']} of {row['decoded']} tokens are distinct (the lectures: "
        f"{LECTURES['distinct']}), {row['repeats']} repeats against {row['repeats_null']:.1f} of random directions "
        f"(p = {row['p_repeats']:.2g}) and {row['repeats_uniform']:.2g} of random tokens. Their mean cosine similarity "
        f"is {row['cosine_decoded']:.3f} (random directions: {row['cosine_decoded_null']:.3f}). When they are run they "
        f"excite the unit to {row['gradient_mean']:.3g} in the mean{kept}: {verdict} random tokens of like frequency, "
        f"{row['random_mean']:.3g} ± {row['random_sd']:.2g} (p = {row['p_gradient']:.2g})."
    )


def _footing(data: OptimisationData) -> str:
    options = data.options
    first = "after the tokens that begin a sequence" if data.plan.prefix else "with nothing before them"
    return (
        f"Every string has {options.length} tokens and is run alone, {first}: a window of the text loses its context. "
        f"The three ways do not try equally many strings: gradient ascent gives {options.starts}, the text the best "
        f"{options.windows} windows by their mean and by their last token of {int(data.plan.counted.sum()):,} tokens, "
        f"and the search runs {int(data.tried.max()):,} or fewer. Frequencies are those of {data.plan.reference}. No p "
        "is corrected for the number of units. Not tested: other λ, learning rates and numbers of steps."
    )
