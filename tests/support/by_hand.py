"""Every number of `token_length` from all activations kept, in float64, token by token, with nothing of neurexp's own.

The one thing taken over is which length a shuffle gives to which type: that is a matter of the random stream, and
`text/test_vocabulary.py` says what a shuffle must be.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, takewhile

import numpy as np
from scipy import special, stats
from transformers import PreTrainedTokenizerBase

from neurexp.text.tokens import Tokens
from neurexp.text.vocabulary import shuffled_within_bands

Array = np.ndarray


@dataclass
class Text:
    """What is known of every valid token: `[tokens]` arrays, in the order of the text."""

    tokens: Tokens
    tokenizer: PreTrainedTokenizerBase
    strip_space: bool = False
    skip_positions: int = 0
    draws: int = 32
    most_blocks: int = 32
    seed: int = 0
    reference: Array | None = None  # [vocabulary] counts that frequencies are taken from; the text's own if None

    def __post_init__(self) -> None:
        self.sequence, self.position = np.nonzero(self.tokens.valid)
        self.ids = self.tokens.input_ids[self.tokens.valid]
        self.rows = len(self.tokens.valid)
        self.length = self.lengths[self.ids]
        self.seen = self.position >= self.skip_positions  # by means and standard deviations
        self.used = self.seen & (self.length >= 0)  # by everything about length

    @cached_property
    def spelled(self) -> list[str]:
        return [self.tokenizer.decode([index]) for index in range(len(self.tokenizer))]

    @cached_property
    def lengths(self) -> Array:
        """`[vocabulary]`, −1 for a special token."""
        texts = [text[1:] if self.strip_space and text[0] == " " else text for text in self.spelled]
        special_ids = set(self.tokenizer.all_special_ids)
        return np.array([-1 if index in special_ids else len(text) for index, text in enumerate(texts)])

    @cached_property
    def median(self) -> float:
        return float(np.median(self.length[self.used]))

    @cached_property
    def groups(self) -> dict[str, Array]:
        """Which tokens are shorter than the median, equal to it, longer, special, skipped: `[tokens]` bool each."""
        return {
            "shorter": self.used & (self.length < self.median),
            "equal": self.used & (self.length == self.median),
            "longer": self.used & (self.length > self.median),
            "special": self.seen & (self.length < 0),
            **({"skipped": ~self.seen} if self.skip_positions else {}),
        }

    @cached_property
    def log_frequency(self) -> Array:
        counts = np.bincount(self.ids, minlength=len(self.lengths)) if self.reference is None else self.reference
        return np.log2((counts[self.ids] + 1) / (counts.sum() + len(counts)))

    @cached_property
    def controls(self) -> Array:
        """`[tokens, controls]`: bins of position, log frequency, word beginning."""
        bins = np.array([int(place).bit_length() for place in self.position])
        return np.column_stack([bins[:, None] == np.unique(bins), self.log_frequency, self.begins]).astype(float)

    @cached_property
    def counts(self) -> Array:
        """`[vocabulary]`: occurrences among the tokens used."""
        return np.bincount(self.ids[self.used], minlength=len(self.lengths))

    @cached_property
    def begins(self) -> Array:
        """`[tokens]` 0 or 1: a space and a letter or digit."""
        return np.array([re.match(r" [^\W_]", self.spelled[index]) is not None for index in self.ids]).astype(float)

    @cached_property
    def context(self) -> Array:
        """`[tokens, 10]`: of the tokens before each one in its sequence, 0 (the mean) where there are none.

        The lengths of the last three; the length to be expected after the last one's type; means of length, log
        frequency and word beginning; and the same with weights that halve every 16 tokens.
        """
        known, used = self.counts[self.ids] > 0, self.used
        features = np.column_stack(
            [
                np.where(self.length >= 0, self.length - self.length[used].mean(), 0.0),
                np.where(known, self.log_frequency - self.log_frequency[used].mean(), 0.0),
                np.where(known, self.begins - self.begins[used].mean(), 0.0),
            ]
        )
        fold = self.sequence * min(8, self.rows) // self.rows
        follows, found = used & (self.position > 0), np.zeros((len(self.ids), 10))
        for token in np.flatnonzero(self.position > 0):
            before = features[token - self.position[token] : token][::-1]  # the nearest first
            found[token, : min(3, len(before))] = before[:3, 0]
            elsewhere = follows & (fold != fold[token])
            lengths = features[elsewhere, 0]
            after = features[elsewhere & (np.roll(self.ids, 1) == self.ids[token - 1]), 0]
            overall = lengths.mean() if len(lengths) else 0.0
            found[token, 3] = (after.sum() + 4 * overall) / (len(after) + 4)
            found[token, 4:7] = before.mean(0)
            halving = 2.0 ** (-np.arange(len(before)) / 16)
            found[token, 7:] = halving @ before * (1 - 2 ** (-1 / 16))
        return found

    @cached_property
    def shuffled_in_context(self) -> Array:
        """`[draws, tokens]`: what frequency and word beginning leave of a length, dealt out anew among types."""
        columns = np.column_stack([np.ones(len(self.ids)), self.log_frequency, self.begins])[self.used]
        length, of_type = self.length[self.used].astype(float), np.zeros(len(self.lengths))
        of_type[self.ids[self.used]] = length - columns @ np.linalg.lstsq(columns, length, rcond=None)[0]
        return shuffled_within_bands(of_type, self.counts, self.draws, self.seed)[:, self.ids]

    @cached_property
    def shuffled(self) -> Array:
        """`[draws, tokens]`: the lengths that the null's draws give to each token."""
        by_type = shuffled_within_bands(self.lengths.astype(float), self.counts, self.draws, self.seed)
        return by_type[:, self.ids]

    @cached_property
    def early(self) -> Array:
        """`[tokens]` bool: in the first half of the sequences; the middle one of an odd number belongs to it."""
        return self.sequence < (self.rows + 1) // 2

    @cached_property
    def sequence_block(self) -> Array:
        blocks = min(self.most_blocks, self.rows)
        return np.array([int(row) * blocks // self.rows for row in self.sequence])

    @cached_property
    def type_block(self) -> Array:
        """Each type, the most frequent first, into the block with the fewest tokens so far."""
        types = sorted(np.flatnonzero(self.counts), key=lambda index: (-self.counts[index], index))
        load = [0] * min(self.most_blocks, len(types))
        block = {}
        for index in types:
            block[index] = load.index(min(load))
            load[block[index]] += int(self.counts[index])
        return np.array([block.get(index, -1) for index in self.ids])


def pearson(x: Array, z: Array) -> Array:
    """The z-scored dot product of the documents: `[neurons]` for one z `[tokens]`, else a row for each row of z.

    x need not be centred for it, since the scores of z add up to 0.
    """
    scores = (z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True)
    return scores @ x / len(x) / x.std(0)


def partial(x: Array, z: Array, controls: Array) -> Array:
    """Pearson's r of what least squares leaves of x and of z."""
    left_x, left_z = (y - controls @ np.linalg.lstsq(controls, y, rcond=None)[0] for y in (x, z))
    return pearson(left_x, left_z)


def eta_squared(x: Array, category: Array) -> Array:
    between = sum(
        (category == value).sum() * (x[category == value].mean(0) - x.mean(0)) ** 2 for value in np.unique(category)
    )
    return between / ((x - x.mean(0)) ** 2).sum(0)


def jackknife(x: Array, z: Array, block: Array) -> tuple[Array, Array]:
    """95 % interval of r: every block deleted in turn, Busing's delete-m_j formula on Fisher's z."""
    estimate, n = np.arctanh(pearson(x, z)), len(z)
    blocks = np.unique(block)
    g = len(blocks)
    sizes = [int((block == one).sum()) for one in blocks]
    without = [np.arctanh(pearson(x[block != one], z[block != one])) for one in blocks]
    corrected = g * estimate - sum((1 - m / n) * theta for m, theta in zip(sizes, without, strict=True))
    variance = np.zeros_like(estimate)
    for m, theta in zip(sizes, without, strict=True):
        h = n / m
        variance += (h * estimate - (h - 1) * theta - corrected) ** 2 / (h - 1) / g
    half = stats.t.ppf(0.975, g - 1) * np.sqrt(variance)
    return np.tanh(estimate - half), np.tanh(estimate + half)


def p_of_t(t: Array, degrees: int) -> Array:
    """Two-sided, by the incomplete beta function."""
    return special.betainc(degrees / 2, 0.5, degrees / (degrees + t**2))


def p_against(r: Array, null: Array) -> Array:
    draws = len(null)
    spread = np.sqrt(((null - null.mean(0)) ** 2).sum(0) / (draws - 1))
    return p_of_t((r - null.mean(0)) / (spread * np.sqrt(1 + 1 / draws)), draws - 1)


def q_values(p: Array, dependent: bool = False) -> Array:
    """Benjamini-Hochberg step by step from the largest p down; Benjamini-Yekutieli pays the harmonic sum more."""
    tests, smallest, q = len(p), 1.0, np.empty(len(p))
    price = sum(1 / rank for rank in range(1, tests + 1)) if dependent else 1.0
    for rank, index in zip(range(tests, 0, -1), np.argsort(p)[::-1], strict=True):
        smallest = min(smallest, p[index] * tests / rank * price)
        q[index] = smallest
    return q


def second_peak(counts: Array) -> float:
    """Prominence of the second most prominent peak of the smoothed histogram, relative to the highest peak."""
    kernel = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    smooth = np.convolve(np.pad(counts.astype(float), 4, mode="symmetric"), kernel / kernel.sum(), mode="valid")
    heights = [height for height, _ in groupby([0.0, *smooth, 0.0])]  # a flat top is one place
    prominences = []
    for place in range(1, len(heights) - 1):
        height = heights[place]
        if heights[place - 1] < height > heights[place + 1]:
            left, right = (min(takewhile(height.__ge__, way)) for way in (heights[place::-1], heights[place:]))
            prominences.append(height - max(left, right))
    return sorted(prominences)[-2] / max(heights) if len(prominences) > 1 else 0.0


def of_layer(x: Array, text: Text) -> tuple[dict[str, Array], dict[str, float]]:
    """One layer's rows of `neurons`, but for intervals, q and survival, and what `layers` says beyond their summary.

    x is `[tokens, neurons]`, float64.
    """
    seen, used = x[text.seen], x[text.used]
    length, shuffled, early = text.length[text.used].astype(float), text.shuffled[:, text.used], text.early[text.used]
    not_first = text.position[text.used] > 0
    spread = seen.std(0)
    neurons = {"mean": seen.mean(0), "std": spread, "mean_abs": np.abs(seen).mean(0)}
    row = {"mean": seen.mean(), "std": seen.std(), "mean_abs": np.abs(seen).mean()}
    for name in ("shorter", "equal", "longer", "special"):
        members = text.groups[name]
        some = x[members]
        row[f"mean_{name}"], row[f"std_{name}"] = (some.mean(), some.std()) if members.any() else (np.nan, np.nan)
        row[f"mean_abs_{name}"] = np.abs(some).mean() if members.any() else np.nan
        if name != "special":
            neurons[f"mean_{name}"] = some.mean(0)
    for table, unit in ((neurons, spread), (row, row["std"])):
        table["d_longer_shorter"] = (table["mean_longer"] - table["mean_shorter"]) / unit
    row["constant_neurons"] = (spread == 0).sum()
    outside = ~text.seen & (text.length >= 0)
    if text.skip_positions:
        wider = text.used | outside
        neurons["r_length_with_skipped"] = pearson(x[wider], text.length[wider].astype(float))
        row["r_median_with_skipped"] = np.median(neurons["r_length_with_skipped"])
        left_out = x[~text.seen].mean(0)
        row["skipped_distance"] = np.sqrt((((left_out - neurons["mean"]) / spread) ** 2).mean())
    for name, members in (("special", text.groups["special"]), ("first", text.used & (text.position == 0))):
        row[f"{name}_distance"] = np.nan
        if members.any():
            row[f"{name}_distance"] = np.sqrt((((x[members].mean(0) - neurons["mean"]) / spread) ** 2).mean())

    r, null = pearson(used, length), pearson(used, shuffled)
    in_context = np.column_stack([text.controls, text.context])[text.used]
    z = np.column_stack([length, text.shuffled_in_context[:, text.used].T])
    left_x, left_z = (y - in_context @ np.linalg.lstsq(in_context, y, rcond=None)[0] for y in (used, z))
    r_in_context, *null_in_context = pearson(left_x, left_z.T)
    row["r_largest_by_chance"] = np.quantile(np.abs(null - null.mean(0)).max(1), 0.95)
    r_half, p_half, above = [], [], []
    for half in (early, ~early):
        null_half = pearson(used[half], shuffled[:, half])
        r_half.append(pearson(used[half], length[half]))
        p_half.append(p_against(r_half[-1], null_half))
        above.append(r_half[-1] > null_half.mean(0))
    found = q_values(p_half[0]) < 0.05
    again = found & (p_half[1] < 0.05) & (above[0] == above[1])
    row["found_first_half"] = found.mean()
    row["replicated"] = again.sum() / found.sum() if found.any() else np.nan
    neurons |= {
        "eta2_length": eta_squared(used, length),
        "r_length": r,
        "r_frequency": pearson(used, text.log_frequency[text.used]),
        "r_length_partial": partial(used, length, text.controls[text.used]),
        "r_length_given_context": r_in_context,
        "r_length_given_context_low": from_draws(r_in_context, np.array(null_in_context), -1),
        "r_length_given_context_high": from_draws(r_in_context, np.array(null_in_context), 1),
        "p_length_given_context": p_against(r_in_context, np.array(null_in_context)),
        "r_length_without_first": pearson(used[not_first], length[not_first]),
        "r_length_first_half": r_half[0],
        "r_length_second_half": r_half[1],
        "null_mean": null.mean(0),
        "null_sd": null.std(0, ddof=1),
        "p_length": p_against(r, null),
    }
    return neurons, row


def from_draws(r: Array, draws: Array, side: int) -> Array:
    """One end of the 95 % interval of r: Fisher's z, with the draws' standard deviation and Student's t."""
    error = np.sqrt(draws.var(0, ddof=1) * (1 + 1 / len(draws)))
    return np.tanh(np.arctanh(r) + side * stats.t.isf(0.025, len(draws) - 1) * error)


def intervals(x: Array, text: Text) -> tuple[Array, Array]:
    """The wider of the jackknife over types and the one over sequences."""
    used, length = x[text.used], text.length[text.used].astype(float)
    by_type, by_sequence = (
        jackknife(used, length, block[text.used]) for block in (text.type_block, text.sequence_block)
    )
    types_win = by_type[1] - by_type[0] >= by_sequence[1] - by_sequence[0]
    return np.where(types_win, by_type[0], by_sequence[0]), np.where(types_win, by_type[1], by_sequence[1])


def summary_of_neurons(neurons: dict[str, Array], draws: int) -> dict[str, float]:
    """What `layers` says of one layer's rows of `neurons`."""
    r, partial_r, q = neurons["r_length"], neurons["r_length_partial"], neurons["q_length"]
    halves = neurons["r_length_first_half"], neurons["r_length_second_half"]
    row = {f"r_q{percent:02d}": np.percentile(r, percent) for percent in (5, 25, 75, 95)}
    return row | {
        "r_mean": r.mean(),
        "r_std": r.std(),
        "r_median": np.median(r),
        "share_positive": (r > 0).mean(),
        "share_negative": (r < 0).mean(),
        "share_significant": (q < 0.05).mean(),
        "share_significant_positive": ((q < 0.05) & (r > neurons["null_mean"])).mean(),
        "share_significant_negative": ((q < 0.05) & (r < neurons["null_mean"])).mean(),
        "r_frequency_median": np.median(neurons["r_frequency"]),
        "r_partial_median": np.median(partial_r),
        "r_given_context_median": np.median(neurons["r_length_given_context"]),
        "share_significant_given_context": (neurons["q_length_given_context"] < 0.05).mean(),
        "r_median_without_first": np.median(neurons["r_length_without_first"]),
        "survival": slope(r, partial_r),
        "eta2_median": np.median(neurons["eta2_length"]),
        "null_sd_median": np.median(neurons["null_sd"]),
        "replication_r": np.corrcoef(*halves)[0, 1],
        "replication_sign": (np.sign(halves[0]) == np.sign(halves[1])).mean(),
        "r_detectable": np.median(neurons["null_sd"]) * (stats.t.isf(0.025, draws - 1) + stats.t.isf(0.2, draws - 1)),
    }


def slope(x: Array, y: Array) -> float:
    """Of least squares through the origin."""
    return float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


def metrics(text: Text, neurons: dict[str, Array], layers: dict[str, Array]) -> dict[str, float]:
    """The headlines from the text and from the two tables."""
    length, counts = text.length[text.used], text.counts.astype(float)
    r, partial_r = neurons["r_length"], neurons["r_length_partial"]
    significant = neurons["q_length_all"] < 0.05
    median, spread = layers["r_median"], layers["r_std"]
    quarter = max(1, len(spread) // 4)
    result = {
        "tokens": len(text.ids),
        "tokens_special": (text.length < 0).sum(),
        "length_min": length.min(),
        "length_max": length.max(),
        "length_median": text.median,
        **{f"share_{name}": text.groups[name].sum() / text.used.sum() for name in ("shorter", "equal", "longer")},
        "types": len(set(text.ids[text.used])),
        "types_effective": counts.sum() ** 2 / (counts**2).sum(),
        "r_median_all": np.median(r),
        "r_abs_median": np.median(np.abs(r)),
        "r_partial_abs_median": np.median(np.abs(partial_r)),
        "r_given_context_abs_median": np.median(np.abs(neurons["r_length_given_context"])),
        "share_significant_all": significant.mean(),
        "share_significant_given_context_all": (neurons["q_length_given_context_all"] < 0.05).mean(),
        "share_significant_all_positive": (significant & (r > neurons["null_mean"])).mean(),
        "survival_overall": slope(r, partial_r),
        "replication_r_overall": np.corrcoef(neurons["r_length_first_half"], neurons["r_length_second_half"])[0, 1],
        "r_detectable_median": np.median(layers["r_detectable"]),
    }
    if len(median) > 1:
        result["first_layer_above_others"] = median[0] - np.median(median[1:])
    if len(spread) > 2 * quarter:
        middle = np.median(spread[quarter:-quarter])
        result["last_layers_contraction"] = 1 - np.median(spread[-quarter:]) / middle
    for name in ("d_longer_shorter", "r_median"):
        strongest = int(np.argmax(np.abs(layers[name])))
        result[f"{name}_strongest"] = layers[name][strongest]
        result[f"{name}_strongest_layer"] = layers["layer"][strongest]
    return result
