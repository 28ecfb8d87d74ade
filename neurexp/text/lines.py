"""The lines of a file of words or of labelled sentences. Knows nothing of what a line means."""

import codecs

from neurexp.errors import UserError

LONGEST_LINE = 10_000  # characters; a longer line is neither a word nor a sentence
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins the same way


def lines_of(content: bytes, given: str) -> list[bytes]:
    """The lines, without their line breaks and without a byte order mark at the start.

    Args:
        content: of the file.
        given: the option and the file, as the error line begins: “experiment.words=lists: nouns.txt”.

    Raises:
        UserError: the file is UTF-16 or UTF-32.
    """
    if content.startswith(_WIDE):
        raise UserError(f"{given} is not UTF-8 text but UTF-16; save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8).splitlines()
