"""Negation: which neurons answer to negation, and not only to the words “not” and “never”?

A neuron is called a negation neuron if it differs in the same direction in `words` and in `pairs`, each by a test whose
unit is the word or the negation, corrected for the layer. So neither a single word nor the word's own place explains
it.

- `lecture`: negated words against affirmative auxiliaries, as they come in running text.
- `words`: negative against positive words of several kinds, at most some of each.
- `pairs`: verbs after negated frames against the same verbs after affirmative ones, at the same position.
- `graded_words`, `graded_pairs`: words and frames that negate in part; they do not decide.

The words and frames are in `text.negations`. A target in running text stands in a window of its own. Knows no test and
no figure.
"""

from dataclasses import replace

import numpy as np

from neurexp.errors import UserError
from neurexp.experiments import regression
from neurexp.experiments.base import Inputs
from neurexp.experiments.options.regressions import NegationOptions as Options
from neurexp.experiments.regression import Between, Chosen, Comparison, Verdict
from neurexp.text import negations
from neurexp.text.frames import framed
from neurexp.text.occurrences import find_occurrences
from neurexp.text.samples import as_many, sample_occurrences
from neurexp.text.spans import Selection
from neurexp.text.tokenizer import first_tokens
from neurexp.text.vocabulary import token_texts
from neurexp.text.windows import has_room, inside, windows
from neurexp.text.words import OWN_LISTS, read_lists

FEWEST = 6  # negations before the verbs. Five can be swapped in 16 ways that differ in |r|: no p is below 1/16
PARTLY = {word: kind for kind, words in negations.GRADED.items() for word in words}
LISTED = sorted({*negations.NEGATED, *negations.AFFIRMATIVE, *negations.NEGATIVE, *negations.POSITIVE, *PARTLY})
POSITIVE, NEGATIVE, IN_PART = "positive words", "negative words", "words that negate in part"


