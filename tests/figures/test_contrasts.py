"""Figures of contrasts and of running text: drawn without a warning from any numbers, and a page that runs nothing."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import sampled
from matplotlib.colors import to_hex

from neurexp.figures.contrasts import against_null, over_layers, values_by_word, volcano, words_by_neurons
from neurexp.figures.heat import LINES, WIDTH, heat_map, heat_page

TEXTS = {"title": "What was found", "detail": "On what it was measured"}
TWO, THREE = ["verbs", "nouns"], ["verbs", "nouns", "adjectives"]
RANDOM = np.random.default_rng(0)
MATH = r"$\frac$ _^{"  # what would be a broken formula


def draw(figure):
    """The pixels, so that whatever matplotlib would warn of when drawing comes out."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    assert target.tell() > 3000
    assert figure.get_suptitle() == TEXTS["title"]
    assert figure.get_supxlabel().startswith(TEXTS["detail"])
    return figure


def texts_in(axes):
    return [text.get_text() for text in axes.texts]


# Words by neurons


def by_neurons(activations, labels, categories, band=None):
    band = np.zeros(activations.shape[1], dtype=bool) if band is None else band
    return draw(words_by_neurons(activations, labels, categories, band, **TEXTS, scale="activation"))


@pytest.mark.parametrize(("neurons", "categories"), [(1, TWO), (2, THREE), (768, TWO)])
def test_words_are_drawn_category_by_category(neurons, categories):
    labels = RANDOM.permutation(np.arange(24) % len(categories))
    activations = RANDOM.normal(size=(24, neurons))
    figure = by_neurons(activations, labels, categories)
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_array_equal(shown, activations[np.argsort(labels, kind="stable")])
    assert texts_in(axes) == categories
    assert len(axes.lines) == len(categories) - 1
    size = 24 / len(categories)
    assert [line.get_ydata()[0] for line in axes.lines] == [size * (n + 1) - 0.5 for n in range(len(categories) - 1)]


def test_neurons_that_are_far_out_are_marked_below():
    band = np.zeros(30, dtype=bool)
    band[[4, 17]] = True
    figure = by_neurons(RANDOM.normal(size=(10, 30)), np.arange(10) % 2, TWO, band)
    (marks,) = figure.axes[1].collections
    assert [segment[0][0] for segment in marks.get_segments()] == [4, 17]


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_constant_activations_are_drawn(value):
    by_neurons(np.full((10, 8), value), np.arange(10) % 2, TWO)


def test_the_far_tail_does_not_wash_the_others_out():
    activations = RANDOM.normal(size=(50, 40)) - 0.5
    activations[0, 0] = 1e6
    low, high = by_neurons(activations, np.arange(50) % 2, TWO).axes[0].images[0].get_clim()
    assert -10 < low < -1 < 0 < high < 10


# The volcano


def erupt(d, p, benjamini=None, names=None, xlabel="Cohen's d"):
    names = np.arange(len(d)) if names is None else names
    return draw(volcano(d, p, 0.05 / len(d), benjamini, names, **TEXTS, xlabel=xlabel)).axes[0]


@pytest.mark.parametrize("neurons", [1, 5, 200])
def test_every_neuron_is_a_point_and_those_that_pass_look_different(neurons):
    d, p = RANDOM.normal(size=neurons), RANDOM.uniform(size=neurons)
    p[0] = 1e-9
    axes = erupt(d, p, benjamini=0.01)
    others, passed = (np.asarray(points.get_offsets()) for points in axes.collections)
    assert len(others) + len(passed) == neurons
    assert (passed[:, 1] > -np.log10(0.05 / neurons)).all()
    assert passed[0].tolist() == [d[0], pytest.approx(9)]
    assert to_hex(axes.collections[0].get_facecolor()[0]) != to_hex(axes.collections[1].get_facecolor()[0])
    assert {"Bonferroni", "Benjamini-Hochberg", "0"} <= set(texts_in(axes))
    assert axes.get_xlim()[0] == -axes.get_xlim()[1]


def test_without_a_benjamini_hochberg_threshold_no_line_is_drawn_for_it():
    assert "Benjamini-Hochberg" not in texts_in(erupt(RANDOM.normal(size=20), np.full(20, 0.5)))


