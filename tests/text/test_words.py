"""Word lists, a word's tokens within a template, and listed words in running text."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from neurexp.errors import UserError
from neurexp.models.places import MINI
from neurexp.text.tokens import Tokens, pack
from neurexp.text.words import LONGEST_WORD, OWN_LISTS, Selection, align, excerpt, occurrences, pairs, place, read_lists

PIECES = ("▁door", "▁Door", "▁the", "▁The", "▁house", "▁are", "door", "house", "s", "a", "▁a")


def sentencepiece_like(style: str) -> PreTrainedTokenizerFast:
    """Pieces that begin with ▁ where a word does; `style` says who puts it before the first one."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,'-’"
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -6.0)]
    vocabulary += [(letter, -8.0) for letter in letters if letter not in PIECES]
    vocabulary += [(piece, -2.0) for piece in PIECES]
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


@pytest.fixture(scope="module")
def mini() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture(scope="module", params=["mini", "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "mini":
        return AutoTokenizer.from_pretrained(MINI)
    return AutoTokenizer.from_pretrained(request.getfixturevalue("data") / "gpt2-tokenizer")


def lists(folder: Path, **words: str | list[str] | bytes) -> Path:
    """A folder of word lists: category=its file's content, or its words."""
    folder.mkdir(exist_ok=True)
    for name, content in words.items():
        if isinstance(content, list):
            content = "".join(f"{word}\n" for word in content)
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# The lists


@pytest.mark.parametrize(
    ("there", "order"),
    [
        (["nouns", "verbs"], ["verbs", "nouns"]),
        (["adverbs", "nouns", "verbs"], ["verbs", "nouns", "adverbs"]),
        (["zebras", "verbs", "apples", "nouns"], ["verbs", "nouns", "apples", "zebras"]),
        (["verbs", "adjectives"], ["adjectives", "verbs"]),
        (["nouns", "adjectives"], ["adjectives", "nouns"]),
        (["b", "a", "c"], ["a", "b", "c"]),
    ],
    ids=" ".join,
)
def test_verbs_and_nouns_come_first_where_both_are_there_and_else_the_alphabet_orders(tmp_path, there, order):
    folder = lists(tmp_path / "lists", **{name: [f"{name}x", f"{name}y"] for name in there})
    found = read_lists(folder)
    assert list(found.words) == order
    assert all(words == [f"{name}x", f"{name}y"] for name, words in found.words.items())


def test_duplicates_are_dropped_and_counted_and_blank_lines_are_nothing(tmp_path):
    folder = lists(tmp_path / "lists", verbs="run\n\nrun \n  go\n\t\ngo\ngo\n\n", nouns="\n door\r\nhouse\r\n\r\n")
    found = read_lists(folder)
    assert found.words == {"verbs": ["go", "run"], "nouns": ["door", "house"]}
    assert (found.duplicates, found.shared) == (3, 0)


def test_a_word_in_two_categories_is_dropped_from_all_and_counted_once(tmp_path):
    folder = lists(
        tmp_path / "lists",
        a=["one", "two", "both", "all"],
        b=["both", "all", "three", "four"],
        c=["all", "five", "six"],
    )
    found = read_lists(folder)
    assert found.words == {"a": ["one", "two"], "b": ["four", "three"], "c": ["five", "six"]}
    assert (found.duplicates, found.shared) == (0, 2)


def test_a_duplicate_of_a_shared_word_counts_as_both(tmp_path):
    found = read_lists(lists(tmp_path / "lists", a=["x", "x", "p", "q"], b=["x", "r", "s"]))
    assert found.words == {"a": ["p", "q"], "b": ["r", "s"]}
    assert (found.duplicates, found.shared) == (1, 1)


def test_files_of_other_endings_and_folders_are_no_categories(tmp_path):
    folder = lists(tmp_path / "lists", a=["p", "q"], b=["r", "s"])
    (folder / "README.md").write_text("not a list")
    (folder / "folder.txt").mkdir()
    assert list(read_lists(folder).words) == ["a", "b"]


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    folder = lists(tmp_path / "lists", a=b"\xef\xbb\xbfrun\ngo\n", b=["door", "house"])
    assert read_lists(folder).words["a"] == ["go", "run"]


def test_words_beyond_ascii_and_of_several_parts_are_words(tmp_path):
    words = ["naïve", "日本", "ice cream", "mother-in-law", "👩‍🚀"[0], "שלום"]
    assert read_lists(lists(tmp_path / "lists", a=words, b=["p", "q"])).words["a"] == sorted(words)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ({"a": ["p", "q"]}, "1 CATEGORY.txt there"),
        ({}, "0 CATEGORY.txt there"),
        ({"a": ["p", "q"], "b": ""}, "b.txt has 0 words of its own"),
        ({"a": ["p", "q"], "b": "\n \n"}, "b.txt has 0 words of its own"),
        ({"a": ["p", "q", "r", "s"], "b": ["p", "q"]}, "b.txt has 0 words of its own"),
        ({"a": ["p", "q", "r"], "b": ["p", "x"]}, "b.txt has 1 words of its own"),
        ({"a": ["p", "q"], "b": ["r", "r"]}, "b.txt has 1 words of its own"),
        ({"a": ["p", "q"], "b": b"caf\xe9\nbar\n"}, "b.txt is not UTF-8 text"),
        ({"a": ["p", "q"], "b": b"\xff\xfep\x00q\x00"}, "b.txt is not UTF-8 text"),
        ({"a": ["p", "q"], "b": ["r", "s\x00t"]}, "b.txt holds 's\\x00t', which is no word"),
        ({"a": ["p", "q"], "b": ["r", "s\x1b[31m"]}, "b.txt holds 's\\x1b[31m', which is no word"),
        ({"a": ["p", "q"], "b": ["r", "s\u202et"]}, "b.txt holds 's\\u202et', which is no word"),
        ({"a": ["p", "q"], "b": ["r", "s\tt"]}, "b.txt holds 's\\tt', which is no word"),
        ({"a": ["p", "q"], "b": ["r", "s" * (LONGEST_WORD + 1)]}, f"b.txt holds '{'s' * 30}', which is no word"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_lists_that_cannot_be_used_are_one_line_that_names_the_option(tmp_path, content, answer):
    folder = lists(tmp_path / "lists", **content)
    with pytest.raises(UserError) as raised:
        read_lists(folder, "experiment.lists")
    message = str(raised.value)
    assert message.startswith(f"experiment.lists={folder}: ")
    assert answer in message
    assert message.isprintable()


def test_a_word_may_be_as_long_as_the_limit(tmp_path):
    longest = "s" * LONGEST_WORD
    assert longest in read_lists(lists(tmp_path / "lists", a=["p", "q"], b=["r", longest])).words["b"]


@pytest.mark.parametrize("what", ["nothing", "a_file"])
def test_what_is_no_folder_is_named(tmp_path, what):
    (tmp_path / "a_file").write_text("word\n")
    with pytest.raises(UserError, match=rf"^experiment\.words={tmp_path / what}: (no such folder|is a file); give"):
        read_lists(tmp_path / what)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_order_of_a_file_never_matters(tmp_path, drawn):
    of_any = st.lists(st.sampled_from(["run", "go", "door", "Door", "tree", "ü", "a b", ""]), max_size=8)
    words = {name: [*drawn.draw(of_any), f"{name}1", f"{name}2"] for name in ("a", "b")}
    shuffled = {name: drawn.draw(st.permutations(given)) for name, given in words.items()}
    assert read_lists(lists(tmp_path / "lists", **words)) == read_lists(lists(tmp_path / "lists", **shuffled))


def test_the_raw_lists_of_the_source(data):
    found = read_lists(data / "wordlists")
    assert list(found.words) == ["verbs", "nouns"]
    raw = {name: (data / "wordlists" / f"{name}.txt").read_text("utf-8").split("\n") for name in found.words}
    raw = {name: [line.strip() for line in lines if line.strip()] for name, lines in raw.items()}
    assert [len(words) for words in raw.values()] == [1000, 1000]
    assert found.duplicates == sum(len(words) - len(set(words)) for words in raw.values())
    assert found.shared == len(set(raw["verbs"]) & set(raw["nouns"])) == 67
    for name, words in found.words.items():
        assert words == sorted(set(raw[name]) - (set(raw["verbs"]) & set(raw["nouns"])))


def test_our_own_lists_are_a_hundred_of_each_disjoint_in_lower_case_sorted_and_without_duplicates():
    found = read_lists(OWN_LISTS)
    assert list(found.words) == ["verbs", "nouns"]
    assert (found.duplicates, found.shared) == (0, 0)
    for name, words in found.words.items():
        lines = (OWN_LISTS / f"{name}.txt").read_text("utf-8").splitlines()
        assert len(words) == 100
        assert lines == words == sorted(set(words))
        assert all(re.fullmatch("[a-z]+", word) for word in words)


# A word's tokens

WORDS = [
    "door",
    "house",
    "xylophone",
    "naïve",
    "Zürich",
    "日本語",
    "привет",
    "שלום",
    "مرحبا",
    "👩‍👩‍👧",
    "😀",
    "ice cream",
]
TEMPLATES = ["{word}", " {word}", "The {word}", "The {word}s are", "a {word}, then", "un{word}", "“{word}”", "é{word}é"]


def decoded(tokenizer, selection: Selection) -> list[str]:
    ids = selection.tokens.input_ids
    spans = zip(selection.sequence, selection.start, selection.stop, strict=True)
    return [tokenizer.decode(ids[row, start:stop]).strip() for row, start, stop in spans]


def placed(words: list[str], template: str):
    return [place(word, index % 2, template) for index, word in enumerate(words)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_words_tokens_are_the_word_and_nothing_else(tokenizer, template):
    words = WORDS + [word for listed in read_lists(OWN_LISTS).words.values() for word in listed]
    found = align(tokenizer, placed(words, template))
    assert decoded(tokenizer, found) == found.words
    assert len(found.words) + found.dropped == len(words)
    assert set(found.words) <= set(words)
    assert [words.index(word) % 2 for word in found.words] == found.category.tolist()
    assert found.sequence.tolist() == list(range(len(found.words)))
    assert (found.lengths >= 1).all()
    if template in ("{word}", " {word}", "The {word}", "a {word}, then"):
        assert found.dropped == 0


@pytest.mark.parametrize("template", ["{word}", "The {word}s are", "un{word}"])
def test_the_raw_lists_are_aligned_or_dropped_but_never_leak(tokenizer, data, template):
    words = [word for listed in read_lists(data / "wordlists").words.values() for word in listed]
    found = align(tokenizer, placed(words, template))
    assert decoded(tokenizer, found) == found.words
    assert len(found.words) + found.dropped == len(words)


def test_the_whole_example_is_run_not_the_word_alone(tokenizer):
    found = align(tokenizer, placed(["door", "xylophone"], "The {word}, then"))
    for row, word in enumerate(found.words):
        ids = found.tokens.input_ids[row][found.tokens.valid[row]]
        assert tokenizer.decode(ids) == f"The {word}, then"
        assert ids.tolist() == tokenizer(f"The {word}, then")["input_ids"]


def test_a_word_that_merges_with_what_stands_around_it_is_dropped_and_counted(data):
    gpt2 = AutoTokenizer.from_pretrained(data / "gpt2-tokenizer")
    # " doors" is a token of GPT-2's, the "s" after "process" another one than the word's
    found = align(gpt2, placed(["door", "process"], "The {word}s are"))
    assert (found.words, found.dropped) == (["process"], 1)
    assert found.tokens.input_ids.shape[0] == 1
    with pytest.raises(UserError, match=r"^experiment: no word has tokens of its own"):
        align(gpt2, placed(["door", "car"], "The {word}s are"))


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1), min_size=1),
    before=st.text(st.characters(codec="utf-8"), max_size=4),
    after=st.text(st.characters(codec="utf-8"), max_size=4),
)
def test_whatever_stands_around_a_word_no_token_of_it_is_the_words(tokenizer, words, before, after):
    examples = [place(word, 0, before.replace("{", "") + "{word}" + after) for word in words]
    for example in examples:
        assert example.text[example.start : example.stop] == example.word
    try:
        found = align(tokenizer, examples)
    except UserError:
        return
    assert [text.strip() for text in decoded(tokenizer, found)] == [word.strip() for word in found.words]
    assert len(found.words) + found.dropped == len(words)


def test_padding_is_on_the_right_and_marked(tokenizer):
    words = ["door", "xylophone", "incomprehensibilities"]
    found = align(tokenizer, placed(words, "{word}"))
    ids = [tokenizer(word)["input_ids"] for word in words]
    assert found.tokens.input_ids.shape == found.tokens.valid.shape == (3, max(map(len, ids)))
    assert found.tokens.count == sum(map(len, ids))
    assert found.tokens.input_ids.dtype == np.int32
    for row, own in enumerate(ids):
        assert found.tokens.valid[row].tolist() == [place < len(own) for place in range(found.tokens.valid.shape[1])]
        assert found.tokens.input_ids[row, : len(own)].tolist() == own
    assert found.start.tolist() == [0, 0, 0]
    assert found.stop.tolist() == [len(own) for own in ids]


def test_a_family_that_begins_with_bos_shifts_every_span_by_one(tokenizer):
    plain, begun = (align(tokenizer, placed(WORDS, "The {word}"), begin_with_bos=bos) for bos in (False, True))
    assert (begun.start - plain.start == 1).all()
    assert (begun.stop - plain.stop == 1).all()
    assert (begun.tokens.input_ids[:, 0] == tokenizer.bos_token_id).all()
    assert (begun.tokens.valid.sum(1) - plain.tokens.valid.sum(1) == 1).all()
    assert decoded(tokenizer, begun) == plain.words == begun.words


def test_a_family_that_needs_bos_with_a_tokenizer_without_one_is_told_so():
    bare = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like("first").backend_tokenizer, eos_token="</s>")
    assert bare.bos_token_id is None
    with pytest.raises(UserError, match="beginning-of-text"):
        align(bare, placed(["door", "house"], "{word}"), begin_with_bos=True)


