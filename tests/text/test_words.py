"""Word lists: what is read, what is dropped, what is skipped, and what is refused."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurexp.errors import UserError, printable, unseen
from neurexp.text.scripts import fold_word
from neurexp.text.words import LONGEST_LINE, read_lists


def lists(folder: Path, **words: str | list[str] | bytes) -> Path:
    """A folder of word lists: category=its file's content, or its words."""
    folder.mkdir(exist_ok=True)
    for name, content in words.items():
        if isinstance(content, list):
            content = "".join(f"{word}\n" for word in content)
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


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
        ({"a": ["p", "q"]}, "the folder has 1 CATEGORY.txt (a.txt); a contrast needs two or more: add them"),
        ({}, "the folder has 0 CATEGORY.txt; a contrast needs two or more"),
        ({"a": ["p", "q"], "b": ""}, "b.txt is empty; put 4 or more words in it"),
        ({"a": ["p", "q"], "b": "\n \n"}, "b.txt is empty"),
        ({"a": ["p", "q", "r", "s"], "b": ["p", "q"]}, "b.txt has 0 different words that are in no other list"),
        ({"a": ["p", "q", "r"], "b": ["p", "x"]}, "b.txt has 1 different words that are in no other list"),
        ({"a": ["p", "q"], "b": ["r", "r"]}, "b.txt has 1 different words that are in no other list"),
        ({"a": ["p", "q"], "b": ["caf\u00e9", "cafe\u0301"]}, "b.txt has 1 different words that are in no other list"),
        ({"a": ["p", "q"], "b": b"\xff\xfep\x00q\x00"}, "b.txt is not UTF-8 text but UTF-16; save it as UTF-8"),
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


# Lines that are skipped

BAD = [
    (b"caf\xe9", "not UTF-8 text"),
    (b"s\x00t", "“s\\x00t” has an invisible character, U+0000"),
    (b"s\x1b[31m", "has an invisible character, U+001B"),
    ("s\u202et".encode(), "has an invisible character, U+202E"),
    ("s\u2066t".encode(), "has an invisible character, U+2066"),
    ("\u200dst".encode(), "has an invisible character, U+200D"),
    (b"s\tt", "has an invisible character, U+0009"),
    ("\ufe0f".encode(), "it has only invisible characters"),
    (b"s" * (LONGEST_LINE + 1), f"“{'s' * 30}…” has {LONGEST_LINE + 1} characters; a line has at most {LONGEST_LINE}"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason[:30] for _, reason in BAD])
def test_a_line_that_is_no_word_is_skipped_and_named_up_to_the_share(tmp_path, line, reason):
    folder = lists(tmp_path / "lists", a=["p", "q"], b=b"r\r\n" + line + b"\n\ns\n")
    found = read_lists(folder, bad_words=0.2)  # one of five
    assert found.words == {"a": ["p", "q"], "b": ["r", "s"]}
    assert (found.empty, found.lines) == (1, 5)
    (skipped,) = found.skipped
    assert (skipped.where, skipped.item) == (str(folder / "b.txt"), 2)
    assert reason in skipped.reason
    with pytest.raises(UserError) as raised:
        read_lists(folder, bad_words=0.19)
    message = str(raised.value)
    assert message.startswith(f"experiment.bad_words=0.19: 1 of 5 lines cannot be used ({folder / 'b.txt'}, row 2: ")
    assert message.endswith("give experiment.bad_words=0.2 to skip them")
    assert message.isprintable()


def test_names_that_are_no_text_are_written_as_escapes_and_name_no_category(tmp_path):
    folder = lists(tmp_path / "li\udcffst", a=["p", "q"], b=b"r\ns\n\xff\n")
    (one,) = read_lists(folder, bad_words=0.5).skipped
    assert one.where == f"{tmp_path}/li\\udcffst/b.txt"
    lists(folder, **{"c\udcff": ["t", "u"]})
    with pytest.raises(UserError, match=r"c\\udcff\.txt cannot name a category; rename it"):
        read_lists(folder, bad_words=0.5)


# One real word of each kind that a check for printable characters, or for spaces, refuses
WORDS_THAT_ARE_WORDS = [
    "क्\u200dया", "می\u200cخواهم", "ක්\u200dෂ", "അവന്\u200d", "New\u00a0York", "東京\u3000タワー", "👩\u200d💻", "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "❤\ufe0f", "🫨", "don’t", "mother-in-law", "cafe\u0301", "1\ufe0f\u20e3", "\U00030000",
]  # fmt: skip


def test_words_of_every_script_are_words_and_stand_readable_in_messages(tmp_path):
    found = read_lists(lists(tmp_path / "lists", a=WORDS_THAT_ARE_WORDS, b=["p", "q"]))
    assert sorted(found.words["a"]) == sorted(WORDS_THAT_ARE_WORDS)
    assert not found.skipped
    for word in WORDS_THAT_ARE_WORDS:
        assert str(UserError(word)) == printable(word) == word


def test_a_sentence_is_a_row_as_a_whole_up_to_a_bound(tmp_path):
    sentence = "He runs along the long and winding road. " * 20 + "x"
    longest = "s" * LONGEST_LINE
    found = read_lists(lists(tmp_path / "lists", a=[sentence, longest], b=["p", "q"]))
    assert found.words["a"] == [sentence, longest]