class Negation(regression.Regression):
    """The experiment `negation`."""

    Options = Options
    verdict = Verdict("lecture", ("words", "pairs"), "negation neurons", "single words", over_types=True)

    def choose(self, inputs: Inputs) -> Chosen:
        random = np.random.default_rng(inputs.seed)
        at_words, shown, counts = self._at_words(inputs, random)
        at_verbs, dropped = self._at_verbs(inputs, random)
        counts["pairs_dropped"] = (
            dropped, "pairs of frames that were left out: with this tokenizer they differ in number of tokens",
        )  # fmt: skip
        compared, pairs = at_words | at_verbs, at_verbs["pairs"]
        frames = {frame for frame, label in zip(pairs.rows.words, pairs.labels.tolist(), strict=True) if label}
        return Chosen(
            {name: compared[name] for name in ("lecture", "words", "pairs", "graded_words", "graded_pairs")},
            counts=counts,
            about=(
                f"The text has {counts['targets_negated'][0]} negated words and {counts['targets_affirmative'][0]} "
                "affirmative auxiliaries as whole words; the lectures' rule (a space must come next) would drop "
                f"{counts['targets_before_punctuation'][0]:.0%} of them, those before punctuation.",
                f"At the verb: {self.options.verbs} verbs after {len(frames)} pairs of frames with "
                f"{len(set(map(negations.negation_of, frames)))} different negations. "
                f"Left out, because they differ in number of tokens: {dropped}.",
            ),
            shown=shown,
            categories=("affirmative", "negated"),
            between={
                "words": Between("graded_words", IN_PART, PARTLY),
                "pairs": Between("graded_pairs", "frames that negate in part"),
            },
        )  # fmt: skip

    def _at_words(
        self, inputs: Inputs, random: np.random.Generator
    ) -> tuple[dict[str, Comparison], Selection, dict[str, tuple[float, str]]]:
        """The comparisons of words in running text, the rows of the heat map, and counts of the text."""
        text, before = inputs.text, self.options.before
        first = first_tokens(inputs.model.tokenizer) if inputs.model.begins_with_bos else []
        found = find_occurrences(text, inputs.model.tokenizer, [(word, 0) for word in LISTED], text.input_ids.size)
        room = has_room(found, before, first)
        spelled = np.array(found.words, dtype=object)
        types = np.where(np.isin(spelled, negations.CONTRACTED), negations.NOT, spelled)
        affirmative, negated = np.isin(spelled, negations.AFFIRMATIVE), np.isin(spelled, negations.NEGATED)
        if (affirmative | negated).any() and not (room & (affirmative | negated)).any():
            raise UserError(
                f"experiment.before={before}: no target has so many tokens before it in its sequence of "
                f"{text.valid.shape[1]}; give fewer, or longer sequences (dataset.sequence_length)"
            )
        lists = (negations.POSITIVE, (*negations.NEGATIVE, negations.NOT), tuple(PARTLY))
        positive, negative, partly = (
            sample_occurrences(types, room & np.isin(types, one), self.options.occurrences, random) for one in lists
        )
        auxiliary, denied = (random.permutation(np.flatnonzero(room & one)) for one in (affirmative, negated))
        sides = {
            "lecture": as_many(auxiliary, denied, self.options.rows),
            "words": as_many(positive, negative, self.options.rows),
            "graded_words": as_many(positive, partly, self.options.rows),
        }
        chosen = np.unique(np.concatenate([part for pair in sides.values() for part in pair]))
        rows = found.only(np.isin(np.arange(len(spelled)), chosen))
        cut = windows(rows, before, self.options.after, first)

        def compared(name: str, one: str, zero: str, what: str, words: np.ndarray) -> Comparison:
            order = np.sort(np.concatenate(sides[name]))
            own = cut.only(np.isin(chosen, order))
            label = np.isin(order, sides[name][1]).astype(np.int64)
            return Comparison(replace(own, category=label, words=words[order].tolist()), one, zero, what)

        comparisons = {
            "lecture": compared(
                "lecture", "negated words", "affirmative auxiliaries", "by the lectures' rule", spelled
            ),
            "words": compared("words", NEGATIVE, POSITIVE, "over words", types),
            "graded_words": compared("graded_words", IN_PART, POSITIVE, "at words that negate in part", types),
        }
        is_negative = negated | np.isin(types, negations.NEGATIVE)
        labelled = replace(found, category=is_negative.astype(np.int64)).only(is_negative | affirmative)
        passages = inside(rows, labelled, before, cut)
        late = passages.sequence >= round(len(chosen) * (1 - self.options.heldout))
        return comparisons, passages.only(late), _counts(found, affirmative, negated, room, inputs)

    def _at_verbs(self, inputs: Inputs, random: np.random.Generator) -> tuple[dict[str, Comparison], int]:
        """The comparisons of verbs after frames, and the number of pairs of frames that were left out.

        The block of a frame is its negation, and that of its affirmative partner is the same.
        """
        verbs = read_lists(OWN_LISTS).words["verbs"]
        chosen = [verbs[index] for index in random.permutation(len(verbs))[: self.options.verbs]]
        pairs = (*negations.PAIRS, *negations.GRADED_PAIRS)
        made = framed(inputs.model.tokenizer, pairs, chosen, inputs.model.begins_with_bos)
        decides = made.pair < len(negations.PAIRS)
        _, negation = np.unique([negations.negation_of(negated) for negated, _ in pairs], return_inverse=True)
        block = negation.reshape(-1)[made.pair]
        different = len(np.unique(block[decides]))
        if different < FEWEST:
            raise UserError(
                f"model.tokenizer: only {different} of our negations are in pairs of frames "
                f"with the same number of tokens, and {FEWEST} are needed; give the model's own tokenizer, or a model "
                "for English"
            )

        def compared(rows: np.ndarray, one: str, name: str) -> Comparison:
            return Comparison(
                made.rows.only(rows),
                one,
                "verbs after affirmative frames",
                name,
                block[rows],
                "negations",
                units=made.word[rows],
            )

        return {
            "pairs": compared(decides, "verbs after negated frames", "at the verb"),
            "graded_pairs": compared(
                ~decides, "verbs after frames that negate in part", "at the verb after frames that negate in part"
            ),
        }, len(made.dropped)


def _counts(
    found: Selection, affirmative: np.ndarray, negated: np.ndarray, room: np.ndarray, inputs: Inputs
) -> dict[str, tuple[float, str]]:
    """Metrics of the targets in the text."""
    targets, tokens = affirmative | negated, inputs.text
    texts = token_texts(inputs.model.tokenizer)
    last = tokens.valid.shape[1] - 1
    following = tokens.input_ids[found.sequence[targets], np.minimum(found.stop[targets], last)]
    kept = [texts[one].startswith(" ") for one in following.tolist()]
    return {
        "targets_negated": (int(negated.sum()), "negated words (the lectures' kind) in the text"),
        "targets_affirmative": (int(affirmative.sum()), "affirmative auxiliaries in the text"),
        "targets_too_early": (
            int((targets & ~room).sum()), "targets with fewer than experiment.before tokens before them; left out",
        ),
        "targets_before_punctuation": (
            1 - float(np.mean(kept)) if kept else 0.0,
            "share of the targets that the lectures' rule drops: the next token does not begin with a space",
        ),
    }  # fmt: skip