def test_a_tokenizer_without_end_of_text_pads_all_the_same():
    bare = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like("first").backend_tokenizer)
    found = align(bare, placed(["door", "hh"], "{word}"))
    assert (found.tokens.valid.sum(1) > 0).all()
    assert decoded(bare, found) == ["door", "hh"]


@pytest.mark.parametrize("style", ["first", "always", "normalizer"])
@pytest.mark.parametrize("template", ["{word}", " {word}", "The {word}", "the {word}s are", "a {word}, the"])
def test_a_words_tokens_in_a_tokenizer_like_sentencepiece(style, template):
    tokenizer = sentencepiece_like(style)
    words = ["door", "house", "cat", "Door"]
    found = align(tokenizer, placed(words, template))
    assert decoded(tokenizer, found) == found.words == words
    assert found.dropped == 0


def test_a_special_tokens_spelling_inside_a_word_is_text(tokenizer):
    found = align(tokenizer, placed(["<|endoftext|>", "door"], "{word}"))
    assert found.lengths[0] > 1
    assert tokenizer.eos_token_id not in found.tokens.input_ids[found.tokens.valid]


def test_a_tokenizer_without_offsets_is_refused(mini):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match=r"^model\.tokenizer: "):
        align(Slow(), placed(["door", "house"], "{word}"))


