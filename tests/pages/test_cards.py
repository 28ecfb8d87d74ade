"""A neuron's card: from Python, in a notebook, as a picture, and from the command line."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_contexts import HOSTILE, MODEL_HASH, made_contexts
from made_runs import made_run

import neurexp
from neurexp.errors import UserError
from neurexp.figures.cards import WIDTH, shown_tokens
from neurexp.io.files import read_table
from neurexp.pages import __main__ as command
from neurexp.pages import card_of, read
from neurexp.pages.html import card_html, number, visible


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    made_contexts(folder)
    return folder


def test_a_card_says_what_the_files_say(run):
    card, contexts, direct = (
        neurexp.open_run(run).neuron(3, 1),
        read_table(run / "contexts.parquet"),
        read_table(run / "direct.parquet"),
    )
    own = (contexts["layer"] == 3) & (contexts["neuron"] == 1)
    for end, found in (("top", card.top), ("bottom", card.bottom)):
        rows = np.flatnonzero(own & (contexts["end"] == end))
        assert [one.value for one in found] == contexts["value"][rows].tolist()
        assert [one.position for one in found] == contexts["position"][rows].tolist()
        for one in found:
            assert one.activations[one.at] == pytest.approx(one.value, abs=1e-6)
            assert len(one.tokens) == len(one.activations)
    assert {one.token for one in card.top} == {one.tokens[one.at] for one in card.top} == {" dog"}
    rows = np.flatnonzero((direct["layer"] == 3) & (direct["neuron"] == 1))
    assert [effect for _, effect in card.promoted + card.suppressed] == direct["effect"][rows].tolist()
    neurons = read_table(run / "neurons.parquet")
    assert card.statistics["kurtosis"] == neurons["kurtosis"][9]
    assert [(name, ev) for name, ev, _ in card.explained][:2] == [
        (name, neurons[f"ev_{name}"][9]) for name in ("length", "log_frequency")
    ]
    assert card.histogram is not None
    assert [len(part) for part in card.histogram] == [9, 8]


def test_a_card_is_readable_where_there_is_no_notebook(run):
    card = neurexp.open_run(run).neuron(3, 1)
    lines = repr(card).splitlines()
    assert lines[0] == f"{card.heading} ({card.title})"
    at = next(index for index, line in enumerate(lines) if line.startswith("Highest activations"))
    assert lines[at + 1].startswith(f"  {number(card.top[0].value)}  ' dog' in ")
    assert sum(" in '" in line or ' in "' in line for line in lines) == len(card.top) + len(card.bottom) == 8
    assert f"  kurtosis = {number(float(card.statistics['kurtosis']))}" in lines
    assert any(line.startswith(f"Explained variance: length {number(card.explained[0][1])}, ") for line in lines)
    assert "\x1b" not in repr(replace(card, title="a title that colours the terminal: \x1b[31m"))


def test_an_activation_beyond_the_contexts_own_is_told_as_a_limit(run):
    subject = read(run)
    levels = subject.levels.copy()
    levels[1, 0, 2, 0] = [100, -100, 99, -128, 50, 100, 0, 0, 0]
    values, places = subject.values.copy(), subject.places.copy()
    values[1, 0, 2, 0], places[1, 0, 2, 0] = 0.17, 10
    card = card_of(replace(subject, values=values, places=places, levels=levels), "made", 3, 2)
    assert card.top[0].limits.tolist() == [1, -1, 0, 0, 0, 0, 0, 0, 0]
    tips = [given["title"] for _, given in Seen(card._repr_html_()).elements if "title" in given][:2]
    assert tips == ["≥ 0.17", "≤ −0.17"]


def test_equal_values_at_an_end_are_told(run):
    subject = read(run)
    values = subject.values.copy()
    values[1, 1, 2] = [-1, 0, 0, 0]
    card = card_of(replace(subject, values=values), "made", 3, 2)
    texts = [one.get_text() for axes in card.figure().axes for one in axes.texts]
    told = "Lowest activations (3 of these 4 are equal, 0; more tokens may be than are kept)"
    assert told in texts
    assert "Highest activations" in texts
    assert told in Seen(card._repr_html_()).text


def test_a_run_without_contexts_and_a_missing_neuron_are_one_line(run, tmp_path):
    made_run(tmp_path / "other", {"layer": [0], "neuron": [0], "r": [0.1]}, "r")
    card = neurexp.open_run(tmp_path / "other").neuron(0, 0)
    assert card.statistics == {"r": 0.1}
    with pytest.raises(UserError, match=r"^Layer 0, neuron 0: has no contexts to draw"):
        card.figure()
    with pytest.raises(UserError, match=r"^0/7: .*other has no such neuron"):
        neurexp.open_run(tmp_path / "other").neuron(0, 7)
    with pytest.raises(UserError, match=r"^3/99: .* has neurons 0 to 7"):
        neurexp.open_run(run).neuron(3, 99)
    with pytest.raises(UserError, match=r"site NOPE: .* has no such site; give one of MLP$"):
        neurexp.open_run(run).neuron(3, 1, site="NOPE")
    assert {neurexp.open_run(run).neuron(3, 1, site=site).title for site in ("MLP", None)} == {"made on text, MLP"}


class Seen(HTMLParser):
    """The elements and the text of a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.text, self.open = list[tuple[str, dict]](), "", list[str]()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_notebook_shows_the_card_without_scripts_and_with_hostile_texts_as_texts(run):
    subject = read(run)
    cards = [card_of(subject, HOSTILE, layer, neuron) for layer in (0, 3) for neuron in range(8)]
    seen = [Seen(card._repr_html_()) for card in cards]
    assert all(HOSTILE in one.text for one in seen)
    kinds = {kind for one in seen for kind, _ in one.elements}
    assert kinds == {"style", "div", "h3", "h4", "p", "table", "tr", "td", "mark", "span", "bdi"}
    assert not [
        name
        for one in seen
        for _, given in one.elements
        for name in given
        if name.startswith("on") or name in ("src", "href")
    ]
    assert any("don’t" in one.text for one in seen)
    style = re.search(r"<style>(.*?)</style>", cards[0]._repr_html_(), re.DOTALL)
    assert style is not None
    rules = re.findall(r"([^{}]+)\{", style[1])
    assert all(part.strip().startswith(".neurexp-card") for rule in rules for part in rule.split(","))