@pytest.mark.parametrize(
    ("d", "p"),
    [
        ([0.5, -0.5, 1.0], [0.0, 0.0, 1.0]),
        ([np.nan, np.nan, np.nan], [1.0, 1.0, 1.0]),
        ([np.nan, 0.5, -0.2], [1.0, 0.2, 0.01]),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ([1e6, -1e6, 0.0], [1e-300, 1e-320, 1.0]),
        ([0.3, 0.3, 0.3], [0.3, 0.3, 0.3]),
    ],
    ids=str,
)
def test_a_volcano_of_extreme_and_undefined_values(d, p, caplog):
    axes = erupt(np.array(d), np.array(p))
    assert all(np.isfinite(axes.get_ylim()))
    assert not caplog.records  # matplotlib logs what it cannot place


# t against its null


def null(t, counts=None, limit=4.0):
    edges = np.linspace(-6, 6, 121)
    counts = np.histogram(RANDOM.normal(size=20_000), edges)[0] if counts is None else counts
    figure = against_null(np.asarray(t, dtype=float), counts, edges, limit, **TEXTS, xlabel="Welch's t")
    return draw(figure).axes[0]


def test_both_histograms_are_densities():
    axes = null(RANDOM.normal(size=768))
    stairs, *bars = axes.patches
    values, edges, _ = stairs.get_data()
    assert (values * np.diff(edges)).sum() == pytest.approx(1)
    assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1)
    assert {line.get_xdata()[0] for line in axes.lines} == {-4.0, 4.0}


@pytest.mark.parametrize("t", [[0.5], [0.0] * 50, [-6.0, 6.0], []], ids=["one", "constant", "at the edges", "none"])
def test_few_and_constant_values_of_t(t):
    null(t)


def test_a_null_in_which_nothing_was_defined():
    null([], counts=np.zeros(120, dtype=np.int64), limit=0.0)


# Values by word


def by_word(values, labels, categories):
    names = [f"MLP_{index}, neuron {index}\nd = +1" for index in range(len(values))]
    return draw(values_by_word(values, names, labels, categories, **TEXTS, ylabel="activation"))


@pytest.mark.parametrize(
    ("neurons", "categories"),
    sampled([(1, TWO), (12, TWO), (2, THREE), (12, THREE), (3, [*THREE, "a", "b", "c", "d"])], 2),
)
def test_a_panel_a_neuron_and_a_dot_a_word(neurons, categories):
    labels = np.arange(28) % len(categories)
    values = [RANDOM.normal(size=28) for _ in range(neurons)]
    figure = by_word(values, labels, categories)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == neurons
    for axes, row in zip(panels, values, strict=True):
        dots = [points.get_offsets() for points in axes.collections if len(points.get_offsets()) > 1]
        heights = np.concatenate([np.asarray(points)[:, 1] for points in dots])
        assert sorted(heights) == sorted(row)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == categories


def test_constant_values_are_drawn():
    by_word([np.zeros(8), np.full(8, 7.0)], np.arange(8) % 2, TWO)


# Over layers


@pytest.mark.parametrize(
    ("layers", "columns"), [([0], 1), ([4], 2), ([0, 3, 11], 3), (list(range(24)), 2), ([0, 3, 11], 1)]
)
def test_a_panel_a_column_with_its_null_dashed(layers, columns):
    count = len(layers)
    series = {
        f"share_{index}": (RANDOM.uniform(size=count), None if index == 1 else np.zeros(count))
        for index in range(columns)
    }
    figure = draw(over_layers(layers, series, **TEXTS))
    assert [axes.get_ylabel() for axes in figure.axes] == list(series)
    for axes, (values, chance) in zip(figure.axes, series.values(), strict=True):
        assert axes.lines[0].get_ydata().tolist() == values.tolist()
        assert axes.lines[0].get_xdata().tolist() == layers
        assert len(axes.lines) == 1 + (chance is not None)


def test_constant_and_missing_values_over_layers():
    constant, missing = np.full(3, 0.5), np.array([np.nan, 0.2, np.nan])
    draw(over_layers([0, 1, 2], {"a": (constant, constant), "b": (missing, np.full(3, np.nan))}, **TEXTS))


# Names that are not ours


def test_names_are_text_and_never_formulas():
    categories = [MATH, "$a$ & <b>"]
    labels = np.arange(8) % 2
    by_neurons(RANDOM.normal(size=(8, 5)), labels, categories)
    by_word([RANDOM.normal(size=8)], labels, categories)
    erupt(RANDOM.normal(size=5), RANDOM.uniform(size=5), xlabel=f"d (right: {MATH} higher)")