# Running text


def text_of(tokenizer, *texts: str, width: int | None = None) -> Tokens:
    """A sequence per text, padded on the right by the id of the end of text."""
    ids = [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]
    width = width or max(map(len, ids))
    valid = np.arange(width) < np.array([[len(one)] for one in ids])
    filled = np.full(valid.shape, tokenizer.eos_token_id, dtype=np.int32)
    filled[valid] = np.concatenate(ids)
    return Tokens(filled, valid, len(texts))


def seen(tokenizer, text: str, *words: str, most: int = 100) -> list[str]:
    """The texts of the spans found."""
    found = occurrences(text_of(tokenizer, text), tokenizer, [(word, 0) for word in words or ("door",)], most)
    return decoded(tokenizer, found)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("The door is.", 1),
        ("The Door is.", 1),
        ("a door, a door; Door!", 3),
        ("(a door)", 1),
        ("the door\nis", 1),
        ("the door\n\nis", 1),
        ("the door — and", 1),
        ("the door… and", 1),
        ("the door” he", 1),
        ("The doors are.", 0),
        ("The doorway is.", 0),
        ("The outdoor is.", 0),
        ("The door-step is.", 0),
        ("The door_step is.", 0),
        ("The door's is.", 0),
        ("The door’s is.", 0),
        ("The door5 is.", 0),
        ("The doorö is.", 0),
        ("The doorя is.", 0),
        ("The door门 is.", 0),
        ("The door\u0301 is.", 0),
        ("The DOOR is.", 0),
        ("The out-door is.", 0),
        ("The “door” is.", 0),  # after a space only, as the docstring says
        ("The dooring is.", 0),
        ("A door", 0),  # what follows is not known
    ],
)
def test_only_whole_words_count(tokenizer, text, times):
    assert [found.lower() for found in seen(tokenizer, text)] == ["door"] * times