@pytest.mark.parametrize(
    "spellings",
    [
        ("caf\u00e9", "cafe\u0301"),
        ("don't", "don’t", "donʼt"),
        ("New York", "New\u00a0York"),
        ("ice-cream", "ice‐cream"),
        ("❤", "❤\ufe0f"),
        ("가", "\u1100\u1161"),
    ],
    ids=lambda spellings: spellings[0],
)
def test_one_word_in_two_spellings_is_one_word(tmp_path, spellings):
    for order in (spellings, spellings[::-1]):
        found = read_lists(lists(tmp_path / "lists", a=[*order, "x", "y"], b=["p", "q"]))
        assert (len(found.words["a"]), found.duplicates, found.shared) == (3, len(spellings) - 1, 0)
        assert min(spellings, key=lambda word: (len(word), word)) in found.words["a"]
    found = read_lists(lists(tmp_path / "lists", a=[spellings[0], "x", "y"], b=[spellings[1], "p", "q"]))
    assert found.words == {"a": ["x", "y"], "b": ["p", "q"]}
    assert (found.duplicates, found.shared) == (0, 1)


# Files that are no lists


def test_endings_may_be_in_capitals_and_order_is_that_of_the_names(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "NOUNS.TXT").write_text("door\nhouse\n")
    (folder / "Verbs.Txt").write_text("go\nrun\n")
    assert read_lists(folder).words == {"Verbs": ["go", "run"], "NOUNS": ["door", "house"]}


def test_two_files_of_one_category_are_refused(tmp_path):
    folder = lists(tmp_path / "lists", a=["p", "q"], b=["r", "s"])
    (folder / "a.TXT").write_text("t\nu\n")
    with pytest.raises(UserError, match=r"a\.TXT and a\.txt name the same category; rename one of them$"):
        read_lists(folder)


def test_hidden_files_and_notes_are_no_categories(tmp_path):
    folder = lists(tmp_path / "lists", a=["p", "q"], b=["r", "s"], README="About these lists.\n")
    for hidden in ("._a.txt", ".DS_Store", ".c.txt", "~$a.txt"):
        (folder / hidden).write_bytes(b"\0\5\26\7")
    found = read_lists(folder)
    assert list(found.words) == ["a", "b"]
    assert [(one.where, one.item) for one in found.skipped] == [(str(folder / "README.txt"), 0)]


def test_a_folder_of_one_category_says_what_else_is_there(tmp_path):
    folder = lists(tmp_path / "lists", a=["p", "q"])
    (folder / "nouns.csv").write_text("door,house")
    with pytest.raises(UserError, match=r"the folder has 1 CATEGORY\.txt \(a\.txt\); .* other files: nouns\.csv$"):
        read_lists(folder)


# Anything


LETTERS = "aéßİıñΣжשلक्या\u200d\u200cกำខ្មབོད་字かカー가\u0301\ufe0f👩💻🏽'’-‐ \u00a0\u3000"
OTHERS = "\u00ad\u202e\u200b\x1b\0\t\x85\u2028\ufeff"
ANY = st.sampled_from(LETTERS) | st.sampled_from(LETTERS + OTHERS) | st.characters(codec="utf-8")
LINE = st.text(ANY, max_size=6).map(str.encode) | st.binary(max_size=4)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    of_files=st.lists(st.lists(LINE, max_size=6), min_size=2, max_size=3),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    bad_words=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_every_line_is_a_word_empty_a_duplicate_shared_or_skipped_or_there_is_one_line(
    tmp_path, of_files, ending, bad_words
):
    folder = tmp_path / "lists"
    contents = {f"c{index}": [*lines, b"w%d" % index, b"v%d" % index] for index, lines in enumerate(of_files)}
    contents |= {f"c{index}": [b"only", b"these"] for index in range(len(of_files), 3)}  # of the example before
    lists(folder, **{name: ending.join(lines) + ending for name, lines in contents.items()})
    try:
        found = read_lists(folder, bad_words=bad_words)
    except UserError as refused:
        assert len(str(refused).splitlines()) == 1
        assert str(refused).startswith(("experiment.words=", "experiment.bad_words="))
        return
    left_out = {(one.where, one.item) for one in found.skipped}
    good: dict[str, list[str]] = {}
    empty = 0
    for name, given_lines in contents.items():
        lines = re.split(b"\r\n|\r|\n", ending.join(given_lines) + ending)[:-1]
        for number, line in enumerate(lines, start=1):
            if (str(folder / f"{name}.txt"), number) not in left_out:
                word = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                empty += not word
                good.setdefault(name, []).extend([word] if word else [])
    assert found.empty == empty
    assert found.lines == sum(map(len, good.values())) + len(left_out)
    own = {name: {fold_word(word) for word in words} for name, words in good.items()}
    times = Counter(word for words in own.values() for word in words)
    assert found.shared == sum(count > 1 for count in times.values())
    assert found.duplicates == sum(len(words) - len(own[name]) for name, words in good.items())
    for name, words in found.words.items():
        assert {fold_word(word) for word in words} == {word for word in own[name] if times[word] == 1}
        assert set(words) <= set(good[name])
        assert not any(unseen(word) for word in words)