def test_every_part_of_a_card_may_be_hostile():
    bad = f"'\">{HOSTILE}&amp;"
    line = 2.0, [bad, bad], np.array([1.0, 2.0]), np.zeros(2, dtype=np.int64), 0
    html = card_html(
        bad,
        bad,
        {bad: [line]},
        {bad: [(bad, 1.0)]},
        [(bad, 0.5, 0.01)],
        {bad: (0.1, bad), f"{bad} as text": (bad, bad)},
        [(bad, bad, 0.5, 0.01, 1.0, bad)],
        8,
    )
    seen = Seen(html)
    assert "img" not in {kind for kind, _ in seen.elements}
    titles = [given["title"] for _, given in seen.elements if "title" in given]
    assert titles.count(bad) == 3  # what two statistics mean, and that of the other run
    # Heading, detail, contexts' title, two tokens, direct tokens' title and token, property, two statistics and a text,
    # and the other run and its statistic; a title of direct tokens is written in small letters
    assert seen.text.lower().count(bad.lower()) == 13


def test_spaces_at_the_ends_of_a_token_are_seen():
    assert [visible(one) for one in (" dog", "a b ", "  ", "")] == ["␣dog", "a b␣", "␣␣", ""]


def test_a_line_of_the_picture_holds_the_own_token_whatever_is_around():
    long = ["x" * 50, "y" * 50, "own", "z" * 90, "w" * 90]
    found = shown_tokens((1.0, long, np.arange(5.0), 2))
    assert [(text[0], value, own) for text, _, value, own in found] == [("y", 1.0, False), ("o", 2.0, True)]
    assert all(x + len(text) <= WIDTH for text, x, _, _ in found)
    cut = shown_tokens((1.0, ["a", "🍕", "", "", "", "b"], np.array([0, 1, -9, 3, 4, 5.0]), 3))
    assert [(text, value, own) for text, _, value, own in cut] == [("a", 0, False), ("🍕", -9, True), ("b", 5, False)]


def test_a_picture_is_drawn_with_every_part_and_with_few(run, tmp_path):
    figure = neurexp.open_run(run).neuron(3, 1).figure()
    figure.savefig(tmp_path / "card.png")
    texts = [one.get_text() for axes in figure.axes for one in axes.texts]
    assert texts.count(" dog") >= 4
    assert {"promotes", "suppresses", "Highest activations"} <= set(texts)
    assert len(figure.axes) == 4
    made_contexts(tmp_path / "bare", histogram=False, direct=0)
    assert len(neurexp.open_run(tmp_path / "bare").neuron(0, 0).figure().axes) == 2