def test_a_word_of_several_tokens_is_found_whole(tokenizer):
    ids = tokenizer(" xylophone")["input_ids"]
    assert len(ids) > 1
    tokens = text_of(tokenizer, "A xylophone and a Xylophone, not xylophones nor xylo.")
    found = occurrences(tokens, tokenizer, [("xylophone", 1)], 10)
    assert decoded(tokenizer, found) == ["xylophone", "Xylophone"]
    assert found.lengths[0] == len(ids)
    assert found.words == ["xylophone"] * 2
    assert found.category.tolist() == [1, 1]


def test_the_longer_of_two_listed_words_is_taken(tokenizer):
    assert seen(tokenizer, "an ice cream and some ice.", "ice", "ice cream") == ["ice cream", "ice"]


def test_a_shorter_word_counts_where_the_longer_one_goes_on(tokenizer):
    assert seen(tokenizer, "some ice creams and", "ice", "ice cream") == ["ice"]


def test_at_most_so_many_of_each_word_the_first_ones_capitalised_or_not(tokenizer):
    tokens = text_of(tokenizer, "a door, a Door, a house, a door.", "A house, a house, a door.")
    found = occurrences(tokens, tokenizer, [("door", 0), ("house", 1)], 2)
    assert list(zip(found.words, found.sequence.tolist(), strict=True)) == [
        ("door", 0),
        ("door", 0),
        ("house", 0),
        ("house", 1),
    ]
    assert found.tokens is tokens