@pytest.mark.parametrize("name", [MATH, "gpt-neo on $HOME$_books"])
def test_titles_and_details_are_text_and_never_formulas(name):
    figure = over_layers([0, 1], {"a": (np.arange(2.0), None)}, f"Found by {name}", f"Measured on {name}")
    figure.savefig(io.BytesIO(), format="png")
    assert figure.get_suptitle() == f"Found by {name}"


# Running text as a picture


def passage(tokens, values=None, listed=None, heading="MLP_4, neuron 7: prefers nouns"):
    values = RANDOM.normal(size=len(tokens)) if values is None else np.asarray(values, dtype=float)
    listed = np.full(len(tokens), -1) if listed is None else np.asarray(listed)
    return heading, list(tokens), values, listed


def picture(*passages, categories=TWO):
    return draw(heat_map(passages, categories, **TEXTS)).axes[0]


def test_every_token_is_a_box_and_listed_words_are_bold_with_their_categorys_initial():
    tokens = ["The", " door", " opens", "."]
    axes = picture(passage(tokens, [0, 2, -2, 0], [-1, 1, 0, -1]), passage(tokens))
    assert len(axes.patches) == 8
    of_tokens = [text for text in axes.texts if text.get_text() in tokens]
    assert [text.get_text() for text in of_tokens] == tokens * 2
    assert [text.get_fontweight() for text in of_tokens][:4] == ["normal", "bold", "bold", "normal"]
    assert [text.get_text() for text in axes.texts if text.get_fontsize() == 5] == ["N", "V"]


def test_a_higher_activation_is_darker_also_in_grey():
    axes = picture(passage(list("abcde"), [9, 12, 10, 13, 11]))
    grey = [float(np.dot(patch.get_facecolor()[:3], (0.299, 0.587, 0.114))) for patch in axes.patches]
    assert np.argsort(grey).tolist() == [3, 1, 4, 2, 0]
    assert grey[3] > 0.2  # black letters can be read on it


def test_lines_are_broken_between_tokens_and_none_is_too_wide():
    tokens = [" word"] * 60 + [" " + "x" * 150] + [" word"] * 3
    axes = picture(passage(tokens))
    lines = {}
    for box in axes.patches:
        lines.setdefault(round(box.get_y(), 6), []).append(box)
    assert len(lines) > 3
    for boxes in lines.values():
        assert boxes[0].get_x() == 0
        ends = [box.get_x() + box.get_width() for box in boxes]
        assert ends[-1] <= WIDTH or len(boxes) == 1
        assert [box.get_x() for box in boxes[1:]] == pytest.approx(ends[:-1])


@pytest.mark.parametrize("values", [[0.0] * 4, [3.0] * 4, [1e-30, 0, 0, 0], [1e30, -1e30, 0, 0]], ids=str)
def test_constant_and_extreme_activations_are_drawn(values):
    picture(passage(["a", " b", " c", "."], values))


@pytest.mark.parametrize("tokens", [["a"], [""], ["", "a", ""], ["\n", "\t", "\x00", "\u202e", "\ufffd"]], ids=repr)
def test_a_single_token_and_tokens_without_a_shape_are_drawn(tokens):
    picture(passage(tokens))


def test_a_wide_character_takes_two_columns_and_a_mark_none():
    tokens = ["ab", "猫猫", "e\u0301", "क्\u200dया"]
    boxes = picture(passage(tokens)).patches
    assert [box.get_width() for box in boxes] == [2, 4, 1, 3]
    wide = picture(passage(["猫" * 10] * 20)).patches
    assert max(box.get_x() + box.get_width() for box in wide) <= WIDTH


def test_what_runs_from_right_to_left_begins_at_the_right():
    boxes = picture(passage(["«", "שלום", " abc"]), passage(["abc", " שלום"])).patches
    assert [box.get_x() for box in boxes] == [WIDTH - 1, WIDTH - 5, WIDTH - 9, 0, 3]


def test_a_categorys_initial_is_its_first_character_with_its_marks():
    axes = picture(passage(list("abc"), listed=[0, 1, 2]), categories=["e\u0301te", "किताब", "ßa"])
    assert [text.get_text() for text in axes.texts if text.get_fontsize() == 5][:1] == ["E\u0301"]


