"""Tokenizers of several kinds for tests, and the text of a selection's rows."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neurexp.text.spans import Selection

PIECES = ("▁door", "▁Door", "▁the", "▁The", "▁house", "▁are", "door", "house", "s", "a", "▁a")


def sentencepiece_like(style: str, pieces: Sequence[str] = PIECES) -> PreTrainedTokenizerFast:
    """Pieces that begin with ▁ where a word does; `style` says who puts it before the first one."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,'-’"
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -6.0)]
    vocabulary += [(letter, -8.0) for letter in letters if letter not in pieces]
    vocabulary += [(piece, -2.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    if style == "normalizer":  # as Llama's own
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=style)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=style)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", add_bos_token=False
    )


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's: what has no piece is spelled in bytes, <0xE7><0x8C><0xAB>."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= {piece: len(vocabulary) + index for index, piece in enumerate("▁abcdehnorstu字")}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: pieces that go on with a word begin with ##, and spaces are no tokens."""
    pieces = ["<unk>", "</s>", ",", "the", "do", "##or", "house", "and", "a", "c", "##at"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def with_word_ends() -> PreTrainedTokenizerFast:
    """As the first GPT's: a word's last piece ends with </w>."""
    pieces = ["<unk>", "</s>", *"acdehnorstu,", *(f"{letter}</w>" for letter in "acdehnorstu,")]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", end_of_word_suffix="</w>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def decoded(tokenizer, selection: Selection) -> list[str]:
    ids = selection.tokens.input_ids
    spans = zip(selection.sequence, selection.start, selection.stop, strict=True)
    return [tokenizer.decode(ids[row, start:stop]).strip() for row, start, stop in spans]