def test_a_word_at_the_end_of_a_sequence_is_not_counted_though_pads_follow(tokenizer):
    tokens = text_of(tokenizer, "this is a door", "this is a long sequence with a door in it.")
    found = occurrences(tokens, tokenizer, [("door", 0)], 10)
    assert found.sequence.tolist() == [1]


def test_pads_are_no_text_whatever_their_id(tokenizer):
    tokens = text_of(tokenizer, "a door, and", width=12)
    (door,) = tokenizer(" door")["input_ids"]
    tokens.input_ids[~tokens.valid] = door
    found = occurrences(tokens, tokenizer, [("door", 0)], 10)
    assert len(found.words) == 1


def test_none_found_is_an_empty_selection(tokenizer):
    found = occurrences(text_of(tokenizer, "nothing here."), tokenizer, [("door", 0)], 10)
    assert (len(found.words), found.sequence.shape, found.stop.dtype) == (0, (0,), np.int64)
    assert found.lengths.tolist() == []


@pytest.mark.parametrize("style", ["first", "always", "normalizer"])
def test_words_are_found_with_a_tokenizer_like_sentencepiece(style):
    tokenizer = sentencepiece_like(style)
    assert seen(tokenizer, "the door, the Door, the doors are a cat, the door-s the door", "door", "cat") == [
        "door",
        "Door",
        "cat",
    ]


PARTS = [" ", " ", " ", "door", "Door", "doors", "house", "HOUSE", "xylophone", "the", "The", "s", "5", "\n", "."]
PARTS += [",", "'", "-", "_", "(", '"', "'s", " door", " house", " xylophone", " Xylophone"]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=40).map("".join), min_size=1, max_size=4),
    length=st.integers(3, 12),
    most=st.integers(1, 4),
)
def test_what_is_found_is_what_the_decoded_text_holds(tokenizer, texts, length, most):
    whole = [*texts, "the end of all. " * 4]
    count = sum(len(tokenizer(text)["input_ids"]) for text in whole) + len(whole) - 1
    tokens = pack(whole, tokenizer, count - 3, length)
    listed = [("door", 0), ("house", 1), ("xylophone", 1)]
    expected, counted = [], dict.fromkeys(["door", "house", "xylophone"], 0)
    for row in range(len(tokens.input_ids)):
        parts = [tokenizer.decode([token]) for token in tokens.input_ids[row][tokens.valid[row]]]
        text, begins = "".join(parts), np.cumsum([0, *map(len, parts)])
        for match in re.finditer(r" (door|Door|house|House|xylophone|Xylophone)(?=[^\w'’-])", text, flags=re.ASCII):
            word = match[1].lower()
            if counted[word] < most:
                counted[word] += 1
                start, stop = np.flatnonzero(begins == match.start())[0], np.flatnonzero(begins == match.end())[0]
                expected.append((row, start, stop, dict(listed)[word], word))
    found = occurrences(tokens, tokenizer, listed, most)
    got = zip(found.sequence, found.start, found.stop, found.category, found.words, strict=True)
    assert list(got) == expected


