"""The rows of labelled sentences: each target, or each whole text, in its sequence."""

from dataclasses import replace

from neurexp.models.load import LanguageModel, positions_of
from neurexp.text.labelled_sentences import LabelledSentences
from neurexp.text.skipped import Skipped, check_share
from neurexp.text.spans import Selection, align, drop_too_long, each_text_once


def sentence_rows(model: LanguageModel, sentences: LabelledSentences, bad_sentences: float) -> Selection:
    """A row for each target in its sentence; a sentence with several targets is run once.

    Args:
        model: its tokenizer divides the texts.
        sentences: as read.
        bad_sentences: the largest share of lines that may be skipped because they cannot be used, 0 to 1.

    Raises:
        UserError: too many lines cannot be used.
    """
    numbered = [replace(one, word=str(index)) for index, one in enumerate(sentences.examples)]
    positions = positions_of(model.network)
    rows, too_long = drop_too_long(align(model.tokenizer, numbered, model.begins_with_bos), positions)
    reason = f"its text has more tokens than {model.name} has positions, {positions}"
    skipped = [Skipped(str(sentences.file), sentences.lines[int(one)], reason) for one in too_long]
    check_share([*sentences.skipped, *skipped], sentences.count, bad_sentences, "experiment.bad_sentences", "lines")
    words = [sentences.examples[int(one)].word for one in rows.words]
    return each_text_once(replace(rows, words=words, tokens=replace(rows.tokens, skipped=tuple(skipped))))