def told(monkeypatch, capsys, *arguments: object) -> str:
    """What the command prints, or ends with."""
    monkeypatch.setattr(sys, "argv", ["pages", *map(str, arguments)])
    try:
        command.main()
    except SystemExit as end:
        return str(end.code)
    return capsys.readouterr().out.strip()


def test_the_command_writes_pages_again_and_elsewhere_and_pictures(run, tmp_path, monkeypatch, capsys):
    neurons = {"layer": [3, 3], "neuron": [0, 1], "r_size": [0.1, 0.2]}
    made_run(tmp_path / "sizes", neurons, "r_size", provenance={"model_hash": MODEL_HASH}, experiment="sizes")
    for arguments, made in (
        ((run,), run / "pages"),
        ((run, tmp_path / "sizes"), run / "pages"),
        ((run, "--to", tmp_path / "new"), tmp_path / "new"),
    ):
        assert told(monkeypatch, capsys, *arguments) == str(made / "index.html")
        assert {"index.html", "app.js", "style.css", "data"} <= {path.name for path in made.iterdir()}
        assert ("sizes.r_size" in (made / "data" / "meta.js").read_text("utf-8")) == (len(arguments) == 2)
    assert told(monkeypatch, capsys, run, "--png", "3/1", tmp_path / "card.png") == str(tmp_path / "card.png")
    assert (tmp_path / "card.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.rglob("*.tmp"))


def test_pages_never_replace_a_folder_that_holds_anything_else(run, tmp_path, monkeypatch, capsys):
    to = tmp_path / "www"
    told(monkeypatch, capsys, run, "--to", to)
    for name, found in (("CNAME", "CNAME"), (".git/HEAD", ".git"), ("data/notes.txt", "data/notes.txt")):
        (to / name).parent.mkdir(exist_ok=True)
        (to / name).write_text("mine")
        line = told(monkeypatch, capsys, run, "--to", to)
        assert line == f"error: --to {to}: holds other files than pages ({found}); give a new folder"
        assert (to / name).read_text() == "mine"
        shutil.rmtree(to / ".git") if name.startswith(".git") else (to / name).unlink()
    assert told(monkeypatch, capsys, run, "--to", to) == str(to / "index.html")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "index.html").write_text("mine")  # somebody's own site, whose files have the same names
    line = told(monkeypatch, capsys, run, "--to", tmp_path / "own")
    assert line == f"error: --to {tmp_path / 'own'}: holds files that are not of pages; give a new folder"
    assert (tmp_path / "own" / "index.html").read_text() == "mine"


def test_mistakes_at_the_command_line_are_one_line(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    made_run(tmp_path / "other", {"layer": [0], "neuron": [0], "r": [0.1]}, "r", provenance={"model_hash": "b"})
    cases = {
        (tmp_path / "none",): "none: is no run of experiment=top_contexts",
        (tmp_path / "other",): "other: is no run of experiment=top_contexts",
        (run, tmp_path / "other"): "other: is of another model than",
        (run, tmp_path / "none"): "none: not the folder of a finished run",
        (run, "--to", tmp_path / "full"): "holds other files than pages (thesis.txt); give a new folder",
        (run, "--to", tmp_path / "full" / "thesis.txt"): "is a file; give a folder",
        (run, "--to", tmp_path / "a" / "b"): "make it first",
        (run, "--png", "3", tmp_path / "x.png"): "--png 3: give LAYER/NEURON, such as 15/276",
        (run, "--png", "1/1", tmp_path / "x.png"): "has no layer 1; give one of 0, 3",
        (run, "--png", "3/1", tmp_path / "x.doc"): "give a file that ends with .png, .pdf or .svg",
        (run, "--png", "3/1", tmp_path / "a" / "x.png"): "cannot be written",
        (run, "--png", "3/1", tmp_path / "x.png", "--to", tmp_path / "y"): "--png, --to: give one of the two",
        (run, "--site", "UP"): "run has no such site; give one of MLP",
    }
    for arguments, answer in cases.items():
        line = told(monkeypatch, capsys, *arguments)
        assert line.startswith("error: "), arguments
        assert answer in line
        assert "\n" not in line
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_the_command_starts_without_torch_and_transformers(run, tmp_path):
    code = f"""import runpy, sys
sys.argv = ["pages", {str(run)!r}, "--to", {str(tmp_path / "pages")!r}]
runpy.run_module("neurexp.pages", run_name="__main__")
assert not [name for name in ("torch", "transformers", "datasets", "mlflow") if name in sys.modules]"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