# The excerpt


def marked(rows: list[str], valid: list[int] | None = None) -> Selection:
    """A selection written down: `.` is a token, a digit one of a word of that category."""
    places = [
        (row, column, int(mark)) for row, line in enumerate(rows) for column, mark in enumerate(line) if mark != "."
    ]
    width = len(rows[0])
    ids = np.arange(len(rows) * width, dtype=np.int32).reshape(len(rows), width)
    there = np.arange(width) < np.array(valid or [width] * len(rows))[:, None]
    columns = np.array(places).T
    return Selection(
        Tokens(ids, there, len(rows)), columns[0], columns[1], columns[1] + 1, columns[2], ["w"] * len(places)
    )


def test_an_excerpt_is_so_long_and_lies_where_most_words_stand():
    found = excerpt(marked(["0.........0", ".....0..10.", "1.........."]), 5)
    assert found.sequence.tolist() == [1] * 5
    assert found.start.tolist() == [5, 6, 7, 8, 9]
    assert (found.stop - found.start == 1).all()
    assert found.category.tolist() == [0, -1, -1, 1, 0]
    assert found.words == ["5", "6", "7", "8", "9"]


def test_an_excerpt_with_words_of_both_categories_goes_before_one_with_as_many_of_one():
    found = excerpt(marked(["000.......", "......0.1."]), 4)
    assert found.sequence.tolist() == [1] * 4
    assert sorted(set(found.category.tolist())) == [-1, 0, 1]


def test_an_excerpt_is_no_longer_than_a_sequence_and_never_of_pads():
    assert len(excerpt(marked(["0.1..."]), 100).words) == 6
    short = excerpt(marked(["0.1......."], valid=[4]), 8)
    assert short.start.tolist() == [0, 1, 2, 3]
    full = excerpt(marked(["0.01......", "......0..."], valid=[4, 10]), 6)
    assert len(full.words) == 6
    assert full.sequence.tolist() == [1] * 6


def test_every_token_of_a_long_word_is_marked():
    selection = marked(["..0......."])
    selection.stop[0] = 5
    assert excerpt(selection, 10).category.tolist() == [-1, -1, 0, 0, 0, -1, -1, -1, -1, -1]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.text("...01", min_size=12, max_size=12), min_size=1, max_size=3).filter(
        lambda rows: set("".join(rows)) > {"."}
    ),
    valid=st.data(),
    length=st.integers(1, 14),
)
def test_an_excerpt_holds_its_words_categories(rows, valid, length):
    rows = [line[: valid.draw(st.integers(4, 12))].ljust(12, ".") for line in rows]
    if set("".join(rows)) == {"."}:
        return
    counts = [max(4, len(line.rstrip("."))) for line in rows]
    found = excerpt(marked(rows, counts), length)
    row = int(found.sequence[0])
    assert found.start.tolist() == list(range(found.start[0], found.start[0] + len(found.start)))
    longest = max(counts)
    assert len(found.start) == min(length, 12) if longest >= min(length, 12) else len(found.start) <= longest
    assert found.stop.max() <= counts[row]
    assert found.category.tolist() == [
        -1 if rows[row][place] == "." else int(rows[row][place]) for place in found.start
    ]


# Pairs


def test_words_are_paired_by_number_of_tokens_then_by_their_rarest_token_then_by_the_alphabet():
    words = {"e": [9, 1], "b": [7], "a": [7], "d": [3, 8], "c": [2], "f": [1, 2, 3]}
    order = pairs(list(words.values()), list(words))
    assert [list(words)[index] for index in order] == ["c", "a", "b", "d", "e", "f"]


def test_pairs_do_not_depend_on_the_order_given():
    words = [("a", [5]), ("b", [5]), ("c", [1, 2]), ("d", [2, 1]), ("e", [4])]
    orders = []
    for given_words in (words, words[::-1]):
        order = pairs([ids for _, ids in given_words], [word for word, _ in given_words])
        orders.append([given_words[index][0] for index in order])
    assert orders[0] == orders[1] == ["e", "a", "b", "c", "d"]
    assert pairs([], []) == []