def test_an_initial_is_long_enough_to_tell_categories_apart():
    categories = ["adjectives", "adverbs", "nouns", "noun"]
    axes = picture(passage(list("abcd"), listed=[0, 1, 2, 3]), categories=categories)
    assert [text.get_text() for text in axes.texts if text.get_fontsize() == 5] == ["Adj", "Adv", "Nouns", "Noun"]


def test_tokens_and_headings_are_text_and_never_formulas():
    picture(passage([MATH, "$x$", "$", "\\", "{", "^_"], heading=MATH), categories=["$", "$\\frac$"])
    picture(passage([MATH], listed=[1], heading=MATH), categories=["$", "$\\frac$"])


@pytest.mark.parametrize("token", ["日本語", "👩‍👩‍👧", "שלום", "देवनागरी", "ᚠᚢᚦ"])
def test_scripts_that_the_font_lacks_bring_no_warning(token):
    picture(passage(["a", token, "b"], heading=f"about {token}"))


# Running text as a page

HOSTILE = [
    "<script>alert(1)</script>", "</span><script src=//x>", '" onmouseover="alert(1)', "' onclick='x", "&", "&lt;",
    "&amp;amp;", "&#60;b&#62;", "<!--", "-->", "]]>", "<img src=x onerror=alert(1)>", "</style><script>", "</title>",
    "javascript:alert(1)", "<svg/onload=x>", "`${x}`", "\u2028", "שלום", "日本語", "👩", "\ufffd", " ", "  door",
]  # fmt: skip
MOVING = ["\u202e", "\u202d", "\u2066", "\u2069", "\u200f", "\u200b", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\r"]


class Page(HTMLParser):
    """The page's elements, attributes, and texts of its spans within passages."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.open = [], [], []
        self.spans, self.texts, self.declared = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag != "meta":
            self.open.append(tag)
        if tag == "span" and dict(attrs).get("title") is not None:
            self.spans.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        self.texts.setdefault(inside, []).append(data)
        if inside == "span" and self.spans and "h2" in self.elements:
            self.spans[-1][1] += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl):
        self.declared.append(decl)

    def handle_pi(self, data):
        raise AssertionError(f"an instruction: {data}")


def page(*passages, categories=TWO, **texts):
    written = heat_page(passages, categories, **(TEXTS | texts))
    return written, Page(written)


INSIDE = {"div", "h1", "h2", "p", "span", "footer"}


def test_the_page_styles_only_its_own_element_so_a_notebook_that_shows_it_keeps_its_look():
    _, parsed = page(passage(["a", "b"]))
    rules = re.findall(r"([^{}]+)\{", "".join(parsed.texts["style"]))
    assert len(rules) >= 5
    assert all(rule.startswith(".neurexp-heat") for rule in rules)
    assert parsed.elements[parsed.elements.index("body") + 1] == "div"
    assert ("div", "class", "neurexp-heat") in parsed.attributes


def assert_harmless(written, parsed):
    assert parsed.open == []
    assert set(parsed.elements) <= {"html", "head", "meta", "title", "style", "body"} | INSIDE
    names = {name for _, name, _ in parsed.attributes}
    assert names <= {"lang", "dir", "charset", "title", "style", "class"}
    for _, name, value in parsed.attributes:
        if name == "style":
            assert re.fullmatch(r"[a-z0-9:;(), -]*", value), value
        if name == "title":
            assert re.fullmatch(r"[+-][0-9.]+|[+-]?(nan|inf)", value), value
    assert "url(" not in written
    assert "://" not in "".join(parsed.texts["style"])
    assert parsed.declared == ["doctype html"]


def test_hostile_tokens_come_out_as_the_text_that_they_are():
    written, parsed = page(passage(HOSTILE, listed=np.arange(len(HOSTILE)) % 3 - 1))
    assert_harmless(written, parsed)
    assert [text for _, text in parsed.spans] == [token.replace("\u2028", "·") for token in HOSTILE]


def test_what_would_move_or_hide_other_text_is_shown_as_a_dot():
    _, parsed = page(passage([f"a{character}b" for character in MOVING]))
    assert [text for _, text in parsed.spans] == ["a·b" if len(character) == 1 else "a·[31mb" for character in MOVING]


def test_joiners_and_no_break_spaces_of_words_stay_as_they_are():
    words = ["क्\u200dया", " می\u200cخواهم", "👩\u200d💻", "New\u00a0York", "東京\u3000"]
    _, parsed = page(passage(words), title=words[0])
    assert [text for _, text in parsed.spans] == words
    assert "".join(parsed.texts["title"]) == words[0]


def test_the_direction_of_a_text_is_its_own():
    written, parsed = page(passage(["שלום", " עולם"]))
    directed = [tag for tag, name, value in parsed.attributes if (name, value) == ("dir", "auto")]
    assert sorted(set(directed)) == ["footer", "h1", "h2", "p", "span"]
    assert ("p", "lang", "") in parsed.attributes  # no language is known
    assert "isolate" not in written  # or the tokens of one word would stand in the wrong order


def test_line_breaks_and_tabs_are_shown_as_signs():
    written, parsed = page(passage(["a\n", "\n\n", "\tb"]))
    assert [text for _, text in parsed.spans] == ["a⏎", "⏎⏎", "→b"]
    assert_harmless(written, parsed)


def test_hostile_headings_titles_and_categories_come_out_as_the_text_that_they_are():
    for hostile in HOSTILE:
        if hostile.isspace():
            continue
        written, parsed = page(
            passage(["a"], heading=hostile), categories=[hostile, "nouns"], title=hostile, detail=hostile
        )
        assert_harmless(written, parsed)
        for element in ("title", "h1", "h2", "footer"):
            assert "".join(parsed.texts[element]) == hostile
        assert hostile in parsed.texts["span"]


def test_every_token_has_its_activation_and_its_category():
    values = [0.12345, -2.0, 0.0]
    _, parsed = page(passage(["a", " door", " opens"], values, [-1, 1, 0]))
    attributes = [attributes for attributes, _ in parsed.spans]
    assert [one["title"] for one in attributes] == ["+0.123", "-2.000", "+0.000"]
    assert "text-decoration" not in attributes[0]["style"]
    assert attributes[1]["style"].endswith(f"text-decoration:{LINES[1]};font-weight:bold")
    assert attributes[2]["style"].endswith(f"text-decoration:{LINES[0]};font-weight:bold")


@pytest.mark.parametrize("values", [[0.0] * 3, [5.0] * 3, [1e30, -1e30, 0.0]], ids=str)
def test_colours_of_constant_and_extreme_activations_are_colours(values):
    _, parsed = page(passage(["a", "b", "c"], values))
    for attributes, _ in parsed.spans:
        match = re.match(r"background:rgb\((\d+),(\d+),(\d+)\)", attributes["style"])
        assert match
        assert all(0 <= int(part) <= 255 for part in match.groups())


def test_what_stands_between_two_stretches_has_no_activation():
    written, parsed = page(passage(["a", " […] ", "b"], [1, np.nan, 2]))
    assert [attributes["title"] for attributes, _ in parsed.spans] == ["+1.000", "+2.000"]
    assert "nan" not in written


def test_more_categories_than_kinds_of_lines_still_make_a_page():
    categories = ["a", "b", "c", "d", "e"]
    written, parsed = page(passage(list("xyzuv"), listed=range(5)), categories=categories)
    assert_harmless(written, parsed)
    assert [text for text in parsed.texts["span"] if text in categories] == categories


def test_a_passage_without_tokens_and_a_page_without_passages():
    written, parsed = page()
    assert_harmless(written, parsed)
    assert parsed.spans == []
    assert written.endswith("</html>\n")


def test_the_page_is_the_same_each_time():
    one = passage(["a", " b"], [1, 2])
    assert page(one)[0] == page(one)[0]


def test_every_passage_has_a_colour_scale_as_a_page_and_as_a_picture():
    values = np.linspace(-1, 3, 101)
    written, parsed = page(passage(["a"] * 101, values), passage([]))
    steps = re.findall(r'<div style="background:(rgb\([\d,]+\))">([^<]+)</div>', written)
    assert [text for _, text in steps] == ["≤ −0.92", "+0.04", "+1.00", "+1.96", "≥ +2.92"]
    of_token = {attributes["title"]: attributes["style"] for attributes, _ in parsed.spans}
    assert of_token["+1.000"] == f"background:{steps[2][0]}"
    assert of_token["-1.000"] == f"background:{steps[0][0]}"
    axes = picture(passage(["a"] * 101, values), passage(list("ab"), [5.0, 5.0]))
    assert len(axes.images) == 2
    assert "≥ +2.92" in texts_in(axes)
