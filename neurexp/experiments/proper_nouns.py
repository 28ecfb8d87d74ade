"""Proper nouns: which neurons answer to names in running text, and not only to capital letters?

Four comparisons of the same text share one pass. A neuron is called a proper-noun neuron if it differs in the same
direction in `matched` and in `capitals`: neither the words' frequency and length nor their capitals explain it.

- `lecture`: tokens that begin with a capital, unless the token before ends in . ? or !, against random other tokens.
- `matched`: names within sentences, as whole words, against small words of the same frequency and number of tokens.
- `capitals`: the same names against capitalised common words at the starts of sentences.
- `initial`: names at the starts of sentences against capitalised common words there, if the text has enough.

Knows no test and no figure.
"""

from collections import defaultdict

import numpy as np

from neurexp.experiments import regression
from neurexp.experiments.base import Inputs
from neurexp.experiments.options.regressions import ProperNounsOptions as Options
from neurexp.experiments.regression import Chosen, Comparison, Verdict
from neurexp.text.capitals import START, WITHIN, RunningWords, capitalised_tokens, running_words
from neurexp.text.samples import as_many, sample_occurrences

LONG = 3  # tokens; words of more are matched with each other
NAMES, STARTS = "proper nouns", "capitalised common words at the start of a sentence"


class ProperNouns(regression.Regression):
    """The experiment `proper_nouns`."""

    Options = Options
    verdict = Verdict("lecture", ("matched", "capitals"), "proper-noun neurons", "capital letters")

    def choose(self, inputs: Inputs) -> Chosen:
        text, tokenizer, random = inputs.text, inputs.model.tokenizer, np.random.default_rng(inputs.seed)
        words, most = running_words(text, tokenizer), self.options.rows
        within, start, common = words.place == WITHIN, words.place == START, words.common(tokenizer)
        names = within & words.capitalised & words.proper
        chosen, others = self._matched(words, names, within & words.small & ~words.proper, random)
        starts, initial = (
            sample_occurrences(words.types, start & words.capitalised & one, self.options.occurrences, random)
            for one in (common, words.proper)
        )
        tokens, hit = capitalised_tokens(text, tokenizer)
        hits, rest = (random.permutation(np.flatnonzero(hit == label)) for label in (1, 0))
        lecture = np.isin(np.arange(len(hit)), np.concatenate(as_many(hits, rest, most)))
        comparisons = {
            "lecture": Comparison(
                tokens.only(lecture), "capitalised tokens", "random other tokens", "by the lectures' rule"
            ),
            "matched": _comparison(words, chosen, others, "small words", "against other words"),
            "capitals": _comparison(words, *as_many(chosen, starts, most), STARTS, "against other capitals"),
            "initial": _comparison(words, *as_many(initial, starts, most), STARTS, "at the start of a sentence"),
        }
        shown = np.flatnonzero(names | (start & words.capitalised & common))
        cut = round(len(text.input_ids) * (1 - self.options.heldout))
        late = shown[words.sequence[shown] >= cut]
        late = late if len(late) else shown
        of_names = {*zip(words.sequence[names].tolist(), words.start[names].tolist(), strict=True)}
        places = zip(tokens.sequence[hits].tolist(), tokens.start[hits].tolist(), strict=True)
        confirmed = sum(place in of_names for place in places) / max(1, len(hits))
        pronoun = sum(tokens.words[hit] == "I" for hit in hits) / max(1, len(hits))
        return Chosen(
            comparisons,
            counts={
                "words_proper": (int(names.sum()), "proper nouns within sentences in the text"),
                "words_proper_types": (len(set(words.types[names])), "different proper nouns among words_proper"),
                "words_dropped": (words.dropped, "words that share a token with other characters; left out"),
                "lecture_tokens": (len(hits), "tokens of the text that the lectures' rule takes for proper nouns"),
                "lecture_confirmed": (confirmed, "share of lecture_tokens that begin a word of words_proper"),
                "lecture_pronoun": (pronoun, "share of lecture_tokens that are “I”"),
            },
            about=(
                f"The text has {int(names.sum())} {NAMES} within sentences ({len(set(words.types[names]))} different "
                f"words), of which {len(chosen)} are used (at most {self.options.occurrences} of each word, each with "
                "another word of the same octave of frequency and number of tokens).",
                f"The lectures' rule takes {len(hits)} tokens; {confirmed:.0%} of them begin such a word, and "
                f"{pronoun:.0%} are “I”.",
            ),
            shown=words.selection(late, names[late].astype(np.int64)),
            categories=("common word at the start", "proper noun"),
        )

    def _matched(
        self, words: RunningWords, names: np.ndarray, others: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Names and as many other words: in each octave of frequency and number of tokens there are as many of both."""
        cells = [defaultdict[tuple[int, int], list[int]](list) for _ in range(2)]
        for cell, candidates in zip(cells, (names, others), strict=True):
            for index in sample_occurrences(words.types, candidates, self.options.occurrences, random).tolist():
                length = min(int(words.stop[index] - words.start[index]), LONG)
                cell[int(np.log2(words.counts[index])), length].append(index)
        pairs = [pair for cell in sorted(cells[0]) for pair in zip(cells[0][cell], cells[1][cell], strict=False)]
        pairs = [pairs[place] for place in random.permutation(len(pairs))[: self.options.rows]]
        first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return first, second


def _comparison(words: RunningWords, ones: np.ndarray, zeros: np.ndarray, zero: str, name: str) -> Comparison:
    """Proper nouns against other words."""
    chosen = np.concatenate([ones, zeros])
    order = np.argsort(chosen, kind="stable")
    return Comparison(
        words.selection(chosen[order], np.repeat([1, 0], [len(ones), len(zeros)])[order]), NAMES, zero, name
    )
