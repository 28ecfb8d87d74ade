"""English negation: the lists of words and of frames around a verb that `negation` compares.

Chosen by us from memory on 2026-11-27, for standard written English of the last two centuries:

- `NEGATED` and `AFFIRMATIVE` follow the lectures: “not”, “never” and auxiliaries with n't against modal verbs and “do”.
- `NEGATIVE` and `POSITIVE` are grammatical words of several kinds. Each negative one has counterparts of its own kind:
  adverbs, auxiliaries, pronouns, determiners and conjunctions. Every auxiliary with n't is one word here, “n't”: their
  common ending is a single piece of evidence, however many verbs carry it.
- `GRADED` words negate in part or in another way, or hold a negation within them.
- `PAIRS` are frames for a verb's base form: a negated one and an affirmative one that is as near to it as English
  allows. Which pairs have equally many tokens depends on the tokenizer, so that is checked when they are used.
- `GRADED_PAIRS` are the same with words that negate in part.
"""

CONTRACTED = (
    "can't", "couldn't", "didn't", "doesn't", "don't", "hadn't", "hasn't", "haven't", "isn't", "mightn't", "mustn't",
    "needn't", "shan't", "shouldn't", "wasn't", "weren't", "aren't", "won't", "wouldn't",
)  # fmt: skip
NEGATED = ("not", "never", "cannot", *CONTRACTED)
AFFIRMATIVE = (
    "can", "could", "did", "do", "does", "may", "might", "must", "shall", "should", "will", "would",
)  # fmt: skip

NEGATIVE = ("not", "never", "cannot", "no", "nothing", "nobody", "nowhere", "neither", "nor")  # and n't
POSITIVE = (
    "also", "always", "often", "still", "soon", "now", *AFFIRMATIVE, "some", "every", "something", "everything",
    "somebody", "everybody", "somewhere", "everywhere", "both", "either", "or", "and",
)  # fmt: skip
NOT = "n't"  # the type of every word of `CONTRACTED` among `NEGATIVE`

GRADED = {
    "in part": ("hardly", "scarcely", "barely", "rarely", "seldom", "few"),
    "without": ("without",),
    "un-": (
        "unable", "uncertain", "uncomfortable", "uncommon", "unconscious", "unexpected", "unfortunate", "unhappy",
        "unjust", "unkind", "unknown", "unlike", "unlikely", "unnecessary", "unpleasant", "unusual", "unwilling",
        "unworthy",
    ),
}  # fmt: skip

PAIRS = (
    ("They never", "They always"),
    ("They cannot", "They can"),
    ("They will not", "They will now"),
    ("They would not", "They would often"),
    ("They could not", "They could soon"),
    ("They should not", "They should still"),
    ("They may not", "They may well"),
    ("They might not", "They might also"),
    ("They must not", "They must now"),
    ("They shall not", "They shall soon"),
    ("They did not", "They did indeed"),
    ("They do not", "They do still"),
    ("They will never", "They will always"),
    ("They would never", "They would always"),
    ("They can never", "They can often"),
    ("They could never", "They could also"),
    ("They may never", "They may often"),
    ("They should never", "They should always"),
    ("They won't", "They will soon"),
    ("They don't", "They do often"),
    ("They can't", "They can now"),
    ("They didn't", "They did also"),
    ("They couldn't", "They could still"),
    ("They wouldn't", "They would soon"),
    ("No one will", "Each one will"),
    ("Nothing will", "Something will"),
    ("None would", "All would"),
    ("Neither can", "Both can"),
    ("Nobody could", "Somebody could"),
)
GRADED_PAIRS = (
    ("They hardly", "They often"),
    ("They scarcely", "They still"),
    ("They barely", "They soon"),
    ("They rarely", "They usually"),
    ("They seldom", "They now"),
    ("They will hardly", "They will surely"),
    ("They would hardly", "They would surely"),
    ("They could scarcely", "They could easily"),
    ("They can barely", "They can easily"),
    ("They will rarely", "They will usually"),
    ("They would seldom", "They would often"),
    ("Few will", "Many will"),
    ("Few could", "Many could"),
)


def negation_of(frame: str) -> str:
    """The negation in the first frame of a pair: “not” of “They will not”, “n't” of “They won't”, “No one” of itself.

    Frames with the same negation are a single piece of evidence for it, however many auxiliaries it follows.
    """
    subject, *rest = frame.split(" ")
    if subject != "They":
        return frame.rpartition(" ")[0]
    return NOT if rest[-1].endswith("n't") else rest[-1]
